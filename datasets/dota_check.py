"""What is in a folder of labelled aerial images, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rotaware.geo.boxes import quads_to_boxes

from .aerial_images import LabelledFolder, Labels, read_image
from .dota import DOTA

# Pixels of the shorter side, below which nothing can be learnt.
TINY = 2.0
# Degrees that a corner may be off a right angle.
SLANTED = 10.0


@dataclass(frozen=True)
class LabelledReport:
    """What a folder of labelled images holds, and what is wrong with it."""

    images: int
    # Without any object.
    empty: int
    objects: Mapping[str, int]  # by class
    difficult: int
    # Of the sides of images, pixels: least and most.
    sides: tuple[int, int]
    # Objects, or lines of labels, by what is odd with them; they can be trained on, but for those left out.
    oddities: Mapping[str, int]
    # Files that cannot be used: "missing" or "damaged", and a line that names them.
    problems: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether every file can be used."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"ok": self.ok, **asdict(self)}


def check_labelled(source: LabelledFolder, *, on_image: Callable[[int, int], None] | None = None) -> LabelledReport:
    """Read every image and every label.

    Oddities, beside those of `read_labels`: "centre outside the image", "partly outside the image", "shorter side below
    2 pixels", "corner more than 10 degrees off a right angle", "same object twice", "image without labels".

    Args:
        source: `DOTA`, `HRSC2016`, or others like them.
        on_image: gets how many images are done, and of how many.
    """
    objects: Counter[str] = Counter(dict.fromkeys(source.classes, 0))
    oddities: Counter[str] = Counter()
    problems: list[tuple[str, str]] = []
    empty, difficult, sides = 0, 0, list[int]()
    for number in range(len(source)):
        try:
            found = source.objects(number)
            oddities.update(found.problems)
            height, width = read_image(source.images[number]).shape[:2]
        except FileNotFoundError as error:
            problems.append(("missing", str(error)))
        except (OSError, ValueError) as error:
            problems.append(("damaged", str(error)))
        else:
            sides += [width, height]
            empty += len(found.quads) == 0
            difficult += int(found.difficult.sum())
            objects.update(source.classes[label] for label in found.labels)
            oddities.update({kind: count for kind, count in _odd(found, (width, height)).items() if count})
        if on_image is not None:
            on_image(number + 1, len(source))
    if isinstance(source, DOTA):
        unlabelled, orphans = _unpaired(source)
        oddities.update({"image without labels": unlabelled} if unlabelled else {})
        problems += [("missing", f"{path}: expected an image of this name, found none") for path in orphans]
    return LabelledReport(
        len(source),
        empty,
        dict(objects),
        difficult,
        (min(sides, default=0), max(sides, default=0)),
        dict(sorted(oddities.items())),
        tuple(problems),
    )


def _unpaired(source: DOTA) -> tuple[int, list[str]]:
    """How many images have no labels, and labels that have no image."""
    if source.labels is None:
        return len(source), []
    images = {path.stem for path in source.images}
    labels = {path.stem: path for path in source.labels.glob("*.txt")}
    return len(images - set(labels)), [str(labels[name]) for name in sorted(set(labels) - images)]


def _odd(found: Labels, extent: tuple[int, int]) -> dict[str, int]:
    quads = found.quads
    if len(quads) == 0:
        return {}
    boxes = quads_to_boxes(torch.from_numpy(quads)).numpy()
    centre_out = ((boxes[:, :2] < 0) | (boxes[:, :2] >= extent)).any(axis=1)
    partly = ((quads < 0) | (quads > extent)).any(axis=(1, 2)) & ~centre_out
    same = len(quads) - len(np.unique(np.column_stack([quads.reshape(-1, 8), found.labels]), axis=0))
    return {
        "centre outside the image": int(centre_out.sum()),
        "partly outside the image": int(partly.sum()),
        f"shorter side below {TINY:g} pixels": int((boxes[:, 2:4].min(axis=1) < TINY).sum()),
        f"corner more than {SLANTED:g} degrees off a right angle": int((_slant(quads) > SLANTED).sum()),
        "same object twice": same,
    }


def _slant(quads: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) degrees that the worst corner is off a right angle."""
    edges = np.roll(quads, -1, axis=1) - quads
    before = np.roll(edges, 1, axis=1)
    lengths = np.linalg.norm(edges, axis=2) * np.linalg.norm(before, axis=2)
    cosine = (edges * before).sum(axis=2) / np.maximum(lengths, 1e-12)
    return np.degrees(np.arcsin(np.clip(np.abs(cosine), 0, 1))).max(axis=1)
