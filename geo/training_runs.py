"""What long training runs of every room share: stopping in order, logs that fit the checkpoint, memory."""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor

from .files import write_whole

Log = list[dict[str, Any]]


class Processes(Protocol):
    """The part of `lightning.fabric.Fabric` that is needed here."""

    @property
    def world_size(self) -> int:
        """How many processes there are."""

    @property
    def device(self) -> torch.device:
        """Of this one."""

    def all_reduce(self, data: Tensor, *, reduce_op: str) -> Any:
        """A sum or mean over all of them."""


class Stop:
    """Asked for by SIGTERM and SIGINT; the loop then ends after its step, that of all processes alike.

    A context, behind which the signals mean what they meant before.
    """

    def __init__(self, fabric: Processes) -> None:
        self.fabric, self.asked = fabric, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def agreed(self) -> bool:
        """Whether any process was asked."""
        if self.fabric.world_size == 1:
            return self.asked
        flag = torch.tensor(float(self.asked), device=self.fabric.device)
        return bool(cast(Tensor, self.fabric.all_reduce(flag, reduce_op="sum")) > 0)


def start_worker(_: int) -> None:
    """Of a `DataLoader`: one thread each; and signals, which reach the whole group, are for the training to act on."""
    torch.set_num_threads(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def read_log(path: Path) -> Log:
    """Records of a log, one per line, without a last one that was cut short."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def cut_log(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint of `step`, and a line that was cut short."""
    if path.is_file():
        kept = [record for record in read_log(path) if record["step"] <= step]
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))


def append_log(path: Path, record: Mapping[str, Any]) -> None:
    """One more line; numbers that are not whole get six digits."""
    short = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in record.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(short) + "\n")


def peak_megabytes(device: torch.device) -> float:
    """Most memory ever held: the GPU's, or this process's without its workers."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def keep_freed_memory() -> None:
    """Have glibc keep freed tensors instead of returning them to the system, which takes a fifth of a step on a CPU."""
    if sys.platform.startswith("linux"):
        import ctypes

        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-3, 2**31 - 1)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
