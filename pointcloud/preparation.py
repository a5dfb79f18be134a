"""From a raw scan to what the network takes: thinned points in its unit, with normals that face the sensor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .canonical import apply, automatic_voxel, canonical_frame, voxel_centroids
from .normals import estimate_normals, orient_normals
from .pairs import CloudPair
from .roitr_config import RoITrConfig
from .view import FINE

# Neighbors of a plane where clouds are taken as they are, as in the released code of RoITr (with the point itself).
PLANE_NEIGHBORS = 33


class Surface(NamedTuple):
    """Points with normals."""

    points: np.ndarray  # (N, 3) float64
    normals: np.ndarray  # (N, 3) float64, unit, facing the sensor


def thinned_surface(points: np.ndarray, voxel: float, sensor: np.ndarray) -> Surface:
    """One point per voxel, in voxels, with the normal of the plane around it.

    Args:
        points: (N, 3) float64, any unit; the grid is anchored at their origin.
        voxel: edge, same unit.
        sensor: (3,) where the scan was taken from, same frame and unit.

    >>> grid = np.stack(np.meshgrid(np.arange(40.0), np.arange(40.0), [0.0]), -1).reshape(-1, 3)
    >>> surface = thinned_surface(grid, 4.0, np.array([20.0, 20.0, 50.0]))
    >>> len(surface.points), bool((surface.normals[:, 2] > 0.99).all())
    (100, True)
    """
    scaled = points / voxel
    coarse, fine = voxel_centroids(scaled, 1.0), voxel_centroids(scaled, FINE)
    normals, _ = estimate_normals(coarse, fine)
    return Surface(coarse, orient_normals(coarse, normals, sensor / voxel))


def common_voxel(clouds: list[np.ndarray], occupied: int) -> float:
    """Edge of the voxel that leaves about `occupied` of them in the larger cloud, whatever its pose.

    >>> bool(common_voxel([np.random.default_rng(0).uniform(size=(5000, 3))], 500) > 0.05)
    True
    """
    return automatic_voxel([apply(canonical_frame(cloud), cloud) for cloud in clouds], occupied)


def network_pair(
    source: np.ndarray,
    target: np.ndarray,
    config: RoITrConfig,
    *,
    frames: tuple[np.ndarray, np.ndarray] | None = None,
    transform: np.ndarray | None = None,
    occupied: int = 6000,
    name: str = "",
) -> CloudPair:
    """Two scans, each taken from its own origin, as the network of `config` takes them.

    Args:
        source, target: (N, 3) and (M, 3), any common unit; metres, and taken as they are, if `config.voxel` is None.
        frames: (4, 4) each, rigid motions of both scans before anything else: an augmentation.
        transform: (4, 4), source to target, as they come in.
        occupied: voxels of the larger cloud, where the network's unit is the voxel.
        name: of the pair.
    Returns:
        float64 clouds, and the transform between them.

    >>> from rotaware.datasets import indoor_pair
    >>> scans = indoor_pair(0, frames=3)
    >>> pair = network_pair(scans.source, scans.target, RoITrConfig(voxel=0.04), transform=scans.T_target_source)
    >>> pair.transform.shape
    torch.Size([4, 4])
    """
    frames = frames or (np.eye(4), np.eye(4))
    clouds = [apply(frame, np.asarray(cloud, dtype=np.float64)) for frame, cloud in zip(frames, (source, target),
                                                                                        strict=True)]  # fmt: skip
    sensors = [frame[:3, 3] for frame in frames]
    scale = 1.0
    if config.voxel is None:
        surfaces = []
        for cloud, sensor in zip(clouds, sensors, strict=True):
            normals, _ = estimate_normals(cloud, cloud, PLANE_NEIGHBORS)
            surfaces.append(Surface(cloud, orient_normals(cloud, normals, sensor)))
    else:
        voxel = common_voxel(clouds, occupied)
        scale = config.voxel / voxel
        surfaces = [thinned_surface(cloud, voxel, sensor) for cloud, sensor in zip(clouds, sensors, strict=True)]
        surfaces = [Surface(surface.points * config.voxel, surface.normals) for surface in surfaces]
    pose = None
    if transform is not None:
        pose = frames[1] @ transform @ np.linalg.inv(frames[0])
        pose[:3, 3] *= scale
    moving, fixed = surfaces
    return CloudPair(
        torch.from_numpy(moving.points),
        torch.from_numpy(moving.normals),
        torch.from_numpy(fixed.points),
        torch.from_numpy(fixed.normals),
        None if pose is None else torch.from_numpy(pose),
        name=name,
    )
