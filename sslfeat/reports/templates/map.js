for (const root of document.querySelectorAll(".map")) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const points = new Uint16Array(bytes(data.points).buffer);
  const members = bytes(data.members);
  const missing = new Set(data.missing);
  const shown = data.groups.map(() => true);
  const sheets = data.sheets.map((source) => Object.assign(new Image(), { src: source }));
  const canvas = root.querySelector("canvas"), pen = canvas.getContext("2d");
  const tip = root.querySelector(".tip");
  const WORLD = 65536, REACH = 14, CELL = 1024, IMAGE = 44;
  let scale = 1, left = 0, top = 0, moved = false, images = false, waiting = false, under = -1;

  const cells = new Map(); // points by square of the world, so that the pointer finds the nearest at once
  for (let n = 0; n < members.length; n++) {
    const key = (points[2 * n] >> 10) * 64 + (points[2 * n + 1] >> 10);
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(n);
  }
  const placeX = (n) => points[2 * n] * scale + left;
  const placeY = (n) => (WORLD - points[2 * n + 1]) * scale + top;

  function fit() {
    const { clientWidth: width, clientHeight: height } = canvas;
    scale = (Math.min(width, height) - 40) / WORLD;
    left = (width - WORLD * scale) / 2;
    top = (height - WORLD * scale) / 2;
  }
  function zoom(factor, x, y) {
    moved = true;
    const next = Math.min(Math.max(scale * factor, 1e-3), 5);
    left = x - (x - left) * next / scale;
    top = y - (y - top) * next / scale;
    scale = next;
    redraw();
  }
  function redraw() {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }
  function draw() {
    waiting = false;
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const radius = Math.min(6, Math.max(2.2, 60 * scale, 800 / members.length));
    const taken = new Set();
    pen.globalAlpha = images ? 1 : 0.75;
    for (let n = 0; n < members.length; n++) {
      if (!shown[members[n]]) continue;
      const x = placeX(n), y = placeY(n);
      if (x < -IMAGE || y < -IMAGE || x > width + IMAGE || y > height + IMAGE) continue;
      if (images && !missing.has(n)) {
        const spot = Math.floor(x / IMAGE) * 4096 + Math.floor(y / IMAGE);
        if (taken.has(spot)) continue;
        taken.add(spot);
        const [sheet, column, row] = cellOf(n);
        pen.drawImage(sheet, column, row, data.side, data.side, x - IMAGE / 2, y - IMAGE / 2, IMAGE - 2, IMAGE - 2);
      } else {
        pen.fillStyle = data.groups[members[n]].color;
        pen.beginPath();
        pen.arc(x, y, radius, 0, 7);
        pen.fill();
      }
    }
    if (under >= 0) {
      pen.globalAlpha = 1;
      pen.strokeStyle = getComputedStyle(canvas).color;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(placeX(under), placeY(under), radius + 3, 0, 7);
      pen.stroke();
    }
  }
  function cellOf(n) {
    const place = n % data.perSheet;
    const sheet = sheets[Math.floor(n / data.perSheet)];
    return [sheet, (place % data.columns) * data.side, Math.floor(place / data.columns) * data.side];
  }
  function nearest(x, y) {
    const worldX = (x - left) / scale, worldY = WORLD - (y - top) / scale, reach = REACH / scale;
    let best = -1, least = REACH * REACH;
    for (let i = Math.floor((worldX - reach) / CELL); i <= (worldX + reach) / CELL; i++)
      for (let j = Math.floor((worldY - reach) / CELL); j <= (worldY + reach) / CELL; j++)
        for (const n of (i < 0 || j < 0 || i > 63 || j > 63 ? [] : cells.get(i * 64 + j) || [])) {
          const away = (placeX(n) - x) ** 2 + (placeY(n) - y) ** 2;
          if (shown[members[n]] && away < least) [best, least] = [n, away];
        }
    return best;
  }
  function point(x, y) {
    const found = nearest(x, y);
    if (found !== under) redraw();
    under = found;
    tip.hidden = under < 0;
    if (under < 0) return;
    const image = tip.querySelector("div"), [sheet, column, row] = cellOf(under), size = 96;
    const grown = size / data.side;
    image.style.cssText = missing.has(under) ? "" : `width: ${size}px; height: ${size}px;
      background-image: url(${sheet.src}); background-position: ${-column * grown}px ${-row * grown}px;
      background-size: ${data.columns * size}px auto`;
    tip.querySelector("span").textContent = `${data.groups[members[under]].name}: ${data.names[under]}`;
    const wide = tip.offsetWidth, high = tip.offsetHeight;
    const over = canvas.offsetLeft + x, down = canvas.offsetTop + y;
    tip.style.left = `${Math.max(0, over + 16 + wide > root.clientWidth ? over - wide - 16 : over + 16)}px`;
    tip.style.top = `${Math.max(0, Math.min(down - high / 2, canvas.offsetTop + canvas.clientHeight - high))}px`;
  }

  const held = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    held.set(event.pointerId, [event.offsetX, event.offsetY]);
    canvas.setPointerCapture(event.pointerId);
    point(event.offsetX, event.offsetY);
  });
  canvas.addEventListener("pointermove", (event) => {
    const { offsetX: x, offsetY: y } = event, before = held.get(event.pointerId);
    if (!before) return point(x, y);
    const others = [...held].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    held.set(event.pointerId, [x, y]);
    const share = 1 / held.size;
    moved = true;
    left += (x - before[0]) * share;
    top += (y - before[1]) * share;
    if (others.length) {
      const [a, b] = others[0];
      zoom(Math.hypot(x - a, y - b) / Math.max(1, Math.hypot(before[0] - a, before[1] - b)), (x + a) / 2, (y + b) / 2);
    }
    redraw();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => held.delete(event.pointerId));
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(-1e6, -1e6));
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls, until the map was clicked
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    const factor = { "+": 1.25, "-": 0.8 }[event.key];
    if (factor) zoom(factor, canvas.clientWidth / 2, canvas.clientHeight / 2);
    if (!step) return;
    event.preventDefault();
    left += step[0];
    top += step[1];
    redraw();
  });
  for (const button of root.querySelectorAll("button")) button.addEventListener("click", () => {
    const turned = button.getAttribute("aria-pressed") !== "true";
    if ("zoom" in button.dataset) {
      const factor = Number(button.dataset.zoom);
      if (factor) zoom(factor, canvas.clientWidth / 2, canvas.clientHeight / 2);
      else { moved = false; fit(); }
    } else {
      button.setAttribute("aria-pressed", String(turned));
      if ("images" in button.dataset) images = turned;
      else shown[Number(button.dataset.group)] = turned;
    }
    point(-1e6, -1e6);
    draw();
  });
  // until it is moved the whole map is shown, whatever the size
  new ResizeObserver(() => { if (!moved) fit(); redraw(); }).observe(canvas);
  for (const sheet of sheets) sheet.addEventListener("load", redraw);
  fit();
  draw();
}
