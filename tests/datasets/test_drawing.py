"""Pictures of objects: where they are, and nothing else is changed."""

from __future__ import annotations

import numpy as np

from rotaware.datasets import class_colors, draw_objects


def test_outlines_lie_on_the_edges() -> None:
    image = np.full((300, 400, 3), 50, np.uint8)
    quad = np.array([[[100.0, 100], [220, 140], [200, 200], [80, 160]]])
    drawn = draw_objects(image, quad, np.array([1]), ("ship", "plane"))
    color = class_colors(2)[1]
    for start, end in zip(quad[0], np.roll(quad[0], -1, axis=0), strict=True):
        x, y = ((start + end) / 2).round().astype(int)
        near = drawn[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3)
        assert (near == color).all(axis=1).any()
    changed = (drawn != image).any(axis=2)
    # Inside of the object, and far from it, nothing.
    assert not changed[140:160, 130:170].any() and not changed[220:, 250:].any()
    assert (image == 50).all()


def test_anything_can_be_drawn() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    quads = np.array([np.full((4, 2), np.nan), np.full((4, 2), 1e12), [[-5.0, -5], [9, -5], [9, 9], [-5, 9]]])
    drawn = draw_objects(image, quads, np.zeros(3, int), ("ship",), np.array([0.1, 0.2, 0.3]))
    assert drawn.shape == image.shape and drawn.any()
    assert not draw_objects(image, np.zeros((0, 4, 2)), np.zeros(0, int), ("ship",)).any()


def test_colors_differ() -> None:
    colors = np.array(class_colors(18), dtype=float)
    apart = np.linalg.norm(colors[:, None] - colors, axis=2) + 1e3 * np.eye(18)
    assert apart.min() > 20
