"""Overlap of oriented boxes and quads: against known values, shapely, laws, and two definitions of our own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
import torch
from torch import Tensor

from rotaware.geo.box_iou import box_iou_rotated, differentiable_box_iou, hull_iou
from rotaware.geo.boxes import boxes_to_hulls, boxes_to_quads, hulls_to_boxes, rotate_boxes
from rotaware.geo.polygons import intersection_area, quad_iou, ratio_of, triangles_of


def box(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def pairs(count: int, scale: float, aspect: float, offset: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random boxes that mostly meet; a tenth each identical, nested, and touching along a side."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(2):
        ratio = np.exp(generator.uniform(0, aspect, count)) ** 0.5
        side = scale * np.exp(generator.uniform(-1.5, 0.2, count))
        centre = generator.uniform(0, scale, (count, 2)) + offset
        found.append(np.column_stack([centre, side * ratio, side / ratio, generator.uniform(-4, 4, count)]))
    a, b = map(torch.from_numpy, found)
    k = count // 10
    b[:k] = a[:k]
    b[k : 2 * k] = a[k : 2 * k] * torch.tensor([1.0, 1.0, 0.5, 0.5, 1.0])
    b[2 * k : 3 * k] = a[2 * k : 3 * k]
    along = torch.stack([a[2 * k : 3 * k, 4].cos(), a[2 * k : 3 * k, 4].sin()], dim=1)
    b[2 * k : 3 * k, :2] += along * a[2 * k : 3 * k, 2:3]
    return a, b


def by_shapely(a: Tensor, b: Tensor) -> np.ndarray:
    middle = (a.mean(dim=1, keepdim=True) + b.mean(dim=1, keepdim=True)) / 2
    first, second = (shapely.polygons((each - middle).numpy()) for each in (a, b))
    common = shapely.area(shapely.intersection(first, second))
    return common / (shapely.area(first) + shapely.area(second) - common)


SCALES = [(10.0, 1.5, 0.0), (0.01, 1.0, 0.0), (1000.0, 6.9, 0.0), (50.0, 2.0, 1e5)]


@pytest.mark.parametrize(("scale", "aspect", "offset"), SCALES)
def test_agrees_with_shapely(scale: float, aspect: float, offset: float) -> None:
    a, b = pairs(1000, scale, aspect, offset)
    expected = by_shapely(boxes_to_quads(a), boxes_to_quads(b))
    assert (expected > 0).mean() > 0.4
    for found in (box_iou_rotated(a, b, aligned=True), differentiable_box_iou(a, b)):
        assert np.abs(found.numpy() - expected).max() < 1e-9
    np.testing.assert_allclose(box_iou_rotated(a[:100], a[:100]).diagonal(), 1.0, atol=1e-12)
    share = box_iou_rotated(a, b, aligned=True, mode="iof")
    np.testing.assert_allclose(share[100:200], 0.25, atol=1e-9)  # b is half as long inside a
    assert box_iou_rotated(a, b, aligned=True)[200:300].max() < 1e-9


def test_quads_with_reflex_corners_agree_with_shapely() -> None:
    quads = np.random.default_rng(1).uniform(0, 10, (6000, 4, 2))
    quads = torch.from_numpy(quads[shapely.is_valid(shapely.polygons(quads))])
    a, b = quads[: len(quads) // 2], quads[len(quads) // 2 : len(quads) // 2 * 2]
    expected = by_shapely(a, b)
    for first, second in ((a, b), (a.flip(1), b), (a.roll(1, 1), b.flip(1))):
        assert np.abs(quad_iou(first, second, aligned=True).numpy() - expected).max() < 1e-12


def test_compiled_equals_the_definition() -> None:
    a, b = pairs(300, 10.0, 2.0, 0.0, seed=2)
    quads = [boxes_to_quads(each) for each in (a, b)]
    total = torch.zeros(len(a), dtype=torch.float64)
    for first in triangles_of(quads[0]):
        for second in triangles_of(quads[1]):
            total += intersection_area(first, second)
    areas = [each[:, 2] * each[:, 3] for each in (a, b)]
    for mode in ("iou", "iof"):
        expected = ratio_of(total, areas[0], areas[1], mode)
        torch.testing.assert_close(box_iou_rotated(a, b, aligned=True, mode=mode), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(box_iou_rotated(a, b).diagonal(), box_iou_rotated(a, b, aligned=True))


def test_known_values() -> None:
    a = torch.tensor([(1, 1, 3, 4, 0.5), (2, 2, 3, 4, 0.6), (7, 7, 8, 8, 0.4)], dtype=torch.float64)
    b = torch.tensor([(0, 2, 2, 5, 0.3), (2, 1, 3, 3, 0.5), (5, 5, 6, 7, 0.4)], dtype=torch.float64)
    iou = [[0.370821, 0.435137, 0], [0.110420, 0.448708, 0.042440], [0, 0, 0.362234]]
    iof = [[0.4959, 0.5306, 0], [0.1823, 0.5420, 0.1832], [0, 0, 0.4404]]
    np.testing.assert_allclose(box_iou_rotated(a, b), iou, atol=6e-7)
    np.testing.assert_allclose(box_iou_rotated(a, b, mode="iof"), iof, atol=6e-5)
    unit = box(0.5, 0.5, 1, 1, 0)
    for first, second, expected in (
        (box(1, 1, 2**0.5, 2**0.5, math.pi / 4), box(1, 1, 2, 2, 0), 0.5),
        (box(1, 1, 8**0.5, 8**0.5, -math.pi / 4), box(1, 1, 2, 2, 0), 0.5),
        (box(5, 5, 10, 6, math.radians(55)), box(5, 5, 10, 6, math.radians(-35)), 0.428571),
        (unit, unit, 1.0),
        (unit, box(0.5, 0.5, 1, 1, math.pi / 2), 1.0),
        (unit, box(0.5, 0.5, 1, 1, math.pi / 4), 0.7071068),
        (unit, box(1, 1, 1, 1, 0), 1 / 7),
        (unit, box(1.5, 1.5, 1, 1, 0), 0.0),
        (box(565, 565, 10, 10, 0), box(565, 565, 10, 8.3, 0), 0.83),
        (box(3, 3, 8, 2, math.radians(45)), box(6, 0, 8, 2, math.radians(45)), 0.0),
        (box(160, 153, 230, 23, math.radians(37)), box(190, 127, 80, 21, math.radians(46)), 0.0),
        (box(50, 50, 40, 20, 0.3), box(52, 49, 44, 18, 0.5), 0.714979),
    ):
        assert box_iou_rotated(first, second).item() == pytest.approx(expected, abs=1e-6)
        assert differentiable_box_iou(first, second).item() == pytest.approx(expected, abs=1e-6)
    quads = [
        torch.tensor(rows, dtype=torch.float64).view(-1, 4, 2)
        for rows in (
            [[1, 1, 3, 4, 4, 4, 4, 1], [2, 2, 3, 4, 4, 2, 3, 1], [7, 7, 8, 8, 9, 7, 8, 6]],
            [[0, 0, 0, 2, 2, 2, 2, 0], [2, 1, 2, 4, 4, 4, 4, 1], [7, 6, 7, 8, 9, 8, 9, 6]],
        )
    ]
    np.testing.assert_allclose(quad_iou(*quads, aligned=True), [0.0714, 0.5, 0.5], atol=5e-5)


@pytest.mark.parametrize("aspect", [1, 2, 4, 8])
def test_sensitivity_to_the_angle(aspect: int) -> None:
    table = {1: (0.923, 0.863, 0.816, 0.732, 0.707), 2: (0.903, 0.825, 0.762, 0.623, 0.517),
             4: (0.836, 0.705, 0.594, 0.333, 0.215), 8: (0.703, 0.486, 0.318, 0.143, 0.097)}  # fmt: skip
    found = [
        box_iou_rotated(box(0, 0, aspect, 1, 0), box(0, 0, aspect, 1, math.radians(turn))).item()
        for turn in (5, 10, 15, 30, 45)
    ]
    np.testing.assert_allclose(found, table[aspect], atol=6e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearly_identical_boxes(dtype: torch.dtype) -> None:
    for a, b in (
        ((296.66201782, 458.73883057, 23.51572990, 47.67700195, math.radians(0.08795166)),
         (296.66201, 458.73882, 23.51573, 47.67702, math.radians(0.087951))),
        ((2563.7446289, 1436.7901611, 2174.7033691, 214.0950012, math.radians(115.1183472)),
         (2563.7446289, 1436.7902832, 2174.7028809, 214.0949554, math.radians(115.1183548))),
    ):  # fmt: skip
        first, second = (torch.tensor([each], dtype=dtype) for each in (a, b))
        assert box_iou_rotated(first, second).item() == pytest.approx(1.0, abs=1e-5)
        assert differentiable_box_iou(first, second).item() == pytest.approx(1.0, abs=1e-4)


def test_symmetric_and_invariant_to_common_motions() -> None:
    a, b = pairs(200, 20.0, 2.5, 0.0, seed=5)
    iou = box_iou_rotated(a, b)
    torch.testing.assert_close(box_iou_rotated(b, a).T, iou, atol=1e-12, rtol=0)
    for angle, shift in ((1.1, 0.0), (-2.7, 1e3), (math.pi / 2, -40.0)):
        moved = [rotate_boxes(each, angle, (3.0, 4.0)) + torch.tensor([shift, -shift, 0, 0, 0]) for each in (a, b)]
        torch.testing.assert_close(box_iou_rotated(*moved), iou, atol=1e-10, rtol=0)
    # The same boxes in other words.
    swapped = torch.stack([a[:, 0], a[:, 1], a[:, 3], a[:, 2], a[:, 4] + 3 * math.pi / 2], dim=1)
    torch.testing.assert_close(box_iou_rotated(swapped, b), iou, atol=1e-12, rtol=0)


def test_without_a_turn_it_is_the_overlap_of_hulls() -> None:
    hulls = torch.rand(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10
    hulls = torch.cat([hulls[:, :2], hulls[:, :2] + 1 + hulls[:, 2:]], dim=1)
    boxes = hulls_to_boxes(hulls)
    torch.testing.assert_close(box_iou_rotated(boxes, boxes), hull_iou(hulls, hulls), atol=1e-12, rtol=0)
    torch.testing.assert_close(boxes_to_hulls(boxes), hulls)
    assert hull_iou(hulls, hulls, aligned=True).tolist() == pytest.approx([1.0] * 60)


def test_anything_gives_a_number_between_zero_and_one() -> None:
    odd = torch.tensor(
        [(160, 153, 230, 23, -0.6), (-1.1174e17, 1.3858e18, 1000.00006, 1000.00006, 28.1), (0, 0, 0, 5, 1.0),
         (0, 0, -3, 4, 0.2), (0, 0, 1e9, 1e9, 0.3), (float("nan"), 0, 1, 1, 0), (0, 0, float("inf"), 1, 0.5),
         (5, 5, 1e-8, 1e-8, 0.0), (1e30, 1e30, 1e30, 1e30, 0.1)], dtype=torch.float64,
    )  # fmt: skip
    for boxes in (odd, odd.float()):
        for mode in ("iou", "iof"):
            found = box_iou_rotated(boxes, boxes, mode=mode)
            assert found.isfinite().all() and (found >= 0).all() and (found <= 1).all()
    assert box_iou_rotated(odd, odd)[2].max() == 0 and box_iou_rotated(odd, odd)[5].max() == 0


def test_empty_input_keeps_its_shape() -> None:
    none, some = torch.zeros(0, 5), torch.rand(3, 5)
    assert box_iou_rotated(none, some).shape == (0, 3) and box_iou_rotated(some, none).shape == (3, 0)
    assert box_iou_rotated(none, none, aligned=True).shape == (0,)
    assert differentiable_box_iou(none, none).shape == (0,)
    assert hull_iou(torch.zeros(0, 4), torch.rand(3, 4)).shape == (0, 3)
    assert quad_iou(torch.zeros(0, 4, 2), torch.rand(3, 4, 2)).shape == (0, 3)


def test_threads_change_nothing() -> None:
    a, b = pairs(400, 60.0, 1.0, 0.0, seed=9)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(box_iou_rotated(a, b))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_gradients() -> None:
    a, b = pairs(60, 10.0, 1.0, 0.0, seed=4)
    iou = box_iou_rotated(a, b, aligned=True)
    # Where corners lie on edges the overlap has no derivative.
    generic = (iou > 0.01) & (torch.arange(60) >= 18)
    a, b = (each[generic].clone().requires_grad_() for each in (a, b))
    assert len(a) > 15
    assert torch.autograd.gradcheck(differentiable_box_iou, (a, b))


def test_gradients_are_finite_at_the_borders() -> None:
    for other in (
        box(0, 0, 2, 2, 0.3), box(5, 5, 2, 2, 0.3), box(0, 0, 1, 1, 0.3), box(0, 0, 4, 4, 0.3), box(2, 0, 2, 2, 0.0),
        box(0, 0, 0, 0, 0), box(0, 0, 2, 2, 0.3 + math.pi / 2), box(1e6, 0, 1, 1, 0), box(0, 0, 1e-9, 1e7, 1),
    ):  # fmt: skip
        for dtype in (torch.float64, torch.float32):
            leaf = box(0, 0, 2, 2, 0.3).to(dtype).requires_grad_()
            loss = differentiable_box_iou(leaf, other.to(dtype)).sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
            assert gradient.isfinite().all()
    far = box(0, 0, 2, 2, 0.3).requires_grad_()
    assert torch.autograd.grad(differentiable_box_iou(far, box(9, 9, 2, 2, 0)).sum(), far)[0].abs().max() == 0
    half = box(0, 0, 2, 2, 0.3).half()
    assert differentiable_box_iou(half, half).dtype == torch.half


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"a: expected shape \(N, 5\)"):
        box_iou_rotated(torch.zeros(5), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="expected as many rows"):
        box_iou_rotated(torch.zeros(3, 5), torch.zeros(2, 5), aligned=True)
    with pytest.raises(ValueError, match="mode"):
        box_iou_rotated(torch.zeros(3, 5), torch.zeros(2, 5), mode="giou")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one dtype"):
        quad_iou(torch.zeros(3, 4, 2), torch.zeros(2, 4, 2).double())
