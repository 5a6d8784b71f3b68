// Heads: all matrices of one layer under one colour scale, and beside them the head view: two columns of tokens with a
// line from each that looks to those it looks at.

import { drawRamp, ScaleKey } from "./legend.js";
import { MatrixView, sheetOf } from "./matrix.js";
import { counted, make, moved } from "./pen.js";
import { Scroller } from "./scroller.js";
import { visited } from "./tip.js";

const LEAST = 0.05; // weights below have no line
const MOST = 4000; // lines of all tokens that are drawn at once, the strongest
const ROW = 19;
// Of which sentence the queries and the keys are, as the address says it.
export const PAIRS = { AA: "A→A", AB: "A→B", BA: "B→A", BB: "B→B" };

export class HeadsTab {
  constructor(app, panel) {
    this.app = app;
    this.grid = make("div", { className: "grid" });
    this.scaleKey = new ScaleKey();
    this.gridTitle = make("h2");
    this.legend = make("div", { className: "legend", role: "group", "aria-label": "Heads whose lines are drawn" });
    this.scroll = make("div", { tabIndex: 0, role: "img" });
    this.linesNote = make("p", { className: "key" });
    this.choice = make("fieldset", { className: "choice" }, make("legend", {}, "lines of"));
    for (const [value, words] of [["token", "this token"], ["all", "all tokens"]]) {
      const input = make("input", { type: "radio", name: "lines", value });
      input.addEventListener("change", () => app.set({ lines: value === "all" ? value : null }));
      this.choice.append(make("label", {}, input, make("span", {}, words)));
    }
    this.pair = make("select", { "aria-label": "Sentences whose lines are drawn" }, new Option("all", ""), ...Object.entries(PAIRS).map(([pair, words]) => new Option(words, pair)));
    this.pair.addEventListener("change", () => app.set({ pair: this.pair.value || null }));
    this.pairs = make("label", {}, "sentences ", this.pair);
    panel.append(
      make("section", { className: "card" }, this.gridTitle, this.grid, this.scaleKey.element),
      make("section", { className: "card lines" }, make("h2", {}, "Head view: who looks at whom"), this.legend, make("div", { className: "line-choice" }, this.choice, this.pairs), this.scroll, this.linesNote),
    );
    this.scroller = new Scroller(this.scroll, ROW, (pen, view) => this.draw(pen, view));
    visited(this.scroll, (event) => this.hover(event), () => app.hover(null, null));
    this.scroll.addEventListener("click", (event) => {
      const at = this.scroller.at(event);
      if (at && at.across < 0.5) app.step(at.row + app.head.start);
    });
    this.scroll.addEventListener("keydown", (event) => {
      const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!move) return;
      event.preventDefault();
      app.step(app.v.step + move);
      this.scroller.reveal(Math.max(0, app.v.step - app.head.start));
    });
    this.views = [];
  }

  get names() {
    return this.app.layer.heads;
  }

  get chosen() {
    const { heads } = this.app.v;
    if (!heads) return this.app.v.head === "mean" ? this.names : [this.app.head.head];
    const wanted = new Set(heads.split(".").map(Number));
    return this.names.filter((name) => wanted.has(name));
  }

  toggle(name) {
    const chosen = new Set(this.chosen);
    if (!chosen.delete(name)) chosen.add(name);
    this.app.set({ heads: this.names.filter((one) => chosen.has(one)).join(".") || "none" });
  }

  show(changed) {
    const { app } = this;
    if (changed.has("data") || changed.has("look")) {
      this.heads = this.names.map((name) => app.store.head(app.layer, name));
      this.scale = app.scaleOf(this.heads);
      const sign = [app.layer, app.palette, app.v.first];
      if (!this.sign || sign.some((part, at) => part !== this.sign[at])) { this.sign = sign; this.fill(); }
      for (const { view, head } of this.views) view.show(sheetOf(head, this.scale, app.palette, app.sides), app.zoom);
      this.views.forEach(({ figure }, at) => figure.classList.toggle("chosen", this.names[at] === app.head.head));
      this.dressLegend();
      this.collect();
    } else if (["heads", "head", "pair", "lines"].some((name) => changed.has(name))) {
      this.dressLegend();
      this.collect();
    }
    if (this.byRow && (changed.has("step") || changed.has("numbers"))) this.collect();
    if (changed.has("numbers")) for (const { view } of this.views) view.refine();
    this.views.forEach(({ view }) => view.step(app.v.step));
    this.scroll.setAttribute("aria-label", this.describe());
    for (const input of this.choice.querySelectorAll("input")) input.checked = input.value === (app.v.lines ?? "token");
    this.pair.value = app.v.pair ?? "";
    this.paint();
    if (changed.has("step") || changed.has("data")) this.scroller.reveal(Math.max(0, app.v.step - app.head.start));
  }

  fill() {
    const { app } = this;
    this.gridTitle.textContent = `${app.layerName}: ${counted(this.names.length, "head")}`;
    const [low, high, note] = this.scale.words();
    this.scaleKey.show(app.palette.gradient(app.palette.theme.attention), [low, high, `${note} One scale for all heads.`]);
    this.views = this.heads.map((head) => {
      const [plot, button] = [make("div"), make("button", { type: "button" }, head.name)];
      button.addEventListener("click", () => app.set({ head: head.head, heads: null }));
      const figure = make("figure", {}, make("figcaption", {}, button), plot);
      return { figure, plot, head };
    });
    this.grid.replaceChildren(...this.views.map((view) => view.figure));
    const size = this.arrange();
    for (const one of this.views) {
      one.view = new MatrixView(one.plot, app.palette, {
        labels: false, tallest: size, move: app.mover, hover: (event, cell) => app.hover(event, cell, one.head), choose: (cell) => app.set({ head: one.head.head, step: cell.query }),
      });
      one.view.cells.tabIndex = -1;
      one.view.cells.setAttribute("aria-label", `Attention matrix of ${one.head.name}`);
    }
  }

  // As many columns as make the matrices largest while all of them are in sight; they never get smaller than a stamp.
  arrange() {
    const [wide, tall] = [this.grid.clientWidth, Math.max(300, innerHeight - this.grid.getBoundingClientRect().top - scrollY - 120)];
    const count = this.names.length;
    if (matchMedia("(max-width: 899px)").matches) {
      this.grid.style.setProperty("--columns", 2);
      return wide;
    }
    let [best, columns] = [0, 1];
    for (let across = 1; across <= count; across++) {
      const size = Math.min(wide / across - 11, tall / Math.ceil(count / across) - 36);
      if (size > best) [best, columns] = [size, across];
    }
    columns = Math.min(columns, Math.max(2, Math.floor(wide / 130)));
    this.grid.style.setProperty("--columns", columns);
    return Math.max(120, best);
  }

  dressLegend() {
    const { app } = this;
    const chosen = new Set(this.chosen);
    if (this.legendOf !== app.layer) {
      this.legendOf = app.layer;
      this.legend.replaceChildren(
        ...this.names.map((name) => {
          const button = make("button", { type: "button", className: "toggle" }, make("i"), String(name));
          button.setAttribute("aria-label", `head ${name}`);
          button.addEventListener("click", () => this.toggle(name));
          return button;
        }),
        ...[["all", () => this.names.join(".")], ["none", () => "none"]].map(([words, value]) => {
          const button = make("button", { type: "button", className: "toggle plain" }, words);
          button.addEventListener("click", () => app.set({ heads: value() }));
          return button;
        }),
      );
    }
    this.names.forEach((name, at) => {
      this.legend.children[at].setAttribute("aria-pressed", chosen.has(name));
      this.legend.children[at].style.setProperty("--own", app.palette.head(at));
    });
  }

  // Every line worth drawing of the chosen heads.
  collect() {
    const { app } = this;
    const found = [];
    const values = new Float32Array(app.values.length);
    const { segments } = app.trace;
    this.pairs.hidden = !segments || app.v.kind !== "self";
    const wanted = this.pairs.hidden || !app.v.pair ? null : [...app.v.pair].map((sentence) => "AB".indexOf(sentence));
    // Of blocks there would be as many lines as cells, and no true one: then only one row's, which is exact where it can be.
    this.byRow = this.heads.some((head) => !head.whole);
    this.choice.hidden = this.byRow;
    const [start, stop] = this.byRow ? [app.v.step, app.v.step + 1] : [app.head.start, app.head.stop];
    const shown = ({ query, key }) => !wanted || (segments[query] === wanted[0] && segments[key] === wanted[1]);
    for (const name of this.chosen) {
      const head = app.store.head(app.layer, name);
      const colour = this.names.indexOf(name);
      for (let query = start; query < stop; query++) {
        const width = head.width(query);
        const exact = this.byRow && head.row(query, values);
        if (!this.byRow) head.fill(query, values);
        for (let key = exact ? Math.min(1, this.scale.skip) : this.scale.skip; key < width; key++) if (values[key] >= LEAST && shown({ query, key })) found.push({ query, key, weight: values[key], colour });
      }
    }
    this.lines = found.sort((a, b) => a.weight - b.weight);
    this.linesNote.textContent = this.byRow
      ? `Lines of the current token only, thickness is the weight, from ${LEAST} up. Click a token on the left to go there.`
      : `Left looks at right; thickness is the weight, from ${LEAST} up${this.scale.skip ? ", the first token left out" : ""}; squares: which heads${this.left ? `; the ${this.left.toLocaleString("en")} weakest lines are drawn only for a token that is pointed at` : ""}. Click a token on the left to go there, point at one to see only its lines.`;
  }

  // Of the lines of all tokens at once, how many are too many; of one token all are drawn.
  get left() {
    return this.app.v.lines === "all" ? Math.max(0, this.lines.length - MOST) : 0;
  }

  paint() {
    const { app } = this;
    if (!this.lines) return;
    this.scroller.size(Math.max(app.head.stop - app.head.start, app.layer.keys - app.head.start));
    this.scroller.paint();
  }

  draw(pen, { width, first, last, top }) {
    const { app, scroller } = this;
    const { theme } = app.palette;
    const { queries, keys } = app.sides;
    const column = Math.min(190, width * 0.32);
    const from = app.head.start;
    const y = (position) => top + (position - from + 0.5) * scroller.rowHeight;
    const focus = this.focus ?? (app.v.lines !== "all" || this.byRow ? { side: "query", position: app.v.step } : null);
    const own = new Map();
    // Lines of several heads run side by side, so that each keeps its colour.
    const chosen = this.chosen.map((name) => this.names.indexOf(name));
    const share = (colour) => (chosen.indexOf(colour) + 0.5) / chosen.length - 0.5;
    const thickest = (0.8 * scroller.rowHeight) / Math.min(3, chosen.length);
    const square = Math.min(8, (column * 0.45) / chosen.length);
    for (const line of focus ? this.lines : this.lines.slice(this.left)) {
      const mine = !focus || line[focus.side] === focus.position;
      if (!mine) continue;
      const other = focus?.side === "query" ? line.key : line.query;
      if (focus) own.set(other, [...(own.get(other) ?? []), line]);
      if (Math.max(line.query, line.key) - from < first - 1 || Math.min(line.query, line.key) - from > last) continue;
      const aside = share(line.colour) * (scroller.rowHeight * 0.8 - thickest);
      pen.curve(column + 8, y(line.query) + aside, width - column - 8, y(line.key) + aside, app.palette.head(line.colour), Math.max(0.7, line.weight * thickest), focus ? 0.85 : 0.4);
    }
    for (let row = first; row < last; row++) {
      const position = row + from;
      for (const [side, tokens, x, anchor] of [["query", queries, column, "end"], ["key", keys, width - column, "start"]]) {
        if (position >= (side === "query" ? app.head.stop : app.layer.keys)) continue;
        const here = focus?.side === side && focus.position === position;
        const hits = (focus && focus.side !== side && own.get(position)) || [];
        const hit = Math.max(0, ...hits.map((line) => line.weight));
        const box = [side === "query" ? x - column + 4 : x - 3, y(position) - scroller.rowHeight / 2 + 1, column, scroller.rowHeight - 2];
        if (here) pen.rect(...box, theme.accent, { radius: 4 });
        else if (hit) pen.rect(...box, app.palette.background[Math.round(60 + 110 * Math.min(1, hit))], { radius: 4, alpha: 0.5 });
        const fill = here ? theme.card : position < tokens.promptLength && !hit ? theme.muted : theme.ink;
        const [squares, inward] = [chosen.length > 1 && hit ? chosen.length * square : 0, side === "query" ? 1 : -1];
        pen.text(side === "query" ? x - 4 : x + 4, y(position), tokens.labels[position] ?? "", { size: 12.5, fill, anchor, most: column - 12 - squares, weight: here ? 600 : 400 });
        // Which heads they are, at the far end: as strong as they look, each at its own place.
        for (const line of squares ? hits : []) {
          const at = (chosen.indexOf(line.colour) + 0.5) * square;
          const middle = x - inward * (column - 8) + inward * (side === "query" ? at : squares - at);
          for (const [fill, alpha] of [[theme.card, 1], [app.palette.head(line.colour), Math.min(1, 0.25 + line.weight)]]) pen.rect(middle - square / 2 + 0.5, y(position) - 4, square - 1, 8, fill, { alpha });
        }
      }
    }
  }

  hover(event) {
    const at = this.scroller.at(event);
    const side = at?.across < 0.36 ? "query" : at?.across > 0.64 ? "key" : null;
    const position = at ? at.row + this.app.head.start : 0;
    const inside = side && !this.byRow && position < (side === "query" ? this.app.head.stop : this.app.layer.keys);
    const next = inside ? { side, position } : null;
    if (next?.side === this.focus?.side && next?.position === this.focus?.position) return;
    this.focus = next;
    this.paint();
    if (next) this.app.tell(event, this.strongest(next));
    else this.app.hover(null, null);
  }

  strongest({ side, position }) {
    const { app } = this;
    const { queries, keys } = app.sides;
    const own = this.lines.filter((line) => line[side] === position).slice(-6).reverse();
    const [mine, others] = side === "query" ? [queries, keys] : [keys, queries];
    return [
      [side, String(position), mine.labels[position]],
      ...own.map((line) => [`head ${this.names[line.colour]}`, app.words(line.weight, Boolean(this.heads[line.colour].exact)), others.labels[side === "query" ? line.key : line.query]]),
      ...(own.length ? [] : [["", `no weight of ${LEAST} or more`, ""]]),
    ];
  }

  get refined() {
    return this.views.length > 0 && this.views.every(({ view }) => view.refined);
  }

  describe() {
    const { app } = this;
    const { queries, keys } = app.sides;
    const own = (this.lines ?? []).filter((line) => line.query === app.v.step).slice(-3).reverse();
    const words = own.map((line) => `${keys.labels[line.key]} (head ${this.names[line.colour]}, ${app.words(line.weight, Boolean(this.heads[line.colour].exact))})`);
    return `Token ${app.v.step}: ${queries.labels[app.v.step]} looks at ${words.join(", ") || "nothing strongly"}`;
  }

  point(cell) {
    if (!cell && this.focus) {
      this.focus = null;
      this.paint();
    }
    for (const { view } of this.views) view.point(cell);
  }

  resize() {
    const tallest = this.arrange();
    for (const { view } of this.views) { view.tallest = tallest; view.resize(); }
    this.paint();
  }

  picture() {
    const { app, scroller } = this;
    const columns = Math.min(4, Math.ceil(Math.sqrt(this.views.length)));
    const rows = Math.ceil(this.views.length / columns);
    const [wide, tall] = [this.views[0].view.width + 14, this.views[0].view.height + 34];
    const [left, linesWide] = [Math.max(columns * wide + 16, 460), 460];
    const [first, last] = this.span();
    const height = 28 + Math.max(rows * tall + 24, (last - first) * scroller.rowHeight + 30);
    const { theme } = app.palette;
    return {
      width: left + linesWide, height, name: `heads-layer${app.layer.index}-token${app.v.step}`,
      draw: (pen) => {
        pen.text(0, 8, this.gridTitle.textContent, { size: 13, weight: 600, fill: theme.ink });
        this.views.forEach(({ view, head }, at) => view.draw(pen, (at % columns) * wide, 28 + Math.floor(at / columns) * tall, head.name));
        drawRamp(pen, 0, height - 14, theme.attention, this.scale.words(), { ...theme, most: left + linesWide });
        let across = left;
        for (const name of this.chosen) {
          pen.rect(across, 4, 9, 9, app.palette.head(this.names.indexOf(name)), { radius: 4.5 });
          pen.text(across + 13, 8, String(name), { size: 11, fill: theme.muted });
          across += 22 + pen.measure(String(name), 11, {});
        }
        this.draw(moved(pen, left, 28), { width: linesWide, first, last, top: -first * scroller.rowHeight });
      },
    };
  }

  // The rows of the two columns that are in sight.
  span() {
    const { element, rowHeight, rows } = this.scroller;
    const first = Math.floor(element.scrollTop / rowHeight);
    return [first, Math.min(rows, first + Math.ceil(element.clientHeight / rowHeight))];
  }
}
