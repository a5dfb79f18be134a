"""Parsing, exit codes and one-line errors, whatever the command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rotaware.cli.main import build_parser
from rotaware.pointcloud import InputError, UnreadableFileError

COMMANDS = ("register", "inspect", "apply", "demo", "doctor")
HEAVY = ("numpy", "scipy", "torch", "numba", "rich", "rotaware.pointcloud", "rotaware.kernels", "rotaware.datasets")


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rotaware.cli import main\n"
        "try: main(['--help'])\n"
        f"finally: sys.stderr.write(repr([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    # The suite shares its cores, so the best of three stands for what a user waits.
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.perf_counter() - started)
    assert run.stderr == "[]"
    assert all(f"\n    {command} " in run.stdout for command in COMMANDS)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: rotaware {command}" in capsys.readouterr().out


def test_version(cli: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(["--version"])
    assert stop.value.code == 0


def test_runs_as_a_module() -> None:
    run = subprocess.run([sys.executable, "-m", "rotaware.cli", "--version"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("rotaware ") and run.stderr == ""


def test_no_arguments_show_the_help(cli: Any) -> None:
    run = cli([])
    assert run.code == 0 and run.out.startswith("usage: rotaware") and run.err == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["register", "a.ply", "b.ply", "--vocel", "5cm"], "unknown option '--vocel'; did you mean '--voxel'?"),
        (["register", "a.ply", "b.ply", "--vox=5cm"], "unknown option '--vox'; did you mean '--voxel'?"),
        (["register", "--quite", "a.ply", "b.ply"], "did you mean '--quiet'?"),
        (["register", "--zzzzzz"], "unknown option '--zzzzzz'; see rotaware register --help"),
        (["register", "a.ply", "b.ply", "-x"], "unknown option '-x'"),
        (["--verison"], "did you mean '--version'?"),
        (["regster", "a.ply", "b.ply"], "unknown command 'regster'; did you mean 'register'?"),
        (["frobnicate"], "the commands are register, multi"),
        (["register", "a.ply"], "TGT"),
        (["register", "a.ply", "b.ply", "c.ply"], "c.ply"),
        (["register", "a.ply", "b.ply", "--method", "magic"], "'magic'"),
        (["register", "a.ply", "b.ply", "--voxel", "5 parsec"], "'parsec'"),
        (["register", "a.ply", "b.ply", "--voxel", "-5cm"], "'-5cm'"),
        (["register", "a.ply", "b.ply", "--hypotheses", "0"], "at least 1"),
        (["register", "a.ply", "b.ply", "--source-sensor", "1,2"], "'x,y,z'"),
        (["register", "a.ply", "b.ply", "--report", "pdf"], "'pdf'"),
        (["apply", "T.txt", "a.ply"], "-o"),
    ],
)
def test_bad_usage_is_one_line_and_exit_64(cli: Any, arguments: list[str], expected: str) -> None:
    run = cli(arguments)
    assert run.code == 64
    assert len(run.error_lines) == 1 and expected in run.err
    assert run.out == ""


def test_two_files_without_a_command_are_understood(cli: Any, scans: tuple[Path, Path]) -> None:
    run = cli(scans)
    assert run.code == 64
    assert f"did you mean 'rotaware register {scans[0]} {scans[1]}'?" in run.err


def test_a_file_may_be_called_like_an_option(cli: Any, engine: Any, scans: tuple[Path, Path], tmp_path: Path) -> None:
    scans[0].rename(tmp_path / "--scan.ply")
    assert cli(["register", "--quiet", "-o", "out", "--", "--scan.ply", scans[1]]).code == 0


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("source has 2 usable points"), 4, "error: source has 2 usable points"),
        (InputError("two\n  lines"), 4, "error: two lines"),
        (UnreadableFileError("'a.ply' is cut off"), 5, "error: 'a.ply' is cut off"),
        (FileNotFoundError("cannot open 'a.ply': no such file"), 4, "error: cannot open 'a.ply': no such file"),
        (PermissionError(13, "Permission denied", "a.ply"), 4, "error: 'a.ply': permission denied"),
        (MemoryError(), 6, "error: out of memory; raise --voxel or close other programs"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), 6, "error: out of memory"),
        (KeyboardInterrupt(), 130, "interrupted; nothing written"),
        (KeyError("x"), 70, "error: internal error (KeyError); details are in"),
        (ValueError("points: expected shape"), 70, "error: internal error (ValueError)"),
    ],
)
def test_exit_code_of_every_kind_of_failure(
    cli: Any, engine: Any, scans: tuple[Path, Path], tmp_path: Path, error: BaseException, code: int, text: str
) -> None:
    engine.error = error
    run = cli(["register", *scans, "--quiet"])
    assert run.code == code
    assert len(run.error_lines) == 1 and run.err.startswith(text)
    left = {path.name for path in tmp_path.iterdir()} - {"scan_a.ply", "scan_b.ply"}
    assert left == ({"crash.txt"} if code == 70 else set())


def test_crash_file_holds_what_a_report_needs(cli: Any, engine: Any, scans: tuple[Path, Path], tmp_path: Path) -> None:
    engine.error = KeyError("the reason")
    cli(["register", *scans])
    text = (tmp_path / "crash.txt").read_text()
    assert "the reason" in text and "Traceback" in text and "scan_a.ply" in text and "rotaware" in text


def test_a_foreign_crash_file_survives(
    cli: Any, engine: Any, scans: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(other))
    (tmp_path / "crash.txt").write_text("mine")
    engine.error = KeyError("x")
    run = cli(["register", *scans, "--quiet"])
    assert (tmp_path / "crash.txt").read_text() == "mine"
    assert str(other / "crash.txt") in run.err and (other / "crash.txt").exists()


def test_debug_shows_the_trace(cli: Any, engine: Any, scans: tuple[Path, Path]) -> None:
    engine.error = InputError("bad")
    run = cli(["register", *scans, "--quiet", "--debug"])
    assert run.code == 4 and "Traceback" in run.err and run.error_lines[-1] == "error: bad"


def test_json_reports_errors_as_json(cli: Any, engine: Any, scans: tuple[Path, Path]) -> None:
    engine.error = InputError("bad")
    run = cli(["register", *scans, "--json"])
    assert json.loads(run.out) == {"schema_version": 1, "status": "error", "exit_code": 4, "reason": "bad"}
    assert run.err == "error: bad\n"


def test_a_reader_that_leaves_is_no_error(scans: tuple[Path, Path], tmp_path: Path) -> None:
    script = "import sys; from rotaware.cli import main; sys.exit(main())"
    command = f"{sys.executable} -c '{script}' inspect {scans[0]} --json | true"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert run.stderr == ""
