// A matrix on the screen: painted once on a canvas of one pixel a cell, labelled, with marks that move above it. What it
// shows is a sheet: how many rows and columns, their labels, and how to paint them.

import { CanvasPen, clipped, fontOf, make, measuring } from "./pen.js";
import { visited } from "./tip.js";
import { within } from "./zoom.js";

const LINE = 1.5; // thickness of the frame around the current row
const LABEL = 13; // pixels that a label takes across its line
const CHIP = 17; // pixels from a chip's middle to that of a label that it does not touch
const EDGE = 8; // room above the first row for half a line of its label
const FINE = 512; // rows and keys of a window up to which it is shown cell by cell
const EXPANDED = 4_000_000; // cells up to which blocks are painted cell by cell

// How a strip of labels is clipped so that a chip cuts through none of them, and none stands where a curtain hides its cell.
// Labels stand in the middle of every so manieth of count cells, chip in that of one, last is the last cell in sight.
export function clearOf(chip, { count, size, along, edge = EDGE, last = count }) {
  const stride = strideOf(size);
  const end = (slot) => edge + (slot * stride + 0.5 + stride / 2) * size;
  const reach = CHIP / size;
  const hidden = Math.floor(last / stride) + 1;
  const near = chip < 0 ? [] : [[Math.ceil((chip - reach) / stride), Math.min(Math.floor((chip + reach) / stride), hidden - 1)]];
  const holes = [...near, [hidden, Math.ceil(count / stride)]].filter(([first, final]) => first <= final);
  const cut = ([first, final]) => {
    const [a, b] = [`${Math.max(0, end(first - 1))}px`, `${end(final)}px`];
    return along === "y" ? `0 ${a}, 100% ${a}, 100% ${b}, 0 ${b}, 0 ${a}, 0 0` : `${a} 0, ${a} 100%, ${b} 100%, ${b} 0, ${a} 0, 0 0`;
  };
  return holes.length ? `polygon(evenodd, 0 0, 100% 0, 100% 100%, 0 100%, 0 0, ${holes.map(cut).join(", ")})` : "none";
}

function strideOf(size) {
  return Math.max(1, Math.ceil(LABEL / size));
}

const widths = new WeakMap();

// The room that labels would like: that of the widest, which is one of the longest.
function roomFor(labels) {
  if (!widths.has(labels)) {
    const longest = [...labels].sort((a, b) => b.length - a.length).slice(0, 20);
    widths.set(labels, 18 + Math.max(0, ...longest.map((text) => measuring.measure(text, LABEL, { weight: 600 }))));
  }
  return widths.get(labels);
}

export function place(element, pixels) {
  for (const [side, value] of Object.entries(pixels)) element.style[side] = `${value}px`;
}

export function paintHead(canvas, head, scale, palette) {
  const [rows, keys] = [head.stop - head.start, head.layer.keys];
  const [table, aside] = [scale.table(palette), scale.aside(palette)];
  const byBlock = !head.whole && rows * keys > EXPANDED;
  const codes = head.whole ?? head.blocks.codes;
  canvas.width = byBlock ? codes.columns : keys;
  canvas.height = byBlock ? codes.stop : rows;
  const image = new ImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let y = 0; y < canvas.height; y++) {
    const row = head.whole ? y + head.start : byBlock ? y : head.blocks.rows[y + head.start];
    const from = codes.at(row);
    const at = y * canvas.width;
    if (head.whole || byBlock) {
      const width = codes.width(row);
      for (let key = 0; key < width; key++) pixels[at + key] = table[codes.bytes[from + key]];
    } else {
      const width = head.width(y + head.start);
      const { columns } = head.blocks;
      for (let key = 0; key < width; key++) pixels[at + key] = table[codes.bytes[from + columns[key]]];
    }
    const set = byBlock ? Math.min(1, scale.skip) : Math.min(scale.skip, head.width(y + head.start));
    pixels.fill(aside, at, at + set);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The same as a small picture: the strongest cell of each of its pixels.
export function paintThumb(canvas, size, head, scale, palette) {
  const codes = head.whole ?? head.blocks.codes;
  const [rows, columns] = [codes.stop - codes.start, codes.columns];
  const [wide, tall] = [Math.min(size, columns), Math.min(size, rows)];
  const most = new Int16Array(wide * tall).fill(-1);
  const skip = scale.columns(head);
  const across = Uint16Array.from({ length: columns }, (_, column) => Math.floor((column * wide) / columns));
  for (let row = codes.start; row < codes.stop; row++) {
    const [from, width] = [codes.at(row), codes.width(row)];
    const at = Math.floor(((row - codes.start) * tall) / rows) * wide;
    for (let column = skip; column < width; column++) {
      const code = codes.bytes[from + column];
      const pixel = at + across[column];
      if (code > most[pixel] && code !== 255) most[pixel] = code;
    }
  }
  const table = scale.table(palette);
  const image = new ImageData(wide, tall);
  new Uint32Array(image.data.buffer).set(Uint32Array.from(most, (code) => (code < 0 ? 0 : table[code])));
  canvas.width = wide;
  canvas.height = tall;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// A window of a head whose picture is blocks, cell by cell; false if its numbers are not here, or not yet.
function paintWindow(canvas, head, scale, palette, window) {
  const [a, b, c, d] = window;
  const pixels = new Uint32Array((b - a) * (d - c));
  if (!head.each(window, (query, key, weight) => { pixels[(query - a) * (d - c) + key - c] = scale.colour(weight, key, palette); })) return false;
  [canvas.width, canvas.height] = [d - c, b - a];
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), d - c, b - a), 0, 0);
  return true;
}

