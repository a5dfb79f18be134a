"""The functions that `rotations.py` times: how each library is called, on what, and what is right; nothing to run here.

Every way of doing an operation gets the same numbers in the layout it wants (quaternions x, y, z, w for roma and SciPy,
two columns for roma's 6D), made before anything is timed, and its result is brought to our layout for the check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pytorch3d_style as style
import roma
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rotaware import geo

# Tensor or array: SciPy takes both.
Numbers = Any
OURS, ROMA, STYLE, SCIPY, SCIPY_TORCH = "rotaware", "roma", "PyTorch3D style", "SciPy float64", "SciPy on torch"
LIBRARIES = (OURS, ROMA, STYLE, SCIPY, SCIPY_TORCH)
CLOUD = 8  # points of each of many clouds
FRACTION = 0.3  # where slerp is evaluated
TAIT_BRYAN, PROPER = "XYZ", "ZXZ"


@dataclass(frozen=True)
class Way:
    """One library's way: the call, its arguments from ours, our result from its."""

    call: Callable[..., Any]
    prepare: Callable[..., tuple[Any, ...]] = lambda *arguments: arguments
    read: Callable[[Any], Any] = lambda result: result


@dataclass(frozen=True)
class Operation:
    """What is done on which arguments, its right answer in float64, and when two answers are the same."""

    arguments: tuple[str, ...]
    oracle: Callable[..., Any] | None
    ways: dict[str, Way]
    same: Literal["numbers", "sign", "angles", "orthogonal"] = "numbers"
    differentiable: bool = True


def sample(kind: str, count: int, generator: torch.Generator) -> Any:
    """Random arguments in float64."""
    options: Any = {"dtype": torch.float64, "generator": generator}
    shapes = {"point": (3,), "5d": (5,), "6d": (6,), "9d": (3, 3), "10d": (10,), "12d": (12,), "4x4": (4, 4)}
    if kind in shapes:
        return torch.randn(count, *shapes[kind], **options)
    match kind:
        case "count":
            return count
        case "quaternion":
            return geo.random_quaternions(count, **options)
        case "matrix":
            return geo.random_rotations(count, **options)
        case "axis_angle":
            return geo.random_axis_angle(count, **options)
        case "mrp":
            return geo.matrix_to_mrp(geo.random_rotations(count, **options))
        case "angles":
            return 3.0 * torch.rand(count, 3, **options) - 1.5
        case "similar":
            return geo.axis_angle_to_matrix(1.0 + 0.5 * torch.randn(count, 3, **options))
        case "cloud" | "moved cloud" | "clouds" | "moved clouds":
            return _points(kind, count)
    raise ValueError(kind)


def _points(kind: str, count: int) -> Tensor:
    """The same points for both kinds; the moved ones under rigid motions and with noise."""
    generator = torch.Generator().manual_seed(1)
    options: Any = {"dtype": torch.float64, "generator": generator}
    # Fewer than three points have no single best rotation.
    shape = (count, CLOUD, 3) if "clouds" in kind else (max(count, 4), 3)
    points = torch.randn(shape, **options)
    if "moved" not in kind:
        return points
    turn = geo.random_rotations(shape[:-2], **options)
    return points @ turn.mT + 0.1 * torch.randn(shape, **options) + points.new_tensor([1.0, 2.0, 3.0])


def _xyzw(*quats: Numbers) -> tuple[Any, ...]:
    return tuple(quat[..., [1, 2, 3, 0]] for quat in quats)


def _xyzw_then_same(quat: Numbers, other: Numbers) -> tuple[Any, ...]:
    return *_xyzw(quat), other


def _wxyz(quat: Numbers) -> Numbers:
    return quat[..., [3, 0, 1, 2]]


def _transposed(matrix: Tensor) -> Tensor:
    return matrix.mT


def _valid(matrix: Numbers) -> Rotation:
    """Without SciPy's own projection of the matrix, the faster of its two ways."""
    return Rotation.from_matrix(matrix, assume_valid=True)


def _quat(quat: Numbers) -> Rotation:
    return Rotation.from_quat(quat)


def _nearest(matrix: Any) -> Any:
    u, _, vh = np.linalg.svd(matrix)
    u[..., -1] *= np.linalg.det(u @ vh)[..., None]
    return u @ vh


