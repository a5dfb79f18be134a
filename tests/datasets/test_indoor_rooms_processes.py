"""Two processes that write one dataset leave what one process leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rotaware.datasets import DepthCamera, write_indoor_rooms

SEEDS = (100_006, 100_007)
PROGRAM = """
import sys
from rotaware.datasets import DepthCamera, write_indoor_rooms
write_indoor_rooms(sys.argv[1], map(int, sys.argv[2:]), 2, camera=DepthCamera().scaled(0.5), frames=2)
"""


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    pairs = write_indoor_rooms(alone, SEEDS, 2, camera=DepthCamera().scaled(0.5), frames=2)
    started = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(together), *map(str, seeds)])
        for seeds in (SEEDS[::2], SEEDS[1::2])
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    # Whoever ends last lists the rooms of both.
    assert write_indoor_rooms(together, [], 2) == pairs > 0
    assert contents(together) == contents(alone)
