"""Recipes: the published numbers, changes by name, and JSON and back."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from rotaware.cli.detect_train import BACKBONES as OFFERED
from rotaware.cli.detect_train import KINDS
from rotaware.detection import build_detector, published_recipe, small_recipe
from rotaware.detection.detectors import Kind
from rotaware.detection.recipes import BACKBONES

CLASSES = ("ship", "storage-tank", "plane")


def test_published_numbers() -> None:
    recipe = published_recipe("oriented_rcnn", CLASSES, 15749, backbone="arc-resnet50")
    training, backbone = recipe.training, recipe.detector.backbone
    assert (training.batch, training.learning_rate, training.backbone_rate, training.warmup) == (2, 0.005, 0.5, 500)
    assert (training.momentum, training.weight_decay, training.clip, training.steps) == (0.9, 1e-4, 35.0, 94494)
    assert (backbone.frozen_stages, backbone.frozen_norms, backbone.arc_kernels) == (1, True, 4)
    retina = published_recipe("rotated_retinanet", CLASSES, 10, pretrained=False, rotated=True)
    assert retina.training.learning_rate == 0.0025 and retina.training.backbone_rate == 1.0
    assert retina.detector.backbone.frozen_stages == 0 and not retina.detector.backbone.frozen_norms
    assert retina.augmentation.turn == 0.5 and retina.augmentation.right_only == (1,)


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("backbone", ["resnet18", "arc-resnet18"])
def test_small_recipes_build_and_survive_json(kind: Any, backbone: str) -> None:
    recipe = small_recipe(kind, CLASSES, backbone=backbone)
    assert recipe.changed(json.loads(json.dumps(recipe.to_dict()))) == recipe
    detector = build_detector(recipe.detector)
    assert any("routing" in name for name, _ in detector.named_modules()) == backbone.startswith("arc")


def test_changes_reach_what_they_name_alone() -> None:
    recipe = small_recipe("oriented_rcnn", CLASSES)
    changed = recipe.changed({"detector": {"backbone": {"width": 16}}, "augmentation": {"scale": [0.5, 1.5]}})
    assert changed.detector.backbone.width == 16 and changed.augmentation.scale == (0.5, 1.5)
    assert changed.training == recipe.training and changed.detector.rpn == recipe.detector.rpn
    with pytest.raises(ValueError, match=r"recipe\.detector\.backbone: expected keys among .*width.*, got widht"):
        recipe.changed({"detector": {"backbone": {"widht": 16}}})
    with pytest.raises(ValueError, match=r"recipe\.training: expected a mapping, got 3"):
        recipe.changed({"training": 3})


def test_the_command_offers_what_there_is() -> None:
    assert set(OFFERED) == set(BACKBONES) and set(KINDS) == set(get_args(Kind))
    with pytest.raises(ValueError, match="backbone: expected one of"):
        small_recipe("oriented_rcnn", CLASSES, backbone="resnet20")
