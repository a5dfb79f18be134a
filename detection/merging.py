"""Detections in patches become detections in whole images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from rotaware.geo.nms import nms_quads

from .detection_files import Array, ClassDetections

# original__rate__x___y of the DOTA devkit, original__size__x___y of mmrotate.
_PATCH = re.compile(r"^(?P<image>.+)__(?P<scale>\d+(?:\.\d+)?)__(?P<x>-?\d+)___(?P<y>-?\d+)$")


@dataclass(frozen=True)
class PatchOrigin:
    """Where a patch comes from: pixel (x, y) of the patch is ((x + left) / rate, (y + top) / rate) of the image."""

    image: str
    left: float
    top: float
    rate: float = 1.0


def patch_origin(name: str) -> PatchOrigin | None:
    """What the name of a patch tells; None if it is not that of a patch.

    A number with a point is a rate (DOTA devkit, which scales the image before it is cut), a whole one the size of the
    window (mmrotate, which cuts the image as it is).

    >>> patch_origin("P1234__0.5__2400___0")
    PatchOrigin(image='P1234', left=2400.0, top=0.0, rate=0.5)
    >>> patch_origin("P1234__1024__824___0").rate, patch_origin("P1234")
    (1.0, None)
    """
    found = _PATCH.match(name)
    if found is None:
        return None
    rate = float(found["scale"]) if "." in found["scale"] or float(found["scale"]) < 16 else 1.0
    return PatchOrigin(found["image"], float(found["x"]), float(found["y"]), rate)


def merge_patches(
    detections: Mapping[str, ClassDetections],
    *,
    threshold: float = 0.3,
    origins: Mapping[str, PatchOrigin] | None = None,
) -> dict[str, ClassDetections]:
    """Detections of patches as detections of images, where windows overlap without their doubles.

    Args:
        detections: by class, images named as their patches.
        threshold: IoU of quads of a class above which the worse goes: 0.3 in the DOTA devkit, 0.1 in mmrotate.
        origins: of the patches by name; None reads them off the names.
    Raises:
        ValueError: a patch whose origin is not known.
    """
    return {name: _merged(each, threshold, origins) for name, each in detections.items()}


def _merged(
    detections: ClassDetections, threshold: float, origins: Mapping[str, PatchOrigin] | None
) -> ClassDetections:
    known: dict[str, PatchOrigin] = {}
    for name in dict.fromkeys(detections.images):
        origin = patch_origin(name) if origins is None else origins.get(name)
        if origin is None:
            raise ValueError(f"patch {name!r}: expected one whose place in an image is known")
        known[name] = origin
    places = [known[name] for name in detections.images]
    shift = np.array([(place.left, place.top) for place in places]).reshape(-1, 1, 2)
    rate = np.array([place.rate for place in places]).reshape(-1, 1, 1)
    images = tuple(place.image for place in places)
    whole = ClassDetections(images, detections.scores, (detections.quads + shift) / rate)
    return whole.rows(without_doubles(whole, threshold))


def without_doubles(detections: ClassDetections, threshold: float) -> Array:
    """Rows that are kept when in each image the better of overlapping detections stays; image by image, best first."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(detections.images))}
    labels = torch.tensor([numbers[name] for name in detections.images], dtype=torch.int64)
    kept = nms_quads(torch.from_numpy(detections.quads), torch.from_numpy(detections.scores), threshold, labels=labels)
    return kept[labels[kept].argsort(stable=True)].numpy()
