"""The public names, written down by hand: adding or losing one is a decision, made here as well."""

from __future__ import annotations

import importlib
import inspect

import pytest

# fmt: off
PUBLIC: dict[str, list[str]] = {
    "cli": [
        "main",
    ],
    "datasets": [
        "ACTIONS", "AERIAL_CLASSES", "AerialImage", "AerialScenes", "Benchmark", "BenchmarkPair", "BenchmarkRotation",
        "CheckedBenchmark", "DISPARITIES", "DOTA", "DOTA_CLASSES", "DatasetProblem", "DatasetReport", "DeformingPair",
        "DepthCamera", "DescribedView", "DescribedViews", "FourDMatch", "Fragment", "HRSC2016", "IMAGE_ENDINGS",
        "IndoorScenes", "LabelledFolder", "LabelledReport", "Labels", "LogEntry", "MentalTrial", "MentalTrials",
        "ObjectSplit", "RELATIONS", "RegistrationPair", "SplitOptions", "SplitReport", "ThreeDMatch", "Window",
        "benchmark_rotation", "benchmark_turned", "canonical_path", "check_dataset", "check_labelled", "class_colors",
        "describe", "describe_source", "disjoint_pairs", "draw_objects", "enumerate_objects", "image_size",
        "indoor_fragment", "indoor_pair", "measured_overlap", "mental_trial", "mirrored_path", "open_benchmark",
        "parse_path", "path_text", "posed_paths", "published_augmentation", "quadrant", "random_crop", "random_subset",
        "read_hrsc_labels", "read_image", "read_info", "read_labels", "read_log", "read_overlap_log", "relation",
        "render", "reversed_path", "room_fragments", "rotated_path", "rotation_about_fixed_axes", "shaken",
        "shares_inside", "split_dota", "split_objects", "turned", "uniform_augmentation", "unrelated_pair", "voxelise",
        "windows", "write_dota", "write_indoor_rooms", "write_info", "write_labels", "write_log", "write_overlap_log",
    ],
    "detection": [
        "Anchors", "AngleCodedCoder", "AngleCoder", "Annotations", "Augmentation", "CircularSmoothLabel",
        "ClassDetections", "ClassResult", "DetectionOptions", "DetectionResult", "Detections", "Detector",
        "DetectorConfig", "EdgeRule", "FPN", "HorizontalCoder", "HullCoder", "MidpointCoder", "PatchOrigin",
        "PhaseShiftCoder", "RPNOptions", "Raster", "Recipe", "ResNet", "ResNetConfig", "RetinaHeadOptions",
        "RoIHeadOptions", "RotatedCoder", "Sample", "Targets", "Tiling", "TrainingOptions", "VectorAngleCoder",
        "average_precision", "build_detector", "by_class", "crop_map", "cropped", "detect_images", "detect_tiled",
        "evaluate_detections", "export_onnx", "gaussian_loss", "iou_loss", "kfiou_loss", "load_detector", "load_resnet",
        "merge_patches", "patch_origin", "probiou_loss", "published_recipe", "read_detections", "read_patch_index",
        "regression_loss", "save_detector", "small_recipe", "tile_origins", "train_detector", "write_detections",
        "write_patch_index",
    ],
    "geo": [
        "ARCConv2d", "ARCRouting", "Alignment", "BoxGaussians", "ChordalLoss", "GeodesicLoss", "QuaternionLoss",
        "RectangleShape", "Representation", "RotationErrorSummary", "RotationHead", "SwingTwist", "SymmetricLoss",
        "align_points", "align_vectors", "angle_difference", "angle_to_matrix2d", "angle_to_vector",
        "assert_equivariant", "assert_invariant", "axis_angle4_to_matrix", "axis_angle_geodesic_distance",
        "axis_angle_to_matrix", "axis_angle_to_quaternion", "axis_distance", "ball_mask", "box_convert_angle",
        "box_iou_rotated", "box_to_gaussian", "boxes_to_gaussians", "boxes_to_hulls", "boxes_to_quads", "cayley",
        "check_rotation", "chordal_distance", "circular_mean", "compose_transforms", "convert", "convert_boxes",
        "convex_hull", "crosses_itself", "cube_rotation_products", "cube_rotations", "differentiable_box_iou",
        "elementary_rotation", "equivariance_error", "euler_angles_to_matrix", "euler_to_matrix", "euler_to_quaternion",
        "flip_boxes", "from_numpy", "gaussian_bhattacharyya_distance", "gaussian_jeffreys_divergence",
        "gaussian_kl_divergence", "gaussian_to_box", "gaussian_wasserstein_distance", "gaussians_to_boxes",
        "generalized_cross", "geodesic_distance", "geodesic_interpolate", "gibbs_to_matrix", "gibbs_to_quaternion",
        "gram_schmidt", "hat", "hat_inv", "hat_n", "hull_iou", "hulls_to_boxes", "identity_quaternion",
        "inverse_cayley", "invert_transform", "is_cube_rotation", "is_orthogonal", "is_rotation", "kabsch",
        "kernel_rotation_map", "kfiou", "look_rotation", "make_transform", "matrix2d_to_angle", "matrix_slerp",
        "matrix_to_axis_angle", "matrix_to_axis_angle4", "matrix_to_euler", "matrix_to_euler_angles", "matrix_to_gibbs",
        "matrix_to_mrp", "matrix_to_o_n", "matrix_to_pytorch3d", "matrix_to_quaternion", "matrix_to_rotation_10d",
        "matrix_to_rotation_5d", "matrix_to_rotation_6d", "matrix_to_rotation_9d", "matrix_to_scipy",
        "matrix_to_similarity", "matrix_to_so_n", "min_area_rectangle", "mrp_to_matrix", "mrp_to_quaternion",
        "nms_hulls", "nms_quads", "nms_rotated", "normalize_boxes", "numpy_to_transform", "o_n_to_matrix",
        "orbit_rotation", "order_quads", "orthonormalize", "perturb", "point_pair_features", "polygon_area", "probiou",
        "procrustes", "procrustes_conditioning", "pytorch3d_camera_to_transform", "pytorch3d_to_matrix",
        "pytorch3d_to_transform", "quad_iou", "quads_to_boxes", "quaternion_apply", "quaternion_conjugate",
        "quaternion_distance", "quaternion_exp", "quaternion_geodesic_distance", "quaternion_inverse",
        "quaternion_invert", "quaternion_log", "quaternion_mean", "quaternion_multiply", "quaternion_nlerp",
        "quaternion_normalize", "quaternion_pow", "quaternion_raw_multiply", "quaternion_slerp",
        "quaternion_standardize", "quaternion_to_axis_angle", "quaternion_to_euler", "quaternion_to_gibbs",
        "quaternion_to_matrix", "quaternion_to_mrp", "quaternion_to_scipy", "quaternion_wxyz_to_xyzw",
        "quaternion_xyzw_to_wxyz", "random_angle", "random_axis_angle", "random_o_n", "random_quaternion",
        "random_quaternions", "random_rotation", "random_rotation_matrix", "random_rotations", "random_so_n",
        "representations", "resize_boxes", "roma_to_rotation_10d", "roma_to_rotation_6d", "rotate_boxes",
        "rotate_image", "rotate_kernel", "rotate_volume", "rotation_10d_to_matrix", "rotation_10d_to_quaternion",
        "rotation_10d_to_roma", "rotation_5d_to_matrix", "rotation_6d_to_matrix", "rotation_6d_to_roma",
        "rotation_9d_to_matrix", "rotation_angle", "rotation_apply", "rotation_between_vectors", "rotation_compose",
        "rotation_dispersion", "rotation_error_summary", "rotation_grid", "rotation_inverse", "rotation_mean",
        "sample_rotations", "scipy_to_matrix", "scipy_to_quaternion", "signed_point_pair_features",
        "similarity_to_matrix", "so3_box_minus", "so3_box_plus", "so3_exp", "so3_exp_map", "so3_left_jacobian",
        "so3_log", "so3_log_map", "so3_relative_angle", "so3_right_jacobian", "so3_rotation_angle", "so_n_to_matrix",
        "son_exp", "son_log", "special_procrustes", "special_procrustes_quaternion", "standardize_quaternion",
        "swing_twist", "symmetric_from_10d", "symmetric_geodesic_distance", "symmetry_group", "to_numpy",
        "transform_normals", "transform_points", "transform_to_numpy", "transform_to_pytorch3d",
        "transform_to_pytorch3d_camera", "umeyama", "vector_to_angle", "vee", "vee_n", "wrap_angle",
    ],
    "kernels": [
        "BackendStatus", "GridNeighborhoodAttention", "GridWindow", "GroupedVectorAttention", "InterpolationWeights",
        "Inverse", "Level", "LiteralPPFAttention", "Neighborhood", "NeighborhoodAttention", "Neighbors", "NodeGroups",
        "PPFAttention", "Pyramid", "RadiusNeighbors", "VectorAttention", "Voxels", "available_backends",
        "farthest_point_sampling", "grid_window", "group_points_to_nodes", "group_rows", "interpolate",
        "interpolation_weights", "knn", "log_optimal_transport", "morton_order", "neighborhood_attention", "pool_rois",
        "radius_search", "roi_align", "roi_align_rotated", "segment_argmax", "segment_max", "segment_mean",
        "segment_min", "segment_repeat", "segment_softmax", "segment_sum", "vector_attention", "voxel_downsample",
    ],
    "mental": [
        "AgentConfig", "DecisionAgent", "Decisions", "Decoder", "Encoder", "EquivariantRenderer", "Look",
        "RendererConfig", "VisionConfig", "VisionSymbolicModel", "VolumeTransformer", "decide", "known_description",
        "mean_actions", "tilt", "train_agent", "turned_by", "view_change",
    ],
    "pointcloud": [
        "Answer", "Check", "CloudPair", "CloudSummary", "Correspondences", "Hypothesis", "InputError", "Layout",
        "Losses", "METHODS", "MatchedPoints", "MergedMatches", "Metrics", "MultiwayResult", "NodeMatches",
        "NodeOverlaps", "Notice", "PairBatch", "PatchMatches", "Patches", "PointCloud", "PointLabels", "PointMatches",
        "PoseEstimate", "Quality", "Registration", "RoITr", "RoITrConfig", "RoITrObjective", "RoITrOutput", "Stage",
        "UnreadableFileError", "circle_loss", "evaluate", "expected_calibration_error", "feature_matching_recall",
        "guess_unit", "information_rmse", "inlier_ratio", "is_registered", "is_registered_3dmatch",
        "is_registered_rotated", "local_to_global_registration", "match_nodes", "match_nodes_adaptive",
        "mean_displacement", "merge_matches", "mutual_top_k", "named_method", "network_pair", "node_overlaps",
        "nonrigid_feature_matching_recall", "output_extension", "overlap_rmse", "patch_inlier_ratio", "patches_of",
        "point_labels", "point_loss", "ransac", "read_point_cloud", "register", "register_many", "rotation_error_deg",
        "sample_matches", "sample_node_pairs", "summarise", "translation_error", "weighted_procrustes",
        "write_overview_png", "write_point_cloud", "write_report", "write_report_html",
    ],
}
# fmt: on
NAMES = [(room, name) for room, names in PUBLIC.items() for name in names]


@pytest.mark.parametrize("room", PUBLIC)
def test_public_names_are_those_listed_here(room: str) -> None:
    assert sorted(importlib.import_module(f"rotaware.{room}").__all__) == PUBLIC[room]


@pytest.mark.parametrize(("room", "name"), NAMES)
def test_public_name_is_ours_and_documented(room: str, name: str) -> None:
    value = getattr(importlib.import_module(f"rotaware.{room}"), name)
    if not inspect.isclass(value) and not inspect.isroutine(value):
        return  # a constant or an alias of a type, which cannot carry a docstring
    assert value.__module__.startswith(f"rotaware.{room}.")
    text = inspect.getdoc(value) or ""
    # A dataclass or a NamedTuple without a docstring gets "Name(field, ...)".
    assert len(text.split()) >= 4 and not text.startswith(f"{name}("), f"rotaware.{room}.{name}: {text!r}"
