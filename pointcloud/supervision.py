"""What a matcher should have found: superpoints whose patches overlap at the true pose, and points that coincide."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from rotaware.geo import transform_points
from rotaware.geo.checks import require_floating, require_shape
from rotaware.kernels import knn

from .patches import Patches

# Rounding of a distance, relative; what is skipped by the triangle inequality must be far enough for certain.
_SLACK = 1e-9


class NodeOverlaps(NamedTuple):
    """Pairs of superpoints that share surface, in the order of target, then source."""

    target: Tensor  # (P,) int64
    source: Tensor  # (P,) int64
    overlap: Tensor  # (P,) float32 in (0, 1], mean of the covered shares of both patches

    def matrix(self, targets: int, sources: int) -> Tensor:
        """(targets, sources), 0 where nothing is shared.

        >>> one = torch.tensor([1])
        >>> NodeOverlaps(one, one, torch.tensor([0.5])).matrix(2, 2)
        tensor([[0.0000, 0.0000],
                [0.0000, 0.5000]])
        """
        dense = self.overlap.new_zeros(targets, sources)
        dense[self.target, self.source] = self.overlap
        return dense


class PointLabels(NamedTuple):
    """Which entries of a transport plan should be likely."""

    match: Tensor  # (P, R, C) bool
    row_slack: Tensor  # (P, R) bool, target points without a partner
    column_slack: Tensor  # (P, C) bool, source points without a partner


def moved(points: Tensor, transform: Tensor, flow: Tensor | None = None) -> Tensor:
    """Points of the source in the frame of the target.

    Args:
        points: (N, 3).
        transform: (4, 4), source to target, any floating point dtype.
        flow: (N, 3), added before the transform.
    Returns:
        (N, 3), dtype of `points`.
    Raises:
        ValueError: a shape that does not fit.

    >>> moved(torch.zeros(1, 3), torch.eye(4), torch.ones(1, 3))
    tensor([[1., 1., 1.]])
    """
    require_shape("points", points, "N", 3)
    require_shape("transform", transform, 4, 4)
    if flow is not None:
        require_shape("flow", flow, len(points), 3)
        points = points + flow.to(points)
    return transform_points(transform.to(points), points)


def node_flow(nodes: Tensor, points: Tensor, flow: Tensor) -> Tensor:
    """Displacement of superpoints: that of the point each was sampled from, or of the nearest.

    Args:
        nodes: (S, 3).
        points: (N, 3), same dtype and device.
        flow: (N, 3), of the points.
    Returns:
        (S, 3).
    Raises:
        ValueError: a shape that does not fit.

    >>> node_flow(torch.ones(1, 3), torch.eye(3) + 0.5, torch.arange(9.0).reshape(3, 3))
    tensor([[0., 1., 2.]])
    """
    require_shape("flow", flow, len(points), 3)
    return flow[knn(points, 1, queries=nodes).index[:, 0].long()]


def moved_patches(source: Patches, transform: Tensor, flow: Tensor | None = None) -> Patches:
    """Patches of the source in the frame of the target: the same members at other places.

    Args:
        source: patches.
        transform: (4, 4), source to target.
        flow: (N, 3) of the points, added before the transform; a superpoint moves with its point.
    Raises:
        ValueError: a shape that does not fit.

    >>> from rotaware.pointcloud.patches import patches_of
    >>> moved_patches(patches_of(torch.zeros(2, 3), torch.zeros(1, 3)), torch.eye(4), torch.ones(2, 3)).nodes
    tensor([[1., 1., 1.]])
    """
    shift = None if flow is None else node_flow(source.nodes, source.points, flow)
    nodes, points = moved(source.nodes, transform, shift), moved(source.points, transform, flow)
    return source._replace(nodes=nodes, points=points)


@torch.no_grad()
def node_overlaps(
    target: Patches, source: Patches, transform: Tensor, *, radius: float = 0.05, flow: Tensor | None = None
) -> NodeOverlaps:
    """Pairs of superpoints whose patches overlap at the true pose.

    A point of a patch is covered if a point of the other patch lies nearer than `radius`; the overlap is the mean of
    the shares of covered points of both. Distances are computed in float64 on the CPU, wherever the patches are.

    Deforming scenes: patches made of the points at rest need `flow`. The released code of RoITr makes them of the
    deformed points instead, which puts the truth into inference; for that, make them of `points + flow` and
    `nodes + node_flow(nodes, points, flow)`, and give no `flow` here.

    Args:
        target: patches, in the target's frame.
        source: patches, in the source's frame.
        transform: (4, 4), source to target.
        radius: in the unit of the points (0.05 m as published).
        flow: (N, 3) of the source's points, added before the transform.
    Returns:
        Pairs with an overlap above 0, on the device of the target.
    Raises:
        ValueError: a shape that does not fit, a radius that is not positive.
    Source: Qin et al., GeoTransformer, CVPR 2022, section 3.4, as in the released code of RoITr.

    >>> from rotaware.pointcloud.patches import patches_of
    >>> cloud = torch.rand(40, 3)
    >>> same = patches_of(cloud, cloud[:1])
    >>> node_overlaps(same, same, torch.eye(4)).overlap
    tensor([1.])
    """
    if not radius > 0:
        raise ValueError(f"radius: expected a positive distance, got {radius}")
    shares = np.zeros((len(target.nodes), len(source.nodes)), np.float32)
    _overlaps(*_arrays(target), *_arrays(moved_patches(source, transform, flow)), radius, shares)
    rows, columns = np.nonzero(shares)
    pairs = (torch.from_numpy(each).to(target.points.device) for each in (rows, columns, shares[rows, columns]))
    return NodeOverlaps(*pairs)


def _arrays(patches: Patches) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Superpoints, the points of their patches, how many these are, and how far from the superpoint they reach."""
    nodes = patches.nodes.double().cpu().numpy()
    points = patches.points.double().cpu().numpy()
    index, mask = patches.index.cpu().numpy(), patches.mask.cpu().numpy()
    # Coordinates by axis, for vector instructions.
    members = np.empty((len(nodes), 3, index.shape[1]))
    counts, reach = np.empty(len(nodes), np.int64), np.empty(len(nodes))
    _gather(nodes, points, index, mask, members, counts, reach)
    return nodes, members, counts, reach


