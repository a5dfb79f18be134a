"""Mathematics of rotations and oriented shapes; imports none of the other rooms."""

# Packed by hand, so that a page shows what there is.
# isort: off
# fmt: off
from .align import align_points, align_vectors, Alignment, kabsch, umeyama
from .arc import ARCConv2d, ARCRouting, kernel_rotation_map, rotate_kernel
from .box_iou import box_iou_rotated, differentiable_box_iou, hull_iou
from .boxes import (
    boxes_to_hulls, boxes_to_quads, convert_boxes, flip_boxes, hulls_to_boxes, normalize_boxes, quads_to_boxes,
    resize_boxes, rotate_boxes,
)
from .continuous import (
    matrix_to_rotation_10d, matrix_to_rotation_5d, matrix_to_rotation_6d, matrix_to_rotation_9d, rotation_10d_to_matrix,
    rotation_10d_to_quaternion, rotation_5d_to_matrix, rotation_6d_to_matrix, rotation_9d_to_matrix, symmetric_from_10d,
)
from .convert import convert
from .euler import (
    euler_angles_to_matrix, euler_to_matrix, euler_to_quaternion, matrix_to_euler, matrix_to_euler_angles,
    quaternion_to_euler,
)
from .frames import (
    elementary_rotation, look_rotation, orthonormalize, rotation_apply, rotation_between_vectors, rotation_compose,
    rotation_inverse, swing_twist, SwingTwist,
)
from .gaussian_boxes import (
    boxes_to_gaussians, BoxGaussians, gaussian_bhattacharyya_distance, gaussian_jeffreys_divergence,
    gaussian_kl_divergence, gaussian_wasserstein_distance, gaussians_to_boxes, kfiou, probiou,
)
from .heads import Representation, representations, RotationHead
from .interop import (
    from_numpy, matrix_to_pytorch3d, matrix_to_scipy, numpy_to_transform, pytorch3d_camera_to_transform,
    pytorch3d_to_matrix, pytorch3d_to_transform, quaternion_to_scipy, roma_to_rotation_10d, roma_to_rotation_6d,
    rotation_10d_to_roma, rotation_6d_to_roma, scipy_to_matrix, scipy_to_quaternion, to_numpy, transform_to_numpy,
    transform_to_pytorch3d, transform_to_pytorch3d_camera,
)
from .interpolation import geodesic_interpolate, matrix_slerp, quaternion_nlerp, quaternion_slerp
from .lie import (
    hat, hat_inv, so3_box_minus, so3_box_plus, so3_exp, so3_exp_map, so3_left_jacobian, so3_log, so3_log_map,
    so3_right_jacobian, vee,
)
from .losses import (
    axis_angle_geodesic_distance, chordal_distance, ChordalLoss, GeodesicLoss, quaternion_distance,
    quaternion_geodesic_distance, QuaternionLoss, rotation_error_summary, RotationErrorSummary, so3_relative_angle,
    so3_rotation_angle, SymmetricLoss,
)
from .means import quaternion_mean, rotation_dispersion, rotation_mean
from .nms import nms_hulls, nms_quads, nms_rotated
from .planar import (
    angle_difference, angle_to_matrix2d, angle_to_vector, box_convert_angle, box_to_gaussian, circular_mean,
    gaussian_to_box, matrix2d_to_angle, random_angle, RectangleShape, vector_to_angle, wrap_angle,
)
from .polygons import convex_hull, crosses_itself, min_area_rectangle, order_quads, polygon_area, quad_iou
from .ppf import point_pair_features, signed_point_pair_features
from .procrustes import procrustes, procrustes_conditioning, special_procrustes, special_procrustes_quaternion
from .quaternion import (
    identity_quaternion, quaternion_apply, quaternion_conjugate, quaternion_exp, quaternion_inverse, quaternion_invert,
    quaternion_log, quaternion_multiply, quaternion_normalize, quaternion_pow, quaternion_raw_multiply,
    quaternion_standardize, quaternion_wxyz_to_xyzw, quaternion_xyzw_to_wxyz, standardize_quaternion,
)
from .rigid import compose_transforms, invert_transform, make_transform, transform_normals, transform_points
from .rodrigues import (
    axis_angle4_to_matrix, gibbs_to_matrix, gibbs_to_quaternion, matrix_to_axis_angle4, matrix_to_gibbs, matrix_to_mrp,
    mrp_to_matrix, mrp_to_quaternion, quaternion_to_gibbs, quaternion_to_mrp,
)
from .sampling import (
    perturb, random_axis_angle, random_o_n, random_quaternion, random_quaternions, random_rotation,
    random_rotation_matrix, random_rotations, random_so_n, rotation_grid,
)
from .skew import cayley, hat_n, inverse_cayley, son_exp, son_log, vee_n
from .so3 import (
    axis_angle_to_matrix, axis_angle_to_quaternion, check_rotation, geodesic_distance, is_rotation,
    matrix_to_axis_angle, matrix_to_quaternion, quaternion_to_axis_angle, quaternion_to_matrix, rotation_angle,
)
from .son import (
    generalized_cross, gram_schmidt, is_orthogonal, matrix_to_o_n, matrix_to_similarity, matrix_to_so_n, o_n_to_matrix,
    similarity_to_matrix, so_n_to_matrix,
)
from .symmetry import axis_distance, symmetric_geodesic_distance, symmetry_group
from .testing import assert_equivariant, assert_invariant, sample_rotations
from .volumes import (
    ball_mask, cube_rotation_products, cube_rotations, equivariance_error, is_cube_rotation, orbit_rotation,
    rotate_image, rotate_volume,
)

