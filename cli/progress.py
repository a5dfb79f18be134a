"""What the user sees while a registration runs: bars on a terminal, quiet lines and a heartbeat elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID

    from rotaware.pointcloud import Stage

_HEARTBEAT_SECONDS = 5.0
_NAME_WIDTH = 22
_AGAIN = "not convinced yet: a second look with smaller voxels"


class Progress:
    """Shows nothing: the base, used for `--quiet` and `--json`."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, text: str) -> None:
        """A line that stays."""

    def on_stage(self, stage: Stage) -> None:
        """Callback for `register`."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class LineProgress(Progress):
    """One line per finished stage, and one whenever a running stage was silent for `heartbeat` seconds."""

    def __init__(self, stream: TextIO, *, heartbeat: float = _HEARTBEAT_SECONDS) -> None:
        self._stream = stream
        self._heartbeat = heartbeat
        self._lock = threading.Lock()
        self._running: tuple[str, float] | None = None
        self._reached = 0
        self._last_line = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        with self._lock:
            print(text, file=self._stream, flush=True)
            self._last_line = time.monotonic()

    def on_stage(self, stage: Stage) -> None:
        label = f"[{stage.index}/{stage.total}] {stage.name}"
        if stage.index < self._reached:
            self.say(_AGAIN)
        self._reached = stage.index
        if stage.done:
            self._running = None
            self.say(f"{label:<{_NAME_WIDTH + 6}} {stage.note:<48} {stage.seconds:6.1f} s")
        else:
            self._running = (label, time.monotonic() - stage.seconds)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._closed.wait(self._heartbeat / 20):
            running, now = self._running, time.monotonic()
            if running is not None and now - self._last_line >= self._heartbeat:
                label, started = running
                self.say(f"{label:<{_NAME_WIDTH + 6}} still running, {now - started:.0f} s")


class BarProgress(Progress):
    """A bar per stage on a terminal, moving while the stage runs, full when it is done."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.elapsed:6.1f} s", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True, highlight=False),
        )
        self._tasks: dict[int, TaskID] = {}
        self._bars.start()

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def on_stage(self, stage: Stage) -> None:
        if self._tasks and stage.index < max(self._tasks):
            self.say(_AGAIN)
            self._tasks.clear()
        if stage.index not in self._tasks:
            label = f"[{stage.index}/{stage.total}] {stage.name}"
            self._tasks[stage.index] = self._bars.add_task(label, total=None, note=stage.note)
        total = 1.0 if stage.done else None
        self._bars.update(self._tasks[stage.index], total=total, completed=float(stage.done), note=stage.note)
        if stage.done:
            self._bars.stop_task(self._tasks[stage.index])

    def close(self) -> None:
        self._bars.stop()


@contextmanager
def counting(what: str, *, silent: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar of things that are counted, on a terminal; nothing elsewhere.

    Args:
        what: the things.
        silent: no bar on a terminal either.
    Returns:
        Takes how many are done, and of how many; None if nothing is shown.
    """
    if silent or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns: tuple[Any, ...] = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)


def make_progress(*, silent: bool) -> Progress:
    """Bars if stderr is a terminal, lines if not, nothing if `silent`."""
    if silent:
        return Progress()
    return BarProgress() if sys.stderr.isatty() else LineProgress(sys.stderr)
