"""`rotaware dota split`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from .detect_data import add_data_options, labelled_images
from .messages import ExitCode, Fault, faults, format_count
from .options import count, numbers, share
from .progress import counting

SUMMARY = "cut large images into patches, with an index of where each comes from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware dota split`."""
    parser.add_argument("root", metavar="ROOT", help="folder with images/ and labelTxt/ as DOTA's, or HRSC2016")
    parser.add_argument("out", metavar="DIR", help="folder to write to")
    add_data_options(parser)
    parser.add_argument("--size", type=count(32), default=1024, metavar="PX", help="edge of a patch (default 1024)")
    parser.add_argument("--overlap", type=count(0), default=200, metavar="PX", help="of windows (default 200)")
    parser.add_argument("--rates", type=numbers, default=(1.0,), metavar="R,...",
                        help="scales, such as 0.5,1,1.5: a window is SIZE/R pixels (default 1)")  # fmt: skip
    parser.add_argument("--inside", type=share, default=0.7, metavar="S",
                        help="share of an object that must be in a patch (default 0.7)")  # fmt: skip
    parser.add_argument("--keep-empty", action="store_true", help="patches without objects too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Cut; exit 0 if all images could be read, else 5."""
    from rotaware.datasets import SplitOptions, split_dota

    images = labelled_images(options.root, options)
    with faults():
        chosen = SplitOptions(options.size, options.overlap, options.rates, inside=options.inside)
    if (Path(options.out) / "images").exists():
        raise Fault(f"{options.out}: expected a folder without images, got one with some")
    with counting("images", silent=options.json) as on_image:
        report = split_dota(images, options.out, chosen, keep_empty=options.keep_empty, on_image=on_image)
    if options.json:
        print(json.dumps({"schema_version": 1, **asdict(report)}, indent=1))
    else:
        print(f"{format_count(report.images)} images, {format_count(report.patches)} patches in {options.out}")
        print(f"{format_count(report.objects)} objects, {format_count(report.placed)} in patches")
        for name, lost in report.lost.items():
            print(f"in no patch: {name}: {', '.join(f'{number} {kind}' for kind, number in lost.items())}")
        for kind, number in report.problems.items():
            print(f"labels: {kind} ({number})")
    for text in report.damaged:
        print(f"error: {text}", file=sys.stderr)
    return int(ExitCode.UNREADABLE_FILE if report.damaged else ExitCode.REGISTERED)
