from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rotaware.geo import (
    is_rotation,
    matrix_to_rotation_5d,
    matrix_to_rotation_6d,
    matrix_to_rotation_9d,
    matrix_to_rotation_10d,
    quaternion_to_matrix,
    random_rotations,
    rotation_5d_to_matrix,
    rotation_6d_to_matrix,
    rotation_9d_to_matrix,
    rotation_10d_to_matrix,
    rotation_10d_to_quaternion,
    sample_rotations,
    special_procrustes,
)
from rotaware.geo.continuous import symmetric_from_10d
from rotaware.geo.testing import RotationKind

F64 = torch.float64


def two_vector(vectors: Tensor, layout: str = "columns") -> Tensor:
    return rotation_6d_to_matrix(vectors, layout, "two_vector")  # type: ignore[arg-type, return-value]


DECODERS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], int]] = {
    "6d": (rotation_6d_to_matrix, matrix_to_rotation_6d, 6),  # type: ignore[dict-item]
    "two_vector": (two_vector, matrix_to_rotation_6d, 6),
    "5d": (rotation_5d_to_matrix, matrix_to_rotation_5d, 5),
    "9d": (rotation_9d_to_matrix, matrix_to_rotation_9d, 9),
    "10d": (rotation_10d_to_matrix, matrix_to_rotation_10d, 10),  # type: ignore[dict-item]
}


