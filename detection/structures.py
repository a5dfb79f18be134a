"""What goes into a detector and what comes out, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rotaware.geo.checks import require_shape


@dataclass(frozen=True)
class Targets:
    """The objects of an image."""

    boxes: Tensor  # (n, 5) cx, cy, w, h, theta, le90
    labels: Tensor  # (n,) int64

    def __post_init__(self) -> None:
        require_shape("boxes", self.boxes, "n", 5)
        if self.labels.shape != (len(self.boxes),):
            raise ValueError(f"labels: expected shape ({len(self.boxes)},), got {tuple(self.labels.shape)}")

    def to(self, device: torch.device | str) -> Targets:
        """On another device."""
        return Targets(self.boxes.to(device), self.labels.to(device))

    def usable(self) -> Targets:
        """Without boxes that have no area or hold a number that is not finite: nothing can be learnt from those."""
        good = self.boxes.isfinite().all(dim=1) & (self.boxes[:, 2:4] > 0).all(dim=1)
        return Targets(self.boxes[good], self.labels[good])


@dataclass(frozen=True)
class Detections:
    """What a detector found in an image, best first."""

    boxes: Tensor  # (n, 5) cx, cy, w, h, theta, le90
    scores: Tensor  # (n,) in (0, 1)
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device | str) -> Detections:
        """On another device."""
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device))
