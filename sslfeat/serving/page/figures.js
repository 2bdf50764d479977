// Images as figures: a press searches with one, a smaller button shows it larger. Names of files are text, never markup.
import { imageAt, lookAgain } from "/api.js";

const SHOWN = 3; // fields below an image

export function make(tag, name = "", text = "") {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}

// Long labels break behind _
function breakable(element, text) {
  text.split(/(?<=_)/).forEach((piece, place) => element.append(...(place ? [make("wbr")] : []), piece));
  return element;
}

export const short = (path) => path.split("/").slice(-2).join("/");

export const factsOf = ({ metadata }) => Object.entries(metadata ?? {}).map(([field, text]) => `${field}: ${text}`);

// ``item`` is {id, path, label, score, metadata, revision}; ``like(path)`` searches with it
export function figureOf(item, like) {
  const figure = make("figure"), caption = make("figcaption"), name = make("span", "", short(item.path));
  Object.assign(figure.dataset, { id: item.id, name: item.path, large: imageAt(item.id, 1024, item.revision) });
  const facts = factsOf(item);
  figure.dataset.facts = facts.join(" · ");
  const press = make("button", "image"), image = shown(imageAt(item.id, 256, item.revision), item.path, press);
  Object.assign(press, { type: "button", title: item.path });
  press.setAttribute("aria-label", `images like ${short(item.path)}`);
  press.append(image);
  press.addEventListener("click", () => like(item.path));
  name.title = item.path;
  caption.append(breakable(make("b"), captionOf(item)), name);
  const more = facts.filter((_, place) => Object.values(item.metadata)[place] !== item.label).slice(0, SHOWN);
  caption.append(...more.map((fact) => Object.assign(make("span", "fact", fact), { title: facts.join("\n") })));
  figure.append(press, enlarger(item.path), caption);
  return figure;
}

// The image that is searched with
export function referenceOf(source, name, large = source) {
  const figure = make("figure", "reference"), press = make("button", "image");
  Object.assign(figure.dataset, { name, large });
  press.type = "button";
  press.dataset.view = "";
  press.setAttribute("aria-label", `larger: ${short(name)}`);
  press.append(shown(source, name, press));
  figure.append(press, make("figcaption"));
  return figure;
}

function captionOf({ score, label }) {
  const words = score === undefined ? [] : [Number(score).toFixed(3)];
  return [...words, ...(label ? [label] : [])].join(" ");
}

function enlarger(name) {
  const button = make("button", "enlarge", "⤢");
  Object.assign(button, { type: "button", title: "larger" });
  button.setAttribute("aria-label", `larger: ${short(name)}`);
  button.dataset.view = "";
  return button;
}

function shown(source, name, inside) {
  const image = Object.assign(make("img"), { loading: "lazy", decoding: "async", alt: name, src: source });
  image.addEventListener("error", () => {
    inside.replaceChildren(make("span", "missing", "cannot be shown"));
    lookAgain();
  });
  return image;
}
