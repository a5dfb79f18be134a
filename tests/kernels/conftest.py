"""Clouds that are hard on a spatial index, and both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from lattice_cases import wavy_sheet
from torch import Tensor

from rotaware.geo import random_rotations


def surface(count: int, *, seed: int = 0) -> Tensor:
    """Points on the faces of a unit cube."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    face = torch.randint(0, 3, (count,), generator=generator)
    points[torch.arange(count), face] = torch.randint(0, 2, (count,), generator=generator).double()
    return points


def lattice(edge: int) -> Tensor:
    """A cubic lattice in shuffled order: nearly every distance is tied."""
    ticks = torch.arange(edge, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks, ticks)
    return grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(1))]


CLOUDS = {
    "surface": surface(300),
    "lattice": lattice(6),
    "one point": torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64),
    "two points": torch.tensor([[0.3, -0.2, 0.1], [1.0, 0.0, 0.0]], dtype=torch.float64),
    "collinear": torch.arange(100, dtype=torch.float64)[:, None] * torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64),
    "all equal": torch.full((60, 3), 0.25, dtype=torch.float64),
    "duplicates": surface(50, seed=2).repeat(3, 1),
    "utm": surface(150, seed=3) + torch.tensor([4.5e5, 5.4e6, 200.0], dtype=torch.float64),
    "float32 far": (surface(150, seed=4) + 1e6).float(),
    "float32": surface(150, seed=5).float(),
    "outliers": torch.cat([surface(150, seed=6), torch.tensor([[1e6, 0, 0], [0, -1e9, 3.0]], dtype=torch.float64)]),
    "uneven": torch.cat([surface(80, seed=7) * 1e-3, surface(80, seed=8) * 100]),
}


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> Tensor:
    """One hard cloud after another."""
    return CLOUDS[request.param]


@pytest.fixture(params=["numba", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    """Both ways to compute."""
    return request.param


@pytest.fixture(params=["front", "back"])
def broken(request: pytest.FixtureRequest) -> Tensor:
    """A cloud in which some coordinates are NaN or infinite."""
    points = surface(200, seed=9)
    rows = slice(0, 9) if request.param == "front" else slice(100, 200)
    points[rows, 1] = torch.tensor([torch.nan, torch.inf, -torch.inf]).double().repeat(40)[: len(points[rows])]
    return points


@pytest.fixture(scope="session")
def lattice_scan() -> Tensor:
    """A sheet on a lattice of 2 mm; float64."""
    return wavy_sheet()


@pytest.fixture(scope="session")
def poses(lattice_scan: Tensor) -> list[Tensor]:
    """The scan in other poses, each rounded once, to float32."""
    generator = torch.Generator().manual_seed(1)
    rotations = random_rotations(3, generator=generator, dtype=torch.float64)
    shifts = torch.rand(3, 3, generator=generator, dtype=torch.float64) * 4 - 2
    return [(lattice_scan @ turn.T + shift).float() for turn, shift in zip(rotations, shifts, strict=True)]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of torch threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
