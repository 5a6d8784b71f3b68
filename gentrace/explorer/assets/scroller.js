// A tall picture of which only the part in sight is drawn, so that a thousand rows cost as much as thirty.

import { CanvasPen, make } from "./pen.js";

export class Scroller {
  constructor(element, rowHeight, draw) {
    Object.assign(this, { element, rowHeight, draw, rows: 0, head: 0 });
    element.classList.add("scroller");
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.spacer = make("div", { className: "spacer" });
    element.append(this.canvas, this.spacer);
    element.addEventListener("scroll", () => this.later(), { passive: true });
  }

  later() {
    this.asked ??= requestAnimationFrame(() => { this.asked = null; this.paint(); });
  }

  size(rows, head = 0) {
    if (rows === this.rows && head === this.head) return;
    [this.rows, this.head] = [rows, head];
    this.spacer.style.height = `${rows * this.rowHeight + head}px`;
  }

  paint() {
    const [width, height] = [this.element.clientWidth, this.element.clientHeight];
    if (!width || !height) return;
    const pen = new CanvasPen(this.canvas, width, height);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const first = Math.max(0, Math.floor(this.element.scrollTop / this.rowHeight) - 1);
    const last = Math.min(this.rows, Math.ceil((this.element.scrollTop + height) / this.rowHeight) + 1);
    this.draw(pen, { width, first, last, top: this.head - this.element.scrollTop, height });
  }

  // The row under the pointer, and how far across it is.
  at(event) {
    const box = this.element.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - this.head + this.element.scrollTop) / this.rowHeight);
    return row >= 0 && row < this.rows ? { row, across: (event.clientX - box.left) / box.width } : null;
  }

  reveal(row) {
    const [above, below] = [row * this.rowHeight, (row + 2) * this.rowHeight + this.head];
    const { scrollTop, clientHeight } = this.element;
    if (above < scrollTop || below > scrollTop + clientHeight) {
      this.element.scrollTop = Math.max(0, above - clientHeight * 0.5);
    }
  }
}
