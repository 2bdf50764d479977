// A scatter plot with pan, zoom, picking and lasso selection; drawn pixel by pixel, so that 100,000 points take a few ms.
import { CELLS, cellOf, gridOf, over, range, shade, shuffled, stampOf, trace } from "./pixels.js";

const REACH = 14, MARGIN = 24, CLOSEST = 400, MANY = 30_000;

export const DARK = matchMedia("(prefers-color-scheme: dark)");

// Places a tooltip beside (x, y) of the canvas, within their common parent element.
export function placeTip(tip, canvas, x, y) {
  const wide = tip.offsetWidth, high = tip.offsetHeight, left = canvas.offsetLeft + x, top = canvas.offsetTop + y;
  const room = canvas.offsetLeft + canvas.clientWidth;
  tip.style.left = `${Math.max(0, left + 16 + wide > room ? left - wide - 16 : left + 16)}px`;
  tip.style.top = `${Math.max(0, Math.min(top - high / 2, canvas.offsetTop + canvas.clientHeight - high))}px`;
}

export class Plane {
  // Points x, y (any units), their groups, and colors (hex) of the groups; the color ``quiet`` is drawn behind the others.
  // ``on``: optional callbacks hover(n or -1, x, y), pick(n), selected(mask), paint(pen).
  constructor(canvas, { x, y, group, colors, quiet }, on = {}) {
    Object.assign(this, { canvas, group, colors, quiet, on, count: x.length });
    Object.assign(this, { mode: "pan", mask: null, marks: [], under: -1, moved: false });
    this.pen = canvas.getContext("2d");
    this.shown = new Uint8Array(colors.length).fill(1);
    this.place(x, y);
    this.stack();
    this.grid = gridOf(this.x, this.y);
    this.held = new Map();
    this.path = [];
    this.listen();
    this.ink();
    DARK.addEventListener("change", () => { this.ink(); this.redraw(); });
    // fit to the canvas until the user moves the view
    new ResizeObserver(() => { if (!this.moved) this.fit(); this.redraw(); }).observe(canvas);
    this.fit();
    this.draw();
  }

  place(x, y) {
    const [lowX, highX] = range(x), [lowY, highY] = range(y), span = Math.max(highX - lowX, highY - lowY) || 1;
    this.x = Float32Array.from(x, (value) => (value - (lowX + highX) / 2) / span + 0.5);
    this.y = Float32Array.from(y, (value) => ((lowY + highY) / 2 - value) / span + 0.5);
    this.wide = (highX - lowX) / span || 1;
    this.high = (highY - lowY) / span || 1;
  }

  // Change groups and colors.
  regroup(group, colors) {
    Object.assign(this, { group, colors, shown: new Uint8Array(colors.length).fill(1) });
    this.stack();
    this.ink();
    this.redraw();
  }

  stack() { // random drawing order, quiet groups first
    const order = shuffled(this.count), behind = (n) => this.colors[this.group[n]] === this.quiet;
    this.order = Int32Array.from([...order.filter(behind), ...order.filter((n) => !behind(n))]);
  }

  ink() {
    const pack = ([red, green, blue], alpha) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    this.inks = Uint32Array.from(this.colors, (color) => pack(shade(color, DARK.matches), color === this.quiet ? 120 : 255));
    this.faint = pack(DARK.matches ? [150, 155, 165] : [120, 125, 135], 70);
  }

