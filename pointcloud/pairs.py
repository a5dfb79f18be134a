"""Pairs of clouds made ready for the network: everything geometric, computed once and off the training thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rotaware.geo import point_pair_features, signed_point_pair_features
from rotaware.geo.checks import require_floating, require_shape
from rotaware.kernels import NodeGroups, Pyramid, group_points_to_nodes

from .node_geometry import NodeGeometry
from .patches import Patches
from .roitr_config import RoITrConfig

Side = Literal["source", "target"]
PAIR_FEATURES = {"ppf": point_pair_features, "signed_ppf": signed_point_pair_features}


@dataclass(frozen=True, eq=False)
class CloudPair:
    """Two clouds and, for training and evaluation, what brings the source onto the target.

    The network sees float32, but what is near to what is decided in the precision given here. Turned or moved clouds in
    float64 have the same neighbors, wherever they lie; in float32 only those of a lattice do, near their origin.

    >>> pair = CloudPair(torch.rand(100, 3), torch.rand(100, 3), torch.rand(90, 3), torch.rand(90, 3))
    >>> pair.transform is None
    True
    """

    source: Tensor  # (N, 3)
    source_normals: Tensor  # (N, 3), unit
    target: Tensor  # (M, 3)
    target_normals: Tensor  # (M, 3), unit
    transform: Tensor | None = None  # (4, 4), maps source coordinates to target
    flow: Tensor | None = None  # (N, 3), what each source point moves by before the transform, in a deforming scene
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            points, normals = getattr(self, name), getattr(self, f"{name}_normals")
            require_floating(name, points)
            require_shape(name, points, "N", 3)
            require_shape(f"{name}_normals", normals, len(points), 3)
            if not len(points):
                raise ValueError(f"{name}: expected at least one point, got none")
        if self.transform is not None:
            require_shape("transform", self.transform, 4, 4)
        if self.flow is not None:
            require_shape("flow", self.flow, len(self.source), 3)


@dataclass(frozen=True, eq=False)
class PairBatch:
    """B pairs, packed: cloud 2b is the source of pair b, cloud 2b + 1 its target.

    Attributes:
        points: (N, 3) float32 of all clouds, in the given order.
        pyramid: levels, neighbors and pair features, in the order of the network.
        nodes: (S, 3) superpoints of all clouds, in the order in which they were sampled.
        groups: which points belong to which superpoint.
        geometry: distances and angles among the superpoints, one per cloud.
        transforms: (B, 4, 4), or None where a pair has none.
        flow: (N, 3), zero for targets, or None.
        names: of the pairs.

    >>> pair = CloudPair(torch.rand(100, 3), torch.rand(100, 3), torch.rand(90, 3), torch.rand(90, 3))
    >>> PairBatch.build([pair, pair], RoITrConfig())
    PairBatch(2 pairs, 380 points, 4 superpoints)
    """

    points: Tensor
    pyramid: Pyramid
    nodes: Tensor
    groups: NodeGroups
    geometry: tuple[NodeGeometry, ...]
    transforms: Tensor | None
    flow: Tensor | None
    names: tuple[str, ...]

    @classmethod
    def build(cls, pairs: Sequence[CloudPair], config: RoITrConfig, *, inverse: bool = True) -> PairBatch:
        """Everything that depends on coordinates and normals only.

        Neighbors, samples, features and angles are found in the precision of the clouds, and then rounded to float32.

        Args:
            pairs: at least one, all of one dtype and device.
            config: of the network.
            inverse: whether to build now what only backward passes need.
        Raises:
            ValueError: no pair, or clouds that do not fit together.
        """
        if not pairs:
            raise ValueError("pairs: expected at least one, got none")
        clouds = [cloud for pair in pairs for cloud in (pair.source, pair.target)]
        lengths = [len(cloud) for cloud in clouds]
        points = torch.cat(clouds)
        normals = torch.cat([side for pair in pairs for side in (pair.source_normals, pair.target_normals)])
        pyramid = Pyramid.build(
            points,
            normals,
            strides=config.strides,
            ks=config.neighbors,
            lengths=lengths,
            drop_first=True,
            inverse=inverse,
            pair_features=PAIR_FEATURES[config.pair_features],
            tie_tolerance=config.tied,
        )
        top = pyramid.levels[-1]
        nodes = pyramid.restore(top.points, level=len(pyramid.levels) - 1)
        groups = group_points_to_nodes(
            points,
            nodes,
            max_points=config.patch_points,
            lengths=lengths,
            node_lengths=top.lengths,
            tie_tolerance=config.tied,
        )
        geometry = tuple(
            NodeGeometry.of(each, neighbors=config.angle_neighbors, tie_tolerance=config.tied)
            for each in nodes.split(list(top.lengths))
        )
        transforms = None
        if all(pair.transform is not None for pair in pairs):
            transforms = torch.stack([pair.transform for pair in pairs])  # type: ignore[misc]
        flow = None
        if any(pair.flow is not None for pair in pairs):
            flow = torch.cat(
                [
                    part
                    for pair in pairs
                    for part in (
                        torch.zeros_like(pair.source) if pair.flow is None else pair.flow,
                        torch.zeros_like(pair.target),
                    )
                ]
            )
        names = tuple(pair.name for pair in pairs)
        return cls(
            points.float(),
            pyramid.single(),
            nodes.float(),
            groups,
            tuple(each.single() for each in geometry),
            None if transforms is None else transforms.float(),
            None if flow is None else flow.float(),
            names,
        )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"PairBatch({len(self)} pairs, {len(self.points)} points, {len(self.nodes)} superpoints)"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Points of each cloud."""
        return self.pyramid.lengths

    @property
    def node_lengths(self) -> tuple[int, ...]:
        """Superpoints of each cloud."""
        return self.pyramid.levels[-1].lengths

    def rows(self, pair: int, side: Side) -> slice:
        """The rows of `points` that are one cloud."""
        return _slice(self.lengths, 2 * pair + (side == "target"))

    def node_rows(self, pair: int, side: Side) -> slice:
        """The rows of `nodes` that are one cloud's."""
        return _slice(self.node_lengths, 2 * pair + (side == "target"))

    def patches(self, pair: int, side: Side) -> Patches:
        """One cloud's superpoints and the points around each."""
        rows, nodes = self.rows(pair, side), self.node_rows(pair, side)
        mask = self.groups.mask[nodes]
        index = torch.where(mask, self.groups.index[nodes] - rows.start, rows.stop - rows.start)
        return Patches(self.nodes[nodes], self.points[rows], index, mask, self.groups.node_mask[nodes])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PairBatch:
        """On another device."""
        return self._moved(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PairBatch:
        """In page-locked memory; a data loader calls it."""
        return self._moved(lambda part: part.pin_memory())

    def _moved(self, move) -> PairBatch:  # type: ignore[no-untyped-def]
        return PairBatch(
            move(self.points),
            move(self.pyramid),
            move(self.nodes),
            NodeGroups(*(move(part) for part in self.groups)),
            tuple(move(each) for each in self.geometry),
            None if self.transforms is None else move(self.transforms),
            None if self.flow is None else move(self.flow),
            self.names,
        )


def _slice(lengths: Sequence[int], cloud: int) -> slice:
    start = sum(lengths[:cloud])
    return slice(start, start + lengths[cloud])
