"""`rotaware multi`: many scans in, one pose per scan out, as far as it can be known."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .messages import METRES_PER_UNIT, ExitCode, format_length, format_number
from .options import count, voxel_length

if TYPE_CHECKING:
    from rotaware.pointcloud.multiway import MultiwayResult, PairProgress

SUMMARY = "find where many scans lie relative to each other"

# What a folder offers as scans; files of other kinds may lie beside them.
SCAN_ENDINGS = ("ply", "pcd", "npy", "npz", "xyz", "txt", "csv", "pts", "asc", "bin", "pth", "pt", "obj", "stl", "off")

# Scans of one place in one unit hardly differ more in size.
_ONE_UNIT = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware multi`."""
    parser.add_argument("scans", metavar="SCAN", nargs="+", help="clouds, or folders of clouds")
    parser.add_argument(
        "-o", "--out", metavar="DIR", default="rotaware_multi", help="result folder (default ./rotaware_multi/)"
    )
    parser.add_argument(
        "--pairs",
        choices=("auto", "all"),
        default="auto",
        help="auto tries all pairs of fewer than 30 scans, else those that look most alike",
    )
    parser.add_argument("--method", choices=("auto", "roitr", "classic"), default="auto", help="default auto")
    parser.add_argument("--network", metavar="DIR", help="weights of a RoITr of your own (default: the bundled ones)")
    parser.add_argument("--voxel", type=voxel_length, metavar="auto|LENGTH", help="working resolution, such as 5cm")
    parser.add_argument("--unit", choices=("auto", *METRES_PER_UNIT), default="auto", help="unit of all files")
    parser.add_argument(
        "--accept",
        choices=("strict", "balanced", "loose"),
        default="balanced",
        help="how sure to be (default balanced)",
    )
    parser.add_argument("--threads", type=count(1), metavar="N", help="CPU threads (default all)")
    parser.add_argument("--seed", type=count(0), default=0, metavar="N", help="random seed (default 0)")
    parser.add_argument("--json", action="store_true", help="print poses.json, and nothing else")
    parser.add_argument("--quiet", action="store_true", help="print only the verdict")
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other files")


def run(options: argparse.Namespace) -> int:
    """Register the pairs that are not done yet, join them, write the folder, print where everything is."""
    from rotaware.pointcloud.multiway import register_many

    from .first_run import announce_compilation
    from .multi_outputs import PAIRS, MultiFolder, Scans, multi_document
    from .result_json import dump

    paths = scan_paths(options.scans)
    folder = MultiFolder(options.out, paths, force=options.force)
    silent = options.quiet or options.json
    say: Callable[[str], None] = (lambda text: None) if silent else partial(print, file=sys.stderr, flush=True)
    announce_compilation(say, "the search and matching kernels")
    say(f"reading {len(paths)} scans")
    scans = Scans.read(paths, options.unit, options.seed)
    small, large = min(scans.extents), max(scans.extents)
    if large > _ONE_UNIT * small:
        names = [scans.names[scans.extents.index(extent)] for extent in (large, small)]
        say(
            f"warning: {names[0]} is {format_number(large)} long, {names[1]} {format_number(small)}; "
            "all files are taken to be in one unit"
        )
    progress = _Progress(scans.names, say)
    try:
        result = register_many(
            scans.paths,
            pairs=options.pairs,
            cache=folder.path / PAIRS,
            method=options.method,
            network=options.network,
            voxel=None if options.voxel is None else options.voxel.in_unit(scans.unit),
            accept=options.accept,
            threads=options.threads,
            seed=options.seed,
            on_pair=progress,
        )
        document = multi_document(result, scans, options)
        folder.write(result, scans, document)
    except KeyboardInterrupt:
        text = (
            f"interrupted; {progress.done} pairs are kept in {folder.path}{os.sep}, the same command goes on from there"
        )
        raise KeyboardInterrupt(text) from None
    if options.json:
        sys.stdout.write(dump(document))
    else:
        print("\n".join(_lines(result, scans.names, scans.unit, table=not options.quiet)))
        if not options.quiet:
            print(f"files: {folder.path}{os.sep}   open graph.html to look around")
    return int(ExitCode.REGISTERED if result.connected else ExitCode.NOT_REGISTERED)


