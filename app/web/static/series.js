// The numbers behind charts, free of the page. A run is {label, series: {key: {steps: [], values: []}}}, each by rising step.

// A live point of a step that is there already, or lies behind, means that a later attempt does these steps again.
export function append(run, point) {
  for (const [key, value] of Object.entries(point)) {
    if (key === "step") continue;
    const one = (run.series[key] ??= { steps: [], values: [] });
    while (one.steps.length && one.steps.at(-1) >= point.step) {
      one.steps.pop();
      one.values.pop();
    }
    one.steps.push(point.step);
    one.values.push(value);
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

// Where the steps lie on another axis: that series, straight between its points. Seconds begin again with each attempt; here they go on.
export function positions(run, axis, steps) {
  if (axis === "step") return steps;
  const found = run.series[axis];
  if (!found?.steps.length) return null;
  const along = axis === "elapsed_seconds" ? unwrapped(found.values) : found.values;
  let i = 0;
  return steps.map((step) => {
    while (i < found.steps.length - 2 && found.steps[i + 1] < step) i += 1;
    const [left, right] = [found.steps[i], found.steps[i + 1] ?? found.steps[i]];
    if (right === left) return along[i];
    return along[i] + ((along[i + 1] - along[i]) * (step - left)) / (right - left);
  });
}

function unwrapped(values) {
  let offset = 0;
  return values.map((value, i) => {
    if (i && value < values[i - 1]) offset += values[i - 1];
    return value + offset;
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