@pytest.fixture(params=DECODERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def degenerate(dim: int, dtype: torch.dtype) -> Tensor:
    """Zero, parallel, nearly parallel, huge and tiny inputs."""
    rows = [torch.zeros(dim), torch.ones(dim), torch.cat([torch.ones(3), -torch.ones(dim - 3)])]
    rows += [torch.cat([torch.zeros(3), torch.ones(dim - 3)]), torch.cat([torch.ones(3), torch.zeros(dim - 3)])]
    rows += [torch.full((dim,), size) for size in (1e30, 3e38, 1e-30, 1e-38, 1e-45)]
    for bend in (0.0, 1e-3, 1e-6, 1e-7, 1e-10):
        rows += [torch.tensor([1.0, 0, 0, sign, bend, 0, 0, 0, 0, 0])[:dim] for sign in (1, -1)]
    generator = torch.Generator().manual_seed(3)
    rows += [scale * torch.randn(dim, generator=generator) for scale in (1e-30, 1e-6, 1e6, 1e30)]
    return torch.stack(rows).to(dtype)


@pytest.mark.parametrize("layout", ["columns", "rows", "interleaved"])
def test_six_numbers_in_every_layout(layout: str, dtype: torch.dtype, tolerance: float) -> None:
    matrix = random_rotations(100, dtype=dtype, generator=torch.Generator().manual_seed(0))
    first, second = (matrix[:, 0], matrix[:, 1]) if layout == "rows" else (matrix[:, :, 0], matrix[:, :, 1])
    expected = torch.stack([first, second], -1 if layout == "interleaved" else -2).flatten(-2)
    vectors = matrix_to_rotation_6d(matrix, layout)  # type: ignore[arg-type]
    assert torch.equal(vectors, expected)
    for decode in (rotation_6d_to_matrix, two_vector):
        torch.testing.assert_close(decode(3.7 * vectors, layout), matrix, atol=tolerance, rtol=0)  # type: ignore[arg-type]


def test_round_trip(
    name: str, kind: RotationKind, batch: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    decode, encode, dim = DECODERS[name]
    matrix = sample_rotations(kind, (*batch, 200), generator=torch.Generator().manual_seed(0)).to(dtype)
    vector = encode(matrix)
    assert vector.shape == (*batch, 200, dim)
    assert vector.dtype == dtype
    torch.testing.assert_close(decode(vector), matrix, atol=tolerance, rtol=0)


def test_encoding_is_continuous(name: str) -> None:
    # Full turns about several axes, through pi and back to the start, in steps of a thousandth.
    _, encode, _ = DECODERS[name]
    from rotaware.geo import axis_angle_to_matrix

    angle = torch.linspace(0, 2 * torch.pi, 6284, dtype=F64)
    axes = torch.nn.functional.normalize(
        torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    path = encode(axis_angle_to_matrix(angle[:, None] * axes[:, None]))
    assert (path[:, 1:] - path[:, :-1]).norm(dim=-1).max() < 4e-3
    torch.testing.assert_close(path[:, -1], path[:, 0], atol=1e-12, rtol=0)


def test_random_vectors_give_rotations(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    decode, _, dim = DECODERS[name]
    matrix = decode(torch.randn(100000, dim, generator=generator, dtype=dtype)).double()
    assert is_rotation(matrix, tolerance=16 * torch.finfo(dtype).eps).all()


@pytest.mark.parametrize("path", ["compiled", "expression"])
def test_degenerate_vectors_give_rotations_and_finite_gradients(name: str, path: str, dtype: torch.dtype) -> None:
    decode, _, dim = DECODERS[name]
    function = torch.vmap(decode) if path == "expression" else decode
    x = degenerate(dim, dtype).requires_grad_()
    matrix = function(x)
    assert is_rotation(matrix.double(), tolerance=8e-7 if dtype == torch.float32 else 4e-15).all()
    weight = torch.arange(9.0, dtype=dtype).reshape(3, 3)
    gradient = torch.autograd.grad((matrix * weight).sum(), x, create_graph=True)[0]
    assert gradient.isfinite().all()
    if gradient.requires_grad:
        assert torch.autograd.grad(gradient.square().sum(), x)[0].isfinite().all()


def test_zero_has_no_gradient(name: str) -> None:
    decode, _, dim = DECODERS[name]
    weight = torch.arange(9.0).reshape(3, 3)
    for function in (decode, torch.vmap(decode)):
        x = torch.zeros(1, dim, requires_grad=True)
        # In five dimensions a folded entry of -5e11 stands beside the first two components.
        assert torch.autograd.grad((function(x) * weight).sum(), x)[0].abs().max() < 1e-9


def test_valid_says_where_six_numbers_were_degenerate() -> None:
    x = torch.tensor([[1.0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0], [1, 2, 3, -2, -4, -6], [1, 0, 0, 1, 1e-3, 0]])
    for method in ("gram_schmidt", "two_vector"):
        matrix, valid = rotation_6d_to_matrix(x, method=method, return_valid=True)  # type: ignore[arg-type]
        assert valid.tolist() == [True, False, False, True]
        assert is_rotation(matrix).all()


def test_derivatives(name: str, generator: torch.Generator) -> None:
    decode, encode, dim = DECODERS[name]
    x = torch.randn(4, dim, generator=generator, dtype=F64)
    x = torch.cat([x, encode(torch.eye(3, dtype=F64))[None]]).requires_grad_()
    for function in (decode, torch.vmap(decode)):
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)
    matrix = random_rotations(4, dtype=F64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(encode, matrix)
    assert torch.autograd.gradgradcheck(encode, matrix)


def test_compiled_path_is_the_expression(name: str, generator: torch.Generator) -> None:
    decode, _, dim = DECODERS[name]
    x = torch.randn(1000, dim, generator=generator, dtype=F64, requires_grad=True)
    weight = torch.randn(3, 3, generator=generator, dtype=F64)
    values, gradients = [], []
    for function in (decode, torch.vmap(decode)):
        values.append(function(x))
        gradients.append(torch.autograd.grad((values[-1] * weight).sum(), x)[0])
    torch.testing.assert_close(values[0], values[1], atol=1e-11, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("name_", "constant"), [("6d", 6.0), ("two_vector", 5.0), ("9d", 3.0)])
def test_noise_passes_as_the_literature_says(name_: str, constant: float, generator: torch.Generator) -> None:
    # E |f(g(R) + sigma N) - R|^2 / sigma^2, to first order.
    decode, encode, dim = DECODERS[name_]
    truth = random_rotations(200000, dtype=F64, generator=generator)
    noise = torch.randn(200000, dim, generator=generator, dtype=F64)
    error = decode(encode(truth) + 0.01 * noise) - truth
    assert abs(error.square().sum((-2, -1)).mean() / 0.01**2 - constant) < 0.05


def test_two_vectors_are_procrustes_of_their_directions(generator: torch.Generator) -> None:
    x = torch.randn(200, 6, generator=generator, dtype=F64)
    directions = torch.nn.functional.normalize(x.unflatten(-1, (2, 3)), dim=-1).mT
    padded = torch.cat([directions, torch.zeros(200, 3, 1, dtype=F64)], -1)
    torch.testing.assert_close(two_vector(x), special_procrustes(padded), atol=1e-12, rtol=0)


def test_five_numbers_span_minus_one_to_one(generator: torch.Generator) -> None:
    x = matrix_to_rotation_5d(random_rotations(200000, dtype=F64, generator=generator))
    assert x.abs().max() <= 1 + 1e-12
    assert (x.amax(0) > 0.98).all()
    assert (x.amin(0) < -0.98).all()


def test_five_numbers_are_the_stereographic_projection(generator: torch.Generator) -> None:
    matrix = random_rotations(100, dtype=F64, generator=generator)
    u = torch.cat([matrix[:, 2:, 0], matrix[:, :, 1]], -1)
    u = u / u.norm(dim=-1, keepdim=True)
    projected = u[:, 1:] / (1 - u[:, :1])
    scale = torch.tensor([1 + math.sqrt(2), 1 + math.sqrt(2), math.sqrt(2)], dtype=F64)
    torch.testing.assert_close(matrix_to_rotation_5d(matrix)[:, 2:] * scale, projected, atol=1e-12, rtol=0)


def test_ten_numbers_are_the_smallest_eigenvector(generator: torch.Generator) -> None:
    x = torch.randn(200, 10, generator=generator, dtype=F64)
    belief = symmetric_from_10d(x)
    lower = torch.tril_indices(4, 4)
    order = [lower[:, k].tolist() for k in range(10)]
    for k, (row, column) in enumerate(sorted(order, key=lambda pair: (pair[1], pair[0]))):
        assert torch.equal(belief[:, row, column], x[:, k])
    values, vectors = torch.linalg.eigh(belief)
    torch.testing.assert_close(rotation_10d_to_matrix(x), quaternion_to_matrix(vectors[..., 0]), atol=1e-11, rtol=0)
    matrix, dispersion = rotation_10d_to_matrix(x, return_dispersion=True)
    torch.testing.assert_close(dispersion, 3 * values[:, 0] - values[:, 1:].sum(-1), atol=1e-11, rtol=0)
    torch.testing.assert_close(quaternion_to_matrix(rotation_10d_to_quaternion(x)), matrix, atol=1e-12, rtol=0)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6), st.floats(1e-3, 1e3))
def test_six_numbers_do_not_depend_on_lengths(values: list[float], scale: float) -> None:
    x = torch.tensor(values, dtype=F64)
    stretched = x * torch.tensor([scale] * 3 + [1 / scale] * 3, dtype=F64)
    for method in ("gram_schmidt", "two_vector"):
        matrix, valid = rotation_6d_to_matrix(x, method=method, return_valid=True)  # type: ignore[arg-type]
        other, also_valid = rotation_6d_to_matrix(stretched, method=method, return_valid=True)  # type: ignore[arg-type]
        assert is_rotation(matrix, tolerance=4e-15)
        if valid and also_valid:
            # The rounding of the stretched vectors, over the angle between them.
            a, b = (torch.nn.functional.normalize(v, dim=-1) for v in x.unflatten(-1, (2, 3)))
            assert (matrix - other).abs().max() < 1e-14 / torch.linalg.cross(a, b).norm()


def test_nan_gives_nan(name: str) -> None:
    decode, _, dim = DECODERS[name]
    for i in range(dim):
        x = torch.randn(2, dim, generator=torch.Generator().manual_seed(0))
        x[1, i] = torch.nan
        matrix = decode(x)
        assert matrix[0].isfinite().all()
        assert matrix[1].isnan().any()


def test_half_precision_is_rounded_once(name: str) -> None:
    decode, _, dim = DECODERS[name]
    for half in (torch.float16, torch.bfloat16):
        x = torch.randn(50, dim, generator=torch.Generator().manual_seed(0)).to(half)
        assert decode(x).dtype == half
        assert torch.equal(decode(x), decode(x.float()).to(half))


def test_bad_arguments(name: str) -> None:
    decode, encode, dim = DECODERS[name]
    with pytest.raises(ValueError, match=rf"expected shape \(..., {dim}\), got \(2, {dim + 1}\)"):
        decode(torch.zeros(2, dim + 1))
    with pytest.raises(TypeError, match=r"expected a floating point tensor, got torch.int64"):
        decode(torch.zeros(dim, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"matrix: expected shape \(..., 3, 3\), got \(2, 3\)"):
        encode(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"layout: expected one of 'columns', 'rows', 'interleaved', got 'cols'"):
        rotation_6d_to_matrix(torch.zeros(6), "cols")  # type: ignore[arg-type]
