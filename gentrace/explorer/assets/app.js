// Puts the parts together: one state, shown by the tab that is open.

import { predicted } from "./alternatives.js";
import { Choices, FIRST } from "./choices.js";
import { showWeight, Palette, Scale } from "./colour.js";
import { Commands, listCommands } from "./commands.js";
import { CompareTab } from "./compare.js";
import { Controls } from "./controls.js";
import { exportPicture } from "./export.js";
import { HeadsTab, PAIRS } from "./heads.js";
import { darkAround } from "./link.js";
import { ModelTab } from "./model.js";
import { NeuronTab } from "./neuron.js";
import { make } from "./pen.js";
import { ReplayTab } from "./replay.js";
import { readAddress, State } from "./state.js";
import { Store } from "./store.js";
import { tellCell, Tip } from "./tip.js";
import { TokensTab } from "./tokens.js";
import { explainWorth, nameWorth } from "./worth.js";
import { followed, panned, parseZoom, within, zoomed } from "./zoom.js";

const TABS = { replay: ReplayTab, heads: HeadsTab, model: ModelTab, neuron: NeuronTab, tokens: TokensTab, compare: CompareTab };
const COLOURS = ["probability", "surprise", "entropy", "rank"];
const DATA = ["trace", "kind", "layer", "head"];
const byId = (id) => document.getElementById(id);

class Explorer {
  constructor() {
    this.store = new Store(() => this.arrived());
    this.dark = darkAround(this.store.link);
    this.print = matchMedia("print");
    this.tabs = {};
    this.values = new Float32Array(Math.max(...this.store.traces.flatMap((trace) => [trace.text, trace.source].map((tokens) => tokens?.labels.length ?? 0))) + 1);
    const wanted = this.settle({ ...this.defaults(), ...readAddress() });
    const first = wanted.tab === "neuron" && !("head" in readAddress()) ? this.settle({ ...wanted, ...this.withVectors(wanted) }) : wanted;
    this.state = new State(first, (values) => this.settle(values));
    this.state.listeners.push((changed) => this.changed(changed));
    this.controls = new Controls((step) => this.set({ step }));
    this.tip = new Tip(byId("tip"), () => this.forget());
    this.dress();
    this.commands = new Commands(listCommands(this, Object.keys(TABS), Object.keys(FIRST)));
    this.recolour();
    this.changed(new Set(Object.keys(this.v)));
    this.state.write();
  }

  get v() { return this.state.values; }
  get trace() { return this.store.traces[this.v.trace]; }
  get layer() { return this.store.layer(this.v.trace, this.v.kind, this.v.layer); }
  get sides() { return this.store.sides(this.v.trace, this.v.kind); }
  get tab() { return this.tabs[this.v.tab]; }
  get layerName() { return `Layer ${this.layer.index}${{ self: "", cross: " (cross-attention)", encoder: " (encoder)" }[this.v.kind]}`; }

  defaults() {
    // Of a translation, what it looks at in the source says most; its own first tokens see next to nothing.
    const kind = ["cross", "self"].find((one) => this.store.kinds(0).includes(one)) ?? this.store.kinds(0)[0];
    // What nobody wrote there is nothing to replay of: an encoder's text is seen all at once.
    const written = predicted(this.store.traces[0].text);
    return { tab: written ? "replay" : "heads", trace: 0, kind, layer: null, head: null, step: null, token: null, first: "aside", colour: "probability", to: null, heads: null, lines: null, pair: null, key: null, zoom: null, theme: null };
  }

