from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from rotaware.geo.numerics import axial, cosc_of_square, matmul, safe_norm, safe_sqrt, sinc_of_square, upcast

ANGLES = [0.0, 1e-12, 1e-4, 0.1, 0.5, 0.999, 0.99999999, 1.0, 1.00000001, 1.5, 3.0, math.pi, 6.0, 20.0]


def exact_series(square: float, first: int, order: int) -> float:
    """Derivative of sum_k (-t)**k / (2 k + first)! at `square`, in rational arithmetic."""
    t = Fraction(square)
    terms = (
        Fraction((-1) ** k * math.perm(k, order), math.factorial(2 * k + first)) * t ** (k - order)
        for k in range(order, 50)
    )
    return float(sum(terms))


@pytest.mark.parametrize(("function", "first"), [(sinc_of_square, 1), (cosc_of_square, 2)])
def test_coefficients_and_two_derivatives(function: Callable[[Tensor], Tensor], first: int) -> None:
    square = torch.tensor([angle**2 for angle in ANGLES], dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(function(square).sum(), square, create_graph=True)[0]
    bend = torch.autograd.grad(slope.sum(), square)[0]
    expected = [[exact_series(t, first, order) for t in square.tolist()] for order in range(3)]
    actual = torch.stack([function(square), slope, bend]).detach()
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=2e-14, atol=2e-16)


@pytest.mark.parametrize(("function", "limit"), [(sinc_of_square, (1, -1 / 6)), (cosc_of_square, (1 / 2, -1 / 24))])
def test_coefficients_at_zero(
    function: Callable[[Tensor], Tensor], limit: tuple[float, float], dtype: torch.dtype
) -> None:
    square = torch.zeros((), dtype=dtype, requires_grad=True)
    value = function(square)
    assert value.item() == limit[0]
    assert torch.autograd.grad(value, square)[0].item() == pytest.approx(limit[1], rel=1e-6)


def test_half_precision_is_the_only_one_raised() -> None:
    types = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    assert [upcast(torch.zeros(1, dtype=dtype)).dtype for dtype in types] == [torch.float32] * 3 + [torch.float64]


def test_square_root_has_no_infinite_gradient() -> None:
    x = torch.tensor([0.0, 4.0], requires_grad=True)
    root = safe_sqrt(x)
    root.sum().backward()
    assert root.tolist() == [0.0, 2.0]
    assert x.grad is not None and x.grad.tolist() == [0.0, 0.25]
    assert safe_sqrt(torch.tensor(torch.nan)).isnan()


def test_norm_neither_overflows_nor_underflows(dtype: torch.dtype) -> None:
    big = torch.finfo(dtype).max / 8
    x = torch.tensor([[3.0, 4.0], [3 * big, 4 * big], [3 / big, 4 / big], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    norm = safe_norm(x)
    norm.sum().backward()
    torch.testing.assert_close(
        norm.detach() / torch.tensor([1, big, 1 / big, 1], dtype=dtype), 5 * (norm > 0).to(dtype)
    )
    expected = torch.tensor([[0.6, 0.8]] * 3 + [[0.0, 0.0]], dtype=dtype)
    torch.testing.assert_close(x.grad, expected)


def test_norm_second_derivative(generator: torch.Generator) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(safe_norm, x)
    assert torch.autograd.gradgradcheck(safe_norm, x)


def test_axial_vector_is_that_of_the_cross_product(generator: torch.Generator) -> None:
    vector, other = torch.randn(2, 3, generator=generator)
    cross_matrix = torch.linalg.cross(vector.expand(3, 3), torch.eye(3)).T
    torch.testing.assert_close(cross_matrix @ other, torch.linalg.cross(vector, other))
    assert torch.equal(axial(cross_matrix + torch.eye(3)), 2 * vector)


def test_product_keeps_its_precision_under_autocast() -> None:
    left = torch.full((1, 1), 1 + 2**-20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (left @ left).dtype == torch.bfloat16
        assert matmul(left, torch.ones(1, 1)).item() == left.item()
