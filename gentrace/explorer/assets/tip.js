// The tooltip: what is under the pointer, until the pointer or the picture moves on.

import { showWeight } from "./colour.js";
import { make } from "./pen.js";

// over: called for each place that a pointer visits; away: when it has left. A finger leaves as soon as it is lifted, so
// what it tapped stays told until the next tap.
export function visited(element, over, away) {
  element.addEventListener("pointerdown", over);
  element.addEventListener("pointermove", over);
  element.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") away(event); });
}

// What is told of a cell of a head.
export function tellCell(cell, head, { queries, keys }) {
  const { query, key } = cell;
  const [weight, score, sure] = [head.weight(query, key), head.score(query, key), head.sure(query, key)];
  if (!sure) head.asked?.cell(query, key, true);
  return [
    ["query", String(query), queries.labels[query]], ["key", String(key), keys.labels[key]],
    ["weight", `${head.whole || sure ? "" : "at most "}${showWeight(weight, sure)}`, sure ? "exact" : head.resolution],
    ...(score === null ? [] : [["score", Number.isFinite(score) ? score.toFixed(4).replace("-", "−") : Number.isNaN(score) ? "never seen" : "masked", ""]]),
  ];
}

export class Tip {
  // forget: called when a finger touches something else, or Escape is pressed.
  constructor(element, forget) {
    this.element = element;
    document.addEventListener("pointerdown", () => forget(), { capture: true });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") forget(); });
  }

  get shown() {
    return !this.element.hidden;
  }

  // lines: parts of each, name, number and token; null for no tooltip.
  show(event, lines) {
    const { element } = this;
    element.hidden = !lines;
    if (!lines) return;
    element.replaceChildren(...lines.flatMap((parts) => parts.map((part, at) => make(at === 2 ? "bdi" : "span", {}, part))));
    const box = element.getBoundingClientRect();
    const { clientX: x, clientY: y } = event;
    element.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
    element.style.top = `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 18}px`;
  }
}
