// The current picture as a file: PNG at twice the size, or SVG with text as text.

import { CanvasPen, make, moved, SvgPen } from "./pen.js";

const MARGIN = 20;

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export function exportPicture(picture, format, ground, title) {
  const [width, height] = [picture.width + 2 * MARGIN, picture.height + 2 * MARGIN];
  const name = `${title}-${picture.name}`.replace(/[^\w.-]+/g, "-");
  if (format === "svg") {
    const pen = new SvgPen(width, height);
    pen.rect(0, 0, width, height, ground);
    picture.draw(moved(pen, MARGIN, MARGIN));
    save(new Blob([`${pen}`], { type: "image/svg+xml" }), `${name}.svg`);
    return;
  }
  const canvas = make("canvas");
  // Browsers paint nothing on a canvas beyond these sizes.
  const ratio = Math.min(2, 16_000 / Math.max(width, height), Math.sqrt(2e8 / (width * height)));
  const pen = new CanvasPen(canvas, width, height, ratio);
  pen.rect(0, 0, width, height, ground);
  picture.draw(moved(pen, MARGIN, MARGIN));
  canvas.toBlob((blob) => save(blob, `${name}.png`), "image/png");
}
