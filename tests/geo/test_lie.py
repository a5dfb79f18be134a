from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rotaware.geo import random_rotations, sample_rotations
from rotaware.geo.lie import (
    hat,
    hat_inv,
    so3_box_minus,
    so3_box_plus,
    so3_exp,
    so3_exp_map,
    so3_left_jacobian,
    so3_log,
    so3_log_map,
    so3_right_jacobian,
    vee,
)
from rotaware.geo.so3 import axis_angle_to_matrix, geodesic_distance, matrix_to_axis_angle
from rotaware.geo.testing import RotationKind

ANGLES = [0.0, 1e-12, 1e-8, 1e-7, 1e-3, 0.99, 1.01, 1.99, 2.01, 3.0, math.pi - 1e-7, math.pi, 4.0, 6.0, 7.0]
UNIT = torch.tensor([2 / 7, -3 / 7, 6 / 7], dtype=torch.float64)
JACOBIANS = [so3_left_jacobian, so3_right_jacobian]
vectors = st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=3, max_size=3).map(
    lambda v: torch.tensor(v, dtype=torch.float64)
)


def left(v: Tensor) -> Tensor:
    return so3_left_jacobian(v)


def left_inverse(v: Tensor) -> Tensor:
    return so3_left_jacobian(v, inverse=True)


def right(v: Tensor) -> Tensor:
    return so3_right_jacobian(v)


def right_inverse(v: Tensor) -> Tensor:
    return so3_right_jacobian(v, inverse=True)


MAPS = [hat, left, left_inverse, right, right_inverse]


@given(vectors, vectors)
def test_hat_is_the_cross_product(v: Tensor, u: Tensor) -> None:
    assert torch.equal(hat(v).mT, -hat(v))
    torch.testing.assert_close(hat(v) @ u, torch.linalg.cross(v, u), rtol=1e-12, atol=1e-12)
    assert torch.equal(vee(hat(v)), v)


