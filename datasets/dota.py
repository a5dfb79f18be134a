"""DOTA: aerial images with oriented objects (Xia et al., CVPR 2018; versions 1.0, 1.5 and 2.0).

An image `images/P0003.png` has its objects in `labelTxt/P0003.txt`, one a line: four corners, class, and whether it is
difficult. The images are for academic use only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rotaware.geo.files import write_whole
from rotaware.geo.polygons import crosses_itself, order_quads, polygon_area

from .aerial_images import IMAGE_ENDINGS, AerialImage, LabelledFolder, Labels

_FIRST = (
    "plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle", "ship",
    "tennis-court", "basketball-court", "storage-tank", "soccer-ball-field", "roundabout", "harbor", "swimming-pool",
    "helicopter",
)  # fmt: skip
DOTA_CLASSES: Mapping[str, tuple[str, ...]] = {
    "1.0": _FIRST,
    "1.5": (*_FIRST, "container-crane"),
    "2.0": (*_FIRST, "container-crane", "airport", "helipad"),
}
# Names of the classes in the order of their labels, one a line: what a folder of other classes says about itself.
CLASSES = "classes.txt"
_HEADERS = ("imagesource:", "gsd:")
# Folders of labels beside `images`, the first that is there.
_LABELS = ("labelTxt", "labelTxt-v{version}/labelTxt", "labelTxt-v{version}", "labels", "annfiles")


def read_labels(path: str | PathLike[str], classes: Sequence[str]) -> Labels:
    """The objects of a label file of DOTA, with or without its header.

    Nothing in it makes it fail: lines that hold no object are counted by kind. "short": too few words; "not numbers":
    corners that are not finite numbers; "unknown class <name>"; "no area": all corners on a line; "untangled": edges
    that cross, corners put in order by angle.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a text.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such labels")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text, got {error}") from error
    numbers = {name: number for number, name in enumerate(classes)}
    quads, labels, difficult = [], [], []
    problems: Counter[str] = Counter()
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith(_HEADERS):
            continue
        if len(words) < 9:
            problems["short"] += 1
            continue
        try:
            corners = np.array([float(word) for word in words[:8]])
        except ValueError:
            corners = np.full(8, np.nan)
        if not np.isfinite(corners).all():
            problems["not numbers"] += 1
        elif words[8] not in numbers:
            problems[f"unknown class {words[8]}"] += 1
        else:
            quads.append(corners.reshape(4, 2))
            labels.append(numbers[words[8]])
            # 2 is how splitting tools mark what they cut.
            difficult.append(words[9:10] not in ([], ["0"]))
    stacked = np.array(quads, dtype=np.float64).reshape(-1, 4, 2)
    stacked, kept = _untangled(stacked, problems)
    return Labels(
        stacked[kept],
        np.array(labels, dtype=np.int64)[kept],
        np.array(difficult, dtype=bool)[kept],
        dict(sorted(problems.items())),
    )


def _untangled(quads: NDArray[np.float64], problems: Counter[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Quads whose edges do not cross, and which of them have an area."""
    given = torch.from_numpy(quads)
    crossed = crosses_itself(given)
    if bool(crossed.any()):
        problems["untangled"] += int(crossed.sum())
        given = torch.where(crossed[:, None, None], order_quads(given), given)
    flat = polygon_area(given).abs() < 1e-6
    if bool(flat.any()):
        problems["no area"] += int(flat.sum())
    return given.numpy(), (~flat).numpy()


class DOTA(LabelledFolder):
    """Whole images of a split.

    Args:
        root: folder with `images` and labels, or with a folder per split that holds them.
        split: "train", "val", "test", or None where `root` holds the images itself.
        version: of the classes, and of the labels where there are several.
        classes: other names, in the order of the labels; None takes those of `classes.txt` in `root`, if it is there,
            or else of the version.

    Images without a label file have no objects, as those of the test split.

    Raises:
        FileNotFoundError: no images, with the folders that were looked into.
        ValueError: an unknown version.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        split: str | None = None,
        *,
        version: str = "1.0",
        classes: Sequence[str] | None = None,
    ) -> None:
        if version not in DOTA_CLASSES:
            raise ValueError(f"version: expected one of {', '.join(DOTA_CLASSES)}, got {version!r}")
        self.version = version
        listed = Path(root) / CLASSES
        if classes is None:
            classes = listed.read_text(encoding="utf-8").split() if listed.is_file() else DOTA_CLASSES[version]
        self.classes = tuple(classes)
        folder = Path(root) if split is None else Path(root) / split
        images = folder / "images"
        if not images.is_dir():
            raise FileNotFoundError(f"{folder}: expected a folder images in it, found none")
        self.images = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
        if not self.images:
            raise FileNotFoundError(f"{images}: expected files ending in {', '.join(IMAGE_ENDINGS)}, found none")
        names = [folder / each.format(version=version) for each in _LABELS]
        self.labels = next((each for each in names if each.is_dir()), None)

    def objects(self, number: int) -> Labels:
        """Of an image, without reading its pixels."""
        file = None if self.labels is None else self.labels / f"{self.name(number)}.txt"
        if file is None or not file.is_file():
            return Labels(np.zeros((0, 4, 2)), np.zeros(0, np.int64), np.zeros(0, bool), {})
        return read_labels(file, self.classes)


def write_labels(quads: NDArray[np.float64], labels: Sequence[str], difficult: Sequence[int]) -> str:
    """The text of a label file.

    >>> square = np.array([[[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]])
    >>> write_labels(square, ["ship"], [0])
    '0.0 0.0 2.0 0.0 2.0 2.0 0.0 2.0 ship 0\\n'
    """
    return "".join(
        f"{' '.join(f'{value:.1f}' for value in quad.ravel())} {name} {int(hard)}\n"
        for quad, name, hard in zip(quads, labels, difficult, strict=True)
    )


def write_dota(root: str | PathLike[str], images: Iterable[AerialImage], classes: Sequence[str]) -> int:
    """Images, labels and `classes.txt` in the layout of DOTA; files of the same names are replaced.

    Args:
        root: folder, made if it does not exist.
        images: any number of them, one held at a time.
        classes: names of the labels.
    Returns:
        How many were written.
    """
    root, count = Path(root), 0
    for each in images:
        names = [classes[label] for label in each.labels]
        picture = Image.fromarray(each.image)
        write_whole(root / "images" / f"{each.name}.png", partial(picture.save, format="PNG"))
        write_whole(root / "labelTxt" / f"{each.name}.txt", write_labels(each.quads, names, each.difficult.tolist()))
        count += 1
    write_classes(root, classes)
    return count


def write_classes(root: str | PathLike[str], classes: Sequence[str]) -> None:
    """`classes.txt`, from which `DOTA` takes its classes."""
    write_whole(Path(root) / CLASSES, "".join(f"{name}\n" for name in classes))
