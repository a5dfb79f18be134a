from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rotaware.geo import is_rotation, matrix_to_quaternion, procrustes, random_rotations, special_procrustes
from rotaware.geo.procrustes import procrustes_conditioning, special_procrustes_quaternion

F64 = torch.float64

# Signed singular values: regular, and ever closer to where the nearest rotation is not unique.
REGULAR = [(1, 1, 1), (1, 1, 0), (3, 2, -1), (1, 1e-4, 1e-8), (1, 0.5, -0.4999), (1, 1, -0.999), (1, 0.9999, -0.9998)]
NEARLY_AMBIGUOUS = [(1, 1e-9, 0), (1, 0.5, -0.5 + 1e-9), (1, 1, -1 + 1e-6), (1, 1 - 1e-7, -1 + 3e-7)]
AMBIGUOUS = [(1, 0, 0), (1, 1, -1), (1, 0.5, -0.5), (0, 0, 0)]


def matrices(values: tuple[float, ...], generator: torch.Generator, count: int = 200) -> Tensor:
    """Random matrices with the given signed singular values, (count, 3, 3), float64."""
    left, right = random_rotations((2, count), dtype=F64, generator=generator)
    return left @ torch.diag(torch.tensor(values, dtype=F64)) @ right.mT


def by_svd(matrix: Tensor) -> Tensor:
    u, _, vt = torch.linalg.svd(matrix.double())
    sign = torch.where(torch.linalg.det(u @ vt) < 0, -1.0, 1.0).to(F64)
    return u @ torch.diag_embed(torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)) @ vt


def objective(rotation: Tensor, matrix: Tensor) -> Tensor:
    return (rotation.double() * matrix.double()).sum((-2, -1))


def test_matches_svd_to_rounding(dtype: torch.dtype, generator: torch.Generator) -> None:
    matrix = torch.randn(20000, 3, 3, generator=generator, dtype=F64).to(dtype)
    bound = 1e-7 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(special_procrustes(matrix).double(), by_svd(matrix), atol=bound, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e20, 1e-20])
@pytest.mark.parametrize("values", [*REGULAR, *NEARLY_AMBIGUOUS, *AMBIGUOUS], ids=str)
def test_result_is_optimal_whatever_the_singular_values(
    values: tuple[float, ...], scale: float, dtype: torch.dtype, generator: torch.Generator
) -> None:
    matrix = matrices(values, generator).to(dtype) * scale
    matrix.requires_grad_()
    rotation = special_procrustes(matrix)
    best = objective(by_svd(matrix.detach() / scale), matrix.detach() / scale)
    eps = torch.finfo(dtype).eps
    assert is_rotation(rotation, tolerance=16 * eps).all()
    assert (objective(rotation, matrix.detach() / scale) >= best - 16 * eps * max(1, *map(abs, values))).all()
    weight = torch.randn(3, 3, generator=generator, dtype=F64).to(dtype)
    gradient = torch.autograd.grad((rotation * weight).sum(), matrix, create_graph=True)[0]
    assert gradient.isfinite().all()
    assert torch.autograd.grad(gradient.square().sum(), matrix)[0].isfinite().all()


@pytest.mark.parametrize("values", [*REGULAR, *NEARLY_AMBIGUOUS], ids=str)
def test_direction_is_as_good_as_the_gap_allows(values: tuple[float, ...], generator: torch.Generator) -> None:
    left, right = random_rotations((2, 500), dtype=F64, generator=generator)
    found = special_procrustes(left @ torch.diag(torch.tensor(values, dtype=F64)) @ right.mT)
    gap = values[1] + values[2]
    assert (found - left @ right.mT).abs().max() < 1e-13 / gap


def test_zero_is_the_identity(dtype: torch.dtype) -> None:
    matrix = torch.zeros(3, 3, dtype=dtype, requires_grad=True)
    rotation = special_procrustes(matrix)
    assert torch.equal(rotation, torch.eye(3, dtype=dtype))
    assert torch.equal(torch.autograd.grad(rotation.sum(), matrix)[0], torch.zeros(3, 3, dtype=dtype))


