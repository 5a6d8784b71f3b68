"use strict";
// A click on a thumbnail shows its head large; a click on that, or Escape, returns. A menu does the same where no script
// runs, and what its entries do is done here.

const plot = document.getElementById("{plot_id}");
const ground = plot.querySelector(".nsewdrag");
const overview = plot.data.findIndex((trace) => trace.name === "heads");

let answered = false;

const hints = ["; click one to enlarge it", "; click or Escape returns"];

menu().buttons.forEach((button, entry) => {
  const key = "title.subtitle.text";
  button.args[1][key] = button.args[1][key].replace(/<br>|$/, (end) => hints[Math.min(entry, 1)] + end);
});
choose(0);

plot.on("plotly_hover", () => {
  ground.style.cursor = active() ? "zoom-out" : "zoom-in";
});
plot.on("plotly_unhover", () => {
  ground.style.cursor = "";
});
plot.on("plotly_click", (event) => {
  const point = event.points[0];
  // The document's own click comes right after.
  answered = true;
  setTimeout(() => (answered = false));
  if (active()) choose(0);
  else if (point.curveNumber === overview) choose(entryOf(point.customdata));
});
plot.addEventListener("click", (event) => {
  if (event.target === ground && !answered && active()) choose(0);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && active()) choose(0);
});

function menu() {
  return plot.layout.updatemenus[0];
}

function active() {
  return menu().active || 0;
}

function entryOf([layer, head]) {
  return menu().buttons.findIndex((button) => button.label === `layer ${layer} · head ${head}`);
}

function choose(entry) {
  const [data, layout, traces] = menu().buttons[entry].args;
  Plotly.Fx.unhover(plot);
  return Plotly.update(plot, data, { ...layout, "updatemenus[0].active": entry }, traces);
}
