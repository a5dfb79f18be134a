from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from rotaware.geo.polar import svd_procrustes

SIZES = range(2, 9)


def nearest(special: bool) -> Callable[[Tensor], Tensor]:
    """The matrix alone, as a function of one tensor."""
    return lambda matrix: svd_procrustes(matrix, special=special)[0]


def orthogonality(matrix: Tensor) -> float:
    """Largest entry of |R^T R - I|."""
    wide = matrix.double()
    return float((wide.mT @ wide - torch.eye(matrix.shape[-1])).abs().max())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_values(values: list[float], seed: int = 0) -> Tensor:
    """A matrix with these singular values, the last one with the sign of the determinant."""
    n = len(values)
    left, right = svd_procrustes(random(2, n, n, seed=seed), special=True)[0]
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.mT


def ambiguous(n: int) -> Tensor:
    """Matrices whose nearest rotation or orthogonal matrix is not unique, (k, n, n)."""
    ones = [1.0] * (n - 1)
    rank_one = torch.zeros(n, n, dtype=torch.float64)
    rank_one[0, -1] = 1
    values = [[1.0] + [0.0] * (n - 1), [2.0] * (n - 1) + [-2.0], [*ones, 1e-17]]
    constant = [torch.zeros_like(rank_one), torch.ones_like(rank_one), -torch.eye(n, dtype=torch.float64), rank_one]
    reflection = torch.diag(torch.tensor([*ones, -1.0], dtype=torch.float64))
    return torch.stack([*constant, reflection, *[with_values(v) for v in values]])


