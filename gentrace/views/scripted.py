"""Figures that answer the pointer.

A figure is JSON and holds no script. Its menus and sliders therefore do all that can be done; where the figure becomes
HTML, a small script of this package goes with it and lets the pointer do the same. Front ends that are handed the JSON
alone, such as JupyterLab's own renderer, keep the menus and sliders.
"""

import inspect
from collections.abc import Callable
from importlib.resources import files
from typing import Any, ClassVar

import plotly.graph_objects as go
from plotly import io


class ScriptedFigure(go.Figure):
    """A figure with a script, which is written wherever the figure is written as HTML."""

    script: ClassVar[str]
    """Name of the script among this room's assets."""

    def to_html(self, *args: Any, **more: Any) -> str:
        """As Plotly's, with the script."""
        return self._with_script(io.to_html, *args, **more)

    def write_html(self, *args: Any, **more: Any) -> None:
        """As Plotly's, with the script."""
        self._with_script(io.write_html, *args, **more)

    def show(self, *args: Any, **more: Any) -> None:
        """As Plotly's; renderers that make HTML, such as "notebook", "iframe" and "browser", get the script."""
        io.show(self, *args, **more | {"post_script": self._scripts(more.get("post_script"))})

    def _repr_mimebundle_(self, *args: Any, **more: Any) -> dict[str, Any]:
        scripts = self._scripts(more.get("post_script"))
        return super()._repr_mimebundle_(*args, **more | {"post_script": scripts})

    def _ipython_display_(self) -> None:
        if io.renderers.render_on_display and io.renderers.default:
            self.show()
        else:
            print(repr(self))

    def _with_script(self, write: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Call one of Plotly's writers, whose arguments may stand in order, with one more script."""
        given = inspect.signature(write).bind(self, *args, **more)
        given.arguments["post_script"] = self._scripts(given.arguments.get("post_script"))
        return write(*given.args, **given.kwargs)

    def _scripts(self, others: str | list[str] | None) -> list[str]:
        own = (files("gentrace.views") / "assets" / self.script).read_text("utf-8")
        return [own, *([others] if isinstance(others, str) else others or ())]
