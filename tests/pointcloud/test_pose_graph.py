"""The pose graph: exact poses from exact edges, honest deviations, and wrong edges that must not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from multiway_cases import random_pose
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.canonical import apply, invert
from rotaware.pointcloud.pose_edges import Edge
from rotaware.pointcloud.pose_graph import PoseGraph, solve_pose_graph

TURN, SHIFT = 0.01, 0.02


def world(count: int, seed: int) -> tuple[np.random.Generator, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator, np.stack([random_pose(generator) for _ in range(count)])


def edge(
    poses: np.ndarray,
    source: int,
    target: int,
    generator: np.random.Generator | None = None,
    confidence: float = 0.95,
) -> Edge:
    """A true edge, or one off by what its covariance says."""
    centre = np.array([0.5, -0.3, 0.2])
    step = np.eye(4)
    if generator is not None:
        step[:3, :3] = Rotation.from_rotvec(TURN * generator.normal(size=3)).as_matrix()
        step[:3, 3] = centre + SHIFT * generator.normal(size=3) - step[:3, :3] @ centre
    covariance = np.diag(np.repeat([TURN**2, SHIFT**2], 3))
    return Edge(source, target, step @ invert(poses[target]) @ poses[source], covariance, centre, confidence)


def wrong(source: int, target: int, generator: np.random.Generator, confidence: float = 0.95) -> Edge:
    return edge(
        np.stack([random_pose(generator) for _ in range(target + source + 1)]), source, target, None, confidence
    )


def errors(graph: PoseGraph, poses: np.ndarray) -> np.ndarray:
    """(N, 2) angle and distance of each scan's pose, relative to the first of its group."""
    out = np.zeros((len(poses), 2))
    for group in graph.groups:
        for scan in group:
            step = graph.poses[scan] @ invert(invert(poses[group[0]]) @ poses[scan])
            place = graph.poses[scan][:3, 3]
            out[scan] = Rotation.from_matrix(step[:3, :3]).magnitude(), np.linalg.norm(apply(step, place[None]) - place)
    return out


def test_exact_edges_give_exact_poses() -> None:
    _, poses = world(6, 0)
    graph = solve_pose_graph(6, [edge(poses, i, j) for i, j in combinations(range(6), 2)])
    assert graph.groups == (tuple(range(6)),)
    np.testing.assert_array_equal(graph.poses[0], np.eye(4))
    assert errors(graph, poses).max() < 1e-7
    assert graph.used.all() and graph.turns.max() < 1e-7 and graph.shifts.max() < 1e-7
    assert len(graph.cycles) == 15 - 5


def test_more_edges_make_better_poses_and_deviations_say_how_good() -> None:
    squares, spread = [], []
    for seed in range(8):
        generator, poses = world(6, seed)
        edges = [edge(poses, i, j, generator) for i, j in combinations(range(6), 2)]
        full, chain = solve_pose_graph(6, edges), solve_pose_graph(6, [e for e in edges if e.target == e.source + 1])
        spread.append([errors(full, poses)[5], errors(chain, poses)[5]])
        for scan in range(1, 6):
            truth = invert(poses[0]) @ poses[scan]
            step = truth @ invert(full.poses[scan])
            place = full.poses[scan][:3, 3]
            off = np.concatenate([Rotation.from_matrix(step[:3, :3]).as_rotvec(), truth[:3, 3] - place])
            # Residuals count by their confidence, 0.95 here.
            squares.append(off @ np.linalg.solve(full.covariances[scan], off))
    better, worse = np.mean(spread, axis=0)
    assert (better < 0.75 * worse).all()
    assert np.mean(squares) == pytest.approx(6.0, rel=0.25)


@pytest.mark.parametrize("count", [8, 12])
def test_thirty_percent_wrong_edges_are_thrown_out(count: int) -> None:
    for seed in range(3):
        generator, poses = world(count, seed)
        pairs = list(combinations(range(count), 2))
        bad = generator.permutation(len(pairs)) < 0.3 * len(pairs)
        edges = [
            wrong(i, j, generator, generator.uniform(0.8, 1.0))
            if is_bad
            else edge(poses, i, j, generator, generator.uniform(0.8, 1.0))
            for (i, j), is_bad in zip(pairs, bad, strict=True)
        ]
        graph = solve_pose_graph(count, edges)
        assert graph.groups == (tuple(range(count)),)
        assert not graph.used[bad].any()
        assert graph.used[~bad].mean() > 0.95  # the gate gives up one in a thousand
        assert errors(graph, poses).max() < 0.1


def test_wrong_edges_lose_even_if_they_are_the_most_confident() -> None:
    generator, poses = world(7, 3)
    pairs = list(combinations(range(7), 2))
    bad = np.array([pair in {(0, 1), (2, 3), (4, 5)} for pair in pairs])
    edges = [
        wrong(i, j, generator, 0.999) if is_bad else edge(poses, i, j, generator, 0.9)
        for (i, j), is_bad in zip(pairs, bad, strict=True)
    ]
    graph = solve_pose_graph(7, edges)
    np.testing.assert_array_equal(graph.used, ~bad)
    assert errors(graph, poses).max() < 0.1


