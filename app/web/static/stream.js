// The stream that carries the changes of a page. A browser opens six connections to a service, over
// all its tabs, and a request beyond them waits: a hidden page has no stream, three of the visible
// ones keep theirs open, and the others open theirs every few seconds for what is new. Leases in
// the local storage say who the three are; a Web Lock would need HTTPS. Where the storage is
// blocked or holds other things, each page has a stream of its own.
import { load, save } from "./storage.js";

const LEASES = "falqon-streams"; // the moment at which each ends, by page
const MAX_STREAMS = 3;
const LEASE_MS = 4000;
const RENEW_MS = 1000;
const POLL_MS = 3000; // between two streams of a page without a lease
const QUIET_MS = 300; // after a message: nothing more is new
const SILENT_MS = 2000; // without a message
const BREAK_MS = 500; // after a connection that broke, doubled each time
const MAX_BREAK_MS = 60000;
const DAY_MS = 86400000;
const page = Math.random().toString(36).slice(2);
let stream = null;
let isHolder = false;
let closing = 0;

// Takes, renews or gives back the lease of this page, and returns whether it has one.
function lease(isNeeded) {
  const now = Date.now();
  const all = Object.entries(load(LEASES) ?? {});
  const others = all.filter(([id, until]) => id !== page && until > now && until <= now + LEASE_MS);
  const isGranted = isNeeded && others.length < MAX_STREAMS;
  const own = isGranted ? [[page, now + LEASE_MS]] : [];
  save(LEASES, Object.fromEntries([...others, ...own]));
  return isGranted;
}

function arrange() {
  const wasHolder = isHolder;
  isHolder = lease(stream !== null && !document.hidden);
  if (isHolder && !wasHolder) stream.delayCanceller?.();
  if (wasHolder && !isHolder) close();
}

// The stream is asked for again after the delay that its next `before:connection` sets.
function close() {
  stream?.reader?.cancel();
}

function closeSoon(delay) {
  clearTimeout(closing);
  closing = setTimeout(() => { if (!isHolder) close(); }, delay);
}

function delayOfNext() {
  if (document.hidden) return DAY_MS; // until it is shown
  const isBroken = stream.attempt > 1;
  return isHolder || isBroken ? BREAK_MS : POLL_MS;
}

document.addEventListener("htmx:sse:before:connection", ({ detail }) => {
  stream = detail.connection;
  const reconnectDelay = delayOfNext();
  Object.assign(stream.config, {
    reconnectDelay,
    reconnectMaxDelay: Math.max(reconnectDelay, MAX_BREAK_MS),
  });
});
document.addEventListener("htmx:sse:after:connection", () => {
  arrange();
  if (document.hidden) queueMicrotask(close); // its reader is made after this event
  closeSoon(SILENT_MS);
});
document.addEventListener("htmx:sse:after:message", () => closeSoon(QUIET_MS));
document.addEventListener("htmx:sse:close", () => {
  stream = null;
  arrange();
});
document.addEventListener("visibilitychange", () => {
  arrange();
  if (document.hidden) close();
  else if (stream) stream.delayCanceller?.();
  else checkPage();
});
setInterval(() => { if (stream) arrange(); }, RENEW_MS);

// What somebody has typed into the page and not sent.
function isTypedInto() {
  const fields = document.querySelectorAll(
    "form[method=post] :is(input:not([type=hidden], [type=checkbox]), textarea)",
  );
  return [...fields].some((field) => field.value !== field.defaultValue);
}

// The stream of the page: whether it stands is said. A session that has ended leads to the sign-in
// page, a thing that was deleted to the page that says so.
const connection = document.querySelector("#connection");
const RETRY_MS = 5000;
document.addEventListener("htmx:sse:after:connection", () => { connection.hidden = true; });
function showEnd() {
  if (!isTypedInto()) location.reload();
}
// A stream alone may be missing, at a service of another release: to load its page again and again
// would not bring it.
async function checkPage() {
  const request = fetch(location.href, { method: "HEAD", cache: "no-store" });
  const answer = await request.catch(() => null);
  if (answer?.status === 404) showEnd();
}
// One that stood is asked for again by itself, one that never did is not.
function askAgain({ detail }) {
  const element = detail.ctx?.sourceElement;
  const address = element?.getAttribute?.("hx-sse:connect");
  if (!address) return;
  if (detail.ctx.response?.status === 404) checkPage();
  connection.hidden = false;
  setTimeout(() => htmx.ajax("GET", address, { source: element }), RETRY_MS);
}
for (const name of ["htmx:error", "htmx:response:error"]) document.addEventListener(name, askAgain);
document.addEventListener("htmx:sse:error", (event) => {
  if ([401, 404].includes(event.detail.status)) showEnd();
  connection.hidden = false;
});
