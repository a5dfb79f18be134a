"""Nearest orthogonal matrix and nearest rotation of any size, by one SVD that is never differentiated.

The SVD is a constant. A differentiable step of Newton's method from its answer, which stays there, carries the
derivatives: equal singular values, where the derivative of an SVD is infinite, are then harmless.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import require_floating
from .fused import is_traced
from .numerics import largest_component, matmul, safe_norm, upcast
from .vectors import SHORTEST


def svd_procrustes(matrix: Tensor, *, special: bool, gradient_eps: float | None = None) -> tuple[Tensor, Tensor]:
    """Orthogonal matrix or rotation nearest to a matrix in the Frobenius norm, and the singular values.

    With singular values d, the last one negative where a reflection had to be turned back, the nearest rotation is
    unique where d[-2] + d[-1] > 0 and the nearest orthogonal matrix where d[-1] > 0. Elsewhere the answer is one of
    the nearest, with a bounded gradient; for the zero matrix it is the identity, with gradient 0.

    Args:
        matrix: (..., n, n), n at least 2.
        special: allow rotations only, determinant +1. Otherwise reflections too: the polar factor.
        gradient_eps: bounds the gradient, of size 1 / t with t = d_i + d_j, to t / (t**2 + eps**2); relative to the
            norm of the matrix. By default so small that it only matters where rounding makes gradients meaningless.
    Returns:
        The nearest matrix, (..., n, n), and the singular values, (..., n): descending, the last one with the sign of
        the determinant if `special`, without gradient.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square, or n < 2.
    First and second derivatives are exact, higher ones are not. A matrix with no entry above 1e-18 gets gradient 0, as
    1 / d**2 would leave the range of float32; one that holds NaN or infinity gives NaN.
    Computed in float64 except on MPS devices, which lack it.
    Reference: Kabsch 1976; Umeyama, TPAMI 1991; Levinson et al., NeurIPS 2020.

    >>> rotation, singular_values = svd_procrustes(torch.tensor([[0.0, -3.0], [2.0, 0.0]]), special=True)
    >>> rotation
    tensor([[ 0., -1.],
            [ 1.,  0.]])
    >>> singular_values
    tensor([3., 2.])
    """
    require_square("matrix", matrix)
    wide = widened(matrix)
    size = largest_component(wide.flatten(-2))[..., None]
    m = torch.where(size > SHORTEST, wide, wide.detach()) / size
    norm = safe_norm(m.detach().flatten(-2))[..., None, None]
    # The norm is NaN where an entry is not finite, and 0 for the zero matrix, whose answer is the identity.
    solvable = norm > 0
    eye = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
    m = torch.where(solvable, m / torch.where(solvable, norm, 1), eye)
    solve = _planar if m.shape[-1] == 2 else _spatial
    eps = torch.finfo(m.dtype).eps ** 0.75 if gradient_eps is None else gradient_eps
    nearest, values = solve(m, special, eps)
    values = torch.where(solvable[..., 0], values, 0) * (norm * size)[..., 0]
    nearest = torch.where(norm.isnan(), torch.nan, nearest)
    return nearest.to(matrix.dtype), values.to(matrix.dtype)


def require_square(name: str, matrix: Tensor) -> int:
    """Size n of square matrices (..., n, n); raise unless they are square, of floating point type and n is at least 2.

    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: not square, or n < 2.

    >>> require_square("matrix", torch.zeros(5, 4, 4))
    4
    """
    require_floating(name, matrix)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] < 2:
        raise ValueError(f"{name}: expected shape (..., n, n) with n of at least 2, got {tuple(matrix.shape)}")
    return matrix.shape[-1]


def widened(value: Tensor) -> Tensor:
    """`value` in float64, or in float32 on MPS devices, which have nothing wider."""
    return upcast(value) if value.device.type == "mps" else value.double()


def reorthogonalised(matrix: Tensor) -> Tensor:
    """A matrix that is orthogonal up to rounding, nearer to orthogonal: one step of Newton and Schulz, error squared.

    It takes derivatives of a formula for an orthogonal matrix to themselves.

    >>> reorthogonalised(torch.eye(2) * (1 + 1e-4))
    tensor([[1., 0.],
            [0., 1.]])
    """
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return matrix + matmul(matrix, eye - matmul(matrix.mT, matrix)) / 2


def _spatial(matrix: Tensor, special: bool, eps: float) -> tuple[Tensor, Tensor]:
    """Nearest matrix and signed singular values of finite matrices of norm 1, any n."""
    u, values, vt = torch.linalg.svd(matrix.detach())
    differentiable = is_traced((matrix,)) or (torch.is_grad_enabled() and matrix.requires_grad)
    if special:
        sign = torch.where(torch.linalg.det(matmul(u, vt)) < 0, -1.0, 1.0).to(values)[..., None]
        values = torch.cat([values[..., :-1], sign * values[..., -1:]], -1)
        u = torch.cat([u[..., :-1], sign[..., None] * u[..., -1:]], -1)
    if not differentiable:
        return matmul(u, vt), values
    # In these coordinates the matrix is diagonal and the answer the identity. Near it, the answer is exp(w) with the
    # antisymmetric w that solves s w + w s = b - b^T up to the third order, s the symmetric part of b; s is diagonal
    # but for a part e that is zero in value yet not in its derivative.
    b = matmul(matmul(u.mT, matrix), vt.mT)
    total = values[..., :, None] + values[..., None, :]
    inverse = total / (total.square() + eps**2)
    skew = b - b.mT
    e = (b + b.mT) / 2 - torch.diag_embed(values)
    w = skew * inverse
    w = (skew - matmul(e, w) - matmul(w, e)) * inverse
    return reorthogonalised(matmul(u, matmul(_exponential(w), vt))), values


def _planar(matrix: Tensor, special: bool, eps: float) -> tuple[Tensor, Tensor]:
    """`_spatial` for n = 2, without an SVD."""
    m = matrix
    turn = torch.stack([m[..., 0, 0] + m[..., 1, 1], m[..., 1, 0] - m[..., 0, 1]], -1)
    mirror = torch.stack([m[..., 0, 0] - m[..., 1, 1], m[..., 1, 0] + m[..., 0, 1]], -1)
    turn_length, mirror_length = safe_norm(turn.detach()), safe_norm(mirror.detach())
    values = torch.stack([turn_length + mirror_length, turn_length - mirror_length], -1) / 2
    if special:
        reflected = torch.zeros_like(turn_length, dtype=torch.bool)
    else:
        # ||turn||**2 - ||mirror||**2 is four times the determinant.
        reflected = turn_length < mirror_length
        values = values.abs()
    vector = torch.where(reflected[..., None], mirror, turn)
    constant = vector.detach() / largest_component(vector)
    length = constant.square().sum(-1, keepdim=True).sqrt()
    c, s = torch.where(
        length == 0, constant.new_tensor([1.0, 0.0]), constant / torch.where(length == 0, 1, length)
    ).unbind(-1)
    # The angle from the constant direction is atan2(across, along), up to the third order across / along.
    along = c * vector[..., 0] + s * vector[..., 1]
    across = c * vector[..., 1] - s * vector[..., 0]
    angle = across * along / (along.square() + eps**2)
    c, s = c * (1 - angle.square() / 2) - s * angle, s * (1 - angle.square() / 2) + c * angle
    flip = torch.where(reflected, -1.0, 1.0).to(c)
    return torch.stack([c, -s * flip, s, c * flip], -1).unflatten(-1, (2, 2)), values


def _exponential(skew: Tensor) -> Tensor:
    """exp of an antisymmetric matrix that is zero up to rounding, right to the second order."""
    eye = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    return eye + skew + matmul(skew, skew) / 2
