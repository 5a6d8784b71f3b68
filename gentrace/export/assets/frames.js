// A figure's own frames, one after another in one page, each as a PNG or as a block of a GIF.
"use strict";

const animation = {
  async start(figure, size) {
    this.size = size;
    this.chart = document.createElement("div");
    document.body.append(this.chart);
    const layout = {...figure.layout, width: size.width, height: size.height};
    await Plotly.newPlot(this.chart, {...figure, layout, config: {staticPlot: true}});
    const sides = [size.width, size.height].map((side) => Math.round(side * size.scale));
    this.canvas = Object.assign(document.createElement("canvas"), {width: sides[0], height: sides[1]});
    this.pen = this.canvas.getContext("2d", {willReadFrequently: true});
    this.before = null;
    return sides;
  },

  async png(name) {
    const still = {mode: "immediate", transition: {duration: 0}, frame: {duration: 0, redraw: true}};
    await Plotly.animate(this.chart, [name], still);
    const url = await Plotly.toImage(this.chart, {format: "png", ...this.size});
    return url.slice(url.indexOf(",") + 1);
  },

  async gif(name, hundredths) {
    const image = new Image();
    image.src = `data:image/png;base64,${await this.png(name)}`;
    await image.decode();
    this.pen.fillStyle = "white";
    this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.pen.drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
    const {data} = this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height);
    const now = new Uint32Array(data.buffer);
    const box = changed(this.before, now, this.canvas.width);
    this.before = now;
    return base64(block(now, this.canvas.width, box, hundredths));
  },
};

function base64(bytes) {
  const parts = [];
  for (let at = 0; at < bytes.length; at += 8192) parts.push(String.fromCharCode(...bytes.slice(at, at + 8192)));
  return btoa(parts.join(""));
}
