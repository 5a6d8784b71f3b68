// Tokens: the text itself, coloured by how probable the model found it, with what it would rather have written.

import { fillAlternatives, predicted } from "./alternatives.js";
import { css, inkOn, mixed, showNumber, showPercent } from "./colour.js";
import { drawRamp } from "./legend.js";
import { CanvasPen, make, measuring } from "./pen.js";
import { TextView } from "./text.js";

const MEASURES = { probability: "probability", surprise: "surprise", entropy: "entropy", rank: "rank" };
const TALL = 130;

export class TokensTab {
  constructor(app, panel) {
    this.app = app;
    this.choice = make("fieldset", { className: "choice" }, make("legend", {}, "colour by"));
    for (const [value, words] of Object.entries(MEASURES)) {
      const input = make("input", { type: "radio", name: "colour", value });
      input.addEventListener("change", () => app.set({ colour: value }));
      this.choice.append(make("label", {}, input, make("span", {}, words)));
    }
    this.text = make("div", { className: "running whole", role: "listbox", "aria-label": "Tokens of the text", "aria-orientation": "horizontal" });
    this.ramp = make("span", { className: "swatch wide" });
    [this.low, this.high] = [make("span"), make("span")];
    this.chart = make("canvas", { role: "img" });
    this.name = make("bdi", { className: "chosen-token" });
    this.numbers = make("dl", { className: "facts-list" });
    this.bars = make("div", { className: "alternatives", role: "list", "aria-label": "What the model held for likely instead" });
    panel.append(
      make("section", { className: "card text" }, make("h2", {}, "The text"), this.choice, this.text, this.scale = make("p", { className: "key" }, this.low, this.ramp, this.high), this.unknown = make("p", { className: "key" }, "These tokens were read, not predicted: there is no probability to colour them by."), this.chart),
      make("section", { className: "card next" }, make("h2", {}, "The token, and what could have come instead"), make("p", { className: "chosen" }, this.name), this.numbers, this.bars),
    );
    this.view = new TextView(this.text, {
      choose: (at) => this.choose(at),
      hover: (_, at) => this.detail(at ?? this.pinned),
    });
    this.text.addEventListener("focusin", (event) => { const at = event.target.dataset.position; if (at !== undefined) this.detail(Number(at)); });
    this.text.addEventListener("keydown", (event) => this.key(event));
    this.chart.addEventListener("pointermove", (event) => this.detail(this.chartAt(event)));
    this.chart.addEventListener("pointerleave", () => this.detail(this.pinned));
    this.chart.addEventListener("click", (event) => this.choose(this.chartAt(event)));
  }

  // The last token looks at nothing, so that it has no step of its own.
  choose(at) {
    this.app.controls.pause();
    this.app.set({ step: at, token: at });
  }

  get tokens() {
    return this.app.v.kind === "encoder" ? this.app.sides.queries : this.app.trace.text;
  }

