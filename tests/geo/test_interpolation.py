from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from rotaware.geo import (
    axis_angle_to_matrix,
    geodesic_distance,
    is_rotation,
    matrix_to_quaternion,
    quaternion_to_matrix,
    random_quaternions,
    random_rotations,
    sample_rotations,
)
from rotaware.geo.interpolation import geodesic_interpolate, matrix_slerp, quaternion_nlerp, quaternion_slerp
from rotaware.geo.testing import RotationKind

FUNCTIONS = [quaternion_slerp, quaternion_nlerp, geodesic_interpolate]
LONG_WAY = [partial(quaternion_slerp, shortest=False), partial(quaternion_nlerp, shortest=False)]
IDS = ["slerp", "nlerp", "geodesic", "slerp_long", "nlerp_long"]


def form(function: Callable[..., Tensor], matrix: Tensor, length: float = 1.0) -> Tensor:
    """What `function` takes for a rotation; the length of a quaternion must not matter."""
    return matrix if function is geodesic_interpolate else length * matrix_to_quaternion(matrix)


def rotations(function: Callable[..., Tensor], value: Tensor) -> Tensor:
    return value if function is geodesic_interpolate else quaternion_to_matrix(value)


def pair(kind: RotationKind, size: int | tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two rotations that are far apart, nearly equal or nearly half a turn apart, in float64."""
    start = random_rotations(size, dtype=torch.float64, generator=generator)
    return start, start @ sample_rotations(kind, size, generator=generator)


@pytest.mark.parametrize("function", [quaternion_slerp, geodesic_interpolate])
def test_matches_scipy(
    function: Callable[..., Tensor], kind: RotationKind, batch: tuple[int, ...], generator: torch.Generator
) -> None:
    start, end = pair(kind, (*batch, 20), generator)
    t = 4 * torch.rand(*batch, 20, dtype=torch.float64, generator=generator) - 1.5
    ours = rotations(function, function(form(function, start, 0.3), form(function, end, 7.0), t)).reshape(-1, 3, 3)
    first, second = (Rotation.from_matrix(x.reshape(-1, 3, 3).numpy()) for x in (start, end))
    # Slerp does not extrapolate; its formula does.
    expected = first * Rotation.from_rotvec(t.reshape(-1, 1).numpy() * (first.inv() * second).as_rotvec())
    torch.testing.assert_close(ours, torch.from_numpy(expected.as_matrix()), rtol=0, atol=1e-12)
    slerp = Slerp([0, 1], Rotation.concatenate([first[0], second[0]]))(0.3)
    inside = function(form(function, start), form(function, end), 0.3)
    inside = rotations(function, inside).reshape(-1, 3, 3)[0]
    torch.testing.assert_close(inside, torch.from_numpy(slerp.as_matrix()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_ends_and_middle(
    function: Callable[..., Tensor],
    kind: RotationKind,
    batch: tuple[int, ...],
    dtype: torch.dtype,
    tolerance: float,
    generator: torch.Generator,
) -> None:
    start, end = (x.to(dtype) for x in pair(kind, batch, generator))
    a, b = form(function, start, 2.0), form(function, end, 0.5)
    at = {t: rotations(function, function(a, b, t)) for t in (0.0, 0.5, 1.0)}
    assert at[0.5].dtype == dtype and at[0.5].shape == (*batch, 3, 3)
    torch.testing.assert_close(at[0.0], start, rtol=0, atol=tolerance)
    torch.testing.assert_close(at[1.0], end, rtol=0, atol=tolerance)
    assert is_rotation(at[0.5], tolerance=4 * tolerance).all()
    half = geodesic_distance(start, end) / 2
    for side in (start, end):
        torch.testing.assert_close(geodesic_distance(side, at[0.5]), half, rtol=0, atol=tolerance)


@pytest.mark.parametrize("function", [quaternion_slerp, geodesic_interpolate])
def test_constant_speed_and_symmetry(function: Callable[..., Tensor], generator: torch.Generator) -> None:
    start, end = pair("uniform", 30, generator)
    a, b = form(function, start), form(function, end)
    t = torch.linspace(-1, 2, 13, dtype=torch.float64)[:, None]
    way = rotations(function, function(a, b, t))
    speed = geodesic_distance(way[:-1], way[1:])
    torch.testing.assert_close(speed, (geodesic_distance(start, end) / 4).expand(12, 30), rtol=0, atol=1e-13)
    torch.testing.assert_close(rotations(function, function(b, a, 1 - t)), way, rtol=0, atol=1e-13)
    # Equivariance from both sides.
    q, p = random_rotations((2, 30), dtype=torch.float64, generator=generator)
    moved = rotations(function, function(form(function, q @ start @ p), form(function, q @ end @ p), t))
    torch.testing.assert_close(moved, q @ way @ p, rtol=0, atol=1e-13)


@given(angle=st.floats(0, math.pi), t=st.floats(-3, 3))
def test_about_a_fixed_axis_angles_interpolate(angle: float, t: float) -> None:
    axis = torch.tensor([2 / 7, 3 / 7, 6 / 7], dtype=torch.float64)
    start = axis_angle_to_matrix(0.4 * axis)
    end = start @ axis_angle_to_matrix(angle * axis)
    expected = axis_angle_to_matrix((0.4 + t * angle) * axis)
    # At half a turn rounding decides which way is the shorter.
    if angle < math.pi - 1e-12:
        torch.testing.assert_close(geodesic_interpolate(start, end, t), expected, rtol=0, atol=1e-13)
    half = torch.tensor([angle / 2, 0.4 / 2], dtype=torch.float64)
    real, size = half.cos(), half.sin()
    first = torch.cat([real[1:], size[1:] * axis])
    turned = torch.tensor(0.2 + angle / 2, dtype=torch.float64)
    second = torch.cat([turned.cos()[None], turned.sin() * axis])
    if angle < math.pi - 1e-12:
        found = quaternion_to_matrix(quaternion_slerp(first, second, t))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_the_line_stays_near_the_arc() -> None:
    angle = torch.linspace(0, math.pi, 40, dtype=torch.float64)[:, None]
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    end = torch.stack([(angle / 2).cos(), (angle / 2).sin(), 0 * angle, 0 * angle], -1)
    start = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    line, arc = (quaternion_to_matrix(f(start, end, t)) for f in (quaternion_nlerp, quaternion_slerp))
    error = geodesic_distance(line, arc)
    assert (error <= angle**3 / 200 + 1e-15).all()
    assert error.max() > 0.14


def test_the_long_way(generator: torch.Generator) -> None:
    q0, q1 = random_quaternions((2, 50), dtype=torch.float64, generator=generator)
    q1 = torch.where(((q0 * q1).sum(-1) > 0)[:, None], -q1, q1)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    long = quaternion_slerp(q0, q1, t, False)
    torch.testing.assert_close(long[-1], q1, rtol=0, atol=1e-14)
    step = 2 * (long[1:] * long[:-1]).sum(-1).clamp(max=1).acos()
    whole = 2 * math.pi - geodesic_distance(*map(quaternion_to_matrix, (q0, q1)))
    torch.testing.assert_close(step, (whole / 8).expand(8, 50), rtol=0, atol=1e-12)
    torch.testing.assert_close(quaternion_slerp(q0, q1, t), quaternion_slerp(q0, -q1, t), rtol=0, atol=1e-14)
    assert (quaternion_slerp(q0, q1, t)[-1] + q1).abs().max() < 1e-14


def test_opposite_quaternions_have_no_way_between() -> None:
    q = torch.tensor([0.1, -0.5, 0.7, 0.5], dtype=torch.float64)
    unit = q / q.norm()
    for function in LONG_WAY:
        for t in (0.0, 0.3, 0.5, 1.0):
            found = function(q, -q, t)
            torch.testing.assert_close(quaternion_to_matrix(found), quaternion_to_matrix(q), rtol=0, atol=1e-14)
    torch.testing.assert_close(quaternion_slerp(q, -q, 0.5, False), unit)
    torch.testing.assert_close(quaternion_nlerp(q, -q, 0.5, False), unit)
    # The nearest that has a way takes it.
    other = -unit + 1e-9 * torch.tensor([5.0, 1, 0, 0], dtype=torch.float64)
    assert geodesic_distance(*map(quaternion_to_matrix, (unit, quaternion_slerp(unit, other, 0.5, False)))) > 3


def test_exactly_half_a_turn_ends_at_the_end() -> None:
    start = torch.tensor([1.0, 0.0, 0.0, 0.0])
    for axis in torch.tensor([[0.0, 0.6, -0.8], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]):
        end = torch.cat([torch.zeros(1), axis])
        torch.testing.assert_close(quaternion_slerp(start, end, 1.0), end)
        torch.testing.assert_close(quaternion_slerp(start, end, 0.5), (start + end) / math.sqrt(2))
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(geodesic_interpolate(torch.eye(3), half_turn, 0.5), quarter)


def test_zero_counts_as_the_identity() -> None:
    zero = torch.zeros(4, requires_grad=True)
    end = torch.tensor([0.6, 0.8, 0.0, 0.0])
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0])
    for function in (quaternion_slerp, quaternion_nlerp):
        found = function(zero, end, 0.5)
        torch.testing.assert_close(found, function(identity, end, 0.5))
        assert torch.equal(torch.autograd.grad(found.sum(), zero)[0], torch.zeros(4))
        for scale in (1e-30, 1e30):
            torch.testing.assert_close(function(scale * identity, scale * end, 0.5), found.detach())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("function", [*FUNCTIONS, *LONG_WAY], ids=IDS)
def test_derivatives(function: Callable[..., Tensor], generator: torch.Generator) -> None:
    start, end = pair("uniform", 3, generator)
    axis = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    near = start[:1] @ axis_angle_to_matrix(1e-3 * axis)
    start, end = torch.cat([start, start[:1], start[1:2]]), torch.cat([end, near, start[1:2]])
    args = [form(function, start, 1.3), form(function, end, 0.8), torch.tensor([0.3, -0.4, 1.7, 0.6, 0.0]).double()]
    args = [x.clone().requires_grad_() for x in args]
    assert torch.autograd.gradcheck(function, args)
    assert torch.autograd.gradgradcheck(function, args)
    assert torch.autograd.gradcheck(function, args, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("function", [*FUNCTIONS, *LONG_WAY], ids=IDS)
def test_two_derivatives_are_finite_everywhere(function: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """For equal rotations, half turns, opposite quaternions, and pairs next to all of these."""
    generator = torch.Generator().manual_seed(0)
    start = random_rotations((3, 1, 1), dtype=torch.float64, generator=generator)
    axes = torch.nn.functional.normalize(torch.randn(1, 2, 1, 3, dtype=torch.float64, generator=generator), dim=-1)
    axes = torch.cat([axes, torch.eye(3, dtype=torch.float64)[None, :, None]], 1)
    gap = torch.tensor([0, 1e-300, 1e-30, 1e-16, 1e-12, 1e-8, 1e-5, 1e-3], dtype=torch.float64)[:, None]
    turns = torch.cat([gap, math.pi - gap, 2 * math.pi - gap])
    first = form(function, start)
    if function is geodesic_interpolate:
        second = start @ axis_angle_to_matrix(turns * axes)
    else:
        turn = torch.cat([(turns / 2).cos().expand(1, 5, 24, 1), (turns / 2).sin() * axes], -1)
        w, v = first[..., :1], first[..., 1:]
        u = turn[..., 1:].expand(3, 5, 24, 3)
        real = w * turn[..., :1] - (v * u).sum(-1, keepdim=True)
        vector = w * u + turn[..., :1] * v + torch.linalg.cross(v.expand_as(u), u)
        second = torch.cat([real, vector], -1)
        second = torch.cat([second, -first.expand(3, 5, 24, 4), first.expand(3, 5, 24, 4), 0 * second], 0)
        first = first.repeat(4, 1, 1, 1)
    for t in (0.0, 0.5, 1.0, -7.0):
        for traced in (False, True):
            args = [x.to(dtype).expand_as(second).clone().requires_grad_() for x in (first, second)]
            args.append(torch.full(second.shape[:3], t, dtype=dtype, requires_grad=True))
            value = torch.vmap(function)(*args) if traced else function(*args)
            assert value.isfinite().all()
            gradients = torch.autograd.grad(value.square().sum() + value.sum(), args, create_graph=True)
            assert all(gradient.isfinite().all() for gradient in gradients)
            if not traced:
                second_order = torch.autograd.grad(sum(g.sum() for g in gradients), args)
                assert all(gradient.isfinite().all() for gradient in second_order)


@pytest.mark.parametrize("function", [*FUNCTIONS, *LONG_WAY], ids=IDS)
def test_compiled_formula_is_the_formula(function: Callable[..., Tensor], generator: torch.Generator) -> None:
    """Value and gradient of the fast path, against those of plain PyTorch."""
    start, end = pair("uniform", 40, generator)
    base = function.func if isinstance(function, partial) else function
    args = [form(function, start, 1.3), -form(function, end), torch.randn(40, dtype=torch.float64, generator=generator)]
    if base is geodesic_interpolate:
        args[1] = end
    args = [x.requires_grad_() for x in args]
    weight = torch.randn_like(args[0])
    found = function(*args)
    # Under a transform the map is its expression.
    plain = torch.vmap(function)(*args)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-13)
    ours, theirs = (torch.autograd.grad((value * weight).sum(), args) for value in (found, plain))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_vmap_broadcasting_and_empty_batches(function: Callable[..., Tensor], generator: torch.Generator) -> None:
    start, end = (form(function, x) for x in pair("uniform", 6, generator))
    t = torch.rand(6, dtype=torch.float64, generator=generator)
    expected = function(start, end, t)
    torch.testing.assert_close(torch.vmap(function)(start, end, t), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        torch.vmap(function, (None, 0, None))(start[0], end, t[0]), function(start[0], end, t[0])
    )
    table = function(start[:, None], end, t[:, None, None])
    assert table.shape == (6, 6, 6, *start.shape[1:])
    torch.testing.assert_close(table[2, 3, 4], function(start[3], end[4], t[2]), rtol=0, atol=1e-14)
    assert function(start[:0], end[:0], 0.5).shape == (0, *start.shape[1:])
    assert function(start[0], end[0], t).shape == start.shape
    assert torch.equal(function(start, end, 0.25), function(start, end, torch.tensor(0.25).double()))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiles_without_breaks(function: Callable[..., Tensor], generator: torch.Generator) -> None:
    start, end = (form(function, x) for x in pair("uniform", 6, generator))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(start, end, 0.3), function(start, end, 0.3), rtol=0, atol=1e-13)


def test_order_of_components_and_alias(generator: torch.Generator) -> None:
    q0, q1 = random_quaternions((2, 5), generator=generator)
    for function in (quaternion_slerp, quaternion_nlerp):
        found = function(q0.roll(-1, -1), q1.roll(-1, -1), 0.3, order="xyzw")
        assert torch.equal(found, function(q0, q1, 0.3).roll(-1, -1))
    assert matrix_slerp is geodesic_interpolate


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(function: Callable[..., Tensor], half: torch.dtype) -> None:
    start, end = (form(function, x) for x in random_rotations((2, 50), generator=torch.Generator().manual_seed(1)))
    a, b = start.to(half), end.to(half)
    assert torch.equal(function(a, b, 0.25), function(a.float(), b.float(), 0.25).to(half))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_stays_where_it_is(function: Callable[..., Tensor], generator: torch.Generator) -> None:
    start, end = (form(function, x) for x in pair("uniform", 3, generator))
    t = torch.tensor([0.5, torch.nan, 0.5], dtype=torch.float64)
    broken = end.clone()
    broken[2].view(-1)[1] = torch.nan
    found = function(start, broken, t).isnan().flatten(1)
    assert found[1:].all() and not found[0].any()
    assert function(start * torch.nan, end, 0.5).isnan().all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_wrong_arguments(function: Callable[..., Tensor]) -> None:
    good = form(function, torch.eye(3))
    text = r"\(\.\.\., 3, 3\)" if function is geodesic_interpolate else r"\(\.\.\., 4\)"
    with pytest.raises(ValueError, match=rf"^start: expected shape {text}, got \(2, 5\)$"):
        function(torch.zeros(2, 5), good, 0.5)
    with pytest.raises(ValueError, match=rf"^end: expected shape {text}, got \(2, 5\)$"):
        function(good, torch.zeros(2, 5), 0.5)
    with pytest.raises(TypeError, match=r"^end: expected a floating point tensor, got torch\.int64$"):
        function(good, good.long(), 0.5)
    with pytest.raises(TypeError, match=r"^start: expected a floating point tensor, got torch\.int64$"):
        function(good.long(), good, 0.5)
    with pytest.raises(TypeError, match=r"^start: expected a torch\.Tensor, got list$"):
        function([1.0], good, 0.5)
    with pytest.raises(TypeError, match=r"^t: expected a floating point tensor, got torch\.int64$"):
        function(good, good, torch.tensor(1))
    with pytest.raises(ValueError, match=r"^start, end, t: expected one dtype, got"):
        function(good, good, torch.tensor(0.5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^start, end, t: expected leading shapes that broadcast, got"):
        function(good.expand(2, *good.shape), good, torch.zeros(3))


@pytest.mark.parametrize("function", [quaternion_slerp, quaternion_nlerp])
def test_unknown_order(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"^order: expected one of 'wxyz', 'xyzw', got 'wzyx'$"):
        function(torch.zeros(4), torch.zeros(4), 0.5, order="wzyx")
