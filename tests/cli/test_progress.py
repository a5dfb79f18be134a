"""Progress: lines and a heartbeat without a terminal, bars with one."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time

import pytest

from rotaware.cli.progress import LineProgress, Progress, make_progress
from rotaware.pointcloud.result import Stage


def test_one_line_per_finished_stage() -> None:
    stream = io.StringIO()
    with LineProgress(stream) as progress:
        progress.say("hello")
        progress.on_stage(Stage(1, 5, "clean", "", 0.0, False))
        progress.on_stage(Stage(1, 5, "clean", "working", 0.1, False))
        progress.on_stage(Stage(1, 5, "clean", "dropped 3", 0.3, True))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "hello" and len(lines) == 2
    assert re.fullmatch(r"\[1/5\] clean +dropped 3 +0\.3 s", lines[1])


def test_a_second_look_is_announced() -> None:
    stream = io.StringIO()
    with LineProgress(stream) as progress:
        for index in (1, 2, 3, 2, 3):
            progress.on_stage(Stage(index, 3, f"stage {index}", "", 0.0, False))
            progress.on_stage(Stage(index, 3, f"stage {index}", "", 0.1, True))
    lines = stream.getvalue().splitlines()
    assert [line[:5] for line in lines] == ["[1/3]", "[2/3]", "[3/3]", "not c", "[2/3]", "[3/3]"]


def test_heartbeat_only_while_a_stage_runs() -> None:
    stream = io.StringIO()
    with LineProgress(stream, heartbeat=0.02) as progress:
        time.sleep(0.06)
        assert stream.getvalue() == ""
        progress.on_stage(Stage(2, 5, "match", "", 0.0, False))
        deadline = time.monotonic() + 5
        while "still running" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        progress.on_stage(Stage(2, 5, "match", "", 1.0, True))
        beats = stream.getvalue().count("still running")
        time.sleep(0.06)
    assert beats >= 1 and stream.getvalue().count("still running") == beats
    assert stream.getvalue().startswith("[2/5] match")


def test_no_heartbeat_for_a_quick_stage() -> None:
    stream = io.StringIO()
    with LineProgress(stream, heartbeat=2.0) as progress:
        progress.on_stage(Stage(2, 5, "match", "", 0.0, False))
        time.sleep(0.25)
        progress.on_stage(Stage(2, 5, "match", "", 0.2, True))
    assert "still running" not in stream.getvalue()


def test_silent_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with make_progress(silent=True) as progress:
        assert type(progress) is Progress
        progress.say("hello")
        progress.on_stage(Stage(1, 5, "clean", "", 0.3, True))
    assert capsys.readouterr() == ("", "")


def test_bars_on_a_terminal() -> None:
    code = (
        "from rotaware.cli.progress import make_progress, BarProgress\n"
        "from rotaware.pointcloud.result import Stage\n"
        "with make_progress(silent=False) as progress:\n"
        "    assert isinstance(progress, BarProgress)\n"
        "    progress.say('source [1/5] not markup')\n"
        "    progress.on_stage(Stage(1, 2, 'clean', '', 0.0, False))\n"
        "    progress.on_stage(Stage(1, 2, 'clean', 'dropped [3]', 0.3, True))\n"
        "    progress.on_stage(Stage(2, 2, 'match', '', 0.0, False))\n"
        "    progress.on_stage(Stage(2, 2, 'match', '', 0.1, True))\n"
        "    progress.on_stage(Stage(1, 2, 'clean', '', 0.0, False))\n"
        "    progress.on_stage(Stage(1, 2, 'clean', 'once more', 0.1, True))\n"
    )
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    run = subprocess.run([sys.executable, "-c", code], stderr=follower, stdout=subprocess.PIPE, env=environment)
    os.close(follower)
    shown = b""
    # Reading a terminal whose other end is closed fails on Linux once it is empty.
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:
        pass
    os.close(leader)
    text = shown.decode()
    assert run.returncode == 0 and run.stdout == b""
    for expected in (
        "source [1/5] not markup",
        "[1/2] clean",
        "dropped [3]",
        "[2/2] match",
        "a second look",
        "once more",
        "\N{BOX DRAWINGS HEAVY HORIZONTAL}",
    ):
        assert expected in text
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is visible again"
