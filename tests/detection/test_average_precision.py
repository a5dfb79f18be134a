"""Average precision by hand and by a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from rotaware.detection.average_precision import average_precision


def plainly(scores: np.ndarray, right: np.ndarray, objects: int, rule: str) -> float:
    hits, points = 0, []
    for number, row in enumerate(sorted(range(len(scores)), key=lambda row: -scores[row]), start=1):
        hits += int(right[row])
        points.append((hits / objects, hits / number))
    if rule == "voc07":
        levels = [k / 10 for k in range(11)]
        return sum(max([p for r, p in points if r >= level - 1e-9], default=0.0) for level in levels) / 11
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area


def test_by_hand() -> None:
    three = np.array([True, True, True])
    assert average_precision(np.array([0.9, 0.8, 0.7]), three, 4) == pytest.approx(8 / 11)
    assert average_precision(np.array([0.9, 0.8, 0.7]), three, 4, rule="voc12") == pytest.approx(0.75)
    assert average_precision(np.array([0.9, 0.8]), np.array([False, True]), 1) == pytest.approx(0.5)
    assert average_precision(np.zeros(0), np.zeros(0, dtype=bool), 3) == 0.0
    # Three of ten: the recall of 0.3 is reached although 3 / 10 is not 3 * 0.1.
    assert average_precision(np.arange(3.0), three, 10) == pytest.approx(4 / 11)


@pytest.mark.parametrize("rule", ["voc07", "voc12"])
def test_equals_a_plain_loop(rule: str) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        count = int(generator.integers(1, 60))
        scores, right = generator.permutation(count) / count, generator.uniform(size=count) < 0.6
        objects = int(right.sum() + generator.integers(1, 10))
        found = average_precision(scores, right, objects, rule=rule)  # type: ignore[arg-type]
        assert found == pytest.approx(plainly(scores, right, objects, rule))


def test_errors() -> None:
    with pytest.raises(ValueError, match="objects"):
        average_precision(np.zeros(1), np.zeros(1, dtype=bool), 0)
    with pytest.raises(ValueError, match="rule"):
        average_precision(np.zeros(1), np.zeros(1, dtype=bool), 1, rule="coco")  # type: ignore[arg-type]
