"""Operators with more than one backend: compiled for the CPU, plain torch anywhere. Imports `geo`."""

# First, for its effect: it finds numba a folder for compiled code.
from rotaware.geo import compile_cache as _compile_cache  # noqa: F401

from .grouping import NodeGroups, group_points_to_nodes
from .interpolation import InterpolationWeights, interpolate, interpolation_weights
from .neighbors import Neighbors, RadiusNeighbors, knn, radius_search
from .sampling import Voxels, farthest_point_sampling, morton_order, voxel_downsample

__all__ = [
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
]