def test_gradient_is_the_closed_form_of_the_literature(generator: torch.Generator) -> None:
    # U Z V^T with Z_kl = (A_kl - A_lk) / (d_k + d_l), A = U^T G V, from an SVD with the sign in U.
    matrix = torch.randn(500, 3, 3, generator=generator, dtype=F64, requires_grad=True)
    upstream = torch.randn(500, 3, 3, generator=generator, dtype=F64)
    (found,) = torch.autograd.grad(special_procrustes(matrix), matrix, upstream)
    u, d, vt = torch.linalg.svd(matrix.detach())
    sign = torch.linalg.det(u @ vt).sign()
    u[..., -1] *= sign[..., None]
    d[..., -1] *= sign
    a = u.mT @ upstream @ vt.mT
    pairs = d[..., :, None] + d[..., None, :]
    z = (a - a.mT) / torch.where(torch.eye(3, dtype=torch.bool), 1, pairs)
    expected = u @ z @ vt
    error = (found - expected).abs().amax((-2, -1)) / expected.abs().amax((-2, -1))
    assert error.max() < 1e-9


@pytest.mark.parametrize("n", [2, 3, 4])
def test_derivatives(n: int, generator: torch.Generator) -> None:
    matrix = torch.randn(4, n, n, generator=generator, dtype=F64)
    matrix = torch.cat([matrix, torch.eye(n, dtype=F64)[None]]).requires_grad_()
    for function in (special_procrustes, procrustes):
        assert torch.autograd.gradcheck(function, matrix)
        assert torch.autograd.gradgradcheck(function, matrix)


def test_methods_agree(generator: torch.Generator) -> None:
    matrix = torch.randn(50, 3, 3, generator=generator, dtype=F64, requires_grad=True)
    weight = torch.randn(50, 3, 3, generator=generator, dtype=F64)
    results = [special_procrustes(matrix, method=method) for method in ("closed_form", "svd")]  # type: ignore[call-overload]
    torch.testing.assert_close(results[0], results[1], atol=1e-12, rtol=0)
    gradients = [torch.autograd.grad((result * weight).sum(), matrix)[0] for result in results]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-9, rtol=1e-9)


def test_is_equivariant_on_both_sides(dtype: torch.dtype, generator: torch.Generator) -> None:
    left, right = random_rotations((2, 100), dtype=F64, generator=generator)
    matrix = matrices((3, 2, -1), generator, 100)
    turned = special_procrustes((left @ matrix @ right).to(dtype)).double()
    torch.testing.assert_close(
        turned, left @ special_procrustes(matrix) @ right, atol=8 * torch.finfo(dtype).eps, rtol=0
    )


def test_reflections_are_found_where_allowed(dtype: torch.dtype, generator: torch.Generator) -> None:
    matrix = torch.randn(500, 3, 3, generator=generator, dtype=F64).to(dtype)
    u, _, vt = torch.linalg.svd(matrix.double())
    found = procrustes(matrix)
    torch.testing.assert_close(found.double(), u @ vt, atol=1e-7 if dtype == torch.float32 else 1e-11, rtol=0)
    assert (torch.linalg.det(found.double()) * torch.linalg.det(matrix.double()) > 0).all()
    assert torch.equal(procrustes(matrix, allow_reflection=False), special_procrustes(matrix))


def test_singular_values_and_conditioning(dtype: torch.dtype, generator: torch.Generator) -> None:
    for values in [*REGULAR, *AMBIGUOUS[:-1]]:
        matrix = matrices(values, generator, 20).to(dtype)
        _, found = special_procrustes(matrix, return_singular_values=True)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(found, torch.tensor(values, dtype=dtype).expand(20, 3), atol=16 * eps, rtol=0)
        expected = torch.full((20,), (values[1] + values[2]) / values[0], dtype=dtype)
        # A small one is good to rounding, unless it is a double root: for values near (1, 1, -1).
        bound = 16 * eps if values in [(1, 0, 0), (1, 0.5, -0.5), (1, 1e-4, 1e-8)] else 1e-6
        torch.testing.assert_close(procrustes_conditioning(matrix), expected, atol=bound, rtol=0)
    assert procrustes_conditioning(torch.zeros(3, 3)) == 0


