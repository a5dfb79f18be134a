"""`rotaware evaluate`: methods on a benchmark, with every table that belongs to it.

On several machines with one file system: `torchrun ... -m rotaware.cli evaluate ...`, each takes its share of pairs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .messages import ExitCode, UsageError
from .options import count

if TYPE_CHECKING:
    import numpy as np

    from rotaware.datasets.benchmarks import Benchmark, BenchmarkPair
    from rotaware.pointcloud.evaluation import Progress
    from rotaware.pointcloud.evaluation_records import Record

SUMMARY = "score methods on a benchmark: recall, inliers, verdicts, rotation, cost"

# As `rotaware.pointcloud.METHODS`, which would be slow to import for --help.
METHODS = ("auto", "roitr", "classic", "network", "network-ransac", "open3d-fpfh-ransac", "kiss-matcher")
# Rotations of one seed are numbered from here on; seed 0 has those of the published rotated benchmarks.
_NUMBERS_PER_SEED = 1_000_000
_SECONDS_PER_LINE = 10.0
# A log cannot say that no pose was found: one this far away, metres, is right by no scorer.
_NOWHERE = 1000.0
# The first that applies.
_EXIT_OF_FAULT = {"scan": ExitCode.UNREADABLE_FILE, "log": ExitCode.BAD_INPUT, "method": ExitCode.OUR_BUG}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware evaluate`."""
    parser.add_argument("root", metavar="ROOT", help="the folder of the benchmark, or its list of pairs (.pkl, .csv)")
    parser.add_argument("--benchmark", metavar="NAME", help="which one, such as 3DLoMatch, where ROOT holds several")
    parser.add_argument(
        "--method",
        action="append",
        choices=METHODS,
        metavar="NAME",
        help=f"may be repeated (default auto): {', '.join(METHODS)}",
    )
    parser.add_argument("--network", metavar="DIR", help="weights of a RoITr of your own (default: the bundled ones)")
    parser.add_argument(
        "--rotated",
        type=_seeds,
        default=(),
        metavar="SEEDS",
        help="also turn the scans, once per seed, such as 0 or 0,1,2; 0 as in the published rotated benchmarks",
    )
    parser.add_argument(
        "--disjoint", type=count(1), default=0, metavar="N", help="also N pairs that do not overlap: false accepts"
    )
    parser.add_argument("--limit", type=count(1), metavar="N", help="only N pairs, drawn from all scenes, always alike")
    parser.add_argument("--workers", type=count(1), default=1, metavar="N", help="processes of one thread (default 1)")
    parser.add_argument("--resume", action="store_true", help="keep the results that the output folder holds")
    parser.add_argument("--score", metavar="DIR", help="score the poses in DIR/<scene>/est.log instead; needs no scans")
    parser.add_argument("-o", "--out", metavar="DIR", help="output folder (default ./evaluation-<benchmark>/)")


def run(options: argparse.Namespace) -> int:
    """Evaluate, write all tables, print those worth a look; exit 0 if no pair failed."""
    from rotaware.pointcloud.evaluation import is_first_rank
    from rotaware.pointcloud.evaluation_measures import KITTI_BOUNDS
    from rotaware.pointcloud.evaluation_report import scene_tables, summary_tables, write_report
    from rotaware.pointcloud.evaluation_summary import summarise
    from rotaware.pointcloud.methods import named_method

    from .datasets import benchmark_at

    if options.score and (
        options.method or options.network or options.rotated or options.disjoint or options.limit or options.resume
    ):
        raise UsageError("--score takes poses from files: only --benchmark and --out go with it")
    benchmark = benchmark_at(options.root, options.benchmark)
    out = Path(options.out or f"evaluation-{benchmark.name}")
    if options.score:
        pairs: Sequence[BenchmarkPair] = benchmark.pairs
        records, settings = _scored_logs(benchmark, Path(options.score)), {}
    else:
        names = dict.fromkeys(options.method or ["auto"])
        try:
            methods = {name: named_method(name, network=options.network) for name in names}
        except ImportError as error:
            raise UsageError(str(error)) from None
        pairs = (*benchmark.pairs, *_disjoint(benchmark, options.disjoint))
        records = _evaluated(pairs, methods, out, options)
        settings = {name: method.settings() for name, method in methods.items()}
    if not is_first_rank():
        return int(ExitCode.REGISTERED)
    bounds = KITTI_BOUNDS if benchmark.name == "KITTI" else None
    summary = summarise(benchmark.name, pairs, records, bounds=bounds)
    write_report(summary, pairs, records, out, settings=settings)
    if not options.score:
        _write_logs(benchmark, records, out)
    tables = [*summary_tables(summary), *(scene_tables(summary) if options.score else ())]
    print("\n\n".join(table.markdown() for table in tables))
    print(f"\nfiles: {out}{os.sep}   report.md, report.tex, summary.json, pairs.csv")
    failed = [record.fault for record in records if record.failure is not None]
    if failed:
        print(f"{len(failed)} of {len(records)} results are failures, see the table 'Failed'", file=sys.stderr)
    return int(next((code for fault, code in _EXIT_OF_FAULT.items() if fault in failed), ExitCode.REGISTERED))


