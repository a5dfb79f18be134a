"""Anchors: counts, areas and places of the specification."""

from __future__ import annotations

import pytest
import torch

from rotaware.detection.anchors import RETINA_ANCHORS, RPN_ANCHORS, Anchors


@pytest.mark.parametrize(("anchors", "count"), [(RPN_ANCHORS, 261_888), (RETINA_ANCHORS, 196_416)])
def test_counts_of_the_specification(anchors: Anchors, count: int) -> None:
    levels = anchors([(1024 // stride, 1024 // stride) for stride in anchors.strides])
    assert sum(map(len, levels)) == count
    assert anchors.per_cell == {261_888: 3, 196_416: 9}[count]


def test_shapes_and_places() -> None:
    anchors = Anchors((8,), (4.0, 8.0), (0.5, 2.0))
    (level,) = anchors([(2, 3)])
    assert level.shape == (2 * 3 * 4, 4)
    centres, sides = (level[:, :2] + level[:, 2:]) / 2, level[:, 2:] - level[:, :2]
    # Rows first, then the anchors of a cell.
    assert centres[::4].tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]
    torch.testing.assert_close(sides[:4].prod(1).sqrt(), torch.tensor([32.0, 64, 32, 64]))
    torch.testing.assert_close(sides[:4, 1] / sides[:4, 0], torch.tensor([0.5, 0.5, 2, 2]))
    with pytest.raises(ValueError, match="one per stride"):
        anchors([(2, 3), (1, 1)])
