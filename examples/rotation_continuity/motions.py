"""Motions for the inverse-kinematics experiment: a generated person, or a folder of motion-capture files."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from acclaim import Acclaim, read_amc, read_asf
from bvh import read_bvh
from command import BadData
from skeleton import ForwardKinematics, Motion, Rig, Skeleton
from torch import Tensor

from rotaware.geo import axis_angle_to_matrix

# Name, parent, offset in centimetres for the left side and the middle, largest turn about x, y, z in degrees.
LIMBS = (
    ("abdomen", "hip", (0, 12, 0), (25, 25, 15)),
    ("chest", "abdomen", (0, 20, 0), (25, 25, 15)),
    ("neck", "chest", (0, 24, 0), (25, 40, 20)),
    ("head", "neck", (0, 9, 2), (20, 40, 15)),
    ("collar", "chest", (6, 18, 0), (5, 15, 15)),
    ("shoulder", "collar", (12, 0, 0), (70, 60, 90)),
    ("forearm", "shoulder", (28, 0, 0), (60, 70, 10)),
    ("hand", "forearm", (25, 0, 0), (20, 20, 40)),
    ("thigh", "hip", (10, -6, 0), (60, 30, 25)),
    ("shin", "thigh", (0, -43, 0), (60, 5, 5)),
    ("foot", "shin", (0, -42, 0), (30, 15, 10)),
    ("toes", "foot", (0, -6, 14), (20, 0, 0)),
)
MIDDLE = ("abdomen", "chest", "neck", "head")
ENDS = {"head": (0, 18, 2), "hand": (14, 0, 0), "toes": (0, 0, 8)}
SHORTEST_WINDOW, LONGEST_WINDOW = 16, 64
FRAME_RATE = 60.0


@dataclass(frozen=True)
class Frames:
    """Frames of one rig, ready to be learnt: positions with the hip at the origin."""

    positions: Tensor  # (T, N, 3) metres
    offsets: Tensor  # (T, N, 3) metres, the bones of the person of each frame
    clips: tuple[tuple[int, int], ...]  # first frame and end of each clip

    def to(self, device: torch.device) -> Frames:
        """On another device."""
        return replace(self, positions=self.positions.to(device), offsets=self.offsets.to(device))


def person() -> tuple[Skeleton, Tensor]:
    """A person of 26 nodes, arms along x, and the largest turn of each about x, y, z in radians, (N, 3)."""
    names, parents, offsets, limits = ["hip"], [-1], [[0.0, 0.0, 0.0]], [[20.0, 0.0, 20.0]]
    for side, sign in (("", 1), ("l_", 1), ("r_", -1)):
        for name, parent, offset, limit in LIMBS:
            if (name in MIDDLE) != (side == ""):
                continue
            parent = f"{side}{parent}" if f"{side}{parent}" in names else parent
            names.append(side + name)
            parents.append(names.index(parent))
            offsets.append([sign * offset[0], offset[1], offset[2]])
            limits.append(list(limit))
            if name in ENDS:
                parents.append(len(names) - 1)
                names.append(f"{side}{name}_end")
                offsets.append([sign * ENDS[name][0], *ENDS[name][1:]])
                limits.append([0.0, 0.0, 0.0])
    skeleton = Skeleton(tuple(names), tuple(parents), 0.01 * torch.tensor(offsets, dtype=torch.float32))
    return skeleton, torch.deg2rad(torch.tensor(limits))


def generated_motions(clips: int, frames: int, generator: torch.Generator) -> list[Motion]:
    """Clips of a person who moves smoothly, turns around, and now and then tumbles."""
    skeleton, limits = person()
    time = torch.arange(frames) / FRAME_RATE
    nodes = len(skeleton.names)
    motions = []
    for clip in range(clips):
        # Three waves of 0.2 to 1.5 Hz for every axis of every joint; some clips are lively, some nearly still.
        frequency = 0.2 + 1.3 * torch.rand(3, nodes, 3, generator=generator)
        phase = 2 * math.pi * torch.rand(3, nodes, 3, generator=generator)
        weight = torch.softmax(torch.randn(3, nodes, 3, generator=generator), 0)
        waves = weight * torch.sin(2 * math.pi * frequency * time.reshape(-1, 1, 1, 1) + phase)  # (T, 3, N, 3)
        lively = 0.3 + 0.9 * torch.rand((), generator=generator)
        vectors = lively * limits * waves.sum(1)
        rotations = axis_angle_to_matrix(vectors)
        tumble = torch.zeros(frames, 3)
        if clip % 4 == 0:
            tumble[:, 0] = 2 * math.pi * torch.rand((), generator=generator) * torch.sin(time)
        turn = torch.zeros(frames, 3)
        turn[:, 1] = 2 * math.pi * torch.rand((), generator=generator) + 1.5 * torch.sin(time)
        rotations[:, 0] = axis_angle_to_matrix(turn) @ axis_angle_to_matrix(tumble) @ rotations[:, 0]
        motions.append(Motion(f"generated {clip}", skeleton, rotations, torch.zeros(frames, 3), 1 / FRAME_RATE))
    return motions


def folder_of_motions(folder: Path, rig: Path | None, metres: float) -> tuple[list[Motion], list[str]]:
    """The clips of one rig in a folder, and a line on every file that is left out.

    An ASF file serves the AMC files whose names begin with its own name (01.asf: 01_01.amc). Clips faster than 60
    frames per second are thinned; AMC files do not say how fast they are.

    Args:
        folder: with BVH, or ASF and AMC files.
        rig: a BVH or ASF file whose rig (names and parents of its joints) is used; by default the one with most frames.
        metres: unit of length of BVH files.
    Raises:
        BadData: a file cannot be used, or none is left.
    """
    if not folder.is_dir():
        raise BadData(f"expected a folder of motion files, got {folder}")
    motions, left_out = [], []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".bvh", ".amc")):
        motion = thinned(read_bvh(path, metres) if path.suffix.lower() == ".bvh" else read_amc(path, asf_of(path)))
        if len(motion.rotations) < SHORTEST_WINDOW:
            left_out.append(f"{path.name}: {len(motion.rotations)} frames, a window has at least {SHORTEST_WINDOW}")
        else:
            motions.append(motion)
    if not motions:
        raise BadData(
            f"{folder}: expected .bvh files, or .asf with .amc, of {SHORTEST_WINDOW} frames or more, got none"
        )
    if rig is not None:
        wanted = (read_asf(rig).skeleton if rig.suffix.lower() == ".asf" else read_bvh(rig, metres).skeleton).rig
    else:
        frames: Counter[Rig] = Counter()
        for motion in motions:
            frames[motion.skeleton.rig] += len(motion.rotations)
        wanted = frames.most_common(1)[0][0]
    left_out += [f"{motion.name}: another rig" for motion in motions if motion.skeleton.rig != wanted]
    chosen = [motion for motion in motions if motion.skeleton.rig == wanted]
    if not chosen:
        raise BadData(f"{folder}: expected clips of the rig of {rig}, got {len(motions)} of other rigs")
    return chosen, left_out


def asf_of(path: Path) -> Acclaim:
    """The skeleton of an AMC file: the ASF file beside it with the longest name that begins the clip's."""
    candidates = [other for other in path.parent.glob("*.[aA][sS][fF]") if path.stem.startswith(other.stem)]
    if not candidates:
        raise BadData(f"{path}: expected a .asf file beside it whose name begins this one's (01.asf for 01_01.amc)")
    return read_asf(max(candidates, key=lambda other: len(other.stem)))


