"""`rotaware view`: a result read back as it was written, shown in the ways there are, refused when it is not whole."""

from __future__ import annotations

import json
import shutil
import socket
import webbrowser
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from rotaware.cli import view
from rotaware.cli.saved_result import read_result

Scans = tuple[Path, Path]


@pytest.fixture
def result(cli: Any, engine: Any, scans: Scans, tmp_path: Path) -> Path:
    """The folder of a registration, made from relative paths."""
    assert cli(["register", "scan_b.ply", "scan_a.ply", "-o", "out", "--report", "html"]).code == 0
    return tmp_path / "out"


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, bytes]]:
    """A browser that fetches the page it is sent to, and then presses Ctrl-C; what it saw, by address."""
    seen: dict[str, bytes] = {}

    def open_page(address: str) -> None:
        with urlopen(address, timeout=60) as answer:
            seen[address] = answer.read()
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "open", open_page)
    return lambda: seen


@pytest.fixture
def no_viser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "find_spec", lambda name: None)


def _same(left: Any, right: Any) -> bool:
    """Equality that goes into arrays and takes NaN for equal to itself."""
    if is_dataclass(left):
        return type(left) is type(right) and all(
            _same(getattr(left, field.name), getattr(right, field.name)) for field in fields(left)
        )
    if isinstance(left, np.ndarray | float):
        return bool(np.array_equal(left, right, equal_nan=True))
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


@pytest.mark.parametrize("status", ["registered", "ambiguous", "not_registered"])
def test_result_comes_back_as_it_was(
    cli: Any, engine: Any, scans: Scans, make_registration: Any, status: str, tmp_path: Path
) -> None:
    engine.result = make_registration(status=status)
    cli(["register", *scans, "-o", "out", "--report", "none"])
    saved = read_result(tmp_path / "out")
    written = engine.result
    for field in fields(written):
        back, there = getattr(saved.registration, field.name), getattr(written, field.name)
        if field.name == "parameters":
            assert back == {key: value for key, value in there.items() if key != "threads"}
        elif field.name == "alternatives" and status == "not_registered":
            # The rejected best guess was written as the first of them.
            assert _same(back[1:], there) and _same(back[0].T_target_source, written.T_target_source)
        else:
            assert _same(back, there), field.name
    assert (saved.source_name, saved.target_name) == ("scan_b.ply", "scan_a.ply")


def test_a_result_without_any_pose_comes_back(
    cli: Any, engine: Any, scans: Scans, make_registration: Any, tmp_path: Path
) -> None:
    engine.result = make_registration(status="not_registered", T_target_source=None, metrics=None, alternatives=())
    cli(["register", *scans, "-o", "out", "--report", "none"])
    saved = read_result(tmp_path / "out").registration
    assert saved.T_target_source is None and saved.metrics is None and saved.alternatives == ()


def test_without_viser_the_page_of_the_folder_is_served(cli: Any, result: Path, visit: Any, no_viser: None) -> None:
    run = cli(["view", "out"])
    assert run.code == 0
    [(address, page)] = visit().items()
    assert page == (result / "report.html").read_bytes()
    assert run.out == f"report page: {address}   Ctrl-C ends\n" and address.startswith("http://127.0.0.1:")
    assert run.err == "for the live viewer: pip install 'rotaware[viz]'\n"
    with pytest.raises(OSError):
        urlopen(address, timeout=5)


def test_only_the_page_is_served(
    cli: Any, result: Path, monkeypatch: pytest.MonkeyPatch, no_viser: None, tmp_path: Path
) -> None:
    codes = []

    def open_page(address: str) -> None:
        for path in ("/result.json", "/../scan_a.ply", "/report.html"):
            with pytest.raises(HTTPError) as error:
                urlopen(address + path, timeout=5)
            codes.append(error.value.code)
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "open", open_page)
    assert cli(["view", "out/result.json"]).code == 0
    assert codes == [404, 404, 404]


def test_the_page_is_made_anew_where_there_is_none(cli: Any, result: Path, visit: Any, no_viser: None) -> None:
    written = (result / "report.html").read_bytes()
    (result / "report.html").unlink()
    assert cli(["view", "out"]).code == 0
    [page] = visit().values()
    # All but the number of threads, which does not belong to a result.
    payload = [text.partition(b'id="payload">')[2].partition(b"</script>")[0] for text in (page, written)]
    assert payload[0] == payload[1] and len(payload[0]) > 1000
    assert not (result / "report.html").exists()


