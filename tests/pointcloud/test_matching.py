"""Selections against brute force."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rotaware.kernels.sinkhorn import log_optimal_transport
from rotaware.pointcloud.matching import (
    gather_patches,
    match_nodes,
    match_nodes_adaptive,
    merge_matches,
    mutual_top_k,
    sample_matches,
)


def descriptors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit rows, some of them similar, and masks."""
    generator = torch.Generator().manual_seed(0)
    target = normalize(torch.randn(9, 4, generator=generator, dtype=torch.float64), dim=1)
    source = normalize(target[torch.tensor([3, 1, 8, 0, 5, 6, 2])] + 0.1, dim=1)
    target_mask, source_mask = torch.ones(9, dtype=torch.bool), torch.ones(7, dtype=torch.bool)
    target_mask[3] = source_mask[2] = source_mask[6] = False
    return target, source, target_mask, source_mask


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("count", [1, 5, 12, 40, 1000])
def test_nodes(dual: bool, count: int) -> None:
    target, source, target_mask, source_mask = descriptors()
    scores = {
        (i, j): math.exp(-float((target[i] - source[j]).square().sum()))
        for i in range(9)
        for j in range(7)
        if target_mask[i] and source_mask[j]
    }
    rows, columns = defaultdict(float), defaultdict(float)
    for (i, j), score in scores.items():
        rows[i] += score
        columns[j] += score
    if dual:
        scores = {(i, j): s / (rows[i] + 1e-8) * s / (columns[j] + 1e-8) for (i, j), s in scores.items()}
    expected = sorted(scores, key=lambda pair: -scores[pair])[:count]
    found = match_nodes(
        target, source, target_mask=target_mask, source_mask=source_mask, count=count, dual_normalisation=dual
    )
    assert list(zip(found.target.tolist(), found.source.tolist(), strict=True)) == expected
    torch.testing.assert_close(found.score, torch.tensor([scores[pair] for pair in expected]).double())


@pytest.mark.parametrize("least", [0, 3, 20, 1000])
@pytest.mark.parametrize("distance", [0.0, 0.75, 2.5])
def test_nodes_by_distance(least: int, distance: float) -> None:
    target, source, target_mask, source_mask = descriptors()
    gaps = {
        (i, j): float((target[i] - source[j]).norm())
        for i in range(9)
        for j in range(7)
        if target_mask[i] and source_mask[j]
    }
    order = sorted(gaps, key=lambda pair: gaps[pair])
    expected = order[: max(least, sum(gap <= distance for gap in gaps.values()))]
    found = match_nodes_adaptive(
        target, source, target_mask=target_mask, source_mask=source_mask, least=least, distance=distance
    )
    assert list(zip(found.target.tolist(), found.source.tolist(), strict=True)) == expected
    torch.testing.assert_close(found.score, torch.tensor([math.exp(-gaps[pair]) for pair in expected]).double())


@pytest.mark.parametrize("match", [match_nodes, match_nodes_adaptive])
def test_nodes_without_a_valid_one(match) -> None:  # type: ignore[no-untyped-def]
    target, source, target_mask, source_mask = descriptors()
    found = match(target, source, target_mask=target_mask & False, source_mask=source_mask)
    assert [len(part) for part in found] == [0, 0, 0]
    assert [len(part) for part in match(target[:0], source[:0])] == [0, 0, 0]


@pytest.mark.parametrize("count", [1, 7, 23, 59, 60])
def test_equal_scores_keep_their_order(count: int) -> None:
    signs = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 4)
    target, source = signs[[3, 3, 5, 0, 9, 9]], signs[[9, 1, 3, 3, 5, 5, 15, 6, 0, 2]]
    products = (target @ source.T).flatten().tolist()
    expected = sorted(range(60), key=lambda place: -products[place])[:count]
    found = match_nodes(target, source, count=count, dual_normalisation=False)
    assert (10 * found.target + found.source).tolist() == expected
    found = match_nodes_adaptive(target, source, least=count, distance=-1.0)
    assert (10 * found.target + found.source).tolist() == expected


@pytest.mark.parametrize("match", [match_nodes, match_nodes_adaptive])
def test_autocast_changes_nothing(match) -> None:  # type: ignore[no-untyped-def]
    target, source = (x.float() for x in descriptors()[:2])
    expected = match(target, source)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = match(target, source)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_choices_carry_no_gradient() -> None:
    target, source, *_ = descriptors()
    target.requires_grad_()
    assert not match_nodes(target, source).score.requires_grad
    assert not match_nodes_adaptive(target, source).score.requires_grad


def test_patches() -> None:
    features = torch.arange(1.0, 7).reshape(3, 2).requires_grad_()
    found = gather_patches(features, torch.tensor([[2, 0, 3], [3, 3, 3]]))
    assert found.tolist() == [[[5, 6], [1, 2], [0, 0]], [[0, 0]] * 3]
    found.sum().backward()
    assert features.grad is not None and features.grad.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert gather_patches(features[:0], torch.zeros(2, 3, dtype=torch.int64)).tolist() == [[[0, 0]] * 3] * 2


def mutual(plan: Tensor, rows: Tensor, columns: Tensor, k: int, threshold: float) -> list[tuple[int, int, int]]:
    """By sorting every row and column."""
    found = []
    for p in range(len(plan)):
        weights = [
            [float(plan[p, i, j]) if rows[p, i] and columns[p, j] else 0.0 for j in range(columns.shape[1])]
            for i in range(rows.shape[1])
        ]
        for i, row in enumerate(weights):
            for j, weight in enumerate(row):
                column = [other[j] for other in weights]
                in_row = j in sorted(range(len(row)), key=lambda place, line=row: -line[place])[:k]
                in_column = i in sorted(range(len(column)), key=lambda place, line=column: -line[place])[:k]
                if in_row and in_column and weight > threshold and rows[p, i] and columns[p, j]:
                    found.append((p, i, j))
    return found


