from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rotaware.geo import (
    axis_angle_to_matrix,
    axis_angle_to_quaternion,
    check_rotation,
    geodesic_distance,
    is_rotation,
    matrix_to_axis_angle,
    matrix_to_euler,
    matrix_to_quaternion,
    matrix_to_rotation_5d,
    matrix_to_rotation_6d,
    quaternion_to_axis_angle,
    quaternion_to_matrix,
    random_quaternions,
    random_rotations,
    rotation_angle,
    sample_rotations,
)
from rotaware.geo.testing import RotationKind

CONVERSIONS = [
    quaternion_to_matrix,
    matrix_to_quaternion,
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    axis_angle_to_quaternion,
    quaternion_to_axis_angle,
]
QUATERNION_CONVERSIONS = [f for f in CONVERSIONS if "quaternion" in f.__name__]
# Those that jump where the angle passes pi.
JUMPING = [matrix_to_quaternion, matrix_to_axis_angle, axis_angle_to_quaternion, quaternion_to_axis_angle]


def argument(function: Callable[..., Tensor], matrix: Tensor) -> Tensor:
    """What `function` takes for a rotation; quaternions get a length other than 1, which must not matter."""
    if function.__name__.startswith("matrix"):
        return matrix
    if function.__name__.startswith("quaternion"):
        return 1.7 * matrix_to_quaternion(matrix)
    return matrix_to_axis_angle(matrix)


def diagonals() -> Tensor:
    """Unit vectors along the axes and the diagonals, the first nonzero component positive, (13, 3)."""
    axes = [axis for axis in itertools.product((-1, 0, 1), repeat=3) if axis > (0, 0, 0)]
    return torch.nn.functional.normalize(torch.tensor(axes, dtype=torch.float64), dim=-1)


def half_turns() -> Tensor:
    """Exact half turns about the axes and the diagonals, (13, 3, 3)."""
    unit = diagonals()
    return 2 * unit[:, :, None] * unit[:, None, :] - torch.eye(3, dtype=torch.float64)


def special_rotations() -> Tensor:
    """The cube's 24 rotations, half turns about its diagonals, and angles around the switches, near 0 and near pi."""
    signed = [
        torch.eye(3, dtype=torch.float64)[list(order)] * torch.tensor(signs, dtype=torch.float64)
        for order in itertools.permutations(range(3))
        for signs in itertools.product((-1, 1), repeat=3)
    ]
    cube = torch.stack([matrix for matrix in signed if torch.linalg.det(matrix) > 0])
    small = torch.tensor([1e-300, 1e-30, 1e-16, 1e-12, 1e-8, 1e-5, 1e-3, 0.1, 0.4, 0.45, 1.0, 1.5], dtype=torch.float64)
    angles = torch.cat([small, torch.pi - small])
    axes = torch.nn.functional.normalize(torch.tensor([[1.0, 2, 3], [-3, 1, 1]], dtype=torch.float64), dim=-1)
    return torch.cat([cube, half_turns(), axis_angle_to_matrix(angles[:, None, None] * axes).flatten(0, 1)])


def test_matches_scipy(kind: RotationKind, batch: tuple[int, ...], generator: torch.Generator) -> None:
    matrix = sample_rotations(kind, (*batch, 50), generator=generator)
    expected = Rotation.from_matrix(matrix.reshape(-1, 3, 3).numpy(), assume_valid=True)
    quat = torch.from_numpy(expected.as_quat(canonical=True)).reshape(*batch, 50, 4)
    vector = torch.from_numpy(expected.as_rotvec()).reshape(*batch, 50, 3)
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)
    close(matrix_to_quaternion(matrix, order="xyzw"), quat)
    close(matrix_to_axis_angle(matrix), vector)
    close(quaternion_to_axis_angle(quat, order="xyzw"), vector)
    close(axis_angle_to_quaternion(vector, order="xyzw"), quat)
    close(quaternion_to_matrix(quat, order="xyzw"), matrix)
    close(axis_angle_to_matrix(vector), matrix)
    magnitude = torch.from_numpy(expected.magnitude()).reshape(*batch, 50)
    close(rotation_angle(matrix), magnitude)


