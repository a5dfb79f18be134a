"""Pieces cover every row once, and searches may run at the same time or in forked processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rotaware.geo.threads import run_in_pieces
from rotaware.kernels import farthest_point_sampling, knn


@pytest.mark.parametrize("count", [0, 1, 99, 100, 1000, 1001])
def test_pieces_cover_every_row_once(count: int, threads: Callable[[int], None]) -> None:
    for number in (1, 2, 3):
        threads(number)
        seen: list[int] = []
        run_in_pieces(lambda start, stop, seen=seen: seen.extend(range(start, stop)), count, smallest=100)
        assert sorted(seen) == list(range(count))


def test_an_error_in_a_piece_is_raised(threads: Callable[[int], None]) -> None:
    threads(2)

    def fail(start: int, stop: int) -> None:
        if threading.current_thread() is not threading.main_thread() and start:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in_pieces(fail, 1000, smallest=10)


def test_searches_may_run_at_the_same_time(threads: Callable[[int], None]) -> None:
    threads(2)
    clouds = [torch.rand(4000, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    expected = [knn(cloud, 5).index for cloud in clouds]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda cloud: knn(cloud, 5).index, clouds))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


class Sampled(torch.utils.data.Dataset[torch.Tensor]):
    """A data set that searches and samples, as training does in forked workers."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, item: int) -> torch.Tensor:
        points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(item))
        return knn(points[farthest_point_sampling(points, 1500)], 4).index


def test_a_forked_data_loader_searches(threads: Callable[[int], None]) -> None:
    threads(2)
    data = Sampled()
    expected = [data[0], data[1]]
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loader, expected, strict=True))
