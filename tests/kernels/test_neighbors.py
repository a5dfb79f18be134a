"""Neighbours against brute force in float64: same neighbours, same order, same bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rotaware.kernels import knn, radius_search, torch_neighbors


def squared_distances(queries: Tensor, points: Tensor) -> np.ndarray:
    """(M, N) sums of squared differences in float64, NaN made infinite."""
    with np.errstate(invalid="ignore"):
        offset = queries.double().numpy()[:, None] - points.double().numpy()[None]
        squared = offset[..., 0] ** 2 + offset[..., 1] ** 2 + offset[..., 2] ** 2
    return np.nan_to_num(squared, nan=np.inf, posinf=np.inf)


def sorted_neighbors(queries: Tensor, points: Tensor, *, exclude_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """All points of each query by distance, then index, and the squared distances."""
    squared = squared_distances(queries, points)
    if exclude_self:
        np.fill_diagonal(squared, np.inf)
    order = np.argsort(squared, axis=1, kind="stable")
    return order, np.take_along_axis(squared, order, 1)


def naive_knn(
    queries: Tensor, points: Tensor, k: int, *, exclude_self: bool = False, max_radius: float = np.inf
) -> tuple[Tensor, Tensor]:
    """The definition of `knn`."""
    order, squared = sorted_neighbors(queries, points, exclude_self=exclude_self)
    index = np.full((len(queries), k), -1)
    distance = np.full((len(queries), k), np.inf)
    slots = min(k, len(points))
    valid = (squared[:, :slots] < np.inf) & (squared[:, :slots] <= max_radius * max_radius)
    index[:, :slots][valid] = order[:, :slots][valid]
    distance[:, :slots][valid] = np.sqrt(squared[:, :slots][valid])
    return torch.from_numpy(index).int(), torch.from_numpy(distance).to(points.dtype)


def tied_order(squared: np.ndarray, tolerance: float) -> list[int]:
    """The definition of ties: groups that the nearest of the points left opens, each in the order of the rows."""
    groups: list[list[int]] = []
    bound = -1.0
    for row in np.argsort(squared, kind="stable")[: np.isfinite(squared).sum()].tolist():
        if squared[row] > bound:
            groups.append([])
            bound = (np.sqrt(squared[row]) + tolerance) ** 2
        groups[-1].append(row)
    return [row for group in groups for row in sorted(group)]


def naive_tied_knn(
    queries: Tensor, points: Tensor, k: int, tolerance: float, *, exclude_self: bool = False, max_radius: float = np.inf
) -> tuple[Tensor, Tensor]:
    """The definition of `knn` with a tolerance."""
    squared = squared_distances(queries, points)
    if exclude_self:
        np.fill_diagonal(squared, np.inf)
    squared[squared > max_radius * max_radius] = np.inf
    index = np.full((len(queries), k), -1)
    distance = np.full((len(queries), k), np.inf)
    for query, row in enumerate(squared):
        chosen = tied_order(row, tolerance)[:k]
        index[query, : len(chosen)] = chosen
        distance[query, : len(chosen)] = np.sqrt(row[chosen])
    return torch.from_numpy(index).int(), torch.from_numpy(distance).to(points.dtype)


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal bit for bit, dtype included."""
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("k", [1, 3, 16, 70])
def test_knn_is_brute_force(cloud: Tensor, backend: str, k: int, exclude_self: bool) -> None:
    found = knn(cloud, k, exclude_self=exclude_self, backend=backend)
    assert_same(found, naive_knn(cloud, cloud, k, exclude_self=exclude_self))


