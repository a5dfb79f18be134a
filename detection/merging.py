"""Detections in patches become detections in whole images.

Overlapping windows see an object twice, and one of them may see only a part of it. Of detections of a class that
overlap the better one stays: by score as the DOTA devkit and mmrotate do it, or with a rule for those at the borders of
patches, whose objects may be cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rotaware.geo.files import write_whole
from rotaware.geo.nms import nms_quads
from rotaware.geo.polygons import quad_iou

from .detection_files import Array, ClassDetections

# original__rate__x___y of the DOTA devkit, original__size__x___y of mmrotate.
_PATCH = re.compile(r"^(?P<image>.+)__(?P<scale>\d+(?:\.\d+)?)__(?P<x>-?\d+)___(?P<y>-?\d+)$")
# Whole numbers below are rates: no window is so small.
_LEAST_SIZE = 16
# Rows whose share in all others is calculated at once.
_ROWS = 512


@dataclass(frozen=True)
class PatchOrigin:
    """Where a patch comes from: its pixel (x, y) is (left + x / rate, top + y / rate) of the image.

    Args:
        image: name.
        left, top: of the window, in pixels of the image.
        rate: pixels of the patch per pixel of the image.
        size: edge of the window in pixels of the image; None if not known.
    """

    image: str
    left: float
    top: float
    rate: float = 1.0
    size: float | None = None


@dataclass(frozen=True)
class EdgeRule:
    """What becomes of detections that reach a border of their patch where the image goes on.

    Args:
        margin: pixels of the patch; a detection that ends so near the border, or beyond, may be cut.
        weight: what its score counts when it is compared with others, which see the object whole.
        covered: it also goes when a better one that is not cut covers more than this share of it, for the IoU of a
            part with the whole is small.
    """

    margin: float = 2.0
    weight: float = 0.5
    covered: float = 0.5

    def __post_init__(self) -> None:
        if not (self.margin >= 0 and 0 < self.weight <= 1 and 0 <= self.covered <= 1):
            raise ValueError(
                f"margin, weight, covered: expected at least 0, and shares, got {self.margin}, {self.weight} "
                f"and {self.covered}"
            )


def patch_origin(name: str) -> PatchOrigin | None:
    """What the name of a patch tells; None if it is not that of a patch.

    A number with a point, or a small one, is a rate (DOTA devkit, which scales the image before it is cut), others are
    the size of the window (mmrotate, which cuts the image as it is).

    >>> patch_origin("P1234__0.5__1200___0")
    PatchOrigin(image='P1234', left=2400.0, top=0.0, rate=0.5, size=None)
    >>> patch_origin("P1234__1024__824___0").size, patch_origin("P1234")
    (1024.0, None)
    """
    found = _PATCH.match(name)
    if found is None or not (scale := float(found["scale"])):
        return None
    x, y = float(found["x"]), float(found["y"])
    if "." in found["scale"] or scale < _LEAST_SIZE:
        return PatchOrigin(found["image"], x / scale, y / scale, scale)
    return PatchOrigin(found["image"], x, y, 1.0, scale)


def write_patch_index(path: str | PathLike[str], origins: Mapping[str, PatchOrigin]) -> None:
    """Origins of patches by name, as JSON that `read_patch_index` reads."""
    write_whole(path, json.dumps({"patches": {name: asdict(each) for name, each in origins.items()}}, indent=1) + "\n")


def read_patch_index(path: str | PathLike[str]) -> dict[str, PatchOrigin]:
    """Origins of patches by name: `{"patches": {name: {"image", "left", "top", "rate", "size"}}}`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: something else in it, with the name of the patch.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["patches"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected JSON with an object 'patches', got {error!r}") from error
    found = {}
    for name, entry in entries:
        try:
            image, size = entry["image"], entry.get("size")
            left, top, rate = (float(entry[key]) for key in ("left", "top", "rate"))
            size = None if size is None else float(size)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}, patch {name!r}: expected image, left, top, rate and size") from error
        if not isinstance(image, str) or not np.isfinite([left, top, rate]).all() or rate <= 0:
            raise ValueError(f"{path}, patch {name!r}: expected a name, finite numbers and a positive rate")
        found[name] = PatchOrigin(image, left, top, rate, size)
    return found


def merge_patches(
    detections: Mapping[str, ClassDetections],
    *,
    threshold: float = 0.3,
    edges: EdgeRule | None = None,
    origins: Mapping[str, PatchOrigin] | None = None,
) -> dict[str, ClassDetections]:
    """Detections of patches as detections of images, where windows overlap without their doubles.

    Args:
        detections: by class, images named as their patches.
        threshold: IoU of quads of a class above which the worse goes: 0.3 in the DOTA devkit, 0.1 in mmrotate. Equal
            scores keep the order of the lines, where the devkit leaves it to an unstable sort.
        edges: rule for objects that may be cut; None goes by scores alone, as the devkit.
        origins: of all patches by name; None reads them off the names.
    Returns:
        By class, image by image, best first.
    Raises:
        ValueError: a patch whose origin is not known, or not its size though `edges` are asked for.
    """
    return {name: _merged(each, threshold, edges, origins) for name, each in detections.items()}


