"""Point pair features: four or five numbers about two points and their normals that no rigid motion changes.

| change                         | distance | angle 1 | angle 2 | angle 3 | signed volume |
|--------------------------------|----------|---------|---------|---------|---------------|
| rotation, translation          | same     | same    | same    | same    | same          |
| reflection                     | same     | same    | same    | same    | sign flips    |
| scale by s                     | times s  | same    | same    | same    | same          |
| anchor and neighbor swapped    | same     | 1 - angle 2 | 1 - angle 1 | same | same         |
| anchor's normal flipped        | same     | 1 - x   | same    | 1 - x   | sign flips    |
| neighbor's normal flipped      | same     | same    | 1 - x   | 1 - x   | sign flips    |

Angles are over pi, hence "1 - x". As arc tangents of cross and dot product they are fully accurate near 0 and pi, need
no normalised vectors, and have finite gradients. Reference: Drost et al., CVPR 2010; RoITr (Yu et al., CVPR 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import require_broadcastable, require_floating, require_same_device, require_same_dtype, require_shape
from .numerics import safe_norm, upcast


def point_pair_features(
    anchor_points: Tensor, anchor_normals: Tensor, neighbor_points: Tensor, neighbor_normals: Tensor
) -> Tensor:
    """Distance and three angles of every pair, the same for a scene and its mirror image.

    With d from anchor to neighbor: (|d|, angle(n1, d) / pi, angle(n2, d) / pi, angle(n1, n2) / pi).

    Args:
        anchor_points: (..., 3); for a neighborhood its center, such as `points[:, None]` of shape (N, 1, 3).
        anchor_normals: (..., 3), of any nonzero length.
        neighbor_points: (..., 3), such as (N, K, 3). All four broadcast.
        neighbor_normals: (..., 3), of any nonzero length.
    Returns:
        (..., 4): a length in the unit of the points, then three numbers in [0, 1]. Coincident points have distance 0
        and angles 1 and 2 equal to 0.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.

    >>> x, z = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    >>> point_pair_features(torch.zeros(3), z, x + z, x)
    tensor([1.4142, 0.2500, 0.2500, 0.5000])
    """
    _require_pairs(anchor_points, anchor_normals, neighbor_points, neighbor_normals)
    d = upcast(neighbor_points) - upcast(anchor_points)
    n1, n2 = upcast(anchor_normals), upcast(neighbor_normals)
    d, n1, n2 = torch.broadcast_tensors(d, n1, n2)
    angles = [_angle(n1, d), _angle(n2, d), _angle(n1, n2)]
    return torch.stack([safe_norm(d), *(angle / torch.pi for angle in angles)], -1).to(anchor_points.dtype)


def signed_point_pair_features(
    anchor_points: Tensor, anchor_normals: Tensor, neighbor_points: Tensor, neighbor_normals: Tensor
) -> Tensor:
    """`point_pair_features` and a fifth number that tells a scene from its mirror image.

    The fifth is the signed volume n1 . (d x n2) / |d| of the unit vectors: 0 where the three lie in a plane.

    Args:
        anchor_points: (..., 3); for a neighborhood its center, such as `points[:, None]` of shape (N, 1, 3).
        anchor_normals: (..., 3), of any nonzero length.
        neighbor_points: (..., 3), such as (N, K, 3). All four broadcast.
        neighbor_normals: (..., 3), of any nonzero length.
    Returns:
        (..., 5): the four of `point_pair_features`, then a number in [-1, 1], 0 for coincident points.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or leading axes that do not broadcast.

    >>> x, y, z = torch.eye(3)
    >>> signed_point_pair_features(torch.zeros(3), z, x, y)[4], signed_point_pair_features(torch.zeros(3), z, -x, y)[4]
    (tensor(1.), tensor(-1.))
    """
    features = point_pair_features(anchor_points, anchor_normals, neighbor_points, neighbor_normals)
    d = upcast(neighbor_points) - upcast(anchor_points)
    n1, n2 = _unit(upcast(anchor_normals)), _unit(upcast(neighbor_normals))
    volume = (n1 * torch.linalg.cross(*torch.broadcast_tensors(_unit(d), n2), dim=-1)).sum(-1, keepdim=True)
    return torch.cat([features, volume.to(features.dtype)], -1)


def _require_pairs(
    anchor_points: Tensor, anchor_normals: Tensor, neighbor_points: Tensor, neighbor_normals: Tensor
) -> None:
    """Check the four arguments of a feature."""
    tensors = {
        "anchor_points": anchor_points,
        "anchor_normals": anchor_normals,
        "neighbor_points": neighbor_points,
        "neighbor_normals": neighbor_normals,
    }
    for name, value in tensors.items():
        require_floating(name, value)
        require_shape(name, value, ..., 3)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=1)


def _angle(left: Tensor, right: Tensor) -> Tensor:
    """Angle between vectors in [0, pi], 0 where one of them is 0."""
    sine = safe_norm(torch.linalg.cross(left, right, dim=-1))
    cosine = (left * right).sum(-1)
    # At (0, 0) the derivative of atan2 is 0 / 0.
    return torch.atan2(sine, torch.where((sine == 0) & (cosine == 0), 1, cosine))


def _unit(vector: Tensor) -> Tensor:
    """Vector of length 1, or 0 where it is 0."""
    length = safe_norm(vector).unsqueeze(-1)
    return vector / torch.where(length == 0, 1, length)
