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

from rotaware.geo.quaternion import (
    identity_quaternion,
    quaternion_apply,
    quaternion_conjugate,
    quaternion_exp,
    quaternion_inverse,
    quaternion_invert,
    quaternion_log,
    quaternion_multiply,
    quaternion_normalize,
    quaternion_pow,
    quaternion_raw_multiply,
    quaternion_standardize,
    quaternion_wxyz_to_xyzw,
    quaternion_xyzw_to_wxyz,
    standardize_quaternion,
)
from rotaware.geo.sampling import random_quaternions
from rotaware.geo.so3 import matrix_to_quaternion, quaternion_to_axis_angle, quaternion_to_matrix
from rotaware.geo.testing import RotationKind, sample_rotations

UNARY = [
    quaternion_conjugate,
    quaternion_inverse,
    quaternion_normalize,
    quaternion_standardize,
    quaternion_exp,
    quaternion_log,
]
BINARY = [quaternion_raw_multiply, quaternion_multiply, quaternion_apply, quaternion_standardize, quaternion_pow]
# The trailing shape of the second argument, where it is no quaternion.
SECOND = {quaternion_apply: (3,), quaternion_pow: ()}
# Those that read a quaternion as a rotation, or keep only its direction.
ALL = [(function, 1) for function in UNARY] + [(function, 2) for function in BINARY]

close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)


def quaternions(kind: RotationKind, *size: int, generator: torch.Generator) -> Tensor:
    """Quaternions of length 1 and either sign."""
    quat = matrix_to_quaternion(sample_rotations(kind, size, generator=generator))
    return quat * (torch.randint(2, size, generator=generator) * 2 - 1)[..., None]


def arguments(function: Callable[..., Tensor], count: int, *size: int, dtype: torch.dtype = torch.float64) -> list:
    """Random arguments of a function, quaternions of any length."""
    generator = torch.Generator().manual_seed(5)
    tails = [(4,), SECOND.get(function, (4,))][:count]
    return [torch.randn((*size, *tail), dtype=dtype, generator=generator) for tail in tails]


def scipy_rotations(quat: Tensor) -> Rotation:
    return Rotation.from_quat(quat.reshape(-1, 4).numpy(), scalar_first=True)


def test_product_matches_scipy(kind: RotationKind, batch: tuple[int, ...], generator: torch.Generator) -> None:
    a, b = quaternions(kind, *batch, 50, generator=generator), quaternions("uniform", *batch, 50, generator=generator)
    expected = scipy_rotations(a) * scipy_rotations(b)
    made = quaternion_multiply(a, b)
    assert made.shape == a.shape
    close(made.reshape(-1, 4), torch.from_numpy(expected.as_quat(canonical=True, scalar_first=True)))
    a, b = quaternion_wxyz_to_xyzw(a), quaternion_wxyz_to_xyzw(b)
    close(quaternion_multiply(a, b, "xyzw").reshape(-1, 4), torch.from_numpy(expected.as_quat(canonical=True)))


def test_product_of_the_units() -> None:
    one, i, j, k = torch.eye(4)
    table = quaternion_raw_multiply(torch.eye(4)[:, None], torch.eye(4))
    expected = torch.stack([one, i, j, k, i, -one, k, -j, j, -k, -one, i, k, j, -i, -one]).reshape(4, 4, 4)
    assert torch.equal(table, expected)
    assert torch.equal(quaternion_multiply(torch.eye(4)[:, None], torch.eye(4)), expected.abs())
    reordered = quaternion_raw_multiply(torch.eye(4)[:, None].roll(-1, -1), torch.eye(4).roll(-1, -1), "xyzw")
    assert torch.equal(reordered, expected.roll(-1, -1))


