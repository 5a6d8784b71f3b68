"use strict";
// The matrix: painted once on a canvas of one pixel a cell; a curtain over the rows to come reveals it step by step.

const EDGE = 8; // room above the first row for half a line of its label

function place(element, pixels) {
  for (const [side, value] of Object.entries(pixels)) element.style[side] = `${value}px`;
}

class MatrixView {
  constructor(data, hover) {
    this.data = data;
    [this.start, this.stop] = data.rows;
    for (const id of ["plot", "cells", "canvas", "curtain", "current", "strongest"]) this[id] = document.getElementById(id);
    for (const id of ["row-labels", "key-labels", "row-chip", "key-chip", "prompt-row", "prompt-key"]) {
      this[id.replace(/-(.)/, (_, letter) => letter.toUpperCase())] = document.getElementById(id);
    }
    this.canvas.height = this.stop - this.start;
    this.cells.addEventListener("pointermove", (event) => hover(event, this.cellAt(event)));
    this.cells.addEventListener("pointerleave", (event) => hover(event, null));
  }

  cellAt(event) {
    const box = this.cells.getBoundingClientRect();
    const key = Math.floor((event.clientX - box.left) / this.cellWidth);
    const row = this.start + Math.floor((event.clientY - box.top) / this.cellHeight);
    return key >= 0 && key < this.panel.seen(row) && row >= this.start && row <= this.row ? { row, key } : null;
  }

  // Sizes in CSS pixels: a square where a text looks at all of itself; else cells about square, and at least readable.
  resize() {
    if (!this.panel) return;
    const narrow = matchMedia("(max-width: 899px)").matches;
    const room = this.plot.getBoundingClientRect();
    const rows = this.stop - this.start;
    this.gutter = Math.min(96, Math.max(60, room.width * 0.14));
    this.foot = Math.min(84, Math.max(56, room.width * 0.12));
    const wide = room.width - this.gutter - 4;
    const tall = narrow ? wide : Math.max(180, room.height - this.foot - EDGE);
    const square = Math.min(wide, tall, this.keys * 44);
    const whole = !this.panel.crossed && rows === this.keys;
    this.width = whole ? square : this.panel.crossed ? Math.min(wide, this.keys * 44) : wide;
    this.height = whole ? square : Math.min(tall, Math.max(14 * rows, (this.width * rows) / this.keys));
    this.cellWidth = this.width / this.keys;
    this.cellHeight = this.height / rows;
    this.left = this.gutter + Math.max(0, (wide - this.width) / 2);
    this.plot.style.height = narrow ? `${this.height + this.foot + EDGE}px` : "";
    place(this.cells, { left: this.left, top: EDGE, width: this.width, height: this.height });
    this.canvas.style.imageRendering = this.cellWidth * devicePixelRatio < 0.9 ? "auto" : "pixelated";
    this.placePrompt();
    this.paintLabels();
    if (this.row !== undefined) this.show(this.row, this.values);
  }

  placePrompt() {
    const at = this.data.promptLength;
    this.promptRow.hidden = at <= this.start || at >= this.stop;
    this.promptKey.hidden = this.panel.crossed || at <= 0 || at >= this.keys;
    const width = this.panel.crossed ? this.width : at * this.cellWidth;
    place(this.promptRow, { top: (at - this.start) * this.cellHeight, width });
    place(this.promptKey, { top: Math.max(0, at - this.start) * this.cellHeight, left: at * this.cellWidth });
  }

  paint(panel, scale, palette) {
    this.panel = panel;
    this.scale = scale;
    this.palette = palette;
    if (this.keys !== panel.columns) {
      this.canvas.width = this.keys = panel.columns;
      this.row = undefined;
      this.resize();
    }
    const image = new ImageData(this.keys, this.stop - this.start);
    const buffer = new Float32Array(this.keys);
    const unseen = channels(palette.theme.unseen);
    for (let row = this.start; row < this.stop; row++) {
      panel.fill(row, scale.what, buffer);
      let at = (row - this.start) * this.keys * 4;
      const count = panel.seen(row);
      for (let key = 0; key < count; key++, at += 4) {
        const level = scale.level(buffer[key], key);
        const colour = level >= 0 ? palette.rgb[level] : unseen;
        image.data[at] = colour[0];
        image.data[at + 1] = colour[1];
        image.data[at + 2] = colour[2];
        image.data[at + 3] = level === HIDDEN ? 70 : level === UNSEEN && ((row + key) >> 1) & 1 ? 110 : 255;
      }
    }
    this.canvas.getContext("2d").putImageData(image, 0, 0);
    this.paintLabels();
  }

