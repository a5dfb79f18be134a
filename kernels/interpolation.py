"""Features of a coarse cloud carried to a finer one by inverse distance weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rotaware.geo.checks import (
    require_floating,
    require_integer,
    require_same_device,
    require_same_dtype,
    require_shape,
)

from .batches import Backend, Lengths
from .neighbors import knn

# Keeps the weight of a source at distance zero finite; in the unit of the points.
DISTANCE_FLOOR = 1e-8


class InterpolationWeights(NamedTuple):
    """Sources of each query and their shares."""

    index: Tensor  # type: ignore[assignment]  # (M, k) int32, packed rows of the sources, -1 where there is none
    weights: Tensor  # (M, k), summing to one, 0 where there is no source


def interpolation_weights(
    queries: Tensor,
    sources: Tensor,
    *,
    k: int = 3,
    lengths: Lengths | None = None,
    query_lengths: Lengths | None = None,
    backend: Backend = "auto",
) -> InterpolationWeights:
    """Weights proportional to `1 / (distance + 1e-8)` over the k nearest sources.

    Args:
        queries: (M, 3) float32 or float64, where features are wanted.
        sources: (N, 3), same dtype and device, where they are known.
        k: sources per query.
        lengths: (B,) rows of each cloud in `sources`; None for one cloud.
        query_lengths: (B,) rows of each cloud in `queries`.
        backend: as in `knn`.
    Returns:
        A query on top of a source takes that source alone, up to rounding. A query without any source has weights 0.
        No gradient.
    Raises:
        TypeError, ValueError, RuntimeError: as in `knn`.
    Reference: Qi et al., PointNet++, NeurIPS 2017, equation 2, with the distance itself instead of its square.

    >>> sources = torch.tensor([[0.0, 0, 0], [4, 0, 0]])
    >>> interpolation_weights(torch.tensor([[1.0, 0, 0]]), sources).weights
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    index, distance = knn(sources, k, queries=queries, lengths=lengths, query_lengths=query_lengths, backend=backend)
    closeness = 1 / (distance + DISTANCE_FLOOR)
    total = closeness.sum(1, keepdim=True)
    return InterpolationWeights(index, torch.where(index >= 0, closeness / total, 0))


def interpolate(features: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of feature rows.

    Args:
        features: (N, C) floating point.
        index: (M, k) int32 or int64 rows of `features`, -1 for none.
        weights: (M, k), dtype of `features`, 0 where the index is -1.
    Returns:
        (M, C), with gradient to `features`; a query without any source gets zeros.
    Raises:
        TypeError: `features` or `weights` not floating point, `index` not integer.
        ValueError: shapes, dtypes or devices that do not fit.

    >>> values = torch.tensor([[1.0], [5.0]])
    >>> interpolate(values, torch.tensor([[0, 1, -1]]), torch.tensor([[0.75, 0.25, 0]]))
    tensor([[2.]])
    """
    require_floating("features", features)
    require_shape("features", features, "N", "C")
    require_integer("index", index)
    require_shape("index", index, "M", "k")
    require_shape("weights", weights, *index.shape)
    require_same_dtype({"features": features, "weights": weights})
    require_same_device({"features": features, "index": index, "weights": weights})
    if not len(features):
        return features.new_zeros(len(index), features.shape[1])
    # An empty slot reads the query's own nearest source: 0 times a foreign infinite feature would be NaN.
    rows = torch.where(index >= 0, index, index[:, :1].clamp(min=0))
    return torch.nn.functional.embedding_bag(rows, features, per_sample_weights=weights, mode="sum")
