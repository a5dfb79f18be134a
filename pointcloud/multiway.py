"""From many scans to one pose for each: pairs, kept as they are done, and a robust graph of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np

from rotaware.geo.checks import require_choice

from .canonical import clean
from .cloud import PointCloud
from .errors import InputError
from .io import as_point_cloud
from .pair_proposals import Signature, likely_pairs, read_signature, signature, write_signature
from .pair_results import SCHEMA_VERSION, PairResult, pair_result, read_pair, write_pair
from .pose_edges import Edge
from .pose_graph import Cycle, solve_pose_graph
from .registration import load_network, register
from .result import Status
from .roitr import RoITr
from .verdict import THRESHOLDS, Accept

# From so many scans on, only likely pairs are registered.
MANY = 30

_TURN, _SHIFT = slice(3), slice(3, 6)

Role = Literal["used", "confirmed", "contradicted", "outweighed", "none"]


@dataclass(frozen=True)
class TriedPair:
    """A pair of scans that was registered, and what the graph made of it."""

    source: int
    target: int
    status: Status
    confidence: float
    reason: str
    overlap: float  # the smaller of the two shares, under the best pose
    T_target_source: np.ndarray | None  # (4, 4): the hypothesis in use, else the best one; None if none was kept
    role: Role  # "confirmed": too weak alone; "contradicted": by its group; "outweighed": would join two groups
    turn_deg: float  # between it and the poses; NaN between groups and without a hypothesis
    shift: float  # at the overlap, likewise


@dataclass(frozen=True)
class PairProgress:
    """One more pair is done, passed to the `on_pair` callback of `register_many`."""

    done: int
    total: int
    source: int
    target: int
    result: PairResult
    reused: bool  # found in the cache
    seconds_left: float  # for all other pairs, as it looks now


@dataclass(frozen=True)
class MultiwayResult:
    """Poses of many scans, in groups that are known relative to each other. Lengths in the scans' unit."""

    T_world_scan: np.ndarray  # (N, 4, 4) float64: scan to the world of its group: the frame of its first scan
    turn_deviation_deg: np.ndarray  # (N,) of the pose relative to that scan, about the worst axis
    shift_deviation: np.ndarray  # (N,) likewise, of the scan's middle
    groups: tuple[tuple[int, ...], ...]  # largest first; a scan that fits nowhere is a group of its own
    pairs: tuple[TriedPair, ...]
    cycles: tuple[Cycle, ...]  # `edge` is a row of `pairs`

    @property
    def connected(self) -> bool:
        """True when all scans are in one group."""
        return len(self.groups) == 1


def register_many(
    clouds: Sequence[Any],
    *,
    pairs: Literal["auto", "all"] = "auto",
    cache: str | os.PathLike[str] | None = None,
    method: Literal["auto", "roitr", "classic"] = "auto",
    network: RoITr | str | os.PathLike[str] | None = None,
    voxel: float | None = None,
    accept: Accept = "balanced",
    threads: int | None = None,
    seed: int = 0,
    on_pair: Callable[[PairProgress], None] | None = None,
) -> MultiwayResult:
    """Find where many scans lie relative to each other, as far as it can be known.

    Pairs are registered one by one, and a robust pose graph makes one pose per scan of them: wrong pairs are found by
    their cycles and left out, weak ones that others confirm come in. Scans that nothing joins surely enough stay in
    groups of their own.

    Args:
        clouds: each whatever `register` takes, all in one unit. Paths are read when needed and not kept in memory.
        pairs: "all", or "auto": all of fewer than 30 scans, else for every scan those that look most alike.
        cache: folder in which every pair is kept as soon as it is done, under the content of both clouds and all that
            its result depends on. The same call goes on from there, whatever interrupted it; another scan costs only
            its own pairs; order and names do not matter.
        method, network, voxel, accept, threads, seed: as for `register`; `accept` also is how sure to be of joining
            two groups.
        on_pair: called after every pair.
    Raises:
        InputError: fewer than two clouds, or one that cannot be registered; the message names it.
        FileNotFoundError, UnreadableFileError, ValueError: as `register`.

    >>> from rotaware.datasets import indoor_pair
    >>> pair = indoor_pair(0)
    >>> result = register_many([pair.target, pair.source], method="classic")
    >>> result.connected, bool(np.abs(result.T_world_scan[1] - pair.T_target_source).max() < 0.1)
    (True, True)
    """
    require_choice("pairs", pairs, ("auto", "all"))
    require_choice("method", method, ("auto", "roitr", "classic"))
    require_choice("accept", accept, tuple(THRESHOLDS))
    if len(clouds) < 2:
        raise InputError(f"clouds: expected at least 2, got {len(clouds)}")
    learned = None if method == "classic" else load_network(network)
    options: dict[str, Any] = {"method": method, "voxel": voxel, "accept": accept, "seed": seed, "scale": "rigid"}
    load = lru_cache(maxsize=2)(lambda scan: as_point_cloud(clouds[scan], seed=seed))
    scans = [_scan(load(k), _name(clouds[k], k)) for k in range(len(clouds))]
    store = _Store(None if cache is None else Path(cache), _fingerprint(options, learned))
    if pairs == "all" or len(scans) < MANY:
        chosen = list(combinations(range(len(scans)), 2))
    else:
        chosen = likely_pairs([store.signature(scan, partial(load, k)) for k, scan in enumerate(scans)])
    # A pair has one direction, whatever the order of the scans, so that its file is found again.
    chosen = [(j, i) if scans[i].content <= scans[j].content else (i, j) for i, j in chosen]
    kept = {ends: store.read(scans[ends[0]], scans[ends[1]]) for ends in chosen}
    missing = sum(result is None for result in kept.values())

    results: dict[tuple[int, int], PairResult] = {}
    seconds = 0.0
    # First what is there already: the estimate of the time left is then about the rest alone.
    for ends in sorted(chosen, key=lambda each: kept[each] is None):
        result = kept[ends]
        if result is None:
            began = perf_counter()
            source, target = load(ends[0]), load(ends[1])
            registration = register(source, target, network=learned, threads=threads, **options)
            result = pair_result(registration, source, target)
            store.write(scans[ends[0]], scans[ends[1]], result)
            seconds += perf_counter() - began
        results[ends] = result
        if on_pair is not None:
            computed = len(results) - len(chosen) + missing
            left = seconds / computed * (missing - computed) if computed > 0 else 0.0
            on_pair(PairProgress(len(results), len(chosen), *ends, result, kept[ends] is not None, left))
    # In one order, whatever was there already, so that the answer is the same to the last bit.
    return _joined(scans, {ends: results[ends] for ends in chosen}, THRESHOLDS[accept])