def test_knn_of_other_queries(cloud: Tensor, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = cloud[::3] + torch.randn(cloud[::3].shape, generator=generator).to(cloud.dtype) * 0.3
    assert_same(knn(cloud, 5, queries=queries, backend=backend), naive_knn(queries, cloud, 5))


@pytest.mark.parametrize("radius", [0.0, 0.1, 1.0])
def test_knn_within_a_radius(cloud: Tensor, backend: str, radius: float) -> None:
    found = knn(cloud, 9, max_radius=radius, backend=backend)
    assert_same(found, naive_knn(cloud, cloud, 9, max_radius=radius))


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("radius", [0.0, 0.1, 1.0])
def test_radius_search_is_brute_force(cloud: Tensor, backend: str, radius: float, exclude_self: bool) -> None:
    found = radius_search(cloud, radius, exclude_self=exclude_self, backend=backend)
    order, squared = sorted_neighbors(cloud, cloud, exclude_self=exclude_self)
    inside = squared <= radius * radius
    assert found.offsets.tolist() == [0, *np.cumsum(inside.sum(1)).tolist()]
    expected = torch.from_numpy(order[inside]).int(), torch.from_numpy(np.sqrt(squared[inside])).to(cloud.dtype)
    assert_same(found[1:], expected)


def test_radius_search_of_a_long_row_is_sorted(backend: str) -> None:
    line = torch.randperm(3000, generator=torch.Generator().manual_seed(0)).double()[:, None] * torch.tensor(
        [1.0, 0, 0]
    )
    found = radius_search(line, 1e9, queries=line[:2], backend=backend)
    order, squared = sorted_neighbors(line[:2], line)
    assert_same(found[1:], (torch.from_numpy(order.ravel()).int(), torch.from_numpy(np.sqrt(squared.ravel()))))


def test_a_batch_is_its_clouds_one_by_one(backend: str) -> None:
    points = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    queries = torch.rand(20, 3, generator=torch.Generator().manual_seed(1))
    lengths, query_lengths = [25, 0, 3, 32], torch.tensor([4, 6, 10, 0])
    found = knn(
        points, 5, queries=queries, lengths=lengths, query_lengths=query_lengths, max_radius=0.5, backend=backend
    )
    ball = radius_search(points, 0.5, queries=queries, lengths=lengths, query_lengths=query_lengths, backend=backend)
    own = radius_search(points, 0.5, lengths=lengths, backend=backend)
    start = query_start = 0
    for length, query_length in zip(lengths, query_lengths.tolist(), strict=True):
        cloud, asked = points[start : start + length], queries[query_start : query_start + query_length]
        rows = slice(query_start, query_start + query_length)
        if length and query_length:
            index, distance = naive_knn(asked, cloud, 5, max_radius=0.5)
            index = torch.where(index >= 0, index + start, -1)
            assert_same((found.index[rows], found.distance[rows]), (index, distance))
        elif query_length:
            assert (found.index[rows] == -1).all() and found.distance[rows].isinf().all()
        edges = ball.offsets[query_start], ball.offsets[query_start + query_length]
        alone = radius_search(cloud, 0.5, queries=asked, backend=backend)
        assert_same(
            (ball.index[edges[0] : edges[1]], ball.distance[edges[0] : edges[1]]), (alone.index + start, alone.distance)
        )
        edges = own.offsets[start], own.offsets[start + length]
        assert_same((own.index[edges[0] : edges[1]],), (radius_search(cloud, 0.5, backend=backend).index + start,))
        start, query_start = start + length, query_start + query_length


def test_excluding_the_query_keeps_its_duplicates(backend: str) -> None:
    twins = torch.zeros(3, 3)
    assert knn(twins, 3, exclude_self=True, backend=backend).index.tolist() == [[1, 2, -1], [0, 2, -1], [0, 1, -1]]
    assert radius_search(twins, 0.0, exclude_self=True, backend=backend).index.tolist() == [1, 2, 0, 2, 0, 1]


def test_points_that_are_not_finite_have_no_neighbours(broken: Tensor, backend: str) -> None:
    assert_same(knn(broken, 6, backend=backend), naive_knn(broken, broken, 6))
    finite = broken.isfinite().all(1)
    for radius in (5.0, 1e300, float("inf")):
        found = radius_search(broken, radius, backend=backend)
        assert found.offsets.diff().tolist() == (finite * finite.sum()).tolist()
        assert finite[found.index.long()].all()


def test_thousands_of_equal_points_cost_nothing(backend: str) -> None:
    # A depth camera marks missing pixels with zeros; a grid would compare all pairs of them.
    count = 50_000 if backend == "numba" else 500
    points = torch.zeros(count, 3)
    points[::100] = torch.rand(len(points[::100]), 3, generator=torch.Generator().manual_seed(0))
    found = knn(points, 4, backend=backend)
    zeros = (points == 0).all(1)
    assert (found.index[zeros] == torch.tensor([1, 2, 3, 4])).all()


@pytest.mark.parametrize("kind", ["even", "ticks", "uneven", "heap"])
@pytest.mark.parametrize("k", [1, 16, 33])
def test_knn_of_thousands(kind: str, k: int) -> None:
    # Trees of several levels, shared and lonely walks, more ties than a query sorts at once.
    points = torch.rand(1600, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if kind == "ticks":
        points = (points * 10).round()
    elif kind == "uneven":
        points[700:] *= 1e-9
        points[1200:] *= 1e-9
    elif kind == "heap":
        points[700:1100] = 0.5
    assert_same(knn(points, k, exclude_self=True), naive_knn(points, points, k, exclude_self=True))
    queries = torch.cat([points.flip(0)[::7] + 0.01, points[:9] * 1e4])
    assert_same(knn(points, k, queries=queries), naive_knn(queries, points, k))


@pytest.mark.parametrize(("k", "exclude_self"), [(1, True), (7, False)])
@pytest.mark.parametrize("tolerance", [0.1, 1.0])
def test_ties_within_a_tolerance_go_by_row(
    cloud: Tensor, backend: str, tolerance: float, k: int, exclude_self: bool
) -> None:
    found = knn(cloud, k, exclude_self=exclude_self, tie_tolerance=tolerance, backend=backend)
    assert_same(found, naive_tied_knn(cloud, cloud, k, tolerance, exclude_self=exclude_self))


def test_ties_of_other_queries_within_a_radius(cloud: Tensor, backend: str) -> None:
    queries = torch.cat([cloud[::3] + 0.1, cloud[:1] * torch.nan])
    found = knn(cloud, 5, queries=queries, max_radius=1.0, tie_tolerance=0.2, backend=backend)
    assert_same(found, naive_tied_knn(queries, cloud, 5, 0.2, max_radius=1.0))


@pytest.mark.parametrize("tolerance", [1e-12, 0.01, 0.5])
def test_ties_in_trees_and_grids_of_many_levels(
    backend: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_neighbors, "FEW_PAIRS", 1000)
    points = torch.rand(1200, 3, generator=torch.Generator().manual_seed(0))
    points[::2] = (points[::2] * 8).round() / 8
    found = knn(points, 9, exclude_self=True, tie_tolerance=tolerance, backend=backend)
    assert_same(found, naive_tied_knn(points, points, 9, tolerance, exclude_self=True))


def test_no_tied_neighbor_is_much_farther_than_the_one_it_replaces(backend: str) -> None:
    # Steps below the tolerance all along: a chain of them must not make everything one tie.
    line = torch.arange(400, dtype=torch.float64).flip(0)[:, None] * torch.tensor([0.01, 0, 0], dtype=torch.float64)
    exact_distance = knn(line, 6, backend=backend).distance
    found = knn(line, 6, tie_tolerance=0.03, backend=backend).distance
    assert (found.sort(1).values <= exact_distance + 0.03 + 1e-12).all()


def test_thousands_of_tied_points_cost_nothing(backend: str) -> None:
    count = 50_000 if backend == "numba" else 500
    points = torch.zeros(count, 3)
    points[::100] = torch.rand(len(points[::100]), 3, generator=torch.Generator().manual_seed(0))
    found = knn(points, 4, tie_tolerance=1e-6, backend=backend)
    zeros = (points == 0).all(1)
    assert (found.index[zeros] == torch.tensor([1, 2, 3, 4])).all()


def test_neighbors_on_a_lattice_do_not_change_with_its_pose(
    lattice_scan: Tensor, poses: list[Tensor], backend: str
) -> None:
    plain, tied = (
        [knn(pose, 9, tie_tolerance=tolerance, backend=backend).index for pose in (lattice_scan.float(), *poses)]
        for tolerance in (0.0, 2e-6)
    )
    assert all(torch.equal(tied[0], other) for other in tied[1:])
    assert not any(torch.equal(plain[0], other) for other in plain[1:])
    # Without rounding there is nothing to tolerate.
    assert torch.equal(knn((lattice_scan * 500).round(), 9, backend=backend).index, tied[0])


@pytest.mark.parametrize("tolerance", [-1e-6, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_length_is_named(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tie_tolerance: expected a length of at least 0, got"):
        knn(torch.zeros(4, 3), 2, tie_tolerance=tolerance)


def test_one_and_two_threads_agree(threads: Callable[[int], None]) -> None:
    points = torch.rand(9000, 3, generator=torch.Generator().manual_seed(0))
    results = []
    for count in (1, 2):
        threads(count)
        results.append((*knn(points, 8), *knn(points, 8, tie_tolerance=1e-3), *radius_search(points, 0.05)))
    assert_same(results[0], results[1])


def test_views_and_gradients_are_accepted(backend: str) -> None:
    wide = torch.rand(50, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    points = wide[::2, 2:5]
    found = knn(points, 4, backend=backend)
    assert_same(found, naive_knn(points.detach(), points.detach(), 4))
    assert not found.distance.requires_grad


def test_empty_clouds(backend: str) -> None:
    nothing = torch.empty(0, 3)
    assert knn(nothing, 2, backend=backend).index.shape == (0, 2)
    assert (knn(nothing, 2, queries=torch.zeros(4, 3), backend=backend).index == -1).all()
    assert radius_search(nothing, 1.0, backend=backend).offsets.tolist() == [0]
    assert radius_search(nothing, 1.0, queries=torch.zeros(2, 3), backend=backend).offsets.tolist() == [0, 0, 0]
    assert knn(nothing, 2, lengths=[], backend=backend).index.shape == (0, 2)
    assert radius_search(nothing, 1.0, lengths=[], backend=backend).offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "k: expected at least 1, got 0", {"k": 0}),
        (ValueError, "max_radius: expected a distance of at least 0, got -1", {"max_radius": -1.0}),
        (ValueError, "max_radius: expected a distance of at least 0, got nan", {"max_radius": float("nan")}),
        (ValueError, r"points: expected shape \(N, 3\), got \(4, 2\)", {"points": torch.zeros(4, 2)}),
        (TypeError, "points: expected a floating point tensor", {"points": torch.zeros(4, 3, dtype=torch.int64)}),
        (TypeError, "points: expected a torch.Tensor", {"points": np.zeros((4, 3))}),
        (ValueError, "points, queries: expected one dtype", {"queries": torch.zeros(4, 3, dtype=torch.float64)}),
        (ValueError, "points, queries: expected one device", {"queries": torch.zeros(4, 3, device="meta")}),
        (ValueError, "exclude_self: expected False", {"queries": torch.zeros(4, 3), "exclude_self": True}),
        (ValueError, "query_lengths: expected None without queries", {"query_lengths": [4]}),
        (ValueError, "query_lengths: expected 1 clouds", {"queries": torch.zeros(4, 3), "query_lengths": [1, 3]}),
        (ValueError, "lengths: expected a sum of 4", {"lengths": [1, 2]}),
        (ValueError, "backend: expected one of 'auto', 'numba', 'torch', got 'cuda'", {"backend": "cuda"}),
        (
            RuntimeError,
            "backend: expected tensors on the CPU",
            {"points": torch.zeros(4, 3, device="meta"), "backend": "numba"},
        ),
    ],
)
def test_misuse_is_named(error: type[Exception], message: str, arguments: dict) -> None:
    with pytest.raises(error, match=message):
        knn(**{"points": torch.zeros(4, 3), "k": 2, **arguments})


def test_a_negative_radius_is_named() -> None:
    with pytest.raises(ValueError, match=r"radius: expected a distance of at least 0, got -0\.1"):
        radius_search(torch.zeros(4, 3), -0.1)
