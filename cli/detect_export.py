"""`rotaware detect export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .detect_data import detector_in
from .messages import ExitCode, Fault, faults
from .options import count

SUMMARY = "write a detector as an ONNX graph"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware detect export`."""
    parser.add_argument("model", metavar="DIR", help="a detector, or the run that trained it")
    parser.add_argument("out", metavar="FILE", help="the file to write, .onnx")
    parser.add_argument("--size", type=count(32), default=1024, metavar="PX", help="edge of the images (default 1024)")
    parser.add_argument("--batch", type=count(1), default=1, metavar="N", help="images at once (default 1)")


def run(options: argparse.Namespace) -> int:
    """Export; what the graph puts out is suppressed outside, see `rotaware.detection.export_onnx`."""
    from rotaware.detection import export_onnx, load_detector

    with faults(ExitCode.UNREADABLE_FILE):
        detector = load_detector(detector_in(options.model))
    try:
        export_onnx(detector, options.out, size=(options.size, options.size), batch=options.batch)
    except ImportError as error:
        raise Fault(str(error)) from error
    megabytes = Path(options.out).stat().st_size / 2**20
    print(f"{options.out}: {options.batch} x 3 x {options.size} x {options.size}, {megabytes:.1f} MB")
    return int(ExitCode.REGISTERED)
