"""RoIAlign of oriented boxes: a grid of averaged bilinear samples from the part of a feature map that a box covers.

He et al., "Mask R-CNN", ICCV 2017, turned as by Ding et al., "Learning RoI Transformer", CVPR 2019. Gradients reach the
features, not the boxes.

Two ways to the same numbers. "grid_sample" is the definition, and what an exported program holds. "gather" writes a
cell as one weighted sum of rows, pixels by channels: no sample is ever stored, and the gradient is a sum in a fixed
order, equal to the bit in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from rotaware.geo.checks import (
    require_choice,
    require_floating,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from rotaware.geo.numerics import upcast

from .interpolation import interpolate
from .operators import sees_through

RoIAlignBackend = Literal["auto", "gather", "grid_sample"]
# Numbers that "grid_sample" holds at once.
HELD = 2**26
# A box of twice this edge, in pixels of the image, is the smallest to be pooled from the second level, and so on.
FINEST = 56.0


def roi_align_rotated(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    *,
    scale: float = 1.0,
    samples: int = 2,
    backend: RoIAlignBackend = "auto",
) -> Tensor:
    """Features of oriented boxes, each on a grid of its own.

    Args:
        features: (B, C, H, W).
        rois: (R, 6) number of the image, cx, cy, w, h in pixels of the image, theta clockwise in radians.
        output_size: cells of the grid, rows and columns.
        scale: pixels of the feature map per pixel of the image.
        samples: along each side of a cell; their mean is taken.
        backend: "auto" is "gather", and "grid_sample" in a program that is exported or transformed.
    Returns:
        (R, C, rows, columns), dtype of `features`, in any order of memory. Half a pixel is accounted for ("aligned").
        Samples more than a pixel outside count as 0, as does a box that is not finite.
    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: shapes or devices that do not fit, sizes below 1, an unknown backend; on the CPU, a number of an
            image that is not there.

    >>> features = torch.arange(1.0, 5.0).view(1, 1, 2, 2)
    >>> roi_align_rotated(features, torch.tensor([[0, 0.5, 0.5, 1, 1, 0.0]]), 2)[0, 0].tolist()
    [[1.0, 1.25], [1.5, 1.75]]
    """
    require_floating("rois", rois)
    require_shape("rois", rois, "R", 6)
    level = torch.zeros(len(rois), dtype=torch.int64, device=rois.device)
    return _pooled([features], (scale,), level, rois, output_size, samples, backend)


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    *,
    scale: float = 1.0,
    samples: int = 2,
    backend: RoIAlignBackend = "auto",
) -> Tensor:
    """Features of axis-aligned boxes; `roi_align_rotated` without a turn.

    Args:
        rois: (R, 5) number of the image, x1, y1, x2, y2 in pixels of the image.
    Returns:
        (R, C, rows, columns).

    >>> features = torch.arange(1.0, 5.0).view(1, 1, 2, 2)
    >>> roi_align(features, torch.tensor([[0, 0.0, 0, 1, 1]]), 2)[0, 0].tolist()
    [[1.0, 1.25], [1.5, 1.75]]
    """
    require_floating("rois", rois)
    require_shape("rois", rois, "R", 5)
    image, low, high = rois[:, :1], rois[:, 1:3], rois[:, 3:]
    boxes = torch.cat([image, (low + high) / 2, high - low, torch.zeros_like(image)], dim=1)
    return roi_align_rotated(features, boxes, output_size, scale=scale, samples=samples, backend=backend)


def pool_rois(
    pyramid: Sequence[Tensor],
    rois: Tensor,
    output_size: int | tuple[int, int],
    strides: Sequence[int],
    *,
    samples: int = 2,
    enlarge: tuple[float, float] = (1.0, 1.0),
    backend: RoIAlignBackend = "auto",
) -> Tensor:
    """Features of oriented boxes, each from the level of a pyramid that fits its size.

    Lin et al., "Feature Pyramid Networks", CVPR 2017, equation 1, with 56 pixels for the first level. An exported
    program pools every box from every level and chooses: its shapes depend on no value.

    Args:
        pyramid: levels (B, C, H, W), finest first.
        rois: (R, 6) as of `roi_align_rotated`.
        strides: of the levels, pixels.
        samples, backend: as of `roi_align_rotated`.
        enlarge: factors of width and height, before all else; (1.2, 1.4) in the code of the ARC paper.
    Returns:
        (R, C, rows, columns).
    Raises:
        TypeError, ValueError: as `roi_align_rotated`; levels that differ in more than height and width, or no stride
            for each.

    >>> levels = [torch.zeros(1, 8, 32 // 2**k, 32 // 2**k) for k in range(4)]
    >>> pool_rois(levels, torch.tensor([[0, 60, 60, 30, 20, 0.3]]), 7, (4, 8, 16, 32)).shape
    torch.Size([1, 8, 7, 7])
    """
    if not 0 < len(pyramid) == len(strides):
        raise ValueError(f"strides: expected one per level, {len(pyramid)}, got {len(strides)}")
    require_floating("rois", rois)
    require_shape("rois", rois, "R", 6)
    rois = upcast(rois.detach())
    rois = torch.cat([rois[:, :3], rois[:, 3:5] * rois.new_tensor(enlarge), rois[:, 5:]], dim=1)
    edge = rois[:, 3:5].clamp_min(0.0).prod(dim=1).sqrt()
    level = (edge / FINEST + 1e-6).log2().floor().nan_to_num().clamp(0, len(pyramid) - 1).long()
    return _pooled(pyramid, [1.0 / stride for stride in strides], level, rois, output_size, samples, backend)


def _pooled(
    pyramid: Sequence[Tensor],
    scales: Sequence[float],
    level: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    samples: int,
    backend: RoIAlignBackend,
) -> Tensor:
    """(R, C, rows, columns) of boxes (R, 6), each from its level (R,) of a pyramid with one scale per level."""
    finest = pyramid[0]
    for features in pyramid:
        require_floating("features", features)
        require_shape("features", features, "B", "C", "H", "W")
        require_shape("features", features, *finest.shape[:2], "H", "W")
        require_same_dtype({"features": features, "features of the first level": finest})
        require_same_device({"features": features, "rois": rois})
    require_choice("backend", backend, get_args(RoIAlignBackend))
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    if min(rows, columns, samples, *(size for features in pyramid for size in features.shape)) < 1:
        raise ValueError(
            f"output_size, samples, features: expected sizes of at least 1, got {output_size}, {samples} and "
            f"{[tuple(features.shape) for features in pyramid]}"
        )
    traced = sees_through(rois, *pyramid)
    if not traced:
        if not len(rois):
            return finest.new_zeros(0, finest.shape[1], rows, columns)
        if rois.is_cpu:
            _require_images(rois[:, 0], len(finest))
    rois = upcast(rois.detach())
    places = _sample_places(rois[:, 1:], rois.new_tensor(scales)[level], (rows * samples, columns * samples))
    image = rois[:, 0].long()
    if backend == "gather" or (backend == "auto" and not traced):
        return _gathered(pyramid, level, image, places, samples)

    def from_level(number: int, own: Tensor) -> Tensor:
        features, numbers, mine = pyramid[number], image[own], places[own]
        return _in_groups(
            numbers, len(features), lambda each, some: _grid_sampled(features[each : each + 1], mine[some], samples)
        )

    return _in_groups(level, len(pyramid), from_level)


def _in_groups(group: Tensor, count: int, pool: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Rows of `pool(number, rows)` for the rows of each group 0, 1, ... `count` - 1, in the order of `group` (R,)."""
    everything = torch.arange(len(group), device=group.device)
    if count == 1:
        return pool(0, everything)
    if sees_through(group):
        found = pool(0, everything)
        for number in range(1, count):
            found = torch.where((group == number)[:, None, None, None], pool(number, everything), found)
        return found
    order = group.argsort(stable=True)
    counts = group.bincount(minlength=count).tolist()
    parts = [pool(number, rows) for number, rows in enumerate(order.split(counts)) if len(rows)]
    return torch.cat(parts).index_select(0, order.argsort())


def _require_images(numbers: Tensor, count: int) -> None:
    """Raise if a number is none of an image: nothing else would keep reads inside the features."""
    if not bool(((numbers >= 0) & (numbers < count)).all()):
        raise ValueError(f"rois: expected numbers of images from 0 to {count - 1}, got {numbers}")


def _sample_places(boxes: Tensor, scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """(R, rows, columns, 2) x and y, in pixels of the feature map counted from the centre of the first one."""
    centre = boxes[:, :2] * scale[:, None] - 0.5
    sides, theta = boxes[:, 2:4] * scale[:, None], boxes[:, 4]
    y, x = ((torch.arange(count, device=boxes.device, dtype=boxes.dtype) + 0.5) / count - 0.5 for count in shape)
    along, across = x * sides[:, :1], y * sides[:, 1:]  # (R, columns), (R, rows)
    cos, sin = theta.cos()[:, None, None], theta.sin()[:, None, None]
    along, across = along[:, None, :], across[:, :, None]
    offset = torch.stack([along * cos - across * sin, along * sin + across * cos], dim=-1)
    return centre[:, None, None] + offset


def _on_map(places: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples count, (...) bool, and where they are read: up to a pixel outside, on the border.

    `size` is (..., 2), width and height.
    """
    inside = ((places >= -1) & (places <= size)).all(dim=-1)  # false where a place is NaN
    return inside, torch.where(inside[..., None], torch.minimum(places.clamp_min(0), size - 1), 0)


def _gathered(pyramid: Sequence[Tensor], level: Tensor, image: Tensor, places: Tensor, samples: int) -> Tensor:
    """(R, C, rows, columns): each cell the weighted sum of four pixels for every sample in it."""
    rois, rows, columns = len(places), places.shape[1] // samples, places.shape[2] // samples
    batch, channels = pyramid[0].shape[:2]
    sizes = level.new_tensor([[features.shape[3], features.shape[2]] for features in pyramid])
    counts = batch * sizes.prod(dim=1)
    size = sizes[level]
    # Row of the table that holds the first pixel of the image.
    first = (counts.cumsum(0) - counts)[level] + image * size.prod(dim=1)
    inside, places = _on_map(places, size[:, None, None].to(places.dtype))
    corner = places.floor()
    (x, y), (fx, fy) = corner.long().unbind(-1), (places - corner).unbind(-1)
    width, height = size[:, None, None].unbind(-1)
    right, below = torch.minimum(x + 1, width - 1), torch.minimum(y + 1, height - 1)
    top, bottom = (first[:, None, None] + row * width for row in (y, below))
    weight = inside / samples**2
    above, under = weight * (1 - fy), weight * fy
    pixels = torch.stack([top + x, top + right, bottom + x, bottom + right], dim=-1)
    shares = torch.stack([above * (1 - fx), above * fx, under * (1 - fx), under * fx], dim=-1)
    pixels, shares = (
        each.view(rois, rows, samples, columns, samples, 4).transpose(2, 3).reshape(-1, 4 * samples**2)
        for each in (pixels, shares)
    )
    # One image at a time: torch transposes a matrix several times faster than a batch of them.
    table = torch.cat([each.flatten(1).t().contiguous() for features in pyramid for each in features])
    sums = interpolate(table, pixels, shares.to(upcast(table[:0]).dtype))
    return sums.view(rois, rows * columns, channels).transpose(1, 2).reshape(rois, channels, rows, columns)


def _grid_sampled(features: Tensor, places: Tensor, samples: int) -> Tensor:
    """(R, C, rows, columns) of one image (1, C, H, W)."""
    rois, rows, columns = places.shape[:3]
    at_once = max(1, HELD // (features.shape[1] * rows * columns))
    parts = [_averaged(features, places[start : start + at_once], samples) for start in range(0, rois, at_once)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _averaged(features: Tensor, places: Tensor, samples: int) -> Tensor:
    """`_grid_sampled` of boxes that fit into memory together."""
    rois, rows, columns = places.shape[:3]
    size = places.new_tensor([features.shape[3], features.shape[2]])
    inside, places = _on_map(places, size)
    # Corners of the grid are centres of pixels.
    grid = 2 * places / (size - 1).clamp_min(1) - 1
    # In half precision a place would be off by pixels.
    wide = upcast(features)
    found = functional.grid_sample(
        wide, grid.view(1, rois * rows, columns, 2).to(wide.dtype), mode="bilinear", align_corners=True
    )
    found = torch.where(inside.view(1, 1, rois * rows, columns), found, 0)
    found = found.view(features.shape[1], rois, rows // samples, samples, columns // samples, samples)
    return found.mean(dim=(3, 5)).transpose(0, 1).to(features.dtype)
