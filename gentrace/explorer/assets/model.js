// Model: every layer and head as a small picture; the chosen one large beside it.

import { ScaleKey } from "./legend.js";
import { MatrixView, paintThumb, sheetOf } from "./matrix.js";
import { counted, make } from "./pen.js";

const SIZE = 64; // CSS pixels along a side of a small picture, at most
const [WIDE, TALL] = [290, 780]; // pixels that all of them have on a sheet of paper

export class ModelTab {
  constructor(app, panel) {
    this.app = app;
    this.title = make("h2");
    this.grid = make("div", { className: "thumbs", role: "grid" });
    this.note = make("p", { className: "key" });
    this.chosenTitle = make("h2");
    const plot = make("div");
    this.scaleKey = new ScaleKey();
    const open = [["replay", "Replay this head"], ["heads", "All heads of its layer"]].map(([tab, words]) => {
      const button = make("button", { type: "button", className: "quiet" }, words);
      button.addEventListener("click", () => app.set({ tab }));
      return button;
    });
    panel.append(
      make("section", { className: "card" }, this.title, this.grid, this.note),
      make("section", { className: "card matrix" }, this.chosenTitle, make("p", { className: "open" }, ...open), plot, this.scaleKey.element),
    );
    this.matrix = new MatrixView(plot, app.palette, { hover: (event, cell) => app.hover(event, cell), move: app.mover, choose: (cell) => app.step(cell.query) });
    this.grid.addEventListener("keydown", (event) => this.key(event));
    this.buttons = new Map();
  }

  show(changed) {
    const { app } = this;
    if (changed.has("loaded")) return this.paintNew();
    if (changed.has("data") || changed.has("look")) {
      const sign = [app.trace, app.v.kind, app.palette, app.v.first];
      if (!this.sign || sign.some((part, at) => part !== this.sign[at])) { this.sign = sign; this.fill(); }
      this.paintNew();
      app.readAll();
      this.matrix.palette = app.palette;
      this.matrix.show(sheetOf(app.head, app.scale, app.palette, app.sides), app.zoom);
      this.scaleKey.show(app.palette.gradient(app.palette.theme.attention), app.scale.words());
      this.chosenTitle.textContent = `${app.layerName}, ${app.head.name}`;
      this.matrix.cells.setAttribute("aria-label", `Attention matrix of ${app.layerName}, ${app.head.name}`);
    }
    for (const [name, button] of this.buttons) {
      const chosen = name === `${app.layer.index}.${app.head.head}` || (app.head.head === "mean" && name === `${app.layer.index}.${app.layer.heads[0]}`);
      button.tabIndex = chosen ? 0 : -1;
      button.setAttribute("aria-pressed", chosen && app.head.head !== "mean");
    }
    if (changed.has("numbers")) this.matrix.refine();
    this.matrix.step(app.v.step);
  }

  get refined() {
    return this.matrix.refined;
  }

  fill() {
    const { app } = this;
    this.layers = app.store.layers(app.v.trace, app.v.kind);
    const heads = [...new Set(this.layers.flatMap((layer) => layer.heads))].sort((a, b) => a - b);
    this.title.textContent = `${counted(this.layers.length, "layer")} × ${counted(heads.length, "head")}`;
    this.grid.setAttribute("aria-label", `Every head of the model, ${this.layers.length} layers`);
    this.grid.style.setProperty("--count", heads.length);
    this.side = Math.min(SIZE, Math.max(29, Math.floor((innerHeight - 250) / this.layers.length) - 3));
    this.grid.style.setProperty("--side", `${this.side}px`);
    this.grid.style.setProperty("--print", `${Math.min(SIZE, Math.max(8, Math.floor(Math.min(WIDE / heads.length, TALL / this.layers.length)) - 3))}px`);
    this.buttons.clear();
    this.painted = new Set();
    const cell = (role, words) => make("span", { role, className: "axis" }, words);
    const header = make("div", { role: "row", className: "thumb-row" }, cell("columnheader", make("span", { className: "hidden" }, "layer")), ...heads.map((head) => cell("columnheader", String(head))));
    const rows = this.layers.map((layer) => make("div", { role: "row", className: "thumb-row" }, cell("rowheader", String(layer.index)), ...heads.map((head) => {
      const holder = make("span", { role: "gridcell" });
      if (!layer.heads.includes(head)) return holder;
      const button = make("button", { type: "button", "aria-label": `layer ${layer.index}, head ${head}`, title: `layer ${layer.index}, head ${head}`, tabIndex: -1 }, make("canvas", { width: SIZE, height: SIZE }));
      button.addEventListener("click", () => app.set({ layer: layer.index, head, heads: null }));
      this.buttons.set(`${layer.index}.${head}`, button);
      holder.append(button);
      return holder;
    })));
    this.grid.replaceChildren(header, ...rows);
  }