def published_turn(seed: int, number: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Rotations of the source and of the target of pair `number`; seed 0 is the published rotated benchmark."""
    from rotaware.datasets import benchmark_rotation

    rotation, turns_source = benchmark_rotation(number + seed * _NUMBERS_PER_SEED)
    return (rotation, None) if turns_source else (None, rotation)


def _evaluated(
    pairs: Sequence[BenchmarkPair], methods: dict[str, Any], out: Path, options: argparse.Namespace
) -> list[Record]:
    from rotaware.pointcloud.evaluation import evaluate

    conditions: dict[str, Any] = {"original": None}
    conditions |= {f"rotated-{seed}": partial(published_turn, seed) for seed in options.rotated}
    with _progress() as shown:
        try:
            return evaluate(
                pairs,
                methods,
                out,
                conditions=conditions,
                limit=options.limit,
                workers=options.workers,
                resume=options.resume,
                on_progress=shown,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; results so far are in {out}{os.sep}, --resume goes on") from None


def _disjoint(benchmark: Benchmark, wanted: int) -> Sequence[BenchmarkPair]:
    from rotaware.datasets.benchmarks import disjoint_pairs
    from rotaware.pointcloud import InputError

    try:
        return disjoint_pairs(benchmark, wanted) if wanted else ()
    except ValueError as error:
        raise InputError(f"--disjoint {wanted}: {error}") from None


def _scored_logs(benchmark: Benchmark, folder: Path) -> list[Record]:
    """A record of each pair of a benchmark whose pose a log holds, or should hold."""
    from rotaware.datasets.benchmark_logs import read_log
    from rotaware.pointcloud import UnreadableFileError
    from rotaware.pointcloud.evaluation_records import Record, pose_scores

    poses: dict[tuple[str, int, int], np.ndarray] = {}
    for scene in benchmark.scenes:
        try:
            entries = read_log(folder / scene / "est.log")
        except ValueError as error:
            raise UnreadableFileError(str(error)) from error
        poses |= {(scene, entry.target, entry.source): entry.matrix for entry in entries}
    records = []
    for pair in benchmark.pairs:
        if pair.T_target_source is None:
            continue
        pose = poses.get((pair.scene, pair.target_id, pair.source_id))
        missing = None if pose is not None else f"{folder / pair.scene / 'est.log'} has no pose of this pair"
        records.append(
            Record(
                pair.name,
                "original",
                folder.resolve().name,
                key="",
                code="",
                T_target_source=None if pose is None else pose.tolist(),
                scores=pose_scores(pose, pair),
                failure=missing,
                fault=None if missing is None else "log",
            )
        )
    return records


def _write_logs(benchmark: Benchmark, records: Sequence[Record], out: Path) -> None:
    """`est/<method>/<condition>/<scene>/est.log` with the poses of all pairs that were run, in the published frames."""
    import numpy as np

    from rotaware.datasets.benchmark_logs import LogEntry, write_log

    nowhere = np.eye(4) + _NOWHERE * np.eye(4, k=3)
    pairs = {pair.name: pair for pair in benchmark.pairs if not pair.deforming}
    logs: dict[Path, list[LogEntry]] = {}
    for record in records:
        pair = pairs.get(record.pair)
        if pair is not None and pair.T_target_source is not None:
            pose = nowhere if record.T_target_source is None else np.array(record.T_target_source)
            file = out / "est" / record.method / record.condition / pair.scene.replace(os.sep, "_") / "est.log"
            entry = LogEntry(pair.target_id, pair.source_id, benchmark.fragments[pair.scene], pose)
            logs.setdefault(file, []).append(entry)
    for file, entries in logs.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_log(file, entries)


def _seeds(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas.

    >>> _seeds("0,2")
    (0, 2)
    """
    return tuple(dict.fromkeys(count(0)(part.strip()) for part in text.split(",")))


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar with the time left on a terminal, a line every ten seconds elsewhere."""
    from rotaware.pointcloud.evaluation import is_first_rank

    if not (is_first_rank() and sys.stderr.isatty()):
        yield _Lines() if is_first_rank() else lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns: tuple[Any, ...] = (TextColumn("results"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TextColumn("{task.description}"), console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=None)
        clock = _Clock()

        def show(progress: Progress) -> None:
            for line in clock.lines(progress):
                bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
            left = clock.left(progress)
            bars.update(task, completed=progress.done, total=progress.total, description=left)

        yield show


class _Clock:
    """What is worth a line, and how long the rest will take."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def lines(self, progress: Progress) -> Iterator[str]:
        """At the start and where something failed."""
        record = progress.record
        if record is None:
            yield f"{progress.total} results, {progress.reused} of them from an earlier run"
            if progress.other_code:
                yield f"note: {progress.other_code} of these were made by other code of the same version"
            if progress.other_settings:
                yield f"note: {progress.other_settings} results under other settings are left alone and not used"
        elif record.failure is not None:
            yield f"failed: {record.pair}, {record.method}, {record.condition}: {record.failure}"

    def left(self, progress: Progress) -> str:
        """Such as 'about 0:12:30 left'."""
        fresh = progress.done - progress.reused
        if not fresh:
            return ""
        seconds = round((time.monotonic() - self._start) / fresh * (progress.total - progress.done))
        return f"about {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"


class _Lines:
    """Progress where there is no terminal."""

    def __init__(self) -> None:
        self._clock = _Clock()
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        for line in self._clock.lines(progress):
            print(line, file=sys.stderr, flush=True)
        if time.monotonic() - self._last >= _SECONDS_PER_LINE or progress.done == progress.total:
            print(f"{progress.done}/{progress.total}  {self._clock.left(progress)}", file=sys.stderr, flush=True)
            self._last = time.monotonic()
