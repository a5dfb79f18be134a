"""`rotaware demo` and `rotaware doctor`: what a stranger runs first, through the real engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

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

    again = cli(["demo", "--quiet"])
    assert again.code == 0, "a second run replaces the first"


def test_demo_needs_a_folder(cli: Any) -> None:
    Path("file").write_text("mine")
    run = cli(["demo", "-o", "file"])
    assert run.code == 4 and len(run.error_lines) == 1 and Path("file").read_text() == "mine"
