"""Rotations of space: matrix, quaternion and axis-angle, their conversions, and the angle between two rotations.

Convention: a rotation matrix (..., 3, 3) acts on column vectors, x' = R x, so its columns are the images of the basis
vectors; for points stored as rows that is `points @ R.mT`. Quaternions are real first, (w, x, y, z), unless `order`
says otherwise. Axis-angle is the axis times the angle in radians. Names are those of PyTorch3D where it has them.

All functions accept any leading axes, keep dtype and device, compute half precision in float32, have no branch on data
(so `torch.vmap` and `torch.compile` work), and have finite derivatives for every finite input. NaN in gives NaN out.
They do not check that a matrix is a rotation: `is_rotation` does.
"""

from __future__ import annotations

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
from .numerics import axial, cosc_of_square, largest_component, safe_norm, sinc_of_square, upcast

QuaternionOrder = Literal["wxyz", "xyzw"]

# Largest |R R^T - I| of a computed rotation that was rounded to the type.
_ROTATION_TOLERANCE = {torch.float64: 1e-14, torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}

# atan(x) / x is a series in x**2 up to here; 14 terms reach float64 precision (0.05**14 = 6e-19).
_ATAN_SWITCH = 0.05
_ATAN_TERMS = 14


def quaternion_to_matrix(quat: Tensor, *, order: QuaternionOrder = "wxyz") -> Tensor:
    """Rotation matrix of a quaternion of any nonzero length.

    Args:
        quat: (..., 4). It need not be normalised, q and -q give the same matrix, and 0 gives the identity.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> quaternion_to_matrix(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    w, vector = _split("quat", quat, order)
    q = torch.cat([w, vector], -1)
    q = q / largest_component(q)
    square = q.square().sum(-1, keepdim=True)
    s = 2 / torch.where(square == 0, 1, square)
    w, x, y, z = q.unbind(-1)
    sw, sx, sy, sz = (s * q).unbind(-1)
    rows = [
        [1 - (sy * y + sz * z), sx * y - sw * z, sx * z + sw * y],
        [sx * y + sw * z, 1 - (sx * x + sz * z), sy * z - sw * x],
        [sx * z - sw * y, sy * z + sw * x, 1 - (sx * x + sy * y)],
    ]
    return _matrix(rows).to(quat.dtype)


def matrix_to_quaternion(matrix: Tensor, *, order: QuaternionOrder = "wxyz") -> Tensor:
    """Unit quaternion of a rotation matrix, the one of the two whose real part is not negative.

    The quaternion jumps to its negative where the angle passes pi. At a half turn, where the real part is 0, the first
    nonzero component of the axis is positive, so the answer is unique.

    Args:
        matrix: (..., 3, 3), a rotation.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4), of unit length even when `matrix` is only nearly orthogonal.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape or unknown order.
    Reference: Markley, "Unit quaternion from rotation matrix", JGCD 2008.

    >>> matrix_to_quaternion(torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]))
    tensor([0., 1., 0., 0.])
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    require_choice("order", order, ("wxyz", "xyzw"))
    quat = _canonical(_unit_quaternion(upcast(matrix)))
    return _ordered(quat, order).to(matrix.dtype)


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation matrix of an axis-angle vector: the exponential map of so(3).

    Args:
        axis_angle: (..., 3), axis times angle in radians, of any length.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `axis_angle` is not a floating point tensor.
        ValueError: wrong shape.

    >>> axis_angle_to_matrix(torch.zeros(3)).diagonal()
    tensor([1., 1., 1.])
    """
    require_floating("axis_angle", axis_angle)
    require_shape("axis_angle", axis_angle, ..., 3)
    v = upcast(axis_angle)
    square = v.square().sum(-1, keepdim=True)
    x, y, z = v.unbind(-1)
    ax, ay, az = (sinc_of_square(square) * v).unbind(-1)
    bx, by, bz = (cosc_of_square(square) * v).unbind(-1)
    rows = [
        [1 - (by * y + bz * z), bx * y - az, bx * z + ay],
        [bx * y + az, 1 - (bx * x + bz * z), by * z - ax],
        [bx * z - ay, by * z + ax, 1 - (bx * x + by * y)],
    ]
    return _matrix(rows).to(axis_angle.dtype)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Axis-angle vector of a rotation matrix, of length at most pi: the logarithm of SO(3).

    Accurate over the whole range of angles, 0 and pi included. The vector jumps to its negative where the angle passes
    pi; at a half turn the first nonzero component of the axis is positive.

    Args:
        matrix: (..., 3, 3), a rotation.
    Returns:
        (..., 3), axis times angle in radians.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> matrix_to_axis_angle(torch.eye(3))
    tensor([0., 0., 0.])
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    return _logarithm(_canonical(_unit_quaternion(upcast(matrix)))).to(matrix.dtype)


def axis_angle_to_quaternion(axis_angle: Tensor, *, order: QuaternionOrder = "wxyz") -> Tensor:
    """Unit quaternion of an axis-angle vector, the one of the two whose real part is not negative.

    Args:
        axis_angle: (..., 3), axis times angle in radians, of any length.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4).
    Raises:
        TypeError: `axis_angle` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> axis_angle_to_quaternion(torch.zeros(3))
    tensor([1., 0., 0., 0.])
    """
    require_floating("axis_angle", axis_angle)
    require_shape("axis_angle", axis_angle, ..., 3)
    require_choice("order", order, ("wxyz", "xyzw"))
    v = upcast(axis_angle)
    square = v.square().sum(-1, keepdim=True)
    vector = sinc_of_square(square / 4) / 2 * v
    # cos(a / 2) = 1 - 2 sin(a / 4)**2, smooth in the square of the angle a.
    w = 1 - square / 8 * sinc_of_square(square / 16).square()
    return _ordered(_canonical(torch.cat([w, vector], -1)), order).to(axis_angle.dtype)


def quaternion_to_axis_angle(quat: Tensor, *, order: QuaternionOrder = "wxyz") -> Tensor:
    """Axis-angle vector of a quaternion of any nonzero length; the vector's own length is at most pi.

    Args:
        quat: (..., 4). q and -q give the same vector, and 0 gives 0.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 3), axis times angle in radians.
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> quaternion_to_axis_angle(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    tensor([0., 0., 0.])
    """
    w, vector = _split("quat", quat, order)
    return _logarithm(_canonical(torch.cat([w, vector], -1))).to(quat.dtype)


def rotation_angle(matrix: Tensor) -> Tensor:
    """Angle of a rotation, accurate to rounding over the whole range.

    Args:
        matrix: (..., 3, 3), a rotation.
    Returns:
        (...), radians in [0, pi]. The gradient is 0 at angle 0 and at pi, where the angle has a kink.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> rotation_angle(torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    tensor(1.5708)
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    m = upcast(matrix)
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    return _angle(axial(m), trace).to(matrix.dtype)


def geodesic_distance(rotation: Tensor, other: Tensor) -> Tensor:
    """Angle of the rotation that takes one rotation to the other.

    Computed as atan2(2 sin, 2 cos), so the error stays at a few units of rounding near 0 and near pi, where the usual
    arc cosine of the trace loses half the digits and has an infinite gradient.

    Args:
        rotation: (..., 3, 3), a rotation.
        other: (..., 3, 3), a rotation, dtype of `rotation`; leading axes broadcast.
    Returns:
        (...), radians in [0, pi]. The gradient is 0 at angle 0 and at pi, where the distance has a kink.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.

    >>> half_turn = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    >>> geodesic_distance(torch.eye(3), torch.stack([torch.eye(3), half_turn]))
    tensor([0.0000, 3.1416])
    """
    tensors = {"rotation": rotation, "other": other}
    for name, value in tensors.items():
        require_floating(name, value)
        require_shape(name, value, ..., 3, 3)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)
    a, b = torch.broadcast_tensors(upcast(rotation), upcast(other))
    # With S = A^T B, the axial vector of S is minus the sum over rows of a_k x b_k. As A^T A is symmetric, b may be
    # replaced by b - a, which is exact for nearby rotations: no cancellation, and exactly 0 for equal ones.
    vector = torch.linalg.cross(a, b - a, dim=-1).sum(-2)
    return _angle(vector, (a * b).sum((-2, -1))).to(rotation.dtype)


def is_rotation(matrix: Tensor, *, tolerance: float | None = None) -> Tensor:
    """Whether each matrix is a rotation: orthogonal with determinant +1.

    Args:
        matrix: (..., 3, 3).
        tolerance: largest allowed entry of |R R^T - I|; by default what rounding a rotation to the dtype explains:
            1e-14 (float64), 3e-6 (float32), 4e-3 (float16), 3e-2 (bfloat16).
    Returns:
        (...), bool; False where the matrix holds NaN.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> is_rotation(torch.stack([torch.eye(3), -torch.eye(3), 2 * torch.eye(3)]))
    tensor([ True, False, False])
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    limit = _ROTATION_TOLERANCE[matrix.dtype] if tolerance is None else tolerance
    m = upcast(matrix.detach())
    gram = (m[..., :, None, :] * m[..., None, :, :]).sum(-1)
    deviation = (gram - torch.eye(3, dtype=m.dtype, device=m.device)).abs().amax((-2, -1))
    determinant = (torch.linalg.cross(m[..., 0, :], m[..., 1, :], dim=-1) * m[..., 2, :]).sum(-1)
    return (deviation <= limit) & (determinant > 0)


def _split(name: str, quat: Tensor, order: QuaternionOrder) -> tuple[Tensor, Tensor]:
    """Checked real part (..., 1) and vector part (..., 3), in the working precision."""
    require_floating(name, quat)
    require_shape(name, quat, ..., 4)
    require_choice("order", order, ("wxyz", "xyzw"))
    q = upcast(quat)
    return (q[..., :1], q[..., 1:]) if order == "wxyz" else (q[..., 3:], q[..., :3])


def _ordered(quat: Tensor, order: QuaternionOrder) -> Tensor:
    """A real-first quaternion in the order asked for."""
    return quat if order == "wxyz" else quat.roll(-1, -1)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    """(..., 3, 3) from nine entries of shape (...)."""
    return torch.stack([entry for row in rows for entry in row], -1).unflatten(-1, (3, 3))


def _angle(vector: Tensor, trace: Tensor) -> Tensor:
    """Angle of a rotation from its axial vector, of length 2 sin(angle), and its trace, 1 + 2 cos(angle)."""
    return torch.atan2(safe_norm(vector), trace - 1)


def _canonical(quat: Tensor) -> Tensor:
    """`quat` or its negative: the first nonzero component is positive."""
    w, x, y, z = quat.unbind(-1)
    leading = torch.where(w != 0, w, torch.where(x != 0, x, torch.where(y != 0, y, z)))
    # Not torch.sign, which is 0 at 0.
    return torch.where((leading < 0).unsqueeze(-1), -quat, quat)


def _unit_quaternion(matrix: Tensor) -> Tensor:
    """One of the two unit quaternions of a rotation, real part first."""
    m = [row.unbind(-1) for row in matrix.unbind(-2)]
    # The four rows of 4 q q^T. Their diagonal entries add up to 4, so the row with the largest one is well
    # conditioned; normalising it, rather than dividing by its diagonal, also absorbs rounding of the matrix.
    wx, wy, wz = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, zx, yz = m[1][0] + m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2]
    ww = 1 + m[0][0] + m[1][1] + m[2][2]
    xx = 1 + m[0][0] - m[1][1] - m[2][2]
    yy = 1 - m[0][0] + m[1][1] - m[2][2]
    zz = 1 - m[0][0] - m[1][1] + m[2][2]
    row_w, row_x = torch.stack([ww, wx, wy, wz], -1), torch.stack([wx, xx, xy, zx], -1)
    row_y, row_z = torch.stack([wy, xy, yy, yz], -1), torch.stack([wz, zx, yz, zz], -1)
    wx_row = torch.where((ww >= xx).unsqueeze(-1), row_w, row_x)
    yz_row = torch.where((yy >= zz).unsqueeze(-1), row_y, row_z)
    row = torch.where((torch.maximum(ww, xx) >= torch.maximum(yy, zz)).unsqueeze(-1), wx_row, yz_row)
    return row / row.square().sum(-1, keepdim=True).sqrt()


def _logarithm(quat: Tensor) -> Tensor:
    """(..., 3) axis times angle of a real-first quaternion of any length whose real part is not negative."""
    quat = quat / largest_component(quat)
    w, vector = quat[..., :1], quat[..., 1:]
    square = vector.square().sum(-1, keepdim=True)
    # Near the identity atan(s / w) / s = (1 - r / 3 + r**2 / 5 - ...) / w with r = (s / w)**2, free of 1 / s.
    small = square < _ATAN_SWITCH * w.square()
    safe_w = torch.where(small, w, 1)
    ratio = torch.where(small, square, 0) / safe_w.square()
    series = torch.full_like(ratio, 1 / (2 * _ATAN_TERMS - 1))
    for k in range(_ATAN_TERMS - 2, -1, -1):
        series = 1 / (2 * k + 1) - ratio * series
    length = torch.where(small | (square == 0), 1, square).sqrt()
    factor = torch.where(small, series / safe_w, torch.atan2(length, w) / length)
    return 2 * factor * vector
