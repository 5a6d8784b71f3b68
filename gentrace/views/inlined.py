"""What every page of one file needs: data that can stand inside it, and a policy that lets nothing else run."""

import base64
import hashlib
import json
import zlib
from dataclasses import asdict
from functools import cache

from plotly.offline import get_plotlyjs

from gentrace.views import theme


def script_json(value: object) -> str:
    """JSON that can stand inside a script element: ASCII only, and nothing that could close or comment it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def policy_hash(text: str) -> str:
    """How a security policy names a script or a style that stands in the page."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def theme_rules() -> str:
    """Style rules that give a page both themes' colours and its families of type, as custom properties."""
    rules = [f":root{{--sans:{theme.SANS};--serif:{theme.SERIF};--mono:{theme.MONO};}}"]
    for name, colours in (("light", theme.LIGHT), ("dark", theme.DARK)):
        plain = {key: value for key, value in asdict(colours).items() if isinstance(value, str)}
        settings = "".join(f"--{key}:{value};" for key, value in plain.items()) + f"color-scheme:{name};"
        rules.append(f':root[data-theme="{name}"]{{{settings}}}')
        rules.append(f"@media (prefers-color-scheme:{name}){{:root:not([data-theme]){{{settings}}}}}")
    return "\n".join(rules)


@cache
def plotly_script() -> tuple[str, str]:
    """Plotly's script, deflated and in base64, and its hash for the security policy."""
    source = get_plotlyjs()
    return base64.b64encode(zlib.compress(source.encode(), 9)).decode(), policy_hash(source)
