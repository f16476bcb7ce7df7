element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("pick", { name: button.dataset.name });
});
