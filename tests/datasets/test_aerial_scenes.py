"""Generated aerial scenes: labels lie on what is drawn, and everything follows from the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rotaware.datasets.aerial_objects import KINDS
from rotaware.datasets.aerial_scenes import AERIAL_CLASSES, AerialScenes
from rotaware.datasets.dota import DOTA, DOTA_CLASSES, write_dota
from rotaware.geo.polygons import polygon_area, quad_iou


def test_scenes_follow_from_seed_and_number() -> None:
    scenes = AerialScenes(4, size=96, seed=3)
    for number in (0, 3):
        first, again = scenes[number], AerialScenes(9, size=96, seed=3)[number]
        assert np.array_equal(first.image, again.image) and np.array_equal(first.quads, again.quads)
    assert not np.array_equal(scenes[0].image, scenes[1].image)
    assert not np.array_equal(scenes[0].image, AerialScenes(4, size=96, seed=4)[0].image)


def test_objects_are_apart_inside_and_of_all_classes_and_angles() -> None:
    scenes, counts, angles = AerialScenes(60, size=192, seed=1), np.zeros(len(AERIAL_CLASSES), int), []
    for number in range(len(scenes)):
        each = scenes[number]
        assert each.image.shape == (192, 192, 3) and each.image.dtype == np.uint8
        quads = torch.from_numpy(each.quads)
        assert (polygon_area(quads) > 15).all()
        overlaps = quad_iou(quads, quads)
        assert (overlaps.fill_diagonal_(0) == 0).all()
        centres = each.quads.mean(axis=1)
        assert ((centres > 0) & (centres < 192)).all()
        counts += np.bincount(each.labels, minlength=len(counts))
        ahead = each.quads[:, 1] - each.quads[:, 0]
        angles += np.arctan2(ahead[:, 1], ahead[:, 0])[each.labels != AERIAL_CLASSES.index("storage-tank")].tolist()
    assert (counts > 8).all()
    assert np.histogram(angles, bins=8, range=(-np.pi, np.pi))[0].min() > 5
    assert set(AERIAL_CLASSES) <= set(DOTA_CLASSES["1.0"])


def test_labels_lie_on_what_is_drawn() -> None:
    """A picture with and without an object differs inside its box and in its shadow, nowhere else."""
    from rotaware.datasets import aerial_scenes

    class Bare(aerial_scenes.AerialScene):
        def _distract(self, centre: np.ndarray) -> None:
            """Nothing to hide behind."""

    found = []
    for seed in range(40):
        scene = Bare(np.random.default_rng(seed), 128, 0.4)
        if not scene.things:
            continue
        state = scene.draw.bit_generator.state
        for thing in scene.things:
            thing.parts[:] = [(outline, (255, 0, 255)) for outline, _ in thing.parts]
            object.__setattr__(thing, "shadow", 0.0)
        painted = scene.picture().astype(int)
        scene.draw.bit_generator.state = state
        kept, scene.things = scene.things, []
        empty = scene.picture().astype(int)
        changed = np.abs(painted - empty).sum(axis=2) > 120
        rows, columns = np.nonzero(changed)
        inside = np.zeros(len(rows), bool)
        for thing in kept:
            x, y, w, h, theta = thing.box
            along = (columns + 0.5 - x) * np.cos(theta) + (rows + 0.5 - y) * np.sin(theta)
            across = -(columns + 0.5 - x) * np.sin(theta) + (rows + 0.5 - y) * np.cos(theta)
            own = (np.abs(along) < w / 2 + 1.5) & (np.abs(across) < h / 2 + 1.5)
            inside |= own
            # It reaches to both ends of its box, as far as the picture goes.
            if own.any() and 0 < x - w < x + w < 128 and 0 < y - w < y + w < 128:
                found.append(along[own].max() > w / 2 - 2.0 and along[own].min() < -w / 2 + 2.0)
        assert inside.all()
    assert len(found) > 20 and np.mean(found) > 0.95


@pytest.mark.parametrize("name", KINDS)
def test_outlines_fill_their_box(name: str) -> None:
    parts = KINDS[name].draw(np.random.default_rng(0))
    points = np.concatenate([outline for outline, _ in parts])
    np.testing.assert_allclose(points.min(axis=0), -1, atol=0.03)
    np.testing.assert_allclose(points.max(axis=0), 1, atol=0.03)


def test_written_in_the_layout_of_dota(tmp_path: Path) -> None:
    scenes = AerialScenes(3, size=64, seed=5)
    assert write_dota(tmp_path, (scenes[number] for number in range(3)), scenes.classes) == 3
    dataset = DOTA(tmp_path, classes=scenes.classes)
    for number in range(3):
        each, again = scenes[number], dataset[number]
        assert np.array_equal(each.image, again.image) and np.array_equal(each.labels, again.labels)
        np.testing.assert_allclose(again.quads, each.quads, atol=0.051)


def test_errors() -> None:
    with pytest.raises(ValueError, match="count, size"):
        AerialScenes(0)
    with pytest.raises(ValueError, match="metres_per_pixel"):
        AerialScenes(1, metres_per_pixel=(1.0, 0.5))
    with pytest.raises(IndexError, match="expected 0 to 1"):
        AerialScenes(2)[2]
