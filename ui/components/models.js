// A button triggers `pick` with its model, and with the check box and the token beside it. Deleting takes a second
// click.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  const item = button.closest("li[data-id]");
  if (button.dataset.do === "delete" && !button.dataset.sure) {
    const words = button.innerHTML;
    button.dataset.sure = 1;
    button.textContent = props.words.sure;
    button.addEventListener("blur", () => { delete button.dataset.sure; button.innerHTML = words; }, { once: true });
    return;
  }
  trigger("pick", {
    id: item.dataset.id,
    action: button.dataset.do,
    accepted: Boolean(item.querySelector(".accept")?.checked),
    token: item.querySelector(".token")?.value || "",
  });
});
