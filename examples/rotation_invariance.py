"""Move both scans by any rotation and shift, and the answer moves along.

If T maps source to target, and A and B move the two scans, then B T inverse(A) maps moved source to moved target.

Run: python examples/rotation_invariance.py
"""

from __future__ import annotations

import torch

from rotaware.datasets import indoor_pair
from rotaware.geo import (
    compose_transforms,
    geodesic_distance,
    invert_transform,
    make_transform,
    random_rotations,
    transform_points,
)
from rotaware.pointcloud import register

# Metres. Coarser than `register` would choose, to be quick.
VOXEL = 0.06


def main() -> tuple[float, float]:
    """Largest deviation from the expected pose over two moves: degrees, and metres at the middle of the source."""
    pair = indoor_pair(1, overlap=(0.4, 0.6))
    source, target = (torch.from_numpy(points).double() for points in (pair.source, pair.target))
    still = register(source, target, voxel=VOXEL)
    assert still.ok and still.T is not None
    pose = torch.from_numpy(still.T)
    print(f"as generated: {still.status}, confidence {still.confidence:.2f}")

    generator = torch.Generator().manual_seed(0)
    worst_angle = worst_shift = 0.0
    for trial in range(2):
        rotations = random_rotations(2, dtype=torch.float64, generator=generator)
        shifts = 100.0 * torch.randn(2, 3, dtype=torch.float64, generator=generator)
        move_source, move_target = make_transform(rotations, shifts)
        moved_source = transform_points(move_source, source)
        moved_source = moved_source[torch.randperm(len(moved_source), generator=generator)]
        moved = register(moved_source, transform_points(move_target, target), voxel=VOXEL)
        assert moved.ok and moved.T is not None

        expected = compose_transforms(compose_transforms(move_target, pose), invert_transform(move_source))
        found = torch.from_numpy(moved.T)
        angle = float(torch.rad2deg(geodesic_distance(found[:3, :3], expected[:3, :3])))
        middle = moved_source.mean(dim=0, keepdim=True)
        shift = float((transform_points(found, middle) - transform_points(expected, middle)).norm())
        worst_angle, worst_shift = max(worst_angle, angle), max(worst_shift, shift)
        print(f"move {trial + 1}, rows shuffled: differs by {angle:.4f} deg and {1000 * shift:.3f} mm")
    return worst_angle, worst_shift


if __name__ == "__main__":
    main()
