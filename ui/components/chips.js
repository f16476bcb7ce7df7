// Setting the value notifies Gradio; the count makes a second click on the same word a change.
element.addEventListener("click", (event) => {
  const chip = event.target.closest(".chip");
  if (!chip) return;
  props.value = { ...props.value, picked: chip.textContent, count: (props.value.count || 0) + 1 };
});
