from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rotaware.geo.fused import Map
from rotaware.geo.scalar import arc_tangent, formula, sine_cosine


@formula
def angle_of(y, x):  # type: ignore[no-untyped-def]
    return (arc_tangent(y, x),)


SINE_COSINE = Map(sine_cosine, None, inputs={"angle": ()}, output=(2,))
ANGLE = Map(angle_of, None, inputs={"y": (), "x": ()}, output=())


@pytest.mark.parametrize("limit", [1e-3, 1.0, 50.0, 1e4, 1e6])
def test_compiled_sine_and_cosine_to_one_unit_of_rounding(limit: float) -> None:
    angle = torch.linspace(-limit, limit, 100001, dtype=torch.float64)
    found = SINE_COSINE(angle)
    expected = torch.stack([angle.sin(), angle.cos()], -1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2.5e-16)
    small = angle.abs() < 1
    torch.testing.assert_close(found[small, 0], expected[small, 0], rtol=2.5e-16, atol=0)


def test_compiled_sine_and_cosine_of_what_no_turn_can_be_told_from() -> None:
    angle = torch.tensor([1e16, -1e300, torch.inf, torch.nan], dtype=torch.float64)
    found = SINE_COSINE(angle)
    assert torch.equal(found[:2], torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64))
    assert found[2:].isnan().all()


def test_compiled_arc_tangent_to_two_units_of_rounding(generator: torch.Generator) -> None:
    y, x = torch.randn(2, 100000, dtype=torch.float64, generator=generator)
    scale = 10 ** torch.empty(100000, dtype=torch.float64).uniform_(-20, 20, generator=generator)
    for vertical, horizontal in [(y, x), (y, scale * x), (scale * y, x)]:
        expected = torch.atan2(vertical, horizontal)
        torch.testing.assert_close(ANGLE(vertical, horizontal), expected, rtol=9e-16, atol=0)


def test_compiled_arc_tangent_on_the_axes() -> None:
    values = [0.0, -0.0, 1.0, -1.0]
    y, x = torch.cartesian_prod(*[torch.tensor(values, dtype=torch.float64)] * 2).unbind(-1)
    regular = (y != 0) | (x != 0)
    found = ANGLE(y, x)[regular]
    expected = torch.from_numpy(np.arctan2(y.numpy(), x.numpy()))[regular]
    # Of the two zeros as x, which only tell 0 from pi where y is 0 as well, no difference is made.
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert ANGLE(torch.tensor(torch.nan), torch.tensor(1.0)).isnan()
    assert math.isclose(ANGLE(torch.tensor(1.0), torch.tensor(1.0)).item(), math.pi / 4, rel_tol=1e-7)