def test_matches_scipy_beyond_a_turn(generator: torch.Generator) -> None:
    vector = 8 * torch.randn(100, 3, dtype=torch.float64, generator=generator)
    expected = Rotation.from_rotvec(vector.numpy())
    torch.testing.assert_close(axis_angle_to_matrix(vector), torch.from_numpy(expected.as_matrix()), rtol=0, atol=1e-12)
    quat = torch.from_numpy(expected.as_quat(canonical=True, scalar_first=True))
    torch.testing.assert_close(axis_angle_to_quaternion(vector), quat, rtol=0, atol=1e-12)


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_round_trip(
    conversion: Callable[..., Tensor],
    kind: RotationKind,
    batch: tuple[int, ...],
    dtype: torch.dtype,
    tolerance: float,
    generator: torch.Generator,
) -> None:
    matrix = sample_rotations(kind, batch, dtype=dtype, generator=generator)
    made = conversion(argument(conversion, matrix))
    assert made.dtype == dtype
    back = {(3, 3): lambda x: x, (4,): quaternion_to_matrix, (3,): axis_angle_to_matrix}[made.shape[len(batch) :]]
    torch.testing.assert_close(back(made), matrix, rtol=0, atol=tolerance)


def test_special_rotations(dtype: torch.dtype, tolerance: float) -> None:
    exact = special_rotations()
    matrix = exact.to(dtype)
    quat, vector = matrix_to_quaternion(matrix), matrix_to_axis_angle(matrix)
    close = partial(torch.testing.assert_close, rtol=0, atol=tolerance)
    for made in (quaternion_to_matrix(quat), axis_angle_to_matrix(vector)):
        close(made, matrix)
        assert is_rotation(made, tolerance=tolerance).all()
    # Compared as rotations: at angle pi the sign of the axis hangs on the last bit.
    close(quaternion_to_matrix(axis_angle_to_quaternion(vector)), matrix)
    close(axis_angle_to_matrix(quaternion_to_axis_angle(quat)), matrix)
    close(quat.norm(dim=-1), torch.ones(len(quat), dtype=dtype))
    assert (quat[:, 0] >= 0).all()
    torch.testing.assert_close(vector.norm(dim=-1).double(), rotation_angle(exact), rtol=0, atol=2 * tolerance)


def test_small_angles_keep_their_relative_precision(dtype: torch.dtype) -> None:
    angle = torch.logspace(-30, 0, 31, dtype=dtype)
    vector = angle[:, None] * torch.tensor([2 / 7, -3 / 7, 6 / 7], dtype=dtype)
    close = partial(torch.testing.assert_close, rtol=10 * torch.finfo(dtype).eps, atol=0)
    close(matrix_to_axis_angle(axis_angle_to_matrix(vector)), vector)
    close(quaternion_to_axis_angle(axis_angle_to_quaternion(vector)), vector)
    close(rotation_angle(axis_angle_to_matrix(vector)), angle)


def test_half_turns_have_one_answer(dtype: torch.dtype) -> None:
    matrix = half_turns().to(dtype)
    expected = torch.nn.functional.normalize(
        torch.tensor([axis for axis in itertools.product((-1, 0, 1), repeat=3) if axis > (0, 0, 0)], dtype=dtype),
        dim=-1,
    )
    quat = matrix_to_quaternion(matrix)
    assert (quat[:, 0] == 0).all()
    torch.testing.assert_close(quat[:, 1:], expected)
    torch.testing.assert_close(matrix_to_axis_angle(matrix), torch.pi * expected)
    torch.testing.assert_close(quaternion_to_axis_angle(-quat), torch.pi * expected)


def test_orders_agree(generator: torch.Generator) -> None:
    matrix = random_rotations(5, generator=generator)
    wxyz, xyzw = matrix_to_quaternion(matrix), matrix_to_quaternion(matrix, order="xyzw")
    assert torch.equal(wxyz[:, [1, 2, 3, 0]], xyzw)
    assert torch.equal(quaternion_to_matrix(wxyz), quaternion_to_matrix(xyzw, order="xyzw"))
    assert torch.equal(quaternion_to_axis_angle(wxyz), quaternion_to_axis_angle(xyzw, order="xyzw"))
    vector = matrix_to_axis_angle(matrix)
    wxyz = axis_angle_to_quaternion(vector)
    assert torch.equal(wxyz[:, [1, 2, 3, 0]], axis_angle_to_quaternion(vector, order="xyzw"))