def _orthonormal(columns: Any, n: int) -> Any:
    """Gram-Schmidt of all columns but the last, (..., n^2 - n), by QR."""
    q, r = np.linalg.qr(columns.reshape(-1, n - 1, n).swapaxes(-1, -2), mode="complete")
    q[..., :-1] *= np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
    q[..., -1] *= np.linalg.det(q)[..., None]
    return q


def _nearest_to_two_vectors(vectors: Any) -> Any:
    columns = vectors.reshape(-1, 2, 3)
    columns = columns / np.linalg.norm(columns, axis=-1, keepdims=True)
    return _nearest(np.concatenate([columns, np.zeros_like(columns[:, :1])], 1).swapaxes(-1, -2))


def _unfolded(vector: Any) -> Any:
    """6D of 5D."""
    point = vector[:, 2:] * [2**0.5 + 1, 2**0.5 + 1, 2**0.5]
    length = np.linalg.norm(point, axis=-1, keepdims=True)
    return np.concatenate([vector[:, :2], (length - 1 / length) / 2, point / length], -1)


def _least_eigenvector(vector: Any) -> Any:
    symmetric = np.zeros((len(vector), 4, 4))
    row, column = np.triu_indices(4)
    symmetric[:, row, column] = symmetric[:, column, row] = vector
    return np.linalg.eigh(symmetric)[1][..., 0]


def _pose(source: Any, target: Any) -> Any:
    x, y = source.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    rotation = _nearest((target - y).swapaxes(-1, -2) @ (source - x))
    return _pose_numbers((rotation, (y - x @ rotation.swapaxes(-1, -2))[..., 0, :]))


def _pose_numbers(pose: tuple[Any, ...]) -> Tensor:
    rotation, shift = (torch.as_tensor(part) for part in pose[:2])
    return torch.cat((rotation.flatten(-2), shift), -1)