@given(numbers=st.lists(st.floats(-4, 4), min_size=12, max_size=12))
def test_laws_of_the_algebra(numbers: list[float]) -> None:
    a, b, c = torch.tensor(numbers, dtype=torch.float64).reshape(3, 4)
    product = quaternion_raw_multiply
    close(product(product(a, b), c), product(a, product(b, c)))
    close(product(a, b).norm(), a.norm() * b.norm())
    close(quaternion_conjugate(product(a, b)), product(quaternion_conjugate(b), quaternion_conjugate(a)))
    standard = quaternion_multiply(a, b)
    close(standard, quaternion_standardize(product(a, b)))
    if a.norm() > 1e-3:
        torch.testing.assert_close(product(quaternion_inverse(a), a), identity_quaternion(dtype=a.dtype))


def test_product_is_that_of_the_rotations(dtype: torch.dtype, tolerance: float) -> None:
    a, b = arguments(quaternion_multiply, 2, 100, dtype=dtype)
    expected = quaternion_to_matrix(a) @ quaternion_to_matrix(b)
    torch.testing.assert_close(quaternion_to_matrix(quaternion_multiply(a, b)), expected, rtol=0, atol=tolerance)


def test_conjugate_and_inverse(dtype: torch.dtype, tolerance: float) -> None:
    quat = arguments(quaternion_inverse, 1, 100, dtype=dtype)[0]
    inverse = quaternion_inverse(quat)
    one = identity_quaternion(100, dtype=dtype)
    torch.testing.assert_close(quaternion_raw_multiply(quat, inverse), one, rtol=0, atol=tolerance)
    torch.testing.assert_close(quaternion_to_matrix(inverse), quaternion_to_matrix(quat).mT, rtol=0, atol=tolerance)
    unit = quaternion_normalize(quat)
    torch.testing.assert_close(quaternion_invert(unit), quaternion_conjugate(unit), rtol=0, atol=tolerance)
    xyzw = quaternion_wxyz_to_xyzw(quat)
    assert torch.equal(quaternion_inverse(xyzw, "xyzw"), quaternion_wxyz_to_xyzw(inverse))
    assert torch.equal(quaternion_conjugate(xyzw, "xyzw"), quaternion_wxyz_to_xyzw(quaternion_conjugate(quat)))


def test_inverse_of_nearly_nothing_stays_finite() -> None:
    for dtype, sizes in ((torch.float32, (0.0, 1e-45, 1e-38, 1e-30, 1e30)), (torch.float16, (0.0, 1e-7, 1e-4, 6e4))):
        quat = torch.tensor(sizes, dtype=dtype)[:, None] * torch.tensor([0.0, 0.5, 1.0, -1.0], dtype=dtype)
        assert quaternion_inverse(quat).isfinite().all()
        assert torch.vmap(quaternion_inverse)(quat).isfinite().all()
    assert torch.equal(quaternion_inverse(torch.zeros(4)).abs(), torch.zeros(4))


def test_application_matches_scipy(kind: RotationKind, batch: tuple[int, ...], generator: torch.Generator) -> None:
    quat = quaternions(kind, *batch, 30, generator=generator)
    points = torch.randn(*batch, 30, 3, dtype=torch.float64, generator=generator)
    expected = torch.from_numpy(scipy_rotations(quat).apply(points.reshape(-1, 3).numpy())).reshape(points.shape)
    close(quaternion_apply(-1.7 * quat, points), expected)
    close(quaternion_apply(quaternion_wxyz_to_xyzw(quat), points, "xyzw"), expected)
    # As PyTorch3D defines it: q (0, p) q*.
    pure = torch.cat([0 * points[..., :1], points], -1)
    turned = quaternion_raw_multiply(quaternion_raw_multiply(quat, pure), quaternion_conjugate(quat))
    close(turned[..., 1:], expected)


