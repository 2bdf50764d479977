// The page: what is asked is in the address, and every change of it asks again.
import { addressOf, read, write } from "/address.js";
import * as api from "/api.js";
import { browse, browses } from "/browse.js";
import { showCollection } from "/collection.js";
import { showDuplicates } from "/duplicates.js";
import { factsOf, figureOf, make, referenceOf, short } from "/figures.js";
import { takeImages } from "/given.js";
import { View } from "/view.js";

const part = (id) => document.getElementById(id);
const filters = part("filters"), uploads = []; // images that were given on this visit
const BEGIN = innerWidth < 640 ? 12 : 16, LUCK = Math.random(), PAUSE = 180; // ms without a key before a text is looked for
let about = null, wanted = read(), asked = null, points = null, running = new AbortController(), waiting = 0;
let mark = () => {}, marked = []; // on the map, once it is there

const view = new View(beside, (figure) => {
  if (!figure) part("notes").append(part("outdated"));
  const image = figure?.dataset.id ? figure.dataset.name : "";
  if (image === wanted.image) return;
  wanted = { ...wanted, image };
  write(wanted, false, history.state?.upload);
}, () => (part("outdated").hidden ? api.lookAgain() : tellOutdated()));

function tellOutdated() {
  part("outdated").hidden = false;
  if (view.dialog.open) view.dialog.prepend(part("outdated")); // which covers the page
}

// What stands below the larger view
function beside(figure) {
  const { id, name } = figure.dataset;
  if (!id) return [];
  const like = make("button", "primary", "Its neighbors"), link = make("a", "button", "Link to this image");
  like.type = "button";
  like.addEventListener("click", () => {
    view.dialog.close();
    likePath(name);
  });
  link.href = addressOf({ image: name });
  const { facts } = figure.dataset;
  return [...(facts ? [make("p", "soft facts", facts)] : []), like, link];
}

function say(text) {
  part("message").textContent = text;
  part("message").hidden = !text;
  if (text) part("found").hidden = false;
}

function likePath(path) {
  wanted = { ...wanted, like: path, image: "" };
  write(wanted, true);
  apply(true);
}

function take(blob) {
  if (blob.size > about.limits.max_bytes) {
    say(`The file is larger than ${Math.floor(about.limits.max_bytes / 1e6)} MB, which this service allows.`);
    return;
  }
  uploads.push({ blob, name: blob.name || "pasted image", url: URL.createObjectURL(blob) });
  wanted = { ...wanted, like: "", image: "" };
  write(wanted, true, uploads.length - 1);
  apply(true);
}

// Brings the page to what the address says. ``fresh``: something else is searched with.
async function apply(fresh) {
  const upload = wanted.like ? undefined : uploads[history.state?.upload ?? -1];
  asked = wanted.like ? { path: wanted.like } : upload ? { blob: upload.blob } : null;
  fill();
  if (fresh) present(upload);
  filters.hidden = !about.index;
  part("least").hidden = !asked;
  part("clear").hidden = !asked && !browses(wanted);
  part("all").hidden = part("further").hidden = true;
  running.abort();
  running = new AbortController();
  if (!asked) return begin(running.signal);
  if (fresh) part("title").scrollIntoView({ block: "center" });
  const signal = running.signal;
  await Promise.all([fresh && judge(upload, signal), about.index && find(signal)]);
  if (!signal.aborted && fresh && wanted.image) openLinked();
}

function fill() {
  for (const name of ["label", "path", "where", "top"]) filters.elements[name].value = wanted[name];
  filters.elements.min.value = wanted.min === "" ? filters.elements.min.min : wanted.min;
  filters.querySelector("output").textContent = wanted.min === "" ? "any" : Number(wanted.min).toFixed(2);
}

async function present(upload) {
  const preview = part("preview");
  preview.hidden = !asked;
  part("title").textContent = asked ? upload?.name ?? "" : about.index ? "Find similar images" : "Classify an image";
  if (!asked) return;
  if (upload) {
    preview.replaceChildren(referenceOf(upload.url, upload.name));
    return;
  }
  const { path } = asked, item = await api.called(path).catch(() => null);
  if (asked?.path !== path) return; // something else was asked meanwhile
  part("title").textContent = short(path);
  preview.hidden = !item;
  if (!item) return; // the search says why
  const figure = referenceOf(api.imageAt(item.id, 512, item.revision), path, api.imageAt(item.id, 1024, item.revision));
  Object.assign(figure.dataset, { id: item.id, facts: factsOf(item).join(" · ") });
  preview.replaceChildren(figure);
}

async function judge(upload, signal) {
  const list = part("names");
  list.hidden = true;
  if (!upload || !about.classifier) return;
  try {
    const found = await api.predict(upload.blob, signal);
    list.replaceChildren(...found.map(({ label, probability }) => {
      const line = make("li"), meter = make("meter"), name = make("span", "", label);
      name.title = label;
      meter.value = probability;
      meter.setAttribute("aria-label", label);
      line.append(name, meter, make("span", "soft", `${Math.round(100 * probability)}%`));
      return line;
    }));
    list.hidden = !found.length;
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
  }
}

