"""Which superpoints look alike, and which points of two matched patches belong together.

Choices, not functions of the features: nothing here has a gradient. Scores have a row for each superpoint or point of
the target and a column for each of the source.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rotaware.geo.checks import (
    require_choice,
    require_floating,
    require_integer,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from rotaware.geo.numerics import matmul, upcast
from rotaware.kernels import segment_sum


class NodeMatches(NamedTuple):
    """Matched superpoints, best first."""

    target: Tensor  # (P,) int64
    source: Tensor  # (P,) int64
    score: Tensor  # (P,)


class PatchMatches(NamedTuple):
    """Matched points of patch pairs."""

    patch: Tensor  # (M,) int64, which pair of patches
    row: Tensor  # (M,) int64, point of the target's patch
    column: Tensor  # (M,) int64, point of the source's patch
    confidence: Tensor  # (M,) in (0, 1], share of the mass of a point


class MergedMatches(NamedTuple):
    """Correspondences without repetition, in the order of target and source rows."""

    source: Tensor  # (M,) int64
    target: Tensor  # (M,) int64
    confidence: Tensor  # (M,)
    patch: Tensor  # (M,) int64, where the match was most confident


@torch.no_grad()
def match_nodes(
    target_features: Tensor,
    source_features: Tensor,
    *,
    target_mask: Tensor | None = None,
    source_mask: Tensor | None = None,
    count: int = 256,
    dual_normalisation: bool = True,
) -> NodeMatches:
    """The `count` likeliest pairs of superpoints, of equal ones the first; a superpoint may be in several.

    Args:
        target_features: (T, D) unit rows.
        source_features: (S, D) unit rows.
        target_mask: (T,) bool, which superpoints have points; None for all.
        source_mask: (S,) bool.
        count: pairs, or all where there are not so many.
        dual_normalisation: whether a score is weighed by its share among those of its row and of its column, which
            favours the distinctive.
    Raises:
        TypeError: features not floating point, masks not bool.
        ValueError: shapes, dtypes or devices that do not fit.
    Source: Qin et al., GeoTransformer, CVPR 2022, section 3.2, as in RoITr.

    >>> match_nodes(torch.eye(3), torch.eye(3)[[2]], count=1).target
    tensor([2])
    """
    squared, rows, columns = _distances(target_features, source_features, target_mask, source_mask)
    score = torch.exp(-squared)
    if dual_normalisation:
        score = (score / (score.sum(1, keepdim=True) + 1e-8)) * (score / (score.sum(0, keepdim=True) + 1e-8))
    flat = score.flatten()
    order = _largest(flat, count)
    return NodeMatches(rows[order // max(len(columns), 1)], columns[order % max(len(columns), 1)], flat[order])


@torch.no_grad()
def match_nodes_adaptive(
    target_features: Tensor,
    source_features: Tensor,
    *,
    target_mask: Tensor | None = None,
    source_mask: Tensor | None = None,
    least: int = 128,
    distance: float = 0.75,
) -> NodeMatches:
    """All pairs of superpoints whose descriptors are near, and at least the `least` nearest.

    Args:
        target_features, source_features, target_mask, source_mask: as for `match_nodes`.
        least: pairs at the least, or all where there are not so many.
        distance: up to which descriptors are near, between 0 for equal and 2 for opposite ones.
    Returns:
        Pairs in the order of distance D, with scores exp(-D).
    Raises:
        as for `match_nodes`.
    Source: the configuration of RoITr for 4DMatch.

    >>> match_nodes_adaptive(torch.eye(3), torch.eye(3), least=1).source
    tensor([0, 1, 2])
    """
    squared, rows, columns = _distances(target_features, source_features, target_mask, source_mask)
    gap = squared.sqrt().flatten()
    order = _largest(-gap, max(int((gap <= distance).sum()), least))
    return NodeMatches(rows[order // max(len(columns), 1)], columns[order % max(len(columns), 1)], (-gap[order]).exp())


def _distances(
    target_features: Tensor, source_features: Tensor, target_mask: Tensor | None, source_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances of unit rows that count, and which those are."""
    require_floating("target_features", target_features)
    require_shape("target_features", target_features, "T", "D")
    require_shape("source_features", source_features, "S", target_features.shape[1])
    features = {"target_features": target_features, "source_features": source_features}
    require_same_dtype(features)
    require_same_device(features)
    kept = []
    for name, mask, rows in (
        ("target_mask", target_mask, target_features),
        ("source_mask", source_mask, source_features),
    ):
        if mask is None:
            kept.append(torch.arange(len(rows), device=rows.device))
            continue
        _require_mask(name, mask, len(rows))
        kept.append(mask.nonzero()[:, 0])
    # Also under autocast: half precision would change which pairs are the best.
    products = matmul(upcast(target_features[kept[0]]), upcast(source_features[kept[1]]).T)
    return (2 - 2 * products).clamp(min=0), kept[0], kept[1]


def _require_mask(name: str, mask: Tensor, *shape: int) -> None:
    require_shape(name, mask, *shape)
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: expected a bool tensor, got {mask.dtype}")


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")


def _largest(values: Tensor, count: int) -> Tensor:
    """Places of the `count` largest, in order; of equal ones the first."""
    if count < len(values):
        # Sorting everything would take ten times as long.
        candidates = (values >= values.topk(max(count, 1)).values[-1]).nonzero()[:, 0]
    else:
        candidates = torch.arange(len(values), device=values.device)
    return candidates[values[candidates].argsort(descending=True, stable=True)[:count]]


