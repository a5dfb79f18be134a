"""Means of rotations and how far they scatter: weighted, differentiable, over any axes of a batch.

Three centres: the chordal mean is the rotation nearest to the average of the matrices, in closed form and unique but
for exceptional data; the geodesic mean minimises the squared angles; the median minimises the angles, and so hardly
notices outliers. Averages of Euler angles or of quaternions whose signs were not aligned are none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .checks import (
    require_broadcastable,
    require_choice,
    require_floating,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from .numerics import largest_component, matmul
from .polar import widened
from .procrustes import special_procrustes
from .so3 import (
    QuaternionOrder,
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    quaternion_to_matrix,
)
from .vectors import SHORTEST, exponential_coefficients

MeanKind = Literal["chordal", "geodesic", "median"]

# Steps that bring the chordal mean to where Newton's method is exact, by kind.
_ITERS = {"geodesic": 20, "median": 30}
# Guarded steps of Newton's method that then bring the median to rest inside the core around a sample.
_GUARDED_STEPS = 10
# The median minimises sqrt(angle**2 + _CORE**2): without it the objective has a kink at every sample, where the median
# likes to be. Radians.
_CORE = 1e-6


def rotation_mean(
    rotation: Tensor,
    weights: Tensor | None = None,
    dim: int | Sequence[int] = -1,
    *,
    kind: MeanKind = "chordal",
    iters: int | None = None,
    tol: float = 1e-12,
) -> Tensor:
    """Mean or median of rotations. Turning all of them, from either side, turns the result along.

    Args:
        rotation: (..., N, 3, 3), rotations.
        weights: (..., N), not negative, on any common scale, dtype of `rotation`, broadcast with its batch axes; equal
            by default. A rotation of weight 0 is ignored, also when it is not finite: that is how to pad.
        dim: axis or axes of the batch to average over; the axes of the matrix do not count, so -1 is N.
        kind: "chordal": argmin sum w |R - R_i|^2, the projection of the average matrix, which is also the principal
            eigenvector of sum w q q^T. "geodesic": argmin sum w angle^2, the Karcher mean. "median": argmin
            sum w angle, within 1e-6 radian.
        iters: steps downhill of the geodesic kinds, which are followed by some of Newton's; 20 for "geodesic", 30 for
            "median" by default. The count is fixed so that compiled graphs stay static.
        tol: radians; where a step is shorter the iteration stays where it is.
    Returns:
        (..., 3, 3), without the axes of `dim`. The identity, with gradient 0, where all weights are 0 or N is 0.
        The chordal mean is unique unless the average matrix has no nearest rotation (`special_procrustes`). The
        geodesic mean is unique where all rotations are within a ball of radius pi / 2; for wider data the answer is the
        local minimum next to the chordal mean.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, weights that do not broadcast, an unknown kind or axis.
    First and second derivatives in `rotation` and `weights` are exact where the iteration has converged; should the
    last steps not lower the objective, they are left out, and the gradient is 0. Computed in float64 except on MPS
    devices, which lack it.
    Reference: Hartley et al., "Rotation Averaging", IJCV 2013; Markley et al., "Averaging Quaternions", JGCD 2007.

    >>> turns = axis_angle_to_matrix(torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.0, 0.3]]))
    >>> matrix_to_axis_angle(rotation_mean(turns))
    tensor([0.0000, 0.0000, 0.2000])
    """
    require_choice("kind", kind, ("chordal", "geodesic", "median"))
    _check("rotation", rotation, weights, 3, 3)
    wide, w = _arranged(widened(rotation), weights, dim)
    return _mean(wide, w, kind, iters, tol).to(rotation.dtype)


def quaternion_mean(
    quat: Tensor,
    weights: Tensor | None = None,
    dim: int | Sequence[int] = -1,
    *,
    order: QuaternionOrder = "wxyz",
    kind: MeanKind = "chordal",
    iters: int | None = None,
    tol: float = 1e-12,
) -> Tensor:
    """Mean or median of the rotations of quaternions; the signs of the quaternions do not matter.

    Args:
        quat: (..., N, 4), of any nonzero length; 0 counts as the identity.
        weights: (..., N), as in `rotation_mean`.
        dim: axis or axes of the batch to average over; the components do not count, so -1 is N.
        order: "wxyz" (real part first) or "xyzw".
        kind: "chordal", "geodesic" or "median", as in `rotation_mean`.
        iters: as in `rotation_mean`.
        tol: as in `rotation_mean`.
    Returns:
        (..., 4), unit, real part not negative.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, weights that do not broadcast, an unknown kind, axis or order.

    >>> quaternion_mean(torch.tensor([[1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]]))
    tensor([1., 0., 0., 0.])
    """
    require_choice("order", order, ("wxyz", "xyzw"))
    require_choice("kind", kind, ("chordal", "geodesic", "median"))
    _check("quat", quat, weights, 4)
    wide, w = _arranged(quaternion_to_matrix(widened(quat), order), weights, dim)
    return matrix_to_quaternion(_mean(wide, w, kind, iters, tol), order).to(quat.dtype)


def rotation_dispersion(
    rotation: Tensor,
    weights: Tensor | None = None,
    dim: int | Sequence[int] = -1,
    *,
    kind: Literal["chordal", "geodesic"] = "chordal",
) -> Tensor:
    """How far rotations scatter about their mean.

    Args:
        rotation: (..., N, 3, 3), rotations.
        weights: (..., N), as in `rotation_mean`.
        dim: axis or axes of the batch, as in `rotation_mean`.
        kind: "chordal": the weighted mean of sin(angle / 2)**2 to the chordal mean, which is 1 - the largest eigenvalue
            of the mean of q q^T: 0 for equal rotations, 3/4 for uniformly random ones. "geodesic": the mean of the
            squared angle to the Karcher mean, in square radians.
    Returns:
        (...), without the axes of `dim`. Relative precision is kept for small scatter. 0 where all weights are 0.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, weights that do not broadcast, an unknown kind or axis.

    >>> rotation_dispersion(torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, -1.0, -1.0]))]))
    tensor(0.5000)
    """
    require_choice("kind", kind, ("chordal", "geodesic"))
    _check("rotation", rotation, weights, 3, 3)
    wide, w = _arranged(widened(rotation), weights, dim)
    center = _mean(wide, w, kind, None, 0.0)
    if kind == "chordal":
        # |R - S|^2 is 8 sin(angle / 2)**2: no 1 - cos that would cancel.
        scatter = (wide - center.unsqueeze(-3)).square().sum((-2, -1)) / 8
    else:
        scatter = _tangents(center, wide).square().sum(-1)
    return (w * scatter).sum(-1).to(rotation.dtype)


def _mean(rotation: Tensor, weights: Tensor, kind: MeanKind, iters: int | None, tol: float) -> Tensor:
    """Centre of (..., N, 3, 3) under weights (..., N) that add up to 1, or are all 0."""
    chordal = special_procrustes(_weighted(weights, rotation.flatten(-2)).unflatten(-1, (3, 3)))
    if kind == "chordal":
        return chordal
    core = None if kind == "geodesic" else _CORE
    count = _ITERS[kind] if iters is None else iters
    samples, constants = rotation.detach(), weights.detach()
    fixed = _descended(samples, constants, chordal.detach(), core, count, tol)
    if core is not None and rotation.shape[-3]:
        fixed = _settled(samples, constants, fixed, core)
    # Products drift off the rotations.
    fixed = special_procrustes(fixed)
    # The iteration was a constant. Newton's steps from the minimum stay there, polish away what is left of the distance
    # to it and carry the derivatives. As the error of two of them is of fourth order, the first two are exact.
    center = fixed
    for _ in range(2):
        center = _newton_step(rotation, weights, center, core)
    # Where it has not converged, Newton's method may go anywhere.
    eps = 1e3 * torch.finfo(rotation.dtype).eps
    before, after = (_objective(samples, constants, c.detach(), core) for c in (fixed, center))
    better = after <= before + eps * (before + eps)
    return torch.where(better[..., None, None], center, fixed)


def _descended(rotation: Tensor, weights: Tensor, center: Tensor, core: float | None, iters: int, tol: float) -> Tensor:
    """Weiszfeld's iteration: every step is a weighted mean in the tangent space, and none goes uphill."""
    active = torch.ones_like(center[..., :1, :1], dtype=torch.bool)
    for _ in range(iters):
        step = _downhill(rotation, weights, center, core)
        active = active & ~(step.abs().amax(-1)[..., None, None] <= tol)
        center = torch.where(active, matmul(center, axis_angle_to_matrix(step)), center)
    return center


