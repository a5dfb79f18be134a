"""Rigid motions and similarities of space, and the best one between two paired clouds.

Convention: a transform is a matrix (..., 4, 4), `x' = s R x + t`, named for what it maps: `T_target_source` takes
source coordinates to the target's frame, and `T_a_b @ T_b_c` is `T_a_c`. Points are rows, (..., N, 3), in any one unit
of length. Leading axes broadcast. Products are computed in the inputs' own precision, half precision in float32, also
under autocast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import require_broadcastable, require_floating, require_same_device, require_same_dtype, require_shape
from .numerics import largest_component, matmul, safe_sqrt, upcast
from .procrustes import procrustes_conditioning, special_procrustes


class Alignment(NamedTuple):
    """The motion `target = scale * rotation @ source + translation` and how well the points determine it."""

    rotation: Tensor
    """(..., 3, 3), determinant +1 always."""
    translation: Tensor
    """(..., 3), unit of the points."""
    scale: Tensor
    """(...), 1 for a rigid motion."""
    residual: Tensor
    """(...), weighted root mean square distance after alignment, unit of the points."""
    conditioning: Tensor
    """(...), in [0, 2], no gradient: 0 where the rotation is not unique, 2 for points spread evenly in all directions.

    It is (s2 + s3) / s1 of the cross covariance, s3 negative where the best orthogonal fit would be a reflection.
    """

    @property
    def transform(self) -> Tensor:
        """(..., 4, 4), named `T_target_source` by convention."""
        return make_transform(self.rotation, self.translation, scale=self.scale)


def make_transform(rotation: Tensor, translation: Tensor, *, scale: Tensor | None = None) -> Tensor:
    """Transform matrix of a rotation, a translation and a scale.

    Args:
        rotation: (..., 3, 3).
        translation: (..., 3), dtype of `rotation`.
        scale: (...), dtype of `rotation`; 1 by default.
    Returns:
        (..., 4, 4).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.

    >>> make_transform(torch.eye(3), torch.tensor([1.0, 2.0, 3.0]))[:, 3]
    tensor([1., 2., 3., 1.])
    """
    _require("rotation", rotation, 3, 3)
    _require("translation", translation, 3)
    parts = {"rotation": rotation, "translation": translation.unsqueeze(-1)}
    if scale is not None:
        require_floating("scale", scale)
        parts["scale"] = scale[..., None, None]
    require_same_dtype(parts)
    require_same_device(parts)
    require_broadcastable(parts, trailing=2)
    linear = rotation if scale is None else rotation * parts["scale"]
    batch = torch.broadcast_shapes(linear.shape[:-2], translation.shape[:-1])
    upper = torch.cat([linear.expand(*batch, 3, 3), translation.unsqueeze(-1).expand(*batch, 3, 1)], -1)
    bottom = torch.eye(4, dtype=rotation.dtype, device=rotation.device)[3:]
    return torch.cat([upper, bottom.expand(*batch, 1, 4)], -2)


def transform_points(transform: Tensor, points: Tensor) -> Tensor:
    """Points after a rigid motion, a similarity or any affine map.

    Args:
        transform: (..., 4, 4); its last row is taken to be (0, 0, 0, 1).
        points: (..., N, 3), dtype of `transform`.
    Returns:
        (..., N, 3).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.

    >>> shift = make_transform(torch.eye(3), torch.tensor([1.0, 0.0, 0.0]))
    >>> transform_points(shift, torch.zeros(2, 3))
    tensor([[1., 0., 0.],
            [1., 0., 0.]])
    """
    _require_pair("transform", transform, "points", points)
    t, rows = upcast(transform), upcast(points)
    return (matmul(rows, t[..., :3, :3].mT) + t[..., None, :3, 3]).to(points.dtype)


def transform_normals(transform: Tensor, normals: Tensor) -> Tensor:
    """Normals of points after a rigid motion or a similarity: rotated, neither moved nor scaled.

    Args:
        transform: (..., 4, 4), rigid or a similarity.
        normals: (..., N, 3), dtype of `transform`; their lengths are kept.
    Returns:
        (..., N, 3).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.

    >>> transform_normals(torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])), torch.tensor([[0.0, 0.0, 1.0]]))
    tensor([[0., 0., 1.]])
    """
    _require_pair("transform", transform, "normals", normals)
    linear = upcast(transform[..., :3, :3])
    return (matmul(upcast(normals), linear.mT) / _scale_of(linear)).to(normals.dtype)


def compose_transforms(outer: Tensor, inner: Tensor) -> Tensor:
    """The transform that applies `inner` first and `outer` second: T_a_c from T_a_b and T_b_c.

    Args:
        outer: (..., 4, 4), applied second.
        inner: (..., 4, 4), applied first, dtype of `outer`.
    Returns:
        (..., 4, 4).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.

    >>> shift = make_transform(torch.eye(3), torch.tensor([1.0, 0.0, 0.0]))
    >>> compose_transforms(shift, shift)[:, 3]
    tensor([2., 0., 0., 1.])
    """
    tensors = {"outer": outer, "inner": inner}
    for name, value in tensors.items():
        _require(name, value, 4, 4)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)
    return matmul(upcast(outer), upcast(inner)).to(outer.dtype)


def invert_transform(transform: Tensor) -> Tensor:
    """Inverse of a rigid motion or a similarity, without a linear solve: T_b_a from T_a_b.

    Args:
        transform: (..., 4, 4), rigid or a similarity of nonzero scale.
    Returns:
        (..., 4, 4).
    Raises:
        TypeError: `transform` is not a floating point tensor.
        ValueError: wrong shape.

    >>> invert_transform(make_transform(torch.eye(3), torch.tensor([1.0, 2.0, 3.0])))[:, 3]
    tensor([-1., -2., -3.,  1.])
    """
    _require("transform", transform, 4, 4)
    t = upcast(transform)
    linear = t[..., :3, :3]
    inverse = linear.mT / _scale_of(linear).square()
    return make_transform(inverse, -matmul(inverse, t[..., :3, 3:]).squeeze(-1)).to(transform.dtype)


def kabsch(source: Tensor, target: Tensor, *, weights: Tensor | None = None) -> Alignment:
    """Rigid motion that brings paired points together: least squares, weighted, never a reflection.

    Args:
        source: (..., N, 3).
        target: (..., N, 3), row i is the partner of row i of `source`; leading axes broadcast.
        weights: (..., N), not negative, on any common scale; equal by default. A pair of weight 0 is ignored, also
            when its coordinates are not finite: that is how to pad.
    Returns:
        `Alignment` with scale 1, in the dtype of `source`.
        The rotation is unique where `conditioning` > 0. Collinear points leave the turn about their line open, and
        exactly mirrored ones can too: the answer is then one of the optimal rotations, with a finite gradient. Where
        the points of one cloud coincide, the rotation is the identity; where all weights are 0 or N is 0, so is the
        whole motion. Coordinates that are not finite give NaN.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.
    Gradients are exact, first and second, in `source`, `target` and `weights`. They do not pass through the derivative
    of an SVD, so equal singular values are harmless; they grow like 1 / `conditioning`.
    Computed in float64 whatever the inputs' dtype, except on MPS devices, which lack it.
    Reference: Kabsch 1976; Umeyama, TPAMI 1991.

    >>> corners = torch.eye(3)
    >>> kabsch(corners, corners + torch.tensor([1.0, 2.0, 3.0])).translation
    tensor([1., 2., 3.])
    """
    return _align(source, target, weights, with_scale=False)


def umeyama(source: Tensor, target: Tensor, *, weights: Tensor | None = None) -> Alignment:
    """Similarity that brings paired points together: `kabsch` with a free scale.

    Args:
        source: (..., N, 3).
        target: (..., N, 3), row i is the partner of row i of `source`; leading axes broadcast.
        weights: (..., N), not negative, as in `kabsch`.
    Returns:
        `Alignment`, in the dtype of `source`. The scale is 1 where the source points coincide, since any would do.
        Everything else as in `kabsch`.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.
    Reference: Umeyama, TPAMI 1991, equations 34 to 43.

    >>> corners = torch.eye(3)
    >>> umeyama(corners, 2 * corners).scale
    tensor(2.)
    """
    return _align(source, target, weights, with_scale=True)


def _align(source: Tensor, target: Tensor, weights: Tensor | None, *, with_scale: bool) -> Alignment:
    """The common part of `kabsch` and `umeyama`."""
    source, target, weights = _prepared(source, target, weights)
    dtype = source.dtype
    if source.device.type != "mps":
        source, target, weights = source.double(), target.double(), weights.double()
    present = weights != 0
    total = weights.sum(-2, keepdim=True)
    w = weights / torch.where(total == 0, 1, total)
    x, mean_x = _centered(torch.where(present, source, 0), w)
    y, mean_y = _centered(torch.where(present, target, 0), w)
    covariance = matmul((w * y).mT, x)  # (..., 3, 3), target first, so that the rotation maps source to target
    # Divided by a constant, so that gradients are exact for points of any unit.
    relative = covariance / largest_component(covariance.flatten(-2))[..., None]
    rotation, conditioning = special_procrustes(relative), procrustes_conditioning(relative)
    if with_scale:
        spread = (w * x.square()).sum((-2, -1))
        scale = (rotation * covariance).sum((-2, -1)) / torch.where(spread == 0, 1, spread)
        scale = torch.where(spread == 0, 1, scale)
    else:
        scale = torch.ones_like(conditioning)
    moved = scale[..., None, None] * matmul(x, rotation.mT)
    residual = safe_sqrt((w * (moved - y).square()).sum((-2, -1)))
    translation = (mean_y - scale[..., None, None] * matmul(mean_x, rotation.mT)).squeeze(-2)
    results = (rotation, translation, scale, residual, conditioning)
    return Alignment(*(result.to(dtype) for result in results))


def _centered(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Points relative to their mean, and the mean; exactly 0 where all points are one up to rounding."""
    mean = (weights * points).sum(-2, keepdim=True)
    relative = points - mean
    # The rounding of the mean would otherwise pass for a direction.
    size, spread = ((weights * p.detach().abs()).sum((-2, -1), keepdim=True) for p in (points, relative))
    coincide = spread <= 16 * torch.finfo(points.dtype).eps * size
    return torch.where(coincide, 0, relative), mean


