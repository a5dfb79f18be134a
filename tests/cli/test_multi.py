"""`rotaware multi` around a stand-in engine: files, folders, streams, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from multiway_cases import StandIn, moved_copies

from rotaware.cli.multi import SCAN_ENDINGS, scan_paths
from rotaware.datasets.benchmark_logs import read_log
from rotaware.pointcloud import InputError, PointCloud, UnreadableFileError, multiway, read_point_cloud
from rotaware.pointcloud import write_point_cloud as write
from rotaware.pointcloud.canonical import invert

RESULTS = {"pairs", "poses.json", "poses.log", "merged.ply", "graph.html"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(multiway, "register", stand_in)
    return stand_in


@pytest.fixture
def scans(tmp_path: Path) -> np.ndarray:
    """Five files in `scans`, s2.ply to s10.ply; the first has colours. Returns the true poses (5, 4, 4)."""
    clouds, truth = moved_copies(5, rows=40)
    (tmp_path / "scans").mkdir()
    for number, cloud in enumerate(clouds):
        colors = {name: np.full(40, value, np.uint8) for name, value in (("red", 1), ("green", 2), ("blue", 3))}
        write(tmp_path / "scans" / f"s{2 * number + 2}.ply", PointCloud(cloud, colors if number == 0 else {}))
    return truth


def content(folder: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / "poses.json").read_text(), parse_constant=refuse)


def test_one_group(cli: Any, engine: StandIn, scans: np.ndarray, tmp_path: Path) -> None:
    run = cli(["multi", "scans", "-o", "out", "--method", "classic"])
    assert run.code == 0 and engine.calls == 10
    out = tmp_path / "out"
    assert {entry.name for entry in out.iterdir()} == RESULTS and len(list((out / "pairs").iterdir())) == 10
    lines = run.out.splitlines()
    assert lines[0].split() == ["scan", "group", "edges", "deviation"]
    assert [line.split()[:3] for line in lines[1:6]] == [[f"s{n}.ply", "1", "4"] for n in (2, 4, 6, 8, 10)]
    assert lines[1].endswith("reference")
    assert lines[6:] == [
        "ONE GROUP   5 scans, 10 of 10 pairs in use",
        "files: out/   open graph.html to look around",
    ]
    assert run.error_lines[-11] == "reading 5 scans"
    assert re.fullmatch(
        r"\[ 1/10\] s\d+\.ply to s\d+\.ply +registered +0\.99 +0\.5 s, about .* left", run.error_lines[-10]
    )
    assert "left" not in run.error_lines[-1]


def test_files_hold_the_poses(cli: Any, engine: StandIn, scans: np.ndarray, tmp_path: Path) -> None:
    cli(["multi", "scans", "-o", "out", "--method", "classic"])
    out = tmp_path / "out"
    found = content(out)
    poses = [np.array(scan["T_world_scan"]) for scan in found["scans"]]
    for pose, truth in zip(poses, scans, strict=True):
        np.testing.assert_allclose(pose, invert(scans[0]) @ truth, atol=1e-6)
    assert found["connected"] and [scan["name"] for scan in found["scans"]] == [f"s{n}.ply" for n in (2, 4, 6, 8, 10)]
    assert found["groups"][0]["reference"] == "s2.ply" and len(found["pairs"]) == 10 and len(found["cycles"]) == 6
    log = read_log(out / "poses.log")
    assert [(entry.target, entry.source, entry.fragments) for entry in log] == [(k, k, k + 1) for k in range(5)]
    np.testing.assert_allclose([entry.matrix for entry in log], poses, atol=1e-6)
    merged = read_point_cloud(out / "merged.ply")
    np.testing.assert_array_equal(merged.attributes["scan"], np.repeat(np.arange(5), 40))
    for number in range(1, 5):
        np.testing.assert_allclose(merged.points[40 * number : 40 * number + 40], merged.points[:40], atol=1e-5)
    assert merged.colors is not None
    assert (merged.colors[:40] == [1, 2, 3]).all() and len(np.unique(merged.colors, axis=0)) == 5


def test_the_page_stands_alone(cli: Any, engine: StandIn, scans: np.ndarray, tmp_path: Path) -> None:
    for number in (2, 4, 6, 8, 10):
        (tmp_path / "scans" / f"s{number}.ply").rename(tmp_path / "scans" / f"s{number} <b>&.ply")
    cli(["multi", "scans", "-o", "out", "--method", "classic"])
    page = (tmp_path / "out" / "graph.html").read_text()
    assert "<b>" not in page and page.count("s2 &lt;b&gt;&amp;.ply") > 5
    assert not re.search(r"https?://|<script|<link|url\(", page)
    assert page.count('<path class="edge used"') == 10 and page.count("<circle") == 5
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 2
    assert "{{" not in page


def test_a_second_run_goes_on_from_the_first(cli: Any, engine: StandIn, scans: np.ndarray, tmp_path: Path) -> None:
    fifth = tmp_path / "scans" / "s10.ply"
    fifth.rename(tmp_path / "fifth.ply")
    command = ["multi", "scans", "-o", "out", "--method", "classic"]
    cli(command)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    run = cli(command)
    assert engine.calls == 6 and run.error_lines[-1] == "all 6 pairs were done before"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == first
    (tmp_path / "fifth.ply").rename(fifth)
    run = cli(command)
    assert engine.calls == 10 and run.code == 0
    assert "6 of 10 pairs were done before" in run.error_lines and run.error_lines[-4].startswith("[ 7/10] ")


def test_interrupted(cli: Any, engine: StandIn, scans: np.ndarray, tmp_path: Path) -> None:
    engine.fail_at = 3
    run = cli(["multi", "scans", "-o", "out", "--method", "classic"])
    assert run.code == 130
    assert run.error_lines[-1] == "interrupted; 3 pairs are kept in out/, the same command goes on from there"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["pairs"]
    engine.fail_at = None
    assert cli(["multi", "scans", "-o", "out", "--method", "classic", "--quiet"]).code == 0
    assert engine.calls == 10


def test_groups_stay_apart(cli: Any, monkeypatch: pytest.MonkeyPatch, scans: np.ndarray, tmp_path: Path) -> None:
    def side(cloud: PointCloud) -> int:
        assert cloud.path is not None
        return {"s2": 0, "s4": 0, "s6": 1, "s8": 1, "s10": 2}[cloud.path.stem]

    engine = StandIn(lambda source, target: "registered" if side(source) == side(target) else "not_registered")
    monkeypatch.setattr(multiway, "register", engine)
    run = cli(["multi", "scans", "-o", "out", "--method", "classic"])
    assert run.code == 2
    assert run.out.splitlines()[-3:-1] == [
        "3 GROUPS   5 scans, 2 of 10 pairs in use",
        "apart from the largest: s6.ply, s8.ply; s10.ply",
    ]
    out = tmp_path / "out"
    assert {entry.name for entry in out.iterdir()} == RESULTS | {"merged_2.ply", "poses_2.log"}
    assert [scan["group"] for scan in content(out)["scans"]] == [1, 1, 2, 2, 3]
    assert np.array_equal(content(out)["scans"][2]["T_world_scan"], np.eye(4))
    assert [entry.source for entry in read_log(out / "poses_2.log")] == [2, 3]
    assert "3 GROUPS" in (out / "graph.html").read_text()
    # Another run replaces what is no longer true.
    monkeypatch.setattr(multiway, "register", StandIn())
    assert cli(["multi", "scans", "-o", "out", "--method", "classic", "--accept", "loose", "--quiet"]).code == 0
    assert {entry.name for entry in out.iterdir()} == RESULTS


def test_another_unit_is_pointed_out(cli: Any, engine: StandIn, scans: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "scans" / "s4.ply"
    write(path, PointCloud(1000.0 * read_point_cloud(path).points))
    run = cli(["multi", "scans", "-o", "out", "--method", "classic"])
    assert re.search(
        r"^warning: s4.ply is \d+ long, s\d+.ply [\d.]+; all files are taken to be in one unit$", run.err, re.M
    )


def test_json_is_the_file(cli: Any, engine: StandIn, scans: np.ndarray, tmp_path: Path) -> None:
    run = cli(["multi", "scans", "-o", "out", "--method", "classic", "--json", "--voxel", "5cm"])
    assert run.out == (tmp_path / "out" / "poses.json").read_text() and run.err == ""


def test_folders_and_files_in_natural_order(tmp_path: Path) -> None:
    for name in ("b/scan_10.ply", "b/scan_9.PLY", "b/notes.md", "b/.hidden.ply", "a/z.npy", "c/x.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = scan_paths([str(tmp_path / "b"), str(tmp_path / "a" / "z.npy")])
    assert [path.name for path in found] == ["scan_9.PLY", "scan_10.ply", "z.npy"]
    with pytest.raises(InputError, match="holds no scans"):
        scan_paths([str(tmp_path / "c")])


@pytest.mark.parametrize("ending", SCAN_ENDINGS)
def test_the_reader_knows_every_ending(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises((InputError, UnreadableFileError)) as error:
        read_point_cloud(path)
    assert "unknown extension" not in str(error.value)


def spoil(tmp_path: Path, name: str, text: str = "x") -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)


@pytest.mark.parametrize(
    ("prepare", "arguments", "code", "message"),
    [
        (None, ["scans/s2.ply"], 4, "expected at least 2 scans, got 1"),
        (None, ["scans", "scans/s2.ply"], 4, "'scans/s2.ply' is named twice"),
        (None, ["scans", "scans/s3.ply"], 4, "cannot open 'scans/s3.ply': no such file"),
        ("scans/s3.ply", ["scans"], 5, "scans/s3.ply"),
        ("out/diary.txt", ["scans"], 4, "output folder 'out' holds other files"),
        ("out/merged.ply", ["scans"], 4, "output folder 'out' holds other files"),
        ("out", ["scans"], 4, "it is a file"),
        (None, ["scans", "--accept", "sure"], 64, "invalid choice"),
    ],
)
def test_bad_input(
    cli: Any,
    engine: StandIn,
    scans: np.ndarray,
    tmp_path: Path,
    prepare: str | None,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    if prepare:
        spoil(tmp_path, prepare)
    run = cli(["multi", *arguments, "-o", "out", "--method", "classic"])
    assert run.code == code and message in run.err and engine.calls == 0
    # Nothing new is left behind.
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.parent.name != "scans"}
    assert left == {"scans"} | ({prepare, "out"} if prepare and prepare.startswith("out") else set())


def test_force_adds_to_a_folder_of_others(cli: Any, engine: StandIn, scans: np.ndarray, tmp_path: Path) -> None:
    spoil(tmp_path, "out/diary.txt")
    assert cli(["multi", "scans", "-o", "out", "--method", "classic", "--force", "--quiet"]).code == 0
    assert (tmp_path / "out" / "diary.txt").read_text() == "x"
    run = cli(["multi", "scans", "out/merged.ply", "-o", "out", "--method", "classic", "--force"])
    assert run.code == 4 and "'out/merged.ply' would be replaced by the result" in run.err


def test_equal_names_are_told_apart_by_their_folders(
    cli: Callable[..., Any], engine: StandIn, scans: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "scans" / "s4.ply").rename(tmp_path / "more" / "s2.ply")
    cli(["multi", "scans/s2.ply", "more/s2.ply", "scans/s6.ply", "-o", "out", "--method", "classic"])
    assert [scan["name"] for scan in content(tmp_path / "out")["scans"]] == ["scans/s2.ply", "more/s2.ply", "s6.ply"]
