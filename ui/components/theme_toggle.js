// Light or dark theme, as last chosen in this browser.
const KEY = "qvg-studio-theme";
const button = element.querySelector("button");

function show() {
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
  show();
});
show();
