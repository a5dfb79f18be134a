"""What torch may rebuild is one list for the whole process: two readers with stand-ins of the same names share it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from rotaware.datasets.safe_pickle import load_torch
from rotaware.pointcloud.io_torch import read_torch


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Threads that interrupt each other all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("busy_threads")
def test_threads_may_read_with_both(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    torch.save(points, tmp_path / "cloud.pth")
    content = (tmp_path / "cloud.pth").read_bytes()

    def read(number: int) -> np.ndarray:
        return read_torch("cloud", content).points if number % 2 else load_torch(tmp_path / "cloud.pth")

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(read, range(200)):
            np.testing.assert_array_equal(found, points)
