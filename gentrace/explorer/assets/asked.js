// Exact numbers of heads whose queries and keys did not travel: windows that are asked for when they are looked at, and
// kept for a while. Whoever needs one that is not here goes on without, and is called again when it has arrived.

import { Vectors } from "./cells.js";

const SIDE = 128; // rows and keys of a tile
const STRIP = 32_768; // cells of a strip: some rows with all of their keys
const KEPT = 300; // windows that are kept
const PAUSE = 30; // milliseconds in which questions gather
const BYTES = 900_000; // of an answer

class Window {
  constructor(buffer, [a, b, c, d]) {
    this.columns = d - c;
    [this.query, this.key] = [a, c];
    const cells = (b - a) * this.columns;
    this.weights = new Float32Array(buffer, 0, cells);
    this.scores = buffer.byteLength > 4 * cells ? new Float32Array(buffer, 4 * cells, cells) : null;
  }

  at(query, key) {
    return (query - this.query) * this.columns + key - this.key;
  }
}

export class Windows {
  constructor(link, arrived) {
    Object.assign(this, { link, arrived, found: new Map(), asked: new Set(), missing: new Map(), lost: new Set() });
  }

  // A window if it is here; if it is not and is wanted, it is asked for soon.
  get(layer, head, sides, wanted) {
    const name = [layer.part, head, ...sides].join();
    const one = this.found.get(name);
    if (one) {
      // What was used last is forgotten last.
      this.found.delete(name);
      this.found.set(name, one);
      return one;
    }
    if (wanted && !this.asked.has(name) && !this.lost.has(name)) {
      this.missing.set(name, { layer, head, sides });
      this.timer ??= setTimeout(() => this.ask(), PAUSE);
    }
    return null;
  }

  async ask() {
    this.timer = null;
    const missing = [...this.missing];
    this.missing.clear();
    for (const [name] of missing) this.asked.add(name);
    await Promise.all(missing.map(async ([name, { layer, head, sides }]) => {
      try {
        const [a, b, c, d] = sides;
        const buffer = await this.link.ask({ what: "window", part: layer.part, head, queries: [a, b], keys: [c, d] });
        this.found.set(name, new Window(buffer, sides));
        if (this.found.size > KEPT) this.found.delete(this.found.keys().next().value);
      } catch (error) {
        this.lost.add(name);
        this.failed = error;
      }
      this.asked.delete(name);
    }));
    this.arrived();
  }
}

// What can be asked about one head, or about the mean of a layer's heads.
export class Asked {
  constructor(windows, layer, head) {
    Object.assign(this, { windows, layer, head });
    [this.start, this.stop] = layer.queries;
    this.rows = Math.max(1, Math.floor(STRIP / layer.keys));
  }

  strip(query, wanted = false) {
    const first = this.start + Math.floor((query - this.start) / this.rows) * this.rows;
    return this.windows.get(this.layer, this.head, [first, Math.min(first + this.rows, this.stop), 0, this.layer.keys], wanted);
  }

  tile(query, key, wanted = false) {
    const [row, column] = [this.start + Math.floor((query - this.start) / SIDE) * SIDE, Math.floor(key / SIDE) * SIDE];
    return this.windows.get(this.layer, this.head, [row, Math.min(row + SIDE, this.stop), column, Math.min(column + SIDE, this.layer.keys)], wanted);
  }

  // One cell, if its numbers are here.
  cell(query, key, wanted = false) {
    const one = this.strip(query) ?? this.tile(query, key, wanted);
    if (!one) return null;
    const at = one.at(query, key);
    return { weight: one.weights[at], score: one.scores ? one.scores[at] : null };
  }

  // A whole row, asked for if it is not here.
  row(query) {
    const strip = this.strip(query, true);
    if (!strip) return null;
    const at = strip.at(query, 0);
    const part = (values) => values && values.subarray(at, at + this.layer.keys);
    return { query, weights: part(strip.weights), scores: part(strip.scores) };
  }

  // Calls back for each cell of a window that a row can see; false if something of it is still to come.
  each([a, b, c, d], done) {
    const tiles = [];
    let whole = true;
    for (let row = this.start + Math.floor((a - this.start) / SIDE) * SIDE; row < b; row += SIDE) {
      for (let column = Math.floor(c / SIDE) * SIDE; column < d; column += SIDE) {
        if (this.layer.causal && column >= Math.min(row + SIDE, b)) continue;
        const tile = this.tile(row, column, true);
        if (tile) tiles.push([row, column, tile]);
        else whole = false;
      }
    }
    if (!whole) return false;
    for (const [row, column, tile] of tiles) {
      for (let query = Math.max(a, row); query < Math.min(b, row + SIDE); query++) {
        const last = Math.min(d, column + SIDE, this.layer.causal ? query + 1 : Infinity);
        for (let key = Math.max(c, column); key < last; key++) done(query, key, tile.weights[tile.at(query, key)]);
      }
    }
    return true;
  }
}

// The keys of one head and the queries that were looked at, for the neuron tab.
export class AskedVectors extends Vectors {
  constructor(link, asked, arrived) {
    super(asked.layer, asked.head);
    Object.assign(this, { link, asked, arrived, queries: new Map(), wanted: new Set() });
    this.finished = asked.layer.finished;
  }

  // Whether everything of a row is here; what is not is asked for.
  has(query) {
    const row = this.asked.row(query);
    if (!this.keyVectors && !this.reading) this.reading = this.readKeys();
    if (!this.queries.has(query) && !this.wanted.has(query)) this.readQuery(query);
    return Boolean(row && this.keyVectors && this.queries.has(query));
  }

  async readQuery(query) {
    this.wanted.add(query);
    const { part } = this.asked.layer;
    this.queries.set(query, new Float32Array(await this.link.ask({ what: "query", part, head: this.asked.head, query })));
    this.arrived();
  }

  async readKeys() {
    const { layer: { part }, head } = this.asked;
    const [each, found] = [Math.max(1, Math.floor(BYTES / (4 * this.dim))), new Float32Array(this.keys * this.dim)];
    for (let first = 0; first < this.keys; first += each) {
      const keys = [first, Math.min(first + each, this.keys)];
      found.set(new Float32Array(await this.link.ask({ what: "keys", part, head, keys })), first * this.dim);
    }
    this.keyVectors = found;
    this.arrived();
  }

  query(query) {
    return this.queries.get(query);
  }

  visible(query, key) {
    return this.row(query).scores[key] > -Infinity;
  }

  row(query) {
    const { scores, weights } = this.asked.row(query);
    let most = 0;
    for (let key = 0; key < this.keys; key++) if (weights[key] > weights[most]) most = key;
    return { query, scores, weights, denominator: scores[most] - Math.log(weights[most]) };
  }
}
