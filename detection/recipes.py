"""Detector, augmentation and training that belong together: as published for DOTA, and small ones for a laptop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from rotaware.geo.checks import require_choice

from .augmentation import Augmentation
from .detectors import DetectorConfig, Kind
from .plain_data import from_plain, merged
from .resnet import ResNetConfig
from .retina_head import RetinaHeadOptions
from .roi_head import RoIHeadOptions
from .rpn import RPNOptions
from .training import TrainingOptions

# Backbones by the names of the command line.
BACKBONES: Mapping[str, tuple[int, bool]] = {
    f"{prefix}resnet{depth}": (depth, bool(prefix)) for depth in (18, 34, 50, 101) for prefix in ("", "arc-")
}
TWO_STAGES = ("oriented_rcnn", "rotated_faster_rcnn")
# Their boxes have no direction: turned by other than right angles, they would get one.
ROUND = ("storage-tank", "roundabout")


@dataclass(frozen=True)
class Recipe:
    """How a detector is made and trained."""

    detector: DetectorConfig
    augmentation: Augmentation
    training: TrainingOptions

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """With other values, such as `{"training": {"batch": 4}}`.

        Raises:
            ValueError: a key or value that does not do.
        """
        return from_plain(type(self), merged(self.to_dict(), changes), "recipe")


def published_recipe(
    kind: Kind,
    classes: Sequence[str],
    images: int,
    *,
    backbone: str = "resnet50",
    epochs: int = 12,
    pretrained: bool = True,
    rotated: bool = False,
) -> Recipe:
    """As published for DOTA: patches of 1024 pixels, batches of 2, 12 epochs (specification 5).

    Args:
        kind: which detector.
        classes: names, in the order of the labels.
        images: of the training set, which makes the steps of an epoch.
        backbone: of `BACKBONES`.
        epochs: how often every image is seen.
        pretrained: whether the backbone begins with weights of ImageNet: then its stem, first stage and batch norms
            stay as they are. Without, everything is trained.
        rotated: turns by any angle, half of the time, as in multi-scale training.

    >>> recipe = published_recipe("oriented_rcnn", ("ship", "plane"), 15749, backbone="arc-resnet50")
    >>> recipe.training.steps, recipe.training.backbone_rate, recipe.detector.backbone.arc_stages
    (94494, 0.5, (2, 3, 4))
    """
    depth, arc = _backbone(backbone)
    weights = ResNetConfig(
        depth, arc_stages=(2, 3, 4) if arc else (), frozen_stages=1 if pretrained else 0, frozen_norms=pretrained
    )
    batch, rate = 2, 0.005 if kind in TWO_STAGES else 0.0025
    return Recipe(
        DetectorConfig(kind, tuple(classes), weights),
        _augmentation(1024, classes, 0.5 if rotated else 0.0),
        TrainingOptions(
            steps=max(1, -(-images * epochs // batch)),
            batch=batch,
            learning_rate=rate,
            backbone_rate=0.5 if arc and pretrained else 1.0,
        ),
    )


def small_recipe(
    kind: Kind,
    classes: Sequence[str],
    *,
    backbone: str = "arc-resnet18",
    steps: int = 4000,
    size: int = 192,
    rotated: bool = False,
) -> Recipe:
    """For two cores and small images, from random weights: `AerialScenes` in less than an hour.

    Args:
        kind: which detector.
        classes: names, in the order of the labels.
        backbone: of `BACKBONES`; half as wide as published.
        steps: of the optimiser.
        size: edge of the crops, in pixels.
        rotated: turns by any angle, half of the time, instead of by right angles.
    """
    depth, arc = _backbone(backbone)
    augmentation = _augmentation(size, classes, 0.5 if rotated else 1.0)
    two_stages = kind in TWO_STAGES
    return Recipe(
        DetectorConfig(
            kind,
            tuple(classes),
            ResNetConfig(depth, width=32, arc_stages=(2, 3, 4) if arc else ()),
            channels=64,
            anchor_scale=3.0 if two_stages else 2.0,
            rpn=RPNOptions(before=500, after=300),
            roi_head=RoIHeadOptions(hidden=256, batch=128),
            # Thin objects that lie across overlap few references by half.
            retina_head=RetinaHeadOptions(convolutions=2, positive=0.35, negative=0.25, before=500),
        ),
        augmentation if rotated else replace(augmentation, angles="right"),
        TrainingOptions(
            steps=steps,
            batch=4,
            optimizer="adamw",
            learning_rate=1e-3 if two_stages else 2e-3,
            weight_decay=0.01,
            warmup=100,
            schedule="cosine",
            clip=10.0,
            average=0.995,
        ),
    )


def _backbone(name: str) -> tuple[int, bool]:
    require_choice("backbone", name, tuple(BACKBONES))
    return BACKBONES[name]


def _augmentation(size: int, classes: Sequence[str], turn: float) -> Augmentation:
    without_direction = tuple(number for number, name in enumerate(classes) if name in ROUND)
    return Augmentation(size, turn=turn, right_only=without_direction)
