"""Many scans: pairs are done once, whatever happens, and what comes of them is where the scans really are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from multiway_cases import StandIn, moved_copies, registration
from scipy.spatial.transform import Rotation

from rotaware.datasets import room_fragments
from rotaware.pointcloud import Check, Hypothesis, InputError, PointCloud, multiway
from rotaware.pointcloud.canonical import invert
from rotaware.pointcloud.multiway import MultiwayResult, PairProgress, register_many
from rotaware.pointcloud.pair_proposals import (
    Signature,
    likely_pairs,
    read_signature,
    signature,
    write_signature,
)
from rotaware.pointcloud.pair_results import (
    LEAST_SHIFT,
    LEAST_TURN,
    POINT_DEVIATION,
    WORTH,
    pair_result,
    read_pair,
    write_pair,
)

Start = Callable[..., StandIn]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Puts a stand-in in the place of `register`."""

    def start(*arguments: Any) -> StandIn:
        stand_in = StandIn(*arguments)
        monkeypatch.setattr(multiway, "register", stand_in)
        return stand_in

    return start


def many(clouds: list[np.ndarray], cache: Path | None = None, **options: Any) -> MultiwayResult:
    return register_many(clouds, cache=cache, **{"method": "classic"} | options)


def assert_true(result: MultiwayResult, truth: np.ndarray, atol: float = 1e-7) -> None:
    for group in result.groups:
        for scan in group:
            expected = invert(truth[group[0]]) @ truth[scan]
            np.testing.assert_allclose(result.T_world_scan[scan], expected, atol=atol)


def test_every_scan_gets_its_pose_in_the_frame_of_the_first(engine: Start) -> None:
    stand_in = engine()
    clouds, truth = moved_copies(5)
    seen: list[PairProgress] = []
    result = many(clouds, on_pair=seen.append)
    assert result.connected and result.groups == ((0, 1, 2, 3, 4),)
    assert_true(result, truth)
    assert stand_in.calls == 10 and {frozenset((pair.source, pair.target)) for pair in result.pairs} == {
        frozenset(pair) for pair in combinations(range(5), 2)
    }
    assert all(pair.role == "used" for pair in result.pairs) and len(result.cycles) == 6
    assert [pair.done for pair in seen] == list(range(1, 11)) and seen[-1].seconds_left == 0.0
    assert result.turn_deviation_deg[0] == 0.0 and (result.shift_deviation[1:] > 0.0).all()


def test_map_coordinates_keep_their_precision(engine: Start) -> None:
    engine()
    clouds, _ = moved_copies(3)
    offset = np.array([500_000.0, 5_400_000.0, 100.0])
    near, far = many(clouds), many([cloud + offset for cloud in clouds])
    back, there = np.eye(4), np.eye(4)
    back[:3, 3], there[:3, 3] = -offset, offset
    for a, b in zip(near.T_world_scan, far.T_world_scan, strict=True):
        np.testing.assert_allclose(back @ b @ there, a, atol=1e-6)


def test_pairs_are_registered_once_whatever_their_order(engine: Start, tmp_path: Path) -> None:
    stand_in = engine()
    clouds, truth = moved_copies(5)
    many(clouds[:4], tmp_path)
    assert stand_in.calls == 6
    many(clouds[:4], tmp_path)
    assert stand_in.calls == 6
    order = [3, 0, 2, 1]
    assert_true(many([clouds[k] for k in order], tmp_path), truth[order])
    assert stand_in.calls == 6
    seen: list[PairProgress] = []
    assert_true(many(clouds, tmp_path, on_pair=seen.append), truth)
    assert stand_in.calls == 10
    assert all((4 in (pair.source, pair.target)) != pair.reused for pair in seen)


