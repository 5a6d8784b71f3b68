// Text as a row of tokens, each painted on its own. Token text enters through text nodes only.

import { showPercent } from "./colour.js";
import { make } from "./pen.js";
import { visited } from "./tip.js";

export class TextView {
  constructor(element, { choose, hover }) {
    this.element = element;
    const of = (event) => {
      const token = event.target.closest?.("[data-position]");
      return token ? Number(token.dataset.position) : null;
    };
    element.addEventListener("click", (event) => { if (of(event) !== null) choose(of(event)); });
    visited(element, (event) => hover(event, of(event)), (event) => hover(event, null));
  }

  // Lays the tokens out; role and label of each are up to the caller.
  fill(tokens, dress = () => ({})) {
    if (this.tokens === tokens) return;
    this.tokens = tokens;
    this.parts = tokens.running.map((text, position) => {
      const spaces = text.length - text.trimStart().length;
      const lead = /^ +$/.test(text.slice(0, spaces)) && spaces < text.length ? text.slice(0, spaces) : "";
      const inner = make("span", { className: position < tokens.promptLength ? "token prompt" : "token", ...dress(position) });
      inner.textContent = text.slice(lead.length);
      inner.dataset.position = position;
      const ghosts = (tokens.drafts ?? []).filter((draft) => draft.position === position).map((draft) => {
        const words = `${draft.label}: drafted here and rejected, probability ${draft.logprob === null ? "unknown" : showPercent(Math.exp(draft.logprob))}`;
        return make("del", { className: "ghost", title: words, "aria-label": words }, draft.running);
      });
      return { outer: make("span", {}, ...ghosts, lead, inner), inner, background: "", line: "" };
    });
    this.element.replaceChildren(...this.parts.map((part) => part.outer));
    this.shown = this.parts.length;
    this.marks = {};
    this.reached = this.parts.length;
  }

  // Only the first tokens are shown.
  limit(stop) {
    const end = Math.min(stop, this.parts.length);
    for (let at = this.shown; at < end; at++) this.parts[at].outer.hidden = false;
    for (let at = end; at < this.shown; at++) this.parts[at].outer.hidden = true;
    this.shown = end;
  }

  paint(position, background, ink) {
    const part = this.parts[position];
    if (part.background === background) return;
    part.background = background;
    part.inner.classList.toggle("aside", background === "aside");
    part.inner.style.backgroundColor = background === "aside" ? "" : background;
    part.inner.style.color = ink;
  }

  underline(position, colour) {
    this.parts[position].inner.style.textDecorationColor = colour;
  }

  mark(name, position) {
    if (this.marks[name] === position) return;
    this.parts[this.marks[name]]?.inner.classList.remove(name);
    this.parts[position]?.inner.classList.add(name);
    this.marks[name] = position;
  }

  follow(position) {
    const span = this.parts[Math.min(position, this.parts.length - 1)]?.outer;
    if (!span) return;
    const below = span.offsetTop + span.offsetHeight - (this.element.scrollTop + this.element.clientHeight);
    if (below > -8 || span.offsetTop < this.element.scrollTop) this.element.scrollTop = span.offsetTop - this.element.clientHeight * 0.6;
  }

  // Draws the tokens into a file's picture and returns the height that they took.
  draw(pen, x, y, width, colours, size = 16) {
    let [left, top] = [x, y];
    for (let at = 0; at < this.shown; at++) {
      const { background, ink, outline, line: under = null } = colours(at);
      for (const [line, words] of this.tokens.running[at].split("\n").entries()) {
        if (line) [left, top] = [x, top + size * 1.7];
        if (!words) continue;
        const wide = pen.measure(words, size, { serif: true });
        if (left + wide > x + width && left > x) [left, top] = [x - (words.startsWith(" ") ? pen.measure(" ", size, { serif: true }) : 0), top + size * 1.7];
        if (background || outline) pen.rect(left, top, wide, size * 1.4, background, { stroke: outline, radius: 2 });
        if (under) pen.rect(left, top + size * 1.32, Math.min(wide, width), 2, under);
        pen.text(left, top + size * 0.72, words, { size, serif: true, fill: ink, most: width });
        left += Math.min(wide, width);
      }
    }
    return top + size * 1.7 - y;
  }
}