// A head as a sheet.
export function sheetOf(head, scale, palette, sides) {
  return {
    start: head.start, stop: head.stop, keys: head.layer.keys, causal: head.layer.causal,
    queryLabels: sides.queries.labels, keyLabels: sides.keys.labels, same: sides.queries === sides.keys,
    queryPrompt: sides.queries.promptLength, keyPrompt: sides.keys.promptLength,
    paint: (canvas) => paintHead(canvas, head, scale, palette),
    shrink: (canvas, size) => paintThumb(canvas, size, head, scale, palette),
    refine: head.blocks && (head.exact || head.asked) ? (canvas, window) => paintWindow(canvas, head, scale, palette, window) : null,
  };
}

export class MatrixView {
  constructor(element, palette, { hover, choose = null, move = null, curtain = false, labels = true, tallest = 10_000 }) {
    Object.assign(this, { element, palette, hover, choose, move, labels, tallest });
    element.classList.add("plot");
    const canvas = () => make("canvas", { "aria-hidden": "true" });
    [this.rowLabels, this.keyLabels, this.canvas, this.fine] = [canvas(), canvas(), canvas(), canvas()];
    this.fine.className = "fine";
    this.fine.hidden = true;
    const layer = (name) => make("div", { className: name });
    [this.curtain, this.current, this.cross, this.promptRow, this.promptKey] = ["curtain", "current", "cross", "rule row", "rule column"].map(layer);
    this.curtain.hidden = !curtain;
    this.cells = make("div", { className: "cells", role: "img", tabIndex: choose ? 0 : -1 }, this.canvas, this.fine, this.promptRow, this.promptKey, this.curtain, this.current, this.cross);
    [this.rowChip, this.keyChip] = [make("bdi", { className: "chip" }), make("bdi", { className: "chip soft" })];
    for (const part of [this.current, this.cross, this.rowChip, this.keyChip, this.promptRow, this.promptKey]) part.hidden = true;
    element.append(...(labels ? [this.rowLabels] : []), this.cells, ...(labels ? [this.keyLabels, this.rowChip, this.keyChip] : []));
    visited(this.cells, (event) => hover(event, this.cellAt(event)), (event) => hover(event, null));
    this.cells.addEventListener("click", (event) => { const cell = this.cellAt(event); if (choose && cell && !this.dragged) choose(cell); });
    if (move) this.listen();
  }

  // Pinch or wheel with ctrl, and double click, come closer; dragging moves what is close.
  listen() {
    const { cells } = this;
    const zoom = (event, factor) => { event.preventDefault(); this.move.zoom(this.under(event), factor); };
    cells.addEventListener("wheel", (event) => { if (event.ctrlKey || event.metaKey) zoom(event, event.deltaY < 0 ? 1.25 : 0.8); }, { passive: false });
    cells.addEventListener("dblclick", (event) => zoom(event, 2));
    cells.addEventListener("pointerdown", (event) => {
      this.dragged = false;
      if (!this.window || event.button) return;
      const from = this.under(event);
      const drag = (moved) => {
        const now = this.under(moved);
        if (now.query === from.query && now.key === from.key) return;
        this.dragged = true;
        this.move.pan(from.query - now.query, from.key - now.key);
      };
      const stop = () => { removeEventListener("pointermove", drag); removeEventListener("pointerup", stop); };
      addEventListener("pointermove", drag);
      addEventListener("pointerup", stop);
    });
  }

