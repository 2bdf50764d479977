// The map of the collection: groups by label, images under the pointer, and a lasso whose catch becomes a gallery and a table.
import { imageAt, named } from "/api.js";
import { COLORS, GRAY } from "/colors.js";
import { figureOf, make, short } from "/figures.js";
import { shade, shuffled } from "/pixels.js";
import { DARK, Plane, placeTip } from "/plane.js";

const PAGE = 48, MOST_NAMES = 100_000;
const part = (id) => document.getElementById(id);

// ``points`` as the service gives them; ``like(path)`` searches; ``say(text)`` tells what went wrong.
// Gives what marks images by their ids.
export function showCollection(points, total, like, say) {
  const root = part("map"), canvas = root.querySelector("canvas"), by = part("color-by");
  const groups = points.labels.length || !points.clusters.length ? byLabel(points) : byCluster(points);
  const tip = tipOver(root, points, groups);
  const taken = takenImages(like, say);
  const plane = new Plane(canvas, {
    x: points.x, y: points.y, group: groups.members, colors: groups.list.map((group) => group.color),
    quiet: GRAY,
  }, {
    hover: tip,
    pick: (n) => named([points.ids[n]]).then(([item]) => like(item.path)).catch((error) => say(error.message)),
    selected: (mask) => taken.show(mask && points.ids.filter((_, n) => mask[n])),
  });
  taken.letGo = () => plane.choose(null);
  part("mapped").textContent = points.ids.length < total
    ? `${points.ids.length.toLocaleString("en")} of ${total.toLocaleString("en")} images`
    : `${total.toLocaleString("en")} images; similar images are close together`;
  canvas.setAttribute("aria-label", `map of ${points.ids.length} images`);
  tools(root, canvas, plane);
  legend(plane, groups.list);
  part("coloring").hidden = !(points.labels.length && points.clusters.length);
  by.addEventListener("change", () => {
    Object.assign(groups, by.value === "cluster" ? byCluster(points) : byLabel(points)); // the tip's, too
    plane.regroup(groups.members, groups.list.map((group) => group.color));
    legend(plane, groups.list);
  });
  const places = new Map(points.ids.map((id, n) => [id, n]));
  return (ids) => { // rings around what was found
    plane.marks = ids.map((id) => places.get(id)).filter((n) => n !== undefined);
    plane.redraw();
  };
}

const byLabel = ({ label, labels }) => grouped(label, labels, "no label");
const byCluster = ({ cluster, clusters }) =>
  grouped(cluster, clusters.map((name) => (name === "none" ? "in no cluster" : `cluster ${name}`)), "not clustered");

// As many names as there are colors, the commonest first; the others share a gray.
function grouped(codes, names, nameless) {
  const colored = Math.min(names.length, COLORS.length), others = colored, none = colored + (names.length > colored);
  const list = names.slice(0, colored).map((name, number) => ({ name, color: COLORS[number], count: 0 }));
  if (names.length > colored) list.push({ name: `others (${names.length - colored})`, color: GRAY, count: 0 });
  if (codes.some((code) => code < 0)) list.push({ name: nameless, color: GRAY, count: 0 });
  const members = Uint8Array.from(codes, (code) => (code < 0 ? none : code < colored ? code : others));
  for (const own of members) list[own].count++;
  return { list, members };
}

function legend(plane, groups) {
  part("legend").replaceChildren();
  if (groups.length < 2) return;
  const dots = groups.map((group, number) => {
    const button = make("button"), dot = make("i", "dot");
    button.type = "button";
    button.dataset.group = number;
    button.setAttribute("aria-pressed", "true");
    button.append(dot, group.name, make("span", "soft", group.count.toLocaleString("en")));
    button.addEventListener("click", () => {
      plane.shown[number] = 1 - plane.shown[number];
      button.setAttribute("aria-pressed", String(Boolean(plane.shown[number])));
      plane.redraw();
    });
    part("legend").append(button);
    return dot;
  });
  const dye = () => dots.forEach((dot, number) => {
    dot.style.background = `rgb(${shade(groups[number].color, DARK.matches)})`;
  });
  dye();
  DARK.addEventListener("change", dye);
}

