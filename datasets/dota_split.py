"""Large images cut into windows that a detector can take, as the tools around DOTA do it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rotaware.geo.polygons import quad_iou


@dataclass(frozen=True)
class SplitOptions:
    """How images are cut.

    Args:
        size: edge of a patch in pixels.
        overlap: of neighboring windows; objects that are larger can be cut in all of them.
        rates: scales; at 0.5 a window of twice the size becomes a patch.
        inside: share of an object that must be in a window to belong to it; it is not cut.
        filled: share of a window that must be image, unless no window has as much.
    """

    size: int = 1024
    overlap: int = 200
    rates: tuple[float, ...] = (1.0,)
    inside: float = 0.7
    filled: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"overlap: expected 0 to {self.size - 1}, got {self.overlap}")
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"rates: expected positive scales, got {self.rates}")


@dataclass(frozen=True)
class Window:
    """A square part of an image, in its pixels; it may reach beyond the image."""

    left: int
    top: int
    size: int
    rate: float


def starts(length: int, size: int, step: int) -> list[int]:
    """Where windows begin along an axis: the last one ends with the image.

    >>> starts(2304, 1024, 824), starts(1025, 1024, 824), starts(800, 1024, 824)
    ([0, 824, 1280], [0, 1], [0])
    """
    if length <= size:
        return [0]
    count = math.ceil((length - size) / step + 1)
    return [min(number * step, length - size) for number in range(count)]


def windows(width: int, height: int, options: SplitOptions | None = None) -> list[Window]:
    """The windows of an image, row by row, scale by scale.

    >>> [len(windows(*size)) for size in ((800, 800), (1025, 600), (2304, 1792), (4000, 4000))]
    [1, 2, 6, 25]
    """
    options = options or SplitOptions()
    found = []
    for rate in options.rates:
        size = int(options.size / rate)
        step = size - int(options.overlap / rate)
        every = [
            Window(left, top, size, rate) for top in starts(height, size, step) for left in starts(width, size, step)
        ]
        filled = np.array(
            [max(0, min(width - each.left, size)) * max(0, min(height - each.top, size)) / size**2 for each in every]
        )
        # Of a small image no window is filled; the fullest ones will do.
        enough = filled > options.filled if filled.max() > options.filled else filled == filled.max()
        found += [each for each, kept in zip(every, enough, strict=True) if kept]
    return found


def shares_inside(quads: NDArray[np.float64], chosen: Sequence[Window]) -> NDArray[np.float64]:
    """(n, windows) share of each quad's area that is in each window."""
    corners = np.array(
        [
            [[w.left, w.top], [w.left + w.size, w.top], [w.left + w.size, w.top + w.size], [w.left, w.top + w.size]]
            for w in chosen
        ],
        dtype=np.float64,
    ).reshape(-1, 4, 2)
    return quad_iou(torch.from_numpy(quads), torch.from_numpy(corners), mode="iof").numpy()
