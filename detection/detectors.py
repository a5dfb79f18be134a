"""Rotated object detectors: Oriented R-CNN, Rotated Faster R-CNN, Rotated RetinaNet and S2A-Net.

Each with a plain backbone or one with adaptive rotated convolutions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from rotaware.geo.checks import require_choice, require_shape

from .anchors import RETINA_ANCHORS, RPN_ANCHORS, Anchors
from .box_coders import HullCoder, MidpointCoder, upright
from .fpn import FPN
from .plain_data import from_plain
from .resnet import ResNet, ResNetConfig
from .retina_head import RetinaHead, RetinaHeadOptions
from .roi_head import RoIHead, RoIHeadOptions
from .rpn import RPN, RPNOptions, Sizes
from .s2a_head import S2AHead
from .structures import Detections, Targets
from .suppression import DetectionOptions, detected

Kind = Literal["oriented_rcnn", "rotated_faster_rcnn", "rotated_retinanet", "s2anet"]
# Mean and standard deviation of ImageNet, RGB.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Edges of images are padded to multiples of this, so that all levels fit.
MULTIPLE = 32


@dataclass(frozen=True)
class DetectorConfig:
    """A detector; the defaults are those published for DOTA.

    Args:
        kind: which one.
        classes: names, in the order of the labels.
        backbone: see `ResNetConfig`.
        channels: of the pyramid.
        anchor_scale: edge of the smallest square anchor, in strides; None as published, 8 for the two-stage ones and 4
            for the others.
        rpn, roi_head, retina_head: settings of the parts; those that a kind does not have are of no effect. S2A-Net
            has two heads of the last sort.
        detections: what counts as one.
    """

    kind: Kind
    classes: tuple[str, ...]
    backbone: ResNetConfig = field(default_factory=ResNetConfig)
    channels: int = 256
    anchor_scale: float | None = None
    rpn: RPNOptions = field(default_factory=RPNOptions)
    roi_head: RoIHeadOptions = field(default_factory=RoIHeadOptions)
    retina_head: RetinaHeadOptions = field(default_factory=RetinaHeadOptions)
    detections: DetectionOptions = field(default_factory=DetectionOptions)

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, get_args(Kind))
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: expected names that differ, got {self.classes}")
        if self.kind == "s2anet" and self.retina_head.angle != "offset":
            raise ValueError(f"angle: expected 'offset' for s2anet, got {self.retina_head.angle!r}")

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """From plain data, as `to_dict` gives it; what is left out keeps its default.

        Raises:
            ValueError: a key that is not known, with those that are.
        """
        return from_plain(cls, given, "config")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class Detector(nn.Module):
    """What all detectors share: backbone, pyramid, normalisation, and what they are asked for.

    Images are (B, 3, H, W), RGB in [0, 255], of any dtype; `sizes` are the (height, width) of those that were padded to
    fit a batch.
    """

    def __init__(self, config: DetectorConfig, extra: Literal["pool", "convolution"]) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(config.backbone)
        self.fpn = FPN(self.backbone.channels, config.channels, extra=extra)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.mean: Tensor
        self.std: Tensor

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the labels."""
        return self.config.classes

    def levels(self, images: Tensor, sizes: Sizes | None = None) -> list[Tensor]:
        """The pyramid; what lies outside an image counts as mean colour."""
        require_shape("images", images, "B", 3, "H", "W")
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        for image, (height, width) in zip(x, sizes, strict=True) if sizes is not None else ():
            image[:, height:] = 0
            image[:, :, width:] = 0
        height, width = images.shape[2:]
        x = functional.pad(x, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        return self.fpn(self.backbone(x))

    def losses(
        self,
        images: Tensor,
        targets: Sequence[Targets],
        *,
        generator: torch.Generator,
        sizes: Sizes | None = None,
    ) -> dict[str, Tensor]:
        """Losses by name, to be added up.

        Args:
            images: (B, 3, H, W).
            targets: one per image; boxes without area or with a number that is not finite are left out.
            generator: on the CPU, for what is drawn.
            sizes: of the images before they were padded; None, if they were not.
        """
        if len(targets) != len(images):
            raise ValueError(f"targets: expected one per image, {len(images)}, got {len(targets)}")
        self._check_sizes(images, sizes)
        usable = [each.usable() for each in targets]
        for each in usable:
            if len(each.labels) and not 0 <= int(each.labels.min()) <= int(each.labels.max()) < len(self.classes):
                raise ValueError(f"labels: expected 0 to {len(self.classes) - 1}, got {each.labels.unique().tolist()}")
        levels = self.levels(images, sizes)
        height, width = images.shape[2:]
        return self._losses(levels, usable, [(height, width)] * len(images) if sizes is None else sizes, generator)

    @torch.no_grad()
    def forward(self, images: Tensor, sizes: Sizes | None = None) -> list[Detections]:
        """What is found in each image; call it in evaluation mode."""
        self._check_sizes(images, sizes)
        return self._detections(self.levels(images, sizes))

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` suppresses: boxes (B, P, 5) and scores (B, P, classes).

        P depends on the size of the images alone, and all operations export; see `export_onnx`. What is not a box has
        scores of 0.
        """
        return self._raw(self.levels(images))

    def suppress(self, boxes: Tensor, scores: Tensor) -> list[Detections]:
        """Detections of the result of `raw`, also of that of an exported graph."""
        return [detected(*image, self.config.detections) for image in zip(boxes, scores, strict=True)]

    @staticmethod
    def _check_sizes(images: Tensor, sizes: Sizes | None) -> None:
        if sizes is not None and len(sizes) != len(images):
            raise ValueError(f"sizes: expected one per image, {len(images)}, got {len(sizes)}")

    @abstractmethod
    def _losses(
        self, levels: list[Tensor], targets: list[Targets], sizes: Sizes, generator: torch.Generator
    ) -> dict[str, Tensor]: ...

    @abstractmethod
    def _raw(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]: ...

    def _detections(self, levels: list[Tensor]) -> list[Detections]:
        return self.suppress(*self._raw(levels))


class TwoStage(Detector):
    """Oriented R-CNN (Xie et al., ICCV 2021) and Rotated Faster R-CNN."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__(config, "pool")
        oriented = config.kind == "oriented_rcnn"
        scale = 8.0 if config.anchor_scale is None else config.anchor_scale
        anchors = Anchors(RPN_ANCHORS.strides, (scale,), RPN_ANCHORS.ratios)
        self.rpn = RPN(config.channels, anchors, MidpointCoder() if oriented else HullCoder(), config.rpn)
        strides = self.fpn.strides[:4]
        self.roi_head = RoIHead(config.channels, len(config.classes), strides, oriented, config.roi_head)

    def _losses(
        self, levels: list[Tensor], targets: list[Targets], sizes: Sizes, generator: torch.Generator
    ) -> dict[str, Tensor]:
        anchors = self.rpn.anchors_of(levels)
        logits, offsets = self.rpn(levels)
        losses = self.rpn.losses(anchors, logits, offsets, targets, sizes, generator)
        proposals = self.rpn.proposals(anchors, logits, offsets)
        boxes, labels, own = self.roi_head.chosen(proposals, targets, generator)
        scores, corrections = self.roi_head(levels[:4], boxes)
        every = torch.cat(boxes), torch.cat(labels), torch.cat(own)
        return losses | self.roi_head.losses(scores, corrections, *every)

    def _raw(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        proposals, real = self.rpn.fixed_proposals(self.rpn.anchors_of(levels), *self.rpn(levels))
        found = self.roi_head(levels[:4], list(proposals))
        boxes, scores = self.roi_head.decoded(proposals.flatten(0, 1), *found)
        shape = real.shape
        return boxes.unflatten(0, shape), scores.unflatten(0, shape) * real[..., None]

    def _detections(self, levels: list[Tensor]) -> list[Detections]:
        proposals = self.rpn.proposals(self.rpn.anchors_of(levels), *self.rpn(levels))
        logits, offsets = self.roi_head(levels[:4], proposals)
        counts = [len(each) for each in proposals]
        parts = zip(proposals, logits.split(counts), offsets.split(counts), strict=True)
        return [detected(*self.roi_head.decoded(*part), self.config.detections) for part in parts]


class OneStage(Detector):
    """Rotated RetinaNet (Lin et al., ICCV 2017) and S2A-Net (Han et al., TGRS 2021)."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__(config, "convolution")
        scale = 4.0 if config.anchor_scale is None else config.anchor_scale
        classes, options = len(config.classes), config.retina_head
        self.head: RetinaHead | S2AHead
        if config.kind == "s2anet":
            self.anchors = Anchors(RETINA_ANCHORS.strides, (scale,), (1.0,))
            convolutions = 2 if options.convolutions is None else options.convolutions
            self.head = S2AHead(config.channels, classes, self.anchors.strides, convolutions, options)
        else:
            scales = tuple(scale / 4 * each for each in RETINA_ANCHORS.scales)
            self.anchors = Anchors(RETINA_ANCHORS.strides, scales, RETINA_ANCHORS.ratios)
            convolutions = 4 if options.convolutions is None else options.convolutions
            self.head = RetinaHead(config.channels, classes, self.anchors.per_cell, convolutions, 0.0, options)

    def references(self, levels: list[Tensor]) -> list[Tensor]:
        """(B, A, 5) anchors of each level, width along x."""
        hulls = self.anchors([(level.shape[2], level.shape[3]) for level in levels], levels[0].device)
        return [upright(each).expand(len(levels[0]), -1, -1) for each in hulls]

    def _losses(
        self, levels: list[Tensor], targets: list[Targets], sizes: Sizes, generator: torch.Generator
    ) -> dict[str, Tensor]:
        references = self.references(levels)
        if isinstance(self.head, S2AHead):
            return self.head.losses(levels, references, targets)
        logits, offsets = self.head(levels)
        return self.head.losses(references, logits, offsets, targets)

    def _raw(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        references = self.references(levels)
        if isinstance(self.head, S2AHead):
            return self.head.candidates(levels, references)
        return self.head.candidates(references, *self.head(levels))


def build_detector(config: DetectorConfig) -> Detector:
    """The detector of a configuration, with random weights.

    >>> small = ResNetConfig(18, width=8, arc_stages=(2, 3, 4))
    >>> config = DetectorConfig("oriented_rcnn", ("ship", "plane"), small, channels=16)
    >>> found = build_detector(config).eval()(torch.zeros(1, 3, 64, 64))
    >>> found[0].boxes.shape[1]
    5
    """
    return TwoStage(config) if config.kind in ("oriented_rcnn", "rotated_faster_rcnn") else OneStage(config)
