// The page: two drawings, and what the network makes of them.
const PEN = 0.075, SLOW = 40, PAUSE = 120; // of the paper's width; milliseconds
const drawings = [...document.querySelectorAll(".drawing")].map((section, side) => ({
  paper: section.querySelector(".paper"), example: section.querySelector(".example"),
  clear: section.querySelector(".clear"), reading: document.querySelectorAll(".reading")[side],
  side, strokes: [], pen: null, changed: false, digit: null, made: null, // by each member's tower; null of empty paper
}));
const [question, verdict, needle, spoken] = ["question", "verdict", "needle", "spoken"].map(
  (name) => document.getElementById(name));
let waiting = null, took = 0, speaking = null;

const percent = (p) => p > 0.999 && p < 1 ? "> 99.9 %" : p > 0 && p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`;
const inWords = (p) => percent(p).replace("> ", "more than ");
const largest = (numbers) => numbers.indexOf(Math.max(...numbers)); // -1 where one is no number
const isKnown = (says) => typeof says === "number" ? Number.isFinite(says) : says != null; // what diverged may compute none

function redraw({paper, strokes}) {
  const context = paper.getContext("2d"), {width, height} = paper;
  context.clearRect(0, 0, width, height);
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  trace(context, strokes, ([x, y]) => [x * width, y * height], PEN * width);
}

function change(drawing, strokes) {
  drawing.strokes = strokes;
  drawing.changed = true;
  redraw(drawing);
  if (took > SLOW && waiting !== null) { // a slow network waits until the pen rests
    clearTimeout(waiting);
    waiting = null;
  }
  waiting ??= setTimeout(answer, took > SLOW ? PAUSE : 0);
}

// Others in the place of what is drawn: a pen that is still down goes on with neither.
function replace(drawing, strokes) {
  drawing.pen = null;
  change(drawing, strokes);
}

function answer() {
  waiting = null;
  const begun = performance.now();
  for (const drawing of drawings) {
    if (!drawing.changed) continue;
    drawing.changed = false;
    const pixels = drawing.strokes.length ? pictureOf(drawing.strokes) : null;
    drawing.made = pixels && read(pixels, drawing.side);
    showPicture(drawing, pixels);
    showReading(drawing);
  }
  showAnswer();
  took = performance.now() - begun;
  clearTimeout(speaking);
  speaking = setTimeout(() => { spoken.textContent = `${question.textContent} ${verdict.textContent}`; }, 700);
}

function showPicture({reading}, pixels) {
  const context = reading.querySelector(".seen").getContext("2d");
  context.clearRect(0, 0, 14, 14);
  if (!pixels) return;
  const image = context.createImageData(14, 14);
  pixels.forEach((pixel, i) => image.data.set([255, 255, 255, 255 * pixel / MADE.most], 4 * i)); // on black
  context.putImageData(image, 0, 0);
}

function showReading({reading, made}) {
  const computed = made && softmax(average(made)), top = computed ? largest(computed) : -1;
  const probable = top >= 0 ? computed : null;
  reading.querySelector(".digit").textContent = top >= 0 ? top : "–";
  reading.querySelectorAll(".bars tr").forEach((row, k) => {
    row.className = k === top ? "top" : "";
    row.querySelector(".bar div").style.width = probable ? `${100 * probable[k]}%` : 0;
    row.querySelector(".percent").textContent = probable ? percent(probable[k]) : "";
  });
}

// Each of the ways to decide: how sure it is of "yes", or which it says without being more or less sure.
function decide([first, second]) {
  const digits = [first, second].map((made) => softmax(average(made))), [a, b] = digits.map(largest);
  const recognition = a >= 0 && b >= 0 ? a <= b : null;
  return {posterior: probability(...digits), recognition, head: softmax(average(compare(first, second)))[1], a, b};
}

function showAnswer() {
  const made = drawings.map((drawing) => drawing.made), missing = drawings.filter((drawing) => !drawing.made);
  const decided = missing.length ? null : decide(made);
  for (const way of ["posterior", "recognition", "head"]) {
    const row = document.getElementById(way), says = decided?.[way];
    if (!row) continue;
    const isYes = typeof says === "number" ? says >= 0.5 : says;
    row.querySelector(".says").textContent = isKnown(says) ? (isYes ? "yes" : "no") : "–";
    row.querySelector(".sure").textContent = Number.isFinite(says) ? percent(isYes ? says : 1 - says) : "";
  }
  const sure = decided?.[network.decides], isYes = sure >= 0.5, isNumber = !decided || isKnown(sure);
  const isRead = decided && network.decides === "posterior" && isKnown(decided.recognition);
  question.textContent = isRead ? `${decided.a} ≤ ${decided.b}?` : "first ≤ second?";
  verdict.textContent = !isNumber ? "No answer: it computes no numbers" : decided ? `${isYes ? "Yes" : "No"}, ${inWords(isYes ? sure : 1 - sure)} sure`
    : missing.length === 2 ? "Draw two digits" : `Draw the ${["first", "second"][missing[0].side]} one, too`;
  verdict.className = decided && isNumber ? (isYes ? "yes" : "no") : "";
  needle.className = decided && isNumber ? "known" : "";
  needle.style.left = `${100 * (isKnown(sure) ? sure : 0.5)}%`;
}

function drawFor(drawing, digit) {
  drawing.digit = digit;
  replace(drawing, glyph(digit));
}

for (const drawing of drawings) {
  const {paper, example, clear} = drawing;
  const at = (event) => {
    const {left, top, width, height} = paper.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  };
  paper.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || drawing.pen !== null) return;
    event.preventDefault();
    paper.focus({preventScroll: true, focusVisible: false});
    drawing.pen = event.pointerId;
    try { paper.setPointerCapture(event.pointerId); } catch { /* it is gone already */ }
    change(drawing, [...drawing.strokes, [at(event)]]);
  });
  paper.addEventListener("pointermove", (event) => {
    if (event.pointerId !== drawing.pen) return;
    const events = event.getCoalescedEvents?.() ?? [];
    drawing.strokes[drawing.strokes.length - 1].push(...(events.length ? events : [event]).map(at));
    change(drawing, drawing.strokes);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    paper.addEventListener(end, (event) => { if (event.pointerId === drawing.pen) drawing.pen = null; });
  }
  paper.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^[0-9]$/.test(event.key)) drawFor(drawing, Number(event.key));
    else if (["Delete", "Backspace", "Escape"].includes(event.key)) replace(drawing, []);
    else return;
    event.preventDefault();
  });
  clear.addEventListener("click", () => replace(drawing, []));
  example.addEventListener("click", () => {
    const others = [...GLYPHS.keys()].filter((digit) => digit !== drawing.digit);
    drawFor(drawing, others[Math.floor(Math.random() * others.length)]);
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawings.forEach(redraw));
