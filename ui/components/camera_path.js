// Camera path as text, as moves and as poses. Accepts the same text as backends/camera.py;
// tests/ui/components/test_camera.py compares the two. KEYS, MOST, MOST_TEXT, MOST_MOVE_TEXT and PLAIN are constants
// of Python:
// ui/form/camera_path.py.
const EDGES = " \n'\"`";

const plainText = (text) => text.replace(/[\t\r\v\f]|[^\x00-\x7f]/gu, (sign) => PLAIN[sign] ?? sign);

// Not a regular expression: one for the end of a text would backtrack at every space inside.
function stripped(text, front = EDGES, end = front) {
  let from = 0, to = text.length;
  while (from < to && front.includes(text[from])) from++;
  while (to > from && end.includes(text[to - 1])) to--;
  return text.slice(from, to);
}

// Returns [{keys, n}]; null for invalid text, and for a trajectory, which Python converts to moves.
function parsePath(text) {
  if (text.length > MOST_TEXT) return null;
  const words = plainText(text), fence = words.match(/^[ \n'"]*```[A-Za-z]* *\n/);
  const body = stripped(fence ? words.slice(fence[0].length) : words, EDGES, `.${EDGES}`);
  if (body.startsWith("{")) return null;
  const moves = body.startsWith("[")
    ? parseMoves(body)
    : body.split(/[,;\n]/).map((part) => stripped(part)).filter(Boolean).map(parseMove);
  return moves.every(Boolean) && latentsOf(moves) <= MOST ? moves : null;
}

// Returns one move, or null.
function parseMove(typed) {
  if (typed.length > MOST_MOVE_TEXT) return null;
  const dash = typed.indexOf("-");
  const held = dash < 0 ? typed : typed.slice(0, dash);
  const duration = dash < 0 ? "1" : stripped(typed.slice(dash + 1), " ");
  return /^[0-9]+(\.0*)?$/.test(duration)
    ? moveOf(held.split("+").map((key) => stripped(key, " ")), Number(duration))
    : null;
}

// Parses moves from JSON, with null for each invalid one; [null] if it is not a list.
function parseMoves(body) {
  try {
    const entries = JSON.parse(body.replace(/,(?=[ \n]*[\]}])/g, " "));
    return entries.map((entry) => moveOf(entry?.keys, entry?.n));
  } catch {
    return [null];
  }
}

function moveOf(keys, n) {
  if (!Array.isArray(keys) || keys.length > KEYS.length || !Number.isInteger(n) || n < 1) return null;
  if (!keys.every((key) => typeof key === "string")) return null;
  let held = [...new Set(keys.map((key) => key.toLowerCase()))];
  if (keys.length === 1 && held[0] === "still") held = [];
  return held.every((key) => KEYS.includes(key)) ? { keys: held, n } : null;
}

const latentsOf = (moves) => moves.reduce((sum, move) => sum + move.n, 0);
const nameOf = (move) => move.keys.join("+") || "still";
const formatPath = (moves) => moves.map((move) => `${nameOf(move)}-${move.n}`).join(", ");

// Returns the moves with another one at the end; one with the last move's keys extends it.
function appended(moves, keys, n) {
  const last = moves[moves.length - 1];
  if (last && nameOf(last) === nameOf({ keys })) return [...moves.slice(0, -1), { keys, n: last.n + n }];
  return [...moves, { keys, n }];
}

// Returns the camera after each latent frame, the start included: metres right and ahead, radians to the right.
function tracePath(moves, metres, degrees) {
  let x = 0, y = 0, heading = 0;
  const poses = [{ x, y, heading }];
  for (const { keys, n } of moves) {
    const has = (key) => Number(keys.includes(key));
    const ahead = metres * (has("w") - has("s")), aside = metres * (has("d") - has("a"));
    const turn = (degrees * Math.PI / 180) * (has("right") - has("left"));
    for (let i = 0; i < n; i++) {
      heading += turn;
      x += ahead * Math.sin(heading) + aside * Math.cos(heading);
      y += ahead * Math.cos(heading) - aside * Math.sin(heading);
      poses.push({ x, y, heading });
    }
  }
  return poses;
}
