// One way to draw, two kinds of paper: a canvas for the screen and for PNG, and SVG for print.

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "role" && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function counted(count, thing) {
  return `${count} ${thing}${count === 1 ? "" : "s"}`;
}

export function fontOf(size, { serif = false, weight = 400 } = {}) {
  const style = getComputedStyle(document.documentElement);
  return `${weight} ${size}px ${style.getPropertyValue(serif ? "--serif" : "--sans").trim()}`;
}

export class CanvasPen {
  constructor(canvas, width, height, ratio = devicePixelRatio) {
    const [wide, tall] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== wide) canvas.width = wide;
    if (canvas.height !== tall) canvas.height = tall;
    this.context = canvas.getContext("2d");
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.clearRect(0, 0, width, height);
  }

  rect(x, y, width, height, fill, { stroke = null, line = 1, radius = 0, alpha = 1 } = {}) {
    const { context } = this;
    context.globalAlpha = alpha;
    context.beginPath();
    if (radius) context.roundRect(x, y, width, height, radius);
    else context.rect(x, y, width, height);
    if (fill) { context.fillStyle = fill; context.fill(); }
    if (stroke) { context.strokeStyle = stroke; context.lineWidth = line; context.stroke(); }
    context.globalAlpha = 1;
  }

  text(x, y, words, { size = 12, fill = "#000", anchor = "start", weight = 400, turn = 0, serif = false, most = 0 } = {}) {
    const { context } = this;
    context.save();
    context.font = fontOf(size, { serif, weight });
    context.fillStyle = fill;
    context.textBaseline = "middle";
    context.direction = "ltr";
    context.textAlign = { start: "left", middle: "center", end: "right" }[anchor];
    context.translate(x, y);
    if (turn) context.rotate((turn * Math.PI) / 180);
    context.fillText(most ? clipped(context, words, most) : words, 0, 0);
    context.restore();
  }

  // A smooth line between two columns, as thick as what it stands for.
  curve(x1, y1, x2, y2, stroke, line, alpha = 1) {
    const { context } = this;
    const middle = (x1 + x2) / 2;
    context.globalAlpha = alpha;
    context.strokeStyle = stroke;
    context.lineWidth = line;
    context.beginPath();
    context.moveTo(x1, y1);
    context.bezierCurveTo(middle, y1, middle, y2, x2, y2);
    context.stroke();
    context.globalAlpha = 1;
  }

  lines(points, stroke, line = 1, dash = []) {
    const { context } = this;
    context.strokeStyle = stroke;
    context.lineWidth = line;
    context.setLineDash(dash);
    context.beginPath();
    points.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
    context.setLineDash([]);
  }

  image(canvas, x, y, width, height) {
    this.context.imageSmoothingEnabled = canvas.width > width * 1.1;
    this.context.drawImage(canvas, x, y, width, height);
  }

  measure(words, size, options) {
    this.context.font = fontOf(size, options);
    return this.context.measureText(words).width;
  }
}

const ruler = document.createElement("canvas").getContext("2d");

// A pen whose paper begins elsewhere.
export function moved(pen, right, down) {
  return {
    rect: (x, y, ...more) => pen.rect(x + right, y + down, ...more),
    text: (x, y, ...more) => pen.text(x + right, y + down, ...more),
    image: (canvas, x, y, ...more) => pen.image(canvas, x + right, y + down, ...more),
    curve: (x1, y1, x2, y2, ...more) => pen.curve(x1 + right, y1 + down, x2 + right, y2 + down, ...more),
    lines: (points, ...more) => pen.lines(points.map(([x, y]) => [x + right, y + down]), ...more),
    measure: (...words) => pen.measure(...words),
  };
}

// Draws nothing, to learn how much room a picture takes.
export const measuring = {
  rect() {}, text() {}, image() {}, curve() {}, lines() {},
  measure(words, size, options) {
    ruler.font = fontOf(size, options);
    return ruler.measureText(words).width;
  },
};

export function clipped(context, words, most) {
  if (context.measureText(words).width <= most) return words;
  const letters = [...words];
  let [low, high] = [1, letters.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(`${letters.slice(0, middle).join("")}…`).width <= most) low = middle;
    else high = middle - 1;
  }
  return `${letters.slice(0, low).join("")}…`;
}

const SVG = "http://www.w3.org/2000/svg";

export class SvgPen {
  constructor(width, height) {
    this.root = this.add(null, "svg", { xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}` });
  }

  add(parent, tag, attributes) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) if (name !== "xmlns") element.setAttribute(name, value);
    parent?.append(element);
    return element;
  }

  rect(x, y, width, height, fill, { stroke = "none", line = 1, radius = 0, alpha = 1 } = {}) {
    this.add(this.root, "rect", { x, y, width, height, fill: fill ?? "none", stroke: stroke ?? "none", "stroke-width": line, rx: radius, opacity: alpha });
  }

  text(x, y, words, { size = 12, fill = "#000", anchor = "start", weight = 400, turn = 0, serif = false, most = 0 } = {}) {
    ruler.font = fontOf(size, { serif, weight });
    const shown = most ? clipped(ruler, words, most) : words;
    const family = serif ? "Georgia, 'Liberation Serif', serif" : "Inter, 'Liberation Sans', Arial, sans-serif";
    const element = this.add(this.root, "text", {
      x: 0, y: 0, fill, "font-size": size, "font-weight": weight, "font-family": family, "text-anchor": anchor,
      "dominant-baseline": "central", direction: "ltr", transform: `translate(${x} ${y})${turn ? ` rotate(${turn})` : ""}`,
    });
    element.style.whiteSpace = "pre";
    // What XML has no place for, though every such token already has a visible label.
    element.textContent = shown.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "�");
  }

  curve(x1, y1, x2, y2, stroke, line, alpha = 1) {
    const middle = (x1 + x2) / 2;
    this.add(this.root, "path", { d: `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`, fill: "none", stroke, "stroke-width": line, opacity: alpha });
  }

  lines(points, stroke, line = 1, dash = []) {
    this.add(this.root, "polyline", { points: points.map((point) => point.join()).join(" "), fill: "none", stroke, "stroke-width": line, "stroke-dasharray": dash.join(" ") });
  }

  image(canvas, x, y, width, height) {
    const element = this.add(this.root, "image", { x, y, width, height, preserveAspectRatio: "none", href: canvas.toDataURL("image/png") });
    if (canvas.width <= width * 1.1) element.style.imageRendering = "pixelated";
  }

  measure(...words) {
    return measuring.measure(...words);
  }

  toString() {
    return new XMLSerializer().serializeToString(this.root);
  }
}
