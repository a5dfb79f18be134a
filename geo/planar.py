"""Rotations of the plane: angles and their period, vectors and 2 x 2 matrices for them, and oriented rectangles.

Angles are radians, from x towards y: counter-clockwise where y points up, clockwise as seen in an image. The period is
2 pi for directions, pi for what looks the same after half a turn (lines, rectangles), pi / 2 for squares. An angle is a
discontinuous representation, it jumps by a period; (cos, sin) of the turn it makes of one period is a continuous one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

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
from .numerics import largest_component, safe_sqrt, upcast
from .vectors import SHORTEST

BoxConvention = Literal["opencv_old", "opencv_new", "le90", "le135"]

# First angle of each convention. "opencv_new" alone includes its last angle, pi / 2, instead of its first.
_LOWEST_ANGLE = {"opencv_old": -math.pi / 2, "opencv_new": 0.0, "le90": -math.pi / 2, "le135": -math.pi / 4}


class RectangleShape(NamedTuple):
    """Size and direction of a rectangle; its position is not part of it."""

    width: Tensor
    """(...), the side along `angle`, in the unit of the input."""
    height: Tensor
    """(...), the other side."""
    angle: Tensor
    """(...), radians from the x axis to the side called width."""


def wrap_angle(angle: Tensor, period: float = 2 * math.pi) -> Tensor:
    """The angle of the same meaning that is nearest to 0.

    Args:
        angle: (...), radians.
        period: after which angles mean the same: 2 pi for directions, pi for lines and rectangles, pi / 2 for squares.
    Returns:
        (...), radians in [-period / 2, period / 2]. The gradient is 1.
    Raises:
        TypeError: `angle` is not a floating point tensor.
        ValueError: `period` is not positive.

    >>> wrap_angle(torch.tensor([0.0, 4.0, -7.0]))
    tensor([ 0.0000, -2.2832, -0.7168])
    """
    require_floating("angle", angle)
    _require_period(period)
    # The remainder is exact, however large the angle.
    rest = torch.fmod(upcast(angle), period)
    return (rest - period * torch.round(rest.detach() / period)).to(angle.dtype)


def angle_difference(angle: Tensor, other: Tensor, period: float = 2 * math.pi) -> Tensor:
    """The signed turn from `other` to `angle`, the short way round; its magnitude is the distance of the two.

    Args:
        angle: (...), radians.
        other: (...), radians, dtype of `angle`; the shapes broadcast.
        period: as in `wrap_angle`.
    Returns:
        (...), radians in [-period / 2, period / 2].
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: two dtypes or devices, shapes that do not broadcast, or `period` not positive.

    >>> angle_difference(torch.tensor(3.0), torch.tensor(-3.0))
    tensor(-0.2832)
    """
    tensors = {"angle": angle, "other": other}
    for name, value in tensors.items():
        require_floating(name, value)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors)
    _require_period(period)
    # Remainders first: the difference of two large angles could overflow.
    difference = torch.fmod(upcast(angle), period) - torch.fmod(upcast(other), period)
    return wrap_angle(difference, period).to(angle.dtype)


def angle_to_vector(angle: Tensor, period: float = 2 * math.pi) -> Tensor:
    """Unit vector of an angle, (cos k a, sin k a) with k = 2 pi / period: continuous, also where the angle jumps.

    Args:
        angle: (...), radians.
        period: as in `wrap_angle`.
    Returns:
        (..., 2).
    Raises:
        TypeError: `angle` is not a floating point tensor.
        ValueError: `period` is not positive.

    >>> angle_to_vector(torch.tensor(torch.pi / 4), period=torch.pi).round(decimals=6).abs()
    tensor([0., 1.])
    """
    require_floating("angle", angle)
    _require_period(period)
    turned = (2 * math.pi / period) * upcast(angle)
    return torch.stack([turned.cos(), turned.sin()], -1).to(angle.dtype)


def vector_to_angle(vector: Tensor, period: float = 2 * math.pi) -> Tensor:
    """Angle of a vector of any nonzero length: the inverse of `angle_to_vector`.

    Args:
        vector: (..., 2); 0 gives the angle 0 and gradient 0.
        period: as in `wrap_angle`.
    Returns:
        (...), radians in [-period / 2, period / 2]. The gradient is tangential, 1 / length in size; a vector shorter
        than 1e-18 gets none.
    Raises:
        TypeError: `vector` is not a floating point tensor.
        ValueError: wrong shape, or `period` not positive.

    >>> vector_to_angle(torch.tensor([0.0, 5.0]))
    tensor(1.5708)
    """
    require_floating("vector", vector)
    require_shape("vector", vector, ..., 2)
    _require_period(period)
    return (_direction(upcast(vector)) * (period / (2 * math.pi))).to(vector.dtype)


def angle_to_matrix2d(angle: Tensor) -> Tensor:
    """Rotation matrix of the plane.

    Args:
        angle: (...), radians.
    Returns:
        (..., 2, 2); it acts on column vectors.
    Raises:
        TypeError: `angle` is not a floating point tensor.

    >>> angle_to_matrix2d(torch.tensor(0.0))
    tensor([[1., -0.],
            [0., 1.]])
    """
    require_floating("angle", angle)
    a = upcast(angle)
    c, s = a.cos(), a.sin()
    return torch.stack([c, -s, s, c], -1).unflatten(-1, (2, 2)).to(angle.dtype)


def matrix2d_to_angle(matrix: Tensor) -> Tensor:
    """Angle of the rotation nearest to a 2 x 2 matrix: special Procrustes in the plane.

    Args:
        matrix: (..., 2, 2), any matrix. Where every rotation is equally near, as for 0 and for reflections, the angle
            is 0 with gradient 0.
    Returns:
        (...), radians in [-pi, pi].
    Raises:
        TypeError: `matrix` is not a floating point tensor.
        ValueError: wrong shape.

    >>> matrix2d_to_angle(torch.tensor([[0.0, -3.0], [3.0, 0.0]]))
    tensor(1.5708)
    """
    require_floating("matrix", matrix)
    require_shape("matrix", matrix, ..., 2, 2)
    # Halved, since the sum of two large numbers could overflow.
    m = upcast(matrix) / 2
    cosine, sine = m[..., 0, 0] + m[..., 1, 1], m[..., 1, 0] - m[..., 0, 1]
    # What is left of a reflection after rounding is no direction.
    size = m.detach().abs().amax((-2, -1))
    return _direction(torch.stack([cosine, sine], -1), noise=size).to(matrix.dtype)


def circular_mean(
    angles: Tensor,
    weights: Tensor | None = None,
    *,
    period: float = 2 * math.pi,
    dim: int | Sequence[int] = -1,
) -> Tensor:
    """Mean of angles: the direction of the mean of their vectors.

    Args:
        angles: (...), radians.
        weights: broadcastable to `angles`, of its dtype, on any common scale; equal by default.
        period: as in `wrap_angle`.
        dim: the axis, or axes, to average over.
    Returns:
        `angles` without these axes, radians in [-period / 2, period / 2]. Where the vectors cancel to rounding, all
        weights are 0 or there are no angles, no mean exists: the answer is 0, with gradient 0.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: two dtypes or devices, weights that do not broadcast, or `period` not positive.

    >>> circular_mean(torch.tensor([3.0, -3.0]))
    tensor(3.1416)
    """
    require_floating("angles", angles)
    _require_period(period)
    vectors = angle_to_vector(upcast(angles), period)
    axes = (dim,) if isinstance(dim, int) else tuple(dim)
    if weights is None:
        w = torch.ones_like(vectors[..., 0])
    else:
        require_floating("weights", weights)
        tensors = {"angles": angles, "weights": weights}
        require_same_dtype(tensors)
        require_same_device(tensors)
        require_broadcastable(tensors)
        w = upcast(weights).expand(torch.broadcast_shapes(angles.shape, weights.shape))
        if w.numel():
            # Their common scale does not matter, so a constant may be taken out: no overflow, no underflow.
            largest = w.detach().abs().amax(axes, keepdim=True)
            w = w / torch.where(largest == 0, 1, largest)
    # From the end, so that the last axis, of the two components, keeps its place.
    axes = tuple(axis if axis >= 0 else axis + w.ndim for axis in axes)
    total = (w.unsqueeze(-1) * vectors).sum(axes)
    noise = w.detach().abs().sum(axes)
    return (_direction(total, noise=noise) * (period / (2 * math.pi))).to(angles.dtype)


def random_angle(
    size: int | Sequence[int] = (),
    *,
    period: float = 2 * math.pi,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniformly random angles.

    Args:
        size: shape of the result.
        period: as in `wrap_angle`.
        dtype: of the result.
        device: of the result; that of `generator` by default.
        generator: source of every draw; the global one by default.
    Returns:
        (*size), radians in [-period / 2, period / 2).
    Raises:
        TypeError: `dtype` is not a floating point type.
        ValueError: `period` is not positive.

    >>> random_angle((2, 3)).shape
    torch.Size([2, 3])
    """
    if not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating point type, got {dtype}")
    _require_period(period)
    shape = (size,) if isinstance(size, int) else tuple(size)
    if device is None and generator is not None:
        device = generator.device
    draw_dtype = torch.promote_types(dtype, torch.float32)
    uniform = torch.rand(shape, dtype=draw_dtype, device=device, generator=generator)
    return ((uniform - 0.5) * period).to(dtype)