  get bounds() {
    return [this.sheet.start, this.sheet.stop, 0, this.sheet.keys];
  }

  // The row and column under the pointer, whether or not there is a cell.
  under(event) {
    const box = this.cells.getBoundingClientRect();
    return { query: this.q0 + Math.floor((event.clientY - box.top) / this.cellHeight), key: this.k0 + Math.floor((event.clientX - box.left) / this.cellWidth) };
  }

  cellAt(event) {
    const { query, key } = this.under(event);
    const last = this.curtain.hidden ? this.q1 - 1 : Math.min(this.row, this.q1 - 1);
    const inside = key >= this.k0 && key < this.k1 && query >= this.q0 && query <= last;
    return inside && !(this.sheet.causal && key > query) ? { query, key } : null;
  }

  // window: what to show of it, null for all.
  show(sheet, window = null) {
    const moved = `${window}` !== `${this.window ?? null}`;
    this.window = window;
    const other = moved || !this.sheet || ["start", "stop", "keys", "queryLabels", "keyLabels"].some((name) => this.sheet[name] !== sheet[name]);
    this.sheet = sheet;
    if (other || this.paintedWith !== this.palette) this.resize();
    else this.paint();
  }

  // Where cells are smaller than pixels, each pixel shows the strongest of its cells, so that no strong look is lost.
  paint() {
    const { sheet } = this;
    const small = sheet.shrink && this.cellWidth * devicePixelRatio < 0.9;
    if (small) sheet.shrink(this.canvas, Math.max(1, Math.floor(Math.max(this.width, this.height) * devicePixelRatio)));
    else sheet.paint(this.canvas);
    this.canvas.style.imageRendering = !sheet.shrink && this.cellWidth * devicePixelRatio < 0.9 ? "auto" : "pixelated";
    this.refine();
  }

  // Close enough, a picture of blocks gives way to one of cells, as soon as their numbers are here.
  refine() {
    const window = [this.q0, this.q1, this.k0, this.k1];
    const near = this.q1 - this.q0 <= FINE && this.k1 - this.k0 <= FINE;
    this.refined = Boolean(near && this.sheet?.refine?.(this.fine, window));
    this.fine.hidden = !this.refined;
  }

  // Sizes in CSS pixels: square cells where there are as many rows as columns.
  resize() {
    const { sheet } = this;
    if (!sheet || !this.element.clientWidth) return;
    [this.q0, this.q1, this.k0, this.k1] = within(this.window, this.bounds);
    const [rows, keys] = [this.q1 - this.q0, this.k1 - this.k0];
    const room = this.element.clientWidth;
    this.gutter = this.labels ? Math.max(Math.min(104, Math.max(58, room * 0.16)), Math.min(104, room * 0.25, roomFor(sheet.queryLabels))) : 0;
    this.foot = this.labels ? Math.max(Math.min(84, Math.max(54, room * 0.12)), Math.min(84, roomFor(sheet.keyLabels))) : 0;
    const wide = room - this.gutter - (this.labels ? 6 : 0);
    // On a wide screen all of it stays above the controls; a phone scrolls anyway.
    const above = this.element.getBoundingClientRect().top + scrollY;
    const left = matchMedia("(min-width: 900px)").matches ? Math.max(260, innerHeight - above - 150) : wide + this.foot;
    const tall = this.labels ? Math.max(180, left - this.foot) : this.tallest;
    const each = Math.min(wide / keys, tall / rows, 44);
    const alike = Math.max(rows, keys) < 4 * Math.min(rows, keys);
    this.cellWidth = alike ? each : Math.min(44, wide / keys);
    this.cellHeight = alike ? each : Math.min(44, tall / rows);
    this.width = this.cellWidth * keys;
    this.height = this.cellHeight * rows;
    this.left = this.gutter;
    const top = this.labels ? EDGE : 0;
    this.element.style.height = `${this.height + this.foot + top}px`;
    place(this.cells, { left: this.left, top, width: this.width, height: this.height });
    place(this.canvas, { left: -this.k0 * this.cellWidth, top: (sheet.start - this.q0) * this.cellHeight, width: sheet.keys * this.cellWidth, height: (sheet.stop - sheet.start) * this.cellHeight });
    place(this.fine, { left: 0, top: 0, width: this.width, height: this.height });
    this.paint();
    const at = sheet.queryPrompt;
    this.promptRow.hidden = !(at > this.q0 && at < this.q1);
    this.promptKey.hidden = !(sheet.same && at > this.k0 && at < this.k1);
    place(this.promptRow, { top: (at - this.q0) * this.cellHeight, width: sheet.causal ? Math.max(0, at - this.k0) * this.cellWidth : this.width });
    place(this.promptKey, { left: (at - this.k0) * this.cellWidth, top: sheet.causal ? Math.max(0, at - this.q0) * this.cellHeight : 0 });
    this.paintedWith = this.palette;
    if (this.labels) this.paintLabels();
    if (this.row !== undefined) this.step(this.row, this.strongest ?? -1);
  }

