// Moves of a path text. A repeated key lengthens the last move instead of adding one.
const parts = (path) => (path || "").split(",").map((part) => part.trim()).filter(Boolean);

function append(path, key, duration) {
  const n = Math.max(1, Math.min(400, Math.round(Number(duration) || 1)));
  const moves = parts(path);
  const last = moves.length ? moves[moves.length - 1].match(/^([a-z+]+)-(\d+)$/) : null;
  if (last && last[1] === key) moves[moves.length - 1] = `${key}-${Number(last[2]) + n}`;
  else moves.push(`${key}-${n}`);
  return moves.join(", ");
}

function undo(path) {
  return parts(path).slice(0, -1).join(", ");
}
