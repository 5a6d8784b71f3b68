// What the page carries: read once, each layer inflated when it is first needed. A page with a link carries no numbers and
// asks for them.

import { Asked, AskedVectors, Windows } from "./asked.js";
import { Blocks, Codes, Exact, Head, Mean, setScale } from "./cells.js";
import { linkTo } from "./link.js";

const TOGETHER = 4; // layers inflated at a time

function bytesOf(id) {
  const element = document.getElementById(id);
  const text = element.textContent;
  element.remove();
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

async function inflate(part) {
  if (!window.DecompressionStream) throw new Error("this browser cannot inflate data (DecompressionStream)");
  const stream = new Blob([bytesOf(`part-${part}`)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// Heads in the order in which their bytes come: whole ones first.
function inOrder(layer) {
  return [true, false].flatMap((whole) => layer.heads.filter((head) => layer.whole.includes(head) === whole));
}

export class Store {
  // arrived: called when numbers that were looked for have come.
  constructor(arrived) {
    const element = document.getElementById("payload");
    Object.assign(this, JSON.parse(element.textContent));
    element.remove();
    setScale(this.low);
    this.link = linkTo(this.link);
    this.arrived = arrived;
    this.windows = this.link && new Windows(this.link, arrived);
    this.neurons = new Map();
    this.loaded = new Map();
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
    const [codes, ...vectors] = await Promise.all([this.link ? this.askCodes(layer) : inflate(layer.part), ...names.map((name) => inflate(layer.exact[name]))]);
    const exact = new Map(names.map((name, at) => [Number(name), new Exact(vectors[at], layer, Number(name))]));
    const found = new Map();
    const [start, stop] = layer.queries;
    let at = 0;
    const take = (...shape) => {
      const size = Codes.size(...shape);
      const taken = new Codes(new Uint8Array(codes, at, size), ...shape);
      at += size;
      return taken;
    };
    for (const head of inOrder(layer)) {
      if (layer.whole.includes(head)) found.set(head, { whole: take(start, stop, layer.keys, layer.causal) });
      else {
        const [rows, columns] = [layer.queryEdges.length - 1, layer.keyEdges.length - 1];
        found.set(head, { blocks: new Blocks(take(0, rows, columns, layer.square), layer.queryEdges, layer.keyEdges) });
      }
    }
    const heads = new Map(layer.heads.map((head) => [head, new Head(layer, head, { ...found.get(head), exact: exact.get(head), asked: this.askable(layer, head) })]));
    this.loaded.set(layer, heads);
    return heads;
  }

  // The same bytes as a part has, head by head.
  async askCodes(layer) {
    const parts = await Promise.all(inOrder(layer).map((head) => this.link.ask({ what: "codes", part: layer.part, head })));
    return new Blob(parts).arrayBuffer();
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
    if (!heads.has("mean")) heads.set("mean", new Mean(layer, [...heads.values()], this.askable(layer, "mean")));
    return heads.get("mean");
  }

  // Everything else, while nothing better is to be done.
  async loadAll(progress) {
    const layers = this.traces.flatMap((trace) => trace.layers);
    for (let at = 0; at < layers.length; at += TOGETHER) {
      await Promise.all(layers.slice(at, at + TOGETHER).map((layer) => this.load(layer)));
      progress(Math.min(at + TOGETHER, layers.length), layers.length);
      await new Promise((done) => setTimeout(done));
    }
  }
}