def box_convert_angle(
    width: Tensor, height: Tensor, angle: Tensor, src: BoxConvention, dst: BoxConvention
) -> RectangleShape:
    """The same rectangle, described in another convention.

    A rectangle can be named in many ways, as (w, h, a) is (h, w, a + pi / 2) and (w, h, a + pi). Conventions choose:

    - "opencv_old" (OpenCV before 4.5.1): a in [-pi / 2, 0);
    - "opencv_new" (from 4.5.1 on): a in (0, pi / 2];
    - "le90": the width is the long side, a in [-pi / 2, pi / 2);
    - "le135": the width is the long side, a in [-pi / 4, 3 pi / 4).

    Args:
        width: (...), the side along `angle`.
        height: (...), the other side, dtype of `width`.
        angle: (...), radians from x to the side called width, dtype of `width`; shapes broadcast.
        src: convention of the arguments. Angles and sides that break its rule are read as the rectangle they mean.
        dst: convention of the result.
    Returns:
        `RectangleShape`, in the dtype of `width`. The bounds of the range are those of the dtype. Gradients pass
        unchanged, those of the sides exchanged where the sides are.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: unknown convention, several dtypes or devices, or shapes that do not broadcast.

    >>> shape = box_convert_angle(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(-0.5), "opencv_old", "le90")
    >>> shape.width, shape.height, shape.angle
    (tensor(2.), tensor(1.), tensor(1.0708))
    """
    require_choice("src", src, get_args(BoxConvention))
    require_choice("dst", dst, get_args(BoxConvention))
    w, h, a = _rectangle(width, height, angle)
    low = _LOWEST_ANGLE[dst]
    if dst in ("le90", "le135"):
        swapped = w < h
        a, _ = _fold(torch.where(swapped, torch.fmod(a, math.pi) + math.pi / 2, a), low, math.pi)
    elif dst == "opencv_old":
        a, swapped = _fold(a, low, math.pi / 2)
    else:
        # Closed at the top instead of the bottom: the mirror image of a range closed at the bottom.
        a, swapped = _fold(-a, -math.pi / 2, math.pi / 2)
        a = -a
    sides = torch.where(swapped, h, w), torch.where(swapped, w, h)
    return RectangleShape(sides[0].to(width.dtype), sides[1].to(width.dtype), a.to(width.dtype))