@pytest.mark.parametrize(
    ("quat_shape", "points_shape"),
    [
        ((), (300,)), ((), (2, 300)), ((2, 1), (2, 300)), ((2, 1, 1), (2, 3, 200)), ((5, 1), (300,)), ((1,), (300,)),
        ((2, 1), (1, 400)), ((3, 2, 1), (2, 300)), ((2, 1, 7), (2, 300, 1)), ((7,), ()), ((), ()), ((1, 1), ()),
        ((300,), (300,)), ((2, 1), (2, 0)), ((0, 1), (0, 300)), ((1, 2, 1), (5, 1, 300)),
    ],
)  # fmt: skip
def test_application_broadcasts(
    quat_shape: tuple[int, ...], points_shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    quat = torch.randn(*quat_shape, 4, dtype=dtype, generator=generator).requires_grad_()
    points = torch.randn(*points_shape, 3, dtype=dtype, generator=generator).requires_grad_()
    made = quaternion_apply(quat, points)
    expected = (quaternion_to_matrix(quat) @ points[..., None]).squeeze(-1)
    tolerance = 5e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(made, expected, rtol=0, atol=tolerance)
    weights = torch.randn(made.shape, dtype=dtype, generator=generator)
    for gradient, other in zip(
        torch.autograd.grad(made, (quat, points), weights),
        torch.autograd.grad(expected, (quat, points), weights),
        strict=True,
    ):
        torch.testing.assert_close(gradient, other, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=20 * tolerance)


def test_application_is_never_done_in_half_precision_under_autocast(generator: torch.Generator) -> None:
    quat = random_quaternions(generator=generator)
    points = torch.randn(300, 3, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = quaternion_apply(quat, points), quaternion_apply(quat, points[0])
    assert torch.equal(made[0], quaternion_apply(quat, points))
    assert torch.equal(made[1], quaternion_apply(quat, points[0]))


def test_normalized(dtype: torch.dtype, tolerance: float) -> None:
    quat = arguments(quaternion_normalize, 1, 100, dtype=dtype)[0]
    for scale in (1e-30, 1.0, 1e30):
        made = quaternion_normalize(scale * quat)
        torch.testing.assert_close(made, torch.nn.functional.normalize(quat, dim=-1), rtol=0, atol=tolerance)
    assert torch.equal(quaternion_normalize(torch.zeros(4, dtype=dtype)), identity_quaternion(dtype=dtype))
    assert torch.equal(
        quaternion_normalize(torch.zeros(4, dtype=dtype), "xyzw"), identity_quaternion(order="xyzw", dtype=dtype)
    )


def test_standard_sign(generator: torch.Generator) -> None:
    quat = quaternions("uniform", 100, generator=generator)
    made = quaternion_standardize(quat)
    assert (made[:, 0] >= 0).all()
    assert torch.equal(made, torch.where(quat[:, :1] < 0, -quat, quat))
    assert torch.equal(made, standardize_quaternion(-quat))
    ties = torch.tensor([[0.0, -1, 2, 3], [0.0, 0, -1, 2], [0.0, 0, 0, -1], [-0.0, 0, 0, 1]])
    assert torch.equal(quaternion_standardize(ties), ties * torch.tensor([-1, -1, -1, 1])[:, None])
    xyzw = quaternion_wxyz_to_xyzw(quat)
    assert torch.equal(quaternion_standardize(xyzw, order="xyzw"), quaternion_wxyz_to_xyzw(made))


def test_sign_near_a_reference_is_continuous_along_a_sequence(generator: torch.Generator) -> None:
    angle = torch.linspace(0, 6 * math.pi, 100, dtype=torch.float64)
    smooth = quaternion_exp(angle[:, None] / 2 * torch.tensor([0.0, 0.6, 0.0, -0.8], dtype=torch.float64))
    jumping = quaternion_standardize(smooth)
    made = [jumping[0]]
    for quat in jumping[1:]:
        made.append(quaternion_standardize(quat, made[-1]))
    close(torch.stack(made), smooth)
    close(quaternion_standardize(jumping, smooth), smooth)
    assert torch.equal(quaternion_standardize(1e30 * jumping.float(), -1e30 * smooth.float()), -1e30 * smooth.float())
    assert quaternion_standardize(jumping[:, None], smooth[:3]).shape == (100, 3, 4)


def test_exponential_matches_scipy(dtype: torch.dtype, tolerance: float, generator: torch.Generator) -> None:
    vector = 3 * torch.randn(100, 3, dtype=dtype, generator=generator)
    pure = torch.nn.functional.pad(vector, (1, 0), value=7.0)
    expected = Rotation.from_rotvec(2 * vector.double().numpy()).as_matrix()
    made = quaternion_exp(pure)
    bound = 10 * tolerance
    torch.testing.assert_close(quaternion_to_matrix(made).double(), torch.from_numpy(expected), rtol=0, atol=bound)
    torch.testing.assert_close(made.norm(dim=-1), torch.ones(100, dtype=dtype), rtol=0, atol=tolerance)
    assert torch.equal(quaternion_exp(quaternion_wxyz_to_xyzw(pure), "xyzw"), quaternion_wxyz_to_xyzw(made))


def test_logarithm_is_the_inverse_of_the_exponential(
    kind: RotationKind, batch: tuple[int, ...], dtype: torch.dtype, tolerance: float, generator: torch.Generator
) -> None:
    quat = quaternions(kind, *batch, 50, generator=generator).to(dtype)
    pure = quaternion_log(1.7 * quat)
    torch.testing.assert_close(quaternion_exp(pure), quat, rtol=0, atol=tolerance)
    assert (pure[..., 0] == 0).all() and (pure.norm(dim=-1) < math.pi + 1e-6).all()
    half = quaternion_to_axis_angle(quaternion_standardize(quat)) / 2
    torch.testing.assert_close(quaternion_log(quaternion_standardize(quat))[..., 1:], half, rtol=0, atol=tolerance)
    xyzw = quaternion_log(1.7 * quaternion_wxyz_to_xyzw(quat), "xyzw")
    torch.testing.assert_close(xyzw, quaternion_wxyz_to_xyzw(pure), rtol=0, atol=tolerance)


def test_logarithm_at_and_beside_the_real_quaternions(dtype: torch.dtype) -> None:
    one = identity_quaternion(dtype=dtype)
    assert torch.equal(quaternion_log(one), torch.zeros(4, dtype=dtype))
    assert torch.equal(quaternion_log(0 * one), torch.zeros(4, dtype=dtype))
    minus = torch.tensor([-0.0, math.pi, 0, 0], dtype=dtype)
    torch.testing.assert_close(quaternion_log(-one), minus)
    torch.testing.assert_close(quaternion_exp(minus), -one)
    angle = torch.logspace(-15, 0, 31, dtype=dtype)
    vector = torch.nn.functional.pad(angle[:, None] * torch.tensor([2 / 7, -3 / 7, 6 / 7], dtype=dtype), (1, 0))
    exact = partial(torch.testing.assert_close, rtol=10 * torch.finfo(dtype).eps, atol=0)
    exact(quaternion_log(quaternion_exp(vector)), vector)
    beside = quaternion_exp(vector) * torch.tensor([-1, 1, 1, 1], dtype=dtype)
    exact(quaternion_log(beside).norm(dim=-1), torch.pi - angle)


def test_power_matches_scipy(kind: RotationKind, generator: torch.Generator) -> None:
    quat = quaternions(kind, 20, generator=generator)
    exponents = torch.tensor([-1.5, -1.0, 0.0, 0.3, 1.0, 2.0, 7.7], dtype=torch.float64)
    made = quaternion_pow(1.7 * quat[:, None], exponents)
    for column, exponent in enumerate(exponents.tolist()):
        expected = torch.from_numpy((scipy_rotations(quat) ** exponent).as_matrix())
        close(quaternion_to_matrix(made[:, column]), expected)
        close(quaternion_pow(quat, exponent), made[:, column])
    xyzw = quaternion_pow(quaternion_wxyz_to_xyzw(quat), 0.3, "xyzw")
    close(xyzw, quaternion_wxyz_to_xyzw(made[:, 3]))


@given(angle=st.floats(-3.14, 3.14), s=st.floats(-3, 3), t=st.floats(-3, 3))
def test_exponents_add_and_multiply(angle: float, s: float, t: float) -> None:
    quat = quaternion_exp(angle / 2 * torch.tensor([0, 2 / 7, -3 / 7, 6 / 7], dtype=torch.float64))
    close(
        quaternion_raw_multiply(quaternion_pow(quat, s), quaternion_pow(quat, t)),
        quaternion_pow(quat, s + t),
    )
    inner = quaternion_pow(quat, s / 3)
    if abs(s) <= 3:
        close(quaternion_pow(inner, t), quaternion_pow(quat, s / 3 * t))


def test_power_of_small_turns_keeps_its_relative_precision(dtype: torch.dtype) -> None:
    angle = torch.logspace(-18, 0, 19, dtype=dtype)
    vector = torch.nn.functional.pad(angle[:, None] * torch.tensor([2 / 7, -3 / 7, 6 / 7], dtype=dtype), (1, 0))
    made = quaternion_pow(quaternion_exp(vector), 0.5)
    exact = quaternion_exp(vector / 2)
    torch.testing.assert_close(made, exact, rtol=10 * torch.finfo(dtype).eps, atol=0)


def test_orders() -> None:
    quat = torch.tensor([[1.0, 2, 3, 4]], dtype=torch.float16)
    assert quaternion_wxyz_to_xyzw(quat).tolist() == [[2, 3, 4, 1]]
    assert quaternion_xyzw_to_wxyz(quat).tolist() == [[4, 1, 2, 3]]
    assert torch.equal(quaternion_xyzw_to_wxyz(quaternion_wxyz_to_xyzw(quat)), quat)


def test_identity(dtype: torch.dtype) -> None:
    assert torch.equal(
        quaternion_to_matrix(identity_quaternion((2, 3), dtype=dtype)), torch.eye(3, dtype=dtype).expand(2, 3, 3, 3)
    )
    assert identity_quaternion(2, "xyzw").tolist() == [[0, 0, 0, 1]] * 2
    assert identity_quaternion().shape == (4,) and identity_quaternion(0).shape == (0, 4)
    with pytest.raises(TypeError, match="dtype: expected a floating point type"):
        identity_quaternion(dtype=torch.int64)


# Forward mode makes torch 2.13 import a part of itself that it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("function", "count"), ALL)
def test_exact_derivatives(function: Callable[..., Tensor], count: int, generator: torch.Generator) -> None:
    special = torch.tensor(
        [[1.0, 0, 0, 0], [2.0, 1e-7, 2e-7, -1e-7], [1e-3, 1, 0.5, -0.5], [-0.3, 0.5, 0.2, 0.1], [0.5, 0.1, -0.1, 0.05]],
        dtype=torch.float64,
    )
    xs = [special, *arguments(function, count, 5)[1:]]
    if function is quaternion_multiply:
        # Away from its jump.
        xs[1] = torch.tensor([1.0, 0.3, -0.2, 0.1], dtype=torch.float64).expand(5, 4)
    xs = [x.clone().requires_grad_() for x in xs]
    assert torch.autograd.gradcheck(function, xs)
    assert torch.autograd.gradgradcheck(function, xs)
    assert torch.autograd.gradcheck(function, xs, check_forward_ad=True, check_backward_ad=False)


def test_exact_derivatives_where_a_matrix_is_used(generator: torch.Generator) -> None:
    quat = torch.randn(4, dtype=torch.float64, generator=generator).requires_grad_()
    points = torch.randn(300, 3, dtype=torch.float64, generator=generator).requires_grad_()
    apply = lambda q, p: quaternion_apply(q, p).square().sum(0) + quaternion_apply(q, p)[0]  # noqa: E731
    assert torch.autograd.gradcheck(apply, (quat, points), fast_mode=True)
    assert torch.autograd.gradgradcheck(apply, (quat, points), fast_mode=True)


def test_exponential_is_smooth_at_zero() -> None:
    pure = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(quaternion_exp, pure)
    assert torch.autograd.gradgradcheck(quaternion_exp, pure)


def awkward(dtype: torch.dtype) -> Tensor:
    """Quaternions around 0, 1, -1 and half turns, of all lengths."""
    small = [0.0, 1e-38, 1e-30, 1e-20, 1e-18, 1e-17, 1e-16, 1e-12, 1e-8, 1e-4, 1.0]
    ratios = torch.tensor(small, dtype=torch.float64)
    axis = torch.tensor([0.3, -0.5, 0.4], dtype=torch.float64)
    turns = [torch.cat([torch.full((len(small), 1), w).double(), ratios[:, None] * axis], -1) for w in (1.0, -1.0)]
    half = [torch.cat([w * ratios[:, None], axis.expand(len(small), 3)], -1) for w in (1.0, -1.0)]
    quat = torch.cat([*turns, *half])
    lengths = torch.tensor([0.0, 1e-38, 1e-25, 1.1e-18, 1e-12, 1.0, 1e12, 1e18, 1e30], dtype=torch.float64)
    return (lengths[:, None, None] * quat).flatten(0, 1).to(dtype)


@pytest.mark.parametrize(
    ("function", "count"), [pair for pair in ALL if pair[0] not in (quaternion_raw_multiply, quaternion_multiply)]
)
def test_everything_is_finite_everywhere(function: Callable[..., Tensor], count: int, dtype: torch.dtype) -> None:
    quat = awkward(dtype)
    if function is quaternion_exp:
        # Beyond, float32 angles mean nothing, and the second derivative of their sine overflows on the way.
        quat = quat[quat.abs().amax(-1) < 1e12]
    xs = [quat, *arguments(function, count, len(quat), dtype=dtype)[1:]]
    for run in (function, torch.vmap(function)):
        ys = [x.clone().requires_grad_() for x in xs]
        value = run(*ys)
        assert value.isfinite().all()
        gradients = torch.autograd.grad(value.sum(), ys, create_graph=True, allow_unused=True)
        gradients = [g for g in gradients if g is not None]
        assert all(g.isfinite().all() for g in gradients)
        curved = [g.sum() for g in gradients if g.requires_grad]
        seconds = torch.autograd.grad(sum(curved), ys, allow_unused=True) if curved else ()
        assert all(second is None or second.isfinite().all() for second in seconds)


@pytest.mark.parametrize(
    "function", [quaternion_apply, quaternion_normalize, quaternion_log, quaternion_pow, quaternion_inverse]
)
def test_zero_has_no_gradient(function: Callable[..., Tensor]) -> None:
    quat = torch.zeros(4, requires_grad=True)
    others = [x.float() for x in arguments(function, 2 if function in SECOND else 1)[1:]]
    function(quat, *others).sum().backward()
    assert quat.grad is not None and torch.equal(quat.grad.abs(), torch.zeros(4))
    if function is quaternion_apply:
        assert torch.equal(function(quat, *others), others[0])
        many = others[0].expand(300, 3)
        assert torch.equal(function(quat, many), many)
    if function is quaternion_pow:
        assert torch.equal(function(quat, *others), identity_quaternion())


@pytest.mark.parametrize(("function", "count"), ALL)
def test_vmap_equals_batch_in_value_and_gradient(
    function: Callable[..., Tensor], count: int, dtype: torch.dtype, tolerance: float
) -> None:
    xs = [x.requires_grad_() for x in arguments(function, count, 3, 5, dtype=dtype)]
    compiled, formula = function(*xs), torch.vmap(torch.vmap(function))(*xs)
    bound = 10 * tolerance
    torch.testing.assert_close(formula, compiled, atol=bound, rtol=bound)
    weights = torch.linspace(-1, 1, compiled.numel(), dtype=dtype).reshape(compiled.shape)
    first = torch.autograd.grad(compiled, xs, weights)
    second = torch.autograd.grad(formula, xs, weights, allow_unused=True)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, atol=bound, rtol=bound)


@pytest.mark.parametrize(("function", "count"), ALL)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(function: Callable[..., Tensor], count: int, half: torch.dtype) -> None:
    xs = [x.to(half) for x in arguments(function, count, 200, dtype=torch.float32)]
    made = function(*xs)
    assert made.dtype == half
    assert torch.equal(made, function(*(x.float() for x in xs)).to(half))


@pytest.mark.parametrize(("function", "count"), [pair for pair in ALL if pair[0] is not quaternion_conjugate])
def test_nan_stays_in_its_own_row(function: Callable[..., Tensor], count: int) -> None:
    xs = arguments(function, count, 3, dtype=torch.float32)
    good = function(*xs)
    for k, x in enumerate(xs):
        for i in range(x[1].numel()):
            broken = [y.clone() for y in xs]
            broken[k][1].view(-1)[i] = torch.nan
            made = function(*broken)
            assert torch.equal(made[[0, 2]], good[[0, 2]])
            # A sign changes nothing but signs.
            touched = made[1].isnan()
            assert touched.all() or (function is quaternion_standardize and (touched.any() or k == 1))
            torch.testing.assert_close(torch.vmap(function)(*broken).isnan(), made.isnan())


@pytest.mark.parametrize(("function", "count"), ALL)
def test_empty_batch(function: Callable[..., Tensor], count: int) -> None:
    assert function(*arguments(function, count, 0, 2)).shape[:2] == (0, 2)


def test_compiles_as_one_graph(generator: torch.Generator) -> None:
    def turned(a: Tensor, b: Tensor, points: Tensor) -> Tensor:
        quat = quaternion_pow(quaternion_multiply(a, quaternion_inverse(b)), 0.5)
        return (
            quaternion_apply(quat, quaternion_apply(a[0], points))
            + quaternion_log(quaternion_standardize(a, b))[..., 1:]
        )

    a, b = random_quaternions((2, 300), generator=generator)
    points = torch.randn(300, 3, generator=generator)
    a.requires_grad_()
    compiled = torch.compile(turned, fullgraph=True, backend="aot_eager")
    made, expected = compiled(a, b, points), turned(a, b, points)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), a)[0] for y in (made, expected)), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("function", "count"), ALL)
