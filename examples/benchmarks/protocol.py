"""What the registration benchmarks share: the moves, when a pose is right, where a run was made, how it is written."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rotaware.geo import random_rotations
from rotaware.geo.files import write_whole
from rotaware.pointcloud import rotation_error_deg, translation_error

CHECKOUT = Path(__file__).resolve().parents[2]
# A pose is right when both hold, as in PointDSC's code and the papers after it.
RIGHT_ROTATION_DEG = 15.0
RIGHT_TRANSLATION_M = 0.30
SHIFT_M = 100.0


@dataclass(frozen=True)
class Move:
    """A rigid motion of the source and an order of the rows of both clouds."""

    T_moved_source: np.ndarray  # (4, 4) float64
    source_order: np.ndarray  # (N,) int64
    target_order: np.ndarray  # (M,) int64


def random_move(seeds: Sequence[int], source_points: int, target_points: int) -> Move:
    """A uniformly random rotation, then 100 m in a random direction, and both clouds shuffled."""
    seed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(3, dtype=torch.float64, generator=generator)
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3] = random_rotations(dtype=torch.float64, generator=generator)
    move[:3, 3] = SHIFT_M * direction / direction.norm()
    orders = [torch.randperm(count, generator=generator).numpy() for count in (source_points, target_points)]
    return Move(move.numpy(), *orders)


def transformed(points: np.ndarray, T: np.ndarray) -> np.ndarray:
    """`points` (N, 3) under the pose `T` (4, 4), in float64."""
    return points.astype(np.float64) @ T[:3, :3].T + T[:3, 3]


def pose_errors(estimate: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Rotation error in degrees and translation error in metres of two poses (4, 4) of the unmoved source.

    Moved back first: seen from a source 100 m away, one degree counts as 1.7 m of translation.
    """
    return rotation_error_deg(estimate, truth), translation_error(estimate, truth)


def is_right(rotation_deg: float, translation_m: float) -> bool:
    """Whether a pose with these errors counts as found."""
    return rotation_deg < RIGHT_ROTATION_DEG and translation_m < RIGHT_TRANSLATION_M


def timed(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median, fastest and slowest of repeated calls after a first one, in milliseconds."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return {"median_ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}


def put_out(report: dict[str, Any], output: Path | None) -> None:
    """JSON to a file, or to standard output."""
    text = json.dumps(report, indent=1)
    if output is None:
        print(text)
    else:
        write_whole(output, text + "\n")


def default_data() -> Path:
    """`$ROTAWARE_SHARED/data/3dmatch`, else `../shared/data/3dmatch` beside the checkout."""
    return Path(os.environ.get("ROTAWARE_SHARED", CHECKOUT.parent / "shared")) / "data" / "3dmatch"


def require_data(folder: Path) -> Path:
    """The `pairs.json` of a folder; ends the program with exit code 2 and a hint where there is none."""
    index = folder / "pairs.json"
    if index.is_file():
        return index
    print(
        f"no pairs.json in {folder}: pass the folder of the 3DMatch fragments with --data, or point ROTAWARE_SHARED "
        "to the folder that holds data/3dmatch (the scans are licensed and not part of the project)",
        file=sys.stderr,
    )
    raise SystemExit(2)


def environment(packages: Iterable[str]) -> dict[str, Any]:
    """Where and with which versions a run is made."""
    git = ["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    installed = [name for name in packages if importlib.util.find_spec(name)]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "machine": {"processor": processor_name(), "cores": core_count(), "system": platform.system()},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in installed},
    }


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's own name where Linux tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def described(where: dict[str, Any]) -> str:
    """One line on machine and versions."""
    machine, versions = where["machine"], where["versions"]
    parts = ", ".join(f"{name} {version}" for name, version in versions.items())
    commit = f", commit {where['commit'][:10]}" if where["commit"] else ""
    return f"{machine['processor']}, {machine['cores']} cores, {machine['system']}; {parts}; {where['date']}{commit}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def share(count: int, total: int) -> str:
    """`count` of `total` in percent and as it was counted."""
    return f"{100 * count / total:.0f} % ({count}/{total})" if total else "-"
