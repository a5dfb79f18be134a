"""What every test of this room samples: kinds of rotation, batch shapes and dtypes, with one table of tolerances."""

from __future__ import annotations

import pytest
import torch

# Error of one conversion, absolute, for numbers of size 1.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 2e-6}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["uniform", "near_identity", "near_pi"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[(), (1,), (3, 1, 2)], ids=str)
def batch(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def tolerance(dtype: torch.dtype) -> float:
    return TOLERANCE[dtype]
