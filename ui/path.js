// A camera path as text, as moves and as the places it leads through. The grammar is backends/camera.py's.
const KEYS = ["w", "s", "a", "d", "left", "right", "up", "down"];
const MOST = 4096;

// [{keys, n}], or null where the text is not a path.
function parsePath(text) {
  if (!text.trim()) return [];
  const moves = [];
  for (const part of text.split(",")) {
    const match = part.match(/^\s*([A-Za-z+ ]*?)\s*(?:-\s*(\d+))?\s*$/);
    if (!match || !part.trim()) return null;
    let keys = match[1].split("+").map((key) => key.trim().toLowerCase());
    if (keys.length === 1 && keys[0] === "still") keys = [];
    if (!keys.every((key) => KEYS.includes(key))) return null;
    const n = match[2] ? Number(match[2]) : 1;
    if (!(n >= 1 && n <= MOST)) return null;
    moves.push({ keys, n });
  }
  return latentsOf(moves) <= MOST ? moves : null;
}

const latentsOf = (moves) => moves.reduce((sum, move) => sum + move.n, 0);
const nameOf = (move) => move.keys.join("+") || "still";
const formatPath = (moves) => moves.map((move) => `${nameOf(move)}-${move.n}`).join(", ");

// With a move at its end; one like the last lengthens it.
function appended(moves, keys, n) {
  const last = moves[moves.length - 1];
  if (last && nameOf(last) === nameOf({ keys })) return [...moves.slice(0, -1), { keys, n: last.n + n }];
  return [...moves, { keys, n }];
}

// The camera after each latent frame, the start included: metres right and ahead, radians to the right.
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
