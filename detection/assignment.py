"""Which reference learns which object, and which of them take part in a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BACKGROUND, IGNORED = -1, -2
# Objects whose overlaps with all references are held at once.
AT_ONCE = 64

Overlap = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MaxIoUAssigner:
    """Each reference gets the object it overlaps most, if it does so enough.

    Args:
        positive: overlap from which a reference belongs to an object.
        negative: overlap below which it is background; in between it is ignored.
        least: overlap that the best reference of an object must have to belong to it all the same.
        low_quality: whether the best references of an object belong to it even below `positive`.
    """

    positive: float
    negative: float
    least: float = 0.0
    low_quality: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.negative <= self.positive <= 1:
            raise ValueError(f"negative, positive: expected 0 <= {self.negative} <= {self.positive} <= 1")

    def __call__(self, references: Tensor, objects: Tensor, overlap: Overlap) -> Tensor:
        """Row of the object of each reference, or BACKGROUND, or IGNORED.

        Args:
            references: (A, ...) in whatever form `overlap` takes.
            objects: (n, ...).
            overlap: of (m, ...) objects and (A, ...) references, (m, A).
        Returns:
            (A,) int64.
        """
        count = len(references)
        best = references.new_zeros(count)
        owner = torch.full((count,), BACKGROUND, dtype=torch.int64, device=references.device)
        claimed = torch.full((count,), BACKGROUND, dtype=torch.int64, device=references.device)
        for start in range(0, len(objects), AT_ONCE) if count else ():
            part = overlap(objects[start : start + AT_ONCE], references)
            value, row = part.max(dim=0)
            better = value > best
            best = torch.where(better, value, best)
            owner = torch.where(better, row + start, owner)
            if self.low_quality:
                top = part.amax(dim=1, keepdim=True)
                # An object that touches nothing claims nothing; of several, the last one wins.
                claims = (part == top) & (top >= self.least) & (top > 0)
                number = torch.arange(start, start + len(part), device=owner.device)[:, None]
                last = torch.where(claims, number, BACKGROUND).amax(dim=0)
                claimed = torch.maximum(claimed, last)
        found = torch.where(best >= self.positive, owner, torch.where(best < self.negative, BACKGROUND, IGNORED))
        return torch.where(claimed >= 0, claimed, found)


def sampled(assigned: Tensor, count: int, positive_share: float, generator: torch.Generator) -> Tensor:
    """Rows that take part in a step, positives first: at most a share of them, the rest background.

    Args:
        assigned: (A,) of an assigner.
        count: rows wanted; fewer where there are not enough.
        positive_share: of `count`, at most.
        generator: on the CPU.
    """
    positives = (assigned >= 0).nonzero()[:, 0]
    negatives = (assigned == BACKGROUND).nonzero()[:, 0]
    chosen = _drawn(positives, int(count * positive_share), generator)
    return torch.cat([chosen, _drawn(negatives, count - len(chosen), generator)])


def _drawn(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(rows) <= most:
        return rows
    order = torch.randperm(len(rows), generator=generator)[:most]
    return rows[order.to(rows.device)]
