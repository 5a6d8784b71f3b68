"use strict";
// Puts the parts together: one state, and a step that shows it.

class Replay {
  constructor() {
    this.data = readPayload();
    this.state = { ...this.data.initial, panel: null };
    this.values = new Float32Array(Math.max(this.data.rows[1], this.data.source?.labels.length ?? 0));
    this.tip = document.getElementById("tip");
    const choose = (at) => this.controls.go(at);
    this.text = new RunningText(this.data, document.getElementById("text"), choose, (event, key) => this.hoverWord(event, key, "self"));
    this.source = new Source(this.data, (event, key) => this.hoverWord(event, key, "cross"));
    this.bars = new Bars(this.data, document.getElementById("bars"));
    this.drafts = new Drafts(this.data);
    this.tree = new BeamTree(this.data, (event, lines) => this.hover(event, lines && (() => lines)));
    this.matrix = new MatrixView(this.data, (event, cell) => this.hoverCell(event, cell));
    const pick = (place) => this.choosePanel(this.heads.panels[place]);
    this.heads = new HeadStrip(this.data, document.getElementById("heads"), pick);
    this.controls = new Controls(this.data.rows, this.data.start, (row, playing) => this.step(row, playing));
    this.describe();
    const own = { self: "to its own text", cross: "to the source" };
    this.chooser("kind", Object.fromEntries(this.data.kinds.map((kind) => [kind, own[kind]])), () => this.chooseKind());
    this.chooser("what", { weights: "weights", scores: "scores" }, () => this.repaint());
    this.chooser("sink", { mask: "masked", log: "log scale", keep: "as it is" }, () => {
      this.state.sinks[this.state.kind] = this.state.sink;
      this.repaint();
    });
    this.chooseTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    this.chooseKind();
    document.getElementById("theme").addEventListener("click", () => this.chooseTheme(this.theme === "dark" ? "light" : "dark"));
    document.addEventListener("keydown", (event) => this.otherKeys(event));
    let known = "";
    new ResizeObserver(() => {
      const size = [this.matrix.plot, this.bars.element, document.getElementById("tree")].map((part) => `${part.clientWidth}x${part.clientHeight}`).join();
      if (size !== known) this.resize();
      known = size;
    }).observe(document.querySelector("main"));
    this.resize();
    this.controls.set(this.data.start);
    this.loaded = this.bars.load().then(() => this.bars.show(this.stepAt(this.controls.row)), (error) => {
      this.bars.element.textContent = `The bars cannot be drawn: ${error.message}.`;
    });
  }

  describe() {
    const { model, facts, rows, kinds } = this.data;
    document.getElementById("model").textContent = model;
    document.getElementById("facts").textContent = facts;
    document.getElementById("end").textContent = rows[1] - 1;
    document.getElementById("kind").hidden = kinds.length < 2;
    const select = document.getElementById("layer");
    select.addEventListener("change", () => this.chooseLayer(Number(select.value)));
    document.getElementById("text-note").textContent = rows[0] > 0 ? `rows from ${rows[0]} on` : "";
  }

  chooser(name, choices, changed) {
    const set = document.getElementById(name);
    for (const [value, words] of Object.entries(choices)) {
      const [label, input, span] = ["label", "input", "span"].map((tag) => document.createElement(tag));
      Object.assign(input, { type: "radio", name, value, checked: this.state[name] === value });
      input.addEventListener("change", () => { this.state[name] = value; changed(); });
      span.textContent = words;
      label.append(input, span);
      set.append(label);
    }
  }

  chooseTheme(name) {
    this.theme = name;
    document.documentElement.dataset.theme = name;
    this.palette = new Palette(this.data.themes[name]);
    this.text.recolour(this.palette);
    this.source.recolour(this.palette);
    this.bars.palette = this.palette;
    this.bars.redraw();
    const { attention, probability } = this.palette.theme;
    for (const id of ["matrix-scale", "text-scale"]) {
      document.getElementById(id).style.background = this.palette.gradient(attention);
    }
    document.getElementById("probability-scale").style.background = this.palette.gradient(probability);
    if (this.state.panel) this.repaint();
  }

  chooseKind() {
    const { kind, sinks, layer } = this.state;
    const layers = [...this.data.panels[kind].keys()];
    document.getElementById("layer").replaceChildren(...layers.map((one) => new Option(one, one)));
    document.getElementById("layer-choice").hidden = layers.length < 2;
    this.state.sink = sinks[kind];
    document.querySelector(`#sink input[value=${this.state.sink}]`).checked = true;
    this.chooseLayer(layers.includes(layer) ? layer : layers.at(-1));
  }

  chooseLayer(layer) {
    this.state.layer = layer;
    document.getElementById("layer").value = layer;
    const panels = this.data.panels[this.state.kind].get(layer);
    this.heads.fill(panels);
    this.choosePanel(panels.find((panel) => panel.head === this.data.initial.head) ?? panels[0]);
  }

  choosePanel(panel) {
    this.state.panel = panel;
    this.heads.mark(panel);
    this.repaint();
  }

