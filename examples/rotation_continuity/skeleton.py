"""Skeletons, motions and forward kinematics, whatever file they come from.

A skeleton is a tree of nodes. Each node turns by a rotation given in the frame of its parent and lies at a fixed offset
from it: G_node = G_parent R_node, p_node = p_parent + G_parent offset_node. Leaves ("end sites") only have a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Names and parents of the nodes.
Rig = tuple[tuple[str, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Skeleton:
    """A tree of nodes, parents before their children; node 0 is the hip."""

    names: tuple[str, ...]
    parents: tuple[int, ...]  # -1 for the hip
    offsets: Tensor  # (N, 3) float32, metres, in the frame of the parent

    @property
    def rig(self) -> Rig:
        """What two skeletons of the same kind share, whatever the lengths of their bones."""
        return self.names, self.parents

    def next_to_hip(self) -> list[int]:
        """The first nodes away from the hip, one per branch: joints that lie on the hip itself are passed over."""
        found: list[int] = []
        waiting = [0]
        while waiting:
            parent = waiting.pop()
            for node in [node for node, above in enumerate(self.parents) if above == parent]:
                (found if self.offsets[node].any() else waiting).append(node)
        return sorted(found)


@dataclass(frozen=True)
class Motion:
    """Frames of a skeleton."""

    name: str
    skeleton: Skeleton
    rotations: Tensor  # (T, N, 3, 3) float32, each in the frame of the parent; end sites have the identity
    hip: Tensor  # (T, 3) float32, metres
    frame_time: float | None  # seconds; None where the file does not say


class ForwardKinematics(nn.Module):
    """Positions of all nodes of a skeleton, one matrix product for each generation of joints.

    Args:
        parents: of every node, -1 for the first.
    """

    def __init__(self, parents: Sequence[int]) -> None:
        super().__init__()
        depth: list[int] = []
        for parent in parents:
            depth.append(0 if parent < 0 else depth[parent] + 1)
        # Nodes by generation; within one, `above` is the place of the parent among the generation before.
        order = sorted(range(len(parents)), key=lambda node: depth[node])
        generations = [[node for node in order if depth[node] == level] for level in range(max(depth) + 1)]
        place = {node: index for nodes in generations for index, node in enumerate(nodes)}
        self.sizes = [len(nodes) for nodes in generations]
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("back", torch.argsort(torch.tensor(order)))
        self.register_buffer("above", torch.tensor([place.get(parents[node], 0) for node in order]))
        self.order: Tensor
        self.back: Tensor
        self.above: Tensor

    def forward(self, rotations: Tensor, offsets: Tensor) -> Tensor:
        """Positions relative to the hip.

        Args:
            rotations: (..., N, 3, 3), each in the frame of the parent. They may be any matrices.
            offsets: (..., N, 3) or (N, 3).
        Returns:
            (..., N, 3).
        """
        local = rotations.index_select(-3, self.order).split(self.sizes, -3)
        arms = offsets.index_select(-2, self.order).unsqueeze(-1).split(self.sizes, -3)
        above = self.above.split(self.sizes)
        turn, place = local[0], torch.zeros_like(local[0][..., 0])
        places = [place]
        for generation in range(1, len(local)):
            parent = turn.index_select(-3, above[generation])
            place = place.index_select(-2, above[generation]) + (parent @ arms[generation]).squeeze(-1)
            places.append(place)
            # Turns of the last generation move nothing.
            if generation + 1 < len(local):
                turn = parent @ local[generation]
        return torch.cat(places, -2).index_select(-2, self.back)
