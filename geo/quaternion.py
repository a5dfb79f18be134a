"""The algebra of quaternions: product, inverse, action on points, exponential and powers.

Quaternions are real first, (w, x, y, z), unless `order` says otherwise, and q and -q stand for the same rotation. Where
a function reads a quaternion as a rotation, its length does not matter, and 0 stands for the identity, with gradient 0.
Names are those of PyTorch3D where it has them. What holds for all functions of `so3.py` holds here: any leading axes,
dtype and device kept, no branch on data, NaN in gives NaN out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from . import quaternion_formulas as formulas
from .checks import (
    require_broadcastable,
    require_choice,
    require_floating,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from .fused import Columns, Map
from .numerics import matmul, upcast
from .so3 import QUATERNION_COLUMNS, QuaternionOrder, quaternion_to_matrix

_QUATERNION = (4,)
_RAW_PRODUCT = Map(
    formulas.raw_product, formulas.raw_product_derivative,
    inputs={"a": _QUATERNION, "b": _QUATERNION}, output=_QUATERNION,
)  # fmt: skip
_PRODUCT = Map(
    formulas.product, formulas.product_derivative,
    inputs={"a": _QUATERNION, "b": _QUATERNION}, output=_QUATERNION,
)  # fmt: skip
_ROTATED = Map(
    formulas.rotated, formulas.rotated_derivative,
    inputs={"quat": _QUATERNION, "points": (3,)}, output=(3,),
)  # fmt: skip
_NORMALIZED = Map(
    formulas.normalized, formulas.normalized_derivative, inputs={"quat": _QUATERNION}, output=_QUATERNION
)  # fmt: skip
_INVERTED = Map(formulas.inverted, formulas.inverted_derivative, inputs={"quat": _QUATERNION}, output=_QUATERNION)
_STANDARD = Map(formulas.standard, formulas.standard_derivative, inputs={"quat": _QUATERNION}, output=_QUATERNION)
_ALIGNED = Map(
    formulas.aligned, formulas.aligned_derivative,
    inputs={"quat": _QUATERNION, "reference": _QUATERNION}, output=_QUATERNION,
)  # fmt: skip
_EXPONENTIAL = Map(
    formulas.exponential, formulas.exponential_derivative, inputs={"pure": _QUATERNION}, output=_QUATERNION
)  # fmt: skip
_LOGARITHM = Map(formulas.logarithm, formulas.logarithm_derivative, inputs={"quat": _QUATERNION}, output=_QUATERNION)
_POWER = Map(
    formulas.power, formulas.power_derivative,
    inputs={"quat": _QUATERNION, "exponent": ()}, output=_QUATERNION,
)  # fmt: skip

# From this many points under one rotation on, its matrix is made once and multiplied.
_MANY_POINTS = 256


def quaternion_raw_multiply(a: Tensor, b: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Hamilton's product of two quaternions: the rotation `b` followed by the rotation `a`.

    Lengths multiply, and the sign is what the product gives.

    Args:
        a: (..., 4).
        b: (..., 4), dtype of `a`; leading axes broadcast.
        order: "wxyz" (real part first) or "xyzw", of all three.
    Returns:
        (..., 4).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, or unknown order.

    >>> i, j = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 0.0])
    >>> quaternion_raw_multiply(i, j), quaternion_raw_multiply(i, i)
    (tensor([0., 0., 0., 1.]), tensor([-1.,  0.,  0.,  0.]))
    """
    columns = _columns(order)
    return _RAW_PRODUCT(a, b, load=(columns, columns), store=columns)


