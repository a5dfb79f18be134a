"""Neighbor search in plain torch, on any device: a uniform grid for large clouds, else every distance in tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from . import torch_grid

# Distances held at once: 128 MiB of float64.
TILE = 1 << 24
# Pairs of points and queries up to which comparing all of them is fast enough: 10000 of each.
FEW_PAIRS = 10**8
# Queries that show how far away neighbors are.
PROBES = 256
# Neighbors beyond the k-th that are looked at for ties before all points are.
FURTHER = 2
# Doublings of the cell before the queries left over are compared with all points.
DOUBLINGS = 8
# Where the distance to the k-th neighbor varies more than this, small cells come first.
UNEVEN = 8


def nearest(
    points: Tensor,
    queries: Tensor,
    same: bool,
    exclude_self: bool,
    limit: float,
    tolerance: float,
    index: Tensor,
    distance: Tensor,
) -> None:
    """Fill index (M, k) int32 and distance (M, k) with the nearest of (N, 3) points, N >= 1; sorted, ties by index.

    `limit` is the largest squared distance that counts. Empty slots get -1 and infinity.
    """
    own = torch.arange(len(queries), device=queries.device) if exclude_self else None
    k = index.shape[1] + (FURTHER if tolerance > 0 else 0)
    if len(points) * len(queries) <= FEW_PAIRS:
        found, row = nearest_of_all(points, queries, own, limit, k)
    else:
        found, row = _nearest_in_grids(points, queries, own, limit, k)
    if tolerance > 0:
        found, row = _settled(points, queries, own, limit, tolerance, found, row, min(index.shape[1], row.shape[1]))
    k = row.shape[1]
    index[:, k:], distance[:, k:] = -1, math.inf
    index[:, :k], distance[:, :k] = row, _root(found, distance.dtype)


def _settled(
    points: Tensor,
    queries: Tensor,
    own: Tensor | None,
    limit: float,
    tolerance: float,
    found: Tensor,
    row: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    """The k nearest, ties by row as `numba_ties` defines them, from more of them sorted by distance, then row."""
    slots = torch.arange(found.shape[1], device=found.device)
    bound = found.new_full((len(found),), -1.0)
    group, groups = torch.full_like(bound, -1, dtype=torch.int64), torch.empty_like(found, dtype=torch.int64)
    # Of the group of the k-th: where it begins in the row, and how far it goes.
    first, last = torch.zeros_like(group), bound
    for slot in range(found.shape[1]):
        opens = found[:, slot] > bound
        group = group + opens
        groups[:, slot] = group
        reach = (_root(found[:, slot], found.dtype) + tolerance).square().maximum(found[:, slot])
        bound = torch.where(opens, reach, bound)
        if slot < k:
            first, last = torch.where(opens, slots[slot], first), bound
    by_row = row.argsort(dim=1)
    order = by_row.gather(1, groups.gather(1, by_row).argsort(dim=1, stable=True))[:, :k]
    settled, rows = found.gather(1, order), row.gather(1, order)
    # A group that fills a row to its end may go on among points not seen.
    open_ended = (found[:, -1] <= last.clamp(max=limit)) & (found[:, -1] < math.inf)
    unsure = open_ended.nonzero()[:, 0] if found.shape[1] < len(points) else slots[:0]
    for number, _, distance in _tiles(points, queries[unsure], None if own is None else own[unsure]):
        query = unsure[number]
        start, column = first[query, None], torch.arange(len(points), device=points.device)
        begin, end = found[query].gather(1, start), last[query, None].clamp(max=limit)
        names = torch.where((distance >= begin) & (distance <= end), column, len(points))
        names = names.topk(k, largest=False).values
        # The group's lowest rows, moved to where the group begins.
        place = (slots[:k] - start).clamp(min=0)
        name = names.gather(1, place).clamp(max=len(points) - 1)
        inside = slots[:k] >= start
        settled[query] = torch.where(inside, distance.gather(1, name), settled[query])
        rows[query] = torch.where(inside, name.to(row.dtype), rows[query])
    return settled, rows


def within(
    points: Tensor, queries: Tensor, same: bool, exclude_self: bool, limit: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts (M,), indices (E,) int32 and distances (E,) of all points at most `limit` away (squared)."""
    own = torch.arange(len(queries), device=queries.device) if exclude_self else None
    parts = [(torch.zeros(0, dtype=torch.int64, device=points.device),) * 2 + (points.new_zeros(0),)]
    tiles = _tiles(points, queries, own)
    if len(points) * len(queries) > FEW_PAIRS and limit < math.inf:
        grid = torch_grid.build(points, torch_grid.COVER * math.sqrt(limit))
        chosen = queries.isfinite().all(1).nonzero()[:, 0]
        tiles = torch_grid.candidates(grid, queries, chosen, own, limit)
    for query, rows, distance in tiles:
        place, column = ((distance <= limit) & (distance < math.inf)).nonzero(as_tuple=True)
        row = column if rows is None else rows[place, column]
        parts.append((query[place], row, distance[place, column]))
    query, row, found = map(torch.cat, zip(*parts, strict=True))
    # Three stable sorts: by query, then distance, then row.
    order = row.argsort(stable=True)
    order = order[found[order].argsort(stable=True)]
    order = order[query[order].argsort(stable=True)]
    counts = torch.bincount(query, minlength=len(queries))
    return counts, row[order].to(torch.int32), _root(found[order], dtype)


