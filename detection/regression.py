"""What a head learns its boxes by: offsets or the boxes that they lead to, and angles as codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rotaware.geo.boxes import normalize_boxes
from rotaware.geo.checks import require_shape

from .angle_coders import AngleCoder, CircularSmoothLabel, PhaseShiftCoder, VectorAngleCoder
from .box_coders import BoxCoder, RotatedCoder
from .box_losses import gaussian_loss, iou_loss, kfiou_loss, probiou_loss
from .losses import offset_loss

RegressionLoss = Literal["offsets", "iou", "probiou", "gwd", "kld", "kld_retinanet", "jd", "bhattacharyya", "kfiou"]
AngleCode = Literal["offset", "csl", "psc", "vector"]
# Those published with a weight other than 1.
WEIGHTS = {"gwd": 5.0, "kfiou": 5.0}
ANGLE_WEIGHTS = {"csl": 0.8, "psc": 0.2, "vector": 0.2}


@dataclass(frozen=True)
class AngleCodedCoder:
    """From anchors without a turn (..., theta 0): centre and sides as offsets, the angle itself as a code.

    Sides are those of le90, the longer one first, and the code has no border, so that nothing jumps unless a box is
    square. A network puts out four offsets and what the code is made of.

    >>> coder = AngleCodedCoder(VectorAngleCoder())
    >>> coder.decode(torch.tensor([[8.0, 8, 4, 4, 0]]), torch.tensor([[0.5, 0, 0, 0, 1, 0]])).tolist()
    [[10.0, 8.0, 4.0, 4.0, 0.0]]
    """

    angle: AngleCoder

    @property
    def size(self) -> int:
        """Numbers that a network puts out."""
        return 4 + self.angle.size

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """The four offsets (N, 4) of references (N, 5) and boxes (N, 5); the angle has a loss of its own."""
        boxes = normalize_boxes(boxes)
        return RotatedCoder().encode(references, _unturned(boxes))[:, :4]

    def decode(self, references: Tensor, offsets: Tensor) -> Tensor:
        """(N, 5) boxes, le90, of what a network puts out (N, size)."""
        require_shape("offsets", offsets, "N", self.size)
        straight = torch.cat([offsets[:, :4], torch.zeros_like(offsets[:, :1])], dim=1)
        boxes = RotatedCoder().decode_in_frame(references, straight)
        theta = self.angle.decode(self.angle.codes(offsets[:, 4:]))
        return normalize_boxes(torch.cat([boxes[:, :4], theta[:, None]], dim=1))

    def angle_loss(self, offsets: Tensor, boxes: Tensor) -> Tensor:
        """(N,) of what a network puts out (N, size), for boxes (N, 5)."""
        return self.angle.loss(offsets[:, 4:], normalize_boxes(boxes)[:, 4])


def coder_of(code: AngleCode) -> RotatedCoder | AngleCodedCoder:
    """Of a head on anchors: "offset" from the anchor's own angle, or one of the coders of `angle_coders`."""
    if code == "offset":
        return RotatedCoder()
    angles: dict[AngleCode, AngleCoder] = {
        "csl": CircularSmoothLabel(),
        "psc": PhaseShiftCoder(),
        "vector": VectorAngleCoder(),
    }
    return AngleCodedCoder(angles[code])


def regression_loss(
    kind: RegressionLoss,
    coder: BoxCoder,
    references: Tensor,
    offsets: Tensor,
    boxes: Tensor,
    *,
    beta: float,
    weight: float | None = None,
) -> Tensor:
    """How far `offsets` from `references` are from leading to `boxes` (N, 5), summed.

    Args:
        kind: "offsets" compares offsets (`offset_loss`), the others compare boxes: "iou", "probiou" and "kfiou" by the
            losses of these names, the rest by `gaussian_loss`.
        coder: of the offsets.
        references: (N, ...), as the coder takes them.
        offsets: (N, coder.size).
        boxes: (N, 5).
        beta: of `offset_loss`.
        weight: None as published, 5 for "gwd" and "kfiou" and 1 for the others.
    """
    if kind in ("offsets", "kfiou"):
        wanted = coder.encode(references, boxes)
        compared = offsets[:, : wanted.shape[1]]
    if kind == "offsets":
        loss = offset_loss(compared, wanted, beta)
    else:
        found = coder.decode(references, offsets)
        if kind == "iou":
            losses = iou_loss(found, boxes)
        elif kind == "probiou":
            losses = probiou_loss(found, boxes)
        elif kind == "kfiou":
            losses = kfiou_loss(found, boxes, (compared - wanted)[:, :2])
        else:
            losses = gaussian_loss(found, boxes, kind)
        loss = losses.sum()
    return loss * (WEIGHTS.get(kind, 1.0) if weight is None else weight)


def _unturned(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[:, :4], torch.zeros_like(boxes[:, 4:])], dim=1)
