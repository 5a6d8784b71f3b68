// What is shown, as one flat value that also stands in the address, so that a link opens the same view.

const NAMES = ["tab", "trace", "kind", "layer", "head", "step", "token", "first", "colour", "to", "heads", "lines", "pair", "key", "zoom", "theme"];
const NUMBERS = ["trace", "layer", "step", "token", "key"];

function parse(name, text) {
  if (NUMBERS.includes(name)) return /^\d+$/.test(text) ? Number(text) : undefined;
  if (name === "head") return text === "mean" ? text : /^\d+$/.test(text) ? Number(text) : undefined;
  return text;
}

export function readAddress() {
  const found = {};
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    const value = NAMES.includes(name) ? parse(name, text) : undefined;
    if (value !== undefined) found[name] = value;
  }
  return found;
}

export class State {
  constructor(values, settle) {
    this.values = values;
    this.settle = settle;
    this.listeners = [];
  }

  // Changes some values, makes them fit one another, and tells everybody once.
  set(patch) {
    const before = this.values;
    this.values = this.settle({ ...before, ...patch });
    const changed = new Set(Object.keys(this.values).filter((name) => this.values[name] !== before[name]));
    if (!changed.size) return;
    for (const listener of this.listeners) listener(changed);
    this.write();
  }

  address() {
    const shown = NAMES.filter((name) => this.values[name] !== null && this.values[name] !== undefined && this.values[name] !== "");
    return `#${new URLSearchParams(shown.map((name) => [name, this.values[name]]))}`;
  }

  // Browsers refuse more than a few changes of the address a second.
  write() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.written = this.address();
      try {
        history.replaceState(null, "", this.written);
      } catch {
        // A notebook's frame has no address of its own.
      }
    }, 120);
  }
}
