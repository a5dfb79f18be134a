"""Runs methods over a benchmark: every result in a file of its own, so that stopping, several processes and several
machines are one mechanism.

A result lies in `<output>/results/<method>/<condition>/<pair>.<key>.json`. The key is a fingerprint of the pair, the
condition and the settings of the method: under other settings nothing old is ever taken for new.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from rotaware import geo, kernels

from .errors import InputError
from .evaluation_records import Array, Record, ScanPair, Scans, read_record, scored, write_record
from .evaluation_workers import Crash, PeakMemory, work_through
from .io import read_point_cloud
from .methods import Answer, MatchedPoints, Method

# Rotations (3, 3) of the source and of the target of pair number n, None for a scan that stays as it is.
Turn = Callable[[int], tuple[Array | None, Array | None]]

_FILE_NAME = re.compile(r"[\w+-][\w.+-]*")
# Chooses the pairs that a limit leaves.
_LIMIT_SEED = 0
# Ranks that are done wait for the others.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is, on this machine."""

    total: int
    done: int  # of these, also before this run
    reused: int  # done before this run
    other_code: int  # of the reused, by other code of the same version
    other_settings: int  # results in the folder of the same pairs under other settings, which are left alone
    record: Record | None  # the newest; None at the start


def evaluate(
    pairs: Sequence[ScanPair],
    methods: Mapping[str, Method],
    output: str | os.PathLike[str],
    *,
    conditions: Mapping[str, Turn | None] | None = None,
    limit: int | None = None,
    workers: int = 1,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Record]:
    """Run every method on every pair under every condition, and keep each answer with its scores.

    A pair that cannot be read, and a method that raises or crashes, is recorded with the reason and tried again by the
    next run. Started by `torchrun`, each rank takes its share of the pairs; all need the same output folder.

    Args:
        pairs: the whole list, whose order numbers the pairs; those without a pose must not be registered.
        methods: by name; see `named_method`.
        output: folder, made if it does not exist.
        conditions: by name, how the scans are turned; None is one condition, "original", without any turn.
        limit: how many of the pairs with a pose, chosen at random but always alike; more include fewer.
        workers: processes, each with one thread; 0 runs in this one. Results are the same whatever their number. A
            script that asks for more than 0 needs `if __name__ == "__main__":`.
        resume: whether results that the folder holds are kept.
        on_progress: called at the start and with each result.
    Returns:
        All records, by pair, condition and method, also those of other ranks.
    Raises:
        InputError: the folder holds results and `resume` is False; or those of other ranks do not arrive in it.
        ValueError: names that are no file names or not unique, a number out of range.

    >>> import tempfile
    >>> from rotaware.datasets import BenchmarkPair
    >>> class Nothing:
    ...     def settings(self): return {}
    ...     def __call__(self, source, target): return Answer(np.eye(4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder, "a.npy"), np.random.default_rng(0).random((50, 3)))
    ...     pair = BenchmarkPair("den", Path(folder, "a.npy"), Path(folder, "a.npy"), 1, 0, np.eye(4), 1.0)
    ...     records = evaluate([pair], {"nothing": Nothing()}, folder, workers=0)
    >>> records[0].scores["rotation_deg"]
    0.0
    """
    conditions = {"original": None} if conditions is None else conditions
    _check(pairs, methods, conditions, limit, workers)
    plan = _Plan(Path(output), pairs, methods, conditions, _chosen(pairs, limit))
    with _ranks() as (rank, ranks, wait):
        mine = [job for job in plan.jobs if plan.place[job.number] % ranks == rank]
        kept = {job: record for job in mine if (record := read_record(plan.file(job))) is not None}
        if kept and not resume:
            raise InputError(
                f"{output} holds {len(kept)} of the {len(mine)} results; resume (--resume), or name another folder"
            )
        kept = {job: record for job, record in kept.items() if record.failure is None}
        code = _code()
        progress = Progress(
            total=len(mine),
            done=len(kept),
            reused=len(kept),
            other_code=sum(record.code != code for record in kept.values()),
            other_settings=plan.others(),
            record=None,
        )
        tell = on_progress or (lambda progress: None)
        tell(progress)
        runner = _Runner(pairs, methods, conditions, plan.keys, code)
        with closing(work_through([job for job in mine if job not in kept], runner, workers)) as results:
            for job, result in results:
                record = runner.crashed(job, result) if isinstance(result, Crash) else result
                write_record(plan.file(job), record)
                progress = replace(progress, done=progress.done + 1, record=record)
                tell(progress)
        wait()
    return plan.records()


