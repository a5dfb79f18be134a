"""Register two scans from Python and read the evidence.

Run: python examples/register_two_scans.py
"""

from __future__ import annotations

import torch

from rotaware.datasets import indoor_pair
from rotaware.geo import geodesic_distance
from rotaware.pointcloud import register


def main() -> tuple[float, float]:
    """Rotation error in degrees and translation error in metres, against the known pose."""
    # Two (N, 3) float32 arrays, each in the frame of its own camera, and the pose between them.
    pair = indoor_pair(0, overlap=(0.4, 0.6))
    result = register(pair.source, pair.target)
    print(result.explain())
    if not result.ok or result.T is None or pair.T_target_source is None:
        raise SystemExit("not registered: no pose to compare")

    found, truth = torch.from_numpy(result.T), torch.from_numpy(pair.T_target_source)
    degrees = float(torch.rad2deg(geodesic_distance(found[:3, :3], truth[:3, :3])))
    metres = float((found[:3, 3] - truth[:3, 3]).norm())
    print(f"\ntrue overlap {100 * pair.overlap:.0f} %, error {degrees:.2f} deg and {100 * metres:.1f} cm")
    return degrees, metres


if __name__ == "__main__":
    main()
