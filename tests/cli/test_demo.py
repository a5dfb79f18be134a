"""`rotaware demo` and `rotaware doctor`: what a stranger runs first, through the real engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rotaware.cli.transforms import pose_error


def test_demo(cli: Any, tmp_path: Path) -> None:
    run = cli(["demo"])
    assert run.code == 0, run.out + run.err
    folder = tmp_path / "rotaware_demo"
    assert {path.name for path in folder.iterdir()} == {
        "demo_source.ply",
        "demo_target.ply",
        "demo_truth.txt",
        "result",
    }
    files = {path.name for path in (folder / "result").iterdir()}
    assert files >= {"result.json", "transform.txt", "aligned.ply", "merged.ply", "overview.png", "report.html"}
    found, truth = np.loadtxt(folder / "result" / "transform.txt"), np.loadtxt(folder / "demo_truth.txt")
    angle, shift = pose_error(found, truth)
    assert angle < 3.0 and shift < 0.1
    assert re.search(r"^error against the truth: 0?\.?\d", run.out, re.MULTILINE)
    assert json.loads((folder / "result" / "result.json").read_text())["status"] == "registered"


def test_a_second_demo_replaces_the_first(cli: Any, engine: Any) -> None:
    assert cli(["demo"]).code == 0
    again = cli(["demo", "--quiet"])
    assert again.code == 0 and again.err == ""
    assert Path("rotaware_demo/result/result.json").exists()


def test_first_run_says_why_it_is_slow(
    cli: Any, engine: Any, scans: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "compiling" not in cli(["register", *scans]).err, "the test above has compiled the kernels"
    empty = SimpleNamespace(stats=SimpleNamespace(cache_path=str(tmp_path)))
    monkeypatch.setattr("rotaware.kernels.numba_neighbors.nearest", empty)
    run = cli(["register", *scans])
    assert run.code == 0 and run.error_lines[0].startswith("first run here: compiling")


def test_demo_needs_a_folder(cli: Any) -> None:
    Path("file").write_text("mine")
    run = cli(["demo", "-o", "file"])
    assert run.code == 4 and len(run.error_lines) == 1 and Path("file").read_text() == "mine"
