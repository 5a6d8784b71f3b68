"""The page's modules as one script.

A file opened from disk may not import another. So each module becomes a function of its own that hands back what it
exports, in an order in which all that it imports stands before it. Nothing else is changed: the same files run as
modules from a server.
"""

import re
from functools import cache
from importlib.resources import files

from gentrace.errors import ViewError

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const) (\w+))", re.MULTILINE)


def asset(name: str) -> str:
    """The text of a file that ships with the page."""
    return (files("gentrace.explorer") / "assets" / name).read_text("utf-8")


def order(name: str = "app") -> list[str]:
    """A module and all that it needs, each after what it needs itself.

    Raises:
        ViewError: If modules need one another in a circle.
    """
    done: list[str] = []

    def visit(module: str, above: tuple[str, ...]) -> None:
        if module in above:
            raise ViewError("putting the page together", f"modules need one another: {' → '.join([*above, module])}")
        if module not in done:
            for needed in _IMPORT.findall(asset(f"{module}.js")):
                visit(needed, (*above, module))
            done.append(module)

    visit(name, ())
    return done


@cache
def script() -> str:
    """All modules, in order."""
    return "\n".join(_function(asset(f"{module}.js")) for module in order())


def _function(text: str) -> str:
    """A module's text as a function that is called once; what it exports gets the same names outside."""
    names = ", ".join(_EXPORT.findall(text))
    body = _EXPORT.sub("", _IMPORT.sub("", text))
    return f"const {{ {names} }} = (() => {{\n{body}return {{ {names} }};\n}})();"
