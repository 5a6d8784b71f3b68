"""What a page carries, read back by the layout that its docstrings promise and nothing else."""

import base64
import json
import re
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

RATIO = 1e4 ** (1 / 253)
"""Codes 1 … 254 stand for weights from 0.0001 to 1, each this many times the one before."""


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found.group(1))


def part_of(page: str, number: int) -> bytes:
    found = re.search(rf'id="part-{number}">([^<]*)</script>', page)
    assert found
    return zlib.decompress(base64.b64decode(found.group(1)))


def weights_of(codes: Tensor) -> Tensor:
    weights = RATIO ** (codes.double() - 254)
    weights[codes == 0] = 0
    weights[codes == 255] = torch.nan
    return weights


def matrices(page: str, layer: dict[str, Any]) -> dict[int, Tensor]:
    """Each head's [query, key] weights, or [block, block] ones; 0 above the diagonal."""
    codes = torch.tensor(np.frombuffer(part_of(page, layer["part"]), np.uint8))
    start, stop = layer["queries"]
    found, at = {}, 0
    whole = [head for head in layer["heads"] if head in layer["whole"]]
    for head in whole + [head for head in layer["heads"] if head not in whole]:
        if head in whole:
            first, rows, columns, triangle = start, stop - start, layer["keys"], layer["causal"]
        else:
            first, triangle = 0, layer["square"]
            rows, columns = len(layer["queryEdges"]) - 1, len(layer["keyEdges"]) - 1
        matrix = torch.zeros(rows, columns, dtype=torch.double)
        for row in range(rows):
            width = first + row + 1 if triangle else columns
            matrix[row, :width] = weights_of(codes[at : at + width])
            at += width
        found[head] = matrix
    assert at == len(codes)
    return found


def close_enough(shown: Tensor, true: Tensor) -> None:
    """Whether weights are within the error that the page promises: 1.9 % down to 0.0001, below that 0."""
    assert shown.shape == true.shape
    assert torch.equal(shown.isnan(), true.isnan())
    shown, true = shown.nan_to_num(), true.double().nan_to_num()
    large = true >= 1.001e-4
    assert bool(((shown - true).abs()[large] <= 0.019 * true[large]).all())
    assert bool((shown[true < 0.98e-4] == 0).all())