def thinned(motion: Motion) -> Motion:
    """At most 60 frames per second."""
    stride = 1 if motion.frame_time is None else max(1, round(1 / (FRAME_RATE * max(motion.frame_time, 1e-4))))
    return replace(motion, rotations=motion.rotations[::stride], hip=motion.hip[::stride])


def split(motions: list[Motion]) -> tuple[list[Motion], list[Motion]]:
    """Training and held-out clips: every eighth clip, or with fewer than eight the last fifth of each."""
    if len(motions) >= 8:
        return [motion for place, motion in enumerate(motions) if place % 8 != 7], motions[7::8]
    training, held_out = [], []
    for motion in motions:
        cut = max(SHORTEST_WINDOW, 4 * len(motion.rotations) // 5)
        training.append(replace(motion, rotations=motion.rotations[:cut], hip=motion.hip[:cut]))
        if cut < len(motion.rotations):
            held_out.append(replace(motion, rotations=motion.rotations[cut:], hip=motion.hip[cut:]))
    if not held_out:
        raise BadData(f"expected a clip of more than {SHORTEST_WINDOW} frames, to hold some out; got none")
    return training, held_out


def frames_of(motions: list[Motion]) -> Frames:
    """Positions of all frames of clips of one rig."""
    kinematics = ForwardKinematics(motions[0].skeleton.parents)
    positions = [kinematics(motion.rotations, motion.skeleton.offsets) for motion in motions]
    offsets = [motion.skeleton.offsets.expand(len(motion.rotations), -1, -1) for motion in motions]
    ends = torch.tensor([len(part) for part in positions]).cumsum(0).tolist()
    clips = tuple(zip([0, *ends[:-1]], ends, strict=True))
    return Frames(torch.cat(positions), torch.cat(offsets), clips)
