from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from rotaware.geo import (
    axis_angle_to_matrix,
    geodesic_distance,
    is_rotation,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    quaternion_to_matrix,
    random_rotations,
    sample_rotations,
)
from rotaware.geo.interpolation import geodesic_interpolate
from rotaware.geo.means import quaternion_mean, rotation_dispersion, rotation_mean
from rotaware.geo.testing import RotationKind

KINDS = ["chordal", "geodesic", "median"]


def cloud(size: tuple[int, ...], spread: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rotations within an angle of a random centre each, and random weights, in float64."""
    center = random_rotations(size[:-1], dtype=torch.float64, generator=generator).unsqueeze(-3)
    near = axis_angle_to_matrix(
        spread
        * torch.rand(*size, 1, dtype=torch.float64, generator=generator)
        * torch.nn.functional.normalize(torch.randn(*size, 3, dtype=torch.float64, generator=generator), dim=-1)
    )
    return center @ near, torch.rand(size, dtype=torch.float64, generator=generator)


def objective(rotation: Tensor, weights: Tensor, center: Tensor, kind: str) -> Tensor:
    """What the centre of each kind minimises, by its definition."""
    if kind == "chordal":
        return (weights * (rotation - center.unsqueeze(-3)).square().sum((-2, -1))).sum(-1)
    angle = geodesic_distance(rotation, center.unsqueeze(-3))
    return (weights * (angle.square() if kind == "geodesic" else angle)).sum(-1)


@pytest.mark.parametrize("spread", [1e-7, 0.5, 3.0])
def test_chordal_mean_matches_scipy(
    spread: float, batch: tuple[int, ...], dtype: torch.dtype, tolerance: float, generator: torch.Generator
) -> None:
    rotation, weights = cloud((*batch, 20), spread, generator)
    found = rotation_mean(rotation.to(dtype), weights.to(dtype))
    assert (found.shape, found.dtype) == ((*batch, 3, 3), dtype)
    quat = quaternion_mean(matrix_to_quaternion(rotation.to(dtype)), weights.to(dtype))
    assert (quat.shape, quat.dtype) == ((*batch, 4), dtype)
    flat = zip(rotation.reshape(-1, 20, 3, 3), weights.reshape(-1, 20), strict=True)
    means = [Rotation.from_matrix(r.numpy()).mean(w.numpy()).as_matrix() for r, w in flat]
    expected = torch.stack([torch.from_numpy(mean) for mean in means]).reshape(*batch, 3, 3).to(dtype)
    # Chance decides how well a wide cloud determines its mean.
    bound = tolerance * (1 if spread < 1 else 20)
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)
    torch.testing.assert_close(quaternion_to_matrix(quat), expected, rtol=0, atol=bound)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [1e-7, 0.1, 1.0, 1.5])
def test_nothing_near_is_better(kind: str, spread: float, generator: torch.Generator) -> None:
    rotation, weights = cloud((40, 9), spread, generator)
    mean = rotation_mean(rotation, weights, kind=kind)
    assert is_rotation(mean).all()
    best = objective(rotation, weights, mean, kind)
    # The median is exact within 1e-6 radian; the objective cannot change by more than that times the weights.
    slack = 1e-6 * weights.sum(-1) if kind == "median" else 1e-14 * best
    for size in (1e-5, 1e-3, 1e-1, 1.0):
        turn = size * torch.nn.functional.normalize(
            torch.randn(50, 40, 3, dtype=torch.float64, generator=generator), dim=-1
        )
        assert (objective(rotation, weights, mean @ axis_angle_to_matrix(turn), kind) >= best - slack).all()


@pytest.mark.parametrize("spread", [1e-7, 0.1, 1.5, 3.1])
def test_first_order_conditions(spread: float, generator: torch.Generator) -> None:
    """Logarithms, or their directions, balance: the definition of a stationary point, by the logarithm alone."""
    rotation, weights = cloud((40, 30), spread, generator)
    weights = weights / weights.sum(-1, keepdim=True)
    mean = rotation_mean(rotation, weights, kind="geodesic")
    force = (weights[..., None] * matrix_to_axis_angle(mean.mT.unsqueeze(-3) @ rotation)).sum(-2)
    assert force.abs().max() < 1e-14 * max(1, spread)
    if spread > 1e-3:
        median = rotation_mean(rotation, weights, kind="median")
        v = matrix_to_axis_angle(median.mT.unsqueeze(-3) @ rotation)
        force = (weights[..., None] * v / (v.square().sum(-1, keepdim=True) + 1e-12).sqrt()).sum(-2)
        assert force.abs().max() < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_equivariance_and_invariances(
    kind: str, dtype: torch.dtype, tolerance: float, generator: torch.Generator
) -> None:
    rotation, weights = (x.to(dtype) for x in cloud((8, 7), 1.2, generator))
    mean = rotation_mean(rotation, weights, kind=kind)
    bound = 4 * tolerance if kind != "median" else max(4 * tolerance, 1e-9)
    left, right = random_rotations((2, 8, 1), dtype=dtype, generator=generator)
    moved = rotation_mean(left @ rotation @ right, weights, kind=kind)
    torch.testing.assert_close(moved, (left[:, 0] @ mean) @ right[:, 0], rtol=0, atol=bound)
    torch.testing.assert_close(rotation_mean(rotation.mT, weights, kind=kind), mean.mT, rtol=0, atol=bound)
    torch.testing.assert_close(rotation_mean(rotation.flip(1), weights.flip(1), kind=kind), mean, rtol=0, atol=bound)
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(rotation_mean(rotation, scale * weights, kind=kind), mean, rtol=0, atol=bound)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_equal_rotations(
    kind: str, batch: tuple[int, ...], dtype: torch.dtype, tolerance: float, generator: torch.Generator
) -> None:
    rotation = random_rotations(batch, dtype=dtype, generator=generator)
    for count in (1, 2, 5):
        repeated = rotation.unsqueeze(-3).expand(*batch, count, 3, 3)
        torch.testing.assert_close(rotation_mean(repeated, kind=kind), rotation, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["chordal", "geodesic"])
@given(angle=st.floats(0, 3.0), share=st.floats(0.05, 0.95))
def test_the_mean_of_two_lies_between_them(kind: str, angle: float, share: float) -> None:
    start, axis = sample_rotations("uniform", 2, generator=torch.Generator().manual_seed(3))
    end = start @ axis_angle_to_matrix(angle * axis[0])
    pair = torch.stack([start, end])
    middle = geodesic_interpolate(start, end, 0.5)
    torch.testing.assert_close(rotation_mean(pair, kind=kind), middle, rtol=0, atol=1e-13)
    if kind == "geodesic":
        weights = torch.tensor([1 - share, share], dtype=torch.float64)
        found = rotation_mean(pair, weights, kind=kind)
        torch.testing.assert_close(found, geodesic_interpolate(start, end, share), rtol=0, atol=1e-13)


def test_the_median_ignores_outliers(generator: torch.Generator) -> None:
    rotation, _ = cloud((20, 30), 0.01, generator)
    wrong = random_rotations((20, 8), dtype=torch.float64, generator=generator)
    mixed = torch.cat([rotation, wrong], 1)
    center = rotation_mean(rotation)
    assert geodesic_distance(rotation_mean(mixed, kind="median"), center).max() < 0.01
    assert geodesic_distance(rotation_mean(mixed, kind="geodesic"), center).max() > 0.05
    # A sample with more than half of the weight is the median.
    heavy = torch.cat([torch.full((20, 1), 40.0), torch.ones(20, 37)], 1).double()
    assert geodesic_distance(rotation_mean(mixed, heavy, kind="median"), mixed[:, 0]).max() < 1e-5


def test_signs_and_lengths_of_quaternions_do_not_matter(generator: torch.Generator) -> None:
    rotation, weights = cloud((5, 9), 1.0, generator)
    quat = matrix_to_quaternion(rotation)
    factor = torch.randn(5, 9, 1, dtype=torch.float64, generator=generator)
    for kind in KINDS:
        expected = matrix_to_quaternion(rotation_mean(rotation, weights, kind=kind))
        found = quaternion_mean(factor * quat, weights, kind=kind)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 if kind == "median" else 1e-13)
        xyzw = quaternion_mean((factor * quat).roll(-1, -1), weights, kind=kind, order="xyzw")
        assert torch.equal(xyzw, found.roll(-1, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_axes_to_average_over(kind: str, generator: torch.Generator) -> None:
    rotation, weights = cloud((2, 3, 4), 0.7, generator)
    for dim, order in ((-1, (0, 1, 2)), (2, (0, 1, 2)), (0, (1, 2, 0)), (-2, (0, 2, 1))):
        moved = rotation.permute(*order, 3, 4), weights.permute(order)
        torch.testing.assert_close(rotation_mean(rotation, weights, dim, kind=kind), rotation_mean(*moved, kind=kind))
        quat = quaternion_mean(matrix_to_quaternion(rotation), weights, dim, kind=kind)
        torch.testing.assert_close(quaternion_to_matrix(quat), rotation_mean(*moved, kind=kind))
        scatter = rotation_dispersion(rotation, weights, dim)
        torch.testing.assert_close(scatter, rotation_dispersion(*moved))
    flat = rotation.permute(1, 0, 2, 3, 4).flatten(1, 2), weights.permute(1, 0, 2).flatten(1)
    for dim in ((0, 2), (-1, 0), [2, -3]):
        torch.testing.assert_close(rotation_mean(rotation, weights, dim, kind=kind), rotation_mean(*flat, kind=kind))
    assert rotation_mean(rotation, dim=(0, 1, 2), kind=kind).shape == (3, 3)
    # Weights broadcast, in both directions.
    shared = rotation_mean(rotation, weights[0, 0], kind=kind)
    torch.testing.assert_close(shared, rotation_mean(rotation, weights[0, 0].expand(2, 3, 4), kind=kind))
    several = rotation_mean(rotation[0, 0], weights, kind=kind)
    torch.testing.assert_close(several, rotation_mean(rotation[0, 0].expand(2, 3, 4, 3, 3), weights, kind=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_count(kind: str, generator: torch.Generator) -> None:
    rotation, weights = cloud((4, 6), 1.0, generator)
    expected = rotation_mean(rotation, weights, kind=kind)
    for junk in (0.0, 1e30, torch.nan, torch.inf):
        padded = torch.cat([rotation, torch.full((4, 2, 3, 3), junk, dtype=torch.float64)], 1).requires_grad_()
        w = torch.cat([weights, torch.zeros(4, 2, dtype=torch.float64)], 1)
        found = rotation_mean(padded, w, kind=kind)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 if kind == "median" else 1e-13)
        (gradient,) = torch.autograd.grad(found.sum(), padded)
        assert gradient.isfinite().all() and (gradient[:, 6:] == 0).all()
    broken = rotation.clone()
    broken[1, 2, 0, 1] = torch.nan
    found = rotation_mean(broken, weights, kind=kind).isnan().flatten(1).all(-1)
    assert found.tolist() == [False, True, False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_is_the_identity(kind: str, dtype: torch.dtype) -> None:
    rotation = random_rotations((2, 5), dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.zeros(2, 5, dtype=dtype, requires_grad=True)
    found = rotation_mean(rotation, weights, kind=kind)
    assert torch.equal(found, torch.eye(3, dtype=dtype).expand(2, 3, 3))
    for gradient in torch.autograd.grad(found.square().sum() + found.sum(), (rotation, weights)):
        assert torch.equal(gradient, torch.zeros_like(gradient))
    assert torch.equal(rotation_mean(rotation[:, :0], kind=kind), found)
    assert rotation_mean(rotation[:0], kind=kind).shape == (0, 3, 3)
    unit = quaternion_mean(torch.zeros(2, 0, 4, dtype=dtype), kind=kind)
    assert torch.equal(unit, torch.tensor([1.0, 0, 0, 0], dtype=dtype).expand(2, 4))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind: str, generator: torch.Generator) -> None:
    """Exact through the iteration, first and second, in rotations and weights, also at weight 0."""
    rotation, weights = cloud((4,), 0.9, generator)
    # Finite differences meet a negative weight here, which the formulas do not mind.
    weights[2] = 0
    args = (rotation.requires_grad_(), weights.requires_grad_())

    def mean(rotation: Tensor, weights: Tensor) -> Tensor:
        return rotation_mean(rotation, weights, kind=kind, iters=8)

    assert torch.autograd.gradcheck(mean, args)
    assert torch.autograd.gradgradcheck(mean, args, fast_mode=True)
    assert torch.autograd.gradcheck(mean, args, check_forward_ad=True, check_backward_ad=False, fast_mode=True)
    if kind != "median":

        def dispersion(rotation: Tensor, weights: Tensor) -> Tensor:
            return rotation_dispersion(rotation, weights, kind=kind)

        assert torch.autograd.gradcheck(dispersion, args, fast_mode=True)
        assert torch.autograd.gradgradcheck(dispersion, args, fast_mode=True)


def test_derivatives_of_the_quaternion_mean(generator: torch.Generator) -> None:
    rotation, weights = cloud((2, 4), 0.9, generator)
    args = (1.5 * matrix_to_quaternion(rotation).requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(quaternion_mean, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(quaternion_mean, args, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_two_derivatives_are_finite_everywhere(kind: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]]))
    uniform = random_rotations((60, 4), dtype=torch.float64, generator=generator)
    near = uniform[:20, :1] @ axis_angle_to_matrix(
        1e-7 * torch.randn(20, 4, 3, dtype=torch.float64, generator=generator)
    )
    special = torch.stack([
        half_turns, half_turns[[0, 0, 1, 1]], half_turns[[0, 3, 0, 3]], half_turns[[3, 3, 3, 3]],
        half_turns[[3, 3, 3, 0]],
    ]).double()  # fmt: skip
    rotation = torch.cat([uniform, near, special, uniform[:5, :1].expand(5, 4, 3, 3)]).to(dtype).requires_grad_()
    weights = torch.ones(len(rotation), 4, dtype=dtype, requires_grad=True)
    value = rotation_mean(rotation, weights, kind=kind)
    assert is_rotation(value).all()
    args = (rotation, weights)
    gradients = torch.autograd.grad(value.square().sum() + value.sum(), args, create_graph=True)
    assert all(gradient.isfinite().all() for gradient in gradients)
    second = torch.autograd.grad(sum(gradient.sum() for gradient in gradients), args)
    assert all(gradient.isfinite().all() for gradient in second)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_equals_batch(kind: str, generator: torch.Generator) -> None:
    rotation, weights = cloud((6, 5), 1.0, generator)

    def mean(rotation: Tensor, weights: Tensor) -> Tensor:
        return rotation_mean(rotation, weights, kind=kind)

    bound = 1e-9 if kind == "median" else 1e-13
    torch.testing.assert_close(torch.vmap(mean)(rotation, weights), mean(rotation, weights), rtol=0, atol=bound)

    def loss(rotation: Tensor, weights: Tensor) -> Tensor:
        return (mean(rotation, weights) * torch.arange(9).reshape(3, 3)).sum()

    gradient = torch.func.vmap(torch.func.grad(loss))(rotation, weights)
    (expected,) = torch.autograd.grad(loss(rotation.requires_grad_(), weights), rotation)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7 if kind == "median" else 1e-12)


def test_compiles_without_breaks(generator: torch.Generator) -> None:
    rotation, weights = cloud((6, 5), 1.0, generator)

    def mean(rotation: Tensor, weights: Tensor) -> Tensor:
        return rotation_mean(rotation, weights, kind="geodesic", iters=1)

    compiled = torch.compile(mean, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(rotation, weights), mean(rotation, weights), rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", [rotation_mean, rotation_dispersion])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(function: Callable[..., Tensor], half: torch.dtype) -> None:
    rotation = random_rotations((9, 5), generator=torch.Generator().manual_seed(1)).to(half)
    weights = torch.rand(9, 5, generator=torch.Generator().manual_seed(2)).to(half)
    assert torch.equal(function(rotation, weights), function(rotation.float(), weights.float()).to(half))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = function(rotation.float(), weights.float())
    assert torch.equal(inside, function(rotation.float(), weights.float()))


def test_dispersion(kind: RotationKind, dtype: torch.dtype, generator: torch.Generator) -> None:
    start = random_rotations((30, 1), dtype=torch.float64, generator=generator)
    rotation = (start @ sample_rotations(kind, (30, 12), generator=generator)).to(dtype)
    weights = torch.rand(30, 12, dtype=dtype, generator=generator)
    share = (weights / weights.sum(-1, keepdim=True)).double()
    q = matrix_to_quaternion(rotation.double())
    largest = torch.linalg.eigvalsh(torch.einsum("bn,bni,bnj->bij", share, q, q))[:, -1]
    found = rotation_dispersion(rotation, weights)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), 1 - largest, rtol=0, atol=2e-6 if dtype == torch.float32 else 1e-14)
    geodesic = rotation_dispersion(rotation.double(), weights.double(), kind="geodesic")
    center = rotation_mean(rotation.double(), weights.double(), kind="geodesic")
    expected = (share * geodesic_distance(rotation.double(), center[:, None]).square()).sum(-1)
    # The logarithm and the distance see the rounding of the matrices to float32 differently.
    torch.testing.assert_close(geodesic, expected, rtol=1e-6 if dtype == torch.float32 else 1e-9, atol=1e-13)


def test_dispersion_of_known_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    assert abs(rotation_dispersion(random_rotations(50_000, generator=generator)) - 0.75) < 0.01
    same = random_rotations(dtype=torch.float64, generator=generator).expand(5, 3, 3)
    for kind in ("chordal", "geodesic"):
        assert rotation_dispersion(same, kind=kind) < 1e-30
        assert rotation_dispersion(same, torch.zeros(5, dtype=torch.float64), kind=kind) == 0
    # Two turns by +-a about one axis: sin(a / 2)**2, also where 1 - cos(a) would be 0; and the squared angle.
    for angle in (1e-9, 1e-4, 1.0):
        pair = axis_angle_to_matrix(angle * torch.tensor([[0, 0, 1.0], [0, 0, -1.0]], dtype=torch.float64))
        assert math.isclose(rotation_dispersion(pair), math.sin(angle / 2) ** 2, rel_tol=1e-6)
        assert math.isclose(rotation_dispersion(pair, kind="geodesic"), angle**2, rel_tol=1e-6)


@pytest.mark.parametrize("function", [rotation_mean, rotation_dispersion, quaternion_mean])
def test_wrong_arguments(function: Callable[..., Tensor]) -> None:
    name, tail = ("quat", (4,)) if function is quaternion_mean else ("rotation", (3, 3))
    good = torch.ones(5, *tail)
    shape = ", ".join(map(str, tail))
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \(\.\.\., {shape}\), got \(5, 2, 2\)$"):
        function(torch.zeros(5, 2, 2))
    with pytest.raises(TypeError, match=rf"^{name}: expected a floating point tensor, got torch\.int64$"):
        function(good.long())
    with pytest.raises(TypeError, match=r"^weights: expected a floating point tensor, got torch\.int64$"):
        function(good, torch.ones(5).long())
    with pytest.raises(ValueError, match=rf"^{name}, weights: expected one dtype, got torch\.float32, torch\.float64$"):
        function(good, torch.ones(5).double())
    with pytest.raises(ValueError, match=rf"^{name}, weights: expected one device, got cpu, meta$"):
        function(good, torch.ones(5, device="meta"))
    with pytest.raises(
        ValueError, match=rf"^{name}, weights: expected leading shapes that broadcast, got \(5,\), \(3,\)$"
    ):
        function(good, torch.ones(3))
    for dim in (1, -2, (0, 0), (0, -1), ()):
        with pytest.raises(ValueError, match=r"^dim: expected different axes of a batch of 1 axes, got "):
            function(good, dim=dim)
    with pytest.raises(ValueError, match=r"^dim: expected different axes of a batch of 0 axes, got -1$"):
        function(good[0])
    with pytest.raises(ValueError, match=r"^kind: expected one of 'chordal', 'geodesic'(, 'median')?, got 'mean'$"):
        function(good, kind="mean")


def test_unknown_order() -> None:
    with pytest.raises(ValueError, match=r"^order: expected one of 'wxyz', 'xyzw', got 'wzyx'$"):
        quaternion_mean(torch.zeros(2, 4), order="wzyx")
