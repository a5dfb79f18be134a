"""`rotaware demo`: a generated pair of scans, registered by the same code as the user's own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import register
from .messages import EXIT_OF_STATUS, format_length
from .options import Parser, count

if TYPE_CHECKING:
    import numpy as np

SUMMARY = "generate two scans of a room, register them and compare with the truth"

# Share of the source that the target shows too: a comfortable case, unlike most of the benchmarks.
_OVERLAP = (0.5, 0.7)
_SOURCE, _TARGET, _TRUTH = "demo_source.ply", "demo_target.ply", "demo_truth.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware demo`."""
    parser.add_argument("-o", "--out", metavar="DIR", default="rotaware_demo", help="folder (default ./rotaware_demo/)")
    parser.add_argument("--seed", type=count(0), default=0, metavar="N", help="which room (default 0)")
    parser.add_argument("--threads", type=count(1), metavar="N", help="CPU threads (default all)")
    parser.add_argument("--quiet", action="store_true", help="print only the verdict and the error")


def run(options: argparse.Namespace) -> int:
    """Write the pair, register it, print the error against the known truth."""
    from .transforms import pose_error

    folder = Path(options.out)
    truth = _write_pair(folder, options.seed, quiet=options.quiet)
    arguments = [str(folder / _SOURCE), str(folder / _TARGET), "--out", str(folder / "result"), "--merged"]
    arguments += ["--threads", str(options.threads)] if options.threads else []
    arguments += ["--quiet"] if options.quiet else []
    parser = Parser(prog="rotaware demo")
    register.add_arguments(parser)
    try:
        registration = register.register_files(parser.parse_args(arguments))
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(str(interrupt) or f"interrupted; {folder} holds the two scans only") from None
    if registration.T_target_source is not None:
        angle, shift = pose_error(registration.T_target_source, truth)
        print(f"error against the truth: {angle:.2f} deg, {format_length(shift, 'm')}")
    if registration.ok and not options.quiet:
        print("your own files: rotaware register SRC TGT")
    return int(EXIT_OF_STATUS[registration.status])


def _write_pair(folder: Path, seed: int, *, quiet: bool) -> np.ndarray:
    """Generate and save the scans; returns the true pose (4, 4), source to target."""
    if folder.exists() and not folder.is_dir():
        from rotaware.pointcloud import InputError

        raise InputError(f"cannot write to {str(folder)!r}: it is a file; name a folder with -o")
    say: Callable[[str], None] = (lambda text: None) if quiet else partial(print, file=sys.stderr, flush=True)
    say("generating two scans of a room")  # before the slow imports
    import numpy as np

    from rotaware.datasets import indoor_pair
    from rotaware.pointcloud import PointCloud, write_point_cloud

    from .first_run import announce_compilation

    announce_compilation(say, "the scene generator")
    pair = indoor_pair(seed, overlap=_OVERLAP)
    assert pair.T_target_source is not None
    folder.mkdir(parents=True, exist_ok=True)
    write_point_cloud(folder / _SOURCE, PointCloud(pair.source))
    write_point_cloud(folder / _TARGET, PointCloud(pair.target))
    np.savetxt(folder / _TRUTH, pair.T_target_source, fmt="%.17g")
    say(f"wrote {folder}{os.sep}{{{_SOURCE},{_TARGET}}}   true overlap {100 * pair.overlap:.0f} %")
    return pair.T_target_source
