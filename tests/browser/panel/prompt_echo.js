const said = element.querySelector("output");
function say() { said.textContent = props.value.prompt; }
watch("value", say);
say();
