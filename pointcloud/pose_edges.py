"""Relative poses between scans, their residuals under given poses, and the least squares poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.sparse import coo_array, csr_array

from rotaware.geo import so3_exp, so3_log

# More confidence would let one edge outvote any number of others; none at all would make it weightless.
LEAST_CONFIDENT, MOST_CONFIDENT = 1e-6, 1.0 - 1e-6


@dataclass(frozen=True)
class Edge:
    """A measured relative pose. Lengths in one unit; frames should have their origins near their points."""

    source: int
    target: int
    T_target_source: np.ndarray  # (4, 4) rigid
    covariance: np.ndarray  # (6, 6) of its error: a turn (rotation vector) about `centre`, and a shift; target's frame
    centre: np.ndarray  # (3,) target's frame
    confidence: float  # probability that it is right at all


@dataclass(frozen=True)
class Edges:
    """Edges as arrays."""

    source: np.ndarray  # (E,)
    target: np.ndarray  # (E,)
    pose: np.ndarray  # (E, 4, 4)
    centre: np.ndarray  # (E, 3)
    whitening: np.ndarray  # (E, 6, 6): maps a motion to one whose covariance is the identity
    confidence: np.ndarray  # (E,) within these bounds

    @staticmethod
    def of(edges: Sequence[Edge]) -> Edges:
        """The arrays of `edges`."""
        return Edges(
            np.array([edge.source for edge in edges], dtype=np.int64),
            np.array([edge.target for edge in edges], dtype=np.int64),
            np.array([edge.T_target_source for edge in edges], dtype=np.float64).reshape(-1, 4, 4),
            np.array([edge.centre for edge in edges], dtype=np.float64).reshape(-1, 3),
            np.array([np.linalg.inv(np.linalg.cholesky(edge.covariance)) for edge in edges]).reshape(-1, 6, 6),
            np.clip([edge.confidence for edge in edges], LEAST_CONFIDENT, MOST_CONFIDENT).reshape(-1),
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: np.ndarray) -> Edges:
        return Edges(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def evidence(self) -> np.ndarray:
        """(E,) evidence, -log(1 - confidence); it adds up over edges that agree."""
        return np.asarray(-np.log1p(-self.confidence))

    def motions(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """(E, 6) turn and shift that lead from each edge to the pose between `sources` and `targets` (E, 4, 4)."""
        return _motions(self, torch.from_numpy(sources), torch.from_numpy(targets)).numpy()

    def squares(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """(E,) squared residuals, in units of their covariance."""
        whitened = np.einsum("eij,ej->ei", self.whitening, self.motions(sources, targets))
        return np.asarray(np.square(whitened).sum(axis=1))


def relaxed(edges: Edges, poses: np.ndarray, weights: np.ndarray, still: np.ndarray) -> np.ndarray:
    """Least squares poses (N, 4, 4).

    Args:
        edges: E of them.
        poses: (N, 4, 4) to start from, scan to a common frame.
        weights: (E,) of the squared residuals, positive.
        still: (N,) bool, poses that do not move: at least one in every part that the edges connect.
    """
    free = np.flatnonzero(~still)
    if len(free) == 0:
        return poses
    problem = _Problem(edges, poses, np.sqrt(weights), free)
    found = least_squares(
        problem.residuals,
        np.zeros(6 * len(free)),
        problem.jacobian,
        x_scale="jac",  # the unit of length may be anything
        tr_solver="lsmr",
        tr_options={"atol": 1e-12, "btol": 1e-12},
    )
    return problem.moved(found.x)


def covariances(edges: Edges, poses: np.ndarray, weights: np.ndarray, still: np.ndarray) -> np.ndarray:
    """(N, 6, 6) covariances of least squares poses: of a turn (rotation vector) about each scan's origin and a shift.

    Args:
        edges, poses, weights, still: as for `relaxed`, whose result `poses` is; the edges hold every pose that is not
            still. Those that are have no covariance.
    """
    free = np.flatnonzero(~still)
    out = np.zeros((len(poses), 6, 6))
    if len(free):
        jacobian = _Problem(edges, poses, np.sqrt(weights), free).jacobian(np.zeros(6 * len(free)))
        inverse = np.linalg.inv((jacobian.T @ jacobian).toarray()).reshape(len(free), 6, len(free), 6)
        out[free] = inverse[np.arange(len(free)), :, np.arange(len(free))]
    return out


@dataclass(frozen=True)
class _Problem:
    """Residuals as functions of the steps (6 F,) of the free poses, each a turn and a shift in the common frame."""

    edges: Edges
    poses: np.ndarray  # (N, 4, 4)
    root: np.ndarray  # (E,) square roots of the weights
    free: np.ndarray  # (F,)

    def moved(self, steps: np.ndarray) -> np.ndarray:
        out = self.poses.copy()
        out[self.free, :3] = _stepped(out[self.free], torch.from_numpy(steps.reshape(-1, 6))).numpy()
        return out

    def residuals(self, steps: np.ndarray) -> np.ndarray:
        return self._whitened(self._at_ends(steps)).numpy().ravel()

    def jacobian(self, steps: np.ndarray) -> csr_array:
        ends = self._at_ends(steps).requires_grad_()
        sums = self._whitened(ends).sum(dim=0)  # every edge has its own rows of `ends`
        grads = torch.autograd.grad(sums, ends, torch.eye(6, dtype=torch.float64), is_grads_batched=True)[0]
        blocks = grads.numpy().transpose(1, 0, 2)  # (E, 6, 12)
        place = np.full(len(self.poses), -1)
        place[self.free] = np.arange(len(self.free))
        columns = 6 * place[np.stack([self.edges.source, self.edges.target], axis=1)]  # (E, 2)
        columns = np.repeat(columns, 6, axis=1) + np.tile(np.arange(6), 2)  # (E, 12), negative where at rest
        row, column, value = np.broadcast_arrays(
            np.arange(6 * len(self.edges)).reshape(-1, 6, 1), columns[:, None], blocks
        )
        moving = column >= 0
        shape = (6 * len(self.edges), 6 * len(self.free))
        return coo_array((value[moving], (row[moving], column[moving])), shape=shape).tocsr()

    def _at_ends(self, steps: np.ndarray) -> torch.Tensor:
        """(E, 12) steps of each edge's source and target."""
        every = np.zeros((len(self.poses), 6))
        every[self.free] = steps.reshape(-1, 6)
        return torch.from_numpy(np.concatenate([every[self.edges.source], every[self.edges.target]], axis=1))

    def _whitened(self, ends: torch.Tensor) -> torch.Tensor:
        """(E, 6) weighted residuals."""
        sources = _stepped(self.poses[self.edges.source], ends[:, :6])
        targets = _stepped(self.poses[self.edges.target], ends[:, 6:])
        whitening = torch.from_numpy(self.root[:, None, None] * self.edges.whitening)
        return torch.einsum("eij,ej->ei", whitening, _motions(self.edges, sources, targets))


def _stepped(poses: np.ndarray, steps: torch.Tensor) -> torch.Tensor:
    """(K, 3, 4) poses after a turn about, and a shift of, the scan's origin."""
    given = torch.from_numpy(poses)
    return torch.cat([so3_exp(steps[:, :3]) @ given[:, :3, :3], given[:, :3, 3:] + steps[:, 3:, None]], dim=2)


def _motions(edges: Edges, sources: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(E, 6) turn and shift, in the target's frame about the edge's centre, from the edge to the pose of `sources`."""
    measured, centre = torch.from_numpy(edges.pose), torch.from_numpy(edges.centre)
    back = targets[:, :3, :3].mT
    turn = back @ sources[:, :3, :3] @ measured[:, :3, :3].mT
    arm = centre - measured[:, :3, 3]
    image = turn @ arm[..., None] + back @ (sources[:, :3, 3:] - targets[:, :3, 3:])
    return torch.cat([so3_log(turn), image[..., 0] - centre], dim=1)
