"use strict";
// Computes an exported network as PyTorch does, on one image at a time. A value is {size: [channels, height, width],
// numbers}; numbers are summed as float64.
const network = JSON.parse(document.getElementById("network").textContent);
const weights = (() => {
  const text = atob(document.getElementById("weights").textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Float32Array(bytes.buffer);
})();

const KINDS = {
  convolution({channels, kernel: [kh, kw], stride: [sh, sw], padding: [ph, pw], at: [weight, bias]}, value) {
    const {size: [inputs, height, width], numbers} = value;
    const rows = Math.floor((height + 2 * ph - kh) / sh) + 1, columns = Math.floor((width + 2 * pw - kw) / sw) + 1;
    const made = new Float64Array(channels * rows * columns);
    for (let o = 0; o < channels; o++) {
      const map = o * rows * columns;
      if (bias !== null) made.fill(weights[bias + o], map, map + rows * columns);
      for (let i = 0; i < inputs; i++) for (let ky = 0; ky < kh; ky++) for (let kx = 0; kx < kw; kx++) {
        const by = weights[weight + ((o * inputs + i) * kh + ky) * kw + kx];
        const first = Math.max(0, Math.ceil((pw - kx) / sw));
        const last = Math.min(columns - 1, Math.floor((width - 1 + pw - kx) / sw));
        for (let y = 0; y < rows; y++) {
          const from = y * sh + ky - ph;
          if (from < 0 || from >= height) continue;
          const source = (i * height + from) * width + kx - pw, target = map + y * columns;
          for (let x = first; x <= last; x++) made[target + x] += by * numbers[source + x * sw];
        }
      }
    }
    return {size: [channels, rows, columns], numbers: made};
  },
  scale({at: [scale, shift]}, {size, numbers}) {
    const area = size[1] * size[2];
    return {size, numbers: numbers.map((x, i) => {
      const channel = Math.floor(i / area);
      return x * weights[scale + channel] + weights[shift + channel];
    })};
  },
  pool({by, kernel, stride}, {size: [channels, height, width], numbers}) {
    const [kh, kw] = kernel ?? [height, width], [sh, sw] = stride ?? [1, 1];
    const rows = Math.floor((height - kh) / sh) + 1, columns = Math.floor((width - kw) / sw) + 1;
    const made = new Float64Array(channels * rows * columns);
    for (let c = 0, at = 0; c < channels; c++) for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
      let most = -Infinity, sum = 0;
      for (let ky = 0; ky < kh; ky++) for (let kx = 0; kx < kw; kx++) {
        const number = numbers[(c * height + y * sh + ky) * width + x * sw + kx];
        most = Math.max(most, number);
        sum += number;
      }
      made[at++] = by === "max" ? most : sum / (kh * kw);
    }
    return {size: [channels, rows, columns], numbers: made};
  },
  flatten: (layer, {numbers}) => ({size: [numbers.length, 1, 1], numbers}),
  linear({outputs, at: [weight, bias]}, {numbers}) {
    const inputs = numbers.length, made = new Float64Array(outputs);
    for (let o = 0; o < outputs; o++) {
      let sum = bias === null ? 0 : weights[bias + o];
      for (let i = 0; i < inputs; i++) sum += weights[weight + o * inputs + i] * numbers[i];
      made[o] = sum;
    }
    return {size: [outputs, 1, 1], numbers: made};
  },
  activation: ({by: [a, b, c]}, {size, numbers}) =>
    ({size, numbers: numbers.map((x) => x > 0 ? a * x : b * x + (c && c * Math.expm1(x)))}),
  silu: (layer, {size, numbers}) => ({size, numbers: numbers.map((x) => x / (1 + Math.exp(-x)))}),
  residual({residue, activation}, value) {
    const {numbers} = run(residue, value);
    return run(activation, {size: value.size, numbers: numbers.map((x, i) => x + value.numbers[i])});
  },
};

function run(layers, value) {
  return layers.reduce((made, layer) => KINDS[layer.kind](layer, made), value);
}

// What each member's tower makes of an image of 196 pixels: ten logits.
function read(pixels, side) {
  const numbers = Float64Array.from(pixels, (pixel) => (pixel - network.mean) / network.deviation);
  const tower = ({towers}) => towers[towers.length > 1 ? side : 0];
  return network.members.map((member) => run(tower(member), {size: [1, 14, 14], numbers}).numbers);
}

// What each member's head makes of what its towers made of two images: the logits of "no" and "yes".
function compare(first, second) {
  return network.members.map(({head}, i) => {
    const numbers = Float64Array.from([...first[i], ...second[i]]);
    return run(head, {size: [numbers.length, 1, 1], numbers}).numbers;
  });
}

function logSumExp(numbers) {
  const most = Math.max(...numbers);
  return most + Math.log(numbers.reduce((sum, x) => sum + Math.exp(x - most), 0));
}

// The members' mean prediction, that of their probabilities, as logits.
function average(members) {
  if (members.length === 1) return [...members[0]];
  const known = members.map((logits) => { const all = logSumExp(logits); return Array.from(logits, (x) => x - all); });
  return known[0].map((_, k) => logSumExp(known.map((logits) => logits[k])));
}

function softmax(logits) {
  const all = logSumExp(logits);
  return Array.from(logits, (x) => Math.exp(x - all));
}

// How probable it is that the first digit is less than or equal to the second, each being as probable as they say.
function probability(first, second) {
  let upTo = 0;
  return second.reduce((sum, p, k) => { upTo += first[k]; return sum + upTo * p; }, 0);
}

function logitsOf(first, second) {
  const made = [read(first, 0), read(second, 1)];
  return {comparison: average(compare(...made)), digits: made.map(average)};
}
