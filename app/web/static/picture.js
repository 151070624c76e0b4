// A chart as a PNG of twice the size, complete in itself: the name of the job, the axes and what
// each line is.
import { Plot, colorOf } from "./plot.js";

const FEWEST_PIXELS = 640; // of its width, before it is doubled
const MARGIN = 16;
const FONT = "system-ui, sans-serif";

export async function savePicture(plot, name) {
  const width = Math.max(FEWEST_PIXELS, plot.drawn.width);
  const height = Math.max(Math.round(width / 2.4), plot.drawn.height);
  const drawn = await redrawn(plot, width, height);
  const visible = plot.series.filter((_, i) => plot.lines[i].count);
  const canvas = Object.assign(document.createElement("canvas"), {
    width: 2 * (width + 2 * MARGIN),
    height: 2 * (height + 88),
  });
  const context = canvas.getContext("2d");
  context.scale(2, 2);
  context.fillStyle = colorOf("--panel");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = colorOf("--text");
  context.font = `600 16px ${FONT}`;
  context.fillText(`${name} · ${plot.chart.title}`, MARGIN, 30, width);
  context.drawImage(drawn, MARGIN, 44, width, height);
  let left = MARGIN;
  context.font = `13px ${FONT}`;
  for (const line of visible) {
    context.fillStyle = colorOf(line.color);
    context.fillRect(left, height + 62, 16, 4);
    context.fillStyle = colorOf("--text");
    context.fillText(line.name, left + 22, height + 68);
    left += 46 + context.measureText(line.name).width;
  }
  const blob = await new Promise((resolve) => canvas.toBlob(resolve));
  const file = `${name}-${plot.chart.title}.png`.toLowerCase().replace(/[^a-z0-9.]+/g, "-");
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(blob),
    download: file,
  });
  link.click();
  URL.revokeObjectURL(link.href);
}

// The same once more, in twice the pixels and with the names of its axes.
function redrawn(plot, width, height) {
  const scale = 2 / devicePixelRatio;
  return new Promise((resolve) => {
    const copy = new Plot(document.createElement("div"), {
      ...plot,
      size: () => ({ width: Math.round(width * scale), height: Math.round(height * scale) }),
      scale,
      sync: null,
      isLarge: true,
      hasTitles: true,
      ready: (drawn) => resolve(drawn.ctx.canvas),
    });
    copy.draw();
  });
}
