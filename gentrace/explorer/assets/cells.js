// One head's numbers. Whole heads travel as a byte a cell on a scale of equal ratios, others as the largest byte of each
// block, and exact heads as queries and keys, from which a row is computed when it is looked at.

export const UNSEEN = 255;
export const WEIGHT = new Float32Array(256);
const TOP = 254;
let step = 1;

export function setScale(low) {
  step = Math.log(1 / low) / (TOP - 1);
  for (let code = 1; code <= TOP; code++) WEIGHT[code] = Math.exp((code - TOP) * step);
  WEIGHT[UNSEEN] = NaN;
}

// What codes stand for, for who computes with many of them.
export function scale() {
  return { weights: WEIGHT, step };
}

// Bytes of a matrix: row r of a triangle has the columns 0 … r, any other row all of them.
export class Codes {
  constructor(bytes, start, stop, columns, triangle) {
    Object.assign(this, { bytes, start, stop, columns, triangle });
  }

  static size(start, stop, columns, triangle) {
    return triangle ? (stop * (stop + 1) - start * (start + 1)) / 2 : (stop - start) * columns;
  }

  at(row) {
    return this.triangle ? (row * (row + 1) - this.start * (this.start + 1)) / 2 : (row - this.start) * this.columns;
  }

  width(row) {
    return this.triangle ? row + 1 : this.columns;
  }

  code(row, column) {
    return this.bytes[this.at(row) + column];
  }
}

function placesOf(edges, stop) {
  const places = new Uint16Array(stop);
  for (let block = 0; block + 1 < edges.length; block++) places.fill(block, edges[block], edges[block + 1]);
  return places;
}

// The largest weight of each block of a matrix.
export class Blocks {
  constructor(codes, queryEdges, keyEdges) {
    Object.assign(this, { codes, queryEdges, keyEdges });
    this.rows = placesOf(queryEdges, queryEdges[queryEdges.length - 1]);
    this.columns = placesOf(keyEdges, keyEdges[keyEdges.length - 1]);
    this.size = Math.max(queryEdges[1] - queryEdges[0], keyEdges[1] - keyEdges[0]);
  }

  code(query, key) {
    const [row, column] = [this.rows[query], this.columns[key]];
    return column < this.codes.width(row) ? this.codes.code(row, column) : 0;
  }
}

// What a head does to a query and a key, wherever they come from.
export class Vectors {
  constructor(layer, head) {
    const [start, stop] = layer.queries;
    Object.assign(this, { start, stop, keys: layer.keys, dim: layer.dim, scale: layer.scale, softcap: layer.softcap });
    this.sink = layer.sinks ? layer.sinks[head] : null;
  }

  key(key) {
    return this.keyVectors.subarray(key * this.dim, (key + 1) * this.dim);
  }

  dot(query, key) {
    const [q, k] = [this.query(query), this.key(key)];
    let sum = 0;
    for (let at = 0; at < this.dim; at++) sum += q[at] * k[at];
    return sum;
  }

  capped(dot) {
    const scaled = dot * this.scale;
    return this.softcap ? this.softcap * Math.tanh(scaled / this.softcap) : scaled;
  }
}

// Queries and keys of one head that travelled; all else follows.
export class Exact extends Vectors {
  constructor(buffer, layer, head) {
    super(layer, head);
    const rows = this.stop - this.start;
    let at = 0;
    const take = (Type, count) => {
      const taken = new Type(buffer, at, count);
      at += 4 * count;
      return taken;
    };
    this.queryVectors = take(Float32Array, rows * this.dim);
    this.keyVectors = take(Float32Array, this.keys * this.dim);
    this.first = take(Int32Array, rows);
    this.past = take(Int32Array, rows);
    this.finished = layer.finished ? take(Float32Array, rows * this.keys) : null;
  }

  query(query) {
    return this.queryVectors.subarray((query - this.start) * this.dim, (query - this.start + 1) * this.dim);
  }

  visible(query, key) {
    const row = query - this.start;
    return key >= this.first[row] && key < this.past[row];
  }