  // Makes values fit what the page holds, whatever an address said.
  settle(values) {
    const one = { ...values };
    const { store } = this;
    if (!Object.hasOwn(TABS, one.tab)) one.tab = "replay";
    if (!store.traces[one.trace]) one.trace = 0;
    const kinds = store.kinds(one.trace);
    if (!kinds.includes(one.kind)) one.kind = kinds[0];
    const layers = store.layers(one.trace, one.kind);
    const layer = layers.find((each) => each.index === one.layer) ?? layers[layers.length - 1];
    one.layer = layer.index;
    if (one.head !== "mean" && !layer.heads.includes(one.head)) one.head = layer.heads.length > 1 ? "mean" : layer.heads[0];
    if (layer.heads.length < 2) one.head = layer.heads[0];
    const [start, stop] = layer.queries;
    const begin = this.begin(one.trace, layer);
    const row = (token) => Math.min(Math.max(token, start), stop - 1);
    one.step = row(one.step ?? begin);
    // What is looked at among the tokens is the step's own, or the nearest that is none.
    const known = store.sides(one.trace, one.kind).queries.labels.length;
    if (one.token !== null && (one.token === one.step || one.token >= known || row(one.token) !== one.step)) one.token = null;
    if (!Object.hasOwn(FIRST, one.first)) one.first = "aside";
    if (!COLOURS.includes(one.colour)) one.colour = "probability";
    if (!["light", "dark"].includes(one.theme)) one.theme = null;
    if (one.lines !== "all") one.lines = null;
    if (!Object.hasOwn(PAIRS, one.pair ?? "")) one.pair = null;
    const [zoom, bounds] = [parseZoom(one.zoom), [start, stop, 0, layer.keys]];
    one.zoom = zoom && within(zoom, bounds) !== bounds ? followed(within(zoom, bounds), bounds, one.step, layer.causal) : null;
    return one;
  }

  // The last token that was given, which chooses the first one written.
  begin(trace, layer) {
    const { text } = this.store.traces[trace];
    const at = layer.kind === "encoder" || text.promptLength >= text.labels.length ? layer.queries[1] - 1 : text.promptLength - 1;
    return Math.min(Math.max(at, layer.queries[0]), layer.queries[1] - 1);
  }

  set(patch) {
    const { v } = this;
    // Where queries and keys are shown, a head that has them is found when they come into view, and in another trace.
    const comes = v.tab === "neuron" ? ![v.trace, undefined].includes(patch.trace) : patch.tab === "neuron";
    this.state.set(comes ? { ...this.withVectors(this.settle({ ...v, ...patch })), ...patch } : patch);
  }

  // A head whose queries and keys can be shown, the nearest to the one that is looked at; nothing if that one can.
  withVectors({ trace, kind, layer: index, head }) {
    const { store } = this;
    const heads = (one) => (!one.dim ? [] : store.link ? one.heads : one.heads.filter((each) => one.exact[each] !== undefined));
    const layer = store.layer(trace, kind, index);
    if (heads(layer).includes(head)) return {};
    const found = [layer, ...store.layers(trace, kind), ...store.traces[trace].layers].find((one) => heads(one).length);
    return found ? { kind: found.kind, layer: found.index, head: heads(found)[0] } : {};
  }

  // Numbers that were looked for have come.
  arrived() {
    this.asked ??= requestAnimationFrame(() => {
      this.asked = null;
      const { failed } = this.store.windows;
      if (failed) byId("announce").textContent = byId("reading").textContent = `${failed.message}.`;
      this.show(new Set(["numbers"]));
      if (this.pointed) this.hover(...this.pointed);
    });
  }

