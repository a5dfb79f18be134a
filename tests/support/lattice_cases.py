"""Scans as depth cameras make them, on a lattice where many distances are equal, and what a pyramid makes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from rotaware.kernels import voxel_downsample
from rotaware.kernels.neighborhood import Neighborhood
from rotaware.kernels.pyramid import Pyramid


def wavy_sheet() -> Tensor:
    """A wavy sheet 3 m across with steps, thinned to 5 cm, on a lattice of 2 mm as depth cameras make it; float64."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(2500, 2, generator=generator, dtype=torch.float64) * 3 - 1.5
    steps = (torch.rand(2500, generator=generator) < 0.3) * 0.2
    points = torch.cat([flat, (0.3 * (3 * flat[:, :1]).sin() + steps[:, None])], dim=1)
    thinned = voxel_downsample(points, 0.05, rule="first").points
    # Coarser along two axes: more ties.
    pitch = torch.tensor([0.002, 0.006, 0.006], dtype=torch.float64)
    return (thinned / pitch).round() * pitch


def same_in_given_order(table: Neighborhood, order: Tensor | None, key_order: Tensor | None) -> Tensor:
    """The table in terms of given rows."""
    if order is None or key_order is None:
        return table.idx
    names = torch.cat([key_order, key_order.new_full((1,), -1)])[table.idx.long()]
    return torch.empty_like(names).index_copy_(0, order.long(), names)


def choices(pyramid: Pyramid) -> list[Tensor]:
    """All tables and samples in terms of given rows."""
    found, finer = [], pyramid.order
    for level in pyramid.levels:
        found.append(same_in_given_order(level.neighborhood, level.order, level.order))
        if level.rows is not None and level.up is not None:
            names = level.rows if finer is None else finer[level.rows]
            found.append(
                names if level.order is None else torch.empty_like(names).scatter_(0, level.order.long(), names)
            )
            found.append(same_in_given_order(level.down, level.order, finer))
            found.append(same_in_given_order(level.up, finer, level.order))
        finer = level.order
    return found