def box_to_gaussian(width: Tensor, height: Tensor, angle: Tensor) -> Tensor:
    """Covariance matrix R diag(w**2 / 4, h**2 / 4) R^T of a rectangle: the same for all its names, and continuous.

    Args:
        width: (...), the side along `angle`.
        height: (...), the other side, dtype of `width`.
        angle: (...), radians, dtype of `width`; shapes broadcast.
    Returns:
        (..., 2, 2), symmetric. The angle of a square is lost, as it should be.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: several dtypes or devices, or shapes that do not broadcast.
    Reference: Yang et al., "Rethinking Rotated Object Detection with Gaussian Wasserstein Distance Loss", ICML 2021.

    >>> box_to_gaussian(torch.tensor(4.0), torch.tensor(2.0), torch.tensor(0.0))
    tensor([[4., 0.],
            [0., 1.]])
    """
    w, h, a = _rectangle(width, height, angle)
    w, h = w / 2, h / 2
    c, s = a.cos(), a.sin()
    # Sums of squares: a mean and a difference times cos(2 a) would cancel for thin rectangles.
    xx = (w * c).square() + (h * s).square()
    yy = (w * s).square() + (h * c).square()
    xy = (w - h) * (w + h) * s * c
    return torch.stack([xx, xy, xy, yy], -1).unflatten(-1, (2, 2)).to(width.dtype)


