"use strict";
// The text so far: what came, underlined by its probability, with the current token's attention painted behind it. In
// cross-attention it is the source that is painted. Token text enters through textContent only.

// Words that stay, painted with levels of a scale.
class Words {
  constructor(element, running, hover) {
    this.element = element;
    this.tokens = running.map((text, position) => {
      const outer = document.createElement("span");
      const inner = document.createElement("span");
      const spaces = text.length - text.trimStart().length;
      const lead = /^ +$/.test(text.slice(0, spaces)) && spaces < text.length ? text.slice(0, spaces) : "";
      if (lead) outer.append(lead);
      inner.textContent = text.slice(lead.length);
      inner.className = "token";
      inner.dataset.position = position;
      outer.append(inner);
      return { outer, inner, level: null };
    });
    element.append(...this.tokens.map((token) => token.outer));
    element.addEventListener("pointermove", (event) => {
      const token = event.target.closest("[data-position]");
      hover(event, token ? Number(token.dataset.position) : null);
    });
    element.addEventListener("pointerleave", (event) => hover(event, null));
  }

  recolour(palette) {
    this.palette = palette;
    for (const token of this.tokens) token.level = null;
  }

  // The first `stop` words, of which `count` were looked at; without values none is painted.
  paint(stop, count, values, scale) {
    for (let i = 0; i < stop; i++) {
      const token = this.tokens[i];
      let level = !values || i >= count ? HIDDEN : scale.level(values[i], i);
      // Coarse levels, so that a step touches only the words whose colour visibly changes.
      if (level >= 0) level = level < 8 ? HIDDEN : level & ~7;
      if (level === token.level) continue;
      token.level = level;
      token.inner.style.backgroundColor = level < 0 ? "" : this.palette.background[level];
      token.inner.style.color = level < 0 ? "" : this.palette.text[level];
      token.inner.classList.toggle("aside", level === SET_ASIDE);
    }
  }

  follow(span) {
    const below = span.offsetTop + span.offsetHeight - (this.element.scrollTop + this.element.clientHeight);
    if (below > -8 || span.offsetTop < this.element.scrollTop) {
      this.element.scrollTop = span.offsetTop - this.element.clientHeight * 0.6;
    }
  }
}

// What an encoder read. Without words for it there is nothing to show.
class Source extends Words {
  constructor(data, hover) {
    super(document.getElementById("source"), data.source?.running ?? [], hover);
    document.getElementById("source-box").hidden = !this.tokens.length;
    document.querySelector("main").classList.toggle("read", this.tokens.length > 0);
  }

  show(values, scale, strongest) {
    if (!this.tokens.length) return;
    this.paint(this.tokens.length, this.tokens.length, values, scale);
    if (values && strongest !== null) this.follow(this.tokens[strongest].outer);
  }
}

class RunningText extends Words {
  constructor(data, element, choose, hover) {
    super(element, data.running, hover);
    this.data = data;
    this.tokens.forEach(({ outer, inner }, position) => {
      if (position < data.promptLength) inner.classList.add("prompt");
      outer.hidden = true;
    });
    this.shown = 0;
    this.query = this.next = null;
    // What was drafted in place of the words to come, which are hidden.
    this.ghosts = document.createElement("bdi");
    element.append(this.ghosts);
    element.addEventListener("click", (event) => {
      const token = event.target.closest("[data-position]");
      if (token) choose(Number(token.dataset.position));
    });
  }

  recolour(palette) {
    super.recolour(palette);
    this.tokens.forEach((token, position) => {
      token.inner.style.textDecorationColor = palette.probability(this.data.probabilities[position]);
    });
  }

  show(row, values, scale, ghosts) {
    const stop = Math.min(row + 2, this.tokens.length);
    for (let i = this.shown; i < stop; i++) this.tokens[i].outer.hidden = false;
    for (let i = stop; i < this.shown; i++) this.tokens[i].outer.hidden = true;
    this.shown = stop;
    this.paint(stop, row + 1, values, scale);
    this.mark("query", this.tokens[row]);
    this.mark("next", this.tokens[row + 1]);
    this.haunt(ghosts);
    this.follow(ghosts.length ? this.ghosts.lastChild : this.tokens[stop - 1].outer);
  }

  haunt(ghosts) {
    if (!ghosts.length && !this.ghosts.childElementCount) return;
    this.ghosts.replaceChildren(...ghosts.flatMap((ghost) => {
      const word = document.createElement("span");
      word.className = "ghost";
      word.textContent = ghost.label.replace(/^␣+(?=.)/, "");
      return [" ", word];
    }));
  }

  mark(name, token) {
    if (this[name] === token) return;
    this[name]?.inner.classList.remove(name);
    token?.inner.classList.add(name);
    this[name] = token ?? null;
  }
}