  // The scores and weights of one row over all keys, and the log of its denominator.
  row(query) {
    if (this.last?.query === query) return this.last;
    const scores = new Float64Array(this.keys).fill(-Infinity);
    const weights = new Float64Array(this.keys);
    const row = query - this.start;
    if (this.first[row] < 0) {
      return (this.last = { query, scores: scores.fill(NaN), weights: weights.fill(NaN), denominator: NaN });
    }
    let top = this.sink ?? -Infinity;
    for (let key = this.first[row]; key < Math.min(this.past[row], this.keys); key++) {
      scores[key] = this.finished ? this.finished[row * this.keys + key] : this.capped(this.dot(query, key));
      if (scores[key] > top) top = scores[key];
    }
    let sum = this.sink === null ? 0 : Math.exp(this.sink - top);
    for (let key = 0; key < this.keys; key++) if (scores[key] > -Infinity) sum += weights[key] = Math.exp(scores[key] - top);
    if (sum > 0) for (let key = 0; key < this.keys; key++) weights[key] /= sum;
    return (this.last = { query, scores, weights, denominator: top + Math.log(sum) });
  }
}

// What one head's numbers and their mean have in common: the best that is here, and whether that is exact.
class Numbers {
  constructor(layer, asked) {
    Object.assign(this, { layer, asked, exact: null });
    [this.start, this.stop] = layer.queries;
  }

  width(query) {
    return this.layer.causal ? query + 1 : this.layer.keys;
  }

  // Whether a cell's numbers are exact.
  sure(query, key) {
    return Boolean(this.exact ?? this.asked?.cell(query, key));
  }

  weight(query, key) {
    return this.asked?.cell(query, key)?.weight ?? this.coded(query, key);
  }

  score(query, key) {
    return this.asked?.cell(query, key)?.score ?? null;
  }

  // Fills out[0 … width − 1] with a row's weights; exact ones if they are here or come soon, and says whether they are.
  row(query, out) {
    const weights = this.exact ? this.exact.row(query).weights : this.asked?.row(query)?.weights;
    const width = this.width(query);
    if (!weights) this.fill(query, out);
    else for (let key = 0; key < width; key++) out[key] = weights[key];
    return Boolean(weights);
  }

  // Calls back for each exact weight of a window; false if they are not here, or not yet.
  each(window, done) {
    if (!this.exact) return this.asked?.each(window, done) ?? false;
    const [a, b, c, d] = window;
    for (let query = a; query < b; query++) {
      const { weights } = this.exact.row(query);
      for (let key = c; key < Math.min(d, this.width(query)); key++) done(query, key, weights[key]);
    }
    return true;
  }

  get resolution() {
    if (this.exact) return "exact";
    return this.whole ? "8 bits" : `blocks of ${this.blocks.size}`;
  }
}

// One head as the views see it.
export class Head extends Numbers {
  constructor(layer, head, { whole = null, blocks = null, exact = null, asked = null }) {
    super(layer, asked);
    Object.assign(this, { head, whole, blocks, exact, name: `head ${head}` });
  }

  weight(query, key) {
    return this.exact ? this.exact.row(query).weights[key] : super.weight(query, key);
  }

  coded(query, key) {
    return WEIGHT[(this.whole ?? this.blocks).code(query, key)];
  }

  score(query, key) {
    return this.exact ? this.exact.row(query).scores[key] : super.score(query, key);
  }

  // Fills out[0 … width − 1] with a row of weights that travelled, and returns the width.
  fill(query, out) {
    const width = this.width(query);
    if (this.exact) {
      const { weights } = this.exact.row(query);
      for (let key = 0; key < width; key++) out[key] = weights[key];
    } else if (this.whole) {
      const { bytes } = this.whole;
      const at = this.whole.at(query);
      for (let key = 0; key < width; key++) out[key] = WEIGHT[bytes[at + key]];
    } else {
      for (let key = 0; key < width; key++) out[key] = WEIGHT[this.blocks.code(query, key)];
    }
    return width;
  }
}

// The mean of heads, whose picture is given.
export class Mean extends Numbers {
  constructor(layer, heads, { whole = null, blocks = null, asked = null }) {
    super(layer, asked);
    const of = heads.length < layer.heads.length ? ` of ${layer.heads.length}` : "";
    Object.assign(this, { head: "mean", heads, whole, blocks, name: `mean of ${heads.length}${of} heads` });
  }

  coded(query, key) {
    let sum = 0;
    for (const one of this.heads) sum += one.exact ? one.weight(query, key) : one.coded(query, key);
    return sum / this.heads.length;
  }

  fill(query, out) {
    const row = (this.part ??= new Float32Array(out.length));
    const width = this.width(query);
    out.fill(0, 0, width);
    for (const one of this.heads) {
      one.fill(query, row);
      for (let key = 0; key < width; key++) out[key] += row[key] / this.heads.length;
    }
    return width;
  }
}
