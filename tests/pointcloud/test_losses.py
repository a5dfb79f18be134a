"""Losses against plain loops over their formulas, and what happens where nothing overlaps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rotaware.pointcloud.losses import circle_loss, point_loss
from rotaware.pointcloud.supervision import NodeOverlaps, PointLabels


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(rows: int, seed: int) -> Tensor:
    return normalize(random(rows, 6, seed=seed) - 0.4, dim=1)


def overlaps(pairs: dict[tuple[int, int], float]) -> NodeOverlaps:
    index = torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2)
    return NodeOverlaps(index[:, 0], index[:, 1], torch.tensor(list(pairs.values()), dtype=torch.float32))


# A row without positives, a row of ignored pairs, a superpoint with two partners.
SOME = {(0, 0): 0.75, (0, 1): 0.5, (1, 2): 0.0625, (2, 1): 1.0, (4, 3): 0.25, (5, 0): 0.03125}


def naive_circle(target: Tensor, source: Tensor, pairs: dict[tuple[int, int], float], masked: bool) -> float:
    """Section 10.1 of the specification, number by number."""
    gamma, low, high = 24.0, 0.1, 1.4
    distance = [[math.dist(f, g) for g in source.tolist()] for f in target.tolist()]

    def line(cells: list[tuple[int, int]]) -> float | None:
        share = {cell: pairs.get(cell, 0.0) for cell in cells}
        positives = [cell for cell in cells if share[cell] > 0.1]
        negatives = [cell for cell in cells if share[cell] == 0]
        if not positives or not negatives:
            return None
        pull = [
            math.exp(gamma * math.sqrt(share[i, j]) * max(0.0, distance[i][j] - low) * (distance[i][j] - low))
            for i, j in positives
        ]
        push = [math.exp(gamma * max(0.0, high - distance[i][j]) * (high - distance[i][j])) for i, j in negatives]
        if not masked:
            pull += [1.0] * (len(cells) - len(positives))
            push += [1.0] * (len(cells) - len(negatives))
        return math.log1p(sum(pull) * sum(push)) / gamma

    rows = [line([(i, j) for j in range(len(source))]) for i in range(len(target))]
    columns = [line([(i, j) for i in range(len(target))]) for j in range(len(source))]
    means = []
    for lines in (rows, columns):
        kept = [value for value in lines if value is not None]
        means.append(sum(kept) / max(len(kept), 1))
    return sum(means) / 2


@pytest.mark.parametrize("masked", [False, True])
def test_circle_loss_is_the_naive_one(masked: bool) -> None:
    target, source = features(6, 1), features(5, 2)
    found = circle_loss(target, source, overlaps(SOME), masked=masked)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(naive_circle(target, source, SOME, masked), rel=1e-9)
    single = circle_loss(target.float(), source.float(), overlaps(SOME), masked=masked)
    assert float(single) == pytest.approx(float(found), rel=1e-5)


def test_the_published_floor_is_what_masking_removes() -> None:
    # Descriptors at their optima: 298 orthogonal pairs, twins together.
    rows = torch.eye(298)
    twins = overlaps({(i, i): 1.0 for i in range(298)})
    published = circle_loss(rows, rows, twins)
    assert float(published) == pytest.approx(2 / 24 * math.log(298), rel=0.01)
    masked = circle_loss(rows, rows, twins, masked=True)
    assert float(masked) == pytest.approx(math.log(1 + 297) / 24, rel=0.01)


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_weights_held_fixed(masked: bool) -> None:
    """The weights are detached: compared with autograd through the formula with constants in their place."""
    target, source = features(6, 1).requires_grad_(), features(5, 2).requires_grad_()
    shares = overlaps(SOME).matrix(6, 5).double()
    fixed = torch.cdist(target, source).detach()
    pull = 24 * shares.sqrt() * (fixed - 0.1).clamp(min=0) * (shares > 0.1)
    push = 24 * (1.4 - fixed).clamp(min=0) * (shares == 0)

    def reference(f: Tensor, g: Tensor) -> Tensor:
        distance = (f[:, None] - g).square().sum(2).sqrt()
        pulled, pushed = (pull * (distance - 0.1)).exp(), (push * (1.4 - distance)).exp()
        if masked:
            pulled, pushed = pulled * (shares > 0.1), pushed * (shares == 0)
        total = 0.0
        for axis in (1, 0):
            kept = (shares > 0.1).any(axis) & (shares == 0).any(axis)
            total += (pulled.sum(axis) * pushed.sum(axis) + 1).log()[kept].mean() / 48
        return total

    expected = torch.autograd.grad(reference(target, source), (target, source))
    found = torch.autograd.grad(circle_loss(target, source, overlaps(SOME), masked=masked), (target, source))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.abs().max() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "pairs",
    [{}, {(0, 0): 0.05}, {(i, j): 1.0 for i in range(3) for j in range(2)}],
    ids=["no overlap", "too little overlap", "all overlap"],
)
def test_a_pair_without_a_row_to_learn_from_gives_zero_and_no_nan(
    pairs: dict[tuple[int, int], float], masked: bool
) -> None:
    target, source = features(3, 1).float().requires_grad_(), features(2, 2).float().requires_grad_()
    # Not even on the way, where whoever looks for the cause of another NaN would find it.
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        loss = circle_loss(target, source, overlaps(pairs), masked=masked)
        loss.backward()
    assert loss.item() == 0
    assert target.grad is not None and source.grad is not None
    assert not target.grad.any() and not source.grad.any()


@pytest.mark.parametrize("masked", [False, True])
def test_equal_and_huge_descriptors_have_a_finite_gradient(masked: bool) -> None:
    for scale in (1.0, 1e3):
        target = (scale * torch.ones(4, 6)).requires_grad_()
        loss = circle_loss(target, scale * torch.eye(6)[:4] + target.detach(), overlaps({(0, 0): 1.0}), masked=masked)
        same = circle_loss(target, target, overlaps({(0, 0): 1.0, (1, 1): 0.5}), masked=masked)
        (loss + same).backward()
        assert loss.isfinite() and same.isfinite()
        assert target.grad is not None and target.grad.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_clouds_of_few_superpoints_train(rows: int, columns: int, masked: bool) -> None:
    target, source = features(rows, 1).requires_grad_(), features(columns, 2).requires_grad_()
    loss = circle_loss(target, source, overlaps({}), masked=masked)
    loss.backward()
    assert loss.item() == 0
    assert target.grad is not None and source.grad is not None


def test_circle_loss_is_computed_in_full_precision_under_autocast() -> None:
    target, source = features(6, 1).float(), features(5, 2).float()
    expected = circle_loss(target, source, overlaps(SOME))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = circle_loss(target, source, overlaps(SOME))
    torch.testing.assert_close(found, expected)
    rounded = circle_loss(target.bfloat16(), source.bfloat16(), overlaps(SOME))
    assert rounded.dtype == torch.float32


def labels(pairs: int, rows: int, columns: int) -> PointLabels:
    match = random(pairs, rows, columns, seed=7) > 0.8
    return PointLabels(match, random(pairs, rows, seed=8) > 0.5, random(pairs, columns, seed=9) > 0.5)


def test_point_loss_is_the_naive_one() -> None:
    plan, wanted = -random(3, 5, 4), labels(3, 4, 3)
    values = []
    for p in range(3):
        values += [-plan[p, i, j] for i in range(4) for j in range(3) if wanted.match[p, i, j]]
        values += [-plan[p, i, -1] for i in range(4) if wanted.row_slack[p, i]]
        values += [-plan[p, -1, j] for j in range(3) if wanted.column_slack[p, j]]
    torch.testing.assert_close(point_loss(plan, wanted), torch.stack(values).mean())
    assert torch.autograd.gradcheck(lambda given: point_loss(given, wanted), plan.requires_grad_())


def test_point_loss_ignores_what_has_no_label_even_if_infinite() -> None:
    wanted = labels(3, 4, 3)
    plan = torch.full((3, 5, 4), -torch.inf)
    plan[:, :-1, :-1][wanted.match] = -0.5
    plan[:, :-1, -1][wanted.row_slack] = -0.5
    plan[:, -1, :-1][wanted.column_slack] = -0.5
    plan.requires_grad_()
    loss = point_loss(plan, wanted)
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert plan.grad is not None and plan.grad.isfinite().all()


@pytest.mark.parametrize("pairs", [0, 2])
def test_point_loss_without_labels_is_zero(pairs: int) -> None:
    plan = torch.zeros(pairs, 5, 4, requires_grad=True)
    wanted = PointLabels(*(torch.zeros(pairs, *shape, dtype=torch.bool) for shape in ((4, 3), (4,), (3,))))
    loss = point_loss(plan, wanted)
    loss.backward()
    assert loss.item() == 0
    assert plan.grad is not None and not plan.grad.any()


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"source_features: expected shape \(S, 3\), got \(2, 4\)"):
        circle_loss(torch.zeros(2, 3), torch.zeros(2, 4), overlaps({}))
    with pytest.raises(ValueError, match=r"target_features, source_features: expected one dtype"):
        circle_loss(torch.zeros(2, 3), torch.zeros(2, 3).double(), overlaps({}))
    with pytest.raises(TypeError, match=r"target_features: expected a floating point tensor"):
        circle_loss(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), overlaps({}))
    with pytest.raises(ValueError, match=r"labels.match: expected shape \(2, 4, 3\), got \(3, 4, 3\)"):
        point_loss(torch.zeros(2, 5, 4), labels(3, 4, 3))
    with pytest.raises(ValueError, match=r"labels.row_slack: expected shape \(3, 4\), got \(3, 3\)"):
        point_loss(torch.zeros(3, 5, 4), labels(3, 4, 3)._replace(row_slack=torch.ones(3, 3, dtype=torch.bool)))
