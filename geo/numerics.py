"""Small numerical tools the room's formulas are built on: working precision, safe norms, the coefficients of exp.

None of them branches on data. Where a formula has two regimes, both arms are evaluated at arguments that are safe for
them and `torch.where` picks one: an unsafe value in the arm not taken would still poison the gradient with NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Enough terms for float64: below the switching points of the functions that use them, the first term left out is
# smaller than 2**-53 of the sum.
_SINC_TERMS = 10
_COSC_TERMS = 10


def upcast(value: Tensor) -> Tensor:
    """`value` in the precision to compute with: half precisions become float32, float32 and float64 stay."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in the inputs' own precision, also under autocast: coordinates do not survive half precision."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def safe_sqrt(value: Tensor) -> Tensor:
    """Square root of `value` >= 0 whose gradient at 0 is 0 instead of infinite."""
    positive = value > 0
    # NaN is not positive either: adding `value` back in the other arm keeps it NaN.
    return torch.where(positive, torch.where(positive, value, 1).sqrt(), value.detach())


def safe_norm(value: Tensor) -> Tensor:
    """Euclidean norm over the last axis: no overflow, no underflow, gradient 0 at 0.

    Args:
        value: (..., n).
    Returns:
        (...).
    """
    scale = largest_component(value)
    return safe_sqrt((value / scale).square().sum(-1)) * scale.squeeze(-1)


def largest_component(value: Tensor) -> Tensor:
    """Largest magnitude along the last axis as a constant to divide by, 1 where the vector is 0: (..., n) -> (..., 1).

    It carries no gradient. Dividing by it and multiplying back is the identity, and a function that does not depend on
    the length of its argument keeps its exact derivatives of every order when the argument is divided by a constant.
    """
    largest = value.detach().abs().amax(-1, keepdim=True)
    return torch.where(largest == 0, 1, largest)


def axial(matrix: Tensor) -> Tensor:
    """(..., 3) vector of the antisymmetric part of (..., 3, 3); for a rotation 2 sin(angle) times the axis."""
    m = matrix
    return torch.stack([m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1)


def sinc_of_square(square: Tensor) -> Tensor:
    """sin(x) / x as a smooth function of x**2, so that no square root is differentiated at 0."""
    small = square < 1
    series = _alternating_series(torch.where(small, square, 0), first_factorial=1, terms=_SINC_TERMS)
    x = torch.where(small, 1, square).sqrt()
    return torch.where(small, series, x.sin() / x)


def cosc_of_square(square: Tensor) -> Tensor:
    """(1 - cos(x)) / x**2 as a smooth function of x**2."""
    small = square < 1
    series = _alternating_series(torch.where(small, square, 0), first_factorial=2, terms=_COSC_TERMS)
    safe = torch.where(small, 1, square)
    # 1 - cos(x) itself would cancel near whole turns.
    closed = 2 * (safe.sqrt() / 2).sin().square() / safe
    return torch.where(small, series, closed)


def _alternating_series(square: Tensor, *, first_factorial: int, terms: int) -> Tensor:
    """sum_k (-square)**k / (2 k + first_factorial)!, by Horner's rule from the smallest term."""
    total = torch.ones_like(square)
    for k in range(terms - 1, 0, -1):
        n = 2 * k + first_factorial
        total = 1 - square / (n * (n - 1)) * total
    return total / first_factorial
