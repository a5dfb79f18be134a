"""Ray casting against the definition of the shapes, the sensor's noise law, and what fusion does to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rotaware.datasets.depth_camera import (
    DepthCamera,
    cast_view,
    draw_warp,
    first_of_voxel,
    fuse_frames,
    measure_depth,
)
from rotaware.datasets.solids import (
    BOWL,
    BOX,
    ELLIPSOID,
    FRUSTUM,
    TUBE,
    Solids,
    box,
    cylinder,
    ellipsoid,
    join,
    rotation,
)

CLEAN = DepthCamera(
    noise=0.0, quantum=0.0, warp=0.0, shuffle=0.0, grazing_cosine=0.0, edge_loss=0.0, speckle_loss=0.0, max_range=9.0
)


def random_solids(kinds: list[int], generator: np.random.Generator) -> Solids:
    count = len(kinds)
    return Solids(
        kind=np.array(kinds, np.int64),
        center=generator.uniform([-0.8, -0.6, 1.6], [0.8, 0.6, 3.0], (count, 3)),
        axes=np.stack([rotation(*generator.uniform(-3.2, 3.2, 3)) for _ in range(count)]),
        half=generator.uniform(0.15, 0.5, (count, 3)),
        taper=generator.uniform(-0.7, 0.7, count),
        response=np.ones(count),
    )


def ray_points(camera: DepthCamera, depth: np.ndarray) -> np.ndarray:
    """(..., H, W, 3) points at `depth` (..., H, W) on the pixels' rays."""
    x = (np.arange(camera.width) - 0.5 * (camera.width - 1)) / camera.focal
    y = (np.arange(camera.height) - 0.5 * (camera.height - 1)) / camera.focal
    directions = np.stack([*np.meshgrid(x, y), np.ones((camera.height, camera.width))], axis=-1)
    return depth[..., None] * directions


def level(solids: Solids, points: np.ndarray) -> np.ndarray:
    """Below 0 inside the one solid, 0 on it, above 0 outside: the definition in `solids`, written independently."""
    x, y, z = np.moveaxis((points - solids.center[0]) @ solids.axes[0] / solids.half[0], -1, 0)
    if solids.kind[0] == BOX:
        return np.maximum(np.maximum(abs(x), abs(y)), abs(z)) - 1
    if solids.kind[0] in (ELLIPSOID, BOWL):
        return x**2 + y**2 + z**2 - 1
    return np.maximum(np.hypot(x, y) - (1 + solids.taper[0] * z), abs(z) - 1)


@pytest.mark.parametrize("kind", [BOX, FRUSTUM, ELLIPSOID])
def test_a_ray_stops_where_it_enters_a_closed_solid(kind: int) -> None:
    camera = DepthCamera(width=48, height=36, focal=40.0)
    steps = np.linspace(0.3, 4.5, 400)
    for seed in range(4):
        solid = random_solids([kind], np.random.default_rng(seed))
        depth = cast_view(solid, np.eye(4), camera).depth
        met = np.isfinite(depth)
        assert 20 < np.count_nonzero(met) < met.size
        assert abs(level(solid, ray_points(camera, np.where(met, depth, 1.0))))[met].max() < 1e-9
        is_inside = level(solid, ray_points(camera, np.broadcast_to(steps[:, None, None], (400, *met.shape)))) < 0
        first_inside = np.where(is_inside.any(0), steps[is_inside.argmax(0)], np.inf)
        # A step inside means a hit, at most one step earlier; the other way round, short chords fall between steps.
        assert np.all(depth[is_inside.any(0)] <= first_inside[is_inside.any(0)])
        gap = first_inside[is_inside.any(0)] - depth[is_inside.any(0)]
        assert gap.max() <= steps[1] - steps[0]
        assert np.count_nonzero(met & ~is_inside.any(0)) < 0.1 * np.count_nonzero(met)


