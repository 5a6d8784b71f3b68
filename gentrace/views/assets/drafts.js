"use strict";
// Drafts that were rejected at a step, one after the other, with the probability that the model gave each.

class Drafts {
  constructor(data) {
    this.element = document.getElementById("drafts");
    this.most = Math.max(0, ...data.steps.map((step) => step.ghosts?.length ?? 0));
    this.element.hidden = document.getElementById("ghost-key").hidden = !this.most;
    // Room for the most that any step has, so that nothing jumps.
    this.element.style.setProperty("--slots", Math.min(this.most, 5) + 1);
  }

  show(ghosts) {
    if (!this.most) return;
    const said = document.createElement("p");
    said.textContent = ghosts.length ? "rejected drafts, one after the other" : "no draft was rejected here";
    this.element.replaceChildren(said, ...ghosts.flatMap((ghost) => {
      const [name, bar, number] = ["bdi", "i", "span"].map((tag) => document.createElement(tag));
      name.textContent = ghost.label;
      number.textContent = showPercent(ghost.probability);
      bar.append(document.createElement("i"));
      bar.firstChild.style.width = `${100 * ghost.probability}%`;
      return [name, bar, number];
    }));
  }
}
