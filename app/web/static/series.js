// The numbers behind charts, free of the page. A run is {label, series: {key: {steps: [], values:
// []}}}, each by rising step.

const MAX_TICKS = 100; // of a range so narrow that numbers cannot tell its steps apart

// A live point of a step that is there already, or lies behind, means that a later attempt does
// these steps again.
export function append(run, point) {
  for (const [key, value] of Object.entries(point)) {
    if (key === "step") continue;
    const column = (run.series[key] ??= { steps: [], values: [] });
    while (column.steps.length && column.steps.at(-1) >= point.step) {
      column.steps.pop();
      column.values.pop();
    }
    column.steps.push(point.step);
    column.values.push(value);
  }
}

// The running mean that TensorBoard draws, without its pull towards zero at the beginning.
export function smooth(values, weight) {
  let mean = 0;
  return values.map((value, i) => {
    mean = weight * mean + (1 - weight) * value;
    return mean / (1 - weight ** (i + 1));
  });
}

// Where the steps lie on another axis. Null where the run has no such axis.
export function positions(run, axis, steps) {
  if (axis === "step") return steps;
  const column = run.series[axis];
  return column?.steps.length ? between(column.steps, along(axis, column), steps) : null;
}

// The other way round: the steps at these places of an axis.
export function stepsAt(run, axis, places) {
  if (axis === "step") return places;
  const column = run.series[axis];
  return column?.steps.length ? between(along(axis, column), column.steps, places) : null;
}

// Seconds begin again with each attempt; on the axis they go on.
function along(axis, column) {
  if (axis !== "elapsed_seconds") return column.values;
  let offset = 0;
  return column.values.map((value, i) => {
    if (i && value < column.values[i - 1]) offset += column.values[i - 1];
    return value + offset;
  });
}

// Straight between two points of `xs` and `ys`, and on beyond the last two. `at` rises, as `xs`
// does.
function between(xs, ys, at) {
  let i = 0;
  return at.map((x) => {
    while (i < xs.length - 2 && xs[i + 1] < x) i += 1;
    const [left, right] = [xs[i], xs[i + 1] ?? xs[i]];
    if (right === left) return ys[i];
    return ys[i] + ((ys[i + 1] - ys[i]) * (x - left)) / (right - left);
  });
}

export function rising(xs, ys) {
  const kept = [[], []];
  xs.forEach((x, i) => {
    if (kept[0].length && x <= kept[0].at(-1)) {
      kept[1][kept[1].length - 1] = ys[i];
    } else {
      kept[0].push(x);
      kept[1].push(ys[i]);
    }
  });
  return kept;
}

// The place of the lowest value, the first of equals.
export function lowest(values) {
  return values.reduce((best, value, i) => (value < values[best] ? i : best), 0);
}

// A logarithmic scale is a linear one of logarithms; what has none is a gap.
export function logarithms(values) {
  return values.map((value) => (value > 0 ? Math.log10(value) : null));
}

export function ticks(min, max, step) {
  const first = Math.ceil(min / step - 1e-9);
  const count = Math.min(MAX_TICKS, Math.floor(max / step + 1e-9) - first + 1);
  return Array.from({ length: Math.max(0, count) }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  );
}

// 1, 2 and 5 of each decade, or its powers alone when there are many; a narrow range is divided
// evenly.
export function logTicks(min, max) {
  const candidates = [];
  for (const decade of ticks(Math.floor(min), max, 1)) {
    for (const digit of max - min > 3 ? [1] : [1, 2, 5])
      candidates.push(decade + Math.log10(digit));
  }
  const inside = candidates.filter((place) => place >= min && place <= max);
  if (inside.length >= 3) return inside;
  const [low, high] = [10 ** min, 10 ** max];
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= rough);
  return ticks(low, high, step).filter((value) => value > 0).map(Math.log10);
}
