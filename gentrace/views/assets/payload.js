"use strict";
// What Python wrote into the page: a JSON object, and one block of numbers in base64.
//
// The block holds, for each head, the log-denominator of every row (float32), then for each head its log-weights
// (float16): the lower triangle of self-attention, all keys of the source in cross-attention. weight = exp(log-weight), score = log-weight + log-denominator: one number serves both.

const LOG_WEIGHT = new Float32Array(65536);
const WEIGHT = new Float32Array(65536);
for (let code = 0; code < 65536; code++) {
  const sign = code & 0x8000 ? -1 : 1;
  const exponent = (code >> 10) & 31;
  const fraction = code & 1023;
  let value = sign * 2 ** (exponent - 15) * (1 + fraction / 1024);
  if (exponent === 0) value = sign * 2 ** -14 * (fraction / 1024);
  if (exponent === 31) value = fraction ? NaN : sign * Infinity;
  LOG_WEIGHT[code] = value;
  WEIGHT[code] = Math.exp(value);
}

function bytesOf(id) {
  const element = document.getElementById(id);
  const text = element.textContent.trim();
  element.remove();
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// One matrix: rows start … stop − 1, row p with the keys 0 … p, or with all of the source's.
class Panel {
  constructor(info, data) {
    Object.assign(this, info);
    [this.start, this.stop] = data.rows;
    this.crossed = info.kind === "cross";
    this.keyLabels = this.crossed ? data.source.labels : data.labels;
    this.columns = this.crossed ? data.source.labels.length : this.stop;
    this.cells = this.at(this.stop);
  }

  // Where a row begins among the cells.
  at(row) {
    if (this.crossed) return (row - this.start) * this.columns;
    return (row * (row + 1) - this.start * (this.start + 1)) / 2;
  }

  // How many keys a row may look at.
  seen(row) {
    return this.crossed ? this.columns : row + 1;
  }
}

class Head extends Panel {
  weight(row, key) {
    return WEIGHT[this.codes[this.at(row) + key]];
  }

  score(row, key) {
    return LOG_WEIGHT[this.codes[this.at(row) + key]] + this.denominators[row - this.start];
  }

  // Fills out[0 …] with what the row may look at: its weights or scores.
  fill(row, what, out) {
    const [at, count] = [this.at(row), this.seen(row)];
    if (what === "weights") {
      for (let key = 0; key < count; key++) out[key] = WEIGHT[this.codes[at + key]];
    } else {
      const denominator = this.denominators[row - this.start];
      for (let key = 0; key < count; key++) out[key] = LOG_WEIGHT[this.codes[at + key]] + denominator;
    }
  }
}

// The mean of several heads' weights, and of their scores, made when first asked for.
class Mean extends Panel {
  constructor(info, data, heads) {
    super(info, data);
    this.heads = heads;
    this.made = {};
  }

  values(what) {
    if (this.made[what]) return this.made[what];
    const sum = new Float32Array(this.cells);
    for (const head of this.heads) {
      for (let at = 0, row = this.start; row < this.stop; row++) {
        const [denominator, count] = [head.denominators[row - this.start], this.seen(row)];
        for (let key = 0; key < count; key++, at++) {
          sum[at] += what === "weights" ? WEIGHT[head.codes[at]] : LOG_WEIGHT[head.codes[at]] + denominator;
        }
      }
    }
    for (let at = 0; at < sum.length; at++) sum[at] /= this.heads.length;
    return (this.made[what] = sum);
  }

  weight(row, key) {
    return this.values("weights")[this.at(row) + key];
  }

  score(row, key) {
    return this.values("scores")[this.at(row) + key];
  }

  fill(row, what, out) {
    const at = this.at(row);
    out.set(this.values(what).subarray(at, at + this.seen(row)));
  }
}

function readHeads(data, bytes) {
  const rows = data.rows[1] - data.rows[0];
  const denominators = new Float32Array(bytes.buffer, bytes.byteOffset, data.heads.length * rows);
  const codes = new Uint16Array(bytes.buffer, bytes.byteOffset + denominators.byteLength);
  let from = 0;
  return data.heads.map((info, place) => {
    const head = new Head({ ...info, name: `head ${info.head}` }, data);
    const own = { codes: codes.subarray(from, from + head.cells), denominators: denominators.subarray(place * rows, (place + 1) * rows) };
    from += head.cells;
    return Object.assign(head, own);
  });
}

// Every layer's panels, by kind of attention: the mean of its heads first.
function byLayer(data, heads) {
  const layers = [...new Set(heads.map((head) => head.layer))];
  return new Map(layers.map((layer) => {
    const own = heads.filter((head) => head.layer === layer);
    const info = { layer, head: null, kind: own[0].kind, name: `mean of ${own.length} heads` };
    return [layer, own.length > 1 ? [new Mean(info, data, own), ...own] : own];
  }));
}

function readPayload() {
  const element = document.getElementById("payload");
  const data = JSON.parse(element.textContent);
  element.remove();
  const heads = readHeads(data, bytesOf("matrices"));
  data.kinds = [...new Set(heads.map((head) => head.kind))];
  data.panels = Object.fromEntries(data.kinds.map((kind) => [kind, byLayer(data, heads.filter((head) => head.kind === kind))]));
  return data;
}
