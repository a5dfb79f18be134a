"""The same weights whatever the number of processes and interruptions; logs, checkpoints and the command."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rotaware.pointcloud import RoITr

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "roitr" / "train.py"
STEPS = 6
# Generous: others may be at work on the machine.
SECONDS = 300

Weights = dict[str, torch.Tensor]


def train_here(parts: SimpleNamespace, words: list[str]) -> None:
    """Trains in this process, and leaves its settings as they were."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        parts.train.train(*parts.recipe.parse("", [*words, "--workers", "0"]))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture
def train(parts: SimpleNamespace, config: Path, rooms: Path) -> Callable[..., Path]:
    """Trains into a folder; options as on the command line."""

    def run(output: Path, *words: str) -> Path:
        train_here(parts, arguments(config, rooms, output, *words))
        return output

    return run


@pytest.fixture(scope="module")
def uninterrupted(parts: SimpleNamespace, config: Path, rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps of two pairs, with validation."""
    output = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train_here(parts, arguments(config, rooms, output, "--batch", "2", "--validation", str(rooms)))
    return output


def arguments(config: Path, rooms: Path, output: Path, *words: str) -> list[str]:
    files = ["--config", str(config), "--data", str(rooms), "--output", str(output)]
    return [*files, "--accelerator", "cpu", "--quiet", *words]


def start(config: Path, rooms: Path, output: Path, *words: str) -> subprocess.Popen[str]:
    """The command in a process of its own, and a group of its own."""
    command = [sys.executable, str(SCRIPT), *arguments(config, rooms, output, *words)]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )


def state_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(output / "last.ckpt", weights_only=True)
    return found


def largest_difference(one: Path, other: Path, part: str = "model") -> float:
    ours, theirs = state_of(one), state_of(other)
    assert ours["step"] == theirs["step"]
    return max(float((ours[part][name] - tensor).abs().max()) for name, tensor in theirs[part].items())


def log_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def losses_of(output: Path) -> list[tuple[float, ...]]:
    """What does not depend on how busy the machine is."""
    names = ("step", "total", "fine", "gradient", "validation_total", "validation_ir")
    return [tuple(record[name] for name in names if name in record) for record in log_of(output)]


def test_a_run(uninterrupted: Path) -> None:
    log = log_of(uninterrupted)
    assert [record["step"] for record in log] == list(range(1, STEPS + 1))
    assert all(abs(record["total"] - record["coarse"] - record["fine"]) < 1e-4 for record in log)
    assert [record["step"] for record in log if "ir" in record] == [2, 4, 6]
    assert [record["step"] for record in log if "validation_ir" in record] == [3, 6]
    assert all(record["pairs_per_second"] > 0 and record["peak_megabytes"] > 1 for record in log)
    assert RoITr.from_pretrained(uninterrupted / "final").config.patch_points == 24
    notes = json.loads((uninterrupted / "best" / "config.json").read_text())["notes"]
    assert notes["criterion"] == "ir" and notes["step"] == 3 and "validation_ir" in notes
    assert not list(uninterrupted.glob(".*")), "no unfinished file is left"
    if (uninterrupted / "curve.png").exists():
        assert (uninterrupted / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_two_processes_are_one_with_twice_the_pairs(
    uninterrupted: Path, config: Path, rooms: Path, tmp_path: Path
) -> None:
    run = start(config, rooms, tmp_path, "--devices", "2", "--validation", str(rooms))
    _, said = run.communicate(timeout=SECONDS)
    assert run.returncode == 0, said
    # Not only to 1e-5: the sum of two gradients has no order.
    assert largest_difference(tmp_path, uninterrupted) == 0
    assert largest_difference(tmp_path, uninterrupted, "averaged") == 0
    for ours, theirs in zip(losses_of(tmp_path), losses_of(uninterrupted), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_pairs_packed_into_one_pass_differ_by_rounding(
    uninterrupted: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    train(tmp_path, "--batch", "2", "--packed", "2", "--learning-rate", "1e-5", "--final-learning-rate", "0")
    one = train(tmp_path / "one", "--batch", "2", "--learning-rate", "1e-5", "--final-learning-rate", "0")
    assert 0 < largest_difference(tmp_path, one) < 1e-5
    for packed, single in zip(losses_of(tmp_path), losses_of(one), strict=True):
        assert packed[:3] == pytest.approx(single[:3], rel=1e-3)


@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGTERM]], ids=["killed", "asked to stop"])
def test_an_interrupted_run_ends_the_same(
    uninterrupted: Path, train: Callable[..., Path], config: Path, rooms: Path, tmp_path: Path, signals: list[int]
) -> None:
    log = tmp_path / "log.jsonl"
    words = ("--batch", "2", "--validation", str(rooms))
    run = start(config, rooms, tmp_path, *words)
    deadline = time.monotonic() + SECONDS
    while not (log.exists() and len(log.read_text().splitlines()) >= 3):
        assert run.poll() is None and time.monotonic() < deadline, "the run ended before it could be stopped"
        time.sleep(0.002)
    for number in signals:
        os.killpg(run.pid, number)
    _, said = run.communicate(timeout=SECONDS)
    if signals == [signal.SIGTERM]:
        assert run.returncode == 0, said
        assert state_of(tmp_path)["step"] == log_of(tmp_path)[-1]["step"] or state_of(tmp_path)["step"] == STEPS
    else:
        assert run.returncode in (-signal.SIGKILL, 0)
        # As if it had been killed while it wrote.
        with log.open("a") as file:
            file.write('{"step": 99, "tot')
        (tmp_path / ".last.ckpt.12345").write_bytes(b"half a checkpoint")
    train(tmp_path, *words, "--resume")
    assert largest_difference(tmp_path, uninterrupted) == 0
    assert largest_difference(tmp_path, uninterrupted, "averaged") == 0
    assert losses_of(tmp_path) == losses_of(uninterrupted)
    assert not list(tmp_path.glob(".*"))


def test_pairs_without_overlap_train(
    parts: SimpleNamespace, train: Callable[..., Path], rooms: Path, tmp_path: Path
) -> None:
    """The poses are moved so far off that nothing meets."""
    pairs = pickle.loads((rooms / "pairs.pkl").read_bytes())
    pairs["trans"] = [trans + 50.0 for trans in pairs["trans"]]
    (rooms / "apart.pkl").write_bytes(pickle.dumps(pairs))
    train(tmp_path, "--pairs", "apart.pkl", "--steps", "3")
    assert [record["total"] for record in log_of(tmp_path)] == [0.0] * 3
    assert all(tensor.isfinite().all() for tensor in state_of(tmp_path)["model"].values())


def test_other_recipes_are_refused(
    parts: SimpleNamespace, uninterrupted: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(parts.train.BadRun, match="holds a run already"):
        train(uninterrupted, "--batch", "2")
    with pytest.raises(parts.train.BadRun, match="made with other seed, pairs_per_step"):
        train(uninterrupted, "--batch", "1", "--seed", "3", "--resume")
    assert len(log_of(uninterrupted)) == STEPS


def test_weights_to_start_from(train: Callable[..., Path], uninterrupted: Path, tmp_path: Path) -> None:
    final = uninterrupted / "final"
    # A learning rate too small to see.
    words = ("--steps", "1", "--learning-rate", "1e-12", "--average", "0", "--start", str(final))
    train(tmp_path, *words)
    begun = RoITr.from_pretrained(final).state_dict()
    ended = state_of(tmp_path)["averaged"]
    assert all(torch.allclose(begun[name], tensor, atol=1e-9) for name, tensor in ended.items())


def test_the_log_is_cut_at_the_checkpoint(parts: SimpleNamespace, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    parts.train.cut_log(log, 0)
    assert not log.exists()
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    parts.train.cut_log(log, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_learning_rates(parts: SimpleNamespace) -> None:
    def rates(steps: list[int], **changes: Any) -> list[float]:
        options = parts.recipe.Options(steps=1000, learning_rate=1.0, final_learning_rate=0.1, **changes)
        state = SimpleNamespace(options=options, pairs=50, pairs_per_step=2)
        found = []
        for step in steps:
            state.step = step
            found.append(parts.train.Training.learning_rate(state))
        return found

    assert rates([0, 49, 99, 500, 1000], warmup=100) == pytest.approx([0.01, 0.5, 0.975, 0.55, 0.1], abs=0.02)
    assert rates([0, 24, 25, 75], warmup=0, schedule="epoch") == pytest.approx([1, 1, 0.95, 0.95**3])


def test_curves(parts: SimpleNamespace, uninterrupted: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = uninterrupted / "log.jsonl"
    parts.curve.main([str(log), str(log), "--output", str(tmp_path / "both.png")])
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    steps, values = parts.curve.curve_of([{"step": step, "fine": 2.0 * step} for step in range(1000)], "fine")
    assert len(steps) == parts.curve.BINS and values == pytest.approx(2 * steps)
