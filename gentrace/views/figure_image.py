"""A matrix as a picture inside a figure.

Plotly's fast animation path redraws only the traces that move, and throws away a heatmap that does not. A picture in
the layout stays where it is; the heatmap remains in the figure, transparent, for its numbers under the pointer.
"""

import base64
import struct
import zlib

import torch
from torch import Tensor

from gentrace.axes import Matrix
from gentrace.views.theme import channels, mix

SHARP = 640
"""Pixels along a side from which a browser's smoothing no longer blurs cells."""


def picture(values: Matrix, low: float, high: float, stops: tuple[str, ...]) -> str:
    """Paint a matrix.

    Args:
        values: [query, key]; NaN stays transparent.
        low: Value of the first colour.
        high: Value of the last colour.
        stops: Evenly spaced colours.

    Returns:
        A PNG as a data URI, one or several pixels a cell.
    """
    share = ((values - low) / (high - low)).clamp(0, 1)
    levels = (1 + 254 * share).round().nan_to_num(nan=0.0).to(torch.uint8)
    palette = [(0, 0, 0), *(channels(mix(stops, level / 254)) for level in range(255))]
    times = max(1, -(-SHARP // levels.shape[1]))
    levels = levels.repeat_interleave(times, 0).repeat_interleave(times, 1)
    return "data:image/png;base64," + base64.b64encode(_png(levels, palette)).decode()


def _png(levels: Tensor, palette: list[tuple[int, int, int]]) -> bytes:
    """Encode palette indices; index 0 is transparent."""
    height, width = levels.shape
    lines = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), levels], dim=1)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", bytes(channel for colour in palette for channel in colour)),
            _chunk(b"tRNS", b"\x00"),
            _chunk(b"IDAT", zlib.compress(lines.numpy().tobytes(), 6)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