def test_real_part_comes_first() -> None:
    quarter_about_z = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    root = math.sqrt(0.5)
    torch.testing.assert_close(matrix_to_quaternion(quarter_about_z), torch.tensor([root, 0.0, 0.0, root]))
    torch.testing.assert_close(matrix_to_axis_angle(quarter_about_z), torch.tensor([0.0, 0.0, math.pi / 2]))


@pytest.mark.parametrize("scale", [-1.0, 1e-30, 1e30])
def test_length_of_a_quaternion_does_not_matter(scale: float, generator: torch.Generator) -> None:
    quat = random_quaternions(20, generator=generator)
    torch.testing.assert_close(quaternion_to_matrix(scale * quat), quaternion_to_matrix(quat))
    torch.testing.assert_close(quaternion_to_axis_angle(scale * quat), quaternion_to_axis_angle(quat))


def test_zero_quaternion_is_the_identity() -> None:
    quat = torch.zeros(4, requires_grad=True)
    matrix, vector = quaternion_to_matrix(quat), quaternion_to_axis_angle(quat)
    assert torch.equal(matrix, torch.eye(3))
    assert torch.equal(vector, torch.zeros(3))
    (matrix.sum() + vector.sum()).backward()
    assert quat.grad is not None and quat.grad.isfinite().all()


def test_nearly_orthogonal_matrix_gives_a_unit_quaternion(generator: torch.Generator) -> None:
    matrix = random_rotations(50, generator=generator) + 0.05 * torch.randn(50, 3, 3, generator=generator)
    torch.testing.assert_close(matrix_to_quaternion(matrix).norm(dim=-1), torch.ones(50))


# Forward mode makes torch 2.13 import a part of itself that it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_exact_derivatives(conversion: Callable[..., Tensor], generator: torch.Generator) -> None:
    close_to_pi = torch.pi - 1e-3
    axis = torch.nn.functional.normalize(torch.randn(3, dtype=torch.float64, generator=generator), dim=-1)
    vectors = torch.stack([0 * axis, 1e-7 * axis, 0.3 * axis, axis, close_to_pi * axis])
    matrix = torch.cat([axis_angle_to_matrix(vectors), sample_rotations("uniform", 2, generator=generator)])
    x = argument(conversion, matrix).detach().requires_grad_()
    assert torch.autograd.gradcheck(conversion, x)
    assert torch.autograd.gradgradcheck(conversion, x)
    assert torch.autograd.gradcheck(conversion, x, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("conversion", [f for f in CONVERSIONS if f not in JUMPING])
def test_exact_derivatives_at_half_turns(conversion: Callable[..., Tensor]) -> None:
    x = argument(conversion, half_turns()[::4]).requires_grad_()
    assert torch.autograd.gradcheck(conversion, x)
    assert torch.autograd.gradgradcheck(conversion, x)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 1e-3, 0.44, 0.46, 1.0, 2.0, 3.0, math.pi - 1e-7, math.pi])
def test_derivative_of_the_logarithm(angle: float) -> None:
    """d log(R exp(w)) / dw at w = 0 is the inverse right Jacobian, also where finite differences would jump."""
    v = angle * torch.tensor([2 / 7, 3 / 7, 6 / 7], dtype=torch.float64)
    matrix = axis_angle_to_matrix(v)
    jacobian = torch.func.jacrev(lambda w: matrix_to_axis_angle(matrix @ axis_angle_to_matrix(w)))(0 * v)
    half = angle / 2
    # (1 - half cot half) / angle**2
    d = 1 / 12 if angle < 1e-5 else (1 - half / math.tan(half)) / angle**2
    hat = torch.linalg.cross(v.expand(3, 3), torch.eye(3, dtype=torch.float64)).T
    expected = torch.eye(3, dtype=torch.float64) + hat / 2 + d * hat @ hat
    # At pi exactly rounding may turn the sign of the axis, and with it that of the odd terms.
    sign = torch.sign(matrix_to_axis_angle(matrix) @ v) if angle else 1
    expected = expected if sign == 1 else -expected
    torch.testing.assert_close(jacobian, expected, rtol=0, atol=2e-9 if angle == 1e-3 else 2e-13)


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_gradients_are_finite_everywhere(conversion: Callable[..., Tensor], dtype: torch.dtype) -> None:
    x = argument(conversion, special_rotations().to(dtype)).requires_grad_()
    y = conversion(x)
    gradient = torch.autograd.grad(y.sum(), x, create_graph=True)[0]
    assert gradient.isfinite().all()
    assert torch.autograd.grad(gradient.square().sum(), x)[0].isfinite().all()


