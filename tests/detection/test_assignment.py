"""Assignment by hand, and samples that repeat."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rotaware.detection import assignment
from rotaware.detection.assignment import BACKGROUND, IGNORED, MaxIoUAssigner, sampled
from rotaware.detection.losses import offset_loss, sigmoid_focal_loss


def given(table: list[list[float]]) -> tuple[Tensor, Tensor, assignment.Overlap]:
    """References, objects and the overlaps (objects, references) between them."""
    overlaps = torch.tensor(table).view(len(table), -1)
    objects = torch.arange(float(len(table)))
    return torch.zeros(overlaps.shape[1]), objects, lambda some, _: overlaps[some.long()]


TABLE = [[0.8, 0.35, 0.1, 0.2, 0.0, 0.0], [0.1, 0.45, 0.1, 0.38, 0.38, 0.0], [0.75, 0.0, 0.0, 0.0, 0.0, 0.05]]


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [0, IGNORED, BACKGROUND, IGNORED, IGNORED, BACKGROUND]
    assert MaxIoUAssigner(0.5, 0.3, low_quality=False)(*given(TABLE)).tolist() == plain
    # The best references of an object belong to it; of several claims the last object wins.
    claimed = [2, 1, BACKGROUND, IGNORED, IGNORED, BACKGROUND]
    assert MaxIoUAssigner(0.5, 0.3)(*given(TABLE)).tolist() == claimed
    # Not those that overlap less than `least`.
    weak = [[0.8, 0.0], [0.0, 0.2]]
    assert MaxIoUAssigner(0.5, 0.3, 0.3)(*given(weak)).tolist() == [0, BACKGROUND]
    assert MaxIoUAssigner(0.5, 0.3, 0.1)(*given(weak)).tolist() == [0, 1]
    # Equal best ones all do; an object that touches nothing claims nothing.
    assert MaxIoUAssigner(0.5, 0.4)(*given([[0.3, 0.3, 0.1], [0.0, 0.0, 0.0]])).tolist() == [0, 0, BACKGROUND]
    monkeypatch.setattr(assignment, "AT_ONCE", 1)
    assert MaxIoUAssigner(0.5, 0.3)(*given(TABLE)).tolist() == claimed


def test_many_objects_by_parts_are_the_same() -> None:
    table = torch.rand(200, 50, generator=torch.Generator().manual_seed(0)).tolist()
    assigner = MaxIoUAssigner(0.97, 0.9)
    found = assigner(*given(table))
    overlaps = torch.tensor(table)
    best, row = overlaps.max(dim=0)
    expected = torch.where(best >= 0.97, row, torch.where(best < 0.9, BACKGROUND, IGNORED))
    for number, values in enumerate(overlaps):
        expected[values == values.max()] = number
    assert found.tolist() == expected.tolist()


def test_no_objects_and_no_references() -> None:
    assigner = MaxIoUAssigner(0.5, 0.5)
    assert assigner(torch.zeros(4, 5), torch.zeros(0, 5), lambda a, b: torch.zeros(len(a), len(b))).tolist() == [-1] * 4
    assert assigner(torch.zeros(0, 5), torch.zeros(3, 5), lambda a, b: torch.zeros(len(a), len(b))).shape == (0,)
    with pytest.raises(ValueError, match="negative, positive"):
        MaxIoUAssigner(0.3, 0.5)


def test_samples() -> None:
    assigned = torch.full((1000,), BACKGROUND)
    assigned[::4], assigned[1::4] = 3, IGNORED
    rows = sampled(assigned, 100, 0.25, torch.Generator().manual_seed(0))
    assert (assigned[rows[:25]] == 3).all() and (assigned[rows[25:]] == BACKGROUND).all() and len(rows) == 100
    assert len(rows.unique()) == 100
    assert torch.equal(rows, sampled(assigned, 100, 0.25, torch.Generator().manual_seed(0)))
    assert not torch.equal(rows, sampled(assigned, 100, 0.25, torch.Generator().manual_seed(1)))
    # Where positives are few, background fills the sample.
    assigned[8:] = BACKGROUND
    few = sampled(assigned, 100, 0.25, torch.Generator().manual_seed(0))
    assert len(few) == 100 and (assigned[few] == 3).sum() == 2
    assert len(sampled(torch.full((5,), IGNORED), 100, 0.25, torch.Generator())) == 0


def test_losses() -> None:
    logits = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    p = logits.sigmoid()
    expected = torch.where(targets == 1, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets), expected)
    assert torch.autograd.gradcheck(lambda each: sigmoid_focal_loss(each, targets), logits)
    extreme = torch.tensor([500.0, -500.0], requires_grad=True)
    sigmoid_focal_loss(extreme, torch.tensor([0.0, 1.0])).sum().backward()
    assert extreme.grad is not None and extreme.grad.isfinite().all()
    a, b = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.05, 0.0]])
    assert offset_loss(a, b, 0).item() == pytest.approx(2.05)
    assert offset_loss(a, b, 1 / 9).item() == pytest.approx(0.5 * 0.05**2 * 9 + 2 - 1 / 18)
