"""Patches: every point joins its nearest node."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .batches import Backend, Lengths, exact
from .neighbors import knn
from .numba_ties import group_numbers


class NodeGroups(NamedTuple):
    """A partition of the points, and the same as a table of limited width."""

    node_of_point: Tensor  # (N,) int64, packed rows of the nodes, -1 in a cloud without nodes
    index: Tensor  # type: ignore[assignment]  # (Nn, max_points) int64 packed rows, nearest first, N for none
    mask: Tensor  # (Nn, max_points) bool, True where there is a point
    node_mask: Tensor  # (Nn,) bool, True where a node has a point


def group_points_to_nodes(
    points: Tensor,
    nodes: Tensor,
    *,
    max_points: int = 64,
    lengths: Lengths | None = None,
    node_lengths: Lengths | None = None,
    tie_tolerance: float = 0.0,
    backend: Backend = "auto",
) -> NodeGroups:
    """The points nearest to each node, each point in one group.

    Args:
        points: (N, 3) float32 or float64.
        nodes: (Nn, 3), same dtype and device.
        max_points: a node with more points keeps its nearest; the partition `node_of_point` keeps them all.
        lengths: (B,) rows of each cloud in `points`; None for one cloud.
        node_lengths: (B,) rows of each cloud in `nodes`.
        tie_tolerance, backend: as in `knn`; ties among the points of a node are judged as those of a query.
    Returns:
        Ties go to the lower node and, inside a group, to the lower point.
    Raises:
        TypeError, ValueError, RuntimeError: as in `knn`; ValueError for max_points < 1.
    Reference: Yu et al., RoITr, CVPR 2023, section 3.3 (points to superpoints).

    >>> cloud = torch.tensor([[0.0, 0, 0], [2, 0, 0], [9, 0, 0], [0.5, 0, 0]])
    >>> group_points_to_nodes(cloud, torch.tensor([[0.0, 0, 0], [9, 0, 0]]), max_points=2).index
    tensor([[0, 3],
            [2, 4]])
    """
    if max_points < 1:
        raise ValueError(f"max_points: expected at least 1, got {max_points}")
    # Seen from the search, the nodes are searched and the points ask.
    nearest = knn(
        nodes,
        1,
        queries=points,
        lengths=node_lengths,
        query_lengths=lengths,
        tie_tolerance=tie_tolerance,
        backend=backend,
    )
    node_of_point = nearest.index[:, 0].to(torch.int64)
    grouped = (node_of_point >= 0).nonzero()[:, 0]
    node = node_of_point[grouped]
    offset = (exact(points)[grouped] - exact(nodes)[node]).square_()
    # Two stable sorts: by node, then distance, then row.
    squared = offset[:, 0] + offset[:, 1] + offset[:, 2]
    by_distance = squared.argsort(stable=True)
    order = by_distance[node[by_distance].argsort(stable=True)]
    if tie_tolerance > 0:
        # Where a group ends depends on where it began: one pass, on the CPU.
        groups = group_numbers(squared[order].cpu().double().numpy(), node[order].cpu().numpy(), tie_tolerance)
        # All of a group have one node, and a sort by row, then group, leaves groups and nodes in their order.
        group = torch.from_numpy(groups).to(points.device)
        order, by_row = order.sort()
        order = order[group[by_row].argsort(stable=True)]
    counts = torch.bincount(node, minlength=len(nodes))
    rank = torch.arange(len(order), device=points.device) - (counts.cumsum(0) - counts)[node[order]]
    kept = rank < max_points
    index = torch.full((len(nodes), max_points), len(points), dtype=torch.int64, device=points.device)
    index[node[order][kept], rank[kept]] = grouped[order][kept]
    return NodeGroups(node_of_point, index, index < len(points), counts > 0)
