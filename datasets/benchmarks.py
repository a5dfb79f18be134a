"""Benchmarks of registration in the layouts that people have on disk; see `benchmark_layouts` for these."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from .benchmark_layouts import LIST_FOLDERS, LOG_FOLDERS, FoundBenchmark, benchmark_of_file, find_benchmarks
from .benchmark_pairs import Benchmark, BenchmarkPair, disjoint_pairs

__all__ = ["Benchmark", "BenchmarkPair", "disjoint_pairs", "open_benchmark"]

_LISTS = (".csv", ".pkl")
_ANSWERED_BY_NAMELESS = ("3dmatch", "3dlomatch")


def open_benchmark(root: str | PathLike[str], name: str | None = None) -> Benchmark:
    """The pairs of a benchmark; clouds are read when a pair is.

    Args:
        root: the folder it lies in, or the file of a list (`.csv` or `.pkl`).
        name: which one: `3DMatch`, `3DLoMatch`, `4DMatch`, `4DLoMatch`, `KITTI`, the stem of a list, or a file of pairs
            in `root` or elsewhere; capitals do not matter. None where there is only one. Logs and lists whose place
            gives them no name answer to 3DMatch and 3DLoMatch.
    Raises:
        FileNotFoundError: no such folder or benchmark; names what was looked for and what was found.
        ValueError: a list or log is damaged, leads out of the folder, holds code, or has a pose that is none; or there
            are several benchmarks and no name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "mine.csv").write_text("source,target,T\\nb.ply,a.ply,1 0 0 5 0 1 0 0 0 0 1 0\\n")
    ...     benchmark = open_benchmark(folder)
    >>> benchmark.name, benchmark.pairs[0].source.name, benchmark.pairs[0].T_target_source[0].tolist()
    ('mine', 'b.ply', [1.0, 0.0, 0.0, 5.0])
    """
    if name is not None and name.lower().endswith(_LISTS) and Path(root).is_dir():
        file = Path(root, name)
        return benchmark_of_file(file if file.is_file() else Path(name), Path(root)).open()
    return _chosen(found_in(root), Path(root), name).open()


def found_in(root: str | PathLike[str]) -> list[FoundBenchmark]:
    """All benchmarks in a folder, or the one in the file of a list.

    Raises:
        FileNotFoundError: no such folder, or none in it; names what was looked for.
    """
    path = Path(root)
    if path.is_file():
        return [benchmark_of_file(path, path.parent)]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    found = find_benchmarks(path)
    if not found:
        lists, logs = (", ".join(folder or "." for folder in folders) for folders in (LIST_FOLDERS, LOG_FOLDERS))
        raise FileNotFoundError(
            f"{path}: no benchmark; looked for lists *.pkl in {lists}; gt.log in <scene>-evaluation, <scene> and "
            f"<name>/<scene> below {logs}; 4DMatch and 4DLoMatch with .npz files; sequences and poses of KITTI; "
            "*.csv with source,target,T"
        )
    return found


def _chosen(found: list[FoundBenchmark], folder: Path, name: str | None) -> FoundBenchmark:
    names = ", ".join(benchmark.name for benchmark in found)
    if name is None:
        if len(found) > 1:
            raise ValueError(f"{folder} holds several benchmarks: name one of {names}")
        return found[0]
    matching = [benchmark for benchmark in found if benchmark.name.casefold() == name.casefold()]
    nameless = [benchmark for benchmark in found if benchmark.nameless]
    if not matching and name.casefold() in _ANSWERED_BY_NAMELESS and len(nameless) == 1:
        return nameless[0]
    if not matching:
        raise FileNotFoundError(f"{folder}: no benchmark {name!r}, found {names}")
    return matching[0]
