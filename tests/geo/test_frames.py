from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rotaware.geo import (
    axis_angle_to_matrix,
    geodesic_distance,
    is_rotation,
    quaternion_to_matrix,
    random_quaternions,
    random_rotations,
    rotation_angle,
    sample_rotations,
)
from rotaware.geo.frames import (
    elementary_rotation,
    look_rotation,
    orthonormalize,
    rotation_apply,
    rotation_between_vectors,
    rotation_compose,
    rotation_inverse,
    swing_twist,
)
from rotaware.geo.quaternion import quaternion_raw_multiply
from rotaware.geo.testing import RotationKind, assert_equivariant

ATOL = {torch.float64: 2e-15, torch.float32: 1e-6}
AXES = [list(axis) for axis in itertools.product((-1.0, 0.0, 1.0), repeat=3) if axis != (0, 0, 0)]


def unit(v: Tensor) -> Tensor:
    v = v / v.abs().amax(-1, keepdim=True)
    return v / v.norm(dim=-1, keepdim=True)


def test_products_match_scipy(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    matrices = random_rotations((3, *batch, 20), dtype=dtype, generator=generator)
    a, b, c = (Rotation.from_matrix(m.reshape(-1, 3, 3).double().numpy(), assume_valid=True) for m in matrices)
    atol = 5e-7 if dtype == torch.float32 else 1e-14
    expected = torch.from_numpy((a * b * c).as_matrix()).reshape(*batch, 20, 3, 3)
    for normalize in (False, True):
        product = rotation_compose(*matrices, normalize=normalize)
        assert product.dtype == dtype
        torch.testing.assert_close(product.double(), expected, rtol=0, atol=atol)
    points = torch.randn(*batch, 20, 3, dtype=dtype, generator=generator)
    expected = torch.from_numpy(a.apply(points.reshape(-1, 3).double().numpy())).reshape(*batch, 20, 3)
    torch.testing.assert_close(rotation_apply(matrices[0], points).double(), expected, rtol=0, atol=4 * atol)
    identity = rotation_compose(matrices[0], rotation_inverse(matrices[0]))
    torch.testing.assert_close(identity, torch.eye(3, dtype=dtype).expand_as(identity), rtol=0, atol=atol)
    assert torch.equal(rotation_compose(matrices[0]), matrices[0])


def test_products_broadcast_and_ignore_autocast(generator: torch.Generator) -> None:
    a, b = random_rotations((4, 1), generator=generator), random_rotations(5, generator=generator)
    points = torch.randn(4, 7, 3, generator=generator)
    assert rotation_compose(a, b).shape == (4, 5, 3, 3)
    torch.testing.assert_close(rotation_apply(a, points), points @ a[:, 0].mT)
    expected = rotation_compose(a, b), rotation_apply(a, points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rotation_compose(a, b), expected[0])
        assert torch.equal(rotation_apply(a, points), expected[1])


def test_long_products_can_be_repaired(generator: torch.Generator) -> None:
    steps = random_rotations(500, generator=generator)
    drifted = rotation_compose(*steps)
    for repaired in (orthonormalize(drifted), rotation_compose(*steps, normalize=True)):
        assert is_rotation(repaired, tolerance=5e-7)
        assert geodesic_distance(repaired, drifted) < 1e-4
    exact = random_rotations(50, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(orthonormalize(exact), exact, rtol=0, atol=2e-15)
    torch.testing.assert_close(orthonormalize(exact * 1.1), exact, rtol=0, atol=2e-15)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_elementary_rotations_match_scipy(axis: str, dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    angle = 5 * torch.randn(*batch, 20, dtype=dtype, generator=torch.Generator().manual_seed(4))
    expected = Rotation.from_euler(axis, angle.double().reshape(-1, 1).numpy()).as_matrix()
    made = elementary_rotation(axis, angle)
    assert made.dtype == dtype
    torch.testing.assert_close(made.double().reshape(-1, 3, 3), torch.from_numpy(expected), rtol=0, atol=ATOL[dtype])
    assert elementary_rotation(axis, torch.tensor([math.nan, 1.0]))[0].isnan().all()


def test_between_vectors_is_the_shortest_arc(
    kind: RotationKind, batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    u = unit(torch.randn(*batch, 200, 3, dtype=torch.float64, generator=generator))
    # A turn about an axis perpendicular to u.
    angle = rotation_angle(sample_rotations(kind, (*batch, 200), generator=generator))
    axis = unit(torch.linalg.cross(u, torch.randn(*batch, 200, 3, dtype=torch.float64, generator=generator)))
    expected = axis_angle_to_matrix(angle[..., None] * axis)
    v = (expected @ u[..., None])[..., 0]
    scale = torch.logspace(-25, 25, 200, dtype=torch.float64)[:, None]
    a, b = (scale * u).to(dtype), (v * 3).to(dtype)
    made = rotation_between_vectors(a, b)
    assert made.dtype == dtype and made.shape == (*batch, 200, 3, 3)
    assert is_rotation(made, tolerance=8 * torch.finfo(dtype).eps).all()
    moved = rotation_apply(made, unit(a.double()).to(dtype))
    torch.testing.assert_close(
        moved.double(), unit(b.double()), rtol=0, atol=5e-15 if dtype == torch.float64 else 1.5e-6
    )
    torch.testing.assert_close(rotation_angle(made).double(), angle, rtol=0, atol=4 * ATOL[dtype])
    torch.testing.assert_close(rotation_between_vectors(b, a), made.mT, rtol=0, atol=1e-6 if kind != "near_pi" else 9)
    if kind == "uniform":
        # Near opposite directions the rounding of the arguments turns the axis.
        error = (made.double() - expected).abs().amax((-2, -1)) * (math.pi - angle)
        assert error.max() < 4 * ATOL[dtype]


def test_between_special_vectors(dtype: torch.dtype) -> None:
    u = torch.tensor(AXES, dtype=dtype)
    u = torch.cat([u, u * torch.tensor([1, 0.3, 0.7], dtype=dtype)])
    same = rotation_between_vectors(u, 4 * u)
    torch.testing.assert_close(same, torch.eye(3, dtype=dtype).expand_as(same), rtol=0, atol=ATOL[dtype])
    for factor in (-1, -7, -1e-10, -1e10 / 3):
        opposite = rotation_between_vectors(u, factor * u)
        assert is_rotation(opposite, tolerance=8 * torch.finfo(dtype).eps).all()
        torch.testing.assert_close(rotation_apply(opposite, u), -u, rtol=0, atol=2 * ATOL[dtype])
        torch.testing.assert_close(opposite, opposite.mT, rtol=0, atol=2 * ATOL[dtype])
    # The documented axis: x cross y.
    x = torch.tensor([1, 0, 0], dtype=dtype)
    assert torch.equal(rotation_between_vectors(x, -x), torch.diag(torch.tensor([-1, -1, 1], dtype=dtype)))
    zero = torch.zeros(3, dtype=dtype)
    for a, b in ((x, zero), (zero, x), (zero, zero), (u, zero)):
        made = rotation_between_vectors(a, b)
        assert torch.equal(made, torch.eye(3, dtype=dtype).expand_as(made))


@pytest.mark.parametrize("angle", [0.5, 2.0, 3.0, math.pi - 1e-2, math.pi - 1e-3, math.pi - 1e-4])
def test_between_vectors_near_opposite_is_accurate_in_float32(angle: float, generator: torch.Generator) -> None:
    u = torch.randn(500, 3, generator=generator)
    axis = unit(torch.linalg.cross(u.double(), torch.randn(500, 3, generator=generator).double()))
    v = (axis_angle_to_matrix(angle * axis) @ u.double()[..., None])[..., 0].float()
    moved = rotation_apply(rotation_between_vectors(u, v).double(), unit(u.double()))
    assert (moved - unit(v.double())).norm(dim=-1).max() < 6e-7


def test_look_rotation(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    forward, up = torch.randn(2, *batch, 100, 3, dtype=dtype, generator=generator)
    made = look_rotation(1e10 * forward, 1e-10 * up)
    atol = ATOL[dtype]
    assert made.dtype == dtype and is_rotation(made, tolerance=8 * torch.finfo(dtype).eps).all()
    x, y, z = made.unbind(-1)
    torch.testing.assert_close(z, unit(forward), rtol=0, atol=atol)
    assert ((y * up).sum(-1) > 0).all()
    # up lies in the plane of y and z.
    assert (x * unit(up)).sum(-1).abs().max() < atol
    torch.testing.assert_close(torch.linalg.cross(y, z), x, rtol=0, atol=atol)
    assert look_rotation(forward[..., :1, :], up).shape == (*batch, 100, 3, 3)


def test_look_rotation_is_equivariant(generator: torch.Generator) -> None:
    vectors = list(torch.randn(2, 10, 3, dtype=torch.float64, generator=generator))
    assert_equivariant(look_rotation, vectors, input_kinds=["vector", "vector"], output_kinds=["rotation"])


def test_degenerate_frames() -> None:
    z, zero = torch.tensor([0.0, 0.0, 2.0]), torch.zeros(3)
    for forward, up in ((z, zero), (zero, z), (zero, zero), (z, z), (z, -3 * z), (z, torch.tensor([1e-9, 0, 1]))):
        forward, up = forward.clone().requires_grad_(), up.clone().requires_grad_()
        made = look_rotation(forward, up)
        assert is_rotation(made)
        expected = torch.tensor([0.0, 0, 1]) if forward.any() else torch.tensor([1.0, 0, 0])
        assert torch.equal(made[:, 2].detach(), expected)
        gradients = torch.autograd.grad(made.sum(), (forward, up))
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert torch.equal(gradients[1], torch.zeros(3)) or up[0] != 0


def test_swing_and_twist(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    quat = random_quaternions((*batch, 100), dtype=dtype, generator=generator)
    quat = quat * torch.randn(*batch, 100, 1, dtype=dtype, generator=generator)
    axis = torch.randn(*batch, 100, 3, dtype=dtype, generator=generator)
    swing, twist = swing_twist(quat, axis)
    atol, n = 2 * ATOL[dtype], unit(axis)
    assert swing.dtype == twist.dtype == dtype
    torch.testing.assert_close(quaternion_raw_multiply(swing, twist), unit(quat), rtol=0, atol=atol)
    for part in (swing, twist):
        torch.testing.assert_close(part.norm(dim=-1), torch.ones_like(part[..., 0]), rtol=0, atol=atol)
    assert (swing[..., 1:] * n).sum(-1).abs().max() < atol
    assert torch.linalg.cross(twist[..., 1:], n).abs().max() < atol
    assert (swing[..., 0] >= 0).all()
    # The twist does not move the axis, the swing moves it as the whole rotation does.
    torch.testing.assert_close(rotation_apply(quaternion_to_matrix(twist), n), n, rtol=0, atol=2 * atol)
    whole = rotation_apply(quaternion_to_matrix(quat), n)
    torch.testing.assert_close(rotation_apply(quaternion_to_matrix(swing), n), whole, rtol=0, atol=4 * atol)
    torch.testing.assert_close(quaternion_to_matrix(swing), rotation_between_vectors(n, whole), rtol=0, atol=1e-2)
    by_order = swing_twist(quat.roll(-1, -1), axis, "xyzw")
    assert torch.equal(by_order.swing.roll(1, -1), swing) and torch.equal(by_order.twist.roll(1, -1), twist)
    negative = swing_twist(-quat, axis)
    assert torch.equal(negative.swing, swing) and torch.equal(negative.twist, -twist)


def test_known_swing_and_twist(dtype: torch.dtype) -> None:
    z = torch.tensor([0, 0, 5], dtype=dtype)
    swung = torch.tensor([0.8, 0.6, 0, 0], dtype=dtype)
    identity = torch.tensor([1, 0, 0, 0], dtype=dtype)
    turned = torch.tensor([0.6, 0, 0, -0.8], dtype=dtype)
    for quat, expected in ((swung, (swung, identity)), (turned, (identity, turned)), (0 * swung, (identity, identity))):
        for part, value in zip(swing_twist(quat, z), expected, strict=True):
            torch.testing.assert_close(part, value, rtol=0, atol=ATOL[dtype])
    # The axis turned over: no twist.
    over = torch.tensor([0, 0.6, 0.8, 0], dtype=dtype, requires_grad=True)
    swing, twist = swing_twist(over, z)
    torch.testing.assert_close(swing, over)
    assert torch.equal(twist, identity)
    gradient = torch.autograd.grad(swing.sum() + twist.sum(), over)[0]
    assert gradient.isfinite().all()
    # No axis: all swing.
    swing, twist = swing_twist(turned, 0 * z)
    torch.testing.assert_close(swing, turned)
    torch.testing.assert_close(twist, identity)


TWO_VECTORS: list[tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = [
    (rotation_between_vectors, (3,), (3,)),
    (look_rotation, (3,), (3,)),
    (lambda q, n: torch.cat(swing_twist(q, n), -1), (4,), (3,)),
    (rotation_apply, (3, 3), (3,)),
    (rotation_compose, (3, 3), (3, 3)),
    (lambda a, b: elementary_rotation("y", a + 0 * b), (), ()),
]


# Forward mode makes torch 2.13 import a part of itself that it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("function, first, second", TWO_VECTORS)
def test_exact_derivatives(
    function: Callable[..., Tensor], first: tuple[int, ...], second: tuple[int, ...], generator: torch.Generator
) -> None:
    a = torch.randn(4, *first, dtype=torch.float64, generator=generator)
    b = torch.randn(4, *second, dtype=torch.float64, generator=generator)
    if function is rotation_between_vectors:
        # Equal, nearly equal, and nearly opposite directions.
        a = torch.cat([a, a[:3]])
        b = torch.cat([b, 2 * a[:1], a[1:2] + 1e-7, -a[2:3] + 0.3])
    a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(function, (a, b), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (a, b))


@pytest.mark.parametrize("function, first, second", TWO_VECTORS[:3])
def test_derivatives_are_finite(
    function: Callable[..., Tensor], first: tuple[int, ...], second: tuple[int, ...], dtype: torch.dtype
) -> None:
    rows = [[0, 0, 0, 0], [1, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 2, 0], [1e-30, 0, 1e-30, 0], [-1, 1e-7, 0, 0],
            [-1, 1e-6, 1e-6, 0], [3e38, -3e38, 3e38, 1e38], [1e-13, 0, 0, 1e-13], [0, 1, 1e-7, 1e-7]]  # fmt: skip
    table = torch.tensor(rows, dtype=torch.float64).to(dtype)
    a = table[:, None, : first[0]].clone().requires_grad_()
    b = table[:, : second[0]].clone().requires_grad_()
    made = function(a, b)
    gradients = torch.autograd.grad(made.sum(), (a, b), create_graph=True)
    second_order = torch.autograd.grad(sum(g.sum() for g in gradients), (a, b))
    assert made.isfinite().all()
    assert all(g.isfinite().all() for g in (*gradients, *second_order))


@pytest.mark.parametrize("function, first, second", TWO_VECTORS)
def test_vmap_broadcast_half_nan_and_empty(
    function: Callable[..., Tensor], first: tuple[int, ...], second: tuple[int, ...], generator: torch.Generator
) -> None:
    a = torch.randn(4, 1, *first, generator=generator)
    b = torch.randn(5, *second, generator=generator)
    made = function(a, b)
    assert made.shape[:2] == (4, 5)
    torch.testing.assert_close(torch.vmap(lambda a: function(a, b))(a), made, rtol=0, atol=1e-5)
    half = function(a.half(), b.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half, function(a.half().float(), b.half().float()).half())
    broken = a.clone()
    broken[1] = math.nan
    bad = function(broken, b)
    assert bad[1].isnan().all() and bad[[0, 2, 3]].isfinite().all()
    assert function(a[:0], b).shape == made[:0].shape


@pytest.mark.parametrize("function", [rotation_between_vectors, look_rotation])
def test_compiles_whole(function: Callable[..., Tensor], generator: torch.Generator) -> None:
    a, b = torch.randn(2, 5, 3, generator=generator)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b), function(a, b))


def test_wrong_arguments() -> None:
    eye, v, q = torch.eye(3), torch.ones(3), torch.ones(4)
    with pytest.raises(ValueError, match=r"^rotations: expected at least one, got none$"):
        rotation_compose()
    with pytest.raises(ValueError, match=r"^rotations\[1\]: expected shape \(\.\.\., 3, 3\), got \(3,\)$"):
        rotation_compose(eye, v)
    with pytest.raises(ValueError, match=r"^rotations\[0\], rotations\[1\]: expected one dtype, got"):
        rotation_compose(eye, eye.double())
    for function in (rotation_inverse, orthonormalize):
        with pytest.raises(ValueError, match=r"^rotation: expected shape \(\.\.\., 3, 3\), got \(3,\)$"):
            function(v)
        with pytest.raises(TypeError, match=r"^rotation: expected a floating point tensor, got torch\.int64$"):
            function(eye.long())
    with pytest.raises(ValueError, match=r"^points: expected shape \(\.\.\., 3\), got \(4,\)$"):
        rotation_apply(eye, q)
    with pytest.raises(ValueError, match=r"^rotation, points: expected leading shapes that broadcast, got"):
        rotation_apply(eye.expand(4, 3, 3), v.expand(5, 3))
    with pytest.raises(ValueError, match=r"^axis: expected one of 'x', 'y', 'z', got 'X'$"):
        elementary_rotation("X", torch.tensor(1.0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^angle: expected a torch\.Tensor, got float$"):
        elementary_rotation("x", 1.0)  # type: ignore[arg-type]
    for function, names in ((rotation_between_vectors, "source, target"), (look_rotation, "forward, up")):
        with pytest.raises(ValueError, match=rf"^{names}: expected one device, got cpu, meta$"):
            function(v, v.to("meta"))
        with pytest.raises(ValueError, match=r": expected shape \(\.\.\., 3\), got \(4,\)$"):
            function(v, q)
        with pytest.raises(ValueError, match=rf"^{names}: expected leading shapes that broadcast, got"):
            function(v.expand(4, 3), v.expand(5, 3))
    with pytest.raises(ValueError, match=r"^order: expected one of 'wxyz', 'xyzw', got 'wzyx'$"):
        swing_twist(q, v, "wzyx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^quat: expected shape \(\.\.\., 4\), got \(3,\)$"):
        swing_twist(v, v)
    with pytest.raises(ValueError, match=r"^axis: expected shape \(\.\.\., 3\), got \(4,\)$"):
        swing_twist(q, q)
