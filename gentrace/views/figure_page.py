"""A figure as one HTML file that needs nothing else, and whose policy lets nothing run but what was put into it."""

import html
import re
from typing import Any

import plotly.graph_objects as go

from gentrace.views.inlined import policy_hash

SCRIPT = re.compile(r"<script[^>]*>(.*?)</script>", re.DOTALL)


def figure_page(figure: go.Figure) -> str:
    """A figure as a page, with Plotly and the figure's own scripts inside.

    Args:
        figure: Any Plotly figure, such as those of `gentrace.views`.

    Returns:
        The page's text.
    """
    drawn = figure.to_html(full_html=False, include_plotlyjs=True, auto_play=False)
    layout: Any = figure.layout
    ground = layout.paper_bgcolor or "#ffffff"
    title = html.unescape(re.sub("<[^>]*>", "", layout.title.text or "")) or "Figure"
    allowed = " ".join(policy_hash(script) for script in SCRIPT.findall(drawn))
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>body{{margin:0;background:{html.escape(ground)}}}</style>
</head>
<body>{drawn}</body>
</html>
"""
