"""What the live viewer draws, without a browser; that it answers and ends is tested with the command."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from report_cases import MAP_OFFSET, case, without_pose
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.rasteriser import NEUTRAL_COLOR, RAMP, SHARED_COLOR, SOURCE_COLOR, TARGET_COLOR
from rotaware.pointcloud.report_live import (
    between,
    color_modes,
    inliers_under,
    point_colors,
    shown_matches,
    start_live_viewer,
)
from rotaware.pointcloud.report_scene import Scene, build_scene


def scene_of(*, offset: np.ndarray | None = None, colors: bool = False) -> Scene:
    registration, source, target = case(offset=offset)
    shades = np.full(source.shape, 7, dtype=np.uint8) if colors else None
    return build_scene(registration, source, target, source_colors=shades, budget=2000, max_poses=5)


def is_color(colors: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (colors == np.array(color)).all(axis=1)


def test_modes_are_those_the_result_has_numbers_for() -> None:
    assert color_modes(scene_of()) == ("cloud", "residual", "overlap", "confidence", "height")
    assert "original" in color_modes(scene_of(colors=True))
    registration, source, target = case()
    bare = build_scene(without_pose(registration), source, target, budget=2000, max_poses=5)
    assert color_modes(bare) == ("cloud", "height")


def test_every_mode_gives_every_point_a_color() -> None:
    scene = scene_of(colors=True)
    for mode in color_modes(scene):
        for pose in range(len(scene.poses)):
            for colors, cloud in zip(point_colors(scene, mode, pose), (scene.source, scene.target), strict=True):
                assert colors.shape == cloud.points.shape and colors.dtype == np.uint8


def test_colors_mean_what_they_say() -> None:
    scene = scene_of(offset=MAP_OFFSET, colors=True)
    source, target = point_colors(scene, "cloud", 0)
    assert is_color(source, SOURCE_COLOR).all() and is_color(target, TARGET_COLOR).all()

    source, target = point_colors(scene, "residual", 1)
    assert is_color(target, NEUTRAL_COLOR).all()
    # Within rounding of the ramp's first and last colour where the distance is nothing, and beyond the limit.
    assert is_color(source, RAMP[-1])[scene.poses[1].residual >= scene.residual_limit].all()
    assert not is_color(source, RAMP[-1])[scene.poses[1].residual < 0.9 * scene.residual_limit].any()

    for pose in (0, 1):
        matrix = scene.poses[pose].matrix
        moved = scene.source.points @ matrix[:3, :3].T + matrix[:3, 3]
        colors = point_colors(scene, "overlap", pose)
        _, full_source, full_target = case(offset=MAP_OFFSET)
        for shown, found in (
            (colors[0], cKDTree(full_target).query(moved)[0]),
            (colors[1], cKDTree(full_source @ matrix[:3, :3].T + matrix[:3, 3]).query(scene.target.points)[0]),
        ):
            sure = np.abs(found - scene.residual_limit / 2) > 1e-6
            np.testing.assert_array_equal(is_color(shown, SHARED_COLOR)[sure], found[sure] < scene.residual_limit / 2)

    source, target = point_colors(scene, "confidence", 0)
    np.testing.assert_array_equal(is_color(source, NEUTRAL_COLOR), np.isnan(scene.source.confidence))
    source, target = point_colors(scene, "original", 0)
    assert (source == 7).all() and is_color(target, NEUTRAL_COLOR).all()


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_motion_begins_at_the_start_ends_at_the_pose_and_halves(scale: float) -> None:
    pose, start = np.eye(4), np.eye(4)
    pose[:3, :3] = scale * Rotation.from_rotvec([1.0, -2.0, 0.5]).as_matrix()
    pose[:3, 3] = (5.0, 6.0, -7.0)
    start[:3, 3] = (100.0, 0.0, 0.0)
    center = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(between(start, pose, center, 0.0), start, atol=1e-12)
    np.testing.assert_allclose(between(start, pose, center, 1.0), pose, atol=1e-12)
    half = between(start, pose, center, 0.5)
    np.testing.assert_allclose(half[:3, :3] @ half[:3, :3], pose[:3, :3], atol=1e-12)
    middle = (start[:3, 3] + center + pose[:3, :3] @ center + pose[:3, 3]) / 2
    np.testing.assert_allclose(half[:3, :3] @ center + half[:3, 3], middle, atol=1e-12)


def test_lines_follow_the_choice_the_threshold_and_the_pose() -> None:
    registration, source, target = case()
    matches = replace(registration.correspondences, confidence=np.linspace(1, 0, 200, dtype=np.float32))
    fits = inliers_under(None, matches, source, target, 0.1)
    for which, expected in (("none", 0), ("inliers", 100), ("outliers", 100), ("all", 200)):
        assert len(shown_matches(matches, fits, which, 0.0)) == expected
    assert shown_matches(matches, fits, "inliers", 0.9).tolist() == np.flatnonzero(matches.confidence >= 0.9).tolist()
    assert len(shown_matches(matches, fits, "outliers", 0.9)) == 0
    pose = registration.T_target_source
    assert pose is not None
    paired = np.concatenate([source[:100] @ pose[:3, :3].T + pose[:3, 3] + (0.06, 0.0, 0.0), target[100:200] + 9.0])
    assert inliers_under(pose, matches, source[:200], paired, 0.1).tolist() == [True] * 100 + [False] * 100
    assert not inliers_under(pose, matches, source[:200], paired, 0.05).any()


@pytest.mark.skipif(find_spec("viser") is None, reason="the live viewer needs viser: pip install 'rotaware[viz]'")
def test_controls_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    import viser

    made: dict[str, Any] = {}

    class Recorder(viser.ViserServer):
        """Keeps the handles of controls and clouds under their names."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            for api, kinds in ((self.gui, ("dropdown", "slider", "text", "checkbox")), (self.scene, ("point_cloud",))):
                for kind in kinds:
                    monkeypatch.setattr(api, f"add_{kind}", self.keeping(getattr(api, f"add_{kind}")))

        @staticmethod
        def keeping(make: Callable[..., Any]) -> Callable[..., Any]:
            return lambda name, *values, **options: made.setdefault(name, make(name, *values, **options))

    def until(condition: Callable[[], bool]) -> bool:
        """Callbacks run in threads of the server."""
        deadline = time.monotonic() + 30
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        return condition()

    monkeypatch.setattr(viser, "ViserServer", Recorder)
    registration, source, target = case(offset=MAP_OFFSET)
    registration.correspondences.confidence[:] = np.linspace(0, 1, 200)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stop = start_live_viewer(registration, source, target, source_name="a", target_name="b", port=port)
    try:
        assert made["Pose"].options == ("Reported pose", "Alternative 1")
        end = made["source"].position.copy()
        made["Before / after"].value = 0.0
        assert until(lambda: np.linalg.norm(made["source"].position - end) > 1.0)
        made["Before / after"].value = 1.0
        assert until(lambda: np.allclose(made["source"].position, end))
        made["Pose"].value = "Alternative 1"
        assert until(lambda: np.allclose(made["source"].position - end, (0.4, 0.0, 0.0)))
        made["Show"].value = "all"
        assert until(lambda: made["Shown"].value == "200")
        made["Least confidence"].value = 0.5
        assert until(lambda: made["Shown"].value == "100")
        # Blue is the least of the source's orange and the most of the violet of what both show.
        assert made["source"].colors[:, 2].max() < 30
        made["Colour"].value = "overlap"
        assert until(lambda: made["source"].colors[:, 2].max() > 100)
        made["Source"].value = False
        assert until(lambda: not made["source"].visible)
    finally:
        stop()
