// Replay: the text so far with what the current token looks at painted behind it, what may come next, and the matrix
// uncovered row by row.

import { fillAlternatives, predicted } from "./alternatives.js";
import { BeamsView } from "./beams.js";
import { ASIDE, css, mixed, showNumber, showPercent } from "./colour.js";
import { drawAlternatives, drawRamp, ScaleKey } from "./legend.js";
import { MatrixView, paintThumb, sheetOf } from "./matrix.js";
import { make, measuring } from "./pen.js";
import { TextView } from "./text.js";

const THUMB = 36; // CSS pixels along a side of a small picture

export class ReplayTab {
  constructor(app, panel) {
    this.app = app;
    panel.innerHTML = "";
    const card = (name, title, ...parts) => make("section", { className: `card ${name}` }, make("h2", {}, title), ...parts);
    this.source = make("div", { className: "running source", tabIndex: 0, role: "group", "aria-label": "Source text; background: what the current token looks at" });
    this.text = make("div", { className: "running", tabIndex: 0, role: "group", "aria-label": "Text so far; background: what the current token looks at; underline: probability" });
    this.swatches = [make("span", { className: "swatch" }), make("span", { className: "swatch" })];
    const key = make("p", { className: "key" },
      make("span", { className: "part" }, this.swatches[0], "background: the current token’s attention"),
      this.underlineKey = make("span", { className: "part" }, this.swatches[1], "underline: probability, surprising to expected"),
      this.ghostKey = make("span", { className: "part" }, make("del", {}, "struck through"), ": drafted and rejected"),
    );
    this.chosen = make("bdi", { className: "chosen-token" });
    this.numbers = make("span", { className: "numbers" });
    this.bars = make("div", { className: "alternatives", role: "list", "aria-label": "Most likely next tokens" });
    this.strip = make("div", { className: "strip", role: "radiogroup", "aria-label": "Attention head" });
    const plot = make("div");
    this.matrixTitle = make("h2", { className: "matrix-name" });
    this.scaleKey = new ScaleKey();
    panel.append(
      card("text", "The text so far", this.source, this.text, key),
      this.next = card("next", "What comes next", make("p", { className: "chosen" }, this.chosen, this.numbers), this.bars, this.barsKey = make("p", { className: "key" })),
      make("section", { className: "card matrix" }, this.matrixTitle, this.strip, plot, this.scaleKey.element),
    );
    this.textTitle = panel.querySelector(".text h2");
    this.beams = new BeamsView(app);
    panel.append(this.beams.element);
    const choose = (position) => app.step(position);
    const hover = (event, key) => app.hoverKey(event, key);
    this.running = new TextView(this.text, { choose, hover: (event, at) => app.v.kind === "self" && hover(event, at) });
    this.foreign = new TextView(this.source, { choose: () => {}, hover });
    this.matrix = new MatrixView(plot, app.palette, { hover: (event, cell) => app.hover(event, cell), move: app.mover, curtain: true });
    this.strip.addEventListener("keydown", (event) => this.stripKey(event));
  }

  stripKey(event) {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    this.app.moveHead(move);
    this.strip.querySelector("[aria-checked=true]").focus();
  }

  show(changed) {
    const { app } = this;
    const { kind } = app.v;
    this.nameMatrix();
    if (changed.has("data") || changed.has("look")) {
      const { queries, keys } = app.sides;
      // An encoder reads all of its text at once.
      this.next.hidden = kind === "encoder" || !predicted(app.trace.text);
      this.underlineKey.hidden = this.next.hidden;
      this.textTitle.textContent = this.next.hidden ? "The text" : "The text so far";
      this.source.hidden = kind === "self";
      if (kind !== "self") this.foreign.fill(keys);
      this.running.fill(kind === "encoder" ? queries : app.trace.text);
      this.fillStrip();
      this.matrix.palette = app.palette;
      this.matrix.show(sheetOf(app.head, app.scale, app.palette, app.sides), app.zoom);
      const colours = app.palette.gradient(app.palette.theme.attention);
      this.scaleKey.show(colours, app.scale.words());
      this.swatches[0].style.background = colours;
      this.swatches[1].style.background = app.palette.gradient(app.palette.theme.probability);
      this.underline();
      this.ghostKey.hidden = !this.running.tokens.drafts?.length;
    }
    if (changed.has("numbers")) this.matrix.refine();
    this.nameMatrix();
    this.step();
    this.beams.show();
  }

