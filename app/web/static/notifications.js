// Tells who wants it that a job has ended, by a notification of the browser. Of all tabs that are
// open one asks, which holds the lock.
import { load, save } from "./storage.js";

const CHOICE = "falqon-notify";
const WATCHED = "falqon-watched-jobs"; // that had not ended when a tab last asked
const PAUSE = 5000; // browsers stretch it to a minute in a tab that is not seen
const isPossible = "Notification" in window && "locks" in navigator;
const isOn = () =>
  isPossible && Notification.permission === "granted" && Boolean(load(CHOICE));

function show(title, body, tag, address) {
  const notification = new Notification(title, { body, tag });
  notification.addEventListener("click", () => {
    notification.close();
    open(address);
  });
}

async function poll() {
  const jobs = (load(WATCHED) ?? []).map((id) => ["job", id]);
  const answer = await fetch(`/jobs/ended?${new URLSearchParams(jobs)}`);
  if (!answer.ok) return;
  const { ended, live } = await answer.json();
  save(WATCHED, live); // first: each is shown once
  for (const { id, title, body } of ended) show(title, body, id, `/jobs/${id}`);
}

let isWaiting = false;
async function follow() {
  if (isWaiting || !isOn()) return;
  isWaiting = true;
  await navigator.locks.request(CHOICE, async () => {
    while (isOn()) {
      await poll().catch(() => {}); // the service is unavailable
      await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
    }
  });
  isWaiting = false;
}

const choices = () => document.querySelectorAll("[data-notify]");

function arrange() {
  for (const choice of choices()) {
    choice.hidden = !isPossible;
    choice.querySelector("input").checked = isOn();
  }
  follow();
}

function refuse(reason) {
  save(CHOICE, null);
  for (const choice of choices()) choice.querySelector("small").textContent = reason;
}

document.addEventListener("change", async (event) => {
  if (!event.target.closest("[data-notify]")) return;
  if (!event.target.checked) {
    save(CHOICE, null);
    save(WATCHED, null);
  } else if ((await Notification.requestPermission()) !== "granted") {
    refuse("this browser does not allow it here");
  } else {
    save(CHOICE, 1);
    try {
      show("Notifications are on", "You are notified when a job ends.", CHOICE, "/");
    } catch {
      refuse("this browser shows none of a page"); // as those of phones do
    }
  }
  arrange();
});

addEventListener("storage", arrange); // another tab has chosen
arrange();
