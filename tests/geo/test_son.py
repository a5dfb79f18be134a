from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from rotaware.geo.polar import svd_procrustes
from rotaware.geo.son import (
    generalized_cross,
    gram_schmidt,
    is_orthogonal,
    matrix_to_o_n,
    matrix_to_similarity,
    matrix_to_so_n,
    o_n_to_matrix,
    similarity_to_matrix,
    so_n_to_matrix,
)

SIZES = range(2, 9)
FORMS = [False, True]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotations(n: int, *batch: int, seed: int = 0) -> Tensor:
    return svd_procrustes(random(*batch, n, n, seed=seed), special=True)[0]


def numbers(n: int, reduced: bool) -> int:
    return n * n - 2 * n + 2 if reduced else n * n - n


def deviation(matrix: Tensor) -> float:
    """Largest entry of |R^T R - I|."""
    wide = matrix.detach().double()
    return float((wide.mT @ wide - torch.eye(matrix.shape[-1])).abs().max())


def degenerate(n: int, k: int) -> Tensor:
    """Columns that do not span k dimensions, (m, n, k): zero, equal, opposite, and dependent on all others."""
    zero, one_zero, equal, opposite, dependent, axes = torch.zeros(6, n, k, dtype=torch.float64).unbind(0)
    one_zero[:, 1:] = random(n, k)[:, 1:]
    equal[:] = random(n, 1)
    opposite[:] = random(n, 1)
    opposite[:, -1] *= -3
    dependent[:] = random(n, k)
    dependent[:, -1] = dependent[:, :-1] @ torch.arange(1.0, k, dtype=torch.float64)
    axes[0] = 1
    return torch.stack([zero, one_zero, equal, opposite, dependent, axes])


@pytest.mark.parametrize("reduced", FORMS)
@pytest.mark.parametrize("n", SIZES)
def test_rotation_to_numbers_and_back(
    n: int, reduced: bool, batch: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    rotation = rotations(n, *batch, 10).to(dtype)
    x = matrix_to_so_n(rotation, reduced=reduced)
    assert x.shape == (*batch, 10, numbers(n, reduced)) and x.dtype == dtype
    torch.testing.assert_close(so_n_to_matrix(x, n, reduced=reduced), rotation, atol=tolerance, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 1e-7, torch.pi / 2, torch.pi - 1e-7, torch.pi])
@pytest.mark.parametrize("n", SIZES)
def test_special_angles(n: int, angle: float, dtype: torch.dtype, tolerance: float) -> None:
    turn = torch.eye(n, dtype=torch.float64)
    c, s = torch.tensor([angle], dtype=torch.float64).cos(), torch.tensor([angle], dtype=torch.float64).sin()
    turn[[0, 0, 1, 1], [0, 1, 0, 1]] = torch.cat([c, -s, s, c])
    basis = rotations(n, 3)
    # Also with the first column along the last axis, the end of the range of a stereographic projection.
    rotation = torch.cat([turn[None], basis @ turn @ basis.mT, turn.roll(-1, 0)[None], -turn.roll(-1, 0)[None]]).to(
        dtype
    )
    rotation = rotation[torch.linalg.det(rotation) > 0]
    for reduced in FORMS:
        x = matrix_to_so_n(rotation, reduced=reduced)
        torch.testing.assert_close(so_n_to_matrix(x, n, reduced=reduced), rotation, atol=tolerance, rtol=0)


