// Shows the settings that the chosen method has; those of other methods are neither shown nor sent.
const method = document.querySelector("#method");

function showOptions() {
  const chosen = method.value || "falqon";
  for (const option of document.querySelectorAll("[data-methods]")) {
    const isOurs = option.dataset.methods.split(" ").includes(chosen);
    option.hidden = !isOurs;
    for (const input of option.querySelectorAll("input, select")) input.disabled = !isOurs;
  }
}

method.addEventListener("change", showOptions);
showOptions();
