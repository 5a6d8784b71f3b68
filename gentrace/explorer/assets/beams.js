// Every hypothesis that a beam search looked at, step below step: those that went on, and greyed those that did not.

import { showNumber, showPercent } from "./colour.js";
import { make } from "./pen.js";
import { Scroller } from "./scroller.js";
import { visited } from "./tip.js";

const ROW = 46;
const LEFT = 44; // room for the position
const LEAST = 58; // pixels of a hypothesis; a phone scrolls to those that it has no room for

export class BeamsView {
  constructor(app) {
    this.app = app;
    this.scroll = make("div", { tabIndex: 0, role: "img" });
    this.element = make("section", { className: "card beams" }, make("h2", {}, "The beam search"), make("div", { className: "wider" }, this.scroll), this.note = make("p", { className: "key" }));
    this.scroller = new Scroller(this.scroll, ROW, (pen, view) => this.draw(pen, view));
    visited(this.scroll, (event) => this.hover(event), () => app.tell(null, null));
    this.scroll.addEventListener("click", (event) => {
      const at = this.scroller.at(event);
      if (at) app.step(this.steps[at.row].position - 1);
    });
  }

  show() {
    const { beams } = this.app.trace;
    this.element.hidden = !beams;
    if (!beams) return;
    this.steps = beams.steps;
    this.most = Math.max(...beams.steps.map((step) => step.candidates.length));
    this.scroll.style.minWidth = `${LEFT + this.most * LEAST}px`;
    this.note.textContent = `${beams.width} hypotheses go on at each step, best first, with their summed log-probability in nats. Orange: the way to this text; grey: pruned; ■: ended.`;
    this.scroller.size(this.steps.length);
    const row = this.steps.findIndex((step) => step.position === this.app.v.step + 1);
    if (row >= 0) this.scroller.reveal(row);
    this.scroll.setAttribute("aria-label", this.describe(row));
    this.scroller.paint();
  }

  place(at, width) {
    const each = Math.min(170, (width - LEFT) / this.most);
    return [LEFT + at * each, each];
  }

  draw(pen, { width, first, last, top }) {
    const { theme } = this.app.palette;
    for (let row = first; row < last; row++) {
      const { position, candidates, chosen } = this.steps[row];
      const y = top + row * ROW;
      if (position === this.app.v.step + 1) pen.rect(0, y, width, ROW, theme.accent, { alpha: 0.1, radius: 4 });
      pen.text(LEFT - 10, y + ROW / 2, String(position), { size: 11, anchor: "end", fill: theme.muted });
      candidates.forEach((one, at) => {
        const [x, each] = this.place(at, width);
        const parent = row ? this.steps[row - 1].candidates.findIndex((before) => before.beam === one.parent) : -1;
        const [mine, kept] = [at === chosen, one.beam >= 0 || one.ended];
        if (parent >= 0) {
          const [from, wide] = this.place(parent, width);
          pen.lines([[from + wide / 2, y - 6], [x + each / 2, y + 6]], mine ? theme.accent : kept ? theme.muted : theme.line, mine ? 2.5 : 1);
        }
        pen.rect(x + 3, y + 6, each - 6, ROW - 12, mine ? theme.accent : kept ? theme.paper : theme.card, { stroke: kept ? null : theme.line, radius: 5 });
        const ink = mine ? theme.card : kept ? theme.ink : theme.muted;
        pen.text(x + each / 2, y + 16, `${one.label}${one.ended ? " ■" : ""}`, { size: 12.5, anchor: "middle", fill: ink, most: each - 12, weight: mine ? 600 : 400 });
        pen.text(x + each / 2, y + 31, showNumber(one.score, 2), { size: 10.5, anchor: "middle", fill: mine ? theme.card : theme.muted, most: each - 8 });
      });
    }
  }

  fate(one) {
    return one.ended ? "ended" : one.beam < 0 ? "pruned" : `goes on as beam ${one.beam}`;
  }

  hover(event) {
    const at = this.scroller.at(event);
    const step = at && this.steps[at.row];
    const [, each] = this.place(0, this.scroll.clientWidth);
    const one = step?.candidates[Math.floor((at.across * this.scroll.clientWidth - LEFT) / each)];
    if (!one) return this.app.tell(null, null);
    this.app.tell(event, [["token", String(step.position), one.label], ["score", `${showNumber(one.score, 4)} nats`, ""], ["probability", one.logprob === null ? "unknown" : showPercent(Math.exp(one.logprob)), ""], ["", this.fate(one), ""]]);
  }

  describe(row) {
    if (row < 0) return "Beam search; no hypotheses at this step";
    const { candidates, chosen } = this.steps[row];
    return `Beam search at token ${this.steps[row].position}: ${candidates.map((one, at) => `${one.label} ${showNumber(one.score, 2)} ${this.fate(one)}${at === chosen ? ", chosen" : ""}`).join("; ")}`;
  }
}
