"""The functions of roma 1.8 on top of rotaware.geo, so that roma's own tests can judge it; see README.md here.

Every function is one of ours, up to the order of arguments and of quaternions. What the library does not offer is not
imitated: those tests fail, and say so. The classes of `roma.transforms` are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rotaware.geo import (
    axis_angle_geodesic_distance,
    axis_angle_to_matrix,
    euler_to_matrix,
    euler_to_quaternion,
    geodesic_distance,
    identity_quaternion,
    is_orthogonal,
    is_rotation,
    kabsch,
    matrix_slerp,
    matrix_to_axis_angle,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_apply,
    quaternion_conjugate,
    quaternion_exp,
    quaternion_geodesic_distance,
    quaternion_inverse,
    quaternion_normalize,
    quaternion_raw_multiply,
    quaternion_slerp,
    quaternion_to_axis_angle,
    quaternion_to_euler,
    quaternion_to_matrix,
    quaternion_wxyz_to_xyzw,
    quaternion_xyzw_to_wxyz,
    random_axis_angle,
    random_quaternions,
    random_rotations,
    roma_to_rotation_6d,
    roma_to_rotation_10d,
    rotation_6d_to_matrix,
    rotation_10d_to_quaternion,
    rotation_angle,
    rotation_compose,
    rotation_inverse,
    special_procrustes_quaternion,
    umeyama,
)
from rotaware.geo import procrustes as nearest_orthogonal
from rotaware.geo import special_procrustes as nearest_rotation

Angles = Tensor | Sequence[Tensor]
METHODS = {"auto": "auto", "svd": "svd", "horn": "closed_form"}


# --- roma.mappings


def procrustes(
    M: Tensor,
    force_rotation: bool = False,
    regularization: float = 0.0,
    gradient_eps: float | None = None,
    return_singular_values: bool = False,
    method: str = "auto",
) -> Any:
    if not force_rotation:
        if return_singular_values or method == "horn":
            raise ValueError("not offered: singular values and the closed form are for rotations only")
        return nearest_orthogonal(M, gradient_eps=gradient_eps)
    # Ours adds the gradient of w |M - R|^2, which is 2 w (M - R); roma adds w (M - R).
    return nearest_rotation(
        M,
        regularization / 2,
        gradient_eps,
        return_singular_values=return_singular_values,
        method=METHODS.get(method, method),
    )


def special_procrustes(
    M: Tensor,
    regularization: float = 0.0,
    gradient_eps: float | None = None,
    return_singular_values: bool = False,
    method: str = "auto",
) -> Any:
    return procrustes(M, True, regularization, gradient_eps, return_singular_values, method)


def special_procrustes_unitquat(M: Tensor, gradient_eps: float | None = None) -> Tensor:
    return special_procrustes_quaternion(M, "xyzw")


def procrustes_naive(M: Tensor, force_rotation: bool = False, return_singular_values: bool = False) -> Any:
    """Not ours: the oracle, by the singular value decomposition of PyTorch and its derivative."""
    u, s, vt = torch.linalg.svd(M)
    flip = torch.ones_like(s)
    if force_rotation:
        flip = torch.cat([flip[..., :-1], torch.sign(torch.det(u) * torch.det(vt)).detach()[..., None]], -1)
    rotation = (u * flip.unsqueeze(-2)) @ vt
    return (rotation, s * flip) if return_singular_values else rotation


def special_procrustes_naive(M: Tensor, return_singular_values: bool = False) -> Any:
    return procrustes_naive(M, True, return_singular_values)


def special_gramschmidt(M: Tensor, epsilon: float = 0) -> Any:
    return rotation_6d_to_matrix(roma_to_rotation_6d(M[..., :2]))


def symmatrixvec_to_unitquat(x: Tensor, gradient_eps: float | None = None, method: str = "auto") -> Tensor:
    return rotation_10d_to_quaternion(roma_to_rotation_10d(x), "xyzw")


def symmatrix_to_projective_point(A: Tensor, gradient_eps: float | None = None, method: str = "auto") -> Tensor:
    # The symmetric part, which gives the gradient its symmetry.
    symmetric = (A + A.mT) / 2
    return symmatrixvec_to_unitquat(symmetric[..., (0, 1, 2, 3, 1, 2, 3, 2, 3, 3), (0, 0, 0, 0, 1, 1, 1, 2, 2, 3)])


def rotvec_to_unitquat(rotvec: Tensor) -> Tensor:
    # Not `axis_angle_to_quaternion`, whose real part is never negative.
    return quaternion_exp(torch.cat([rotvec / 2, torch.zeros_like(rotvec[..., :1])], -1), "xyzw")


def unitquat_to_rotvec(quat: Tensor, shortest_arc: bool = True) -> Tensor:
    return quaternion_to_axis_angle(quat, "xyzw", shortest=shortest_arc)


def unitquat_to_rotmat(quat: Tensor) -> Tensor:
    return quaternion_to_matrix(quat, "xyzw")


def rotmat_to_unitquat(R: Tensor) -> Tensor:
    return matrix_to_quaternion(R, "xyzw")


rotvec_to_rotmat = axis_angle_to_matrix
rotmat_to_rotvec = matrix_to_axis_angle
quat_xyzw_to_wxyz = quaternion_xyzw_to_wxyz
quat_wxyz_to_xyzw = quaternion_wxyz_to_xyzw


# --- roma.euler


def euler_to_unitquat(convention: str, angles: Angles, degrees: bool = False, **ignored: object) -> Tensor:
    return euler_to_quaternion(_stacked(angles), convention, degrees, "xyzw")


def euler_to_rotmat(convention: str, angles: Angles, degrees: bool = False, **ignored: object) -> Tensor:
    return euler_to_matrix(_stacked(angles), convention, degrees)


def euler_to_rotvec(convention: str, angles: Angles, degrees: bool = False, **ignored: object) -> Tensor:
    return matrix_to_axis_angle(euler_to_rotmat(convention, angles, degrees))


def unitquat_to_euler(convention: str, quat: Tensor, as_tuple: bool = False, degrees: bool = False) -> Any:
    angles = quaternion_to_euler(quat, convention, degrees, "xyzw")
    return angles.unbind(-1) if as_tuple else angles


def rotmat_to_euler(convention: str, rotmat: Tensor, as_tuple: bool = False, degrees: bool = False) -> Any:
    angles = matrix_to_euler(rotmat, convention, degrees)
    return angles.unbind(-1) if as_tuple else angles


def rotvec_to_euler(convention: str, rotvec: Tensor, as_tuple: bool = False, degrees: bool = False) -> Any:
    return rotmat_to_euler(convention, axis_angle_to_matrix(rotvec), as_tuple, degrees)


def _stacked(angles: Angles) -> Tensor:
    return angles if isinstance(angles, Tensor) else torch.stack(tuple(angles), -1)


# --- roma.utils


def is_orthonormal_matrix(R: Tensor, epsilon: float = 1e-7) -> bool:
    return bool(is_orthogonal(R, tolerance=epsilon).all())


def is_rotation_matrix(R: Tensor, epsilon: float = 1e-7) -> bool:
    if R.shape[-1] == 3:
        return bool(is_rotation(R, tolerance=epsilon).all())
    return is_orthonormal_matrix(R, epsilon) and bool((torch.linalg.det(R) > 0).all())


def random_unitquat(size: Any = (), **options: Any) -> Tensor:
    return random_quaternions(size, order="xyzw", **options)


def random_rotmat(size: Any = (), **options: Any) -> Tensor:
    return random_rotations(size, **options)


def random_rotvec(size: Any = (), **options: Any) -> Tensor:
    return random_axis_angle(size, **options)


def identity_quat(size: Any = (), **options: Any) -> Tensor:
    return identity_quaternion(size, "xyzw", **options)


def rotmat_cosine_angle(R: Tensor) -> Tensor:
    return rotation_angle(R).cos()


def rotmat_geodesic_distance(R1: Tensor, R2: Tensor, clamping: float = 1.0) -> Tensor:
    return geodesic_distance(R1, R2)


rotmat_geodesic_distance_naive = rotmat_geodesic_distance
rotvec_geodesic_distance = axis_angle_geodesic_distance


def unitquat_geodesic_distance(q1: Tensor, q2: Tensor) -> Tensor:
    return quaternion_geodesic_distance(q1, q2, "xyzw")


def quat_conjugation(quat: Tensor) -> Tensor:
    return quaternion_conjugate(quat, "xyzw")


def quat_inverse(quat: Tensor) -> Tensor:
    return quaternion_inverse(quat, "xyzw")


def quat_normalize(quat: Tensor) -> Tensor:
    return quaternion_normalize(quat, "xyzw")


def quat_product(p: Tensor, q: Tensor) -> Tensor:
    return quaternion_raw_multiply(p, q, "xyzw")


def quat_composition(sequence: Sequence[Tensor], normalize: bool = False) -> Tensor:
    product = sequence[0]
    for quat in sequence[1:]:
        product = quat_product(product, quat)
    return quat_normalize(product) if normalize else product


def quat_action(q: Tensor, v: Tensor, is_normalized: bool = False) -> Tensor:
    return quaternion_apply(q, v, "xyzw")


def rotvec_inverse(rotvec: Tensor) -> Tensor:
    return -rotvec


def rotvec_composition(sequence: Sequence[Tensor], normalize: bool = False) -> Tensor:
    return matrix_to_axis_angle(rotation_compose(*map(axis_angle_to_matrix, sequence), normalize=normalize))


rotmat_inverse = rotation_inverse


def rotmat_composition(sequence: Sequence[Tensor], normalize: bool = False) -> Tensor:
    return rotation_compose(*sequence, normalize=normalize)


def unitquat_slerp(q0: Tensor, q1: Tensor, steps: Tensor, shortest_arc: bool = True) -> Tensor:
    return quaternion_slerp(q0, q1, steps.reshape(*steps.shape, *[1] * (q0.ndim - 1)), shortest_arc, order="xyzw")


unitquat_slerp_fast = unitquat_slerp


def rotvec_slerp(rotvec0: Tensor, rotvec1: Tensor, steps: Tensor) -> Tensor:
    return rotmat_to_rotvec(rotmat_slerp(axis_angle_to_matrix(rotvec0), axis_angle_to_matrix(rotvec1), steps))


def rotmat_slerp(R0: Tensor, R1: Tensor, steps: Tensor) -> Tensor:
    return matrix_slerp(R0, R1, steps.reshape(*steps.shape, *[1] * (R0.ndim - 2)))


def rigid_points_registration(
    x: Tensor, y: Tensor, weights: Tensor | None = None, compute_scaling: bool = False
) -> tuple[Tensor, ...]:
    result = (umeyama if compute_scaling else kabsch)(x, y, weights=weights)
    motion = (result.rotation, result.translation)
    return (*motion, result.scale) if compute_scaling else motion


def rigid_points_registration_unitquat(
    x: Tensor, y: Tensor, weights: Tensor | None = None, compute_scaling: bool = False
) -> tuple[Tensor, ...]:
    rotation, *rest = rigid_points_registration(x, y, weights, compute_scaling)
    return (rotmat_to_unitquat(rotation), *rest)


def rigid_vectors_registration(
    x: Tensor, y: Tensor, weights: Tensor | None = None, compute_scaling: bool = False
) -> Any:
    w = torch.ones_like(x[..., :1]) if weights is None else weights.unsqueeze(-1)
    covariance = (w * y).mT @ x
    rotation = nearest_rotation(covariance)
    if not compute_scaling:
        return rotation
    return rotation, (rotation * covariance).sum((-2, -1)) / (w * x.square()).sum((-2, -1))


def rigid_vectors_registration_unitquat(
    x: Tensor, y: Tensor, weights: Tensor | None = None, compute_scaling: bool = False
) -> Any:
    if not compute_scaling:
        return rotmat_to_unitquat(rigid_vectors_registration(x, y, weights))
    rotation, scale = rigid_vectors_registration(x, y, weights, True)
    return rotmat_to_unitquat(rotation), scale


def _module(name: str, **members: object) -> ModuleType:
    """A submodule that `import roma.<name>` finds."""
    module = ModuleType(f"roma.{name}")
    module.__dict__.update(members)
    sys.modules[module.__name__] = module
    return module


_public = {name: value for name, value in globals().items() if not name.startswith("_")}
mappings = _module("mappings", **_public)
utils = _module("utils", **_public)
internal = _module("internal")