__all__ = [  # noqa: RUF022
    "ARCConv2d", "ARCRouting", "Alignment", "BoxGaussians", "ChordalLoss", "GeodesicLoss", "QuaternionLoss",
    "RectangleShape", "Representation", "RotationErrorSummary", "RotationHead", "SwingTwist", "SymmetricLoss",
    "align_points", "align_vectors", "angle_difference", "angle_to_matrix2d", "angle_to_vector", "assert_equivariant",
    "assert_invariant", "axis_angle4_to_matrix", "axis_angle_geodesic_distance", "axis_angle_to_matrix",
    "axis_angle_to_quaternion", "axis_distance", "ball_mask", "box_convert_angle", "box_iou_rotated", "box_to_gaussian",
    "boxes_to_gaussians", "boxes_to_hulls", "boxes_to_quads", "cayley", "check_rotation", "chordal_distance",
    "circular_mean", "compose_transforms", "convert", "convert_boxes", "convex_hull", "crosses_itself",
    "cube_rotation_products", "cube_rotations", "differentiable_box_iou", "elementary_rotation", "equivariance_error",
    "euler_angles_to_matrix", "euler_to_matrix", "euler_to_quaternion", "flip_boxes", "from_numpy",
    "gaussian_bhattacharyya_distance", "gaussian_jeffreys_divergence", "gaussian_kl_divergence", "gaussian_to_box",
    "gaussian_wasserstein_distance", "gaussians_to_boxes", "generalized_cross", "geodesic_distance",
    "geodesic_interpolate", "gibbs_to_matrix", "gibbs_to_quaternion", "gram_schmidt", "hat", "hat_inv", "hat_n",
    "hull_iou", "hulls_to_boxes", "identity_quaternion", "inverse_cayley", "invert_transform", "is_cube_rotation",
    "is_orthogonal", "is_rotation", "kabsch", "kernel_rotation_map", "kfiou", "look_rotation", "make_transform",
    "matrix2d_to_angle", "matrix_slerp", "matrix_to_axis_angle", "matrix_to_axis_angle4", "matrix_to_euler",
    "matrix_to_euler_angles", "matrix_to_gibbs", "matrix_to_mrp", "matrix_to_o_n", "matrix_to_pytorch3d",
    "matrix_to_quaternion", "matrix_to_rotation_10d", "matrix_to_rotation_5d", "matrix_to_rotation_6d",
    "matrix_to_rotation_9d", "matrix_to_scipy", "matrix_to_similarity", "matrix_to_so_n", "min_area_rectangle",
    "mrp_to_matrix", "mrp_to_quaternion", "nms_hulls", "nms_quads", "nms_rotated", "normalize_boxes",
    "numpy_to_transform", "o_n_to_matrix", "orbit_rotation", "order_quads", "orthonormalize", "perturb",
    "point_pair_features", "polygon_area", "probiou", "procrustes", "procrustes_conditioning",
    "pytorch3d_camera_to_transform", "pytorch3d_to_matrix", "pytorch3d_to_transform", "quad_iou", "quads_to_boxes",
    "quaternion_apply", "quaternion_conjugate", "quaternion_distance", "quaternion_exp", "quaternion_geodesic_distance",
    "quaternion_inverse", "quaternion_invert", "quaternion_log", "quaternion_mean", "quaternion_multiply",
    "quaternion_nlerp", "quaternion_normalize", "quaternion_pow", "quaternion_raw_multiply", "quaternion_slerp",
    "quaternion_standardize", "quaternion_to_axis_angle", "quaternion_to_euler", "quaternion_to_gibbs",
    "quaternion_to_matrix", "quaternion_to_mrp", "quaternion_to_scipy", "quaternion_wxyz_to_xyzw",
    "quaternion_xyzw_to_wxyz", "random_angle", "random_axis_angle", "random_o_n", "random_quaternion",
    "random_quaternions", "random_rotation", "random_rotation_matrix", "random_rotations", "random_so_n",
    "representations", "resize_boxes", "roma_to_rotation_10d", "roma_to_rotation_6d", "rotate_boxes", "rotate_image",
    "rotate_kernel", "rotate_volume", "rotation_10d_to_matrix", "rotation_10d_to_quaternion", "rotation_10d_to_roma",
    "rotation_5d_to_matrix", "rotation_6d_to_matrix", "rotation_6d_to_roma", "rotation_9d_to_matrix", "rotation_angle",
    "rotation_apply", "rotation_between_vectors", "rotation_compose", "rotation_dispersion", "rotation_error_summary",
    "rotation_grid", "rotation_inverse", "rotation_mean", "sample_rotations", "scipy_to_matrix", "scipy_to_quaternion",
    "signed_point_pair_features", "similarity_to_matrix", "so3_box_minus", "so3_box_plus", "so3_exp", "so3_exp_map",
    "so3_left_jacobian", "so3_log", "so3_log_map", "so3_relative_angle", "so3_right_jacobian", "so3_rotation_angle",
    "so_n_to_matrix", "son_exp", "son_log", "special_procrustes", "special_procrustes_quaternion",
    "standardize_quaternion", "swing_twist", "symmetric_from_10d", "symmetric_geodesic_distance", "symmetry_group",
    "to_numpy", "transform_normals", "transform_points", "transform_to_numpy", "transform_to_pytorch3d",
    "transform_to_pytorch3d_camera", "umeyama", "vector_to_angle", "vee", "vee_n", "wrap_angle",
]