def test_vee_reads_the_antisymmetric_part(
    batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    matrix = torch.randn(*batch, 3, 3, dtype=dtype, generator=generator)
    assert vee(matrix).shape == (*batch, 3)
    torch.testing.assert_close(hat(vee(matrix)), (matrix - matrix.mT) / 2)
    assert vee(hat(torch.full((3,), 3e38))).isfinite().all()


def test_aliases() -> None:
    assert hat_inv is vee
    assert so3_exp is so3_exp_map is axis_angle_to_matrix
    assert so3_log is so3_log_map is matrix_to_axis_angle


def exact_jacobian(v: Tensor) -> Tensor:
    """The left Jacobian as an integral of the exponential, by Gauss-Legendre quadrature: no formula of ours."""
    nodes = torch.tensor(
        [-0.9815606342467192, -0.9041172563704749, -0.7699026741943047, -0.5873179542866175, -0.3678314989981802,
         -0.1252334085114689, 0.1252334085114689, 0.3678314989981802, 0.5873179542866175, 0.7699026741943047,
         0.9041172563704749, 0.9815606342467192], dtype=torch.float64,
    )  # fmt: skip
    weights = torch.tensor(
        [0.0471753363865118, 0.1069393259953184, 0.1600783285433462, 0.2031674267230659, 0.2334925365383548,
         0.2491470458134028], dtype=torch.float64,
    )  # fmt: skip
    weights = torch.cat([weights, weights.flip(0)]) / 2
    return (weights[:, None, None] * torch.linalg.matrix_exp((nodes[:, None, None] + 1) / 2 * hat(v))).sum(0)


@pytest.mark.parametrize("angle", ANGLES)
def test_jacobians_match_the_integral(angle: float, dtype: torch.dtype) -> None:
    v = angle * UNIT
    expected = exact_jacobian(v)
    atol = 1e-13 if dtype == torch.float64 else 4e-7
    for jacobian, reference in ((so3_left_jacobian, expected), (so3_right_jacobian, expected.mT)):
        torch.testing.assert_close(jacobian(v.to(dtype)).double(), reference, rtol=0, atol=atol)
        inverse = jacobian(v.to(dtype), inverse=True)
        assert inverse.dtype == dtype
        # Relative, as the inverse is large near a whole turn, where the angle's own rounding is magnified too.
        size = torch.linalg.inv(reference).abs().max().item()
        torch.testing.assert_close(
            inverse.double(), torch.linalg.inv(reference), rtol=0, atol=2 * atol * size * max(1.0, size)
        )


@pytest.mark.parametrize("angle", [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
def test_jacobians_keep_their_precision_at_small_angles(angle: float) -> None:
    v = angle * UNIT
    expected = hat(v) / 2
    close = torch.eye(3, dtype=torch.float64)
    off = so3_left_jacobian(v) - close - hat(v) @ hat(v) / 6
    torch.testing.assert_close(off, expected, rtol=0, atol=angle**3 + 3e-16)
    torch.testing.assert_close(so3_left_jacobian(v.float()).double(), exact_jacobian(v), rtol=0, atol=1.2e-7)


def test_jacobians_are_derivatives(kind: RotationKind, generator: torch.Generator) -> None:
    v = matrix_to_axis_angle(sample_rotations(kind, 5, generator=generator))
    for vector in v:
        zero = torch.zeros(3, dtype=torch.float64)
        # A tangent of exp at v, brought back to the identity on either side.
        world = torch.func.jacrev(lambda d, v=vector: vee(so3_exp(v + d) @ so3_exp(v).mT))(zero)
        body = torch.func.jacrev(lambda d, v=vector: vee(so3_exp(v).mT @ so3_exp(v + d)))(zero)
        torch.testing.assert_close(so3_left_jacobian(vector), world, rtol=0, atol=1e-13)
        torch.testing.assert_close(so3_right_jacobian(vector), body, rtol=0, atol=1e-13)
        step = torch.func.jacrev(lambda d, v=vector: so3_log(so3_exp(v) @ so3_exp(d)))(zero)
        inverse = so3_right_jacobian(vector, inverse=True)
        same_side = (so3_log(so3_exp(vector)) @ vector >= 0).item()
        if same_side:
            torch.testing.assert_close(inverse, step, rtol=0, atol=1e-9)


def test_inverse_is_bounded_at_whole_turns(dtype: torch.dtype) -> None:
    turns = torch.tensor([1, 2, 3, 1 + 1e-6, 1 - 1e-6], dtype=torch.float64)
    v = (2 * math.pi * turns[:, None] * UNIT).to(dtype).requires_grad_()
    for jacobian in JACOBIANS:
        value = jacobian(v, inverse=True)
        gradient = torch.autograd.grad(value.square().sum(), v, create_graph=True)[0]
        second = torch.autograd.grad(gradient.sum(), v)[0]
        assert value.isfinite().all() and value.abs().max() < 1e6
        assert gradient.isfinite().all() and second.isfinite().all()


# Forward mode makes torch 2.13 import a part of itself that it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("function", MAPS)
def test_exact_derivatives(function: Callable[[Tensor], Tensor]) -> None:
    angles = torch.tensor([0.0, 1e-7, 0.3, 0.95, 1.05, 2.5, math.pi, 4.5], dtype=torch.float64)
    v = (angles[:, None] * UNIT).requires_grad_()
    assert torch.autograd.gradcheck(function, v, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, v)


@pytest.mark.parametrize("function", MAPS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-7, 1.0, 1e6, 1e16, 3e38])
def test_derivatives_are_finite(function: Callable[[Tensor], Tensor], scale: float, dtype: torch.dtype) -> None:
    v = (scale * UNIT).to(dtype).requires_grad_()
    value = function(v)
    gradient = torch.autograd.grad(value.sum(), v, create_graph=True)[0]
    assert value.isfinite().all() and gradient.isfinite().all()
    if gradient.requires_grad:
        assert torch.autograd.grad(gradient.sum(), v)[0].isfinite().all()


@pytest.mark.parametrize("function", [*MAPS, lambda v: so3_box_plus(torch.eye(3), v)])
def test_vmap_batches_half_and_nan(function: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
    v = torch.randn(4, 2, 3, generator=generator)
    torch.testing.assert_close(torch.vmap(torch.vmap(function))(v), function(v), rtol=0, atol=1e-6)
    assert torch.equal(function(v.half().float()).half(), so3_half(function, v))
    assert function(torch.zeros(0, 3)).shape == (0, 3, 3)
    broken = v.clone()
    broken[0, 0, 1] = math.nan
    assert function(broken)[0, 0].isnan().any()
    assert function(broken)[1].isfinite().all()


def so3_half(function: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """The function in half precision, where it does not mix with a float32 constant."""
    return function(v.half()) if function in MAPS else function(v.half().float()).half()


def test_box_operators_are_inverse(
    kind: RotationKind, batch: tuple[int, ...], dtype: torch.dtype, tolerance: float, generator: torch.Generator
) -> None:
    a = random_rotations((*batch, 20), dtype=dtype, generator=generator)
    b = a @ sample_rotations(kind, (*batch, 20), dtype=dtype, generator=generator)
    delta = so3_box_minus(b, a)
    assert delta.shape == (*batch, 20, 3) and delta.dtype == dtype
    torch.testing.assert_close(so3_box_plus(a, delta), b, rtol=0, atol=2 * tolerance)
    torch.testing.assert_close(delta.norm(dim=-1), geodesic_distance(a, b), rtol=0, atol=2 * tolerance)


def test_box_operators_broadcast_and_ignore_autocast(generator: torch.Generator) -> None:
    a = random_rotations((4, 1), generator=generator)
    delta = torch.randn(5, 3, generator=generator)
    moved = so3_box_plus(a, delta)
    assert moved.shape == (4, 5, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(so3_box_plus(a, delta), moved)
        assert so3_box_minus(moved, a).dtype == torch.float32


def test_box_derivatives(generator: torch.Generator) -> None:
    a = random_rotations(3, dtype=torch.float64, generator=generator).requires_grad_()
    delta = torch.tensor([[0.0, 0, 0], [1e-7, 0, 0], [0.5, -1, 0.3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(so3_box_plus, (a, delta))
    assert torch.autograd.gradgradcheck(so3_box_plus, (a, delta))
    assert torch.autograd.gradcheck(lambda a, d: so3_box_minus(so3_box_plus(a, d), a), (a, delta))


def test_compiles_whole() -> None:
    v = torch.randn(3, 3)
    compiled = torch.compile(lambda v: so3_left_jacobian(v, inverse=True), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(v), so3_left_jacobian(v, inverse=True))


@pytest.mark.parametrize("function", [hat, *JACOBIANS])
def test_wrong_vectors(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r": expected shape \(\.\.\., 3\), got \(2, 4\)$"):
        function(torch.zeros(2, 4))
    with pytest.raises(TypeError, match=r": expected a floating point tensor, got torch\.int64$"):
        function(torch.zeros(3, dtype=torch.int64))


def test_wrong_matrices() -> None:
    with pytest.raises(ValueError, match=r"^matrix: expected shape \(\.\.\., 3, 3\), got \(3,\)$"):
        vee(torch.zeros(3))
    with pytest.raises(ValueError, match=r"^other: expected shape \(\.\.\., 3, 3\), got \(3,\)$"):
        so3_box_minus(torch.eye(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"^rotation, other: expected one dtype, got"):
        so3_box_minus(torch.eye(3), torch.eye(3).double())
    with pytest.raises(ValueError, match=r"^rotation, delta: expected one device, got cpu, meta$"):
        so3_box_plus(torch.eye(3), torch.zeros(3, device="meta"))
    with pytest.raises(ValueError, match=r"^rotation, delta: expected leading shapes that broadcast, got"):
        so3_box_plus(torch.eye(3).expand(4, 3, 3), torch.zeros(5, 3))