@pytest.mark.parametrize(("kind", "closed"), [(TUBE, FRUSTUM), (BOWL, ELLIPSOID)])
def test_an_open_shell_is_part_of_the_closed_surface_and_shows_its_inside(kind: int, closed: int) -> None:
    camera = DepthCamera(width=64, height=48, focal=50.0)
    inner = 0
    for seed in range(6):
        shell = random_solids([kind], np.random.default_rng(seed))
        full = Solids(np.array([closed]), shell.center, shell.axes, shell.half, shell.taper, shell.response)
        depth, outer = (cast_view(s, np.eye(4), camera).depth for s in (shell, full))
        met = np.isfinite(depth)
        points = ray_points(camera, np.where(met, depth, 1.0))
        x, y, z = np.moveaxis((points - shell.center[0]) @ shell.axes[0] / shell.half[0], -1, 0)
        radius = np.hypot(x, y) - (1 + shell.taper[0] * z) if kind == TUBE else x**2 + y**2 + z**2 - 1
        assert abs(radius[met]).max() < 1e-9
        assert z[met].max() <= (1 if kind == TUBE else 0) + 1e-9 and z[met].min() >= -1 - 1e-9
        assert np.all(depth[met] >= outer[met] - 1e-9)
        inner += int(np.count_nonzero(depth[met] > outer[met] + 1e-6))
    assert inner > 50


@pytest.mark.parametrize("kind", [BOX, FRUSTUM, TUBE, ELLIPSOID, BOWL])
def test_no_surface_is_missed_wherever_the_camera_stands(kind: int) -> None:
    """Solids beside, behind and around the camera, where the rectangle of the image they can appear in is delicate."""
    camera = DepthCamera(width=20, height=15, focal=10.0)
    steps = np.linspace(0.01, 6.0, 200)
    points = ray_points(camera, np.broadcast_to(steps[:, None, None], (200, 15, 20)))
    checked = 0
    for seed in range(80):
        generator = np.random.default_rng([kind, seed])
        half = np.exp(generator.uniform(np.log(0.1), np.log(3.0), (1, 3)))
        half[:, 1] = half[:, 0]
        axes = rotation(*generator.uniform(-3.2, 3.2, 3))[None]
        place, taper = generator.normal(0.0, 1.5, (1, 3)), generator.uniform(-0.9, 0.9, 1)
        solid = Solids(np.array([kind]), place, axes, half, taper, np.ones(1))
        z = ((points - place[0]) @ axes[0] / half[0])[..., 2]
        if kind == TUBE:
            x, y, _ = np.moveaxis((points - place[0]) @ axes[0] / half[0], -1, 0)
            crossed, is_part = np.hypot(x, y) < 1 + taper[0] * z, abs(z) < 1
        else:
            crossed, is_part = level(solid, points) < 0, z < 0 if kind == BOWL else np.ones_like(z, bool)
        # Shells show both sides; of a closed solid, only where a ray enters.
        entered = (crossed[1:] != crossed[:-1]) if kind in (TUBE, BOWL) else crossed[1:] & ~crossed[:-1]
        entered &= is_part[1:] & is_part[:-1]
        is_met = entered.any(axis=0)
        depth = cast_view(solid, np.eye(4), camera).depth
        assert np.all(depth[is_met] <= steps[1:][entered.argmax(axis=0)][is_met])
        checked += np.count_nonzero(is_met)
    assert checked > 500


def test_many_solids_together_give_the_nearest_of_each_alone() -> None:
    # Holds only if the tiles drop no solid that a ray of theirs could meet.
    generator = np.random.default_rng(5)
    solids = random_solids([BOX, FRUSTUM, TUBE, ELLIPSOID, BOWL] * 6, generator)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation(0.1, -0.2, 0.3), [0.1, 0.05, -0.2]
    camera = DepthCamera(width=75, height=50, focal=45.0, shuffle=1.0)
    together = cast_view(solids, pose, camera, np.random.default_rng(0))
    fields = ("kind", "center", "axes", "half", "taper", "response")
    alone = [
        cast_view(Solids(*(getattr(solids, f)[k : k + 1] for f in fields)), pose, camera, np.random.default_rng(0))
        for k in range(len(solids))
    ]
    depths = np.stack([view.depth for view in alone])
    np.testing.assert_array_equal(together.depth, depths.min(0))
    met = np.isfinite(together.depth)
    assert met.mean() > 0.3
    np.testing.assert_array_equal(together.solid[met], depths.argmin(0)[met])
    assert np.all(together.solid[~met] == -1)


