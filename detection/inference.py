"""Detectors at work on images of any size, and what they found as the evaluation takes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rotaware.geo.boxes import boxes_to_quads

from .detection_files import ClassDetections
from .detectors import Detector
from .structures import Detections
from .tiling import Raster, Tiling, detect_tiled


def detect_images(
    detector: Detector, images: Iterable[tuple[str, Raster]], tiling: Tiling | None = None
) -> Iterator[tuple[str, Detections]]:
    """What a detector finds in whole images, one after the other; in evaluation mode, wherever it is.

    Args:
        detector: its mode is restored.
        images: names and pixels, see `detect_tiled`.
        tiling: how images are cut.
    """
    device = detector.mean.device

    def found(tiles: Tensor) -> Sequence[Detections]:
        return detector(tiles.to(device))

    training = detector.training
    detector.eval()
    try:
        for name, image in images:
            yield name, detect_tiled(found, image, tiling)
    finally:
        detector.train(training)


def by_class(
    found: Iterable[tuple[str, Detections]], classes: Sequence[str], *, least: float = 0.0
) -> dict[str, ClassDetections]:
    """Detections of images as those of classes, for `evaluate_detections` and `write_detections`.

    Args:
        found: names of images, and what was found in each.
        classes: names, in the order of the labels.
        least: lower scores are left out.

    >>> one = Detections(torch.tensor([[5.0, 5, 4, 2, 0]]), torch.tensor([0.5]), torch.tensor([1]))
    >>> {name: each.images for name, each in by_class([("a", one)], ("ship", "plane")).items()}
    {'ship': (), 'plane': ('a',)}
    """
    images: list[list[str]] = [[] for _ in classes]
    scores: list[list[Tensor]] = [[torch.zeros(0)] for _ in classes]
    quads: list[list[Tensor]] = [[torch.zeros(0, 4, 2, dtype=torch.float64)] for _ in classes]
    for name, each in found:
        corners = boxes_to_quads(each.boxes.double())
        for label in each.labels.unique().tolist():
            rows = (each.labels == label) & (each.scores >= least)
            images[label] += [name] * int(rows.sum())
            scores[label].append(each.scores[rows])
            quads[label].append(corners[rows])
    return {
        name: ClassDetections(
            tuple(images[label]),
            torch.cat(scores[label]).numpy().astype(np.float64),
            torch.cat(quads[label]).numpy(),
        )
        for label, name in enumerate(classes)
    }
