// What a picture needs beside it to be read: a colour scale, on the screen and in a file, and there also what came with what
// probability.

import { modelShare } from "./alternatives.js";
import { css, mixed, showPercent } from "./colour.js";
import { make } from "./pen.js";

const STEPS = 48; // colours of a scale
const BAR = 19; // pixels of a row of bars

// A colour scale between two words, with a note after them, under a picture on the screen.
export class ScaleKey {
  constructor() {
    this.ramp = make("span", { className: "swatch wide" });
    [this.low, this.high, this.note] = ["span", "span", "span"].map((tag) => make(tag));
    this.element = make("p", { className: "key" }, this.low, this.ramp, this.high, this.note);
  }

  show(gradient, [low, high, note]) {
    this.ramp.style.background = gradient;
    [this.low.textContent, this.high.textContent, this.note.textContent] = [low, high, ` ${note}`];
  }
}

// A colour scale between two words, and a note after them; returns its height.
export function drawRamp(pen, x, y, stops, [low, high, note], { ink, muted, line, most }) {
  const options = { size: 11, fill: muted };
  const wide = 110;
  const left = x + pen.measure(low, 11, {}) + 6;
  pen.text(x, y + 6, low, options);
  for (let at = 0; at < STEPS; at++) pen.rect(left + (at * wide) / STEPS, y, wide / STEPS + 0.5, 12, css(mixed(stops, at / (STEPS - 1))));
  pen.rect(left, y, wide, 12, null, { stroke: line });
  pen.text(left + wide + 6, y + 6, high, { ...options, fill: ink });
  const after = left + wide + 12 + pen.measure(high, 11, {});
  pen.text(after, y + 6, note, { ...options, most: Math.max(40, most - (after - x)) });
  return 20;
}

// What could have come at a position, as bars; returns the height, which is that of as many as any position has.
export function drawAlternatives(pen, x, y, width, tokens, position, theme) {
  const rows = tokens.alternatives[position] ?? [];
  const [name, numbers] = [110, tokens.warped ? 130 : 66];
  const [left, room] = [x + name + 8, width - name - numbers - 16];
  rows.forEach((one, at) => {
    const [word, model, sampled, came] = one;
    const [top, options] = [y + at * BAR, { size: 12, anchor: "end", most: name }];
    const bar = (share, colour, from, tall) => pen.rect(left, top + from, Math.max(0.5, share * room), tall, colour);
    const number = (words, right) => pen.text(x + width - right, top + 9, words, { size: 11, anchor: "end", fill: theme.muted });
    pen.text(x + name, top + 9, tokens.words[word], { ...options, fill: came ? theme.accent : theme.ink, weight: came ? 700 : 400 });
    bar(model, came ? theme.accent : theme.raw, 3, sampled === null ? 12 : 6);
    number(showPercent(modelShare(tokens, position, one)), numbers - 64);
    if (sampled === null) return;
    bar(sampled, theme.sampled, 10, 5);
    number(sampled === 0 ? "excluded" : showPercent(sampled), 0);
  });
  return BAR * Math.max(0, ...tokens.alternatives.map((one) => one.length));
}
