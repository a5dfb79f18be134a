"""Superpoints with the points around each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rotaware.kernels import group_points_to_nodes


class Patches(NamedTuple):
    """One cloud, every point in the patch of its nearest superpoint.

    >>> patches = patches_of(torch.rand(50, 3), torch.rand(4, 3), max_points=16)
    >>> patches.patch_points().shape
    torch.Size([4, 16, 3])
    """

    nodes: Tensor  # (S, 3)
    points: Tensor  # (N, 3)
    index: Tensor  # type: ignore[assignment]  # (S, K) int64 rows of `points`, nearest first, N for none
    mask: Tensor  # (S, K) bool, True where there is a point
    node_mask: Tensor  # (S,) bool, True where a superpoint has a point

    def patch_points(self) -> Tensor:
        """(S, K, 3), zero where there is no point."""
        return torch.cat([self.points, self.points.new_zeros(1, 3)])[self.index]


def patches_of(points: Tensor, nodes: Tensor, *, max_points: int = 64) -> Patches:
    """Patches of one cloud around its superpoints.

    Args:
        points: (N, 3).
        nodes: (S, 3), same dtype and device.
        max_points: K; of a larger patch the points nearest to the superpoint are kept.
    Raises:
        TypeError, ValueError: as `rotaware.kernels.group_points_to_nodes`.

    >>> patches_of(torch.eye(3), torch.eye(3)[:1], max_points=2).index
    tensor([[0, 1]])
    """
    groups = group_points_to_nodes(points, nodes, max_points=max_points)
    return Patches(nodes, points, groups.index, groups.mask, groups.node_mask)
