"use strict";
// The text so far: what came, underlined by its probability, with the current token's attention painted behind it.
// Token text enters through textContent only.

class RunningText {
  constructor(data, element, choose, hover) {
    this.data = data;
    this.element = element;
    this.tokens = data.running.map((text, position) => {
      const outer = document.createElement("span");
      const inner = document.createElement("span");
      const spaces = text.length - text.trimStart().length;
      const lead = /^ +$/.test(text.slice(0, spaces)) && spaces < text.length ? text.slice(0, spaces) : "";
      if (lead) outer.append(lead);
      inner.textContent = text.slice(lead.length);
      inner.className = position < data.promptLength ? "token prompt" : "token";
      inner.dataset.position = position;
      outer.append(inner);
      outer.hidden = true;
      return { outer, inner, level: null };
    });
    element.append(...this.tokens.map((token) => token.outer));
    this.shown = 0;
    this.query = this.next = null;
    element.addEventListener("click", (event) => {
      const token = event.target.closest("[data-position]");
      if (token) choose(Number(token.dataset.position));
    });
    element.addEventListener("pointermove", (event) => {
      const token = event.target.closest("[data-position]");
      hover(event, token ? Number(token.dataset.position) : null);
    });
    element.addEventListener("pointerleave", (event) => hover(event, null));
  }

  recolour(palette) {
    this.palette = palette;
    this.tokens.forEach((token, position) => {
      token.inner.style.textDecorationColor = palette.probability(this.data.probabilities[position]);
      token.level = null;
    });
  }

  show(row, values, scale) {
    const stop = Math.min(row + 2, this.tokens.length);
    for (let i = this.shown; i < stop; i++) this.tokens[i].outer.hidden = false;
    for (let i = stop; i < this.shown; i++) this.tokens[i].outer.hidden = true;
    this.shown = stop;
    for (let i = 0; i < stop; i++) {
      const token = this.tokens[i];
      let level = i > row ? HIDDEN : scale.level(values[i], i);
      // Coarse levels, so that a step touches only the words whose colour visibly changes.
      if (level >= 0) level = level < 8 ? HIDDEN : level & ~7;
      if (level === token.level) continue;
      token.level = level;
      token.inner.style.backgroundColor = level < 0 ? "" : this.palette.background[level];
      token.inner.style.color = level < 0 ? "" : this.palette.text[level];
      token.inner.classList.toggle("aside", level === SET_ASIDE);
    }
    this.mark("query", this.tokens[row]);
    this.mark("next", this.tokens[row + 1]);
    this.follow(this.tokens[stop - 1].outer);
  }

  mark(name, token) {
    if (this[name] === token) return;
    this[name]?.inner.classList.remove(name);
    token?.inner.classList.add(name);
    this[name] = token ?? null;
  }

  follow(span) {
    const below = span.offsetTop + span.offsetHeight - (this.element.scrollTop + this.element.clientHeight);
    if (below > -8 || span.offsetTop < this.element.scrollTop) {
      this.element.scrollTop = span.offsetTop - this.element.clientHeight * 0.6;
    }
  }
}
