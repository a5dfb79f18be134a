from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from rotaware.geo.fused import Map
from rotaware.geo.vectors import body_gradient, exponential_coefficients

ANGLES = [0.0, 1e-12, 1e-4, 0.1, 0.5, 0.999, 0.99999999, 1.0, 1.00000001, 1.5, 3.0, math.pi, 6.0, 20.0]


def exact_series(square: float, first: int, order: int) -> float:
    """Derivative of sum_k (-t)**k / (2 k + first)! at `square`, in rational arithmetic."""
    t = Fraction(square)
    terms = (
        Fraction((-1) ** k * math.perm(k, order), math.factorial(2 * k + first)) * t ** (k - order)
        for k in range(order, 50)
    )
    return float(sum(terms))


@pytest.mark.parametrize("which", [0, 1, 2], ids=["sine", "cosine", "cubic"])
def test_coefficients_and_two_derivatives(which: int) -> None:
    square = torch.tensor([angle**2 for angle in ANGLES], dtype=torch.float64, requires_grad=True)
    value = exponential_coefficients(square)[which]
    slope = torch.autograd.grad(value.sum(), square, create_graph=True)[0]
    bend = torch.autograd.grad(slope.sum(), square)[0]
    expected = [[exact_series(t, which + 1, order) for t in square.tolist()] for order in range(3)]
    actual = torch.stack([value, slope, bend]).detach()
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=2e-14, atol=2e-15)


def test_compiled_coefficients_are_the_same() -> None:
    coefficients = Map(exponential_coefficients, None, inputs={"square": ()}, output=(3,))
    square = torch.tensor([angle**2 for angle in ANGLES], dtype=torch.float64)
    expected = torch.stack(exponential_coefficients(square), -1)
    torch.testing.assert_close(coefficients(square), expected, rtol=1e-14, atol=1e-16)


def test_body_gradient_is_that_of_a_small_turn(generator: torch.Generator) -> None:
    rotation, upstream = torch.linalg.qr(torch.randn(2, 3, 3, dtype=torch.float64, generator=generator))[0]
    turn = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    x, y, z = turn
    zero = torch.zeros_like(x)
    cross_matrix = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    loss = ((rotation + rotation @ cross_matrix) * upstream).sum()
    found = torch.stack(body_gradient(*rotation.flatten(), *upstream.flatten()))
    torch.testing.assert_close(found, torch.autograd.grad(loss, turn)[0])
