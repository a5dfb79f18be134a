"""Euler angles of all 24 conventions, to and from matrices and quaternions.

A convention names three axes. Upper case is intrinsic, about the axes of the body as it turns: "XYZ" with angles
(a, b, c) is R = Rx(a) Ry(b) Rz(c), as in PyTorch3D. Lower case is extrinsic, about fixed axes: "xyz" is
R = Rz(c) Ry(b) Rx(a). Both as in SciPy and roma. The middle angle lies in [-pi/2, pi/2] for three different axes, in
[0, pi] where the third is the first; the other two in [-pi, pi].

Euler angles are not continuous in the rotation and no representation to regress: the first and the third jump by a
whole turn, and at gimbal lock, where the middle angle is at an end of its range, the first and the third axis coincide
and only the sum or the difference of their angles is determined. There the third angle is set to 0. The reconstructed
rotation is exact there as everywhere.

Close to the lock the derivatives of the first and the third angle grow like 1 / s, where s is the sine of the angle
between those two axes. Gradients have s / (s**2 + damping**2) instead, with `damping` 1e-4 in float32 (and half
precision) and 1e-8 in float64, or as given; the sum or difference keeps its derivative. At the
lock itself the first angle has the gradient of the sum or difference, the middle and the third have gradient 0.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from . import euler_formulas as formulas
from .checks import require_choice, require_floating
from .fused import Map
from .so3 import QuaternionOrder, check_rotation


class _Convention(NamedTuple):
    """How a convention is reduced to the one sequence that the formulas know."""

    # Places of the canonical matrix, of the canonical quaternion by order, and of its vector's components.
    matrix: tuple[int, ...]
    quaternion: dict[str, tuple[int, ...]]
    # 1 where the three axes differ, 0 where the third is the first.
    tait: float
    # Sign of the angles in the canonical sequence.
    sign: float


def _convention(name: str) -> _Convention:
    axes = ["xyz".index(letter) for letter in name.lower()]
    i, j = axes[:2]
    k = 3 - i - j
    differ = axes[2] == k
    rows, columns = (i, j, k), (i, j, k) if differ else (k, j, i)
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    if name.isupper():
        matrix = tuple(3 * row + column for row in rows for column in columns)
    else:
        matrix = tuple(3 * column + row for row in rows for column in columns)
        sign = -sign
    quaternion: dict[str, tuple[int, ...]] = {"wxyz": (0, i + 1, j + 1, k + 1), "xyzw": (3, i, j, k)}
    return _Convention(matrix, quaternion, float(differ), sign)


_SEQUENCES = ("XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX", "XYX", "XZX", "YXY", "YZY", "ZXZ", "ZYZ")
_CONVENTIONS = {name: _convention(name) for sequence in _SEQUENCES for name in (sequence, sequence.lower())}
_DEGREE = math.pi / 180

_EULER_TO_MATRIX = Map(
    formulas.matrix_of_euler, formulas.matrix_of_euler_derivative, inputs={"angles": (3,)}, output=(3, 3)
)
_EULER_TO_QUATERNION = Map(
    formulas.quaternion_of_euler, formulas.quaternion_of_euler_derivative, inputs={"angles": (3,)}, output=(4,)
)
_MATRIX_TO_EULER = Map(
    formulas.euler_of_matrix, formulas.euler_of_matrix_derivative, inputs={"matrix": (3, 3)}, output=(3,)
)
_QUATERNION_TO_EULER = Map(
    formulas.euler_of_quaternion, formulas.euler_of_quaternion_derivative, inputs={"quat": (4,)}, output=(3,)
)


def euler_to_matrix(angles: Tensor, convention: str, degrees: bool = False) -> Tensor:
    """Rotation matrix of Euler angles.

    Args:
        angles: (..., 3), in the order of the letters of `convention`, radians, of any size.
        convention: three axes, no axis twice in a row: "XYZ" intrinsic, "xyz" extrinsic.
        degrees: whether the angles are in degrees.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `angles` is not a floating point tensor.
        ValueError: wrong shape or unknown convention.

    >>> euler_to_matrix(torch.tensor([60.0, 0.0, 0.0]), "ZYX", degrees=True).diagonal()
    tensor([0.5000, 0.5000, 1.0000])
    """
    plan = _plan(convention)
    return _EULER_TO_MATRIX(angles, store=plan.matrix, parameters=_factors(plan, _DEGREE if degrees else 1.0))


@overload
def matrix_to_euler(
    matrix: Tensor,
    convention: str,
    degrees: bool = ...,
    return_gimbal: Literal[False] = ...,
    *,
    damping: float | None = ...,
    validate: bool = ...,
) -> Tensor: ...


@overload
def matrix_to_euler(
    matrix: Tensor,
    convention: str,
    degrees: bool = ...,
    *,
    return_gimbal: Literal[True],
    damping: float | None = ...,
    validate: bool = ...,
) -> tuple[Tensor, Tensor]: ...


def matrix_to_euler(
    matrix: Tensor,
    convention: str,
    degrees: bool = False,
    return_gimbal: bool = False,
    *,
    damping: float | None = None,
    validate: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Euler angles of a rotation matrix.

    At gimbal lock the third angle is 0; the head of this module says what the gradient is there and nearby.

    Args:
        matrix: (..., 3, 3), a rotation.
        convention: three axes, no axis twice in a row: "XYZ" intrinsic, "xyz" extrinsic.
        degrees: whether to return degrees.
        return_gimbal: whether to return also where the rotation is at gimbal lock.
        damping: distance from the lock, in radians, below which gradients are damped; 0 leaves the exact derivative.
            By default 1e-4 in float32 and half precision, 1e-8 in float64.
        validate: raise unless every matrix is a rotation, see `check_rotation`.
    Returns:
        (..., 3), in the order of the letters of `convention`, radians; with `return_gimbal` a pair of it and (...),
        bool.
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape, unknown convention or negative damping.

    >>> matrix_to_euler(euler_to_matrix(torch.tensor([0.1, 0.2, 0.3]), "ZYX"), "ZYX")
    tensor([0.1000, 0.2000, 0.3000])
    """
    if validate:
        check_rotation(matrix)
    plan = _plan(convention)
    scale = 1 / _DEGREE if degrees else 1.0
    first = 1.0 if plan.tait else plan.sign
    parameters = (*_factors(plan, scale, inverse=True), first, *_squares("matrix", matrix, damping))
    angles = _MATRIX_TO_EULER(matrix, load=(plan.matrix,), parameters=parameters)
    if not return_gimbal:
        return angles
    entries = matrix.detach().double().flatten(-2)
    largest = entries[..., [plan.matrix[n] for n in (0, 1, 2, 3, 4, 6, 7)]].abs().amax(-1)
    cosine = torch.hypot(entries[..., plan.matrix[0]], entries[..., plan.matrix[1]])
    return angles, cosine <= _lock(matrix) * largest


