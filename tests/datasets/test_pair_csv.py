"""CSV files of pairs: the ways to write a pose, and rows that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_cases import pose, scan

from rotaware.datasets.benchmarks import open_benchmark
from rotaware.datasets.indoor_scenes import RegistrationPair
from rotaware.datasets.pair_csv import is_pair_csv

T = pose("hall", 0, 1)


def numbers(matrix: np.ndarray, between: str = " ") -> str:
    return between.join(repr(float(value)) for value in matrix.ravel())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two scans, and their pose in files."""
    (tmp_path / "scans").mkdir()
    for number in (0, 1):
        np.save(tmp_path / "scans" / f"{number}.npy", scan("hall", number))
    np.save(tmp_path / "pose.npy", T)
    np.save(tmp_path / "three_rows.npy", T[:3])
    np.savetxt(tmp_path / "pose.txt", T, fmt="%.17g")
    (tmp_path / "commas.txt").write_text(numbers(T, ", "))
    return tmp_path


def write(root: Path, *rows: str, header: str = "source,target,T") -> Path:
    (root / "mine.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return root / "mine.csv"


@pytest.mark.parametrize(
    "written",
    [
        numbers(T),
        numbers(T[:3]),
        f'"{numbers(T)}"',
        f'"{numbers(T, ", ")}"',
        f'"{numbers(T[:3], chr(10))}"',
        "pose.npy",
        "three_rows.npy",
        "pose.txt",
        "commas.txt",
    ],
)
def test_ways_to_write_a_pose(root: Path, written: str) -> None:
    write(root, f"scans/1.npy,scans/0.npy,{written}")
    benchmark = open_benchmark(root)
    assert (benchmark.name, benchmark.root, benchmark.scenes) == ("mine", root, ("scans",))
    loaded = benchmark.pairs[0].load()
    assert isinstance(loaded, RegistrationPair) and loaded.T_target_source is not None
    np.testing.assert_allclose(benchmark.pairs[0].T_target_source, T, atol=1e-15)
    moved = loaded.source @ loaded.T_target_source[:3, :3].T + loaded.T_target_source[:3, 3]
    np.testing.assert_allclose(moved, loaded.target, atol=1e-6)


def test_columns_in_any_order_with_scene_overlap_and_disjoint_pairs(root: Path) -> None:
    header = "\ufeffOverlap, scene ,note,TGT,t,src"
    absolute = root / "scans" / "0.npy"
    write(root, f"0.4,lab,good,{absolute},pose.txt,scans/1.npy", ",,,scans\\0.npy,,scans\\1.npy", header=header)
    first, second = open_benchmark(root, "MINE").pairs
    assert (first.scene, first.overlap, first.source_id, first.target) == ("lab", 0.4, 0, absolute)
    assert first.T_target_source is not None
    assert (second.scene, second.overlap, second.source_id, second.T_target_source) == ("scans", 0.0, 1, None)
    assert second.load().T_target_source is None


def test_scans_may_lie_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("lists")
    row = f"{root}/scans/1.npy,{root}/scans/0.npy,{numbers(T)}"
    open_benchmark(write(elsewhere, row)).pairs[0].load()
    path = write(elsewhere, "scans/1.npy,scans/0.npy,pose.npy")
    open_benchmark(root, str(path)).pairs[0].load()
    with pytest.raises(
        FileNotFoundError, match=r"mine\.csv, pair 0: expected 16 numbers or a file with them, found no "
    ):
        open_benchmark(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",b.npy,", "pair 0: expected the names of two scans, got '' and 'b.npy'"),
        ("a.npy", "pair 0: expected the names of two scans, got 'a.npy' and ''"),
        ("a.npy,b.npy,1 2 3", "pair 0: expected a pose of 12 or 16 numbers, got 3"),
        (f"a.npy,b.npy,{numbers(T, ',')}", "pair 0: expected a pose of 12 or 16 numbers, got 1"),
        (f"a.npy,b.npy,{numbers(T.T)}", "pair 0: expected 0 0 0 1 as the last row of the pose"),
        (f"a.npy,b.npy,{numbers(2 * T[:3])}", "pair 0: expected a rotation"),
        (f"a.npy,b.npy,{numbers(T[:3]).replace('.', 'nan.', 1)}", "pair 0: expected 16 numbers or a file"),
        ("a.npy,b.npy,nan nan nan nan nan nan nan nan nan nan nan nan", "pair 0: expected a finite 3x3 rotation"),
        ("a.npy,b.npy,,../etc", "pair 0: expected the name of a folder as scene, got '../etc'"),
        ("a.npy,b.npy,mine.csv", r"pair 0: expected the numbers of a pose in .*mine\.csv, got"),
        ("a.npy,b.npy,scans/0.npy", r"pair 0, .*0\.npy: expected a pose of 12 or 16 numbers, got 120"),
    ],
)
def test_rows_that_do_not_fit_are_named(root: Path, row: str, message: str) -> None:
    write(root, row, header="source,target,T,scene" if row.endswith("etc") else "source,target,T")
    with pytest.raises((ValueError, FileNotFoundError), match=r"mine(\.csv)?, " + message):
        open_benchmark(root)


def test_other_damage(root: Path) -> None:
    with pytest.raises(ValueError, match="mine: expected at least one pair, got none"):
        open_benchmark(write(root))
    path = write(root, "scans/1.npy,scans/0.npy,,much", header="source,target,T,overlap")
    with pytest.raises(ValueError, match="pair 0: expected a number as overlap, got 'much'"):
        open_benchmark(path)
    path = write(root, header="source,target")
    assert not is_pair_csv(path)
    with pytest.raises(ValueError, match="expected the columns source, target and T, got source, target"):
        open_benchmark(path)
    path.write_bytes(b"source,target,T\n\xff\xfe,b,\n")
    with pytest.raises(ValueError, match=r"mine\.csv: expected a CSV file, got"):
        open_benchmark(path)
    objects = root / "objects.npy"
    np.save(objects, np.array([None]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"expected the numbers of a pose in .*objects\.npy"):
        open_benchmark(write(root, "scans/1.npy,scans/0.npy,objects.npy"))


def test_other_csv_files_are_no_benchmarks(root: Path) -> None:
    write(root, f"scans/../scans/1.npy,scans/0.npy,{numbers(T)}")
    assert open_benchmark(root).scenes == ("scans",)
    (root / "table.csv").write_text("name,value\na,1\n")
    (root / "bytes.csv").write_bytes(bytes(range(256)))
    assert open_benchmark(root).name == "mine"
