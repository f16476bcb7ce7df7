// The slider shows MiB while it is moved, and triggers `pick` when it is released.
const range = element.querySelector("input");
const label = element.querySelector("output");

function show() {
  const share = Number(range.value), mib = (props.value.bf16_mib * share) / 100;
  const words = share >= 100 ? props.words.none : `${Math.max(1, Math.round(mib)).toLocaleString("en")} MiB, ${share} % ${props.words.of}`;
  label.textContent = words;
  range.setAttribute("aria-valuetext", words);
}

range.addEventListener("input", show);
range.addEventListener("change", () => trigger("pick", { share: Number(range.value) }));
element.addEventListener("click", (event) => {
  const chip = event.target.closest(".chip");
  if (chip) trigger("pick", { name: chip.textContent });
});
watch("value", () => {
  range.value = props.value.share;
  show();
});
show();
