"""Weights as bytes: how exact they are, worked out from the scale that the page promises."""

import base64
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gentrace.explorer import codec
from tests.explorer.unpacked import RATIO


def test_the_ends_of_the_scale() -> None:
    weights = torch.tensor([[1.0, 1e-4, 0.0, 1e-9, torch.nan, 0.01]])
    assert codec.quantise(weights).tolist() == [[254, 1, 0, 0, 255, round(254 - 126.5)]]


@given(st.floats(1e-4, 1.0))
def test_no_weight_is_off_by_more_than_half_a_step(weight: float) -> None:
    code = int(codec.quantise(torch.tensor([[weight]]))[0, 0])
    shown = RATIO ** (code - 254)
    assert abs(shown - weight) <= (RATIO**0.5 - 1) * 1.001 * weight
    assert RATIO**0.5 - 1 < 0.019
    assert float(codec.dequantise(torch.tensor([code], dtype=torch.uint8))) == pytest.approx(shown, rel=1e-5)


def test_two_digits_are_right_to_two_units_of_the_second_down_to_a_thousandth() -> None:
    weights = torch.tensor([[digits * 10.0**-power for power in (2, 3, 4) for digits in range(10, 100)]])
    shown = codec.dequantise(codec.quantise(weights))
    unit = 10 ** (weights.double().mul(1 + 1e-6).log10().floor() - 1)
    assert bool(((shown - weights).abs() <= 2 * unit).all())


def test_the_lower_triangle_row_by_row() -> None:
    cells = torch.arange(12).view(3, 4)
    assert codec.lower(cells, 1).tolist() == [0, 1, 4, 5, 6, 8, 9, 10, 11]
    assert codec.lower(cells[:, :3], 0).tolist() == [0, 4, 5, 8, 9, 10]


def test_packing_is_deflate_in_base64() -> None:
    text = codec.pack(torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([1.0]))
    assert zlib.decompress(base64.b64decode(text)) == bytes([1, 2, 0, 0, 0x80, 0x3F])
