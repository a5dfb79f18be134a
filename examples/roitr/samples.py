"""From pairs of scans to batches of the network, each wholly decided by its number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from recipe import Options
from torch.utils.data import Dataset, Sampler

from rotaware.geo import random_rotations
from rotaware.pointcloud import CloudPair, PairBatch, RoITrConfig, network_pair


class Pairs(Protocol):
    """Any dataset of pairs with `source`, `target`, `T_target_source`, `name` and, of scenes that deform, `flow`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Minibatch:
    """A batch and the numbers of its samples.

    Neither tuple nor dataclass: Fabric would look for tensors in it and convert their dtype.
    """

    def __init__(self, pairs: PairBatch, numbers: list[int]) -> None:
        self.pairs, self.numbers = pairs, numbers

    def to(self, device: torch.device) -> Minibatch:
        """On another device."""
        return Minibatch(self.pairs.to(device, non_blocking=True), self.numbers)

    def pin_memory(self) -> Minibatch:
        """In page-locked memory; the data loader calls it."""
        return Minibatch(self.pairs.pin_memory(), self.numbers)


class Samples(Dataset[Minibatch]):
    """Batches by the numbers of their samples; made in a worker, pyramid and all."""

    def __init__(self, pairs: Pairs, config: RoITrConfig, options: Options, *, augmented: bool) -> None:
        self.pairs, self.config, self.options, self.augmented = pairs, config, options, augmented

    def __getitem__(self, numbers: list[int]) -> Minibatch:
        clouds = [self.sample(number) for number in numbers]
        return Minibatch(PairBatch.build(clouds, self.config, inverse=self.augmented), numbers)

    def row(self, number: int) -> int:
        """Which pair: every pass over the data has an order of its own; validation takes some, evenly spread."""
        size = len(self.pairs)
        if not self.augmented:
            return number * size // self.options.validation_pairs
        order = np.random.default_rng([self.options.seed, number // size, 1]).permutation(size)
        return int(order[number % size])

    def sample(self, number: int) -> CloudPair:
        """Sample `number`: it depends on the seed and on nothing else."""
        options = self.options
        pair = self.pairs[self.row(number)]
        clouds = [np.asarray(cloud, dtype=np.float64) for cloud in (pair.source, pair.target)]
        T = np.asarray(pair.T_target_source, dtype=np.float64)
        flow = getattr(pair, "flow", None)
        if flow is not None and self.config.voxel is not None:
            raise ValueError("network.voxel: expected null for scenes that deform, whose points are not merged")
        # One generator per kind of augmentation: with one of them changed, the others stay as they are.
        picker, shaker, spoiler = (np.random.default_rng([options.seed, number, *kind]) for kind in ([2], [], [3]))
        rows = [_subset(len(cloud), options.most_points, picker) for cloud in clouds]
        if self.augmented and options.crop:
            rows = [_cropped(cloud, kept, options.crop, spoiler) for cloud, kept in zip(clouds, rows, strict=True)]
        clouds = [cloud[kept] for cloud, kept in zip(clouds, rows, strict=True)]
        flow = None if flow is None else np.asarray(flow, dtype=np.float64)[rows[0]]
        if self.augmented and options.sensor_shift:
            # The sensor is taken to be at the origin: move the scan instead.
            shifts = spoiler.normal(0, options.sensor_shift, (2, 3))
            clouds = [cloud - shift for cloud, shift in zip(clouds, shifts, strict=True)]
            T = _translation(-shifts[1]) @ T @ _translation(shifts[0])
        frames, occupied = [np.eye(4), np.eye(4)], sum(options.occupied) // 2
        if self.augmented and options.rotations == "published":
            turned, turn = int(shaker.uniform() > 0.5), _published_rotation(shaker)
            clouds[turned] = clouds[turned] @ turn[:3, :3].T
            T = turn @ T if turned else T @ turn.T
            flow = flow @ turn[:3, :3].T if flow is not None and not turned else flow
        if self.augmented:
            occupied = int(np.exp(shaker.uniform(*np.log(options.occupied))))
            clouds = [cloud + shaker.uniform(-0.5, 0.5, cloud.shape) * options.noise for cloud in clouds]
        if options.rotations == "uniform":
            # Validation as well: the frame also decides where the voxels fall.
            frames = _uniform_frames(shaker)
            flow = None if flow is None else flow @ frames[0][:3, :3].T
        clean = network_pair(
            *clouds, self.config, frames=(frames[0], frames[1]), transform=T, occupied=occupied, name=pair.name
        )
        if flow is not None:
            clean = replace(clean, flow=torch.from_numpy(flow).to(clean.source.dtype))
        return _flipped(clean, options.flips, spoiler) if self.augmented and options.flips else clean


class Schedule(Sampler[list[int]]):
    """The numbers of the samples of each forward pass of one process, from any step on.

    Every step takes the next `batch * world` numbers, of which each process has its stretch.
    """

    def __init__(self, options: Options, start: int, rank: int, world: int) -> None:
        self.options, self.start, self.rank, self.world = options, start, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        batch, packed = self.options.batch, self.options.packed
        for step in range(self.start, self.options.steps):
            own = (step * self.world + self.rank) * batch
            for first in range(own, own + batch, packed):
                yield list(range(first, first + packed))

    def __len__(self) -> int:
        return (self.options.steps - self.start) * (self.options.batch // self.options.packed)


def _subset(size: int, most: int, generator: np.random.Generator) -> np.ndarray:
    """Rows kept, in random order where some are left out, as in the released code."""
    return generator.permutation(size)[:most] if 0 < most < size else np.arange(size)


def _cropped(cloud: np.ndarray, rows: np.ndarray, most: float, generator: np.random.Generator) -> np.ndarray:
    """Rows on one side of a random plane, which cuts away a share of at most `most`."""
    along = cloud[rows] @ generator.normal(size=3)
    return rows[along <= np.quantile(along, 1 - generator.uniform(0, most))]


def _translation(shift: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = shift
    return T


def _uniform_frames(generator: np.random.Generator) -> list[np.ndarray]:
    """A rigid motion for each scan, with rotations uniform over SO(3) and shifts of up to a metre."""
    turns = random_rotations(2, generator=torch.Generator().manual_seed(int(generator.integers(2**62))))
    frames = [np.eye(4), np.eye(4)]
    for frame, turn in zip(frames, turns.double().numpy(), strict=True):
        frame[:3, :3] = turn
        frame[:3, 3] = generator.uniform(-1, 1, 3)
    return frames


def _published_rotation(generator: np.random.Generator) -> np.ndarray:
    """(4, 4) by three uniform angles about z, then y, then x: not uniform over rotations."""
    turn = np.eye(4)
    for axis, angle in zip((2, 1, 0), generator.uniform(0, 2 * np.pi, 3), strict=True):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        about = np.eye(4)
        about[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = about @ turn
    return turn


def _flipped(pair: CloudPair, share: float, generator: np.random.Generator) -> CloudPair:
    """The pair with a share of its normals turned around."""
    normals = []
    for given in (pair.source_normals, pair.target_normals):
        sign = np.where(generator.uniform(size=len(given)) < share, -1.0, 1.0)
        normals.append(given * torch.from_numpy(sign).to(given.dtype)[:, None])
    return replace(pair, source_normals=normals[0], target_normals=normals[1])
