// Compare: two heads side by side, of one trace or of two, and their difference where the texts have the same tokens.

import { align } from "./align.js";
import { showNumber } from "./colour.js";
import { drawRamp, ScaleKey } from "./legend.js";
import { MatrixView, sheetOf } from "./matrix.js";
import { make } from "./pen.js";

const TOLD = 8; // largest differences that are listed
const MOST = 1500; // rows and keys that are subtracted
const SLACK = 1.02; // on the error of two weights: neighbours on their scale are not told apart

// Whether of a head only the largest weight of each block is here.
function pooled(head) {
  return !head.exact && !head.whole;
}

export class CompareTab {
  constructor(app, panel) {
    this.app = app;
    const select = (name) => {
      const element = make("select", { "aria-label": `${name} to compare with` });
      element.addEventListener("change", () => this.choose());
      return element;
    };
    [this.trace, this.layer, this.head] = ["trace", "layer", "head"].map(select);
    this.parts = ["a", "b", "difference"].map(() => ({ title: make("h2"), plot: make("div"), key: new ScaleKey() }));
    const label = (words, element) => make("label", {}, `${words} `, element);
    const chooser = make("p", { className: "chooser" }, this.traceLabel = label("trace", this.trace), label("layer", this.layer), label("head", this.head));
    const said = (words) => make("p", { className: "chooser" }, words);
    const card = ({ title, plot, key }, chosen) => make("section", { className: "card" }, title, chosen, plot, key.element);
    this.list = make("ol", { className: "differences" });
    [this.most, this.note] = [1, ""];
    panel.append(card(this.parts[0], said("the layer and head chosen above")), card(this.parts[1], chooser), card(this.parts[2], said("orange: more in A, blue: more in B")), make("section", { className: "card wide" }, make("h2", {}, "Largest differences"), this.list));
    const hovers = [(event, cell) => this.hover(event, cell, (one) => one), (event, cell) => this.hover(event, cell, (one) => this.fromB(one)), (event, cell) => this.hover(event, cell, (one) => this.fromBoth(one))];
    this.views = this.parts.map(({ plot }, at) => new MatrixView(plot, app.palette, { hover: hovers[at], move: at ? null : app.mover }));
  }

  get other() {
    const [trace, layer, head] = (this.app.v.to ?? "").split(".");
    const { store, v } = this.app;
    const place = trace && store.traces[Number(trace)] ? Number(trace) : store.traces.length > 1 ? (v.trace + 1) % store.traces.length : v.trace;
    const layers = store.layers(place, v.kind);
    const found = layers.find((one) => one.index === Number(layer || v.layer)) ?? layers[layers.length - 1];
    const same = place === v.trace && found === this.app.layer;
    const fallback = same ? found?.heads[(found.heads.indexOf(this.app.head.head) + 1) % found.heads.length] : this.app.head.head;
    const wanted = head === "mean" ? "mean" : head === undefined || head === "" ? fallback : Number(head);
    return { trace: place, layer: found, head: wanted === "mean" || found?.heads.includes(wanted) ? wanted : found?.heads[0] };
  }

  choose() {
    this.app.set({ to: [this.trace.value, this.layer.value, this.head.value].join(".") });
  }

  async show(changed) {
    const { app } = this;
    const other = this.other;
    if (!other.layer) {
      this.note = `The other trace has no ${app.v.kind} attention.`;
      this.parts[2].key.show("none", ["", "", this.note]);
      return;
    }
    const turn = (this.turn = {});
    if (!app.store.ready(other.layer)) await app.store.load(other.layer);
    if (turn !== this.turn) return;
    if (["data", "look", "to"].some((name) => changed.has(name))) this.fill(other);
    if (changed.has("numbers") && this.pointed) this.hover(...this.pointed);
    if (changed.has("numbers")) this.views.slice(0, 2).forEach((view) => view.refine());
    this.step();
  }

