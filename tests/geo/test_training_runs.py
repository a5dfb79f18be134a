"""Logs that fit their checkpoint, and stopping in order."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rotaware.geo.training_runs import Stop, append_log, cut_log, peak_megabytes, read_log


def test_log_loses_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    cut_log(log, 3)
    assert not log.exists()
    for step in range(1, 6):
        append_log(log, {"step": step, "loss": 1 / 3, "name": "a"})
    with log.open("a") as file:
        file.write('{"step": 6, "lo')
    assert [record["step"] for record in read_log(log)] == [1, 2, 3, 4, 5]
    cut_log(log, 3)
    assert read_log(log) == [{"step": step, "loss": 0.333333, "name": "a"} for step in (1, 2, 3)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_ask_to_stop_and_mean_afterwards_what_they_meant(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    with Stop(SimpleNamespace(world_size=1, device=torch.device("cpu"))) as stop:  # type: ignore[arg-type]
        assert not stop.agreed()
        os.kill(os.getpid(), number)
        assert stop.agreed()
    assert {each: signal.getsignal(each) for each in before} == before


def test_one_process_that_is_asked_stops_all() -> None:
    others = 1.0
    fabric = SimpleNamespace(world_size=2, device=torch.device("cpu"), all_reduce=lambda flag, reduce_op: flag + others)
    with Stop(fabric) as stop:  # type: ignore[arg-type]
        assert stop.agreed()
        others = 0.0
        assert not stop.agreed()


def test_peak_memory_is_in_megabytes() -> None:
    assert 50 < peak_megabytes(torch.device("cpu")) < 1e6
