// Setting the value is what tells Gradio; the count makes a second press of the same word a change.
element.addEventListener("click", (event) => {
  const chip = event.target.closest(".chip");
  if (!chip) return;
  props.value = { ...props.value, picked: chip.textContent, count: (props.value.count || 0) + 1 };
});
