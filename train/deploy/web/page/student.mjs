// An exported student in onnxruntime-web.

import * as ort from "./runtime/ort.wasm.min.mjs";
import { clipBox, cropAffine, invert, transform, warp } from "./geometry.mjs";
import { decodeArgmax, decodeDark } from "./decode.mjs";

const MOST_THREADS = 4;

ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
ort.env.logLevel = "error";

/** Load the student that the server offers. */
export async function loadStudent() {
  const [facts, model] = await Promise.all([
    fetched("student.json").then((response) => response.json()),
    fetched("student.onnx").then((response) => response.arrayBuffer()),
  ]);
  const session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  const student = new Student(facts, session);
  const [width, height] = facts.input_size;
  await session.run({ image: student.input(new Uint8Array(3 * width * height)) }); // the first run is slower
  return student;
}

/** Fetch one of the server's files. */
export async function fetched(address) {
  let response;
  try {
    response = await fetch(new URL(address, import.meta.url));
  } catch {
    throw new Error("the server does not answer; start it again with `python -m train web`");
  }
  if (!response.ok) throw new Error(`the server has no ${address} (${response.status})`);
  return response;
}

class Student {
  /** facts: what train/deploy/web/facts.py describes. */
  constructor(facts, session) {
    this.facts = facts;
    this.session = session;
    this.threads = ort.env.wasm.numThreads;
  }

  /**
   * Predict the keypoints in one box.
   *
   * @param {ImageData} image
   * @param {number[]} box x, y, width, height in image pixels
   * @param {string} decoder "dark" or "argmax"
   * @returns {Promise<{keypoints: {x: number, y: number, height: number}[], milliseconds: number} | null>} points in
   *     image pixels, the heights of the heatmaps, and the time of the network; null if the box is outside the image
   */
  async predict(image, box, decoder) {
    const inside = clipBox(box, [image.width, image.height]);
    if (!inside) return null;
    const size = this.facts.input_size;
    const affine = cropAffine(inside, size);
    const input = this.input(warp(image, affine, size));
    const started = performance.now();
    const { heatmaps } = await this.session.run({ image: input });
    const milliseconds = performance.now() - started;
    const keypoints = this.decode(heatmaps, affine, decoder);
    heatmaps.dispose();
    return { keypoints, milliseconds };
  }

  /** The network's input, from the pixels (height, width, 3) of a crop. */
  input(pixels) {
    const [width, height] = this.facts.input_size;
    if (this.facts.input === "uint8") return new ort.Tensor("uint8", pixels, [1, height, width, 3]);
    const { mean, std } = this.facts;
    const area = width * height;
    const planes = new Float32Array(3 * area);
    for (let channel = 0; channel < 3; channel++) {
      const scale = 1 / (255 * std[channel]);
      const offset = mean[channel] / std[channel];
      for (let i = 0; i < area; i++) planes[channel * area + i] = pixels[3 * i + channel] * scale - offset;
    }
    return new ort.Tensor("float32", planes, [1, 3, height, width]);
  }

  /** Points in image pixels from heatmaps (1, K, rows, columns). */
  decode({ data, dims: [, joints, rows, columns] }, affine, decoder) {
    const stride = this.facts.input_size[0] / columns;
    const back = invert(affine);
    return Array.from({ length: joints }, (_, joint) => {
      const map = data.subarray(joint * rows * columns, (joint + 1) * rows * columns);
      const point =
        decoder === "argmax" ? decodeArgmax(map, columns, rows) : decodeDark(map, columns, rows, this.facts.blur);
      const [x, y] = transform(back, point.x * stride, point.y * stride);
      return { x, y, height: point.height };
    });
  }
}