@numba.njit(cache=True, nogil=True)
def _gather(nodes, points, index, mask, members, counts, reach):  # type: ignore[no-untyped-def]
    """Fill members (S, 3, K) from the front, counts (S,) and reach (S,)."""
    for i in range(nodes.shape[0]):
        count = 0
        farthest = 0.0
        for k in range(index.shape[1]):
            if mask[i, k]:
                squared = 0.0
                for axis in range(3):
                    members[i, axis, count] = points[index[i, k], axis]
                    squared += (members[i, axis, count] - nodes[i, axis]) ** 2
                farthest = max(farthest, squared)
                count += 1
        counts[i] = count
        reach[i] = np.sqrt(farthest)


@numba.njit(cache=True, nogil=True)
def _near(members, count, node, limit, chosen):  # type: ignore[no-untyped-def]
    """Copy the points nearer to `node` than `limit` to the front of chosen (3, K); their number."""
    found = 0
    squared_limit = limit * limit
    for k in range(count):
        x, y, z = members[0, k], members[1, k], members[2, k]
        squared = (x - node[0]) ** 2 + (y - node[1]) ** 2 + (z - node[2]) ** 2
        # Written always and kept if it counts: no branch to predict.
        chosen[0, found], chosen[1, found], chosen[2, found] = x, y, z
        found += squared < squared_limit
    return found


