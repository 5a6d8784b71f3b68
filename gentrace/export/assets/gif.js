// The blocks of a GIF: what changed since the frame before, in 256 colours, packed.
"use strict";

// The smallest rectangle outside of which nothing changed; never empty, for a frame must have a pixel.
function changed(before, now, width) {
  const height = now.length / width;
  if (!before) return {left: 0, top: 0, right: width, bottom: height};
  const box = {left: width, top: height, right: 0, bottom: 0};
  for (let at = 0; at < now.length; at++) {
    if (now[at] === before[at]) continue;
    const x = at % width, y = (at - x) / width;
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x + 1);
    box.top = Math.min(box.top, y);
    box.bottom = y + 1;
  }
  return box.right ? box : {left: 0, top: 0, right: 1, bottom: 1};
}

// A frame as GIF89a has it: how long it stays, where it lies, its own colours, its pixels.
function block(pixels, width, box, hundredths) {
  const wide = box.right - box.left, high = box.bottom - box.top, own = new Uint32Array(wide * high);
  for (let row = 0; row < high; row++) {
    const from = (box.top + row) * width + box.left;
    own.set(pixels.subarray(from, from + wide), row * wide);
  }
  const {table, indices} = indexed(own);
  const short = (value) => [value & 255, value >> 8];
  const bytes = [0x21, 0xf9, 4, 4, ...short(hundredths), 0, 0];
  bytes.push(0x2c, ...short(box.left), ...short(box.top), ...short(wide), ...short(high), 0x87, ...table, 8);
  const packed = squeezed(indices);
  for (let at = 0; at < packed.length; at += 255) {
    const part = packed.slice(at, at + 255);
    bytes.push(part.length, ...part);
  }
  bytes.push(0);
  return bytes;
}

const channels = (pixel) => [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255];

// At most 256 colours, exactly if there are no more. Otherwise colours are put into boxes, the box with the largest
// spread is cut at its mean until there are 256, and each box becomes its mean.
function indexed(pixels) {
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  let boxes = [...counts].map(([pixel, count]) => [{pixel, count, rgb: channels(pixel)}]);
  if (boxes.length > 256) boxes = cut(boxes.flat());
  const table = new Uint8Array(768), place = new Map();
  boxes.forEach((box, index) => {
    table.set(moments(box).mean.map(Math.round), 3 * index);
    for (const {pixel} of box) place.set(pixel, index);
  });
  return {table, indices: Uint8Array.from(pixels, (pixel) => place.get(pixel))};
}

function moments(box) {
  const sum = [0, 0, 0], squares = [0, 0, 0];
  let total = 0;
  for (const {count, rgb} of box) {
    total += count;
    for (let c = 0; c < 3; c++) {
      sum[c] += count * rgb[c];
      squares[c] += count * rgb[c] * rgb[c];
    }
  }
  const mean = sum.map((value) => value / total);
  const spread = squares.map((value, c) => value - total * mean[c] * mean[c]);
  const widest = spread.indexOf(Math.max(...spread));
  return {mean, widest, spread: box.length > 1 ? spread[widest] : -1};
}

function cut(colours) {
  const boxes = [{box: colours, ...moments(colours)}];
  while (boxes.length < 256) {
    const worst = boxes.reduce((best, one, index) => (one.spread > boxes[best].spread ? index : best), 0);
    const {box, mean, widest} = boxes[worst];
    const halves = [[], []];
    for (const colour of box) halves[Number(colour.rgb[widest] > mean[widest])].push(colour);
    boxes.splice(worst, 1, ...halves.map((half) => ({box: half, ...moments(half)})));
  }
  return boxes.map((one) => one.box);
}

// LZW with codes of 9 … 12 bits.
function squeezed(indices) {
  const [clear, end] = [256, 257], table = new Int16Array(4096 * 256).fill(-1), bytes = [];
  let held = 0, bits = 0, size = 9, next = 258, prefix = indices[0];
  const put = (code) => {
    held |= code << bits;
    for (bits += size; bits >= 8; bits -= 8, held >>>= 8) bytes.push(held & 255);
  };
  put(clear);
  for (let at = 1; at < indices.length; at++) {
    const key = (prefix << 8) | indices[at];
    if (table[key] >= 0) {
      prefix = table[key];
      continue;
    }
    put(prefix);
    prefix = indices[at];
    if (next < 4096) {
      if (next === 1 << size) size++;
      table[key] = next++;
    } else {
      put(clear);
      table.fill(-1);
      [size, next] = [9, 258];
    }
  }
  put(prefix);
  // Whoever reads it adds a code after each but the first, so the end may take one bit more.
  if (next === 1 << size && size < 12) size++;
  put(end);
  if (bits) bytes.push(held & 255);
  return bytes;
}