def test_angles_beyond_pi_on_request(dtype: torch.dtype) -> None:
    angle = torch.tensor([0.1, 3.0, 3.3, 6.0, 6.28], dtype=dtype)
    axis = torch.tensor([2 / 7, 3 / 7, 6 / 7], dtype=dtype)
    quat = torch.cat([(angle / 2).cos()[:, None], (angle / 2).sin()[:, None] * axis], -1)
    vector = quaternion_to_axis_angle(quat, shortest=False)
    torch.testing.assert_close(vector, angle[:, None] * axis, rtol=0, atol=20 * torch.finfo(dtype).eps)
    assert quaternion_to_axis_angle(quat).norm(dim=-1).max() <= torch.pi
    # Beside -1 the axis is lost in rounding; value and both derivatives stay finite.
    beside = torch.tensor([[-1, 3e-17, -5e-17, 4e-17], [-1, 1e-9, 0, 0], [-1, 0, 0, 0]], dtype=dtype)
    for function in (quaternion_to_axis_angle, torch.vmap(partial(quaternion_to_axis_angle, shortest=False))):
        x = beside.clone().requires_grad_()
        y = function(x, shortest=False) if function is quaternion_to_axis_angle else function(x)
        gradient = torch.autograd.grad(y.cos().sum(), x, create_graph=True)[0]
        assert y.isfinite().all() and gradient.isfinite().all()
        assert torch.autograd.grad(gradient.sin().sum(), x)[0].isfinite().all()


def test_sign_follows_a_reference(generator: torch.Generator) -> None:
    matrix = random_rotations(50, generator=generator)
    reference = torch.randn(50, 4, generator=generator)
    quat = matrix_to_quaternion(matrix, reference=reference)
    assert ((quat * reference).sum(-1) >= 0).all()
    torch.testing.assert_close(quaternion_to_matrix(quat), matrix, atol=1e-6, rtol=0)


