"""Finds the benchmarks in a folder, in the layouts that people have on disk.

- Lists of pairs as pickles, of OverlapPredator, RoITr or GeoTransformer: `3DMatch.pkl`, `3DLoMatch.pkl` and others,
  with `test/<scene>/cloud_bin_<k>.pth`. The folder may be the data or the checkout of the project.
- Logs beside fragments: `<scene>/cloud_bin_<k>.ply` with `<scene>-evaluation/gt.log`, as 3DMatch distributes them,
  `<scene>/gt.log`, or `benchmarks/<name>/<scene>/gt.log`. Lists take information matrices from there as well.
- `4DMatch/` and `4DLoMatch/` with `<sequence>/*.npz`.
- KITTI odometry: `sequences/XX/velodyne/*.bin`, `sequences/XX/calib.txt`, `poses/XX.txt`.
- CSV files with the columns `source,target,T`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from .benchmark_logs import LogEntry, read_info, read_log, read_overlap_log
from .benchmark_pairs import Benchmark, BenchmarkPair
from .fourdmatch import FourDMatch, read_pose
from .kitti import TEST_SEQUENCES, frame_pairs, read_calibration, read_poses, velodyne_pose
from .pair_csv import is_pair_csv, open_pair_csv
from .pair_lists import ListedPair, inside, read_pair_list
from .solids import Array

# Below the root, where the projects keep their lists, the clouds that these name, and the logs.
LIST_FOLDERS = ("", "metadata", "configs", "configs/indoor", "configs/tdmatch")
CLOUD_FOLDERS = ("", "data", "indoor", "data/indoor")
SCENE_FOLDERS = ("", "test", "fragments", "data", "data/test", "indoor/test", "data/indoor/test")
LOG_FOLDERS = ("", "benchmarks", "benchmark", "metadata/benchmarks", "configs/benchmarks", "gt_result")
_BESIDE = ("../benchmarks", "../benchmark", "../configs/benchmarks")
LOGS = "fragments with gt.log"
_EVALUATION = "-evaluation"
_FRAGMENT = re.compile(r"cloud_bin_(\d+)\.(ply|pth|pt|npy|pcd|bin|xyz|txt)")
# Lists whose name says nothing: they answer to 3DMatch and 3DLoMatch as well.
_NAMELESS = "pairs"
_3DMATCH = ("3DMatch", "3DLoMatch")
_4DMATCH = ("4DMatch", "4DLoMatch")
# Largest entry of the difference between the pose of a list and that of gt.log, in metres and 1: more is another pose.
_DISAGREEMENT = 0.5


@dataclass(frozen=True)
class FoundBenchmark:
    """A benchmark that a folder holds, not read yet."""

    name: str
    layout: str
    # The list, or the folder with the logs, sequences or files.
    path: Path
    open: Callable[[], Benchmark]
    # Whether it may be meant by another name.
    nameless: bool = False


def find_benchmarks(root: Path) -> list[FoundBenchmark]:
    """All benchmarks in a folder; of two with one name, the list comes before the logs."""
    found: dict[str, FoundBenchmark] = {}
    for benchmark in (*_pair_lists(root), *_logs(root), *_deforming(root), *_kitti(root), *_tables(root)):
        found.setdefault(benchmark.name.casefold(), benchmark)
    if not found and any(next(root.glob(pattern), None) for pattern in ("*.npz", "*/*.npz")):
        return [_deforming_in(root)]
    return list(found.values())


def benchmark_of_file(file: Path, root: Path) -> FoundBenchmark:
    """The benchmark that a list is, a CSV file or a pickle, with the names in it below `root`."""
    if file.suffix.lower() == ".csv":
        return FoundBenchmark(file.stem, "CSV file", file, partial(open_pair_csv, file, root))
    return FoundBenchmark(file.stem, "list of pairs", file, partial(_open_list, root, file), file.stem == _NAMELESS)


def _pair_lists(root: Path) -> Iterator[FoundBenchmark]:
    for folder in LIST_FOLDERS:
        for file in sorted((root / folder).glob("*.pkl")):
            yield benchmark_of_file(file, root)


def _tables(root: Path) -> Iterator[FoundBenchmark]:
    for file in sorted(root.glob("*.csv")):
        if is_pair_csv(file):
            yield benchmark_of_file(file, root)


def _open_list(root: Path, file: Path) -> Benchmark:
    listed = read_pair_list(file)
    base = _base(root, file, listed)
    logs = [root / folder / file.stem for folder in (*LOG_FOLDERS, *_BESIDE)]
    poses = cache(partial(_by_numbers, logs, "gt.log", read_log))
    information = cache(partial(_by_numbers, logs, "gt.info", read_info))
    pairs: list[BenchmarkPair] = []
    fragments: dict[str, int] = {}
    for place, pair in enumerate(listed):
        where = f"{file}, pair {place}"
        paths = [inside(base, name, where) for name in (pair.source, pair.target)]
        scene = paths[0].relative_to(base).parent.name or file.stem
        source, target = pair.numbers or (place, place)
        logged, matrix = (entries(scene).get((target, source)) for entries in (poses, information))
        if logged is not None:
            fragments[scene] = logged.fragments
            if np.abs(logged.matrix - pair.T_target_source).max() > _DISAGREEMENT:
                raise ValueError(f"{where}: expected the pose of gt.log, which maps {source} to {target}, got another")
        pairs.append(
            BenchmarkPair(
                scene=scene,
                source=paths[0],
                target=paths[1],
                source_id=source,
                target_id=target,
                # The scorers of the field take it from the log, which is the more exact one.
                T_target_source=pair.T_target_source if logged is None else logged.matrix,
                overlap=pair.overlap,
                information=None if matrix is None else matrix.matrix,
            )
        )
    return Benchmark(file.stem, root, tuple(pairs), fragments)


def _base(root: Path, file: Path, listed: list[ListedPair]) -> Path:
    """The folder that the names in a list start from: the first below which one of its clouds is."""
    bases = [root / folder for folder in CLOUD_FOLDERS]
    for place, pair in enumerate(listed):
        for base in bases:
            if inside(base, pair.source, f"{file}, pair {place}").is_file():
                return base
    return root


def _by_numbers(
    folders: list[Path], name: str, read: Callable[[Path], list[LogEntry]], scene: str
) -> dict[tuple[int, int], LogEntry]:
    for folder in folders:
        if (folder / scene / name).is_file():
            return {(entry.target, entry.source): entry for entry in read(folder / scene / name)}
    return {}


def _logs(root: Path) -> Iterator[FoundBenchmark]:
    parents = [root / folder for folder in LOG_FOLDERS]
    children = [child for parent in parents for child in sorted(parent.glob("*")) if child.is_dir()]
    for parent in dict.fromkeys((*parents, *children)):
        scenes = _scenes_with_logs(parent)
        if scenes:
            distributed = any(folder.name.endswith(_EVALUATION) for folder in scenes.values())
            name = _3DMATCH[0] if distributed else parent.resolve().name
            opened = partial(_open_logs, root, name, scenes)
            yield FoundBenchmark(name, LOGS, parent, opened, name not in _3DMATCH)


def _scenes_with_logs(parent: Path) -> dict[str, Path]:
    """Folder of the log by name of the scene, sorted by name as the published lists are."""
    folders = {path.parent.name.removesuffix(_EVALUATION): path.parent for path in parent.glob("*/gt.log")}
    return dict(sorted(folders.items()))


def _open_logs(root: Path, name: str, folders: dict[str, Path]) -> Benchmark:
    pairs: list[BenchmarkPair] = []
    fragments: dict[str, int] = {}
    for scene, folder in folders.items():
        logged = read_log(folder / "gt.log")
        information = _by_numbers([folder.parent], "gt.info", read_info, folder.name)
        if information and information.keys() != {(entry.target, entry.source) for entry in logged}:
            raise ValueError(f"{folder / 'gt.info'}: expected the pairs of gt.log, got others")
        overlaps = read_overlap_log(folder / "gt_overlap.log") if (folder / "gt_overlap.log").is_file() else {}
        clouds = fragment_files(root, scene, folder)
        for target, source, count, pose in logged:
            fragments[scene] = count
            matrix = information.get((target, source))
            pairs.append(
                BenchmarkPair(
                    scene=scene,
                    source=clouds.get(source, root / scene / f"cloud_bin_{source}.ply"),
                    target=clouds.get(target, root / scene / f"cloud_bin_{target}.ply"),
                    source_id=source,
                    target_id=target,
                    T_target_source=pose,
                    overlap=overlaps.get((target, source)),
                    information=None if matrix is None else matrix.matrix,
                )
            )
    return Benchmark(name, root, tuple(pairs), fragments)


def fragment_files(root: Path, scene: str, log_folder: Path) -> dict[int, Path]:
    """The clouds `cloud_bin_<k>` of a scene by number, from the first folder that has any."""
    folders = [root / folder / scene for folder in SCENE_FOLDERS]
    for folder in (*folders, *(folder / "fragments" for folder in folders), log_folder):
        names = ((_FRAGMENT.fullmatch(path.name), path) for path in sorted(folder.glob("cloud_bin_*")))
        found = {int(match[1]): path for match, path in names if match}
        if found:
            return found
    return {}


def fragments_without_log(root: Path, scenes: Collection[str]) -> list[Path]:
    """Folders of fragments of scenes other than these, beside which logs would lie."""
    folders = {path.parent for folder in SCENE_FOLDERS[:3] for path in (root / folder).glob("*/cloud_bin_*")}
    return sorted(folder for folder in folders if folder.name not in scenes)


def _deforming(root: Path) -> Iterator[FoundBenchmark]:
    for folder in (root / below / name for below in ("", "split") for name in _4DMATCH):
        if folder.is_dir():
            yield _deforming_in(folder)


def _deforming_in(folder: Path) -> FoundBenchmark:
    return FoundBenchmark(folder.resolve().name, "4DMatch", folder, partial(_open_deforming, folder))


def _open_deforming(folder: Path) -> Benchmark:
    pairs = []
    for place, file in enumerate(FourDMatch(folder).files):
        try:
            pose: Array | None = read_pose(file)
        except ValueError:
            # `load` says what is wrong with this file; the others can be evaluated.
            pose = None
        scene = file.resolve().parent.name
        pairs.append(BenchmarkPair(scene, file, file, place, place, pose, None, deforming=True))
    return Benchmark(folder.resolve().name, folder, tuple(pairs))


def _kitti(root: Path) -> Iterator[FoundBenchmark]:
    for folder in (root, root / "dataset"):
        if (folder / "sequences").is_dir() and (folder / "poses").is_dir():
            yield FoundBenchmark("KITTI", "KITTI odometry", folder, partial(_open_kitti, folder))


def _open_kitti(root: Path) -> Benchmark:
    sequences = [name for name in TEST_SEQUENCES if (root / "poses" / f"{name}.txt").is_file()]
    if not sequences:
        raise FileNotFoundError(f"{root / 'poses'}: expected 08.txt, 09.txt or 10.txt, found none")
    pairs: list[BenchmarkPair] = []
    frames: dict[str, int] = {}
    for sequence in sequences:
        poses = read_poses(root / "poses" / f"{sequence}.txt")
        frames[sequence] = len(poses)
        folder = root / "sequences" / sequence
        calibration = read_calibration(folder / "calib.txt")
        for source, target in frame_pairs(poses, sequence):
            pose = velodyne_pose(poses, calibration, source, target)
            earlier, later = (folder / "velodyne" / f"{frame:06d}.bin" for frame in (source, target))
            pairs.append(BenchmarkPair(sequence, earlier, later, source, target, pose, None))
    return Benchmark("KITTI", root, tuple(pairs), frames)