def test_the_unit_and_the_order_of_edges_do_not_matter() -> None:
    generator, poses = world(5, 1)
    edges = [edge(poses, i, j, generator) for i, j in combinations(range(5), 2)]
    graph = solve_pose_graph(5, edges)
    backwards = solve_pose_graph(5, edges[::-1])
    np.testing.assert_allclose(backwards.poses, graph.poses, atol=1e-6)
    scale = np.diag([1000.0, 1000.0, 1000.0, 1.0])
    in_mm = [
        replace(
            each,
            T_target_source=scale @ each.T_target_source @ np.linalg.inv(scale),
            covariance=np.kron(np.diag([1.0, 1000.0]), np.eye(3)) @ each.covariance @ np.diag(np.repeat([1.0, 1e3], 3)),
            centre=1000.0 * each.centre,
        )
        for each in edges
    ]
    scaled = solve_pose_graph(5, in_mm)
    np.testing.assert_allclose(scaled.poses, scale @ graph.poses @ np.linalg.inv(scale), atol=1e-3)
    np.testing.assert_allclose(scaled.shifts, 1000.0 * graph.shifts, atol=1e-3)


def test_a_cycle_names_its_scans_and_its_error() -> None:
    _, poses = world(4, 2)
    turned = edge(poses, 3, 0, None, 0.9)
    off = np.eye(4)
    off[:3, :3] = Rotation.from_rotvec([0.0, 0.0, 0.02]).as_matrix()
    turned = replace(turned, T_target_source=off @ turned.T_target_source, centre=np.zeros(3))
    graph = solve_pose_graph(4, [edge(poses, 1, 0), edge(poses, 2, 1), edge(poses, 3, 2), turned])
    (cycle,) = graph.cycles
    assert cycle.edge == 3 and cycle.scans == (3, 2, 1, 0)
    assert cycle.turn == pytest.approx(0.02, rel=1e-6) and cycle.shift < 1e-9
    assert graph.used.all()


def rooms(extra: Sequence[Edge], poses: np.ndarray, threshold: float = 0.8) -> PoseGraph:
    """Scans 0 to 2 and 3 to 5 are sure among each other; `extra` edges between the two rooms."""
    inside = [edge(poses, i, j, None, 0.99) for room in ((0, 1, 2), (3, 4, 5)) for i, j in combinations(room, 2)]
    return solve_pose_graph(6, [*inside, *extra], threshold=threshold)


APART, TOGETHER = ((0, 1, 2), (3, 4, 5)), ((0, 1, 2, 3, 4, 5),)


def test_groups_are_joined_by_what_agrees_and_is_sure_enough_together() -> None:
    generator, poses = world(6, 4)
    apart = rooms([], poses)
    assert apart.groups == APART
    np.testing.assert_array_equal(apart.poses[3], np.eye(4))
    assert rooms([edge(poses, 0, 3, None, 0.85)], poses).groups == TOGETHER
    assert rooms([edge(poses, 0, 3, None, 0.85)], poses, threshold=0.95).groups == APART
    weak = edge(poses, 0, 3, None, 0.6)
    alone = rooms([weak], poses)
    assert alone.groups == APART and not alone.used[-1] and np.isnan(alone.turns[-1])
    # 1 - 0.4 * 0.4 = 0.84
    confirmed = rooms([weak, edge(poses, 1, 4, None, 0.6)], poses)
    assert confirmed.groups == TOGETHER and confirmed.used.all() and errors(confirmed, poses).max() < 1e-7
    assert rooms([weak, wrong(1, 4, generator, 0.6)], poses).groups == APART


def test_groups_stay_apart_where_edges_contradict_each_other() -> None:
    generator, poses = world(6, 5)
    right, rival = edge(poses, 0, 3, None, 0.9), wrong(1, 4, generator, 0.9)
    # Odds of 9 against 1 + 9.
    assert rooms([right, rival], poses).groups == APART
    outvoted = rooms([right, edge(poses, 2, 5, None, 0.9), rival], poses)
    assert outvoted.groups == TOGETHER
    np.testing.assert_array_equal(outvoted.used[-3:], [True, True, False])


def test_of_hypotheses_that_exclude_each_other_the_confirmed_one_is_used() -> None:
    generator, poses = world(3, 6)
    choices = [wrong(0, 1, generator, 0.45), edge(poses, 0, 1, None, 0.45)]
    assert solve_pose_graph(3, choices).groups == ((0,), (1,), (2,))
    graph = solve_pose_graph(3, [*choices, edge(poses, 1, 2), edge(poses, 2, 0)])
    assert graph.groups == ((0, 1, 2),)
    np.testing.assert_array_equal(graph.used, [False, True, True, True])


def test_scans_that_nothing_joins_are_groups_of_their_own() -> None:
    graph = solve_pose_graph(2, [])
    assert graph.groups == ((0,), (1,)) and graph.cycles == () and len(graph.used) == 0
    np.testing.assert_array_equal(graph.poses, np.stack([np.eye(4)] * 2))


@pytest.mark.parametrize("ends", [(0, 0), (0, 2), (-1, 1)])
def test_an_edge_must_join_two_scans(ends: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="edges: expected two of 2 scans"):
        solve_pose_graph(2, [Edge(*ends, np.eye(4), np.eye(6), np.zeros(3), 0.9)])