  dress() {
    const { store } = this;
    byId("title").textContent = store.title;
    const tablist = byId("tabs");
    for (const [at, name] of Object.keys(TABS).entries()) {
      const button = make("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, title: `key ${at + 1}` }, name);
      button.addEventListener("click", () => this.set({ tab: name }));
      tablist.append(button);
    }
    tablist.addEventListener("keydown", (event) => {
      const names = Object.keys(TABS);
      const at = names.indexOf(this.v.tab);
      const next = { ArrowRight: (at + 1) % names.length, ArrowLeft: (at + names.length - 1) % names.length, Home: 0, End: names.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      this.set({ tab: names[next] });
      byId(`tab-${names[next]}`).focus();
    });
    this.chooser = new Choices(this);
    byId("theme").addEventListener("click", () => this.toggleTheme());
    byId("png").addEventListener("click", () => this.save("png"));
    byId("svg").addEventListener("click", () => this.save("svg"));
    this.dark.addEventListener("change", () => this.recolour(true));
    this.print.addEventListener("change", () => this.recolour(true));
    addEventListener("hashchange", () => { if (location.hash !== this.state.written) this.set({ ...this.defaults(), ...readAddress() }); });
    let known = "";
    new ResizeObserver(() => {
      const size = `${innerWidth}x${innerHeight}`;
      if (known && size !== known) this.tab?.resize();
      known = size;
    }).observe(document.documentElement);
  }

  toggleTheme() {
    this.set({ theme: this.themeName === "dark" ? "light" : "dark" });
  }

  recolour(repaint = false) {
    this.themeName = this.print.matches ? "light" : this.v.theme ?? (this.dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = this.themeName;
    this.palette = new Palette(this.store.themes[this.themeName]);
    this.scales = new Map();
    if (repaint) this.show(new Set(["look", "data"]));
  }

  async changed(changed) {
    this.forget();
    if (changed.has("theme")) { this.recolour(); changed.add("look"); }
    if (changed.has("zoom")) changed.add("look");
    if (changed.has("first")) { this.scales = new Map(); changed.add("look"); }
    if (DATA.some((name) => changed.has(name)) || changed.has("tab")) changed.add("data");
    // A step comes many times a second and touches none of these.
    if (changed.has("tab")) this.openTab();
    if (changed.has("data") || changed.has("look")) this.chooser.show();
    const layer = this.layer;
    if (!this.store.ready(layer)) {
      const turn = (this.turn = {});
      document.body.classList.add("reading");
      try {
        await this.store.load(layer);
      } catch (error) {
        byId("announce").textContent = byId("precision").textContent = `The matrices cannot be read: ${error.message}.`;
        return;
      }
      if (turn !== this.turn || layer !== this.layer) return;
      document.body.classList.remove("reading");
      changed.add("data");
    }
    this.show(changed);
    if (!this.reading && !this.store.link) this.readRest();
    else document.body.dataset.loaded ??= "asked";
  }

  show(changed) {
    if (!this.store.ready(this.layer)) return;
    this.head = this.store.head(this.layer, this.v.head);
    this.scale = this.scaleOf([this.head]);
    this.controls.show(this.v.step, this.layer.queries, this.begin(this.v.trace, this.layer));
    this.tab.show(changed);
    this.tellWorth();
    if (!this.controls.playing) this.announce();
    if (document.body.dataset.ready !== this.v.tab) document.body.dataset.ready = this.v.tab;
  }

  // What is asked for waits until all layers are to be seen.
  readAll() {
    if (this.store.link && !this.reading) this.readRest();
  }

  // The other layers, once the first picture stands.
  readRest() {
    this.reading = true;
    const start = () => this.store.loadAll((done, all) => {
      byId("reading").textContent = done < all ? `${done} of ${all} layers read` : "";
      if (this.v.tab === "model") this.tab.show(new Set(["loaded"]));
      if (done === all) document.body.dataset.loaded = "all";
    });
    requestAnimationFrame(() => setTimeout(start));
  }

  openTab() {
    const { tab } = this.v;
    for (const name of Object.keys(TABS)) {
      const chosen = name === tab;
      byId(`tab-${name}`).setAttribute("aria-selected", chosen);
      byId(`tab-${name}`).tabIndex = chosen ? 0 : -1;
      byId(`panel-${name}`).hidden = !chosen;
    }
    this.tabs[tab] ??= new TABS[tab](this, byId(`panel-${tab}`));
    byId("sink").hidden = ["neuron", "tokens"].includes(tab);
  }

  choices() {
    const { heads } = this.layer;
    return heads.length > 1 ? ["mean", ...heads] : heads;
  }

  scaleOf(heads) {
    const name = heads.map((head) => `${this.store.traces.findIndex((trace) => trace.layers.includes(head.layer))}.${head.layer.kind}.${head.layer.index}.${head.head}`).join();
    if (!this.scales.has(name)) this.scales.set(name, new Scale(heads, this.v.first, this.store.fullColour));
    return this.scales.get(name);
  }

  // The current row's weights, in this.values; how many there are.
  row() {
    this.rowExact = this.head.row(this.v.step, this.values);
    return this.head.width(this.v.step);
  }

  words(value, exact = this.rowExact) {
    return showWeight(value, exact);
  }

  // What the numbers on the screen are worth.
  precision(long = false) {
    const { head, store, tab, v } = this;
    const worth = (one) => (long ? explainWorth : nameWorth)({ head: one, store, tab: v.tab, refined: tab?.refined });
    const [a, b] = [head, (v.tab === "compare" && tab?.b) || head].map(worth);
    return a === b ? a : `A: ${a}. B: ${b}`;
  }

  tellWorth() {
    const worth = this.precision(true);
    if (byId("precision").textContent !== worth) byId("precision").textContent = worth;
  }

  get zoom() { return parseZoom(this.v.zoom); }

  get bounds() { return [...this.layer.queries, 0, this.layer.keys]; }

  // What a matrix may ask for when it is pinched or dragged.
  get mover() {
    return {
      zoom: (cell, factor) => { this.set({ zoom: zoomed(this.zoom, this.bounds, factor, cell), ...(factor > 1 ? { step: this.nearest(cell, factor) } : {}) }); },
      pan: (down, across) => this.set(this.panTo(down, across)),
    };
  }

  // The current row, or where the window keeps none, one that is in it.
  nearest(cell, factor) {
    const next = parseZoom(zoomed(this.zoom, this.bounds, factor, cell)) ?? this.bounds;
    return Math.min(Math.max(this.v.step, next[0]), next[1] - 1);
  }

  panTo(down, across) {
    const zoom = panned(this.zoom, this.bounds, down, across);
    const [first, past] = parseZoom(zoom);
    return { zoom, step: Math.min(Math.max(this.v.step, first), past - 1) };
  }

  zoomBy(factor) {
    const { step } = this.v;
    this.set({ zoom: zoomed(this.zoom, this.bounds, factor, { query: step, key: Math.min(step, this.layer.keys - 1) }) });
  }

  step(step) {
    this.controls.pause();
    this.set({ step });
  }

  moveHead(by) {
    const heads = this.choices();
    this.set({ head: heads[(heads.indexOf(this.v.head) + by + heads.length) % heads.length], heads: null });
  }

  moveLayer(by) {
    const layers = this.store.layers(this.v.trace, this.v.kind).map((layer) => layer.index);
    this.set({ layer: layers[(layers.indexOf(this.v.layer) + by + layers.length) % layers.length], heads: null });
  }

  later(work) {
    (window.requestIdleCallback ?? ((each) => setTimeout(each, 16)))(work);
  }

  announce() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { byId("announce").textContent = this.tab.describe(); }, 150);
  }

  save(format) {
    const picture = this.tab.picture();
    if (picture) exportPicture(picture, format, this.palette.theme.card, this.trace.model);
    else byId("announce").textContent = "There is no picture to save here.";
  }

  hoverKey(event, key) {
    const { step } = this.v;
    this.hover(event, key === null || key >= this.head.width(step) ? null : { query: step, key });
  }

  // A cell under the pointer: its numbers, and a mark on every matrix.
  hover(event, cell, head = this.head) {
    this.pointAt(cell);
    this.pointed = cell && [event, cell, head];
    this.tell(event, cell && tellCell(cell, head, this.sides));
  }

  pointAt(cell) {
    this.tab?.point(cell);
  }

  tell(event, lines) {
    this.tip.show(event, lines);
  }

  // What was pointed at is no longer what is told of it.
  forget() {
    if (this.tip.shown) this.hover(null, null);
  }

  async copyLink() {
    const address = location.href.split("#")[0] + this.state.address();
    const done = await navigator.clipboard?.writeText(address).then(() => true, () => false);
    byId("announce").textContent = done ? "The link was copied." : `The link is ${address}`;
  }
}

window.explorer = new Explorer();
