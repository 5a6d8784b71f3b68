"use strict";
// From numbers to colours. The first key takes most of the weight in most heads; one honest linear scale over
// everything would show a bright first column and nothing else. So it is masked, or the scale is logarithmic, and the
// page says which.

const LEVELS = 256;
const HIDDEN = -1;
const UNSEEN = -2;
const SET_ASIDE = -3;

function channels(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

function mixed(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const lower = Math.min(Math.floor(place), stops.length - 2);
  const [a, b] = [channels(stops[lower]), channels(stops[lower + 1])];
  return a.map((value, i) => Math.round(value + (b[i] - value) * (place - lower)));
}

// A theme's colours, ready to paint with.
class Palette {
  constructor(theme) {
    this.theme = theme;
    this.rgb = Array.from({ length: LEVELS }, (_, level) => mixed(theme.attention, level / (LEVELS - 1)));
    this.background = this.rgb.map(([r, g, b]) => `rgb(${r},${g},${b})`);
    this.text = this.rgb.map(([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 138 ? "#1c1a17" : "#fffaf0"));
  }

  probability(share) {
    return share === null ? "transparent" : `rgb(${mixed(this.theme.probability, share).join(",")})`;
  }

  gradient(stops) {
    return `linear-gradient(90deg, ${stops.join(", ")})`;
  }
}

function quantile(values, share) {
  if (!values.length) return NaN;
  const sorted = Float32Array.from(values).sort();
  const place = share * (sorted.length - 1);
  const lower = Math.floor(place);
  return sorted[lower] + (sorted[Math.min(lower + 1, sorted.length - 1)] - sorted[lower]) * (place - lower);
}

// How one panel's numbers become levels 0 … 255.
class Scale {
  constructor(panel, what, sink, rows, fullRows, floor) {
    this.what = what;
    this.sink = sink;
    this.log = what === "weights" && sink === "log";
    this.skip = sink === "mask" ? 1 : 0;
    this.unseen = false;
    this.whose = panel.crossed ? "the source’s first token" : "first token";
    const buffer = new Float32Array(panel.columns);
    const [strongest, scores] = [[], []];
    const stride = Math.max(1, Math.round((rows[1] - rows[0]) / 256));
    for (let row = rows[0]; row < rows[1]; row++) {
      panel.fill(row, what, buffer);
      if (Number.isNaN(buffer[0])) { this.unseen = true; continue; }
      let most = -Infinity;
      const count = panel.seen(row);
      for (let key = this.skip; key < count; key++) {
        if (buffer[key] > most) most = buffer[key];
        if (what === "scores" && row % stride === 0 && Number.isFinite(buffer[key])) scores.push(buffer[key]);
      }
      if (what === "scores" || most > 0) strongest.push(most);
    }
    if (what === "scores") {
      [this.low, this.high] = scores.length ? [quantile(scores, 0.02), quantile(scores, 0.98)] : [0, 1];
      if (!(this.high > this.low)) this.high = this.low + 1;
    } else {
      [this.low, this.high] = this.log ? [floor, 1] : [0, strongest.length ? quantile(strongest, fullRows) : 1];
    }
    this.from = this.log ? Math.log10(this.low) : this.low;
    this.factor = (LEVELS - 1) / ((this.log ? Math.log10(this.high) : this.high) - this.from);
  }

  level(value, key) {
    if (Number.isNaN(value)) return UNSEEN;
    if (this.skip && key === 0) return SET_ASIDE;
    if (value === -Infinity) return HIDDEN;
    const place = ((this.log ? Math.log10(value) : value) - this.from) * this.factor;
    return place <= 0 ? 0 : place >= LEVELS - 1 ? LEVELS - 1 : Math.round(place);
  }

  note() {
    const clipped = this.log ? "" : "; beyond the ends of the scale colours stay the same";
    const weights = this.log ? "weights, logarithmic" : "weights, linear";
    const kind = this.what === "scores" ? "scores before softmax, linear" : weights;
    const aside = this.skip ? `; ${this.whose} set aside (grey)` : "";
    return `${kind}${aside}${clipped}${this.unseen ? "; striped rows were never seen" : ""}`;
  }
}

function showWeight(value) {
  if (Number.isNaN(value)) return "never seen";
  if (value === 0) return "0";
  if (value < 1e-13) return "< 1e-13";
  if (value < 0.001) return value.toExponential(1);
  const digits = value >= 0.1 ? 3 : 2;
  return value.toFixed(digits - 1 - Math.floor(Math.log10(value)));
}

// A score is as exact as its log-weight, which loses a digit below a weight of 1e-6.
function showScore(value, weight = 1) {
  if (Number.isNaN(value)) return "never seen";
  return value === -Infinity ? "masked" : value.toFixed(weight < 1e-6 ? 1 : 2).replace("-", "−");
}

function showPercent(value) {
  if (value === null) return "–";
  const percent = 100 * value;
  if (percent === 0) return "0 %";
  if (percent < 0.01) return "< 0.01 %";
  return `${percent >= 99.95 ? percent.toFixed(percent === 100 ? 0 : 2) : percent.toPrecision(percent < 1 ? 2 : 3)} %`;
}
