"""HRSC2016: ships from above with oriented boxes (Liu et al., ICPRAM 2017).

`FullDataSet/AllImages/<id>.bmp` has its ships in `FullDataSet/Annotations/<id>.xml`; `ImageSets/<split>.txt` lists ids.
"""

from __future__ import annotations

import math
from collections import Counter
from os import PathLike
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch

from rotaware.geo.boxes import boxes_to_quads

from .aerial_images import IMAGE_ENDINGS, LabelledFolder, Labels

_BOX = ("mbox_cx", "mbox_cy", "mbox_w", "mbox_h", "mbox_ang")


class HRSC2016(LabelledFolder):
    """Images of a split, with the one class of the standard task, ship.

    Args:
        root: folder with `FullDataSet` and `ImageSets`.
        split: "train", "val", "trainval" or "test".

    The first edge of a quad is that which the bow lies at, where the annotation says where it is.

    Raises:
        FileNotFoundError: no such folder or list, or an image that the list names is missing.
    """

    classes = ("ship",)

    def __init__(self, root: str | PathLike[str], split: str = "trainval") -> None:
        root = Path(root)
        listed, images = root / "ImageSets" / f"{split}.txt", root / "FullDataSet" / "AllImages"
        for path in (listed, images):
            if not path.exists():
                raise FileNotFoundError(
                    f"{root}: expected ImageSets/{split}.txt and FullDataSet/AllImages, found no {path}"
                )
        files = {path.stem: path for path in images.iterdir() if path.suffix.lower() in IMAGE_ENDINGS}
        names = listed.read_text(encoding="utf-8-sig").split()
        missing = [name for name in names if name not in files]
        if missing or not names:
            raise FileNotFoundError(f"{listed}: expected ids of images in {images}, got {missing[:1] or 'none'}")
        self.images = [files[name] for name in names]
        self.labels = root / "FullDataSet" / "Annotations"

    def objects(self, number: int) -> Labels:
        """Of an image, without reading its pixels.

        Raises:
            ValueError: a file that is not XML.
        """
        return read_hrsc_labels(self.labels / f"{self.name(number)}.xml")


def read_hrsc_labels(path: str | PathLike[str]) -> Labels:
    """The ships of an annotation; those without a box are counted as "not numbers", those without area as "no area".

    Raises:
        FileNotFoundError: no such file.
        ValueError: not XML.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation")
    try:
        tree = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: expected XML, got {error}") from error
    boxes, bows, difficult = [], [], []
    problems: Counter[str] = Counter()
    for each in tree.iter("HRSC_Object"):
        box = [_number(each, name) for name in _BOX]
        if not all(map(math.isfinite, box)):
            problems["not numbers"] += 1
        elif min(box[2:4]) <= 0:
            problems["no area"] += 1
        else:
            boxes.append(box)
            bows.append([_number(each, "header_x"), _number(each, "header_y")])
            difficult.append(_number(each, "difficult") == 1)
    found = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    quads = boxes_to_quads(torch.from_numpy(found)).numpy()
    return Labels(
        _from_the_bow(quads, found, np.array(bows, dtype=np.float64).reshape(-1, 2)),
        np.zeros(len(found), dtype=np.int64),
        np.array(difficult, dtype=bool),
        dict(problems),
    )


def _number(element: ElementTree.Element, name: str) -> float:
    try:
        return float(element.findtext(name, "nan"))
    except ValueError:
        return math.nan


def _from_the_bow(quads: np.ndarray, boxes: np.ndarray, bows: np.ndarray) -> np.ndarray:
    """Corners in turn so that the first edge is the short one at the bow; as they are, where that is not known."""
    ahead = np.stack([np.cos(boxes[:, 4]), np.sin(boxes[:, 4])], axis=1)
    side = ((bows - boxes[:, :2]) * ahead).sum(axis=1)
    # The edge from the second to the third corner lies along the angle, that from the fourth to the first against it.
    turned = np.select([side > 0, side < 0], [1, 3], 0)
    order = (np.arange(4) + turned[:, None]) % 4
    return np.take_along_axis(quads, order[:, :, None], axis=1)
