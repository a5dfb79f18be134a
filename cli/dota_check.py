"""`rotaware dota check`."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .detect_data import add_data_options, labelled_images
from .messages import ExitCode, format_count
from .options import count
from .progress import counting

if TYPE_CHECKING:
    from rotaware.datasets import LabelledFolder, LabelledReport

SUMMARY = "read all images and labels: what there is, what is odd, what is damaged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware dota check`."""
    parser.add_argument("root", metavar="ROOT", help="folder with images/ and labelTxt/ as DOTA's, or HRSC2016")
    add_data_options(parser)
    parser.add_argument("--draw", metavar="DIR", help="write pictures with the objects drawn")
    parser.add_argument("--draw-count", type=count(1), default=20, metavar="N", help="how many (default 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Check and print; exit 0 if every file can be used, 5 if one is damaged, 4 if one is missing."""
    from rotaware.datasets import check_labelled

    images = labelled_images(options.root, options)
    with counting("images", silent=options.json) as on_image:
        report = check_labelled(images, on_image=on_image)
    if options.draw:
        _draw(images, Path(options.draw), options.draw_count)
    if options.json:
        print(json.dumps({"schema_version": 1, "root": options.root, **report.to_dict()}, indent=1))
    else:
        print("\n".join(_lines(options.root, report)))
    if report.ok:
        return int(ExitCode.REGISTERED)
    damaged = any(kind == "damaged" for kind, _ in report.problems)
    return int(ExitCode.UNREADABLE_FILE if damaged else ExitCode.BAD_INPUT)


def _lines(root: str, report: LabelledReport) -> list[str]:
    total = sum(report.objects.values())
    lines = [
        root,
        f"{format_count(report.images)} images, sides from {report.sides[0]} to {report.sides[1]} pixels, "
        f"{format_count(report.empty)} without objects",
        f"{format_count(total)} objects, {format_count(report.difficult)} of them difficult",
        *(f"  {format_count(number):>7}  {name}" for name, number in report.objects.items() if number),
    ]
    lines += [f"odd: {kind} ({format_count(number)})" for kind, number in report.oddities.items()]
    lines += [f"{kind}: {text}" for kind, text in report.problems]
    found = len(report.problems)
    return [
        *lines,
        "every file can be used" if report.ok else f"{found} {'problem' if found == 1 else 'problems'} found",
    ]


def _draw(images: LabelledFolder, folder: Path, most: int) -> None:
    from PIL import Image

    from rotaware.datasets import draw_objects
    from rotaware.geo.files import write_whole

    for number in range(min(most, len(images))):
        try:
            each = images[number]
        except (OSError, ValueError) as error:
            print(f"not drawn: {error}", file=sys.stderr)
            continue
        drawn = Image.fromarray(draw_objects(each.image, each.quads, each.labels, images.classes))
        write_whole(folder / f"{each.name}.png", partial(drawn.save, format="PNG"))
