// In one column the line is far below the button that was clicked.
watch("value", () => {
  if (props.value.kind !== "error" || innerWidth >= 900) return;
  element.scrollIntoView({ behavior: "smooth", block: "center" });
});
