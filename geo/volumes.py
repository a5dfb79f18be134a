"""Volumes and images under rotations: by resampling, by shears, and exactly where the grid allows it.

A volume (..., D, H, W) is a function of v = (d, h, w), measured from its middle; turned by R it is z'(v) = z(R^T v):
what was at v is at R v. Rotations that only exchange and flip axes, the 24 of the cube, move whole voxels.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from .checks import require_choice, require_shape

Method = Literal["auto", "trilinear", "nearest", "shear", "exact"]
# How far from whole the entries of a rotation of the cube may be.
_WHOLE = 1e-5
# A first shear moves what is within the ball out to this many times its radius.
_REACH = 1.083


def cube_rotations() -> Tensor:
    """(24, 3, 3) float64: the rotations of the cube, identity first, all entries -1, 0 or 1.

    >>> cube_rotations().shape
    torch.Size([24, 3, 3])
    """
    found = []
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = torch.zeros(3, 3, dtype=torch.float64)
            matrix[list(axes), range(3)] = torch.tensor(signs, dtype=torch.float64)
            if torch.linalg.det(matrix) > 0:
                found.append(matrix)
    return torch.stack(found)


def cube_rotation_products() -> Tensor:
    """(24, 24) int64: `cube_rotations()[table[i, j]]` is the rotation by j, then by i.

    >>> table = cube_rotation_products()
    >>> table[0].tolist() == list(range(24))
    True
    """
    group = cube_rotations()
    products = group[:, None] @ group[None]
    return (products[:, :, None] == group).all(dim=(-2, -1)).long().argmax(dim=2)


def is_cube_rotation(rotation: Tensor) -> bool:
    """Whether a rotation (3, 3) only exchanges and flips axes, to 1e-5.

    >>> is_cube_rotation(torch.eye(3)), is_cube_rotation(-torch.eye(3))
    (True, False)
    """
    whole = rotation.detach().double().round()
    near = bool(((rotation.detach().double() - whole).abs() < _WHOLE).all())
    return near and bool((whole.abs().sum(dim=0) == 1).all()) and bool(torch.linalg.det(whole) > 0)


def rotate_volume(volume: Tensor, rotation: Tensor, method: Method = "auto") -> Tensor:
    """A volume turned about its middle; what comes from outside is 0.

    Args:
        volume: (..., D, H, W); with `rotation` of a batch, its first axis is that batch.
        rotation: (3, 3), or (B, 3, 3) for each of a batch, on the axes (d, h, w).
        method: "trilinear" and "nearest" sample; "shear" turns by shears in Fourier space, nearly without loss for
            smooth content inside of the ball (three rotations about axes, each a quarter turn and three shears);
            "exact" moves whole voxels, for the 24 rotations of the cube and cubic volumes; "auto" is "exact" where that
            is possible and "trilinear" elsewhere.
    Returns:
        Like `volume`, with gradients to it; those to `rotation` through "trilinear" alone.
    Raises:
        ValueError: "exact" is not possible, or shapes do not fit.

    >>> volume = torch.arange(8.0).view(2, 2, 2)
    >>> about_h = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    >>> rotate_volume(volume, about_h).flatten().tolist()
    [4.0, 0.0, 6.0, 2.0, 5.0, 1.0, 7.0, 3.0]
    """
    require_choice("method", method, get_args(Method))
    if volume.ndim < 3 or not volume.is_floating_point():
        raise ValueError(f"volume: expected floats of shape (..., D, H, W), got {volume.dtype} {tuple(volume.shape)}")
    if rotation.ndim == 3:
        require_shape("rotation", rotation, "B", 3, 3)
        if volume.ndim < 4 or len(volume) != len(rotation):
            raise ValueError(f"volume: expected a batch of {len(rotation)}, got shape {tuple(volume.shape)}")
        if method != "trilinear" and method != "nearest":
            turned = [rotate_volume(one, each, method) for one, each in zip(volume, rotation, strict=True)]
            return torch.stack(turned) if turned else volume
        return _sampled(volume.flatten(1, -4) if volume.ndim > 4 else volume[:, None], rotation, method).view_as(volume)
    require_shape("rotation", rotation, 3, 3)
    cubic = volume.shape[-1] == volume.shape[-2] == volume.shape[-3]
    if method == "auto":
        method = "exact" if cubic and is_cube_rotation(rotation) else "trilinear"
    if method == "exact":
        if not cubic or not is_cube_rotation(rotation):
            raise ValueError(
                f"method 'exact': expected a cubic volume and one of the 24 rotations of the cube, got shape "
                f"{tuple(volume.shape)} and {rotation.tolist()}"
            )
        return _permuted(volume, rotation)
    if method == "shear":
        if not cubic:
            raise ValueError(f"method 'shear': expected a cubic volume, got shape {tuple(volume.shape)}")
        return _sheared(volume, rotation)
    flat = volume.reshape(1, -1, *volume.shape[-3:])
    return _sampled(flat, rotation[None], method).view_as(volume)


def _permuted(volume: Tensor, rotation: Tensor) -> Tensor:
    signs = rotation.detach().double().round()
    # Where each axis of the volume goes: source coordinate j is that along `target[j]`, flipped or not.
    target = signs.abs().argmax(dim=0).tolist()
    first = volume.ndim - 3
    order = [*range(first), *(first + target.index(axis) for axis in range(3))]
    flipped = [first + axis for axis in range(3) if float(signs[axis].sum()) < 0]
    return volume.permute(order).flip(flipped) if flipped else volume.permute(order).contiguous()


def _sampled(volume: Tensor, rotation: Tensor, method: str) -> Tensor:
    """Of (B, C, D, H, W)."""
    extent = rotation.new_tensor(volume.shape[-3:], dtype=torch.float64)
    # In grid_sample's units a half of each axis is 1, and w comes first.
    linear = rotation.double().transpose(-1, -2) * extent / extent[:, None]
    theta = torch.cat([linear.flip(-1, -2), rotation.new_zeros(len(rotation), 3, 1, dtype=torch.float64)], dim=2)
    grid = functional.affine_grid(theta, list(volume.shape), align_corners=False).to(volume.dtype)
    mode = "nearest" if method == "nearest" else "bilinear"
    return functional.grid_sample(volume, grid, mode=mode, padding_mode="zeros", align_corners=False)


def _sheared(volume: Tensor, rotation: Tensor) -> Tensor:
    """By rotations about h, d and h: R = R_h(a) R_d(b) R_h(c)."""
    matrix = rotation.detach().double()
    b = math.acos(max(-1.0, min(1.0, float(matrix[1, 1]))))
    if math.sin(b) < 1e-9:
        # About h alone, after no turn or a half one about d.
        left = matrix @ _about(0, b).T
        a, c = math.atan2(float(left[0, 2]), float(left[0, 0])), 0.0
    else:
        a = math.atan2(-float(matrix[0, 1]), -float(matrix[2, 1]))
        c = math.atan2(-float(matrix[1, 0]), float(matrix[1, 2]))
    size = volume.shape[-1]
    margin = math.ceil(size * (_REACH - 1) / 2)
    result = functional.pad(volume, [margin] * 6)
    for axis, angle in ((1, c), (0, b), (1, a)):
        result = _turned_about(result, axis, angle)
    kept = slice(margin, margin + size)
    return result[..., kept, kept, kept]


def _about(axis: int, angle: float) -> Tensor:
    """Rotation about an axis of (d, h, w); that about h takes w to d."""
    cos, sin = math.cos(angle), math.sin(angle)
    i, j = ((1, 2), (0, 2), (0, 1))[axis]
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, sin, -sin, cos
    return matrix


def _turned_about(volume: Tensor, axis: int, angle: float) -> Tensor:
    """By `_about(axis, angle)`: a quarter turn exactly, the rest by three shears."""
    quarters = round(angle / (math.pi / 2))
    rest = angle - quarters * math.pi / 2
    if quarters % 4:
        volume = _permuted(volume, _about(axis, (quarters % 4) * math.pi / 2))
    if abs(rest) < 1e-12:
        return volume
    i, j = ((1, 2), (0, 2), (0, 1))[axis]
    # The matrix [[cos, sin], [-sin, cos]] of (i, j) as shears along i, j and i.
    outer, inner = math.tan(rest / 2), -math.sin(rest)
    for along, by, factor in ((i, j, outer), (j, i, inner), (i, j, outer)):
        volume = _shear(volume, along - 3, by - 3, factor)
    return volume


def _shear(volume: Tensor, along: int, by: int, factor: float) -> Tensor:
    """What is at v moves along an axis by `factor` times its coordinate along another, in Fourier space."""
    size, lines = volume.shape[along], volume.shape[by]
    frequency = torch.fft.rfftfreq(size, device=volume.device, dtype=volume.dtype)
    shift = factor * (torch.arange(lines, device=volume.device, dtype=volume.dtype) - (lines - 1) / 2)
    shape = [1, 1, 1]
    shape[by] = lines
    phase = shift.view(shape) * -2 * math.pi
    shape = [1, 1, 1]
    shape[along] = len(frequency)
    phase = phase * frequency.view(shape)
    spectrum = torch.fft.rfft(volume, dim=along) * torch.polar(torch.ones_like(phase), phase)
    return torch.fft.irfft(spectrum, n=size, dim=along)


def orbit_rotation(azimuth: float, elevation: float) -> Tensor:
    """(3, 3) float64 from the world, Y up, to a camera around it: rows are right, up and toward the camera.

    Args:
        azimuth: degrees, from the Z axis to the X axis.
        elevation: degrees above.

    >>> orbit_rotation(0.0, 0.0).tolist() == torch.eye(3).tolist()
    True
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    toward = torch.tensor([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)], dtype=torch.float64)
    right = torch.tensor([math.cos(a), 0.0, -math.sin(a)], dtype=torch.float64)
    return torch.stack([right, torch.linalg.cross(toward, right), toward])


