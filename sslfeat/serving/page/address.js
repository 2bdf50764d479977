// What is looked at, in the address after #, so that it can be linked to and gone back to. Images go by their paths there, which
// stay what they are when the index is brought up to date.
const KEPT = { like: "", label: "", path: "", where: "", min: "", top: "24", all: "", image: "" };

export function read() {
  const found = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(Object.entries(KEPT).map(([name, usual]) => [name, found.get(name) ?? usual]));
}

export function addressOf(wanted) {
  const kept = Object.entries(KEPT).filter(([name, usual]) => (wanted[name] ?? usual) !== usual);
  const hash = new URLSearchParams(kept.map(([name]) => [name, wanted[name]])).toString();
  return hash ? `#${hash}` : location.pathname;
}

// ``step``: one that the back button returns from; ``upload``: which image of this visit it was
export function write(wanted, step, upload = null) {
  history[step ? "pushState" : "replaceState"]({ upload }, "", addressOf(wanted));
}