async function find(signal) {
  const found = part("found");
  found.hidden = false;
  found.setAttribute("aria-busy", "true");
  try {
    const { hits, notes } = await api.search(asked, wanted, signal);
    const none = hits.length ? [] : ["Nothing found: lower the minimum score, or remove conditions."];
    say([...none, ...notes].join(" "));
    part("heading").textContent = hits.length ? `${hits.length} nearest` : "None";
    part("hits").replaceChildren(...hits.map((hit) => figureOf(hit, likePath)));
    mark(marked = api.onMap(hits));
    found.removeAttribute("aria-busy");
  } catch (error) {
    if (error.name === "AbortError") return;
    found.removeAttribute("aria-busy");
    part("heading").textContent = "Not found";
    part("hits").replaceChildren();
    say(error.message);
  }
}

// Without a query: the images that meet the filters, or some to begin with; and the one that is linked to.
async function begin(signal) {
  part("names").hidden = true;
  say("");
  mark(marked = []);
  part("found").hidden = !about.index;
  if (browses(wanted) && about.index) await browse(wanted, likePath, say, signal);
  else if (points?.ids.length) {
    part("all").hidden = false;
    const step = Math.max(1, Math.floor(points.ids.length / BEGIN));
    const start = Math.floor(LUCK * step);
    const ids = points.ids.filter((_, n) => n % step === start).slice(0, BEGIN);
    part("heading").textContent = "Choose an image to start";
    const items = await api.named(ids).catch((error) => { say(error.message); return []; });
    if (!signal.aborted) part("hits").replaceChildren(...items.map((item) => figureOf(item, likePath)));
  }
  if (wanted.image) openLinked();
}

async function openLinked() {
  const shown = [...document.querySelectorAll("figure[data-id]")].find((figure) => figure.dataset.name === wanted.image);
  if (shown) { view.open(shown); return; }
  const item = await api.called(wanted.image).catch((error) => { say(error.message); return null; });
  if (item) view.open(figureOf(item, likePath));
}

function listen() {
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", () => {
    const { label, path, where, min, top } = filters.elements;
    const least = min.value === min.min ? "" : min.value;
    wanted = { ...wanted, label: label.value, path: path.value, where: where.value, top: top.value, min: least };
    write(wanted, false, history.state?.upload);
    fill();
    clearTimeout(waiting);
    waiting = setTimeout(() => apply(false), PAUSE);
  });
  part("clear").addEventListener("click", () => {
    wanted = asked ? { ...read(), like: "", image: "" } : { ...wanted, all: "", label: "", path: "", where: "" };
    write(wanted, true);
    apply(true);
    part("pick").focus();
  });
  part("all").addEventListener("click", () => {
    wanted = { ...wanted, all: "1" };
    write(wanted, true);
    apply(true);
  });
  addEventListener("popstate", () => {
    wanted = read();
    if (view.dialog.open && !wanted.image) view.dialog.close();
    apply(true);
  });
  addEventListener("outofdate", tellOutdated);
  part("reload").addEventListener("click", () => location.reload());
  takeImages(take, say);
}

function introduce() {
  const { encoder, index } = about;
  part("about").textContent = [index && `${index.images.toLocaleString("en")} images`, encoder.name].filter(Boolean).join(" · ");
  part("about").title = `fingerprint ${encoder.fingerprint}; license: ${encoder.license}`;
  part("or-below").hidden = !index;
  document.title = index ? `${index.name} · sslfeat` : "sslfeat";
  const usual = ["path", "sha256", "width", "height", "label"];
  const facts = (index?.columns ?? []).filter((name) => !usual.includes(name));
  part("facts").hidden = !facts.length;
  filters.elements.where.placeholder = `${facts[0]}=...`;
  filters.elements.where.title = `conditions, such as ${facts[0]}=TEXT, ~GLOB or <NUMBER, divided by ; on ${facts.join(", ")}`;
  const labels = Object.entries(index?.labels ?? {});
  part("labels").hidden = !labels.length;
  filters.elements.label.append(...labels.map(([name, count]) => new Option(`${name} (${count})`, name)));
  for (const option of filters.elements.top.options) option.disabled = Number(option.value) > about.limits.max_top;
  if (index && index.metric !== "cosine") Object.assign(filters.elements.min, { type: "number", min: "", max: "", step: "any" });
}

async function start() {
  try {
    about = await api.info();
    introduce();
    listen();
    const drawn = about.index ? api.map().catch((error) => { say(error.message); return null; }) : null;
    if (!wanted.like) points = await drawn;
    const first = apply(true);
    points = await drawn;
    part("collection").hidden = !points;
    if (points) (mark = showCollection(points, about.index.images, likePath, say))(marked);
    if (about.duplicates) await showDuplicates(say);
    await first;
  } catch (error) {
    say(error.message);
  }
  document.documentElement.dataset.ready = "";
}

start();
