// needs: camera_path.js
// The camera card: a map to draw on, a pad, a timeline. The path's text field is authoritative; everything else
// follows it.
const $ = (selector) => element.querySelector(selector);
const board = $(".board"), canvas = $("canvas"), strip = $(".strip");
const FOV = 70 * Math.PI / 180, FRUSTUM = 26, HANDLE = 40, NEAR = 16; // pixels
const REPEAT_MS = 130; // between latent frames while a key is pressed
const KEY_OF = {
  KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d",
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
};
let moves = [], poses = [{ x: 0, y: 0, heading: 0 }], shownText = null, good = true;
let zoom = 1, seen = null, selected = -1, stroke = null, turning = null;
const past = [], future = []; // texts, for undo and redo

const field = () => document.querySelector("#path textarea, #path input");

// Draws the path in the field, whether the map, the user or the page wrote it.
function look() {
  const source = field();
  if (!source || source.value === shownText) return;
  if (shownText !== null && past[past.length - 1] !== shownText) past.push(shownText);
  shownText = source.value;
  const found = parsePath(shownText);
  good = found !== null;
  if (good) {
    moves = found;
    poses = tracePath(moves, props.value.metres, props.value.degrees);
    selected = Math.min(selected, moves.length - 1);
    seen = null;
  }
  refresh();
}

function write(text) {
  const source = field();
  // As if it were typed, so that the page's own listeners are called.
  Object.getOwnPropertyDescriptor(Object.getPrototypeOf(source), "value").set.call(source, text);
  source.dispatchEvent(new Event("input", { bubbles: true }));
  look();
}

function edit(changed) {
  future.length = 0;
  write(formatPath(changed));
}

function add(keys, n) {
  if (good && latentsOf(moves) + n <= MOST) edit(appended(moves, keys, n));
}

function undo() {
  if (!past.length) return;
  future.push(shownText);
  const text = past.pop();
  write(text);
  past.pop(); // pushed by `look` just now
  refresh();
}

function redo() {
  if (future.length) write(future.pop());
}

// Converts metres to pixels and back. The end of the path stays in view.
function view() {
  const { width, height } = canvas.getBoundingClientRect();
  const xs = poses.map((pose) => pose.x), ys = poses.map((pose) => pose.y);
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const reach = 18 * props.value.metres;
  const scale = zoom * 0.62 * Math.min(width / Math.max(right - left, reach), height / Math.max(high - low, reach));
  const middle = { x: (left + right) / 2, y: (low + high) / 2 };
  return {
    scale,
    at: (p) => [width / 2 + (p.x - middle.x) * scale, height / 2 - (p.y - middle.y) * scale],
    back: (px, py) => ({ x: middle.x + (px - width / 2) / scale, y: middle.y - (py - height / 2) / scale }),
  };
}

function draw() {
  const { width, height } = canvas.getBoundingClientRect(), dots = devicePixelRatio || 1;
  if (!width) return;
  if (canvas.width !== Math.round(width * dots) || canvas.height !== Math.round(height * dots)) {
    Object.assign(canvas, { width: Math.round(width * dots), height: Math.round(height * dots) });
  }
  const style = getComputedStyle(element), colour = (name) => style.getPropertyValue(name).trim();
  const pen = canvas.getContext("2d"), { at, scale } = view();
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.lineJoin = pen.lineCap = "round";
  // A grid of metres, coarser where they are small.
  const step = [0.5, 1, 2, 5, 10, 20, 50, 100].find((metres) => metres * scale > 22) || 200;
  const [ox, oy] = at({ x: 0, y: 0 });
  pen.strokeStyle = colour("--hair");
  pen.lineWidth = 1;
  pen.beginPath();
  for (let x = ox % (step * scale); x < width; x += step * scale) { pen.moveTo(x, 0); pen.lineTo(x, height); }
  for (let y = oy % (step * scale); y < height; y += step * scale) { pen.moveTo(0, y); pen.lineTo(width, y); }
  pen.stroke();
  pen.fillStyle = colour("--muted");
  pen.font = "11px ui-sans-serif, system-ui, sans-serif";
  pen.fillText(`${step} m`, 7, height - 7);

  const line = (points, name, thick, dash = []) => {
    pen.strokeStyle = colour(name);
    pen.lineWidth = thick;
    pen.setLineDash(dash);
    pen.beginPath();
    points.forEach((point, i) => (i ? pen.lineTo(...point) : pen.moveTo(...point)));
    pen.stroke();
    pen.setLineDash([]);
  };
  const ray = (pose, length) => {
    const [x, y] = at(pose);
    return [[x, y], [x + Math.sin(pose.heading) * length, y - Math.cos(pose.heading) * length]];
  };
  const every = Math.max(1, Math.floor(poses.length / 24));
  for (let i = 0; i < poses.length; i += every) line(ray(poses[i], 9), "--muted", 1);
  line(poses.map(at), good ? "--accent" : "--ghost", 2.5);
  if (selected >= 0) {
    const from = latentsOf(moves.slice(0, selected));
    line(poses.slice(from, from + moves[selected].n + 1).map(at), "--recent", 4);
  }
  pen.fillStyle = colour("--body-text-color");
  pen.beginPath();
  pen.arc(...at(poses[0]), 3, 0, 7);
  pen.fill();

  const frustum = (pose, name, alpha) => {
    const [x, y] = at(pose);
    pen.globalAlpha = alpha;
    pen.fillStyle = colour(name);
    pen.beginPath();
    pen.moveTo(x, y);
    for (const side of [-FOV / 2, FOV / 2]) {
      pen.lineTo(x + Math.sin(pose.heading + side) * FRUSTUM, y - Math.cos(pose.heading + side) * FRUSTUM);
    }
    pen.closePath();
    pen.fill();
    pen.globalAlpha = 1;
  };
  const end = { ...poses[poses.length - 1], ...(turning || {}) };
  frustum(end, "--accent", 0.42);
  line(ray(end, HANDLE), "--accent", 1, [2, 3]);
  const [hx, hy] = ray(end, HANDLE)[1];
  pen.fillStyle = colour("--card");
  pen.beginPath();
  pen.arc(hx, hy, 6, 0, 7);
  pen.fill();
  pen.stroke();
  if (seen !== null) frustum(poses[seen], "--recent", 0.75);
  if (stroke) line(stroke.map(at), "--recent", 2, [5, 4]);
}

