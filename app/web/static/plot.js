// One plot, made once: what is drawn, how, and between which ends may change at any time.
import { logTicks, logarithms, lowest, positions, rising, smooth, ticks } from "./series.js";

const { uPlot } = window; // only its other build is minified, and that one is no module
const SMOOTHED = 20; // fewer values stand for themselves
const DOTTED = 40; // fewer are dots as well
const PAD = 0.05; // of a logarithmic scale, above and below
const LEAST_PAD = 0.01; // a fortieth of a value
const NAMES = { train: "training", valid: "validation" }; // by what a key begins with
const AXES = {
  step: "Step",
  elapsed_seconds: "Time",
  trained_tokens: "Tokens",
  cost_accrued: "Cost",
};
const FONT = "system-ui, sans-serif";
const WHOLE = increments(0, 10); // between two ticks: there is no half a step
const ANY = increments(-6, 12);

function increments(from, to) {
  return Array.from({ length: to - from }, (_, i) =>
    [1, 2, 5].map((digit) => Number(`${digit}e${from + i}`)),
  ).flat();
}

// `chart`: {title, unit, keys, factor}. `runs` as in series.js. `view()` gives {axis, smoothing,
// isLog, low, high}, `ends()` the x that are shown, or null for all, `marks()` [{at, label,
// isCheckpoint}]. `zoom(from, to)` is told what was dragged over, `zoom()` a double click.
export class Plot {
  constructor(place, options) {
    Object.assign(this, { scale: 1, hasTitles: false }, options, { place, drawn: null });
    const { chart, runs, scale } = this;
    this.series = runs.flatMap((run, r) =>
      chart.keys.map((key, k) => ({
        run,
        key,
        color: `--series-${((runs.length > 1 ? r : k) % 8) + 1}`,
        dash: runs.length > 1 && k ? [4 * scale, 4 * scale] : undefined,
        name:
          [runs.length > 1 && run.label, chart.keys.length > 1 && NAMES[key.split("_")[0]]]
            .filter(Boolean)
            .join(" ") || chart.title,
      })),
    );
  }

  // Whether there was anything to draw.
  draw() {
    this.lines = this.series.map((curve) => this.lineOf(curve));
    const filled = this.lines.filter((line) => line.count);
    if (!filled.length) return false;
    const pairs = ({ at, measured, shown }) => [[at, measured], [at, shown]];
    const data = uPlot.join(this.lines.flatMap(pairs));
    const [min, max] = this.ends() ?? [data[0][0], data[0].at(-1)];
    const ends = min < max ? { min, max } : { min: min - 0.5, max: max + 0.5 };
    if (this.drawn) {
      this.drawn.setData(data, false);
      this.drawn.setScale("x", ends);
      this.drawn.redraw(false, true);
    } else {
      this.drawn = new uPlot(this.options(ends), data, this.place);
    }
    this.showNewest();
    this.place.querySelectorAll(".u-legend .u-series").forEach((row, i) => {
      if (i) row.hidden = !this.lines[Math.floor((i - 1) / 2)].count;
      else row.querySelector(".u-label").textContent = AXES[this.view().axis];
    });
    this.makeLegendReachable();
    Object.assign(this.place.dataset, { from: ends.min, to: ends.max });
    return true;
  }

  // In the legend, while nothing is pointed at.
  showNewest() {
    const { drawn } = this;
    if (this.ready || drawn.cursor.idx != null) return;
    const newest = (values) => values.findLastIndex((value) => value != null);
    const idxs = drawn.data.map((values, i) => (i ? newest(values) : values.length - 1));
    drawn.setLegend({ idxs: idxs.map((i) => (i < 0 ? null : i)) }, false);
  }

