"""Putting the page together.

Token text is untrusted. It enters as JSON in which no ``<`` is left and reaches the document as text nodes only; the
security policy allows one script and one style sheet, each named by its hash, a worker that the script makes of its
own source, and no network at all, but for a page that is served: that one may ask the place it comes from.
"""

import html
from collections.abc import Sequence
from string import Template

from gentrace.explorer.bundle import asset, script
from gentrace.views.inlined import policy_hash, script_json, theme_rules
from gentrace.views.labels import running


def page_style() -> str:
    """The page's style sheet, with both themes' colours in front."""
    return "\n".join([theme_rules(), asset("page.css"), asset("tabs.css")])


def assemble(title: str, data: object, parts: Sequence[str] = (), *, served: bool = False) -> str:
    """The whole page.

    Args:
        title: What stands in the browser's title bar.
        data: What `gentrace.explorer.payload.payload` made.
        parts: The packed parts that go with it.
        served: Whether the page may ask the server that it comes from, and nobody else.
    """
    style, code = page_style(), script()
    asks = " connect-src 'self';" if served else ""
    works = " worker-src blob:;" if parts else ""
    policy = (
        f"default-src 'none'; script-src {policy_hash(code)}; style-src {policy_hash(style)};{asks}{works} "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    packed = (f'<script type="application/octet-stream" id="part-{n}">{part}</script>' for n, part in enumerate(parts))
    return Template(asset("page.template")).substitute(
        policy=policy,
        title=html.escape(running(title)),
        style=style,
        payload=script_json(data),
        parts="\n".join(packed),
        script=code,
    )
