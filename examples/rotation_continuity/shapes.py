"""Point clouds for the pose experiment: generated airplanes, or a folder of files."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from command import BadData
from torch import Tensor

from rotaware.geo import axis_angle_to_matrix
from rotaware.pointcloud import InputError, UnreadableFileError, read_point_cloud

EXTENSIONS = (".ply", ".pcd", ".npy", ".npz", ".xyz", ".txt", ".csv", ".pts", ".asc")


def airplanes(clouds: int, points: int, generator: torch.Generator) -> Tensor:
    """Airplanes of random proportions, noses along +x, up along +z: (clouds, points, 3), extent of about 1."""
    return torch.stack([airplane(points, generator) for _ in range(clouds)])


def airplane(points: int, generator: torch.Generator) -> Tensor:
    """(points, 3) on the surface of a fuselage, two wings, a tail plane, a fin and engines."""

    def between(low: float, high: float) -> float:
        return float(low + (high - low) * torch.rand((), generator=generator))

    radius, span, sweep = between(0.04, 0.08), between(0.7, 1.1), between(0.0, 0.35)
    chord, tail_span, height = between(0.12, 0.22), between(0.25, 0.4), between(0.12, 0.22)
    wing_x, engine_y = between(-0.05, 0.15), between(0.12, 0.25)
    counts = [points * share // 100 for share in (38, 34, 10, 8)]
    counts.append(points - sum(counts))

    u, v = torch.rand(2, points, generator=generator)
    body, wing, tail, fin, engine = zip(u.split(counts), v.split(counts), strict=True)
    turn = 2 * math.pi * body[1]
    # Round at the nose, a long taper towards the tail.
    width = radius * (1 - (2 * body[0] - 1).clamp(min=0) ** 2).sqrt() * (0.25 + 0.75 * (2.5 * body[0]).clamp(max=1))
    parts = [torch.stack([body[0] - 0.5, width * turn.cos(), width * turn.sin()], -1)]
    y = span * (wing[0] - 0.5)
    parts.append(
        torch.stack([wing_x - sweep * y.abs() - chord * (1 - y.abs() / span) * wing[1], y, 0.08 * y.abs()], -1)
    )
    y = tail_span * (tail[0] - 0.5)
    parts.append(torch.stack([-0.4 - 0.4 * y.abs() - 0.09 * tail[1], y, torch.full_like(y, 0.02)], -1))
    z = height * fin[0]
    parts.append(torch.stack([-0.38 - 0.5 * z - 0.1 * (1 - fin[0] / 2) * fin[1], torch.zeros_like(z), z], -1))
    turn = 2 * math.pi * engine[1]
    side = torch.where(torch.arange(len(turn)) % 2 == 0, engine_y, -engine_y)
    x = wing_x - sweep * engine_y + 0.12 * (engine[0] - 0.5)
    parts.append(torch.stack([x, side + 0.025 * turn.cos(), 0.025 * turn.sin() - 0.04], -1))
    # A little disorder, as between models of different makers.
    tilt = axis_angle_to_matrix(0.03 * torch.randn(3, generator=generator))
    cloud = torch.cat(parts) @ tilt.mT + 0.002 * torch.randn(points, 3, generator=generator)
    # Any first part of a cloud is a sample of the whole.
    return cloud[torch.randperm(points, generator=generator)]


def folder_of_clouds(folder: Path, points: int | None) -> tuple[Tensor, Tensor]:
    """Training and held-out clouds of a folder, each (clouds, points, 3).

    The sub-folders `train` and `test` are used where both exist; otherwise every seventh file is held out. As in the
    paper, only the first half of each file counts. Clouds are moved to their centre and scaled to an extent of 1.

    Args:
        folder: with point files, searched with its sub-folders.
        points: of each cloud; by default all of its half. Short clouds repeat points, which a maximum does not notice.
    Raises:
        BadData: no files, fewer than two, or one that cannot be used.
    """
    if not folder.is_dir():
        raise BadData(f"expected a folder of point clouds, got {folder}")
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        paths = {part: point_files(folder / part) for part in ("train", "test")}
    else:
        found = point_files(folder)
        if len(found) < 2:
            raise BadData(f"{folder}: expected at least two clouds, one to train on and one to hold out, got one")
        held_out = found[min(3, len(found) - 1) :: 7]
        paths = {"train": [path for path in found if path not in held_out], "test": held_out}
    halves = {part: [first_half(path) for path in files] for part, files in paths.items()}
    count = points or max(len(cloud) for clouds in halves.values() for cloud in clouds)
    train, test = (torch.stack([repeated(cloud, count) for cloud in halves[part]]) for part in ("train", "test"))
    return train, test


def point_files(folder: Path) -> list[Path]:
    """The point files below a folder, sorted."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not found:
        raise BadData(f"{folder}: expected point clouds ({' '.join(EXTENSIONS)}), got none")
    return found


def first_half(path: Path) -> Tensor:
    """The first half of the points of a file, centred, with an extent of 1."""
    try:
        points = torch.from_numpy(read_point_cloud(path).points).float()
    except (InputError, UnreadableFileError) as error:
        raise BadData(str(error)) from error
    half = points[: (len(points) + 1) // 2]
    half = half - (half.amin(0) + half.amax(0)) / 2
    extent = 2 * half.abs().max()
    if len(half) < 8 or not extent > 0:
        raise BadData(f"{path}: expected at least 16 points that are not all the same, got {len(points)}")
    return half / extent


def repeated(cloud: Tensor, count: int) -> Tensor:
    """The first `count` points, from the beginning again where the cloud has fewer."""
    return cloud[torch.arange(count) % len(cloud)]
