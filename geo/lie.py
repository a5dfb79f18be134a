"""The Lie algebra of SO(3): hat and vee, exponential and logarithm, their Jacobians, and steps on the group.

A tangent vector (..., 3) is axis times angle in radians. With J_l and J_r the left and right Jacobians,

    exp(v + d) = exp(J_l(v) d) exp(v) = exp(v) exp(J_r(v) d)        to first order in d.

The exponential and the logarithm are `axis_angle_to_matrix` and `matrix_to_axis_angle` under the names they have here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import (
    require_broadcastable,
    require_floating,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from .numerics import matmul, upcast
from .so3 import axis_angle_to_matrix, matrix_to_axis_angle
from .vectors import LONGEST, exponential_coefficients

so3_exp = axis_angle_to_matrix
so3_log = matrix_to_axis_angle
so3_exp_map = axis_angle_to_matrix
so3_log_map = matrix_to_axis_angle

# Where sin(angle / 2) / (angle / 2) is smaller than this power of the rounding unit (1e-5 in float32), an inverse
# Jacobian stops growing. The relative error this costs is its square: less than rounding unless near a whole turn.
_DAMPING_POWER = 0.7


def hat(vector: Tensor) -> Tensor:
    """Antisymmetric matrix of a vector: `hat(v) @ u` is the cross product v x u.

    Args:
        vector: (..., 3).
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: wrong shape.

    >>> hat(torch.tensor([1.0, 2.0, 3.0]))
    tensor([[ 0., -3.,  2.],
            [ 3.,  0., -1.],
            [-2.,  1.,  0.]])
    """
    require_floating("vector", vector)
    require_shape("vector", vector, ..., 3)
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def vee(matrix: Tensor) -> Tensor:
    """Vector of an antisymmetric matrix: the inverse of `hat`.

    Args:
        matrix: (..., 3, 3). Of any other matrix the antisymmetric part is read.
    Returns:
        (..., 3).
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> vee(hat(torch.tensor([1.0, 2.0, 3.0])))
    tensor([1., 2., 3.])
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 3, 3)
    m = upcast(matrix) / 2
    x, y, z = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    return torch.stack([x, y, z], -1).to(matrix.dtype)


hat_inv = vee


def so3_left_jacobian(axis_angle: Tensor, *, inverse: bool = False) -> Tensor:
    """Derivative of the exponential, seen from the world: exp(v + d) = exp(J d) exp(v) to first order in d.

    Args:
        axis_angle: (..., 3), axis times angle in radians, of any length.
        inverse: give the inverse of J, which is the derivative of the logarithm. None exists where the angle is a whole
            turn, 2 pi, 4 pi, ...: there the growth is damped and the result bounded. Up to an angle of pi, all that a
            logarithm returns, the inverse is accurate to rounding.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `axis_angle` is not a floating point tensor.
        ValueError: wrong shape.
    Reference: Chirikjian, "Stochastic Models, Information Theory, and Lie Groups", volume 2, section 10.7.

    >>> so3_left_jacobian(torch.zeros(3)).diagonal()
    tensor([1., 1., 1.])
    """
    return _jacobian(axis_angle, 1.0, inverse)


def so3_right_jacobian(axis_angle: Tensor, *, inverse: bool = False) -> Tensor:
    """Derivative of the exponential, seen from the body: exp(v + d) = exp(v) exp(J d) to first order in d.

    It is the transpose of the left one.

    Args:
        axis_angle: (..., 3), axis times angle in radians, of any length.
        inverse: give the inverse of J; see `so3_left_jacobian` about whole turns.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: `axis_angle` is not a floating point tensor.
        ValueError: wrong shape.

    >>> v = torch.tensor([0.3, -0.2, 0.5])
    >>> torch.equal(so3_right_jacobian(v), so3_left_jacobian(v).mT)
    True
    """
    return _jacobian(axis_angle, -1.0, inverse)


def so3_box_plus(rotation: Tensor, delta: Tensor) -> Tensor:
    """A rotation after a small step in its own frame: R exp(delta).

    Args:
        rotation: (..., 3, 3), a rotation.
        delta: (..., 3), axis times angle in radians, dtype of `rotation`; leading axes broadcast.
    Returns:
        (..., 3, 3).
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.

    >>> so3_box_plus(torch.eye(3), torch.tensor([0.0, 0.0, torch.pi / 2])).round(decimals=6).abs()
    tensor([[0., 1., 0.],
            [1., 0., 0.],
            [0., 0., 1.]])
    """
    require_floating("rotation", rotation)
    require_shape("rotation", rotation, ..., 3, 3)
    require_floating("delta", delta)
    require_shape("delta", delta, ..., 3)
    tensors = {"rotation": rotation, "delta": delta.unsqueeze(-1)}
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)
    return matmul(upcast(rotation), axis_angle_to_matrix(upcast(delta))).to(rotation.dtype)


def so3_box_minus(rotation: Tensor, other: Tensor) -> Tensor:
    """The step from `other` to `rotation` in the frame of `other`: log(other^T rotation).

    `so3_box_plus(other, so3_box_minus(rotation, other))` is `rotation`. The step jumps where its length passes pi.

    Args:
        rotation: (..., 3, 3), a rotation.
        other: (..., 3, 3), a rotation, dtype of `rotation`; leading axes broadcast.
    Returns:
        (..., 3), axis times angle in radians, of length at most pi.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.

    >>> so3_box_minus(torch.eye(3), torch.eye(3))
    tensor([0., 0., 0.])
    """
    tensors = {"rotation": rotation, "other": other}
    for name, value in tensors.items():
        require_floating(name, value)
        require_shape(name, value, ..., 3, 3)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors, trailing=2)
    return matrix_to_axis_angle(matmul(upcast(other).mT, upcast(rotation))).to(rotation.dtype)


def _jacobian(axis_angle: Tensor, sign: float, inverse: bool) -> Tensor:
    """I + sign b [v]x + c [v]x**2: the left Jacobian for sign 1, the right one for sign -1, or their inverses."""
    require_floating("axis_angle", axis_angle)
    require_shape("axis_angle", axis_angle, ..., 3)
    v = upcast(axis_angle)
    # An angle that long counts as 0, as it does for the exponential. NaN and infinity become NaN.
    v = torch.where(v.detach().abs().amax(-1, keepdim=True) < LONGEST, v, 0 * v)
    x, y, z = v.unbind(-1)
    square = x * x + y * y + z * z
    if inverse:
        sinc, b, c = exponential_coefficients(square / 4)
        # (1 - x cot x) / (4 x**2), x half the angle. Nothing cancels: b - c is 1/3 at 0, 1 / x**2 at a whole turn.
        damping = torch.finfo(v.dtype).eps ** _DAMPING_POWER
        b, c = torch.full_like(square, -0.5), (b - c) / 4 * sinc / (sinc.square() + damping**2)
    else:
        _, b, c = exponential_coefficients(square)
    b = sign * b
    bx, by, bz, cx, cy, cz = b * x, b * y, b * z, c * x, c * y, c * z
    entries = [
        1 - (cy * y + cz * z), cx * y - bz, cx * z + by,
        cx * y + bz, 1 - (cx * x + cz * z), cy * z - bx,
        cx * z - by, cy * z + bx, 1 - (cx * x + cy * y),
    ]  # fmt: skip
    return torch.stack(entries, -1).unflatten(-1, (3, 3)).to(axis_angle.dtype)
