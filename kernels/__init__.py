"""Operators with more than one backend: compiled for the CPU, plain torch anywhere. Imports `geo`."""

# First, for its effect: it finds numba a folder for compiled code.
from rotaware.geo import compile_cache as _compile_cache  # noqa: F401

from .attention import BackendStatus, available_backends, neighborhood_attention
from .grid import GridWindow, grid_window
from .grouping import NodeGroups, group_points_to_nodes
from .interpolation import InterpolationWeights, interpolate, interpolation_weights
from .inverse import Inverse
from .layers import GridNeighborhoodAttention, NeighborhoodAttention, PPFAttention
from .literal import LiteralPPFAttention
from .neighborhood import Neighborhood
from .neighbors import Neighbors, RadiusNeighbors, knn, radius_search
from .pyramid import Level, Pyramid
from .roi_pooling import pool_rois, roi_align, roi_align_rotated
from .sampling import Voxels, farthest_point_sampling, morton_order, voxel_downsample
from .segments import (
    group_rows,
    segment_argmax,
    segment_max,
    segment_mean,
    segment_min,
    segment_repeat,
    segment_softmax,
    segment_sum,
)
from .sinkhorn import log_optimal_transport
from .vector_attention import GroupedVectorAttention, VectorAttention, vector_attention

__all__ = [
    "BackendStatus",
    "GridNeighborhoodAttention",
    "GridWindow",
    "GroupedVectorAttention",
    "InterpolationWeights",
    "Inverse",
    "Level",
    "LiteralPPFAttention",
    "Neighborhood",
    "NeighborhoodAttention",
    "Neighbors",
    "NodeGroups",
    "PPFAttention",
    "Pyramid",
    "RadiusNeighbors",
    "VectorAttention",
    "Voxels",
    "available_backends",
    "farthest_point_sampling",
    "grid_window",
    "group_points_to_nodes",
    "group_rows",
    "interpolate",
    "interpolation_weights",
    "knn",
    "log_optimal_transport",
    "morton_order",
    "neighborhood_attention",
    "pool_rois",
    "radius_search",
    "roi_align",
    "roi_align_rotated",
    "segment_argmax",
    "segment_max",
    "segment_mean",
    "segment_min",
    "segment_repeat",
    "segment_softmax",
    "segment_sum",
    "vector_attention",
    "voxel_downsample",
]
