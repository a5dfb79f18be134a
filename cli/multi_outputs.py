"""The result folder of `rotaware multi`: poses, merged clouds, a page, and the pairs that a later run goes on from."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rotaware.datasets.benchmark_logs import LogEntry, write_log
from rotaware.geo import matrix_to_quaternion
from rotaware.geo.files import write_whole
from rotaware.pointcloud import (
    InputError,
    Layout,
    PointCloud,
    guess_unit,
    read_point_cloud,
    write_point_cloud,
)
from rotaware.pointcloud.graph_report import scan_color, write_graph_html
from rotaware.pointcloud.multiway import MultiwayResult

from .result_json import dump, tool_version

PAIRS = "pairs"
SCHEMA_VERSION = 1
_POSES, _PAGE = "poses.json", "graph.html"
# Results, which a run replaces.
_RESULTS = re.compile(rf"{re.escape(_POSES)}|{re.escape(_PAGE)}|merged(_\d+)?\.ply|poses(_\d+)?\.log")
# Options on which the result depends.
_RECORDED = ("pairs", "method", "network", "voxel", "unit", "accept", "seed")
# Points of each scan that the page draws.
_SAMPLE = 40_000


@dataclass(frozen=True)
class Scans:
    """The input files; their clouds are read again when they are needed."""

    paths: list[Path]
    names: list[str]  # of the files, or their paths where names repeat
    points: list[int]
    extents: list[float]  # largest side of each
    samples: list[np.ndarray]  # (S, 3) finite points of each, in no particular order
    unit: str  # as stated, or guessed from the largest
    seed: int

    @staticmethod
    def read(paths: list[Path], unit: str, seed: int) -> Scans:
        """Read every file once: errors show before the work."""
        names = [path.name for path in paths]
        names = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
        points, samples, extents = [], [], []
        for path in paths:
            cloud = read_point_cloud(path, seed=seed)
            finite = cloud.points[np.isfinite(cloud.points).all(axis=1)]
            points.append(len(cloud))
            samples.append(np.random.default_rng(0).permutation(finite)[:_SAMPLE])
            extents.append(float(np.ptp(finite, axis=0).max()) if len(finite) else 0.0)
        unit = guess_unit([max(extents)]) if unit == "auto" else unit
        return Scans(paths, names, points, extents, samples, unit, seed)

    def cloud(self, scan: int) -> PointCloud:
        """The cloud of one scan."""
        return read_point_cloud(self.paths[scan], seed=self.seed)


class MultiFolder:
    """A folder that keeps finished pairs, and results that are there all together or not at all.

    Raises:
        InputError: it cannot be made or written, holds files that are not ours (unless `force`), or an input has the
            name of a result.
    """

    def __init__(self, path: str | Path, inputs: Sequence[Path], *, force: bool) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"cannot write the results to {str(path)!r}: it is a file; name a folder with -o")
        here = os.path.realpath(self.path)
        for each in inputs:
            if _RESULTS.fullmatch(each.name) and os.path.realpath(each.parent) == here:
                raise InputError(f"{str(each)!r} would be replaced by the result; name another folder with -o")
        if not force and not _is_ours(self.path):
            raise InputError(
                f"output folder {str(path)!r} holds other files; name another with -o, or use --force to add to it"
            )
        folder = Path(here)
        while not folder.exists():
            folder = folder.parent
        try:
            os.rmdir(tempfile.mkdtemp(prefix=".rotaware-", dir=folder))
        except OSError as error:
            raise InputError(f"cannot write the results to {str(path)!r}: {error.strerror}; use -o") from None

    def write(self, result: MultiwayResult, scans: Scans, document: dict[str, Any]) -> None:
        """Replace the results: poses.json leaves first and comes back last, so its presence means that all is there."""
        stale = [entry for entry in self.path.iterdir() if _RESULTS.fullmatch(entry.name)]
        for entry in sorted(stale, key=lambda entry: entry.name != _POSES):
            entry.unlink()
        for number, group in enumerate(result.groups, start=1):
            if len(group) > 1:
                suffix = "" if number == 1 else f"_{number}"
                write_point_cloud(self.path / f"merged{suffix}.ply", merged_cloud(result, scans, group))
                entries = [LogEntry(scan, scan, scan + 1, result.T_world_scan[scan]) for scan in group]
                write_log(self.path / f"poses{suffix}.log", entries)
        write_graph_html(self.path / _PAGE, result, scans.samples, names=scans.names, unit=scans.unit)
        write_whole(self.path / _POSES, dump(document))


def _is_ours(folder: Path) -> bool:
    """Whether a folder is new, empty, or holds pairs and nothing but what goes with them."""
    names = {entry.name for entry in folder.iterdir() if entry.name[0] != "."} if folder.is_dir() else set()
    return not names or (PAIRS in names and all(map(_RESULTS.fullmatch, names - {PAIRS})))


def merged_cloud(result: MultiwayResult, scans: Scans, group: Sequence[int]) -> PointCloud:
    """All finite points of a group in its frame, with the number of their scan, and its colours.

    A scan without colours of its own gets one that tells it apart.
    """
    points, colors, numbers = [], [], []
    for scan in group:
        cloud = scans.cloud(scan)
        finite = np.isfinite(cloud.points).all(axis=1)
        moved = cloud.points[finite] @ result.T_world_scan[scan, :3, :3].T + result.T_world_scan[scan, :3, 3]
        own = cloud.colors
        points.append(moved)
        colors.append(np.full(moved.shape, scan_color(scan), dtype=np.uint8) if own is None else own[finite])
        numbers.append(np.full(len(moved), scan, dtype=np.int32))
    rgb = np.concatenate(colors)
    attributes = {name: rgb[:, column] for column, name in enumerate(("red", "green", "blue"))}
    attributes["scan"] = np.concatenate(numbers)
    # Float32 is enough near the origin; the writer widens it for map coordinates.
    return PointCloud(np.concatenate(points), attributes, layout=Layout(coordinate_dtype=np.dtype(np.float32)))


def multi_document(result: MultiwayResult, scans: Scans, options: argparse.Namespace) -> dict[str, Any]:
    """The content of `poses.json`, ready for `dump`: the same for the same input, however often it was interrupted.

    Scans and groups count from 1. Lengths are in the unit of the files.
    """
    group_of = {scan: number for number, group in enumerate(result.groups, start=1) for scan in group}
    return {
        "schema_version": SCHEMA_VERSION,
        "connected": result.connected,
        "direction": "p_world = R p_scan + t; each group has a world of its own, the frame of its reference",
        "unit": scans.unit,
        "groups": [
            {"group": number, "reference": scans.names[group[0]], "scans": [scans.names[scan] for scan in group]}
            for number, group in enumerate(result.groups, start=1)
        ],
        "scans": [_scan(result, scans, scan, group_of[scan]) for scan in range(len(scans.names))],
        "pairs": [
            {
                "source": scans.names[pair.source],
                "target": scans.names[pair.target],
                "status": pair.status,
                "confidence": pair.confidence,
                "reason": pair.reason,
                "overlap": pair.overlap,
                "role": pair.role,
                "T_target_source": pair.T_target_source,
                "off_by": {"turn_deg": pair.turn_deg, "shift": pair.shift} if np.isfinite(pair.shift) else None,
            }
            for pair in result.pairs
        ],
        "cycles": [
            {
                "scans": [scans.names[scan] for scan in cycle.scans],
                "role": result.pairs[cycle.edge].role,
                "turn_deg": float(np.degrees(cycle.turn)),
                "shift": cycle.shift,
            }
            for cycle in result.cycles
        ],
        "parameters": {name: getattr(options, name) for name in _RECORDED},
        "tool": {"name": "rotaware", **tool_version()},
    }


def _scan(result: MultiwayResult, scans: Scans, scan: int, group: int) -> dict[str, Any]:
    pose, path = result.T_world_scan[scan], scans.paths[scan]
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    used = [pair for pair in result.pairs if pair.role in ("used", "confirmed") and scan in (pair.source, pair.target)]
    return {
        "name": scans.names[scan],
        "path": str(path),
        "sha256": sha256,
        "points": scans.points[scan],
        "group": group,
        "T_world_scan": pose,
        "quaternion_wxyz": matrix_to_quaternion(torch.from_numpy(pose[:3, :3])).numpy(),
        "translation": pose[:3, 3],
        "edges": len(used),
        "deviation": {
            "turn_deg": float(result.turn_deviation_deg[scan]),
            "shift": float(result.shift_deviation[scan]),
        },
    }