function tools(root, canvas, plane) {
  for (const button of root.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => {
    const factor = Number(button.dataset.zoom);
    if (factor) plane.zoom(factor);
    else { plane.fit(); plane.redraw(); }
  });
  root.querySelector("[data-inview]").addEventListener("click", () => plane.inView());
  const lasso = root.querySelector("[data-lasso]");
  lasso.addEventListener("click", () => {
    plane.mode = plane.mode === "lasso" ? "pan" : "lasso";
    lasso.setAttribute("aria-pressed", String(plane.mode === "lasso"));
    canvas.classList.toggle("lasso", plane.mode === "lasso");
  });
}

function tipOver(root, points, groups) {
  const tip = root.querySelector(".tip"), image = tip.querySelector("img"), text = tip.querySelector("span");
  const canvas = root.querySelector("canvas"), names = new Map();
  let now = -1, timer = 0;
  async function fill(n) {
    const id = points.ids[n];
    image.src = imageAt(id, 256);
    if (!names.has(id)) {
      const [found] = await named([id]).catch(() => []);
      if (found) names.set(id, short(found.path));
    }
    if (now === n) text.textContent = [groups.list[groups.members[n]].name, names.get(id)].filter(Boolean).join(": ");
  }
  return (n, x, y) => {
    tip.hidden = n < 0;
    if (n >= 0) placeTip(tip, canvas, x, y);
    if (n === now) return;
    now = n;
    clearTimeout(timer);
    image.removeAttribute("src");
    text.textContent = n < 0 ? "" : groups.list[groups.members[n]].name;
    if (n >= 0) timer = setTimeout(() => fill(n), 60); // the pointer passes over many
  };
}

function takenImages(like, say) {
  const sample = part("sample"), listed = part("listed"), more = part("more"), list = part("list");
  const catches = { ids: [], mixed: [], letGo: () => {} };
  let drawing = 0;
  async function draw(first) {
    const mine = ++drawing, ids = catches.mixed.slice(first, first + PAGE);
    const items = ids.length ? await named(ids).catch((error) => { say(error.message); return []; }) : [];
    if (mine !== drawing) return;
    const figures = items.map((item) => figureOf(item, like));
    if (first) sample.append(...figures);
    else sample.replaceChildren(...figures);
    more.hidden = first + PAGE >= catches.ids.length;
  }
  function unlist() {
    listed.hidden = true;
    list.setAttribute("aria-expanded", "false");
  }
  catches.show = (ids) => {
    catches.ids = ids ?? [];
    catches.mixed = Array.from(shuffled(catches.ids.length), (place) => catches.ids[place]); // the first stand for all
    part("taken").hidden = !ids;
    part("count").textContent = `${catches.ids.length.toLocaleString("en")} images selected`;
    unlist();
    if (ids) draw(0);
    else sample.replaceChildren();
  };
  more.addEventListener("click", () => draw(sample.childElementCount));
  part("drop-taken").addEventListener("click", () => catches.letGo());
  const all = () => named(catches.ids.slice(0, MOST_NAMES)).catch((error) => { say(error.message); return []; });
  list.addEventListener("click", async () => {
    if (!listed.hidden) { unlist(); return; }
    listed.value = (await all()).map((item) => item.path).join("\n");
    listed.hidden = false;
    list.setAttribute("aria-expanded", "true");
  });
  part("csv").addEventListener("click", async () => save(table(await all())));
  return catches;
}

// Cells that a spreadsheet would take for formulas are kept text by an apostrophe.
function table(items) {
  const cell = (value) => {
    const text = /^[=+\-@\t\r]/.test(value ?? "") ? `'${value}` : String(value ?? "");
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return ["id,path,label", ...items.map((item) => [item.id, item.path, item.label].map(cell).join(","))].join("\n") + "\n";
}

function save(text) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "images.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
