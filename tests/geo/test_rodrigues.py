from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from rotaware.geo.quaternion import quaternion_normalize, quaternion_wxyz_to_xyzw
from rotaware.geo.rodrigues import (
    axis_angle4_to_matrix,
    gibbs_to_matrix,
    gibbs_to_quaternion,
    matrix_to_axis_angle4,
    matrix_to_gibbs,
    matrix_to_mrp,
    mrp_to_matrix,
    mrp_to_quaternion,
    quaternion_to_gibbs,
    quaternion_to_mrp,
)
from rotaware.geo.so3 import axis_angle_to_matrix, is_rotation, matrix_to_quaternion, quaternion_to_matrix
from rotaware.geo.testing import RotationKind, sample_rotations

DECODERS = [mrp_to_quaternion, mrp_to_matrix, gibbs_to_quaternion, gibbs_to_matrix, axis_angle4_to_matrix]
ENCODERS = [quaternion_to_mrp, matrix_to_mrp, quaternion_to_gibbs, matrix_to_gibbs, matrix_to_axis_angle4]
FUSED = [f for f in DECODERS + ENCODERS if "axis_angle4" not in f.__name__]
SHAPES = {"mrp": (3,), "gibbs": (3,), "axis": (4,), "quaternion": (4,), "matrix": (3, 3)}
# Encoder and decoder of each representation.
PAIRS = [
    (quaternion_to_mrp, mrp_to_quaternion),
    (matrix_to_mrp, mrp_to_matrix),
    (quaternion_to_gibbs, gibbs_to_quaternion),
    (matrix_to_gibbs, gibbs_to_matrix),
    (matrix_to_axis_angle4, axis_angle4_to_matrix),
]

close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)


def source(function: Callable[..., Tensor]) -> str:
    return function.__name__.split("_")[0]


