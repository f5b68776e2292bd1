// Boxes, crops and affines, in HRNet's pixel convention: the numbers are those of kdlib/geometry.py and of OpenCV's
// warpAffine. An affine is [a, b, c, d, e, f]: x' = a x + b y + c, y' = d x + e y + f. Boxes are [x, y, width, height].

const PADDING = 1.25; // side of the crop over side of the box
const FRACTION = 5; // OpenCV rounds source coordinates to 1/32 pixel
const SCALE = 1024; // and computes them as integers, in 1/1024 pixel

/** Clip a box to an image of size [width, height]: a box ends at its last pixel. Null if nothing is left. */
export function clipBox([x, y, width, height], [columns, rows]) {
  const left = Math.max(x, 0);
  const top = Math.max(y, 0);
  const right = Math.min(columns - 1, left + Math.max(width - 1, 0));
  const bottom = Math.min(rows - 1, top + Math.max(height - 1, 0));
  const isInside = width > 0 && height > 0 && right > left && bottom > top;
  return isInside ? [left, top, right - left, bottom - top] : null;
}

/** The affine from image pixels to the pixels of the crop around a box; inputSize is [width, height] of the crop. */
export function cropAffine([x, y, width, height], inputSize) {
  const aspect = inputSize[0] / inputSize[1];
  const f = Math.fround; // HRNet keeps centres and sizes in float32
  const centerX = f(x + width * 0.5);
  const centerY = f(y + height * 0.5);
  const side = f(f(f(Math.max(width, height * aspect) / 200) * f(PADDING)) * f(200));
  const scale = inputSize[0] / side;
  return [scale, 0, inputSize[0] / 2 - scale * centerX, 0, scale, inputSize[1] / 2 - scale * centerY];
}

/** The inverse of an affine. */
export function invert([a, b, c, d, e, f]) {
  const k = 1 / (a * e - b * d);
  const [p, q, r, s] = [e * k, -b * k, -d * k, a * k];
  return [p, q, -p * c - q * f, r, s, -r * c - s * f];
}

/** Transform the point (x, y). */
export function transform([a, b, c, d, e, f], x, y) {
  return [a * x + b * y + c, d * x + e * y + f];
}

/** Round to the nearest integer, halves to the even one, as OpenCV does. */
function roundEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

/**
 * Resample an image bilinearly as cv2.warpAffine does; pixels outside the image are black.
 *
 * @param {ImageData} image
 * @param {number[]} affine image pixels to crop pixels
 * @param {number[]} size [width, height] of the crop
 * @returns {Uint8Array} (height, width, 3) RGB
 */
export function warp(image, affine, [width, height]) {
  const { data, width: columns, height: rows } = image;
  const [a, b, c, d, e, f] = invert(affine);
  const out = new Uint8Array(width * height * 3);
  const half = SCALE >> (FRACTION + 1);
  const shift = 10 - FRACTION;
  const ones = (1 << FRACTION) - 1;
  let k = 0;
  for (let v = 0; v < height; v++) {
    const rowX = roundEven((b * v + c) * SCALE) + half;
    const rowY = roundEven((e * v + f) * SCALE) + half;
    for (let u = 0; u < width; u++, k += 3) {
      const fixedX = (rowX + roundEven(a * u * SCALE)) >> shift;
      const fixedY = (rowY + roundEven(d * u * SCALE)) >> shift;
      const x = fixedX >> FRACTION;
      const y = fixedY >> FRACTION;
      const right = fixedX & ones;
      const down = fixedY & ones;
      for (let j = 0; j < 4; j++) {
        const column = x + (j & 1);
        const row = y + (j >> 1);
        if (column < 0 || column >= columns || row < 0 || row >= rows) continue;
        const weight = (j & 1 ? right : 32 - right) * (j >> 1 ? down : 32 - down);
        const i = 4 * (row * columns + column);
        SUM[0] += weight * data[i];
        SUM[1] += weight * data[i + 1];
        SUM[2] += weight * data[i + 2];
      }
      for (let channel = 0; channel < 3; channel++) {
        out[k + channel] = (SUM[channel] + 512) >> 10; // the weights add up to 32 * 32
        SUM[channel] = 0;
      }
    }
  }
  return out;
}

const SUM = new Int32Array(3);
