// Larger view: a dialog for the images of all figures on the page at the time it is opened.
export class View {
  // ``more(figure)`` returns elements to show below the name; ``shown(figure or null)`` is called when the image changes, and
  // ``missing()`` when it cannot be shown
  constructor(more = () => [], shown = () => {}, missing = () => {}) {
    Object.assign(this, { more, shown, missing });
    this.figures = [];
    this.place = 0;
    this.dialog = this.build();
    document.body.append(this.dialog);
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-view]");
      if (button) this.open(button.closest("figure"));
    });
  }

  build() {
    const dialog = make("dialog", "view");
    dialog.setAttribute("aria-label", "larger view");
    this.told = make("div", "told");
    const stage = (this.stage = make("div", "stage"));
    const close = button("close", "✕", "close (Escape)", () => dialog.close());
    const back = button("turn", "←", "previous (left arrow)", () => this.step(-1));
    const on = button("turn on", "→", "next (right arrow)", () => this.step(1));
    this.turns = [back, on];
    dialog.append(close, stage, this.told, back, on);
    stage.addEventListener("click", (event) => event.target === stage && dialog.close());
    dialog.addEventListener("close", () => {
      this.shown(null);
      this.figures[this.place]?.querySelector("[data-view]")?.focus();
    });
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.step(step);
    });
    let start = null; // a swipe turns the page
    stage.addEventListener("pointerdown", (event) => { start = event.clientX; });
    stage.addEventListener("pointerup", (event) => {
      const way = start === null ? 0 : event.clientX - start;
      if (event.pointerType === "touch" && Math.abs(way) > 50) this.step(way < 0 ? 1 : -1);
      start = null;
    });
    return dialog;
  }

  open(figure) {
    const all = [...document.querySelectorAll("figure:has([data-view])")].filter((other) => other.checkVisibility());
    this.figures = all.includes(figure) ? all : [figure];
    this.place = this.figures.indexOf(figure);
    if (!this.dialog.open) this.dialog.showModal();
    this.show(figure);
  }

  step(by) {
    const next = this.place + by;
    if (!this.figures[next]) return;
    this.place = next;
    this.show(this.figures[next]);
  }

  show(figure) {
    const small = figure.querySelector("img"), caption = figure.querySelector("figcaption b");
    const image = make("img");
    Object.assign(image, { src: figure.dataset.large || small.src, alt: figure.dataset.name || small.alt });
    image.addEventListener("load", () => {
      const most = Math.max(512, 2 * Math.max(image.naturalWidth, image.naturalHeight));
      Object.assign(image.style, { maxWidth: `${most}px`, maxHeight: `${most}px` }); // at most twofold, or 512 px
    });
    image.addEventListener("error", () => {
      const word = make("p", "soft");
      word.textContent = "cannot be shown";
      image.replaceWith(word);
      this.missing();
    });
    this.stage.replaceChildren(image); // a new element: the old image would stay until the next is loaded
    const name = make("p");
    name.textContent = image.alt;
    const fact = make("p", "soft");
    fact.textContent = [caption?.textContent, this.figures.length > 1 && `${this.place + 1} of ${this.figures.length}`]
      .filter(Boolean).join(" · ");
    const tools = make("div", "tools");
    tools.append(...this.more(figure));
    this.told.replaceChildren(name, fact, tools);
    this.turns[0].disabled = this.place === 0;
    this.turns[1].disabled = this.place >= this.figures.length - 1;
    this.shown(figure);
  }
}

function make(tag, name = "") {
  const element = document.createElement(tag);
  element.className = name;
  return element;
}

function button(name, text, title, act) {
  const made = make("button", name);
  Object.assign(made, { type: "button", textContent: text, title });
  made.setAttribute("aria-label", title);
  made.addEventListener("click", act);
  return made;
}
