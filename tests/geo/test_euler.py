from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from rotaware.geo import (
    axis_angle_to_matrix,
    matrix_to_quaternion,
    quaternion_to_matrix,
    random_rotations,
    sample_rotations,
)
from rotaware.geo.euler import (
    euler_angles_to_matrix,
    euler_to_matrix,
    euler_to_quaternion,
    matrix_to_euler,
    matrix_to_euler_angles,
    quaternion_to_euler,
)
from rotaware.geo.testing import RotationKind

SEQUENCES = ["XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX", "XYX", "XZX", "YXY", "YZY", "ZXZ", "ZYZ"]
CONVENTIONS = [*SEQUENCES, *(sequence.lower() for sequence in SEQUENCES)]
FUNCTIONS = [euler_to_matrix, euler_to_quaternion, matrix_to_euler, quaternion_to_euler]
FROM_ROTATION = [matrix_to_euler, quaternion_to_euler]
# Of the middle angle from gimbal lock, radians.
DISTANCES = [0.0, 1e-12, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]


def proper(convention: str) -> bool:
    """Whether the third axis is the first."""
    return convention[0] == convention[2]


def elementary(axis: str, angle: Tensor) -> Tensor:
    """Turn about one axis, (..., 3, 3)."""
    unit = torch.eye(3, dtype=angle.dtype)["xyz".index(axis.lower())]
    return axis_angle_to_matrix(angle[..., None] * unit)


def definition(angles: Tensor, convention: str) -> Tensor:
    """What a convention means, as a product of three matrices."""
    first, second, third = (elementary(axis, angle) for axis, angle in zip(convention, angles.unbind(-1), strict=True))
    return first @ second @ third if convention.isupper() else third @ second @ first


def near_lock(convention: str, distances: list[float]) -> Tensor:
    """Angles with the middle one at the given distances inside both ends of its range, (2 * len(distances), 3)."""
    distance = torch.tensor(distances, dtype=torch.float64)
    low, high = (0, math.pi) if proper(convention) else (-math.pi / 2, math.pi / 2)
    middle = torch.cat([low + distance, high - distance])
    return torch.stack([torch.full_like(middle, 0.7), middle, torch.full_like(middle, -1.9)], -1)


def argument(function: Callable[..., Tensor], matrix: Tensor, convention: str = "ZYX") -> Tensor:
    """What `function` takes for a rotation; quaternions get a length other than 1, which must not matter."""
    if function is matrix_to_euler:
        return matrix
    if function is quaternion_to_euler:
        return -1.7 * matrix_to_quaternion(matrix)
    return matrix_to_euler(matrix, convention)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_is_the_product_of_three_turns(convention: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    angles = 4 * torch.randn(50, 3, dtype=torch.float64, generator=generator)
    expected = definition(angles, convention)
    # Rounding the angles themselves moves the rotation by up to 16 * eps.
    atol = 1e-14 if dtype == torch.float64 else 2e-6
    close = partial(torch.testing.assert_close, rtol=0, atol=atol)
    matrix = euler_to_matrix(angles.to(dtype), convention)
    quat = euler_to_quaternion(angles.to(dtype), convention)
    assert matrix.dtype == quat.dtype == dtype
    close(matrix.double(), expected)
    close(quaternion_to_matrix(quat).double(), expected)
    close(quat.norm(dim=-1), torch.ones(50, dtype=dtype))


def test_matches_scipy(kind: RotationKind, batch: tuple[int, ...], generator: torch.Generator) -> None:
    matrix = sample_rotations(kind, (*batch, 20), generator=generator)
    oracle = Rotation.from_matrix(matrix.reshape(-1, 3, 3).numpy(), assume_valid=True)
    quat = torch.from_numpy(oracle.as_quat()).reshape(*batch, 20, 4)
    for convention in CONVENTIONS:
        # Near the identity all sequences whose third axis is the first are near gimbal lock.
        if kind == "near_identity" and proper(convention):
            continue
        expected = torch.from_numpy(oracle.as_euler(convention)).reshape(*batch, 20, 3)
        # Near the lock, and next to a jump, the last digit of the rotation is worth more than one of the angles.
        middle = expected[..., 1].sin() if proper(convention) else expected[..., 1].cos()
        regular = (middle.abs() > 1e-2)[..., None] & (expected.abs() < math.pi - 1e-9)
        close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)
        for angles in (matrix_to_euler(matrix, convention), quaternion_to_euler(quat, convention, order="xyzw")):
            close(angles[regular], expected[regular])
        close(euler_to_matrix(expected, convention), matrix, atol=1e-14)
        again = euler_to_quaternion(expected, convention, order="xyzw")
        close(again * (again * quat).sum(-1, keepdim=True).sign(), quat)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_matches_scipy_in_degrees_and_in_single_precision(convention: str, generator: torch.Generator) -> None:
    matrix = random_rotations(100, dtype=torch.float64, generator=generator)
    oracle = Rotation.from_matrix(matrix.numpy(), assume_valid=True)
    expected = torch.from_numpy(oracle.as_euler(convention, degrees=True))
    cosine = expected[:, 1].deg2rad().sin() if proper(convention) else expected[:, 1].deg2rad().cos()
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-10)
    close(matrix_to_euler(matrix, convention, degrees=True), expected)
    close(quaternion_to_euler(matrix_to_quaternion(matrix), convention, True), expected)
    close(euler_to_matrix(expected, convention, degrees=True), matrix)
    close(quaternion_to_matrix(euler_to_quaternion(expected, convention, True)), matrix)
    for angles in (
        matrix_to_euler(matrix.float(), convention),
        quaternion_to_euler(matrix_to_quaternion(matrix.float()), convention),
    ):
        error = (angles.double() - expected.deg2rad()).abs().amax(-1)
        assert (error * cosine).max() < 5e-7


