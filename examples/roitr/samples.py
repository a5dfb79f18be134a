"""From pairs of scans to batches of the network, each wholly decided by its number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipe import Options
from torch.utils.data import Dataset, Sampler

from rotaware.datasets import ThreeDMatch
from rotaware.datasets.augment import random_crop, random_subset, rotation_about_fixed_axes, turned
from rotaware.datasets.fourdmatch import DeformingPair, FourDMatch
from rotaware.geo import random_rotations
from rotaware.pointcloud import CloudPair, PairBatch, RoITrConfig, network_pair
from rotaware.pointcloud.preparation import thinned_surface

Pairs = ThreeDMatch | FourDMatch


def pairs_below(folder: str, pair_list: str, least_overlap: float, most_overlap: float = 1.0) -> Pairs:
    """The pairs of a folder: those of a list in it, or those of 4DMatch where there is no list.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: a list that is damaged.
    """
    if (Path(folder) / pair_list).is_file() or not any(Path(folder).rglob("*.npz")):
        return ThreeDMatch(folder, pair_list, overlap=(least_overlap, most_overlap))
    return FourDMatch(folder)


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
        # One generator per kind of augmentation: with one of them changed, the others stay as they are.
        picker, shaker, spoiler = (np.random.default_rng([options.seed, number, *kind]) for kind in ([2], [], [3]))
        pair: Any = self.pairs[self.row(number)]
        if isinstance(pair, DeformingPair) and self.config.voxel is not None:
            raise ValueError("network.voxel: expected null for scenes that deform, whose points are not merged")
        if options.thin and (isinstance(pair, DeformingPair) or self.config.voxel is not None):
            raise ValueError(f"thin: expected 0 for scenes that deform or with network.voxel, got {options.thin}")
        if options.most_points:
            pair = random_subset(pair, picker, options.most_points)
        if self.augmented and options.crop:
            pair = random_crop(pair, spoiler, options.crop)
        if self.augmented and options.rotations == "published":
            turns_source = shaker.uniform() <= 0.5
            rotation = rotation_about_fixed_axes(shaker.uniform(0, 2 * np.pi, 3))
            pair = turned(pair, **{"source" if turns_source else "target": rotation})
        clouds = [np.asarray(cloud, dtype=np.float64) for cloud in (pair.source, pair.target)]
        T, occupied, frames = pair.T_target_source, sum(options.occupied) // 2, [np.eye(4), np.eye(4)]
        if self.augmented and options.sensor_shift:
            # The sensor is taken to be at the origin: move the scan instead.
            shifts = spoiler.normal(0, options.sensor_shift, (2, 3))
            clouds = [cloud - shift for cloud, shift in zip(clouds, shifts, strict=True)]
            T = _translation(-shifts[1]) @ T @ _translation(shifts[0])
        if self.augmented:
            occupied = int(np.exp(shaker.uniform(*np.log(options.occupied))))
            clouds = [cloud + shaker.uniform(-0.5, 0.5, cloud.shape) * options.noise for cloud in clouds]
        if options.rotations == "uniform":
            # Validation as well: the frame also decides where the voxels fall.
            frames = uniform_frames(shaker)
        if options.thin:
            clean = thinned_pair(clouds, frames, T, voxel=options.thin, unit=options.thin, name=pair.name)
        else:
            clean = network_pair(
                clouds[0],
                clouds[1],
                self.config,
                frames=(frames[0], frames[1]),
                transform=T,
                occupied=occupied,
                name=pair.name,
            )
        if isinstance(pair, DeformingPair):
            flow = torch.from_numpy(pair.flow @ frames[0][:3, :3].T)
            clean = replace(clean, flow=flow.to(clean.source.dtype))
        return flipped(clean, options.flips, spoiler) if self.augmented and options.flips else clean


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


def _translation(shift: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = shift
    return T


def uniform_frames(generator: np.random.Generator) -> list[np.ndarray]:
    """A rigid motion for each scan, with rotations uniform over SO(3) and shifts of up to a metre."""
    turns = random_rotations(2, generator=torch.Generator().manual_seed(int(generator.integers(2**62))))
    frames = [np.eye(4), np.eye(4)]
    for frame, turn in zip(frames, turns.double().numpy(), strict=True):
        frame[:3, :3] = turn
        frame[:3, 3] = generator.uniform(-1, 1, 3)
    return frames


def thinned_pair(
    clouds: Sequence[np.ndarray],
    frames: Sequence[np.ndarray],
    transform: np.ndarray,
    *,
    voxel: float,
    unit: float,
    name: str = "",
) -> CloudPair:
    """Source and target as `network_pair` gives them, thinned with a given voxel, which has the length `unit` then."""
    moved = [cloud @ frame[:3, :3].T + frame[:3, 3] for cloud, frame in zip(clouds, frames, strict=True)]
    # The sensor is at the origin of a scan's own frame.
    surfaces = [thinned_surface(cloud, voxel, frame[:3, 3]) for cloud, frame in zip(moved, frames, strict=True)]
    pose = frames[1] @ transform @ np.linalg.inv(frames[0])
    pose[:3, 3] *= unit / voxel
    arrays = [each for surface in surfaces for each in (surface.points * unit, surface.normals)]
    source, source_normals, target, target_normals = (torch.from_numpy(each) for each in arrays)
    return CloudPair(source, source_normals, target, target_normals, torch.from_numpy(pose), name=name)


def flipped(pair: CloudPair, share: float, generator: np.random.Generator) -> CloudPair:
    """The pair with a share of its normals turned around."""
    normals = []
    for given in (pair.source_normals, pair.target_normals):
        sign = np.where(generator.uniform(size=len(given)) < share, -1.0, 1.0)
        normals.append(given * torch.from_numpy(sign).to(given.dtype)[:, None])
    return replace(pair, source_normals=normals[0], target_normals=normals[1])
