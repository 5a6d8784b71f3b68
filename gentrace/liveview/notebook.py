"""The picture in a notebook: one output that is replaced again and again.

It is HTML without a script, which Jupyter, VS Code and Colab all show. Token text is untrusted and escaped. The
colours follow the notebook's theme where it tells, and the system's otherwise.
"""

import html
import sys
from typing import Any

from gentrace.liveview.frame import Frame, Text
from gentrace.liveview.terminal import percent, titles
from gentrace.views import theme
from gentrace.views.labels import label, running

MOST_TOKENS = 600
"""Tokens that are shown of a longer text: each drawing sends all of them."""
DARK_NOTEBOOKS = (
    'body[data-jp-theme-light="false"]',
    "body.vscode-dark",
    "body.vscode-high-contrast",
    'html[theme="dark"]',
    'html[data-theme="dark"]',
    "body.dark-theme",
)
"""How notebooks say that they are dark: Jupyter, VS Code, Colab, marimo."""
LIGHT_NOTEBOOKS = ('body[data-jp-theme-light="true"]', "body.vscode-light", 'html[theme="light"]', "body.light-theme")


class Notebook:
    """One output of a notebook's cell."""

    every_step = False
    """Whether each step has to be drawn."""

    def __init__(self, display: Any = None) -> None:
        """Open the output with the first drawing.

        Args:
            display: Stands in for ``IPython.display``.
        """
        if display is None:
            from IPython import display
        self._tools = display
        self._output: Any = None

    def draw(self, frame: Frame) -> None:
        """Replace what was drawn before; a finished frame stays."""
        self._put(page(frame))
        if frame.finished:
            self._output = None

    def say(self, message: str) -> None:
        """One line, in an output of its own."""
        self._tools.display(self._tools.HTML(f"<div>{html.escape(message)}</div>"))

    def close(self) -> None:
        """The output stays."""

    def _put(self, text: str) -> None:
        shown = self._tools.HTML(text)
        if self._output is None:
            self._output = self._tools.display(shown, display_id=True)
        else:
            self._output.update(shown)


class MarimoCell:
    """The output of a marimo cell, which is one for all that the cell draws."""

    every_step = False
    """Whether each step has to be drawn."""

    def __init__(self) -> None:
        """Open the output with the first drawing."""
        self._tools: Any = sys.modules["marimo"]
        self._before = ""

    def draw(self, frame: Frame) -> None:
        """Replace what was drawn before; a finished frame stays."""
        shown = page(frame)
        self._put(shown)
        if frame.finished:
            self._before += shown

    def say(self, message: str) -> None:
        """One line below."""
        self._before += f"<div>{html.escape(message)}</div>"
        self._put("")

    def close(self) -> None:
        """The output stays."""

    def _put(self, text: str) -> None:
        self._tools.output.replace(self._tools.Html(self._before + text))


def page(frame: Frame) -> str:
    """A frame as HTML that brings its own style."""
    count = f"{frame.prompt_length} + {frame.generated} tokens"
    count = count if frame.rate is None else f"{count} · {frame.rate:.1f} tokens/s"
    newest = len(frame.text.pieces) - 1
    parts = [f"<header><b>{html.escape(frame.title)}</b><span>{count}</span></header>"]
    if frame.source is not None:
        parts.append(f'<p class="source">{_tokens(frame.source, -1, 0)}</p>')
    parts.append(f"<p>{_tokens(frame.text, newest, frame.prompt_length)}</p>")
    said, looked = titles(frame)
    table = frame.source or frame.text
    parts.append(f"<section>{_table(said, frame.next, 'next')}{_table(looked, table.strongest, 'looks')}</section>")
    return f'<style>{_style()}</style><div class="gentrace-live">{"".join(parts)}</div>'


def _tokens(text: Text, newest: int, given: int) -> str:
    start = max(0, len(text.pieces) - MOST_TOKENS)
    shares = text.shares
    spans = ["…"] if start else []
    for place in range(start, len(text.pieces)):
        kind = "newest" if place == newest else "given" if place < given else ""
        shown = html.escape(running(text.pieces[place])) if text.pieces[place] else ""
        spans.append(f'<span class="{kind}" style="--a:{shares[place] ** 0.5:.2f}">{shown}</span>')
    return "".join(spans)


def _table(title: str, entries: tuple[tuple[str, float], ...], kind: str) -> str:
    rows = "".join(
        f'<tr><th>{html.escape(label(piece))}</th><td><i class="{kind}" style="width:{100 * share:.1f}%"></i></td>'
        f"<td>{percent(share)}</td></tr>"
        for piece, share in entries
    )
    return f"<table><caption>{html.escape(title)}</caption>{rows}</table>"


def _style() -> str:
    dark = _variables(theme.DARK)
    rules = [
        f".gentrace-live{{{_variables(theme.LIGHT)}}}",
        f"@media(prefers-color-scheme:dark){{.gentrace-live{{{dark}}}}}",
        *(f"{where} .gentrace-live{{{_variables(theme.LIGHT)}}}" for where in LIGHT_NOTEBOOKS),
        *(f"{where} .gentrace-live{{{dark}}}" for where in DARK_NOTEBOOKS),
        _RULES,
    ]
    return "".join(rules)


def _variables(colours: theme.Theme) -> str:
    names = {"paper": colours.card, "ink": colours.ink, "muted": colours.muted, "line": colours.line}
    names |= {"warm": colours.attention[3], "bar": colours.attention[4], "cool": colours.raw}
    return "".join(f"--{name}:{value};" for name, value in names.items())


# Thrice, for notebooks have strong rules for every other row of a table.
_OWN = ".gentrace-live" * 3
_RULES = f"""
.gentrace-live{{background:var(--paper);color:var(--ink);border:1px solid var(--line);border-radius:8px;
padding:12px 16px;max-width:920px;font:14px/1.5 {theme.SANS};box-sizing:border-box}}
.gentrace-live header{{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 16px}}
.gentrace-live header span,.gentrace-live caption{{color:var(--muted);font-size:13px;font-weight:400}}
.gentrace-live p{{font:17px/1.75 {theme.SERIF};white-space:pre-wrap;overflow-wrap:anywhere;margin:10px 0}}
.gentrace-live p.source{{border-bottom:1px solid var(--line);padding-bottom:10px}}
.gentrace-live p span{{padding:2px 0;border-radius:3px;
background:color-mix(in srgb,var(--warm) calc(var(--a)*100%),transparent)}}
.gentrace-live p span.newest{{font-weight:700;text-decoration:underline;text-underline-offset:4px}}
.gentrace-live p span.given{{font-style:italic}}
.gentrace-live section{{display:flex;flex-wrap:wrap;gap:8px 32px}}
.gentrace-live table{{flex:1 1 300px;border-collapse:collapse;margin:0;table-layout:fixed;background:none;
color:inherit;font-size:13px}}
.gentrace-live caption{{text-align:left;padding:0 0 4px;caption-side:top}}
{_OWN} tr{{background:none;border:0}}
{_OWN} th{{width:110px;text-align:left;font:13px {theme.MONO};
white-space:nowrap;overflow:hidden;
text-overflow:ellipsis;padding:1px 8px 1px 0;border:0;background:none;color:inherit}}
{_OWN} td{{padding:1px 0;border:0;text-align:left}}
{_OWN} td:last-child{{width:64px;text-align:right;font-variant-numeric:tabular-nums}}
.gentrace-live i{{display:block;height:10px;border-radius:2px;background:var(--cool)}}
.gentrace-live i.looks{{background:var(--bar)}}
""".replace("\n", "")