@pytest.mark.parametrize("k", [1, 2, 3, 50])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.25])
def test_mutual_partners(k: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    # Coarse numbers, so that many are tied and some are at the threshold; the slack is the largest of all.
    plan = torch.randint(0, 9, (5, 8, 10), generator=generator).float() / 16
    plan[:, -1] = plan[:, :, -1] = 1
    log_plan = plan.log()
    rows, columns = (torch.rand(5, n, generator=generator) < 0.8 for n in (7, 9))
    rows[1], columns[2] = False, True
    found = mutual_top_k(log_plan, rows, columns, k=k, threshold=threshold)
    expected = mutual(log_plan.exp(), rows, columns, k, threshold)
    assert list(zip(*(part.tolist() for part in found[:3]), strict=True)) == expected
    assert torch.equal(found.confidence, log_plan.exp()[found.patch, found.row, found.column])


def test_the_threshold_is_strict() -> None:
    log_plan = torch.zeros(1, 2, 2)
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert len(mutual_top_k(log_plan, mask, mask, threshold=1.0).patch) == 0
    assert len(mutual_top_k(log_plan, mask, mask, threshold=0.999).patch) == 1
    nothing = torch.zeros(0, 4, 4), torch.ones(0, 3, dtype=torch.bool), torch.ones(0, 3, dtype=torch.bool)
    assert [len(part) for part in mutual_top_k(*nothing)] == [0] * 4


def test_from_scores_to_the_permutation_behind_them() -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(6, generator=generator) for _ in range(4)])
    scores = torch.full((4, 6, 6), -10.0).scatter_(2, order[..., None], 10.0)
    rows = torch.ones(4, 6, dtype=torch.bool)
    columns = rows.clone()
    rows[0, 2] = columns[1, 4] = False
    found = mutual_top_k(log_optimal_transport(scores, torch.tensor(0.0), rows, columns), rows, columns)
    valid = rows & columns.gather(1, order)
    assert torch.equal(torch.stack(found[:2], 1), valid.nonzero())
    assert torch.equal(found.column, order[valid])
    assert (found.confidence > 0.9).all()


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_merging(combine: str) -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randint(0, 6, (2, 60), generator=generator)
    confidence = torch.randint(1, 9, (60,), generator=generator).double() / 8
    patch = torch.randint(0, 5, (60,), generator=generator)
    groups: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for s, t, c, p in zip(*(x.tolist() for x in (source, target, confidence, patch)), strict=True):
        groups.setdefault((t, s), []).append((c, p))
    found = merge_matches(source, target, confidence, patch, combine=combine)
    assert list(zip(found.target.tolist(), found.source.tolist(), strict=True)) == sorted(groups)
    for group, c, p in zip(sorted(groups), found.confidence.tolist(), found.patch.tolist(), strict=True):
        values = [value for value, _ in groups[group]]
        assert c == (sum(values) if combine == "sum" else max(values))
        # Of equally confident ones the first.
        assert p == groups[group][values.index(max(values))][1]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_sums_do_not_depend_on_the_order_of_matches(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randint(0, 4, (2, 5000), generator=generator).to(device)
    confidence = torch.rand(5000, generator=generator).to(device)
    patch = torch.arange(5000, device=device)
    expected = merge_matches(source, target, confidence, patch)
    for _ in range(5):
        order = torch.randperm(5000, generator=generator).to(device)
        found = merge_matches(source[order], target[order], confidence[order], patch[order])
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_merging_nothing() -> None:
    rows = torch.zeros(0, dtype=torch.int64)
    assert [len(part) for part in merge_matches(rows, rows, torch.zeros(0), rows)] == [0] * 4


def test_sampling() -> None:
    confidence = torch.tensor([0.0, 1, 2, 1])
    assert sample_matches(confidence, 4).tolist() == [0, 1, 2, 3]
    assert sample_matches(confidence, 3, torch.Generator().manual_seed(0)).sort().values.tolist() == [1, 2, 3]
    draws = [sample_matches(confidence, 1, generator) for generator in [torch.Generator().manual_seed(0)] * 4000]
    counts = torch.cat(draws).bincount(minlength=4).double() / 4000
    torch.testing.assert_close(counts, torch.tensor([0, 0.25, 0.5, 0.25]).double(), rtol=0, atol=0.03)
    one, other = (sample_matches(confidence, 2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)


def test_refusals() -> None:
    target, source, target_mask, _ = descriptors()
    with pytest.raises(ValueError, match="source_mask"):
        match_nodes(target, source, source_mask=target_mask)
    with pytest.raises(TypeError, match=r"target_mask: expected a bool tensor, got torch\.int64"):
        match_nodes(target, source, target_mask=target_mask.long())
    with pytest.raises(ValueError, match="dtype"):
        match_nodes(target, source.float())
    mask = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        mutual_top_k(torch.zeros(1, 2, 2), mask, mask, k=0)
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        sample_matches(torch.ones(3), 0)
    with pytest.raises(ValueError, match="combine"):
        merge_matches(*torch.zeros(4, 1).long(), combine="mean")
    with pytest.raises(TypeError, match=r"confidence: expected a floating point tensor, got torch\.int64"):
        merge_matches(*torch.zeros(4, 1).long())
