"""Detection tile by tile: what a perfect detector sees in tiles is what there is in the image, once each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from rotaware.detection import Detections, Tiling, detect_tiled, tile_origins
from rotaware.geo import box_iou_rotated, normalize_boxes


def squares(count: int, extent: tuple[int, int]) -> np.ndarray:
    """Black, with bright pixels far enough apart; a pixel's colour counts it."""
    generator = np.random.default_rng(0)
    image = np.zeros((extent[1], extent[0], 3), dtype=np.uint8)
    for number in range(count):
        x, y = generator.integers(0, extent[0] // 40), generator.integers(0, extent[1] // 40)
        image[40 * y + 20, 40 * x + 20] = (number + 1, 255, 0)
    return image


def dots(tiles: Tensor) -> list[Detections]:
    """A detector of bright pixels: boxes 12 x 6, whose labels are what their colour counts, along x."""
    found = []
    for tile in tiles:
        y, x = (tile[1] == 255).nonzero(as_tuple=True)
        sides = torch.tensor([12.0, 6.0, 0.0]).expand(len(x), 3)
        boxes = torch.cat([torch.stack([x + 0.5, y + 0.5], dim=1), sides], dim=1)
        found.append(Detections(boxes, torch.full((len(x),), 0.9), tile[0, y, x].long()))
    return found


def test_every_object_once() -> None:
    image = squares(60, (700, 430))
    whole = dots(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    found = detect_tiled(dots, image, Tiling(size=200, overlap=80, batch=3))
    assert len(found) == len(whole)
    order, wanted = found.labels.argsort(), whole.labels.argsort()
    torch.testing.assert_close(found.boxes[order], whole.boxes[wanted])


def test_small_image_is_one_tile_of_its_size() -> None:
    shapes = []

    def seen(tiles: Tensor) -> list[Detections]:
        shapes.append(tuple(tiles.shape))
        return dots(tiles)

    detect_tiled(seen, np.zeros((90, 130, 3), np.uint8), Tiling(size=1024, rates=(0.5, 1.0, 2.0)))
    assert shapes == [(1, 3, 45, 65), (1, 3, 90, 130), (1, 3, 180, 260)]


def test_scales_are_undone() -> None:
    # A rectangle that is there at every scale, found by its extent.
    image = np.zeros((512, 640, 3), np.uint8)
    image[200:240, 300:396] = 255

    def extents(tiles: Tensor) -> list[Detections]:
        found = []
        for tile in tiles:
            y, x = (tile[0] > 127).nonzero(as_tuple=True)
            boxes = torch.zeros(0, 5)
            if len(x):
                low = torch.stack([x.min(), y.min()]).float()
                high = torch.stack([x.max(), y.max()]).float() + 1
                boxes = torch.cat([(low + high) / 2, high - low, torch.zeros(1)])[None]
            found.append(Detections(boxes, torch.ones(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64)))
        return found

    found = detect_tiled(extents, image, Tiling(size=512, overlap=150, rates=(0.5, 1.0)))
    assert len(found) == 1
    torch.testing.assert_close(found.boxes, torch.tensor([[348.0, 220, 96, 40, 0]]))


def cut(boxes: Tensor, score: Callable[[Tensor], Tensor]) -> Callable[[Tensor], list[Detections]]:
    """A detector that sees of each box what is in the tile; tiles tell their place by their colours."""

    def detect(tiles: Tensor) -> list[Detections]:
        found = []
        for tile in tiles:
            left, top = int(tile[0, 0, 0]) * 10, int(tile[1, 0, 0]) * 10
            low = torch.maximum(boxes[:, :2] - boxes[:, 2:4] / 2, torch.tensor([left, top]))
            high = torch.minimum(boxes[:, :2] + boxes[:, 2:4] / 2, torch.tensor([left, top]) + tile.shape[1])
            seen = ((high - low) > 2).all(dim=1)
            low, high = low[seen], high[seen]
            own = torch.cat([(low + high) / 2 - torch.tensor([left, top]), high - low, boxes[seen, 4:]], dim=1)
            label = torch.zeros(len(own), dtype=torch.int64)
            found.append(Detections(own, score(own), label))
        return found

    return detect


def test_cut_objects_lose_to_whole_ones_whatever_their_scores() -> None:
    places = np.zeros((200, 360, 3), np.uint8)
    places[..., 0] = np.arange(360) // 10
    places[..., 1] = np.arange(200)[:, None] // 10
    boxes = torch.tensor([[150.0, 100, 60, 20, 0], [330, 60, 40, 20, 0]])
    # Parts are surer of themselves than wholes.
    detect = cut(boxes, lambda own: 1.0 - own[:, 2] / 200)
    tiling = Tiling(size=200, overlap=100)
    found = detect_tiled(detect, places, tiling)
    assert len(found) == 2
    torch.testing.assert_close(box_iou_rotated(boxes, found.boxes).amax(dim=1), torch.ones(2))
    by_score = detect_tiled(detect, places, Tiling(size=200, overlap=100, edges=None))
    assert box_iou_rotated(boxes, by_score.boxes).amax(dim=1).min() < 0.9


def test_turns_are_undone() -> None:
    image = squares(20, (300, 200))

    def along_x(tiles: Tensor) -> list[Detections]:
        return dots(tiles)

    found = detect_tiled(along_x, image, Tiling(size=300, turns=True, threshold=0.95))
    plain = detect_tiled(along_x, image, Tiling(size=300, threshold=0.95))
    # Upright and across: what is along x in a turned image is across in the image.
    assert len(found) == 2 * len(plain)
    across = plain.boxes.clone()
    across[:, 4] = -math.pi / 2
    wanted = torch.cat([plain.boxes, normalize_boxes(across)])
    torch.testing.assert_close(box_iou_rotated(wanted, found.boxes).amax(dim=1), torch.ones(len(wanted)))


def test_whatever_the_detector_turned_images_give_turned_detections() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (130, 170, 3), dtype=torch.uint8, generator=generator).numpy()

    def moody(tiles: Tensor) -> list[Detections]:
        """Boxes that depend on the pixels in no sensible way."""
        found: list[Detections] = []
        for tile in tiles.double():
            height, width = tile.shape[1:]
            rows = tile[:, ::10, ::10].flatten(1)[:, :12]
            boxes = torch.stack([rows[0] / 255 * width, rows[1] / 255 * height, 20 + rows[2] / 9, 9 + rows[0] / 30,
                                 rows[2] / 90], dim=1).float()  # fmt: skip
            found.append(Detections(normalize_boxes(boxes), rows[1].float() / 256, rows[0].long() % 3))
        return found

    tiling = Tiling(size=256, turns=True)
    plain = detect_tiled(moody, image, tiling)
    turned = detect_tiled(moody, np.rot90(image, -1), tiling)
    x, y, w, h, theta = plain.boxes.unbind(1)
    moved = normalize_boxes(torch.stack([130 - y, x, w, h, theta + math.pi / 2], dim=1))
    assert len(plain) == len(turned) > 10
    torch.testing.assert_close(turned.scores, plain.scores)
    assert box_iou_rotated(moved, turned.boxes).amax(dim=1).min() > 0.999


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"overlap": 200, "size": 200}, "overlap: expected 0 to 199, got 200"),
        ({"rates": ()}, "rates: expected positive scales"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
    ],
)
def test_wrong_options(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tiling(**wrong)


def test_wrong_images_and_detectors() -> None:
    def none(tiles: Tensor) -> Sequence[Detections]:
        return []

    with pytest.raises(ValueError, match=r"image: expected shape \(H, W, 3\), got \(5, 5\)"):
        detect_tiled(none, np.zeros((5, 5), np.uint8))
    with pytest.raises(ValueError, match="image: expected uint8, got float64"):
        detect_tiled(none, np.zeros((5, 5, 3)))
    with pytest.raises(ValueError, match="expected detections of 1 tiles, got 0"):
        detect_tiled(none, np.zeros((50, 50, 3), np.uint8))


def test_windows_are_those_of_the_splitting_tools() -> None:
    for width, height, wanted in ((800, 800, 1), (1025, 600, 2), (2304, 1792, 6), (4000, 4000, 25)):
        assert len(tile_origins(width, height, Tiling())) == wanted