  context(canvas, width, height) {
    canvas.width = Math.round(width * devicePixelRatio);
    canvas.height = Math.round(height * devicePixelRatio);
    place(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    context.font = `${Math.min(13, Math.max(10, this.cellHeight * 0.75))}px ${getComputedStyle(document.body).fontFamily}`;
    context.textBaseline = "middle";
    context.direction = "ltr";
    return context;
  }

  clipped(context, text, width) {
    if (context.measureText(text).width <= width) return text;
    const letters = [...text];
    while (letters.length > 1 && context.measureText(letters.join("") + "…").width > width) letters.pop();
    return letters.join("") + "…";
  }

  colour(position) {
    return position < this.data.promptLength ? this.palette.theme.muted : this.palette.theme.ink;
  }

  paintLabels() {
    if (!this.palette || !this.width) return;
    const rows = this.context(this.rowLabels, this.gutter, this.height + 2 * EDGE);
    rows.translate(0, EDGE);
    place(this.rowLabels, { left: this.left - this.gutter });
    rows.textAlign = "right";
    const rowStride = Math.max(1, Math.ceil(13 / this.cellHeight));
    for (let row = this.start; row < this.stop; row += rowStride) {
      rows.fillStyle = this.colour(row);
      const name = this.clipped(rows, this.data.labels[row], this.gutter - 12);
      rows.fillText(name, this.gutter - 8, (row - this.start + 0.5) * this.cellHeight);
    }
    const keys = this.context(this.keyLabels, this.width + 2 * EDGE, this.foot);
    keys.translate(EDGE, 0);
    place(this.keyLabels, { left: this.left - EDGE, top: this.height + EDGE });
    keys.textAlign = "right";
    const { crossed, keyLabels } = this.panel;
    const keyStride = Math.max(1, Math.ceil(13 / this.cellWidth));
    for (let key = 0; key < this.keys; key += keyStride) {
      keys.save();
      keys.translate((key + 0.5) * this.cellWidth, 8);
      keys.rotate(-Math.PI / 2);
      keys.fillStyle = crossed ? this.palette.theme.ink : this.colour(key);
      keys.fillText(this.clipped(keys, keyLabels[key], this.foot - 12), 0, 0);
      keys.restore();
    }
  }

  show(row, values) {
    this.row = row;
    this.values = values;
    const top = (row - this.start) * this.cellHeight;
    this.curtain.style.transform = `translateY(${top + this.cellHeight}px)`;
    this.rowLabels.style.clipPath = `inset(0 0 ${this.height - top - this.cellHeight + EDGE}px 0)`;
    const count = this.panel.seen(row);
    const width = count * this.cellWidth;
    this.keyLabels.style.clipPath = this.panel.crossed ? "none" : `inset(0 ${this.width - width + EDGE}px 0 0)`;
    const height = Math.max(this.cellHeight, 3);
    place(this.current, { top: top - (height - this.cellHeight) / 2, height, width });
    this.rowChip.textContent = this.data.labels[row];
    place(this.rowChip, { top: EDGE + top + this.cellHeight / 2, right: this.plot.clientWidth - this.left + 4 });
    let strongest = -1;
    for (let key = this.scale.skip; key < count; key++) if (strongest < 0 || values[key] > values[strongest]) strongest = key;
    const seen = strongest >= 0 && !Number.isNaN(values[strongest]);
    this.keyChip.hidden = this.strongest.hidden = !seen;
    this.strongestKey = seen ? strongest : null;
    if (!seen) return;
    const x = (strongest + 0.5) * this.cellWidth;
    place(this.strongest, { left: x, top: top + this.cellHeight });
    this.keyChip.textContent = this.panel.keyLabels[strongest];
    place(this.keyChip, { left: Math.min(this.left + x, this.left + this.width - 20), top: this.height + EDGE + 4 });
  }
}
