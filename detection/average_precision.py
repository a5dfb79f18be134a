"""Average precision from detections that are known to be right or wrong."""

from __future__ import annotations

from typing import Literal

import numpy as np

Array = np.ndarray
Rule = Literal["voc07", "voc12"]


def precision_recall(scores: Array, right: Array, objects: int) -> tuple[Array, Array]:
    """Precision and recall after each detection, best first; equal scores keep their order.

    Args:
        scores: (N,).
        right: (N,) bool.
        objects: that there are to find, at least 1.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    return hits / np.arange(1, len(order) + 1), hits / objects


def average_precision(scores: Array, right: Array, objects: int, *, rule: Rule = "voc07") -> float:
    """Area under the curve of precision over recall.

    Args:
        scores: (N,).
        right: (N,) bool, whether a detection found an object that no better one had found.
        objects: that there are to find, at least 1.
        rule: "voc07": mean over the recalls 0, 0.1, ..., 1 of the highest precision at that recall or above, the rule
            of DOTA; "voc12": the area under the envelope.

    >>> round(average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, True, True]), 4), 6)
    0.727273
    """
    if objects < 1:
        raise ValueError(f"objects: expected at least 1, got {objects}")
    if rule not in ("voc07", "voc12"):
        raise ValueError(f"rule: expected 'voc07' or 'voc12', got {rule!r}")
    precision, recall = precision_recall(scores, right, objects)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "voc12":
        return float((envelope * np.diff(recall, prepend=0.0)).sum())
    # Recalls of tenths must count although 3 / 10 is not three times 0.1.
    first = np.searchsorted(recall, np.linspace(0.0, 1.0, 11) - 1e-9)
    padded = np.append(envelope, 0.0)
    return float(padded[first].mean())
