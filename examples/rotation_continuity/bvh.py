"""Biovision hierarchy files (.bvh): a skeleton and its motion in one text file.

A node turns by the product of its rotation channels in the order in which the file lists them, whatever that order:
`Zrotation Xrotation Yrotation` is R = Rz Rx Ry. Angles are in degrees. The unit of length is not in the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from command import BadData
from skeleton import Motion, Skeleton
from textlines import Words
from torch import Tensor

from rotaware.geo import axis_angle_to_matrix

AXES = {"X": 0, "Y": 1, "Z": 2}
POSITIONS = tuple(f"{axis}position" for axis in AXES)
ROTATIONS = tuple(f"{axis}rotation" for axis in AXES)


@dataclass
class Hierarchy:
    """Nodes as they are read."""

    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    offsets: list[list[float]] = field(default_factory=list)
    channels: list[tuple[int, str]] = field(default_factory=list)  # (node, name), in the order of the columns


def read_bvh(path: Path, metres: float) -> Motion:
    """Skeleton and motion of a BVH file.

    Args:
        path: the file.
        metres: its unit of length.
    Raises:
        BadData: the file is not BVH, is cut short, or moves joints other than the root away from their offsets.
    """
    words = Words(path)
    words.take("HIERARCHY")
    words.take("ROOT")
    tree = Hierarchy()
    read_nodes(words, tree)
    if words.peek().upper() == "ROOT":
        words.fail("'MOTION': files with one root")
    words.take("MOTION")
    words.take("Frames:")
    count = words.count("the number of frames")
    words.take("Frame")
    words.take("Time:")
    frame_time = words.number("the seconds per frame")
    values = read_frames(words, count, len(tree.channels))

    rotations = torch.eye(3).expand(count, len(tree.names), 3, 3).clone()
    hip = torch.zeros(count, 3)
    for column, (node, channel) in enumerate(tree.channels):
        if channel in POSITIONS:
            hip[:, AXES[channel[0]]] = metres * values[:, column]
        else:
            rotations[:, node] @= elementary(channel[0], values[:, column])
    skeleton = Skeleton(tuple(tree.names), tuple(tree.parents), metres * torch.tensor(tree.offsets))
    return Motion(path.name, skeleton, rotations, hip, frame_time)


def elementary(axis: str, degrees: Tensor) -> Tensor:
    """(T, 3, 3) rotations about a coordinate axis by angles (T,)."""
    vector = torch.zeros(len(degrees), 3, dtype=torch.float64)
    vector[:, AXES[axis]] = torch.deg2rad(degrees.double())
    return axis_angle_to_matrix(vector).float()


def read_nodes(words: Words, tree: Hierarchy) -> None:
    """The tree below the word ROOT, without recursion: a file may be deeper than Python's stack."""
    open_nodes = [start_node(words, tree, -1)]
    while open_nodes:
        kind = words.take("JOINT", "End", "}").upper()
        if kind == "}":
            open_nodes.pop()
        elif kind == "JOINT":
            open_nodes.append(start_node(words, tree, open_nodes[-1]))
        else:
            words.take("Site")
            words.take("{")
            add(tree, f"{tree.names[open_nodes[-1]]}_end", open_nodes[-1], read_offset(words))
            words.take("}")


def start_node(words: Words, tree: Hierarchy, parent: int) -> int:
    """Name, offset and channels of a joint; its index."""
    name = []
    while words.peek() and words.peek() != "{":
        name.append(words.take())
    words.take("{")
    if not name:
        words.fail("the name of a joint before '{'")
    node = add(tree, " ".join(name), parent, read_offset(words))
    words.take("CHANNELS")
    known = POSITIONS + ROTATIONS
    for _ in range(words.count("the number of channels")):
        channel = words.take(*known)
        if channel.lower().endswith("position") and parent >= 0:
            words.next -= 1
            words.fail("rotation channels only below the root")
        tree.channels.append((node, channel[0].upper() + channel[1:].lower()))
    return node


def add(tree: Hierarchy, name: str, parent: int, offset: list[float]) -> int:
    """Append a node; its index."""
    tree.names.append(name)
    tree.parents.append(parent)
    tree.offsets.append(offset)
    return len(tree.names) - 1


def read_offset(words: Words) -> list[float]:
    """The three numbers after OFFSET."""
    words.take("OFFSET")
    return [words.number("three numbers after OFFSET") for _ in range(3)]


def read_frames(words: Words, count: int, columns: int) -> Tensor:
    """(count, columns) float64: one line of numbers per frame, then the end of the file."""
    rows = []
    for frame in range(count):
        number = words.line
        row = words.rest_of_line()
        if len(row) != columns:
            place = f"line {number}" if number else "the end of the file"
            raise BadData(
                f"{words.path}, {place}: frame {frame + 1} of {count}: expected {columns} numbers, got {len(row)}"
            )
        try:
            rows.append([float(value) for value in row])
        except ValueError as error:
            raise BadData(f"{words.path}, line {number}: frame {frame + 1} of {count}: {error}") from error
    if words.peek():
        words.fail(f"the end of the file after {count} frames")
    values = torch.tensor(rows, dtype=torch.float64).reshape(count, columns)
    if not values.isfinite().all():
        raise BadData(
            f"{words.path}: frame {int((~values.isfinite()).any(1).nonzero()[0]) + 1} holds numbers that are not finite"
        )
    return values
