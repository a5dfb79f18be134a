"""The whole command with the real engine on generated scans: same answer every time, clean exits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotaware.datasets import RegistrationPair, indoor_pair, unrelated_pair

# Coarse: quick, and still right on a pair with this much in common.
QUICK = ("--voxel", "8cm", "--report", "none", "--quiet")


def _save(pair: RegistrationPair, folder: Path) -> list[str]:
    for name, points in (("source", pair.source), ("target", pair.target)):
        np.save(folder / f"{name}.npy", points)
    return ["source.npy", "target.npy"]


@pytest.fixture(scope="module")
def pair() -> RegistrationPair:
    return indoor_pair(0, overlap=(0.5, 0.7))


def _result(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "result.json").read_text())
    del document["timings"]
    return document


def test_same_result_again_and_on_any_number_of_threads(cli: Any, tmp_path: Path, pair: RegistrationPair) -> None:
    scans = _save(pair, tmp_path)
    for name, threads in (("one", 1), ("two", 2), ("again", 2)):
        run = cli(["register", *scans, *QUICK, "--threads", threads, "-o", name])
        assert run.code == 0, run.out + run.err
    one = _result(tmp_path / "one")
    assert one["voxel"] == one["parameters"]["voxel"] == pytest.approx(0.08)
    assert one["scale"] == 1.0 and one["parameters"]["scale"] == "auto"
    assert one == _result(tmp_path / "two") == _result(tmp_path / "again")
    for file in ("transform.txt", "aligned.npy", "correspondences.npz"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_different_rooms_are_not_registered(cli: Any, tmp_path: Path) -> None:
    scans = _save(unrelated_pair(1), tmp_path)
    run = cli(["register", *scans, *QUICK, "-o", "out", "--merged"])
    assert run.code == 2 and run.out.startswith("NOT REGISTERED")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"result.json", "correspondences.npz", "log.txt"}
    document = _result(tmp_path / "out")
    assert document["transform"] is None and document["alternatives"]


def test_ctrl_c_while_the_engine_computes(tmp_path: Path, pair: RegistrationPair) -> None:
    scans = _save(pair, tmp_path)
    command = [sys.executable, "-m", "rotaware.cli", "register", *scans, "-o", "out", "--voxel", "2cm"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/5]"):
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == "" and err.splitlines()[-1] == "interrupted; nothing written" and "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == set(scans)
