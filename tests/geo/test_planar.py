from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from rotaware.geo.planar import (
    BoxConvention,
    angle_difference,
    angle_to_matrix2d,
    angle_to_vector,
    box_convert_angle,
    box_to_gaussian,
    circular_mean,
    gaussian_to_box,
    matrix2d_to_angle,
    random_angle,
    vector_to_angle,
    wrap_angle,
)

CONVENTIONS = get_args(BoxConvention)
PERIODS = [2 * math.pi, math.pi, math.pi / 2, 1.0, 360.0]
RANGES = {
    "opencv_old": (-math.pi / 2, 0.0),
    "opencv_new": (0.0, math.pi / 2),
    "le90": (-math.pi / 2, math.pi / 2),
    "le135": (-math.pi / 4, 3 * math.pi / 4),
}
# Multiples of an eighth of a turn, and the floats next to them.
EDGES = torch.tensor([k * math.pi / 4 for k in range(-20, 21)], dtype=torch.float64)


def angles_of(dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random angles of several turns, exact eighths of a turn, and their neighbours in the dtype."""
    edges = EDGES.to(dtype)
    up, down = (torch.nextafter(edges, torch.full_like(edges, far)) for far in (math.inf, -math.inf))
    return torch.cat([20 * torch.randn(200, dtype=dtype, generator=generator), edges, up, down])


def same_direction(a: Tensor, b: Tensor, period: float) -> Tensor:
    """How far two angles are from meaning the same, in float64."""
    return 2 * torch.sin((a.double() - b.double()) * math.pi / period).abs() * period / (2 * math.pi)


@pytest.mark.parametrize("period", PERIODS)
def test_wrapped_angles(period: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    angle = angles_of(dtype, generator)
    wrapped = wrap_angle(angle, period)
    eps = torch.finfo(dtype).eps
    assert wrapped.dtype == dtype
    assert (wrapped.abs() <= period / 2 * (1 + 2 * eps)).all()
    assert same_direction(wrapped, angle, period).max() < 200 * eps
    torch.testing.assert_close(wrap_angle(wrapped, period).abs(), wrapped.abs(), rtol=2 * eps, atol=0)


def test_wrapping_keeps_small_angles_and_survives_large_ones(dtype: torch.dtype) -> None:
    small = torch.tensor([0.0, 1e-30, -3.1, 3.1, 1e-7], dtype=dtype)
    assert torch.equal(wrap_angle(small), small)
    large = torch.tensor([1e10, -3e38, 1e20], dtype=dtype)
    assert (wrap_angle(large).abs() <= math.pi * (1 + 1e-6)).all()
    assert (angle_difference(large, -large).abs() <= math.pi * (1 + 1e-6)).all()
    assert wrap_angle(torch.tensor([math.inf, math.nan])).isnan().all()


@given(st.floats(-50, 50), st.floats(-50, 50), st.sampled_from(PERIODS))
def test_difference_is_the_short_way(a: float, b: float, period: float) -> None:
    x, y = torch.tensor([a, b], dtype=torch.float64)
    difference = angle_difference(x, y, period)
    assert difference.abs() <= period / 2 + 1e-12
    assert same_direction(y + difference, x, period) < 1e-12
    torch.testing.assert_close(angle_difference(y, x, period).abs(), difference.abs(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("period", PERIODS)
def test_vectors_are_continuous_and_invert(period: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    angle = random_angle(200, period=period, dtype=dtype, generator=generator)
    vector = angle_to_vector(angle, period)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(vector.norm(dim=-1), torch.ones(200, dtype=dtype))
    scale = torch.logspace(-30, 30, 200, dtype=dtype)
    back = vector_to_angle(scale[:, None] * vector, period)
    assert (same_direction(back, angle, period) <= tolerance * period).all()
    torch.testing.assert_close(angle_to_vector(angle + period, period), vector, rtol=0, atol=20 * tolerance)
    # The jump of the angle is none of the vector.
    ends = torch.tensor([period / 2, -period / 2], dtype=dtype)
    torch.testing.assert_close(*angle_to_vector(ends, period), rtol=0, atol=tolerance)


def test_matrices_match_complex_numbers(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    angle = random_angle((*batch, 30), dtype=dtype, generator=generator)
    matrix = angle_to_matrix2d(angle)
    assert matrix.shape == (*batch, 30, 2, 2)
    turned = torch.polar(torch.ones_like(angle), angle) * (3 - 4j)
    expected = torch.view_as_real(turned.to(turned.dtype))
    point = torch.tensor([3, -4], dtype=dtype)
    torch.testing.assert_close(matrix @ point, expected)
    torch.testing.assert_close(matrix2d_to_angle(matrix), angle, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_matrix_angle_is_special_procrustes(generator: torch.Generator) -> None:
    matrix = torch.randn(500, 2, 2, dtype=torch.float64, generator=generator)
    u, _, vt = torch.linalg.svd(matrix)
    sign = torch.linalg.det(u @ vt)
    nearest = u @ torch.diag_embed(torch.stack([torch.ones_like(sign), sign], -1)) @ vt
    torch.testing.assert_close(angle_to_matrix2d(matrix2d_to_angle(matrix)), nearest, rtol=0, atol=1e-12)
    scaled = matrix2d_to_angle(torch.cat([1e37 * matrix.float(), 1e-30 * matrix.float()]))
    assert (same_direction(scaled, matrix2d_to_angle(matrix).repeat(2), 2 * math.pi) < 1e-4).all()


@pytest.mark.parametrize("period", PERIODS)
def test_mean_of_close_angles_is_their_mean(period: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    centre = random_angle((5, 1), period=period, dtype=dtype, generator=generator)
    deviation = period / 2000 * torch.randn(5, 200, dtype=dtype, generator=generator)
    weights = torch.rand(5, 200, dtype=dtype, generator=generator)
    mean = circular_mean(wrap_angle(centre + deviation, period), weights, period=period)
    expected = centre[:, 0] + (weights * deviation).sum(-1) / weights.sum(-1)
    assert (same_direction(mean, expected, period) < 1e-6 * period).all()
    moved = circular_mean(centre + deviation + 0.3 * period, 1e30 * weights, period=period)
    assert (same_direction(moved, mean + 0.3 * period, period) < 1e-5 * period).all()


def test_mean_over_axes(generator: torch.Generator) -> None:
    angles = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)
    expected = torch.from_numpy(stats.circmean(angles.numpy(), high=math.pi, low=-math.pi, axis=(0, 2)))
    torch.testing.assert_close(circular_mean(angles, dim=(0, -1)), expected, rtol=0, atol=1e-12)
    whole = circular_mean(angles, dim=(0, 1, 2))
    torch.testing.assert_close(whole, circular_mean(angles.flatten()), rtol=0, atol=1e-12)
    weights = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(circular_mean(angles, weights[:, None], dim=1), wrap_angle(angles[:, 0]))


def test_undefined_means_are_zero(dtype: torch.dtype) -> None:
    cases = [[0.0, math.pi], [0.0, 2 * math.pi / 3, -2 * math.pi / 3], [1.0, 1.0 + math.pi]]
    for case in cases:
        angles = torch.tensor(case, dtype=dtype, requires_grad=True)
        mean = circular_mean(angles)
        assert mean == 0
        assert torch.equal(torch.autograd.grad(mean, angles)[0], torch.zeros_like(angles))
    assert circular_mean(torch.ones(3, dtype=dtype), torch.zeros(3, dtype=dtype)) == 0
    assert torch.equal(circular_mean(torch.zeros(4, 0, dtype=dtype)), torch.zeros(4, dtype=dtype))
    assert circular_mean(torch.zeros(0, 4, dtype=dtype)).shape == (0,)
    assert circular_mean(torch.tensor([0.0, math.nan], dtype=dtype)).isnan()


def test_random_angles_are_uniform_and_reproducible(generator: torch.Generator) -> None:
    angle = random_angle(5000, period=math.pi, generator=generator)
    assert angle.min() >= -math.pi / 2 and angle.max() < math.pi / 2
    assert stats.kstest(angle.numpy(), stats.uniform(-math.pi / 2, math.pi).cdf).pvalue > 0.01
    assert torch.equal(random_angle(5000, period=math.pi, generator=torch.Generator().manual_seed(0)), angle)
    assert random_angle((2, 3), dtype=torch.float16).dtype == torch.float16
    assert random_angle().shape == ()


def corners(width: Tensor, height: Tensor, angle: Tensor) -> Tensor:
    """The corners of rectangles around the origin in float64, (..., 4, 2)."""
    w, h, a = width.double() / 2, height.double() / 2, angle.double()
    along = torch.stack([a.cos(), a.sin()], -1) * w[..., None]
    across = torch.stack([-a.sin(), a.cos()], -1) * h[..., None]
    return torch.stack([along + across, across - along, -along - across, along - across], -2)


def gap(a: Tensor, b: Tensor) -> Tensor:
    """Largest distance of a corner of one rectangle from the nearest one of the other, both ways."""
    distance = (a[..., :, None, :] - b[..., None, :, :]).norm(dim=-1)
    return torch.maximum(distance.amin(-1).amax(-1), distance.amin(-2).amax(-1))


@pytest.mark.parametrize("dst", CONVENTIONS)
@pytest.mark.parametrize("src", CONVENTIONS)
def test_every_convention_names_the_same_rectangle(
    src: BoxConvention, dst: BoxConvention, dtype: torch.dtype, generator: torch.Generator
) -> None:
    angle = angles_of(dtype, generator)
    w, h = 0.5 + torch.rand(2, len(angle), dtype=dtype, generator=generator)
    w[::5] = h[::5]
    first = box_convert_angle(w, h, angle, src, src)
    shape = box_convert_angle(*first, src, dst)
    tolerance = 100 * torch.finfo(dtype).eps
    for made, convention in ((first, src), (shape, dst)):
        low, high = (torch.tensor(edge, dtype=dtype) for edge in RANGES[convention])
        if convention == "opencv_new":
            assert (made.angle > low).all() and (made.angle <= high).all()
        else:
            assert (made.angle >= low).all() and (made.angle < high).all()
        if convention.startswith("le"):
            assert (made.width >= made.height).all()
        assert gap(corners(*made), corners(w, h, angle)).max() < tolerance
        assert made.angle.dtype == dtype
        torch.testing.assert_close(box_to_gaussian(*made), box_to_gaussian(w, h, angle), rtol=0, atol=tolerance)
    back = box_convert_angle(*shape, dst, src)
    assert gap(corners(*back), corners(*first)).max() < tolerance
    # In its own convention a rectangle stays as it is.
    assert all(torch.equal(x, y) for x, y in zip(box_convert_angle(*first, src, src), first, strict=True))


def test_known_rectangles() -> None:
    w, h, angle = torch.tensor(4.0), torch.tensor(2.0), torch.tensor(math.pi / 6)
    expected = {
        "opencv_old": (2, 4, math.pi / 6 - math.pi / 2),
        "opencv_new": (4, 2, math.pi / 6),
        "le90": (4, 2, math.pi / 6),
        "le135": (4, 2, math.pi / 6),
    }
    for dst, numbers in expected.items():
        made = torch.stack(box_convert_angle(w, h, angle, "le90", dst))
        torch.testing.assert_close(made, torch.tensor(numbers), rtol=0, atol=1e-6)
    upright = box_convert_angle(w, h, torch.tensor(0.0), "le90", "opencv_new")
    torch.testing.assert_close(torch.stack(upright), torch.tensor([2.0, 4.0, math.pi / 2]))
    upright = box_convert_angle(w, h, torch.tensor(0.0), "le90", "opencv_old")
    torch.testing.assert_close(torch.stack(upright), torch.tensor([2.0, 4.0, -math.pi / 2]))


def test_conversion_gradient(generator: torch.Generator) -> None:
    inputs = tuple(torch.rand(6, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3))
    for dst in CONVENTIONS:
        assert torch.autograd.gradcheck(lambda w, h, a, dst=dst: box_convert_angle(w, h, 5 * a, "le90", dst), inputs)


def test_gaussians_invert(dtype: torch.dtype, batch: tuple[int, ...], generator: torch.Generator) -> None:
    h, extra = torch.rand(2, *batch, 50, dtype=dtype, generator=generator) + 0.1
    w, angle = h + extra, random_angle((*batch, 50), period=math.pi, dtype=dtype, generator=generator)
    covariance = box_to_gaussian(w, h, angle)
    turn = angle_to_matrix2d(angle)
    expected = turn @ torch.diag_embed(torch.stack([w, h], -1).square() / 4) @ turn.mT
    torch.testing.assert_close(covariance, expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    shape = gaussian_to_box(covariance)
    atol = 1e-12 if dtype == torch.float64 else 2e-4
    assert gap(corners(*shape), corners(w, h, angle)).max() < atol
    assert (shape.width >= shape.height).all()
    assert (shape.angle >= -math.pi / 2).all() and (shape.angle < math.pi / 2).all()
    scaled = gaussian_to_box(covariance * 1e-20)
    torch.testing.assert_close(scaled.width, shape.width * 1e-10)
    # A square with the axes exchanged is the same square.
    torch.testing.assert_close(box_to_gaussian(w, h, angle), box_to_gaussian(h, w, angle + math.pi / 2))


def test_gaussians_of_squares_and_lines(dtype: torch.dtype) -> None:
    rows = [
        [[1, 0], [0, 1]],
        [[0, 0], [0, 0]],
        [[1, 0], [0, 0]],
        [[0, 0], [0, 1]],
        [[1, 1], [1, 1]],
        [[-1, 0], [0, -2]],
    ]
    covariance = torch.tensor(rows, dtype=dtype, requires_grad=True)
    shape = gaussian_to_box(covariance)
    expected = [[2, 2, 0], [0, 0, 0], [2, 0, 0], [2, 0, -math.pi / 2], [2 * math.sqrt(2), 0, math.pi / 4], [0, 0, 0]]
    torch.testing.assert_close(torch.stack(shape, -1), torch.tensor(expected, dtype=dtype))
    gradient = torch.autograd.grad(sum(part.sum() for part in shape), covariance, create_graph=True)[0]
    assert gradient.isfinite().all()
    assert torch.autograd.grad(gradient.square().sum(), covariance)[0].isfinite().all()


ONE_ARGUMENT: list[tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = [
    (lambda a: wrap_angle(a, math.pi), ()),
    (lambda a: angle_difference(a, 2 * a), ()),
    (lambda a: angle_to_vector(a, math.pi), ()),
    (lambda v: vector_to_angle(v, math.pi), (2,)),
    (angle_to_matrix2d, ()),
    (matrix2d_to_angle, (2, 2)),
    (lambda a: circular_mean(a, 1 + a.square()), (3,)),
    (lambda x: box_to_gaussian(*x.unbind(-1)), (3,)),
    (lambda x: torch.stack(gaussian_to_box(x @ x.mT), -1), (2, 2)),
    (lambda x: torch.stack(box_convert_angle(*x.unbind(-1), "le90", "opencv_old"), -1), (3,)),
]


# Forward mode makes torch 2.13 import a part of itself that it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("function, shape", ONE_ARGUMENT)
def test_exact_derivatives(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], generator: torch.Generator
) -> None:
    x = torch.randn(4, *shape, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, x)


@pytest.mark.parametrize("function, shape", ONE_ARGUMENT)
def test_vmap_half_nan_and_empty(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], generator: torch.Generator
) -> None:
    x = torch.randn(4, 2, *shape, generator=generator)
    made = function(x)
    torch.testing.assert_close(torch.vmap(torch.vmap(function))(x), made, rtol=0, atol=1e-5)
    assert function(x.half()).dtype == torch.float16
    broken = x.clone()
    broken[0, 0] = math.nan
    bad = function(broken)
    assert bad[0, 0].isnan().all() and bad[1:].isfinite().all() and bad[0, 1].isfinite().all()
    assert function(x[:0]).shape == made[:0].shape


@pytest.mark.parametrize("rows", [[[0, 0]], [[-1, 0], [0, -1], [1e-30, 1e-30], [3e38, -3e38], [1e-17, 0]]])
def test_derivatives_of_directions_are_finite(rows: list[list[float]], dtype: torch.dtype) -> None:
    v = torch.tensor(rows, dtype=torch.float64).to(dtype).requires_grad_()
    angle = vector_to_angle(v)
    gradient = torch.autograd.grad(angle.sum(), v, create_graph=True)[0]
    assert angle.isfinite().all() and gradient.isfinite().all()
    assert torch.autograd.grad(gradient.sum(), v)[0].isfinite().all()
    if rows == [[0, 0]]:
        assert angle == 0 and torch.equal(gradient, torch.zeros_like(gradient))
    matrix = torch.tensor([[[1.0, 0], [0, -1]], [[0, 0], [0, 0]], [[0.6, 0.8], [0.8, -0.6]]], dtype=dtype)
    matrix.requires_grad_()
    assert torch.equal(matrix2d_to_angle(matrix), torch.zeros(3, dtype=dtype))
    gradient = torch.autograd.grad(matrix2d_to_angle(matrix).sum(), matrix)[0]
    assert torch.equal(gradient, torch.zeros_like(matrix))


def test_compiles_whole(generator: torch.Generator) -> None:
    w, h, angle = torch.rand(3, 5, generator=generator)
    for function in (box_to_gaussian, lambda w, h, a: box_convert_angle(w, h, a, "le90", "opencv_new")):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(w, h, angle), function(w, h, angle))


def test_wrong_arguments() -> None:
    one = torch.ones(3)
    functions = (
        wrap_angle,
        angle_to_vector,
        lambda a, p: circular_mean(a, period=p),
        lambda a, p: random_angle(period=p),
    )
    for function in functions:
        for period in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=r"^period: expected a positive number, got "):
                function(one, period)
    for wrong in (wrap_angle, angle_to_vector, angle_to_matrix2d, circular_mean):
        with pytest.raises(TypeError, match=r": expected a floating point tensor, got torch\.int64$"):
            wrong(one.long())
    with pytest.raises(ValueError, match=r"^vector: expected shape \(\.\.\., 2\), got \(3,\)$"):
        vector_to_angle(one)
    with pytest.raises(ValueError, match=r"^matrix: expected shape \(\.\.\., 2, 2\), got \(3,\)$"):
        matrix2d_to_angle(one)
    with pytest.raises(ValueError, match=r"^covariance: expected shape \(\.\.\., 2, 2\), got \(3,\)$"):
        gaussian_to_box(one)
    with pytest.raises(ValueError, match=r"^angle, other: expected one dtype, got"):
        angle_difference(one, one.double())
    with pytest.raises(ValueError, match=r"^angles, weights: expected leading shapes that broadcast, got"):
        circular_mean(one, torch.ones(4))
    with pytest.raises(ValueError, match=r"^width, height, angle: expected one device, got cpu, meta, cpu$"):
        box_to_gaussian(one, one.to("meta"), one)
    with pytest.raises(ValueError, match=r"^dst: expected one of 'opencv_old', .*, got 'le45'$"):
        box_convert_angle(one, one, one, "le90", "le45")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^src: expected one of 'opencv_old', .*, got 'le45'$"):
        box_convert_angle(one, one, one, "le45", "le90")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^dtype: expected a floating point type, got torch\.int64$"):
        random_angle(dtype=torch.int64)