  // Each picture has its own head's scale, as the note says.
  paint(canvas, side, layer, name) {
    const head = this.app.store.head(layer, name);
    paintThumb(canvas, side, head, this.app.scaleOf([head]), this.app.palette);
    return canvas;
  }

  // Layers that have been read since, in as many pixels as are shown: none is averaged away.
  paintNew() {
    const { app } = this;
    for (const layer of this.layers) {
      if (this.painted.has(layer) || !app.store.ready(layer)) continue;
      this.painted.add(layer);
      const side = Math.min(SIZE, Math.round(this.side * devicePixelRatio));
      for (const name of layer.heads) this.paint(this.buttons.get(`${layer.index}.${name}`).querySelector("canvas"), side, layer, name);
    }
    const missing = this.layers.length - this.painted.size;
    const text = `Rows are layers, columns heads; each picture on its own head’s scale: ${app.scale.note()}. A pixel is its strongest cell.${missing ? ` Reading ${missing} more layers …` : ""}`;
    if (this.note.textContent !== text) this.note.textContent = text;
  }

  key(event) {
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!moves) return;
    event.preventDefault();
    event.stopPropagation();
    const [down, across] = moves;
    const { app } = this;
    const layers = this.layers.map((layer) => layer.index);
    const layer = layers[Math.min(layers.length - 1, Math.max(0, layers.indexOf(app.layer.index) + down))];
    const { heads } = app.store.layer(app.v.trace, app.v.kind, layer);
    const at = heads.indexOf(app.head.head === "mean" ? heads[0] : app.head.head) + across;
    const head = heads[Math.min(heads.length - 1, Math.max(0, at))];
    app.set({ layer, head, heads: null });
    this.buttons.get(`${layer}.${head}`)?.focus();
  }

  describe() {
    return `${this.app.layerName}, ${this.app.head.name}, token ${this.app.v.step}`;
  }

  point(cell) {
    this.matrix.point(cell);
  }

  resize() {
    this.matrix.resize();
  }

  picture() {
    const { app } = this;
    const { theme } = app.palette;
    const heads = [...new Set(this.layers.flatMap((layer) => layer.heads))].sort((a, b) => a - b);
    const [size, left, top] = [SIZE + 4, 34, 42];
    const width = Math.max(300, left + heads.length * size);
    return {
      width, height: top + this.layers.length * size, name: `model-${app.v.kind}`,
      draw: (pen) => {
        pen.text(0, 10, `${app.trace.model}: ${this.title.textContent}`, { size: 13, weight: 600, fill: theme.ink, most: width });
        heads.forEach((head, at) => pen.text(left + (at + 0.5) * size, 30, String(head), { size: 10, anchor: "middle", fill: theme.muted }));
        this.layers.forEach((layer, row) => {
          pen.text(left - 8, top + (row + 0.5) * size, String(layer.index), { size: 10, anchor: "end", fill: theme.muted });
          for (const head of this.painted.has(layer) ? layer.heads : []) {
            pen.image(this.paint(make("canvas"), SIZE, layer, head), left + heads.indexOf(head) * size, top + row * size, SIZE, SIZE);
          }
        });
      },
    };
  }
}