def _merged(
    detections: ClassDetections,
    threshold: float,
    edges: EdgeRule | None,
    origins: Mapping[str, PatchOrigin] | None,
) -> ClassDetections:
    known = {name: number for number, name in enumerate(dict.fromkeys(detections.images))}
    places = [_place(name, edges, origins) for name in known]
    patch = np.array([known[name] for name in detections.images], dtype=np.int64)
    corner = np.array([(place.left, place.top) for place in places]).reshape(-1, 1, 2)
    rate = np.array([place.rate for place in places]).reshape(-1, 1, 1)
    quads = corner[patch] + detections.quads / rate[patch]
    whole = ClassDetections(tuple(places[number].image for number in patch), detections.scores, quads)
    cut = None
    if edges is not None:
        every = places if origins is None else [*places, *origins.values()]
        cut = torch.from_numpy(at_inner_borders(quads, patch, every, edges.margin))
    rows_of: dict[str, list[int]] = {}
    for row, image in enumerate(whole.images):
        rows_of.setdefault(image, []).append(row)
    best = [np.zeros(0, dtype=np.int64)]
    for rows in map(np.array, rows_of.values()):
        kept = without_doubles(
            torch.from_numpy(quads[rows]),
            torch.from_numpy(detections.scores[rows]),
            torch.zeros(len(rows), dtype=torch.int64),
            threshold,
            edges,
            None if cut is None else cut[rows],
        )
        best.append(rows[kept.numpy()])
    return whole.rows(np.concatenate(best))


def _place(name: str, edges: EdgeRule | None, origins: Mapping[str, PatchOrigin] | None) -> PatchOrigin:
    place = patch_origin(name) if origins is None else origins.get(name)
    if place is None:
        raise ValueError(f"patch {name!r}: expected one whose place in an image is known")
    if edges is not None and place.size is None:
        raise ValueError(f"patch {name!r}: expected a known size, without which its borders are not known")
    return place


def at_inner_borders(quads: Array, patch: Array, origins: Sequence[PatchOrigin], margin: float) -> Array:
    """(N,) bool: whether a detection reaches a border of its patch beyond which there is another patch.

    Args:
        quads: (N, 4, 2) pixels of the image.
        patch: (N,) number of the origin of each.
        origins: those, and others of the same images, whose sizes tell how far the images go; at each scale alone, for
            what is padded differs.
        margin: pixels of the patch.
    """
    windows = np.array([(o.left, o.top, o.left + (o.size or 0.0), o.top + (o.size or 0.0)) for o in origins])
    numbers: dict[tuple[str, float], int] = {}
    group = np.array([numbers.setdefault((o.image, o.rate), len(numbers)) for o in origins], dtype=np.int64)
    low, high = np.full((len(numbers), 2), np.inf), np.full((len(numbers), 2), -np.inf)
    windows = windows.reshape(-1, 4)
    np.minimum.at(low, group, windows[:, :2])
    np.maximum.at(high, group, windows[:, 2:])
    inner = np.concatenate([windows[:, :2] > low[group], windows[:, 2:] < high[group]], axis=1)
    reach = (margin / np.array([o.rate for o in origins]))[patch, None]
    first = quads.min(axis=1) < windows[patch, :2] + reach
    last = quads.max(axis=1) > windows[patch, 2:] - reach
    return (np.concatenate([first, last], axis=1) & inner[patch]).any(axis=1)


def without_doubles(
    quads: Tensor, scores: Tensor, labels: Tensor, threshold: float, edges: EdgeRule | None, cut: Tensor | None
) -> Tensor:
    """Rows that stay when the better of overlapping detections of a label does, best first.

    Args:
        quads: (N, 4, 2) of one image.
        scores: (N,) in [0, 1].
        labels: (N,) int64.
        threshold: IoU above which the worse goes.
        edges: what cut detections are worth; None if all count alike.
        cut: (N,) bool, needed for `edges`.
    """
    if edges is None or cut is None:
        return nms_quads(quads, scores, threshold, labels=labels)
    rank = torch.where(cut, edges.weight * scores, scores)
    kept = nms_quads(quads, rank, threshold, labels=labels)
    part, whole = kept[cut[kept]], kept[~cut[kept]]
    gone = [torch.zeros(0, dtype=torch.bool)]
    for rows in part.split(_ROWS):
        inside = quad_iou(quads[rows], quads[whole], mode="iof") > edges.covered
        better = (labels[rows, None] == labels[whole]) & (rank[rows, None] <= rank[whole])
        gone.append((inside & better).any(dim=1))
    left = torch.cat([whole, part[~torch.cat(gone)]]).sort().values
    return left[scores[left].argsort(descending=True, stable=True)]