def scan_paths(given: list[str]) -> list[Path]:
    """The files, and the clouds of the folders in natural order: scan_2 before scan_10.

    Raises:
        InputError: a folder without clouds, a file that comes twice, or fewer than two in all.
    """
    from rotaware.pointcloud import InputError

    paths: list[Path] = []
    for each in map(Path, given):
        if each.is_dir():
            inside = [
                path for path in each.iterdir() if path.suffix.lower()[1:] in SCAN_ENDINGS and path.name[0] != "."
            ]
            if not inside:
                raise InputError(f"folder {str(each)!r} holds no scans: no file ends in {', '.join(SCAN_ENDINGS)}")
            paths += sorted(inside, key=_natural)
        else:
            paths.append(each)
    real = [os.path.realpath(path) for path in paths]
    for number, path in enumerate(paths):
        if real[number] in real[:number]:
            raise InputError(f"{str(path)!r} is named twice")
    if len(paths) < 2:
        raise InputError(f"expected at least 2 scans, got {len(paths)}")
    return paths


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts numbers in a name by their value."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


class _Progress:
    """A line per pair, with the time that is left; what was found is told in one."""

    def __init__(self, names: list[str], say: Callable[[str], None]) -> None:
        self._names, self._say = names, say
        self._reused = 0
        self.done = 0

    def __call__(self, pair: PairProgress) -> None:
        self.done = pair.done
        if pair.reused:
            self._reused += 1
            if pair.done == pair.total:
                self._say(f"all {pair.total} pairs were done before")
            return
        if self._reused:
            self._say(f"{self._reused} of {pair.total} pairs were done before")
            self._reused = 0
        status = pair.result.status.replace("_", " ")
        ends = f"{self._names[pair.source]} to {self._names[pair.target]}"
        left = f", about {_duration(pair.seconds_left)} left" if pair.done < pair.total else ""
        counter = f"[{pair.done:>{len(str(pair.total))}}/{pair.total}]"
        self._say(f"{counter} {ends:<40} {status:<14} {pair.result.confidence:.2f}  {pair.result.seconds:5.1f} s{left}")


def _duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> _duration(41.2), _duration(200.0), _duration(9000.0)
    ('41 s', '3 min', '2 h 30 min')
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _lines(result: MultiwayResult, names: list[str], unit: str, *, table: bool) -> list[str]:
    """A row per scan, then what was left out and why, then the verdict."""
    lines = []
    used = [pair for pair in result.pairs if pair.role in ("used", "confirmed")]
    if table:
        width = max(len(name) for name in names)
        lines.append(f"{'scan':<{width}}  group  edges  deviation")
        for number, group in enumerate(result.groups, start=1):
            for scan in group:
                edges = sum(scan in (pair.source, pair.target) for pair in used)
                shift = format_length(float(result.shift_deviation[scan]), unit)
                deviation = f"{result.turn_deviation_deg[scan]:.1f} deg  {shift}"
                if scan == group[0]:
                    deviation = "" if len(group) == 1 else "reference"
                lines.append(f"{names[scan]:<{width}}  {number:>5}  {edges:>5}  {deviation}".rstrip())
        for pair in result.pairs:
            ends = f"{names[pair.source]} to {names[pair.target]}"
            if pair.role == "contradicted":
                off = f"{pair.turn_deg:.0f} deg and {format_length(pair.shift, unit)}"
                lines.append(f"left out: {ends} (confidence {pair.confidence:.2f}) is {off} off the other pairs")
            elif pair.role == "outweighed":
                lines.append(f"left out: {ends} (confidence {pair.confidence:.2f}): others contradict it")
    count_used = f"{len(names)} scans, {len(used)} of {len(result.pairs)} pairs in use"
    if result.connected:
        return [*lines, f"ONE GROUP   {count_used}"]
    apart = "; ".join(", ".join(names[scan] for scan in group) for group in result.groups[1:])
    return [*lines, f"{len(result.groups)} GROUPS   {count_used}", f"apart from the largest: {apart}"]
