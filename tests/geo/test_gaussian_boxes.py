"""Gaussians of boxes: the values of the specification, torch's and SciPy's own distances, and laws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from rotaware.geo.boxes import normalize_boxes, rotate_boxes
from rotaware.geo.gaussian_boxes import (
    boxes_to_gaussians,
    gaussian_bhattacharyya_distance,
    gaussian_jeffreys_divergence,
    gaussian_kl_divergence,
    gaussian_wasserstein_distance,
    gaussians_to_boxes,
    kfiou,
    probiou,
)

P = torch.tensor([50.0, 50.0, 40.0, 20.0, 0.3], dtype=torch.float64)
T = torch.tensor([52.0, 49.0, 44.0, 18.0, 0.5], dtype=torch.float64)


def normalized_wasserstein(boxes: Tensor, others: Tensor) -> Tensor:
    return gaussian_wasserstein_distance(boxes, others, normalized=True)


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "wasserstein": gaussian_wasserstein_distance,
    "normalized_wasserstein": normalized_wasserstein,
    "kl": gaussian_kl_divergence,
    "jeffreys": gaussian_jeffreys_divergence,
    "bhattacharyya": gaussian_bhattacharyya_distance,
    "kfiou": kfiou,
    "probiou": probiou,
}
AT_EQUAL = {"kfiou": 1 / 3, "probiou": 1.0}


@pytest.fixture(params=FUNCTIONS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def some_boxes(count: int, seed: int) -> Tensor:
    draw = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw * torch.tensor([20, 20, 30, 10, 7]).double() + torch.tensor([0, 0, 2, 2, -3]).double()


@pytest.mark.parametrize(
    ("function", "expected"),
    [("wasserstein", 4.363723), ("normalized_wasserstein", 0.154669), ("kl", 0.094916), ("kfiou", 0.324701),
     ("probiou", 0.819020)],
)  # fmt: skip
def test_values_of_the_specification(function: str, expected: float) -> None:
    assert FUNCTIONS[function](P, T).item() == pytest.approx(expected, abs=1e-6)


def test_distances_agree_with_those_of_the_matrices() -> None:
    boxes, others = some_boxes(20, 0), some_boxes(20, 1)
    first, second = (MultivariateNormal(*boxes_to_gaussians(each)) for each in (boxes, others))
    forward, backward = kl_divergence(second, first), kl_divergence(first, second)
    torch.testing.assert_close(gaussian_kl_divergence(boxes, others), forward)
    torch.testing.assert_close(gaussian_jeffreys_divergence(boxes, others), (forward + backward) / 2)
    a, b = first.covariance_matrix.numpy(), second.covariance_matrix.numpy()
    away = (boxes - others)[:, :2].numpy()
    for row in range(20):
        inner = sqrtm(sqrtm(a[row]) @ b[row] @ sqrtm(a[row])).real
        squared = away[row] @ away[row] + np.trace(a[row] + b[row] - 2 * inner)
        assert gaussian_wasserstein_distance(boxes, others)[row].item() ** 2 == pytest.approx(squared, rel=1e-9)
        mean = (a[row] + b[row]) / 2
        det = np.linalg.det
        distance = math.log(det(mean) / math.sqrt(det(a[row]) * det(b[row]))) / 2
        distance += away[row] @ np.linalg.solve(mean, away[row]) / 8
        assert gaussian_bhattacharyya_distance(boxes, others)[row].item() == pytest.approx(distance, rel=1e-9)
        fused = a[row] - a[row] @ np.linalg.solve(a[row] + b[row], a[row])
        areas = [4 * math.sqrt(det(each)) for each in (a[row], b[row], fused)]
        assert kfiou(boxes, others)[row].item() == pytest.approx(areas[2] / (areas[0] + areas[1] - areas[2]), rel=1e-9)


def test_probiou_is_the_overlap_of_the_distributions() -> None:
    # The Bhattacharyya coefficient by summing the root of the product of both densities over a grid.
    axis = torch.linspace(-60, 160, 1101, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    densities = []
    for box in (P, T):
        mean, covariance = boxes_to_gaussians(box)
        densities.append(MultivariateNormal(mean, covariance / 3).log_prob(points))
    coefficient = (sum(densities) / 2).exp().sum() * 0.2**2
    assert probiou(P, T).item() == pytest.approx(1 - math.sqrt(1 - coefficient.item()), abs=1e-6)


def test_gaussians_and_back() -> None:
    boxes = normalize_boxes(some_boxes(50, 0))
    torch.testing.assert_close(gaussians_to_boxes(*boxes_to_gaussians(boxes)), boxes)


def test_laws(name: str) -> None:
    function, boxes, others = FUNCTIONS[name], some_boxes(30, 0), some_boxes(30, 1)
    found = function(boxes, others)
    torch.testing.assert_close(function(boxes, boxes), torch.full_like(found, AT_EQUAL.get(name, 0.0)))
    if name != "kl":
        torch.testing.assert_close(function(others, boxes), found)
    # Every name of a box, and every pose of the pair, means the same.
    other_name = boxes[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, math.pi / 2], dtype=torch.float64)
    torch.testing.assert_close(function(other_name, others), found)
    turned = [rotate_boxes(each, 0.7, (3.0, -5.0)) for each in (boxes, others)]
    torch.testing.assert_close(function(*turned), found)
    shift = torch.tensor([1e3, -1e3, 0, 0, 0]).double()
    torch.testing.assert_close(function(boxes + shift, others + shift), found)
    scale = torch.tensor([3, 3, 3, 3, 1]).double()
    factor = 3 if name == "wasserstein" else 1
    torch.testing.assert_close(function(boxes * scale, others * scale), factor * found)
    assert (found >= 0).all() and (name not in AT_EQUAL or (found <= AT_EQUAL[name]).all())


def test_both_names_of_a_thin_box_are_one_place(name: str) -> None:
    box = torch.tensor([5.0, 5, 1e5, 1e-2, 0.2], dtype=torch.float64)
    other_name = torch.tensor([5.0, 5, 1e-2, 1e5, 0.2 - math.pi / 2], dtype=torch.float64)
    assert FUNCTIONS[name](box, other_name).item() == pytest.approx(AT_EQUAL.get(name, 0.0), abs=1e-8)


def test_the_angle_of_a_square_does_not_matter(name: str) -> None:
    square = torch.tensor([5.0, 5, 8, 8, 0.2], dtype=torch.float64)
    turned = square + torch.tensor([0, 0, 0, 0, 0.6], dtype=torch.float64)
    torch.testing.assert_close(FUNCTIONS[name](square, T), FUNCTIONS[name](turned, T))


def test_gradients(name: str) -> None:
    boxes, others = some_boxes(6, 0), some_boxes(6, 1)
    boxes[0, 3] = boxes[0, 2]  # a square, whose sides have a gradient of their own each
    boxes.requires_grad_(), others.requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name], (boxes, others))


def extreme_boxes(dtype: torch.dtype) -> Tensor:
    """Sides from nothing to beyond the clamp, thin and square, at one place and far apart."""
    sides = torch.tensor([0.0, 1e-6, 1.0, 1e7, 1e9])
    shapes = torch.cat([torch.cartesian_prod(sides, sides), torch.tensor([[-1.0, 2.0]])])
    places = torch.tensor([[0.0, 0.0, 0.3], [1000.0, 500.0, -1.2]])
    rows = [torch.cat([place[:2], shape, place[2:]]) for place in places for shape in shapes]
    return torch.stack(rows).to(dtype)


def test_boxes_of_any_size_have_finite_gradients(name: str, dtype: torch.dtype) -> None:
    boxes = extreme_boxes(dtype)
    first, second = boxes.clone().requires_grad_(), boxes.clone().requires_grad_()
    found = FUNCTIONS[name](first[:, None], second)
    assert found.shape == (len(boxes), len(boxes)) and found.dtype == dtype
    assert found.isfinite().all()
    # Bounded as the losses do it.
    torch.log1p(found).sum().backward()
    for each in (first, second):
        assert each.grad is not None and each.grad.isfinite().all()


def test_equal_boxes_have_no_gradient(name: str) -> None:
    boxes = some_boxes(5, 0).float().requires_grad_()
    FUNCTIONS[name](boxes, boxes.detach()).sum().backward()
    assert boxes.grad is not None
    torch.testing.assert_close(boxes.grad, torch.zeros_like(boxes), atol=1e-6, rtol=0)


def test_half_precision_is_storage_only(name: str) -> None:
    boxes, others = (each.half() for each in (some_boxes(5, 0), some_boxes(5, 1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = FUNCTIONS[name](boxes, others)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, FUNCTIONS[name](boxes.double(), others.double()).half())


def test_errors(name: str) -> None:
    with pytest.raises(ValueError, match=r"others: expected shape \(..., 5\)"):
        FUNCTIONS[name](P, T[:4])
    with pytest.raises(ValueError, match="expected one dtype"):
        FUNCTIONS[name](P, T.float())
    with pytest.raises(TypeError, match="boxes: expected a floating point"):
        FUNCTIONS[name](P.long(), T)
    with pytest.raises(ValueError, match="broadcast"):
        FUNCTIONS[name](P.expand(3, 5), T.expand(2, 5))