  // A finger moves the cursor; up and down it scrolls the page.
  followTouch(plot) {
    plot.over.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") return;
      const { left, top } = plot.over.getBoundingClientRect();
      plot.setCursor({ left: event.clientX - left, top: event.clientY - top });
    });
  }

  // Faintly what was measured, and over it the smoothed line.
  lineOf({ run, key }) {
    const column = run.series[key];
    const { axis, smoothing, isLog } = this.view();
    const xs = column && positions(run, axis, column.steps);
    if (!xs) return { at: [], measured: [], shown: [], count: 0 };
    const [at, values] = rising(xs, column.values.map((value) => value * this.chart.factor));
    const scaled = isLog ? logarithms : (values) => values;
    const isSmoothed = smoothing > 0 && values.length > SMOOTHED;
    const best = key === "valid_loss" && lowest(values);
    return {
      at,
      measured: isSmoothed ? scaled(values) : values.map(() => null),
      shown: scaled(isSmoothed ? smooth(values, smoothing) : values),
      count: values.length,
      best: key === "valid_loss" && {
        at: at[best],
        value: scaled([values[best]])[0],
        text: short(values[best]),
      },
    };
  }

  options(ends) {
    const { scale } = this;
    const font = `${Math.round(12 * scale)}px ${FONT}`;
    const line = { stroke: () => colorOf("--line"), width: scale };
    const axis = {
      stroke: () => colorOf("--faint"),
      grid: line,
      ticks: { ...line, size: 6 * scale },
      font,
      gap: 5 * scale,
      labelFont: font,
      labelSize: 22 * scale,
    };
    const titled = (label) => (this.hasTitles ? { label } : {});
    const value = (y) => short(this.view().isLog ? 10 ** y : y);
    const dots = {
      show: (_, i) => this.lines[Math.floor((i - 1) / 2)].count < DOTTED,
      size: 5 * scale,
    };
    const styles = this.series.flatMap(({ name, color, dash }, i) => [
      {
        label: `${name}, measured`,
        class: "measured",
        stroke: () => colorOf(color),
        width: scale,
        alpha: 0.25,
        points: { show: false },
      },
      {
        label: name,
        class: `series-${color.at(-1)}`,
        stroke: () => colorOf(color),
        width: 1.75 * scale,
        dash,
        points: { ...dots, fill: () => colorOf(color) },
      },
    ]);
    return {
      ...this.size(),
      cursor: {
        show: !this.ready,
        sync: { key: this.sync, filters: { pub: (type) => type === "mousemove" } },
        drag: { x: true, y: false, setScale: false, dist: 5 },
        bind: { dblclick: () => () => this.zoom() },
        points: { size: 6 },
      },
      legend: { show: !this.ready, live: true, markers: { show: true, width: 0, fill: null } },
      scales: {
        x: { time: false, range: (_, min, max) => [min ?? ends.min, max ?? ends.max], ...ends },
        y: { range: (_, min, max) => this.heights(min, max) },
      },
      series: [
        { label: AXES.step, value: (_, x) => (x == null ? "–" : onAxis(x, this.view().axis)) },
        ...styles.map((style) => ({
          spanGaps: true,
          value: (_, y) => (y == null ? "–" : value(y)),
          ...style,
        })),
      ],
      axes: [
        {
          ...axis,
          ...titled(AXES[this.view().axis]),
          incrs: () => (this.view().axis === "step" ? WHOLE : ANY),
          values: (_, xs) => xs.map((x) => onAxis(x, this.view().axis)),
          size: 30 * scale,
          space: 60 * scale,
        },
        {
          ...axis,
          ...titled(
            [this.chart.title, this.chart.unit && `(${this.chart.unit})`].filter(Boolean).join(" "),
          ),
          splits: (_, __, min, max, step) =>
            this.view().isLog ? logTicks(min, max) : ticks(min, max, step),
          values: (_, ys) => ys.map(value),
          size: 56 * scale,
          space: 30 * scale,
        },
      ],
      hooks: {
        setScale: [
          ({ scales: { y } }, key) =>
            key === "y" && Object.assign(this.place.dataset, { low: y.min, high: y.max }),
        ],
        ready: [(plot) => this.followTouch(plot)],
        setCursor: [(plot) => plot.cursor.idx == null && this.drawn && this.showNewest()],
        setSelect: [(plot) => this.select(plot)],
        drawAxes: [(plot) => this.drawMarks(plot)],
        draw: [(plot) => this.drawBest(plot), (plot) => this.ready?.(plot)],
      },
    };
  }

  // What the view asks for, or room for all values.
  heights(min, max) {
    const { isLog, low, high } = this.view();
    const limits = (isLog ? logarithms : (values) => values)([low, high]).map((value, i) =>
      [low, high][i] == null ? null : value,
    );
    if (min == null) return [limits[0] ?? 0, limits[1] ?? 1];
    const pad = Math.max((max - min) * PAD, LEAST_PAD);
    const fitting = isLog ? [min - pad, max + pad] : uPlot.rangeNum(min, max, 0.1, true);
    const range = limits.map((value, i) => value ?? fitting[i]);
    return range[0] < range[1] ? range : fitting;
  }

  select(plot) {
    const { left, width } = plot.select;
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (width > 0) this.zoom(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
  }

  // Lines where something happened, with as many of their names as there is room for: what ended or
  // began above, checkpoints below.
  drawMarks(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio * this.scale;
    const taken = { true: -Infinity, false: -Infinity };
    ctx.save();
    Object.assign(ctx, { textAlign: "left", textBaseline: "alphabetic" });
    ctx.font = `${Math.round(11 * ratio)}px ${FONT}`;
    ctx.lineWidth = ratio;
    for (const { at, label, isCheckpoint } of this.marks()) {
      const x = Math.round(plot.valToPos(at, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width || (isCheckpoint && !this.isLarge)) continue;
      ctx.strokeStyle = ctx.fillStyle = colorOf(isCheckpoint ? "--faint" : "--waits");
      ctx.setLineDash(isCheckpoint ? [ratio, 3 * ratio] : [4 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const width = ctx.measureText(label).width;
      const left = Math.min(x + 4 * ratio, bbox.left + bbox.width - width);
      if (!this.isLarge || left < taken[isCheckpoint]) continue;
      const down = isCheckpoint ? bbox.height - 5 * ratio : 11 * ratio;
      ctx.fillText(label, left, bbox.top + down);
      taken[isCheckpoint] = left + width + 8 * ratio;
    }
    ctx.restore();
  }

  drawBest(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio * this.scale;
    ctx.save();
    Object.assign(ctx, { textAlign: "left", textBaseline: "alphabetic" });
    this.lines.forEach(({ best }, i) => {
      if (!best || best.value == null) return;
      const [x, y] = [plot.valToPos(best.at, "x", true), plot.valToPos(best.value, "y", true)];
      if (x < bbox.left || x > bbox.left + bbox.width || y < bbox.top || y > bbox.top + bbox.height)
        return;
      ctx.strokeStyle = ctx.fillStyle = colorOf(this.series[i].color);
      ctx.lineWidth = 2 * ratio;
      ctx.beginPath();
      ctx.arc(x, y, 6 * ratio, 0, 2 * Math.PI);
      ctx.stroke();
      if (this.runs.length > 1 || !this.isLarge) return;
      ctx.font = `600 ${Math.round(12 * ratio)}px ${FONT}`;
      const text = `best ${best.text}`;
      const left = Math.min(x + 9 * ratio, bbox.left + bbox.width - ctx.measureText(text).width);
      ctx.fillText(text, left, Math.max(y - 9 * ratio, bbox.top + 24 * ratio));
    });
    ctx.restore();
  }

  resize() {
    this.drawn?.setSize(this.size());
    this.makeLegendReachable();
  }

  // By the keyboard, where it has more lines than it shows.
  makeLegendReachable() {
    const legend = this.place.querySelector(".u-legend");
    if (legend) legend.tabIndex = legend.scrollHeight > legend.clientHeight ? 0 : -1;
  }

  destroy() {
    this.drawn?.destroy();
    this.drawn = null;
  }
}

// The value of a custom property as a canvas takes it: light or dark as the page is.
const colors = new Map();
export function colorOf(name) {
  if (!colors.has(name)) {
    const probe = document.querySelector(".charts");
    probe.style.setProperty("outline-color", `var(${name})`);
    colors.set(name, getComputedStyle(probe).outlineColor);
  }
  return colors.get(name);
}
export const forgetColors = () => colors.clear();

export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)}k`;
  const digits = Number(value.toPrecision(4));
  if (size === 0 || size >= 1e-4) return String(digits);
  return digits.toExponential().replace(/e-(\d)$/, "e-0$1"); // as the pages write it
}

function onAxis(x, axis) {
  if (axis === "cost_accrued") return `$${Number(x.toPrecision(3))}`;
  if (axis !== "elapsed_seconds") return short(x);
  if (x >= 5400) return `${Number((x / 3600).toPrecision(3))} h`;
  return x >= 90 ? `${Number((x / 60).toPrecision(3))} min` : `${Number(x.toPrecision(3))} s`;
}
