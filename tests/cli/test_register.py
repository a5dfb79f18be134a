"""`rotaware register` around a stand-in engine: files, streams, options."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotaware.cli.progress import Progress
from rotaware.pointcloud import Registration, read_point_cloud
from rotaware.pointcloud.result import Hypothesis

ALWAYS = {"result.json", "overview.png", "report.html", "correspondences.npz", "log.txt"}
WITH_POSE = ALWAYS | {"transform.npy", "transform.txt", "aligned.ply"}
Scans = tuple[Path, Path]


def _strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_registered(cli: Any, engine: Any, scans: Scans, tmp_path: Path) -> None:
    run = cli(["register", "scan_b.ply", "scan_a.ply"])
    assert run.code == 0
    folder = tmp_path / "scan_b__to__scan_a"
    assert {path.name for path in folder.iterdir()} == WITH_POSE
    assert run.out.splitlines() == [
        "REGISTERED   rotation 90.0 deg   translation 0.5 m   overlap 47 %   residual 1.8 cm",
        "files: scan_b__to__scan_a/   to look around: open report.html, or rotaware view scan_b__to__scan_a",
    ]
    lines = run.error_lines
    assert lines[0].startswith("source  scan_b.ply   60 pts   ") and lines[1].startswith("target  scan_a.ply   60 pts")
    assert lines[2].startswith("[1/2] clean") and "a note" in lines[2] and lines[2].endswith("0.2 s")
    assert lines[4] == "warning W001: dropped 3 points (hint: check the export)"
    assert len(lines) == 5


def test_files_agree_with_each_other(cli: Any, engine: Any, scans: Scans, tmp_path: Path) -> None:
    cli(["register", *scans, "-o", "out", "--merged"])
    out = tmp_path / "out"
    pose = engine.result.T_target_source
    np.testing.assert_array_equal(np.load(out / "transform.npy"), pose)
    np.testing.assert_array_equal(np.loadtxt(out / "transform.txt"), pose)
    np.testing.assert_array_equal(_strict((out / "result.json").read_text())["transform"]["matrix"], pose)
    source, target, aligned = (read_point_cloud(path) for path in (*scans, out / "aligned.ply"))
    np.testing.assert_allclose(aligned.points, source.points @ pose[:3, :3].T + pose[:3, 3], atol=1e-6)
    for name, values in source.attributes.items():
        np.testing.assert_array_equal(aligned.attributes[name], values)
    merged = read_point_cloud(out / "merged.ply")
    np.testing.assert_allclose(merged.points, np.concatenate([aligned.points, target.points]), atol=1e-6)
    assert merged.colors is not None and len(np.unique(merged.colors, axis=0)) == 2
    pairs = np.load(out / "correspondences.npz")
    np.testing.assert_array_equal(pairs["target_index"], engine.result.correspondences.target_index)
    assert set(pairs) == {"source_index", "target_index", "confidence", "inlier"}


def test_result_json(cli: Any, engine: Any, scans: Scans, tmp_path: Path) -> None:
    cli(["register", "scan_b.ply", "scan_a.ply", "-o", "out"])
    result = _strict((tmp_path / "out" / "result.json").read_text())
    assert set(result) == {
        "schema_version", "status", "transform", "confidence", "reason", "checks", "evidence", "metrics",
        "alternatives", "symmetry", "inputs", "parameters", "voxel", "scale", "engine", "why", "refine", "seed",
        "warnings", "tool", "timings",
    }  # fmt: skip
    assert result["schema_version"] == 1 and result["status"] == "registered"
    transform = result["transform"]
    assert set(transform) == {"matrix", "quaternion_wxyz", "rotation_deg", "translation", "scale", "direction"}
    half = 0.5**0.5
    np.testing.assert_allclose(transform["quaternion_wxyz"], [half, 0, 0, half], atol=1e-12)
    assert transform["rotation_deg"] == pytest.approx(90.0)
    assert transform["translation"] == [0.3, 0.4, 0.0] and transform["scale"] == pytest.approx(1.0)
    assert transform["direction"] == "p_tgt = s R p_src + t"
    assert set(result["checks"][0]) == {"name", "value", "threshold", "pass", "meaning"}
    assert result["metrics"]["residual_p95"] is None, "NaN becomes null"
    assert np.shape(result["metrics"]["information"]) == (6, 6)
    assert result["metrics"]["covariance"] is None and result["metrics"]["covariance_reason"] == "fake"
    assert [item["path"] for item in result["inputs"]] == ["scan_b.ply", "scan_a.ply"]
    assert all(len(item["sha256"]) == 64 and item["points"] == 60 for item in result["inputs"])
    assert result["parameters"] == {"accept": "balanced", "voxel": None, "scale": "auto", "radius": 0.25}
    assert result["voxel"] == 0.05 and result["scale"] == 1.0, "those used, whatever was asked for"
    assert set(result["tool"]) == {"name", "version", "commit"}


def test_same_run_twice_gives_the_same_bytes_but_for_timings(
    cli: Any, engine: Any, scans: Scans, tmp_path: Path, make_registration: Callable[..., Registration]
) -> None:
    texts = []
    for out, threads in (("one", 1), ("two", 2)):
        engine.result = make_registration(
            timings={"clean": 0.1 * threads}, parameters={"accept": "balanced", "threads": threads}
        )
        cli(["register", *scans, "-o", out, "--threads", threads])
        texts.append((tmp_path / out / "result.json").read_text().split('"timings"')[0])
    assert texts[0] == texts[1]


def test_json_prints_result_json_and_nothing_else(cli: Any, engine: Any, scans: Scans, tmp_path: Path) -> None:
    run = cli(["register", *scans, "-o", "out", "--json"])
    assert run.out == (tmp_path / "out" / "result.json").read_text()
    assert run.err == ""


def test_quiet_prints_the_verdict_only(cli: Any, engine: Any, scans: Scans) -> None:
    run = cli(["register", *scans, "--quiet"])
    assert run.out.startswith("REGISTERED") and len(run.out.splitlines()) == 1
    assert run.err == ""


def test_not_registered(
    cli: Any, engine: Any, scans: Scans, tmp_path: Path, make_registration: Callable[..., Registration]
) -> None:
    engine.result = make_registration(status="not_registered", reason="no common part was found")
    run = cli(["register", *scans, "-o", "out", "--merged"])
    assert run.code == 2
    assert run.out.startswith("NOT REGISTERED   no common part was found\n") and "hint:" in run.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == ALWAYS
    result = _strict((tmp_path / "out" / "result.json").read_text())
    assert result["transform"] is None
    assert result["alternatives"][0]["matrix"] == engine.result.T_target_source.tolist()
    assert len(result["alternatives"]) == 2

    run = cli(["register", *scans, "-o", "out", "--force"])
    assert run.code == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == WITH_POSE
    assert _strict((tmp_path / "out" / "result.json").read_text())["transform"] is None


def test_not_registered_without_any_pose(
    cli: Any, engine: Any, scans: Scans, tmp_path: Path, make_registration: Callable[..., Registration]
) -> None:
    engine.result = make_registration(
        status="not_registered", T_target_source=None, metrics=None, alternatives=(), reason="no matches"
    )
    run = cli(["register", *scans, "-o", "out", "--force"])
    assert run.code == 2 and {path.name for path in (tmp_path / "out").iterdir()} == ALWAYS


def test_ambiguous(
    cli: Any, engine: Any, scans: Scans, tmp_path: Path, make_registration: Callable[..., Registration]
) -> None:
    engine.result = make_registration(
        status="ambiguous",
        symmetry="turn of 180 deg about z",
        reason="two poses fit equally well",
        alternatives=(Hypothesis(np.diag([-1.0, -1.0, 1.0, 1.0]), 0.9),),
    )
    run = cli(["register", *scans, "-o", "out"])
    assert run.code == 3
    assert run.out.startswith("AMBIGUOUS   rotation 90.0 deg")
    assert "two poses fit equally well" in run.out and "turn of 180 deg about z" in run.out
    result = _strict((tmp_path / "out" / "result.json").read_text())
    assert result["transform"] is not None and result["alternatives"][0]["rotation_deg"] == pytest.approx(180.0)


def test_options_reach_the_engine(cli: Any, engine: Any, scans: Scans, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "T.txt", np.eye(4))
    options = (
        "--method refine --voxel 5cm --unit mm --refine plane --accept strict --hypotheses 3 --init T.txt "
        "--scale rigid --threads 1 --seed 7 --report none --source-sensor -1,2,3"
    )
    run = cli(["register", *scans, *options.split(), "--target-sensor", "0 0 1.5"])
    assert run.code == 0
    given = engine.arguments
    assert given["voxel"] == pytest.approx(50.0)
    np.testing.assert_array_equal(given["init"], np.eye(4))
    np.testing.assert_array_equal(given["source_sensor"], [-1, 2, 3])
    np.testing.assert_array_equal(given["target_sensor"], [0, 0, 1.5])
    plain = {key: given[key] for key in ("method", "unit", "refine", "accept", "hypotheses", "scale", "threads")}
    assert plain == {
        "method": "refine", "unit": "mm", "refine": "plane", "accept": "strict", "hypotheses": 3, "scale": "rigid",
        "threads": 1,
    }  # fmt: skip
    assert given["seed"] == 7
    assert not {"overview.png", "report.html"} & {path.name for path in (tmp_path / "scan_b__to__scan_a").iterdir()}


def test_defaults_of_the_command_are_those_of_the_engine(cli: Any, engine: Any, scans: Scans) -> None:
    cli(["register", *scans])
    given = dict(engine.arguments)
    for name in ("source", "target", "on_stage"):
        del given[name]
    assert given == {
        "method": "auto", "voxel": None, "refine": "auto", "accept": "balanced", "hypotheses": 5, "init": None,
        "source_sensor": None, "target_sensor": None, "unit": "auto", "scale": "auto", "threads": None, "seed": 0,
        "network": None,
    }  # fmt: skip


def test_every_attribute_reaches_the_engine(cli: Any, engine: Any, scans: Scans) -> None:
    cli(["register", *scans])
    assert list(engine.arguments["source"].attributes) == ["red", "label"]


def test_an_output_folder_of_others_is_refused_before_the_work(cli: Any, engine: Any, scans: Scans) -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("mine")
    run = cli(["register", *scans, "-o", "out"])
    assert run.code == 4 and "--force" in run.err and engine.arguments is None
    run = cli(["register", *scans, "-o", "out", "--force", "--report", "none"])
    assert run.code == 0 and Path("out/thesis.tex").read_text() == "mine" and Path("out/result.json").exists()


def test_a_result_does_not_replace_its_own_input(cli: Any, engine: Any, scans: Scans) -> None:
    cli(["register", *scans, "-o", "out", "--report", "none"])
    before = Path("out/aligned.ply").read_bytes()
    run = cli(["register", "out/aligned.ply", scans[1], "-o", "out"])
    assert run.code == 4 and "would be replaced" in run.err
    assert Path("out/aligned.ply").read_bytes() == before


def test_second_run_replaces_the_first(cli: Any, engine: Any, scans: Scans, tmp_path: Path) -> None:
    cli(["register", *scans, "-o", "out", "--merged"])
    cli(["register", *scans, "-o", "out", "--report", "none"])
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == WITH_POSE - {"overview.png", "report.html"}


@pytest.mark.parametrize(("suffix", "written"), [(".pcd", ".pcd"), (".xyz", ".xyz"), (".obj", ".ply")])
def test_aligned_keeps_the_format_where_it_can(
    cli: Any, engine: Any, scans: Scans, tmp_path: Path, suffix: str, written: str
) -> None:
    source = tmp_path / f"source{suffix}"
    if suffix == ".obj":
        source.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    else:
        from rotaware.pointcloud import write_point_cloud

        write_point_cloud(source, read_point_cloud(scans[0]))
    run = cli(["register", source, scans[1], "-o", "out", "--report", "none"])
    assert run.code == 0
    assert [path.name for path in (tmp_path / "out").glob("aligned.*")] == [f"aligned{written}"]


SLOW_ENGINE = """
import sys, time
from rotaware import pointcloud
from rotaware.cli import main
def register(*clouds, **options):
    print("computing", flush=True)
    time.sleep(60)
pointcloud.register = register
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("before", [False, True])
def test_ctrl_c(cli: Any, engine: Any, scans: Scans, tmp_path: Path, before: bool) -> None:
    if before:
        cli(["register", *scans, "-o", "out", "--report", "none"])
    content = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*")}
    shutil.copy(scans[0], tmp_path / "moving.ply")
    command = [sys.executable, "-c", SLOW_ENGINE, "register", "moving.ply", scans[1], "-o", "out", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "computing\n"
    process.send_signal(signal.SIGINT)
    started = time.perf_counter()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and time.perf_counter() - started < 5
    assert err == "interrupted; nothing written\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*")} == content
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"scan_a.ply", "scan_b.ply", "moving.ply"} | ({"out"} if before else set())


def test_ctrl_c_after_the_files_are_there_says_so(
    cli: Any, engine: Any, scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "close", interrupt)
    run = cli(["register", *scans, "-o", "out", "--quiet"])
    assert run.code == 130 and run.err == f"interrupted; the result is complete in out{os.sep}\n"
    assert Path("out/result.json").exists()