@numba.njit(cache=True, nogil=True)
def _overlaps(nodes, members, counts, reach, nodes2, members2, counts2, reach2, radius, shares):  # type: ignore[no-untyped-def]
    """Fill shares (S, S2), which is zero."""
    mine, theirs = np.empty((3, members.shape[2])), np.empty((3, members2.shape[2]))
    covered = np.empty(members2.shape[2], np.int64)
    squared_radius = radius * radius
    for i in range(nodes.shape[0]):
        if counts[i] == 0:
            continue
        for j in range(nodes2.shape[0]):
            if counts2[j] == 0:
                continue
            gap = 0.0
            for axis in range(3):
                gap += (nodes[i, axis] - nodes2[j, axis]) ** 2
            if not gap < ((reach[i] + reach2[j] + radius) * (1.0 + _SLACK)) ** 2:
                continue
            # Only points that the other patch can reach: most pairs of patches that come near share little or nothing.
            size = _near(members[i], counts[i], nodes2[j], (reach2[j] + radius) * (1.0 + _SLACK), mine)
            if size == 0:
                continue
            size2 = _near(members2[j], counts2[j], nodes[i], (reach[i] + radius) * (1.0 + _SLACK), theirs)
            covered[:size2] = 0
            hits = 0
            for a in range(size):
                x, y, z = mine[0, a], mine[1, a], mine[2, a]
                found = np.int64(0)
                for b in range(size2):
                    dx, dy, dz = x - theirs[0, b], y - theirs[1, b], z - theirs[2, b]
                    close = np.int64(dx * dx + dy * dy + dz * dz < squared_radius)
                    found |= close
                    covered[b] |= close
                hits += int(found)
            hits2 = 0
            for b in range(size2):
                hits2 += covered[b]
            shares[i, j] = 0.5 * (hits / counts[i] + hits2 / counts2[j])


@torch.no_grad()
def sample_node_pairs(
    overlaps: NodeOverlaps, *, count: int = 128, least: float = 0.1, generator: torch.Generator | None = None
) -> NodeOverlaps:
    """Pairs to train the matching of points on: at most `count`, drawn at random among those that overlap enough.

    Args:
        overlaps: of the superpoints.
        count: most pairs to take; with no more than these, all are taken, in order.
        least: overlaps are larger.
        generator: of the draw, on the CPU.

    >>> pairs = NodeOverlaps(torch.arange(3), torch.arange(3), torch.tensor([0.05, 0.5, 0.9]))
    >>> sample_node_pairs(pairs).target
    tensor([1, 2])
    """
    rows = (overlaps.overlap > least).nonzero()[:, 0]
    if len(rows) > count:
        rows = rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]
    return NodeOverlaps(*(part[rows] for part in overlaps))


@torch.no_grad()
def point_labels(
    target_points: Tensor, source_points: Tensor, target_mask: Tensor, source_mask: Tensor, *, radius: float = 0.05
) -> PointLabels:
    """Points of matched patches nearer to each other than `radius`, and those without any such partner.

    Args:
        target_points: (P, R, 3).
        source_points: (P, C, 3), already in the frame of the target.
        target_mask: (P, R) bool, which points exist.
        source_mask: (P, C) bool.
        radius: in the unit of the points (0.05 m as published).
    Returns:
        A point may have several partners. A point that does not exist has no label at all.
    Raises:
        TypeError, ValueError: a tensor that does not fit.
    Source: Qin et al., GeoTransformer, CVPR 2022, section 3.4.

    >>> point, exists = torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.bool)
    >>> point_labels(point, point + 1, exists, exists).row_slack
    tensor([[True]])
    """
    require_floating("target_points", target_points)
    require_shape("target_points", target_points, "P", "R", 3)
    require_shape("source_points", source_points, len(target_points), "C", 3)
    require_shape("target_mask", target_mask, *target_points.shape[:2])
    require_shape("source_mask", source_mask, *source_points.shape[:2])
    # One axis after the other: no (P, R, C, 3).
    x, y, z = (target_points[:, :, None, axis] - source_points[:, None, :, axis] for axis in range(3))
    squared = x * x + y * y + z * z
    match = (squared < radius * radius) & target_mask[:, :, None] & source_mask[:, None]
    return PointLabels(match, target_mask & ~match.any(2), source_mask & ~match.any(1))
