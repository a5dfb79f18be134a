"""Labelled aerial images on disk, as the commands of detection open them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .messages import ExitCode, Fault, faults

if TYPE_CHECKING:
    from rotaware.datasets import AerialImage
    from rotaware.detection import Annotations, Sample


class Labelled(Protocol):
    """Images with objects, whatever their layout."""

    classes: tuple[str, ...]

    def __len__(self) -> int:
        """How many images."""

    def name(self, number: int) -> str:
        """Of an image."""

    def objects(self, number: int) -> Labels:
        """Of an image, without its pixels."""

    def __getitem__(self, number: int, /) -> AerialImage:
        """An image with its objects."""


class Labels(Protocol):
    """The objects of an image, and what was wrong with its labels, counted by kind."""

    @property
    def quads(self) -> object:
        """(n, 4, 2)."""

    @property
    def problems(self) -> Mapping[str, int]:
        """By kind."""


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """How a folder of labelled images is to be read."""
    parser.add_argument(
        "--split", metavar="NAME", help="sub-folder or list: train, val, trainval, test (default: ROOT)"
    )
    parser.add_argument(
        "--version", dest="data_version", choices=("1.0", "1.5", "2.0"), default="1.0", help="of DOTA (default 1.0)"
    )
    parser.add_argument("--classes", metavar="A,B,...", help="names of the classes, if they are not those of DOTA")


def labelled_images(root: str, options: argparse.Namespace, *, classes: Sequence[str] | None = None) -> Labelled:
    """The images below `root`: HRSC2016 if that is its layout, else DOTA's.

    Args:
        root: folder.
        options: of `add_data_options`.
        classes: names, in the order of the labels; those of `options` come first.
    Raises:
        FileNotFoundError: no such layout in it.
        Fault: names that do not do.
    """
    from rotaware.datasets import DOTA

    if options.classes is not None:
        classes = tuple(part.strip() for part in options.classes.split(",") if part.strip())
        if not classes or len(set(classes)) != len(classes):
            raise Fault(f"--classes: expected names that differ, got {options.classes!r}")
    with faults():
        return DOTA(root, options.split, version=options.data_version, classes=classes)


class TrainingImages:
    """The images that hold objects, as `train_detector` takes them."""

    def __init__(self, images: Labelled) -> None:
        self.images = images
        objects = [images.objects(number) for number in range(len(images))]
        self.numbers = [number for number, each in enumerate(objects) if len(each.quads)]  # type: ignore[arg-type]
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


def annotations_of(images: Labelled) -> dict[str, Annotations]:
    """Raw quads by image, as the evaluation takes them."""
    from rotaware.detection import Annotations

    found = {}
    for number in range(len(images)):
        each = images.objects(number)
        labels = tuple(images.classes[label] for label in each.labels)  # type: ignore[attr-defined]
        found[images.name(number)] = Annotations(each.quads, labels, each.difficult)  # type: ignore[attr-defined,arg-type]
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
