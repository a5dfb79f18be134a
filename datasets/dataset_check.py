"""What a folder of benchmarks holds, what is missing in it, and what is damaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from .benchmark_layouts import LOGS, FoundBenchmark, fragments_without_log
from .benchmark_pairs import Benchmark, BenchmarkPair, Reader
from .benchmarks import found_in
from .cloud_files import read_cloud
from .fourdmatch import read_deforming_pair
from .kitti import TEST_SEQUENCES
from .poses import rotation_defect
from .threedmatch import NOT_FOR_TRAINING

# Pairs of each scene in the published lists of 3DMatch and 3DLoMatch.
PUBLISHED_PAIRS: Mapping[str, Mapping[str, int]] = {
    "3DMatch": {
        "7-scenes-redkitchen": 506,
        "sun3d-home_at-home_at_scan1_2013_jan_1": 156,
        "sun3d-home_md-home_md_scan9_2012_sep_30": 208,
        "sun3d-hotel_uc-scan3": 226,
        "sun3d-hotel_umd-maryland_hotel1": 104,
        "sun3d-hotel_umd-maryland_hotel3": 54,
        "sun3d-mit_76_studyroom-76-1studyroom2": 292,
        "sun3d-mit_lab_hj-lab_hj_tea_nov_2_2012_scan1_erika": 77,
    },
    "3DLoMatch": {
        "7-scenes-redkitchen": 525,
        "sun3d-home_at-home_at_scan1_2013_jan_1": 289,
        "sun3d-home_md-home_md_scan9_2012_sep_30": 230,
        "sun3d-hotel_uc-scan3": 218,
        "sun3d-hotel_umd-maryland_hotel1": 158,
        "sun3d-hotel_umd-maryland_hotel3": 49,
        "sun3d-mit_76_studyroom-76-1studyroom2": 240,
        "sun3d-mit_lab_hj-lab_hj_tea_nov_2_2012_scan1_erika": 72,
    },
}
# Published rotations are off by more than this; ours and those of most others are not.
_INEXACT = 1e-6
_SHOWN = 3


@dataclass(frozen=True)
class DatasetProblem:
    """Something that keeps pairs from being used, in one line that names the file."""

    kind: Literal["missing", "damaged"]
    text: str


@dataclass(frozen=True)
class CheckedBenchmark:
    """A list of pairs that could be read."""

    name: str
    layout: str
    # The list, or the folder with the logs, sequences or files.
    path: str
    # Pairs by scene, in the order of the list.
    scenes: Mapping[str, int]
    clouds: int
    pairs: int
    # Of which both scans could be read.
    usable: int
    # Of which the scans do not overlap.
    disjoint: int


@dataclass(frozen=True)
class DatasetReport:
    """What `check_dataset` found: the benchmarks of a folder, their problems, and what is worth knowing."""

    root: str
    benchmarks: tuple[CheckedBenchmark, ...]
    problems: tuple[DatasetProblem, ...]
    # What is worth knowing and needs no repair.
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything in it can be used."""
        return not self.problems


def check_dataset(
    root: str | PathLike[str],
    *,
    read: Reader | None = None,
    on_cloud: Callable[[int, int], None] | None = None,
) -> DatasetReport:
    """Open every benchmark in a folder and read every scan that one names.

    Args:
        root: as for `open_benchmark`.
        read: reads the file of a scan; None reads `.pth`, `.npy` and the `.bin` of KITTI only.
        on_cloud: called with the number of files read so far, and of all.
    Raises:
        FileNotFoundError: no such folder, or no benchmark in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "mine.csv").write_text("source,target,T\\nb.npy,a.npy,\\n")
    ...     report = check_dataset(folder)
    >>> report.ok, report.problems[0].kind, report.benchmarks[0].usable
    (False, 'missing', 0)
    """
    opened: list[tuple[FoundBenchmark, Benchmark]] = []
    problems: list[DatasetProblem] = []
    for found in found_in(root):
        try:
            benchmark = found.open()
        except (ValueError, OSError) as error:
            problems.append(_problem(error))
            continue
        opened.append((found, benchmark))
        if found.layout == LOGS:
            problems += [
                DatasetProblem("missing", f"{folder}: no gt.log for the fragments of this scene")
                for folder in fragments_without_log(benchmark.root, benchmark.scenes)
            ]
    clouds = _Clouds([pair for _, benchmark in opened for pair in benchmark.pairs], read, on_cloud)
    problems += clouds.problems
    notes = [note for _, benchmark in opened for note in _notes(benchmark)] + clouds.notes
    checked = tuple(_summary(found, benchmark, clouds.bad) for found, benchmark in opened)
    return DatasetReport(str(root), checked, tuple(problems), tuple(notes))