def test_matches_roma(generator: torch.Generator) -> None:
    matrix = random_rotations(50, dtype=torch.float64, generator=generator)
    for convention in CONVENTIONS:
        angles = matrix_to_euler(matrix, convention)
        torch.testing.assert_close(angles, roma.rotmat_to_euler(convention, matrix), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            euler_to_matrix(angles, convention), roma.euler_to_rotmat(convention, angles), rtol=0, atol=1e-14
        )


@given(st.tuples(*[st.floats(-3.1, 3.1)] * 3), st.sampled_from(CONVENTIONS))
@settings(max_examples=300, deadline=None)
def test_round_trip(values: tuple[float, float, float], convention: str) -> None:
    """Rotation to angles and back is exact everywhere; angles and back where they are in range and not locked."""
    angles = torch.tensor(values, dtype=torch.float64)
    matrix = euler_to_matrix(angles, convention)
    back, gimbal = matrix_to_euler(matrix, convention, return_gimbal=True)
    torch.testing.assert_close(euler_to_matrix(back, convention), matrix, rtol=0, atol=4e-15)
    quat = euler_to_quaternion(angles, convention)
    through = quaternion_to_euler(quat, convention)
    torch.testing.assert_close(euler_to_matrix(through, convention), matrix, rtol=0, atol=4e-15)
    low, high = (0, math.pi) if proper(convention) else (-math.pi / 2, math.pi / 2)
    assert low <= back[1] <= high
    cosine = math.sin(values[1]) if proper(convention) else math.cos(values[1])
    if low <= values[1] <= high and cosine > 1e-3:
        assert not gimbal
        torch.testing.assert_close(back, angles, rtol=0, atol=1e-15 / cosine)
        torch.testing.assert_close(through, angles, rtol=0, atol=2e-15 / cosine)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("function", FROM_ROTATION)