  paintLabels() {
    const { sheet } = this;
    const rows = new CanvasPen(this.rowLabels, this.gutter, this.height + 2 * EDGE);
    const keys = new CanvasPen(this.keyLabels, this.width + 2 * EDGE, this.foot);
    place(this.rowLabels, { left: 0, top: 0, width: this.gutter, height: this.height + 2 * EDGE });
    place(this.keyLabels, { left: this.left - EDGE, top: this.height + EDGE, width: this.width + 2 * EDGE, height: this.foot });
    this.drawLabels(rows.context, sheet, this.gutter - 8, EDGE, this.cellHeight, this.q0, this.q1, 0, this.gutter - 12);
    this.drawLabels(keys.context, sheet, EDGE, 8, this.cellWidth, this.k0, this.k1, -Math.PI / 2, this.foot - 12);
  }

  // Straight on the context: a thousand labels at a time.
  drawLabels(context, sheet, x, y, size, start, stop, turn, most) {
    const [texts, prompt] = turn ? [sheet.keyLabels, sheet.keyPrompt] : [sheet.queryLabels, sheet.queryPrompt];
    context.font = fontOf(Math.min(13, Math.max(10, size * 0.75)));
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.direction = "ltr";
    const { theme } = this.palette;
    for (let at = start; at < stop; at += strideOf(size)) {
      context.fillStyle = at < prompt ? theme.muted : theme.ink;
      context.save();
      context.translate(...(turn ? [x + (at - start + 0.5) * size, y] : [x, y + (at - start + 0.5) * size]));
      context.rotate(turn);
      context.fillText(clipped(context, texts[at] ?? "", most), 0, 0);
      context.restore();
    }
  }

  // Marks a row; with a curtain what comes after it is covered. strongest: the key that its chip names, −1 for none.
  step(row, strongest = -1) {
    this.row = row;
    this.strongest = strongest;
    const { sheet } = this;
    if (!sheet || this.width === undefined) return;
    const inside = row >= this.q0 && row < this.q1;
    const top = (row - this.q0) * this.cellHeight;
    this.current.hidden = !inside;
    this.rowChip.hidden = !inside;
    this.keyChip.hidden = !inside || strongest < this.k0 || strongest >= this.k1;
    this.clipLabels(inside ? row - this.q0 : -1, this.keyChip.hidden ? -1 : strongest - this.k0);
    if (!inside) return;
    const height = Math.max(this.cellHeight, 3);
    // Its line lies outside of it and would be cut off at an edge.
    const [above, right] = [top - (height - this.cellHeight) / 2, Math.min(this.reach(row), this.width - LINE)];
    const upper = Math.max(LINE, above);
    place(this.current, { left: LINE, top: upper, height: Math.min(above + height, this.height - LINE) - upper, width: Math.max(0, right - LINE) });
    if (!this.curtain.hidden) this.curtain.style.transform = `translateY(${top + this.cellHeight}px)`;
    if (!this.labels) return;
    this.rowChip.textContent = sheet.queryLabels[row] ?? "";
    place(this.rowChip, { top: EDGE + top + this.cellHeight / 2, right: this.element.clientWidth - this.left + 4, maxWidth: this.left - 6 });
    if (this.keyChip.hidden) return;
    this.keyChip.textContent = sheet.keyLabels[strongest] ?? "";
    place(this.keyChip, { left: this.left + (strongest - this.k0 + 0.5) * this.cellWidth, top: this.height + EDGE + 4, maxHeight: this.foot - 6 });
  }

  clipLabels(row, key) {
    if (!this.labels) return;
    const last = this.curtain.hidden || row < 0 ? Infinity : row;
    const rows = { count: this.q1 - this.q0, size: this.cellHeight, along: "y", last };
    const keys = { count: this.k1 - this.k0, size: this.cellWidth, along: "x", last: this.sheet.causal ? last + this.q0 - this.k0 : Infinity };
    this.rowLabels.style.clipPath = clearOf(row, rows);
    this.keyLabels.style.clipPath = clearOf(key, keys);
  }

