"use strict";
// Turns the pages of a long text, steps by key, and keeps Plotly from computing at every step what never changes.

const plot = document.getElementById("{plot_id}");
const still = { mode: "immediate", transition: { duration: 0 }, frame: { duration: 0, redraw: false } };
const frames = plot._transitionData._frames;
const names = frames.map((frame) => frame.name);
const pages = takenFrom(frames);
const [{ active, steps }] = plot.layout.sliders;
let current = names.indexOf(steps[active].label);

plot.on("plotly_animatingframe", ({ name }) => {
  current = names.indexOf(name);
  const range = pages.get(name);
  if (range && range[0] !== plot._fullLayout.yaxis3.range[0]) Plotly.relayout(plot, { "yaxis3.range": [...range] });
});

plot.tabIndex = 0;
plot.setAttribute("aria-label", "Replay: the left and right arrow keys go from token to token");
plot.addEventListener("pointerdown", () => plot.focus({ preventScroll: true }));
plot.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const wanted = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: names.length - 1 }[event.key];
  if (wanted === undefined) return;
  event.preventDefault();
  if (wanted in names && wanted !== current) Plotly.animate(plot, [names[wanted]], still);
});

rememberCells(plot._fullData.find((trace) => trace.type === "heatmap")._module);

// Frames carry the page's range for whoever shows the figure without scripts. But Plotly moves an axis over a time, here
// of 0 ms, by which it divides; and a frame with a layout has it redraw more at every step, be it the same.
function takenFrom(frames) {
  const ranges = frames.filter(({ layout }) => layout).map(({ name, layout }) => [name, layout.yaxis3.range]);
  for (const frame of frames) delete frame.layout;
  return new Map(ranges);
}

// Plotly goes through all cells of a matrix whenever something else moves. They are those that it found at first.
function rememberCells(heatmap) {
  if (heatmap.remembered) return;
  const { calc } = heatmap;
  const remembered = (heatmap.remembered = new WeakMap());
  heatmap.calc = (plot, trace) => {
    const place = [trace.x0, trace.y0, trace.dx, trace.dy, trace.xaxis, trace.yaxis, trace.zsmooth].join();
    const known = remembered.get(trace.z);
    if (known?.place === place && !trace.x && !trace.y) {
      const { cells, extremes, ...found } = known.found;
      Object.assign(trace, found);
      Object.assign(trace._extremes, extremes);
      return [{ ...cells }];
    }
    const [cells] = calc(plot, trace);
    const { _islinear, _x, _y, _extremes } = trace;
    remembered.set(trace.z, { place, found: { cells: { ...cells }, extremes: { ..._extremes }, _islinear, _x, _y } });
    return [cells];
  };
}