def _root(squared: Tensor, dtype: torch.dtype) -> Tensor:
    """Square roots, correctly rounded: those of torch's CPU builds with MKL miss the last bit at times."""
    if squared.device.type != "cpu":
        return squared.sqrt().to(dtype)
    return torch.from_numpy(np.sqrt(squared.numpy())).to(dtype)


def _tiles(points: Tensor, queries: Tensor, own: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Numbers and (m, N) squared distances of consecutive runs of queries; a query's own row is infinitely far."""
    step = max(1, TILE // max(1, len(points)))
    for start in range(0, len(queries), step):
        rows = queries[start : start + step]
        numbers = torch.arange(start, start + len(rows), device=rows.device)
        distance = (points[:, 0] - rows[:, None, 0]).square_()
        distance += (points[:, 1] - rows[:, None, 1]).square_()
        distance += (points[:, 2] - rows[:, None, 2]).square_()
        if own is not None:
            distance[numbers - start, own[numbers]] = math.inf
        yield numbers, None, distance


def nearest_of_all(points: Tensor, queries: Tensor, own: Tensor | None, limit: float, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances and rows (int32, -1 for none) of the k nearest, at most as many as there are points."""
    parts = [_smallest(distance, None, limit, k) for _, _, distance in _tiles(points, queries, own)]
    k = min(k, len(points))
    parts.append((points.new_zeros(0, k), torch.zeros(0, k, dtype=torch.int32, device=points.device)))
    found, row = map(torch.cat, zip(*parts, strict=True))
    return found, row


def _smallest(distance: Tensor, rows: Tensor | None, limit: float, k: int) -> tuple[Tensor, Tensor]:
    """Of (m, C) squared distances to `rows`, columns where None, the k smallest at most `limit`; ties by row."""
    k = min(k, distance.shape[1])
    distance.masked_fill_((distance > limit) | distance.isnan(), math.inf)
    found, column = distance.topk(k, largest=False)
    row = column if rows is None else rows.gather(1, column)
    border = found[:, -1:]
    # Top-k takes any of the points tied at its border: where some were left out, stable sorts decide again.
    uneven = ((distance == border).sum(1) > (found == border).sum(1)) & (border[:, 0] < math.inf)
    unsure = uneven.nonzero()[:, 0]
    if len(unsure):
        again, names = distance[unsure], None
        if rows is not None:
            names, by_row = rows[unsure].sort(dim=1)
            again = again.gather(1, by_row)
        again, place = again.sort(dim=1, stable=True)
        place = place[:, :k]
        found[unsure], row[unsure] = again[:, :k], place if names is None else names.gather(1, place)
    row, by_row = row.sort(dim=1)
    found, by_distance = found.gather(1, by_row).sort(dim=1, stable=True)
    row = row.gather(1, by_distance)
    return found, torch.where(found < math.inf, row, -1).to(torch.int32)


def _nearest_in_grids(
    points: Tensor, queries: Tensor, own: Tensor | None, limit: float, k: int
) -> tuple[Tensor, Tensor]:
    """As `nearest_of_all`, from grids of growing cells; queries that none of them answers are compared with all."""
    k = min(k, len(points))
    found = points.new_full((len(queries), k), math.inf)
    row = torch.full((len(queries), k), -1, dtype=torch.int32, device=points.device)
    waiting = queries.isfinite().all(1).nonzero()[:, 0]
    left_over = [waiting[:0]]
    size = _first_cell(points, queries[waiting], limit, k)
    for _ in range(DOUBLINGS if size > 0 else 0):
        if len(waiting) <= PROBES:
            break
        grid = torch_grid.build(points, size)
        crowded, reach = torch_grid.prospect(grid, queries[waiting], k)
        left_over.append(waiting[crowded])
        waiting, reach = waiting[~crowded], reach[~crowded]
        answered = torch.zeros(len(waiting), dtype=torch.bool, device=points.device)
        place_of = torch.empty(len(queries), dtype=torch.int64, device=points.device)
        place_of[waiting] = torch.arange(len(waiting), device=points.device)
        for query, rows, distance in torch_grid.candidates(grid, queries, waiting, own, limit):
            near, near_row = _smallest(distance, rows, limit, k)
            width = near.shape[1]
            found[query, :width], row[query, :width] = near, near_row
            place = place_of[query]
            farthest = near[:, -1] if width == k else torch.full_like(reach[place], math.inf)
            answered[place] = farthest.clamp(max=limit) <= reach[place]
        waiting = waiting[~answered]
        size *= 2
    waiting = torch.cat([waiting, *left_over])
    if len(waiting):
        mine = None if own is None else own[waiting]
        found[waiting], row[waiting] = nearest_of_all(points, queries[waiting], mine, limit, k)
    return found, row


def _first_cell(points: Tensor, queries: Tensor, limit: float, k: int) -> float:
    """Edge of a cell of which 27 hold the k nearest of most queries; 0 where no grid would help."""
    probes = queries[:: max(1, len(queries) // PROBES)]
    if not len(probes):
        return 0.0
    farthest = nearest_of_all(points, probes, None, limit, k)[0][:, -1].clamp(max=limit).sqrt()
    farthest = farthest[(farthest > 0) & (farthest < math.inf)]
    if not len(farthest):
        return 0.0
    few, most = torch.quantile(farthest, farthest.new_tensor([0.1, 0.9])).tolist()
    return few if most > UNEVEN * few else most
