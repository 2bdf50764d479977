import { shade } from "./pixels.js";
import { DARK, Plane, placeTip } from "./plane.js";

for (const root of document.querySelectorAll(".map")) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const points = new Uint16Array(bytes(data.points).buffer), members = bytes(data.members);
  const missing = new Set(data.missing), IMAGE = 44, SIZE = 96;
  const sheets = data.sheets.map((source) => Object.assign(new Image(), { src: source }));
  const tip = root.querySelector(".tip"), canvas = root.querySelector("canvas");
  let images = false;

  const cellOf = (n) => {
    const place = n % data.perSheet;
    const row = Math.floor(place / data.columns);
    return [sheets[Math.floor(n / data.perSheet)], (place % data.columns) * data.side, row * data.side];
  };
  // images instead of points, at most one per spot
  function paint(pen) {
    const taken = new Set();
    for (let n = 0; n < members.length; n++) {
      const x = plane.placeX(n), y = plane.placeY(n);
      if (!plane.shown[members[n]] || missing.has(n)) continue;
      if (x < -IMAGE || y < -IMAGE || x > canvas.clientWidth + IMAGE || y > canvas.clientHeight + IMAGE) continue;
      const spot = Math.floor(x / IMAGE) * 4096 + Math.floor(y / IMAGE);
      if (taken.has(spot)) continue;
      taken.add(spot);
      const [sheet, column, row] = cellOf(n);
      pen.drawImage(sheet, column, row, data.side, data.side, x - IMAGE / 2, y - IMAGE / 2, IMAGE - 2, IMAGE - 2);
    }
  }
  function hover(n, x, y) {
    tip.hidden = n < 0;
    if (n < 0) return;
    const [sheet, column, row] = cellOf(n), grown = SIZE / data.side;
    tip.querySelector("div").style.cssText = missing.has(n) ? "" : `width: ${SIZE}px; height: ${SIZE}px;
      background-image: url(${sheet.src}); background-position: ${-column * grown}px ${-row * grown}px;
      background-size: ${data.columns * SIZE}px auto`;
    tip.querySelector("span").textContent = `${data.groups[members[n]].name}: ${data.names[n]}`;
    placeTip(tip, canvas, x, y);
  }

  const plane = new Plane(canvas, {
    x: points.filter((_, place) => place % 2 === 0),
    y: points.filter((_, place) => place % 2 === 1),
    group: members,
    colors: data.groups.map((group) => group.color),
    quiet: data.quiet,
  }, { hover, paint: (pen) => images && paint(pen) });
  for (const sheet of sheets) sheet.addEventListener("load", () => images && plane.redraw());

  const dye = () => root.querySelectorAll("i.dot").forEach((dot, number) => {
    dot.style.background = `rgb(${shade(data.groups[number].color, DARK.matches)})`;
  });
  dye();
  DARK.addEventListener("change", dye);
  for (const button of root.querySelectorAll("button")) button.addEventListener("click", () => {
    const turned = button.getAttribute("aria-pressed") !== "true";
    if ("zoom" in button.dataset) {
      const factor = Number(button.dataset.zoom);
      if (factor) plane.zoom(factor);
      else plane.fit();
    } else {
      button.setAttribute("aria-pressed", String(turned));
      if ("images" in button.dataset) images = turned;
      else plane.shown[Number(button.dataset.group)] = Number(turned);
    }
    plane.point(-1e6, -1e6);
    plane.draw();
  });
}
