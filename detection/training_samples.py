"""What a detector is trained on: crops of images, each decided by the seed and its number alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from rotaware.geo.boxes import quads_to_boxes

from .augmentation import FILL, Augmentation, Sample
from .structures import Targets


class Source(Protocol):
    """Images with their objects."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, number: int, /) -> Sample:
        """One of them; ValueError or OSError if its file is damaged."""


@dataclass(frozen=True)
class Batch:
    """Images of one size with their objects."""

    images: Tensor  # (B, 3, size, size) uint8
    targets: tuple[Targets, ...]
    names: tuple[str, ...]
    # What was wrong with files; their images are blank.
    damage: tuple[str, ...]

    def to(self, device: torch.device | str) -> Batch:
        """On another device."""
        targets = tuple(each.to(device) for each in self.targets)
        return Batch(self.images.to(device, non_blocking=True), targets, self.names, self.damage)

    def only(self, number: int) -> Batch:
        """One of its images."""
        rows = slice(number, number + 1)
        return Batch(self.images[rows], self.targets[rows], self.names[rows], ())


class TrainingSamples(Dataset[Batch]):
    """Batches by the numbers of their samples.

    Every image comes once before any comes again, in an order that the seed decides, as it does the changes of each.

    Args:
        source: images with objects.
        augmentation: how they are changed.
        seed: of all that is drawn.
    """

    def __init__(self, source: Source, augmentation: Augmentation, seed: int) -> None:
        if len(source) == 0:
            raise ValueError("source: expected at least one image, got none")
        self.source, self.augmentation, self.seed = source, augmentation, seed
        self._order: tuple[int, list[int]] = (-1, [])

    def __getitem__(self, numbers: list[int]) -> Batch:
        """The samples of these numbers, 0 and above without an end."""
        parts, damage = [], []
        for number in numbers:
            chosen = self._image(number)
            generator = torch.Generator().manual_seed(_mixed(self.seed, number, 0))
            try:
                sample = self.source[chosen]
            except (OSError, ValueError) as error:
                damage.append(str(error))
                sample = _blank(f"image {chosen}", self.augmentation.size)
            parts.append(self.augmentation(sample, generator))
        return Batch(
            torch.stack([part.image for part in parts]),
            tuple(_targets(part) for part in parts),
            tuple(part.name for part in parts),
            tuple(damage),
        )

    def _image(self, number: int) -> int:
        """Which image is seen as the `number`-th."""
        epoch, place = divmod(number, len(self.source))
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(_mixed(self.seed, epoch, 1))
            self._order = epoch, torch.randperm(len(self.source), generator=generator).tolist()
        return self._order[1][place]


class Schedule(Sampler[list[int]]):
    """Numbers of the samples of each step of one process, from a step on, without an end."""

    def __init__(self, batch: int, first_step: int, rank: int, processes: int) -> None:
        self.batch, self.first_step, self.rank, self.processes = batch, first_step, rank, processes

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while True:
            first = (step * self.processes + self.rank) * self.batch
            yield list(range(first, first + self.batch))
            step += 1


def generator_of(seed: int, step: int, rank: int) -> torch.Generator:
    """What the losses of a step draw from."""
    return torch.Generator().manual_seed(_mixed(seed, step, 2 + rank))


def _mixed(*numbers: int) -> int:
    """One seed of several numbers, below 2^63; different numbers give different seeds but by accident."""
    seed = 0
    for number in numbers:
        seed = (seed ^ number) * 0x9E3779B97F4A7C15 % 2**64
        seed ^= seed >> 29
    return seed % 2**63


def _targets(sample: Sample) -> Targets:
    return Targets(quads_to_boxes(sample.quads).float(), sample.labels)


def _blank(name: str, size: int) -> Sample:
    image = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].expand(3, size, size)
    return Sample(image, torch.zeros(0, 4, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.int64), name)