def test_reconstructs_the_rotation_at_and_near_gimbal_lock(
    function: Callable[..., Tensor], convention: str, dtype: torch.dtype
) -> None:
    matrix = definition(near_lock(convention, DISTANCES), convention)
    x = argument(function, matrix).to(dtype)
    angles, gimbal = function(x, convention, return_gimbal=True)
    bound = 1.5e-6 if dtype == torch.float32 else 4e-15
    torch.testing.assert_close(definition(angles.double(), convention), matrix, rtol=0, atol=bound)
    # In single precision 1e-7 is the lock, too.
    count = 5 if dtype == torch.float32 else 1
    free = 6 if dtype == torch.float32 else 2
    both = gimbal.reshape(2, -1)
    assert both[:, :count].all() and not both[:, free:].any()
    assert (angles[gimbal][:, 2] == 0).all()
    # Transforms see the formula in PyTorch, in the dtype itself.
    traced = torch.vmap(lambda y: function(y, convention))(x)
    torch.testing.assert_close(definition(traced.double(), convention), matrix, rtol=0, atol=bound)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients_are_finite_and_damped_near_gimbal_lock(convention: str, dtype: torch.dtype) -> None:
    for function in FROM_ROTATION:
        matrix = definition(near_lock(convention, DISTANCES), convention)
        x = argument(function, matrix).to(dtype).requires_grad_()
        for component in range(3):
            angle = function(x, convention)[:, component]
            gradient = torch.autograd.grad(angle.sum(), x, create_graph=True)[0]
            # 1 / cos b becomes at most 1 / (2 damping); the rest is a few.
            assert gradient.isfinite().all()
            assert gradient.abs().max() < (2e4 if dtype == torch.float32 else 2e8)
            second = torch.autograd.grad(gradient.square().sum(), x)[0]
            assert second.isfinite().all()


def tangent_jacobian(
    function: Callable[..., Tensor],
    matrix: Tensor,
    convention: str,
    dtype: torch.dtype = torch.float64,
    **options: float,
) -> Tensor:
    """Derivative of the angles with respect to a small turn in the frame of the body, (3, 3)."""
    x = argument(function, matrix).to(dtype)

    def turned(w: Tensor) -> Tensor:
        turn = axis_angle_to_matrix(w)
        if function is matrix_to_euler:
            return matrix @ turn
        return -1.7 * matrix_to_quaternion(matrix @ turn)

    inner = torch.func.jacrev(turned)(torch.zeros(3, dtype=torch.float64)).flatten(0, -2)
    x = x.requires_grad_()
    angles = function(x, convention, **options)
    rows = [torch.autograd.grad(angle, x, retain_graph=True)[0].flatten() for angle in angles]
    return torch.stack(rows).double() @ inner


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("function", FROM_ROTATION)
def test_damping(function: Callable[..., Tensor], convention: str) -> None:
    """The derivative of the third angle shrinks by the documented factor; the middle one and the sum stay."""
    damping = 1e-3
    for distance in (1e-5, 1e-3, 1e-1):
        for angles in near_lock(convention, [distance]):
            matrix = euler_to_matrix(angles, convention)
            body = torch.func.jacrev(lambda e: euler_to_matrix(e, convention))(angles)
            spin = (matrix.T @ body.permute(2, 0, 1)).permute(1, 2, 0)
            forward = torch.stack([spin[2, 1], spin[0, 2], spin[1, 0]])
            exact = torch.linalg.inv(forward)
            undamped = tangent_jacobian(function, matrix, convention, damping=0.0)
            torch.testing.assert_close(undamped, exact, rtol=1e-9, atol=1e-9)
            damped = tangent_jacobian(function, matrix, convention, damping=damping)
            cosine = math.sin(distance)
            factor = cosine**2 / (cosine**2 + damping**2)
            torch.testing.assert_close(damped[2], factor * exact[2], rtol=2e-6, atol=1e-9)
            torch.testing.assert_close(damped[1], exact[1], rtol=1e-9, atol=1e-9)
            # The turn about the axis that the first and the third share at the lock stays, too; through quaternions up
            # to (1 - cosine) times what the damping takes away, at most a quarter of it.
            cosine = forward[:, 0] @ forward[:, 2]
            total, expected = damped[0] + cosine * damped[2], exact[0] + cosine * exact[2]
            atol = damping / 4 if function is quaternion_to_euler else 1e-6
            torch.testing.assert_close(total, expected, rtol=0, atol=atol)


