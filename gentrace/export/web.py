"""One figure, one page: what stays when a figure should still answer."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from gentrace.trace.file import write_atomically

if TYPE_CHECKING:
    from plotly import graph_objects as go


def page(figure: "go.Figure", path: str | PathLike[str]) -> Path:
    """Write a figure with its menus, sliders and scripts as one HTML file, which needs no network.

    Args:
        figure: Any Plotly figure, such as those of `gentrace.views`.
        path: The file.

    Returns:
        The file.

    Raises:
        OSError: If the file cannot be written.
    """
    from gentrace.views.figure_page import figure_page

    target, text = Path(path), figure_page(figure)
    write_atomically(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return target
