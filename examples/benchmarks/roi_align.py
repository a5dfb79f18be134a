"""RoIAlign of oriented boxes on a pyramid: weighted sums of pixels beside torch's grid_sample, forward and backward.

Both are compared before anything is timed. Times are the median and the range of repeated calls after a warm-up, in
milliseconds. The JSON goes to standard output, or to a file with `--output`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from protocol import environment, put_out, timed
from torch import Tensor

from rotaware.kernels import pool_rois
from rotaware.kernels.roi_pooling import RoIAlignBackend

STRIDES = (4, 8, 16, 32)
GRID = 7
BACKENDS: tuple[RoIAlignBackend, ...] = ("gather", "grid_sample")
# With more boxes grid_sample takes minutes.
MOST_SAMPLED = 512
VERSIONS_OF = ("rotaware", "numba", "numpy", "torch")


def pyramid_and_boxes(image: int, channels: int, boxes: int) -> tuple[list[Tensor], Tensor]:
    """Levels (1, C, H, W) of a square image, and boxes (R, 6) whose sides are spread evenly over the octaves."""
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(1, channels, image // stride, image // stride, generator=generator) for stride in STRIDES]
    draw = torch.rand(boxes, 5, generator=generator)
    longer = 12.0 * (2 * image / 12.0) ** draw[:, 2:3]
    sides = torch.cat([longer, longer * (0.2 + 0.8 * draw[:, 3:4])], dim=1)
    centre, angle = image * draw[:, :2], torch.pi * (draw[:, 4:] - 0.5)
    return levels, torch.cat([torch.zeros(boxes, 1), centre, sides, angle], dim=1)


def check(levels: list[Tensor], rois: Tensor) -> None:
    """End the run unless both give the same features and gradients."""
    found = []
    for backend in BACKENDS:
        leaves = [level.clone().requires_grad_() for level in levels]
        pooled = pool_rois(leaves, rois, GRID, STRIDES, backend=backend)
        found.append((pooled, *torch.autograd.grad(pooled.square().sum(), leaves, materialize_grads=True)))
    for one, other in zip(*found, strict=True):
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-2):
            raise SystemExit(f"the two differ by {(one - other).abs().max()}: nothing is reported")


def measure(levels: list[Tensor], rois: Tensor, backend: RoIAlignBackend, threads: int, repeats: int) -> dict[str, Any]:
    """One record."""
    torch.set_num_threads(threads)
    leaves = [level.clone().requires_grad_() for level in levels]
    upstream = torch.ones(len(rois), levels[0].shape[1] * GRID**2)

    def pooled() -> Tensor:
        # Flat, as the layer behind takes it: the two differ in the order of memory.
        return pool_rois(leaves, rois, GRID, STRIDES, backend=backend).flatten(1)

    def forward() -> Tensor:
        with torch.no_grad():
            return pooled()

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(pooled(), leaves, upstream, materialize_grads=True)

    return {
        "backend": backend,
        "threads": threads,
        "forward": timed(forward, repeats),
        "forward_and_backward": timed(both, repeats),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few channels and boxes: a test of this script")
    parser.add_argument("--output", type=Path, help="file for the JSON, replaced when the run is complete")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = environment(VERSIONS_OF)
    image, channels, counts = (512, 4, (64,)) if options.quick else (512, 256, (512, 4096))
    repeats, threads = (2, [1]) if options.quick else (5, [1, 2])
    check(*pyramid_and_boxes(512, 4, 64))
    report["results"] = []
    for boxes in counts:
        levels, rois = pyramid_and_boxes(image, channels, boxes)
        for number in threads:
            for backend in BACKENDS if boxes <= MOST_SAMPLED else BACKENDS[:1]:
                record = measure(levels, rois, backend, number, repeats)
                report["results"].append({"image": image, "channels": channels, "boxes": boxes} | record)
    put_out(report, options.output)
    return report


if __name__ == "__main__":
    main()
