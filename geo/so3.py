"""Rotations of space: matrix, quaternion and axis-angle, their conversions, and the angle between two rotations.

Convention: a rotation matrix (..., 3, 3) acts on column vectors, x' = R x, so its columns are the images of the basis
vectors; for points stored as rows that is `points @ R.mT`. Quaternions are real first, (w, x, y, z), unless `order`
says otherwise. Axis-angle is the axis times the angle in radians. Names are those of PyTorch3D where it has them.

All functions accept any leading axes, keep dtype and device, have no branch on data (so `torch.vmap` and
`torch.compile` work), and have finite derivatives for every finite input. Half precision is computed in float32;
on the CPU one compiled pass computes in float64 whatever the dtype. NaN in gives NaN out. No function checks that a
matrix is a rotation: `is_rotation` does.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from . import so3_formulas as formulas
from .checks import (
    require_broadcastable,
    require_choice,
    require_floating,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from .fused import Map
from .numerics import upcast

QuaternionOrder = Literal["wxyz", "xyzw"]

# Largest |R R^T - I| of a computed rotation that was rounded to the type.
ROTATION_TOLERANCE = {torch.float64: 1e-14, torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}

# Where the components w, x, y, z stand.
QUATERNION_COLUMNS = {"wxyz": None, "xyzw": (3, 0, 1, 2)}

_MATRIX, _QUATERNION, _VECTOR = (3, 3), (4,), (3,)
_QUATERNION_TO_MATRIX = Map(
    formulas.matrix_of_quaternion, formulas.matrix_of_quaternion_derivative,
    inputs={"quat": _QUATERNION}, output=_MATRIX,
)  # fmt: skip
_MATRIX_TO_QUATERNION = Map(
    formulas.quaternion_of_matrix, formulas.quaternion_of_matrix_derivative,
    inputs={"matrix": _MATRIX}, output=_QUATERNION,
)  # fmt: skip
_AXIS_ANGLE_TO_MATRIX = Map(
    formulas.matrix_of_axis_angle, formulas.matrix_of_axis_angle_derivative,
    inputs={"axis_angle": _VECTOR}, output=_MATRIX,
)  # fmt: skip
_MATRIX_TO_AXIS_ANGLE = Map(
    formulas.axis_angle_of_matrix, formulas.axis_angle_of_matrix_derivative,
    inputs={"matrix": _MATRIX}, output=_VECTOR,
)  # fmt: skip
_AXIS_ANGLE_TO_QUATERNION = Map(
    formulas.quaternion_of_axis_angle, formulas.quaternion_of_axis_angle_derivative,
    inputs={"axis_angle": _VECTOR}, output=_QUATERNION,
)  # fmt: skip
_QUATERNION_TO_AXIS_ANGLE = Map(
    formulas.axis_angle_of_quaternion, formulas.axis_angle_of_quaternion_derivative,
    inputs={"quat": _QUATERNION}, output=_VECTOR,
)  # fmt: skip
_ANGLE = Map(formulas.angle, formulas.angle_derivative, inputs={"matrix": _MATRIX}, output=())
_DISTANCE = Map(
    formulas.distance, formulas.distance_derivative,
    inputs={"rotation": _MATRIX, "other": _MATRIX}, output=(),
)  # fmt: skip


def quaternion_to_matrix(quat: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
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
    require_choice("order", order, ("wxyz", "xyzw"))
    return _QUATERNION_TO_MATRIX(quat, load=(QUATERNION_COLUMNS[order],))


def matrix_to_quaternion(
    matrix: Tensor,
    order: QuaternionOrder = "wxyz",
    *,
    canonical: bool = True,
    reference: Tensor | None = None,
    validate: bool = False,
) -> Tensor:
    """Unit quaternion of a rotation matrix, the one of the two whose real part is not negative.

    The quaternion jumps to its negative where the angle passes pi: no map from rotations to quaternions is continuous.
    At a half turn, where the real part is 0, the first nonzero component of the axis is positive, so the answer is
    unique.

    Args:
        matrix: (..., 3, 3), a rotation.
        order: "wxyz" (real part first) or "xyzw".
        canonical: False leaves the sign open, which saves a little.
        reference: (..., 4), in the same order and dtype: the sign is the one nearer to it, which keeps a sequence
            continuous; overrides `canonical`.
        validate: raise unless every matrix is a rotation, see `check_rotation`.
    Returns:
        (..., 4), of unit length even when `matrix` is only nearly orthogonal.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape or unknown order.
    Reference: Markley, "Unit quaternion from rotation matrix", JGCD 2008.

    >>> matrix_to_quaternion(torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]))
    tensor([0., 1., 0., 0.])
    """
    require_choice("order", order, ("wxyz", "xyzw"))
    if validate:
        check_rotation(matrix)
    sign = (float(canonical and reference is None),)
    quat = _MATRIX_TO_QUATERNION(matrix, store=QUATERNION_COLUMNS[order], parameters=sign)
    return quat if reference is None else _aligned(quat, reference)


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
    return _AXIS_ANGLE_TO_MATRIX(axis_angle)


def matrix_to_axis_angle(matrix: Tensor, *, validate: bool = False) -> Tensor:
    """Axis-angle vector of a rotation matrix, of length at most pi: the logarithm of SO(3).

    Accurate over the whole range of angles, 0 and pi included. The vector jumps to its negative where the angle passes
    pi; at a half turn the first nonzero component of the axis is positive.

    Args:
        matrix: (..., 3, 3), a rotation.
        validate: raise unless every matrix is a rotation, see `check_rotation`.
    Returns:
        (..., 3), axis times angle in radians.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> matrix_to_axis_angle(torch.eye(3))
    tensor([0., 0., 0.])
    """
    return _MATRIX_TO_AXIS_ANGLE(check_rotation(matrix) if validate else matrix)


def axis_angle_to_quaternion(axis_angle: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
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
    require_choice("order", order, ("wxyz", "xyzw"))
    return _AXIS_ANGLE_TO_QUATERNION(axis_angle, store=QUATERNION_COLUMNS[order])


def quaternion_to_axis_angle(quat: Tensor, order: QuaternionOrder = "wxyz", *, shortest: bool = True) -> Tensor:
    """Axis-angle vector of a quaternion of any nonzero length; the vector's own length is at most pi.

    Args:
        quat: (..., 4). q and -q give the same vector, and 0 gives 0.
        order: "wxyz" (real part first) or "xyzw".
        shortest: False takes the quaternion at its word, so that q and -q differ and the angle goes up to 2 pi; a
            negative real number, which has no axis, gives 0.
    Returns:
        (..., 3), axis times angle in radians.
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> quaternion_to_axis_angle(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    tensor([0., 0., 0.])
    """
    require_choice("order", order, ("wxyz", "xyzw"))
    return _QUATERNION_TO_AXIS_ANGLE(quat, load=(QUATERNION_COLUMNS[order],), parameters=(float(shortest),))


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
    return _ANGLE(matrix)


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
    return _DISTANCE(rotation, other)


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
    deviation, determinant = _deviation(matrix)
    limit = ROTATION_TOLERANCE[matrix.dtype] if tolerance is None else tolerance
    return (deviation <= limit) & (determinant > 0)


def check_rotation(matrix: Tensor, *, tolerance: float | None = None) -> Tensor:
    """The matrix itself, if every one in it is a rotation: for input that comes from somewhere else.

    It looks at the data, so it waits for the device, and it cannot be compiled or transformed. The maps of this room do
    not call it unless they are asked to (`validate=True`).

    Args:
        matrix: (..., 3, 3).
        tolerance: as in `is_rotation`.
    Returns:
        `matrix`.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape, or some are no rotations; the message says how many and by how much.

    >>> check_rotation(torch.stack([torch.eye(3), 2 * torch.eye(3)]))
    Traceback (most recent call last):
    ValueError: matrix: expected rotations, got 1 of 2 that are none; largest entry of |R R^T - I| 3, allowed 3e-06
    """
    valid = is_rotation(matrix, tolerance=tolerance)
    if not bool(valid.all()):
        deviation, determinant = _deviation(matrix)
        limit = ROTATION_TOLERANCE[matrix.dtype] if tolerance is None else tolerance
        reason = f"largest entry of |R R^T - I| {deviation[~valid].max().item():.3g}, allowed {limit:g}"
        if bool(((determinant <= 0) & ~valid).any()):
            reason += "; some have a determinant that is not positive"
        raise ValueError(
            f"matrix: expected rotations, got {int((~valid).sum())} of {valid.numel()} that are none; {reason}"
        )
    return matrix


def _deviation(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Largest entry of |R R^T - I| and determinant of checked matrices."""
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    m = upcast(matrix.detach())
    gram = (m[..., :, None, :] * m[..., None, :, :]).sum(-1)
    deviation = (gram - torch.eye(3, dtype=m.dtype, device=m.device)).abs().amax((-2, -1))
    return deviation, (torch.linalg.cross(m[..., 0, :], m[..., 1, :], dim=-1) * m[..., 2, :]).sum(-1)


def _aligned(quat: Tensor, reference: Tensor) -> Tensor:
    """`quat` or its negative, whichever is nearer to `reference`."""
    require_floating("reference", reference)
    require_shape("reference", reference, ..., 4)
    tensors = {"quat": quat, "reference": reference}
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=1)
    return torch.where((quat * reference).sum(-1, keepdim=True) < 0, -quat, quat)
