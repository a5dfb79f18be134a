"""The grid of the torch backend against comparing all pairs, on clouds too small to need it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rotaware.kernels import knn, radius_search, torch_grid, torch_neighbors


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]) -> None:
    """Use the grid for every cloud, down to the last few queries; tensors this small are not worth a second thread."""
    threads(1)
    monkeypatch.setattr(torch_neighbors, "FEW_PAIRS", 0)
    monkeypatch.setattr(torch_neighbors, "PROBES", 2)


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal bit for bit."""
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def offset_queries(cloud: Tensor) -> Tensor:
    """Queries beside the points, one of them far outside, one that is not finite."""
    noise = torch.randn(cloud.shape, generator=torch.Generator().manual_seed(0)).to(cloud.dtype)
    extra = cloud.new_tensor([[1e4, -1e5, 0.5], [torch.nan, 0.0, 0.0]])
    return torch.cat([cloud + 0.2 * noise, extra])


@pytest.mark.parametrize("k", [1, 16, 70])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_knn_of_the_points(cloud: Tensor, k: int, exclude_self: bool) -> None:
    found = knn(cloud, k, exclude_self=exclude_self, backend="torch")
    assert_same(found, knn(cloud, k, exclude_self=exclude_self, backend="numba"))


@pytest.mark.parametrize("max_radius", [None, 0.0, 0.3])
def test_knn_of_other_queries(cloud: Tensor, max_radius: float | None) -> None:
    queries = offset_queries(cloud)
    found = knn(cloud, 5, queries=queries, max_radius=max_radius, backend="torch")
    assert_same(found, knn(cloud, 5, queries=queries, max_radius=max_radius, backend="numba"))


@pytest.mark.parametrize("radius", [0.0, 0.1, 1.0, 1e9])
def test_radius_search(cloud: Tensor, radius: float) -> None:
    queries = offset_queries(cloud)
    for options in ({"queries": queries}, {"exclude_self": True}):
        found = radius_search(cloud, radius, **options, backend="torch")
        assert_same(found, radius_search(cloud, radius, **options, backend="numba"))


def test_points_that_are_not_finite(broken: Tensor) -> None:
    assert_same(knn(broken, 6, backend="torch"), knn(broken, 6, backend="numba"))
    assert_same(radius_search(broken, 0.2, backend="torch"), radius_search(broken, 0.2, backend="numba"))
    nothing = torch.full((5, 3), torch.nan)
    assert (knn(nothing, 2, backend="torch").index == -1).all()
    assert radius_search(nothing, 2.0, backend="torch").offsets[-1] == 0


@pytest.mark.parametrize("kind", ["volume", "surface", "ticks", "uneven", "heap"])
def test_larger_clouds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if kind == "surface":
        points[:, 2] = 0
    elif kind == "ticks":
        points = (points * 12).round()
    elif kind == "uneven":
        points[1500:] *= 1e-4
        points[-1] = 1e12
    elif kind == "heap":
        points[1000:2000] = 0.5
        monkeypatch.setattr(torch_grid, "CROWD", 500)
    # Several tiles.
    monkeypatch.setattr(torch_grid, "TILE", 1 << 16)
    compared = []
    compare = torch_neighbors.nearest_of_all
    monkeypatch.setattr(
        torch_neighbors, "nearest_of_all", lambda *given: compared.append(len(given[1])) or compare(*given)
    )
    assert_same(knn(points, 8, backend="torch"), knn(points, 8, backend="numba"))
    radius = 4e-6 if kind == "uneven" else 0.04
    assert_same(radius_search(points, radius, backend="torch"), radius_search(points, radius, backend="numba"))
    # The grid, not the comparison with all points, has answered nearly all.
    assert sum(compared) < (1200 if kind == "heap" else 50)