def is_first_rank() -> bool:
    """Whether this process is the one, of those that `torchrun` has started, that reports; True without it."""
    return int(os.environ.get("RANK", "0")) == 0


class _Job(NamedTuple):
    number: int
    condition: str
    method: str


class _Plan:
    """What is to be done, and where its results lie."""

    def __init__(
        self,
        output: Path,
        pairs: Sequence[ScanPair],
        methods: Mapping[str, Method],
        conditions: Mapping[str, Turn | None],
        numbers: Sequence[int],
    ) -> None:
        self._folder = output / "results"
        self._pairs = pairs
        self.place = {number: place for place, number in enumerate(numbers)}
        self.jobs = [
            _Job(number, condition, name) for number in numbers for condition in conditions for name in methods
        ]
        settings = {name: method.settings() for name, method in methods.items()}
        self.keys = {
            job: _key(pairs[job.number], conditions[job.condition], job.number, settings[job.method])
            for job in self.jobs
        }

    def file(self, job: _Job) -> Path:
        pair = self._pairs[job.number].name
        return self._folder / job.method / job.condition / f"{pair}.{self.keys[job]}.json"

    def others(self) -> int:
        """Results of the same pairs, conditions and methods with another key."""
        wanted = {self.file(job) for job in self.jobs}
        known = {(file.parent, file.name.rsplit(".", 2)[0]) for file in wanted}
        present = (file for folder in {file.parent for file in wanted} for file in folder.glob("*.json"))
        return sum(file not in wanted and (file.parent, file.name.rsplit(".", 2)[0]) in known for file in present)

    def records(self) -> list[Record]:
        """All of them.

        Raises:
            InputError: not all are there.
        """
        found = [read_record(self.file(job)) for job in self.jobs]
        missing = found.count(None)
        if missing:
            raise InputError(
                f"{self._folder.parent}: {missing} of {len(found)} results are missing; all machines of a run must "
                "write to one folder"
            )
        return [record for record in found if record is not None]


@dataclass
class _Runner:
    """Does one job. The pair read last is kept, as the next job is often on it."""

    pairs: Sequence[ScanPair]
    methods: Mapping[str, Method]
    conditions: Mapping[str, Turn | None]
    keys: Mapping[_Job, str]
    code: str
    _last: tuple[int, Scans] | None = field(default=None, repr=False)

    def __call__(self, job: _Job) -> Record:
        blank = self._blank(job)
        try:
            scans = self._scans(job.number)
        except Exception as error:  # Whatever is wrong with a file, it is the pair that fails.
            return replace(blank, failure=_reason(error), fault="scan")
        turn = self.conditions[job.condition]
        rotations = (None, None) if turn is None else turn(job.number)
        source, target = (_turned(cloud, by) for cloud, by in zip((scans.source, scans.target), rotations, strict=True))
        memory, cpu, start = PeakMemory(), time.process_time(), time.perf_counter()
        try:
            answer = self.methods[job.method](source, target)
            cost = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
            answer = _turned_back(answer, *rotations)
            return replace(
                blank,
                T_target_source=None if answer.T_target_source is None else answer.T_target_source.tolist(),
                accepted=answer.accepted,
                confidence=answer.confidence,
                evidence=answer.evidence,
                scores=scored(answer, self.pairs[job.number], scans),
                cost=cost | {"peak_mb": memory.megabytes},
            )
        except Exception as error:  # A method may raise anything, and the others are still to be measured.
            return replace(blank, failure=_reason(error), fault="method")

    def crashed(self, job: _Job, crash: Crash) -> Record:
        """The record of a job that ended its process."""
        return replace(self._blank(job), failure=f"crashed with exit code {crash.exit_code}", fault="method")

    def _blank(self, job: _Job) -> Record:
        return Record(self.pairs[job.number].name, job.condition, job.method, self.keys[job], self.code)

    def _scans(self, number: int) -> Scans:
        if self._last is None or self._last[0] != number:
            self._last = number, self.pairs[number].load(_finite_points)
        return self._last[1]


