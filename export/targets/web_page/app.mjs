import { load, embed, pixels, cosine } from "./encoder.mjs";

const $ = (name) => document.getElementById(name);
const samples = await (await fetch("samples.json")).json();
const session = load();
session.then(() => ($("state").textContent = "Ready. Nothing leaves this page."), (error) => ($("state").textContent = `${error}`));

async function show(blob) {
  try {
    const { rgba, width, height } = await pixels(blob);
    const began = performance.now();
    const embedding = await embed(await session, rgba, width, height);
    const spent = performance.now() - began;
    $("image").src = URL.createObjectURL(blob);
    $("state").textContent = `${width} x ${height} px, ${spent.toFixed(0)} ms, ${embedding.length} numbers`;
    draw(embedding);
    const found = samples.map((sample) => ({ ...sample, score: cosine(sample.embedding, embedding) }));
    found.sort((a, b) => b.score - a.score);
    $("neighbors").replaceChildren(...found.slice(0, 8).map(figure));
  } catch (error) {
    $("state").textContent = `This file cannot be read as an image (${error.message ?? error}).`;
  }
}

function figure({ uri, name, score }) {
  const box = document.createElement("figure"), image = new Image(), caption = document.createElement("figcaption");
  image.src = uri;
  image.alt = name;
  caption.textContent = `${score.toFixed(3)}  ${name}`;
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

$("file").addEventListener("change", () => $("file").files[0] && show($("file").files[0]));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => event.clipboardData.files[0] && show(event.clipboardData.files[0]));