def gather_patches(features: Tensor, index: Tensor) -> Tensor:
    """Features of the points of patches, zero where there is no point; with a gradient.

    Args:
        features: (N, F).
        index: (P, K) int64 rows, N for none.
    Returns:
        (P, K, F).
    Raises:
        TypeError: `index` not integer.
        ValueError: a shape that does not fit.

    >>> gather_patches(torch.ones(2, 3), torch.tensor([[1, 2]]))[0, :, 0]
    tensor([1., 0.])
    """
    require_shape("features", features, "N", "F")
    require_integer("index", index)
    require_shape("index", index, "P", "K")
    padded = torch.cat([features, features.new_zeros(1, features.shape[1])])
    return padded.index_select(0, index.flatten()).unflatten(0, index.shape)


@torch.no_grad()
def mutual_top_k(
    log_plan: Tensor, row_mask: Tensor, column_mask: Tensor, *, k: int = 3, threshold: float = 0.05
) -> PatchMatches:
    """Points among each other's `k` likeliest partners, of equal ones the first, and likelier than `threshold`.

    Args:
        log_plan: (P, R + 1, C + 1) of `rotaware.kernels.log_optimal_transport`.
        row_mask: (P, R) bool, which points of the target's patches exist.
        column_mask: (P, C) bool, of the source's.
        k: partners of a point; the slack does not count as one.
        threshold: at least 0; confidences are larger.
    Returns:
        Matches in the order of patches, rows and columns.
    Raises:
        TypeError: a plan that is not floating point, masks that are not bool.
        ValueError: a shape that does not fit, or k less than 1.
    Source: Yu et al., RoITr, CVPR 2023, section 3.3.

    >>> mutual_top_k(torch.zeros(1, 2, 2), torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool))
    PatchMatches(patch=tensor([0]), row=tensor([0]), column=tensor([0]), confidence=tensor([1.]))
    """
    require_floating("log_plan", log_plan)
    require_shape("log_plan", log_plan, "P", "R + 1", "C + 1")
    _require_mask("row_mask", row_mask, len(log_plan), log_plan.shape[1] - 1)
    _require_mask("column_mask", column_mask, len(log_plan), log_plan.shape[2] - 1)
    _require_positive("k", k)
    plan = log_plan[:, :-1, :-1].exp()
    plan = torch.where(row_mask[:, :, None] & column_mask[:, None], plan, 0)
    # Few are likely enough: ranking those in their row and column is much faster than sorting all.
    found = (plan > threshold).nonzero()
    for axis in (2, 1):
        patch, row, column = found.unbind(1)
        line, place = (plan[patch, row], column) if axis == 2 else (plan[patch, :, column], row)
        own = line.gather(1, place[:, None])
        earlier = torch.arange(line.shape[1], device=line.device) < place[:, None]
        found = found[((line > own) | ((line == own) & earlier)).sum(1) < k]
    patch, row, column = found.unbind(1)
    return PatchMatches(patch, row, column, plan[patch, row, column])


@torch.no_grad()
def merge_matches(
    source: Tensor, target: Tensor, confidence: Tensor, patch: Tensor, *, combine: Literal["sum", "max"] = "sum"
) -> MergedMatches:
    """One correspondence of all that name the same two points.

    Args:
        source, target: (M,) int64 rows of the clouds.
        confidence: (M,).
        patch: (M,) int64, where each was found.
        combine: confidences are added, which may give more than 1, or the largest is kept.
    Returns:
        Confidences that do not depend on the order of the matches; of equally confident patches the first.
    Raises:
        TypeError: rows that are not integers, a confidence that is not floating point.
        ValueError: a shape that does not fit.

    >>> merge_matches(torch.tensor([1, 1]), torch.tensor([4, 4]), torch.tensor([0.5, 0.25]), torch.tensor([7, 8]))
    MergedMatches(source=tensor([1]), target=tensor([4]), confidence=tensor([0.7500]), patch=tensor([7]))
    """
    require_choice("combine", combine, ("sum", "max"))
    require_integer("source", source)
    require_integer("target", target)
    require_floating("confidence", confidence)
    for name, values in (("target", target), ("confidence", confidence), ("patch", patch)):
        require_shape(name, values, len(source))
    if not len(source):
        return MergedMatches(source, target, confidence, patch)
    width = int(source.max()) + 1
    key = target * width + source
    # Equal keys together, the strongest of them first.
    order = confidence.argsort(descending=True, stable=True)
    order = order[key[order].argsort(stable=True)]
    counts = key[order].unique_consecutive(return_counts=True)[1]
    ends = counts.cumsum(0)
    strongest = order[ends - counts]
    merged = confidence[strongest]
    if combine == "sum":
        # One after the other, from the largest on: the same sum in whatever order the matches come.
        merged = segment_sum(confidence[order], torch.cat([ends.new_zeros(1), ends]))
    return MergedMatches(source[strongest], target[strongest], merged, patch[strongest])


def sample_matches(confidence: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """(at most `count`,) int64: matches drawn without repetition, with probability proportional to their confidence.

    Args:
        confidence: (M,) not negative.
        count: all are taken, in order, where there are no more.
        generator: of the draw, on the device of `confidence`.
    Raises:
        TypeError: a confidence that is not floating point.
        ValueError: more than one axis, or less than one match wanted.
    Source: how RoITr is evaluated, with 250 to 5000 correspondences.

    >>> sample_matches(torch.ones(3), 5)
    tensor([0, 1, 2])
    """
    require_floating("confidence", confidence)
    require_shape("confidence", confidence, "M")
    _require_positive("count", count)
    if len(confidence) <= count:
        return torch.arange(len(confidence), device=confidence.device)
    # Those without any confidence come last, but they can be drawn.
    return torch.multinomial(confidence.clamp(min=1e-12), count, generator=generator)