@pytest.mark.skipif(find_spec("viser") is None, reason="the live viewer needs viser: pip install 'rotaware[viz]'")
def test_live_viewer_answers_and_ends(cli: Any, result: Path, visit: Any) -> None:
    run = cli(["view", "out"])
    assert (run.code, run.err) == (0, "")
    [(address, page)] = visit().items()
    assert run.out == f"live viewer: {address}   Ctrl-C ends\n"
    assert b"<html" in page.lower()
    with pytest.raises(OSError):
        urlopen(address, timeout=5)


def test_picture_for_print(cli: Any, result: Path, tmp_path: Path) -> None:
    run = cli(["view", "out", "--png", "figure.png"])
    assert (run.code, run.out, run.err) == (0, "wrote figure.png\n", "")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size == (3600, 1800)


def test_scans_are_found_from_another_folder(
    cli: Any, result: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # A file of the same name that is another cloud does not count.
    shutil.copy(tmp_path / "scan_a.ply", "scan_b.ply")
    assert len(read_result(Path("../out")).source) == 60


@pytest.mark.parametrize("name", ["scan_b.ply", "scan_a.ply"])
def test_moved_and_changed_scans_are_named(cli: Any, result: Path, name: str, tmp_path: Path) -> None:
    role = "source" if name == "scan_b.ply" else "target"
    scan = tmp_path / name
    content = scan.read_bytes()
    scan.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run = cli(["view", "out", "--png", "x.png"])
    assert run.code == 4
    assert run.err == f"error: the {role} '{name}' was changed since it was registered; register it again\n"
    scan.unlink()
    run = cli(["view", "out", "--png", "x.png"])
    assert run.code == 4
    assert run.err.startswith(f"error: cannot find the {role} of this result; looked for '{name}', '{scan}'.")
    assert not (tmp_path / "x.png").exists()


def _with(result: Path, **changes: Any) -> None:
    document = json.loads((result / "result.json").read_text())
    (result / "result.json").write_text(json.dumps({**document, **changes}))


@pytest.mark.parametrize(
    ("damage", "code", "text"),
    [
        (lambda out: (out / "result.json").unlink(), 4, "name a folder that rotaware register wrote"),
        (lambda out: (out / "result.json").write_text("{"), 5, "is not a result of rotaware register"),
        (lambda out: (out / "result.json").write_text("[]"), 5, "is not a result of rotaware register"),
        (lambda out: _with(out, schema_version=99), 5, "expected version 1 of a result of rotaware, got 99"),
        (lambda out: _with(out, tool={"name": "other"}), 5, "got 1 of other"),
        (lambda out: _with(out, inputs=[]), 5, "is damaged"),
        (lambda out: _with(out, transform={"matrix": [[1.0, 2.0]]}), 5, "expected a 4x4 matrix"),
        (lambda out: _with(out, checks=None), 5, "is damaged"),
        (lambda out: (out / "correspondences.npz").write_bytes(b"PK\3\4 broken"), 5, "correspondences.npz' is damaged"),
        (lambda out: (out / "correspondences.npz").unlink(), 4, "correspondences.npz': no such file"),
    ],
)
def test_damaged_results_are_refused(
    cli: Any, result: Path, damage: Callable[[Path], object], code: int, text: str, tmp_path: Path
) -> None:
    damage(result)
    run = cli(["view", "out", "--png", "x.png"])
    assert run.code == code
    assert text in run.err and len(run.error_lines) == 1
    assert not (tmp_path / "x.png").exists()


def test_correspondences_of_other_scans_are_refused(cli: Any, result: Path) -> None:
    with np.load(result / "correspondences.npz") as arrays:
        content = dict(arrays)
    content["target_index"] = content["target_index"] + 60
    np.savez_compressed(result / "correspondences.npz", **content)
    run = cli(["view", "out", "--png", "x.png"])
    assert run.code == 5 and "names rows that the scans do not have" in run.err


def test_bad_options(cli: Any, result: Path, no_viser: None) -> None:
    assert cli(["view"]).code == 64
    for port in ("0", "65536", "-1", "a"):
        run = cli(["view", "out", f"--port={port}"])
        assert run.code == 64 and "expected a port from 1 to 65535" in run.err
    run = cli(["view", "out", "--png", "figure.jpg"])
    assert run.code == 4 and "expected the name of a .png file, got 'figure.jpg'" in run.err
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        run = cli(["view", "out", "--port", port])
        assert run.code == 4 and f"cannot listen on port {port}" in run.err