@pytest.mark.parametrize("kind", [BOX, FRUSTUM, TUBE, ELLIPSOID, BOWL])
def test_the_cosine_is_that_of_the_normal_of_the_depth_map(kind: int) -> None:
    camera = DepthCamera(width=240, height=180, focal=200.0)
    solid = random_solids([kind], np.random.default_rng(11))
    view = cast_view(solid, np.eye(4), camera)
    points = ray_points(camera, np.where(np.isfinite(view.depth), view.depth, np.nan))
    with np.errstate(invalid="ignore"):
        across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
        normal, ray = np.cross(across, down), points[1:-1, 1:-1]
        cosine = abs((normal * ray).sum(-1)) / np.linalg.norm(normal, axis=-1) / np.linalg.norm(ray, axis=-1)
    error = abs(cosine - view.cosine[1:-1, 1:-1])
    assert np.count_nonzero(np.isfinite(error)) > 1000
    assert np.nanquantile(error, 0.8) < 0.01


def test_pixels_follow_the_camera_frame_convention() -> None:
    # x right, y down, z forward: what lies at +x, +y shows in the lower right quarter.
    view = cast_view(ellipsoid([0.4, 0.3, 2.0], [0.1, 0.1, 0.1]), np.eye(4), CLEAN)
    rows, columns = np.nonzero(np.isfinite(view.depth))
    assert rows.mean() == pytest.approx(119.5 + CLEAN.focal * 0.15, abs=1)
    assert columns.mean() == pytest.approx(159.5 + CLEAN.focal * 0.2, abs=1)


@pytest.mark.parametrize("distance", [1.0, 2.0, 3.5])
def test_noise_grows_with_the_square_of_depth(distance: float) -> None:
    wall = box([0, 0, distance + 1], [20, 20, 2])
    camera = DepthCamera(noise=2e-3, quantum=0.0, warp=0.0, edge_loss=0.0)
    view = cast_view(wall, np.eye(4), camera)
    error = measure_depth(view, wall, camera, np.random.default_rng(1)) - distance
    error = error[error > -distance]
    assert error.std() == pytest.approx(2e-3 * distance**2, rel=0.05)
    assert abs(error.mean()) < 3e-4 * distance**2


def test_readings_lie_on_disparity_steps() -> None:
    wall = box([0, 0, 3], [20, 20, 2])
    camera = DepthCamera(quantum=2.85e-3)
    depth = measure_depth(cast_view(wall, np.eye(4), camera), wall, camera, np.random.default_rng(1))
    steps = 1 / depth[depth > 0] / camera.quantum
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    assert len(np.unique(np.rint(steps))) > 5


def test_warp_has_the_stated_size_and_is_smooth() -> None:
    fields = np.stack([draw_warp(DepthCamera(warp=1e-3), np.random.default_rng(s)) for s in range(20)])
    assert np.sqrt(np.mean(fields**2)) == pytest.approx(1e-3, rel=0.15)
    assert abs(np.diff(fields, axis=2)).max() < 3e-4


def test_what_is_lost() -> None:
    glass, wall = box([0, 0, 1.5], [20, 20, 0.1], response=0.0), box([0, 0, 3], [20, 20, 1])
    view = cast_view(join([glass, wall]), np.eye(4), CLEAN)
    assert not measure_depth(view, join([glass, wall]), CLEAN, np.random.default_rng(0)).any()

    far = box([0, 0, 12], [40, 40, 1])
    assert not measure_depth(cast_view(far, np.eye(4), CLEAN), far, CLEAN, np.random.default_rng(0)).any()
    empty = join([])
    assert not measure_depth(cast_view(empty, np.eye(4), CLEAN), wall, CLEAN, np.random.default_rng(0)).any()

    floor = box([0, 1.0, 0], [20, 0.1, 20], turn=rotation(0.0, 0.0, 0.25))
    camera = DepthCamera(grazing_cosine=0.4, speckle_loss=0.0, edge_loss=0.0, warp=0.0, max_range=9.0)
    view = cast_view(floor, np.eye(4), camera)
    kept = measure_depth(view, floor, camera, np.random.default_rng(0)) > 0
    in_range = np.isfinite(view.depth) & (view.depth < 6.0)
    glancing, steep = in_range & (view.cosine < 0.3), in_range & (view.cosine > 0.5)
    assert glancing.any() and steep.any()
    assert kept[glancing].mean() < 0.1 and kept[steep].mean() > 0.9