def euler_to_quaternion(
    angles: Tensor, convention: str, degrees: bool = False, order: QuaternionOrder = "wxyz"
) -> Tensor:
    """Unit quaternion of Euler angles: the product of the three turns.

    It is a smooth function of the angles, so its real part may be negative, and a whole turn of one angle changes its
    sign.

    Args:
        angles: (..., 3), in the order of the letters of `convention`, radians, of any size.
        convention: three axes, no axis twice in a row: "XYZ" intrinsic, "xyz" extrinsic.
        degrees: whether the angles are in degrees.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4).
    Raises:
        TypeError: `angles` is not a floating point tensor.
        ValueError: wrong shape, unknown convention or order.

    >>> euler_to_quaternion(torch.tensor([60.0, 0.0, 0.0]), "XYZ", degrees=True)
    tensor([0.8660, 0.5000, 0.0000, 0.0000])
    """
    plan = _plan(convention)
    require_choice("order", order, ("wxyz", "xyzw"))
    parameters = (*_factors(plan, _DEGREE if degrees else 1.0), plan.sign)
    return _EULER_TO_QUATERNION(angles, store=plan.quaternion[order], parameters=parameters)


@overload
def quaternion_to_euler(
    quat: Tensor,
    convention: str,
    degrees: bool = ...,
    order: QuaternionOrder = ...,
    return_gimbal: Literal[False] = ...,
    *,
    damping: float | None = ...,
) -> Tensor: ...


