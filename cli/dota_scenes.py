"""`rotaware dota scenes`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .messages import ExitCode, UsageError, faults, format_count
from .options import count, numbers
from .progress import counting

if TYPE_CHECKING:
    from rotaware.datasets import AerialImage

SUMMARY = "generate aerial pictures with exact labels: training data from nothing but a seed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware dota scenes`."""
    parser.add_argument("out", metavar="DIR", help="folder to write images/ and labelTxt/ to")
    parser.add_argument("--count", type=count(1), default=1000, metavar="N", help="of images (default 1000)")
    parser.add_argument("--size", type=count(32), default=192, metavar="PX", help="their edge (default 192)")
    parser.add_argument("--seed", type=count(0), default=0, metavar="N", help="of all images (default 0)")
    parser.add_argument("--metres-per-pixel", type=numbers, default=(0.15, 0.4), metavar="LEAST,MOST",
                        help="scale of the pictures (default 0.15,0.4)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Generate and write."""
    from rotaware.datasets import AerialScenes, write_dota

    if len(options.metres_per_pixel) != 2:
        raise UsageError("--metres-per-pixel: expected two numbers LEAST,MOST")
    with faults():
        scenes = AerialScenes(
            options.count, size=options.size, seed=options.seed, metres_per_pixel=options.metres_per_pixel
        )
    with counting("images", silent=False) as on_image:

        def images() -> Iterator[AerialImage]:
            for number in range(len(scenes)):
                yield scenes[number]
                if on_image is not None:
                    on_image(number + 1, len(scenes))

        written = write_dota(options.out, images(), scenes.classes)
    print(f"{format_count(written)} images in {options.out}: {', '.join(scenes.classes)}")
    return int(ExitCode.REGISTERED)
