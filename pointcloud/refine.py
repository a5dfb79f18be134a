"""Local refinement by small_gicp on the fine points."""

from __future__ import annotations

from typing import Literal

import numpy as np
import small_gicp

from .view import View

Refinement = Literal["none", "gicp", "point", "plane"]

_KINDS = {"gicp": "GICP", "point": "ICP", "plane": "PLANE_ICP"}
# Search radii in voxels: first on the keypoints, which forgives a rough start, then on the fine points.
COARSE_RADIUS = 2.0
FINE_RADIUS = 1.0
# Neighborhoods of fewer points cannot be fitted.
MIN_POINTS = 20


class Refiner:
    """Aligns two views from a starting pose; neighborhoods are fitted once and serve every start.

    One thread: sums in a fixed order make the answer the same whatever the machine is doing.
    """

    def __init__(self, source: View, target: View, kind: Refinement) -> None:
        smallest = min(len(points) for view in (source, target) for points in (view.points, view.fine))
        self._kind = kind if smallest >= MIN_POINTS else "none"
        if self._kind != "none":
            self._passes = (
                (_fitted(source.points), _fitted(target.points), COARSE_RADIUS, 10),
                (_fitted(source.fine), _fitted(target.fine), FINE_RADIUS, 20),
            )

    def __call__(self, pose: np.ndarray) -> np.ndarray:
        """Refined (4, 4) pose from `pose`, voxels, canonical frames."""
        if self._kind == "none":
            return pose
        for (source, _), (target, tree), radius, iterations in self._passes:
            result = small_gicp.align(
                target,
                source,
                tree,
                init_T_target_source=pose,
                registration_type=_KINDS[self._kind],
                max_correspondence_distance=radius,
                num_threads=1,
                max_iterations=iterations,
            )
            moved = np.asarray(result.T_target_source, dtype=np.float64)
            if not np.isfinite(moved).all() or result.num_inliers < 6:
                break
            pose = moved
        return pose


def _fitted(points: np.ndarray) -> tuple[small_gicp.PointCloud, small_gicp.KdTree]:
    cloud = small_gicp.PointCloud(points)
    tree = small_gicp.KdTree(cloud, num_threads=1)
    small_gicp.estimate_normals_covariances(cloud, tree, num_neighbors=20, num_threads=1)
    return cloud, tree
