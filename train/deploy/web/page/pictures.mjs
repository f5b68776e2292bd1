// Where pixels come from: pictures of the server, files of the user, and the camera.

import { fetched } from "./student.mjs";

const canvas = new OffscreenCanvas(1, 1);
const context = canvas.getContext("2d", { willReadFrequently: true });

/** The pixels of a picture or of a video's present frame, as ImageData. */
export function pixelsOf(source) {
  const width = source.videoWidth ?? source.width;
  const height = source.videoHeight ?? source.height;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** The pictures that the server offers: [{name, open}]. */
export async function servedPictures() {
  const list = await (await fetched("images.json")).json();
  return list.map(({ name, url }) => ({ name, open: async () => decoded(await (await fetched(url)).blob(), name) }));
}

/** The pictures among files that the user chose: [{name, open}]. */
export function chosenPictures(files) {
  return [...files].map((file) => ({ name: file.name, open: () => decoded(file, file.name) }));
}

/** Decode a picture upright, without converting its colours. */
async function decoded(blob, name) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  try {
    return await createImageBitmap(blob, options);
  } catch {
    throw new Error(`${name} is not a picture that this browser can show`);
  }
}

/** Start the camera; returns a playing video element. */
export async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("this browser allows the camera only at https addresses, 127.0.0.1 and localhost");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, facingMode: "user" } });
  } catch (error) {
    const reasons = {
      NotAllowedError: "the browser was not allowed to use the camera",
      NotFoundError: "there is no camera",
      NotReadableError: "another program uses the camera",
    };
    throw new Error(reasons[error.name] ?? `the camera cannot be opened (${error.message})`);
  }
  const video = document.createElement("video");
  Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
  await video.play();
  return video;
}

/** Stop the camera of a video element. */
export function closeCamera(video) {
  for (const track of video.srcObject.getTracks()) track.stop();
}
