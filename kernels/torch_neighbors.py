"""Neighbour search in plain torch, on any device: every distance, in tiles of bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Distances held at once: 128 MiB of float64.
TILE = 1 << 24


def nearest(
    points: Tensor, queries: Tensor, same: bool, exclude_self: bool, limit: float, index: Tensor, squared: Tensor
) -> None:
    """Fill index (M, k) int32 and squared (M, k) with the nearest of (N, 3) points, N >= 1; sorted, ties by index.

    `limit` is the largest squared distance that counts. Empty slots get -1 and infinity.
    """
    index.fill_(-1)
    squared.fill_(math.inf)
    k = min(index.shape[1], len(points))
    for start, distance in _tiles(points, queries, exclude_self):
        distance.masked_fill_((distance > limit) | distance.isnan(), math.inf)
        found, row = distance.topk(k, largest=False)
        border = found[:, -1:]
        # Top-k takes any of the points tied at its border: where some were left out, a stable sort decides again.
        uneven = ((distance == border).sum(1) > (found == border).sum(1)) & (border[:, 0] < math.inf)
        open_rows = uneven.nonzero()[:, 0]
        if len(open_rows):
            again, rows = distance[open_rows].sort(dim=1, stable=True)
            found[open_rows], row[open_rows] = again[:, :k], rows[:, :k]
        row, by_index = row.sort(dim=1)
        found, by_distance = found.gather(1, by_index).sort(dim=1, stable=True)
        row = row.gather(1, by_distance)
        stop = start + len(distance)
        index[start:stop, :k] = torch.where(found < math.inf, row, -1).to(torch.int32)
        squared[start:stop, :k] = found


def within(
    points: Tensor, queries: Tensor, same: bool, exclude_self: bool, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts (M,), indices (E,) int32 and squared distances (E,) of all points at most `limit` away (squared)."""
    counts = [torch.zeros(0, dtype=torch.int64, device=points.device)]
    indices = [torch.zeros(0, dtype=torch.int64, device=points.device)]
    squares = [points.new_zeros(0)]
    for _, distance in _tiles(points, queries, exclude_self):
        inside = (distance <= limit) & (distance < math.inf)
        query, row = inside.nonzero(as_tuple=True)
        found = distance[query, row]
        by_distance = found.argsort(stable=True)
        order = by_distance[query[by_distance].argsort(stable=True)]
        counts.append(inside.sum(1))
        indices.append(row[order])
        squares.append(found[order])
    return torch.cat(counts), torch.cat(indices).to(torch.int32), torch.cat(squares)


def _tiles(points: Tensor, queries: Tensor, exclude_self: bool) -> Iterator[tuple[int, Tensor]]:
    """First query and (m, N) squared distances of consecutive runs of queries; a query's own row is NaN if excluded."""
    step = max(1, TILE // max(1, len(points)))
    for start in range(0, len(queries), step):
        rows = queries[start : start + step]
        distance = (points[:, 0] - rows[:, None, 0]).square_()
        distance += (points[:, 1] - rows[:, None, 1]).square_()
        distance += (points[:, 2] - rows[:, None, 2]).square_()
        if exclude_self:
            own = torch.arange(len(rows), device=rows.device)
            distance[own, start + own] = math.nan
        yield start, distance
