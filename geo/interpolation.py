"""Rotations between rotations: the geodesic at constant speed, and cheaper and smoother ways between poses.

t = 0 is the first rotation and t = 1 the second; other values extrapolate along the same great circle. All functions
accept any leading axes, which broadcast together with those of t, keep dtype and device, and have finite first and
second derivatives everywhere, also for equal rotations and for those half a turn apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import interpolation_formulas as formulas
from .checks import require_choice, require_floating, require_tensor
from .fused import Map
from .so3 import QUATERNION_COLUMNS, QuaternionOrder

_PAIR = {"start": (4,), "end": (4,), "t": ()}
_SLERP = Map(formulas.slerp, formulas.slerp_derivative, inputs=_PAIR, output=(4,))
_NLERP = Map(formulas.nlerp, formulas.nlerp_derivative, inputs=_PAIR, output=(4,))
_GEODESIC = Map(
    formulas.matrix_geodesic, formulas.matrix_geodesic_derivative,
    inputs={"start": (3, 3), "end": (3, 3), "t": ()}, output=(3, 3),
)  # fmt: skip


def quaternion_slerp(
    start: Tensor, end: Tensor, t: float | Tensor, shortest: bool = True, *, order: QuaternionOrder = "wxyz"
) -> Tensor:
    """Quaternion on the great circle between two: spherical linear interpolation.

    Args:
        start: (..., 4), of any nonzero length; 0 counts as the identity, with gradient 0.
        end: (..., 4), likewise, dtype of `start`.
        t: a number, or a tensor (...) with the dtype of `start`.
        shortest: take -end for end where that is nearer, so that the rotation takes the short way; quaternions exactly
            a quarter of the sphere apart (half a turn) go to `end` as it is given. False takes the quaternions at
            their word: the way can be longer than half a turn.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4), of unit length, continuous in t and equal to `start`, scaled to length 1, at t = 0. With
        `shortest=False` and end = -start no way is the shortest; the answer then is `start` for all t.
    Raises:
        TypeError: a quaternion is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, or unknown order.
    Reference: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.

    >>> identity, half_turn = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 1.0])
    >>> quaternion_slerp(identity, half_turn, torch.tensor([0.0, 0.5]))
    tensor([[1.0000, 0.0000, 0.0000, 0.0000],
            [0.7071, 0.0000, 0.0000, 0.7071]])
    """
    require_choice("order", order, ("wxyz", "xyzw"))
    c = QUATERNION_COLUMNS[order]
    return _SLERP(start, end, _time(t, start, end, 1), load=(c, c, None), store=c, parameters=(float(shortest),))


def quaternion_nlerp(
    start: Tensor, end: Tensor, t: float | Tensor, shortest: bool = True, *, order: QuaternionOrder = "wxyz"
) -> Tensor:
    """Quaternion on the straight line between two, scaled to length 1: the way of `quaternion_slerp`, not its pace.

    With `shortest`, 0 <= t <= 1 and an angle a between the rotations it is off the geodesic by less than
    a**3 / 200 radian, 8 degrees at most, and costs no trigonometric function.

    Args:
        start: (..., 4), as in `quaternion_slerp`.
        end: (..., 4), likewise, dtype of `start`.
        t: a number, or a tensor (...) with the dtype of `start`.
        shortest: take -end for end where that is nearer.
        order: "wxyz" (real part first) or "xyzw".
    Returns:
        (..., 4), of unit length; `start` where the line passes through 0, with gradient 0.
    Raises:
        TypeError: a quaternion is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, leading axes that do not broadcast, or unknown order.

    >>> quaternion_nlerp(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 1.0]), 0.5)
    tensor([0.7071, 0.0000, 0.0000, 0.7071])
    """
    require_choice("order", order, ("wxyz", "xyzw"))
    c = QUATERNION_COLUMNS[order]
    return _NLERP(start, end, _time(t, start, end, 1), load=(c, c, None), store=c, parameters=(float(shortest),))


def geodesic_interpolate(start: Tensor, end: Tensor, t: float | Tensor) -> Tensor:
    """Rotation on the shortest way from one to another: start exp(t log(start^T end)).

    Args:
        start: (..., 3, 3), a rotation.
        end: (..., 3, 3), a rotation, dtype of `start`.
        t: a number, or a tensor (...) with the dtype of `start`.
    Returns:
        (..., 3, 3). Of the two ways between rotations half a turn apart it takes the one whose axis, in the frame of
        `start`, has a positive first nonzero component.
    Raises:
        TypeError: a rotation is not a floating point tensor.
        ValueError: wrong shape, two dtypes or devices, or leading axes that do not broadcast.

    >>> half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    >>> geodesic_interpolate(torch.eye(3), half_turn, 0.5).round()
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    return _GEODESIC(start, end, _time(t, start, end, 2))


matrix_slerp = geodesic_interpolate


def _time(t: float | Tensor, start: Tensor, end: Tensor, trailing: int) -> Tensor:
    """`t` as a tensor, of the batch shape where that is plain to see: nothing is left to broadcast then."""
    if isinstance(t, Tensor):
        return t
    require_floating("start", start)
    require_tensor("end", end)
    batch = start.shape[:-trailing] if start.shape == end.shape else ()
    return torch.full(batch, t, dtype=start.dtype, device=start.device)
