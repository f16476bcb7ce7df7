// A button triggers `pick` with its item. Deleting takes a second click.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  if (button.dataset.do === "delete" && !button.dataset.sure) {
    button.dataset.sure = 1;
    button.textContent = props.words.sure;
    button.addEventListener("blur", () => {
      delete button.dataset.sure;
      button.textContent = props.words.remove;
    }, { once: true });
    return;
  }
  const item = button.closest("li");
  trigger("pick", { id: item ? item.dataset.id : "", action: button.dataset.do });
});