def gaussian_to_box(covariance: Tensor) -> RectangleShape:
    """The rectangle of a covariance matrix: the inverse of `box_to_gaussian`, in the convention "le90".

    Args:
        covariance: (..., 2, 2), symmetric, no negative eigenvalue (a negative one counts as 0).
    Returns:
        `RectangleShape`, in the dtype of `covariance`, width >= height, angle in [-pi / 2, pi / 2). Of a square, to
        rounding, the angle is 0 with gradient 0. A height below about width * sqrt(rounding) is not determined by the
        matrix, and gets gradient 0.
    Raises:
        TypeError: `covariance` is not a floating point tensor.
        ValueError: wrong shape.

    >>> width, height, angle = gaussian_to_box(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    >>> width, height, angle
    (tensor(4.), tensor(2.), tensor(-1.5708))
    """
    require_floating("covariance", covariance)
    require_shape("covariance", covariance, ..., 2, 2)
    m = upcast(covariance)
    size = largest_component(m.flatten(-2)).unsqueeze(-1)
    m = torch.where(size > SHORTEST, m, m.detach()) / size
    size = size[..., 0, 0]
    mean, half = (m[..., 0, 0] + m[..., 1, 1]) / 2, (m[..., 0, 0] - m[..., 1, 1]) / 2
    off = (m[..., 0, 1] + m[..., 1, 0]) / 2
    eps = torch.finfo(m.dtype).eps
    doubled = torch.stack([half, off], -1)
    # Differences at the level of rounding say nothing about the angle.
    round_ = (half.detach().abs() + off.detach().abs()) <= 4 * eps
    doubled = torch.where(round_.unsqueeze(-1), doubled.detach(), doubled)
    radius = safe_sqrt(doubled.square().sum(-1))
    large = mean + radius
    # The product of the eigenvalues is the determinant; their difference would cancel where a box is aligned.
    small = (m[..., 0, 0] * m[..., 1, 1] - off.square()) / torch.where(large == 0, 1, large)
    sides = [2 * size.sqrt() * safe_sqrt(_without_noise(value, 4 * eps)) for value in (large, small)]
    angle = _direction(doubled, noise=torch.ones_like(size)) / 2
    angle = torch.where(angle >= math.pi / 2, angle - math.pi, angle)
    width, height, angle = (value.to(covariance.dtype) for value in (*sides, angle))
    return RectangleShape(width, height, angle)


def _direction(vector: Tensor, noise: Tensor | None = None) -> Tensor:
    """Angle of (x, y), radians; 0 without gradient where the vector is 0, or shorter than the rounding of `noise`."""
    size = largest_component(vector)
    unit = torch.where(size > SHORTEST, vector, vector.detach()) / size
    x, y = unit.unbind(-1)
    nothing = (x == 0) & (y == 0)
    if noise is not None:
        nothing = nothing | (size.squeeze(-1) <= 4 * torch.finfo(vector.dtype).eps * noise)
    return torch.atan2(torch.where(nothing, 0, y), torch.where(nothing, 1, x))


def _without_noise(value: Tensor, limit: float) -> Tensor:
    """`value`, not below 0, without its gradient where it is not above `limit`."""
    value = torch.where(value > limit, value, value.detach())
    return torch.where(value < 0, 0, value)


def _fold(angle: Tensor, low: float, period: float) -> tuple[Tensor, Tensor]:
    """The angle moved by multiples of the period into [low, low + period), and whether by an odd number of them."""
    rest = torch.fmod(angle, 2 * period)
    turns = torch.floor((rest.detach() - low) / period)
    rest = rest - period * turns
    # Rounding may have left it a little outside: below, or on the end that does not belong to the range.
    correction = torch.where(rest < low, 1.0, torch.where(rest >= low + period, -1.0, 0.0)).to(rest)
    rest = rest + period * correction
    rest = torch.where((rest < low) | (rest >= low + period), 0 * rest + low, rest)
    return rest, torch.fmod(turns - correction, 2) != 0


def _rectangle(width: Tensor, height: Tensor, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Checked sides and angle, broadcast together, in the working precision."""
    tensors = {"width": width, "height": height, "angle": angle}
    for name, value in tensors.items():
        require_floating(name, value)
    require_same_dtype(tensors)
    require_same_device(tensors)
    require_broadcastable(tensors)
    w, h, a = torch.broadcast_tensors(*(upcast(value) for value in tensors.values()))
    return w, h, a


def _require_period(period: float) -> None:
    """Check the period of an angle."""
    if not 0 < period < math.inf:
        raise ValueError(f"period: expected a positive number, got {period}")
