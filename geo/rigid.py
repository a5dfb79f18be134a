"""Rigid motions and similarities of space: made, applied, composed and inverted.

Convention: a transform is a matrix (..., 4, 4), `x' = s R x + t`, named for what it maps: `T_target_source` takes
source coordinates to the target's frame, and `T_a_b @ T_b_c` is `T_a_c`. Points are rows, (..., N, 3), in any one unit
of length. Leading axes broadcast. Products are computed in the inputs' own precision, half precision in float32, also
under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import require_broadcastable, require_floating, require_same_device, require_same_dtype, require_shape
from .numerics import matmul, upcast


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