@pytest.mark.parametrize("option", [{"accept": "strict"}, {"voxel": 0.1}, {"seed": 1}, {"method": "roitr"}])
def test_other_options_are_other_results(engine: Start, tmp_path: Path, option: dict[str, Any]) -> None:
    stand_in = engine()
    clouds, _ = moved_copies(3)
    many(clouds, tmp_path)
    many(clouds, tmp_path, **option)
    assert stand_in.calls == 6


def test_other_content_is_another_result(engine: Start, tmp_path: Path) -> None:
    stand_in = engine()
    clouds, _ = moved_copies(3)
    many(clouds, tmp_path)
    clouds[2] = clouds[2].copy()
    clouds[2][7, 1] += 1e-9
    many(clouds, tmp_path)
    assert stand_in.calls == 5
    register_many([*clouds[:2], PointCloud(clouds[2], viewpoint=np.ones(3))], cache=tmp_path, method="classic")
    assert stand_in.calls == 7


def test_an_interrupted_run_loses_nothing(engine: Start, tmp_path: Path) -> None:
    clouds, _ = moved_copies(4)
    engine()
    whole = many(clouds)
    stand_in = engine()
    stand_in.fail_at = 4
    with pytest.raises(KeyboardInterrupt):
        many(clouds, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    stand_in.fail_at = None
    resumed = many(clouds, tmp_path)
    assert stand_in.calls == 6
    np.testing.assert_array_equal(resumed.T_world_scan, whole.T_world_scan)
    again = many(clouds, tmp_path)
    np.testing.assert_array_equal(again.T_world_scan, whole.T_world_scan)


def test_of_many_scans_only_likely_pairs_are_registered(
    engine: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in = engine()
    described: list[PointCloud] = []

    def described_signature(cloud: PointCloud) -> Signature:
        described.append(cloud)
        return signature(cloud)

    monkeypatch.setattr(multiway, "MANY", 4)
    monkeypatch.setattr(multiway, "signature", described_signature)
    monkeypatch.setattr(multiway, "likely_pairs", partial(likely_pairs, per_scan=1))
    clouds, _ = moved_copies(6)
    many(clouds[:3])
    assert stand_in.calls == 3 and not described
    many(clouds[:5], tmp_path)
    few = stand_in.calls - 3
    assert 3 <= few <= 5 and len(described) == 5
    seen: list[PairProgress] = []
    many(clouds, tmp_path, on_pair=seen.append)
    assert len(described) == 6
    assert all(5 in (pair.source, pair.target) for pair in seen if not pair.reused)
    assert len(many(clouds[:5], tmp_path, pairs="all").pairs) == 10


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"status": "registered"}', b"\xff\xfe"])
def test_a_damaged_file_costs_its_pair(engine: Start, tmp_path: Path, damage: bytes) -> None:
    stand_in = engine()
    clouds, truth = moved_copies(3)
    many(clouds, tmp_path)
    next(tmp_path.iterdir()).write_bytes(damage)
    assert_true(many(clouds, tmp_path), truth)
    assert stand_in.calls == 4


def test_what_nothing_joins_stays_apart(engine: Start) -> None:
    clouds, truth = moved_copies(5)
    first = {id(cloud): k < 3 for k, cloud in enumerate(clouds)}
    given = [PointCloud(cloud) for cloud in clouds]
    sides = {id(cloud): first[id(points)] for cloud, points in zip(given, clouds, strict=True)}
    engine(lambda source, target: "registered" if sides[id(source)] == sides[id(target)] else "not_registered")
    result = register_many(given, method="classic")
    assert result.groups == ((0, 1, 2), (3, 4)) and not result.connected
    assert_true(result, truth)
    roles = {pair.role for pair in result.pairs if sides[id(given[pair.source])] != sides[id(given[pair.target])]}
    assert roles == {"none"}


def test_a_wrong_pair_is_named_and_a_weak_one_comes_in(engine: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    clouds, truth = moved_copies(4)
    given = [PointCloud(cloud) for cloud in clouds]
    number = {id(cloud): k for k, cloud in enumerate(given)}

    def register(source: PointCloud, target: PointCloud, **options: Any) -> Any:
        ends = {number[id(source)], number[id(target)]}
        if ends == {0, 1}:
            # Registered with the rows of another place: upside down.
            return registration(PointCloud(source.points @ np.diag([1.0, -1.0, -1.0])), target, confidence=0.9)
        if ends == {2, 3}:
            check = Check("confidence", 0.5, 0.8, False, "")
            return registration(source, target, status="not_registered", confidence=0.4, checks=(check,))
        return registration(source, target)

    monkeypatch.setattr(multiway, "register", register)
    result = register_many(given, method="classic")
    assert result.connected
    assert_true(result, truth)
    role = {frozenset((pair.source, pair.target)): pair.role for pair in result.pairs}
    assert role[frozenset((0, 1))] == "contradicted" and role[frozenset((2, 3))] == "confirmed"
    wrong = next(pair for pair in result.pairs if pair.role == "contradicted")
    assert wrong.turn_deg > 20.0
    assert any(result.pairs[cycle.edge] is wrong and np.degrees(cycle.turn) > 20.0 for cycle in result.cycles)


def test_hypotheses_of_a_registration() -> None:
    clouds, truth = moved_copies(2)
    source, target = map(PointCloud, clouds)
    pose = invert(truth[1]) @ truth[0]
    sure = pair_result(registration(source, target), source, target)
    np.testing.assert_allclose(sure.poses, pose[None], atol=1e-9)
    np.testing.assert_array_equal(sure.shares, [0.99])
    assert sure.overlap == 0.7
    np.testing.assert_allclose(sure.centre, target.points.mean(axis=0))
    others = (Hypothesis(np.eye(4), 0.8), Hypothesis(np.eye(4), 0.01))
    runner_up = Check("runner_up", 0.8, 0.65, False, "")
    torn = pair_result(
        registration(source, target, status="ambiguous", confidence=0.9, alternatives=others, checks=(runner_up,)),
        source,
        target,
    )
    np.testing.assert_allclose(torn.shares, [0.9 / 1.81, 0.9 * 0.8 / 1.81])
    for spoiled in (
        {"confidence": 0.09},
        {"checks": (Check("free_space", 0.1, 0.5, False, ""),)},
        {"checks": (Check("handedness", 2.0, 1.3, False, ""),)},
    ):
        found = pair_result(registration(source, target, status="not_registered", **spoiled), source, target)
        assert len(found.poses) == 0


def test_correspondences_pull_a_pose_that_surfaces_hold_loosely() -> None:
    clouds, truth = moved_copies(2)
    source, target = map(PointCloud, clouds)
    right = invert(truth[1]) @ truth[0]
    slid = right.copy()
    slid[0, 3] += 0.1
    offsets = []
    for firmness in (1e-3, 1e3, 1e9):
        given = registration(source, target, T_target_source=slid)
        object.__setattr__(given.metrics, "information", firmness * np.eye(6))
        offsets.append(np.abs(pair_result(given, source, target).poses[0] - right).max())
    assert offsets[0] < 1e-5 and 0.03 < offsets[1] < 0.07 and offsets[2] == pytest.approx(0.1, rel=1e-3)


def test_the_covariance_is_that_of_a_turn_about_the_centre_and_a_shift() -> None:
    clouds, _ = moved_copies(2)
    source, target = map(PointCloud, clouds)
    given = registration(source, target)
    confidence = np.random.default_rng(1).uniform(0.1, 1.0, len(source)).astype(np.float32)
    object.__setattr__(given.correspondences, "confidence", confidence)
    object.__setattr__(given.metrics, "information", np.zeros((6, 6)))
    found = pair_result(given, source, target)
    step, velocities = 1e-6, []
    for axis in np.eye(3):
        turned = (target.points - found.centre) @ Rotation.from_rotvec(step * axis).as_matrix().T + found.centre
        velocities.append((turned - target.points) / step)
    velocities += [np.broadcast_to(axis, target.points.shape) for axis in np.eye(3)]
    information = WORTH * np.einsum("m,imk,jmk->ij", confidence, velocities, velocities)
    least = np.diag(np.repeat([LEAST_TURN, LEAST_SHIFT * given.voxel], 3) ** 2)
    expected = (POINT_DEVIATION * given.voxel) ** 2 * np.linalg.inv(information) + least
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-4, atol=1e-10)


def test_the_covariance_turns_with_the_target() -> None:
    clouds, _ = moved_copies(2)
    turn = Rotation.from_rotvec([0.3, -0.5, 0.7]).as_matrix()
    found = []
    for target in (clouds[1], clouds[1] @ turn.T):
        given = registration(PointCloud(clouds[0]), PointCloud(target))
        # Stated in the target's own axes, which turn with it.
        object.__setattr__(given.metrics, "information", np.diag([1e1, 1e2, 1e3, 1e4, 1e5, 1e6]))
        found.append(pair_result(given, PointCloud(clouds[0]), PointCloud(target)).covariance)
    both = np.kron(np.eye(2), turn)
    np.testing.assert_allclose(found[1], both @ found[0] @ both.T, rtol=1e-6, atol=1e-12)


def test_pairs_and_signatures_come_back_bit_for_bit(tmp_path: Path) -> None:
    clouds, _ = moved_copies(2)
    source, target = map(PointCloud, clouds)
    for given in (registration(source, target), registration(source, target, status="not_registered", confidence=0.0)):
        pair = pair_result(given, source, target)
        write_pair(tmp_path / "pair", pair)
        found = read_pair(tmp_path / "pair")
        assert found is not None
        for name, value in vars(pair).items():
            np.testing.assert_array_equal(getattr(found, name), value)
    mark = signature(source)
    write_signature(tmp_path / "mark", mark)
    again = read_signature(tmp_path / "mark")
    assert again is not None
    for name, value in vars(mark).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    (tmp_path / "mark").write_bytes(b"PK\x03\x04 cut")
    assert read_signature(tmp_path / "mark") is None


def test_what_cannot_be_registered_is_named(engine: Start) -> None:
    engine()
    clouds, _ = moved_copies(2)
    with pytest.raises(InputError, match="expected at least 2, got 1"):
        many(clouds[:1])
    with pytest.raises(InputError, match="scan 2: all 9 points are NaN"):
        many([clouds[0], np.full((9, 3), np.nan)])
    with pytest.raises(FileNotFoundError, match=r"no_such\.ply"):
        register_many([clouds[0], "no_such.ply"], method="classic")
    with pytest.raises(ValueError, match="accept"):
        many(clouds, accept="sure")


def test_two_rooms_in_earnest() -> None:
    """Two fragments of a room and one of another, turned: the room becomes a group, and its pair is a likely one."""
    here, there = room_fragments(300004, 2, frames=4), room_fragments(300002, 1, frames=4)
    fragments = [here[0], there[0], here[1]]
    _, moves = moved_copies(3, seed=9)
    clouds = [
        fragment.points.astype(np.float64) @ move[:3, :3].T + move[:3, 3]
        for fragment, move in zip(fragments, moves, strict=True)
    ]
    result = register_many(clouds, method="classic")
    assert result.groups == ((0, 2), (1,))
    truth = invert(here[0].T_world_camera) @ here[1].T_world_camera
    step = result.T_world_scan[2] @ invert(moves[0] @ truth @ invert(moves[2]))
    assert np.degrees(np.arccos(np.clip((np.trace(step[:3, :3]) - 1) / 2, -1, 1))) < 3.0
    middle = clouds[0].mean(axis=0)
    assert np.linalg.norm(step[:3, :3] @ middle + step[:3, 3] - middle) < 0.1
    assert (0, 2) in likely_pairs([signature(PointCloud(cloud)) for cloud in clouds], per_scan=1)
