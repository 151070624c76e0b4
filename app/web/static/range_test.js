// Draws the curve of a range test in the place of its outline, over the logarithm of the rate.
import { colorOf, short } from "./plot.js";
import { logTicks } from "./series.js";

const { uPlot } = window;
const LEGEND = 48; // its height in pixels
let drawn = null;

const rate = (x) => (x == null ? "–" : Number((10 ** x).toPrecision(2)).toString());
const change = (y) => (y == null ? "–" : `${y > 0 ? "+" : ""}${short(y)}`);

function sizeOf(place) {
  return { width: Math.max(200, place.clientWidth), height: place.clientHeight - LEGEND };
}

function drawProposal(plot, proposal) {
  const { ctx, bbox } = plot;
  const x = Math.round(plot.valToPos(Math.log10(proposal), "x", true));
  ctx.save();
  ctx.strokeStyle = colorOf("--done");
  ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.lineWidth = devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}

function draw() {
  const place = document.querySelector("#job-range_test .plot");
  if (!place || place.querySelector(".uplot")) return;
  const points = JSON.parse(place.dataset.curve);
  const proposal = Number(place.dataset.proposal);
  const line = { stroke: () => colorOf("--line"), width: 1 };
  const axis = { stroke: () => colorOf("--faint"), grid: line, ticks: { ...line, size: 6 } };
  place.replaceChildren();
  drawn = new uPlot(
    {
      ...sizeOf(place),
      cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: false } },
      series: [
        { label: "Learning rate", value: (_, x) => rate(x) },
        {
          label: "Change of the loss",
          class: "series-1",
          stroke: () => colorOf("--series-1"),
          width: 1.75,
          points: { show: true, size: 5, fill: () => colorOf("--series-1") },
          value: (_, y) => change(y),
        },
      ],
      axes: [
        {
          ...axis,
          splits: (_, __, min, max) => logTicks(min, max),
          values: (_, xs) => xs.map(rate),
        },
        { ...axis, values: (_, ys) => ys.map(change), size: 56 },
      ],
      hooks: { draw: proposal ? [(plot) => drawProposal(plot, proposal)] : [] },
    },
    [points.map(([x]) => x), points.map(([, y]) => y)],
    place,
  );
  new ResizeObserver(() => drawn.setSize(sizeOf(place))).observe(place);
}

document.addEventListener("htmx:after:swap", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn?.redraw());
draw();
