// Steering during a run: sends the keys and the pad's buttons that are pressed to the server.
const wheel = element.querySelector(".drive");
const KEY_OF = {
  KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d",
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
};
const held = new Set();
let sent = Promise.resolve();
let driven = null; // the run that has been steered

function send() {
  const query = { run: props.value.run, visitor: props.value.visitor, keys: [...held] };
  driven = query.run;
  // Sent in the order of the key strokes, so that a short one is not lost.
  sent = sent.then(() => server.steer(query)).catch(() => {});
  wheel.querySelectorAll("button").forEach((button) => button.classList.toggle("held", held.has(button.dataset.key)));
}

function press(key, down) {
  if (!key || held.has(key) === down) return;
  if (down) held.add(key);
  else held.delete(key);
  send();
}

function letGo() {
  if (!held.size) return;
  held.clear();
  send();
}

function drive() {
  const on = Boolean(props.value.steerable);
  if (wheel.hidden === !on) return;
  wheel.hidden = !on;
  if (!on) held.clear();
}

wheel.addEventListener("keydown", (event) => {
  const key = KEY_OF[event.code];
  if (event.code === "Escape") return document.activeElement.blur();
  if (!key || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  event.preventDefault();
  if (!event.repeat) press(key, true);
});
wheel.addEventListener("keyup", (event) => press(KEY_OF[event.code], false));
wheel.addEventListener("focusout", letGo);
window.addEventListener("blur", letGo);
wheel.addEventListener("pointerdown", (event) => {
  const button = event.target.closest("button");
  wheel.querySelector(".focus").focus({ preventScroll: true });
  if (!button || !button.dataset.key) return;
  event.preventDefault();
  button.setPointerCapture(event.pointerId);
  press(button.dataset.key, true);
});
for (const name of ["pointerup", "pointercancel"]) {
  wheel.addEventListener(name, (event) => {
    const button = event.target.closest("button");
    if (button) press(button.dataset.key, false);
  });
}
// A screen reader or the Enter key presses a button for one block.
wheel.addEventListener("click", (event) => {
  const key = event.target.closest("button")?.dataset.key;
  if (key && event.detail === 0) { press(key, true); press(key, false); }
});
