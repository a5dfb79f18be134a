"""The rotation functions of pytorch3d.transforms on top of rotaware.geo, so that its own tests can judge it.

Names, argument order and quaternion order are the same; only the layout of 6D vectors differs. See README.md here.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch
from torch import Tensor

from rotaware import geo
from rotaware.geo import continuous, euler, lie, losses, quaternion, sampling


def matrix_to_rotation_6d(matrix: Tensor) -> Tensor:
    return continuous.matrix_to_rotation_6d(matrix, "rows")


def rotation_6d_to_matrix(d6: Tensor) -> Tensor:
    matrix = continuous.rotation_6d_to_matrix(d6, "rows")
    assert isinstance(matrix, Tensor)
    return matrix


def random_quaternions(n: int, dtype: torch.dtype = torch.float32, device: str | None = None) -> Tensor:
    return geo.random_quaternions(n, dtype=dtype, device=device)


def random_rotations(n: int, dtype: torch.dtype = torch.float32, device: str | None = None) -> Tensor:
    return geo.random_rotations(n, dtype=dtype, device=device)


def random_rotation(dtype: torch.dtype = torch.float32, device: str | None = None) -> Tensor:
    return sampling.random_rotation(dtype=dtype, device=device)


def axis_angle_to_matrix(axis_angle: Tensor, fast: bool = False) -> Tensor:
    return geo.axis_angle_to_matrix(axis_angle)


def matrix_to_axis_angle(matrix: Tensor, fast: bool = False) -> Tensor:
    return geo.matrix_to_axis_angle(matrix)


def so3_exp_map(log_rot: Tensor, eps: float = 0.0001) -> Tensor:
    return geo.axis_angle_to_matrix(log_rot)


def so3_log_map(R: Tensor, eps: float = 0.0001, cos_bound: float = 1e-4) -> Tensor:
    return geo.matrix_to_axis_angle(R)


def so3_relative_angle(
    R1: Tensor, R2: Tensor, cos_angle: bool = False, cos_bound: float = 1e-4, eps: float = 1e-4
) -> Tensor:
    angle = geo.geodesic_distance(R1, R2)
    return angle.cos() if cos_angle else angle


def so3_rotation_angle(R: Tensor, eps: float = 1e-4, cos_angle: bool = False, cos_bound: float = 1e-4) -> Tensor:
    angle = losses.so3_rotation_angle(R)
    return angle.cos() if cos_angle else angle


_CONVERSIONS = {
    "axis_angle_to_matrix": axis_angle_to_matrix,
    "axis_angle_to_quaternion": geo.axis_angle_to_quaternion,
    "euler_angles_to_matrix": euler.euler_angles_to_matrix,
    "matrix_to_axis_angle": matrix_to_axis_angle,
    "matrix_to_euler_angles": euler.matrix_to_euler_angles,
    "matrix_to_quaternion": geo.matrix_to_quaternion,
    "matrix_to_rotation_6d": matrix_to_rotation_6d,
    "quaternion_apply": quaternion.quaternion_apply,
    "quaternion_invert": quaternion.quaternion_invert,
    "quaternion_multiply": quaternion.quaternion_multiply,
    "quaternion_raw_multiply": quaternion.quaternion_raw_multiply,
    "quaternion_to_axis_angle": geo.quaternion_to_axis_angle,
    "quaternion_to_matrix": geo.quaternion_to_matrix,
    "random_quaternions": random_quaternions,
    "random_rotation": random_rotation,
    "random_rotations": random_rotations,
    "rotation_6d_to_matrix": rotation_6d_to_matrix,
    "standardize_quaternion": quaternion.standardize_quaternion,
}
_SO3 = {
    "hat": lie.hat,
    "hat_inv": lie.hat_inv,
    "so3_exp_map": so3_exp_map,
    "so3_exponential_map": so3_exp_map,
    "so3_log_map": so3_log_map,
    "so3_relative_angle": so3_relative_angle,
    "so3_rotation_angle": so3_rotation_angle,
}


def _module(name: str, members: dict[str, object]) -> ModuleType:
    """A submodule that `import pytorch3d.<name>` finds."""
    module = ModuleType(f"pytorch3d.{name}")
    module.__dict__.update(members)
    sys.modules[module.__name__] = module
    return module


transforms = _module("transforms", {**_CONVERSIONS, **_SO3})
transforms.rotation_conversions = _module("transforms.rotation_conversions", dict(_CONVERSIONS))
transforms.so3 = _module("transforms.so3", dict(_SO3))
