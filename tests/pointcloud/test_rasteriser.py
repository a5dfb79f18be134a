"""The rasteriser: points land where the camera says, the nearest wins, views show what they should."""

from __future__ import annotations

import numpy as np
import pytest

from rotaware.pointcloud.rasteriser import (
    RAMP,
    SOURCE_COLOR,
    TARGET_COLOR,
    Camera,
    best_view,
    colors_from_values,
    fit_camera,
    look_from,
    render,
)


def corner(seed: int, count: int = 6000) -> np.ndarray:
    """A floor, two walls and a block on the floor, metres, with 3 mm of noise."""
    generator = np.random.default_rng(seed)
    u = generator.random((count, 2)) * (4.0, 2.5)
    kind = np.arange(count) % 4
    zero = np.zeros(count)
    points = np.select(
        [kind[:, None] == 0, kind[:, None] == 1, kind[:, None] == 2],
        [np.c_[u[:, 0], u[:, 1], zero], np.c_[u[:, 0], zero + 2.5, u[:, 1]], np.c_[zero, u[:, 1], u[:, 0] * 0.6]],
        np.c_[1.5 + u[:, 0] * 0.25, 0.6 + u[:, 1] * 0.4, zero + 0.7],
    )
    return points + generator.normal(size=points.shape) * 0.003


@pytest.mark.parametrize("distance", [np.inf, 30.0])
def test_points_land_where_the_camera_projects_them(distance: float) -> None:
    camera = Camera(look_from(np.array([1.0, -2.0, 0.7]), np.array([0.0, 0.0, 1.0])), np.ones(3), 9.0, distance)
    points = np.array([[1.0, 1.0, 1.0], [2.0, 3.0, -1.0], [-2.0, 0.0, 3.0]])
    colors = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], dtype=np.uint8)
    picture = render([(points, colors)], camera, (120, 90), radius=3.0, lighting=0.0)
    assert picture.shape == (90, 120, 3)
    pixels, _ = camera.project(points, (120, 90))
    for (x, y), color in zip(pixels, colors, strict=True):
        assert picture[int(y), int(x)].tolist() == color.tolist()
    assert (picture == 255).all(axis=-1).mean() > 0.95


def test_perspective_shrinks_what_is_far_and_drops_what_is_behind() -> None:
    camera = Camera(np.eye(3), np.zeros(3), 10.0, 5.0)
    pixels, depth = camera.project(np.array([[1.0, 0, 0], [1.0, 0, -5.0], [1.0, 0, 6.0]]), (0, 0))
    assert pixels[0, 0] == pytest.approx(10.0)
    assert pixels[1, 0] == pytest.approx(5.0)
    assert np.isfinite(depth).tolist() == [True, True, False]


def test_the_nearer_point_wins_in_either_order() -> None:
    camera = Camera(np.eye(3), np.zeros(3), 10.0)
    near, far = np.array([[0.0, 0.0, 1.0]]), np.array([[0.0, 0.0, -1.0]])
    for clouds in ([(near, SOURCE_COLOR), (far, TARGET_COLOR)], [(far, TARGET_COLOR), (near, SOURCE_COLOR)]):
        assert render(clouds, camera, (21, 21), radius=4.0)[10, 10].tolist() == list(SOURCE_COLOR)


def test_lighting_darkens_the_far_side_of_an_edge() -> None:
    grid = np.stack(np.meshgrid(np.arange(-20, 20), np.arange(-20, 20)), axis=-1).reshape(-1, 2) / 4.0
    points = np.c_[grid, np.where(grid[:, 0] < 0, 3.0, 0.0)]
    camera = Camera(np.eye(3), np.zeros(3), 8.0)
    flat = render([(points, (200, 200, 200))], camera, (80, 80), lighting=0.0)
    lit = render([(points, (200, 200, 200))], camera, (80, 80))
    assert flat[40, 20:60].min() == 200
    assert lit[40, 44, 0] < 160 < lit[40, 30, 0]


@pytest.mark.parametrize("direction", [(0, 0, 1), (1, 2, 3), (-1, 0, 0), (0, 0, -1)])
def test_look_from_is_a_rotation_that_keeps_up_upright(direction: tuple[float, float, float]) -> None:
    rotation = look_from(np.array(direction, dtype=float), np.array([0.0, 0.0, 1.0]))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    assert rotation[0, 2] == pytest.approx(0.0)
    assert rotation[1, 2] >= 0


@pytest.mark.parametrize("fov_deg", [None, 40.0])
def test_fit_camera_shows_the_cloud_and_fills_the_picture(fov_deg: float | None) -> None:
    points = corner(3) * 7 + (500_000.0, 5_400_000.0, 120.0)
    camera = fit_camera(
        points, look_from(np.array([1.0, -1.0, 1.0]), np.array([0.0, 0.0, 1.0])), (300, 200), fov_deg=fov_deg
    )
    pixels, _ = camera.project(points, (300, 200))
    inside = ((pixels >= 0) & (pixels <= (300, 200))).all(axis=1)
    assert inside.mean() > 0.98
    assert np.ptp(pixels[inside], axis=0).max() > 120


def test_best_view_looks_into_the_open_side() -> None:
    # The walls stand at x = 0 and y = 2.5: their open side is seen from +x, -y and above.
    x, y, z = best_view(corner(4), np.array([0.0, 0.0, 1.0]))
    assert x > 0 and y < 0 and z > 0


def test_ramp_gets_lighter_all_the_way() -> None:
    lightness = colors_from_values(np.linspace(0, 1, 50)) @ np.array([0.299, 0.587, 0.114])
    assert np.all(np.diff(lightness) > 0)
    assert colors_from_values(np.array([-1.0, 2.0])).tolist() == [list(RAMP[0]), list(RAMP[-1])]