def _settled(rotation: Tensor, weights: Tensor, center: Tensor, core: float) -> Tensor:
    """The median, from a rotation near it: it often is a sample, which Weiszfeld's iteration is slow to reach."""
    distance = _tangents(center, rotation).square().sum(-1)
    nearest = torch.where(weights > 0, distance, torch.inf).argmin(-1)[..., None, None, None]
    sample = torch.take_along_dim(rotation, nearest, -3).squeeze(-3)
    bold, safe = sample, center
    for _ in range(_GUARDED_STEPS):
        worth = _objective(rotation, weights, bold, core) < _objective(rotation, weights, safe, core)
        center = torch.where(worth[..., None, None], bold, safe)
        bold = _newton_step(rotation, weights, center, core)
        safe = matmul(center, axis_angle_to_matrix(_downhill(rotation, weights, center, core)))
    return center


def _downhill(rotation: Tensor, weights: Tensor, center: Tensor, core: float | None) -> Tensor:
    """Step to the weighted mean in the tangent space at a centre, (..., 3)."""
    v = _tangents(center, rotation)
    return _weighted(_shares(weights, v.square().sum(-1), core), v)


def _newton_step(rotation: Tensor, weights: Tensor, center: Tensor, core: float | None) -> Tensor:
    """A rotation nearer to the minimum of the objective, from one close to it."""
    v = _tangents(center, rotation)
    square = v.square().sum(-1)
    shares = _shares(weights, square, core)
    # The Hessian of half the squared angle is the symmetric part of the inverse Jacobian of the logarithm,
    # I + d (v v^T - |v|**2 I) with d = (1 - x cot x) / (4 x**2), x half the angle.
    a, b, c = exponential_coefficients(square / 4)
    d = (b - c) / (4 * a)
    # In the direction of a sample the distance grows evenly: only the smoothed core has curvature.
    outer = d if core is None else d - 1 / (square + core**2)
    eye = torch.eye(3, dtype=v.dtype, device=v.device)
    hessian = (1 - (shares * d * square).sum(-1))[..., None, None] * eye
    hessian = hessian + matmul(v.mT, (shares * outer).unsqueeze(-1) * v)
    return matmul(center, axis_angle_to_matrix(_solved(hessian, _weighted(shares, v))))


