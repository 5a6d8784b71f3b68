"""Weights as bytes, and bytes as text.

Attention spans orders of magnitude, so an even scale would waste most of its 256 steps on a range that is hardly used.
Here they are steps of equal ratio: every weight from 1 down to 0.0001 is kept to 1.9 %, which is two significant
digits, give or take a unit of the second, and what is smaller is 0. Below the diagonal there is nothing to keep; what
is left is deflated, which the browser undoes by itself.
"""

import base64
import math
import zlib

import torch
from jaxtyping import UInt8
from torch import Tensor

from gentrace.axes import Matrix

LOW = 1e-4
"""The smallest weight that is told from 0."""
TOP, UNSEEN = 254, 255
"""Codes of a weight of 1, and of a row that was never seen."""
STEP = math.log(1 / LOW) / (TOP - 1)
"""Code c > 0 stands for the weight exp((c − 254) · STEP)."""
ERROR = math.exp(STEP / 2) - 1
"""Largest relative error of a weight between LOW and 1."""


def quantise(weights: Matrix) -> UInt8[Tensor, "query key"]:
    """Codes of weights.

    Args:
        weights: [query, key] 0 … 1; NaN where a row was never seen.

    Returns:
        [query, key]: 0 for weights too small, 1 … 254 on the scale, 255 for what was never seen.
    """
    codes = weights.log().div_(STEP).add_(TOP).round_().clamp_(0, TOP)
    return codes.masked_fill_(weights.isnan(), UNSEEN).to(torch.uint8)


def dequantise(codes: UInt8[Tensor, "*cells"]) -> Tensor:
    """What codes stand for, as the page reads them: float32, NaN where a row was never seen."""
    weights = codes.float().sub_(TOP).mul_(STEP).exp_()
    return weights.masked_fill_(codes == 0, 0.0).masked_fill_(codes == UNSEEN, torch.nan)


def lower(codes: Tensor, first: int) -> Tensor:
    """The cells of a causal matrix, row by row.

    Args:
        codes: [query, key].
        first: Position of the first row; row p has the keys 0 … p.
    """
    rows, keys = codes.shape
    return codes[torch.arange(keys) <= torch.arange(first, first + rows)[:, None]]


def pack(*parts: Tensor) -> str:
    """Tensors one after the other as little-endian bytes, deflated, in base64."""
    deflater = zlib.compressobj(7)
    pieces = [deflater.compress(part.contiguous().numpy().tobytes()) for part in parts]
    return base64.b64encode(b"".join([*pieces, deflater.flush()])).decode()
