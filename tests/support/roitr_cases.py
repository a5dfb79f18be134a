"""Clouds and networks for the tests of RoITr: small, and in general position unless a test wants otherwise."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rotaware.geo import axis_angle_to_matrix, make_transform, transform_points
from rotaware.pointcloud.pairs import CloudPair
from rotaware.pointcloud.roitr import RoITr
from rotaware.pointcloud.roitr_config import RoITrConfig

SMALL = RoITrConfig(
    widths=(8, 16, 16, 16),
    strides=(1, 4, 2, 2),
    neighbors=(8, 8, 8, 8),
    global_layers=2,
    point_channels=16,
    patch_points=32,
    patch_pairs=24,
)
# The reference of the wide network was made with more and weaker matches than its configuration asks for.
PUBLISHED = {
    "rigid": RoITrConfig.rigid(tie_tolerance=0.0),
    "nonrigid": RoITrConfig.nonrigid(tie_tolerance=0.0, patch_pairs=256, top_k=3),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pose(seed: int) -> Tensor:
    numbers = random(2, 3, seed=seed) * 4 - 2
    return make_transform(axis_angle_to_matrix(numbers[0]), numbers[1])


def pair(source: int = 400, target: int = 380, seed: int = 0) -> CloudPair:
    """Two views of one wavy surface of a square metre, each in its own frame, overlapping by two thirds."""
    truth, clouds = pose(seed), []
    for number, (count, shift) in enumerate(((source, 0.0), (target, 0.3))):
        plane = random(count, 2, seed=10 * seed + number)
        x, y = (plane + torch.tensor([shift, 0.0])).unbind(1)
        height = 0.1 * torch.sin(5 * x) * torch.cos(4 * y)
        slopes = 0.5 * torch.cos(5 * x) * torch.cos(4 * y), -0.4 * torch.sin(5 * x) * torch.sin(4 * y)
        normals = normalize(torch.stack([-slopes[0], -slopes[1], torch.ones_like(x)], 1), dim=1)
        clouds.append((torch.stack([x, y, height], 1), normals))
    (source_points, source_normals), (points, normals) = clouds
    parts = source_points, source_normals, transform_points(truth, points), normals @ truth[:3, :3].T, truth
    return CloudPair(*(part.float() for part in parts), name=f"pair {seed}")


def rearranged(original: CloudPair, source: Tensor, target: Tensor) -> CloudPair:
    """Chosen rows of both clouds."""
    return replace(
        original,
        source=original.source[source],
        source_normals=original.source_normals[source],
        target=original.target[target],
        target_normals=original.target_normals[target],
    )


def network(config: RoITrConfig = SMALL, seed: int = 0) -> RoITr:
    """With random weights, for inference."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RoITr(config).eval()


def fixtures(shared_data: Path) -> Path:
    """Reference outputs of the authors' network."""
    folder = shared_data.parent / "fixtures" / "roitr"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {folder}")
    return folder


@cache
def published_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The weights of the reference by their published names."""
    keys = "roitr_state_dict_keys.json" if name == "rigid" else "roitr_nonrigid_state_dict_keys.json"
    filled: Any = runpy.run_path(str(folder / "fill.py"))["filled_state_dict"]
    return filled(dict(json.loads((folder / keys).read_text())))  # type: ignore[no-any-return]


def reference(folder: Path, name: str) -> dict[str, Tensor]:
    """The arrays of the reference."""
    with np.load(folder / f"roitr_{name}_a.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
