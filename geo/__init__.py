"""Mathematics of rotations and oriented shapes; imports none of the other rooms."""

from .ppf import point_pair_features, signed_point_pair_features
from .rigid import (
    Alignment,
    compose_transforms,
    invert_transform,
    kabsch,
    make_transform,
    transform_normals,
    transform_points,
    umeyama,
)
from .sampling import random_quaternions, random_rotations
from .so3 import (
    axis_angle_to_matrix,
    axis_angle_to_quaternion,
    geodesic_distance,
    is_rotation,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    quaternion_to_axis_angle,
    quaternion_to_matrix,
    rotation_angle,
)
from .testing import assert_equivariant, assert_invariant, sample_rotations

__all__ = [
    "Alignment", "assert_equivariant", "assert_invariant", "axis_angle_to_matrix", "axis_angle_to_quaternion",
    "compose_transforms", "geodesic_distance", "invert_transform", "is_rotation", "kabsch", "make_transform",
    "matrix_to_axis_angle", "matrix_to_quaternion", "point_pair_features", "quaternion_to_axis_angle",
    "quaternion_to_matrix", "random_quaternions", "random_rotations", "rotation_angle", "sample_rotations",
    "signed_point_pair_features", "transform_normals", "transform_points", "umeyama",
]  # fmt: skip
