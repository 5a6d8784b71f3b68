"""One figure, one picture."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gentrace.export.browser import Figure, bare, drawn, pixels
from gentrace.export.errors import ExportError
from gentrace.trace.file import write_atomically

if TYPE_CHECKING:
    from kaleido import Kaleido

FORMATS = ("png", "svg", "pdf")


def picture(
    figure: Figure,
    *paths: str | PathLike[str],
    width: int | None = None,
    height: int | None = None,
    scale: float = 2.0,
) -> list[Path]:
    """Write a figure as it is first shown, without its menus and sliders.

    Args:
        figure: Any Plotly figure, such as those of `gentrace.views`.
        paths: One or several files; the ending (.png, .svg or .pdf) of each says its format.
        width: Pixels, or in a PDF 1/96 inch; None for the figure's own.
        height: Likewise.
        scale: Pixels of a PNG for each of these.

    Returns:
        The files.

    Raises:
        ExportError: If an ending is another, kaleido or a browser is missing, or the picture would be too big.
        OSError: If the file cannot be written.
    """
    targets = [Path(path) for path in paths]
    formats = [target.suffix.lstrip(".").lower() for target in targets]
    for target, form in zip(targets, formats, strict=True):
        if form not in FORMATS:
            raise ExportError(
                "exporting a figure", f"a path that ends in {target.suffix!r}", f"end it in .{', .'.join(FORMATS)}"
            )
    spec = bare(figure)
    wide, high = pixels(spec, width, height, scale)

    async def work(browser: "Kaleido") -> list[bytes]:
        size = {"width": wide, "height": high, "scale": scale}
        options: list[Any] = [{"format": form, **size} for form in formats]
        return [await browser.calc_fig(spec, option) for option in options]

    for target, content in zip(targets, drawn(work), strict=True):
        write_atomically(target, lambda temporary, content=content: temporary.write_bytes(content))
    return targets