def test_gradient_at_gimbal_lock(dtype: torch.dtype) -> None:
    """R = Rx(a) Ry(pi/2) has only the turn about x to tell: a follows it, b and c do not move."""
    matrix = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64)
    for function in FROM_ROTATION:
        jacobian = tangent_jacobian(function, matrix, "XYZ", dtype)
        expected = torch.tensor([[0.0, 0, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.float64)
        torch.testing.assert_close(jacobian, expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)


# Forward mode makes torch 2.13 import a part of itself that it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_exact_derivatives(convention: str, generator: torch.Generator) -> None:
    matrix = random_rotations(2, dtype=torch.float64, generator=generator)
    for function in FUNCTIONS:
        x = argument(function, matrix, convention).detach().requires_grad_()
        f = partial(function, convention=convention, degrees=convention.isupper())
        assert torch.autograd.gradcheck(f, x)
        assert torch.autograd.gradgradcheck(f, x)
        assert torch.autograd.gradcheck(f, x, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("convention", ["XYZ", "zxy", "ZYZ", "xzx"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled_formula_equals_the_one_in_pytorch(
    function: Callable[..., Tensor], convention: str, generator: torch.Generator
) -> None:
    # A damping large enough to be seen at regular rotations, too.
    f = partial(function, convention=convention)
    f = partial(f, damping=0.1) if function in FROM_ROTATION else f
    matrix = torch.cat(
        [
            random_rotations(40, dtype=torch.float64, generator=generator),
            definition(near_lock(convention, [0.0, 1e-6, 1e-4, 1e-2]), convention),
        ]
    )
    x = argument(function, matrix, convention)
    value, pullback = torch.func.vjp(torch.vmap(f), x)
    upstream = torch.randn(value.shape, dtype=torch.float64, generator=generator)
    y = x.clone().requires_grad_()
    compiled = f(y)
    torch.testing.assert_close(value, compiled.detach(), rtol=0, atol=1e-9)
    gradient = torch.autograd.grad(compiled, y, upstream)[0]
    torch.testing.assert_close(gradient, pullback(upstream)[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_torch_compile_in_one_graph(function: Callable[..., Tensor], generator: torch.Generator) -> None:
    x = argument(function, random_rotations((3, 2), generator=generator)).requires_grad_()
    f = torch.compile(lambda y: function(y, "ZYX"), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(f(x), function(x, "ZYX"), rtol=0, atol=2e-6)
    (gradient,) = torch.autograd.grad(f(x).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(function(x, "ZYX").sum(), x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("convention", ["XYZ", "zyz"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_finite_for_any_finite_input(function: Callable[..., Tensor], convention: str, dtype: torch.dtype) -> None:
    """Whatever the size, whatever is 0: value, first and second derivative are finite, also in plain PyTorch."""
    shape = {matrix_to_euler: (3, 3), quaternion_to_euler: (4,)}.get(function, (3,))
    # Beyond 1e18 from 1 the derivatives themselves leave the range of float32.
    sizes = [0.0, 1e-40, 1e-30, 1e-20, 1e-17, 1e-8, 1.0, 1e8, 1e15, 1e20, 1e30]
    dense = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    cases = [dense, torch.ones(shape)]
    for n in range(dense.numel()):
        single, hole = torch.zeros(dense.numel()), dense.flatten().clone()
        single[n], hole[n] = 1, 0
        cases += [single.reshape(shape), hole.reshape(shape)]
    x = torch.stack([size * case for size in sizes for case in cases]).to(dtype)
    f = partial(function, convention=convention)
    for g in (f, torch.vmap(f)):
        y = x.clone().requires_grad_()
        value = g(y)
        gradient = torch.autograd.grad(value.sum(), y, create_graph=True)[0]
        second = torch.autograd.grad(gradient.sum(), y)[0]
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        assert second.isfinite().all()


def test_zero_is_the_identity() -> None:
    for convention in CONVENTIONS:
        for function, x in ((matrix_to_euler, torch.zeros(3, 3)), (quaternion_to_euler, torch.zeros(4))):
            x = x.requires_grad_()
            angles, gimbal = function(x, convention, return_gimbal=True)
            assert torch.equal(angles, torch.zeros(3)) and gimbal
            assert torch.equal(torch.autograd.grad(angles.sum(), x)[0], torch.zeros_like(x))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_is_not_repaired(function: Callable[..., Tensor]) -> None:
    for convention in CONVENTIONS:
        x = argument(function, random_rotations(1, generator=torch.Generator().manual_seed(3)), convention)
        for n in range(x.numel()):
            broken = x.repeat(2, *[1] * (x.ndim - 1))
            broken[1].view(-1)[n] = torch.nan
            for f in (function, torch.vmap(partial(function, convention=convention))):
                result = f(broken, convention) if f is function else f(broken)
                assert result[0].isfinite().all()
                assert result[1].isnan().all(), (convention, n)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(function: Callable[..., Tensor], half: torch.dtype) -> None:
    x = argument(function, random_rotations(100, generator=torch.Generator().manual_seed(1))).to(half)
    result = function(x, "ZYX")
    assert result.dtype == half
    assert torch.equal(result, function(x.float(), "ZYX").to(half))


def test_batches(generator: torch.Generator) -> None:
    for function in FUNCTIONS:
        x = argument(function, random_rotations((2, 3), generator=generator))
        table = function(x, "YXZ")
        assert torch.equal(function(x[1, 2], "YXZ"), table[1, 2])
        assert torch.equal(function(x.transpose(0, 1), "YXZ"), table.transpose(0, 1))
        assert function(x[:0], "YXZ").shape == (0, *table.shape[1:])
        if function in FROM_ROTATION:
            assert function(x, "YXZ", return_gimbal=True)[1].shape == (2, 3)


def test_order(generator: torch.Generator) -> None:
    angles = torch.randn(10, 3, generator=generator)
    real_first, real_last = euler_to_quaternion(angles, "xzx"), euler_to_quaternion(angles, "xzx", order="xyzw")
    assert torch.equal(real_last, real_first.roll(-1, -1))
    assert torch.equal(quaternion_to_euler(real_last, "xzx", order="xyzw"), quaternion_to_euler(real_first, "xzx"))


def test_names_of_pytorch3d() -> None:
    assert euler_angles_to_matrix is euler_to_matrix
    assert matrix_to_euler_angles is matrix_to_euler


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("convention", ["XYy", "XYz", "XXY", "xyy", "XYW", "XY", "XYZX", "", None, ["X", "Y", "Z"]])
def test_unknown_convention(function: Callable[..., Tensor], convention: object) -> None:
    with pytest.raises(
        ValueError, match=r"^convention: expected three letters of XYZ \(intrinsic\) or .*, got "
    ) as info:
        function(argument(function, torch.eye(3)), convention)
    assert str(info.value).endswith(f"got {convention!r}")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_wrong_arguments(function: Callable[..., Tensor]) -> None:
    name = {matrix_to_euler: "matrix", quaternion_to_euler: "quat"}.get(function, "angles")
    shape = {"quat": (4,), "angles": (3,), "matrix": (3, 3)}[name]
    text = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \(\.\.\., {text}\), got \(2, 5\)$"):
        function(torch.zeros(2, 5), "ZYX")
    with pytest.raises(TypeError, match=f"^{name}: expected a floating point tensor, got torch.int64$"):
        function(torch.zeros(shape, dtype=torch.int64), "ZYX")
    with pytest.raises(TypeError, match=f"^{name}: expected a torch.Tensor, got list$"):
        function([0.0, 0.0, 0.0], "ZYX")
    if function in FROM_ROTATION:
        with pytest.raises(ValueError, match=r"^damping: expected a number that is not negative, got -1$"):
            function(torch.ones(shape), "ZYX", damping=-1)
    if "quaternion" in function.__name__:
        with pytest.raises(ValueError, match=r"^order: expected one of 'wxyz', 'xyzw', got 'wzyx'$"):
            function(torch.zeros(shape), "ZYX", order="wzyx")
