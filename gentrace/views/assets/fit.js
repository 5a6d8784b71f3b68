"use strict";
// Cells that stay square become small on a narrow page. The figure then takes no more height than they need, and shows
// no more names than can be read. A title that is too long becomes smaller, and panels that would be tiny beside each
// other stand below each other.

const plot = document.getElementById("{plot_id}");
const READ = 12; // pixels that a name takes
const NARROW = 640; // pixels of a figure below which three panels beside each other would be tiny
const { size } = plot.layout.title.font; // as it came
const made = new Map(); // axis: its ticks as they came
let arranged = "wide";

plot.on("plotly_relayout", (change) => {
  if ("autosize" in change) fit();
});
plot.on("plotly_update", fit);
fit();

function fit() {
  const { inner, panels, ...arrangements } = plot.layout.meta || {};
  const wanted = plot._fullLayout.width < NARROW ? "narrow" : "wide";
  if (arrangements[wanted] && wanted !== arranged) {
    arranged = wanted;
    takeHeight(arrangements[wanted].height);
    relayout({ ...arrangements[wanted] }).then(fit);
    return;
  }
  const change = { ...titleThatFits(), ...(inner && heightThatFits()), ...(panels && namesThatFit()) };
  if (Object.keys(change).length) relayout(change);
}

// Where a height is set Plotly writes the width down as well, and would no longer follow the page.
async function relayout(change) {
  const free = plot.layout.width === undefined;
  await Plotly.relayout(plot, change);
  if (free) delete plot.layout.width;
}

function titleThatFits() {
  const { width, title } = plot._fullLayout;
  const taken = plot.querySelector(".gtitle").getBoundingClientRect().width / title.font.size; // by a size of 1
  const fitting = Math.max(10, Math.min(size, Math.floor(((width - 28) / taken) * 2) / 2));
  return fitting === title.font.size ? {} : { "title.font.size": fitting };
}

function heightThatFits() {
  const { margin, yaxis } = plot._fullLayout;
  if (!yaxis.scaleanchor) return {};
  const height = Math.round(Math.max(cellSize() * span("yaxis"), READ) + margin.t + margin.b);
  takeHeight(height);
  return height === plot.layout.height ? {} : { height, "title.y": 1 - 44 / height };
}

// What holds the plot may have been given the height that the figure came with.
function takeHeight(height) {
  const holder = plot.parentElement;
  if (/px$/.test(holder.style.height)) holder.style.height = `${height}px`;
}

function namesThatFit() {
  const cell = cellSize();
  const change = {};
  for (const name of Object.keys(plot.layout).filter((key) => /^[xy]axis\d+$/.test(key))) {
    const axis = plot.layout[name];
    // Others carry every name for tooltips.
    if (axis.showticklabels === false) continue;
    if (!made.has(name)) made.set(name, { values: axis.tickvals, texts: axis.ticktext });
    const { values, texts } = made.get(name);
    // Panels side by side repeat the same names.
    const each = values.length / plot.layout.meta.panels[name[0] === "x" ? 0 : 1];
    const stride = each > 1 ? Math.ceil(READ / (cell * (values[1] - values[0]))) : 1;
    const next = values[each] - values[0]; // from one panel to the next
    const room = (place) => place === 0 || !((next - values[place] + values[0]) * cell < READ);
    const kept = values.map((_, place) => (place % each) % stride === 0 && room(place % each));
    if (kept.filter(Boolean).length === axis.tickvals.length) continue;
    change[`${name}.tickvals`] = values.filter((_, place) => kept[place]);
    change[`${name}.ticktext`] = texts.filter((_, place) => kept[place]);
  }
  return change;
}

function cellSize() {
  const { width, margin, xaxis } = plot._fullLayout;
  const { inner } = plot.layout.meta;
  if (!inner) return xaxis._length / span("xaxis");
  return Math.min((width - margin.l - margin.r) / span("xaxis"), inner / span("yaxis"));
}

function span(name) {
  const [first, last] = plot._fullLayout[name].range;
  return Math.abs(last - first);
}
