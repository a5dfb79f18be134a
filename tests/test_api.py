"""The public names, written down by hand: adding or losing one is a decision, made here as well."""

from __future__ import annotations

import importlib
import inspect

import pytest

PUBLIC: dict[str, list[str]] = {
    "cli": ["main"],
    "datasets": [
        "DepthCamera",
        "Fragment",
        "IndoorScenes",
        "RegistrationPair",
        "indoor_fragment",
        "indoor_pair",
        "measured_overlap",
        "unrelated_pair",
    ],
    "geo": [
        "Alignment",
        "assert_equivariant",
        "assert_invariant",
        "axis_angle_to_matrix",
        "axis_angle_to_quaternion",
        "compose_transforms",
        "geodesic_distance",
        "invert_transform",
        "is_rotation",
        "kabsch",
        "make_transform",
        "matrix_to_axis_angle",
        "matrix_to_quaternion",
        "point_pair_features",
        "quaternion_to_axis_angle",
        "quaternion_to_matrix",
        "random_quaternions",
        "random_rotations",
        "rotation_angle",
        "sample_rotations",
        "signed_point_pair_features",
        "transform_normals",
        "transform_points",
        "umeyama",
    ],
    "kernels": [
        "InterpolationWeights",
        "Neighbors",
        "NodeGroups",
        "RadiusNeighbors",
        "Voxels",
        "farthest_point_sampling",
        "group_points_to_nodes",
        "interpolate",
        "interpolation_weights",
        "knn",
        "morton_order",
        "radius_search",
        "voxel_downsample",
    ],
    "pointcloud": [
        "Check",
        "CloudSummary",
        "Correspondences",
        "Hypothesis",
        "InputError",
        "Layout",
        "Metrics",
        "Notice",
        "PointCloud",
        "PoseEstimate",
        "Registration",
        "Stage",
        "UnreadableFileError",
        "guess_unit",
        "local_to_global_registration",
        "output_extension",
        "ransac",
        "read_point_cloud",
        "register",
        "weighted_procrustes",
        "write_overview_png",
        "write_point_cloud",
        "write_report_html",
    ],
}
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