  fill(other) {
    const { app } = this;
    this.options(other);
    this.a = app.head;
    this.b = app.store.head(other.layer, other.head);
    this.errors = [this.a, this.b].map((head) => (head.exact ? 0 : app.store.error));
    this.sidesA = app.sides;
    this.sidesB = app.store.sides(other.trace, app.v.kind);
    const scale = app.scaleOf([this.a, this.b]);
    this.scale = scale;
    this.skip = scale.skip;
    this.views.forEach((view) => { view.palette = app.palette; });
    // A window of A's positions fits B and the difference only where all tokens are the same.
    this.differ = ["queries", "keys"].some((side) => this.sidesA[side].labels.join("\u0000") !== this.sidesB[side].labels.join("\u0000"));
    const name = (letter, trace, layer, head) => `${letter}: layer ${layer.index}, ${head.name} · ${head.resolution}${app.store.traces.length > 1 ? `, ${app.store.traces[trace].name}` : ""}`;
    this.parts[0].title.textContent = name("A", app.v.trace, app.layer, this.a);
    this.parts[1].title.textContent = name("B", other.trace, other.layer, this.b);
    this.parts[2].title.textContent = "A − B";
    this.subtract();
    this.views[0].show(sheetOf(this.a, scale, app.palette, this.sidesA), app.zoom);
    this.views[1].show(sheetOf(this.b, scale, app.palette, this.sidesB), this.differ ? null : app.zoom);
    this.views[2].show(this.sheet(), this.differ ? null : app.zoom);
    this.parts.forEach(({ title }, at) => this.views[at].cells.setAttribute("aria-label", `Attention matrix, ${title.textContent}`));
    for (const { key } of this.parts.slice(0, 2)) key.show(app.palette.gradient(app.palette.theme.attention), scale.words());
    this.parts[2].key.show(app.palette.gradient(app.palette.balance), this.words());
    this.tellLargest();
    app.tellWorth();
  }

  options(other) {
    const { store, v } = this.app;
    this.trace.replaceChildren(...store.traces.map((one, at) => new Option(one.name, at, false, at === other.trace)));
    this.traceLabel.hidden = store.traces.length < 2;
    this.layer.replaceChildren(...store.layers(other.trace, v.kind).map((one) => new Option(one.index, one.index, false, one === other.layer)));
    const heads = other.layer.heads.length > 1 ? ["mean", ...other.layer.heads] : other.layer.heads;
    this.head.replaceChildren(...heads.map((one) => new Option(one, one, false, one === other.head)));
  }

  // The words at the two ends of the difference's colours, and what else there is to say.
  words() {
    const most = this.most.toPrecision(2);
    return [`−${most}`, `+${most}`, this.note];
  }

  // By how much two weights that a page holds may differ though they are alike.
  blur(one, other) {
    const [ofA, ofB] = this.errors;
    return ofA || ofB ? SLACK * (ofA * one + ofB * other) + this.app.store.low : 0;
  }

  // Differences of all cells whose tokens stand in both texts.
  subtract() {
    const { a, b } = this;
    const shared = (one, other) => align(one.labels, other.labels);
    const inside = (pair) => pair[0] >= a.start && pair[0] < a.stop && pair[1] >= b.start && pair[1] < b.stop;
    this.queries = shared(this.sidesA.queries, this.sidesB.queries).filter(inside);
    this.keys = shared(this.sidesA.keys, this.sidesB.keys).filter(([i, j]) => i < a.layer.keys && j < b.layer.keys);
    const all = this.queries.length;
    // Of more, those up to the current token: each of millions of cells would have to be looked at.
    const near = (pairs) => { const at = pairs.filter(([i]) => i <= this.app.v.step).length; return pairs.slice(Math.max(0, at - MOST), Math.max(MOST, at)); };
    [this.queries, this.keys] = [near(this.queries), near(this.keys)];
    const cut = this.queries.length < all ? `; ${MOST} tokens up to token ${this.queries[this.queries.length - 1][0]}: choose another step and open this tab again for others` : "";
    const [rows, columns] = [this.queries.length, this.keys.length];
    this.values = new Float32Array(rows * columns);
    const [ofA, ofB] = [new Float32Array(this.app.values.length), new Float32Array(this.app.values.length)];
    for (let row = 0; row < rows; row++) {
      ofA.fill(0);
      ofB.fill(0);
      a.fill(this.queries[row][0], ofA);
      b.fill(this.queries[row][1], ofB);
      for (let column = 0; column < columns; column++) {
        // The first token is set aside here too: its differences would outshine all others.
        if (this.keys[column][0] < this.skip) this.values[row * columns + column] = NaN;
        else this.values[row * columns + column] = this.subtracted(ofA[this.keys[column][0]], ofB[this.keys[column][1]]);
      }
    }
    const sizes = this.values.filter((value) => Math.abs(value) > 0).map(Math.abs).sort();
    this.most = sizes.length ? Math.max(sizes[Math.floor(0.995 * (sizes.length - 1))], 1e-3) : 1;
    const coarse = a.exact && b.exact ? "" : "; what 8 bits cannot tell apart is left blank";
    const left = this.sidesA.queries.labels.length - shared(this.sidesA.queries, this.sidesB.queries).length;
    const aligned = left ? `; ${left} tokens of A have no like in B and are left out` : "";
    this.note = `stronger ones have the last colour${this.skip ? `; first ${this.skip > 1 ? `${this.skip} tokens` : "token"} set aside (grey)` : ""}${coarse}${aligned}${cut}.`;
  }

