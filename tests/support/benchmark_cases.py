"""Small benchmarks on disk in every layout: one room per scene, seen whole by each scan from a place of its own.

All scans of a scene hold the same points in the same order, so that a pose is right when it maps row to row.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from rotaware.datasets.benchmark_logs import LogEntry, write_info, write_log, write_overlap_log

SCENES = ("hall", "kitchen")
# (target, source) of each scene, in the order of its list.
PAIRS = ((0, 2), (0, 1), (1, 3))
COUNT = 4


def place(scene: str, number: int) -> np.ndarray:
    """(4, 4) T_world_scan of a scan."""
    generator = np.random.default_rng([*scene.encode(), number])
    T = np.eye(4)
    T[:3, :3] = Rotation.random(random_state=generator).as_matrix()
    T[:3, 3] = generator.uniform(-2, 2, 3)
    return T


def scan(scene: str, number: int, T: np.ndarray | None = None) -> np.ndarray:
    """(40, 3) points of a scan."""
    points = np.random.default_rng(list(scene.encode())).uniform(-1, 1, (40, 3))
    inverse = np.linalg.inv(place(scene, number) if T is None else T)
    return points @ inverse[:3, :3].T + inverse[:3, 3]


def pose(scene: str, target: int, source: int) -> np.ndarray:
    """(4, 4) T_target_source."""
    return np.linalg.inv(place(scene, target)) @ place(scene, source)


def information(target: int, source: int) -> np.ndarray:
    """(6, 6), another one for each pair."""
    return np.diag([100.0, 100, 100, 1 + target, 1 + source, 1])


def overlap(target: int, source: int) -> float:
    """Another one for each pair."""
    return round(0.3 + 0.1 * target + 0.01 * source, 4)


def write_clouds(folder: Path, scene: str, suffix: str = ".pth") -> None:
    """`cloud_bin_<k>` of a scene."""
    (folder / scene).mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        path = folder / scene / f"cloud_bin_{number}{suffix}"
        points = scan(scene, number)
        if suffix == ".pth":
            torch.save(points, path)
        elif suffix == ".npy":
            np.save(path, points)
        else:
            write_ply(path, points)


def write_ply(path: Path, points: np.ndarray) -> None:
    """A text file in double precision, as others write them."""
    fields = "".join(f"property double {axis}\n" for axis in "xyz")
    rows = "".join(" ".join(repr(float(value)) for value in row) + "\n" for row in points)
    path.write_text(f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n{fields}end_header\n{rows}")


def write_logs(folder: Path, scene: str) -> None:
    """gt.log, gt.info and gt_overlap.log of a scene."""
    folder.mkdir(parents=True, exist_ok=True)
    write_log(folder / "gt.log", [LogEntry(i, j, 9, pose(scene, i, j)) for i, j in PAIRS])
    write_info(folder / "gt.info", [LogEntry(i, j, 9, information(i, j)) for i, j in PAIRS])
    write_overlap_log(folder / "gt_overlap.log", {(i, j): overlap(i, j) for i, j in PAIRS})


def records(prefix: str = "test/") -> list[dict[str, Any]]:
    """The list of pairs in the schema of OverlapPredator."""
    return [
        {
            "src": f"{prefix}{scene}/cloud_bin_{j}.pth",
            "tgt": f"{prefix}{scene}/cloud_bin_{i}.pth",
            "rot": pose(scene, i, j)[:3, :3],
            "trans": pose(scene, i, j)[:3, 3:],
            "overlap": overlap(i, j),
        }
        for scene in SCENES
        for i, j in PAIRS
    ]


def as_columns(pairs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """A dict of lists out of a list of dicts."""
    return {name: [record[name] for record in pairs] for name in pairs[0]}


def as_geotransformer(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same list in the schema of GeoTransformer."""
    return [
        {
            "pcd0": record["tgt"],
            "pcd1": record["src"],
            "rotation": record["rot"],
            "translation": record["trans"][:, 0],
            "overlap": record["overlap"],
            "scene_name": record["src"].split("/")[-2],
            "frag_id0": int(record["tgt"][-5]),
            "frag_id1": int(record["src"][-5]),
        }
        for record in pairs
    ]


def write_predator(root: Path, name: str = "3DMatch", content: Any = None) -> Path:
    """A folder `indoor/`: clouds in `test/<scene>`, and a list."""
    for scene in SCENES:
        write_clouds(root / "test", scene)
    path = root / f"{name}.pkl"
    path.write_bytes(pickle.dumps(as_columns(records()) if content is None else content))
    return path


class CreatesFile:
    """Makes a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.path, "w")
