// Everything that can be done, once: by key, and in a list that is searched by typing.

import { make } from "./pen.js";

const FIELDS = "input:not([type=range]):not([type=radio]), select, textarea";

export class Commands {
  constructor(commands) {
    this.commands = commands;
    this.keys = true;
    this.dialog = document.getElementById("commands");
    this.input = document.getElementById("command");
    this.list = document.getElementById("command-list");
    this.single = document.getElementById("single-keys");
    document.addEventListener("keydown", (event) => this.key(event));
    this.input.addEventListener("input", () => this.fill());
    this.input.addEventListener("keydown", (event) => this.choose(event));
    this.single.addEventListener("change", () => { this.keys = this.single.checked; });
    // The browser closes it a while after the key, and a key that follows at once would be lost.
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      this.close();
    });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.close(); });
    document.getElementById("close").addEventListener("click", () => this.close());
    document.getElementById("help").addEventListener("click", () => this.open());
  }

  open() {
    this.input.value = "";
    this.fill();
    this.dialog.showModal();
    this.input.focus();
  }

  // A browser may leave the focus inside for a while, where the next key would be lost.
  close() {
    this.dialog.close();
    if (this.dialog.contains(document.activeElement)) document.activeElement.blur();
  }

  key(event) {
    if (this.dialog.open || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const { target } = event;
    if (target.closest?.(FIELDS)) return;
    if (event.key === "?") {
      event.preventDefault();
      return this.open();
    }
    if (!this.keys && event.key.length === 1) return;
    const arrows = event.key.startsWith("Arrow") || ["Home", "End"].includes(event.key);
    if (arrows && target.closest?.("input[type=radio], [role=tab]")) return;
    if (event.key === " " && target.closest?.("button, a, input[type=radio]") && target.id !== "play") return;
    const name = (event.shiftKey && arrows ? "Shift+" : "") + (event.key === " " ? "Space" : event.key);
    const found = this.commands.find((command) => command.keys.includes(name));
    if (!found) return;
    event.preventDefault();
    found.run();
  }

  fill() {
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.found = this.commands.filter((command) => words.every((word) => `${command.name} ${command.keys.join(" ")}`.toLowerCase().includes(word)));
    this.list.replaceChildren(...this.found.map((command, at) => {
      const keys = make("span", { className: "bound" }, ...command.keys.map((key) => make("kbd", {}, key.replace("Arrow", "").replace("Left", "←").replace("Right", "→"))));
      const item = make("li", { role: "option", id: `command-${at}` }, make("span", {}, command.name), keys);
      item.addEventListener("click", () => this.run(at));
      return item;
    }));
    this.mark(0);
  }

  mark(at) {
    this.at = Math.min(Math.max(at, 0), this.found.length - 1);
    [...this.list.children].forEach((item, place) => item.setAttribute("aria-selected", place === this.at));
    this.input.setAttribute("aria-activedescendant", this.found.length ? `command-${this.at}` : "");
    this.list.children[this.at]?.scrollIntoView({ block: "nearest" });
  }

  choose(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      this.mark(this.at + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter" && this.found.length) {
      event.preventDefault();
      this.run(this.at);
    }
  }

  run(at) {
    this.close();
    this.found[at].run();
  }
}

// What can be done, in the order in which it is listed.
export function listCommands(app, tabs, firsts) {
  const goes = (by) => () => app.controls.move(app.v.step + by);
  const command = (name, keys, run) => ({ name, keys, run });
  return [
    command("play or pause", ["Space"], () => app.controls.toggle()),
    command("one step forward", ["ArrowRight"], goes(1)), command("one step back", ["ArrowLeft"], goes(-1)),
    command("ten steps forward", ["Shift+ArrowRight"], goes(10)), command("ten steps back", ["Shift+ArrowLeft"], goes(-10)),
    command("first step", ["Home"], () => app.controls.move(app.layer.queries[0])), command("last step", ["End"], () => app.controls.move(app.layer.queries[1] - 1)),
    command("next head", ["]"], () => app.moveHead(1)), command("previous head", ["["], () => app.moveHead(-1)),
    command("next layer", ["."], () => app.moveLayer(1)), command("previous layer", [","], () => app.moveLayer(-1)),
    ...tabs.map((name, at) => command(`open ${name}`, [String(at + 1)], () => app.set({ tab: name }))),
    ...(app.store.traces.length > 1 ? [command("next trace", ["t"], () => app.set({ trace: (app.v.trace + 1) % app.store.traces.length }))] : []),
    command("zoom in at the current step", ["+", "="], () => app.zoomBy(1.6)), command("zoom out", ["-"], () => app.zoomBy(0.625)),
    command("show the whole matrix", ["0"], () => app.set({ zoom: null })),
    command("first token: set aside, log scale, as it is", ["f"], () => app.set({ first: firsts[(firsts.indexOf(app.v.first) + 1) % firsts.length] })),
    command("light or dark", ["d"], () => app.toggleTheme()),
    command("save the picture as PNG", ["p"], () => app.save("png")), command("save the picture as SVG", ["s"], () => app.save("svg")),
    command("copy a link to this view", ["l"], () => app.copyLink()),
    command("print", [], () => print()),
    command("list every key", ["?"], () => app.commands.open()),
  ];
}