def quaternion_multiply(a: Tensor, b: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Product of two quaternions as rotations, `b` first, then `a`: of the two signs the one with w >= 0.

    Where the real part is 0, the first nonzero component of the axis is positive. Like every choice of sign it makes
    the product jump where its angle passes pi; `quaternion_raw_multiply` is smooth.

    Args:
        a: (..., 4); lengths multiply.
        b: (..., 4), dtype of `a`; leading axes broadcast.
        order: "wxyz" (real part first) or "xyzw", of all three.
    Returns:
        (..., 4).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, or unknown order.

    >>> third_of_a_turn = torch.tensor([0.5, 0.5, 0.5, 0.5])
    >>> quaternion_multiply(third_of_a_turn, third_of_a_turn)
    tensor([ 0.5000, -0.5000, -0.5000, -0.5000])
    """
    columns = _columns(order)
    return _PRODUCT(a, b, load=(columns, columns), store=columns)


def quaternion_conjugate(quat: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Quaternion with the vector part negated: the inverse rotation, whatever the length.

    Args:
        quat: (..., 4).
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4).
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> quaternion_conjugate(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor([ 1., -2., -3., -4.])
    """
    columns = _columns(order)
    _require("quat", quat, 4)
    if columns is None:
        return torch.cat([quat[..., :1], -quat[..., 1:]], -1)
    return torch.cat([-quat[..., :3], quat[..., 3:]], -1)


def quaternion_apply(quat: Tensor, points: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Points turned by the rotation that a quaternion of any nonzero length stands for.

    Where one quaternion meets many points, its matrix is made once and multiplied.

    Args:
        quat: (..., 4). q and -q turn alike, and 0 turns nothing, with gradient 0.
        points: (..., 3), dtype of `quat`; leading axes broadcast: (B, 1, 4) turns (B, N, 3).
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 3).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, or unknown order.

    >>> quaternion_apply(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 5.0]))
    tensor([0., 1., 5.])
    """
    columns = _columns(order)
    _require("quat", quat, 4)
    _require("points", points, 3)
    first = points.ndim - 1 - _shared_axes(quat, points)
    axes = points.shape[first:-1]
    if prod(axes) < _MANY_POINTS:
        return _ROTATED(quat, points, load=(columns, None))
    tensors = {"quat": quat, "points": points}
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=1)
    rows = upcast(points).reshape(*points.shape[:first], prod(axes), 3)
    single = upcast(quat).reshape(*quat.shape[: max(0, quat.ndim - 1 - len(axes))], 4)
    turned = matmul(rows, quaternion_to_matrix(single, order=order).mT)
    return turned.reshape(*turned.shape[:-2], *axes, 3).to(points.dtype)


def quaternion_inverse(quat: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Multiplicative inverse: the conjugate divided by the square of the length.

    For a unit quaternion it is the conjugate to rounding, which is what PyTorch3D returns for every quaternion.

    Args:
        quat: (..., 4). Lengths below 1e-36 (float16: 3e-5), whose inverse would overflow, give 0, which stands for the
            identity as they do; below 1e-12 the gradient is 0.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4).
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> quaternion_inverse(torch.tensor([0.0, 0.0, 2.0, 0.0]))
    tensor([ 0.0000, -0.0000, -0.5000, -0.0000])
    """
    columns = _columns(order)
    _require("quat", quat, 4)
    shortest = 2.0**-15 if quat.dtype is torch.float16 else 1e-36
    return _INVERTED(quat, load=(columns,), store=columns, parameters=(shortest,))


def quaternion_normalize(quat: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Unit quaternion of the same direction; 0 gives the identity, with gradient 0.

    Args:
        quat: (..., 4), of any length that is not 0; below 1e-18 the gradient is 0.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4).
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> quaternion_normalize(torch.tensor([[0.0, 3.0, 0.0, -4.0], [0.0, 0.0, 0.0, 0.0]]))
    tensor([[ 0.0000,  0.6000,  0.0000, -0.8000],
            [ 1.0000,  0.0000,  0.0000,  0.0000]])
    """
    columns = _columns(order)
    return _NORMALIZED(quat, load=(columns,), store=columns)


def quaternion_standardize(quat: Tensor, reference: Tensor | None = None, order: QuaternionOrder = "wxyz") -> Tensor:
    """Of q and -q, which are the same rotation, the one with w >= 0, or the one nearer to a reference.

    Where w = 0 the first nonzero component of the axis is positive, so the answer is unique. It jumps where the angle
    passes pi; along a sequence, the previous quaternion as `reference` keeps it continuous.

    Args:
        quat: (..., 4); its length is kept.
        reference: (..., 4), in the same order and dtype; leading axes broadcast. It gets no gradient.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, or unknown order.

    >>> quaternion_standardize(torch.tensor([-0.8, 0.0, 0.6, 0.0])) + 0.0
    tensor([ 0.8000,  0.0000, -0.6000,  0.0000])
    """
    columns = _columns(order)
    if reference is None:
        return _STANDARD(quat, load=(columns,), store=columns)
    return _ALIGNED(quat, reference, load=(columns, columns), store=columns)


def quaternion_exp(pure: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Unit quaternion cos|v| + v sin|v| / |v| of a pure quaternion v, half of an axis-angle vector.

    Smooth everywhere; its inverse is `quaternion_log`.

    Args:
        pure: (..., 4). Only the vector part matters, in radians of half the angle; the real part, which would only
            scale the exponential, has no influence and no gradient.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4).
    Raises:
        TypeError: `pure` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> quaternion_exp(torch.tensor([0.0, 0.0, 0.0, torch.pi / 4]))
    tensor([0.7071, 0.0000, 0.0000, 0.7071])
    """
    columns = _columns(order)
    return _EXPONENTIAL(pure, load=(columns,), store=columns)


