"""RoIAlign of oriented boxes: a grid of averaged bilinear samples from the part of a feature map that a box covers.

He et al., "Mask R-CNN", ICCV 2017, turned as by Ding et al., "Learning RoI Transformer", CVPR 2019. Gradients reach the
features, not the boxes. In plain torch, so that it runs on every device and exports as GridSample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rotaware.geo.checks import require_floating, require_shape

# Samples times channels that are held at once.
HELD = 2**26
# A box of this edge, in pixels of the image, is pooled from the first level; twice that from the second, and so on.
FINEST = 56.0


def roi_align_rotated(
    features: Tensor, rois: Tensor, output_size: int | tuple[int, int], *, scale: float = 1.0, samples: int = 2
) -> Tensor:
    """Features of oriented boxes, each on a grid of its own.

    Args:
        features: (B, C, H, W).
        rois: (R, 6) number of the image, cx, cy, w, h in pixels of the image, theta clockwise in radians.
        output_size: cells of the grid, rows and columns.
        scale: pixels of the feature map per pixel of the image.
        samples: along each side of a cell; their mean is taken.
    Returns:
        (R, C, rows, columns). Half a pixel is accounted for ("aligned"). Samples more than a pixel outside are 0.

    >>> features = torch.arange(1.0, 5.0).view(1, 1, 2, 2)
    >>> roi_align_rotated(features, torch.tensor([[0, 0.5, 0.5, 1, 1, 0.0]]), 2)[0, 0].tolist()
    [[1.0, 1.25], [1.5, 1.75]]
    """
    require_floating("features", features)
    require_shape("features", features, "B", "C", "H", "W")
    require_shape("rois", rois, "R", 6)
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    if min(rows, columns, samples) < 1:
        raise ValueError(f"output_size, samples: expected at least 1, got {output_size} and {samples}")
    batch, channels = features.shape[:2]
    places = _sample_places(rois[:, 1:].detach().to(torch.float32), (rows * samples, columns * samples), scale)
    image = rois[:, 0].long()
    if batch == 1:
        return _averaged(features, places, samples)
    pooled = features.new_zeros(len(rois), channels, rows, columns)
    for number in range(batch):
        own = (image == number).nonzero()[:, 0]
        if len(own):
            pooled = pooled.index_put((own,), _averaged(features[number : number + 1], places[own], samples))
    return pooled


def _sample_places(boxes: Tensor, shape: tuple[int, int], scale: float) -> Tensor:
    """(R, rows, columns, 2) x and y, in pixels of the feature map counted from the centre of the first one."""
    centre = boxes[:, :2] * scale - 0.5
    sides, theta = boxes[:, 2:4] * scale, boxes[:, 4]
    y, x = ((torch.arange(count, device=boxes.device, dtype=boxes.dtype) + 0.5) / count - 0.5 for count in shape)
    along, across = x * sides[:, :1], y * sides[:, 1:]  # (R, columns), (R, rows)
    cos, sin = theta.cos()[:, None, None], theta.sin()[:, None, None]
    along, across = along[:, None, :], across[:, :, None]
    offset = torch.stack([along * cos - across * sin, along * sin + across * cos], dim=-1)
    return centre[:, None, None] + offset


def _averaged(features: Tensor, places: Tensor, samples: int) -> Tensor:
    """(R, C, rows, columns) of one image (1, C, H, W)."""
    rois, rows, columns = places.shape[:3]
    channels = features.shape[1]
    at_once = max(1, HELD // (channels * rows * columns))
    parts = [_sampled(features, places[start : start + at_once], samples) for start in range(0, max(1, rois), at_once)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _sampled(features: Tensor, places: Tensor, samples: int) -> Tensor:
    rois, rows, columns = places.shape[:3]
    size = places.new_tensor([features.shape[3], features.shape[2]])
    inside = ((places >= -1) & (places <= size)).all(dim=-1)
    # Up to a pixel outside the border counts; corners of the grid are centres of pixels.
    grid = 2 * torch.minimum(places.clamp_min(0), size - 1) / (size - 1).clamp_min(1) - 1
    found = functional.grid_sample(
        features, grid.view(1, rois * rows, columns, 2).to(features.dtype), mode="bilinear", align_corners=True
    )
    found = found * inside.view(1, 1, rois * rows, columns)
    found = found.view(features.shape[1], rois, rows // samples, samples, columns // samples, samples)
    return found.mean(dim=(3, 5)).transpose(0, 1)


def pool_rois(
    pyramid: Sequence[Tensor],
    rois: Tensor,
    output_size: int | tuple[int, int],
    strides: Sequence[int],
    *,
    samples: int = 2,
    enlarge: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Features of oriented boxes, each from the level of a pyramid that fits its size.

    Lin et al., "Feature Pyramid Networks", CVPR 2017, equation 1, with 56 pixels for the first level.

    Args:
        pyramid: levels (B, C, H, W), finest first.
        rois: (R, 6) as of `roi_align_rotated`.
        strides: of the levels, pixels.
        enlarge: factors of width and height, before all else; (1.2, 1.4) in the code of the ARC paper.
    Returns:
        (R, C, rows, columns).

    >>> levels = [torch.zeros(1, 8, 32 // 2**k, 32 // 2**k) for k in range(4)]
    >>> pool_rois(levels, torch.tensor([[0, 60, 60, 30, 20, 0.3]]), 7, (4, 8, 16, 32)).shape
    torch.Size([1, 8, 7, 7])
    """
    if len(pyramid) != len(strides):
        raise ValueError(f"strides: expected one per level, {len(pyramid)}, got {len(strides)}")
    require_shape("rois", rois, "R", 6)
    rois = rois.detach()
    rois = torch.cat([rois[:, :3], rois[:, 3:5] * rois.new_tensor(enlarge), rois[:, 5:]], dim=1)
    area = (rois[:, 3] * rois[:, 4]).clamp_min(0.0)
    level = (area.sqrt() / FINEST + 1e-6).log2().floor().clamp(0, len(pyramid) - 1)
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    pooled = pyramid[0].new_zeros(len(rois), pyramid[0].shape[1], rows, columns)
    for number, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        own = (level == number).nonzero()[:, 0]
        if len(own):
            found = roi_align_rotated(features, rois[own], (rows, columns), scale=1.0 / stride, samples=samples)
            pooled = pooled.index_put((own,), found)
    return pooled