def _check(
    pairs: Sequence[ScanPair],
    methods: Mapping[str, Method],
    conditions: Mapping[str, Turn | None],
    limit: int | None,
    workers: int,
) -> None:
    names = [pair.name for pair in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"pairs: expected unique names, got {len(names)} pairs with {len(set(names))} names")
    for what, given in (("pairs", names), ("methods", methods), ("conditions", conditions)):
        wrong = [name for name in given if not _FILE_NAME.fullmatch(name)]
        if wrong or not len(given):
            raise ValueError(f"{what}: expected at least one, with names fit for files, got {wrong[:3]}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    if workers < 0:
        raise ValueError(f"workers: expected at least 0, got {workers}")


def _chosen(pairs: Sequence[ScanPair], limit: int | None) -> list[int]:
    """Numbers of the pairs to run, in order."""
    posed = [number for number, pair in enumerate(pairs) if pair.T_target_source is not None or pair.deforming]
    others = sorted(set(range(len(pairs))) - set(posed))
    if limit is not None:
        posed = [posed[place] for place in np.random.default_rng(_LIMIT_SEED).permutation(len(posed))[:limit]]
    return sorted(posed) + others


def _key(pair: ScanPair, turn: Turn | None, number: int, settings: Mapping[str, Any]) -> str:
    described = {
        "pair": [pair.name, *(_size(path) for path in (pair.source, pair.target))],
        "truth": [
            None if each is None else np.asarray(each).tolist() for each in (pair.T_target_source, pair.information)
        ],
        "turn": None if turn is None else [None if each is None else each.tolist() for each in turn(number)],
        "settings": settings,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


@cache
def _code() -> str:
    """Hash of the code that results depend on: tells versions under development apart, which share a number."""
    digest = hashlib.sha256()
    for folder in (Path(geo.__file__).parent, Path(kernels.__file__).parent, Path(__file__).parent):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _finite_points(path: Path) -> Array:
    points: Array = read_point_cloud(path).points
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise InputError(f"{path}: expected points, got none that is finite")
    return points


def _turned(points: Array, rotation: Array | None) -> Array:
    return points if rotation is None else (points.astype(np.float64) @ rotation.T).astype(points.dtype)


def _turned_back(answer: Answer, source: Array | None, target: Array | None) -> Answer:
    """The answer about the scans as they were before they were turned; a pose with a NaN is none."""
    frames = [np.eye(4), np.eye(4)]
    for frame, rotation in zip(frames, (source, target), strict=True):
        if rotation is not None:
            frame[:3, :3] = rotation
    pose, matches = answer.T_target_source, answer.matches
    if pose is not None:
        pose = frames[1].T @ np.asarray(pose, dtype=np.float64) @ frames[0] if np.isfinite(pose).all() else None
    if matches is not None:
        matches = MatchedPoints(
            matches.source @ frames[0][:3, :3], matches.target @ frames[1][:3, :3], matches.confidence
        )
    return replace(answer, T_target_source=pose, matches=matches)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _ranks() -> Iterator[tuple[int, int, Callable[[], None]]]:
    """Number of this process among those that `torchrun` has started, their count, and how to wait for all."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        yield 0, 1, lambda: None
        return
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield torch.distributed.get_rank(), ranks, torch.distributed.barrier
    finally:
        torch.distributed.destroy_process_group()
