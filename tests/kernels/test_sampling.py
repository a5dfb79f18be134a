"""Sampling against its definitions in plain numpy, float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from rotaware.kernels import Voxels, farthest_point_sampling, morton_order, numba_order, voxel_downsample
from rotaware.kernels.sampling import hilbert_order


def naive_farthest(points: Tensor, count: int, start: int = 0, tolerance: float = 0.0) -> list[int]:
    """One pass over all points per sample; argmax takes the lowest row among equals, here up to a tolerance."""
    coordinates = points.double().numpy()
    distance = np.full(len(points), np.inf)
    samples = [start] if count else []
    while len(samples) < count:
        with np.errstate(invalid="ignore"):
            offset = coordinates - coordinates[samples[-1]]
            distance = np.fmin(distance, offset[:, 0] ** 2 + offset[:, 1] ** 2 + offset[:, 2] ** 2)
        distance[samples[-1]] = -1
        limit = max(np.sqrt(distance.max().clip(0)) - tolerance, 0.0) ** 2 if tolerance else distance.max()
        samples.append(int((distance >= limit).argmax()))
    return samples


def naive_voxels(points: Tensor, size: float) -> tuple[list[list[int]], list[int]]:
    """Rows of each voxel in the order of first occurrence, and the voxel of each row."""
    numbers: dict[tuple[float, ...], int] = {}
    rows: list[list[int]] = []
    voxel_of_point = []
    for row, cell in enumerate(np.floor(points.double().numpy() / size)):
        voxel = numbers.setdefault(tuple(cell), len(numbers))
        if voxel == len(rows):
            rows.append([])
        rows[voxel].append(row)
        voxel_of_point.append(voxel)
    return rows, voxel_of_point


@pytest.mark.parametrize("start", ["first", "last"])
def test_farthest_points_are_the_naive_ones(cloud: Tensor, backend: str, start: str) -> None:
    first = 0 if start == "first" else len(cloud) - 1
    found = farthest_point_sampling(cloud, len(cloud), start=first, backend=backend)
    assert found.dtype == torch.int64
    assert found.tolist() == naive_farthest(cloud, len(cloud), first)


@pytest.mark.parametrize("tolerance", [1e-9, 0.1, 3.0])
def test_farthest_points_within_a_tolerance_are_the_naive_ones(cloud: Tensor, backend: str, tolerance: float) -> None:
    first = len(cloud) - 1
    found = farthest_point_sampling(cloud, len(cloud), start=first, tie_tolerance=tolerance, backend=backend)
    assert found.tolist() == naive_farthest(cloud, len(cloud), first, tolerance)


def test_farthest_points_on_a_lattice_do_not_change_with_its_pose(
    lattice_scan: Tensor, poses: list[Tensor], backend: str
) -> None:
    count = len(lattice_scan) // 4
    plain, tied = (
        [
            farthest_point_sampling(pose, count, tie_tolerance=tolerance, backend=backend)
            for pose in (lattice_scan.float(), *poses)
        ]
        for tolerance in (0.0, 2e-6)
    )
    assert all(torch.equal(tied[0], other) for other in tied[1:])
    assert not any(torch.equal(plain[0], other) for other in plain[1:])
    assert torch.equal(farthest_point_sampling((lattice_scan * 500).round(), count, backend=backend), tied[0])


def test_farthest_points_of_many_buckets(backend: str) -> None:
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0))
    points[1000:1500] = (points[1000:1500] * 20).round() / 20
    assert farthest_point_sampling(points, 700, backend=backend).tolist() == naive_farthest(points, 700)
    found = farthest_point_sampling(points, 700, tie_tolerance=0.01, backend=backend)
    assert found.tolist() == naive_farthest(points, 700, tolerance=0.01)


def test_farthest_points_of_a_batch(backend: str) -> None:
    points = torch.rand(80, 3, generator=torch.Generator().manual_seed(0))
    expected = naive_farthest(points[:50], 7, 2) + [50 + row for row in naive_farthest(points[50:], 7, 2)]
    assert farthest_point_sampling(points, 7, lengths=[50, 30], start=2, backend=backend).tolist() == expected
    found = farthest_point_sampling(points, torch.tensor([5, 0, 3]), lengths=[50, 0, 30], backend=backend)
    assert found.tolist() == naive_farthest(points[:50], 5) + [50 + row for row in naive_farthest(points[50:], 3)]


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 1e9])
def test_farthest_points_take_a_broken_point_once(broken: Tensor, backend: str, tolerance: float) -> None:
    found = farthest_point_sampling(broken, len(broken), start=50, tie_tolerance=tolerance, backend=backend)
    assert sorted(found.tolist()) == list(range(len(broken)))


def test_no_points_and_no_samples(backend: str) -> None:
    assert farthest_point_sampling(torch.empty(0, 3), 0, backend=backend).shape == (0,)
    assert farthest_point_sampling(torch.empty(0, 3), 3, lengths=[], backend=backend).shape == (0,)
    assert farthest_point_sampling(torch.zeros(4, 3), 0, backend=backend).shape == (0,)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("num_samples: expected at most the 4 points of a cloud, got 5", {"num_samples": 5}),
        ("num_samples: expected at most the 4 points of a cloud, got -1", {"num_samples": -1}),
        ("num_samples: expected 1 numbers, one for each cloud, got 2", {"num_samples": [1, 1]}),
        (r"start: expected a row of every cloud \(sizes \[4\]\), got 4", {"start": 4}),
        ("lengths: expected a sum of 4", {"lengths": [5]}),
        (r"points: expected shape \(N, 3\)", {"points": torch.zeros(4, 4)}),
        ("tie_tolerance: expected a length of at least 0, got -1", {"tie_tolerance": -1.0}),
    ],
)
def test_misuse_of_farthest_points_is_named(message: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=message):
        farthest_point_sampling(**{"points": torch.zeros(4, 3), "num_samples": 2, **arguments})


@pytest.mark.parametrize("size", [1e-3, 0.025, 0.5, 1e4])
def test_voxels_are_floored_cells(cloud: Tensor, backend: str, size: float) -> None:
    rows, voxel_of_point = naive_voxels(cloud, size)
    first = voxel_downsample(cloud, size, rule="first", backend=backend)
    assert first.index.tolist() == [members[0] for members in rows]
    assert first.voxel_of_point.tolist() == voxel_of_point
    assert first.counts.tolist() == [len(members) for members in rows]
    assert first.lengths.tolist() == [len(rows)]
    assert torch.equal(first.points, cloud[first.index])
    means = voxel_downsample(cloud, size, backend=backend)
    assert means.index.tolist() == first.index.tolist()
    expected = torch.stack([cloud[members].double().mean(0) for members in rows]).to(cloud.dtype)
    torch.testing.assert_close(means.points, expected, rtol=1e-15 if cloud.dtype == torch.float64 else 1e-7, atol=1e-15)


def test_both_backends_give_the_same_voxels(cloud: Tensor) -> None:
    for ours, theirs in zip(*(voxel_downsample(cloud, 0.2, backend=name) for name in ("numba", "torch")), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_voxels_do_not_cross_clouds(backend: str) -> None:
    points = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    found = voxel_downsample(points, 0.3, lengths=[60, 0, 60], backend=backend)
    alone = voxel_downsample(points[:60], 0.3, backend=backend)
    half = len(alone.points)
    assert found.lengths.tolist() == [half, 0, half]
    assert torch.equal(found.points, alone.points.repeat(2, 1))
    assert torch.equal(found.index, torch.cat([alone.index, alone.index + 60]))
    assert torch.equal(found.voxel_of_point, torch.cat([alone.voxel_of_point, alone.voxel_of_point + half]))


def test_equal_points_of_many_clouds_stay_apart(backend: str) -> None:
    # In a hash table they meet on the way to a free slot.
    found = voxel_downsample(torch.ones(1000, 3), 0.3, lengths=[1] * 1000, backend=backend)
    assert found.voxel_of_point.tolist() == list(range(1000))


def test_the_grid_is_anchored_at_the_origin(backend: str) -> None:
    points = torch.tensor([[-0.1, 0.0, 0.0], [0.1, -0.0, 0.0], [-0.0, 0.0, 0.0]])
    assert voxel_downsample(points, 1.0, backend=backend).voxel_of_point.tolist() == [0, 1, 1]


def test_cells_too_far_for_integers(backend: str) -> None:
    points = torch.tensor([[1e300, 0, 0], [-1e300, 0, 0], [1e300, 0, 0], [0, 1e30, 1e30]], dtype=torch.float64)
    assert voxel_downsample(points, 1e-6, rule="first", backend=backend).index.tolist() == [0, 1, 3]


def test_voxels_survive_broken_points(broken: Tensor, backend: str) -> None:
    finite = broken.isfinite().all(1)
    found = voxel_downsample(broken, 0.1, rule="first", backend=backend)
    assert found.counts.sum() == len(broken)
    alone = voxel_downsample(broken[finite], 0.1, rule="first", backend=backend)
    assert {tuple(point) for point in alone.points.tolist()} <= {tuple(point) for point in found.points.tolist()}


def test_voxels_of_nothing(backend: str) -> None:
    for rule in ("first", "centroid"):
        found = voxel_downsample(torch.empty(0, 3), 0.1, rule=rule, lengths=[0, 0], backend=backend)
        assert found.points.shape == (0, 3) and found.lengths.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("voxel_size: expected a positive number, got 0", {"voxel_size": 0.0}),
        ("voxel_size: expected a positive number, got nan", {"voxel_size": float("nan")}),
        ("voxel_size: expected a positive number, got inf", {"voxel_size": float("inf")}),
        ("rule: expected one of 'centroid', 'first', got 'last'", {"rule": "last"}),
        ("lengths: expected numbers of rows, got -1", {"lengths": [-1, 5]}),
    ],
)
def test_misuse_of_voxels_is_named(message: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=message):
        voxel_downsample(**{"points": torch.zeros(4, 3), "voxel_size": 1.0, **arguments})


@pytest.mark.parametrize("fragment", [0, 4])
def test_published_3dmatch_clouds_come_back(shared_data: Path, fragment: int) -> None:
    mesh = trimesh.load(shared_data / f"3dmatch/dense/redkitchen_cloud_bin_{fragment}.ply", process=False)
    dense = torch.from_numpy(np.array(mesh.vertices))
    published = np.load(shared_data / f"3dmatch/clouds/7-scenes-redkitchen__cloud_bin_{fragment}.npy")
    for points in (dense, dense.float()):
        kept = voxel_downsample(points, 0.025, rule="first").points
        if fragment == 0:
            assert (len(points), len(kept)) == (258_342, 18_977)
        np.testing.assert_array_equal(kept.float().numpy(), published.astype(np.float32))


def test_level_sizes_of_a_fragment(shared_data: Path) -> None:
    level = torch.from_numpy(np.load(shared_data / "3dmatch/clouds/7-scenes-redkitchen__cloud_bin_5.npy"))
    sizes = [len(level)]
    for _ in range(3):
        samples = farthest_point_sampling(level, len(level) // 4)
        assert samples[:50].tolist() == naive_farthest(level, 50)
        level = level[samples]
        sizes.append(len(level))
    assert sizes == [19_084, 4_771, 1_192, 298]


def test_morton_order_interleaves_bits(backend: str) -> None:
    ticks = torch.arange(8.0)
    grid = torch.cartesian_prod(ticks, ticks, ticks)
    grid = grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))]
    ordered = grid[morton_order(grid, backend=backend)].long().tolist()
    codes = [
        sum((x >> b & 1) << 3 * b | (y >> b & 1) << 3 * b + 1 | (z >> b & 1) << 3 * b + 2 for b in range(3))
        for x, y, z in ordered
    ]
    # Eight runs of one octant each, whatever the box.
    assert len({code >> 6 for code in codes}) == 8
    assert [code >> 6 for code in codes] == sorted(code >> 6 for code in codes)


def test_morton_order_keeps_neighbours_together(cloud: Tensor) -> None:
    order = morton_order(cloud)
    assert torch.equal(order, morton_order(cloud, backend="torch"))
    assert sorted(order.tolist()) == list(range(len(cloud)))
    if len(cloud) > 50:
        steps = cloud.double()[order].diff(dim=0).norm(dim=1).median()
        before = cloud.double().diff(dim=0).norm(dim=1).median()
        assert steps <= before


def test_morton_order_of_equal_points_and_broken_ones(broken: Tensor) -> None:
    assert morton_order(torch.ones(9, 3)).tolist() == list(range(9))
    assert sorted(morton_order(broken).tolist()) == list(range(len(broken)))
    assert torch.equal(morton_order(broken), morton_order(broken, backend="torch"))
    assert morton_order(torch.empty(0, 3)).shape == (0,)


def test_morton_order_of_a_batch_stays_in_its_clouds() -> None:
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    order = morton_order(points, [20, 0, 30])
    assert torch.equal(order, torch.cat([morton_order(points[:20]), morton_order(points[20:]) + 20]))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_hilbert_order_steps_to_a_neighbour(bits: int) -> None:
    ticks = torch.arange(2.0**bits, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks, ticks)
    grid = grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))]
    order = numba_order.hilbert_order(grid.numpy(), np.zeros(3), 2.0**bits)
    assert (np.abs(np.diff(grid.numpy()[order], axis=0)).sum(1) == 1).all()


def test_hilbert_order_divides_crowded_cells() -> None:
    points = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[1000:] *= 1e-12
    order = hilbert_order(points).tolist()
    assert sorted(order) == list(range(2000))
    dense = [row for row in order if row >= 1000]
    steps = points[dense].diff(dim=0).norm(dim=1) * 1e12
    assert steps.median() < 0.15
    assert hilbert_order(torch.ones(50, 3, dtype=torch.float64)).tolist() == list(range(50))


def test_hilbert_order_of_broken_points(broken: Tensor) -> None:
    assert sorted(hilbert_order(broken).tolist()) == list(range(len(broken)))
    assert hilbert_order(torch.full((40, 3), torch.nan, dtype=torch.float64)).tolist() == list(range(40))


def test_one_and_two_threads_agree(threads: Callable[[int], None]) -> None:
    points = torch.rand(6000, 3, generator=torch.Generator().manual_seed(0))
    results: list[tuple[Tensor, Voxels]] = []
    for count in (1, 2):
        threads(count)
        samples = farthest_point_sampling(points, 500, lengths=[2000, 2500, 1500])
        results.append((samples, voxel_downsample(points, 0.1)))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[0][1], results[1][1], strict=True))
