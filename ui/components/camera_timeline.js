// needs: camera_path.js, camera_map.js
// Moves with their durations, the pad, presets, files.
function timeline(total) {
  strip.replaceChildren(...moves.map((move, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "move";
    button.style.flexGrow = move.n;
    button.dataset.kind = move.keys.some((key) => "wasd".includes(key)) ? "walk" : move.keys.length ? "turn" : "still";
    button.setAttribute("aria-pressed", index === selected);
    button.setAttribute("aria-label", `${props.words.move} ${index + 1}: ${nameOf(move)}, ${move.n} ${props.words.latents}`);
    button.innerHTML = `<b></b><span>${move.n}</span><i class="edge"></i>`;
    button.querySelector("b").textContent = move.keys.map((key) => props.faces[key]).join("") || "•";
    button.dataset.index = index;
    return button;
  }));
  strip.dataset.empty = !total;
  const one = moves[selected];
  $(".chosen").hidden = !one;
  if (one) $(".chosen input").value = one.n;
}

function choose(index) {
  selected = index === selected ? -1 : index;
  refresh();
  strip.children[index]?.focus();
}

function changed(index, move) {
  const all = [...moves];
  if (move && move.n >= 1) all[index] = move;
  else all.splice(index, 1);
  edit(all);
}

function shift(by) {
  const to = selected + by;
  if (to < 0 || to >= moves.length) return;
  const all = [...moves];
  [all[selected], all[to]] = [all[to], all[selected]];
  selected = to;
  edit(all);
  strip.children[to]?.focus();
}

// Dragging the edge of a move changes its length; the move under the pointer is highlighted on the map.
let dragged = null;
strip.addEventListener("pointerdown", (event) => {
  const button = event.target.closest(".move");
  if (!button || !event.target.closest(".edge")) return;
  const index = Number(button.dataset.index);
  dragged = { index, from: event.clientX, n: moves[index].n, per: latentsOf(moves) / strip.getBoundingClientRect().width };
  strip.setPointerCapture(event.pointerId);
  event.preventDefault();
});
strip.addEventListener("pointermove", (event) => {
  if (dragged) {
    const n = Math.max(1, Math.round(dragged.n + (event.clientX - dragged.from) * dragged.per));
    if (n !== moves[dragged.index].n) changed(dragged.index, { ...moves[dragged.index], n });
    return;
  }
  const box = strip.getBoundingClientRect();
  const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
  seen = Math.round(share * (poses.length - 1));
  draw();
});
for (const name of ["pointerup", "pointercancel"]) strip.addEventListener(name, () => (dragged = null));
strip.addEventListener("pointerleave", () => { seen = null; draw(); });
strip.addEventListener("focusin", (event) => {
  const index = Number(event.target.dataset.index);
  seen = latentsOf(moves.slice(0, index + 1));
  draw();
});
strip.addEventListener("keydown", (event) => {
  const index = Number(event.target.dataset.index), move = moves[index];
  if (!move) return;
  const longer = { "+": 1, "=": 1, ArrowUp: 1, "-": -1, ArrowDown: -1 }[event.key];
  if (longer) { event.preventDefault(); changed(index, { ...move, n: move.n + longer }); strip.children[index]?.focus(); }
  if (event.key === "Delete" || event.key === "Backspace") { event.preventDefault(); changed(index, null); strip.children[Math.max(0, index - 1)]?.focus(); }
  if (event.key === "ArrowRight") strip.children[index + 1]?.focus();
  if (event.key === "ArrowLeft") strip.children[index - 1]?.focus();
});

const duration = () => Math.max(1, Math.min(400, Math.round(Number($("#duration input").value) || 1)));
async function bring(file) {
  const answer = await server.read({ text: await file.text(), model: props.value.model });
  if (answer.path !== undefined) { future.length = 0; write(answer.path); }
  showError(answer.error);
}
async function save(kind) {
  const answer = await server.write({ path: shownText, kind, model: props.value.model });
  showError(answer.error);
  if (answer.text === undefined) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([answer.text], { type: "application/json" }));
  link.download = `${kind}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Plays the path on the map, at the speed of the video.
let playing = null;
function play() {
  if (playing) { cancelAnimationFrame(playing); playing = null; seen = null; return draw(); }
  const began = performance.now();
  const step = () => {
    const at = Math.floor((performance.now() - began) / 1000 * props.value.latents_per_second);
    seen = at < poses.length ? at : null;
    draw();
    playing = at < poses.length ? requestAnimationFrame(step) : null;
  };
  step();
}

const ACTIONS = {
  undo, redo, play,
  clear: () => edit([]),
  closer: () => rescale(1.3),
  further: () => rescale(1 / 1.3),
  earlier: () => shift(-1),
  later: () => shift(1),
  remove: () => changed(selected, null),
  import: () => $("input[type=file]").click(),
  moves: () => save("moves"),
  trajectory: () => save("trajectory"),
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { key, preset, action, index } = button.dataset;
  if (key) add(key === "still" ? [] : [key], duration());
  else if (preset !== undefined) { future.length = 0; write(preset); }
  else if (action) ACTIONS[action]();
  else if (index !== undefined && !event.target.closest(".edge")) choose(Number(index));
});
element.addEventListener("change", (event) => {
  if (event.target.matches("input[type=file]") && event.target.files.length) {
    bring(event.target.files[0]);
    event.target.value = "";
  }
  if (event.target.closest(".chosen") && moves[selected]) {
    changed(selected, { ...moves[selected], n: Math.max(1, Math.round(Number(event.target.value) || 1)) });
  }
});

watch("value", () => { shownText = null; past.length = future.length = 0; look(); });
new ResizeObserver(draw).observe(canvas);
new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
setInterval(look, 120);
look();
