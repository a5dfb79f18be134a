"""How boxes are written as offsets from a reference: what a detector learns to predict.

Boxes are (cx, cy, w, h, theta), theta clockwise; see `rotaware.geo.boxes`. Offsets are divided by `stds` after they are
taken, so that all are about as large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rotaware.geo.boxes import boxes_to_hulls, boxes_to_quads, normalize_boxes
from rotaware.geo.checks import require_shape

# Sides change by no more than this factor in one step, as in Detectron.
MOST_STRETCH = abs(math.log(16.0 / 1000.0))
# Sides below are taken for this: a logarithm of nothing would be infinite.
LEAST_SIDE = 1e-3
# Corners this near to the border of the hull, relative to its size, lie on it.
ON_BORDER = 1e-3


class BoxCoder(Protocol):
    """Offsets of boxes from references, and back."""

    @property
    def size(self) -> int:
        """Numbers that stand for a box."""

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """(N, size) offsets that lead from `references` to `boxes` (N, 5)."""

    def decode(self, references: Tensor, offsets: Tensor) -> Tensor:
        """(N, 5) boxes that `offsets` (N, size) lead to."""


def _sides(values: Tensor) -> Tensor:
    return values.clamp_min(LEAST_SIDE)


@dataclass(frozen=True)
class RotatedCoder:
    """From oriented references: centre in their frame, sides as logarithms, and the smaller turn.

    A box has two names, with its sides exchanged and a quarter turn on; the one that turns less from the reference is
    taken (edge swap), so that the turn stays in [-pi/4, pi/4] and no border of a convention is learnt.
    """

    stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    size: int = 5

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """(N, 5) of references (N, 5) and boxes (N, 5)."""
        require_shape("references", references, "N", 5)
        require_shape("boxes", boxes, "N", 5)
        px, py, pw, ph, pt = references.unbind(1)
        gx, gy, gw, gh, gt = boxes.unbind(1)
        pw, ph, gw, gh = (_sides(each) for each in (pw, ph, gw, gh))
        cos, sin = pt.cos(), pt.sin()
        turn = _half_turn(gt - pt)
        other = _half_turn(gt - pt + math.pi / 2)
        # On equality the sides are exchanged: one rule for both.
        keep = turn.abs() < other.abs()
        width, height = torch.where(keep, gw, gh), torch.where(keep, gh, gw)
        offsets = torch.stack(
            [
                (cos * (gx - px) + sin * (gy - py)) / pw,
                (-sin * (gx - px) + cos * (gy - py)) / ph,
                (width / pw).log(),
                (height / ph).log(),
                torch.where(keep, turn, other),
            ],
            dim=1,
        )
        return offsets / offsets.new_tensor(self.stds)

    def decode(self, references: Tensor, offsets: Tensor) -> Tensor:
        """(N, 5) boxes, le90."""
        return normalize_boxes(self.decode_in_frame(references, offsets))

    def decode_in_frame(self, references: Tensor, offsets: Tensor) -> Tensor:
        """(N, 5) boxes whose sides keep the names of those of the references: no jump where they are equal."""
        require_shape("references", references, "N", 5)
        require_shape("offsets", offsets, "N", 5)
        px, py, pw, ph, pt = references.unbind(1)
        pw, ph = _sides(pw), _sides(ph)
        dx, dy, dw, dh, turn = (offsets * offsets.new_tensor(self.stds)).unbind(1)
        cos, sin = pt.cos(), pt.sin()
        along, across = dx * pw, dy * ph
        return torch.stack(
            [
                px + cos * along - sin * across,
                py + sin * along + cos * across,
                pw * dw.clamp(-MOST_STRETCH, MOST_STRETCH).exp(),
                ph * dh.clamp(-MOST_STRETCH, MOST_STRETCH).exp(),
                pt + turn,
            ],
            dim=1,
        )


@dataclass(frozen=True)
class HorizontalCoder:
    """From axis-aligned references (x1, y1, x2, y2): as `RotatedCoder` without a turn of the reference.

    The turn is counted in whole turns, as in Rotated Faster R-CNN.
    """

    stds: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2, 0.1)
    size: int = 5

    def _rotated(self) -> RotatedCoder:
        return RotatedCoder((*self.stds[:4], self.stds[4] * 2 * math.pi))

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """(N, 5) of references (N, 4) and boxes (N, 5)."""
        return self._rotated().encode(upright(references), boxes)

    def decode(self, references: Tensor, offsets: Tensor) -> Tensor:
        """(N, 5) boxes, le90."""
        return self._rotated().decode(upright(references), offsets)


@dataclass(frozen=True)
class HullCoder:
    """Between axis-aligned boxes (x1, y1, x2, y2), as in Faster R-CNN; of oriented ones, the hull."""

    stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    size: int = 4

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """(N, 4) of references (N, 4) and boxes (N, 5)."""
        hulls = boxes_to_hulls(boxes)
        p, g = upright(references), upright(hulls)
        p, g = (torch.cat([each[:, :2], _sides(each[:, 2:4])], dim=1) for each in (p, g))
        offsets = torch.cat([(g[:, :2] - p[:, :2]) / p[:, 2:], (g[:, 2:] / p[:, 2:]).log()], dim=1)
        return offsets / offsets.new_tensor(self.stds)

    def decode(self, references: Tensor, offsets: Tensor) -> Tensor:
        """(N, 5) boxes, le90, without a turn."""
        return normalize_boxes(self.decode_hulls(references, offsets))

    def decode_hulls(self, references: Tensor, offsets: Tensor) -> Tensor:
        """(N, 5) boxes whose width is along x."""
        require_shape("offsets", offsets, "N", 4)
        p, d = upright(references), offsets * offsets.new_tensor(self.stds)
        sides = _sides(p[:, 2:4]) * d[:, 2:].clamp(-MOST_STRETCH, MOST_STRETCH).exp()
        return torch.cat([p[:, :2] + d[:, :2] * _sides(p[:, 2:4]), sides, torch.zeros_like(d[:, :1])], dim=1)


@dataclass(frozen=True)
class MidpointCoder:
    """From axis-aligned references (x1, y1, x2, y2): the hull, and where the top and right corners touch it.

    Xie et al., "Oriented R-CNN for Object Detection", ICCV 2021: a parallelogram in six numbers that change
    continuously with the box. Decoding scales the shorter diagonal to the longer one, which makes it a rectangle.
    """

    stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 0.5, 0.5)
    size: int = 6

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """(N, 6) of references (N, 4) and boxes (N, 5)."""
        require_shape("boxes", boxes, "N", 5)
        p = upright(references)
        quads = boxes_to_quads(boxes)
        x, y = quads.unbind(-1)
        low, high = quads.amin(dim=1), quads.amax(dim=1)
        centre, extent = (low + high) / 2, _sides(high - low)
        slack = ON_BORDER * extent.amax(dim=1, keepdim=True)
        # Of several corners on a border, as of a box without a turn, the last one clockwise.
        top = torch.where(y - low[:, 1:] <= slack, x, -math.inf).amax(dim=1)
        right = torch.where(high[:, :1] - x <= slack, y, -math.inf).amax(dim=1)
        offsets = torch.stack(
            [
                (centre[:, 0] - p[:, 0]) / _sides(p[:, 2]),
                (centre[:, 1] - p[:, 1]) / _sides(p[:, 3]),
                (extent[:, 0] / _sides(p[:, 2])).log(),
                (extent[:, 1] / _sides(p[:, 3])).log(),
                (top - centre[:, 0]) / extent[:, 0],
                (right - centre[:, 1]) / extent[:, 1],
            ],
            dim=1,
        )
        return offsets / offsets.new_tensor(self.stds)

    def decode(self, references: Tensor, offsets: Tensor) -> Tensor:
        """(N, 5) boxes, le90."""
        require_shape("offsets", offsets, "N", 6)
        p, d = upright(references), offsets * offsets.new_tensor(self.stds)
        centre = p[:, :2] + d[:, :2] * _sides(p[:, 2:4])
        half = _sides(p[:, 2:4]) * d[:, 2:4].clamp(-MOST_STRETCH, MOST_STRETCH).exp() / 2
        share = 2 * d[:, 4:].clamp(-0.5, 0.5)
        # From the centre to the top corner and to the right one; the others are opposite.
        up = torch.stack([share[:, 0] * half[:, 0], -half[:, 1]], dim=1)
        right = torch.stack([half[:, 0], share[:, 1] * half[:, 1]], dim=1)
        lengths = torch.stack([up.norm(dim=1), right.norm(dim=1)], dim=1)
        longest = lengths.amax(dim=1, keepdim=True)
        up, right = (each * longest / lengths[:, k : k + 1].clamp_min(1e-12) for k, each in enumerate((up, right)))
        # Diagonals of one length are those of a rectangle, whose sides are their half sums and differences.
        side, other = right + up, right - up
        boxes = torch.stack(
            [*centre.unbind(1), side.norm(dim=1), other.norm(dim=1), torch.atan2(side[:, 1], side[:, 0])], dim=1
        )
        return normalize_boxes(boxes)


def _half_turn(angles: Tensor) -> Tensor:
    """In [-pi/2, pi/2): a box turned by half a turn is the same."""
    return (angles + math.pi / 2).remainder(math.pi) - math.pi / 2


def upright(references: Tensor) -> Tensor:
    """(N, 5) boxes, width along x, of (N, 4) x1 y1 x2 y2."""
    require_shape("references", references, "N", 4)
    low, high = references[:, :2], references[:, 2:]
    return torch.cat([(low + high) / 2, high - low, torch.zeros_like(low[:, :1])], dim=1)
