"""Every example runs as a user runs it: in a process of its own, from an empty folder, on generated data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SECONDS = 120


def run(script: Path, folder: Path, *options: str) -> str:
    command = [sys.executable, str(script), *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def test_there_are_examples() -> None:
    assert list(EXAMPLES.glob("*.py")), "an empty folder would let every test below pass"


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example(script: Path, tmp_path: Path) -> None:
    assert run(script, tmp_path).strip(), "an example shows what it found"


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_experiment(script: Path, tmp_path: Path) -> None:
    """An experiment explains itself with `--help`; one that needs no data of others has `--quick`, seconds long."""
    if "--quick" in run(script, tmp_path, "--help"):
        assert run(script, tmp_path, "--quick").strip()
