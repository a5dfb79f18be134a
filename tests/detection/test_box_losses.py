"""Losses of whole boxes: the values of the specification, laws, and boxes that break losses elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from rotaware.detection.box_losses import gaussian_loss, iou_loss, kfiou_loss, probiou_loss

P = torch.tensor([[50.0, 50.0, 40.0, 20.0, 0.3]], dtype=torch.float64)
T = torch.tensor([[52.0, 49.0, 44.0, 18.0, 0.5]], dtype=torch.float64)


def kfiou_in_place(boxes: Tensor, targets: Tensor, form: str) -> Tensor:
    return kfiou_loss(boxes, targets, (boxes - targets)[:, :2] / 10, form=form)  # type: ignore[arg-type]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = (
    {
        name: partial(gaussian_loss, distance=name)  # type: ignore[arg-type]
        for name in ("gwd", "kld", "kld_retinanet", "jd", "bhattacharyya")
    }
    | {f"kfiou_{form}": partial(kfiou_in_place, form=form) for form in ("linear", "log", "exp")}
    | {f"iou_{form}": partial(iou_loss, form=form) for form in ("linear", "square", "log")}  # type: ignore[arg-type]
    | {"probiou": probiou_loss}
)


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> Callable[[Tensor, Tensor], Tensor]:
    return LOSSES[request.param]


def some_boxes(count: int, seed: int) -> Tensor:
    draw = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw * torch.tensor([10, 10, 30, 10, 3]).double() + torch.tensor([0, 0, 5, 5, -1.5]).double()


def test_values_of_the_specification() -> None:
    assert gaussian_loss(P, T, "gwd", tau=1).item() == pytest.approx(0.125732, abs=1e-6)
    assert gaussian_loss(P, T, "gwd").item() == pytest.approx(math.log1p(0.154669), abs=1e-6)
    assert gaussian_loss(P, T, "kld").item() == pytest.approx(0.211707, abs=1e-6)
    assert gaussian_loss(P, T, "kld", root=False).item() == pytest.approx(0.083139, abs=1e-6)
    # Twice the divergence of the exchanged pair.
    expected = 1 - 1 / (1 + math.log1p(2 * math.expm1(1 / (1 - gaussian_loss(T, P, "kld", root=False).item()) - 1)))
    assert gaussian_loss(P, T, "kld_retinanet").item() == pytest.approx(expected, abs=1e-9)
    assert probiou_loss(P, T).item() == pytest.approx(1 - 0.819020, abs=1e-6)
    overlap = 0.714979
    assert iou_loss(P, T, center_term=False).item() == pytest.approx(1 - overlap, abs=1e-6)
    assert iou_loss(P, T, form="square", center_term=False).item() == pytest.approx(1 - overlap**2, abs=2e-6)
    assert iou_loss(P, T, form="log", center_term=False).item() == pytest.approx(-math.log(overlap), abs=2e-6)
    zero = torch.zeros(1, 2).double()
    for form, expected in (
        ("linear", 1 - 0.324701),
        ("log", -math.log(0.324701)),
        ("exp", math.exp(1 - 0.324701) - 1),
    ):
        assert kfiou_loss(P, T, zero, form=form).item() == pytest.approx(expected, abs=5e-6)  # type: ignore[arg-type]


def test_centers_beside_kfiou_are_smooth_l1() -> None:
    errors = torch.tensor([[0.05, -0.5]]).double()
    place = kfiou_loss(P, T, errors) - kfiou_loss(P, T, torch.zeros_like(errors))
    assert place.item() == pytest.approx(0.5 * 0.05**2 * 9 + 0.5 - 0.5 / 9, abs=1e-9)


def test_center_term_of_boxes_that_do_not_meet() -> None:
    box = torch.tensor([[2.0, 2, 4, 4, 0]], requires_grad=True)
    far = torch.tensor([[8.0, 10, 4, 4, 0]])
    loss = iou_loss(box, far)
    assert loss.item() == pytest.approx(1 + 100 / (10**2 + 12**2))
    loss.sum().backward()
    assert box.grad is not None and (box.grad[0, :2] < 0).all(), "descent goes to the target"
    assert iou_loss(box, far, center_term=False).item() == 1


def test_least_at_the_target_and_blind_to_the_name(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    boxes, targets = some_boxes(20, 0), some_boxes(20, 1)
    found, least = loss(boxes, targets), loss(targets, targets)
    assert found.shape == (20,) and (found > least).all()
    other_name = boxes[:, [0, 1, 3, 2, 4]] - torch.tensor([0, 0, 0, 0, math.pi / 2], dtype=torch.float64)
    torch.testing.assert_close(loss(other_name, targets), found)
    # Just over the border of the angles is just over, not half a turn away.
    below, above = targets.clone(), targets.clone()
    below[:, 4], above[:, 4] = math.pi / 2 - 1e-4, 1e-4 - math.pi / 2
    torch.testing.assert_close(loss(below, above), least, atol=2e-2, rtol=0)


def test_gradients(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    boxes, targets = some_boxes(5, 0).requires_grad_(), some_boxes(5, 1).requires_grad_()
    assert torch.autograd.gradcheck(loss, (boxes, targets))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_boxes_of_any_size(loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    sides = torch.tensor([0.0, 1e-6, 1.0, 1e7])
    shapes = torch.cartesian_prod(sides, sides)
    places = torch.tensor([[0.0, 0.0], [1000.0, 500.0]])
    boxes = torch.stack(
        [torch.cat([place, shape, torch.tensor([angle])]) for place in places for shape in shapes for angle in (0, 0.3)]
    ).to(dtype)
    first = boxes.repeat_interleave(len(boxes), 0).requires_grad_()
    second = boxes.repeat(len(boxes), 1).requires_grad_()
    found = loss(first, second)
    assert found.isfinite().all() and found.dtype == dtype
    found.sum().backward()
    for each in (first, second):
        assert each.grad is not None and each.grad.isfinite().all()


def test_descent_turns_the_short_way_round(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    target = torch.tensor([[50.0, 50, 40, 12, 1.5]])
    box = torch.tensor([[50.0, 50, 40, 12, -1.4]], requires_grad=True)
    loss(box, target).sum().backward()
    assert box.grad is not None and box.grad[0, 4] > 0, "down across the border of le90, not up through 0"


def test_half_precision_is_storage_only(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    boxes, targets = (each.half() for each in (some_boxes(5, 0), some_boxes(5, 1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(boxes, targets)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, loss(boxes.float(), targets.float()).half(), atol=2e-3, rtol=2e-3)


def test_no_boxes(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert loss(torch.zeros(0, 5), torch.zeros(0, 5)).shape == (0,)


def test_errors() -> None:
    for call in (gaussian_loss, probiou_loss, iou_loss):
        with pytest.raises(ValueError, match=r"targets: expected shape \(1, 5\)"):
            call(P, T.expand(2, 5))  # type: ignore[operator]
    with pytest.raises(ValueError, match="distance"):
        gaussian_loss(P, T, "l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tau: expected 0 or at least 1, got 0\.5"):
        gaussian_loss(P, T, tau=0.5)
    with pytest.raises(ValueError, match="form"):
        iou_loss(P, T, form="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form"):
        kfiou_loss(P, T, torch.zeros(1, 2), form="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"center_errors: expected shape \(1, 2\)"):
        kfiou_loss(P, T, torch.zeros(1, 5))
