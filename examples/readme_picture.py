"""Make the picture of the README: a generated pair, one scan thrown into an arbitrary pose, and what `register` found.

Run: python examples/readme_picture.py examples/images/registration.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

from rotaware.datasets import indoor_pair
from rotaware.geo import make_transform, random_rotations, transform_points
from rotaware.pointcloud import register, write_overview_png


def main(path: Path) -> int:
    """Size of the written file in bytes."""
    pair = indoor_pair(4, overlap=(0.4, 0.6), voxel=0.0125)
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(0))[0]
    move = make_transform(rotation, torch.tensor([1.0, 0.5, 0.0]))
    source = transform_points(move, torch.from_numpy(pair.source)).numpy()
    result = register(source, pair.target)
    write_overview_png(path, result, source, pair.target, source_name="scan_b.ply", target_name="scan_a.ply")
    # The picture has few colours: a palette takes a third of the bytes.
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {result.status}, {size / 1000:.0f} kB")
    return size


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "registration.png"))
