"""Random and regularly spread rotations.

Random means uniform in the sense of Haar measure unless said otherwise: no direction and no axis is preferred. Every
draw comes from the `generator`, and only from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .checks import require_choice, require_floating, require_same_device, require_same_dtype, require_shape
from .numerics import matmul, safe_norm, upcast
from .quaternion import quaternion_normalize, quaternion_standardize
from .so3 import QuaternionOrder, axis_angle_to_matrix, quaternion_to_axis_angle, quaternion_to_matrix
from .vectors import exponential_coefficients

AngleLaw = Literal["haar", "uniform"]

# Newton steps that solve the law of the angle to rounding from the start below.
_NEWTON_STEPS = 4
# The irrational turns of the two circles of a super-Fibonacci spiral: the roots of x**2 = 2 and of x**4 = x + 4.
_TURNS = (math.sqrt(2), 1.533751168755204288)


def random_quaternions(
    size: int | Sequence[int] = (),
    *,
    order: QuaternionOrder = "wxyz",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
    max_angle: float | None = None,
    angle_law: AngleLaw = "haar",
) -> Tensor:
    """Unit quaternions of random rotations, with a real part that is not negative.

    Args:
        size: leading axes of the result.
        order: "wxyz" (real part first) or "xyzw".
        dtype: of the result.
        device: of the result; that of `generator` by default.
        generator: source of every draw; the global one by default.
        max_angle: largest angle, radians in [0, pi]; pi by default. The axis is uniform whatever the angle.
        angle_law: "haar", the uniform distribution over the rotations up to `max_angle`, or "uniform", which makes the
            angle uniform and so prefers small turns.
    Returns:
        (*size, 4).
    Raises:
        TypeError: `dtype` is not a floating point type.
        ValueError: unknown order or law, or an angle outside of [0, pi].

    >>> random_quaternions((2, 3)).shape
    torch.Size([2, 3, 4])
    """
    require_choice("order", order, ("wxyz", "xyzw"))
    quat = quaternion_normalize(_draw(size, dtype, device, generator, max_angle, angle_law))
    quat = quaternion_standardize(quat)
    return (quat if order == "wxyz" else quat.roll(-1, -1)).to(dtype)


def random_rotations(
    size: int | Sequence[int] = (),
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
    max_angle: float | None = None,
    angle_law: AngleLaw = "haar",
) -> Tensor:
    """Random rotation matrices, uniform over all rotations or over those up to an angle.

    Uniform rotations have the angle density (1 - cos) / pi, of mean pi / 2 + 2 / pi, about 126.5 degrees: large turns
    are more common than small ones. `angle_law="uniform"` is how "On the Continuity of Rotation Representations in
    Neural Networks" (Zhou et al., CVPR 2019) samples; its mean is 90 degrees, and errors measured under one law cannot
    be compared with those under the other.

    Args:
        size: leading axes of the result.
        dtype: of the result.
        device: of the result; that of `generator` by default.
        generator: source of every draw; the global one by default.
        max_angle: largest angle, radians in [0, pi]; pi by default.
        angle_law: "haar" or "uniform", as in `random_quaternions`. The same seed gives the same rotations there.
    Returns:
        (*size, 3, 3).
    Raises:
        TypeError: `dtype` is not a floating point type.
        ValueError: unknown law, or an angle outside of [0, pi].

    >>> random_rotations(5, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 3])
    >>> bool((random_rotations(5, max_angle=0.1)[:, 0, 0] > 0.99).all())
    True
    """
    return quaternion_to_matrix(_draw(size, dtype, device, generator, max_angle, angle_law)).to(dtype)


def random_axis_angle(
    size: int | Sequence[int] = (),
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
    max_angle: float | None = None,
    angle_law: AngleLaw = "haar",
) -> Tensor:
    """Axis-angle vectors of random rotations.

    Args:
        size: leading axes of the result.
        dtype: of the result.
        device: of the result; that of `generator` by default.
        generator: source of every draw; the global one by default.
        max_angle: largest angle, radians in [0, pi]; pi by default.
        angle_law: "haar" or "uniform", as in `random_quaternions`. The same seed gives the same rotations there.
    Returns:
        (*size, 3), axis times angle in radians.
    Raises:
        TypeError: `dtype` is not a floating point type.
        ValueError: unknown law, or an angle outside of [0, pi].

    >>> bool(random_axis_angle(100, max_angle=0.5).norm(dim=-1).max() < 0.51)
    True
    """
    return quaternion_to_axis_angle(_draw(size, dtype, device, generator, max_angle, angle_law)).to(dtype)


def random_rotation(
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One uniformly random rotation matrix: `random_rotations` without leading axes.

    Args:
        dtype: of the result.
        device: of the result; that of `generator` by default.
        generator: source of every draw; the global one by default.
    Returns:
        (3, 3).
    Raises:
        TypeError: `dtype` is not a floating point type.

    >>> random_rotation().shape
    torch.Size([3, 3])
    """
    return random_rotations(dtype=dtype, device=device, generator=generator)