def _solved(matrix: Tensor, vector: Tensor) -> Tensor:
    """Solution of a symmetric 3x3 system of about unit size, bounded where it is singular."""
    rows = matrix.unbind(-2)
    adjugate = torch.stack([torch.linalg.cross(rows[i - 2], rows[i - 1], dim=-1) for i in range(3)], -1)
    determinant = (rows[0] * adjugate[..., 0]).sum(-1, keepdim=True)
    damping = torch.finfo(matrix.dtype).eps
    return (adjugate * vector.unsqueeze(-2)).sum(-1) * determinant / (determinant.square() + damping)


def _objective(rotation: Tensor, weights: Tensor, center: Tensor, core: float | None) -> Tensor:
    """What a centre minimises."""
    square = _tangents(center, rotation).square().sum(-1)
    return (weights * (square if core is None else (square + core**2).sqrt())).sum(-1)


def _shares(weights: Tensor, square: Tensor, core: float | None) -> Tensor:
    """Weight of each sample in the step, adding up to 1: Weiszfeld divides by the distance."""
    shares = weights if core is None else weights / (square + core**2).sqrt()
    total = shares.sum(-1, keepdim=True)
    return shares / torch.where(total == 0, 1, total)


def _tangents(center: Tensor, rotation: Tensor) -> Tensor:
    """Axis-angle vectors (..., N, 3) that lead from the centre to the samples."""
    return matrix_to_axis_angle(matmul(center.mT.unsqueeze(-3), rotation))


def _weighted(weights: Tensor, rows: Tensor) -> Tensor:
    """Sum of rows (..., N, k) times weights (..., N)."""
    return matmul(weights.unsqueeze(-2), rows).squeeze(-2)


def _check(name: str, value: Tensor, weights: Tensor | None, *tail: int) -> None:
    """Check samples (..., *tail) and their weights (...)."""
    require_floating(name, value)
    require_shape(name, value, ..., *tail)
    if weights is not None:
        require_floating("weights", weights)
        require_same_dtype({name: value, "weights": weights})
        require_same_device({name: value, "weights": weights})
        rows = {name: value.flatten(value.ndim - len(tail)), "weights": weights.unsqueeze(-1)}
        require_broadcastable(rows, trailing=1)


def _arranged(matrix: Tensor, weights: Tensor | None, dim: int | Sequence[int]) -> tuple[Tensor, Tensor]:
    """Samples (..., N, 3, 3), the averaged axes being one, and weights (..., N) that add up to 1 or are all 0."""
    batch = matrix.shape[:-2] if weights is None else torch.broadcast_shapes(matrix.shape[:-2], weights.shape)
    axes = _axes(dim, len(batch))
    order = [axis for axis in range(len(batch)) if axis not in axes] + axes
    kept = len(batch) - len(axes)
    matrix = matrix.expand(*batch, 3, 3).permute(*order, -2, -1).flatten(kept, -3)
    w = matrix.new_ones(batch) if weights is None else widened(weights).expand(batch)
    w = w.permute(order).flatten(kept)
    # Without samples there is no largest weight.
    size = largest_component(w) if w.shape[-1] else torch.ones_like(w)
    w = torch.where(size > SHORTEST, w, w.detach()) / size
    total = w.sum(-1, keepdim=True)
    none = total == 0
    w = torch.where(none, 0, w / torch.where(none, 1, total))
    if weights is None:
        return matrix, w
    # What does not count must not be multiplied by 0 if it is not finite.
    # A product with 0 is 0 or NaN, and its sum much faster than `isfinite` and `all` over nine numbers.
    counts = (w != 0) | ((0 * matrix.detach()).sum((-2, -1)) == 0)
    return torch.where(counts[..., None, None], matrix, torch.eye(3, dtype=w.dtype, device=w.device)), w


def _axes(dim: int | Sequence[int], count: int) -> list[int]:
    """Axes of the batch as numbers from 0."""
    listed = [dim] if isinstance(dim, int) else list(dim)
    axes = sorted({axis % count for axis in listed if -count <= axis < count})
    if not listed or len(axes) < len(listed):
        raise ValueError(f"dim: expected different axes of a batch of {count} axes, got {dim}")
    return axes
