"use strict";
// The tree of a beam search: a window that moves with the steps. Columns are steps, best continuation first; a branch
// is a line from the end of its parent's word to its own. What becomes of a branch is not known before it happens.

const [BRANCH, LETTER, LONGEST] = [22, 7.3, 8];

// How wide text is on a grid of letters; good enough to keep lines off words.
function lettersOf(text) {
  return [...text].reduce((sum, letter) => sum + (letter.codePointAt(0) >= 0x1100 ? 2 : 1), 0);
}

class BeamTree {
  constructor(data, hover) {
    const card = document.getElementById("tree-card");
    card.hidden = !data.tree;
    document.querySelector("main").classList.toggle("searched", Boolean(data.tree));
    document.body.classList.toggle("long", Boolean(data.tree));
    if (!data.tree) return;
    this.tree = data.tree;
    this.one = data.tree.hypotheses;
    this.byPosition = new Map();
    this.one.position.forEach((position, index) => {
      this.byPosition.set(position, [...(this.byPosition.get(position) ?? []), index]);
    });
    this.svg = document.getElementById("tree");
    this.lines = Object.fromEntries(["pruned", "alive", "returned"].map((state) => [state, this.make("path", state)]));
    this.pool = [];
    document.getElementById("tree-note").textContent = `${data.tree.width} kept of up to ${data.tree.candidates} at each step, best first`;
    this.svg.style.height = `${BRANCH * data.tree.candidates + 6}px`;
    this.svg.addEventListener("pointermove", (event) => {
      const word = event.target.closest("[data-index]");
      hover(event, word ? this.told(Number(word.dataset.index)) : null);
    });
    this.svg.addEventListener("pointerleave", (event) => hover(event, null));
  }

  make(tag, name) {
    const element = document.createElementNS(this.svg.namespaceURI, tag);
    element.setAttribute("class", name);
    this.svg.append(element);
    return element;
  }

  resize() {
    if (!this.tree) return;
    const wide = this.svg.clientWidth;
    this.columns = Math.max(3, Math.floor(wide / (wide < 500 ? 74 : 92)));
    this.step = wide / this.columns;
  }

  state(index, position) {
    if (this.one.returned[index]) return "returned";
    const end = this.one.pruned[index];
    return end === null || end > position ? "alive" : "pruned";
  }

  name(index) {
    const letters = [...this.one.label[index]];
    const short = letters.length <= LONGEST ? letters : [...letters.slice(0, LONGEST - 1), "…"];
    return short.join("") + (this.one.ended[index] ? "∎" : "");
  }

  // Where a word ends, across.
  end(column, name) {
    return column * this.step + Math.min(0.9 * this.step, LETTER * lettersOf(name) + 7);
  }

  // The tree as it stands when a row has chosen the next token.
  show(row) {
    if (!this.tree) return;
    const first = this.tree.start - 1;
    const position = Math.max(row + 1, first);
    const left = Math.max(first, position - this.columns + 2);
    const paths = { pruned: "", alive: "", returned: "" };
    const words = left === first ? [[0, 0, this.tree.root, "returned", null]] : [];
    for (let at = Math.max(left, first + 1); at <= position; at++) {
      for (const index of this.byPosition.get(at) ?? []) {
        const [column, rank, state] = [at - left, this.one.rank[index], this.state(index, position)];
        words.push([column * this.step, rank, this.name(index), state, index]);
        if (at === position) words.push([this.end(column, this.name(index)), rank, this.score(index), "score", null]);
        if (column > 0) paths[state] += this.branch(index, column);
      }
    }
    for (const [state, path] of Object.entries(paths)) this.lines[state].setAttribute("d", path);
    words.forEach((word, place) => this.write(place, word));
    for (let place = words.length; place < this.pool.length; place++) this.write(place, [0, 0, "", "none", null]);
  }

  branch(index, column) {
    const parent = this.one.parent[index];
    const from = this.end(column - 1, parent === null ? this.tree.root : this.name(parent));
    const [high, low] = [parent === null ? 0 : this.one.rank[parent], this.one.rank[index]].map((rank) => (rank + 0.5) * BRANCH);
    return `M${from.toFixed(1)} ${high}L${(column * this.step - 3).toFixed(1)} ${low}`;
  }

  write(place, [x, rank, text, state, index]) {
    const word = (this.pool[place] ??= this.make("text", state));
    word.setAttribute("class", state);
    word.setAttribute("x", x.toFixed(1));
    word.setAttribute("y", (rank + 0.5) * BRANCH);
    word.textContent = text;
    if (index === null) delete word.dataset.index;
    else word.dataset.index = index;
  }

  score(index) {
    return this.one.score[index].toFixed(2).replace("-", "−");
  }

  // What the pointer is told.
  told(index) {
    const one = Object.fromEntries(Object.entries(this.one).map(([name, values]) => [name, values[index]]));
    const then = one.ended ? "complete" : one.beam === null ? "pruned" : `goes on as beam ${one.beam}`;
    return [
      ["position", `${one.position}`, one.label], ["score", `${this.score(index)} nats`, ""],
      ["token", `${showPercent(Math.exp(one.logprob))} by the model`, ""], ["then", then, ""],
    ];
  }
}
