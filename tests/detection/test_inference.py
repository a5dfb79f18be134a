"""Whole images: detections by class, and the detector as it was before."""

from __future__ import annotations

import numpy as np
import torch

from rotaware.detection import (
    Detections,
    DetectorConfig,
    ResNetConfig,
    Tiling,
    build_detector,
    by_class,
    detect_images,
)
from rotaware.geo import boxes_to_quads


def test_rows_of_a_class_belong_together() -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, count in (("a", 5), ("b", 0), ("c", 7)):
        boxes = torch.rand(count, 5, generator=generator) * 50
        scores = torch.rand(count, generator=generator)
        labels = torch.randint(0, 3, (count,), generator=generator)
        found.append((name, Detections(boxes, scores, labels)))
    classes = by_class(found, ("x", "y", "z"), least=0.2)
    assert sum(map(len, classes.values())) == sum(int((each.scores >= 0.2).sum()) for _, each in found)
    rows = {
        (name, label, round(float(score), 6)): boxes_to_quads(box.double()).numpy()
        for name, each in found
        for box, score, label in zip(each.boxes, each.scores, each.labels.tolist(), strict=True)
    }
    for label, each in enumerate(classes.values()):
        for image, score, quad in zip(each.images, each.scores, each.quads, strict=True):
            np.testing.assert_allclose(quad, rows[image, label, round(float(score), 6)], atol=1e-5)


def test_the_mode_is_restored_and_images_are_independent() -> None:
    torch.manual_seed(0)
    detector = build_detector(DetectorConfig("rotated_retinanet", ("a",), ResNetConfig(18, width=8), channels=16))
    torch.nn.init.constant_(detector.head.classify.bias, 0.0)  # type: ignore[union-attr,arg-type]
    detector.train()
    generator = np.random.default_rng(0)
    images = [(name, generator.integers(0, 256, (80, 120, 3), dtype=np.uint8)) for name in "ab"]
    both = dict(detect_images(detector, images, Tiling(96, 16, batch=2)))
    alone = dict(detect_images(detector, images[1:], Tiling(96, 16, batch=1)))
    assert detector.training and list(both) == ["a", "b"] and len(both["b"]) > 0
    torch.testing.assert_close(both["b"].boxes, alone["b"].boxes, rtol=1e-4, atol=1e-3)
    assert not any(name.endswith("num_batches_tracked") and int(value) for name, value in detector.state_dict().items())
