"""Evidence and observability: what surfaces say about a pose, and which motions they cannot see."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.normals import Sensor
from rotaware.pointcloud.verify import Evidence, Observability, describe_free, gather_evidence, observability
from rotaware.pointcloud.view import View, make_view


def rectangle(rng: np.random.Generator, corner: list[float], first: list[float], second: list[float]) -> np.ndarray:
    """A grid of points, one per voxel and shaken a little, so that planes are flat but rows are not straight."""
    a, b = np.array(first), np.array(second)
    u, v = np.meshgrid(np.arange(0.5, np.linalg.norm(a)), np.arange(0.5, np.linalg.norm(b)))
    u, v = ((each.ravel() + rng.uniform(-0.2, 0.2, each.size))[:, None] for each in (u, v))
    return np.array(corner) + u * a / np.linalg.norm(a) + v * b / np.linalg.norm(b)


def view(points: np.ndarray, sensor: tuple[float, float, float]) -> View:
    return make_view(points, points, Sensor(np.array(sensor), 0.0, 0.0))


def plane() -> View:
    return view(rectangle(np.random.default_rng(0), [-15, -10, 0], [30, 0, 0], [0, 20, 0]), (0, 0, 30))


def corner() -> View:
    rng = np.random.default_rng(0)
    walls = [
        rectangle(rng, [0, 0, 0], [25, 0, 0], [0, 20, 0]),
        rectangle(rng, [0, 0, 0], [0, 20, 0], [0, 0, 18]),
        rectangle(rng, [0, 0, 0], [25, 0, 0], [0, 0, 18]),
    ]
    return view(np.concatenate(walls), (20, 15, 15))


def sphere() -> View:
    turns = np.arange(2000) + 0.5
    polar, azimuth = np.arccos(1.0 - turns / 1000.0), turns * np.pi * (1.0 + 5.0**0.5)
    points = np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1)
    return view(13.0 * points, (0, 0, 0))


def cylinder() -> View:
    angle, height = np.meshgrid(np.arange(63) / 10.0, np.arange(-20.0, 20.0))
    rng = np.random.default_rng(0)
    angle, height = (each.ravel() + rng.uniform(-0.02, 0.02, each.size) for each in (angle, height))
    return view(np.stack([10 * np.cos(angle), 10 * np.sin(angle), height], axis=1), (0, 0, 0))


def held(shape: View, pose: np.ndarray | None = None) -> Observability:
    pose = np.eye(4) if pose is None else pose
    found = observability(shape, shape, pose, gather_evidence(shape, shape, pose, turned=False))
    assert found is not None
    return found


def shifted(x: float, y: float, z: float) -> np.ndarray:
    out = np.eye(4)
    out[:3, 3] = x, y, z
    return out


def spans(free: tuple[np.ndarray, ...], expected: list[list[float]], *, tilt: float = 0.2) -> None:
    """Assert that the free motions span the same space as those expected, whatever their basis."""
    assert len(free) == len(expected)
    found = np.linalg.qr(np.array(free).T)[0]
    wanted = np.linalg.qr(np.array(expected, dtype=float).T)[0]
    assert np.linalg.svd(found.T @ wanted)[1].min() > np.cos(tilt)


def kinds(names: Sequence[str]) -> list[str]:
    return [name.split()[0] for name in names]


def axis_of(name: str) -> np.ndarray:
    words = re.fullmatch(r"(?:rotation about|translation along) \((.+), (.+), (.+)\)", name)
    assert words is not None, name
    return np.array([float(word) for word in words.groups()])


def assert_axes(names: Sequence[str], expected: list[list[float]]) -> None:
    """Assert that the axes named span the same line, plane or space as those expected."""
    axes = np.array([axis_of(name) for name in names])
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(names)), atol=0.02)  # two decimals are shown
    spans(tuple(axes), expected)


def test_everything_matches_at_the_truth() -> None:
    shape = corner()
    evidence = gather_evidence(shape, shape, np.eye(4), turned=False)
    np.testing.assert_array_equal(evidence.partner, np.arange(len(shape.points)))
    assert evidence.overlap_source == evidence.overlap_target == 1.0
    assert evidence.matched == 2 * len(shape.points)
    assert evidence.conflicts == 0
    assert evidence.near == evidence.matched
    assert evidence.coherence == 1.0
    assert evidence.agreement == pytest.approx(1.0)


def test_nothing_matches_far_away() -> None:
    shape = corner()
    evidence = gather_evidence(shape, shape, shifted(0, 0, 500), turned=False)
    assert evidence.matched == evidence.overlap_source == evidence.overlap_target == evidence.agreement == 0
    assert evidence.near == evidence.coherence == 0
    assert observability(shape, shape, shifted(0, 0, 500), evidence) is None


def test_evidence_falls_with_the_distance_from_the_truth() -> None:
    shape = corner()
    weights = []
    for degrees in (0.0, 5.0, 15.0, 40.0):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
        evidence = gather_evidence(shape, shape, pose, turned=False)
        weights.append(evidence.matched * evidence.agreement)
    assert (np.diff(weights) < 0).all()
    assert weights[-1] < 0.3 * weights[0]


def test_evidence_is_symmetric() -> None:
    shape, other, pose = corner(), view(corner().points[::2], (20, 15, 15)), shifted(0.7, -0.3, 0.4)
    there = gather_evidence(shape, other, pose, turned=False)
    back = gather_evidence(other, shape, np.linalg.inv(pose), turned=False)
    np.testing.assert_array_equal(there.matched_source, back.matched_target)
    np.testing.assert_array_equal(there.matched_target, back.matched_source)
    assert there.conflicts == back.conflicts
    assert there.near == back.near


def test_opposite_normals_do_not_match() -> None:
    front, back = plane(), view(plane().points, (0, 0, -30))
    evidence = gather_evidence(front, back, np.eye(4), turned=False)
    assert evidence.matched == 0
    assert gather_evidence(front.turned(), back, np.eye(4), turned=False).matched == 2 * len(front.points)


def test_walls_in_free_space_are_conflicts() -> None:
    wall = plane()
    # The target's sensor, 30 in front of its wall, looked through the part of the moved wall that its field covers:
    # (30 - 12) / 30 of the width and height; the source's sensor has nothing in its way.
    looked_through = gather_evidence(wall, wall, shifted(0, 0, 12), turned=False)
    assert looked_through.conflicts == pytest.approx(0.6**2 * len(wall.points), rel=0.1)
    assert looked_through.agreement == 0.0
    # A wall behind the wall was hidden from the target, but its own sensor looked through the target's wall.
    behind = gather_evidence(wall, wall, shifted(0, 0, -12), turned=False)
    assert behind.conflicts == looked_through.conflicts
    # Half of a wall is no evidence against the other half.
    half = view(wall.points[wall.points[:, 0] < 0], (0, 0, 30))
    apart = gather_evidence(half, wall, np.eye(4), turned=False)
    assert apart.conflicts == 0
    assert apart.overlap_source == 1.0
    assert 0.4 < apart.overlap_target < 0.6


def test_agreement_falls_with_conflicts() -> None:
    yes = np.ones(50, dtype=bool)
    partner = np.zeros(50, dtype=np.int64)
    agreements = [Evidence(yes, yes, partner, 100, conflicts).agreement for conflicts in (0, 5, 50)]
    assert agreements[0] == pytest.approx(1.0)
    assert (np.diff(agreements) < 0).all()
    assert agreements[-1] > 0


def test_coherence_is_the_share_of_near_points_that_match() -> None:
    yes, partner = np.arange(50) < 40, np.zeros(50, dtype=np.int64)
    assert [Evidence(yes, yes, partner, near, 0).coherence for near in (80, 160, 800)] == [1.0, 0.5, 0.1]


def test_surfaces_that_cross_are_near_but_do_not_match() -> None:
    wall = plane()
    across = np.eye(4)
    across[:3, :3] = Rotation.from_rotvec([np.pi / 2, 0, 0]).as_matrix()
    evidence = gather_evidence(wall, wall, across, turned=False)
    # A strip of 30 x 6 voxels of each wall lies within 3 voxels of the other, at a right angle.
    assert evidence.near == pytest.approx(2 * 30 * 6, rel=0.1)
    assert evidence.matched == 0
    assert evidence.coherence == 0.0
    # Within the distance but not within that of a match.
    apart = gather_evidence(wall, wall, shifted(0, 0, 2.0), turned=False)
    assert (apart.near, apart.matched) == (2 * len(wall.points), 0)


def test_plane_leaves_two_shifts_and_one_turn() -> None:
    firm = held(plane())
    spans(firm.free, [[0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]])
    names = describe_free(firm.free, np.eye(3))
    assert kinds(names) == ["rotation", "translation", "translation"]
    assert_axes(names[:1], [[0, 0, 1]])
    assert_axes(names[1:], [[1, 0, 0], [0, 1, 0]])
    assert firm.strength < 1e-3


def test_sphere_leaves_all_turns() -> None:
    firm = held(sphere())
    spans(firm.free, np.eye(6)[:3].tolist())
    names = describe_free(firm.free, np.eye(3))
    assert kinds(names) == ["rotation"] * 3
    assert_axes(names, np.eye(3).tolist())


def test_cylinder_leaves_one_turn_and_one_shift() -> None:
    firm = held(cylinder())
    spans(firm.free, [[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]])
    names = describe_free(firm.free, np.eye(3))
    assert kinds(names) == ["rotation", "translation"]
    assert_axes(names[:1], [[0, 0, 1]])
    assert_axes(names[1:], [[0, 0, 1]])


def test_names_do_not_depend_on_the_basis() -> None:
    # Within the space of free motions the eigenvectors mix turns and shifts at will.
    for angle in (0.0, 0.4, np.pi / 4, 2.0):
        mix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        names = describe_free(tuple(mix @ np.eye(6)[[2, 5]]), np.eye(3))
        assert names == ("rotation about (0.00, 0.00, 1.00)", "translation along (0.00, 0.00, 1.00)")
        names = describe_free(tuple(mix @ np.eye(6)[[0, 4]]), np.eye(3))
        assert names == ("rotation about (1.00, 0.00, 0.00)", "translation along (0.00, 1.00, 0.00)")
    turns_and_shift = np.eye(6)[[0, 1, 2, 4]]
    mix = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    names = describe_free(tuple(mix @ turns_and_shift), np.eye(3))
    assert kinds(names) == ["rotation"] * 3 + ["translation"]
    assert_axes(names[:3], np.eye(3).tolist())
    assert names[3] == "translation along (0.00, 1.00, 0.00)"


def test_axes_are_named_in_the_frame_of_the_user_and_have_no_sign() -> None:
    quarter = Rotation.from_rotvec([0, np.pi / 2, 0]).as_matrix()  # z to x
    about_x = ("rotation about (1.00, 0.00, 0.00)",)
    for sign in (1.0, -1.0):
        free = (sign * np.eye(6)[2],)
        assert describe_free(free, quarter) == describe_free(free, quarter.T) == about_x
    firm = held(cylinder())
    for seed in range(3):
        to_user = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
        names = describe_free(firm.free, to_user)
        assert kinds(names) == ["rotation", "translation"]
        for name in names:
            assert_axes([name], [to_user[:, 2].tolist()])
            assert max(axis_of(name), key=abs) > 0


def test_corner_leaves_nothing() -> None:
    firm = held(corner())
    assert firm.free == ()
    assert describe_free(firm.free, np.eye(3)) == ()
    assert firm.strength > held(cylinder()).strength


def test_free_directions_turn_with_the_target() -> None:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec([0.5, -0.8, 0.3]).as_matrix()
    shape = cylinder()
    moved = view(shape.points @ turn[:3, :3].T, (0, 0, 0))
    firm = observability(shape, moved, turn, gather_evidence(shape, moved, turn, turned=False))
    assert firm is not None
    axis = turn[:3, 2].tolist()
    spans(firm.free, [[*axis, 0, 0, 0], [0, 0, 0, *axis]])


def test_information_predicts_the_residuals_of_small_motions() -> None:
    shape = corner()
    evidence = gather_evidence(shape, shape, np.eye(4), turned=False)
    firm = held(shape)
    np.testing.assert_allclose(firm.information, firm.information.T)
    np.testing.assert_allclose(firm.residual, 0.0, atol=1e-9)
    for seed in range(5):
        motion = 1e-4 * np.random.default_rng(seed).normal(size=6)
        turned = Rotation.from_rotvec(motion[:3]).as_matrix()
        moved = (shape.points - firm.centre) @ turned.T + firm.centre + motion[3:]
        residual = ((moved - shape.points) * shape.normals)[evidence.matched_source].sum(axis=1)
        assert motion @ firm.information @ motion == pytest.approx(np.square(residual).sum(), rel=1e-2)


def test_residuals_are_distances_to_the_surface() -> None:
    firm = held(plane(), shifted(0.1, 0.1, 0.6))
    np.testing.assert_allclose(firm.residual, 0.6, atol=1e-9)