@pytest.mark.parametrize("reduced", FORMS)
@pytest.mark.parametrize("n", SIZES)
def test_any_numbers_give_a_rotation(n: int, reduced: bool, dtype: torch.dtype) -> None:
    x = random(1000, numbers(n, reduced)).to(dtype)
    limit = 2e-15 if dtype == torch.float64 else 8e-7
    for scale in (1.0, 1e30, 1e-30, 0.0):
        rotation = so_n_to_matrix(scale * x, n, reduced=reduced)
        assert deviation(rotation) < limit
        assert (torch.linalg.det(rotation.double()) - 1).abs().max() < limit
    if not reduced:
        lengths = torch.logspace(-16, 16, n - 1, dtype=dtype).repeat_interleave(n)
        actual = so_n_to_matrix(lengths * x, n)
        torch.testing.assert_close(actual, so_n_to_matrix(x, n), atol=2e-4 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize("reduced", FORMS)
@pytest.mark.parametrize("n", SIZES)
def test_columns_that_do_not_span_get_a_rotation_and_finite_gradients(
    n: int, reduced: bool, dtype: torch.dtype
) -> None:
    columns = degenerate(n, n - 1) if n > 2 else torch.zeros(1, 2, 1, dtype=torch.float64)
    x = columns.mT.flatten(-2).to(dtype)
    if reduced:
        x = torch.cat([x[:, :2], x[:, n:]], -1)
    for scale in (1.0, 1e30, 1e-18):
        scaled = (scale * x).requires_grad_()
        rotation = so_n_to_matrix(scaled, n, reduced=reduced)
        assert deviation(rotation) < (2e-15 if dtype == torch.float64 else 8e-7)
        (grad,) = torch.autograd.grad((rotation * torch.randn_like(rotation)).sum(), scaled, create_graph=True)
        assert grad.isfinite().all()
        (second,) = torch.autograd.grad((grad * torch.randn_like(grad)).sum(), scaled)
        assert second.isfinite().all()


def test_degenerate_columns_are_replaced_by_the_axis_least_represented() -> None:
    vectors = torch.tensor([[3.0, 6.0, 0.0], [4.0, 8.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    basis = gram_schmidt(vectors)
    torch.testing.assert_close(basis, torch.tensor([[0.6, 0.0, 0.8], [0.8, 0.0, -0.6], [0.0, 1.0, 0.0]]))
    basis[0].sum().backward()
    assert vectors.grad is not None and vectors.grad[:, 1:].equal(torch.zeros(3, 2))
    assert vectors.grad[:, 0].abs().max() > 0.1


@pytest.mark.parametrize("n", SIZES)
def test_gram_schmidt_is_the_q_of_qr(n: int) -> None:
    for k in range(1, n + 1):
        vectors = random(20, n, k, seed=k)
        q, r = torch.linalg.qr(vectors)
        q = q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
        torch.testing.assert_close(gram_schmidt(vectors), q, atol=1e-11, rtol=0)
        # Nearly dependent columns, where projecting once leaves them far from orthogonal.
        near = vectors[..., :1] + 1e-6 * vectors
        assert deviation(gram_schmidt(near.float())) < 8e-7 if k > 1 else True


@pytest.mark.parametrize("n", SIZES)
def test_generalized_cross_completes_the_determinant(n: int, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    vectors, other = random(*batch, n, n - 1), random(*batch, n, 1, seed=1)
    cross = generalized_cross(vectors.to(dtype))
    assert cross.dtype == dtype
    expected = torch.linalg.det(torch.cat([vectors, other], -1))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close((cross.double() * other[..., 0]).sum(-1), expected, atol=tolerance, rtol=tolerance)
    rotation = rotations(n, *batch)
    torch.testing.assert_close(generalized_cross(rotation[..., :-1]), rotation[..., -1], atol=1e-14, rtol=0)
    if n == 3:
        torch.testing.assert_close(generalized_cross(vectors), torch.linalg.cross(*vectors.unbind(-1)))
    if n == 2:
        x, y = vectors[..., 0].unbind(-1)
        torch.testing.assert_close(generalized_cross(vectors), torch.stack([-y, x], -1))


def test_space_is_the_6d_and_the_5d_representation() -> None:
    x = random(100, 6)
    b1 = torch.nn.functional.normalize(x[:, :3], dim=-1)
    b2 = x[:, 3:] - (b1 * x[:, 3:]).sum(-1, keepdim=True) * b1
    b2 = torch.nn.functional.normalize(b2, dim=-1)
    b3 = torch.linalg.cross(b1, b2)
    torch.testing.assert_close(so_n_to_matrix(x, 3), torch.stack([b1, b2, b3], -1), atol=1e-13, rtol=0)
    # The paper's formulas, section 2.3 of its supplement: u = (R31, r2), projected from (1, 0, 0, 0).
    rotation = rotations(3, 100)
    u = torch.cat([rotation[:, 2, :1], rotation[:, :, 1]], -1)
    u = u / u.norm(dim=-1, keepdim=True)
    expected = torch.cat([rotation[:, :2, 0], u[:, 1:] / (1 - u[:, :1])], -1)
    torch.testing.assert_close(matrix_to_so_n(rotation, reduced=True), expected, atol=1e-14, rtol=0)
    # With the constant factors of 5D, which this form leaves out, all five numbers would span [-1, 1].
    assert expected[:, 2:4].abs().max() < 2**0.5 + 1 and expected[:, 4].abs().max() < 2**0.5


@pytest.mark.parametrize("n", range(2, 6))
def test_encodings_are_continuous_at_half_turns(n: int) -> None:
    rotation = rotations(n, 10)
    half_turn = torch.eye(n, dtype=torch.float64)
    half_turn[0, 0] = half_turn[1, 1] = -1
    half_turn = rotation @ half_turn @ rotation.mT
    step = 1e-6 * random(n, n)
    beyond, before = (svd_procrustes(half_turn @ (torch.eye(n) + s), special=True)[0] for s in (step, -step))
    for reduced in FORMS:
        jump = matrix_to_so_n(beyond, reduced=reduced) - matrix_to_so_n(before, reduced=reduced)
        assert jump.abs().max() < 1e-4


@pytest.mark.parametrize("reduced", FORMS)
@pytest.mark.parametrize("n", SIZES)
def test_orthogonal_matrices(n: int, reduced: bool, dtype: torch.dtype, tolerance: float) -> None:
    matrix = svd_procrustes(random(50, n, n), special=False)[0].to(dtype)
    x = matrix_to_o_n(matrix, reduced=reduced)
    assert x.shape == (50, numbers(n, reduced) + 1)
    torch.testing.assert_close(x[:, -1], torch.linalg.det(matrix.double()).to(dtype))
    assert 0 < int((x[:, -1] < 0).sum()) < 50
    torch.testing.assert_close(o_n_to_matrix(x, n, reduced=reduced), matrix, atol=tolerance, rtol=0)
    # Only the sign of the last number matters, and 0 has one.
    halved = torch.cat([x[:, :-1], x[:, -1:] / 2], -1)
    assert o_n_to_matrix(halved, n, reduced=reduced).equal(o_n_to_matrix(x, n, reduced=reduced))
    halved[:, -1] = 0
    assert o_n_to_matrix(halved, n, reduced=reduced).equal(so_n_to_matrix(x[:, :-1], n, reduced=reduced))


@pytest.mark.parametrize("n", SIZES)
def test_similarities(n: int, dtype: torch.dtype, tolerance: float) -> None:
    scale = 10 ** random(50).clamp(-2, 2)
    matrix = (scale[:, None, None] * rotations(n, 50)).to(dtype)
    x = matrix_to_similarity(matrix)
    assert x.shape == (50, n * n - n)
    error = (similarity_to_matrix(x, n) - matrix).abs().amax((-2, -1)) / scale
    assert error.max() < tolerance
    zero = torch.zeros(n * n - n, dtype=dtype, requires_grad=True)
    result = similarity_to_matrix(zero, n)
    result.sum().backward()
    assert result.equal(torch.zeros(n, n, dtype=dtype)) and zero.grad is not None and zero.grad.isfinite().all()


def test_is_orthogonal(dtype: torch.dtype) -> None:
    for n in SIZES:
        matrix = svd_procrustes(random(50, n, n), special=False)[0].to(dtype)
        assert is_orthogonal(matrix).all()
        assert not is_orthogonal(matrix * (1 + 1e-5)).any()
        assert is_orthogonal(matrix * (1 + 1e-5), tolerance=1e-4).all()
    matrix[0, 0, 0] = torch.nan
    assert is_orthogonal(matrix).tolist() == [False] + [True] * 49


def maps(n: int) -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Every differentiable map with two arguments for it."""
    rotation = rotations(n, 2, seed=3)
    listed: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "gram_schmidt": (gram_schmidt, random(2, n, n)),
        "generalized_cross": (generalized_cross, torch.stack([random(n, n - 1), torch.zeros(n, n - 1)])),
        "similarity_to_matrix": (partial(similarity_to_matrix, n=n), random(2, n * n - n)),
        "matrix_to_similarity": (matrix_to_similarity, rotation),
    }
    for reduced in FORMS:
        x = random(2, numbers(n, reduced), seed=1)
        x[1] = matrix_to_so_n(torch.eye(n, dtype=torch.float64), reduced=reduced)
        sign = torch.tensor([[1.0], [-2.0]])
        listed[f"so_n_to_matrix {reduced}"] = partial(so_n_to_matrix, n=n, reduced=reduced), x
        listed[f"matrix_to_so_n {reduced}"] = partial(matrix_to_so_n, reduced=reduced), rotation
        listed[f"o_n_to_matrix {reduced}"] = partial(o_n_to_matrix, n=n, reduced=reduced), torch.cat([x, sign], -1)
        listed[f"matrix_to_o_n {reduced}"] = partial(matrix_to_o_n, reduced=reduced), rotation
    return listed


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("name", maps(2))
def test_derivatives_and_vmap(name: str, n: int) -> None:
    function, x = maps(n)[name]
    torch.testing.assert_close(torch.vmap(function)(x), function(x), atol=1e-14, rtol=0)
    x.requires_grad_()
    assert gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    if x.requires_grad and function(x).grad_fn is not None:
        assert gradgradcheck(function, x)


@pytest.mark.parametrize("reduced", FORMS)
def test_compiles_whole(reduced: bool) -> None:
    x = random(2, numbers(4, reduced) + 1)
    function = partial(o_n_to_matrix, n=4, reduced=reduced)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), function(x), atol=1e-14, rtol=0)


def test_half_precision_is_rounded_once() -> None:
    for kind in (torch.float16, torch.bfloat16):
        x = random(100, 12).to(kind)
        expected = so_n_to_matrix(x.float(), 4).to(kind)
        assert so_n_to_matrix(x, 4).equal(expected)


def test_bad_numbers_spoil_only_their_own_element() -> None:
    for reduced in FORMS:
        x = random(4, numbers(4, reduced) + 1)
        x[1, 3], x[2, -1], x[3, 0] = torch.inf, torch.nan, torch.nan
        spoilt = o_n_to_matrix(x, 4, reduced=reduced).isnan().flatten(1).any(-1)
        assert spoilt.tolist() == [False, True, True, True]


@settings(max_examples=50)
@given(n=st.integers(2, 8), seed=st.integers(0, 2**20), reduced=st.booleans())
def test_decoding_commutes_with_rotations_from_the_left(n: int, seed: int, reduced: bool) -> None:
    rotation, turn = rotations(n, 2, seed=seed)
    columns = rotation[:, :-1] + 0.1 * random(n, n - 1, seed=seed + 1)
    actual = so_n_to_matrix((turn @ columns).mT.flatten(), n)
    torch.testing.assert_close(actual, turn @ so_n_to_matrix(columns.mT.flatten(), n), atol=1e-12, rtol=0)
    x = matrix_to_so_n(turn @ rotation, reduced=reduced)
    torch.testing.assert_close(so_n_to_matrix(x, n, reduced=reduced), turn @ rotation, atol=1e-13, rtol=0)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 6\), got \(5,\)"):
        so_n_to_matrix(torch.zeros(5), 3)
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 11\), got \(2, 10\)"):
        o_n_to_matrix(torch.zeros(2, 10), 4, reduced=True)
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 6\), got \(\)"):
        similarity_to_matrix(torch.zeros(()), 3)
    decoders: list[Callable[[Tensor, int], Tensor]] = [so_n_to_matrix, o_n_to_matrix, similarity_to_matrix]
    for decode in decoders:
        for n in (1, 0, -1):
            with pytest.raises(ValueError, match=f"n: expected at least 2, got {n}"):
                decode(torch.zeros(2), n)
        with pytest.raises(TypeError, match="x: expected a floating point tensor"):
            decode(torch.zeros(2, dtype=torch.long), 2)
    for encode in (matrix_to_so_n, matrix_to_o_n, matrix_to_similarity, is_orthogonal):
        for shape in ((3,), (2, 3), (1, 1)):
            with pytest.raises(ValueError, match="matrix: expected shape"):
                encode(torch.zeros(shape))
        with pytest.raises(TypeError, match="matrix: expected a floating point tensor"):
            encode(torch.eye(2, dtype=torch.long))
    for shape in ((3, 4), (1, 1), (3, 0), (3,)):
        with pytest.raises(ValueError, match="vectors: expected shape"):
            gram_schmidt(torch.zeros(shape))
    for shape in ((3, 3), (1, 0), (3,)):
        with pytest.raises(ValueError, match=r"vectors: expected shape \(..., n, n - 1\) with n >= 2, got"):
            generalized_cross(torch.zeros(shape))
