"""The rotation or orthogonal matrix nearest to a matrix, differentiable: special Procrustes.

R = argmin |M - R| over the rotations is how a network predicts a rotation by nine numbers, the least squares answer
under noise, and the heart of aligning points. In space it is computed in closed form, in float64 whatever the dtype.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import procrustes_formulas as formulas
from .checks import require_choice
from .fused import Map
from .numerics import matmul
from .polar import require_square, svd_procrustes, widened
from .so3 import QuaternionOrder, matrix_to_quaternion

ProcrustesMethod = Literal["auto", "closed_form", "svd"]

# Relative to the norm, the product of the three sums of two singular values below which gradients stop growing.
DAMPING = torch.finfo(torch.float64).eps ** 0.75

_NEAREST = Map(
    formulas.nearest_rotation, formulas.nearest_rotation_derivative,
    inputs={"matrix": (3, 3)}, output=(3, 3), double=True,
)  # fmt: skip

_CONDITIONING = Map(formulas.conditioning, None, inputs={"matrix": (3, 3)}, output=(), double=True)


@overload
def special_procrustes(
    matrix: Tensor,
    regularization: float = ...,
    gradient_eps: float | None = ...,
    *,
    return_singular_values: Literal[False] = ...,
    method: ProcrustesMethod = ...,
) -> Tensor: ...


@overload
def special_procrustes(
    matrix: Tensor,
    regularization: float = ...,
    gradient_eps: float | None = ...,
    *,
    return_singular_values: Literal[True],
    method: ProcrustesMethod = ...,
) -> tuple[Tensor, Tensor]: ...


def special_procrustes(
    matrix: Tensor,
    regularization: float = 0.0,
    gradient_eps: float | None = None,
    *,
    return_singular_values: bool = False,
    method: ProcrustesMethod = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Rotation nearest to a matrix in the Frobenius norm: argmax of tr(R^T M) over determinant +1.

    As a map from n^2 numbers to rotations it is continuous, its preimages are convex, it treats all directions alike
    (f(A M B) = A f(M) B for rotations A, B), and it is the maximum likelihood estimate under isotropic noise.

    With singular values s, the last one negative if det M < 0, the rotation is unique and smooth where the two smallest
    add up to more than 0. Where they do not, the answer is an optimal rotation all the same, with a bounded gradient;
    the zero matrix gives the identity with gradient 0.

    Args:
        matrix: (..., n, n), any finite numbers, n at least 2.
        regularization: adds the gradient of regularization * |M - R|^2 to what flows back, which keeps a network's
            raw output close to the rotations. In reverse mode only: forward-mode differentiation refuses it.
        gradient_eps: bounds the gradient more than rounding demands; relative to the norm of the matrix.
        return_singular_values: return them as well, signed, without gradient.
        method: "closed_form" (n = 3 only), "svd", or "auto" for the faster one.
    Returns:
        (..., n, n), and the singular values (..., n) if asked for.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square, n < 2, an unknown method, or "closed_form" for n other than 3.
    First and second derivatives are exact and never pass through the derivative of an SVD, so equal singular values do
    no harm. Computed in float64 whatever the dtype (except on MPS devices, which lack it).
    Reference: Horn, JOSA A 1987; Levinson et al., "An Analysis of SVD for Deep Rotation Estimation", NeurIPS 2020.

    >>> special_procrustes(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    n = require_square("matrix", matrix)
    require_choice("method", method, ("auto", "closed_form", "svd"))
    if method == "closed_form" and n != 3:
        raise ValueError(f"method: expected 'svd' or 'auto' for {n}x{n} matrices, got 'closed_form'")
    if n == 3 and method != "svd":
        rotation = _NEAREST(matrix, parameters=(DAMPING if gradient_eps is None else gradient_eps,))
        values = _signed_singular_values(rotation, matrix) if return_singular_values else None
    else:
        rotation, values = svd_procrustes(matrix, special=True, gradient_eps=gradient_eps)
    if regularization:
        rotation = _Regularized.apply(matrix, rotation, regularization)
    return (rotation, values) if return_singular_values and values is not None else rotation


def special_procrustes_quaternion(matrix: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Unit quaternion of the rotation nearest to a 3x3 matrix, real part not negative.

    Args:
        matrix: (..., 3, 3).
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4).
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> special_procrustes_quaternion(torch.eye(3))
    tensor([1., 0., 0., 0.])
    """
    return matrix_to_quaternion(special_procrustes(matrix, method="closed_form"), order)