  // Before the matrix is laid out, which its title takes room from, and after, when it is known what it is worth.
  nameMatrix() {
    const { app } = this;
    const title = `${app.layerName}, ${app.head.name} · ${app.precision()}`;
    if (this.matrixTitle.textContent !== title) this.matrixTitle.textContent = title;
  }

  get refined() {
    return this.matrix.refined;
  }

  underline() {
    const { logprobs } = this.running.tokens;
    const { probability } = this.app.palette.theme;
    this.lines = logprobs.map((value) => (value === null ? null : css(mixed(probability, Math.exp(value)))));
    this.lines.forEach((colour, at) => this.running.underline(at, colour ?? "transparent"));
  }

  fillStrip() {
    const { app, strip } = this;
    // By the time that a picture is painted, another layer may have been chosen which is not here yet.
    const { layer } = app;
    const heads = app.choices();
    const sign = [layer, app.v.first, app.palette, heads.length];
    if (!this.sign || sign.some((part, at) => part !== this.sign[at])) {
      this.sign = sign;
      strip.hidden = heads.length < 2;
      const turn = (this.turn = {});
      this.buttons = heads.map((name) => {
        const button = make("button", { type: "button", role: "radio", title: name === "mean" ? "mean" : `head ${name}`, "aria-label": name === "mean" ? "mean of the heads" : `head ${name}` }, make("canvas", { width: THUMB, height: THUMB }), make("span", {}, String(name)));
        button.addEventListener("click", () => app.set({ head: name }));
        return button;
      });
      strip.replaceChildren(...this.buttons);
      const next = (at) => {
        if (turn !== this.turn || at >= heads.length) return;
        const head = app.store.head(layer, heads[at]);
        paintThumb(this.buttons[at].querySelector("canvas"), Math.round(THUMB * devicePixelRatio), head, app.scaleOf([head]), app.palette);
        app.later(() => next(at + 1));
      };
      app.later(() => next(0));
    }
    heads.forEach((name, at) => {
      const chosen = name === app.head.head;
      this.buttons[at].setAttribute("aria-checked", chosen);
      this.buttons[at].tabIndex = chosen ? 0 : -1;
      if (chosen && this.marked !== this.buttons[at]) {
        this.marked = this.buttons[at];
        strip.scrollLeft = this.marked.offsetLeft - strip.clientWidth / 2;
      }
    });
  }

  step() {
    const { app } = this;
    const { step, kind } = app.v;
    const width = app.row();
    const painted = kind === "self" ? this.running : this.foreign;
    const skip = app.rowExact ? Math.min(1, app.scale.skip) : app.scale.skip;
    let strongest = -1;
    // Only what is or was in sight: tokens to come have no colour to lose.
    const stop = Math.min(painted.parts.length, Math.max(width, painted.reached));
    painted.reached = width;
    for (let key = 0; key < stop; key++) {
      const level = key < width ? app.scale.level(app.values[key], key, app.rowExact) : 0;
      // Coarse levels, so that a step touches only the words whose colour visibly changes.
      const coarse = level < 8 ? 0 : level & ~7;
      if (level === ASIDE) painted.paint(key, "aside", "");
      else painted.paint(key, coarse > 0 ? app.palette.background[coarse] : "", coarse > 0 ? app.palette.ink[coarse] : "");
      if (key < width && key >= skip && (strongest < 0 || app.values[key] > app.values[strongest])) strongest = key;
    }
    if (strongest >= 0 && !(app.values[strongest] > 0)) strongest = -1;
    if (kind !== "encoder") {
      this.running.limit(app.layer.causal || kind === "cross" ? step + 2 : Infinity);
      this.running.mark("next", app.layer.causal || kind === "cross" ? step + 1 : -1);
    }
    this.running.mark("query", step);
    this.running.follow(step + 1);
    this.matrix.step(step, strongest);
    this.showNext(step + 1);
    this.strongest = strongest;
    this.matrix.cells.setAttribute("aria-label", `Attention matrix of ${app.layerName}, ${app.head.name}. ${this.describe()}`);
  }

