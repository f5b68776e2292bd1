// The page: it shows one picture or the camera, and the keypoints of the student in one box.

import { chosenPictures, closeCamera, openCamera, pixelsOf, servedPictures } from "./pictures.mjs";
import { draw } from "./drawing.mjs";
import { loadStudent } from "./student.mjs";

const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));
const SIDES = ["x", "y", "width", "height"];
const SMALLEST = 8; // image pixels; a shorter drag is a click

let student = null;
let pictures = [];
let source = null; // an ImageBitmap, or the video of the camera
let camera = null;
let box = null; // null is the whole picture
let found = null; // the last prediction
let scale = 1; // canvas pixels per image pixel
let opening = 0; // counts attempts to open a source; a later one wins

// --- errors and status ---

function showError(error) {
  element.error.textContent = `Error: ${error.message ?? error}`;
  element.error.hidden = false;
}

/** A handler that shows errors on the page, and removes the previous one. */
function guarded(action) {
  return async (event) => {
    element.error.hidden = true;
    try {
      await action(event);
    } catch (error) {
      showError(error);
    }
  };
}

addEventListener("error", (event) => showError(event.error ?? event));
addEventListener("unhandledrejection", (event) => showError(event.reason));

// --- sizes and boxes ---

const sizeOf = (shown) => [shown.videoWidth ?? shown.width, shown.videoHeight ?? shown.height];
const currentBox = () => box ?? [0, 0, ...sizeOf(source)];

function setBox(next) {
  box = next;
  currentBox().forEach((value, i) => {
    element[SIDES[i]].value = Math.round(value * 10) / 10;
  });
}

function typedBox() {
  const values = SIDES.map((side) => Number.parseFloat(element[side].value));
  if (values.every(Number.isFinite)) box = values;
}

// --- prediction and drawing ---

let queue = Promise.resolve();

/** Predict once the running prediction has ended: a session runs one picture at a time. */
function predict() {
  queue = queue.then(guarded(predictNow));
  return queue;
}

async function predictNow() {
  if (!student || !source) return;
  const shown = source;
  found = await student.predict(pixelsOf(shown), currentBox(), element.decoder.value);
  if (shown !== source) return;
  if (!found) throw new Error("the box has no area inside the picture");
  redraw();
  if (!camera) showStill();
  showTable();
}

function redraw() {
  if (!source) return;
  const threshold = Number(element.threshold.value);
  const keypoints = found?.keypoints;
  scale = draw(element.canvas, source, { box: currentBox(), keypoints, facts: student?.facts, threshold });
  const drawn = keypoints?.filter(({ height }) => height >= threshold).length ?? 0;
  element.canvas.setAttribute("aria-label", `Picture with ${drawn} of ${keypoints?.length ?? 0} joints drawn`);
}

function showStill() {
  const highest = Math.max(...found.keypoints.map(({ height }) => height));
  const blank = highest < Number(element.threshold.value) ? `; no joint is drawn: the highest is ${highest.toPrecision(2)}` : "";
  element.status.textContent = `${found.milliseconds.toFixed(1)} ms for the network${blank}`;
}

function showTable() {
  const rows = found.keypoints.map(({ x, y, height }, joint) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = student.facts.joints[joint];
    row.append(name);
    for (const [value, digits] of [[x, 2], [y, 2], [height, 3]]) row.insertCell().textContent = value.toFixed(digits);
    return row;
  });
  element.table.replaceChildren(...rows);
}

// --- pictures ---

function listPictures(more) {
  pictures = [...pictures, ...more];
  element.pictures.replaceChildren(...pictures.map(({ name }, i) => new Option(name, i)));
  element.browse.hidden = pictures.length < 1;
}

async function showPicture(index) {
  stopCamera();
  const attempt = ++opening;
  element.pictures.value = index;
  element.previous.disabled = index <= 0;
  element.next.disabled = index >= pictures.length - 1;
  const bitmap = await pictures[index].open();
  if (attempt === opening) await show(bitmap);
}

async function show(next) {
  source = next;
  found = null;
  setBox(null);
  element.stage.classList.remove("empty");
  redraw();
  await predict();
}

async function addFiles(files) {
  const first = pictures.length;
  const chosen = chosenPictures(files);
  if (!chosen.length) return;
  listPictures(chosen);
  await showPicture(first);
}

// --- camera ---

