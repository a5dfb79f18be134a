"""Processes that work through a list of jobs: one that crashes loses its job and nothing else."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numba
import torch
from threadpoolctl import threadpool_limits

Job = TypeVar("Job")
Result = TypeVar("Result")

# Of libraries that ask the environment, as they are loaded, how many threads to start.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Crash(NamedTuple):
    """What came of a job whose process ended."""

    exit_code: int | None


def work_through(
    jobs: Sequence[Job], do: Callable[[Job], Result], workers: int
) -> Generator[tuple[Job, Result | Crash], None, None]:
    """Results as they come, in no order.

    Args:
        jobs: picklable.
        do: picklable, sent once to each process. An exception in it ends the process.
        workers: processes of one thread each; 0 works in this one, with one thread as well.
    Raises:
        RuntimeError: a process ended before it could take a job.

    >>> list(work_through([1, 2], lambda job: 10 * job, 0))
    [(1, 10), (2, 20)]
    """
    if workers == 0:
        with _one_thread():
            for job in jobs:
                yield job, do(job)
        return
    waiting, crew = deque(jobs), list[_Worker[Job, Result]]()
    try:
        for _ in range(min(workers, len(jobs))):
            crew.append(_Worker(do))
            crew[-1].give(waiting)
        while busy := {worker.connection: worker for worker in crew if worker.jobs}:
            for ready in connection.wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                for result in worker.take():
                    yield worker.jobs.pop(), result
                    worker.give(waiting)
    finally:
        for worker in crew:
            worker.stop()


class _Worker(Generic[Job, Result]):
    """One process at a time, with at most one job."""

    def __init__(self, do: Callable[[Job], Result]) -> None:
        self._do = do
        self.jobs: list[Job] = []
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._do, theirs), daemon=True)
        with _environment(dict.fromkeys(_THREADS, "1")):
            self._process.start()
        theirs.close()
        self._ready = False

    def give(self, waiting: deque[Job]) -> None:
        if waiting:
            self.jobs.append(waiting.popleft())
            # Should it have ended, that is noticed where the answer is awaited.
            with suppress(BrokenPipeError, ConnectionResetError):
                self.connection.send(self.jobs[0])

    def take(self) -> list[Result | Crash]:
        """The result in a message; none in the first one, which says that the process is ready."""
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.connection.close()
            self._process.join()
            code = self._process.exitcode
            if not self._ready:
                raise RuntimeError(f"a worker ended with exit code {code} before it could take a job") from None
            self._start()
            return [Crash(code)]
        if self._ready:
            return [message]
        self._ready = True
        return []

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(do: Callable[[Job], Result], to_parent: connection.Connection) -> None:
    """Answer until the other side hangs up."""
    # Ctrl-C is for the parent to answer. What libraries print must not get into its tables.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    with _one_thread(), suppress(EOFError, BrokenPipeError):
        to_parent.send(None)
        while True:
            to_parent.send(do(to_parent.recv()))


@contextmanager
def _one_thread() -> Iterator[None]:
    """All that computes with one thread: as fast as it gets with a process per core, and sums in one order."""
    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        numba.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(torch_threads)
            numba.set_num_threads(numba_threads)


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class PeakMemory:
    """The most memory that this process holds at once, from here on; told by Linux only.

    >>> PeakMemory().megabytes is None or PeakMemory().megabytes > 1
    True
    """

    def __init__(self) -> None:
        # 5 resets the peak to what is held now: `man proc_pid_clear_refs`.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    @property
    def megabytes(self) -> float | None:
        """So far, with all that was held before."""
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)
