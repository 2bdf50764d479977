// Duplicates in pairs, side by side: which to keep is written as a plan for 'sslfeat dedupe', which nothing here carries out.
import { decide, duplicates, imageAt } from "/api.js";
import { make, referenceOf, short } from "/figures.js";

const part = (id) => document.getElementById(id);
const KEYS = { 1: "left", 2: "both", 3: "right" };

export async function showDuplicates(say) {
  const { groups, decisions } = await duplicates();
  const pairs = groups.flatMap((group) => group.copies.map((copy, place) => ({ group, copy, place, keep: null })));
  if (!pairs.length) return;
  const known = new Map(decisions.map((decision) => [decision.right, decision.keep]));
  for (const pair of pairs) pair.keep = known.get(pair.copy.path) ?? null;
  part("duplicates").hidden = false;
  new Pairs(pairs, say);
}

class Pairs {
  constructor(pairs, say) {
    Object.assign(this, { pairs, say, now: Math.max(0, pairs.findIndex((pair) => !pair.keep)), saving: Promise.resolve() });
    this.buttons = [...part("decide").querySelectorAll("[data-keep]")];
    for (const button of this.buttons) button.addEventListener("click", () => this.keep(button.dataset.keep));
    part("pair-back").addEventListener("click", () => this.turn(-1));
    part("pair-on").addEventListener("click", () => this.turn(1));
    part("duplicates").addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (KEYS[event.key]) this.keep(KEYS[event.key]);
      else if (step) this.turn(step);
      else return;
      event.preventDefault();
    });
    this.show();
  }

  // The image of the pair's group that was kept of the pairs before it
  left(pair) {
    const before = this.pairs.filter((other) => other.group === pair.group && other.place < pair.place);
    return before.reduce((kept, other) => (other.keep === "right" ? other.copy : kept), pair.group.kept);
  }

  turn(by) {
    const next = this.now + by;
    if (!this.pairs[next]) return;
    this.now = next;
    this.show();
  }

  keep(which) {
    const pair = this.pairs[this.now];
    pair.keep = pair.keep === which ? null : which; // pressed again it is undecided
    this.show();
    this.saving = this.saving.then(() => this.save());
    if (pair.keep) setTimeout(() => pair === this.pairs[this.now] && this.turn(1), 350); // seen, then the next
  }

  async save() {
    const made = this.pairs.filter((pair) => pair.keep);
    const decisions = made.map((pair) => ({ left: this.left(pair).path, right: pair.copy.path, keep: pair.keep }));
    try {
      const { moves, command } = await decide(decisions);
      part("plan").textContent = `${made.length} decided. To move ${moves === 1 ? "1 image" : `${moves} images`}:`;
      part("command").textContent = command;
      part("command").hidden = false;
    } catch (error) {
      this.say(error.message);
    }
  }

  show() {
    const pair = this.pairs[this.now], left = this.left(pair), { copy, keep } = pair;
    part("pair").replaceChildren(
      sideOf(left, keep === "left" || keep === "both"),
      sideOf(copy, keep === "right" || keep === "both"),
    );
    const suggested = left === pair.group.kept ? " · suggested: keep left" : "";
    part("pair-about").textContent = `${this.now + 1} of ${this.pairs.length} · ${copy.verdict}${suggested}`;
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.keep === keep));
    part("pair-back").disabled = this.now === 0;
    part("pair-on").disabled = this.now === this.pairs.length - 1;
  }
}

function sideOf(image, kept) {
  const { id, path, width, height } = image;
  const figure = id === null
    ? make("figure")
    : referenceOf(imageAt(id, 512), path, imageAt(id, 1024));
  if (id === null) figure.append(make("div", "missing", "not in the index"), make("figcaption"));
  else figure.dataset.id = id;
  figure.classList.toggle("reference", kept);
  const name = make("span", "", short(path));
  name.title = path;
  figure.querySelector("figcaption").append(make("b", "", `${width} x ${height}`), name);
  return figure;
}