def _prepared(source: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Checked arguments of an alignment, broadcast together; weights become (..., N, 1)."""
    _require("source", source, "N", 3)
    _require("target", target, "N", 3)
    require_shape("target", target, ..., source.shape[-2], 3)
    tensors = {"source": source, "target": target}
    if weights is not None:
        require_floating("weights", weights)
        require_shape("weights", weights, ..., source.shape[-2])
        tensors["weights"] = weights.unsqueeze(-1)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)
    column = source.new_ones(source.shape[-2], 1) if weights is None else weights.unsqueeze(-1)
    batch = torch.broadcast_shapes(*(tensor.shape[:-2] for tensor in tensors.values()))
    n = source.shape[-2]
    return source.expand(*batch, n, 3), target.expand(*batch, n, 3), column.expand(*batch, n, 1)


def _require_pair(name: str, transform: Tensor, rows_name: str, rows: Tensor) -> None:
    """Check a transform (..., 4, 4) and rows (..., N, 3) that it will be applied to."""
    _require(name, transform, 4, 4)
    _require(rows_name, rows, "N", 3)
    tensors = {name: transform, rows_name: rows}
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)


def _require(name: str, value: Tensor, *shape: int | str) -> None:
    """Check a floating point tensor of shape (..., *shape)."""
    require_floating(name, value)
    require_shape(name, value, ..., *shape)


def _scale_of(linear: Tensor) -> Tensor:
    """(..., 1, 1) scale s of a matrix s R."""
    return (linear.square().sum((-2, -1), keepdim=True) / 3).sqrt()
