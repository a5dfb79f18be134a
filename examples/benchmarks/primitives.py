"""Neighbor search, farthest points and voxel grids, timed beside SciPy, Open3D and plain NumPy.

Every result is compared with another implementation before anything is timed. Times are the median and the range of
repeated calls after a warm-up, in milliseconds, and include building whatever index an implementation needs. Clouds
come in random order and in Morton order. The JSON goes to standard output, or to a file with `--output`.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import environment, put_out, timed
from scipy.spatial import cKDTree
from torch import Tensor

from rotaware.kernels import farthest_point_sampling, knn, morton_order, radius_search, voxel_downsample

NEIGHBORS = 16
# The naive algorithm, also Open3D's, needs minutes for more.
FEW = 1000
FEW_SAMPLES = f"farthest_point_sampling of {FEW}"
VERSIONS_OF = ("rotaware", "numba", "numpy", "scipy", "torch", "open3d")


def room_surface(count: int, seed: int = 0) -> Tensor:
    """Walls of a 4 m room with 5 mm of noise, as a depth camera sees them: (count, 3) float32, metres."""
    generator = torch.Generator().manual_seed(seed)
    points = 4 * torch.rand(count, 3, generator=generator)
    wall = torch.randint(0, 3, (count,), generator=generator)
    points[torch.arange(count), wall] = 4.0 * torch.randint(0, 2, (count,), generator=generator)
    return points + 0.005 * torch.randn(count, 3, generator=generator)


def naive_farthest(points: np.ndarray, count: int) -> np.ndarray:
    """One pass over all points for each sample."""
    distance = np.full(len(points), np.inf)
    samples = np.zeros(count, np.int64)
    for place in range(1, count):
        offset = points - points[samples[place - 1]]
        np.minimum(distance, (offset * offset).sum(1), out=distance)
        samples[place] = distance.argmax()
    return samples


def scipy_knn(points: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices."""
    return cKDTree(points).query(points, NEIGHBORS, workers=threads)


def require(agrees: bool, operation: str) -> None:
    """End the run where a result is wrong: no timing of it is worth reporting."""
    if not agrees:
        raise SystemExit(f"{operation}: the result differs from the reference, nothing is reported")


def check(points: Tensor) -> None:
    """Compare each operation with another implementation on a small cloud."""
    rows = points.double().numpy()
    tree = cKDTree(rows)
    distance, _ = tree.query(rows, NEIGHBORS)
    require(np.allclose(knn(points, NEIGHBORS).distance, distance, rtol=1e-6), "knn")
    inside = tree.query_ball_point(rows, 0.2, return_length=True)
    require(bool((radius_search(points, 0.2).offsets.diff().numpy() == inside).all()), "radius_search")
    samples = farthest_point_sampling(points, len(points) // 4).numpy()
    require(bool((samples == naive_farthest(rows, len(samples))).all()), "farthest_point_sampling")
    cells = np.unique(np.floor(rows / 0.05), axis=0, return_index=True)[1]
    found = voxel_downsample(points, 0.05, rule="first").index.numpy()
    require(bool((found == np.sort(cells)).all()), "voxel_downsample")


def open3d_calls(points: Tensor, voxel: float, radius: float) -> dict[str, Callable[[], Any]]:
    """The same operations in Open3D, on all its threads."""
    import open3d

    tensor = open3d.core.Tensor(points.numpy())
    cloud = open3d.t.geometry.PointCloud(tensor)

    def search(prepare: str, query: str, value: float) -> Any:
        index = open3d.core.nns.NearestNeighborSearch(tensor)
        getattr(index, prepare)(*([] if prepare == "knn_index" else [value]))
        return getattr(index, query)(tensor, value)

    return {
        "knn": lambda: search("knn_index", "knn_search", NEIGHBORS),
        "radius_search": lambda: search("fixed_radius_index", "fixed_radius_search", radius),
        # The sampler of the tensor cloud takes hundreds of times as long.
        FEW_SAMPLES: lambda: cloud.to_legacy().farthest_point_down_sample(FEW),
        "voxel_downsample": lambda: cloud.voxel_down_sample(voxel),
    }


def time_all(count: int, order: str, repeats: int, threads: list[int], open3d: bool) -> list[dict[str, Any]]:
    """One record per operation and implementation on a cloud of `count` points in random or Morton order."""
    points = room_surface(count)
    if order == "Morton":
        points = points[morton_order(points)]
    rows = points.double().numpy()
    # Radii and voxels that hold a few tens and about four points at any density of the 96 square metres of wall.
    spacing = (96 / count) ** 0.5
    voxel, radius = 2 * spacing, 3 * spacing
    ours = {
        "knn": lambda: knn(points, NEIGHBORS),
        "radius_search": lambda: radius_search(points, radius),
        FEW_SAMPLES: lambda: farthest_point_sampling(points, FEW),
        "farthest_point_sampling of every 4th": lambda: farthest_point_sampling(points, count // 4),
        "voxel_downsample": lambda: voxel_downsample(points, voxel),
    }
    records = []

    def record(operation: str, implementation: str, number: int | None, call: Callable[[], object]) -> None:
        labels: dict[str, Any] = {"operation": operation, "points": count, "order": order}
        labels |= {"implementation": implementation, "threads": number}
        records.append(labels | timed(call, repeats))

    for number in threads:
        torch.set_num_threads(number)
        for operation, call in ours.items():
            record(operation, "rotaware", number, call)
        record("knn", "scipy cKDTree", number, partial(scipy_knn, rows, number))
    if open3d:
        for operation, call in open3d_calls(points, voxel, radius).items():
            record(operation, "open3d", None, call)
    record("voxel_downsample", "numpy unique", 1, lambda: np.unique(np.floor(rows / voxel), axis=0, return_index=True))
    record(FEW_SAMPLES, "numpy naive", 1, lambda: naive_farthest(rows, FEW))
    return records


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small clouds and few repeats: a test of this script")
    parser.add_argument("--output", type=Path, help="file for the JSON, replaced when the run is complete")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = environment(VERSIONS_OF)
    check(room_surface(2000))
    open3d = importlib.util.find_spec("open3d") is not None
    repeats, threads = (2, [1]) if options.quick else (5, [1, 2])
    report["results"] = []
    for count in (2000,) if options.quick else (30_000, 100_000, 200_000):
        for order in ("random", "Morton"):
            report["results"] += time_all(count, order, repeats, threads, open3d)
    put_out(report, options.output)
    return report


if __name__ == "__main__":
    main()
