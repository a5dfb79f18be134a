"""Registration of real scans, given and moved, beside the classical baselines.

Every pair of a folder of 3DMatch fragments (`pairs.json`) is registered in its given pose, and with the source turned
by uniformly random rotations, shifted by 100 m and both clouds shuffled. A pose is right within 15 degrees and 0.30 m,
measured in the unmoved frames. RR-0.2 is the official 3DMatch recall, a root mean square error below 0.2 m by the
information matrix, here over all pairs. Every baseline is followed by small_gicp's GICP; rotaware refines by itself.
Each method runs in a process of its own: one that crashes or hangs loses that pair and nothing else.

The Markdown table goes to standard output. `--output results.json` also writes every record as it is measured, and the
table to `results.md`; `--resume` goes on with such a file after an interruption.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from protocol import (
    core_count,
    default_data,
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

from rotaware.geo.files import write_whole
from rotaware.pointcloud import information_rmse
from rotaware.pointcloud.methods import KissMatcher, Method, Open3DRansac, Registering

VERSIONS_OF = ("rotaware", "kiss_matcher", "numba", "numpy", "open3d", "scipy", "small_gicp", "torch")
RR_THRESHOLD_M = 0.2


@dataclass(frozen=True)
class Case:
    """One pair in one pose."""

    pair: str
    benchmark: str
    move: int  # 0 is the given pose
    source: np.ndarray  # (N, 3) float64, moved
    target: np.ndarray  # (M, 3) float64
    T_moved_source: np.ndarray
    T_target_source: np.ndarray  # the ground truth, of the unmoved source
    information: np.ndarray  # (6, 6)


METHODS: dict[str, tuple[str, Method]] = {
    "rotaware": ("rotaware", Registering("auto")),
    "roitr": ("rotaware, bundled RoITr alone", Registering("roitr")),
    "classic": ("rotaware, histograms alone", Registering("classic")),
    "open3d-100k": ("Open3D FPFH + RANSAC 100k + GICP", Open3DRansac(100_000, threads=core_count())),
    "open3d-1m": ("Open3D FPFH + RANSAC 1M + GICP", Open3DRansac(1_000_000, threads=core_count())),
    "kiss": ("KISS-Matcher 5 cm + GICP", KissMatcher(threads=core_count())),
}


class Worker:
    """A process that runs one method; started when needed, and again after a crash or a timeout."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.process: multiprocessing.process.BaseProcess | None = None

    def estimate(self, case: Case, timeout: float) -> dict[str, Any]:
        """`pose`, `accepted` and `seconds`, or `failure` with the reason."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(self.method, theirs), daemon=True)
            self.process.start()
            theirs.close()
        try:
            self.connection.send((case.source, case.target))
            if self.connection.poll(timeout):
                return self.connection.recv()
            reason = f"no answer in {timeout:.0f} s"
        except (EOFError, ConnectionError):
            self.process.join()
            reason = f"crashed with exit code {self.process.exitcode}"
        self.stop()
        return {"failure": reason}

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


def serve(method: str, connection: Connection) -> None:
    """Answer until the other side hangs up."""
    # Libraries that print from C++ must not write into the table.
    os.dup2(2, 1)
    _, run = METHODS[method]
    while True:
        try:
            source, target = connection.recv()
        except EOFError:
            return
        start = time.perf_counter()
        try:
            answer = run(source, target)
        except Exception as error:
            connection.send({"failure": f"{type(error).__name__}: {error}"})
        else:
            seconds = time.perf_counter() - start
            connection.send({"pose": answer.T_target_source, "accepted": answer.accepted, "seconds": seconds})


def cases(index: Path, pairs: list[dict[str, Any]], moves: int, seed: int) -> Iterator[Case]:
    """All given poses, then move after move, so that an unfinished run has seen every pair."""
    for move in range(moves + 1):
        for place, pair in enumerate(pairs):
            source = np.load(index.parent / pair["source"]).astype(np.float64)
            target = np.load(index.parent / pair["target"]).astype(np.float64)
            T_moved_source = np.eye(4)
            if move:
                draw = random_move([seed, place, move], len(source), len(target))
                T_moved_source = draw.T_moved_source
                source = transformed(source, T_moved_source)[draw.source_order]
                target = target[draw.target_order]
            yield Case(
                pair["name"],
                pair["benchmark"],
                move,
                source,
                target,
                T_moved_source,
                np.array(pair["T_target_from_source"]),
                np.array(pair["information_6x6"]),
            )


def judged(case: Case, answer: dict[str, Any]) -> dict[str, Any]:
    """The record of one answer."""
    record: dict[str, Any] = {
        "pair": case.pair, "benchmark": case.benchmark, "move": case.move,
        "right": False, "rmse_right": False, "accepted": answer.get("accepted"), "seconds": answer.get("seconds"),
    }  # fmt: skip
    pose = answer.get("pose")
    if pose is None or not np.isfinite(pose).all():
        return record | {"failure": answer.get("failure", "no pose")}
    estimate = pose @ case.T_moved_source
    rotation, translation = pose_errors(estimate, case.T_target_source)
    rmse = information_rmse(estimate, case.T_target_source, case.information)
    return record | {
        "right": is_right(rotation, translation),
        "rmse_right": rmse < RR_THRESHOLD_M,
        "rotation_deg": round(rotation, 3),
        "translation_m": round(translation, 4),
        "rmse_m": round(rmse, 4),
        "seconds": round(answer["seconds"], 3),
    }


def summary(label: str, records: list[dict[str, Any]]) -> list[str]:
    """One row of the table."""

    def rate(moved: bool, key: str = "right", benchmark: str | None = None) -> str:
        chosen = [r for r in records if bool(r["move"]) == moved and benchmark in (None, r["benchmark"])]
        return share(sum(r[key] for r in chosen), len(chosen))

    right = [r for r in records if r["right"]]
    vouched = [r for r in records if r["accepted"]]
    # A method without a verdict of its own says None on every pair.
    has_verdict = any(r["accepted"] is not None for r in records)
    seconds = [r["seconds"] for r in records if r["seconds"] is not None]
    error = "-"
    if right:
        rotation, translation = (statistics.median(r[key] for r in right) for key in ("rotation_deg", "translation_m"))
        error = f"{rotation:.1f} deg, {100 * translation:.1f} cm"
    return [
        label,
        rate(False),
        rate(True),
        *(f"{rate(False, benchmark=name)}, {rate(True, benchmark=name)}" for name in ("3DMatch", "3DLoMatch")),
        f"{rate(False, 'rmse_right')}, {rate(True, 'rmse_right')}",
        error,
        f"{statistics.median(seconds):.1f}" if seconds else "-",
        share(len(vouched), len(records)) if has_verdict else "no verdict",
        str(sum(not r["right"] for r in vouched)) if has_verdict else "no verdict",
    ]


HEADER = [
    "method", "given pose", "moved", "3DMatch given, moved", "3DLoMatch given, moved", "RR-0.2 given, moved",
    "median error where right", "s per pair", "accepted", "accepted, wrong",
]  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    """The table with what a reader needs to judge it."""
    by_method = {name: report["records"][name] for name in METHODS if report["records"].get(name)}
    lost = [
        f"- {METHODS[name][0]}, {r['pair']}, move {r['move']}: {r['failure']}"
        for name, records in by_method.items()
        for r in records
        if "failure" in r
    ]
    conditions = report["conditions"]
    text = [
        f"{len(conditions['pairs'])} pairs, each in its given pose and moved {conditions['moves']} times "
        "(uniform rotation and 100 m of the source, points shuffled, float64). Right: within 15 degrees and 0.30 m in "
        "the unmoved frames. RR-0.2: official error below 0.2 m, all pairs. Seconds: median from arrays to refined "
        "pose. KISS-Matcher accepts by the rule of its example, five final inliers.",
        markdown_table(HEADER, (summary(METHODS[name][0], records) for name, records in by_method.items())),
        *(f"Measured {described(run)}; load before the run {run['load_before']}." for run in report["runs"]),
    ]
    return "\n\n".join(text + (["Answers that were no pose:\n\n" + "\n".join(lost)] if lost else [])) + "\n"


def started(output: Path | None, resume: bool, conditions: dict[str, Any]) -> dict[str, Any]:
    """An empty report, or the one to go on with."""
    if not (resume and output is not None and output.exists()):
        return {"conditions": conditions, "runs": [], "records": {}}
    report = json.loads(output.read_text(encoding="utf-8"))
    differ = [key for key in conditions if report["conditions"].get(key) != conditions[key]]
    if differ:
        raise SystemExit(f"{output} was measured under other conditions ({', '.join(differ)}): run without --resume")
    return report


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, write, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_data(), help="folder with pairs.json (%(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD",
                        help=f"of {', '.join(METHODS)}; all by default")  # fmt: skip
    parser.add_argument("--moves", type=int, default=10, help="random moves of every pair (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moves (%(default)s)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds an answer may take (%(default)s)")
    parser.add_argument("--output", type=Path, help="file for the JSON; the table is written beside it as .md")
    parser.add_argument("--resume", action="store_true", help="keep what --output already holds")
    parser.add_argument("--smoke", action="store_true", help="one pair and one move: does everything run?")
    options = parser.parse_args(arguments)
    index = require_data(options.data)
    pairs = json.loads(index.read_text(encoding="utf-8"))["pairs"][: 1 if options.smoke else None]
    moves = 1 if options.smoke else options.moves
    run = environment(VERSIONS_OF)
    names = [pair["name"] for pair in pairs]
    conditions = {"pairs": names, "moves": moves, "seed": options.seed} | {k: run[k] for k in ("machine", "versions")}
    report = started(options.output, options.resume, conditions)
    report["runs"].append(run | {"methods": options.methods})
    known = {(name, r["pair"], r["move"]) for name, records in report["records"].items() for r in records}
    workers = {name: Worker(name) for name in options.methods}
    try:
        for case in cases(index, pairs, moves, options.seed):
            # Methods take turns, so that a busy machine slows them all.
            for name in options.methods:
                if (name, case.pair, case.move) in known:
                    continue
                record = judged(case, workers[name].estimate(case, options.timeout))
                report["records"].setdefault(name, []).append(record)
                found = record.get("failure") or f"{record['rotation_deg']:.1f} deg, {record['translation_m']:.2f} m"
                word = "right" if record["right"] else "wrong"
                print(f"{case.pair} move {case.move}: {name} {word} ({found})", file=sys.stderr)
                if options.output is not None:
                    write_whole(options.output, json.dumps(report, indent=1) + "\n")
    finally:
        for worker in workers.values():
            worker.stop()
    text = markdown(report)
    if options.output is not None:
        write_whole(options.output.with_suffix(".md"), text)
    print(text, end="")
    return report


if __name__ == "__main__":
    main()
