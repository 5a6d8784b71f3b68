"""A figure's own animation as pictures: numbered PNGs, or a GIF.

The figure is drawn once and Plotly itself goes from frame to frame, so a picture shows what the figure shows there. One
browser draws them all; a GIF's frames hold only what changed, each in 256 colours of its own.
"""

import base64
import json
import struct
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from gentrace.export.browser import Figure, bare, drawn, evaluated, pixels
from gentrace.export.errors import ExportError
from gentrace.trace.file import write_atomically

if TYPE_CHECKING:
    from kaleido import Kaleido

QUICKEST = 20
"""Milliseconds; browsers show a GIF's frames for 100 if told to show them for less."""
FOREVER = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"


def frames(
    figure: Figure,
    folder: str | PathLike[str],
    *,
    names: Sequence[str] | None = None,
    width: int | None = None,
    height: int | None = None,
    scale: float = 2.0,
) -> list[Path]:
    """Write an animated figure's frames as ``0001.png``, ``0002.png`` and so on.

    Args:
        figure: A figure with frames, such as `gentrace.views.replay`.
        folder: Where to put them; it is made if it is not there.
        names: Names of the frames, in order; None for those that the figure's own play button plays.
        width: Pixels; None for the figure's own.
        height: Likewise.
        scale: Pixels of the pictures for each of these.

    Returns:
        The files, in order.

    Raises:
        ExportError: If there are no such frames, kaleido or a browser is missing, or the pictures would be too big.
        OSError: If a file cannot be written.
    """
    chosen, start = _prepared(figure, names, width, height, scale)
    place = Path(folder)
    place.mkdir(exist_ok=True)

    async def work(browser: "Kaleido") -> list[Path]:
        await evaluated(browser, start)
        written: list[Path] = []
        for number, name in enumerate(chosen, start=1):
            content = base64.b64decode(await evaluated(browser, f"animation.png({json.dumps(name)})"))
            written.append(place / f"{number:04}.png")
            written[-1].write_bytes(content)
        return written

    return drawn(work, "frames.js", "gif.js")


def gif(
    figure: Figure,
    path: str | PathLike[str],
    *,
    names: Sequence[str] | None = None,
    milliseconds: int = 350,
    last: int = 1500,
    width: int | None = None,
    height: int | None = None,
    scale: float = 1.0,
) -> Path:
    """Write an animated figure as a GIF that plays for ever.

    Args:
        figure: A figure with frames, such as `gentrace.views.replay`.
        path: The file.
        names: Names of the frames, in order; None for those that the figure's own play button plays.
        milliseconds: How long each frame stays, to the hundredth of a second.
        last: How long the last one stays.
        width: Pixels; None for the figure's own.
        height: Likewise.
        scale: Pixels of the GIF for each of these.

    Returns:
        The path.

    Raises:
        ExportError: If there are no such frames, kaleido or a browser is missing, or the pictures would be too big.
        OSError: If the file cannot be written.
    """
    if min(milliseconds, last) < QUICKEST:
        raise ExportError(
            "making a GIF", f"frames of {min(milliseconds, last)} ms", f"let each stay {QUICKEST} ms or longer"
        )
    target = Path(path)
    chosen, start = _prepared(figure, names, width, height, scale)

    async def work(browser: "Kaleido") -> bytes:
        sides = await evaluated(browser, start)
        parts = [b"GIF89a", struct.pack("<HHBBB", *sides, 0, 0, 0), FOREVER]
        for number, name in enumerate(chosen, start=1):
            stays = round((last if number == len(chosen) else milliseconds) / 10)
            parts.append(base64.b64decode(await evaluated(browser, f"animation.gif({json.dumps(name)}, {stays})")))
        return b"".join([*parts, b";"])

    content = drawn(work, "frames.js", "gif.js")
    write_atomically(target, lambda temporary: temporary.write_bytes(content))
    return target


def _prepared(
    figure: Figure, names: Sequence[str] | None, width: int | None, height: int | None, scale: float
) -> tuple[list[str], str]:
    """The names of the frames to draw, and the expression that draws the figure."""
    spec = bare(figure)
    known = [str(frame.get("name")) for frame in spec["frames"]]
    if not known:
        raise ExportError("animating a figure", "it has no frames", "give a figure of gentrace.views.replay")
    chosen = list(names) if names is not None else _played(figure) or known
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ExportError(
            "animating a figure",
            f"no frame is called {unknown[0]!r}" if unknown else "no frame was chosen",
            f"choose among {known[0]!r} … {known[-1]!r} with names=",
        )
    wide, high = pixels(spec, width, height, scale)
    text = json.dumps(spec, default=lambda array: array.tolist())
    return chosen, f"animation.start({text}, {json.dumps({'width': wide, 'height': high, 'scale': scale})})"


def _played(figure: Figure) -> list[str]:
    """The frames that the figure's first play button goes through."""
    for menu in figure.to_dict().get("layout", {}).get("updatemenus", ()):
        for button in menu.get("buttons", ()):
            names = (button.get("args") or [None])[0]
            if button.get("method") == "animate" and isinstance(names, list | tuple) and None not in names:
                return [str(name) for name in names]
    return []