@pytest.mark.parametrize("function", [*CONVERSIONS, rotation_angle])
def test_vmap_equals_batch(function: Callable[..., Tensor], generator: torch.Generator) -> None:
    x = argument(function, random_rotations((4, 2), generator=generator)) if function in CONVERSIONS else None
    x = random_rotations((4, 2), generator=generator) if x is None else x
    # Transforms see the formula in PyTorch, in float32; the batch is computed compiled, in float64.
    torch.testing.assert_close(torch.vmap(torch.vmap(function))(x), function(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("function", CONVERSIONS)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(function: Callable[..., Tensor], half: torch.dtype) -> None:
    matrix = random_rotations(200, generator=torch.Generator().manual_seed(1))
    x = argument(function, matrix).to(half)
    expected = function(x.float())
    assert function(x).dtype == half
    assert torch.equal(function(x), expected.to(half))


@pytest.mark.parametrize("function", [*CONVERSIONS, rotation_angle])
def test_nan_is_not_repaired(function: Callable[..., Tensor]) -> None:
    matrix = torch.eye(3)
    x = argument(function, matrix) if function in CONVERSIONS else matrix
    for i in range(x.numel() if function is not rotation_angle else 0):
        broken = x.clone()
        broken.view(-1)[i] = torch.nan
        assert function(broken).isnan().all(), i
    if function is rotation_angle:
        assert function(matrix * torch.nan).isnan()


def test_empty_batch() -> None:
    for function in CONVERSIONS:
        x = argument(function, torch.eye(3))
        assert function(x.expand(0, *x.shape)).shape[0] == 0
    assert geodesic_distance(torch.zeros(0, 3, 3), torch.eye(3)).shape == (0,)


@pytest.mark.parametrize(
    "function",
    [
        check_rotation,
        partial(matrix_to_quaternion, validate=True),
        partial(matrix_to_axis_angle, validate=True),
        partial(matrix_to_rotation_6d, validate=True),
        partial(matrix_to_rotation_5d, validate=True),
        partial(matrix_to_euler, convention="XYZ", validate=True),
    ],
)
def test_input_is_checked_on_request(function: Callable[..., Tensor], generator: torch.Generator) -> None:
    matrix = random_rotations(5, generator=generator)
    assert function(matrix).isfinite().all()
    matrix[1] *= 1.5
    with pytest.raises(
        ValueError, match=r"got 1 of 5 that are none; largest entry of \|R R\^T - I\| 1\.25, allowed 3e-06$"
    ):
        function(matrix)
    with pytest.raises(
        ValueError, match=r"got 2 of 5 that are none; .*; some have a determinant that is not positive$"
    ):
        function(torch.cat([matrix[:4], -matrix[:1]]))
    assert torch.equal(check_rotation(matrix[2:]), matrix[2:])


def test_distance_is_the_angle(
    kind: RotationKind, batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    matrix = sample_rotations(kind, (*batch, 100), generator=generator)
    a = random_rotations((*batch, 100), dtype=torch.float64, generator=generator)
    b = a @ matrix
    exact = torch.from_numpy(Rotation.from_matrix(matrix.reshape(-1, 3, 3).numpy(), assume_valid=True).magnitude())
    distance = geodesic_distance(a.to(dtype), b.to(dtype))
    assert distance.dtype == dtype
    # What rounding the two matrices to the dtype moves them by; none of it comes from the formula.
    bound = 3e-7 if dtype == torch.float32 else 2e-15
    torch.testing.assert_close(distance.double(), exact.reshape(*batch, 100), rtol=0, atol=bound)


def test_distance_near_zero_and_near_pi_to_a_few_units_of_rounding(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    angle = torch.logspace(-30, 0, 61, dtype=dtype)
    axis = torch.tensor([2 / 7, 3 / 7, 6 / 7], dtype=dtype)
    identity = torch.eye(3, dtype=dtype)
    small = geodesic_distance(identity, axis_angle_to_matrix(angle[:, None] * axis))
    torch.testing.assert_close(small, angle, rtol=4 * eps, atol=0)
    half_turn = torch.diag(torch.tensor([-1, -1, 1], dtype=dtype))
    about_z = axis_angle_to_matrix(angle[:, None] * torch.tensor([0, 0, 1], dtype=dtype))
    large = geodesic_distance(half_turn, about_z)
    torch.testing.assert_close(large, torch.pi - angle, rtol=0, atol=4 * eps)


def test_distance_is_a_metric_and_bi_invariant(
    dtype: torch.dtype, tolerance: float, generator: torch.Generator
) -> None:
    a, b, c, q = random_rotations((4, 200), dtype=dtype, generator=generator)
    ab = geodesic_distance(a, b)
    assert torch.equal(geodesic_distance(a, a), torch.zeros(200, dtype=dtype))
    torch.testing.assert_close(geodesic_distance(b, a), ab, rtol=0, atol=tolerance)
    torch.testing.assert_close(geodesic_distance(q @ a, q @ b), ab, rtol=0, atol=tolerance)
    torch.testing.assert_close(geodesic_distance(a @ q, b @ q), ab, rtol=0, atol=tolerance)
    assert (geodesic_distance(a, c) <= ab + geodesic_distance(b, c) + tolerance).all()
    torch.testing.assert_close(rotation_angle(a.mT @ b), ab, rtol=0, atol=tolerance)


def test_distance_derivatives(generator: torch.Generator) -> None:
    a, b = random_rotations((2, 4), dtype=torch.float64, generator=generator)
    near_zero, near_pi = (
        axis_angle_to_matrix(torch.tensor([[0.0, 0.0, angle]], dtype=torch.float64))
        for angle in (1e-2, torch.pi - 1e-2)
    )
    b = torch.cat([b, a[:1] @ near_zero, a[:1] @ near_pi])
    a = torch.cat([a, a[:1], a[:1]])
    a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(geodesic_distance, (a, b))
    assert torch.autograd.gradgradcheck(geodesic_distance, (a, b))
    assert torch.autograd.gradcheck(rotation_angle, b)


def test_distance_gradient_is_bounded(kind: RotationKind, dtype: torch.dtype, generator: torch.Generator) -> None:
    a = random_rotations(500, dtype=torch.float64, generator=generator)
    b = a @ sample_rotations(kind, 500, generator=generator)
    a, b = a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()
    for gradient in torch.autograd.grad(geodesic_distance(a, b).sum(), (a, b)):
        assert gradient.abs().max() < 0.6


def test_distance_gradient_is_zero_at_its_kinks() -> None:
    a = torch.eye(3).expand(5, 3, 3).clone().requires_grad_()
    b = torch.cat([torch.eye(3)[None], half_turns().float()[[0, 1, 2, 3]]])
    distance = geodesic_distance(a, b)
    torch.testing.assert_close(distance, torch.tensor([0.0] + [math.pi] * 4))
    distance.sum().backward()
    assert a.grad is not None and a.grad.isfinite().all()
    assert torch.equal(a.grad[0], torch.zeros(3, 3))


def test_distance_broadcasts(generator: torch.Generator) -> None:
    a, b = random_rotations((4, 1), generator=generator), random_rotations(5, generator=generator)
    table = geodesic_distance(a, b)
    assert table.shape == (4, 5)
    assert table[3, 2] == geodesic_distance(a[3, 0], b[2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rounded_rotations_are_rotations(dtype: torch.dtype, generator: torch.Generator) -> None:
    matrix = random_rotations((4, 500), dtype=torch.float64, generator=generator)
    assert is_rotation(matrix.to(dtype)).all()
    assert is_rotation(matrix.to(dtype)).shape == (4, 500)


def test_what_is_not_a_rotation(generator: torch.Generator) -> None:
    matrix = random_rotations(50, dtype=torch.float64, generator=generator)
    for wrong in (-matrix, 1.001 * matrix, matrix + 1e-6, 0 * matrix, matrix * torch.nan, matrix.roll(1, -2) * -1):
        assert not is_rotation(wrong).any()
    assert is_rotation(matrix + 1e-6, tolerance=1e-5).all()


@pytest.mark.parametrize("function", [*CONVERSIONS, rotation_angle, is_rotation])
def test_wrong_arguments(function: Callable[..., Tensor]) -> None:
    name = function.__name__.split("_to_")[0] if "_to_" in function.__name__ else "matrix"
    name = "quat" if name == "quaternion" else name
    shape = {"quat": (4,), "axis_angle": (3,), "matrix": (3, 3)}[name]
    text = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \(\.\.\., {text}\), got \(2, 5\)$"):
        function(torch.zeros(2, 5))
    with pytest.raises(TypeError, match=f"^{name}: expected a floating point tensor, got torch.int64$"):
        function(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("function", QUATERNION_CONVERSIONS)
def test_unknown_order(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"^order: expected one of 'wxyz', 'xyzw', got 'wzyx'$"):
        function(argument(function, torch.eye(3)), order="wzyx")


def test_wrong_arguments_of_the_distance() -> None:
    with pytest.raises(ValueError, match=r"^other: expected shape \(\.\.\., 3, 3\), got \(4, 4\)$"):
        geodesic_distance(torch.eye(3), torch.eye(4))
    with pytest.raises(TypeError, match=r"^rotation: expected a floating point tensor, got torch\.int64$"):
        geodesic_distance(torch.eye(3, dtype=torch.int64), torch.eye(3))
    with pytest.raises(ValueError, match=r"^rotation, other: expected one dtype, got"):
        geodesic_distance(torch.eye(3), torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^rotation, other: expected one device, got cpu, meta"):
        geodesic_distance(torch.eye(3), torch.eye(3, device="meta"))
    with pytest.raises(
        ValueError, match=r"^rotation, other: expected leading shapes that broadcast, got \(4,\), \(5,\)"
    ):
        geodesic_distance(torch.eye(3).expand(4, 3, 3), torch.eye(3).expand(5, 3, 3))
