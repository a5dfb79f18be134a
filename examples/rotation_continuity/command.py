"""What the experiments share on the command line: their options, errors a user can mend, and how a run is recorded."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


class BadData(ValueError):
    """Input files that cannot be used: said in one line, exit code 1."""


def parser_of(description: str, heads: Sequence[str], default: Sequence[str]) -> argparse.ArgumentParser:
    """The options of every experiment; `description` is the script's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--full", action="store_true", help="the published settings and length: hours to days on a CPU")
    length.add_argument("--quick", action="store_true", help="seconds: shows that everything runs, learns little")
    parser.add_argument("--iterations", type=positive, metavar="N", help="training steps of each head")
    parser.add_argument(
        "--heads",
        type=lambda text: head_list(text, heads),
        default=list(default),
        metavar="LIST",
        help=f"'all', or some of {','.join(heads)} (default: {','.join(default)})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the training data and the test data")
    parser.add_argument(
        "--out", type=Path, default=Path("rotation_continuity"), metavar="FOLDER", help="for JSON, PNG and checkpoints"
    )
    parser.add_argument("--device", type=device, default=torch.device("cpu"), help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=positive, default=1, help="of torch on the CPU; small networks want one")
    parser.add_argument(
        "--checkpoint-every",
        type=natural,
        metavar="N",
        help="steps between checkpoints, 0 for none (default: 10000 with --full, else none)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    return parser


def positive(text: str) -> int:
    """An integer above zero."""
    number = natural(text)
    if number == 0:
        raise argparse.ArgumentTypeError("expected a number above 0, got 0")
    return number


def natural(text: str) -> int:
    """An integer that is not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def head_list(text: str, known: Sequence[str]) -> list[str]:
    """Names separated by commas, each one known."""
    names = list(known) if text == "all" else list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"expected 'all' or some of {', '.join(known)}; got {name!r}")
    return names


def device(text: str) -> torch.device:
    """A device of this machine."""
    try:
        found = torch.device(text)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return found


def checkpoint_interval(options: argparse.Namespace) -> int:
    """Steps between checkpoints, 0 for none."""
    if options.checkpoint_every is not None:
        return int(options.checkpoint_every)
    return 10_000 if options.full else 0


def run(main: Callable[[], object]) -> None:
    """Call `main`; files that are missing, unreadable or wrong end the program with a message and exit code 1."""
    try:
        main()
    except (BadData, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with which versions a run is made."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpu = torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor_name(), "cores": cores, "system": platform.system(), "gpu": gpu},
        "threads": torch.get_num_threads(),
        # Others at work on the machine: what the milliseconds are worth.
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("rotaware", "torch")},
    }


def processor_name() -> str:
    """The processor's own name where Linux tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
