"""A robust pose graph: relative poses between scans, some of them wrong, to one pose per scan and group of scans.

1. A spanning forest gives every scan a first pose: the one of the most confident edges, or one drawn at random if more
   evidence agrees on its poses. As long as another edge in the place of one makes still more agree, it is taken. So
   wrong edges leave the forest, whatever the length of their cycles.
2. Poses are relaxed on all edges at once. Every edge has a switch, a weight that falls with its residual (Agarwal et
   al., "Robust map optimization using dynamic covariance scaling", ICRA 2013; here with Geman and McClure's kernel).
   An edge whose residual ends beyond the gate is off.
3. Two parts stay together only where the edges that agree on their relative pose are sure enough, taken together: if
   each is right with probability c, all of them are wrong with the product of their 1 - c, and every edge that clearly
   contradicts them is an answer of its own. Elsewhere the graph is cut: each group has its own frame.

So an edge that would not do alone counts where others confirm it, and one that would is not enough where others
contradict it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.stats import chi2

from .canonical import invert
from .pose_edges import Edge, Edges, covariances, relaxed

# Squared residual, in units of its covariance, that one right edge in a thousand exceeds.
GATE = float(chi2.isf(1e-3, df=6))
# Errors add up along a path of edges: three times the deviation. What lies beyond contradicts.
FAR = 9.0 * GATE
# Forests drawn to start from.
DRAWS = 64
# Rounds of switching, at most, and the change of a switch that is none.
ROUNDS = 30
SETTLED = 1e-3
# An edge switched off this far pulls at nothing.
OFF = 1e-9
# Beyond this, evidence is overwhelming; its exponential must stay finite.
MOST_EVIDENCE = 500.0


@dataclass(frozen=True)
class Cycle:
    """How well an edge closes a cycle with the most confident edges."""

    edge: int
    scans: tuple[int, ...]  # from the edge's source to its target
    turn: float  # radians
    shift: float  # at the edge's centre


@dataclass(frozen=True)
class PoseGraph:
    """One pose per scan and group."""

    poses: np.ndarray  # (N, 4, 4) float64: scan to the frame of its group, which is that of the group's first scan
    covariances: np.ndarray  # (N, 6, 6) of a turn about, and a shift of, the scan's origin; group's frame
    groups: tuple[tuple[int, ...], ...]  # largest first; a scan of its own is a group too
    used: np.ndarray  # (E,) bool: switched on
    turns: np.ndarray  # (E,) angle in radians between an edge and the poses; NaN between groups
    shifts: np.ndarray  # (E,) distance at the edge's centre; NaN between groups
    cycles: tuple[Cycle, ...]  # one for each edge within a group that is not among its most confident ones


def solve_pose_graph(count: int, edges: Sequence[Edge], *, threshold: float = 0.8) -> PoseGraph:
    """Poses of `count` scans from relative ones, of which many may be wrong.

    Args:
        count: number of scans, at least 1.
        edges: any number per pair, such as several hypotheses that exclude each other.
        threshold: confidence that joins two groups.
    Raises:
        ValueError: an edge that names no scan, or joins one with itself.

    >>> step = np.eye(4)
    >>> step[0, 3] = 1.0
    >>> graph = solve_pose_graph(3, [Edge(1, 0, step, 1e-4 * np.eye(6), np.zeros(3), 0.9)])
    >>> graph.groups, graph.poses[1, :3, 3].tolist()
    (((0, 1), (2,)), [1.0, 0.0, 0.0])
    """
    for edge in edges:
        if not (0 <= edge.source < count and 0 <= edge.target < count and edge.source != edge.target):
            raise ValueError(f"edges: expected two of {count} scans, got {edge.source} and {edge.target}")
    graph = _Graph(count, Edges.of(edges))
    poses = graph.agreed()
    active = np.ones(len(edges), dtype=bool)
    while True:
        poses = graph.switched(poses, active)
        squares = graph.squares(poses)
        used = active & (squares < GATE)
        cut = graph.weak_cut(used, active & (squares > FAR), threshold)
        if cut is None:
            break
        active &= ~cut
    return graph.report(poses, used)


@dataclass(frozen=True)
class _Graph:
    count: int
    edges: Edges

    def squares(self, poses: np.ndarray, moved: np.ndarray | None = None) -> np.ndarray:
        """(E,) squared residuals, in units of their covariance; sources may take other poses, `moved`."""
        sources = poses if moved is None else moved
        return self.edges.squares(sources[self.edges.source], poses[self.edges.target])

    def parts(self, among: np.ndarray) -> np.ndarray:
        """(N,) labels of what the edges in `among`, mask or rows, connect."""
        ends = self.edges.source[among], self.edges.target[among]
        links = coo_array((np.ones(len(ends[0])), ends), shape=(self.count, self.count))
        return np.asarray(connected_components(links, directed=False)[1])

    def spanning_forest(self, order: np.ndarray) -> list[int]:
        """Rows of edges that connect all they can without a cycle, the first in `order` first (Kruskal)."""
        part = np.arange(self.count)
        forest = []
        for e in order:
            source, target = part[self.edges.source[e]], part[self.edges.target[e]]
            if source != target:
                part[part == source] = target
                forest.append(int(e))
        return forest

    def most_confident(self, among: np.ndarray) -> list[int]:
        """The spanning forest of the most confident edges in the mask `among`."""
        order = np.argsort(-self.edges.confidence, kind="stable")
        return self.spanning_forest(order[among[order]])

    def sides(self, forest: list[int]) -> np.ndarray:
        """(F, N) bool: scans on the source's side of each edge of the forest."""
        out = np.zeros((len(forest), self.count), dtype=bool)
        for row, edge in enumerate(forest):
            part = self.parts(np.array([each for each in forest if each != edge], dtype=np.int64))
            out[row] = part == part[self.edges.source[edge]]
        return out

    def composed(self, forest: list[int]) -> np.ndarray:
        """(N, 4, 4) poses along the forest, relative to the first scan of each part."""
        poses = np.tile(np.eye(4), (self.count, 1, 1))
        placed = _first_of(self.parts(np.array(forest, dtype=np.int64)))
        waiting = list(forest)
        while waiting:
            edge = next(e for e in waiting if placed[self.edges.source[e]] != placed[self.edges.target[e]])
            waiting.remove(edge)
            source, target = self.edges.source[edge], self.edges.target[edge]
            if placed[target]:
                poses[source] = poses[target] @ self.edges.pose[edge]
            else:
                poses[target] = poses[source] @ invert(self.edges.pose[edge])
            placed[[source, target]] = True
        return poses

    def agreed(self) -> np.ndarray:
        """(N, 4, 4) poses along the forest on which most evidence agrees, as far as the search finds it.

        It starts from the most confident edges, or from the best of many forests drawn by confidence, and exchanges
        one edge after another.
        """
        every = np.ones(len(self.edges), dtype=bool)
        draws = np.random.default_rng(0).exponential(size=(DRAWS, len(self.edges)))
        order = np.argsort(draws / self.edges.confidence, axis=1)
        forests = [self.most_confident(every), *map(self.spanning_forest, order)]
        forest = max(forests, key=lambda each: self._agreement(self.composed(each)))
        while True:
            poses = self.composed(forest)
            better = self._exchange(forest, poses)
            if better is None:
                return poses
            forest = better

    def _agreement(self, poses: np.ndarray) -> float:
        return float(self.edges.evidence[self.squares(poses) < FAR].sum())

    def _exchange(self, forest: list[int], poses: np.ndarray) -> list[int] | None:
        """A forest with more evidence, or None: the most confident edge that does not fit comes in, another goes."""
        edges, evidence = self.edges, self.edges.evidence
        fits = self.squares(poses) < FAR
        sides = self.sides(forest)
        source_side, target_side = sides[:, edges.source], sides[:, edges.target]  # (F, E)
        for e in np.argsort(-np.where(fits, 0.0, evidence), kind="stable")[: np.count_nonzero(~fits)]:
            # Whichever edge of its cycle goes, what is on the source's side of that one moves all the same.
            motion = poses[edges.target[e]] @ edges.pose[e] @ invert(poses[edges.source[e]])
            if_source_moves = self.squares(poses, motion @ poses) < FAR
            if_target_moves = self.squares(poses, invert(motion) @ poses) < FAR
            cycle = np.flatnonzero(source_side[:, e] != target_side[:, e])
            source_moves = source_side[cycle] == source_side[cycle, e, None]
            target_moves = target_side[cycle] == source_side[cycle, e, None]
            would_fit = np.where(
                source_moves == target_moves, fits, np.where(source_moves, if_source_moves, if_target_moves)
            )
            gains = would_fit @ evidence - fits @ evidence
            if gains.size and gains.max() > 1e-9:
                return [int(e), *(each for row, each in enumerate(forest) if row != cycle[gains.argmax()])]
        return None

    def switched(self, poses: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Poses relaxed on the active edges, each weighted by its confidence and its switch."""
        still = _first_of(self.parts(active))
        before = np.zeros(len(self.edges))
        for _ in range(ROUNDS):
            switch = np.where(active, np.square(GATE / (GATE + self.squares(poses))), 0.0)
            if np.abs(switch - before).max(initial=0.0) < SETTLED:
                break
            on = np.flatnonzero(switch > OFF)
            poses = relaxed(self.edges[on], poses, (self.edges.confidence * switch)[on], still)
            before = switch
        return poses

    def weak_cut(self, used: np.ndarray, against: np.ndarray, threshold: float) -> np.ndarray | None:
        """(E,) mask of the edges across the least sure cut of the used ones; None if every cut is sure enough.

        Args:
            used: (E,) bool, edges that agree.
            against: (E,) bool, edges that contradict them.
            threshold: confidence of a cut that is sure enough.
        """
        edges, part = self.edges, self.parts(used)
        inside = part[edges.source] == part[edges.target]
        least, weakest = threshold, None
        for side in self.sides(self.most_confident(used)):
            across = inside & (side[edges.source] != side[edges.target])
            agreed = np.expm1(min(edges.evidence[across & used].sum(), MOST_EVIDENCE))
            rivals = np.expm1(edges.evidence[across & against]).sum()
            confidence = agreed / (1.0 + agreed + rivals)
            if confidence < least:
                least, weakest = confidence, across
        return weakest

    def report(self, poses: np.ndarray, used: np.ndarray) -> PoseGraph:
        """Final poses from the used edges alone, and what every edge says about them."""
        edges, part = self.edges, self.parts(used)
        first = np.unique(part, return_index=True)[1]
        poses = np.stack([invert(poses[first[k]]) @ pose for k, pose in zip(part, poses, strict=True)])
        on = edges[np.flatnonzero(used)]
        poses = relaxed(on, poses, on.confidence, _first_of(part))
        groups = [tuple(np.flatnonzero(part == k).tolist()) for k in range(len(first))]
        inside = part[edges.source] == part[edges.target]
        turns, shifts = self._differences(poses)
        turns[~inside] = shifts[~inside] = np.nan
        return PoseGraph(
            poses,
            covariances(on, poses, on.confidence, _first_of(part)),
            tuple(sorted(groups, key=lambda group: (-len(group), group))),
            used,
            turns,
            shifts,
            self._cycles(used, inside),
        )

    def _cycles(self, used: np.ndarray, inside: np.ndarray) -> tuple[Cycle, ...]:
        forest = self.most_confident(used)
        turns, shifts = self._differences(self.composed(forest))
        ends = self.edges.source[forest], self.edges.target[forest]
        links = coo_array((np.ones(len(forest)), ends), shape=(self.count, self.count)).tocsr()
        cycles = []
        for e in np.setdiff1d(np.flatnonzero(inside), forest):
            before = breadth_first_order(links, self.edges.target[e], directed=False)[1]
            scans = [int(self.edges.source[e])]
            while scans[-1] != self.edges.target[e]:
                scans.append(int(before[scans[-1]]))
            cycles.append(Cycle(int(e), tuple(scans), float(turns[e]), float(shifts[e])))
        return tuple(cycles)

    def _differences(self, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(E,) angles and distances between each edge and the poses."""
        motions = self.edges.motions(poses[self.edges.source], poses[self.edges.target])
        return np.linalg.norm(motions[:, :3], axis=1), np.linalg.norm(motions[:, 3:], axis=1)


def _first_of(part: np.ndarray) -> np.ndarray:
    """(N,) bool: the first scan of every part."""
    first = np.zeros(len(part), dtype=bool)
    first[np.unique(part, return_index=True)[1]] = True
    return first
