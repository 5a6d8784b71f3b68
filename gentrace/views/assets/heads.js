"use strict";
// Every head in the page as a small picture; choosing one is choosing what the page shows.

const THUMB = 44; // cells along a side, at most

class HeadStrip {
  constructor(data, element, choose) {
    this.data = data;
    this.element = element;
    this.choose = choose;
    this.buttons = [];
    this.size = Math.min(THUMB, data.rows[1] - data.rows[0]);
    element.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!move) return;
      event.preventDefault();
      event.stopPropagation();
      const at = this.buttons.indexOf(event.target.closest("button"));
      const next = (at + move + this.buttons.length) % this.buttons.length;
      this.buttons[next].focus();
      this.choose(next);
    });
  }

  fill(panels) {
    this.panels = panels;
    this.element.hidden = panels.length < 2;
    this.buttons = panels.map((panel, place) => {
      const button = document.createElement("button");
      const name = document.createElement("span");
      const picture = document.createElement("canvas");
      picture.width = picture.height = this.size;
      name.textContent = panel.head === null ? "mean" : panel.head;
      button.type = "button";
      button.setAttribute("role", "radio");
      button.setAttribute("aria-label", panel.name);
      button.title = panel.name;
      button.append(picture, name);
      button.addEventListener("click", () => this.choose(place));
      return button;
    });
    this.element.replaceChildren(...this.buttons);
  }

  mark(panel) {
    this.buttons.forEach((button, place) => {
      const chosen = this.panels[place] === panel;
      button.setAttribute("aria-checked", chosen);
      button.tabIndex = chosen ? 0 : -1;
      if (chosen && this.marked !== button) {
        this.marked = button;
        this.element.scrollLeft = button.offsetLeft - this.element.clientWidth / 2;
      }
    });
  }

  // One picture at a time, when the browser has nothing better to do.
  paint(what, sink, palette) {
    const turn = (this.turn = {});
    // A busy page is never idle: a picture that waits for that would stay blank.
    const idle = window.requestIdleCallback;
    const later = idle ? (work) => idle(work, { timeout: 100 }) : (work) => setTimeout(work, 16);
    const next = (place) => {
      if (turn !== this.turn || place >= this.panels.length) return;
      this.paintOne(place, what, sink, palette);
      later(() => next(place + 1));
    };
    later(() => next(0));
  }

  paintOne(place, what, sink, palette) {
    const { data: { rows, fullColour, logFloor }, size } = this;
    const scale = new Scale(this.panels[place], what, sink, rows, fullColour, logFloor);
    const most = new Int16Array(size * size).fill(HIDDEN);
    const panel = this.panels[place];
    const buffer = new Float32Array(panel.columns);
    for (let row = rows[0]; row < rows[1]; row++) {
      panel.fill(row, what, buffer);
      const count = panel.seen(row);
      const y = Math.floor(((row - rows[0]) * size) / (rows[1] - rows[0])) * size;
      for (let key = scale.skip; key < count; key++) {
        const at = y + Math.floor((key * size) / panel.columns);
        const level = scale.level(buffer[key], key);
        if (level > most[at]) most[at] = level;
      }
    }
    const image = new ImageData(size, size);
    most.forEach((level, at) => {
      if (level >= 0) image.data.set([...palette.rgb[level], 255], at * 4);
    });
    this.buttons[place].querySelector("canvas").getContext("2d").putImageData(image, 0, 0);
  }
}
