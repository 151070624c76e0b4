// Shows the settings that apply, as the service says, and hides the others, which are then not
// sent; fills in presets; finds files.
const form = document.querySelector("#job-form");

function showApplicable() {
  const names = document.querySelector("#applicable").dataset.fields.split(" ");
  for (const field of form.querySelectorAll("[data-field]")) {
    const applies = names.includes(field.dataset.field);
    field.hidden = !applies;
    for (const input of field.querySelectorAll("input, select, textarea"))
      input.disabled = !applies;
  }
}

function settingsOf(button) {
  return Object.entries(JSON.parse(button.dataset.preset));
}

let chosen; // the preset that the fields are

function showPreset() {
  chosen = undefined;
  for (const button of form.querySelectorAll("[data-preset]")) {
    const isChosen = settingsOf(button).every(([name, text]) => form.elements[name].value === text);
    button.setAttribute("aria-pressed", isChosen);
    if (isChosen) chosen = button.value;
  }
}

function fillIn(button) {
  for (const [name, text] of settingsOf(button)) form.elements[name].value = text;
  form.elements.n_epochs.dispatchEvent(new Event("change", { bubbles: true }));
}

// Other data may make other settings of a preset.
function followData() {
  const before = chosen;
  showPreset();
  const button = before && form.querySelector(`[data-preset][value="${before}"]`);
  if (button && chosen !== before) fillIn(button);
}

form.addEventListener("click", (event) => {
  const button = event.target.closest("[data-preset]");
  if (!button) return;
  event.preventDefault();
  fillIn(button);
});

for (const search of document.querySelectorAll("[data-search]")) {
  search.closest(".field").hidden = false;
  search.addEventListener("input", (event) => {
    event.stopPropagation(); // it is no setting
    const words = search.value.toLowerCase().split(/\s+/);
    for (const name of ["training_file", "validation_file"]) {
      for (const option of form.elements[name].options) {
        const text = option.textContent.toLowerCase();
        option.hidden =
          option.value !== "" && !option.selected && !words.every((word) => text.includes(word));
      }
    }
  });
  search.addEventListener("change", (event) => event.stopPropagation());
}

// The file is inspected anew for each text of these: only once it is whole.
const typing = form.elements.is_typing;
typing.value = "";
for (const name of ["max_seq_length", "chat_template_kwargs"]) {
  const field = form.elements[name];
  field.addEventListener("input", () => { typing.value = "true"; });
  for (const end of ["change", "blur"]) field.addEventListener(end, () => { typing.value = ""; });
}

// Until the next estimate replaces it.
const NO_ESTIMATE =
  "No estimate at the moment: the figures below may not match your input.";
function sayStale() {
  const plan = document.querySelector("#plan");
  if (plan.firstElementChild?.textContent === NO_ESTIMATE) return;
  const stale = { className: "error", textContent: NO_ESTIMATE };
  plan.prepend(Object.assign(document.createElement("p"), stale));
}

for (const name of ["htmx:error", "htmx:response:error"]) form.addEventListener(name, sayStale);
document.addEventListener("htmx:after:swap", showApplicable);
document.addEventListener("htmx:after:swap", followData);
form.addEventListener("input", showPreset);
form.addEventListener("change", showPreset);
showApplicable();
showPreset();
