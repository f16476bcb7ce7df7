// Light or dark, as last chosen here; and a file of ours dropped anywhere fills the form.
const KEY = "qvg-studio-theme";
const button = element.querySelector("button");

function tell() {
  const dark = document.body.classList.contains("dark");
  button.textContent = dark ? props.light : props.dark;
  button.setAttribute("aria-pressed", dark);
}

const chosen = localStorage.getItem(KEY);
if (chosen && !new URLSearchParams(location.search).has("__theme")) {
  document.body.classList.toggle("dark", chosen === "dark");
}
button.addEventListener("click", () => {
  const dark = document.body.classList.toggle("dark");
  localStorage.setItem(KEY, dark ? "dark" : "light");
  tell();
});
tell();

const ours = (event) => [...(event.dataTransfer?.items || [])].some((item) => item.kind === "file")
  && !event.target.closest?.(".drop, #camera");
window.addEventListener("dragover", (event) => { if (ours(event)) event.preventDefault(); });
window.addEventListener("drop", (event) => {
  const file = event.dataTransfer?.files[0];
  if (!ours(event) || !file) return;
  event.preventDefault();
  const field = document.querySelector("#dropped input[type=file]");
  if (!field) return;
  const carrier = new DataTransfer();
  carrier.items.add(file);
  field.files = carrier.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
});
