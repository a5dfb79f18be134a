"""One cloud made ready for matching: canonical frame, voxel units, normals, viewpoints, descriptors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from .canonical import voxel_centroids
from .descriptors import distinctiveness, pair_histograms, reversed_histograms
from .normals import Sensor, depth_map, estimate_normals, estimate_sensors, orient_normals

# Points for planes and for refinement lie on a grid twice as fine as the described ones.
FINE = 0.5


@dataclass(frozen=True)
class View:
    """All arrays in voxels, in the cloud's canonical frame."""

    points: np.ndarray  # (N, 3) one per voxel
    normals: np.ndarray  # (N, 3) facing `sensors[0]`
    fine: np.ndarray  # (M, 3) one per half voxel
    sensors: tuple[Sensor, ...]  # one or two; the second sees everything from behind
    depths: tuple[np.ndarray, ...]  # per sensor: the cube map of nearest distances
    descriptors: np.ndarray  # (N, D)
    distinctiveness: np.ndarray  # (N,) weight of a match at each point
    tree: cKDTree

    @property
    def centre(self) -> np.ndarray:
        """(3,) mean of the points."""
        return self.points.mean(axis=0)

    def turned(self) -> View:
        """The same cloud taken as seen from behind."""
        return replace(self, normals=-self.normals, descriptors=reversed_histograms(self.descriptors))

    def mirrored(self) -> View:
        """The reflected cloud, to be described anew."""
        flip = np.array([1.0, 1.0, -1.0])
        sensor = replace(self.sensors[0], origin=self.sensors[0].origin * flip)
        return make_view(self.points * flip, self.fine * flip, sensor)


def make_view(points: np.ndarray, fine: np.ndarray, sensor: Sensor | None = None) -> View:
    """Describe a cloud.

    Args:
        points: (N, 3) float64 in voxels, canonical frame, one per voxel.
        fine: (M, 3) the same surface sampled more finely.
        sensor: where it was seen from; estimated when None.
    """
    points, fine = np.ascontiguousarray(points), np.ascontiguousarray(fine)
    normals, _ = estimate_normals(points, fine)
    sensors = tuple(estimate_sensors(points, normals)) if sensor is None else (sensor,)
    normals = orient_normals(points, normals, sensors[0].origin)
    depths = tuple(depth_map(points, each.origin) for each in sensors)
    descriptors = pair_histograms(points, normals)
    weights = distinctiveness(descriptors)
    return View(points, normals, fine, sensors, depths, descriptors, weights, cKDTree(points))


def view_of(canonical: np.ndarray, voxel: float, sensor: np.ndarray | None) -> View:
    """`make_view` of a cloud (N, 3) in its canonical frame and the user's unit; `sensor` (3,) likewise."""
    scaled = canonical / voxel
    known = None if sensor is None else Sensor(sensor / voxel, 0.0, 0.0)
    return make_view(voxel_centroids(scaled, 1.0), voxel_centroids(scaled, FINE), known)
