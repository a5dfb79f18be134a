"""Exact neighbors in packed batches of point clouds: k nearest, and all within a radius.

Distances are computed in float64 as sums of squared differences whatever the dtype of the points, so both backends
agree on every tie. Ties go to the smaller index. Neighbors never cross from one cloud of a batch to another.
Values are not checked: a point that is not finite is nobody's neighbor and has none.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rotaware.geo.checks import require_same_dtype
from rotaware.geo.threads import run_in_pieces

from . import numba_neighbors, numba_ties, torch_neighbors
from .batches import Backend, Lengths, exact, paired_clouds, require_points, require_tie_tolerance, runs_numba
from .numba_tree import Tree, build_tree
from .sampling import hilbert_order

# About a millisecond of work.
QUERIES_PER_PIECE = 1024
# Neighbors beyond the k-th that are looked at for ties before the cloud is searched for them.
FURTHER = 2


class Neighbors(NamedTuple):
    """A fixed number of neighbors per query, nearest first."""

    index: Tensor  # type: ignore[assignment]  # (M, k) int32, packed rows of the points, -1 where there is no neighbor
    distance: Tensor  # (M, k) in the unit and dtype of the points, infinite where there is no neighbor


class RadiusNeighbors(NamedTuple):
    """All neighbors within a radius; those of query q are the entries offsets[q] to offsets[q + 1], nearest first."""

    offsets: Tensor  # (M + 1,) int64
    index: Tensor  # type: ignore[assignment]  # (E,) int32, packed rows of the points
    distance: Tensor  # (E,) in the unit and dtype of the points


def knn(
    points: Tensor,
    k: int,
    *,
    queries: Tensor | None = None,
    lengths: Lengths | None = None,
    query_lengths: Lengths | None = None,
    exclude_self: bool = False,
    max_radius: float | None = None,
    tie_tolerance: float = 0.0,
    backend: Backend = "auto",
) -> Neighbors:
    """The k nearest points of every query, exactly.

    Args:
        points: (N, 3) float32 or float64, any unit.
        k: neighbors per query, at least 1; unlimited.
        queries: (M, 3), same dtype and device; None asks for the neighbors of the points themselves.
        lengths: (B,) rows of each cloud in `points`; None for one cloud.
        query_lengths: (B,) rows of each cloud in `queries`.
        exclude_self: leave out the query's own row (not its duplicates); only without `queries`.
        max_radius: largest distance that counts (inclusive, compared as squares), in the unit of the points.
        tie_tolerance: in the unit of the points. The nearest point and all that are no farther than it plus this are
            tied; the nearest of the others opens the next such group, and so on; inside a group the lowest row comes
            first. Distances on a lattice are often equal; rounding breaks such ties in another way in every pose of
            the cloud, unless the tolerance is above the rounding and below the steps of the distances.
        backend: "numba" on the CPU, "torch" anywhere; "auto" takes numba for CPU tensors.
    Returns:
        Sorted by distance (ties together), then index. A cloud with fewer than k points leaves -1 and infinity. No
        gradient.
    Raises:
        TypeError: not floating point tensors.
        ValueError: a shape, length, dtype or device that does not fit, k < 1, a negative radius, `exclude_self` with
            `queries`.
        RuntimeError: backend "numba" and the tensors are not on the CPU.

    >>> line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    >>> knn(line, 2, exclude_self=True).index
    tensor([[1, 2],
            [0, 2],
            [1, 0]], dtype=torch.int32)
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    limit = math.inf if max_radius is None else _squared_radius("max_radius", max_radius)
    require_tie_tolerance(tie_tolerance)
    asked, asked_lengths = _check(points, queries, lengths, query_lengths, exclude_self)
    index = torch.empty((len(asked), k), dtype=torch.int32, device=points.device)
    distance = torch.empty((len(asked), k), dtype=_dtype_of_distances(points), device=points.device)
    compiled = runs_numba(backend, points, queries)
    for cloud, rows in paired_clouds(lengths, len(points), "query_lengths", asked_lengths, len(asked)):
        if cloud.start == cloud.stop:
            index[rows], distance[rows] = -1, math.inf
            continue
        ours, theirs = exact(points[cloud]), exact(asked[rows])
        search = _nearest_numba if compiled else torch_neighbors.nearest
        search(ours, theirs, queries is None, exclude_self, limit, tie_tolerance, index[rows], distance[rows])
        if cloud.start:
            index[rows] += (index[rows] >= 0) * cloud.start
    return Neighbors(index, distance.to(points.dtype))


