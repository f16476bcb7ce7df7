// Downloads a file, as if a link to it had been clicked.
watch("value", () => {
  const value = props.value;
  if (!value || !value.url) return;
  const link = document.createElement("a");
  const root = ((window.gradio_config || {}).root || "").replace(/\/$/, "");
  link.href = value.url.startsWith("data:") ? value.url : root + value.url;
  link.download = value.name;
  document.body.append(link);
  link.click();
  link.remove();
});
