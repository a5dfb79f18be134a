"""Patches against their definition: a partition, and the nearest points of each part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rotaware.kernels import farthest_point_sampling, group_points_to_nodes


def naive_groups(points: Tensor, nodes: Tensor) -> tuple[list[int], list[list[int]]]:
    """Nearest node of each point, and the points of each node by distance, then row."""
    offset = points.double()[:, None] - nodes.double()[None]
    squared = offset[..., 0] ** 2 + offset[..., 1] ** 2 + offset[..., 2] ** 2
    nearest = [min(range(len(nodes)), key=row.__getitem__) for row in squared.tolist()]
    members: list[list[int]] = [[] for _ in nodes]
    for point, node in enumerate(nearest):
        members[node].append(point)
    return nearest, [sorted(rows, key=squared[:, node].tolist().__getitem__) for node, rows in enumerate(members)]


@pytest.mark.parametrize("max_points", [1, 4, 64])
def test_groups_are_the_naive_ones(cloud: Tensor, backend: str, max_points: int) -> None:
    nodes = cloud[farthest_point_sampling(cloud, max(1, len(cloud) // 12))]
    nearest, members = naive_groups(cloud, nodes)
    found = group_points_to_nodes(cloud, nodes, max_points=max_points, backend=backend)
    padding = [len(cloud)] * max_points
    assert found.node_of_point.tolist() == nearest
    assert found.index.tolist() == [(rows + padding)[:max_points] for rows in members]
    assert torch.equal(found.mask, found.index < len(cloud))
    assert found.node_mask.tolist() == [len(rows) > 0 for rows in members]


def test_a_node_may_stay_empty_and_a_cloud_without_nodes(backend: str) -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [9, 0, 0]])
    nodes = torch.tensor([[1.1, 0, 0], [50, 0, 0]])
    found = group_points_to_nodes(
        points, nodes, max_points=2, lengths=[2, 1], node_lengths=torch.tensor([2, 0]), backend=backend
    )
    assert found.node_of_point.tolist() == [0, 0, -1]
    assert found.index.tolist() == [[1, 0], [3, 3]]
    assert found.node_mask.tolist() == [True, False]


def test_groups_of_a_batch_stay_apart(backend: str) -> None:
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    nodes = points[[0, 5, 9, 40, 45, 49]]
    found = group_points_to_nodes(points, nodes, max_points=40, lengths=[40, 40], node_lengths=[3, 3], backend=backend)
    assert torch.equal(found.node_of_point[40:], found.node_of_point[:40] + 3)
    assert torch.equal(found.index[3:][found.mask[3:]], found.index[:3][found.mask[:3]] + 40)


def test_no_room_for_points_is_named() -> None:
    with pytest.raises(ValueError, match="max_points: expected at least 1, got 0"):
        group_points_to_nodes(torch.zeros(4, 3), torch.zeros(1, 3), max_points=0)