def quaternion_log(quat: Tensor, order: QuaternionOrder = "wxyz") -> Tensor:
    """Pure quaternion whose exponential is the given one, taken at unit length.

    Its length is half the angle, in [0, pi]: q and -q differ, as quaternions do. Standardize first for the shortest
    one. It is smooth but at -1, which has no axis: there the axis is the first one and the gradient 0.

    Args:
        quat: (..., 4), of any length; 0 gives 0.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4), real part 0.
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape or unknown order.

    >>> quaternion_log(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    tensor([0.0000, 0.0000, 0.0000, 0.7854])
    """
    columns = _columns(order)
    return _LOGARITHM(quat, load=(columns,), store=columns)


def quaternion_pow(quat: Tensor, exponent: Tensor | float, order: QuaternionOrder = "wxyz") -> Tensor:
    """Unit quaternion of a rotation done `exponent` times, along the short arc from the identity.

    q and -q give the same answer, which jumps where the angle of the rotation passes pi, unless the exponent is an
    integer, where only its sign may jump.

    Args:
        quat: (..., 4), of any length; 0 counts as the identity.
        exponent: number or (...), dtype of `quat`; leading axes broadcast.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4), of either sign.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, or unknown order.

    >>> quaternion_pow(torch.tensor([0.0, 0.0, 0.0, 1.0]), 0.5)
    tensor([0.7071, 0.0000, 0.0000, 0.7071])
    """
    columns = _columns(order)
    _require("quat", quat, 4)
    if not isinstance(exponent, Tensor):
        exponent = quat.new_full((), exponent)
    return _POWER(quat, exponent, load=(columns, None), store=columns)


def quaternion_xyzw_to_wxyz(quat: Tensor) -> Tensor:
    """Quaternion with the real part moved from last (SciPy, ROS, roma) to first.

    Args:
        quat: (..., 4).
    Returns:
        (..., 4).
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape.

    >>> quaternion_xyzw_to_wxyz(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor([4., 1., 2., 3.])
    """
    _require("quat", quat, 4)
    return torch.cat([quat[..., 3:], quat[..., :3]], -1)


def quaternion_wxyz_to_xyzw(quat: Tensor) -> Tensor:
    """Quaternion with the real part moved from first (PyTorch3D, this library) to last.

    Args:
        quat: (..., 4).
    Returns:
        (..., 4).
    Raises:
        TypeError: `quat` is not a floating point tensor.
        ValueError: wrong shape.

    >>> quaternion_wxyz_to_xyzw(torch.tensor([4.0, 1.0, 2.0, 3.0]))
    tensor([1., 2., 3., 4.])
    """
    _require("quat", quat, 4)
    return torch.cat([quat[..., 1:], quat[..., :1]], -1)


def identity_quaternion(
    size: int | Sequence[int] = (),
    order: QuaternionOrder = "wxyz",
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """The quaternion 1, repeated.

    Args:
        size: leading axes of the result.
        order: "wxyz" (real part first) or "xyzw".
        dtype: of the result.
        device: of the result.
    Returns:
        (*size, 4).
    Raises:
        TypeError: `dtype` is not a floating point type.
        ValueError: unknown order.

    >>> identity_quaternion(2)
    tensor([[1., 0., 0., 0.],
            [1., 0., 0., 0.]])
    """
    real = 0 if _columns(order) is None else 3
    if not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating point type, got {dtype}")
    shape = (size,) if isinstance(size, int) else tuple(size)
    quat = torch.zeros(*shape, 4, dtype=dtype, device=device)
    quat[..., real] = 1
    return quat


# PyTorch3D's names.
quaternion_invert = quaternion_inverse
standardize_quaternion = quaternion_standardize


def _shared_axes(quat: Tensor, points: Tensor) -> int:
    """How many of the last leading axes of the points stand under one quaternion."""
    shared = 0
    while shared < points.ndim - 1 and (shared >= quat.ndim - 1 or quat.shape[quat.ndim - 2 - shared] == 1):
        shared += 1
    return shared


def _columns(order: str) -> Columns | None:
    """Where the components w, x, y, z stand."""
    require_choice("order", order, ("wxyz", "xyzw"))
    return QUATERNION_COLUMNS[order]


def _require(name: str, value: Tensor, size: int) -> None:
    require_floating(name, value)
    require_shape(name, value, ..., size)
