"use strict";
// Over a token only its lines are seen, and a click keeps them. The sliders do the same where no script runs; here they
// follow the click. Lines are read back from what is drawn, so that a menu's layer, hidden heads and a pair of sentences
// are minded.

const plot = document.getElementById("{plot_id}");
const { thickness, sentences } = plot.layout.meta;
const heads = plot.data.findIndex((trace) => trace.type === "bar");
const columns = [heads, heads + 2]; // the tokens that look, those that are looked at
const ground = plot.querySelector(".nsewdrag");

let pinned = chosen();
let hovered = null;

plot.on("plotly_hover", (event) => {
  const token = tokenAt(event);
  if (!token || same(token, hovered)) return;
  hovered = token;
  ground.style.cursor = "pointer";
  show(token);
});
plot.on("plotly_unhover", () => {
  if (!hovered) return;
  hovered = null;
  ground.style.cursor = "";
  show(pinned);
});
plot.on("plotly_click", (event) => {
  const token = tokenAt(event);
  if (token) pin(same(token, pinned) ? null : token);
});
plot.addEventListener("click", (event) => {
  if (event.target === ground && !hovered && pinned) pin(null);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && pinned) pin(null);
});
plot.on("plotly_sliderchange", (event) => {
  const side = plot.layout.sliders.indexOf(event.slider._input);
  const at = event.slider.active;
  pinned = at ? { side, at } : null;
  afterwards(() => show(pinned));
});
plot.on("plotly_buttonclicked", (event) => {
  const kept = event.menu.type === "dropdown" ? pinned : null;
  // A layer's picture comes with sliders in their first state.
  afterwards(() => pin(kept));
});
plot.on("plotly_restyle", () => show(hovered || pinned));

// Plotly does what a control says in the next animation frame.
function afterwards(act) {
  requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(act)));
}

// A token is a slider and one of its steps, of which the first is "every token".
function tokenAt(event) {
  const point = event.points[0];
  const side = columns.indexOf(point.curveNumber);
  return side < 0 ? null : { side, at: point.pointNumber + 1 };
}

function chosen() {
  const side = plot.layout.sliders.findIndex((slider) => slider.active);
  return side < 0 ? null : { side, at: plot.layout.sliders[side].active };
}

function same(one, other) {
  return Boolean(one && other && one.side === other.side && one.at === other.at);
}

function pin(token) {
  pinned = token;
  const active = [0, 1].map((side) => (token && token.side === side ? token.at : 0));
  Plotly.relayout(plot, { "sliders[0].active": active[0], "sliders[1].active": active[1] });
  show(hovered || pinned);
}

function pair() {
  const menu = (plot.layout.updatemenus || []).find((one) => one.type === "buttons");
  return menu ? menu.buttons[menu.active] : null;
}

function show(token) {
  const rest = pair() || plot.layout.sliders[0].steps[0];
  const [frame, timing] = token ? plot.layout.sliders[token.side].steps[token.at].args : rest.args;
  const data = token ? withLines(frame.data, token) : frame.data;
  // A frame that another overtakes is refused; that is meant.
  Plotly.animate(plot, { data, traces: frame.traces }, timing).catch(() => {});
}

// What moves with the slider, but with the lines that are in sight.
function withLines(data, token) {
  const position = plot.data[columns[token.side]].customdata[token.at - 1];
  const most = new Map();
  const moved = data.map((part) => part);
  for (let head = 0; head < heads; head += 1) {
    const { y, visible } = plot._fullData[head];
    const own = { x: [], y: [] };
    for (let at = 0; visible === true && y && at < y.length; at += 5) {
      const ends = [Math.round((y[at] + y[at + 3]) / 2), Math.round((y[at + 1] + y[at + 2]) / 2)];
      if (ends[token.side] !== position || !between(ends)) continue;
      own.x.push(0, 1, 1, 0, NaN);
      own.y.push(...y.slice(at, at + 4), NaN);
      const other = ends[1 - token.side];
      most.set(other, Math.max((y[at + 3] - y[at]) / thickness, most.get(other) || 0));
    }
    moved[1 + head] = { type: "scatter", ...own };
  }
  const far = plot._fullData[columns[1 - token.side]];
  const x = far.base + far.x[0];
  moved[moved.length - 1] = {
    ...data[data.length - 1],
    x: Array(most.size).fill(x),
    y: [...most.keys()],
    text: [...most.values()].map((weight) => weight.toFixed(2)),
  };
  return moved;
}

function between([query, key]) {
  const filter = pair();
  if (!filter || filter.label === "all") return true;
  return `${"AB"[sentences[query]]}→${"AB"[sentences[key]]}` === filter.label;
}
