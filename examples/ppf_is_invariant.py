"""What the matching looks at: a point pair feature is a distance and three angles, the same in every pose.

It needs normals that turn with the cloud. Turn the normals inside out and the angles to the line between the two points
become their supplements, which is why the direction of normals must never depend on the pose.

Run: python examples/ppf_is_invariant.py
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rotaware.geo import (
    assert_invariant,
    make_transform,
    point_pair_features,
    random_rotations,
    transform_normals,
    transform_points,
)


def main() -> tuple[float, float]:
    """Largest change of the features under a rotation and shift, and under flipped normals."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2, 100, 3, dtype=torch.float64, generator=generator)
    normals = torch.nn.functional.normalize(torch.randn(points.shape, dtype=torch.float64, generator=generator), dim=-1)

    def features(points: Tensor, normals: Tensor) -> Tensor:
        """(100, 4): distance and three angles of 100 pairs."""
        return point_pair_features(points[0], normals[0], points[1], normals[1])

    before = features(points, normals)
    pose = make_transform(
        random_rotations(1, dtype=torch.float64, generator=generator)[0],
        torch.tensor([100.0, -20.0, 3.0], dtype=torch.float64),
    )
    after = features(transform_points(pose, points), transform_normals(pose, normals))
    moved = float((after - before).abs().max())
    flipped = float((features(points, -normals) - before).abs().max())
    print(f"first pair: distance {before[0, 0]:.3f}, angles {[round(math.degrees(a), 1) for a in before[0, 1:]]} deg")
    print(f"largest change after a rotation and a shift of 102 m: {moved:.1e}")
    print(f"largest change after turning the normals inside out: {flipped:.2f}")
    # The same check over many rotations, near the identity and near half turns, for functions of your own.
    assert_invariant(
        point_pair_features,
        [points[0], normals[0], points[1], normals[1]],
        input_kinds=["point", "vector", "point", "vector"],
    )
    return moved, flipped


if __name__ == "__main__":
    main()