def test_bad_arguments(function: Callable[..., Tensor], count: int) -> None:
    xs = arguments(function, count, 2)
    name = "a" if "multiply" in function.__name__ else "pure" if function is quaternion_exp else "quat"
    with pytest.raises(ValueError, match=rf"{name}: expected shape \(\.\.\., 4\), got \(2, 5\)"):
        function(torch.zeros(2, 5), *xs[1:])
    with pytest.raises(TypeError, match=f"{name}: expected a floating point tensor, got torch.int64"):
        function(torch.zeros(2, 4, dtype=torch.int64), *xs[1:])
    with pytest.raises(TypeError, match=f"{name}: expected a torch.Tensor, got list"):
        function([1.0, 0.0, 0.0, 0.0], *xs[1:])
    with pytest.raises(ValueError, match="order: expected one of 'wxyz', 'xyzw', got 'zyxw'"):
        function(*xs, order="zyxw")
    if count == 2:
        with pytest.raises(ValueError, match="expected one dtype"):
            function(xs[0].float(), xs[1])
        with pytest.raises(ValueError, match="expected leading shapes that broadcast"):
            function(xs[0], torch.cat([xs[1], xs[1][:1]]))


def test_bad_arguments_where_a_matrix_is_used() -> None:
    with pytest.raises(ValueError, match="quat, points: expected one dtype"):
        quaternion_apply(torch.ones(4), torch.zeros(300, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="quat, points: expected leading shapes that broadcast"):
        quaternion_apply(torch.ones(2, 1, 4), torch.zeros(3, 300, 3))
    with pytest.raises(ValueError, match=r"points: expected shape \(\.\.\., 3\), got \(2,\)"):
        quaternion_apply(torch.ones(4), torch.zeros(2))
    for convert in (quaternion_xyzw_to_wxyz, quaternion_wxyz_to_xyzw):
        with pytest.raises(ValueError, match=r"quat: expected shape \(\.\.\., 4\), got \(3,\)"):
            convert(torch.zeros(3))
