"use strict";
// What Python wrote into the page: a JSON object, and one block of numbers in base64.
//
// The block holds, for each head, the log-denominator of every row (float32), then for each head its lower triangle of
// log-weights (float16). weight = exp(log-weight), score = log-weight + log-denominator: one number serves both.

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

// One head: rows start … stop − 1, row p with the keys 0 … p.
class Head {
  constructor(info, codes, denominators, start) {
    Object.assign(this, info);
    this.codes = codes;
    this.denominators = denominators;
    this.start = start;
  }

  at(row) {
    return (row * (row + 1) - this.start * (this.start + 1)) / 2;
  }

  weight(row, key) {
    return WEIGHT[this.codes[this.at(row) + key]];
  }

  score(row, key) {
    return LOG_WEIGHT[this.codes[this.at(row) + key]] + this.denominators[row - this.start];
  }

  // Fills out[0 … row] with the row's weights or scores.
  fill(row, what, out) {
    const at = this.at(row);
    if (what === "weights") {
      for (let key = 0; key <= row; key++) out[key] = WEIGHT[this.codes[at + key]];
    } else {
      const denominator = this.denominators[row - this.start];
      for (let key = 0; key <= row; key++) out[key] = LOG_WEIGHT[this.codes[at + key]] + denominator;
    }
  }
}

// The mean of several heads' weights, and of their scores, made when first asked for.
class Mean {
  constructor(info, heads, start, cells) {
    Object.assign(this, info);
    this.heads = heads;
    this.start = start;
    this.cells = cells;
    this.made = {};
  }

  at(row) {
    return (row * (row + 1) - this.start * (this.start + 1)) / 2;
  }

  values(what) {
    if (this.made[what]) return this.made[what];
    const sum = new Float32Array(this.cells);
    for (const head of this.heads) {
      const rows = head.denominators.length;
      for (let at = 0, row = this.start; row < this.start + rows; row++) {
        const denominator = head.denominators[row - this.start];
        for (let key = 0; key <= row; key++, at++) {
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
    out.set(this.values(what).subarray(at, at + row + 1));
  }
}

function readPayload() {
  const element = document.getElementById("payload");
  const data = JSON.parse(element.textContent);
  element.remove();
  const bytes = bytesOf("matrices");
  const [start, stop] = data.rows;
  const cells = (stop * (stop + 1) - start * (start + 1)) / 2;
  const count = data.heads.length;
  const denominators = new Float32Array(bytes.buffer, bytes.byteOffset, count * (stop - start));
  const codes = new Uint16Array(bytes.buffer, bytes.byteOffset + denominators.byteLength, count * cells);
  const heads = data.heads.map((info, place) => new Head(
    { ...info, name: `head ${info.head}` },
    codes.subarray(place * cells, (place + 1) * cells),
    denominators.subarray(place * (stop - start), (place + 1) * (stop - start)),
    start,
  ));
  data.layers = [...new Set(heads.map((head) => head.layer))];
  data.panels = new Map(data.layers.map((layer) => {
    const own = heads.filter((head) => head.layer === layer);
    const mean = new Mean({ layer, head: null, name: `mean of ${own.length} heads` }, own, start, cells);
    return [layer, own.length > 1 ? [mean, ...own] : own];
  }));
  return data;
}
