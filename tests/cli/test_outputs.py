"""The result folder: complete or absent, and never at the cost of somebody's files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rotaware.cli.outputs import ResultFolder, is_result_file
from rotaware.pointcloud import InputError

OURS = json.dumps({"tool": {"name": "rotaware"}})


def _fill(path: Path, **files: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)


def _content(path: Path) -> dict[str, str]:
    return {entry.name: entry.read_text() for entry in path.iterdir()}


def _write(folder: ResultFolder, **files: str) -> None:
    folder.check()
    with folder as temporary:
        _fill(temporary, **files)


def test_new_folder_with_parents(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path / "a" / "b" / "out")
    _write(folder, result__json=OURS)
    assert _content(tmp_path / "a" / "b" / "out") == {"result.json": OURS}
    assert [entry.name for entry in (tmp_path / "a" / "b").iterdir()] == ["out"]
    assert folder.written


def test_check_leaves_no_trace(tmp_path: Path) -> None:
    ResultFolder(tmp_path / "a" / "out").check()
    assert list(tmp_path.iterdir()) == []


def test_old_result_is_replaced_completely(tmp_path: Path) -> None:
    _fill(tmp_path / "out", result__json=OURS, merged__ply="old", transform__txt="old")
    _write(ResultFolder(tmp_path / "out"), result__json=OURS, log__txt="new")
    assert _content(tmp_path / "out") == {"result.json": OURS, "log.txt": "new"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [None, {"result__json": OURS, "log__txt": "old"}])
def test_failure_changes_nothing(tmp_path: Path, error: BaseException, before: dict[str, str] | None) -> None:
    if before is not None:
        _fill(tmp_path / "out", **before)
    folder = ResultFolder(tmp_path / "out")
    with pytest.raises(type(error)), folder as temporary:
        _fill(temporary, result__json="half")
        raise error
    assert not folder.written
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if before is None else ["out"])
    if before is not None:
        assert _content(tmp_path / "out") == {"result.json": OURS, "log.txt": "old"}


@pytest.mark.parametrize("fail_at", [1, 2])
def test_a_failed_swap_brings_the_old_result_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    _fill(tmp_path / "out", result__json=OURS, log__txt="old")
    rename, calls = os.rename, []

    def failing(first: str, second: str) -> None:
        calls.append(first)
        if len(calls) == fail_at:
            raise OSError(28, "No space left on device")
        rename(first, second)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="No space"):
        _write(ResultFolder(tmp_path / "out"), result__json=OURS, log__txt="new")
    assert _content(tmp_path / "out") == {"result.json": OURS, "log.txt": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_foreign_folder_is_refused_and_force_adds_to_it(tmp_path: Path) -> None:
    _fill(tmp_path / "out", notes__md="mine", result__json="{}")
    with pytest.raises(InputError, match="other files"):
        ResultFolder(tmp_path / "out").check()
    _write(ResultFolder(tmp_path / "out", force=True), result__json=OURS, log__txt="new")
    assert _content(tmp_path / "out") == {"notes.md": "mine", "result.json": OURS, "log.txt": "new"}


def test_notes_beside_our_result_survive(tmp_path: Path) -> None:
    _fill(tmp_path / "out", notes__md="mine", result__json=OURS, transform__txt="old")
    (tmp_path / "out" / "sub").mkdir()
    _write(ResultFolder(tmp_path / "out"), result__json=OURS)
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["notes.md", "result.json", "sub"]


def test_current_folder_stays_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    _write(ResultFolder("."), result__json=OURS)
    assert _content(Path()) == {"result.json": OURS}


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    _write(ResultFolder(tmp_path / "link"), result__json=OURS)
    assert (tmp_path / "link").is_symlink() and _content(tmp_path / "real") == {"result.json": OURS}


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        with pytest.raises(InputError, match="cannot write the results"):
            ResultFolder(path).check()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(InputError, match="cannot write the results"):
        ResultFolder(tmp_path / "locked" / "out").check()


def test_unwritable_folder_as_the_system_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        ResultFolder(tmp_path / "out").check()


def test_is_result_file() -> None:
    assert is_result_file("x/aligned.pcd") and is_result_file("result.json")
    assert not is_result_file("scan.ply") and not is_result_file("aligned_by_hand.ply")
