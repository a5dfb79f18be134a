"""Values that options accept: lengths with units, vectors, positive counts, lists of names."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from .messages import METRES_PER_UNIT, UsageError, nearest

_LENGTH = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*)")
_NUMBER_LIKE = re.compile(r"-[0-9.]")


class Length(NamedTuple):
    """A length as typed; `unit` None means the unit of the input files."""

    value: float
    unit: str | None

    def in_unit(self, file_unit: str) -> float:
        """The number to use with coordinates stored in `file_unit`.

        >>> Length(5.0, "cm").in_unit("mm")
        50.0
        """
        if self.unit is None or self.unit == file_unit:
            return self.value
        if file_unit not in METRES_PER_UNIT:
            raise UsageError(
                f"--voxel {self.value:g}{self.unit}: the unit of the files is not known; "
                "name it with --unit or give --voxel as a plain number"
            )
        return self.value * (METRES_PER_UNIT[self.unit] / METRES_PER_UNIT[file_unit])


def voxel_length(text: str) -> Length | None:
    """`auto` (None), a number in file units, or a number with a unit.

    >>> voxel_length("5cm"), voxel_length("0.05"), voxel_length("auto")
    (Length(value=5.0, unit='cm'), Length(value=0.05, unit=None), None)
    """
    if text.strip().lower() == "auto":
        return None
    match = _LENGTH.fullmatch(text.strip())
    if match is None or not 0 < float(match[1]) < math.inf:
        raise argparse.ArgumentTypeError(f"expected auto or a positive length such as 0.05 or 5cm, got {text!r}")
    unit = match[2] or None
    if unit is not None and unit not in METRES_PER_UNIT:
        raise argparse.ArgumentTypeError(f"expected one of the units {', '.join(METRES_PER_UNIT)}, got {unit!r}")
    return Length(float(match[1]), unit)


def vector3(text: str) -> tuple[float, float, float]:
    """Three numbers separated by commas or blanks.

    >>> vector3("-1, 2,0.5")
    (-1.0, 2.0, 0.5)
    """
    try:
        x, y, z = (float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected three numbers 'x,y,z', got {text!r}") from None
    if not all(math.isfinite(value) for value in (x, y, z)):
        raise argparse.ArgumentTypeError(f"expected three finite numbers, got {text!r}")
    return x, y, z


def count(at_least: int) -> Callable[[str], int]:
    """A type for whole numbers not below `at_least`.

    >>> count(1)("4")
    4
    """

    def parse(text: str) -> int:
        try:
            value = int(text.replace("_", ""))
        except ValueError:
            value = at_least - 1
        if value < at_least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {at_least}, got {text!r}")
        return value

    return parse


def share(text: str) -> float:
    """A number in [0, 1].

    >>> share("0.25")
    0.25
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """Positive numbers separated by commas.

    >>> numbers("0.5,1")
    (0.5, 1.0)
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"expected positive numbers separated by commas, got {text!r}")
    return values


def report_formats(text: str) -> frozenset[str]:
    """`none`, or any of html and png.

    >>> sorted(report_formats("png,html"))
    ['html', 'png']
    """
    names = frozenset(part.strip().lower() for part in text.split(",") if part.strip())
    if names == {"none"}:
        return frozenset()
    if not names or names - {"html", "png"}:
        raise argparse.ArgumentTypeError(f"expected html,png or html or png or none, got {text!r}")
    return names


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, and a guess for misspelt options."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].lower()}{message[1:]} (see {self.prog} --help)")

    def check_options(self, argv: Sequence[str]) -> None:
        """Refuse options this parser lacks, before argparse takes their values for something else."""
        known = self._option_string_actions
        for token in argv:
            if token == "--":
                return
            if not token.startswith("-") or token == "-" or _NUMBER_LIKE.match(token):
                continue
            name = token.split("=", 1)[0]
            if name in known or (not token.startswith("--") and token[:2] in known):
                continue
            guess = nearest(name, known)
            hint = f"did you mean {guess!r}?" if guess else f"see {self.prog} --help"
            raise UsageError(f"unknown option {name!r}; {hint}")


def join_signed_values(argv: Sequence[str]) -> list[str]:
    """`--source-sensor -1,2,3` as `--source-sensor=-1,2,3`: argparse would take the value for an option.

    >>> join_signed_values(["--source-sensor", "-1,2,3", "a.ply"])
    ['--source-sensor=-1,2,3', 'a.ply']
    """
    joined: list[str] = []
    for token in argv:
        previous = joined[-1] if joined else ""
        if _NUMBER_LIKE.match(token) and previous.startswith("--") and len(previous) > 2 and "=" not in previous:
            joined[-1] = f"{previous}={token}"
        else:
            joined.append(token)
    return joined
