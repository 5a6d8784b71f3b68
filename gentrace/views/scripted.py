"""Figures that answer the pointer.

A figure is JSON and holds no script. Its menus and sliders therefore do all that can be done; where the figure becomes
HTML, small scripts of this package go with it: the pointer does the same, and a narrow page is minded. Front ends that
are handed the JSON alone, such as JupyterLab's, keep the menus and sliders.
"""

import inspect
from collections.abc import Callable
from importlib.resources import files
from typing import Any, ClassVar

import plotly.graph_objects as go
from plotly import io

JUPYTER = "plotly_mimetype+notebook"
"""What Plotly offers a Jupyter front end that it does not know better: JSON and HTML."""


class ScriptedFigure(go.Figure):
    """A figure with scripts, which are written wherever the figure is written as HTML."""

    scripts: ClassVar[tuple[str, ...]]
    """Names of the scripts among this room's assets."""

    def to_html(self, *args: Any, **more: Any) -> str:
        """As Plotly's, with the scripts."""
        return self._with_scripts(io.to_html, *args, **more)

    def write_html(self, *args: Any, **more: Any) -> None:
        """As Plotly's, with the scripts."""
        self._with_scripts(io.write_html, *args, **more)

    def show(self, *args: Any, **more: Any) -> None:
        """As Plotly's; renderers that make HTML, such as "notebook", "iframe" and "browser", get the scripts."""
        if not args and "renderer" not in more and io.renderers.default == JUPYTER:
            from IPython import display

            tools: Any = display
            tools.display(self._repr_mimebundle_(**more), raw=True)
        else:
            io.show(self, *args, **more | {"post_script": self._and_own(more.get("post_script"))})

    def _repr_mimebundle_(self, *args: Any, **more: Any) -> dict[str, Any]:
        scripts = self._and_own(more.get("post_script"))
        bundle: dict[str, Any] = super()._repr_mimebundle_(*args, **more | {"post_script": scripts})
        if io.renderers.default == JUPYTER:
            # JupyterLab takes the figure's JSON if it is offered, and would leave the scripts out.
            del bundle["application/vnd.plotly.v1+json"]
        return bundle

    def _ipython_display_(self) -> None:
        if io.renderers.render_on_display and io.renderers.default:
            self.show()
        else:
            print(repr(self))

    def _with_scripts(self, write: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Call one of Plotly's writers, whose arguments may stand in order, with more scripts."""
        given = inspect.signature(write).bind(self, *args, **more)
        given.arguments["post_script"] = self._and_own(given.arguments.get("post_script"))
        return write(*given.args, **given.kwargs)

    def _and_own(self, others: str | list[str] | None) -> list[str]:
        own = [(files("gentrace.views") / "assets" / name).read_text("utf-8") for name in self.scripts]
        return [*own, *([others] if isinstance(others, str) else others or ())]


class FittingFigure(ScriptedFigure):
    """Minds a narrow page: the title's size, how many names can be read, the height that square cells need.

    Its ``meta`` may hold ``panels``, how many repeat the names of an axis across and down, ``inner``, the pixels of all
    rows where the width does not matter, and ``wide`` and ``narrow``, changes of the layout that put panels beside each
    other and below each other.
    """

    scripts = ("fit.js",)