def test_fusion_averages_noise_and_drops_what_no_other_frame_saw() -> None:
    wall = box([0, 0, 3], [20, 20, 2])
    camera = DepthCamera(width=80, height=60, focal=73.0, noise=2e-3, quantum=0.0, warp=0.0)
    generator = np.random.default_rng(3)
    poses = np.repeat(np.eye(4)[None], 9, axis=0)
    poses[:, 0, 3] = np.linspace(0, 0.2, 9)
    depth = np.stack([measure_depth(cast_view(wall, T, camera), wall, camera, generator) for T in poses])
    single = fuse_frames(depth[:1], poses[:1], camera, min_support=0)
    fused = fuse_frames(depth, poses, camera)
    assert single[:, 2].std() == pytest.approx(8e-3, rel=0.1)
    assert fused[:, 2].std() < 0.5 * single[:, 2].std()
    assert abs(fused[:, 2].mean() - 2.0) < 1e-3

    depth[0, 30, 40] = 1.0
    assert fuse_frames(depth, poses, camera)[:, 2].min() > 1.5
    assert fuse_frames(depth, poses, camera, min_support=0)[:, 2].min() < 1.5


def test_frames_are_put_together_by_their_poses() -> None:
    ball, pose = ellipsoid([0.1, 0.0, 2.0], [0.4, 0.4, 0.4]), np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation(0.05, 0.3, 0.02), [-0.6, 0.1, 0.1]
    poses = np.stack([np.eye(4), pose])
    depth = np.stack([measure_depth(cast_view(ball, T, CLEAN), ball, CLEAN, np.random.default_rng(0)) for T in poses])
    points = fuse_frames(depth, poses, CLEAN, min_support=0)
    assert len(points) == np.count_nonzero(depth)
    radius = np.linalg.norm(points - [0.1, 0.0, 2.0], axis=1)
    assert np.quantile(abs(radius - 0.4), 0.98) < 2e-3


def test_first_of_voxel_is_the_plain_loop() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    seen: dict[tuple[int, ...], int] = {}
    for row, point in enumerate(points):
        seen.setdefault(tuple(np.floor(point.astype(np.float64) / 0.3).astype(int)), row)
    assert first_of_voxel(points, 0.3).tolist() == sorted(seen.values())
    assert first_of_voxel(points[:0], 0.3).tolist() == []


def test_the_field_of_view_survives_scaling() -> None:
    small = DepthCamera().scaled(0.25)
    assert (small.width, small.height) == (80, 60)
    assert small.width / small.focal == pytest.approx(DepthCamera().width / DepthCamera().focal)


def test_a_cylinder_with_taper_has_the_stated_end_radii() -> None:
    cone = cylinder([0, 0, 2], 0.4, 1.0, taper=0.5)
    view = cast_view(cone, np.eye(4), CLEAN)
    # Along z the near end is z = -1, where the radius is 0.4 * (1 - 0.5), at depth 1.5.
    columns = np.nonzero(view.depth == view.depth.min())[1]
    assert view.depth.min() == pytest.approx(1.5)
    assert (columns.max() - columns.min()) / 2 == pytest.approx(CLEAN.focal * 0.2 / 1.5, abs=1.5)
    assert cone.bounding_radius()[0] == pytest.approx(np.hypot(0.6, 0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 1}, "width: expected an integer of at least 2, got 1"),
        ({"height": 2.5}, "height: expected an integer"),
        ({"focal": 0.0}, "focal: expected a positive number of pixels"),
        ({"min_range": 5.0}, "min_range, max_range: expected 0 < min_range < max_range"),
        ({"noise": -1.0}, "noise: expected a number of at least 0, got -1.0"),
        ({"quantum": float("nan")}, "quantum: expected"),
        ({"edge_loss": 1.5}, r"edge_loss: expected a number in \[0, 1\], got 1.5"),
    ],
)
def test_a_camera_refuses_bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DepthCamera(**options)