  repaint() {
    const { panel, what, sink } = this.state;
    const logRadio = document.querySelector("#sink input[value=log]");
    logRadio.disabled = what === "scores";
    this.scale = new Scale(panel, what, sink, this.data.rows, this.data.fullColour, this.data.logFloor);
    this.matrix.paint(panel, this.scale, this.palette);
    const look = `${what}/${sink}/${this.theme}/${panel.kind}/${panel.layer}`;
    if (look !== this.look) this.heads.paint(what, sink, this.palette);
    this.look = look;
    document.getElementById("matrix-name").textContent = `Layer ${panel.layer}, ${panel.name}${panel.crossed ? ", cross-attention" : ""}`;
    document.getElementById("background-name").textContent =
      (what === "weights" ? "attention" : "scores") + (panel.crossed ? ", in the source" : "");
    const show = what === "weights" ? showWeight : showScore;
    document.getElementById("low").textContent = `${this.scale.log ? "≤ " : ""}${show(this.scale.low)}`;
    document.getElementById("high").textContent = show(this.scale.high);
    document.getElementById("scale-note").textContent = `${this.scale.note()}. ${this.data.precision}`;
    this.step(this.controls.row, this.controls.playing);
  }

  resize() {
    this.matrix.resize();
    this.tree.resize();
    this.tree.show(this.controls.row);
    this.bars.redraw();
    this.bars.show(this.stepAt(this.controls.row));
  }

  stepAt(row) {
    return this.data.steps[row - this.data.rows[0]];
  }

  step(row, playing) {
    const { panel, what } = this.state;
    if (this.matrix.width === undefined) return;
    panel.fill(row, what, this.values);
    const step = this.stepAt(row);
    const ghosts = step.ghosts ?? [];
    this.matrix.show(row, this.values);
    this.text.show(row, panel.crossed ? null : this.values, this.scale, ghosts);
    this.source.show(panel.crossed ? this.values : null, this.scale, this.matrix.strongestKey);
    this.drafts.show(ghosts);
    this.tree.show(row);
    this.showChosen(step);
    this.bars.show(step);
    document.getElementById("row").textContent = row;
    if (this.shownTip) this.showTip(this.shownTip);
    if (!playing) this.announce(row, step);
  }

  showChosen(step) {
    const numbers = [];
    if (step.predicts === null) numbers.push("the text ends here");
    if (step.probability !== null) numbers.push(`${showPercent(step.probability)} by the model`);
    if (step.sampled !== null) numbers.push(`${showPercent(step.sampled)} as sampled from`);
    if (step.rank !== null) numbers.push(step.rank === 0 ? "its first choice" : `its choice no. ${step.rank + 1}`);
    if (step.logprob !== null) numbers.push(`${step.logprob.toFixed(2).replace(/^-0.00$/, "0.00").replace("-", "−")} nats`);
    document.getElementById("chosen").textContent = step.predicts === null ? "" : this.data.labels[step.predicts];
    document.getElementById("chosen-numbers").textContent = numbers.join(" · ");
    const words = this.data.hasSampled
      ? "Upper bar: the model’s own probability, in orange for the token that came. Lower bar: as really sampled from."
      : "The model’s own probability, in orange for the token that came.";
    const key = document.getElementById("bars-key");
    if (key.textContent !== words) key.textContent = words;
  }

  announce(row, step) {
    const { labels } = this.data;
    const next = step.predicts === null ? "" : `, next ${labels[step.predicts]} ${showPercent(step.probability)}`;
    const dropped = step.ghosts ? `, rejected drafts ${step.ghosts.map((ghost) => ghost.label).join(", ")}` : "";
    const key = this.matrix.strongestKey;
    const most = this.matrix.strongest.hidden ? "" : `, looks most at ${this.state.panel.keyLabels[key]}, ${this.numbers(row, key)}`;
    const words = `Token ${row}: ${labels[row]}${most}${next}${dropped}`;
    document.getElementById("announce").textContent = words;
    this.matrix.cells.setAttribute("aria-label", `Attention matrix. ${words}`);
  }

  numbers(row, key) {
    const { panel } = this.state;
    const weight = panel.weight(row, key);
    return `weight ${showWeight(weight)}, score ${showScore(panel.score(row, key), weight)}`;
  }

  hoverWord(event, key, kind) {
    const row = this.controls.row;
    const looked = key !== null && kind === this.state.kind && (kind === "cross" || key <= row);
    this.hoverCell(event, looked ? { row, key } : null);
  }

  hoverCell(event, cell) {
    this.hover(event, cell && (() => this.cellLines(cell)));
  }

  cellLines({ row, key }) {
    const { panel } = this.state;
    const weight = panel.weight(row, key);
    return [
      ["query", `${row}`, this.data.labels[row]], ["key", `${key}`, panel.keyLabels[key]],
      ["weight", showWeight(weight), ""], ["score", showScore(panel.score(row, key), weight), ""],
    ];
  }

  // `said` gives the tooltip's lines, or is null.
  hover(event, said) {
    this.shownTip = said && { said, x: event.clientX, y: event.clientY };
    this.tip.hidden = !said;
    if (said) this.showTip(this.shownTip);
  }

  showTip({ said, x, y }) {
    const lines = said();
    this.tip.replaceChildren(...lines.flatMap((parts) => parts.map((part, place) => {
      const element = document.createElement(place === 2 ? "bdi" : "span");
      element.textContent = part;
      return element;
    })));
    const box = this.tip.getBoundingClientRect();
    this.tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
    this.tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
  }

  otherKeys(event) {
    const move = { "[": -1, "]": 1 }[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    const panels = this.data.panels[this.state.kind].get(this.state.layer);
    this.choosePanel(panels[(panels.indexOf(this.state.panel) + move + panels.length) % panels.length]);
  }
}

const replay = new Replay();
