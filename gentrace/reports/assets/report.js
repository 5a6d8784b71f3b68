// Draws the plots when they come into sight, sorts tables, and opens the replay that a number leads to.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("payload").textContent);
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const themeName = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");

async function inflated(id) {
  const binary = atob(byId(id).textContent);
  const bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

// Plots. Plotly travels deflated; its text must match the hash in the page's security policy.
let plotly = null;
function loadPlotly() {
  plotly ??= inflated("plotly").then((text) => {
    const script = document.createElement("script");
    script.textContent = text;
    document.head.append(script);
  });
  return plotly;
}

async function draw(element) {
  await loadPlotly();
  const plot = data.plots[element.dataset.plot];
  const { data: traces, layout } = structuredClone(plot[themeName()]);
  const first = !element.classList.contains("js-plotly-plot");
  await window.Plotly.react(element, traces, layout, { responsive: true, displayModeBar: false });
  element.dataset.drawn = themeName();
  element.classList.toggle("links", Object.keys(plot.links).length > 0);
  if (first) element.on("plotly_click", (event) => {
    const target = plot.links[event.points[0]?.customdata?.join(".")];
    if (target) location.hash = `replay=${target}`;
  });
}

const plots = [...document.querySelectorAll("[data-plot]")];
const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { sight.unobserve(entry.target); draw(entry.target); }
}, { rootMargin: "600px" });
plots.forEach((plot) => sight.observe(plot));
addEventListener("beforeprint", () => plots.forEach(draw));

function recolour() {
  for (const plot of plots) if (plot.dataset.drawn) draw(plot);
  frame?.contentWindow.explorer?.set({ theme: themeName() });
}
byId("theme").addEventListener("click", () => { root.dataset.theme = themeName() === "dark" ? "light" : "dark"; recolour(); });
dark.addEventListener("change", recolour);

// Contents.
byId("contents").append(...[...document.querySelectorAll("main > section[id]")].map((section) => {
  const link = document.createElement("a");
  link.href = `#${section.id}`;
  link.textContent = section.querySelector("h2").textContent;
  return link;
}));

// Tables: a click on a heading sorts by it, first the largest.
const valueOf = (row, column) => {
  const cell = row.cells[column];
  const text = cell.querySelector("[data-value]")?.dataset.value ?? cell.textContent.replace("−", "-");
  const number = Number.parseFloat(text);
  return Number.isNaN(number) ? text : number;
};
for (const table of document.querySelectorAll("table.sortable")) {
  for (const [column, heading] of [...table.tHead.rows[0].cells].entries()) {
    heading.tabIndex = 0;
    const sort = () => {
      const up = heading.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
      rows.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1) * (up ? 1 : -1));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    };
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  }
}

// Replays: the explorer's own page in a frame, made when first asked for.
const dialog = byId("replay");
let frame = null;
let framed = null;
function loadFrame() {
  framed ??= inflated("explorer").then((text) => new Promise((done) => {
    frame = document.createElement("iframe");
    frame.title = "Replay";
    frame.srcdoc = text;
    frame.addEventListener("load", () => done(frame), { once: true });
    byId("frame").append(frame);
  }));
  return framed;
}

async function open() {
  const found = /^#replay=(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(location.hash);
  if (!found) { if (dialog.open) dialog.close(); return; }
  const [trace, layer, head, step] = found.slice(1).map(Number);
  if (!data.names[trace]) return;
  byId("replay-name").textContent = `generation ${data.names[trace]}`;
  if (!dialog.open) dialog.showModal();
  const { contentWindow } = await loadFrame();
  contentWindow.explorer.set({ tab: "replay", trace, kind: "self", layer, head, step, heads: null, zoom: null, theme: themeName() });
  dialog.dataset.shown = found.slice(1).join(".");
}
let before = "";
addEventListener("hashchange", open);
document.addEventListener("click", (event) => { if (event.target.closest?.("a[href^='#replay=']")) before = String(scrollY); });
dialog.addEventListener("close", () => {
  if (!location.hash.startsWith("#replay=")) return;
  history.replaceState(null, "", location.pathname + location.search);
  if (before) scrollTo(0, Number(before));
});
byId("close").addEventListener("click", () => dialog.close());
open();
