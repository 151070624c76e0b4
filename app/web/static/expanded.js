// One chart over the whole width, with a scale, a smoothing and a range of its own; Esc goes back.
const dialog = document.querySelector("dialog.expanded");
const place = dialog.querySelector(".plot");
const controls = Object.fromEntries(
  [...dialog.querySelectorAll("[name]")].map((control) => [control.name, control]),
);
const own = new Map(); // what was chosen for each, as long as the page is open
let figure = null;
let save = () => {};

// `shown`: a figure with {chart, view(), plotIn(), expanded}.
export function expand(shown, saved) {
  figure = shown;
  save = saved;
  const { title, unit, hasLog } = figure.chart;
  dialog.querySelector("h3").textContent = unit ? `${title}, ${unit}` : title;
  if (!own.has(figure)) own.set(figure, { ...figure.view(), low: null, high: null });
  const chosen = own.get(figure);
  controls.scale.closest("label").hidden = !hasLog;
  controls.scale.value = chosen.isLog ? "log" : "linear";
  controls.smoothing.value = chosen.smoothing;
  controls.low.value = chosen.low ?? "";
  controls.high.value = chosen.high ?? "";
  dialog.showModal();
  const opened = figure;
  const view = () => ({ ...own.get(opened), axis: opened.view().axis });
  figure.expanded = figure.plotIn(place, view, true);
  figure.expanded.draw();
}

dialog.querySelector("[data-controls]").addEventListener("input", () => {
  const number = (text) => (text === "" || Number.isNaN(Number(text)) ? null : Number(text));
  Object.assign(own.get(figure), {
    isLog: controls.scale.value === "log",
    smoothing: Number(controls.smoothing.value),
    low: number(controls.low.value),
    high: number(controls.high.value),
  });
  figure.expanded.draw();
});

dialog.querySelector("[data-whole]").addEventListener("click", () => {
  controls.low.value = controls.high.value = "";
  Object.assign(own.get(figure), { low: null, high: null });
  figure.expanded.zoom();
});
dialog.querySelector("[data-png]").addEventListener("click", () => save());
dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  figure.expanded.destroy();
  figure.expanded = null;
});
new ResizeObserver(() => figure?.expanded?.resize()).observe(place);
