"""Processes that work through jobs: all of them, once, each with one thread, and whatever a job does to its process."""

from __future__ import annotations

import multiprocessing
import os

import numba
import pytest
import torch
from evaluation_cases import report_threads, square_unless

from rotaware.pointcloud.evaluation_workers import Crash, PeakMemory, work_through


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_all_jobs_are_done_once(workers: int) -> None:
    jobs = list(range(10))
    assert sorted(work_through(jobs, square_unless, workers)) == [(job, job * job) for job in jobs]
    assert list(work_through([], square_unless, workers)) == []


def test_a_crash_costs_one_job() -> None:
    found = dict(work_through([1, -3, 2, -5, 4], square_unless, 2))
    assert found == {1: 1, 2: 4, 4: 16, -3: Crash(3), -5: Crash(5)}


def test_work_is_done_by_one_thread_and_this_process_keeps_its_own() -> None:
    before = torch.get_num_threads(), numba.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    for workers in (0, 1):
        assert [threads for _, threads in work_through([None], report_threads, workers)] == [(1, 1)]
    assert (torch.get_num_threads(), numba.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == before


def test_a_process_that_cannot_start_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="a worker ended with exit code 9 before it could take a job"):
        list(work_through([1, 2], Unpicklable(), 1))


def test_workers_end_with_the_work() -> None:
    results = work_through([1, 2, 3], square_unless, 1)
    next(results)
    (child,) = multiprocessing.active_children()
    results.close()
    assert not child.is_alive()


def test_peak_memory_forgets_what_was_before() -> None:
    if PeakMemory().megabytes is None:
        pytest.skip("only Linux tells")
    size = 200 * 2**20
    first = PeakMemory()
    block = torch.ones(size, dtype=torch.uint8)
    high = first.megabytes
    del block
    assert high is not None and high - (PeakMemory().megabytes or 0) > 100


class Unpicklable:
    """Ends the process that receives it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (9,)
