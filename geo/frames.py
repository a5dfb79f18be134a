"""Working with rotation matrices: compose, invert, apply, and build them from axes, directions and parts.

Rotation matrices (..., 3, 3) act on column vectors. Leading axes broadcast. Products are computed in the inputs' own
precision, also under autocast.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

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
from .continuous import rotation_6d_to_matrix
from .numerics import largest_component, matmul, upcast
from .procrustes import special_procrustes
from .so3 import QuaternionOrder, quaternion_to_matrix
from .vectors import SHORTEST

Axis = Literal["x", "y", "z"]


class SwingTwist(NamedTuple):
    """A rotation as a turn about an axis, the twist, followed by a tilt of that axis, the swing."""

    swing: Tensor
    """(..., 4), unit, real part not negative; its own axis is perpendicular to the axis."""
    twist: Tensor
    """(..., 4), unit, about the axis."""


def rotation_inverse(rotation: Tensor) -> Tensor:
    """Inverse of a rotation: its transpose, as a view.

    Args:
        rotation: (..., 3, 3), a rotation.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `rotation` is not a floating point tensor.
        ValueError: wrong shape.

    >>> rotation_inverse(torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))[0]
    tensor([0., 1., 0.])
    """
    require_floating("rotation", rotation)
    require_shape("rotation", rotation, ..., 3, 3)
    return rotation.mT


def rotation_apply(rotation: Tensor, points: Tensor) -> Tensor:
    """Vectors after a rotation.

    One rotation per vector: to turn N points by each of B rotations, pass `rotation[:, None]` and points (B, N, 3).

    Args:
        rotation: (..., 3, 3).
        points: (..., 3), dtype of `rotation`; leading axes broadcast.
    Returns:
        (..., 3).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.

    >>> quarter_turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> rotation_apply(quarter_turn, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
    tensor([[0., 1., 0.],
            [0., 0., 2.]])
    """
    require_floating("rotation", rotation)
    require_shape("rotation", rotation, ..., 3, 3)
    require_floating("points", points)
    require_shape("points", points, ..., 3)
    tensors = {"rotation": rotation, "points": points.unsqueeze(-1)}
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)
    first, second, third = upcast(rotation).unbind(-1)
    x, y, z = upcast(points).split(1, -1)
    return (first * x + second * y + third * z).to(points.dtype)


def rotation_compose(*rotations: Tensor, normalize: bool = False) -> Tensor:
    """Product of rotations: the last one acts first.

    Args:
        rotations: (..., 3, 3) each, of one dtype; leading axes broadcast.
        normalize: project the product to the nearest rotation. Rounding takes a product off SO(3) at about one unit per
            factor, so this is for chains of hundreds.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: no rotation, wrong shape, several dtypes or devices, or leading axes that do not broadcast.

    >>> quarter_turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> rotation_compose(quarter_turn, quarter_turn).diagonal()
    tensor([-1., -1.,  1.])
    """
    if not rotations:
        raise ValueError("rotations: expected at least one, got none")
    tensors = {f"rotations[{i}]": rotation for i, rotation in enumerate(rotations)}
    for name, value in tensors.items():
        require_floating(name, value)
        require_shape(name, value, ..., 3, 3)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)
    product = upcast(rotations[0])
    for rotation in rotations[1:]:
        product = matmul(product, upcast(rotation))
    return (special_procrustes(product) if normalize else product).to(rotations[0].dtype)


def orthonormalize(rotation: Tensor) -> Tensor:
    """The rotation nearest to a matrix that is almost one: undoes the drift of long products.

    It is `special_procrustes` under the name of this use.

    Args:
        rotation: (..., 3, 3).
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `rotation` is not a floating point tensor.
        ValueError: wrong shape.

    >>> orthonormalize(1.01 * torch.eye(3)).diagonal()
    tensor([1., 1., 1.])
    """
    require_floating("rotation", rotation)
    require_shape("rotation", rotation, ..., 3, 3)
    return special_procrustes(rotation)


def elementary_rotation(axis: Axis, angle: Tensor) -> Tensor:
    """Rotation about a coordinate axis.

    Args:
        axis: "x", "y" or "z".
        angle: (...), radians, by the right-hand rule.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `angle` is not a floating point tensor.
        ValueError: unknown axis.

    >>> elementary_rotation("y", torch.tensor(0.0)).diagonal()
    tensor([1., 1., 1.])
    """
    require_choice("axis", axis, ("x", "y", "z"))
    require_floating("angle", angle)
    a = upcast(angle)
    c, s = a.cos(), a.sin()
    # NaN in all nine entries, as for every other map to a rotation.
    zero = torch.where(c.isnan(), c, 0).detach()
    one = 1 + zero
    entries = {
        "x": [one, zero, zero, zero, c, -s, zero, s, c],
        "y": [c, zero, s, zero, one, zero, -s, zero, c],
        "z": [c, -s, zero, s, c, zero, zero, zero, one],
    }[axis]
    return torch.stack(entries, -1).unflatten(-1, (3, 3)).to(angle.dtype)


def rotation_between_vectors(source: Tensor, target: Tensor) -> Tensor:
    """The smallest rotation that takes the direction of one vector to that of another.

    Its axis is perpendicular to both. For opposite directions, to 4 units of rounding, every half turn about an axis
    perpendicular to `source` is as small: the answer is the one about the cross product of `source` with the
    coordinate axis farthest from it, with gradient 0. Where a vector is 0 the answer is the identity, with gradient 0.
    Elsewhere the gradient grows like 1 / length and, near opposite directions, like 1 / (pi - angle).

    Args:
        source: (..., 3), of any length.
        target: (..., 3), of any length, dtype of `source`; leading axes broadcast.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.

    >>> rotation_between_vectors(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 5.0, 0.0])).round(decimals=6).abs()
    tensor([[0., 1., 0.],
            [1., 0., 0.],
            [0., 0., 1.]])
    """
    tensors = {"source": source, "target": target}
    for name, value in tensors.items():
        require_floating(name, value)
        require_shape(name, value, ..., 3)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=1)
    a, b = torch.broadcast_tensors(upcast(source), upcast(target))
    # A vector that is 0 has the direction of the other one, and any if both are.
    a_is_zero, b_is_zero = ((v == 0).all(-1, keepdim=True) for v in (a, b))
    a, b = torch.where(a_is_zero, b.detach(), a), torch.where(b_is_zero, a.detach(), b)
    both = a_is_zero & b_is_zero
    a, b = _unit(torch.where(both, 1, a)), _unit(torch.where(both, 1, b))
    # The quaternion is (|a + b|**2 / 2, a x b). Of the two equal products a x (b - a) and a x (a + b) the one with the
    # smaller factor, an exact difference, keeps its relative precision.
    acute = (a * b).sum(-1, keepdim=True) > 0
    half = a + b
    w = half.square().sum(-1, keepdim=True) / 2
    vector = torch.linalg.cross(a, torch.where(acute, b - a, half), dim=-1)
    opposite = w <= 8 * torch.finfo(a.dtype).eps ** 2
    quat = torch.where(opposite, _opposite(a.detach()), torch.cat([w, vector], -1))
    matrix = quaternion_to_matrix(quat)
    eye = torch.eye(3, dtype=a.dtype, device=a.device)
    # Of one vector that is 0, the other is compared with itself: the identity up to rounding, and its gradient not 0.
    nothing = (a_is_zero | b_is_zero).unsqueeze(-1) & ~(quat.isnan().any(-1)[..., None, None])
    return torch.where(nothing, eye, matrix).to(source.dtype)


def look_rotation(forward: Tensor, up: Tensor) -> Tensor:
    """Rotation of a frame that looks along one direction with another one upwards.

    It takes the z axis to `forward` exactly, the y axis to the direction nearest to `up` that is perpendicular to it,
    and the x axis to y cross z, which points to the left of who looks along `forward`. For a camera that looks along
    its z axis with y downwards, pass the direction of down for `up`.

    Degenerate are vectors that are 0 and an `up` parallel to `forward`, to 8 units of rounding. Then `forward` is the x
    axis, and `up` the coordinate axis farthest from `forward`; what was replaced gets gradient 0.

    Args:
        forward: (..., 3), of any length.
        up: (..., 3), of any length, dtype of `forward`; leading axes broadcast.
    Returns:
        (..., 3, 3), columns x, y, z.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.

    >>> look_rotation(torch.tensor([0.0, 0.0, 3.0]), torch.tensor([0.0, 1.0, 1.0])).diagonal()
    tensor([1., 1., 1.])
    """
    tensors = {"forward": forward, "up": up}
    for name, value in tensors.items():
        require_floating(name, value)
        require_shape(name, value, ..., 3)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=1)
    frame = rotation_6d_to_matrix(torch.cat(torch.broadcast_tensors(forward, up), -1))
    z, y, minus_x = frame.unbind(-1)
    return torch.stack([-minus_x, y, z], -1)


def swing_twist(quat: Tensor, axis: Tensor, order: QuaternionOrder = "wxyz") -> SwingTwist:
    """A rotation as swing * twist: first a turn about `axis`, then the smallest turn that tilts the axis into place.

    The twist carries the sign of `quat`, the swing has none of its own: both are continuous wherever they are defined.
    Where the rotation turns `axis` to its opposite, to 4 units of rounding, no twist is distinguished: it is the
    identity with gradient 0, and the swing is `quat` itself. Near there the gradient grows like 1 / (pi - angle of the
    swing).

    Args:
        quat: (..., 4), of any nonzero length; 0 gives two identities and gradient 0.
        axis: (..., 3), of any length, dtype of `quat`; leading axes broadcast. For 0 the twist is plus or minus 1 and
            the swing the whole rotation.
        order: "wxyz" (real part first) or "xyzw", of `quat` and of the results.
    Returns:
        `SwingTwist` of two unit quaternions whose product, swing times twist, is `quat` normalised.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, or unknown order.
    Reference: Dobrowolski, "Swing-twist decomposition in Clifford algebra", arXiv 1506.05481.

    >>> quat = torch.tensor([0.6, 0.0, 0.0, 0.8])
    >>> swing_twist(quat, torch.tensor([0.0, 0.0, 1.0]))
    SwingTwist(swing=tensor([1., 0., 0., 0.]), twist=tensor([0.6000, 0.0000, 0.0000, 0.8000]))
    """
    require_floating("quat", quat)
    require_shape("quat", quat, ..., 4)
    require_floating("axis", axis)
    require_shape("axis", axis, ..., 3)
    require_choice("order", order, ("wxyz", "xyzw"))
    tensors = {"quat": quat, "axis": axis}
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=1)
    batch = torch.broadcast_shapes(quat.shape[:-1], axis.shape[:-1])
    q, n = upcast(quat).expand(*batch, 4), upcast(axis).expand(*batch, 3)
    q, n = _unit(q if order == "wxyz" else q.roll(1, -1)), _unit(n)
    w, v = q[..., :1], q[..., 1:]
    along = (v * n).sum(-1, keepdim=True)
    across = v - along * n
    square = w.square() + along.square()
    none = square <= (4 * torch.finfo(q.dtype).eps) ** 2
    length = torch.where(none, 1, square).sqrt()
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=q.dtype, device=q.device)
    nothing = (q == 0).all(-1, keepdim=True)
    twist = torch.where(none, identity, torch.cat([w, along * n], -1) / length)
    # swing = quat * conjugate(twist), multiplied out: the part along the axis is exactly 0.
    tilt = w * across + along * torch.linalg.cross(n, across, dim=-1)
    swing = torch.where(none, torch.where(nothing, identity, q), torch.cat([length, tilt / length], -1))
    parts = (swing, twist) if order == "wxyz" else (swing.roll(-1, -1), twist.roll(-1, -1))
    return SwingTwist(*(part.to(quat.dtype) for part in parts))


def _unit(vector: Tensor) -> Tensor:
    """The direction of a vector, 0 for 0, without gradient for one shorter than 1e-18."""
    size = largest_component(vector)
    v = torch.where(size > SHORTEST, vector, vector.detach()) / size
    square = v.square().sum(-1, keepdim=True)
    return v / torch.where(square == 0, 1, square).sqrt()


def _opposite(unit: Tensor) -> Tensor:
    """Quaternion of a half turn about an axis perpendicular to a unit vector."""
    # One-hot of the smallest component, the first if several are; `one_hot` itself looks at the data.
    smallest = unit.abs().argmin(-1, keepdim=True)
    farthest = (torch.arange(3, device=unit.device) == smallest).to(unit.dtype)
    axis = torch.linalg.cross(unit, farthest.expand_as(unit), dim=-1)
    return torch.cat([torch.zeros_like(axis[..., :1]), axis], -1)
