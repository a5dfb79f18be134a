"""`rotaware evaluate`: benchmarks on disk in, tables and exit codes out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import RowByRow, moved, random_pose

from rotaware.cli import evaluate
from rotaware.datasets import write_indoor_rooms
from rotaware.datasets.benchmark_logs import LogEntry, read_log, write_info, write_log
from rotaware.pointcloud import evaluation, methods
from rotaware.pointcloud.evaluation_records import read_record

PAIRS = {"den": [(0, 2), (0, 1), (1, 3)], "hall": [(0, 1), (0, 3)]}


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """Fragments with gt.log and gt.info; all of a scene hold the same points in the same order."""
    root = tmp_path / "3DMatch"
    for scene, pairs in PAIRS.items():
        generator = np.random.default_rng(list(scene.encode()))
        points = generator.uniform(-1, 1, (100, 3))
        T_world_scan = [random_pose(generator) for _ in range(4)]
        (root / scene).mkdir(parents=True)
        for k, T in enumerate(T_world_scan):
            np.save(root / scene / f"cloud_bin_{k}.npy", moved(np.linalg.inv(T), points))
        poses = {(i, j): np.linalg.inv(T_world_scan[i]) @ T_world_scan[j] for i, j in pairs}
        write_log(root / scene / "gt.log", [LogEntry(i, j, 4, pose) for (i, j), pose in poses.items()])
        matrix = np.diag([100.0, 100, 100, 1, 1, 1])
        write_info(root / scene / "gt.info", [LogEntry(i, j, 4, matrix) for i, j in pairs])
    return root


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts stand-ins where the command looks methods up."""

    def install(**stand_ins: RowByRow) -> None:
        monkeypatch.setattr(methods, "named_method", lambda name, network: stand_ins[name])

    return install


def summary(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_text())


def test_methods_are_those_of_the_library() -> None:
    assert evaluate.METHODS == methods.METHODS


def test_a_benchmark_from_scans_to_tables_and_back(cli: Any, benchmark: Path, fake: Any, tmp_path: Path) -> None:
    fake(auto=RowByRow(), classic=RowByRow(shift=0.25, confidence=None))
    run = cli(["evaluate", benchmark, "--method", "auto", "--method", "classic", "--rotated", "0,3", "--disjoint", 2])
    assert run.code == 0, run.err
    out = tmp_path / "evaluation-3DMatch"
    assert {path.name for path in out.iterdir()} == {
        "results", "est", "report.md", "report.tex", "summary.json", "pairs.csv"
    }  # fmt: skip
    assert run.out.startswith("### 3DMatch, original: 5 pairs that overlap and 2 that do not overlap\n")
    assert "files: evaluation-3DMatch/" in run.out
    assert run.error_lines[0] == "42 results, 0 of them from an earlier run"
    found = {(each["method"], each["condition"]): each for each in summary(out)["methods"]}
    assert set(found) == {(m, c) for m in ("auto", "classic") for c in ("original", "rotated-0", "rotated-3")}
    for (method, _), each in found.items():
        figures = each["figures"]
        # den 0-2 is lost by the official scorer, 0-1 are consecutive.
        assert (figures["rr_3dmatch"]["pairs"], figures["rr_3dmatch_all"]["pairs"]) == (2, 3)
        assert figures["rr_3dmatch"]["mean"] == figures["rr_rotated"]["mean"] == (1.0 if method == "auto" else 0.0)
        assert figures["rr_pose"]["mean"] == 1.0 and figures["rr_pose"]["counts"] == {"den": 3, "hall": 2}
    assert found["auto", "original"]["verdicts"]["false_accepts"] == {"count": 2, "total": 2}
    assert found["classic", "original"]["verdicts"] is None
    # The poses of every condition are in the published frames, in the order of gt.log.
    for condition in ("original", "rotated-3"):
        est = out / "est" / "auto" / condition
        for scene in PAIRS:
            for ours, theirs in zip(
                read_log(est / scene / "est.log"), read_log(benchmark / scene / "gt.log"), strict=True
            ):
                assert ours[:3] == theirs[:3]
                np.testing.assert_allclose(ours.matrix, theirs.matrix, atol=1e-9)
        again = cli(["evaluate", benchmark, "--score", est, "-o", "again"])
        assert again.code == 0 and "| mean of scenes | 1.00000 | 2 |" in again.out
        assert summary(tmp_path / "again")["methods"][0]["figures"]["rr_3dmatch"]["mean"] == 1.0


def test_the_published_rotation_is_that_of_the_place_in_the_list(cli: Any, benchmark: Path, fake: Any) -> None:
    from rotaware.datasets import benchmark_rotation

    for number in (0, 3):
        rotation, turns_source = benchmark_rotation(number)
        source, target = evaluate.published_turn(0, number)
        turned = source if turns_source else target
        assert turned is not None and (target if turns_source else source) is None
        np.testing.assert_array_equal(turned, rotation)
        assert not any(np.array_equal(turned, each) for each in evaluate.published_turn(1, number) if each is not None)


