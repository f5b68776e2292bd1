// Heatmaps to points: the decoders of kdlib/heatmaps.py. One map is a Float32Array of rows x columns; points are in
// heatmap pixels.

/** The highest pixel of a map and its value; the first one of several. */
export function peak(map, columns) {
  let best = 0;
  for (let i = 1; i < map.length; i++) if (map[i] > map[best]) best = i;
  return { x: best % columns, y: Math.floor(best / columns), height: map[best] };
}

/** The highest pixel, moved a quarter pixel towards its higher neighbours, as in HRNet's evaluation. */
export function decodeArgmax(map, columns, rows) {
  const { x, y, height } = peakAboveZero(map, columns);
  if (!(x > 1 && x < columns - 1 && y > 1 && y < rows - 1)) return { x, y, height };
  const at = y * columns + x;
  const stepX = 0.25 * Math.sign(map[at + 1] - map[at - 1]);
  const stepY = 0.25 * Math.sign(map[at + columns] - map[at - columns]);
  return { x: x + stepX, y: y + stepY, height };
}

/** The highest pixel, moved by a Newton step on the logarithm of the blurred map (DARK, arXiv 1910.06278, eq. 9). */
export function decodeDark(map, columns, rows, blur) {
  const { x, y, height } = peakAboveZero(map, columns);
  if (!(x > 1 && x < columns - 2 && y > 1 && y < rows - 2)) return { x, y, height };
  const window = blurredAround(map, columns, rows, x, y, blur);
  const top = Math.max(...window);
  const factor = Math.max(height, 1e-10) / (top > 0 ? top : 1);
  const log = window.map((value) => Math.log(Math.max(value * factor, 1e-10)));
  const [stepX, stepY] = newtonStep(log);
  return { x: x + stepX, y: y + stepY, height };
}

function peakAboveZero(map, columns) {
  const found = peak(map, columns);
  return found.height > 0 ? found : { x: 0, y: 0, height: found.height };
}

/** The 5x5 pixels around (x, y) after the blur, row by row; the map is 0 outside. */
function blurredAround(map, columns, rows, x, y, blur) {
  const reach = (blur.length - 1) / 2;
  const across = new Float64Array(5 * (2 * reach + 5)); // blurred along the rows only: 5 columns
  for (let r = -reach - 2; r <= reach + 2; r++) {
    const row = y + r;
    if (row < 0 || row >= rows) continue;
    for (let c = -2; c <= 2; c++) {
      let sum = 0;
      for (let k = 0; k < blur.length; k++) {
        const column = x + c + k - reach;
        if (column >= 0 && column < columns) sum += blur[k] * map[row * columns + column];
      }
      across[5 * (r + reach + 2) + c + 2] = sum;
    }
  }
  return Array.from({ length: 25 }, (_, i) => {
    const first = Math.floor(i / 5);
    let sum = 0;
    for (let k = 0; k < blur.length; k++) sum += blur[k] * across[5 * (first + k) + (i % 5)];
    return sum;
  });
}

/** -Hessian^-1 gradient in the middle of 5x5 values, at most 1 pixel per axis; 0 if there is no maximum. */
function newtonStep(log) {
  const at = (dx, dy) => log[5 * (2 + dy) + 2 + dx];
  const dx = 0.5 * (at(1, 0) - at(-1, 0));
  const dy = 0.5 * (at(0, 1) - at(0, -1));
  const dxx = 0.25 * (at(2, 0) - 2 * at(0, 0) + at(-2, 0));
  const dyy = 0.25 * (at(0, 2) - 2 * at(0, 0) + at(0, -2));
  const dxy = 0.25 * (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1));
  const determinant = dxx * dyy - dxy * dxy;
  if (!(determinant > 1e-12 && dxx < 0)) return [0, 0];
  const clip = (value) => Math.min(1, Math.max(-1, value));
  return [clip(-(dyy * dx - dxy * dy) / determinant), clip(-(dxx * dy - dxy * dx) / determinant)];
}
