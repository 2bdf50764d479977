// Drawing helpers for a plane: colors, stamps for points, a grid for finding points, and the drawing order.
export const CELLS = 128;

// Color of a group as [r, g, b]; dark colors are brightened in dark mode.
export function shade(hex, dark) {
  const parts = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
  const light = 0.3 * parts[0] + 0.59 * parts[1] + 0.11 * parts[2];
  const share = dark ? Math.max(0, (125 - light) / (255 - light)) : 0;
  return parts.map((part) => Math.round(part + (255 - part) * share));
}

export function trace(pen, path) {
  pen.beginPath();
  for (const [x, y] of path) pen.lineTo(x, y);
  pen.closePath();
}

export function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

export function cellOf(place) {
  return Math.min(CELLS - 1, Math.max(0, Math.floor(place * CELLS)));
}

// Points sorted by grid cell, for fast nearest-point search.
export function gridOf(x, y) {
  const cells = Int32Array.from(x, (value, n) => cellOf(y[n]) * CELLS + cellOf(value));
  const starts = new Int32Array(CELLS * CELLS + 1);
  for (const cell of cells) starts[cell + 1]++;
  for (let cell = 0; cell < CELLS * CELLS; cell++) starts[cell + 1] += starts[cell];
  const next = starts.slice(), members = new Int32Array(x.length);
  cells.forEach((cell, n) => { members[next[cell]++] = n; });
  return { starts, members };
}

export function shuffled(count) {
  const order = Int32Array.from({ length: count }, (_, n) => n);
  let state = 1;
  for (let n = count - 1; n > 0; n--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = state % (n + 1);
    [order[n], order[other]] = [order[other], order[n]];
  }
  return order;
}

// A disc as offsets into an image of ``width``: fully covered pixels, and rim pixels with their coverage.
// With many points the rim is not blended, because blending would take most of the time.
export function stampOf(radius, width, many) {
  const core = [], rim = [], share = [], reach = Math.ceil(radius + 0.5);
  for (let row = -reach; row <= reach; row++)
    for (let column = -reach; column <= reach; column++) {
      const covered = radius + 0.5 - Math.hypot(row, column);
      if (covered >= (many ? 0.5 : 1)) core.push(row * width + column);
      else if (covered > 0.05 && !many) {
        rim.push(row * width + column);
        share.push(covered);
      }
    }
  return { core: Int32Array.from(core), rim: Int32Array.from(rim), share, reach };
}

export function over(under, color, share) {
  const alpha = color >>> 24, below = under >>> 24;
  if (!below) return ((color & 0xffffff) | ((alpha * share) << 24)) >>> 0;
  const mixed = (shift) => {
    const old = (under >>> shift) & 255;
    return (old + (((color >>> shift) & 255) - old) * share) << shift;
  };
  return (mixed(0) | (mixed(8) & 0xff00) | (mixed(16) & 0xff0000) | (Math.max(below, alpha * share) << 24)) >>> 0;
}
