// What every page does once it is shown: ages grow, moments are local, commands can be copied.
// Without it the page reads the same.
import { isPost, showToast } from "./send.js";
import { askToSignIn } from "./sign_in.js";

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];

function age(seconds) {
  for (const [unit, name] of UNITS)
    if (seconds >= unit) return `${Math.floor(seconds / unit)} ${name} ago`;
  return seconds < 10 ? "just now" : `${Math.floor(seconds)} s ago`;
}

function tick() {
  for (const time of document.querySelectorAll("time[data-age]")) {
    const text = age((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

// In the reader's own time zone, with the day where it is not today.
function writeLocal(time) {
  const moment = new Date(time.dateTime);
  const now = new Date();
  const parts = { hour: "2-digit", minute: "2-digit" };
  if (time.dataset.local === "seconds") parts.second = "2-digit";
  if (moment.toDateString() !== now.toDateString())
    Object.assign(parts, { day: "numeric", month: "short" });
  if (moment.getFullYear() !== now.getFullYear()) parts.year = "numeric";
  const text = moment.toLocaleString(undefined, parts);
  if (time.textContent !== text) time.textContent = text;
}

function localise() {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  for (const time of document.querySelectorAll("time[data-local]")) writeLocal(time);
  for (const name of document.querySelectorAll("[data-time-zone]"))
    if (name.textContent !== zone) name.textContent = zone;
}

// What a tab is called goes on with the page.
function nameTab() {
  const named = document.querySelector("[data-tab-title]");
  if (named) document.title = `${named.dataset.tabTitle} · FALQON`;
}

function offerCopies(root) {
  if (!navigator.clipboard) return;
  for (const button of root.querySelectorAll("button[data-copy][hidden]")) button.hidden = false;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});

function arrange() {
  offerCopies(document);
  localise();
  nameTab();
}

document.addEventListener("htmx:after:swap", arrange);
arrange();
setInterval(tick, 5000);

// What the page asks for by itself, without a session.
const ENDED = "Your session has ended. Your input stays on this page.";
let isDismissed = false;
async function goOn(element) {
  if (isDismissed) return;
  isDismissed = !(await askToSignIn());
  if (!isDismissed) htmx.trigger(element, "change");
  else showToast(ENDED, () => { isDismissed = false; goOn(element); });
}
document.addEventListener("htmx:response:error", (event) => {
  const { response, sourceElement } = event.detail.ctx;
  if (response.status === 401) goOn(sourceElement);
});

// Twice pressed is once sent; what `send.js` sends in the end was pressed once.
document.addEventListener("submit", (event) => {
  if (!isPost(event) || "leaves" in event.target.dataset) return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "1";
}, { capture: true });
// Back on a page that the browser kept, they can be sent again. On a page that is still loading,
// what was pressed already stays pressed.
addEventListener("pageshow", ({ persisted }) => {
  if (!persisted) return;
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});
