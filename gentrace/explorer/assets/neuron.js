// Neuron: one query against every key, component by component. The products add up to the dot product, which scale, cap,
// bias and softmax turn into the weight; every number is computed here from the queries and keys that travelled.

import { css, showNumber } from "./colour.js";
import { make, moved } from "./pen.js";
import { Scroller } from "./scroller.js";
import { visited } from "./tip.js";

const ROW = 26;

export class NeuronTab {
  constructor(app, panel) {
    this.app = app;
    this.title = make("h2");
    this.missing = make("p", { className: "missing" });
    this.identity = make("div", { className: "identity" });
    this.scroll = make("div", { tabIndex: 0, role: "img" });
    this.note = make("p", { className: "key" });
    panel.append(make("section", { className: "card neuron" }, this.title, this.missing, this.identity, this.scroll, this.note));
    this.scroller = new Scroller(this.scroll, ROW, (pen, view) => this.draw(pen, view));
    const over = (event) => {
      const at = this.scroller.at(event);
      app.hover(event, at && at.row < this.count ? { query: app.v.step, key: at.row } : null);
    };
    visited(this.scroll, over, () => app.hover(null, null));
    this.scroll.addEventListener("click", (event) => {
      const at = this.scroller.at(event);
      if (at && at.row < this.count) app.set({ key: at.row });
    });
    this.scroll.addEventListener("keydown", (event) => {
      const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!move) return;
      event.preventDefault();
      app.set({ key: Math.max(0, Math.min(this.count - 1, this.key + move)) });
      this.scroller.reveal(this.key);
    });
  }

  // The key looked at: the one chosen if the query can see it, else the strongest.
  get key() {
    const { key } = this.app.v;
    if (Number.isInteger(key) && key < this.count) return key;
    const { weights } = this.exact.row(this.app.v.step);
    let most = 0;
    for (let at = 0; at < this.count; at++) if (weights[at] > weights[most]) most = at;
    return most;
  }

  show() {
    const { app } = this;
    this.exact = app.store.vectors(app.head);
    this.count = app.head.width(app.v.step);
    this.title.textContent = `${app.layerName}, ${app.head.name}: query × key`;
    const usable = this.exact && this.exact.dim > 0;
    for (const part of [this.scroll, this.identity, this.note]) part.hidden = !usable;
    this.missing.hidden = usable;
    if (!usable) return this.explain();
    this.ready = this.exact.has?.(app.v.step) ?? true;
    if (!this.ready) return;
    this.most = { q: this.largest([this.exact.query(app.v.step)]) };
    const keys = Array.from({ length: this.count }, (_, key) => this.exact.key(key));
    this.most.k = this.largest(keys);
    this.most.p = 0;
    const query = this.exact.query(app.v.step);
    for (const key of keys) for (let at = 0; at < query.length; at++) this.most.p = Math.max(this.most.p, Math.abs(query[at] * key[at]));
    this.scroller.size(this.count, 58);
    this.paint();
    this.add();
    this.note.textContent = `${this.exact.dim} components as they entered the kernel (after rotation, where the model rotates). Blue is negative, orange positive; each column of strips on its own scale: query ±${this.most.q.toPrecision(3)}, keys ±${this.most.k.toPrecision(3)}, products ±${this.most.p.toPrecision(3)}.`;
    this.scroll.setAttribute("aria-label", this.describe());
  }

  explain() {
    const { app } = this;
    const known = app.trace.layers.flatMap((layer) => Object.keys(layer.exact).map((head) => `layer ${layer.index} head ${head}`));
    const name = app.head.head === "mean" ? 0 : app.head.head;
    const kind = app.v.kind === "self" ? "" : `, "${app.v.kind}"`;
    const words = !app.layer.dim ? "Of this layer only its scores were seen, no queries and keys." : `Queries and keys travel only for the heads that exact= names. Make the page with gentrace.explore(trace, exact=[(${app.layer.index}, ${name}${kind})]) to see this head here.`;
    if (app.store.link && app.layer.dim) return this.missing.replaceChildren("A mean has no queries and keys of its own: choose one head.");
    this.missing.replaceChildren(make("span", {}, words), make("br"), known.length ? "In this page: " : "");
    for (const layer of app.trace.layers) {
      for (const head of Object.keys(layer.exact)) {
        const button = make("button", { type: "button", className: "quiet" }, `layer ${layer.index} · head ${head}${layer.kind === "self" ? "" : ` · ${layer.kind}`}`);
        button.addEventListener("click", () => app.set({ kind: layer.kind, layer: layer.index, head: Number(head) }));
        this.missing.append(button);
      }
    }
  }

  largest(vectors) {
    let most = 0;
    for (const vector of vectors) for (const value of vector) most = Math.max(most, Math.abs(value));
    return most || 1;
  }

  // The identity, term by term, for the chosen key.
  add() {
    const { app, exact } = this;
    const [query, key] = [app.v.step, this.key];
    const { queries, keys } = app.sides;
    const { scores, weights, denominator } = exact.row(query);
    const dot = exact.dot(query, key);
    const [scaled, capped, score] = [dot * exact.scale, exact.capped(dot), scores[key]];
    const steps = [["q · k = Σ products", showNumber(dot, 4)], [`× scale ${exact.scale.toPrecision(4)}`, showNumber(scaled, 4)]];
    if (exact.softcap) steps.push([`softcap ${exact.softcap}`, showNumber(capped, 4)]);
    if (!exact.visible(query, key) || score === -Infinity) steps.push(["mask", "may not look there"]);
    else if (exact.finished) steps.push(["+ bias", showNumber(score - capped, 4)]);
    steps.push(["score", showNumber(score, 4)]);
    if (exact.sink !== null) steps.push(["learned sink in the denominator", showNumber(exact.sink, 4)]);
    steps.push([`exp(score ${denominator < 0 ? "+" : "−"} ${showNumber(Math.abs(denominator), 4)})`, app.words(weights[key], true)]);
    const name = (text) => make("bdi", {}, text);
    const heading = make("p", {}, `token ${query} `, name(queries.labels[query]), ` looks at token ${key} `, name(keys.labels[key]));
    const list = make("dl", {}, ...steps.map(([words, value]) => make("div", {}, make("dt", {}, words), make("dd", {}, value))));
    this.identity.replaceChildren(heading, list);
  }

  paint() {
    if (this.exact?.dim && this.ready) this.scroller.paint();
  }

  draw(pen, { width, first, last, top }) {
    const { app, exact } = this;
    if (!exact || !this.ready) return;
    const { theme } = app.palette;
    const { queries, keys } = app.sides;
    const query = app.v.step;
    const q = exact.query(query);
    const { scores, weights } = exact.row(query);
    const chosen = this.key;
    const narrow = width < 620;
    const label = narrow ? 76 : 128;
    const numbers = narrow ? 62 : 276;
    const strip = (width - label - numbers - 24) / 2;
    const [keyAt, productAt, numberAt] = [label + 6, label + strip + 16, label + 2 * strip + 26];
    const cells = (x, y, height, values, most) => {
      const each = strip / values.length;
      for (let at = 0; at < values.length; at++) pen.rect(x + at * each, y, each + 0.4, height, css(app.palette.signed(values[at], most)));
    };
    const highest = Math.max(1e-9, ...weights.subarray(0, this.count));
    const product = new Float32Array(q.length);
    for (let key = first; key < Math.min(last, this.count); key++) {
      const y = top + key * ROW;
      const k = exact.key(key);
      const seen = exact.visible(query, key);
      if (key === chosen) pen.rect(0, y + 1, width, ROW - 2, theme.accent, { alpha: 0.14, radius: 4 });
      pen.text(label, y + ROW / 2, keys.labels[key] ?? "", { size: 12.5, anchor: "end", fill: seen ? theme.ink : theme.muted, most: label - 6, weight: key === chosen ? 600 : 400 });
      cells(keyAt, y + 5, ROW - 10, k, this.most.k);
      for (let at = 0; at < q.length; at++) product[at] = q[at] * k[at];
      cells(productAt, y + 5, ROW - 10, product, this.most.p);
      if (!narrow) {
        pen.text(numberAt + 62, y + ROW / 2, showNumber(exact.dot(query, key), 2), { size: 12, anchor: "end", fill: theme.muted });
        pen.text(numberAt + 122, y + ROW / 2, showNumber(scores[key], 2), { size: 12, anchor: "end", fill: theme.muted });
        pen.rect(numberAt + 134, y + 7, 66 * (weights[key] / highest), ROW - 14, app.palette.background[200], { radius: 2 });
      }
      pen.text(numberAt + (narrow ? 58 : 268), y + ROW / 2, app.words(weights[key], true), { size: narrow ? 10.5 : 11.5, anchor: "end", fill: theme.ink });
    }
    pen.rect(0, 0, width, 58, theme.card);
    pen.text(label, 20, queries.labels[query] ?? "", { size: 13, anchor: "end", weight: 600, fill: theme.accent, most: label - 6 });
    cells(keyAt, 9, 22, q, this.most.q);
    for (const [x, words] of [[keyAt, "keys k"], [productAt, "products q × k"]]) pen.text(x, 47, words, { size: 11, fill: theme.muted });
    pen.text(productAt, 20, "← query q", { size: 11, fill: theme.muted });
    const names = narrow ? [[58, "weight"]] : [[62, "dot"], [122, "score"], [268, "weight"]];
    for (const [x, words] of names) pen.text(numberAt + x, 47, words, { size: 11, anchor: "end", fill: theme.muted });
  }

  describe() {
    const { app } = this;
    if (!this.exact?.dim) return "Queries and keys of this head did not travel";
    if (!this.ready) return "Queries and keys of this head are on their way";
    const { queries, keys } = app.sides;
    const { scores, weights } = this.exact.row(app.v.step);
    return `Token ${app.v.step}: ${queries.labels[app.v.step]} looks at ${keys.labels[this.key]}: dot product ${showNumber(this.exact.dot(app.v.step, this.key), 3)}, score ${showNumber(scores[this.key], 3)}, weight ${app.words(weights[this.key], true)}`;
  }

  point() {}

  resize() {
    this.paint();
  }

  picture() {
    if (!this.exact?.dim || !this.ready) return null;
    const { app, scroller } = this;
    const first = Math.floor(scroller.element.scrollTop / ROW);
    const last = Math.min(this.count, first + Math.ceil(scroller.element.clientHeight / ROW));
    return {
      width: 1000, height: 86 + (last - first) * ROW, name: `neuron-layer${app.layer.index}-${app.head.head}-token${app.v.step}`,
      draw: (pen) => {
        pen.text(0, 8, `${app.layerName}, ${app.head.name}. ${this.describe()}`, { size: 13, weight: 600, fill: app.palette.theme.ink, most: 1000 });
        this.draw(moved(pen, 0, 28), { width: 1000, first, last, top: 58 - first * ROW });
      },
    };
  }
}
