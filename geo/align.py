"""The best motion between paired points or directions: weighted Procrustes, of any dimension.

`align_points` is the general one; `kabsch` and `umeyama` are its two common cases under the names they have in the
literature; `align_vectors` turns directions, without a translation (Wahba's problem).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import require_broadcastable, require_floating, require_same_device, require_same_dtype, require_shape
from .numerics import largest_component, matmul, safe_sqrt
from .polar import widened
from .procrustes import procrustes, procrustes_conditioning


class Alignment(NamedTuple):
    """The motion `target = scale * rotation @ source + translation` and how well the points determine it."""

    rotation: Tensor
    """(..., D, D), determinant +1 unless reflections were allowed."""
    translation: Tensor
    """(..., D), unit of the points."""
    scale: Tensor
    """(...), 1 for a rigid motion."""
    residual: Tensor
    """(...), weighted root mean square distance after alignment, unit of the points."""
    conditioning: Tensor
    """(...), in [0, 2], no gradient: 0 where the rotation is not unique, 2 for points spread evenly in all directions.

    It is the sum of the two smallest singular values of the cross covariance over the largest, the smallest one
    negative where the best orthogonal fit would be a reflection; if reflections are allowed, twice the smallest.
    """

    @property
    def transform(self) -> Tensor:
        """(..., D + 1, D + 1), named `T_target_source` by convention."""
        linear = self.scale[..., None, None] * self.rotation
        upper = torch.cat([linear, self.translation.unsqueeze(-1)], -1)
        bottom = torch.zeros_like(upper[..., :1, :])
        bottom[..., -1] = 1
        return torch.cat([upper, bottom], -2)


def align_points(
    source: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    scale: bool = False,
    allow_reflection: bool = False,
) -> Alignment:
    """Motion that brings paired points together: least squares, weighted.

    Args:
        source: (..., N, D), D at least 2.
        target: (..., N, D), row i is the partner of row i of `source`; leading axes broadcast.
        weights: (..., N), not negative, on any common scale; equal by default. A pair of weight 0 is ignored, also
            when its coordinates are not finite: that is how to pad.
        scale: whether the points may be scaled too.
        allow_reflection: whether the best orthogonal matrix will do, which may be a reflection.
    Returns:
        `Alignment`, in the dtype of `source`.
        The rotation is unique where `conditioning` > 0. In space collinear points leave the turn about their line open,
        and exactly mirrored ones can too: the answer is then one of the optimal rotations, with a finite gradient.
        Where the points of one cloud coincide, the rotation is the identity, and the scale 1 where those of the source
        do; where all weights are 0 or N is 0, so is the whole motion. Coordinates that are not finite give NaN.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.
    Gradients are exact, first and second, in `source`, `target` and `weights`. They do not pass through the derivative
    of an SVD, so equal singular values are harmless; they grow like 1 / `conditioning`.
    Computed in float64 whatever the inputs' dtype, except on MPS devices, which lack it.
    Reference: Kabsch 1976; Umeyama, TPAMI 1991, equations 34 to 43.

    >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> align_points(square, 2 * square + 1, scale=True).scale
    tensor(2.)
    """
    x, y, w = _prepared(source, target, weights)
    x, mean_x, spread, one_source = _centered(x, w)
    y, mean_y, _, one_target = _centered(y, w)
    covariance = _product(y, x, w)  # (..., D, D), target first, so that the rotation maps source to target
    covariance = torch.where((one_source | one_target)[..., None, None], 0, covariance)
    rotation, conditioning = _nearest(covariance, allow_reflection)
    factor = torch.ones_like(conditioning)
    if scale:
        factor = (rotation * covariance).sum((-2, -1)) / torch.where(one_source, 1, spread)
        factor = torch.where(one_source, 1, factor)
    left_over = matmul(x, (factor[..., None, None] * rotation).mT) - y
    residual = safe_sqrt(_mean_square(left_over, w))
    translation = (mean_y - factor[..., None, None] * matmul(mean_x, rotation.mT)).squeeze(-2)
    results = (rotation, translation, factor, residual, conditioning)
    return Alignment(*(result.to(source.dtype) for result in results))


def kabsch(source: Tensor, target: Tensor, *, weights: Tensor | None = None) -> Alignment:
    """Rigid motion that brings paired points together: `align_points` without a scale.

    Args:
        source: (..., N, D).
        target: (..., N, D), row i is the partner of row i of `source`; leading axes broadcast.
        weights: (..., N), not negative, as in `align_points`.
    Returns:
        `Alignment` with scale 1, in the dtype of `source`.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.
    Reference: Kabsch, Acta Crystallographica 1976.

    >>> corners = torch.eye(3)
    >>> kabsch(corners, corners + torch.tensor([1.0, 2.0, 3.0])).translation
    tensor([1., 2., 3.])
    """
    return align_points(source, target, weights)


def umeyama(source: Tensor, target: Tensor, *, weights: Tensor | None = None) -> Alignment:
    """Similarity that brings paired points together: `align_points` with a free scale.

    Args:
        source: (..., N, D).
        target: (..., N, D), row i is the partner of row i of `source`; leading axes broadcast.
        weights: (..., N), not negative, as in `align_points`.
    Returns:
        `Alignment`, in the dtype of `source`.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.
    Reference: Umeyama, TPAMI 1991, equations 34 to 43.

    >>> corners = torch.eye(3)
    >>> umeyama(corners, 2 * corners).scale
    tensor(2.)
    """
    return align_points(source, target, weights, scale=True)


def align_vectors(
    source: Tensor, target: Tensor, weights: Tensor | None = None, *, allow_reflection: bool = False
) -> Alignment:
    """Rotation that brings paired vectors together: `align_points` about the origin.

    Args:
        source: (..., N, D), directions or vectors of any length; longer ones count more.
        target: (..., N, D), row i is the partner of row i of `source`; leading axes broadcast.
        weights: (..., N), not negative, as in `align_points`.
        allow_reflection: whether the best orthogonal matrix will do.
    Returns:
        `Alignment` with translation 0 and scale 1, in the dtype of `source`.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.
    Reference: Wahba, "A Least Squares Estimate of Satellite Attitude", SIAM Review 1965.

    >>> align_vectors(torch.eye(3), torch.eye(3)[[1, 2, 0]]).rotation.argmax(-1)
    tensor([2, 0, 1])
    """
    x, y, w = _prepared(source, target, weights)
    rotation, conditioning = _nearest(_product(y, x, w), allow_reflection)
    residual = safe_sqrt(_mean_square(matmul(x, rotation.mT) - y, w))
    results = (rotation, torch.zeros_like(rotation[..., 0]), torch.ones_like(conditioning), residual, conditioning)
    return Alignment(*(result.to(source.dtype) for result in results))


def _nearest(covariance: Tensor, allow_reflection: bool) -> tuple[Tensor, Tensor]:
    """Best rotation, or orthogonal matrix, and how well it is determined."""
    # Divided by a constant, so that gradients are exact for points of any unit.
    relative = covariance / largest_component(covariance.flatten(-2))[..., None]
    return procrustes(relative, allow_reflection), procrustes_conditioning(relative, allow_reflection)


def _product(y: Tensor, x: Tensor, weights: Tensor | float) -> Tensor:
    """(..., D, D) weighted mean of y x^T."""
    if isinstance(weights, Tensor):
        return matmul((weights * y).mT, x)
    # A common weight is cheaper on the result.
    return weights * matmul(y.mT, x)


def _mean_square(vectors: Tensor, weights: Tensor | float) -> Tensor:
    """(...) weighted mean of the squared lengths of (..., N, D)."""
    if isinstance(weights, Tensor):
        return (weights * vectors.square()).sum((-2, -1))
    return weights * vectors.square().sum((-2, -1))


def _centered(points: Tensor, weights: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points relative to their mean, the mean, the mean square distance from it, and whether all points are one.

    Up to rounding: what a mean leaves of equal points would otherwise pass for a direction.
    """
    if isinstance(weights, Tensor):
        mean = (weights * points).sum(-2, keepdim=True)
    else:
        mean = weights * points.sum(-2, keepdim=True)
    relative = points - mean
    spread = _mean_square(relative, weights)
    size = mean.detach().square().sum((-2, -1))
    # Where the squares overflow nothing is known; the rotation will be NaN.
    one = (spread.detach() <= (16 * torch.finfo(points.dtype).eps) ** 2 * size) & size.isfinite()
    return relative, mean, spread, one


def _prepared(source: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor | float]:
    """Checked arguments of an alignment in float64, broadcast together; weights (..., N, 1) that add up to 1, or to 0.

    Equal weights are one number.

    What has weight 0 becomes 0, so that nothing which is not finite is left there.
    """
    require_floating("source", source)
    require_shape("source", source, ..., "N", "D")
    n, dim = source.shape[-2:]
    if dim < 2:
        raise ValueError(f"source: expected shape (..., N, D) with D of at least 2, got {tuple(source.shape)}")
    require_floating("target", target)
    require_shape("target", target, ..., n, dim)
    tensors = {"source": source, "target": target}
    if weights is not None:
        require_floating("weights", weights)
        require_shape("weights", weights, ..., n)
        tensors["weights"] = weights.unsqueeze(-1)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)
    batch = torch.broadcast_shapes(*(tensor.shape[:-2] for tensor in tensors.values()))
    x, y = (widened(points).expand(*batch, n, dim) for points in (source, target))
    if weights is None:
        return x, y, 1 / max(n, 1)
    w = widened(weights.unsqueeze(-1))
    present = w != 0
    total = w.sum(-2, keepdim=True)
    return torch.where(present, x, 0), torch.where(present, y, 0), w / torch.where(total == 0, 1, total)
