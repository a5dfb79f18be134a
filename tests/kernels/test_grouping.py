"""Patches against their definition: a partition, and the nearest points of each part."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rotaware.kernels import farthest_point_sampling, group_points_to_nodes


def by_distance(names: list[int], squared: list[float], tolerance: float) -> list[int]:
    """Names, nearest first. The nearest and all within the tolerance are tied: they go by name; so do the next."""
    left, ordered = sorted(names, key=squared.__getitem__), []
    while left:
        bound = max(squared[left[0]], (math.sqrt(squared[left[0]]) + tolerance) ** 2)
        tied = [name for name in left if squared[name] <= bound]
        ordered += sorted(tied)
        left = left[len(tied) :]
    return ordered


def naive_groups(points: Tensor, nodes: Tensor, tolerance: float = 0.0) -> tuple[list[int], list[list[int]]]:
    """Nearest node of each point, and the points of each node by distance, then row."""
    offset = points.double()[:, None] - nodes.double()[None]
    squared = offset[..., 0] ** 2 + offset[..., 1] ** 2 + offset[..., 2] ** 2
    names = list(range(len(nodes)))
    nearest = [by_distance(names, row, tolerance)[0] for row in squared.tolist()]
    members: list[list[int]] = [[] for _ in nodes]
    for point, node in enumerate(nearest):
        members[node].append(point)
    return nearest, [by_distance(rows, squared[:, node].tolist(), tolerance) for node, rows in enumerate(members)]


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("max_points", [1, 4, 64])
def test_groups_are_the_naive_ones(cloud: Tensor, backend: str, max_points: int, tolerance: float) -> None:
    nodes = cloud[farthest_point_sampling(cloud, max(1, len(cloud) // 12))]
    nearest, members = naive_groups(cloud, nodes, tolerance)
    found = group_points_to_nodes(cloud, nodes, max_points=max_points, tie_tolerance=tolerance, backend=backend)
    padding = [len(cloud)] * max_points
    assert found.node_of_point.tolist() == nearest
    assert found.index.tolist() == [(rows + padding)[:max_points] for rows in members]
    assert torch.equal(found.mask, found.index < len(cloud))
    assert found.node_mask.tolist() == [len(rows) > 0 for rows in members]


def test_groups_on_a_lattice_do_not_change_with_its_pose(
    lattice_scan: Tensor, poses: list[Tensor], backend: str
) -> None:
    rows = torch.arange(0, len(lattice_scan), 4)
    plain, tied = (
        [
            group_points_to_nodes(pose, pose[rows], max_points=8, tie_tolerance=tolerance, backend=backend)
            for pose in (lattice_scan.float(), *poses)
        ]
        for tolerance in (0.0, 2e-6)
    )
    for ours, theirs in zip(tied[0], zip(*tied[1:], strict=True), strict=True):
        assert all(torch.equal(ours, other) for other in theirs)
    assert not all(torch.equal(plain[0].index, other.index) for other in plain[1:])
    lattice = (lattice_scan * 500).round()
    assert torch.equal(group_points_to_nodes(lattice, lattice[rows], max_points=8).index, tied[0].index)


def test_tied_groups_of_clouds_without_points_or_nodes(backend: str) -> None:
    points, nodes = torch.zeros(3, 3), torch.zeros(2, 3)
    found = group_points_to_nodes(
        points, nodes, max_points=2, lengths=[3, 0], node_lengths=[0, 2], tie_tolerance=0.1, backend=backend
    )
    assert found.node_of_point.tolist() == [-1] * 3 and found.index.tolist() == [[3, 3]] * 2
    assert group_points_to_nodes(points[:0], nodes, max_points=1, tie_tolerance=0.1).index.tolist() == [[0], [0]]


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
