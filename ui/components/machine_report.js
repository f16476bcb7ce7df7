// Requests the report when the disclosure is opened.
element.addEventListener("click", (event) => {
  const summary = event.target.closest("summary");
  if (summary && !summary.parentElement.open) trigger("pick", {});
});