@overload
def quaternion_to_euler(
    quat: Tensor,
    convention: str,
    degrees: bool = ...,
    order: QuaternionOrder = ...,
    *,
    return_gimbal: Literal[True],
    damping: float | None = ...,
) -> tuple[Tensor, Tensor]: ...


def quaternion_to_euler(
    quat: Tensor,
    convention: str,
    degrees: bool = False,
    order: QuaternionOrder = "wxyz",
    return_gimbal: bool = False,
    *,
    damping: float | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Euler angles of a quaternion of any nonzero length.

    At gimbal lock the third angle is 0; the head of this module says what the gradient is there and nearby.

    Args:
        quat: (..., 4). q and -q give the same angles, and 0 gives those of the identity.
        convention: three axes, no axis twice in a row: "XYZ" intrinsic, "xyz" extrinsic.
        degrees: whether to return degrees.
        order: "wxyz" (real part first) or "xyzw".
        return_gimbal: whether to return also where the rotation is at gimbal lock.
        damping: distance from the lock, in radians, below which gradients are damped; 0 leaves the exact derivative.
            By default 1e-4 in float32 and half precision, 1e-8 in float64.
    Returns:
        (..., 3), in the order of the letters of `convention`, radians; with `return_gimbal` a pair of it and (...),
        bool.
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape, unknown convention or order, or negative damping.
    Reference: Bernardes and Viollet, "Quaternion to Euler angles conversion: A direct, general and computationally
        efficient method", PLoS ONE 2022.

    >>> quaternion_to_euler(torch.tensor([1.0, 0.0, 0.0, 1.0]), "ZYX", degrees=True)
    tensor([90.,  0.,  0.])
    """
    plan = _plan(convention)
    require_choice("order", order, ("wxyz", "xyzw"))
    columns = plan.quaternion[order]
    scale = 1 / _DEGREE if degrees else 1.0
    signs = (plan.sign, plan.sign if plan.tait else 1.0)
    parameters = (*_factors(plan, scale, inverse=True), *signs, *_squares("quat", quat, damping))
    angles = _QUATERNION_TO_EULER(quat, load=(columns,), parameters=parameters)
    if not return_gimbal:
        return angles
    w, x, y, z = quat.detach().double()[..., list(columns)].unbind(-1)
    y, z = signs[1] * y, signs[1] * z
    high = torch.hypot(w - plan.tait * y, signs[0] * x - plan.tait * z)
    low = torch.hypot(y + plan.tait * w, z + plan.tait * signs[0] * x)
    return angles, 2 * high * low <= _lock(quat) * (high * high + low * low)


euler_angles_to_matrix = euler_to_matrix
matrix_to_euler_angles = matrix_to_euler


def _plan(convention: str) -> _Convention:
    if not isinstance(convention, str) or convention not in _CONVENTIONS:
        raise ValueError(
            "convention: expected three letters of XYZ (intrinsic) or of xyz (extrinsic), no axis twice in a row, "
            f"got {convention!r}"
        )
    return _CONVENTIONS[convention]


def _factors(plan: _Convention, unit: float, *, inverse: bool = False) -> tuple[float, float, float, float]:
    """Factors of the three angles, and whether the axes differ."""
    turn = plan.sign * unit
    # Of the two triples for a rotation, the one with the middle angle in [0, pi] where the third axis is the first.
    middle = unit if inverse and not plan.tait else turn
    return turn, middle, turn if plan.tait else -turn, plan.tait


def _lock(tensor: Tensor) -> float:
    """Cosine of the middle angle below which it counts as 0."""
    return 4 * torch.finfo(torch.float64 if tensor.dtype == torch.float64 else torch.float32).eps


def _squares(name: str, tensor: Tensor, damping: float | None) -> tuple[float, float]:
    """Squares of the threshold of the lock and of the damping."""
    require_floating(name, tensor)
    if damping is None:
        damping = 1e-8 if tensor.dtype == torch.float64 else 1e-4
    if not damping >= 0:
        raise ValueError(f"damping: expected a number that is not negative, got {damping}")
    return _lock(tensor) ** 2, damping**2
