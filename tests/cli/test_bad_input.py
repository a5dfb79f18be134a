"""Every kind of bad input, through the real reader and engine: its exit code, one clear line, nothing left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotaware.pointcloud import PointCloud, write_point_cloud


def _surface(seed: int = 0, count: int = 800) -> np.ndarray:
    """A bumpy sheet: enough shape to be registered, small enough to be quick."""
    generator = np.random.default_rng(seed)
    x, y = generator.uniform(0, 2, size=(2, count))
    return np.stack([x, y, 0.3 * np.sin(3 * x) * np.cos(2 * y) + 0.1 * x * y], axis=1)


def _write(path: Path, points: np.ndarray) -> Path:
    write_point_cloud(path, PointCloud(points))
    return path


def _cut(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


_T = np.linspace(0, 1, 300)
_TWO = np.array([[0.0, 0, 0], [1, 1, 1]])
_LINE = np.stack([_T, 2 * _T, -_T], axis=1) + 5.0
_SAME = np.full((300, 3), 2.5)
_NAN = np.full((300, 3), np.nan)
_MOSTLY_NAN = np.where(np.arange(800)[:, None] % 4 == 0, _surface(), np.nan)

Maker = Callable[[Path], Path]
BAD: dict[str, tuple[Maker, int, str]] = {
    "missing": (lambda folder: folder / "target1.ply", 4, "no such file. Did you mean"),
    "missing folder": (lambda folder: folder / "none" / "a.ply", 4, "no such folder"),
    "directory": (lambda folder: _folder(folder / "bad.ply"), 4, "folder|directory"),
    "empty file": (lambda folder: _text(folder / "bad.ply", ""), 4, "empty"),
    "empty text": (lambda folder: _text(folder / "bad.xyz", ""), 4, "point|empty"),
    "truncated ply": (lambda folder: _cut(_write(folder / "bad.ply", _surface())), 5, "bad.ply"),
    "truncated pcd": (lambda folder: _cut(_write(folder / "bad.pcd", _surface())), 5, "bad.pcd"),
    "text named ply": (lambda folder: _text(folder / "bad.ply", "hello\nworld\n"), 5, "bad.ply"),
    "unknown ending": (lambda folder: _text(folder / "bad.docx", "hello"), 5, "docx"),
    "two points": (lambda folder: _write(folder / "bad.ply", _TWO), 4, "2 usable points"),
    "collinear": (lambda folder: _write(folder / "bad.ply", _LINE), 4, "line"),
    "identical": (lambda folder: _write(folder / "bad.ply", _SAME), 4, "point"),
    "all nan": (lambda folder: _write(folder / "bad.ply", _NAN), 4, "usable points|NaN|finite"),
    "mostly nan": (lambda folder: _write(folder / "bad.ply", _MOSTLY_NAN), 4, "NaN|finite|invalid"),
}


@pytest.mark.parametrize("as_target", [False, True], ids=["source", "target"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_cloud(cli: Any, tmp_path: Path, kind: str, as_target: bool) -> None:
    make, code, words = BAD[kind]
    good = _write(tmp_path / "target.ply", _surface())
    bad = make(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    run = cli(["register", *([good, bad] if as_target else [bad, good]), "-o", "out", "--quiet"])
    assert run.code == code, run.err
    assert len(run.error_lines) == 1 and run.err.startswith("error: ")
    assert any(word in run.err for word in words.split("|")), run.err
    assert run.out == "" and "Traceback" not in run.err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_plane_is_ambiguous_and_names_what_is_free(cli: Any, tmp_path: Path) -> None:
    flat = _surface() * (1, 1, 0)
    source, target = _write(tmp_path / "a.ply", flat), _write(tmp_path / "b.ply", np.add(flat, (0.1, 0, 0)))
    run = cli(["register", source, target, "-o", "out", "--quiet", "--report", "none"])
    assert run.code == 3, run.err + run.out
    assert run.out.startswith("AMBIGUOUS") and "free directions:" in run.out
    metrics = json.loads((tmp_path / "out" / "result.json").read_text())["metrics"]
    assert len(metrics["free_directions"]) == 3 and metrics["covariance"] is None and metrics["covariance_reason"]
    assert run.err == ""


@pytest.mark.parametrize("out", ["target.ply", "target.ply/out", "target.ply/deep/out"])
def test_output_folder_that_cannot_be_made(cli: Any, engine: Any, tmp_path: Path, out: str) -> None:
    cloud = _write(tmp_path / "target.ply", _surface())
    run = cli(["register", cloud, cloud, "-o", out])
    assert run.code == 4 and len(run.error_lines) == 1 and "cannot write the results" in run.err
    assert engine.arguments is None, "found out before the work"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_folder_without_permission(cli: Any, engine: Any, tmp_path: Path) -> None:
    cloud = _write(tmp_path / "target.ply", _surface())
    (tmp_path / "locked").mkdir(mode=0o555)
    run = cli(["register", cloud, cloud, "-o", "locked/out"])
    assert run.code == 4 and len(run.error_lines) == 1 and "ermission denied" in run.err
    assert engine.arguments is None


@pytest.mark.parametrize("command", ["inspect", "apply"])
@pytest.mark.parametrize("kind", ["missing", "directory", "empty file", "truncated ply", "text named ply"])
def test_bad_cloud_for_the_other_commands(cli: Any, tmp_path: Path, command: str, kind: str) -> None:
    make, code, words = BAD[kind]
    _write(tmp_path / "target.ply", _surface())
    bad = make(tmp_path)
    _text(tmp_path / "T.txt", "1 0 0 0  0 1 0 0  0 0 1 0  0 0 0 1")
    before = {path.name for path in tmp_path.iterdir()}
    run = cli([command, bad] if command == "inspect" else [command, "T.txt", bad, "-o", "moved.ply"])
    assert run.code == code, run.err
    assert len(run.error_lines) == 1 and any(word in run.err for word in words.split("|")), run.err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_same_file_twice_is_the_identity(cli: Any, tmp_path: Path) -> None:
    cloud = _write(tmp_path / "a.ply", _surface(count=3000))
    run = cli(["register", cloud, cloud, "-o", "out", "--quiet", "--report", "none"])
    assert run.code in (0, 3), run.out
    np.testing.assert_allclose(np.load(tmp_path / "out" / "transform.npy"), np.eye(4), atol=1e-3)