random_rotation_matrix = random_rotations
random_quaternion = random_quaternions


def random_o_n(
    n: int,
    size: int | Sequence[int] = (),
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniformly random orthogonal matrices, half of them reflections.

    Args:
        n: dimension, at least 2.
        size: leading axes of the result.
        dtype: of the result; half precisions are drawn and factored in float32.
        device: of the result; that of `generator` by default.
        generator: source of every draw; the global one by default.
    Returns:
        (*size, n, n).
    Raises:
        TypeError: `dtype` is not a floating point type.
        ValueError: n is less than 2.
    Reference: Stewart, "The efficient generation of random orthogonal matrices", SIAM J. Numer. Anal. 1980.

    >>> random_o_n(4, 2).shape
    torch.Size([2, 4, 4])
    """
    return _orthogonal(n, size, dtype, device, generator).to(dtype)


def random_so_n(
    n: int,
    size: int | Sequence[int] = (),
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniformly random rotations of n-dimensional space.

    Args:
        n: dimension, at least 2.
        size: leading axes of the result.
        dtype: of the result; half precisions are drawn and factored in float32.
        device: of the result; that of `generator` by default.
        generator: source of every draw; the global one by default.
    Returns:
        (*size, n, n), determinant +1.
    Raises:
        TypeError: `dtype` is not a floating point type.
        ValueError: n is less than 2.
    Reference: Stewart, "The efficient generation of random orthogonal matrices", SIAM J. Numer. Anal. 1980.

    >>> torch.linalg.det(random_so_n(4, dtype=torch.float64)).round(decimals=6)
    tensor(1., dtype=torch.float64)
    """
    matrix = _orthogonal(n, size, dtype, device, generator)
    sign = torch.where(torch.linalg.det(matrix) < 0, -1.0, 1.0).to(matrix)[..., None, None]
    # Turning the last column of a uniform orthogonal matrix around makes the reflections uniform rotations.
    return torch.cat([matrix[..., :-1], sign * matrix[..., -1:]], -1).to(dtype)


def perturb(
    rotation: Tensor,
    sigma: float | Tensor,
    side: Literal["right", "left"] = "right",
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rotations with isotropic noise: R exp(e) or exp(e) R with e normal in each of its three coordinates.

    The law is the same on both sides; which draw goes where is not: on the right e is in the frame of the body, on the
    left in that of the world.

    Args:
        rotation: (..., 3, 3), a rotation.
        sigma: standard deviation of each coordinate of e in radians; a number, or a tensor (...) whose axes broadcast
            into the leading axes of `rotation`, with the dtype of `rotation`.
        side: "right" or "left".
        generator: source of every draw, on the device of `rotation`; the global one by default.
    Returns:
        (..., 3, 3), differentiable in `rotation` and `sigma`.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, several dtypes or devices, or an unknown side.

    >>> torch.equal(perturb(torch.eye(3), 0.0), torch.eye(3))
    True
    """
    require_choice("side", side, ("right", "left"))
    require_floating("rotation", rotation)
    require_shape("rotation", rotation, ..., 3, 3)
    batch = rotation.shape[:-2]
    wide = upcast(rotation)
    if isinstance(sigma, Tensor):
        require_floating("sigma", sigma)
        require_same_dtype({"rotation": rotation, "sigma": sigma})
        require_same_device({"rotation": rotation, "sigma": sigma})
        aligned = zip(reversed(sigma.shape), reversed(batch), strict=False)
        if sigma.ndim > len(batch) or any(own not in (1, size) for own, size in aligned):
            raise ValueError(f"sigma: expected a shape that broadcasts to {tuple(batch)}, got {tuple(sigma.shape)}")
        scale: float | Tensor = upcast(sigma)[..., None]
    else:
        scale = sigma
    normal = torch.randn(*batch, 3, dtype=wide.dtype, device=wide.device, generator=generator)
    noise = axis_angle_to_matrix(scale * normal)
    return matmul(*((wide, noise) if side == "right" else (noise, wide))).to(rotation.dtype)


def rotation_grid(
    kind: Literal["super_fibonacci", "hopf"] = "super_fibonacci",
    level: int | None = None,
    *,
    number: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Rotations spread evenly over all of SO(3), without chance: to search over poses, to integrate, to plot.

    Args:
        kind: "super_fibonacci" winds one spiral around the sphere of quaternions and takes any number of points. "hopf"
            pairs equal areas of the sphere (HEALPix) with equal turns; its nearest neighbours are a little more apart.
        level: 72 * 8**level rotations; each level halves the spacing. The spacing of level 0 is about 60 degrees.
        number: of rotations, instead of `level`; only for "super_fibonacci".
        dtype: of the result; computed in float64 on the CPU.
        device: of the result.
    Returns:
        (number, 3, 3).
    Raises:
        TypeError: `dtype` is not a floating point type.
        ValueError: unknown kind, a negative level or number, both or none of them, or a number for "hopf".
    Reference: Alexa, "Super-Fibonacci Spirals: Fast, Low-Discrepancy Sampling of SO(3)", CVPR 2022; Yershova et al.,
    "Generating Uniform Incremental Grids on SO(3) Using the Hopf Fibration", IJRR 2010; Gorski et al., "HEALPix", 2005.

    >>> rotation_grid(number=1000).shape, rotation_grid("hopf", 0).shape
    (torch.Size([1000, 3, 3]), torch.Size([72, 3, 3]))
    """
    require_choice("kind", kind, ("super_fibonacci", "hopf"))
    _require_float_type(dtype)
    if (level is None) == (number is None):
        raise ValueError(f"level, number: expected one of them, got {level}, {number}")
    if number is not None and kind == "hopf":
        raise ValueError(f"number: expected None for 'hopf', which has 72 * 8**level points, got {number}")
    if level is not None and level < 0:
        raise ValueError(f"level: expected at least 0, got {level}")
    if number is not None and number < 0:
        raise ValueError(f"number: expected at least 0, got {number}")
    if kind == "hopf":
        quat = _hopf_grid(2 ** (level or 0))
    else:
        quat = _super_fibonacci(72 * 8 ** (level or 0) if number is None else number)
    return quaternion_to_matrix(quat).to(device=device, dtype=dtype)


def _draw(
    size: int | Sequence[int],
    dtype: torch.dtype,
    device: torch.device | str | None,
    generator: torch.Generator | None,
    max_angle: float | None,
    angle_law: AngleLaw,
) -> Tensor:
    """Quaternions of random rotations, real part first, of any length and sign, in the precision they were drawn in."""
    require_choice("angle_law", angle_law, ("haar", "uniform"))
    _require_float_type(dtype)
    if max_angle is not None and not 0 <= max_angle <= math.pi:
        raise ValueError(f"max_angle: expected a number in [0, pi], got {max_angle}")
    shape = _shape(size)
    device = _device(device, generator)
    if max_angle is None and angle_law == "haar":
        # The direction of a normal vector is uniform on the sphere, and the double cover of SO(3) carries its measure.
        wide = torch.promote_types(dtype, torch.float32)
        return torch.randn(*shape, 4, dtype=wide, device=device, generator=generator)
    # The law of small angles asks for more digits than float32 draws have.
    wide = torch.float32 if device is not None and torch.device(device).type == "mps" else torch.float64
    axis = _direction(torch.randn(*shape, 3, dtype=wide, device=device, generator=generator))
    uniform = torch.rand(shape, dtype=wide, device=device, generator=generator)
    limit = math.pi if max_angle is None else float(max_angle)
    angle = limit * uniform if angle_law == "uniform" else _haar_angle(uniform, limit)
    half = angle[..., None] / 2
    return torch.cat([half.cos(), half.sin() * axis], -1)


def _haar_angle(uniform: Tensor, max_angle: float) -> Tensor:
    """Angle a in [0, max_angle] with (a - sin a) / (max_angle - sin max_angle) = uniform."""
    # In units of the largest angle, and with a - sin a = a**3 C(a**2) in place of the difference, nothing cancels and
    # nothing underflows, however small the angles are.
    square = max_angle**2
    end = exponential_coefficients(uniform.new_tensor(square))[2]
    target = uniform * end
    # C decreases from 1 / 6, so this lies below the solution; the function is convex, so Newton's method overshoots
    # once and then comes down to it.
    part = (6 * target).pow(1 / 3).clamp(max=1)
    for _ in range(_NEWTON_STEPS):
        _, b, c = exponential_coefficients(square * part * part)
        slope = b * part * part
        step = (c * part**3 - target) / torch.where(slope == 0, 1, slope)
        part = (part - torch.where(slope == 0, 0, step)).clamp(0, 1)
    return max_angle * part


def _direction(vector: Tensor) -> Tensor:
    """(..., n) scaled to length 1; the first basis vector where it is 0."""
    length = safe_norm(vector).unsqueeze(-1)
    first = torch.zeros_like(vector)
    first[..., 0] = 1
    return torch.where(length > 0, vector / torch.where(length > 0, length, 1), first)


def _orthogonal(
    n: int,
    size: int | Sequence[int],
    dtype: torch.dtype,
    device: torch.device | str | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Uniformly random orthogonal matrices, in the precision they were drawn in."""
    if n < 2:
        raise ValueError(f"n: expected at least 2, got {n}")
    _require_float_type(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    normal = torch.randn(*_shape(size), n, n, dtype=wide, device=_device(device, generator), generator=generator)
    q, r = torch.linalg.qr(normal)
    # QR is unique, and so commutes with rotations, only with a positive diagonal of R.
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(wide).unsqueeze(-2)


def _super_fibonacci(number: int) -> Tensor:
    """Quaternions on a spiral that runs through the tori of the 3-sphere, (number, 4) in float64."""
    step = torch.arange(number, dtype=torch.float64) + 0.5
    # The share of the sphere's volume passed so far is the squared radius of the first circle.
    share = step / max(number, 1)
    inner, outer = share.sqrt(), (1 - share).sqrt()
    first, second = (2 * math.pi / turn * step for turn in _TURNS)
    return torch.stack([inner * first.sin(), inner * first.cos(), outer * second.sin(), outer * second.cos()], -1)


def _hopf_grid(side: int) -> Tensor:
    """Quaternions of 12 side**2 directions times 6 side turns, (72 side**3, 4) in float64."""
    height, longitude = (part[:, None] for part in _healpix(side))
    turn = (torch.arange(6 * side, dtype=torch.float64) + 0.5) * (math.pi / (6 * side))
    near, far = ((1 + height) / 2).sqrt(), ((1 - height) / 2).sqrt()
    parts = [
        near * turn.cos(),
        near * turn.sin(),
        far * (longitude + turn).cos(),
        far * (longitude + turn).sin(),
    ]
    return torch.stack(parts, -1).flatten(0, 1)


def _healpix(side: int) -> tuple[Tensor, Tensor]:
    """Height and longitude of the centres of the 12 side**2 equal areas of the sphere, ring by ring."""
    ring = torch.arange(1, 4 * side)
    # Rings 1 ... side - 1 around each pole grow by four areas each; those between have 4 side.
    cap = torch.minimum(ring, 4 * side - ring).clamp(max=side)
    polar = 1 - cap.double().square() / (3 * side**2)
    height = torch.where(cap < side, torch.where(ring < side, polar, -polar), 4 / 3 - 2 * ring.double() / (3 * side))
    # Every second ring of the belt starts half an area further; those of the caps all do.
    shift = torch.where(cap < side, 0.5, ((ring - side + 1) % 2).double() / 2)
    count = 4 * cap
    first = torch.repeat_interleave(count.cumsum(0) - count, count)
    within = torch.arange(12 * side**2) - first
    longitude = (within + shift.repeat_interleave(count)) * (2 * math.pi / count.double()).repeat_interleave(count)
    return height.repeat_interleave(count), longitude


def _shape(size: int | Sequence[int]) -> tuple[int, ...]:
    """Leading axes as a tuple."""
    shape = (size,) if isinstance(size, int) else tuple(size)
    if any(axis < 0 for axis in shape):
        raise ValueError(f"size: expected numbers that are not negative, got {size}")
    return shape


def _device(device: torch.device | str | None, generator: torch.Generator | None) -> torch.device | str | None:
    """Where to draw: where the generator lives unless asked otherwise."""
    return generator.device if device is None and generator is not None else device


def _require_float_type(dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating point type, got {dtype}")
