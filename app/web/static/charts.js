// Draws every <figure class="chart"> of a page from the runs that its container names, and goes on with what the page's stream brings.
import { append, positions, rising, smooth } from "./series.js";

const { uPlot } = window; // only its other build is minified, and that one is no module

const HEIGHT = 190;
const MAX_POINTS = 2000; // of one series; more come from the server again, thinned
const NAMES = {
  train_loss: "training", valid_loss: "validation", train_mean_token_accuracy: "training", valid_mean_token_accuracy: "validation",
  train_reward_accuracy: "training", valid_reward_accuracy: "validation", train_reward_margin: "training", valid_reward_margin: "validation",
};
const AXES = { step: "step", elapsed_seconds: "time", trained_tokens: "tokens", cost_accrued: "dollars" };

const container = document.querySelector(".charts");
const tools = document.querySelector("[data-chart-tools]");
const settings = { smoothing: 0.6, log: false, axis: "step", ...stored() };
const runs = JSON.parse(container.dataset.runs).map((run) => ({ ...run, series: {} }));
const sync = uPlot.sync("charts");
const early = [];
let loaded = false;

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.place = figure.querySelector(".plot");
    this.keys = figure.dataset.keys.split(" ");
    this.factor = Number(figure.dataset.factor);
    this.title = figure.dataset.title;
    const png = figure.querySelector("[data-png]");
    png.hidden = false;
    png.addEventListener("click", () => this.save());
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.place);
  }

  size() {
    return { width: Math.max(200, this.place.clientWidth), height: HEIGHT };
  }

  // Faintly what was measured, and over it the smoothed line; few points stand for themselves.
  lines() {
    const found = [];
    runs.forEach((run, r) => this.keys.forEach((key, k) => {
      const one = run.series[key];
      const xs = one && positions(run, settings.axis, one.steps);
      if (!xs) return;
      const color = colorOf(`--series-${(runs.length > 1 ? r : k) % 8 + 1}`);
      const [at, values] = rising(xs, one.values.map((value) => value * this.factor));
      const name = [runs.length > 1 && run.label, this.keys.length > 1 && NAMES[key]].filter(Boolean).join(" ") || this.title;
      const dash = runs.length > 1 && k ? [4, 4] : undefined;
      const smoothed = settings.smoothing > 0 && values.length > 20;
      if (smoothed) found.push({ data: [at, values], options: { label: `${name}, measured`, class: "measured", stroke: color, width: 1, alpha: 0.25, points: { show: false } } });
      found.push({ data: [at, smoothed ? smooth(values, settings.smoothing) : values], options: { label: name, stroke: color, width: 1.75, dash, points: { show: values.length < 40 } } });
    }));
    return found;
  }

  draw() {
    const lines = this.lines();
    const signature = JSON.stringify([lines.map((line) => line.options), settings]);
    if (!lines.length) {
      this.plot?.destroy();
      this.plot = null;
      this.signature = "";
      if (loaded) this.figure.hidden = true;
      return;
    }
    this.figure.hidden = false;
    const data = uPlot.join(lines.map((line) => line.data));
    if (this.plot && signature === this.signature) {
      const zoomed = this.zoomed;
      this.plot.setData(data, !zoomed);
      if (zoomed) this.plot.redraw();
    } else {
      this.plot?.destroy();
      this.place.replaceChildren();
      this.plot = new uPlot(this.options(lines), data, this.place);
      this.signature = signature;
    }
    this.figure.dataset.points = Math.max(...lines.map((line) => line.data[0].length));
    this.figure.dataset.last = Math.max(...this.keys.flatMap((key) => runs.map((run) => run.series[key]?.steps.at(-1) ?? 0)));
  }

  get zoomed() {
    const { min, max } = this.plot.scales.x;
    const xs = this.plot.data[0];
    return min > xs[0] || max < xs.at(-1);
  }

  options(lines) {
    const axis = { stroke: colorOf("--faint"), grid: { stroke: colorOf("--line"), width: 1 }, ticks: { stroke: colorOf("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    return {
      ...this.size(),
      cursor: { sync: { key: sync.key, setSeries: false }, drag: { x: true, y: false }, points: { size: 6 } },
      legend: { live: true },
      scales: { x: { time: false }, y: { distr: settings.log ? 3 : 1 } },
      series: [{ label: AXES[settings.axis], value: (_, x) => (x == null ? "–" : onAxis(x)) }, ...lines.map(({ options }) => ({ spanGaps: true, value: (_, y) => (y == null ? "–" : short(y)), ...options }))],
      axes: [{ ...axis, values: (_, xs) => xs.map(onAxis), size: 30 }, { ...axis, size: 56, values: (_, ys) => ys.map((y) => (y == null ? "" : short(y))) }],
    };
  }

  save() {
    if (!this.plot) return;
    const drawn = this.plot.ctx.canvas;
    const head = 28 * devicePixelRatio;
    const canvas = Object.assign(document.createElement("canvas"), { width: drawn.width, height: drawn.height + head });
    const context = canvas.getContext("2d");
    context.fillStyle = colorOf("--panel");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = colorOf("--text");
    context.font = `600 ${14 * devicePixelRatio}px system-ui, sans-serif`;
    context.fillText(this.title, 12 * devicePixelRatio, 19 * devicePixelRatio);
    context.drawImage(drawn, 0, head);
    canvas.toBlob((blob) => {
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${this.keys[0]}.png` });
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
}

function colorOf(name) {
  container.style.setProperty("outline-color", `var(${name})`);
  return getComputedStyle(container).outlineColor;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)}k`;
  if (size !== 0 && size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

function onAxis(x) {
  if (settings.axis === "cost_accrued") return `$${Number(x.toPrecision(3))}`;
  if (settings.axis !== "elapsed_seconds") return short(x);
  if (x >= 5400) return `${Number((x / 3600).toPrecision(3))} h`;
  return x >= 90 ? `${Number((x / 60).toPrecision(3))} min` : `${Number(x.toPrecision(3))} s`;
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem("charts")) ?? {};
  } catch {
    return {};
  }
}

async function load() {
  await Promise.all(runs.map(async (run) => {
    const answer = await fetch(run.url);
    if (answer.ok) run.series = (await answer.json()).series;
  }));
  loaded = true;
  for (const point of early.splice(0)) append(runs[0], point);
  draw();
}

const charts = [...container.querySelectorAll(".chart")].map((figure) => new Chart(figure));
const draw = () => charts.forEach((chart) => chart.draw());

let waiting = false;
document.addEventListener("metrics", (event) => {
  const points = JSON.parse(event.detail.data);
  if (!loaded) {
    early.push(...points);
    return;
  }
  for (const point of points) append(runs[0], point);
  if (Object.values(runs[0].series).some((one) => one.steps.length > MAX_POINTS)) {
    load();
  } else if (!waiting) {
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }
});

tools.elements = Object.fromEntries([...tools.querySelectorAll("[name]")].map((control) => [control.name, control]));
tools.elements.smoothing.value = settings.smoothing;
tools.elements.log.checked = settings.log;
tools.elements.axis.value = settings.axis;
tools.addEventListener("input", () => {
  const { smoothing, log, axis } = tools.elements;
  Object.assign(settings, { smoothing: Number(smoothing.value), log: log.checked, axis: axis.value });
  localStorage.setItem("charts", JSON.stringify(settings));
  draw();
});
tools.querySelector("[data-reset-zoom]").addEventListener("click", () => {
  for (const { plot } of charts) plot?.setData(plot.data, true);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.signature = "";
  draw();
});
load();