function refresh() {
  draw();
  $(".undo").disabled = !past.length;
  $(".redo").disabled = !future.length;
  const total = latentsOf(moves), end = poses[poses.length - 1];
  const turned = Math.round(((end.heading * 180 / Math.PI) % 360 + 540) % 360 - 180);
  canvas.setAttribute("aria-label", total
    ? `${props.words.map}: ${total} latent frames, ending ${Math.hypot(end.x, end.y).toFixed(1)} metres from the start, ${turned} degrees turned`
    : `${props.words.map}: ${props.words.still}`);
  timeline(total);
}

// Returns the position of the pointer on the canvas, in pixels.
function here(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button || !good) return;
  board.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  const { at, back } = view(), end = poses[poses.length - 1], [px, py] = here(event), [x, y] = at(end);
  const handle = [x + Math.sin(end.heading) * HANDLE, y - Math.cos(end.heading) * HANDLE];
  if (Math.hypot(px - handle[0], py - handle[1]) < NEAR) turning = { heading: end.heading };
  else stroke = [end, back(px, py)];
  draw();
});
canvas.addEventListener("pointermove", (event) => {
  if (!stroke && !turning) return;
  const { at, back } = view(), [px, py] = here(event);
  if (turning) {
    const [x, y] = at(poses[poses.length - 1]);
    const wanted = Math.atan2(px - x, y - py);
    // The shorter way round from the current heading, so that it can turn more than once.
    turning.heading += Math.atan2(Math.sin(wanted - turning.heading), Math.cos(wanted - turning.heading));
  } else {
    const last = at(stroke[stroke.length - 1]);
    if (Math.hypot(px - last[0], py - last[1]) > 4) stroke.push(back(px, py));
  }
  draw();
});
canvas.addEventListener("pointerup", async () => {
  const end = poses[poses.length - 1], drawn = stroke, turned = turning;
  stroke = turning = null;
  if (turned) {
    const n = Math.round((turned.heading - end.heading) * 180 / Math.PI / props.value.degrees);
    if (n) add([n > 0 ? "right" : "left"], Math.abs(n));
    else draw();
  } else if (drawn) {
    // Relative to the end of the path: metres to the right, and ahead.
    const sin = Math.sin(end.heading), cos = Math.cos(end.heading);
    const points = drawn.map(({ x, y }) => [
      (x - end.x) * cos - (y - end.y) * sin, (x - end.x) * sin + (y - end.y) * cos,
    ]);
    const answer = await server.follow({ points, model: props.value.model });
    if (answer.moves) edit(answer.moves.reduce((all, move) => appended(all, move.keys, move.n), moves));
    showError(answer.error);
    draw();
  }
});
canvas.addEventListener("pointercancel", () => { stroke = turning = null; draw(); });
canvas.addEventListener("wheel", (event) => {
  if (document.activeElement !== board) return;
  event.preventDefault();
  rescale(event.deltaY < 0 ? 1.15 : 1 / 1.15);
}, { passive: false });

function rescale(by) {
  zoom = Math.max(0.2, Math.min(4, zoom * by));
  draw();
}

function showError(error) {
  $(".said").textContent = error || "";
}

// Keys pressed on the map append to the path, one latent frame at a time.
const held = new Set();
let ticking = null;
function tick() {
  if (held.size) add(KEYS.filter((key) => held.has(key)), 1);
  else { clearInterval(ticking); ticking = null; }
}
board.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey) {
    if (event.code === "KeyZ") { event.preventDefault(); (event.shiftKey ? redo : undo)(); }
    return;
  }
  if (event.target !== board || event.altKey || event.isComposing) return;
  const key = KEY_OF[event.code];
  if (event.code === "Backspace") { event.preventDefault(); undo(); }
  if (event.code === "Escape") board.blur();
  if (!key) return;
  event.preventDefault();
  if (event.repeat || held.has(key)) return;
  held.add(key);
  // The keys of a chord arrive a few milliseconds apart.
  if (!ticking) { setTimeout(tick, 45); ticking = setInterval(tick, REPEAT_MS); }
});
board.addEventListener("keyup", (event) => held.delete(KEY_OF[event.code]));
board.addEventListener("blur", () => held.clear());
