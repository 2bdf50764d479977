// The encoder in the browser: pixels of any size in, an embedding out. The same graph, the same features as everywhere.
import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that a plain static server does not send

export async function load(url = new URL("encoder.onnx", import.meta.url)) {
  const data = new Uint8Array(await (await fetch(url)).arrayBuffer());
  return ort.InferenceSession.create(data, { executionProviders: ["wasm"] });
}

// rgba: Uint8ClampedArray of width * height * 4, as a canvas gives it. Returns a Float32Array.
export async function embed(session, rgba, width, height) {
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    const alpha = rgba[from + 3]; // over white, as sslfeat embed does
    for (let channel = 0; channel < 3; channel++) {
      const value = rgba[from + channel];
      rgb[to + channel] = alpha === 255 ? value : Math.round((value * alpha + 255 * (255 - alpha)) / 255);
    }
  }
  const { embedding } = await session.run({ image: new ort.Tensor("uint8", rgb, [1, height, width, 3]) });
  return embedding.data;
}

// Pixels of an image file (Blob), upright, at its own size, its color profile converted to sRGB by the browser, as sslfeat embed
// does; larger ones than `most` px a side are shrunk first.
export async function pixels(blob, most = 4096) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "default", premultiplyAlpha: "none" });
  const scale = Math.min(1, most / Math.max(bitmap.width, bitmap.height));
  const width = Math.round(bitmap.width * scale), height = Math.round(bitmap.height * scale);
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  pen.drawImage(bitmap, 0, 0, width, height);
  return { rgba: pen.getImageData(0, 0, width, height).data, width, height };
}

export function cosine(a, b) {
  let product = 0, left = 0, right = 0;
  for (let i = 0; i < a.length; i++) {
    product += a[i] * b[i];
    left += a[i] * a[i];
    right += b[i] * b[i];
  }
  return product / Math.sqrt(left * right || 1);
}