def test_regularization_adds_the_gradient_of_the_penalty(generator: torch.Generator) -> None:
    matrix = torch.randn(10, 3, 3, generator=generator, dtype=F64, requires_grad=True)
    weight = torch.randn(10, 3, 3, generator=generator, dtype=F64)
    (found,) = torch.autograd.grad((special_procrustes(matrix, 0.3) * weight).sum(), matrix)
    rotation = special_procrustes(matrix)
    loss = (rotation * weight).sum() + 0.3 * (matrix - rotation).square().sum()
    torch.testing.assert_close(found, torch.autograd.grad(loss, matrix)[0], atol=1e-12, rtol=1e-9)


def test_gradient_eps_bounds_the_gradient(generator: torch.Generator) -> None:
    matrix = matrices((1, 1e-6, 0), generator).requires_grad_()
    weight = torch.randn(200, 3, 3, generator=generator, dtype=F64)
    sizes = [
        torch.autograd.grad((special_procrustes(matrix, gradient_eps=eps) * weight).sum(), matrix)[0].abs().max()
        for eps in (None, 1e-2)
    ]
    assert sizes[0] > 1e5
    assert sizes[1] < 1e3


def test_noise_passes_as_the_literature_says(generator: torch.Generator) -> None:
    # E |f(R + sigma N) - R|^2 = 3 sigma^2 to first order (Levinson et al. 2020).
    truth = random_rotations(100000, dtype=F64, generator=generator)
    noise = torch.randn(100000, 3, 3, generator=generator, dtype=F64)
    error = special_procrustes(truth + 0.01 * noise) - truth
    assert abs(error.square().sum((-2, -1)).mean() / 0.01**2 - 3) < 0.05


def test_quaternion_is_that_of_the_rotation(generator: torch.Generator) -> None:
    matrix = torch.randn(20, 3, 3, generator=generator)
    for order in ("wxyz", "xyzw"):
        expected = matrix_to_quaternion(special_procrustes(matrix), order)  # type: ignore[arg-type]
        assert torch.equal(special_procrustes_quaternion(matrix, order), expected)  # type: ignore[arg-type]


def test_nan_stays_in_its_own_row() -> None:
    matrix = torch.eye(3).repeat(3, 1, 1)
    matrix[1, 0, 2] = torch.nan
    matrix[2, 1, 1] = torch.inf
    found = special_procrustes(matrix)
    assert torch.equal(found[0], torch.eye(3))
    assert found[1:].isnan().all()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"matrix: expected shape .*got \(2, 3\)"):
        special_procrustes(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"n of at least 2, got \(1, 1\)"):
        special_procrustes(torch.zeros(1, 1))
    with pytest.raises(TypeError, match=r"matrix: expected a floating point tensor, got torch.int64"):
        special_procrustes(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"method: expected one of .* got 'qr'"):
        special_procrustes(torch.eye(3), method="qr")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="4x4"):
        special_procrustes(torch.eye(4), method="closed_form")


def test_an_open_direction_leaves_the_gradient_of_the_others_alone(generator: torch.Generator) -> None:
    # A matrix of rank one says where one axis goes, and leaves the turn about it open.
    turned = random_rotations(dtype=F64, generator=generator)
    matrix = (turned @ torch.diag(torch.tensor([1.0, 0, 0], dtype=F64))).requires_grad_()
    axis = torch.randn(3, dtype=F64, generator=generator)
    rotation = special_procrustes(matrix)
    torch.testing.assert_close(rotation[:, 0], turned[:, 0], atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(rotation[:, 0] @ axis, matrix)
    # Of the turn that moves the first column, 1 / (s1 + 0) times the antisymmetric part of R^T dM.
    r1, r2, r3 = rotation.detach().unbind(-1)
    expected = torch.stack([axis - r1 * (r1 @ axis), -r1 * (r2 @ axis), -r1 * (r3 @ axis)], -1)
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=0)
