// What every page does once it is shown: ages grow, commands can be copied. Without it the page reads the same.

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];

function age(seconds) {
  for (const [unit, name] of UNITS) if (seconds >= unit) return `${Math.floor(seconds / unit)} ${name} ago`;
  return seconds < 10 ? "just now" : `${Math.floor(seconds)} s ago`;
}

function tick() {
  for (const time of document.querySelectorAll("time[data-age]")) {
    const text = age((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
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

document.addEventListener("htmx:after:swap", () => offerCopies(document));
offerCopies(document);
setInterval(tick, 5000);

// The stream of the page: whether it stands is said, and a session that has ended leads to the sign-in page.
const connection = document.querySelector("#connection");
document.addEventListener("htmx:sse:after:connection", () => { connection.hidden = true; });
document.addEventListener("htmx:sse:error", (event) => {
  if (event.detail.status === 401) location.reload();
  connection.hidden = false;
});

// Twice pressed is once sent.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "1";
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});