  subtracted(one, other) {
    const difference = one - other;
    return Math.abs(difference) <= this.blur(one, other) ? 0 : difference;
  }

  sheet() {
    const { a, queries, keys, sidesA, app } = this;
    const causal = a.layer.causal && this.b.layer.causal && queries.every(([i], at) => keys[at]?.[0] === i);
    return {
      start: 0, stop: queries.length, keys: keys.length, causal, same: sidesA.queries === sidesA.keys,
      queryLabels: queries.map(([i]) => sidesA.queries.labels[i]), keyLabels: keys.map(([i]) => sidesA.keys.labels[i]),
      queryPrompt: queries.filter(([i]) => i < sidesA.queries.promptLength).length,
      keyPrompt: keys.filter(([i]) => i < sidesA.keys.promptLength).length,
      paint: (canvas) => {
        [canvas.width, canvas.height] = [Math.max(1, keys.length), Math.max(1, queries.length)];
        const image = new ImageData(canvas.width, canvas.height);
        const table = Array.from({ length: 511 }, (_, at) => app.palette.signed(at - 255, 255));
        this.values.forEach((value, at) => {
          const colour = Number.isNaN(value) ? app.palette.unseen : table[255 + Math.round(255 * Math.max(-1, Math.min(1, value / this.most)))];
          image.data.set(colour, at * 4);
          const beyond = causal && at % keys.length > Math.floor(at / keys.length);
          image.data[at * 4 + 3] = beyond ? 0 : 255;
        });
        canvas.getContext("2d").putImageData(image, 0, 0);
      },
    };
  }

  tellLargest() {
    // There may be millions of cells, which nobody sorts for the sake of a few.
    const found = [];
    for (let at = 0; at < this.values.length; at++) {
      const size = Math.abs(this.values[at]);
      if (!(size > (found[TOLD - 1]?.[0] ?? 0))) continue;
      const blocks = this.blocksOf(at);
      const same = found.findIndex((one) => one[2] === blocks);
      if (found[same]?.[0] >= size) continue;
      if (same >= 0) found.splice(same, 1);
      const place = found.findIndex((one) => one[0] < size);
      found.splice(place < 0 ? found.length : place, 0, [size, at, blocks]);
      found.length = Math.min(found.length, TOLD);
    }
    const name = (text) => make("bdi", {}, text);
    this.list.replaceChildren(...found.map(([, at]) => {
      const [query, key] = [this.queries[Math.floor(at / this.keys.length)], this.keys[at % this.keys.length]];
      const button = make("button", { type: "button", className: "quiet" }, name(`${query[0]} ${this.sidesA.queries.labels[query[0]]}`), " → ", name(`${key[0]} ${this.sidesA.keys.labels[key[0]]}`), `: ${this.told(this.values[at])}  A ${this.weight(this.a, query[0], key[0])}, B ${this.weight(this.b, query[1], key[1])}`);
      button.addEventListener("click", () => { this.app.step(query[0]); this.app.pointAt({ query: query[0], key: key[0] }); });
      return make("li", {}, button);
    }));
    const none = `no difference${this.a.exact && this.b.exact ? "" : " that 8 bits can tell"} where the texts agree`;
    if (!found.length) this.list.replaceChildren(make("li", {}, this.values.length ? none : "the two texts have no token in common"));
  }

  // In which blocks of A and B a cell of the difference lies, for of these only the largest weight is known.
  blocksOf(at) {
    const [query, key] = [this.queries[Math.floor(at / this.keys.length)], this.keys[at % this.keys.length]];
    return [this.a, this.b].map((head, side) => (pooled(head) ? [head.blocks.rows[query[side]], head.blocks.columns[key[side]]] : [query[side], key[side]])).join();
  }

