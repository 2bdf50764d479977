import { load, embed, pixels, cosine } from "./encoder.mjs";

const $ = (name) => document.getElementById(name);
const CLICKABLE = 8, NEIGHBORS = 6;
const samples = await (await fetch("samples.json")).json();
const session = load();
session.then(() => ($("state").textContent = "Ready. Nothing leaves this page."), (error) => ($("state").textContent = `${error}`));

// The image in ``blob``, and its neighbors among the samples but for the one that it is.
async function show(blob, clicked = null) {
  [...$("samples").children].forEach((button, place) => button.setAttribute("aria-pressed", samples[place] === clicked));
  try {
    const { rgba, width, height } = await pixels(blob);
    const loaded = await session, began = performance.now();
    const embedding = await embed(loaded, rgba, width, height);
    const spent = performance.now() - began;
    $("state").textContent = `${width} x ${height} px in ${spent.toFixed(0)} ms. Nothing leaves this page.`;
    draw(embedding);
    const others = samples.filter((sample) => sample !== clicked);
    const found = others.map((sample) => ({ ...sample, score: cosine(sample.embedding, embedding) }));
    found.sort((a, b) => b.score - a.score);
    const query = figure({ uri: URL.createObjectURL(blob), name: clicked?.name ?? "your image" });
    query.className = "query";
    $("neighbors").replaceChildren(query, ...found.slice(0, NEIGHBORS).map(figure));
  } catch (error) {
    $("state").textContent = `This file cannot be read as an image (${error.message ?? error}).`;
  }
}

function figure({ uri, name, score }) {
  const box = document.createElement("figure"), image = new Image(), caption = document.createElement("figcaption");
  image.src = uri;
  image.alt = name;
  caption.textContent = score === undefined ? name : `${score.toFixed(3)}  ${name}`;
  box.append(image, caption);
  return box;
}

function draw(embedding) {
  const canvas = $("embedding"), pen = canvas.getContext("2d");
  const most = Math.max(...embedding.map(Math.abs)) || 1, wide = canvas.width / embedding.length;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = getComputedStyle(canvas).color;
  embedding.forEach((value, place) => {
    const high = (value / most) * (canvas.height / 2);
    pen.fillRect(place * wide, canvas.height / 2 - Math.max(high, 0), Math.max(1, wide), Math.abs(high));
  });
}

$("samples").replaceChildren(...samples.slice(0, CLICKABLE).map((sample) => {
  const button = document.createElement("button"), image = new Image();
  image.src = sample.uri;
  image.alt = button.title = sample.name;
  button.append(image);
  button.addEventListener("click", async () => show(await (await fetch(sample.uri)).blob(), sample));
  return button;
}));
$("samples").firstElementChild?.click(); // so that the page opens with something to see

$("file").addEventListener("change", () => $("file").files[0] && show($("file").files[0]));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => event.clipboardData.files[0] && show(event.clipboardData.files[0]));