def radius_search(
    points: Tensor,
    radius: float,
    *,
    queries: Tensor | None = None,
    lengths: Lengths | None = None,
    query_lengths: Lengths | None = None,
    exclude_self: bool = False,
    backend: Backend = "auto",
) -> RadiusNeighbors:
    """All points within a radius of every query, exactly; memory grows with the number found.

    Args:
        points: (N, 3) float32 or float64, any unit.
        radius: largest distance that counts (inclusive, compared as squares), in the unit of the points.
        queries: (M, 3), same dtype and device; None asks for the neighbors of the points themselves.
        lengths: (B,) rows of each cloud in `points`; None for one cloud.
        query_lengths: (B,) rows of each cloud in `queries`.
        exclude_self: leave out the query's own row (not its duplicates); only without `queries`.
        backend: "numba" on the CPU, "torch" anywhere; "auto" takes numba for CPU tensors.
    Returns:
        Rows of each query sorted by distance, then index. No gradient.
    Raises:
        TypeError: not floating point tensors.
        ValueError: a shape, length, dtype or device that does not fit, a negative radius, `exclude_self` with
            `queries`.
        RuntimeError: backend "numba" and the tensors are not on the CPU.

    >>> line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    >>> radius_search(line, 1.0).offsets
    tensor([0, 2, 4, 5])
    """
    limit = _squared_radius("radius", radius)
    asked, asked_lengths = _check(points, queries, lengths, query_lengths, exclude_self)
    compiled = runs_numba(backend, points, queries)
    # Empty pieces give a batch of no clouds its types.
    counts = [torch.empty(0, dtype=torch.int64, device=points.device)]
    indices = [torch.empty(0, dtype=torch.int32, device=points.device)]
    distances = [torch.empty(0, dtype=_dtype_of_distances(points), device=points.device)]
    for cloud, rows in paired_clouds(lengths, len(points), "query_lengths", asked_lengths, len(asked)):
        search = _within_numba if compiled else torch_neighbors.within
        count, index, distance = search(
            exact(points[cloud]), exact(asked[rows]), queries is None, exclude_self, limit, distances[0].dtype
        )
        counts.append(count)
        indices.append(index + cloud.start if cloud.start else index)
        distances.append(distance)
    offsets = torch.zeros(len(asked) + 1, dtype=torch.int64, device=points.device)
    torch.cumsum(torch.cat(counts), 0, out=offsets[1:])
    return RadiusNeighbors(offsets, torch.cat(indices), torch.cat(distances).to(points.dtype))


def _squared_radius(name: str, radius: float) -> float:
    """The square, after the check."""
    if not radius >= 0:
        raise ValueError(f"{name}: expected a distance of at least 0, got {radius}")
    return float(radius) * float(radius)


def _dtype_of_distances(points: Tensor) -> torch.dtype:
    """What a search writes: rounded once from the exact distance, unless the points are of another type still."""
    return points.dtype if points.dtype == torch.float32 else exact(points[:0]).dtype


def _check(
    points: Tensor,
    queries: Tensor | None,
    lengths: Lengths | None,
    query_lengths: Lengths | None,
    exclude_self: bool,
) -> tuple[Tensor, Lengths | None]:
    """The tensor of queries and its lengths."""
    require_points("points", points)
    if queries is None:
        if query_lengths is not None:
            raise ValueError("query_lengths: expected None without queries, got lengths")
        return points, lengths
    require_points("queries", queries)
    require_same_dtype({"points": points, "queries": queries})
    if exclude_self:
        raise ValueError("exclude_self: expected False with queries (no query is a point), got True")
    return queries, query_lengths


def _tree_and_order(points: Tensor, queries: Tensor, same: bool) -> tuple[Tree, np.ndarray]:
    """The tree over the points, and an order of the queries in which consecutive ones are close."""
    order = hilbert_order(points)
    tree = Tree(*build_tree(points.numpy(), order))
    return tree, order if same else hilbert_order(queries)


def _nearest_numba(
    points: Tensor,
    queries: Tensor,
    same: bool,
    exclude_self: bool,
    limit: float,
    tolerance: float,
    index: Tensor,
    distance: Tensor,
) -> None:
    """Fill index and distance for one cloud."""
    tree, order = _tree_and_order(points, queries, same)
    k, asked = index.shape[1], queries.numpy()
    if tolerance == 0:
        wide, wide_distance = index.numpy(), distance.numpy()
    else:
        wide = np.empty((len(queries), k + FURTHER), np.int32)
        wide_distance = np.empty(wide.shape, distance.numpy().dtype)

    def run(start: int, stop: int) -> None:
        numba_neighbors.nearest(start, stop, asked, order, *tree, exclude_self, limit, wide, wide_distance)
        if tolerance > 0:
            numba_ties.settle(
                *(start, stop, points.numpy(), asked, order, *tree, exclude_self, limit, tolerance),
                *(wide, wide_distance, index.numpy(), distance.numpy()),
            )

    run_in_pieces(run, len(queries), smallest=QUERIES_PER_PIECE)


def _within_numba(
    points: Tensor, queries: Tensor, same: bool, exclude_self: bool, limit: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, indices and distances of one cloud."""
    offsets = np.zeros(len(queries) + 1, np.int64)
    if not (len(points) and len(queries)):
        return torch.from_numpy(offsets[1:]), torch.empty(0, dtype=torch.int32), torch.empty(0, dtype=dtype)
    tree, order = _tree_and_order(points, queries, same)

    def run(fill: bool, index: Tensor, distance: Tensor, start: int, stop: int) -> None:
        numba_neighbors.within(
            *(start, stop, queries.numpy(), order, *tree, exclude_self, limit),
            *(fill, offsets, index.numpy(), distance.numpy()),
        )

    index, distance = torch.empty(0, dtype=torch.int32), torch.empty(0, dtype=dtype)
    run_in_pieces(partial(run, False, index, distance), len(queries), smallest=QUERIES_PER_PIECE)
    counts = offsets[1:].copy()
    np.cumsum(counts, out=offsets[1:])
    index, distance = index.new_empty(int(offsets[-1])), distance.new_empty(int(offsets[-1]))
    run_in_pieces(partial(run, True, index, distance), len(queries), smallest=QUERIES_PER_PIECE)
    return torch.from_numpy(counts), index, distance
