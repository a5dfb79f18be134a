"""Detection in images of any size: tile by tile, with the doubles of overlapping tiles merged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rotaware.geo.boxes import boxes_to_quads, normalize_boxes

from .merging import EdgeRule, PatchOrigin, at_inner_borders, without_doubles
from .structures import Detections


class Raster(Protocol):
    """An image (H, W, 3) of uint8, RGB, of which parts are read: an array, a memory map, a reader of large files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3)."""
        ...

    def __getitem__(self, part: Any, /) -> Any:
        """Rows and columns, by two slices, as an array."""
        ...


@dataclass(frozen=True)
class Tiling:
    """How an image is cut and put together again.

    Args:
        size: edge of the square tiles that the detector gets, in pixels; tiles of smaller images are smaller.
        overlap: of neighboring tiles, in pixels of the tile; objects that are longer can be cut in all of them.
        rates: scales at which the image is seen; at 0.5 a tile shows twice as much.
        batch: tiles at once.
        turns: each tile is seen turned by 0, 90, 180 and 270 degrees as well, and boxes are turned back: four times the
            work, for boxes that turn with the image.
        threshold: IoU above which the worse of two detections of a class goes.
        edges: rule for objects that may be cut; None goes by scores alone.
    """

    size: int = 1024
    overlap: int = 200
    rates: tuple[float, ...] = (1.0,)
    batch: int = 4
    turns: bool = False
    threshold: float = 0.1
    edges: EdgeRule | None = field(default_factory=EdgeRule)

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"overlap: expected 0 to {self.size - 1}, got {self.overlap}")
        if not self.rates or not all(0 < rate <= self.size for rate in self.rates):
            raise ValueError(f"rates: expected positive scales, got {self.rates}")
        if self.batch < 1:
            raise ValueError(f"batch: expected at least 1, got {self.batch}")


def tile_origins(width: int, height: int, tiling: Tiling) -> list[PatchOrigin]:
    """The tiles of an image, scale by scale, row by row; the last ones end with the image unless it is smaller.

    >>> [int(each.left) for each in tile_origins(1700, 300, Tiling())]
    [0, 676]
    """
    found = []
    for rate in tiling.rates:
        window = int(tiling.size / rate)
        step = max(1, window - int(tiling.overlap / rate))
        columns, rows = ([*range(0, length - window, step), max(0, length - window)] for length in (width, height))
        found += [
            PatchOrigin("", left, top, tiling.size / window, window) for top in rows for left in columns
        ]  # fmt: skip
    return found


def detect_tiled(
    detect: Callable[[Tensor], Sequence[Detections]], image: Raster, tiling: Tiling | None = None
) -> Detections:
    """What a detector finds in a whole image.

    Args:
        detect: takes tiles (B, 3, H, W) uint8, RGB, on the CPU, and gives detections of each: a detector in evaluation
            mode, or a function that moves tiles to where it is.
        image: (H, W, 3) uint8; read window by window, so that it may be larger than memory.
        tiling: how it is cut.
    Returns:
        Detections on the CPU in pixels of the image, whose centres are in it.

    >>> nothing = Detections(torch.zeros(0, 5), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    >>> len(detect_tiled(lambda tiles: [nothing] * len(tiles), np.zeros((1500, 900, 3), np.uint8)))
    0
    """
    tiling = tiling or Tiling()
    if len(image.shape) != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: expected shape (H, W, 3), got {tuple(image.shape)}")
    height, width = image.shape[:2]
    origins = tile_origins(width, height, tiling)
    boxes, scores, labels, tile = [], [], [], []
    for numbers in _batches(origins, tiling.batch):
        tiles = torch.stack([_tile(image, origins[number]) for number in numbers])
        for turn in range(4) if tiling.turns else (0,):
            turned = tiles.rot90(-turn, (2, 3))
            found = detect(turned)
            if len(found) != len(numbers):
                raise ValueError(f"detect: expected detections of {len(numbers)} tiles, got {len(found)}")
            for number, each in zip(numbers, found, strict=True):
                each, place = each.to("cpu"), origins[number]
                own = _turned_back(each.boxes.double(), turn, turned.shape[2:])
                own[:, :4] /= place.rate
                own[:, :2] += torch.tensor([place.left, place.top])
                boxes.append(own)
                scores.append(each.scores)
                labels.append(each.labels)
                tile.append(torch.full((len(each),), number))
    merged = torch.cat(boxes), torch.cat(scores), torch.cat(labels), torch.cat(tile)
    return _merged(*merged, (width, height), origins, tiling)


def _batches(origins: Sequence[PatchOrigin], most: int) -> Iterator[list[int]]:
    """Numbers of tiles that go through the detector together: those of one scale, for they are of one size."""
    for _, group in groupby(range(len(origins)), key=lambda number: origins[number].rate):
        numbers = list(group)
        for start in range(0, len(numbers), most):
            yield numbers[start : start + most]


def _tile(image: Raster, place: PatchOrigin) -> Tensor:
    """(3, H, W) uint8."""
    left, top, window = int(place.left), int(place.top), int(place.size or 0)
    part = np.asarray(image[top : top + window, left : left + window])
    if part.dtype != np.uint8:
        raise ValueError(f"image: expected uint8, got {part.dtype}")
    tile = torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)
    shape = [max(1, round(length * place.rate)) for length in tile.shape[1:]]
    if shape == list(tile.shape[1:]):
        return tile
    scaled = functional.interpolate(tile[None].float(), shape, mode="bilinear", antialias=True)[0]
    return scaled.round().clamp(0, 255).to(torch.uint8)


def _turned_back(boxes: Tensor, turn: int, shape: Sequence[int]) -> Tensor:
    """Boxes found in a tile of `shape` that was turned clockwise by quarters, in the tile as it was."""
    for _ in range(turn):
        height, width = shape
        # The inverse of a clockwise quarter turn, which takes (x, y) to (height - y, x).
        x, y, w, h, theta = boxes.unbind(1)
        boxes = normalize_boxes(torch.stack([y, width - x, w, h, theta - math.pi / 2], dim=1))
        shape = width, height
    return boxes


def _merged(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    tile: Tensor,
    extent: tuple[int, int],
    origins: list[PatchOrigin],
    tiling: Tiling,
) -> Detections:
    """Without what is centred beyond the image, and without doubles."""
    centre = boxes[:, :2]
    inside = ((centre >= 0) & (centre < torch.tensor(extent))).all(dim=1)
    boxes, scores, labels, tile = boxes[inside], scores[inside], labels[inside], tile[inside]
    quads, cut = boxes_to_quads(boxes), None
    if tiling.edges is not None:
        cut = torch.from_numpy(at_inner_borders(quads.numpy(), tile.numpy(), origins, tiling.edges.margin))
    kept = without_doubles(quads, scores, labels, tiling.threshold, tiling.edges, cut)
    return Detections(boxes[kept].to(scores.dtype), scores[kept], labels[kept])