  placeX(n) { return this.x[n] * this.scale + this.left; }
  placeY(n) { return this.y[n] * this.scale + this.top; }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.scale = Math.max(1, Math.min((width - 2 * MARGIN) / this.wide, (height - 2 * MARGIN) / this.high));
    this.whole = this.scale;
    this.left = (width - this.scale) / 2;
    this.top = (height - this.scale) / 2;
    this.moved = false;
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const next = Math.min(Math.max(this.scale * factor, this.whole / 4), this.whole * CLOSEST);
    this.left = x - (x - this.left) * next / this.scale;
    this.top = y - (y - this.top) * next / this.scale;
    this.scale = next;
    this.moved = true;
    this.redraw();
  }

  move(x, y) {
    this.left += x;
    this.top += y;
    this.moved = true;
    this.redraw();
  }

  redraw() {
    if (!this.waiting) requestAnimationFrame(() => this.draw());
    this.waiting = true;
  }

  draw() {
    this.waiting = false;
    const ratio = devicePixelRatio || 1, { canvas, pen } = this;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height || !this.sheet) {
      Object.assign(canvas, { width, height });
      this.sheet = new ImageData(width, height);
      this.pixels = new Uint32Array(this.sheet.data.buffer);
    }
    this.pixels.fill(0);
    const base = this.count > MANY ? 1.1 : this.count > 8000 ? 1.7 : 2.3;
    const radius = Math.min(6, Math.max(base, this.scale / 1100, 800 / this.count));
    const stamp = stampOf(radius * ratio, width, this.count > MANY);
    for (const pass of this.mask ? [0, 1] : [2]) this.dots(stamp, width, height, ratio, pass);
    pen.putImageData(this.sheet, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.on.paint?.(pen);
    this.outline(radius);
  }

  // ``pass``: 0 points outside the mask, 1 points inside, 2 all
  dots({ core, rim, share, reach }, width, height, ratio, pass) {
    const { pixels, order, x, y, group, shown, inks, mask } = this;
    const scale = this.scale * ratio, left = this.left * ratio, top = this.top * ratio;
    for (let place = 0; place < order.length; place++) {
      const n = order[place], own = group[n];
      if (!shown[own] || (pass !== 2 && mask[n] !== pass)) continue;
      const column = (x[n] * scale + left) | 0, row = (y[n] * scale + top) | 0;
      if (column < reach || row < reach || column >= width - reach || row >= height - reach) continue;
      const at = row * width + column, color = pass ? inks[own] : this.faint;
      for (let i = 0; i < core.length; i++) pixels[at + core[i]] = color;
      for (let i = 0; i < rim.length; i++) pixels[at + rim[i]] = over(pixels[at + rim[i]], color, share[i]);
    }
  }

  outline(radius) {
    const { pen, path, under } = this, color = getComputedStyle(this.canvas);
    pen.lineWidth = 2;
    pen.strokeStyle = color.color;
    pen.beginPath();
    if (under >= 0) pen.arc(this.placeX(under), this.placeY(under), radius + 3.5, 0, 7);
    pen.stroke();
    pen.strokeStyle = color.outlineColor;
    pen.beginPath();
    for (const n of this.marks) {
      pen.moveTo(this.placeX(n) + radius + 2.5, this.placeY(n));
      pen.arc(this.placeX(n), this.placeY(n), radius + 2.5, 0, 7);
    }
    pen.stroke();
    if (path.length < 2) return;
    pen.lineWidth = 1.5;
    pen.setLineDash([5, 4]);
    trace(pen, path);
    pen.stroke();
    pen.setLineDash([]);
  }

  nearest(x, y, reach = REACH) {
    const span = reach / this.scale, low = cellOf((x - this.left) / this.scale - span);
    const high = cellOf((x - this.left) / this.scale + span), up = cellOf((y - this.top) / this.scale - span);
    const down = cellOf((y - this.top) / this.scale + span);
    let best = -1, least = reach * reach;
    for (let row = up; row <= down; row++)
      for (let i = this.grid.starts[row * CELLS + low]; i < this.grid.starts[row * CELLS + high + 1]; i++) {
        const n = this.grid.members[i];
        const away = (this.placeX(n) - x) ** 2 + (this.placeY(n) - y) ** 2;
        if (away < least && this.shown[this.group[n]]) [best, least] = [n, away];
      }
    return best;
  }

  point(x, y, reach) {
    const found = this.nearest(x, y, reach);
    if (found !== this.under) this.redraw();
    this.under = found;
    this.on.hover?.(found, found < 0 ? x : this.placeX(found), found < 0 ? y : this.placeY(found));
  }

  // Select the points inside a path: the path is filled, and the pixel under each point is tested.
  lasso(path) {
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    trace(pen, path);
    pen.fill("evenodd");
    const inside = pen.getImageData(0, 0, width, height).data;
    this.select((x, y) => x >= 0 && y >= 0 && x < width && y < height && inside[4 * ((y | 0) * width + (x | 0)) + 3] > 127);
  }

  inView() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.select((x, y) => x >= 0 && y >= 0 && x < width && y < height);
  }

  select(inside) {
    const mask = new Uint8Array(this.count);
    for (let n = 0; n < this.count; n++)
      mask[n] = this.shown[this.group[n]] && inside(this.placeX(n), this.placeY(n)) ? 1 : 0;
    this.choose(mask);
  }

  choose(mask) {
    this.mask = mask;
    this.redraw();
    this.on.selected?.(mask);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", (event) => { this.held.delete(event.pointerId); this.path = []; });
    canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.point(-1e6, -1e6));
    canvas.addEventListener("blur", () => this.point(-1e6, -1e6));
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return; // scroll the page unless the map has focus
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  press(event) {
    const { offsetX: x, offsetY: y, pointerId, pointerType } = event;
    this.held.set(pointerId, [x, y]);
    this.canvas.setPointerCapture(pointerId);
    this.far = 0;
    if (this.mode === "lasso") { this.path = [[x, y]]; return; }
    const before = this.under;
    this.point(x, y);
    this.twice = pointerType === "mouse" || before === this.under; // on touch screens the second tap picks it
  }

  drag(event) {
    const { offsetX: x, offsetY: y } = event, before = this.held.get(event.pointerId);
    if (!before) { if (this.mode === "pan") this.point(x, y); return; }
    this.held.set(event.pointerId, [x, y]);
    this.far += Math.hypot(x - before[0], y - before[1]);
    const other = [...this.held].find(([id]) => id !== event.pointerId)?.[1];
    if (this.mode === "lasso" && !other) {
      this.path.push([x, y]);
      this.redraw();
      return;
    }
    this.path = [];
    const share = 1 / this.held.size;
    this.move((x - before[0]) * share, (y - before[1]) * share);
    if (!other) return;
    const [a, b] = other, apart = Math.max(1, Math.hypot(before[0] - a, before[1] - b));
    this.zoom(Math.hypot(x - a, y - b) / apart, (x + a) / 2, (y + b) / 2);
  }

  release(event) {
    if (!this.held.delete(event.pointerId)) return;
    const path = this.path;
    this.path = [];
    if (path.length > 2) this.lasso(path);
    else if (this.mode === "pan" && this.far < 6 && this.twice && this.under >= 0) this.on.pick?.(this.under);
    this.redraw();
  }

  key(event) {
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    const factor = { "+": 1.25, "=": 1.25, "-": 0.8 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (step) this.move(...step);
    else if (factor) this.zoom(factor);
    else if (event.key === "0") { this.fit(); this.redraw(); }
    else if (event.key === "Enter" && this.under >= 0) this.on.pick?.(this.under);
    else if (event.key === "Escape" && this.mask) this.choose(null);
    else return;
    event.preventDefault();
    if (step || factor) this.point(this.canvas.clientWidth / 2, this.canvas.clientHeight / 2, 120);
  }
}