  weight(head, query, key) {
    const sure = head.sure(query, key);
    return `${pooled(head) && !sure ? "at most " : ""}${this.app.words(head.weight(query, key), sure)}`;
  }

  // A difference of two digits, as many as its parts have.
  told(difference) {
    return `${difference < 0 ? "−" : "+"}${this.app.words(Math.abs(difference), Boolean(this.a.exact && this.b.exact))}`;
  }

  // A cell in A's positions, whatever matrix it was pointed at in; null where A has no such token.
  fromB({ query, key }) {
    const [i, j] = [this.queries.find((pair) => pair[1] === query), this.keys.find((pair) => pair[1] === key)];
    return i && j ? { query: i[0], key: j[0] } : null;
  }

  fromBoth({ query, key }) {
    return { query: this.queries[query][0], key: this.keys[key][0] };
  }

  placesOf(cell) {
    const [row, column] = [this.queries.findIndex((pair) => pair[0] === cell.query), this.keys.findIndex((pair) => pair[0] === cell.key)];
    return row >= 0 && column >= 0 ? { row, column } : null;
  }

  hover(event, cell, inA) {
    this.pointed = null;
    if (!cell) return this.app.hover(null, null);
    const own = inA(cell);
    if (!own) return this.app.tell(event, [["", "this token is not in A", ""]]);
    const { a, b, sidesA } = this;
    const both = this.placesOf(own);
    const other = both && { query: this.queries[both.row][1], key: this.keys[both.column][1] };
    for (const [head, place] of [[a, own], [b, other]]) if (place && !head.sure(place.query, place.key)) head.asked?.cell(place.query, place.key, true);
    this.pointed = [event, cell, inA];
    const [mine, theirs] = [a.weight(own.query, own.key), other ? b.weight(other.query, other.key) : null];
    const exact = Boolean(other && a.sure(own.query, own.key) && b.sure(other.query, other.key));
    const difference = exact ? mine - theirs : this.subtracted(mine, theirs);
    this.app.tell(event, [
      ["query", String(own.query), sidesA.queries.labels[own.query]], ["key", String(own.key), sidesA.keys.labels[own.key]],
      ["A", this.weight(a, own.query, own.key), ""], ["B", theirs === null ? "not in B" : this.weight(b, other.query, other.key), ""],
      ...(theirs === null ? [] : [["A − B", exact || difference ? showNumber(difference, 4) : "none that 8 bits can tell", ""]]),
    ]);
    this.app.pointAt(own);
  }

  step() {
    const { step } = this.app.v;
    const pair = this.queries?.find(([i]) => i === step);
    this.views[0].step(step);
    this.views[1].step(pair ? pair[1] : -1);
    this.views[2].step(pair ? this.queries.indexOf(pair) : -1);
  }

  point(cell) {
    if (!cell) this.pointed = null;
    if (!this.queries) return;
    const at = cell && this.placesOf(cell);
    this.views[0].point(cell);
    this.views[1].point(at && { query: this.queries[at.row][1], key: this.keys[at.column][1] });
    this.views[2].point(at && { query: at.row, key: at.column });
  }

  describe() {
    return `${this.parts[0].title.textContent}. ${this.parts[1].title.textContent}. A − B: ${this.words().slice(0, 2).join(" to ")}, ${this.note}`;
  }

  resize() {
    for (const view of this.views) view.resize();
  }

  picture() {
    const sizes = this.views.map((view) => view.drawn);
    const { palette } = this.app;
    const top = Math.max(...sizes.map((size) => size.height));
    const [less, more, note] = this.words();
    return {
      width: sizes.reduce((sum, size) => sum + size.width + 18, 0), height: top + 48, name: "compare",
      draw: (pen) => {
        let x = 0;
        this.views.forEach((view, at) => {
          view.draw(pen, x, 0, this.parts[at].title.textContent);
          x += sizes[at].width + 18;
        });
        const options = { ...palette.theme, most: x };
        drawRamp(pen, 0, top + 4, palette.theme.attention, this.scale.words(), options);
        drawRamp(pen, 0, top + 28, palette.balance, [less, more, `A − B: ${note}`], options);
      },
    };
  }
}
