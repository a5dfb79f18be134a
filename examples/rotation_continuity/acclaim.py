"""Acclaim files: a skeleton (.asf) and motions of it (.amc).

A bone has a direction, a length and an axis frame C, all given in world axes for the rest pose; its degrees of freedom
turn it by R in that frame, so its rotation is C R C^-1. Angles apply in the order in which `axis` names them: XYZ is
R = Rz Ry Rx. A bone moves its own far end. Here it becomes a joint at its near end, so that a joint's rotation moves
its children, as in BVH files, and leaves get an end site; bones that start at the root become joints on the hip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from bvh import elementary
from command import BadData
from skeleton import Motion, Skeleton
from textlines import Words
from torch import Tensor

INCH = 0.0254
DEGREES_OF_FREEDOM = ("rx", "ry", "rz")
ROOT_CHANNELS = ("tx", "ty", "tz", *DEGREES_OF_FREEDOM)


@dataclass
class Bone:
    """A bone as the file gives it."""

    direction: list[float] = field(default_factory=list)
    length: float | None = None
    frame: Tensor = field(default_factory=lambda: torch.eye(3))  # C
    order: str = "XYZ"
    dof: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Acclaim:
    """A skeleton with what is needed to read motions of it."""

    skeleton: Skeleton
    bones: dict[str, Bone]  # by name; "root" first
    degrees: bool
    metres: float


def read_asf(path: Path) -> Acclaim:
    """Skeleton of an ASF file; lengths in metres by the `length` unit of the file, which counts inches.

    Raises:
        BadData: the file is not ASF, or a bone lacks what it needs or has no place in the hierarchy.
    """
    words = Words(path)
    degrees, unit = True, 1.0
    bones: dict[str, Bone] = {}
    parents: dict[str, str] = {}
    while words.peek():
        section = words.take().lower()
        if section == ":units":
            while words.peek() and not words.peek().startswith(":"):
                name = words.take().lower()
                if name == "length":
                    unit = words.number("the unit of length")
                elif name == "angle":
                    degrees = words.take("deg", "degrees", "rad", "radians").lower().startswith("deg")
                else:
                    words.take()
        elif section == ":root":
            bones["root"] = read_root(words, degrees)
        elif section == ":bonedata":
            while words.peek().lower() == "begin":
                name, bone = read_bone(words, degrees)
                if name in bones:
                    raise BadData(f"{path}: bone {name!r} is there twice")
                bones[name] = bone
        elif section == ":hierarchy":
            parents = read_hierarchy(words, bones)
        elif section.startswith(":"):
            while words.peek() and not words.peek().startswith(":"):
                words.next += 1
        else:
            words.next -= 1
            words.fail("a section such as ':root'")
    if "root" not in bones or not parents:
        raise BadData(f"{path}: expected the sections ':root', ':bonedata' and ':hierarchy'")
    lost = [name for name in bones if name not in parents and name != "root"]
    if lost:
        raise BadData(f"{path}: bones without a place in the hierarchy: {', '.join(lost)}")
    if unit <= 0:
        raise BadData(f"{path}: expected a unit of length above 0, got {unit}")
    metres = INCH / unit
    return Acclaim(joints_of(path, bones, parents, metres), bones, degrees, metres)


def read_root(words: Words, degrees: bool) -> Bone:
    """The section of the root: the order of its channels and its frame."""
    root = Bone(length=0.0, direction=[0.0, 0.0, 0.0], dof=list(ROOT_CHANNELS))
    turn = [0.0, 0.0, 0.0]
    while words.peek() and not words.peek().startswith(":"):
        key = words.take("order", "axis", "position", "orientation").lower()
        if key == "order":
            root.dof = [words.take(*ROOT_CHANNELS).lower() for _ in ROOT_CHANNELS]
        elif key == "axis":
            root.order = read_order(words)
        else:
            three = [words.number() for _ in range(3)]
            turn = three if key == "orientation" else turn
    root.frame = turned(turn, root.order, degrees)
    return root


def read_bone(words: Words, degrees: bool) -> tuple[str, Bone]:
    """One bone from 'begin' to 'end'."""
    words.take("begin")
    name, bone = "", Bone()
    while words.peek().lower() != "end":
        key = words.take().lower()
        if key == "name":
            name = words.take()
        elif key == "direction":
            bone.direction = [words.number("a direction of three numbers") for _ in range(3)]
        elif key == "length":
            bone.length = words.number("the length of the bone")
        elif key == "axis":
            angles = [words.number("three angles of the axis") for _ in range(3)]
            bone.order = read_order(words)
            bone.frame = turned(angles, bone.order, degrees)
        elif key == "dof":
            while words.peek().lower() in DEGREES_OF_FREEDOM:
                bone.dof.append(words.take().lower())
            if words.peek().lower() in ("tx", "ty", "tz", "l"):
                words.fail("rotations among the degrees of freedom")
        elif key in ("id", "bodymass", "cofmass", "limits") or key.startswith("("):
            words.rest_of_line()
        else:
            words.next -= 1
            words.fail("id, name, direction, length, axis, dof, limits or end")
    if not name or len(bone.direction) != 3 or bone.length is None:
        words.fail(f"name, direction and length of the bone {name!r} before 'end'")
    words.take("end")
    return name, bone


def read_order(words: Words) -> str:
    """An order of axes such as XYZ."""
    order = words.take().upper()
    if sorted(order) != ["X", "Y", "Z"]:
        words.next -= 1
        words.fail("an order of axes such as 'XYZ'")
    return order


def read_hierarchy(words: Words, bones: dict[str, Bone]) -> dict[str, str]:
    """Parent of every bone: each line names a parent and its children."""
    parents: dict[str, str] = {}
    words.take("begin")
    while words.peek().lower() != "end":
        place = words.next
        for offset, name in enumerate(line := words.rest_of_line()):
            if name not in bones:
                words.next = place + offset
                words.fail("the name of a bone")
            if offset:
                parents[name] = line[0]
        if not line:
            words.fail("'end' of the hierarchy")
    words.take("end")
    return parents


def turned(angles: list[float], order: str, degrees: bool) -> Tensor:
    """(3, 3) rotation by three angles that apply in `order`."""
    rotation = torch.eye(3)
    for axis, angle in zip(order, angles, strict=True):
        column = torch.tensor([angle], dtype=torch.float64)
        rotation = elementary(axis, column if degrees else torch.rad2deg(column))[0] @ rotation
    return rotation


def joints_of(path: Path, bones: dict[str, Bone], parents: dict[str, str], metres: float) -> Skeleton:
    """A joint for every bone, at its near end, and an end site for every bone without children; depth first."""
    children: dict[str, list[str]] = {name: [] for name in bones}
    for name in bones:
        if name in parents:
            children[parents[name]].append(name)
    names: list[str] = []
    above: list[int] = []
    offsets: list[list[float]] = []
    waiting = [("root", -1)]
    while waiting:
        name, parent = waiting.pop()
        names.append(name)
        above.append(parent)
        bone = bones.get(name)
        carrier = bones[names[parent]] if parent >= 0 else bones["root"]
        offsets.append([metres * (carrier.length or 0.0) * value for value in carrier.direction])
        if bone is not None:
            below = children[name] or [f"{name}_end"]
            waiting += [(child, len(names) - 1) for child in reversed(below)]
    if len(set(names) & set(bones)) < len(bones):
        raise BadData(
            f"{path}: the hierarchy does not reach {', '.join(sorted(set(bones) - set(names)))} from the root"
        )
    return Skeleton(tuple(names), tuple(above), torch.tensor(offsets))


def read_frame(words: Words, turning: dict[str, Bone], columns: dict[str, list[list[float]]], start: int) -> None:
    """Append the values of one frame, a line for each bone, up to the number of the next frame."""
    seen = set()
    while words.peek() and not words.peek().isdecimal():
        place = words.next
        name, *values = words.rest_of_line()
        expected = ""
        if name not in turning:
            expected = "a bone of the skeleton that can turn"
        elif name in seen:
            expected = f"each bone once in the frame of line {start}"
        elif len(values) != len(turning[name].dof):
            expected = f"{len(turning[name].dof)} numbers, not {len(values)}, after this name"
        if expected:
            words.next = place
            words.fail(expected)
        seen.add(name)
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            words.next = place + 1
            words.fail("finite numbers")
        columns[name].append(numbers)


def read_amc(path: Path, acclaim: Acclaim) -> Motion:
    """Motion of an AMC file on a skeleton.

    Raises:
        BadData: the file is not AMC, a frame lacks a bone that can turn, or names one the skeleton does not have.
    """
    words = Words(path)
    degrees = acclaim.degrees
    while words.peek().startswith(":"):
        mark = words.take().lower()
        degrees = mark == ":degrees" if mark in (":degrees", ":radians") else degrees
    turning = {name: bone for name, bone in acclaim.bones.items() if bone.dof}
    columns: dict[str, list[list[float]]] = {name: [] for name in turning}
    count = 0
    while words.peek():
        start = words.line
        words.count("the number of a frame")
        count += 1
        read_frame(words, turning, columns, start)
        missing = [name for name in turning if len(columns[name]) < count]
        if missing:
            raise BadData(f"{path}, frame of line {start}: no values for {', '.join(missing)}")
    if not count:
        words.fail("the number of a frame")

    skeleton = acclaim.skeleton
    rotations = torch.eye(3).expand(count, len(skeleton.names), 3, 3).clone()
    hip = torch.zeros(count, 3)
    for node, name in enumerate(skeleton.names):
        bone = turning.get(name)
        if bone is None:
            continue
        values = dict(zip(bone.dof, torch.tensor(columns[name], dtype=torch.float64).unbind(-1), strict=True))
        turn = torch.eye(3)
        for axis in bone.order:
            angle = values.get(f"r{axis.lower()}")
            if angle is not None:
                turn = elementary(axis, angle if degrees else torch.rad2deg(angle)) @ turn
        rotations[:, node] = bone.frame @ turn @ bone.frame.mT
        if name == "root":
            hip = acclaim.metres * torch.stack([values[f"t{axis}"].float() for axis in "xyz"], -1)
    return Motion(path.name, skeleton, rotations, hip, None)
