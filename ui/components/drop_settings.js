// A file of this program, dropped anywhere on the page, fills the form as if dropped on its own field.
const ours = (event) => [...(event.dataTransfer?.items || [])].some((item) => item.kind === "file")
  && !event.target.closest?.(".drop, #camera");
window.addEventListener("dragover", (event) => { if (ours(event)) event.preventDefault(); });
window.addEventListener("drop", (event) => {
  const file = event.dataTransfer?.files[0];
  if (!ours(event) || !file) return;
  event.preventDefault();
  const field = document.querySelector(`#${props.field} input[type=file]`);
  if (!field) return;
  const carrier = new DataTransfer();
  carrier.items.add(file);
  field.files = carrier.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
});
