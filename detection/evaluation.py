"""The evaluation of DOTA: raw quads in whole images, as the devkit and the server do it.

Per class, detections are taken by descending score. Each is compared with the object of its image that it overlaps
most; above the threshold it finds that object, unless a better one had found it: then it is wrong. Difficult objects
count neither way in version 1.0, and as all others in 1.5 and 2.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from rotaware.geo.checks import require_choice
from rotaware.geo.polygons import quad_iou

from .average_precision import Array, Rule, average_precision
from .detection_files import NONE, ClassDetections
from .merging import patch_origin

Version = str
VERSIONS = ("1.0", "1.5", "2.0")
# COCO's thresholds.
THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
# Objects by the square root of their area in pixels, and by the ratio of their sides.
SIZES = {"small": (0.0, 32.0), "medium": (32.0, 96.0), "large": (96.0, np.inf)}
ASPECTS = {"1 to 2": (1.0, 2.0), "2 to 4": (2.0, 4.0), "above 4": (4.0, np.inf)}


@dataclass(frozen=True)
class Annotations:
    """The objects of an image."""

    quads: Array  # (n, 4, 2) as labelled
    labels: tuple[str, ...]
    difficult: Array  # (n,) bool


@dataclass(frozen=True)
class ClassResult:
    """What became of one class; shares in [0, 1], None where there are no objects."""

    objects: int  # that count
    detections: int
    ap50: float | None
    ap75: float | None
    ap50_95: float | None
    ap50_voc12: float | None
    # AP50 of objects of a range alone; detections that find an object of another range are left out.
    by_size: Mapping[str, float | None] = field(default_factory=dict)
    by_aspect: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class DetectionResult:
    """An evaluation; means are over the classes that have objects."""

    version: Version
    classes: Mapping[str, ClassResult]

    def mean(self, name: str) -> float | None:
        """Mean of `ap50`, `ap75`, `ap50_95` or `ap50_voc12`."""
        values = [getattr(each, name) for each in self.classes.values()]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    @property
    def without_objects(self) -> tuple[str, ...]:
        """Classes that no mean counts."""
        return tuple(name for name, each in self.classes.items() if each.ap50 is None)


def evaluate_detections(
    detections: Mapping[str, ClassDetections],
    annotations: Mapping[str, Annotations],
    classes: Sequence[str],
    *,
    version: Version = "1.0",
    patches: bool = False,
) -> DetectionResult:
    """Score detections of whole images.

    Args:
        detections: by class; classes that are missing have none.
        annotations: by image, also of images without objects.
        classes: names to score.
        version: of DOTA, for the rule of difficult objects.
        patches: allow images whose names look like patches: figures of patches are not those of images.
    Raises:
        ValueError: a class or an image that is not known, or names of patches.
    """
    require_choice("version", version, VERSIONS)
    unknown = sorted(set(detections) - set(classes))
    if unknown:
        raise ValueError(f"detections: expected classes among {', '.join(classes)}, got {', '.join(unknown)}")
    if not patches:
        names = [*annotations, *(image for each in detections.values() for image in each.images)]
        odd = next((name for name in names if patch_origin(name) is not None), None)
        if odd is not None:
            raise ValueError(f"image {odd!r}: expected whole images, got a patch; merge patches, or ask for patches")
    return DetectionResult(
        version,
        {name: _of_class(name, detections.get(name, NONE), annotations, version == "1.0") for name in classes},
    )


@dataclass(frozen=True)
class _Matches:
    """Best overlap of each detection of a class, and the object it is with, numbered over all images."""

    overlap: Array  # (N,)
    owner: Array  # (N,) -1 where the image has no object of the class


def _of_class(
    name: str, detections: ClassDetections, annotations: Mapping[str, Annotations], spare_difficult: bool
) -> ClassResult:
    missing = next((image for image in dict.fromkeys(detections.images) if image not in annotations), None)
    if missing is not None:
        raise ValueError(f"detections of {name}: expected images with annotations, got {missing!r}")
    quads, difficult, start = [np.zeros((0, 4, 2))], [np.zeros(0, dtype=bool)], {}
    count = 0
    for image, each in annotations.items():
        own = np.array([label == name for label in each.labels], dtype=bool)
        start[image] = count
        quads.append(each.quads[own])
        difficult.append(each.difficult[own] & spare_difficult)
        count += int(own.sum())
    objects, spared = np.concatenate(quads), np.concatenate(difficult)
    total = int((~spared).sum())
    matches = _matched(detections, objects, start, count)
    if total == 0:
        return ClassResult(0, len(detections), None, None, None, None)
    order = np.argsort(-detections.scores, kind="stable")

    def ap(threshold: float, left_out: Array, rule: Rule = "voc07") -> float | None:
        remaining = int((~left_out).sum())
        if remaining == 0:
            return None
        right, counts = _judged(matches, order, threshold, left_out)
        return average_precision(detections.scores[counts], right[counts], remaining, rule=rule)

    sides = np.linalg.norm(objects - np.roll(objects, -1, axis=1), axis=2)
    sides = np.stack([sides[:, 0] + sides[:, 2], sides[:, 1] + sides[:, 3]], axis=1) / 2
    size, aspect = np.sqrt(sides.prod(axis=1)), sides.max(axis=1) / np.maximum(sides.min(axis=1), 1e-9)
    at = {threshold: ap(threshold, spared) for threshold in THRESHOLDS}
    every = [value for value in at.values() if value is not None]
    return ClassResult(
        objects=total,
        detections=len(detections),
        ap50=at[0.5],
        ap75=at[0.75],
        ap50_95=float(np.mean(every)),
        ap50_voc12=ap(0.5, spared, "voc12"),
        by_size={key: ap(0.5, spared | (size < low) | (size >= high)) for key, (low, high) in SIZES.items()},
        by_aspect={key: ap(0.5, spared | (aspect < low) | (aspect >= high)) for key, (low, high) in ASPECTS.items()},
    )


def _matched(detections: ClassDetections, objects: Array, start: Mapping[str, int], count: int) -> _Matches:
    """Image by image, so that only objects of the same image are compared."""
    overlap, owner = np.zeros(len(detections)), np.full(len(detections), -1)
    rows_of: dict[str, list[int]] = {}
    for row, image in enumerate(detections.images):
        rows_of.setdefault(image, []).append(row)
    ends = dict(zip(start, [*list(start.values())[1:], count], strict=True))
    for image, rows in rows_of.items():
        own = objects[start[image] : ends[image]]
        if len(own) == 0:
            continue
        iou = quad_iou(torch.from_numpy(detections.quads[rows]), torch.from_numpy(own)).numpy()
        overlap[rows] = iou.max(axis=1)
        owner[rows] = start[image] + iou.argmax(axis=1)
    return _Matches(overlap, owner)


def _judged(matches: _Matches, order: Array, threshold: float, left_out: Array) -> tuple[Array, Array]:
    """Which detections are right, and which count: not those that find an object that is left out."""
    finds = (matches.overlap > threshold) & (matches.owner >= 0)
    counts = ~finds
    counts[finds] = ~left_out[matches.owner[finds]]
    right = np.zeros(len(order), dtype=bool)
    hits = order[finds[order] & counts[order]]
    # The best detection of an object is right, all others of it are not.
    _, first = np.unique(matches.owner[hits], return_index=True)
    right[hits[first]] = True
    return right, counts
