"""Labelled aerial images on disk, as the commands of detection open them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .messages import ExitCode, Fault, faults

if TYPE_CHECKING:
    from rotaware.datasets import LabelledFolder
    from rotaware.detection import Annotations, Sample


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """How a folder of labelled images is to be read."""
    parser.add_argument(
        "--split", metavar="NAME", help="sub-folder or list: train, val, trainval, test (default: ROOT)"
    )
    parser.add_argument(
        "--version", dest="data_version", choices=("1.0", "1.5", "2.0"), default="1.0", help="of DOTA (default 1.0)"
    )
    parser.add_argument("--classes", metavar="A,B,...", help="names of the classes, if they are not those of DOTA")


def labelled_images(root: str, options: argparse.Namespace, *, classes: Sequence[str] | None = None) -> LabelledFolder:
    """The images below `root`: HRSC2016 if that is its layout, else DOTA's.

    Args:
        root: folder.
        options: of `add_data_options`.
        classes: names, in the order of the labels; those of `options` come first.
    Raises:
        FileNotFoundError: no such layout in it.
        Fault: names that do not do.
    """
    from rotaware.datasets import DOTA, HRSC2016

    if options.classes is not None:
        classes = tuple(part.strip() for part in options.classes.split(",") if part.strip())
        if not classes or len(set(classes)) != len(classes):
            raise Fault(f"--classes: expected names that differ, got {options.classes!r}")
    if (Path(root) / "FullDataSet").is_dir():
        return HRSC2016(root, options.split or "trainval")
    with faults():
        return DOTA(root, options.split, version=options.data_version, classes=classes)


class TrainingImages:
    """The images that hold objects, as `train_detector` takes them."""

    def __init__(self, images: LabelledFolder) -> None:
        self.images = images
        objects = [images.objects(number) for number in range(len(images))]
        self.numbers = [number for number, each in enumerate(objects) if len(each.quads)]
        self.problems: dict[str, int] = {}
        for each in objects:
            for kind, count in each.problems.items():
                self.problems[kind] = self.problems.get(kind, 0) + count

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int, /) -> Sample:
        """One of them."""
        import torch

        from rotaware.detection import Sample

        found = self.images[self.numbers[number]]
        pixels = torch.from_numpy(found.image).permute(2, 0, 1)
        return Sample(pixels, torch.from_numpy(found.quads), torch.from_numpy(found.labels), found.name)


def annotations_of(images: LabelledFolder) -> dict[str, Annotations]:
    """Raw quads by image, as the evaluation takes them."""
    from rotaware.detection import Annotations

    found = {}
    for number in range(len(images)):
        each = images.objects(number)
        labels = tuple(images.classes[label] for label in each.labels)
        found[images.name(number)] = Annotations(each.quads, labels, each.difficult)
    return found


def detector_in(folder: str) -> Path:
    """The folder of a detector: itself, or the `best` or `final` of a run.

    Raises:
        Fault: none there.
    """
    for path in (Path(folder), Path(folder) / "best", Path(folder) / "final"):
        if (path / "config.json").is_file():
            return path
    raise Fault(f"{folder}: expected a detector (config.json, model.safetensors) or a run with one, found none",
                ExitCode.BAD_INPUT)  # fmt: skip
