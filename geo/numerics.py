"""Small numerical tools on whole tensors: working precision, safe roots and norms.

None of them branches on data. Where a formula has two regimes, both arms are evaluated at arguments that are safe for
them and `torch.where` picks one: an unsafe value in the arm not taken would still poison the gradient with NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(value: Tensor) -> Tensor:
    """`value` in the precision to compute with: half precisions become float32, float32 and float64 stay."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in the inputs' own precision, also under autocast: coordinates do not survive half precision."""
    if not torch.amp.is_autocast_available(left.device.type):  # "meta"
        return left @ right
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