def arguments(function: Callable[..., Tensor], *size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """What `function` takes, at random: vectors and quaternions of any length."""
    generator = torch.Generator().manual_seed(5)
    if source(function) == "matrix":
        return sample_rotations("uniform", size, dtype=dtype, generator=generator)
    return torch.randn(*size, *SHAPES[source(function)], dtype=dtype, generator=generator)


def of_rotation(function: Callable[..., Tensor], matrix: Tensor) -> Tensor:
    """What `function` takes for a rotation; quaternions get a length other than 1."""
    return matrix if source(function) == "matrix" else -1.7 * matrix_to_quaternion(matrix)


def as_matrix(rotation: Tensor) -> Tensor:
    return rotation if rotation.shape[-2:] == (3, 3) else quaternion_to_matrix(rotation)


def half_turns() -> Tensor:
    """Exact half turns about the axes and the diagonals, (13, 3, 3)."""
    axes = torch.cartesian_prod(*[torch.tensor([-1.0, 0, 1], dtype=torch.float64)] * 3)[14:]
    unit = torch.nn.functional.normalize(axes, dim=-1)
    return 2 * unit[:, :, None] * unit[:, None, :] - torch.eye(3, dtype=torch.float64)


def special_rotations() -> Tensor:
    """Half turns, the identity, and angles near both."""
    small = torch.tensor([0.0, 1e-300, 1e-30, 1e-20, 1e-16, 1e-12, 1e-8, 1e-7, 1e-3, 0.1, 1.5], dtype=torch.float64)
    angles = torch.cat([small, torch.pi - small])
    axes = torch.nn.functional.normalize(torch.tensor([[1.0, 2, 3], [-3, 1, 1]], dtype=torch.float64), dim=-1)
    return torch.cat([half_turns(), axis_angle_to_matrix(angles[:, None, None] * axes).flatten(0, 1)])


def test_mrp_matches_scipy(kind: RotationKind, batch: tuple[int, ...], generator: torch.Generator) -> None:
    matrix = sample_rotations(kind, (*batch, 50), generator=generator)
    expected = Rotation.from_matrix(matrix.reshape(-1, 3, 3).numpy(), assume_valid=True)
    # The sign at a half turn, and scipy's choice of the set there, hang on the last bit.
    mrp = torch.from_numpy(expected.as_mrp()).reshape(*batch, 50, 3)
    close(matrix_to_mrp(matrix), mrp)
    quat = matrix_to_quaternion(matrix)
    close(quaternion_to_mrp(-1.7 * quat), mrp)
    close(quaternion_to_mrp(quaternion_wxyz_to_xyzw(quat), "xyzw"), mrp)
    vector = 2 * torch.randn(*batch, 50, 3, dtype=torch.float64, generator=generator)
    expected = Rotation.from_mrp(vector.reshape(-1, 3).numpy())
    close(mrp_to_matrix(vector).reshape(-1, 3, 3), torch.from_numpy(expected.as_matrix()))
    quat = torch.from_numpy(expected.as_quat())
    sign = torch.where(vector.reshape(-1, 3).norm(dim=-1) > 1, -1, 1) * torch.where(quat[:, 3] < 0, -1, 1)
    close(mrp_to_quaternion(vector, "xyzw").reshape(-1, 4), sign[:, None] * quat)


@given(vector=st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_definitions(vector: list[float]) -> None:
    v = torch.tensor(vector, dtype=torch.float64)
    angle = v.norm()
    axis = v / angle if angle > 0 else v
    matrix = axis_angle_to_matrix(v)
    close(mrp_to_matrix((angle / 4).tan() * axis), matrix)
    if abs(angle - math.pi) > 1e-2:
        close(gibbs_to_matrix((angle / 2).tan() * axis), matrix, atol=1e-10)
        gibbs = matrix_to_gibbs(matrix)
        torch.testing.assert_close(gibbs, (angle / 2).tan() * axis, rtol=1e-9, atol=1e-12)
        # Cayley's transform.
        skew = torch.linalg.cross(gibbs.expand(3, 3), torch.eye(3, dtype=v.dtype)).T
        one = torch.eye(3, dtype=v.dtype)
        close(torch.linalg.solve(one - skew, one + skew), matrix, atol=1e-10)
    if angle < math.pi - 1e-6:
        close(axis_angle4_to_matrix(torch.cat([(angle / math.pi).atanh()[None], 5 * axis])), matrix)
        close(matrix_to_mrp(matrix), (angle / 4).tan() * axis)


@given(
    direction=st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(lambda v: max(map(abs, v)) > 1e-3),
    exponent=st.floats(-12, 12),
)
def test_shadow_set_is_the_same_rotation(direction: list[float], exponent: float) -> None:
    mrp = 10**exponent * torch.nn.functional.normalize(torch.tensor(direction, dtype=torch.float64), dim=0)
    shadow = -mrp / mrp.square().sum()
    close(mrp_to_matrix(shadow), mrp_to_matrix(mrp))
    close(mrp_to_quaternion(shadow), -mrp_to_quaternion(mrp))


@pytest.mark.parametrize(("encode", "decode"), PAIRS)
def test_round_trip(
    encode: Callable[..., Tensor],
    decode: Callable[..., Tensor],
    kind: RotationKind,
    batch: tuple[int, ...],
    dtype: torch.dtype,
    tolerance: float,
    generator: torch.Generator,
) -> None:
    matrix = sample_rotations(kind, (*batch, 20), dtype=dtype, generator=generator)
    vector = encode(of_rotation(encode, matrix))
    assert vector.dtype == dtype and vector.shape == (*batch, 20, *SHAPES[source(decode)])
    torch.testing.assert_close(as_matrix(decode(vector)), matrix, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("encode", "decode"), PAIRS)
def test_special_rotations(
    encode: Callable[..., Tensor], decode: Callable[..., Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    matrix = special_rotations().to(dtype)
    made = as_matrix(decode(encode(of_rotation(encode, matrix))))
    torch.testing.assert_close(made, matrix, rtol=0, atol=tolerance)
    assert is_rotation(made, tolerance=tolerance).all()


def test_half_turns_have_one_answer(dtype: torch.dtype) -> None:
    matrix = half_turns().to(dtype)
    quat = matrix_to_quaternion(matrix)
    for sign in (1, -1):
        torch.testing.assert_close(quaternion_to_mrp(sign * quat), quat[:, 1:])
    torch.testing.assert_close(matrix_to_mrp(matrix), quat[:, 1:])
    limit = 1e12 if dtype == torch.float32 else 1e18
    expected = limit * quat[:, 1:] / quat[:, 1:].abs().amax(-1, keepdim=True)
    for gibbs in (matrix_to_gibbs(matrix), quaternion_to_gibbs(quat), quaternion_to_gibbs(-quat)):
        torch.testing.assert_close(gibbs, expected)
    four = matrix_to_axis_angle4(matrix)
    torch.testing.assert_close(four[:, 1:], quat[:, 1:])
    assert (four[:, 0] > 8).all()


def test_small_turns_keep_their_relative_precision(dtype: torch.dtype) -> None:
    angle = torch.logspace(-15, -4, 12, dtype=dtype)
    axis = torch.tensor([2 / 7, -3 / 7, 6 / 7], dtype=dtype)
    matrix = axis_angle_to_matrix(angle[:, None] * axis)
    exact = partial(torch.testing.assert_close, rtol=20 * torch.finfo(dtype).eps + 1e-9, atol=0)
    exact(matrix_to_mrp(matrix), angle[:, None] / 4 * axis)
    exact(matrix_to_gibbs(matrix), angle[:, None] / 2 * axis)
    exact(matrix_to_axis_angle4(matrix), torch.cat([angle[:, None] / math.pi, axis.expand(12, 3)], -1))
    exact(matrix_to_mrp(mrp_to_matrix(angle[:, None] * axis)), angle[:, None] * axis)
    exact(quaternion_to_gibbs(gibbs_to_quaternion(angle[:, None] * axis)), angle[:, None] * axis)


@pytest.mark.parametrize("decode", DECODERS)
def test_any_vector_gives_a_rotation(decode: Callable[..., Tensor], dtype: torch.dtype, tolerance: float) -> None:
    x = arguments(decode, 50, dtype=dtype)
    scales = torch.tensor([0.0, 1e-38, 1e-30, 1e-10, 1.0, 1e10, 1e30], dtype=dtype)
    vectors = scales[:, None, None] * x
    for run in (decode, torch.vmap(decode)):
        made = run(vectors)
        assert is_rotation(as_matrix(made), tolerance=tolerance).all()
        if made.shape[-1] == 4:
            length = torch.ones(made.shape[:-1], dtype=dtype)
            torch.testing.assert_close(made.norm(dim=-1), length, rtol=0, atol=tolerance)
    far = as_matrix(decode(1e30 * x))
    if decode is mrp_to_matrix:
        torch.testing.assert_close(far, torch.eye(3, dtype=dtype).expand(50, 3, 3), rtol=0, atol=tolerance)
    if decode is gibbs_to_matrix:
        torch.testing.assert_close(far.diagonal(dim1=-2, dim2=-1).sum(-1), -torch.ones(50, dtype=dtype))


def test_axis_angle4_by_hand() -> None:
    half = math.atanh(0.5)
    made = axis_angle4_to_matrix(torch.tensor([[half, 0, 0, 9.0], [-half, 0, 0, 1e-9], [5.0, 0, 0, 0]]))
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    torch.testing.assert_close(made, torch.stack([quarter, quarter.T, torch.eye(3)]))
    assert torch.equal(matrix_to_axis_angle4(torch.eye(3)), torch.tensor([0.0, 1, 0, 0]))


# Forward mode makes torch 2.13 import a part of itself that it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("function", DECODERS + ENCODERS)
def test_exact_derivatives(function: Callable[..., Tensor]) -> None:
    x = arguments(function, 4)
    if function in ENCODERS:
        axis = torch.nn.functional.normalize(torch.tensor([1.0, -2, 3], dtype=torch.float64), dim=0)
        angles = torch.tensor([0.0, 1e-7, 0.3, 1.0, math.pi - 0.1], dtype=torch.float64)
        if function is matrix_to_axis_angle4:
            # Its axis has no limit at the identity.
            angles = angles[2:]
        x = torch.cat([x, of_rotation(function, axis_angle_to_matrix(angles[:, None] * axis))])
    elif function is not axis_angle4_to_matrix:
        x = torch.cat([x, 0 * x[:1], 1e-7 * x[:1], 20 * x[:1]])
    x.requires_grad_()
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("encode", [quaternion_to_mrp, matrix_to_mrp])
def test_exact_derivatives_beside_half_turns(encode: Callable[..., Tensor]) -> None:
    axis = torch.nn.functional.normalize(torch.tensor([1.0, -2, 3], dtype=torch.float64), dim=0)
    x = of_rotation(encode, axis_angle_to_matrix((math.pi - 1e-5) * axis)).requires_grad_()
    assert torch.autograd.gradcheck(encode, x)
    assert torch.autograd.gradgradcheck(encode, x)


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
def test_gradients_are_finite_everywhere(function: Callable[..., Tensor], dtype: torch.dtype) -> None:
    if function in ENCODERS:
        x = of_rotation(function, special_rotations().to(dtype))
        if source(function) == "quaternion":
            beside = torch.logspace(-30, 0, 31, dtype=dtype)[:, None] * torch.tensor([1, 0, 0, 0], dtype=dtype)
            x = torch.cat([x, beside + torch.tensor([0, 1.0, -2, 0.5], dtype=dtype)])
            lengths = torch.tensor([0.0, 1e-38, 1e-25, 1.1e-18, 1e-12, 1, 1e12, 1e30], dtype=dtype)
            x = (lengths[:, None, None] * x).flatten(0, 1)
    else:
        lengths = torch.tensor([0.0, 1e-38, 1e-25, 1.1e-18, 1e-12, 0.1, 1, 1e4, 1e12, 1e30], dtype=dtype)
        x = (lengths[:, None, None] * arguments(function, 20, dtype=dtype)).flatten(0, 1)
    for run in (function, torch.vmap(function)):
        x = x.detach().requires_grad_()
        value = run(x)
        assert value.isfinite().all()
        gradient = torch.autograd.grad(value.sum(), x, create_graph=True)[0]
        assert gradient.isfinite().all()
        assert torch.autograd.grad(gradient.sum(), x)[0].isfinite().all()


def test_degenerate_input_has_no_gradient(dtype: torch.dtype) -> None:
    zero = torch.zeros(4, dtype=dtype, requires_grad=True)
    for encode in (quaternion_to_mrp, quaternion_to_gibbs):
        for run in (encode, torch.vmap(encode)):
            made = run(zero[None])
            assert torch.equal(made.abs(), torch.zeros(1, 3, dtype=dtype))
            assert torch.equal(torch.autograd.grad(made.sum(), zero)[0].abs(), torch.zeros(4, dtype=dtype))
    half_turn = torch.diag(torch.tensor([1, -1, -1], dtype=dtype)).requires_grad_()
    gradient = torch.autograd.grad(matrix_to_gibbs(half_turn).sum(), half_turn)[0]
    assert torch.equal(gradient.abs(), torch.zeros(3, 3, dtype=dtype))
    no_axis = torch.tensor([0.7, 0, 0, 0], dtype=dtype, requires_grad=True)
    gradient = torch.autograd.grad(axis_angle4_to_matrix(no_axis).sum(), no_axis)[0]
    assert torch.equal(gradient[0].abs(), torch.zeros((), dtype=dtype))


@pytest.mark.parametrize("function", FUSED)
def test_vmap_equals_batch_in_value_and_gradient(
    function: Callable[..., Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    x = arguments(function, 3, 5, dtype=dtype).requires_grad_()
    compiled, formula = function(x), torch.vmap(torch.vmap(function))(x)
    bound = 10 * tolerance
    torch.testing.assert_close(formula, compiled, atol=bound, rtol=bound)
    weights = torch.linspace(-1, 1, compiled.numel(), dtype=dtype).reshape(compiled.shape)
    gradients = [torch.autograd.grad(made, x, weights)[0] for made in (compiled, formula)]
    torch.testing.assert_close(*gradients, atol=20 * bound, rtol=20 * bound)


@pytest.mark.parametrize("function", [f for f in DECODERS + ENCODERS if "quaternion" in f.__name__])
def test_orders_agree(function: Callable[..., Tensor]) -> None:
    x = arguments(function, 5)
    if function in ENCODERS:
        assert torch.equal(function(quaternion_wxyz_to_xyzw(x), "xyzw"), function(x))
    else:
        assert torch.equal(function(x, "xyzw"), quaternion_wxyz_to_xyzw(function(x)))
    with pytest.raises(ValueError, match="order: expected one of 'wxyz', 'xyzw', got 'zyxw'"):
        function(x, "zyxw")


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(function: Callable[..., Tensor], half: torch.dtype) -> None:
    x = arguments(function, 200, dtype=torch.float32).to(half)
    made = function(x)
    assert made.dtype == half
    assert torch.equal(made, function(x.float()).to(half))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_turns_in_half_precision_stay_finite(half: torch.dtype) -> None:
    matrix = half_turns()[:3].to(half)
    for encode, decode in PAIRS:
        made = as_matrix(decode(encode(of_rotation(encode, matrix))))
        torch.testing.assert_close(made, matrix, rtol=0, atol=2e-3 if half == torch.float16 else 2e-2)


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
def test_nan_stays_in_its_own_row(function: Callable[..., Tensor]) -> None:
    x = arguments(function, 3, dtype=torch.float32)
    good = function(x)
    for i in range(x[0].numel()):
        broken = x.clone()
        broken[1].view(-1)[i] = torch.nan
        for run in (function, torch.vmap(function)):
            made = run(broken)
            assert made[1].isnan().all()
            assert made[[0, 2]].isfinite().all()
        assert torch.equal(function(broken)[[0, 2]], good[[0, 2]])


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
def test_empty_and_bad_arguments(function: Callable[..., Tensor]) -> None:
    shape = SHAPES[source(function)]
    name = {"axis": "vector", "quaternion": "quat"}.get(source(function), source(function))
    assert function(torch.zeros(0, 2, *shape)).shape[:2] == (0, 2)
    expected = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"{name}: expected shape \(\.\.\., {expected}\), got \(2, 5\)"):
        function(torch.zeros(2, 5))
    with pytest.raises(TypeError, match=f"{name}: expected a floating point tensor, got torch.int64"):
        function(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(TypeError, match=f"{name}: expected a torch.Tensor, got list"):
        function([0.0])


def test_compiles_as_one_graph() -> None:
    def chain(x: Tensor) -> Tensor:
        matrix = mrp_to_matrix(x[..., :3]) @ gibbs_to_matrix(x[..., 1:]) @ axis_angle4_to_matrix(x)
        return torch.cat([matrix_to_mrp(matrix), matrix_to_gibbs(matrix), matrix_to_axis_angle4(matrix)], -1)

    x = quaternion_normalize(arguments(quaternion_to_mrp, 50, dtype=torch.float64)).requires_grad_()
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")
    made, expected = compiled(x), chain(x)
    torch.testing.assert_close(made, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (made, expected)), atol=1e-7, rtol=1e-7)
