// What the page carries: read once, each layer inflated when it is first needed. A page with a link carries no numbers and
// asks for them.

import { dropSame } from "./alternatives.js";
import { Asked, AskedVectors, Windows } from "./asked.js";
import { Blocks, Codes, Exact, Head, Mean, scale, setScale } from "./cells.js";
import { average, Decoder } from "./decode.js";
import { linkTo } from "./link.js";

const TOGETHER = 8; // layers read at a time
const MANY = 1_000_000; // cells from which on a mean is made where the layer is decoded, whether or not it is looked at

function textOf(part) {
  const element = document.getElementById(`part-${part}`);
  const text = element.textContent;
  element.remove();
  return text;
}

// Heads in the order in which their bytes come: whole ones first.
function inOrder(layer) {
  return [true, false].flatMap((whole) => layer.heads.filter((head) => layer.whole.includes(head) === whole));
}

// Start, stop, columns and whether it is a triangle: of a whole head's codes, or of its blocks'.
function shapeOf(layer, whole) {
  if (whole) return [...layer.queries, layer.keys, layer.causal];
  return [0, layer.queryEdges.length - 1, layer.keyEdges.length - 1, layer.square];
}

// The heads whose mean is shown, and where their codes lie: all heads where all are whole, else those that are blocks.
function meanOf(layer) {
  const whole = layer.heads.every((head) => layer.whole.includes(head));
  const heads = layer.heads.filter((head) => whole || !layer.whole.includes(head));
  const from = whole || !layer.whole.length ? 0 : layer.whole.length * Codes.size(...shapeOf(layer, true));
  return { whole, heads, spec: { from, count: heads.length, size: Codes.size(...shapeOf(layer, whole)), ...scale() } };
}

export class Store {
  // arrived: called when numbers that were looked for have come.
  constructor(arrived) {
    const element = document.getElementById("payload");
    Object.assign(this, JSON.parse(element.textContent));
    element.remove();
    for (const tokens of this.traces.flatMap(({ text, source }) => [text, source ?? []].flat())) dropSame(tokens);
    this.decoder = this.link ? null : new Decoder();
    setScale(this.low);
    this.link = linkTo(this.link);
    this.arrived = arrived;
    this.windows = this.link && new Windows(this.link, arrived);
    this.neurons = new Map();
    this.loaded = new Map();
    this.codes = new Map();
    this.waiting = new Map();
  }

  kinds(trace) {
    return [...new Set(this.traces[trace].layers.map((layer) => layer.kind))];
  }

  layers(trace, kind) {
    return this.traces[trace].layers.filter((layer) => layer.kind === kind);
  }

  layer(trace, kind, index) {
    return this.traces[trace].layers.find((layer) => layer.kind === kind && layer.index === index) ?? null;
  }

  // Whose tokens look and whose are looked at.
  sides(trace, kind) {
    const { text, source } = this.traces[trace];
    return { queries: kind === "encoder" ? source : text, keys: kind === "self" ? text : source };
  }

  // The heads of a layer if they have been read, else null.
  ready(layer) {
    return this.loaded.get(layer) ?? null;
  }

  load(layer) {
    if (!this.waiting.has(layer)) this.waiting.set(layer, this.read(layer));
    return this.waiting.get(layer);
  }

  async read(layer) {
    const names = Object.keys(layer.exact);
    const { spec } = meanOf(layer);
    const mean = spec.count > 1 && spec.count * spec.size > MANY ? spec : null;
    const decode = (part, more) => this.decoder.decode({ text: textOf(part), mean: more });
    const [codes, ...vectors] = await Promise.all([this.link ? this.askCodes(layer) : decode(layer.part, mean), ...names.map((name) => decode(layer.exact[name], null))]);
    const exact = new Map(names.map((name, at) => [Number(name), new Exact(vectors[at].buffer, layer, Number(name))]));
    let at = 0;
    const take = (shape) => {
      const taken = new Codes(new Uint8Array(codes.buffer, at, Codes.size(...shape)), ...shape);
      at += taken.bytes.length;
      return taken;
    };
    const found = new Map();
    for (const head of inOrder(layer)) {
      const whole = layer.whole.includes(head);
      found.set(head, this.pictured(layer, whole, take(shapeOf(layer, whole))));
    }
    const heads = new Map(layer.heads.map((head) => [head, new Head(layer, head, { ...found.get(head), exact: exact.get(head), asked: this.askable(layer, head) })]));
    this.loaded.set(layer, heads);
    this.codes.set(layer, codes);
    return heads;
  }

  pictured(layer, whole, codes) {
    return whole ? { whole: codes } : { blocks: new Blocks(codes, layer.queryEdges, layer.keyEdges) };
  }

  // The same bytes as a part has, head by head.
  async askCodes(layer) {
    const parts = await Promise.all(inOrder(layer).map((head) => this.link.ask({ what: "codes", part: layer.part, head })));
    return { buffer: await new Blob(parts).arrayBuffer(), mean: null };
  }

  askable(layer, head) {
    return this.windows && new Asked(this.windows, layer, head);
  }

  // Queries and keys of a head, which may still be on their way; null if nobody knows them.
  vectors(head) {
    if (head.exact || !this.link || !head.layer.dim || head.head === "mean") return head.exact;
    if (!this.neurons.has(head)) this.neurons.set(head, new AskedVectors(this.link, head.asked, this.arrived));
    return this.neurons.get(head);
  }

  // A head of a layer that has been read; "mean" is their mean.
  head(layer, head) {
    const heads = this.loaded.get(layer);
    if (head !== "mean") return heads.get(head) ?? heads.get(layer.heads[0]);
    if (!heads.has("mean")) heads.set("mean", this.mean(layer, heads));
    return heads.get("mean");
  }

  mean(layer, heads) {
    const { whole, heads: names, spec } = meanOf(layer);
    const { buffer, mean } = this.codes.get(layer);
    const codes = mean ? new Uint8Array(mean) : average(new Uint8Array(buffer), spec);
    const picture = this.pictured(layer, whole, new Codes(codes, ...shapeOf(layer, whole)));
    return new Mean(layer, names.map((name) => heads.get(name)), { ...picture, asked: this.askable(layer, "mean") });
  }

  // Everything else, while nothing better is to be done.
  async loadAll(progress) {
    const layers = this.traces.flatMap((trace) => trace.layers);
    for (let at = 0; at < layers.length; at += TOGETHER) {
      await Promise.all(layers.slice(at, at + TOGETHER).map((layer) => this.load(layer)));
      progress(Math.min(at + TOGETHER, layers.length), layers.length);
      await new Promise((done) => setTimeout(done));
    }
    this.decoder?.end();
  }
}
