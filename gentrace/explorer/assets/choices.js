// The choices above the picture: trace, kind of attention, layer, head, and what becomes of the first token.

import { make } from "./pen.js";

export const FIRST = { aside: "set aside", log: "log scale", keep: "as it is" };
const byId = (id) => document.getElementById(id);

export class Choices {
  constructor(app) {
    this.app = app;
    const { store } = app;
    byId("trace").append(...store.traces.map((trace, at) => new Option(trace.name, at)));
    byId("trace-choice").hidden = store.traces.length < 2;
    const pick = (id, patch) => byId(id).addEventListener("change", (event) => app.set(patch(event.target.value)));
    pick("trace", (value) => ({ trace: Number(value) }));
    pick("kind", (value) => ({ kind: value, heads: null }));
    pick("layer", (value) => ({ layer: Number(value), heads: null }));
    pick("head", (value) => ({ head: value === "mean" ? value : Number(value), heads: null }));
    for (const [value, words] of Object.entries(FIRST)) {
      const input = make("input", { type: "radio", name: "first-token", value });
      input.addEventListener("change", () => app.set({ first: value }));
      byId("sink").append(make("label", {}, input, make("span", {}, words)));
    }
  }

  show() {
    const { store, v, layer, trace } = this.app;
    const fill = (id, options, value) => {
      const select = byId(id);
      const sign = options.flat().join();
      if (select.dataset.sign !== sign) select.replaceChildren(...options.map(([words, each]) => new Option(words, each)));
      select.dataset.sign = sign;
      select.value = value;
    };
    const kinds = store.kinds(v.trace);
    fill("kind", kinds.map((kind) => [kind, kind]), v.kind);
    byId("kind-choice").hidden = kinds.length < 2;
    fill("layer", store.layers(v.trace, v.kind).map((each) => [each.index, each.index]), v.layer);
    fill("head", this.app.choices().map((each) => [layer.exact[each] === undefined ? each : `${each} · exact`, each]), v.head);
    byId("trace").value = v.trace;
    byId("facts").textContent = [trace.model === store.title ? "" : trace.model, trace.facts].filter(Boolean).join(" · ");
    for (const input of byId("sink").querySelectorAll("input")) input.checked = input.value === v.first;
  }
}
