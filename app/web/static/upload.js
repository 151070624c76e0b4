// A file that is chosen or dropped is sent at once, and how far it is can be seen. Without this the
// same form has a button.
import { askToSignIn } from "./sign_in.js";

const zone = document.querySelector("[data-drop]");
if (zone) {
  const form = document.querySelector("#upload-form");
  const input = zone.querySelector("input[type=file]");
  const button = zone.querySelector("button");
  const progress = zone.querySelector("[data-drop-progress]");
  const says = zone.querySelector("[data-drop-says]");
  const error = zone.querySelector("[data-drop-error]");
  const files = document.querySelector("#training_file");
  zone.querySelector("[data-drop-hint]").hidden = false;
  button.hidden = true;

  const size = (bytes) =>
    bytes < 2 ** 20 ? `${(bytes / 2 ** 10).toFixed(1)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;

  function begin() {
    const file = input.files[0];
    if (!file || input.disabled) return; // one at a time
    error.textContent = "";
    progress.hidden = false;
    const request = new XMLHttpRequest();
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      progress.querySelector("progress").value = (100 * loaded) / total;
      says.textContent = `${file.name}: ${size(loaded)} of ${size(total)}`;
    });
    request.addEventListener("load", () => end(request, file));
    const lost = "The connection was lost; choose the file again.";
    request.addEventListener("error", () => refuse(lost));
    request.open("POST", form.action);
    request.responseType = "document";
    request.send(new FormData(form));
    input.disabled = true;
  }

  function end(request, file) {
    input.disabled = false;
    if (request.status === 401) {
      signInAndBegin();
      return;
    }
    if (request.status !== 200) {
      const shown = request.response?.querySelector(".error[role=alert]")?.textContent;
      const status = `The file was not taken (${request.status})`;
      refuse(shown ?? `${status}; load the page again and choose it once more.`);
      return;
    }
    const id = new URL(request.responseURL).searchParams.get("training_file");
    if (!files || !id) {
      location.assign(request.responseURL);
      return;
    }
    // The rest of the form stays as it is filled in.
    files.add(new Option(file.name, id, true, true), 1);
    files.form.elements.validation_file.add(new Option(file.name, id), 1);
    files.dispatchEvent(new Event("change", { bubbles: true }));
    progress.hidden = true;
    input.value = "";
  }

  async function signInAndBegin() {
    if (await askToSignIn()) begin();
    else refuse("Your session has ended; choose the file again.");
  }

  function refuse(message) {
    input.disabled = false;
    input.value = "";
    progress.hidden = true;
    error.textContent = message;
  }

  input.addEventListener("change", (event) => {
    event.stopPropagation();
    begin();
  });
  for (const name of ["dragover", "dragenter"]) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.dataset.over = "";
    });
  }
  for (const name of ["dragleave", "drop"])
    zone.addEventListener(name, () => delete zone.dataset.over);
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    begin();
  });
}
