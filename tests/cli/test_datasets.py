"""`rotaware datasets check`: its text, its JSON, its exit codes."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_cases import SCENES, CreatesFile, records, scan, write_clouds, write_logs, write_predator

from rotaware.cli.datasets import benchmark_at, read_points
from rotaware.pointcloud import UnreadableFileError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Fragments in a format that needs the reader of the command, with logs, sound."""
    for scene in SCENES:
        write_clouds(tmp_path / "data", scene, ".ply")
        write_logs(tmp_path / "data" / f"{scene}-evaluation", scene)
    return tmp_path / "data"


def test_a_sound_folder(cli: Any, root: Path) -> None:
    run = cli(["datasets", "check", root])
    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines() == [
        str(root),
        f"3DMatch   fragments with gt.log   {root}",
        "  6 pairs, 8 scans, 2 scenes",
        "        3  hall",
        "        3  kitchen",
        "everything can be used",
    ]


def test_json(cli: Any, root: Path) -> None:
    (root / "hall" / "cloud_bin_3.ply").unlink()
    run = cli(["datasets", "check", "--json", root])
    assert (run.code, run.err) == (4, "")
    found = json.loads(run.out)
    assert (found["schema_version"], found["ok"], found["root"], found["notes"]) == (1, False, str(root), [])
    assert found["benchmarks"][0]["scenes"] == {"hall": 3, "kitchen": 3}
    assert (found["benchmarks"][0]["pairs"], found["benchmarks"][0]["usable"]) == (6, 5)
    (problem,) = found["problems"]
    assert problem["kind"] == "missing" and "cloud_bin_3.ply" in problem["text"]


def test_missing_is_4_and_damaged_is_5(cli: Any, root: Path) -> None:
    shutil.rmtree(root / "kitchen")
    run = cli(["datasets", "check", root])
    assert run.code == 4
    assert run.out.splitlines()[-2:] == [
        f"missing: {root / 'kitchen'}: no such folder, for 4 scans, named 6 times in the lists",
        "1 problem found",
    ]
    assert "  6 pairs, 3 of them usable, 8 scans, 2 scenes" in run.out.splitlines()
    path = root / "hall" / "cloud_bin_0.ply"
    path.write_bytes(path.read_bytes()[:300])
    run = cli(["datasets", "check", root])
    assert run.code == 5 and run.out.splitlines()[-1] == "2 problems found"
    assert any(line.startswith("damaged: ") and "cloud_bin_0.ply" in line for line in run.out.splitlines())


def test_malice_is_refused(cli: Any, tmp_path: Path) -> None:
    root, trap = tmp_path / "indoor", tmp_path / "trap"
    root.mkdir()
    write_predator(root)
    torch.save(CreatesFile(trap), root / "test" / "hall" / "cloud_bin_0.pth")
    (root / "train.pkl").write_bytes(pickle.dumps([*records(), CreatesFile(trap)]))
    run = cli(["datasets", "check", root])
    assert run.code == 5 and not trap.exists()
    damaged = [line for line in run.out.splitlines() if line.startswith("damaged: ")]
    assert len(damaged) == 2 and "train.pkl" in damaged[0] and "cloud_bin_0.pth" in damaged[1]


def test_nothing_there(cli: Any, tmp_path: Path) -> None:
    run = cli(["datasets", "check", tmp_path / "none"])
    assert run.code == 4 and run.error_lines == [f"error: {tmp_path / 'none'}: no such folder"]
    run = cli(["datasets", "check", tmp_path])
    assert run.code == 4 and len(run.error_lines) == 1 and "no benchmark; looked for lists" in run.err
    assert cli(["datasets", "mend", tmp_path]).code == 64


def test_a_bar_on_a_terminal(cli: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run = cli(["datasets", "check", root])
    assert run.code == 0 and run.out.endswith("everything can be used\n")
    assert cli(["datasets", "check", "--json", root]).err == ""


def test_benchmarks_of_other_commands(root: Path, tmp_path: Path) -> None:
    pair = benchmark_at(root, "3dmatch").pairs[0]
    np.testing.assert_allclose(pair.load(read_points).source, scan("hall", 2))
    (tmp_path / "bad.pkl").write_bytes(b"?")
    with pytest.raises(UnreadableFileError, match=r"bad\.pkl: expected a pickled list of pairs"):
        benchmark_at(tmp_path, "bad")
    with pytest.raises(FileNotFoundError):
        benchmark_at(root, "KITTI")