@dataclass(frozen=True)
class _Scan:
    content: str  # hash of all that `register` sees of it
    middle: np.ndarray  # (3,) mean of the usable points


def _scan(cloud: PointCloud, name: str) -> _Scan:
    points = clean(cloud.points, name).points
    digest = hashlib.sha256(np.ascontiguousarray(cloud.points).tobytes())
    if cloud.viewpoint is not None:
        digest.update(cloud.viewpoint.tobytes())
    return _Scan(digest.hexdigest(), points.mean(axis=0))


def _name(given: Any, number: int) -> str:
    return repr(os.fspath(given)) if isinstance(given, str | os.PathLike) else f"scan {number + 1}"


def _fingerprint(options: dict[str, Any], network: RoITr | None) -> str:
    """Hash of all but the clouds that a pair's result depends on."""
    try:
        release = version("rotaware")
    except PackageNotFoundError:
        release = "unknown"
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, release, options], sort_keys=True).encode())
    if network is not None:
        digest.update(network.config.to_json().encode())
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Store:
    """Pairs and signatures on disk, each in a file that is there whole or not at all; without a folder, nowhere."""

    folder: Path | None
    fingerprint: str

    def __post_init__(self) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def read(self, source: _Scan, target: _Scan) -> PairResult | None:
        return None if self.folder is None else read_pair(self._file(".json", source, target))

    def write(self, source: _Scan, target: _Scan, result: PairResult) -> None:
        if self.folder is not None:
            write_pair(self._file(".json", source, target), result)

    def signature(self, scan: _Scan, load: Callable[[], PointCloud]) -> Signature:
        """The scan's signature, computed unless it is kept."""
        found = None if self.folder is None else read_signature(self._file(".npz", scan))
        if found is None:
            found = signature(load())
            if self.folder is not None:
                write_signature(self._file(".npz", scan), found)
        return found

    def _file(self, ending: str, *scans: _Scan) -> Path:
        assert self.folder is not None
        key = " ".join([self.fingerprint, *(scan.content for scan in scans)])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}{ending}"


def _joined(scans: list[_Scan], results: dict[tuple[int, int], PairResult], threshold: float) -> MultiwayResult:
    """The graph of all hypotheses, solved in frames with their origins in the middle of each scan."""
    edges: list[Edge] = []
    rows: list[list[int]] = []  # per pair: its edges
    for (source, target), result in results.items():
        rows.append(list(range(len(edges), len(edges) + len(result.poses))))
        there, back = _shift(scans[source].middle), _shift(-scans[target].middle)
        centre = result.centre - scans[target].middle
        edges += [
            Edge(source, target, back @ pose @ there, result.covariance, centre, float(share))
            for pose, share in zip(result.poses, result.shares, strict=True)
        ]
    graph = solve_pose_graph(len(scans), edges, threshold=threshold)
    first = {scan: group[0] for group in graph.groups for scan in group}
    poses = [_shift(scans[first[k]].middle) @ graph.poses[k] @ _shift(-scan.middle) for k, scan in enumerate(scans)]
    pairs = []
    for mine, ((source, target), result) in zip(rows, results.items(), strict=True):
        # The hypothesis in use, else the best.
        edge = min(mine, key=lambda each: not graph.used[each], default=None)
        used = edge is not None and bool(graph.used[edge])
        pairs.append(
            TriedPair(
                source,
                target,
                result.status,
                result.confidence,
                result.reason,
                result.overlap,
                None if edge is None else result.poses[edge - mine[0]],
                _role(result.status, used, first[source] == first[target]),
                np.nan if edge is None else float(np.degrees(graph.turns[edge])),
                np.nan if edge is None else float(graph.shifts[edge]),
            )
        )
    owner = [row for row, mine in enumerate(rows) for _ in mine]
    cycles = [
        replace(cycle, edge=owner[cycle.edge])
        for cycle in graph.cycles
        if graph.used[cycle.edge] or pairs[owner[cycle.edge]].status == "registered"
    ]
    turn, shift = (
        np.sqrt(np.linalg.eigvalsh(graph.covariances[:, part, part])[:, -1].clip(0.0)) for part in (_TURN, _SHIFT)
    )
    return MultiwayResult(np.stack(poses), np.degrees(turn), shift, graph.groups, tuple(pairs), tuple(cycles))


def _role(status: Status, used: bool, same_group: bool) -> Role:
    if used:
        return "used" if status == "registered" else "confirmed"
    if status != "registered":
        return "none"
    return "contradicted" if same_group else "outweighed"


def _shift(by: np.ndarray) -> np.ndarray:
    """(4, 4) translation."""
    out = np.eye(4)
    out[:3, 3] = by
    return out
