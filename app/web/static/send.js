// Sends forms with `data-action` without leaving the page: where that fails, the page stays, says
// why, and can send the same again. With `data-part` only that part of the page changes. Other
// forms leave it, once it is known that the service is there and the session stands. The service
// answers with the address of the next page, or refuses with a message.
import { askToSignIn, isSignedIn } from "./sign_in.js";

const NO_ANSWER = "The service does not answer. Nothing on this page is lost.";

// Whether this submission changes something; a field may be named method.
export function isPost({ target, submitter }) {
  return (submitter?.getAttribute("formmethod") ?? target.getAttribute("method")) === "post";
}

// Resolves to {next} where it was done, else to {status, message}; status 0: there was no answer.
// `isRepeated`: the form may have arrived before.
export async function sendForm(form, submitter, isRepeated = false) {
  const headers = { "x-form-script": isRepeated ? "repeat" : "send" };
  const body = new URLSearchParams(new FormData(form, submitter));
  try {
    const answer = await fetch(form.action, { method: "POST", headers, body });
    const next = answer.headers.get("x-next-page");
    if (answer.ok && next) return { next };
    const { error } = await answer.json();
    return { status: answer.status, message: error.message };
  } catch {
    return { status: 0, message: NO_ANSWER };
  }
}

// A line over everything else, dialogs too. `again`: what its button does.
export function showToast(text, again) {
  document.querySelector("#toast")?.remove();
  const toast = make("div", { id: "toast", className: "toast notice", role: "alert" });
  toast.popover = "manual";
  toast.dataset.tone = "bad";
  const buttons = make("p", { className: "row" });
  toast.append(make("p", { textContent: text }), buttons);
  if (again) addButton(buttons, "Try again", () => { toast.remove(); again(); });
  addButton(buttons, "Close", () => toast.remove());
  document.body.append(toast);
  toast.showPopover();
}

const make = (name, properties) => Object.assign(document.createElement(name), properties);

function addButton(place, text, onClick) {
  const button = make("button", { type: "button", textContent: text });
  button.addEventListener("click", onClick);
  place.append(button);
}

async function act(form, submitter, isRepeated = false) {
  form.setAttribute("aria-busy", "true");
  const { next, status, message } = await sendForm(form, submitter, isRepeated);
  form.removeAttribute("aria-busy");
  const { part } = form.dataset;
  if (next && !part) {
    location.assign(next);
    return;
  }
  delete form.dataset.sent;
  if (next) {
    htmx.ajax("GET", next, { target: part, select: part, swap: "outerMorph" });
    return;
  }
  if (status === 401) {
    if (await askToSignIn()) act(form, submitter);
  } else {
    const isTemporary = status === 0 || status >= 500;
    showToast(message, isTemporary ? () => act(form, submitter, true) : undefined);
  }
}

// Sends a form as the browser does, which leaves the page.
async function leave(form, submitter) {
  let isReady;
  try {
    isReady = (await isSignedIn()) || (await askToSignIn());
  } catch {
    showToast(NO_ANSWER, () => leave(form, submitter));
  }
  if (!isReady) {
    delete form.dataset.sent;
    return;
  }
  form.dataset.leaves = "";
  form.requestSubmit(submitter);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!isPost(event) || event.defaultPrevented) return;
  if ("leaves" in form.dataset) {
    delete form.dataset.leaves;
    return;
  }
  if (!form.elements.csrf) return;
  event.preventDefault();
  if (form.matches("[data-action]")) act(form, event.submitter);
  else leave(form, event.submitter);
});