@pytest.mark.parametrize("n", SIZES)
def test_matches_scipy_polar(n: int, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    matrix = random(*batch, 5, n, n).to(dtype)
    actual, values = svd_procrustes(matrix, special=False)
    expected = [scipy.linalg.polar(m)[0] for m in matrix.double().reshape(-1, n, n).numpy()]
    # Conditioned like 1 / (d_(n-1) + d_n), which the random matrices keep moderate.
    torch.testing.assert_close(actual.double(), torch.from_numpy(np.stack(expected)).reshape(matrix.shape), atol=1e-7
                               if dtype == torch.float32 else 1e-12, rtol=0)  # fmt: skip
    torch.testing.assert_close(values, torch.linalg.svdvals(matrix.double()).to(dtype))
    assert actual.dtype == values.dtype == dtype


@pytest.mark.parametrize("n", SIZES)
def test_is_the_rotation_nearest_to_the_matrix(n: int) -> None:
    matrix = random(20, n, n)
    rotation, values = svd_procrustes(matrix, special=True)
    assert (torch.linalg.det(rotation) - 1).abs().max() < 1e-13
    torch.testing.assert_close(values.prod(-1).sign(), torch.linalg.det(matrix).sign())
    # trace(R^T M) is the sum of the signed singular values, and R^T M symmetric: the largest value there is.
    symmetric = rotation.mT @ matrix
    torch.testing.assert_close(symmetric, symmetric.mT, atol=1e-13, rtol=0)
    torch.testing.assert_close(symmetric.diagonal(dim1=-2, dim2=-1).sum(-1), values.sum(-1))
    others = svd_procrustes(random(200, 1, n, n, seed=1), special=True)[0]
    assert ((others * matrix).sum((-2, -1)) < values.sum(-1) + 1e-12).all()


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("n", SIZES)
def test_rotations_stay(n: int, special: bool, dtype: torch.dtype, tolerance: float) -> None:
    rotation = svd_procrustes(random(20, n, n), special=True)[0].to(dtype)
    torch.testing.assert_close(nearest(special)(3 * rotation), rotation, atol=tolerance, rtol=0)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_degenerate_huge_and_tiny_matrices_give_optimal_answers(
    n: int, scale: float, special: bool, dtype: torch.dtype
) -> None:
    matrix = (scale * torch.cat([ambiguous(n), random(4, n, n)])).to(dtype).requires_grad_()
    answer, values = svd_procrustes(matrix, special=special)
    assert orthogonality(answer.detach()) < (1e-14 if dtype == torch.float64 else 3e-7)
    if special:
        assert (torch.linalg.det(answer.detach().double()) - 1).abs().max() < 1e-6
    reached = (answer.detach().double() * matrix.detach().double() / scale).sum((-2, -1))
    torch.testing.assert_close(reached, values.double().sum(-1) / scale, atol=4e-6 if dtype == torch.float32 else 1e-13,
                               rtol=0)  # fmt: skip
    (grad,) = torch.autograd.grad((answer * torch.randn_like(answer)).sum(), matrix, create_graph=True)
    assert grad.isfinite().all()
    if scale == 1.0:
        (second,) = torch.autograd.grad((grad * torch.randn_like(grad)).sum(), matrix)
        assert second.isfinite().all()


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("n", [2, 4])
def test_zero_gives_the_identity_without_gradient(n: int, special: bool) -> None:
    matrix = torch.zeros(n, n, requires_grad=True)
    answer, values = svd_procrustes(matrix, special=special)
    answer[0, 1].backward()
    assert answer.equal(torch.eye(n)) and values.equal(torch.zeros(n))
    assert matrix.grad is not None and matrix.grad.equal(torch.zeros(n, n))


def test_bad_numbers_spoil_only_their_own_element() -> None:
    for n in (2, 3, 5):
        matrix = random(4, n, n)
        matrix[1, 0, 1], matrix[2, 1, 1] = torch.nan, torch.inf
        answer, values = svd_procrustes(matrix, special=True)
        spoilt = torch.tensor([False, True, True, False])
        assert answer.isnan().all(-1).all(-1).equal(spoilt) and values.isnan().all(-1).equal(spoilt)
        torch.testing.assert_close(answer[~spoilt], nearest(True)(matrix[~spoilt]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("n", range(2, 7))
def test_first_and_second_derivatives(n: int, special: bool) -> None:
    # The second has equal singular values, where the derivative of an SVD is infinite.
    matrix = torch.stack([random(n, n, seed=n), 2 * svd_procrustes(random(n, n), special=True)[0]]).requires_grad_()
    assert gradcheck(nearest(special), matrix, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(nearest(special), matrix, fast_mode=n > 4, check_fwd_over_rev=True)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_gradient_is_that_of_the_closed_formula(n: int) -> None:
    matrix = with_values([3.0, *[1.0] * (n - 2), -0.999], seed=3).requires_grad_()
    rotation, _ = svd_procrustes(matrix, special=True)
    weights = random(n, n, seed=4)
    (actual,) = torch.autograd.grad((rotation * weights).sum(), matrix)
    u, d, vt = torch.linalg.svd(matrix.detach())
    sign = torch.linalg.det(u @ vt).sign()
    u[:, -1] *= sign
    d[-1] *= sign
    a = u.mT @ weights @ vt.mT
    total = d[:, None] + d[None, :]
    z = torch.where(torch.eye(n, dtype=torch.bool), 0, (a - a.mT) / total)
    torch.testing.assert_close(actual, u @ z @ vt, rtol=0, atol=1e-10 * float(z.norm()))


def test_gradient_eps_bounds_the_gradient() -> None:
    for n in (2, 3, 5):
        matrix = with_values([1.0] * (n - 1) + [-1 + 1e-9]).requires_grad_()
        size = []
        for eps in (None, 1e-5):
            rotation, _ = svd_procrustes(matrix, special=True, gradient_eps=eps)
            (grad,) = torch.autograd.grad((rotation * random(n, n, seed=5)).sum(), matrix)
            size.append(float(grad.norm()))
        assert size[0] > 1e7 and size[1] < 1e5


@pytest.mark.parametrize("n", [2, 5])
def test_vmap_and_compile(n: int) -> None:
    matrix = random(3, n, n)
    torch.testing.assert_close(torch.vmap(nearest(True))(matrix), nearest(True)(matrix), rtol=0, atol=1e-14)
    compiled = torch.compile(partial(svd_procrustes, special=True), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(matrix), svd_procrustes(matrix, special=True), rtol=0, atol=1e-14)


def test_empty_batch_and_half_precision() -> None:
    assert nearest(True)(torch.zeros(0, 4, 4)).shape == (0, 4, 4)
    matrix = random(10, 4, 4).half()
    torch.testing.assert_close(nearest(True)(matrix), nearest(True)(matrix.double()).half())


@settings(max_examples=50)
@given(n=st.integers(2, 8), seed=st.integers(0, 2**20), exponent=st.integers(-15, 15))
def test_turning_the_matrix_turns_the_answer(n: int, seed: int, exponent: int) -> None:
    left, right = svd_procrustes(random(2, n, n, seed=seed), special=True)[0]
    matrix = 10.0**exponent * with_values([float(n - i) for i in range(n)], seed=seed + 1)
    torch.testing.assert_close(nearest(True)(left @ matrix @ right), left @ nearest(True)(matrix) @ right,
                               atol=1e-13, rtol=0)  # fmt: skip


def test_errors() -> None:
    for shape in ((3,), (2, 3), (1, 1), (0, 0)):
        with pytest.raises(ValueError, match=r"matrix: expected shape \(..., n, n\) with n of at least 2, got"):
            svd_procrustes(torch.zeros(shape), special=True)
    with pytest.raises(TypeError, match="matrix: expected a floating point tensor"):
        svd_procrustes(torch.eye(3, dtype=torch.long), special=True)