  showNext(position) {
    const { app } = this;
    const tokens = app.trace.text;
    const known = app.v.kind !== "encoder" && position < tokens.labels.length;
    this.chosen.textContent = known ? tokens.labels[position] : "";
    const [logprob, sampled, rank] = known ? [tokens.logprobs[position], tokens.sampled[position], tokens.rank[position]] : [null, null, null];
    const words = [];
    if (!known) words.push("the text ends here");
    if (logprob !== null) words.push(`${showPercent(Math.exp(logprob))} by the model`);
    if (sampled !== null) words.push(`${showPercent(sampled)} as sampled from`);
    if (rank !== null) words.push(rank === 0 ? "its first choice" : `its choice no. ${rank + 1}`);
    if (logprob !== null) words.push(`${showNumber(logprob, 2)} nats`);
    this.numbers.textContent = words.join(" · ");
    fillAlternatives(this.bars, tokens, known ? position : -1);
    const both = known && tokens.alternatives[position].some((one) => one[2] !== null);
    const note = `${both ? "Upper bar" : "Bar"}: the model’s own probability, in orange for the token that came.${both ? " Lower bar: as really sampled from." : ""}`;
    if (this.barsKey.textContent !== note) this.barsKey.textContent = note;
  }

  describe() {
    const { app, strongest } = this;
    const { queries, keys } = app.sides;
    const { step } = app.v;
    const most = strongest < 0 ? "" : `, looks most at ${keys.labels[strongest]}, weight ${app.words(app.values[strongest])}`;
    const tokens = app.trace.text;
    const next = app.v.kind !== "encoder" && step + 1 < tokens.labels.length ? `, next ${tokens.labels[step + 1]}${tokens.logprobs[step + 1] === null ? "" : ` ${showPercent(Math.exp(tokens.logprobs[step + 1]))}`}` : "";
    return `Token ${step}: ${queries.labels[step]}${most}${next}`;
  }

  point(cell) {
    this.matrix.point(cell);
  }

  resize() {
    this.matrix.resize();
    this.beams.show();
  }

  picture() {
    const { app, matrix, foreign, running } = this;
    const { theme } = app.palette;
    const { kind, step } = app.v;
    const size = matrix.drawn;
    const width = Math.max(size.width, 560);
    const painted = kind === "self" ? running : foreign;
    const colours = (view) => (at) => {
      const own = view === painted ? view.parts[at] : { background: "" };
      const aside = own.background === "aside";
      const ink = at < view.tokens.promptLength ? theme.muted : theme.ink;
      const outline = view !== running ? null : at === step ? theme.accent : at === step + 1 && kind !== "encoder" ? theme.muted : null;
      return { background: aside ? theme.unseen : own.background || null, ink: own.background && !aside ? own.inner.style.color : ink, outline, line: view === running ? this.lines[at] : null };
    };
    const texts = kind === "self" ? [running] : [foreign, running];
    const next = kind === "encoder" || !app.trace.text.labels[step + 1] ? -1 : step + 1;
    const draw = (pen) => {
      let y = 0;
      for (const view of texts) y += view.draw(pen, 0, y, width, colours(view)) + 6;
      y += 8;
      pen.text(0, y, next < 0 ? "" : `What comes next: ${app.trace.text.labels[next]} · ${this.numbers.textContent}`, { size: 12, weight: 600, fill: theme.ink, most: width });
      y += 16 + drawAlternatives(pen, 0, y + 16, width, app.trace.text, next, theme) + 14;
      matrix.draw(pen, 0, y, `${app.layerName}, ${app.head.name}, token ${step}`);
      y += size.height + 4;
      return y + drawRamp(pen, 0, y, theme.attention, app.scale.words(), { ...theme, most: width });
    };
    return { width, height: draw(measuring), name: `replay-layer${app.layer.index}-${app.head.head}-token${step}`, draw };
  }
}
