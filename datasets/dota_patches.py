"""Large images with their objects, cut into patches in the layout of DOTA, with an index of where each comes from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rotaware.geo.files import write_whole

from .aerial_images import LabelledFolder
from .dota import write_classes, write_labels
from .dota_split import SplitOptions, Window, shares_inside, windows

INDEX = "index.json"
# What lies outside the image: the mean colour of ImageNet.
_FILL = (124, 116, 104)
# What splitting tools write for objects that are cut.
_CUT = 2


@dataclass(frozen=True)
class SplitReport:
    """What became of the images and their objects."""

    images: int
    patches: int
    # In the labels, and in the patches, where one can be several times.
    objects: int
    placed: int
    # Objects that no patch holds, by image and class.
    lost: Mapping[str, Mapping[str, int]]
    # Images that could not be read, with the reason.
    damaged: tuple[str, ...]
    # Lines of labels by kind of damage.
    problems: Mapping[str, int]


def split_dota(
    source: LabelledFolder,
    root: str | PathLike[str],
    options: SplitOptions | None = None,
    *,
    keep_empty: bool = False,
    on_image: Callable[[int, int], None] | None = None,
) -> SplitReport:
    """Cut images into patches: `images`, `labelTxt`, `classes.txt` and `index.json` in a folder.

    Patches hold the pixels as they are, also at other scales, where the windows are larger or smaller; they are named
    `<image>__<size>__<left>___<top>`, as in mmrotate. Objects are not cut; those of which a part is outside are marked
    by a difficulty of 2.

    Args:
        source: images with objects.
        root: folder to write to.
        options: how images are cut.
        keep_empty: write patches without objects too, which is what a test split needs.
        on_image: gets how many images are done, and of how many.
    Returns:
        What became of everything; a damaged image is named there and does not stop the others.
    """
    options, root = options or SplitOptions(), Path(root)
    index: dict[str, dict[str, Any]] = {}
    objects, placed = 0, 0
    lost: dict[str, dict[str, int]] = {}
    damaged: list[str] = []
    problems: Counter[str] = Counter()
    for number in range(len(source)):
        try:
            problems.update(source.objects(number).problems)
            each = source[number]
        except (OSError, ValueError) as error:
            damaged.append(str(error))
            continue
        chosen = windows(each.image.shape[1], each.image.shape[0], options)
        shares = shares_inside(each.quads, chosen)
        inside = shares >= options.inside
        objects += len(each.quads)
        missed = Counter(source.classes[label] for label in each.labels[~inside.any(axis=1)])
        if missed:
            lost[each.name] = dict(missed)
        for name, window, column in _patches(each.name, chosen):
            rows = inside[:, column]
            if not (keep_empty or rows.any()):
                continue
            placed += int(rows.sum())
            quads = each.quads[rows] - [window.left, window.top]
            hard = np.where(shares[rows, column] < 1 - 1e-9, _CUT, each.difficult[rows].astype(np.int64))
            labels = [source.classes[label] for label in each.labels[rows]]
            write_whole(root / "labelTxt" / f"{name}.txt", write_labels(quads, labels, hard.tolist()))
            patch = Image.fromarray(cut_out(each.image, window))
            write_whole(root / "images" / f"{name}.png", partial(patch.save, format="PNG"))
            index[name] = {
                "image": each.name, "left": window.left, "top": window.top, "rate": 1.0, "size": window.size
            }  # fmt: skip
        if on_image is not None:
            on_image(number + 1, len(source))
    if index:
        write_classes(root, source.classes)
        # Last: with it the folder is complete.
        write_whole(root / INDEX, json.dumps({"patches": index}, indent=1) + "\n")
    return SplitReport(len(source), len(index), objects, placed, lost, tuple(damaged), dict(problems))


def _patches(image: str, chosen: list[Window]) -> Iterator[tuple[str, Window, int]]:
    """Names of patches; scales that give the same window give it once."""
    seen = set()
    for column, window in enumerate(chosen):
        name = f"{image}__{window.size}__{window.left}___{window.top}"
        if name not in seen:
            seen.add(name)
            yield name, window, column


def cut_out(image: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    """(size, size, 3) pixels of a window; beyond the image, to the right and below, the mean colour.

    >>> cut_out(np.zeros((3, 4, 3), np.uint8), Window(2, 0, 3, 1.0))[2].tolist()
    [[0, 0, 0], [0, 0, 0], [124, 116, 104]]
    """
    part = image[window.top : window.top + window.size, window.left : window.left + window.size]
    patch = np.empty((window.size, window.size, 3), dtype=np.uint8)
    patch[:] = _FILL
    patch[: part.shape[0], : part.shape[1]] = part
    return patch
