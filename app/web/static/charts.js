// Draws every <figure class="chart"> of a page from the runs that its container names, and goes on
// with what the page's stream brings.
import { expand } from "./expanded.js";
import { savePicture } from "./picture.js";
import { Plot, forgetColors, short } from "./plot.js";
import { append, lowest, positions, stepsAt } from "./series.js";
import { load as stored, save } from "./storage.js";

const MAX_POINTS = 2000; // of one series; more come from the server again, thinned
const RETRY_MS = 5000;
const POLL_MS = 5000;
const LEGEND = 48; // its height in pixels, where there is one job
const container = document.querySelector(".charts");
const section = container.closest("section");
const tools = document.querySelector("[data-chart-tools]");
const settings = { smoothing: 0.6, log: false, axis: "step", ...stored("charts") };
const runs = JSON.parse(container.dataset.runs).map((run) => ({ ...run, series: {} }));
const early = [];
let loaded = false;
let zoomed = null; // the first and the last step, whatever they are shown against

// Of the axis that is shown; the first run that has it stands for the others.
function ends() {
  for (const run of zoomed ? runs : []) {
    const places = positions(run, settings.axis, zoomed);
    if (places) return places;
  }
  return null;
}

function zoom(...places) {
  zoomed = null;
  for (const run of places.length ? runs : []) zoomed ??= stepsAt(run, settings.axis, places);
  draw();
}

// What happened on the way, as the page says it; the stream changes it.
function marks() {
  const jobMarks = JSON.parse(document.querySelector("#job-marks")?.dataset.marks ?? "[]");
  const places = positions(runs[0], settings.axis, jobMarks.map((mark) => mark.step));
  return places ? jobMarks.map((mark, i) => ({ ...mark, at: places[i] })) : [];
}

class Figure {
  constructor(figure) {
    this.figure = figure;
    const { title, unit, keys, factor, log } = figure.dataset;
    this.chart = { title, unit, keys: keys.split(" "), factor: Number(factor) };
    this.chart.hasLog = log !== undefined;
    this.isLarge = figure.matches(".large");
    this.place = figure.querySelector(".plot");
    this.plot = this.plotIn(this.place, () => this.view(), this.isLarge);
    const { name } = container.dataset;
    const onClick = (button, act) => figure.querySelector(button).addEventListener("click", act);
    onClick("[data-png]", () => savePicture(this.plot, name));
    onClick("[data-expand]", () => expand(this, () => savePicture(this.expanded, name)));
    new ResizeObserver(() => this.plot.resize()).observe(this.place);
  }

  plotIn(place, view, isLarge) {
    const height = () =>
      container.matches(".many")
        ? parseFloat(getComputedStyle(place).minHeight)
        : place.clientHeight - LEGEND;
    const size = () => ({
      width: Math.max(200, place.clientWidth),
      height: Math.max(120, height()),
    });
    const { chart } = this;
    return new Plot(place, { chart, runs, view, ends, marks, zoom, sync: "charts", isLarge, size });
  }

  view() {
    return {
      axis: settings.axis,
      smoothing: settings.smoothing,
      isLog: settings.log && this.chart.hasLog,
    };
  }

  // One without a value is not there.
  draw() {
    this.figure.hidden = !runs.some((run) =>
      this.chart.keys.some((key) => run.series[key]?.steps.length),
    );
    if (this.figure.hidden) return;
    if (!this.plot.drawn) this.place.replaceChildren();
    this.plot.draw();
    this.expanded?.draw();
    for (const control of this.figure.querySelectorAll("figcaption button")) control.hidden = false;
    this.figure.dataset.points = Math.max(...this.plot.lines.map((line) => line.count));
    this.figure.dataset.last = Math.max(
      ...this.chart.keys.flatMap((key) => runs.map((run) => run.series[key]?.steps.at(-1) ?? 0)),
    );
    const best = this.figure.querySelector("[data-best]");
    const validation = runs.length === 1 && runs[0].series.valid_loss;
    if (!best || !validation) return;
    const { steps, values } = validation;
    const i = lowest(values);
    best.textContent = `Best validation ${short(values[i])} at step ${steps[i]}`;
  }
}

async function read(run) {
  const answer = await fetch(run.url);
  if (answer.ok) ({ series: run.series, has_ended: run.hasEnded } = await answer.json());
  else if (answer.status === 404) run.hasEnded = true; // deleted
}

async function load() {
  loaded = false;
  try {
    await Promise.all(runs.map(read));
  } catch { // the service is unavailable
    setTimeout(load, RETRY_MS);
    return;
  }
  loaded = true;
  for (const point of early.splice(0)) append(runs[0], point);
  draw();
}

// Asks for the curves of those jobs that go on, where no stream brings their points.
async function poll() {
  const isLive = (run) => !run.hasEnded;
  if (loaded && !document.hidden) {
    await Promise.allSettled(runs.filter(isLive).map(read));
    drawSoon();
  }
  if (runs.some(isLive)) setTimeout(poll, POLL_MS);
}

const figures = [...container.querySelectorAll(".chart")].map((figure) => new Figure(figure));

function draw() {
  if (!loaded) return;
  for (const figure of figures) figure.draw();
  for (const more of container.querySelectorAll(".more"))
    more.hidden = !more.querySelector(".chart:not([hidden])");
  const isEmpty = figures.every(({ figure }) => figure.hidden);
  tools.hidden = isEmpty;
  for (const text of section.querySelectorAll("[data-no-curves]")) text.hidden = !isEmpty;
}

let waiting = false;
function drawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

document.addEventListener("metrics", (event) => {
  const points = JSON.parse(event.detail.data);
  if (!loaded) {
    early.push(...points);
    return;
  }
  for (const point of points) append(runs[0], point);
  if (Object.values(runs[0].series).some((column) => column.steps.length > MAX_POINTS)) {
    load();
  } else {
    drawSoon();
  }
});
document.addEventListener("ended", () => {
  section.hidden = figures.every(({ figure }) => figure.hidden);
});
document.addEventListener("htmx:after:swap", drawSoon);

const controls = Object.fromEntries(
  [...tools.querySelectorAll("[name]")].map((control) => [control.name, control]),
);
controls.smoothing.value = settings.smoothing;
controls.log.checked = settings.log;
controls.axis.value = settings.axis;
tools.addEventListener("input", () => {
  Object.assign(settings, {
    smoothing: Number(controls.smoothing.value),
    log: controls.log.checked,
    axis: controls.axis.value,
  });
  save("charts", settings);
  draw();
});
tools.querySelector("[data-reset-zoom]").addEventListener("click", () => zoom());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  forgetColors();
  draw();
});
load();
if ("polled" in container.dataset) setTimeout(poll, POLL_MS);