def test_a_damaged_scan_fails_its_pairs_and_no_others(cli: Any, benchmark: Path, fake: Any, tmp_path: Path) -> None:
    fake(auto=RowByRow())
    cloud = benchmark / "hall" / "cloud_bin_3.npy"
    content = cloud.read_bytes()
    cloud.write_bytes(content[:200])
    (benchmark / "den" / "cloud_bin_3.npy").rename(tmp_path / "elsewhere.npy")
    run = cli(["evaluate", benchmark, "-o", "out"])
    assert run.code == 5
    figures = summary(tmp_path / "out")["methods"][0]["figures"]
    assert figures["rr_pose"]["scenes"] == {"den": 2 / 3, "hall": 0.5}
    failed = {line.split(",")[0].removeprefix("failed: ") for line in run.error_lines if line.startswith("failed: ")}
    assert failed == {"den_1_3", "hall_0_3"}
    assert "| hall_0_3 | auto, original | scan |" in run.out and "cloud_bin_3.npy" in run.out
    assert run.error_lines[-1] == "2 of 5 results are failures, see the table 'Failed'"
    # A failed pair has no pose; in the log it has one that no scorer takes for right.
    assert np.linalg.norm(read_log(tmp_path / "out/est/auto/original/hall/est.log")[1].matrix[:3, 3]) == 1000
    cloud.write_bytes(content)
    shutil.copy(tmp_path / "elsewhere.npy", benchmark / "den" / "cloud_bin_3.npy")
    again = cli(["evaluate", benchmark, "-o", "out"])
    assert again.code == 4 and again.error_lines[-1].endswith("resume (--resume), or name another folder")
    mended = cli(["evaluate", benchmark, "-o", "out", "--resume"])
    assert mended.code == 0 and mended.error_lines[0] == "5 results, 3 of them from an earlier run"


def test_a_method_that_breaks_is_our_bug(cli: Any, benchmark: Path, fake: Any) -> None:
    fake(auto=RowByRow(raises_at=100))
    run = cli(["evaluate", benchmark, "--limit", 2])
    assert run.code == 70 and "| method | ValueError: 100 points are too many |" in run.out


def test_interrupting_says_how_to_go_on(cli: Any, benchmark: Path, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    fake(auto=RowByRow())
    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    run = cli(["evaluate", benchmark, "-o", "out"])
    assert run.code == 130 and run.error_lines[-1] == "interrupted; results so far are in out/, --resume goes on"


def test_generated_rooms_with_two_workers_equal_one(cli: Any, tmp_path: Path) -> None:
    """With a network of the package, on scans like those that it was made for."""
    write_indoor_rooms(tmp_path / "rooms", [100005, 100006], 2, frames=2)
    found = []
    for workers in (1, 2):
        options = ["--method", "network", "--method", "network-ransac", "--rotated", 0, "--workers", workers]
        run = cli(["evaluate", "rooms", *options, "-o", f"out{workers}"])
        assert run.code == 0, run.err
        files = sorted((tmp_path / f"out{workers}").rglob("results/**/*.json"))
        records = [read_record(file) for file in files]
        # The code may be edited while the tests run.
        found.append([{**vars(record), "cost": None, "code": None} for record in records if record is not None])
    assert len(found[0]) >= 8 and found[0] == found[1]
    assert all(each["failure"] is None for each in found[0])


def test_scores_of_published_poses(cli: Any, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "3dmatch" / "benchmark"
    run = cli(["evaluate", folder / "3DMatch", "--score", folder / "est_ngenet" / "3DMatch-pred", "-o", "out"])
    assert run.code == 0
    assert "| mean of scenes | 0.92921 | 1279 |" in run.out and "| mean of pairs | 0.93901 | 1279 |" in run.out
    assert "| 7-scenes-redkitchen | 0.98886 | 449 |" in run.out
    assert summary(tmp_path / "out")["methods"][0]["method"] == "3DMatch-pred"


def test_logs_that_lack_poses_or_are_damaged(cli: Any, benchmark: Path, tmp_path: Path) -> None:
    est = tmp_path / "mine"
    assert cli(["evaluate", benchmark, "--score", est]).code == 4
    for scene in PAIRS:
        (est / scene).mkdir(parents=True)
        write_log(est / scene / "est.log", read_log(benchmark / scene / "gt.log")[:2])
    run = cli(["evaluate", benchmark, "--score", est, "-o", "out"])
    assert run.code == 4 and "| den_1_3 | mine, original | log |" in run.out
    assert summary(tmp_path / "out")["methods"][0]["figures"]["rr_3dmatch"]["scenes"] == {"den": 0.0, "hall": 1.0}
    (est / "hall" / "est.log").write_text("0 1 4\n1 2 3\n")
    run = cli(["evaluate", benchmark, "--score", est, "-o", "damaged"])
    assert run.code == 5 and "est.log, block 0" in run.err and not (tmp_path / "damaged").exists()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--score", "est", "--resume"], 64, "--score takes poses from files: only --benchmark and --out go with it"),
        (["--rotated", "1,x"], 64, "expected a whole number of at least 0, got 'x'"),
        (["--method", "magic"], 64, "invalid choice: 'magic'"),
        (["--limit", "0"], 64, "expected a whole number of at least 1"),
        (["--network", "none"], 4, "config.json"),
        (["--disjoint", "1000"], 4, "--disjoint 1000: count: expected at most 24"),
        (["--benchmark", "4DMatch"], 4, "no benchmark '4DMatch'"),
    ],
)
def test_what_cannot_be_run_is_said(cli: Any, benchmark: Path, options: list[str], code: int, text: str) -> None:
    run = cli(["evaluate", benchmark, *options])
    assert run.code == code and text in run.err
    assert not Path("evaluation-3DMatch").exists()


def test_a_baseline_that_is_not_installed(cli: Any, benchmark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run = cli(["evaluate", benchmark, "--method", "kiss-matcher"])
    assert run.code == 64 and "kiss_matcher is not installed; pip install 'rotaware[bench]'" in run.err