def rotate_image(image: Tensor, angle: float) -> Tensor:
    """An image turned clockwise on the screen about its middle; by quarters exactly if it is square, else bilinear.

    Args:
        image: (..., H, W) floats.
        angle: radians.

    >>> rotate_image(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.pi / 2).tolist()
    [[3.0, 1.0], [4.0, 2.0]]
    """
    if image.ndim < 2:
        raise ValueError(f"image: expected shape (..., H, W), got {tuple(image.shape)}")
    quarters = round(angle / (math.pi / 2))
    if abs(angle - quarters * math.pi / 2) < 1e-9 and (image.shape[-1] == image.shape[-2] or quarters % 2 == 0):
        return image.rot90(-quarters, (-2, -1)).contiguous()
    cos, sin = math.cos(angle), math.sin(angle)
    height, width = image.shape[-2:]
    # Where each pixel comes from, in halves of the axes.
    theta = image.new_tensor([[[cos, sin * height / width, 0.0], [-sin * width / height, cos, 0.0]]])
    flat = image.reshape(1, -1, height, width)
    grid = functional.affine_grid(theta, list(flat.shape), align_corners=False)
    return functional.grid_sample(flat, grid, padding_mode="zeros", align_corners=False).view_as(image)


def ball_mask(size: int, *, device: torch.device | str | None = None) -> Tensor:
    """(size, size, size) bool: voxels no farther from the middle than the centres of the outermost ones.

    >>> int(ball_mask(32).sum())
    15408
    """
    middle = (size - 1) / 2
    squares = (torch.arange(size, device=device, dtype=torch.float64) - middle) ** 2
    return squares[:, None, None] + squares[:, None] + squares <= middle**2


def equivariance_error(found: Tensor, expected: Tensor, mask: Tensor | None = None) -> Tensor:
    """|| m (found - expected) || / || m expected ||, of each item of a batch.

    Args:
        found, expected: (B, ...), such as f(x turned) and f(x) turned.
        mask: broadcast to them, such as `ball_mask`.
    Returns:
        (B,); 0 is equivariant, and independent fields of equal size give about 1.4.
    """
    if found.shape != expected.shape:
        raise ValueError(f"expected: expected shape {tuple(found.shape)}, got {tuple(expected.shape)}")
    if mask is not None:
        found, expected = found * mask, expected * mask
    apart = (found - expected).flatten(1).norm(dim=1)
    return apart / expected.flatten(1).norm(dim=1).clamp_min(torch.finfo(found.dtype).tiny)