def procrustes(matrix: Tensor, allow_reflection: bool = True, *, gradient_eps: float | None = None) -> Tensor:
    """Orthogonal matrix nearest to a matrix in the Frobenius norm: the polar factor.

    Args:
        matrix: (..., n, n), any finite numbers, n at least 2.
        allow_reflection: False for rotations only, which is `special_procrustes`.
        gradient_eps: bounds the gradient more than rounding demands; relative to the norm of the matrix.
    Returns:
        (..., n, n), of the sign of the determinant of `matrix`, +1 where that is 0. Unique and smooth where the matrix
        is not singular.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square or n < 2.

    >>> procrustes(torch.diag(torch.tensor([3.0, 2.0, -1.0]))).diagonal()
    tensor([ 1.,  1., -1.])
    """
    if not allow_reflection:
        return special_procrustes(matrix, gradient_eps=gradient_eps)
    if require_square("matrix", matrix) != 3:
        return svd_procrustes(matrix, special=False, gradient_eps=gradient_eps)[0]
    # In odd dimension a reflection is minus a rotation.
    m = widened(matrix.detach())
    m = m / m.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(m.dtype).tiny)
    determinant = (torch.linalg.cross(m[..., 0, :], m[..., 1, :], dim=-1) * m[..., 2, :]).sum(-1)
    sign = torch.where(determinant < 0, -1.0, 1.0).to(matrix.dtype)[..., None, None]
    return sign * special_procrustes(sign * matrix, gradient_eps=gradient_eps)


def procrustes_conditioning(matrix: Tensor, allow_reflection: bool = False) -> Tensor:
    """How well a matrix determines its nearest rotation: the two smallest signed singular values over the largest.

    Args:
        matrix: (..., n, n), n at least 2.
        allow_reflection: ask for the nearest orthogonal matrix instead: twice the smallest singular value over the
            largest, neither signed.
    Returns:
        (...), in [0, 2], without gradient: 0 where the nearest one is not unique, or `matrix` is 0.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square or n < 2.

    >>> procrustes_conditioning(torch.diag(torch.tensor([4.0, 2.0, 1.0])))
    tensor(0.7500)
    """
    if require_square("matrix", matrix) == 3 and not allow_reflection:
        return _CONDITIONING(matrix.detach(), parameters=(DAMPING,))
    _, values = svd_procrustes(matrix.detach(), special=not allow_reflection)
    low = 2 * values[..., -1] if allow_reflection else values[..., -2] + values[..., -1]
    return low / torch.where(values[..., 0] == 0, 1, values[..., 0])


def _signed_singular_values(rotation: Tensor, matrix: Tensor) -> Tensor:
    """Singular values of M, the last one with the sign of its determinant: eigenvalues of the symmetric R^T M."""
    m = widened(matrix.detach())
    symmetric = matmul(widened(rotation.detach()).mT, m)
    finite = symmetric.isfinite().all(-1).all(-1)
    # The eigenvalue routine raises on NaN instead of returning it.
    values = torch.linalg.eigvalsh(torch.where(finite[..., None, None], (symmetric + symmetric.mT) / 2, 0)).flip(-1)
    return torch.where(finite[..., None], values, torch.nan).to(matrix.dtype)


class _Regularized(torch.autograd.Function):
    """A rotation, adding the gradient of weight * |M - R|^2 to what flows back to M."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, rotation: Tensor, weight: float) -> Tensor:
        return rotation.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        matrix, rotation, ctx.weight = inputs
        ctx.save_for_backward(matrix, rotation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        # R minimises |M - R|, so to first order it need not move with M: the penalty has this partial derivative only.
        matrix, rotation = ctx.saved_tensors
        return 2 * ctx.weight * (matrix - rotation), gradient, None
