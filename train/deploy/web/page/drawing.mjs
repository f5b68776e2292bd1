// Draws a picture, the box and a skeleton on a canvas.

const LONGEST = 1600; // pixels of the canvas's longer side, at most
const ENLARGED = 800; // to which smaller pictures are enlarged
const FINE = 0.4; // thickness of the joints of faces and hands, relative to the others

/** Draw the source and, if given, keypoints. Returns canvas pixels per image pixel. */
export function draw(canvas, source, { box, keypoints, facts, threshold }) {
  const width = source.videoWidth ?? source.width;
  const height = source.videoHeight ?? source.height;
  const longer = Math.max(width, height);
  const scale = Math.min(LONGEST / longer, Math.max(1, ENLARGED / longer));
  const [columns, rows] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d");
  context.drawImage(source, 0, 0, columns, rows);
  const dense = canvas.clientWidth ? columns / canvas.clientWidth : 1; // canvas pixels per pixel of the screen
  const thickness = Math.min(12 * dense, Math.max(2.5 * dense, (Math.sqrt(box[2] * box[3]) * scale) / 70));
  drawBox(context, box.map((value) => value * scale), dense);
  if (keypoints) drawSkeleton(context, keypoints, facts, threshold, scale, thickness);
  return scale;
}

function drawBox(context, box, dense) {
  context.lineWidth = 1.5 * dense;
  for (const [colour, offset] of [["#fff", 0], ["#111", 6 * dense]]) {
    context.strokeStyle = colour;
    context.setLineDash([6 * dense, 6 * dense]);
    context.lineDashOffset = offset;
    context.strokeRect(...box);
  }
  context.setLineDash([]);
}

function drawSkeleton(context, keypoints, facts, threshold, scale, thickness) {
  const colours = Object.fromEntries(Object.entries(facts.colours).map(([side, rgb]) => [side, `rgb(${rgb})`]));
  const isDrawn = (joint) => keypoints[joint].height >= threshold;
  const limbs = facts.limbs.filter(([a, b]) => isDrawn(a) && isDrawn(b));
  const factor = (...ends) => (ends.some((joint) => facts.fine[joint]) ? FINE : 1);
  context.lineCap = "round";
  for (const [extra, outline] of [[2, "#141414"], [0, null]]) {
    for (const [a, b, side] of limbs) {
      context.lineWidth = thickness * factor(a, b) + extra;
      context.strokeStyle = outline ?? colours[side];
      context.beginPath();
      context.moveTo(keypoints[a].x * scale, keypoints[a].y * scale);
      context.lineTo(keypoints[b].x * scale, keypoints[b].y * scale);
      context.stroke();
    }
  }
  keypoints.forEach(({ x, y }, joint) => {
    if (!isDrawn(joint)) return;
    for (const [extra, colour] of [[1, "#141414"], [0, colours[facts.sides[joint]]]]) {
      context.fillStyle = colour;
      context.beginPath();
      context.arc(x * scale, y * scale, (thickness * 0.8 + 1) * factor(joint) + extra, 0, 2 * Math.PI);
      context.fill();
    }
  });
}