  // How far to the right a row goes, in pixels.
  reach(row) {
    return this.sheet.causal ? Math.min(this.width, Math.max(0, row + 1 - this.k0) * this.cellWidth) : this.width;
  }

  // A cell that is pointed at here or in another matrix.
  point(cell) {
    const { sheet } = this;
    const inside = cell && sheet && cell.query >= this.q0 && cell.query < this.q1 && cell.key >= this.k0 && cell.key < this.k1;
    this.cross.hidden = !inside;
    if (!inside) return;
    const size = Math.max(5, this.cellWidth);
    place(this.cross, {
      left: (cell.key - this.k0 + 0.5) * this.cellWidth - size / 2, top: (cell.query - this.q0 + 0.5) * this.cellHeight - size / 2,
      width: size, height: Math.max(5, this.cellHeight),
    });
  }

  // The same picture for a file, its upper left corner at (x, y).
  draw(pen, x, y, title) {
    const { sheet, palette: { theme } } = this;
    const [left, top] = [x + (this.labels ? this.gutter : 0), y + 24];
    pen.text(x, y + 10, title, { size: 13, weight: 600, fill: theme.ink, most: this.drawn.width });
    pen.rect(left, top, this.width, this.height, theme.paper);
    const last = this.curtain.hidden ? this.q1 : Math.min(this.q1, this.row + 1);
    if (last > this.q0) pen.image(this.crop(last), left, top, this.width, (last - this.q0) * this.cellHeight);
    this.drawRules(pen, left, top, last);
    if (!this.current.hidden) {
      pen.rect(left, top + (this.row - this.q0) * this.cellHeight, this.reach(this.row), this.cellHeight, null, { stroke: theme.accent, line: 1.2 });
    }
    if (!this.labels) return;
    const size = Math.min(13, Math.max(8, this.cellHeight * 0.75));
    const stride = (cell) => Math.max(1, Math.ceil(11 / cell));
    for (let row = this.q0; row < last; row += stride(this.cellHeight)) {
      pen.text(left - 6, top + (row - this.q0 + 0.5) * this.cellHeight, sheet.queryLabels[row] ?? "", { size, anchor: "end", fill: row < sheet.queryPrompt ? theme.muted : theme.ink, most: this.gutter - 10 });
    }
    for (let key = this.k0; key < (sheet.causal ? Math.min(this.k1, last) : this.k1); key += stride(this.cellWidth)) {
      pen.text(left + (key - this.k0 + 0.5) * this.cellWidth, top + this.height + 6, sheet.keyLabels[key] ?? "", { size, anchor: "end", turn: -90, fill: key < sheet.keyPrompt ? theme.muted : theme.ink, most: this.foot - 8 });
    }
  }

  // Where writing begins.
  drawRules(pen, left, top, last) {
    const { sheet, palette: { theme } } = this;
    const at = sheet.queryPrompt;
    const [down, across] = [(at - this.q0) * this.cellHeight, (at - this.k0) * this.cellWidth];
    if (!this.promptRow.hidden && at < last) pen.lines([[left, top + down], [left + (sheet.causal ? Math.max(0, across) : this.width), top + down]], theme.muted, 1, [3, 3]);
    if (!this.promptKey.hidden && at < last) pen.lines([[left + across, top + (sheet.causal ? Math.max(0, down) : 0)], [left + across, top + (last - this.q0) * this.cellHeight]], theme.muted, 1, [3, 3]);
  }

  // The part of the painted matrix that is in sight, up to a row.
  crop(last) {
    const { sheet, refined } = this;
    const canvas = refined ? this.fine : this.canvas;
    const [wide, tall] = refined ? [1, 1] : [canvas.width / sheet.keys, canvas.height / (sheet.stop - sheet.start)];
    const [x, y, width, height] = [refined ? 0 : this.k0 * wide, refined ? 0 : (this.q0 - sheet.start) * tall, (this.k1 - this.k0) * wide, (last - this.q0) * tall];
    const copy = make("canvas", { width: Math.max(1, Math.round(width)), height: Math.max(1, Math.round(height)) });
    copy.getContext("2d").drawImage(canvas, x, y, width, height, 0, 0, copy.width, copy.height);
    return copy;
  }

  get drawn() {
    return { width: (this.labels ? this.gutter : 0) + this.width + 10, height: this.height + this.foot + 30 };
  }
}