def _our_pose(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    found = geo.kabsch(source, target)
    return found.rotation, found.translation


def _scipy_pose(source: Numbers, target: Numbers) -> tuple[Any, Any]:
    x, y = source.mean(0), target.mean(0)
    rotation = Rotation.align_vectors(target - y, source - x)[0].as_matrix()
    return rotation, y - rotation @ x


def _scipy_slerp(start: Numbers, end: Numbers) -> Numbers:
    """SciPy's own `Slerp` goes along one sequence; this is the same between many pairs."""
    first = _quat(start)
    return (first * (first.inv() * _quat(end)) ** FRACTION).as_quat()


def _scipy_angle(a: Numbers, b: Numbers) -> Numbers:
    return (_valid(a).inv() * _valid(b)).magnitude()


def _roma_matrix_of_10d(vector: Tensor) -> Tensor:
    return roma.unitquat_to_rotmat(roma.symmatrixvec_to_unitquat(vector))


def operations(dtype: torch.dtype, device: torch.device) -> dict[str, Operation]:
    """Everything that is compared; dtype and device are those of the random functions."""
    random: Any = {"dtype": dtype, "device": device}
    fraction = torch.tensor(FRACTION, **random)
    rotvec, mrp = Rotation.from_rotvec, Rotation.from_mrp
    table = {
        "quaternion_to_matrix": Operation(
            ("quaternion",),
            lambda q: _quat(*_xyzw(q)).as_matrix(),
            {
                OURS: Way(geo.quaternion_to_matrix),
                ROMA: Way(roma.unitquat_to_rotmat, _xyzw),
                STYLE: Way(style.quaternion_to_matrix),
                SCIPY: Way(lambda q: _quat(q).as_matrix(), _xyzw),
            },
        ),
        "matrix_to_quaternion": Operation(
            ("matrix",),
            lambda r: _wxyz(_valid(r).as_quat()),
            {
                OURS: Way(geo.matrix_to_quaternion),
                ROMA: Way(roma.rotmat_to_unitquat, read=_wxyz),
                STYLE: Way(style.matrix_to_quaternion),
                SCIPY: Way(lambda r: _valid(r).as_quat(), read=_wxyz),
            },
            same="sign",
        ),
        "axis_angle_to_matrix": Operation(
            ("axis_angle",),
            lambda v: rotvec(v).as_matrix(),
            {
                OURS: Way(geo.axis_angle_to_matrix),
                ROMA: Way(roma.rotvec_to_rotmat),
                STYLE: Way(style.axis_angle_to_matrix),
                SCIPY: Way(lambda v: rotvec(v).as_matrix()),
            },
        ),
        "matrix_to_axis_angle": Operation(
            ("matrix",),
            lambda r: _valid(r).as_rotvec(),
            {
                OURS: Way(geo.matrix_to_axis_angle),
                ROMA: Way(roma.rotmat_to_rotvec),
                STYLE: Way(style.matrix_to_axis_angle),
                SCIPY: Way(lambda r: _valid(r).as_rotvec()),
            },
        ),
        "axis_angle_to_quaternion": Operation(
            ("axis_angle",),
            lambda v: _wxyz(rotvec(v).as_quat()),
            {
                OURS: Way(geo.axis_angle_to_quaternion),
                ROMA: Way(roma.rotvec_to_unitquat, read=_wxyz),
                STYLE: Way(style.axis_angle_to_quaternion),
                SCIPY: Way(lambda v: rotvec(v).as_quat(), read=_wxyz),
            },
            same="sign",
        ),
        "quaternion_to_axis_angle": Operation(
            ("quaternion",),
            lambda q: _quat(*_xyzw(q)).as_rotvec(),
            {
                OURS: Way(geo.quaternion_to_axis_angle),
                ROMA: Way(roma.unitquat_to_rotvec, _xyzw),
                STYLE: Way(style.quaternion_to_axis_angle),
                SCIPY: Way(lambda q: _quat(q).as_rotvec(), _xyzw),
            },
        ),
        "rotation_6d_to_matrix": Operation(
            ("6d",),
            partial(_orthonormal, n=3),
            {
                OURS: Way(geo.rotation_6d_to_matrix),
                ROMA: Way(roma.special_gramschmidt, lambda x: (geo.rotation_6d_to_roma(x).contiguous(),)),
                STYLE: Way(style.rotation_6d_to_matrix, read=_transposed),
            },
        ),
        "rotation_6d_to_matrix, two_vector": Operation(
            ("6d",),
            _nearest_to_two_vectors,
            {
                OURS: Way(partial(geo.rotation_6d_to_matrix, method="two_vector")),
                STYLE: Way(style.two_vectors_to_matrix),
            },
        ),
        "rotation_5d_to_matrix": Operation(
            ("5d",),
            lambda x: _orthonormal(_unfolded(x), 3),
            {OURS: Way(geo.rotation_5d_to_matrix), STYLE: Way(style.rotation_5d_to_matrix)},
        ),
        "special_procrustes (9D)": Operation(
            ("9d",),
            _nearest,
            {
                OURS: Way(geo.special_procrustes),
                ROMA: Way(roma.special_procrustes),
                STYLE: Way(style.special_procrustes),
            },
        ),
        "rotation_10d_to_matrix": Operation(
            ("10d",),
            lambda x: _quat(*_xyzw(_least_eigenvector(x))).as_matrix(),
            {
                OURS: Way(geo.rotation_10d_to_matrix),
                ROMA: Way(_roma_matrix_of_10d, lambda x: (geo.rotation_10d_to_roma(x).contiguous(),)),
                STYLE: Way(style.rotation_10d_to_matrix),
            },
        ),
    }
    for convention in (TAIT_BRYAN, PROPER):
        table[f"euler_to_matrix {convention}"] = Operation(
            ("angles",),
            lambda a, c=convention: Rotation.from_euler(c, a).as_matrix(),
            {
                OURS: Way(partial(geo.euler_to_matrix, convention=convention)),
                ROMA: Way(partial(roma.euler_to_rotmat, convention)),
                STYLE: Way(partial(style.euler_angles_to_matrix, convention=convention)),
                SCIPY: Way(lambda a, c=convention: Rotation.from_euler(c, a).as_matrix()),
            },
        )
        table[f"matrix_to_euler {convention}"] = Operation(
            ("matrix",),
            lambda r, c=convention: _valid(r).as_euler(c),
            {
                OURS: Way(partial(geo.matrix_to_euler, convention=convention)),
                ROMA: Way(partial(roma.rotmat_to_euler, convention)),
                STYLE: Way(partial(style.matrix_to_euler_angles, convention=convention)),
                SCIPY: Way(lambda r, c=convention: _valid(r).as_euler(c)),
            },
            same="angles",
        )
    return table | {
        "quaternion_multiply": Operation(
            ("quaternion", "quaternion"),
            lambda p, q: _wxyz((_quat(*_xyzw(p)) * _quat(*_xyzw(q))).as_quat()),
            {
                OURS: Way(geo.quaternion_multiply),
                ROMA: Way(roma.quat_product, _xyzw, _wxyz),
                STYLE: Way(style.quaternion_multiply),
                SCIPY: Way(lambda p, q: (_quat(p) * _quat(q)).as_quat(), _xyzw, _wxyz),
            },
            same="sign",
        ),
        "quaternion_apply": Operation(
            ("quaternion", "point"),
            lambda q, x: _quat(*_xyzw(q)).apply(x),
            {
                OURS: Way(geo.quaternion_apply),
                ROMA: Way(partial(roma.quat_action, is_normalized=True), _xyzw_then_same),
                STYLE: Way(style.quaternion_apply),
                SCIPY: Way(lambda q, x: _quat(q).apply(x), _xyzw_then_same),
            },
        ),
        "mrp_to_matrix": Operation(
            ("mrp",),
            lambda p: mrp(p).as_matrix(),
            {
                OURS: Way(geo.mrp_to_matrix),
                STYLE: Way(style.mrp_to_matrix),
                SCIPY: Way(lambda p: mrp(p).as_matrix()),
            },
        ),
        "matrix_to_mrp": Operation(
            ("matrix",),
            lambda r: _valid(r).as_mrp(),
            {
                OURS: Way(geo.matrix_to_mrp),
                STYLE: Way(style.matrix_to_mrp),
                SCIPY: Way(lambda r: _valid(r).as_mrp()),
            },
        ),
        "geodesic_distance": Operation(
            ("matrix", "matrix"),
            _scipy_angle,
            {
                OURS: Way(geo.geodesic_distance),
                ROMA: Way(roma.rotmat_geodesic_distance),
                STYLE: Way(style.so3_relative_angle),
                SCIPY: Way(_scipy_angle),
            },
        ),
        "quaternion_slerp": Operation(
            ("quaternion", "quaternion"),
            lambda p, q: _wxyz(_scipy_slerp(*_xyzw(p, q))),
            {
                OURS: Way(partial(geo.quaternion_slerp, t=FRACTION)),
                ROMA: Way(partial(roma.unitquat_slerp, steps=fraction), _xyzw, _wxyz),
                STYLE: Way(partial(style.quaternion_slerp, t=FRACTION)),
                SCIPY: Way(_scipy_slerp, _xyzw, _wxyz),
            },
            same="sign",
        ),
        "kabsch, one cloud of N": Operation(
            ("cloud", "moved cloud"),
            _pose,
            {
                OURS: Way(_our_pose, read=_pose_numbers),
                ROMA: Way(roma.rigid_points_registration, read=_pose_numbers),
                STYLE: Way(style.align_points, read=_pose_numbers),
                SCIPY: Way(_scipy_pose, read=_pose_numbers),
            },
        ),
        f"kabsch, N clouds of {CLOUD}": Operation(
            ("clouds", "moved clouds"),
            _pose,
            {
                OURS: Way(_our_pose, read=_pose_numbers),
                ROMA: Way(roma.rigid_points_registration, read=_pose_numbers),
                STYLE: Way(style.align_points, read=_pose_numbers),
            },
        ),
        "rotation_mean of N": Operation(
            ("similar",),
            lambda r: _nearest(r.mean(0)),
            {
                OURS: Way(geo.rotation_mean),
                # roma has no mean, its example takes these two steps.
                ROMA: Way(lambda r: roma.special_procrustes(r.sum(0))),
                STYLE: Way(style.rotation_mean),
                SCIPY: Way(lambda r: _valid(r).mean().as_matrix()),
            },
        ),
        "random_rotations": Operation(
            ("count",),
            None,
            {
                OURS: Way(partial(geo.random_rotations, **random)),
                ROMA: Way(partial(roma.random_rotmat, **random)),
                STYLE: Way(partial(style.random_rotations, **random)),
                SCIPY: Way(lambda count: Rotation.random(count).as_matrix()),
            },
            same="orthogonal",
            differentiable=False,
        ),
        "so_n_to_matrix, n = 4": Operation(
            ("12d",),
            partial(_orthonormal, n=4),
            {OURS: Way(partial(geo.so_n_to_matrix, n=4)), STYLE: Way(partial(style.gram_schmidt_to_matrix, n=4))},
        ),
        "special_procrustes, n = 4": Operation(
            ("4x4",),
            _nearest,
            {
                OURS: Way(geo.special_procrustes),
                ROMA: Way(roma.special_procrustes),
                STYLE: Way(style.special_procrustes),
            },
        ),
    }
