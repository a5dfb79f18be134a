"""`check_dataset`: a sound folder of each kind, and every way a folder can be damaged, named and never executed."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_cases import (
    SCENES,
    CreatesFile,
    as_columns,
    information,
    records,
    scan,
    write_clouds,
    write_logs,
    write_ply,
    write_predator,
)

from rotaware.datasets.benchmark_logs import LogEntry, read_info, write_info
from rotaware.datasets.dataset_check import PUBLISHED_PAIRS, DatasetReport, check_dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """3DMatch in the layout of OverlapPredator, with logs, sound."""
    write_predator(tmp_path)
    for scene in SCENES:
        write_logs(tmp_path / "benchmarks" / "3DMatch" / scene, scene)
    return tmp_path


def kinds(report: DatasetReport) -> list[str]:
    return [problem.kind for problem in report.problems]


def only_problem(report: DatasetReport, kind: str) -> str:
    assert kinds(report) == [kind] and not report.ok
    text = report.problems[0].text
    assert "\n" not in text and len(text) < 400
    return text


def test_a_sound_folder(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = check_dataset(root, on_cloud=lambda done, of: calls.append((done, of)))
    assert report.ok and report.problems == () and report.notes == ()
    (found,) = report.benchmarks
    assert (found.name, found.layout, found.path) == ("3DMatch", "list of pairs", str(root / "3DMatch.pkl"))
    assert (found.pairs, found.usable, found.disjoint, found.clouds) == (6, 6, 0, 8)
    assert found.scenes == {"hall": 3, "kitchen": 3}
    assert calls == [(done, 8) for done in range(1, 9)]


def test_several_benchmarks_share_their_scans(root: Path) -> None:
    shutil.copy(root / "3DMatch.pkl", root / "train.pkl")
    (root / "mine.csv").write_text("source,target,T\ntest/hall/cloud_bin_0.pth,test/kitchen/cloud_bin_0.pth,\n")
    calls: list[int] = []
    report = check_dataset(root, on_cloud=lambda done, of: calls.append(of))
    assert [found.name for found in report.benchmarks] == ["3DMatch", "train", "mine"]
    assert report.benchmarks[2].disjoint == 1 and report.ok and calls == [8] * 8


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_scan(root: Path, share: float) -> None:
    path = root / "test" / "hall" / "cloud_bin_1.pth"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    report = check_dataset(root)
    assert only_problem(report, "damaged").startswith(f"{path}: expected an array of points, got ")
    # Scan 1 is in two of the three pairs.
    assert (report.benchmarks[0].pairs, report.benchmarks[0].usable) == (6, 4)


@pytest.mark.parametrize("content", [np.zeros((0, 3)), np.zeros((4, 2)), {"points": np.zeros((4, 3))}, "text"])
def test_a_scan_that_is_none(root: Path, content: Any) -> None:
    torch.save(content, root / "test" / "hall" / "cloud_bin_3.pth")
    report = check_dataset(root)
    assert "cloud_bin_3.pth: expected" in only_problem(report, "damaged")
    assert report.benchmarks[0].usable == 5


def test_a_missing_scene(root: Path) -> None:
    shutil.rmtree(root / "test" / "kitchen")
    report = check_dataset(root)
    expected = f"{root / 'test' / 'kitchen'}: no such folder, for 4 scans, named 6 times in the lists"
    assert only_problem(report, "missing") == expected
    assert (report.benchmarks[0].pairs, report.benchmarks[0].usable) == (6, 3)


def test_missing_scans(root: Path) -> None:
    for number in (0, 2):
        (root / "test" / "hall" / f"cloud_bin_{number}.pth").unlink()
    text = only_problem(check_dataset(root), "missing")
    assert text == f"{root / 'test' / 'hall'}: 2 scans, named 3 times in the lists: cloud_bin_2.pth, cloud_bin_0.pth"


def test_a_missing_list(root: Path) -> None:
    (root / "3DMatch.pkl").unlink()
    shutil.rmtree(root / "benchmarks")
    with pytest.raises(FileNotFoundError, match=r"no benchmark; looked for lists \*\.pkl in \., metadata"):
        check_dataset(root)
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        check_dataset(root / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pairs: {**as_columns(pairs), "rot": None}, "expected columns of one length"),
        (lambda pairs: {k: v for k, v in as_columns(pairs).items() if k != "tgt"}, "tgt missing"),
        (lambda pairs: [{k: v for k, v in pair.items() if k != "overlap"} for pair in pairs], "overlap missing"),
        (lambda pairs: [[*pair.values()] for pair in pairs], "expected a dict of lists or a list of dicts, got list"),
        (lambda pairs: [{**pair, "rot": np.eye(4)} for pair in pairs], "pair 0: expected a finite 3x3 rotation"),
        (lambda pairs: [{**pair, "rot": np.zeros((3, 3))} for pair in pairs], "pair 0: expected a rotation, got"),
        (lambda pairs: [{**pair, "src": "../../x.pth"} for pair in pairs], "expected a file inside"),
        (lambda pairs: [], "expected at least one pair, got none"),
        (lambda pairs: "3DMatch", "expected a dict of lists or a list of dicts, got str"),
    ],
)
def test_a_list_of_a_wrong_schema(root: Path, change: Callable[[Any], Any], message: str) -> None:
    """The list is named, and the other one is checked."""
    shutil.copy(root / "3DMatch.pkl", root / "train.pkl")
    (root / "3DMatch.pkl").write_bytes(pickle.dumps(change(records())))
    report = check_dataset(root)
    text = only_problem(report, "damaged")
    assert message in text and "3DMatch" in text
    assert [found.name for found in report.benchmarks] == ["train"]


@pytest.mark.parametrize("where", ["list", "list with pairs", "scan"])
def test_a_pickle_that_means_harm(root: Path, where: str) -> None:
    trap = root / "trap"
    if where == "scan":
        torch.save(CreatesFile(trap), root / "test" / "hall" / "cloud_bin_1.pth")
    else:
        content: Any = CreatesFile(trap) if where == "list" else {**as_columns(records()), "more": [CreatesFile(trap)]}
        (root / "3DMatch.pkl").write_bytes(pickle.dumps(content))
    text = only_problem(check_dataset(root), "damaged")
    file = root / "test" / "hall" / "cloud_bin_1.pth" if where == "scan" else root / "3DMatch.pkl"
    kind = "an array of points" if where == "scan" else "a pickled list of pairs"
    assert re.fullmatch(
        rf"{file}: expected {kind}, got refused _?io\.open: only arrays, numbers and text are read", text
    )
    assert not trap.exists()
    # The trap is one: without care it is sprung.
    pickle.loads(pickle.dumps(CreatesFile(trap))).close()
    assert trap.exists()


def test_a_damaged_log(root: Path) -> None:
    path = root / "benchmarks" / "3DMatch" / "hall" / "gt.log"
    path.write_text(path.read_text()[:-40])
    text = only_problem(check_dataset(root), "damaged")
    assert text.startswith(f"{path}, block 2: expected a line 'i j n' and 4 rows of 4 finite numbers")


def test_fragments_without_a_log(tmp_path: Path) -> None:
    for scene in SCENES:
        write_clouds(tmp_path, scene)
        write_logs(tmp_path / f"{scene}-evaluation", scene)
    assert check_dataset(tmp_path).ok
    shutil.rmtree(tmp_path / "kitchen-evaluation")
    text = only_problem(check_dataset(tmp_path), "missing")
    assert text == f"{tmp_path / 'kitchen'}: no gt.log for the fragments of this scene"


def test_scans_in_other_formats(tmp_path: Path) -> None:
    for name in ("a.ply", "b.ply"):
        write_ply(tmp_path / name, scan("hall", 0))
    (tmp_path / "mine.csv").write_text("source,target,T\na.ply,b.ply,\n")
    report = check_dataset(tmp_path)
    assert kinds(report) == ["damaged"] * 2 and "needs a reader" in report.problems[0].text
    assert check_dataset(tmp_path / "mine.csv", read=lambda path: np.loadtxt(path, skiprows=7)).ok


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may read everything")
def test_a_scan_that_may_not_be_read(root: Path) -> None:
    path = root / "test" / "hall" / "cloud_bin_1.pth"
    path.chmod(0)
    assert only_problem(check_dataset(root), "damaged") == f"{path}: permission denied"


# Known quirks


def test_inexact_rotations_and_points_that_are_not_finite_are_noted(root: Path) -> None:
    shutil.rmtree(root / "benchmarks")
    (root / "3DMatch.pkl").write_bytes(pickle.dumps([{**pair, "rot": pair["rot"] * 1.0005} for pair in records()]))
    points = scan("hall", 1)
    points[3, 2] = np.nan
    torch.save(points, root / "test" / "hall" / "cloud_bin_1.pth")
    report = check_dataset(root)
    assert report.ok and report.notes == (
        "3DMatch: rotations are off orthonormal by up to 0.001; made exact as pairs are read",
        "3DMatch: 6 pairs have no information matrix (gt.info), which the official recall needs",
        "1 scans hold points that are NaN or infinite: cloud_bin_1.pth",
    )


def test_a_zero_information_matrix_is_noted(root: Path) -> None:
    path = root / "benchmarks" / "3DMatch" / "hall" / "gt.info"
    entries = read_info(path)
    np.testing.assert_allclose(entries[1].matrix, information(0, 1))
    write_info(path, [entries[0], LogEntry(*entries[1][:3], np.zeros((6, 6))), entries[2]])
    (note,) = check_dataset(root).notes
    assert note == "3DMatch: the information matrix is zero, always a failure to the official scorer: hall_0_1"


def test_the_training_leak_is_noted(tmp_path: Path) -> None:
    scene = "analysis-by-synthesis-apt2-kitchen"
    write_clouds(tmp_path / "train", scene)
    pairs = [
        {**pair, "src": pair["src"].replace("test/hall", f"train/{scene}"), "tgt": f"train/{scene}/cloud_bin_3.pth"}
        for pair in records()[:2]
    ]
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(pairs))
    (note,) = check_dataset(tmp_path).notes
    assert note.startswith("train: not for training") and note.endswith(f"2 pairs of {scene}/")


def test_published_scenes_that_are_missing_are_noted(tmp_path: Path) -> None:
    scene = "7-scenes-redkitchen"
    write_clouds(tmp_path, scene)
    write_logs(tmp_path / f"{scene}-evaluation", scene)
    report = check_dataset(tmp_path)
    assert report.ok and len(report.notes) == 8
    assert report.notes[0] == "3DMatch: 3 of the 506 published pairs of 7-scenes-redkitchen"
    assert report.notes[4] == "3DMatch: 0 of the 104 published pairs of sun3d-hotel_umd-maryland_hotel1"


def test_published_logs(shared_data: Path) -> None:
    assert {name: sum(counts.values()) for name, counts in PUBLISHED_PAIRS.items()} == {
        "3DMatch": 1623,
        "3DLoMatch": 1781,
    }
    report = check_dataset(shared_data / "3dmatch" / "benchmark")
    assert kinds(report) == ["missing"] * 8
    assert {found.name: found.scenes for found in report.benchmarks} == PUBLISHED_PAIRS
    assert [note[:60] for note in report.notes] == [
        "3DLoMatch: rotations are off orthonormal by up to 0.0005; ma",
        "3DLoMatch: the information matrix is zero, always a failure ",
        "3DMatch: rotations are off orthonormal by up to 0.0005; made",
    ]
