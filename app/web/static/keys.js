// Keys for who would rather not use a mouse, where nothing is being written. The help says them,
// and turns them off.
import { load, save } from "./storage.js";

const OFF = "falqon-keys-off";
const OCCUPIED = // by what is being written or answered
  "input:not([type=checkbox]), textarea, select, [contenteditable], dialog[open], " +
  "[popover]:popover-open";
const help = document.querySelector("#keys");
const use = help?.querySelector("input");

function move(by) {
  const links = [...document.querySelectorAll("main tbody th.name a")].filter((link) =>
    link.checkVisibility(),
  );
  const at = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
  links[Math.max(0, Math.min(at + by, links.length - 1))]?.focus();
}

const KEYS = {
  "/": () => document.querySelector("main input[type=search]")?.focus(),
  n: () => document.querySelector('a[href="/jobs/new"]')?.click(),
  j: () => move(1),
  k: () => move(-1),
  x: () => document.activeElement.closest("tr")?.querySelector(".choose input")?.click(),
  "?": () => help.showModal(),
};

document.addEventListener("keydown", (event) => {
  if (!use?.checked || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.closest(OCCUPIED)) return;
  if (!Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});

// Also while they are off, which "?" then is as well.
document.querySelector("[data-keys]")?.addEventListener("click", () => help.showModal());
if (use) {
  use.checked = !load(OFF);
  use.addEventListener("change", () => save(OFF, use.checked ? null : 1));
}
