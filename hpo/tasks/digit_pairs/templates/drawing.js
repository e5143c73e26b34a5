// Makes of strokes the picture that the network is given, as its dataset was made of handwriting. A stroke is a list of
// points [x, y] from 0 to 1. Their size does not matter, nor does the pen's: both are the dataset's.
const MADE = {
  // MNIST: fitted into 20x20, its centre of mass in the middle of 28x28, then means of 2x2.
  mnist: {cells: 28, box: 20, pen: 2.6, fine: 10, most: 255},
  // The embedded digits: fitted into 32x32 dots, of which each 4x4 are counted, then enlarged.
  digits: {cells: 8, box: 8, pen: 1.3, fine: 40, most: 16},
}[network.dataset];
const SMALLEST = 0.12; // what is drawn smaller, as a dot, is not enlarged to fit
const fineCanvas = document.createElement("canvas");
fineCanvas.width = fineCanvas.height = MADE.cells * MADE.fine;
const fineContext = fineCanvas.getContext("2d", {willReadFrequently: true});

function trace(context, strokes, place, width) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = width;
  for (const stroke of strokes) {
    const points = stroke.map(place);
    const [begin, end] = [points[0], points[points.length - 1]];
    context.beginPath();
    context.moveTo(...begin);
    for (let i = 1; i < points.length - 1; i++) { // through the middles between points, which makes it smooth
      const [x, y] = points[i], [nextX, nextY] = points[i + 1];
      context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    }
    context.lineTo(...end);
    context.stroke();
  }
}

// The share of ink in each of the picture's cells, row by row.
function inkOf(strokes) {
  const {cells, box, pen, fine} = MADE, points = strokes.flat();
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const middle = (numbers) => (numbers.reduce((a, b) => Math.min(a, b)) + numbers.reduce((a, b) => Math.max(a, b))) / 2;
  const [x, y] = [middle(xs), middle(ys)];
  const reach = points.reduce((most, point) => Math.max(most, Math.abs(point[0] - x), Math.abs(point[1] - y)), 0);
  const scale = (box - pen) / Math.max(2 * reach, SMALLEST) * fine, size = cells * fine;
  fineContext.clearRect(0, 0, size, size);
  trace(fineContext, strokes, (point) => [(point[0] - x) * scale + size / 2, (point[1] - y) * scale + size / 2],
    pen * fine);
  const {data} = fineContext.getImageData(0, 0, size, size), ink = new Float64Array(cells * cells);
  for (let row = 0; row < size; row++) for (let column = 0; column < size; column++) {
    ink[Math.floor(row / fine) * cells + Math.floor(column / fine)] += data[4 * (row * size + column) + 3];
  }
  return ink.map((sum) => sum / (255 * fine * fine));
}

// The same, moved by whole cells until its centre of mass is in the middle, or its box at the edge.
function centred(ink, cells, box) {
  let sum = 0, right = 0, down = 0;
  ink.forEach((x, i) => { sum += x; right += x * (i % cells + 0.5); down += x * (Math.floor(i / cells) + 0.5); });
  const room = (cells - box) / 2, by = (mass) => Math.max(-room, Math.min(room, Math.round(cells / 2 - mass / sum)));
  const [dx, dy] = [by(right), by(down)];
  return ink.map((_, i) => {
    const column = i % cells - dx, row = Math.floor(i / cells) - dy;
    return column >= 0 && column < cells && row >= 0 && row < cells ? ink[row * cells + column] : 0;
  });
}

function halved(ink, cells) {
  const half = cells / 2;
  return Float64Array.from({length: half * half}, (_, i) => {
    const at = 2 * Math.floor(i / half) * cells + 2 * (i % half);
    return (ink[at] + ink[at + 1] + ink[at + cells] + ink[at + cells + 1]) / 4;
  });
}

// Enlarged to 14x14, bilinearly.
function enlarged(ink, cells) {
  const between = (i) => {
    const at = Math.max(0, (i + 0.5) * cells / 14 - 0.5), low = Math.floor(at);
    return [low, Math.min(low + 1, cells - 1), at - low];
  };
  return Float64Array.from({length: 196}, (_, i) => {
    const [top, bottom, down] = between(Math.floor(i / 14)), [left, right, along] = between(i % 14);
    const row = (y) => ink[y * cells + left] * (1 - along) + ink[y * cells + right] * along;
    return row(top) * (1 - down) + row(bottom) * down;
  });
}

// The picture of 14x14 pixels, as the dataset has them.
function pictureOf(strokes) {
  const {cells, box, most} = MADE, ink = inkOf(strokes);
  const small = cells > 14 ? halved(centred(ink, cells, box), cells) : enlarged(ink, cells);
  return small.map((x) => most * x);
}

// Digits to draw for somebody; a point that stands twice is a corner.
const GLYPHS = [
  [[[.5, .1], [.28, .2], [.2, .5], [.27, .8], [.5, .9], [.73, .8], [.8, .5], [.72, .2], [.5, .1]]],
  [[[.54, .1], [.52, .4], [.47, .9]]],
  [[[.25, .3], [.35, .13], [.55, .1], [.72, .2], [.7, .4], [.5, .62], [.22, .88], [.22, .88], [.5, .87], [.8, .88]]],
  [[[.25, .18], [.5, .1], [.72, .22], [.68, .4], [.45, .48], [.45, .48], [.72, .56], [.76, .76], [.55, .9], [.24, .84]]],
  [[[.36, .1], [.3, .35], [.22, .58], [.22, .58], [.5, .58], [.82, .56]], [[.66, .2], [.64, .6], [.62, .92]]],
  [[[.74, .12], [.34, .12], [.34, .12], [.29, .46], [.29, .46], [.5, .4], [.74, .52], [.74, .76], [.5, .9], [.24, .83]]],
  [[[.64, .1], [.4, .3], [.26, .62], [.32, .85], [.55, .9], [.73, .76], [.66, .58], [.45, .56], [.28, .72]]],
  [[[.22, .14], [.5, .13], [.78, .13], [.78, .13], [.6, .5], [.45, .9]]],
  [[[.7, .2], [.5, .1], [.3, .2], [.35, .38], [.6, .55], [.74, .73], [.5, .9], [.27, .75], [.38, .55], [.66, .38], [.7, .2]]],
  [[[.72, .28], [.5, .1], [.29, .25], [.33, .45], [.55, .48], [.72, .28], [.72, .28], [.7, .6], [.62, .92]]],
];

// Strokes of a digit, each time a little different.
function glyph(digit, vary = () => 2 * Math.random() - 1) {
  const [slant, turn] = [0.1 * vary(), 0.06 * vary()];
  return GLYPHS[digit].map((stroke) => stroke.map(([x, y]) => {
    const [u, v] = [x - 0.5, y - 0.5];
    return [0.5 + u - slant * v + turn * v, 0.5 + v - turn * u];
  }));
}