async function toggleCamera() {
  if (camera) {
    stopCamera();
    return;
  }
  const attempt = ++opening;
  const video = await openCamera();
  if (attempt !== opening) {
    closeCamera(video);
    return;
  }
  camera = video;
  element.camera.setAttribute("aria-pressed", "true");
  element.camera.textContent = "Stop the camera";
  await show(video);
  runCamera(video);
}

function stopCamera() {
  if (!camera) return;
  closeCamera(camera);
  camera = null;
  element.camera.setAttribute("aria-pressed", "false");
  element.camera.textContent = "Use the camera";
}

/** Predict every frame that comes while no other is being predicted, and show the rate over the last second. */
async function runCamera(video) {
  const times = [];
  const nextFrame = () =>
    new Promise((resolve) => {
      if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
      else requestAnimationFrame(resolve);
    });
  while (camera === video) {
    await predict();
    const now = performance.now();
    times.push(now);
    while (times[0] < now - 1000) times.shift();
    if (times.length > 1 && found) {
      const rate = (1000 * (times.length - 1)) / (now - times[0]);
      const network = `${found.milliseconds.toFixed(1)} ms for the network`;
      element.status.textContent = `${rate.toFixed(1)} frames per second, ${network}`;
    }
    await nextFrame();
  }
}

// --- the user's actions ---

function pointOf(event) {
  const area = element.canvas.getBoundingClientRect();
  const perPixel = element.canvas.width / area.width / scale;
  return [(event.clientX - area.left) * perPixel, (event.clientY - area.top) * perPixel];
}

element.canvas.addEventListener("pointerdown", (start) => {
  if (!source || !start.isPrimary) return;
  const [x0, y0] = pointOf(start);
  const before = box;
  element.canvas.setPointerCapture(start.pointerId);
  const move = (event) => {
    const [x, y] = pointOf(event);
    setBox([Math.min(x, x0), Math.min(y, y0), Math.abs(x - x0), Math.abs(y - y0)]);
    redraw();
  };
  const end = (event) => {
    element.canvas.removeEventListener("pointermove", move);
    element.canvas.removeEventListener("pointerup", end);
    element.canvas.removeEventListener("pointercancel", end);
    const isClick = event.type === "pointercancel" || currentBox()[2] < SMALLEST || currentBox()[3] < SMALLEST;
    if (isClick) setBox(before);
    redraw();
    predict();
  };
  element.canvas.addEventListener("pointermove", move);
  element.canvas.addEventListener("pointerup", end);
  element.canvas.addEventListener("pointercancel", end);
});

element.files.addEventListener("change", guarded(async () => {
  const files = [...element.files.files];
  element.files.value = ""; // so that the same file can be chosen again
  await addFiles(files);
}));
element.camera.addEventListener("click", guarded(toggleCamera));
element.pictures.addEventListener("change", guarded(() => showPicture(Number(element.pictures.value))));
element.previous.addEventListener("click", guarded(() => showPicture(Number(element.pictures.value) - 1)));
element.next.addEventListener("click", guarded(() => showPicture(Number(element.pictures.value) + 1)));
element.whole.addEventListener("click", guarded(async () => {
  if (!source) return;
  setBox(null);
  await predict();
}));
for (const side of SIDES) {
  element[side].addEventListener("change", guarded(async () => {
    if (!source) return;
    typedBox();
    await predict();
  }));
}
element.decoder.addEventListener("change", predict);
element.threshold.addEventListener("input", () => {
  element.above.textContent = element.threshold.value;
  redraw();
  if (found && !camera) showStill();
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  element.stage.classList.add("drop");
});
addEventListener("dragleave", () => element.stage.classList.remove("drop"));
addEventListener("drop", guarded(async (event) => {
  event.preventDefault();
  element.stage.classList.remove("drop");
  await addFiles(event.dataTransfer.files);
}));

// --- start ---

await guarded(async () => {
  try {
    student = await loadStudent();
  } catch (error) {
    element.facts.textContent = "No student";
    throw error;
  }
  const { run, file, input_size: [width, height], precision, joints, decoder } = student.facts;
  const threads = student.threads > 1 ? `${student.threads} threads` : "1 thread";
  element.facts.textContent = `${file}: ${run}, ${height}x${width}, ${precision}, ${joints.length} joints; ${threads}`;
  element.decoder.value = decoder;
  listPictures(await servedPictures());
  if (pictures.length && !source) await showPicture(0);
  else await predict();
})();
