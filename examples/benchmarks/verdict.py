"""Does the verdict tell right poses from wrong ones? Measured on generated rooms.

Pairs of one room in three ranges of overlap, and pairs of different rooms, which must be refused. Every source is
turned by a uniformly random rotation and shifted by 100 m, and the points are shuffled. A pose is right within
15 degrees and 0.30 m, measured in the unmoved frames. The confidence is compared with the share of right poses over
all pairs, bin by bin; the expected calibration error (ECE) is the mean gap, weighted by the pairs of the bins. With
`--data`, real fragments are also registered against generated rooms.

The Markdown report goes to standard output; `--output verdict.json` also writes every record as it is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from protocol import (
    described,
    environment,
    is_right,
    markdown_table,
    pose_errors,
    random_move,
    require_data,
    share,
    transformed,
)

from rotaware.datasets import IndoorScenes, RegistrationPair, indoor_fragment, unrelated_pair
from rotaware.geo.files import write_whole
from rotaware.pointcloud import InputError, register

VERSIONS_OF = ("rotaware", "numba", "numpy", "scipy", "small_gicp", "torch")
OVERLAP_RANGES = ((0.06, 0.2), (0.15, 0.45), (0.5, 0.8))
OVERLAP_BINS = (0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.8)
CONFIDENCE_BINS = 10
SAME_ROOM, TWO_ROOMS, SCAN_AND_ROOM = "same room", "different rooms", "real scan and generated room"


@dataclass(frozen=True)
class Record:
    """What `register` said about one pair."""

    kind: str
    name: str
    overlap: float
    status: str
    confidence: float
    right: bool
    rotation_deg: float | None  # None where there is no true pose, or no pose was found
    translation_m: float | None
    seconds: float

    @property
    def accepted(self) -> bool:
        return self.status == "registered"


def measured(kind: str, pair: RegistrationPair, seeds: list[int]) -> Record:
    """Move the source of a pair, register it, and compare."""
    move = random_move(seeds, len(pair.source), len(pair.target))
    source = transformed(pair.source, move.T_moved_source)[move.source_order]
    target = pair.target.astype(np.float64)[move.target_order]
    start = time.perf_counter()
    try:
        result = register(source, target)
        status, confidence, pose = str(result.status), result.confidence, result.T
    except InputError as error:
        print(f"{pair.name}: {error}", file=sys.stderr)
        status, confidence, pose = "not_registered", 0.0, None
    seconds = time.perf_counter() - start
    if pose is None or pair.T_target_source is None:
        return Record(kind, pair.name, pair.overlap, status, confidence, False, None, None, seconds)
    rotation, translation = pose_errors(pose @ move.T_moved_source, pair.T_target_source)
    right = is_right(rotation, translation)
    return Record(kind, pair.name, pair.overlap, status, confidence, right, rotation, translation, seconds)


def generated(pairs: int, seed: int) -> Iterator[tuple[str, RegistrationPair]]:
    """`pairs` of each range of overlap and of different rooms, taking turns."""
    ranges = [
        IndoorScenes(pairs, seed=len(OVERLAP_RANGES) * seed + place, overlap=overlap)
        for place, overlap in enumerate(OVERLAP_RANGES)
    ]
    for item in range(pairs):
        for scenes in ranges:
            yield SAME_ROOM, scenes[item]
        yield TWO_ROOMS, unrelated_pair(pairs * seed + item)


def quick(seed: int) -> Iterator[tuple[str, RegistrationPair]]:
    """One coarse pair of each kind."""
    yield SAME_ROOM, IndoorScenes(1, seed=seed, overlap=(0.3, 0.7), frames=3, voxel=0.08)[0]
    yield TWO_ROOMS, unrelated_pair(seed, frames=3, voxel=0.08)


def against_scans(index: Path, pairs: int, seed: int) -> Iterator[tuple[str, RegistrationPair]]:
    """Real fragments, in turn as source and as target, each with a generated one."""
    files = [cloud["file"] for cloud in json.loads(index.read_text(encoding="utf-8"))["clouds"]]
    for item in range(pairs):
        file = files[item % len(files)]
        scan = np.load(index.parent / file).astype(np.float32)
        # Far from the seeds that anybody counts up to, so that different runs meet different rooms.
        room = indoor_fragment(1_000_000 * (seed + 1) + item, 0)
        source, target = (scan, room.points) if item // len(files) % 2 == 0 else (room.points, scan)
        yield SCAN_AND_ROOM, RegistrationPair(source, target, None, 0.0, f"{Path(file).stem} and {room.name}")


def by_overlap(records: list[Record]) -> str:
    """Right, accepted and wrongly accepted in bins of the measured overlap."""
    rows = []
    same = [r for r in records if r.kind == SAME_ROOM]
    for low, high in pairwise(OVERLAP_BINS):
        # The last bin includes its upper end.
        inside = [r for r in same if low <= r.overlap < high or r.overlap == high == OVERLAP_BINS[-1]]
        rows.append([f"{100 * low:.0f} - {100 * high:.0f} %", *verdicts(inside)])
    rows.append(["all", *verdicts(same)])
    return markdown_table(["overlap", "pose right", "accepted", "ambiguous", "accepted, wrong"], rows)


def verdicts(records: list[Record]) -> list[str]:
    """The cells of one row."""
    total = len(records)
    return [
        share(sum(r.right for r in records), total),
        share(sum(r.accepted for r in records), total),
        share(sum(r.status == "ambiguous" for r in records), total),
        str(sum(r.accepted and not r.right for r in records)),
    ]


def unrelated(records: list[Record]) -> str:
    """How many pairs without a common surface were accepted."""
    rows = []
    for kind in (TWO_ROOMS, SCAN_AND_ROOM):
        chosen = [r for r in records if r.kind == kind]
        counts = [
            share(sum(r.status == status for r in chosen), len(chosen))
            for status in ("registered", "ambiguous", "not_registered")
        ]
        highest = max((r.confidence for r in chosen), default=0.0)
        if chosen:
            rows.append([kind, *counts, f"{highest:.2f}"])
    return markdown_table(["nothing in common", "accepted", "ambiguous", "not registered", "highest confidence"], rows)


def reliability(records: list[Record]) -> tuple[str, float]:
    """The table of confidence against the share of right poses, and the expected calibration error."""
    confidence = np.array([r.confidence for r in records])
    right = np.array([r.right for r in records], dtype=float)
    place = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    rows, error = [], 0.0
    for number in range(CONFIDENCE_BINS):
        chosen = place == number
        if not chosen.any():
            continue
        said, found = confidence[chosen].mean(), right[chosen].mean()
        error += chosen.mean() * abs(said - found)
        span = f"{number / CONFIDENCE_BINS:.1f} - {(number + 1) / CONFIDENCE_BINS:.1f}"
        rows.append([span, str(chosen.sum()), f"{said:.2f}", f"{found:.2f}"])
    return markdown_table(["confidence", "pairs", "mean confidence", "share right"], rows), float(error)


def report_of(records: list[Record], where: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The JSON and the Markdown."""
    table, error = reliability(records)
    median = float(np.median([r.seconds for r in records]))
    text = [
        by_overlap(records),
        unrelated(records),
        table,
        f"ECE {error:.3f} over {len(records)} pairs; median {median:.1f} s per pair.",
        f"Measured {described(where)}; load before the run {where['load_before']:.1f}.",
    ]
    report = where | {
        "expected_calibration_error": error,
        "records": [asdict(r) | {"accepted": r.accepted} for r in records],
    }
    return report, "\n\n".join(text) + "\n"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Generate, register, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of each kind (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the rooms and moves (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder with pairs.json: real fragments against generated rooms too")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    parser.add_argument("--quick", action="store_true", help="one coarse pair of two kinds: a test of this script")
    options = parser.parse_args(arguments)
    if options.pairs < 1:
        parser.error(f"--pairs: expected a positive number, got {options.pairs}")
    index = require_data(options.data) if options.data else None
    where = environment(VERSIONS_OF)
    streams = [quick(options.seed)] if options.quick else [generated(options.pairs, options.seed)]
    if index is not None:
        streams.append(against_scans(index, 1 if options.quick else options.pairs, options.seed))
    records: list[Record] = []
    report: dict[str, Any] = {}
    text = ""
    for stream in streams:
        for kind, pair in stream:
            records.append(measured(kind, pair, [options.seed, len(records)]))
            last = records[-1]
            print(f"{kind}: {last.name} {last.status} {last.confidence:.3f} right={last.right}", file=sys.stderr)
            report, text = report_of(records, where)
            if options.output is not None:
                write_whole(options.output, json.dumps(report, indent=1) + "\n")
    print(text, end="")
    return report


if __name__ == "__main__":
    main()