  key(event) {
    const at = Number(event.target.dataset?.position ?? -1);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.tokens.labels.length - 1 }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.choose(Math.min(this.tokens.labels.length - 1, Math.max(0, next)));
    this.roving.focus();
  }

  // One token at a time can be reached with the tab key; arrows move on from there.
  roam(at) {
    const part = this.view.parts[at];
    if (!part) return;
    for (const [token, chosen] of [[this.roving, false], [part.inner, true]]) {
      if (!token) continue;
      token.tabIndex = chosen ? 0 : -1;
      token.setAttribute("aria-selected", chosen);
    }
    this.roving = part.inner;
  }

  // Value, colour share 0 … 1 (calm to striking) and words of a token under the chosen measure.
  measured(at) {
    const { logprobs, entropy, rank } = this.tokens;
    switch (this.app.v.colour) {
      case "surprise": return [logprobs[at] === null ? null : -logprobs[at], 10, "nats"];
      case "entropy": return [entropy[at], 6, "nats"];
      case "rank": return [rank[at] === null ? null : Math.log10(rank[at] + 1), 3, ""];
      default: return [logprobs[at] === null ? null : Math.exp(logprobs[at]), 1, ""];
    }
  }

  colour(at) {
    const { theme } = this.app.palette;
    const [value, most] = this.measured(at);
    if (value === null) return null;
    return this.app.v.colour === "probability" ? mixed(theme.probability, value) : mixed(theme.surprise, value / most);
  }

  show(changed) {
    const { app, view, tokens } = this;
    view.fill(tokens, (at) => ({ role: "option", tabIndex: -1, "aria-selected": "false", "aria-label": this.words(at, tokens.running[at].trim() || tokens.labels[at]) }));
    this.pinned = Math.min(app.v.token ?? app.v.step, tokens.labels.length - 1);
    for (const input of this.choice.querySelectorAll("input")) input.checked = input.value === app.v.colour;
    for (let at = 0; at < tokens.labels.length; at++) {
      const colour = this.colour(at);
      view.paint(at, colour ? css(colour) : "", colour ? inkOn(colour) : "");
    }
    const { theme } = app.palette;
    const [stops, low, high] = {
      probability: [theme.probability, "0 ", " 1"], surprise: [theme.surprise, "0 ", " 10 nats and more"],
      entropy: [theme.surprise, "0 ", " 6 nats and more"], rank: [theme.surprise, "first choice ", " its 1,000th and beyond"],
    }[app.v.colour];
    this.stops = stops;
    this.ramp.style.background = app.palette.gradient(stops);
    [this.low.textContent, this.high.textContent] = [low, `${high}; tokens without colour were not predicted${tokens.drafts?.length ? "; struck through: drafted and rejected" : ""}`];
    const known = predicted(tokens);
    for (const part of [this.choice, this.scale, this.chart]) part.hidden = !known;
    this.unknown.hidden = known;
    view.mark("query", this.pinned);
    this.roam(this.pinned);
    this.detail(this.pinned);
    this.paint();
  }

  words(at, name = this.tokens.labels[at]) {
    const { logprobs, rank } = this.tokens;
    if (logprobs[at] === null) return `${at} ${name}, not predicted`;
    return `${at} ${name}, probability ${showPercent(Math.exp(logprobs[at]))}, rank ${(rank[at] ?? 0) + 1}`;
  }

  detail(at) {
    if (at === null || at === undefined) return;
    const { labels, logprobs, sampled, entropy, rank } = this.tokens;
    this.name.textContent = labels[at];
    const known = (value, words) => (value === null ? "unknown" : words(value));
    const facts = [
      ["position", `${at}${at < this.tokens.promptLength ? ", given" : ", written"}`],
      ["probability", known(logprobs[at], (value) => showPercent(Math.exp(value)))],
      ...(this.tokens.warped ? [["as sampled from", known(sampled[at], showPercent)]] : []),
      ["surprise", known(logprobs[at], (value) => `${showNumber(-value, 2)} nats`)],
      ["entropy", known(entropy[at], (value) => `${showNumber(value, 2)} nats`)],
      ["rank", known(rank[at], (value) => `${value + 1}`)],
    ];
    this.numbers.replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    fillAlternatives(this.bars, this.tokens, at);
    this.detailed = at;
    this.paint();
  }

  chartAt(event) {
    const box = this.chart.getBoundingClientRect();
    const share = Math.min(0.9999, Math.max(0, (event.clientX - box.left) / box.width));
    return Math.floor(share * this.tokens.labels.length);
  }

  paint() {
    const width = this.text.clientWidth;
    if (!width) return;
    const pen = new CanvasPen(this.chart, width, TALL);
    Object.assign(this.chart.style, { width: `${width}px`, height: `${TALL}px` });
    this.bar(pen, 0, width);
    this.chart.setAttribute("aria-label", `${MEASURES[this.app.v.colour]} of every token, as bars; the same numbers stand at each token above`);
  }

  bar(pen, y, width) {
    const { theme } = this.app.palette;
    const count = this.tokens.labels.length;
    const each = width / count;
    const base = y + TALL - 12;
    pen.lines([[0, base], [width, base]], theme.line);
    for (let at = 0; at < count; at++) {
      const [value, most] = this.measured(at);
      if (value === null) continue;
      const tall = Math.max(1.5, Math.min(1, value / most) * (TALL - 26));
      pen.rect(at * each, base - tall, Math.max(1, each - (each > 4 ? 1 : 0)), tall, css(this.colour(at)));
    }
    if (this.detailed !== undefined) pen.rect((this.detailed + 0.5) * each - 1, base + 3, 3, 6, theme.accent);
    const start = this.tokens.promptLength * each;
    // Below the words and beyond the bars, where it is seen.
    if (start < width) pen.lines([[start, y + 14], [start, base + 9]], theme.ink, 1, [3, 3]);
    pen.text(2, y + 8, `${MEASURES[this.app.v.colour]}, token by token; dashed: where writing begins`, { size: 10.5, fill: theme.muted });
  }

  describe() {
    return this.words(this.pinned ?? 0);
  }

  point() {}

  resize() {
    this.paint();
  }

  picture() {
    const { theme } = this.app.palette;
    const width = 860;
    const colours = (at) => {
      const colour = this.colour(at);
      return { background: colour ? css(colour) : null, ink: colour ? inkOn(colour) : theme.muted, outline: at === this.pinned ? theme.accent : null };
    };
    const draw = (pen) => {
      pen.text(0, 8, `${this.app.trace.model}: tokens by ${MEASURES[this.app.v.colour]}`, { size: 13, weight: 600, fill: theme.ink, most: width });
      let y = 36 + this.view.draw(pen, 0, 28, width, colours);
      y += drawRamp(pen, 0, y, this.stops, [this.low.textContent.trim(), this.high.textContent.trim(), ""], { ...theme, most: width });
      this.bar(pen, y + 8, width);
      return y + 8 + TALL;
    };
    return { width, height: draw(measuring), name: `tokens-${this.app.v.colour}`, draw };
  }
}
