"""Exit codes, one-line errors, and numbers as people read them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum

METRES_PER_UNIT = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "ft": 0.3048, "in": 0.0254}


class ExitCode(IntEnum):
    """What the shell learns. Values are part of the interface: scripts depend on them."""

    REGISTERED = 0
    NOT_REGISTERED = 2
    AMBIGUOUS = 3
    BAD_INPUT = 4
    UNREADABLE_FILE = 5
    OUT_OF_MEMORY = 6
    BAD_USAGE = 64
    OUR_BUG = 70
    INTERRUPTED = 130


EXIT_OF_STATUS = {
    "registered": ExitCode.REGISTERED,
    "ambiguous": ExitCode.AMBIGUOUS,
    "not_registered": ExitCode.NOT_REGISTERED,
}


class UsageError(Exception):
    """The command line itself is wrong: unknown option, missing argument, bad value."""


class Fault(Exception):
    """What the user gave does not do, in one line."""

    def __init__(self, text: str, code: ExitCode = ExitCode.BAD_INPUT) -> None:
        super().__init__(text)
        self.code = code


@contextmanager
def faults(code: ExitCode = ExitCode.BAD_INPUT) -> Iterator[None]:
    """Take a ValueError for a fault of what the user gave; around code that reads files or checks options alone.

    >>> with faults(ExitCode.UNREADABLE_FILE):
    ...     int("seven")
    Traceback (most recent call last):
    rotaware.cli.messages.Fault: invalid literal for int() with base 10: 'seven'
    """
    try:
        yield
    except ValueError as error:
        raise Fault(str(error), code) from error


def exit_code_of(error: BaseException) -> ExitCode:
    """Exit code for an exception that reached the top.

    >>> exit_code_of(FileNotFoundError("cannot open 'a.ply'")).name
    'BAD_INPUT'
    """
    if isinstance(error, UsageError):
        return ExitCode.BAD_USAGE
    if isinstance(error, Fault):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    # Torch reports a failed allocation as a plain RuntimeError.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return ExitCode.OUT_OF_MEMORY
    if isinstance(error, OSError):
        return ExitCode.BAD_INPUT
    if isinstance(error, ValueError):
        from rotaware.pointcloud import InputError, UnreadableFileError

        if isinstance(error, InputError):
            return ExitCode.BAD_INPUT
        if isinstance(error, UnreadableFileError):
            return ExitCode.UNREADABLE_FILE
    return ExitCode.OUR_BUG


def error_text(error: BaseException) -> str:
    """One line for the user, without the prefix.

    >>> error_text(PermissionError(13, "Permission denied", "/data/a.ply"))
    "'/data/a.ply': permission denied"
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{str(error.filename)!r}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    if exit_code_of(error) is ExitCode.OUT_OF_MEMORY:
        return "out of memory; raise --voxel or close other programs"
    return " ".join(str(error).split()) or type(error).__name__


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Best spelling correction of `word`, or None when nothing is close.

    >>> nearest("--vocel", ["--voxel", "--unit"])
    '--voxel'
    """
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def format_count(count: int) -> str:
    """Thousands apart.

    >>> format_count(313910)
    '313 910'
    """
    return f"{count:,}".replace(",", " ")


def format_number(value: float, digits: int = 3) -> str:
    """`digits` significant digits, never scientific between 0.001 and a billion.

    >>> format_number(0.41234), format_number(1234567.8), format_number(1.8)
    ('0.412', '1234568', '1.8')
    """
    if not math.isfinite(value):
        return "unknown"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -4 < magnitude < 9:
        return f"{value:.{digits - 1}e}"
    text = f"{value:.{max(digits - 1 - magnitude, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_length(value: float, unit: str) -> str:
    """A length in the user's unit; metres below 0.1 m are shown in cm or mm.

    Args:
        value: in `unit`.
        unit: a key of METRES_PER_UNIT, or anything else when unknown.

    >>> format_length(0.018, "m"), format_length(412.0, "mm"), format_length(2.5, "unknown")
    ('1.8 cm', '412 mm', '2.5 units')
    """
    if unit not in METRES_PER_UNIT:
        return f"{format_number(value)} units"
    if unit == "m" and 0 < abs(value) < 0.01:
        return f"{format_number(value * 1000)} mm"
    if unit == "m" and 0 < abs(value) < 0.1:
        return f"{format_number(value * 100)} cm"
    return f"{format_number(value)} {unit}"


def format_extent(extent: Sequence[float]) -> str:
    """Box sides, two or three digits each.

    >>> format_extent((3.04, 1.93, 2.2))
    '3.04 x 1.93 x 2.2'
    """
    return " x ".join(format_number(side) for side in extent)
