"use strict";
// The alternatives of one step: names and numbers as text, their probabilities as Plotly bars between them. Plotly is
// asked for new bar lengths only; names and numbers inside the figure would more than double the time of a step.

const AXIS = 20;

class Bars {
  constructor(data, element) {
    this.data = data;
    this.element = element;
    this.slots = Math.max(1, ...data.steps.map((step) => step.alternatives.length));
    this.places = Array.from({ length: this.slots }, (_, slot) => -slot);
    this.ready = this.drawn = false;
    this.plot = document.createElement("div");
    this.plot.className = "plot";
    this.plot.setAttribute("aria-hidden", "true");
    this.plot.style.gridRow = `2 / span ${this.slots}`;
    element.style.gridTemplateRows = `auto repeat(${this.slots}, minmax(0, 1fr))`;
    element.classList.toggle("both", data.hasSampled);
    this.rows = this.places.map(() => ["bdi", "span", "span"].map((tag) => document.createElement(tag)));
    const heads = ["", "", "model", data.hasSampled ? "sampled from" : ""].map((words) => {
      const head = document.createElement("span");
      head.className = "head";
      head.textContent = words;
      return head;
    });
    element.append(...heads, this.plot, ...this.rows.flat());
    this.rows.forEach((cells, slot) => cells.forEach((cell, column) => {
      cell.style.gridArea = `${slot + 2} / ${column === 0 ? 1 : column + 2}`;
    }));
  }

  // Plotly travels deflated; its text must match the hash in the page's security policy.
  async load() {
    if (!window.DecompressionStream) throw new Error("this browser cannot inflate data (DecompressionStream)");
    const stream = new Blob([bytesOf("plotly")]).stream().pipeThrough(new DecompressionStream("deflate"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    if (!window.Plotly) throw new Error("Plotly did not start");
    this.ready = true;
  }

  // Lengths of the model's bars, of the chosen token's (a trace of its own, in its own colour) and of the sampled.
  lengths(step) {
    const raw = this.places.map(() => 0);
    const [chosen, sampled] = [raw.slice(), raw.slice()];
    step.alternatives.forEach((row, slot) => {
      (row.chosen ? chosen : raw)[slot] = row.probability;
      sampled[slot] = row.sampled ?? 0;
    });
    return this.data.hasSampled ? [raw, chosen, sampled] : [raw, chosen];
  }

  draw(step) {
    const { theme } = this.palette;
    const both = this.data.hasSampled;
    const colours = [theme.raw, theme.accent, theme.sampled];
    const traces = this.lengths(step).map((x, at) => ({
      type: "bar", orientation: "h", x, y: this.places, hoverinfo: "skip", marker: { color: colours[at], line: { width: 0 } },
      offset: at === 2 ? -0.36 : both ? 0.02 : -0.34, width: both ? 0.34 : 0.68,
    }));
    const layout = {
      width: this.plot.clientWidth, height: this.plot.clientHeight, barmode: "overlay", showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 14, t: 0, b: AXIS },
      font: { family: getComputedStyle(document.body).fontFamily, color: theme.muted, size: 10 },
      xaxis: {
        range: [0, 1], fixedrange: true, zeroline: false, tickvals: [0, 0.25, 0.5, 0.75, 1], tickformat: ".0%",
        gridcolor: theme.line,
      },
      yaxis: { range: [0.5 - this.slots, 0.5], visible: false, fixedrange: true },
    };
    Plotly.newPlot(this.plot, traces, layout, { staticPlot: true });
    this.drawn = true;
  }

  // Plotly's animation path, without a redraw of axes: half the time of a restyle. A step that is overtaken by the next
  // rejects its promise, which is as it should be.
  move(step) {
    const data = this.lengths(step).map((x) => ({ x }));
    const options = { mode: "immediate", transition: { duration: 0 }, frame: { duration: 0, redraw: false } };
    Plotly.animate(this.plot, [{ data, traces: data.map((_, at) => at) }], options).catch(() => {});
  }

  redraw() {
    this.drawn = false;
  }

  show(step) {
    this.rows.forEach((cells, slot) => {
      const row = step.alternatives[slot];
      cells[0].textContent = row ? row.label : "";
      cells[1].textContent = row ? showPercent(row.probability) : "";
      cells[2].textContent = !row || row.sampled === null ? "" : row.sampled === 0 ? "excluded" : showPercent(row.sampled);
      cells[0].className = row?.chosen ? "chosen-row" : "";
    });
    if (!this.ready) return;
    if (this.drawn) this.move(step);
    else this.draw(step);
  }
}
