"""Areas, hulls and smallest rectangles, against shapely and by what defines them."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import torch

from rotaware.geo.polygons import (
    convex_hull,
    crosses_itself,
    min_area_rectangle,
    min_area_rectangles_of_quads,
    order_quads,
    polygon_area,
)


def test_areas_are_signed_and_keep_their_digits() -> None:
    shapes = np.random.default_rng(0).uniform(0, 10, (200, 5, 2))
    valid = shapely.is_valid(shapely.polygons(shapes))
    expected = shapely.area(shapely.polygons(shapes[valid]))
    areas = polygon_area(torch.from_numpy(shapes[valid]))
    np.testing.assert_allclose(areas.abs(), expected, rtol=1e-12)
    np.testing.assert_allclose(polygon_area(torch.from_numpy(shapes[valid]).flip(1)), -areas, rtol=1e-9)
    np.testing.assert_allclose(polygon_area(torch.from_numpy(shapes[valid] + 1e7)), areas, atol=1e-6)
    clockwise_on_screen = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert polygon_area(clockwise_on_screen).item() == 1.0


def test_smallest_rectangle_of_the_specification() -> None:
    points = [(1, 1), (8, 8), (1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2), (1.5, 1.5)]
    corners = min_area_rectangle(torch.tensor(points, dtype=torch.float64))
    expected = np.array([(8, 8), (2.3243, 0.0541), (0.0541, 1.6757), (5.7297, 9.6216)])
    gaps = np.linalg.norm(corners.numpy()[:, None] - expected, axis=-1)
    assert gaps.min(axis=0).max() < 1e-4 and polygon_area(corners) > 0


@pytest.mark.parametrize("count", [3, 4, 7, 60])
def test_smallest_rectangles_agree_with_shapely(count: int) -> None:
    generator = np.random.default_rng(count)
    for _ in range(20):
        points = generator.normal(size=(count, 2)) * generator.uniform(0.01, 100, 2) + 50
        corners = min_area_rectangle(torch.from_numpy(points))
        box = shapely.minimum_rotated_rectangle(shapely.multipoints(points))
        assert polygon_area(corners).item() == pytest.approx(box.area, rel=1e-9)
        assert shapely.polygons(corners.numpy()).buffer(1e-6).contains(shapely.multipoints(points))
        hull = convex_hull(torch.from_numpy(points))
        assert polygon_area(hull).item() == pytest.approx(shapely.multipoints(points).convex_hull.area)


def test_many_quads_at_once_equal_one_by_one() -> None:
    quads = torch.from_numpy(np.random.default_rng(1).uniform(0, 10, (300, 4, 2)))  # convex, reflex and crossed
    found = polygon_area(min_area_rectangles_of_quads(quads))
    expected = torch.stack([polygon_area(min_area_rectangle(quad)) for quad in quads])
    torch.testing.assert_close(found, expected)
    assert (found > 0).all()


def test_crossed_quads_are_found_and_untangled() -> None:
    quads = np.random.default_rng(2).uniform(0, 10, (500, 4, 2))
    valid = shapely.is_valid(shapely.polygons(quads))
    assert 0.2 < valid.mean() < 0.9
    np.testing.assert_array_equal(crosses_itself(torch.from_numpy(quads)).numpy(), ~valid)
    ordered = order_quads(torch.from_numpy(quads))
    assert not crosses_itself(ordered).any()
    assert (polygon_area(ordered) > 0).all()
    np.testing.assert_array_equal(ordered[:, 0].numpy(), quads[:, 0])
    np.testing.assert_allclose(np.sort(ordered.numpy(), axis=1), np.sort(quads, axis=1))


def test_points_on_a_line_have_no_rectangle() -> None:
    line = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    for points in (line, line[:2], line[:0]):
        with pytest.raises(ValueError, match="not on one line"):
            min_area_rectangle(points)
    with pytest.raises(ValueError, match="polygons: expected shape"):
        polygon_area(torch.zeros(3, 3))
