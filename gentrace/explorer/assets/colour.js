// From numbers to colours. The first key takes most of the weight in most heads; one honest linear scale over everything
// would show a bright first column and nothing else. So it is set aside, or the scale is logarithmic, and the page says
// which.

import { UNSEEN, WEIGHT } from "./cells.js";

export const ASIDE = -1;
export const NEVER = -2;
const FLOOR = 1e-4;

export function channels(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

export function mixed(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const lower = Math.min(Math.floor(place), stops.length - 2);
  const [a, b] = [channels(stops[lower]), channels(stops[lower + 1])];
  return a.map((value, at) => Math.round(value + (b[at] - value) * (place - lower)));
}

export function css([r, g, b]) {
  return `rgb(${r},${g},${b})`;
}

// Black or white, whichever reads better on a ground: one of them has a contrast of at least 4.5 (WCAG 2.2).
export function inkOn(ground) {
  const [r, g, b] = ground.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.1791 ? "#000000" : "#ffffff";
}

function packed([r, g, b], alpha = 255) {
  return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

// A theme's colours, ready to paint with.
export class Palette {
  constructor(theme) {
    this.theme = theme;
    this.rgb = Array.from({ length: 256 }, (_, level) => mixed(theme.attention, level / 255));
    this.background = this.rgb.map(css);
    this.ink = this.rgb.map(inkOn);
    this.unseen = channels(theme.unseen);
    this.balance = [theme.raw, theme.card, theme.accent];
  }

  // Beyond the palette, the same hues grown closer to the text's.
  head(place) {
    const { heads, ink } = this.theme;
    const rounds = Math.floor(place / heads.length);
    return rounds ? css(mixed([heads[place % heads.length], ink], Math.min(0.3 * rounds, 0.6))) : heads[place];
  }

  // Less to more of a signed number whose largest size is known.
  signed(value, most) {
    return mixed(this.balance, 0.5 + value / (2 * (most || 1)));
  }

  gradient(stops) {
    return `linear-gradient(90deg, ${stops.join(", ")})`;
  }
}

// Strongest byte of each row, the first key left out or not.
function strongest(codes, skip) {
  const found = [];
  for (let row = codes.start; row < codes.stop; row++) {
    const [at, width] = [codes.at(row), codes.width(row)];
    let most = 0;
    for (let column = skip; column < width; column++) {
      const code = codes.bytes[at + column];
      if (code > most && code !== UNSEEN) most = code;
    }
    if (most) found.push(most);
  }
  return found;
}

// How weights become levels 0 … 255; one scale may serve several heads.
export class Scale {
  constructor(heads, first, share) {
    this.first = first;
    this.log = first === "log";
    // How many keys are set aside: the first, or all that share a block with it.
    const pooled = heads.find((head) => !head.whole);
    const { causal, keys, kind } = heads[0].layer;
    this.skip = first === "aside" && kind === "self" && causal && keys > 1 ? (pooled?.blocks.keyEdges[1] ?? 1) : 0;
    const rows = heads.flatMap((head) => strongest(head.whole ?? head.blocks.codes, this.columns(head))).sort((a, b) => a - b);
    this.high = this.log || !rows.length ? 1 : Math.max(WEIGHT[rows[Math.floor(share * (rows.length - 1))]], 1e-3);
    this.low = this.log ? FLOOR : 0;
  }

  // Of a head's columns, how many are set aside.
  columns(head) {
    return head.whole ? this.skip : Math.min(this.skip, 1);
  }

  // exact: whether the weight is its cell's own, and not its block's.
  level(weight, key, exact = false) {
    if (Number.isNaN(weight)) return NEVER;
    if (key < (exact ? Math.min(1, this.skip) : this.skip)) return ASIDE;
    const share = this.log ? 1 + Math.log10(Math.max(weight, FLOOR)) / 4 : weight / this.high;
    return Math.round(255 * Math.min(1, Math.max(0, share)));
  }

  // Colours of all 256 codes, ready to be written into a picture.
  table(palette) {
    return Uint32Array.from(WEIGHT, (weight, code) => (code === UNSEEN ? packed(palette.unseen, 160) : packed(palette.rgb[this.level(weight, Infinity)])));
  }

  // A colour ready to be written, for a cell whose weight is exact.
  colour(weight, key, palette) {
    const level = this.level(weight, key, true);
    return level === NEVER ? packed(palette.unseen, 160) : level === ASIDE ? packed(palette.unseen) : this.packed(palette)[level];
  }

  packed(palette) {
    if (this.packedOf !== palette) [this.packedOf, this.levels] = [palette, Uint32Array.from(palette.rgb, (colour) => packed(colour))];
    return this.levels;
  }

  aside(palette) {
    return packed(palette.unseen);
  }

  // The words at the two ends of its colours, and what else there is to say.
  words() {
    return [this.log ? "≤ 0.0001" : "0", this.high >= 0.995 ? "1.0" : this.high.toPrecision(2), `${this.note()}.`];
  }

  note() {
    const kind = this.log ? "weights, logarithmic" : "weights, linear; stronger ones have the last colour";
    return `${kind}${this.skip ? `; first ${this.skip > 1 ? `${this.skip} tokens` : "token"} set aside (grey)` : ""}`;
  }
}

export function showWeight(value, exact = false) {
  if (Number.isNaN(value)) return "never seen";
  if (exact) return value === 0 ? "0" : value < 1e-4 ? value.toExponential(3) : value.toPrecision(5);
  if (value === 0) return "< 0.0001";
  return value >= 0.995 ? "1.0" : value.toPrecision(2);
}

export function showNumber(value, digits = 3) {
  if (value === null || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "masked";
  return value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
}

export function showPercent(value) {
  if (value === null) return "–";
  const percent = 100 * value;
  if (percent === 0) return "0 %";
  if (percent < 0.01) return "< 0.01 %";
  if (percent > 99.99) return percent < 100 ? "> 99.99 %" : "100 %";
  return `${percent >= 99.95 ? percent.toFixed(2) : percent.toPrecision(percent < 1 ? 2 : 3)} %`;
}