def _summary(found: FoundBenchmark, benchmark: Benchmark, bad: set[Path]) -> CheckedBenchmark:
    return CheckedBenchmark(
        name=benchmark.name,
        layout=found.layout,
        path=str(found.path),
        scenes=dict(Counter(pair.scene for pair in benchmark.pairs)),
        clouds=len({path for pair in benchmark.pairs for path in (pair.source, pair.target)}),
        pairs=len(benchmark.pairs),
        usable=sum(pair.source not in bad and pair.target not in bad for pair in benchmark.pairs),
        disjoint=sum(pair.T_target_source is None and not pair.deforming for pair in benchmark.pairs),
    )


class _Clouds:
    """All files of scans, each read once."""

    def __init__(
        self, pairs: list[BenchmarkPair], read: Reader | None, on_cloud: Callable[[int, int], None] | None
    ) -> None:
        self.bad: set[Path] = set()
        self.problems: list[DatasetProblem] = []
        self.notes: list[str] = []
        self._read = read or read_cloud
        uses = Counter(path for pair in pairs for path in dict.fromkeys((pair.source, pair.target)))
        deforming = {pair.source for pair in pairs if pair.deforming}
        missing: dict[Path, list[Path]] = {}
        not_finite: list[Path] = []
        for done, path in enumerate(uses, 1):
            try:
                points = self._points(path, path in deforming)
                if not np.isfinite(points).all():
                    not_finite.append(path)
            except FileNotFoundError:
                self.bad.add(path)
                missing.setdefault(path.parent, []).append(path)
            except (ValueError, OSError) as error:
                self.bad.add(path)
                self.problems.append(_problem(error))
            if on_cloud is not None:
                on_cloud(done, len(uses))
        for folder, files in missing.items():
            self.problems.append(DatasetProblem("missing", _missing(folder, files, sum(uses[file] for file in files))))
        if not_finite:
            self.notes.append(f"{len(not_finite)} scans hold points that are NaN or infinite: {_some(not_finite)}")

    def _points(self, path: Path, deforming: bool) -> np.ndarray:
        points = read_deforming_pair(path, "").source if deforming else np.asarray(self._read(path))
        if not len(points):
            raise ValueError(f"{path}: expected points, got none")
        return points


def _problem(error: Exception) -> DatasetProblem:
    kind: Literal["missing", "damaged"] = "missing" if isinstance(error, FileNotFoundError) else "damaged"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return DatasetProblem(kind, f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}")
    return DatasetProblem(kind, " ".join(str(error).split()))


def _missing(folder: Path, files: list[Path], uses: int) -> str:
    needed = f"{len(files)} {'scan' if len(files) == 1 else 'scans'}, named {uses} times in the lists"
    if not folder.is_dir():
        return f"{folder}: no such folder, for {needed}"
    return f"{folder}: {needed}: {_some(files)}"


def _some(files: list[Path]) -> str:
    return ", ".join(file.name for file in files[:_SHOWN]) + (", ..." if len(files) > _SHOWN else "")


def _notes(benchmark: Benchmark) -> list[str]:
    """Known quirks of the published data, and what makes figures differ from published ones."""
    pairs, name = benchmark.pairs, benchmark.name
    notes = []
    defect = max(
        (rotation_defect(p.T_target_source[:3, :3]) for p in pairs if p.T_target_source is not None), default=0
    )
    if defect > _INEXACT:
        notes.append(f"{name}: rotations are off orthonormal by up to {defect:.1g}; made exact as pairs are read")
    counts = Counter(pair.scene for pair in pairs)
    published = PUBLISHED_PAIRS.get(name, {})
    if published.keys() & counts.keys():
        notes += [
            f"{name}: {counts[scene]} of the {count} published pairs of {scene}"
            for scene, count in published.items()
            if counts[scene] != count
        ]
    without = sum(pair.information is None for pair in pairs)
    if without and name in PUBLISHED_PAIRS:
        notes.append(f"{name}: {without} pairs have no information matrix (gt.info), which the official recall needs")
    zero = [pair.name for pair in pairs if pair.information is not None and not pair.information.any()]
    if zero:
        notes.append(f"{name}: the information matrix is zero, always a failure to the official scorer: {zero[0]}")
    for part in NOT_FOR_TRAINING:
        count = sum(any(part in path.as_posix() for path in (pair.source, pair.target)) for pair in pairs)
        if count:
            notes.append(
                f"{name}: not for training, a bad scan or a room of the validation list: {count} pairs of {part}"
            )
    if name == "KITTI":
        notes += [f"KITTI: no poses of sequence {each}" for each in TEST_SEQUENCES if each not in benchmark.scenes]
        notes.append("KITTI: poses are those of the odometry, not refined by ICP as for published figures")
    return notes
