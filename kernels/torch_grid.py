"""A uniform grid in plain torch: for every query the points of the 27 cells around it, in tiles of bounded memory.

Points are sorted by cell, the first axis fastest, so that three cells side by side are one run of points and a query
has nine runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Candidates held at once; about 100 MB with all that is computed for each.
TILE = 1 << 21
# Rounding of a place in the grid, in cells: generous, a place is below 2**20 in float64 and 2**10 in float32.
MARGIN = 1e-3
# Cell over radius, so that 27 cells hold the ball.
COVER = 1 + 4 * MARGIN
# A query with more candidates than this, and than so many times its neighbors, is better compared with all points.
CROWD = 4096
CROWD_PER_NEIGHBOR = 32


class Grid(NamedTuple):
    """The finite points of one cloud, sorted by cell."""

    points: Tensor  # (n, 3)
    rows: Tensor  # (n,) int64, where each point stood
    keys: Tensor  # (n,) int64 number of its cell, ascending
    origin: Tensor  # (3,) corner of the first cell
    size: Tensor  # () edge of a cell
    cells: Tensor  # (3,) int64, cells along each axis; those at the border hold all that lies beyond


def build(points: Tensor, size: float) -> Grid:
    """The grid over (N, 3) points with cells of edge `size`; points far from the middle share the border cells."""
    rows = points.isfinite().all(1).nonzero()[:, 0]
    points = points[rows]
    most = 2**20 if points.dtype == torch.float64 else 2**10
    edge = points.new_tensor(max(size, torch.finfo(points.dtype).tiny))
    corner, extent = points.new_zeros(3), points.new_zeros(3)
    if len(points):
        corner = torch.maximum(points.amin(0), points.median(0).values - most // 2 * edge)
        extent = points.amax(0) - corner
    cells = (extent / edge).clamp(max=most - 1).to(torch.int64) + 1
    grid = Grid(points, rows, rows, corner, edge, cells)
    keys, order = _keys(grid, _cells(grid, points)[1]).sort(stable=True)
    return grid._replace(points=points[order], rows=rows[order], keys=keys)


def _cells(grid: Grid, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Places (m, 3) in units of cells from the corner, and the cells (m, 3) they lie in, int64."""
    places = (queries - grid.origin) / grid.size
    cells = places.clamp(min=0).minimum((grid.cells - 1).to(places.dtype)).floor()
    return places, cells.to(torch.int64)


def _keys(grid: Grid, cells: Tensor) -> Tensor:
    """Number of a cell (..., 3)."""
    x, y, z = cells.unbind(-1)
    return x + grid.cells[0] * (y + grid.cells[1] * z)


def _runs(grid: Grid, cells: Tensor) -> tuple[Tensor, Tensor]:
    """First point and number of points (m, 9) in each of the nine runs around cells (m, 3)."""
    steps = torch.arange(-1, 2, device=cells.device)
    side = torch.cartesian_prod(steps, steps)
    y, z = cells[:, 1:2] + side[:, 0], cells[:, 2:3] + side[:, 1]
    inside = (y >= 0) & (y < grid.cells[1]) & (z >= 0) & (z < grid.cells[2])
    first = (cells[:, :1] - 1).clamp(min=0).expand_as(y)
    last = torch.minimum(cells[:, :1] + 1, grid.cells[0] - 1).expand_as(y)
    start = torch.searchsorted(grid.keys, _keys(grid, torch.stack((first, y, z), -1)))
    stop = torch.searchsorted(grid.keys, _keys(grid, torch.stack((last, y, z), -1)), right=True)
    return start, torch.where(inside, stop - start, 0)


def prospect(grid: Grid, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For (m, 3) finite queries: whether there are too many candidates, and the squared distance they are complete to.

    All points closer than that are among the candidates; infinite where the 27 cells hold the whole cloud.
    """
    places, cells = _cells(grid, queries)
    crowded = _runs(grid, cells)[1].sum(1) > max(CROWD, CROWD_PER_NEIGHBOR * k)
    before = torch.where(cells > 1, places - (cells - 1), math.inf)
    after = torch.where(cells < grid.cells - 2, cells + 2 - places, math.inf)
    reach = (torch.minimum(before, after).amin(1) - MARGIN) * grid.size
    return crowded, reach.square()


def candidates(
    grid: Grid, queries: Tensor, chosen: Tensor, own: Tensor | None, limit: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For tiles of the queries numbered `chosen`: their numbers (m,), candidate rows (m, C), squared distances (m, C).

    Queries with similar numbers of candidates share a tile; spare columns and `own` rows are infinitely far.
    """
    if not len(grid.rows):
        return
    start, count = _runs(grid, _cells(grid, queries[chosen])[1])
    width, order = count.sum(1).sort()
    widths = width.tolist()
    begin = 0
    while begin < len(widths):
        # The last of a tile is the widest: halve the tile until it fits.
        end = min(len(widths), begin + TILE // max(1, widths[begin]))
        while end - begin > 1 and (end - begin) * widths[end - 1] > TILE:
            end = begin + (end - begin) // 2
        end = max(end, begin + 1)
        tile = order[begin:end]
        number = chosen[tile]
        ends = count[tile].cumsum(1)
        column = torch.arange(max(1, widths[end - 1]), device=queries.device).expand(len(tile), -1).contiguous()
        run = torch.searchsorted(ends, column, right=True)
        spare = run == ends.shape[1]
        run.clamp_(max=ends.shape[1] - 1)
        place = column + (start[tile] - (ends - count[tile])).gather(1, run)
        place.masked_fill_(spare, 0)
        rows = grid.rows[place]
        distance = torch.zeros_like(place, dtype=queries.dtype)
        for axis in range(3):
            distance += (grid.points[:, axis][place] - queries[number, axis, None]).square_()
        distance.masked_fill_(spare, math.inf)
        if own is not None:
            distance.masked_fill_(rows == own[number, None], math.inf)
        yield number, rows, distance
        begin = end
