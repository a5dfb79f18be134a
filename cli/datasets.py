"""`rotaware datasets check`: what a folder of benchmarks holds, what is missing in it, what is damaged."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .messages import ExitCode, format_count
from .progress import counting

if TYPE_CHECKING:
    import numpy as np

    from rotaware.datasets import Benchmark, DatasetReport

SUMMARY = "check a folder of benchmarks: what it holds, what is missing, what is damaged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware datasets`."""
    parser.add_argument("action", choices=("check",), help="the only thing to do with them")
    parser.add_argument("root", metavar="ROOT", help="the folder, or the file of a list of pairs (.pkl, .csv)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Check and print; exit 0 when everything can be used, 5 when something is damaged, else 4."""
    from rotaware.datasets import check_dataset

    from .result_json import dump

    with counting("scans", silent=options.json) as on_cloud:
        report = check_dataset(options.root, read=read_points, on_cloud=on_cloud)
    if options.json:
        print(dump({"schema_version": 1, "ok": report.ok, **asdict(report)}), end="")
    else:
        print("\n".join(_lines(report)))
    if report.ok:
        return int(ExitCode.REGISTERED)
    damaged = any(problem.kind == "damaged" for problem in report.problems)
    return int(ExitCode.UNREADABLE_FILE if damaged else ExitCode.BAD_INPUT)


def read_points(path: Path) -> np.ndarray:
    """(N, 3) points of a file in any format that `rotaware register` reads."""
    from rotaware.pointcloud import read_point_cloud

    return read_point_cloud(path).points


def benchmark_at(root: str | Path, name: str | None = None) -> Benchmark:
    """`open_benchmark`, with the errors of a command: a damaged list is an unreadable file, not our bug.

    Raises:
        FileNotFoundError: as `open_benchmark`.
        UnreadableFileError: a list or log is damaged.
    """
    from rotaware.datasets import open_benchmark
    from rotaware.pointcloud import UnreadableFileError

    try:
        return open_benchmark(root, name)
    except ValueError as error:
        raise UnreadableFileError(str(error)) from error


def _lines(report: DatasetReport) -> list[str]:
    lines = [report.root]
    for found in report.benchmarks:
        usable = "" if found.usable == found.pairs else f", {format_count(found.usable)} of them usable"
        disjoint = f", {format_count(found.disjoint)} of them disjoint" if found.disjoint else ""
        lines += [
            f"{found.name}   {found.layout}   {found.path}",
            f"  {format_count(found.pairs)} pairs{usable}{disjoint}, {format_count(found.clouds)} scans, "
            f"{format_count(len(found.scenes))} scenes",
            *(f"  {format_count(count):>7}  {scene}" for scene, count in found.scenes.items()),
        ]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"{problem.kind}: {problem.text}" for problem in report.problems]
    count = len(report.problems)
    return [
        *lines,
        "everything can be used" if report.ok else f"{count} {'problem' if count == 1 else 'problems'} found",
    ]
