"""Detectors: they learn, their losses stay finite on anything, and their configurations are strict."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from rotaware.detection.detectors import Detector, DetectorConfig, Kind, build_detector
from rotaware.detection.regression import AngleCode
from rotaware.detection.resnet import ResNetConfig
from rotaware.detection.retina_head import RetinaHeadOptions
from rotaware.detection.roi_head import RoIHead, RoIHeadOptions
from rotaware.detection.rpn import RPNOptions
from rotaware.detection.structures import Targets
from rotaware.detection.suppression import DetectionOptions
from rotaware.geo.box_iou import box_iou_rotated
from rotaware.geo.boxes import boxes_to_quads, normalize_boxes

KINDS = get_args(Kind)


def small(kind: Kind, **changes: Any) -> DetectorConfig:
    config = DetectorConfig(
        kind, ("light", "dark"), ResNetConfig(18, width=16), channels=32,
        rpn=RPNOptions(before=300, after=300), roi_head=RoIHeadOptions(hidden=64, batch=64),
    )  # fmt: skip
    return replace(config, **changes)


def built(kind: Kind, **changes: Any) -> Detector:
    torch.manual_seed(0)
    return build_detector(small(kind, **changes))


def scene() -> tuple[Tensor, Targets]:
    """Two images with rectangles of two shades."""
    boxes = torch.tensor([[34, 40, 44, 18, 0.4], [92, 84, 36, 20, -0.9], [40, 96, 40, 16, 1.3], [90, 30, 30, 24, 0.0]])
    labels = torch.tensor([0, 1, 0, 1])
    y, x = torch.meshgrid(torch.arange(128.0) + 0.5, torch.arange(128.0) + 0.5, indexing="ij")
    image = torch.full((3, 128, 128), 110.0)
    for box, label in zip(boxes, labels, strict=True):
        quad = boxes_to_quads(box)
        edges = quad.roll(-1, 0) - quad
        inside = torch.ones(128, 128, dtype=torch.bool)
        for corner, edge in zip(quad, edges, strict=True):
            inside &= edge[0] * (y - corner[1]) - edge[1] * (x - corner[0]) >= 0
        image[:, inside] = 230.0 if label == 0 else 10.0
    return image, Targets(normalize_boxes(boxes), labels)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "arc"),
    [("oriented_rcnn", True), ("rotated_faster_rcnn", False), ("rotated_retinanet", True), ("s2anet", False)],
)
def test_learns_a_scene_by_heart(kind: Kind, arc: bool) -> None:
    backbone = ResNetConfig(18, width=16, arc_stages=(2, 3, 4) if arc else (), arc_dropout=0.0)
    model = built(kind, backbone=backbone)
    image, target = scene()
    images = torch.stack([image, image.flip(2)])
    mirrored = target.boxes * torch.tensor([-1.0, 1, 1, 1, -1]) + torch.tensor([128.0, 0, 0, 0, 0])
    targets = [target, Targets(normalize_boxes(mirrored), target.labels)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    history = []
    steps = 90 if kind == "oriented_rcnn" else 150
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 10) * (0.1 if step > 0.8 * steps else 1)
        loss = total(model.losses(images, targets, generator=generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        history.append(loss.item())
    assert np.mean(history[-5:]) < 0.4 * np.mean(history[:5])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        model.levels(images)
    detections = model.eval()(images)
    with torch.no_grad():
        raw = model.suppress(*model.raw(images))
    for found, same, wanted in zip(detections, raw, targets, strict=True):
        torch.testing.assert_close(found.scores, same.scores, atol=1e-4, rtol=1e-3)
        best = found.scores > 0.3
        overlaps = box_iou_rotated(wanted.boxes, found.boxes[best])
        overlaps[wanted.labels[:, None] != found.labels[best]] = 0
        found_iou = overlaps.amax(dim=1)
        assert found_iou.min() > 0.5 and found_iou.mean() > 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_anything_gives_finite_losses_and_gradients(kind: Kind) -> None:
    model = built(kind).train()
    generator = torch.Generator().manual_seed(0)
    crowd = torch.rand(1500, 5, generator=generator) * torch.tensor([64.0, 64, 20, 12, 3]) + torch.tensor(
        [0, 0, 2, 2, -1.5]
    )
    odd = torch.tensor([
        (5, 5, 0, 4, 0), (math.nan, 1, 2, 2, 0), (5, 5, math.inf, 2, 0), (-500, 900, 20, 10, 1),
        (30, 30, 1e-6, 1e-6, 0), (32, 32, 5000, 4000, 0.5), (30, 30, 60, 0.5, 0.1),
    ])  # fmt: skip
    for boxes in (torch.zeros(0, 5), odd, odd[:3], torch.tensor([[30.0, 30, 20, 10, 0.3]]), normalize_boxes(crowd)):
        labels = torch.arange(len(boxes)) % 2
        targets = [Targets(boxes, labels), Targets(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))]
        model.zero_grad()
        losses = model.losses(torch.rand(2, 3, 64, 64, generator=generator) * 255, targets, generator=generator)
        loss = total(losses)
        assert loss.isfinite(), {name: value.item() for name, value in losses.items()}
        loss.backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())


@pytest.mark.parametrize(
    ("code", "box_weight", "angle_weight"), [("csl", 1.0, 0.8), ("psc", 0.5, 0.2), ("vector", 1.0, 0.2)]
)
def test_angles_can_be_codes(code: AngleCode, box_weight: float, angle_weight: float) -> None:
    image, target = scene()

    def losses(options: RetinaHeadOptions) -> dict[str, Tensor]:
        model = built("rotated_retinanet", retina_head=options).train()
        return model.losses(image[None], [target], generator=torch.Generator().manual_seed(0))

    found = losses(RetinaHeadOptions(angle=code))
    plain = losses(RetinaHeadOptions(angle=code, regression_weight=1.0, angle_weight=1.0))
    torch.testing.assert_close(found["box"], box_weight * plain["box"])
    torch.testing.assert_close(found["angle"], angle_weight * plain["angle"])
    assert found["angle"] > 0
    model = awake("rotated_retinanet", retina_head=RetinaHeadOptions(angle=code))
    assert model.raw(image[None])[0].shape[2] == 5


def test_second_stage_by_hand() -> None:
    head = built("oriented_rcnn").get_submodule("roi_head")
    assert isinstance(head, RoIHead)
    boxes = torch.tensor([[30.0, 30, 20, 10, 0.3], [60.0, 60, 20, 10, 0.1]])
    # The first is an object, and the offsets to it are 0; the second is background.
    logits, offsets = torch.zeros(2, 3), torch.tensor([[0.5, 0, 0, -3.0, 0], [9.0, 9, 9, 9, 9]])
    found = head.losses(logits, offsets, boxes, torch.tensor([1, 2]), boxes)
    assert found["class"].item() == pytest.approx(math.log(3))
    assert found["box"].item() == pytest.approx((0.125 + 2.5) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_batch_do_not_meet(kind: Kind) -> None:
    model = awake(kind)
    images = torch.rand(2, 3, 70, 90, generator=torch.Generator().manual_seed(0)) * 255
    together = model(images)
    for number, found in enumerate(together):
        (alone,) = model(images[number : number + 1])
        assert len(found) == len(alone)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=1e-3)
        assert (found.scores[:-1] >= found.scores[1:]).all()
    # The same pixels in whole numbers.
    (whole,) = model((images[:1].round()).to(torch.uint8))
    (real,) = model(images[:1].round())
    torch.testing.assert_close(whole.scores, real.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_depend_on_the_generator_alone(kind: Kind) -> None:
    model, (image, target) = built(kind).train(), scene()
    found = [
        total(model.losses(image[None], [target], generator=torch.Generator().manual_seed(seed))).item()
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1]
    assert (found[0] != found[2]) == (kind in ("oriented_rcnn", "rotated_faster_rcnn"))


def awake(kind: Kind, **changes: Any) -> Detector:
    """With weights at which scores differ from place to place."""
    model = built(kind, **changes).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and module.weight.std() < 0.02:
                module.weight.mul_(4)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_raw_predictions_have_a_fixed_size_and_suppress_to_the_detections(kind: Kind) -> None:
    model = awake(kind, detections=DetectionOptions(score=0.009))
    images = torch.rand(2, 3, 70, 90, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        boxes, scores = model.raw(images)
        assert model.raw(images.flip(3))[0].shape == boxes.shape == (*scores.shape[:2], 5)
    for found, expected in zip(model.suppress(boxes, scores), model(images), strict=True):
        assert len(found) == len(expected) > 0
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_outside_an_image_does_not_matter(kind: Kind) -> None:
    model, (image, target) = awake(kind), scene()
    images = torch.stack([image, image])
    images[1, :, 100:] = 7.0
    images[1, :, :, 90:] = 200.0
    other = images.clone()
    other[1, :, 100:], other[1, :, :, 90:] = 90.0, 0.0
    sizes = [(128, 128), (100, 90)]
    for found, same in zip(model(images, sizes), model(other, sizes), strict=True):
        assert torch.equal(found.scores, same.scores) and torch.equal(found.boxes, same.boxes)
    losses = [
        total(model.losses(each, [target] * 2, generator=torch.Generator().manual_seed(0), sizes=sizes)).item()
        for each in (images, other)
    ]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="sizes: expected one per image, 2, got 1"):
        model(images, sizes[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_can_be_compared_instead_of_offsets(kind: Kind) -> None:
    options: dict[str, Any] = {"regression": "iou", "regression_weight": 2.0}
    model = built(
        kind, roi_head=RoIHeadOptions(hidden=64, batch=64, **options), retina_head=RetinaHeadOptions(**options)
    )
    image, target = scene()
    losses = model.train().losses(image[None], [target], generator=torch.Generator().manual_seed(0))
    assert 0 < losses["box"].item() < 4
    losses["box"].backward()
    gradients = [each.grad for name, each in model.named_parameters() if "correct" in name and each.grad is not None]
    assert gradients and all(each.isfinite().all() for each in gradients) and any(each.any() for each in gradients)


def test_configurations_are_strict() -> None:
    config = small("oriented_rcnn")
    assert DetectorConfig.from_dict(config.to_dict()) == config
    assert DetectorConfig.from_dict({"kind": "rotated_retinanet", "classes": ["ship"]}).channels == 256
    for message, given in (
        ("config: expected keys among .* got color", {"color": 1}),
        ("config.backbone: expected keys among .* got deep", {"backbone": {"deep": 50}}),
        ("kind: expected", {"kind": "yolo"}),
        ("classes: expected names that differ", {"classes": ["ship", "ship"]}),
        ("config: .*kind", {"kind": None}),
        ("config.rpn: expected a mapping", {"rpn": 3}),
        ("rpn: expected positive counts", {"rpn": {"batch": 0}}),
        ("retina_head: expected positive counts", {"retina_head": {"before": 0}}),
        ("roi_head: expected positive counts", {"roi_head": {"enlarge": [0.0, 1.0]}}),
        ("regression: expected one of", {"roi_head": {"regression": "l2"}}),
        ("angle: expected one of", {"retina_head": {"angle": "degrees"}}),
        ("angle: expected 'offset' for s2anet", {"kind": "s2anet", "retina_head": {"angle": "csl"}}),
    ):
        data: dict[str, Any] = {"kind": "oriented_rcnn", "classes": ["ship"], **given}
        if data["kind"] is None:
            del data["kind"]
        with pytest.raises(ValueError, match=message):
            DetectorConfig.from_dict(data)


def test_wrong_input_is_named() -> None:
    model, (image, target) = built("rotated_retinanet"), scene()
    generator = torch.Generator()
    with pytest.raises(ValueError, match=r"images: expected shape \(B, 3, H, W\)"):
        model.eval()(image)
    with pytest.raises(ValueError, match="one per image"):
        model.losses(image[None], [], generator=generator)
    with pytest.raises(ValueError, match="labels: expected 0 to 1"):
        model.losses(image[None], [Targets(target.boxes, target.labels + 5)], generator=generator)
    with pytest.raises(ValueError, match="labels: expected shape"):
        Targets(target.boxes, target.labels[:2])


def test_published_settings() -> None:
    # What differs by kind and is left open in the options.
    for kind, nms in (("oriented_rcnn", 0.8), ("rotated_faster_rcnn", 0.7)):
        assert built(kind).get_submodule("rpn").nms == nms
    assert built("oriented_rcnn", rpn=RPNOptions(nms=0.6)).get_submodule("rpn").nms == 0.6
    for kind, tower, anchors in (
        ("rotated_retinanet", "head.class_tower", 9),
        ("s2anet", "head.second.class_tower", 1),
    ):
        model = built(kind)
        assert len(model.get_submodule(tower)) == (8 if anchors == 9 else 4)
        assert sum(map(len, model.anchors([(1024 // s, 1024 // s) for s in (8, 16, 32, 64, 128)]))) == 21_824 * anchors


def test_published_sizes() -> None:
    with torch.device("meta"):
        config = DetectorConfig("oriented_rcnn", tuple(map(str, range(15))))
        plain = sum(each.numel() for each in build_detector(config).parameters())
        arc = replace(config, backbone=ResNetConfig(50, arc_stages=(2, 3, 4)))
        turned = sum(each.numel() for each in build_detector(arc).parameters())
    # 41.1 to 41.4 and 74.4 to 75.1 million, as others count.
    assert plain / 1e6 == pytest.approx(41.25, abs=0.2)
    assert turned / 1e6 == pytest.approx(74.9, abs=0.3)
