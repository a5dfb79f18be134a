from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rotaware.geo import (
    Alignment,
    assert_equivariant,
    axis_angle_to_matrix,
    compose_transforms,
    geodesic_distance,
    invert_transform,
    is_rotation,
    kabsch,
    make_transform,
    random_rotations,
    sample_rotations,
    transform_normals,
    transform_points,
    umeyama,
)
from rotaware.geo.testing import RotationKind

F64 = torch.float64
ALIGNERS = [kabsch, umeyama]


def normal(*size: int, generator: torch.Generator, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*size, dtype=F64, generator=generator).to(dtype)


def motion(
    kind: RotationKind, batch: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype, scale: float = 1
) -> Tensor:
    rotation = sample_rotations(kind, batch, dtype=dtype, generator=generator)
    size = torch.full(batch, scale, dtype=dtype)
    return make_transform(rotation, normal(*batch, 3, generator=generator, dtype=dtype), scale=size)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_group_axioms(
    scale: float,
    kind: RotationKind,
    batch: tuple[int, ...],
    dtype: torch.dtype,
    tolerance: float,
    generator: torch.Generator,
) -> None:
    a, b, c = (motion(kind, batch, generator, dtype, scale) for _ in range(3))
    identity = torch.eye(4, dtype=dtype).expand(*batch, 4, 4)
    points = normal(*batch, 6, 3, generator=generator, dtype=dtype)
    close = partial(torch.testing.assert_close, rtol=50 * tolerance, atol=50 * tolerance)
    close(compose_transforms(a, invert_transform(a)), identity)
    close(compose_transforms(invert_transform(a), a), identity)
    close(compose_transforms(compose_transforms(a, b), c), compose_transforms(a, compose_transforms(b, c)))
    close(transform_points(compose_transforms(a, b), points), transform_points(a, transform_points(b, points)))
    close(transform_points(invert_transform(a), transform_points(a, points)), points)


def test_action_is_the_formula(dtype: torch.dtype, generator: torch.Generator) -> None:
    rotation = random_rotations(dtype=dtype, generator=generator)
    shift, point = normal(2, 3, generator=generator, dtype=dtype)
    transform = make_transform(rotation, shift, scale=torch.tensor(3, dtype=dtype))
    torch.testing.assert_close(transform_points(transform, point[None])[0], 3 * rotation @ point + shift)
    torch.testing.assert_close(transform_normals(transform, point[None])[0], rotation @ point)
    assert transform[3].tolist() == [0, 0, 0, 1]
    assert torch.equal(make_transform(rotation, shift)[:3, :3], rotation)


def test_leading_axes_broadcast(generator: torch.Generator) -> None:
    transforms = make_transform(random_rotations((4, 1), generator=generator), torch.zeros(3))
    points = torch.randn(5, 6, 3, generator=generator)
    moved = transform_points(transforms, points)
    assert moved.shape == (4, 5, 6, 3)
    torch.testing.assert_close(moved[2, 3], transform_points(transforms[2, 0], points[3]))
    assert make_transform(torch.eye(3), torch.zeros(5, 3), scale=torch.ones(4, 1)).shape == (4, 5, 4, 4)
    assert compose_transforms(transforms, torch.eye(4).expand(5, 4, 4)).shape == (4, 5, 4, 4)


def test_derivatives_of_the_action(generator: torch.Generator) -> None:
    transform = motion("uniform", (2,), generator, F64, scale=1.5).requires_grad_()
    points = normal(2, 3, 3, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(transform_points, (transform, points))
    assert torch.autograd.gradcheck(transform_normals, (transform, points))
    assert torch.autograd.gradcheck(invert_transform, transform)
    assert torch.autograd.gradcheck(compose_transforms, (transform, transform))


@pytest.mark.parametrize("align", ALIGNERS)
def test_recovers_an_exact_motion(
    align: Callable[..., Alignment],
    kind: RotationKind,
    batch: tuple[int, ...],
    dtype: torch.dtype,
    tolerance: float,
    generator: torch.Generator,
) -> None:
    scale = 2.5 if align is umeyama else 1.0
    expected = motion(kind, batch, generator, dtype, scale)
    source = normal(*batch, 10, 3, generator=generator, dtype=dtype)
    found = align(source, transform_points(expected, source))
    torch.testing.assert_close(found.transform, expected, rtol=0, atol=5 * tolerance)
    assert found.residual.shape == found.scale.shape == found.conditioning.shape == batch
    assert {value.dtype for value in found} == {dtype}
    assert (found.residual <= 10 * tolerance).all()
    assert (found.conditioning > 0.1).all()


def test_matches_scipy_on_noisy_weighted_pairs(generator: torch.Generator) -> None:
    for _ in range(20):
        source, target = normal(2, 8, 3, generator=generator)
        weights = torch.rand(8, dtype=F64, generator=generator)
        found = kabsch(source, target, weights=weights)
        w = weights[:, None] / weights.sum()
        x, y = source - (w * source).sum(0), target - (w * target).sum(0)
        rotation, root_loss = Rotation.align_vectors(y.numpy(), x.numpy(), weights=weights.numpy())
        torch.testing.assert_close(found.rotation, torch.from_numpy(rotation.as_matrix()), rtol=0, atol=1e-12)
        assert found.residual.item() == pytest.approx(root_loss / weights.sum().sqrt().item(), rel=1e-12)


@pytest.mark.parametrize("align", ALIGNERS)
def test_no_other_motion_fits_better(align: Callable[..., Alignment], generator: torch.Generator) -> None:
    source, target = normal(2, 8, 3, generator=generator)
    found = align(source, target)

    def cost(transform: Tensor) -> Tensor:
        return (transform_points(transform, source) - target).square().sum(-1).mean(-1).sqrt()

    torch.testing.assert_close(cost(found.transform), found.residual)
    nearby = make_transform(
        found.rotation @ axis_angle_to_matrix(1e-3 * normal(500, 3, generator=generator)),
        found.translation + 1e-3 * normal(500, 3, generator=generator),
        scale=found.scale + (1e-3 * normal(500, generator=generator) if align is umeyama else 0),
    )
    assert (cost(nearby) > found.residual).all()
    anywhere = make_transform(
        random_rotations(500, dtype=F64, generator=generator), found.translation, scale=found.scale
    )
    assert (cost(anywhere) > found.residual).all()


def test_umeyama_published_example() -> None:
    """The worked example of Umeyama 1991, section IV."""
    source = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]], dtype=F64)
    target = torch.tensor([[0.0, 0, 0], [-1, 0, 0], [0, 2, 0]], dtype=F64)
    found = umeyama(source, target)
    assert found.scale.item() == pytest.approx(1.0)  # in space, unlike in the plane of the paper, a half turn fits
    torch.testing.assert_close(found.rotation, torch.diag(torch.tensor([-1.0, 1, -1], dtype=F64)))


@pytest.mark.parametrize("align", ALIGNERS)
@pytest.mark.parametrize("flatness", [1.0, 0.1, 0.0])
def test_never_a_reflection(align: Callable[..., Alignment], flatness: float, generator: torch.Generator) -> None:
    source = normal(50, 12, 3, generator=generator) * torch.tensor([1.0, 1.0, flatness], dtype=F64)
    mirrored = source * torch.tensor([1.0, 1.0, -1.0], dtype=F64)
    target = transform_points(motion("uniform", (50,), generator, F64), mirrored)
    assert is_rotation(align(source, target).rotation, tolerance=1e-14).all()
    if flatness == 0:
        assert (align(source, target).residual < 1e-12).all()


def test_alignment_moves_with_the_clouds(dtype: torch.dtype, generator: torch.Generator) -> None:
    source, target = normal(2, 8, 3, generator=generator, dtype=dtype)
    for align in ALIGNERS:
        assert_equivariant(
            lambda target, align=align: align(source, target).transform,
            [target],
            input_kinds=["point"],
            output_kinds=["transform"],
        )
        assert_equivariant(
            lambda source, align=align: invert_transform(align(source, target).transform),
            [source],
            input_kinds=["point"],
            output_kinds=["transform"],
        )


def test_weights_mean_repetition_and_padding(dtype: torch.dtype, tolerance: float, generator: torch.Generator) -> None:
    source, target = normal(2, 8, 3, generator=generator, dtype=dtype)
    count = torch.tensor([0, 1, 2, 3, 1, 1, 0, 2])
    repeated = umeyama(source.repeat_interleave(count, 0), target.repeat_interleave(count, 0))
    source[count == 0], target[0] = torch.nan, torch.inf
    for scale in (1.0, 1e-30, 1e30):
        weighted = umeyama(source, target, weights=scale * count.to(dtype))
        for name, actual, expected in zip(Alignment._fields, weighted, repeated, strict=True):
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, msg=name)


def test_far_from_the_origin_in_single_precision(generator: torch.Generator) -> None:
    """Nothing is lost beyond the rounding of the input and of the result."""
    source, target = torch.randn(2, 100, 3, generator=generator) + torch.tensor([4000.0, -3000.0, 200.0])
    for single, double in zip(umeyama(source, target), umeyama(source.double(), target.double()), strict=True):
        assert torch.equal(single, double.float())


@pytest.mark.parametrize("gap", [1e-3, 1e-6])
def test_nearly_collinear_points_keep_the_digits_they_have(gap: float, generator: torch.Generator) -> None:
    source = normal(20, 8, 3, generator=generator) * torch.tensor([1.0, gap, gap], dtype=F64)
    source = source @ random_rotations(20, dtype=F64, generator=generator).mT
    expected = motion("uniform", (20,), generator, F64)
    found = kabsch(source, transform_points(expected, source))
    # The covariance holds squares: its rounding over its small singular values is what is left.
    assert geodesic_distance(found.rotation, expected[:, :3, :3]).max() < 1e-14 / gap**2


@pytest.mark.parametrize("align", ALIGNERS)
@pytest.mark.parametrize("data", ["noisy", "equal", "mirrored", "planar"])
def test_exact_derivatives(align: Callable[..., Alignment], data: str, generator: torch.Generator) -> None:
    source = normal(4, 3, generator=generator)
    weights = torch.rand(4, dtype=F64, generator=generator)
    if data == "planar":
        source[..., 2] = 0
    target = {
        "noisy": normal(4, 3, generator=generator),
        "equal": source.clone(),
        "mirrored": source * torch.tensor([1.0, 1.0, -0.5], dtype=F64),
        "planar": source.roll(1, -1),
    }[data]
    tensors = [tensor.requires_grad_() for tensor in (source, target, weights)]

    def solve(source: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        found = align(source, target, weights=weights)
        # The residual has a kink where it is 0.
        return found[: 4 if data in ("noisy", "mirrored") else 3]

    assert torch.autograd.gradcheck(solve, tensors)
    assert torch.autograd.gradgradcheck(solve, tensors, fast_mode=True)


def test_equal_singular_values_are_harmless() -> None:
    target = torch.cat([torch.eye(3, dtype=F64), -torch.eye(3, dtype=F64)])
    source = target.clone().requires_grad_()
    assert kabsch(source, target).conditioning.item() == pytest.approx(2)
    assert torch.autograd.gradcheck(lambda source: kabsch(source, target)[:2], source)
    assert torch.autograd.gradgradcheck(lambda source: kabsch(source, target)[:2], source, fast_mode=True)


def test_vmap_equals_batch(generator: torch.Generator) -> None:
    source, target = normal(2, 4, 6, 3, generator=generator)
    for align in ALIGNERS:
        for mapped, batched in zip(torch.vmap(align)(source, target), align(source, target), strict=True):
            torch.testing.assert_close(mapped, batched)


@pytest.mark.parametrize("align", ALIGNERS)
@pytest.mark.parametrize("case", ["no points", "no weight", "one point", "one source", "one target", "line"])
def test_degenerate_input(align: Callable[..., Alignment], case: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = normal(2, 5, 3, generator=generator, dtype=dtype)
    weights = torch.rand(5, dtype=F64, generator=generator).to(dtype)
    if case in ("no points", "one point"):
        source, target, weights = (tensor[: 0 if case == "no points" else 1] for tensor in (source, target, weights))
    elif case == "no weight":
        weights = 0 * weights
    elif case == "one source":
        source = source[:1].expand(5, 3)
    elif case == "one target":
        target = target[:1].expand(5, 3)
    else:
        source, target = (torch.arange(5, dtype=dtype)[:, None] * torch.eye(3, dtype=dtype)[i] for i in range(2))
    tensors = [tensor.clone().requires_grad_() for tensor in (source, target, weights)]
    found = align(tensors[0], tensors[1], weights=tensors[2])
    gradients = torch.autograd.grad(found.transform.sum() + found.residual, tensors)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert is_rotation(found.rotation)
    assert found.conditioning < 1e-6
    if case != "line":
        assert torch.equal(found.rotation, torch.eye(3, dtype=dtype))
    elif align is umeyama:
        assert found.residual < 1e-5
    if case in ("no points", "no weight"):
        assert torch.equal(found.transform, torch.eye(4, dtype=dtype))
    if case == "one source":
        assert found.scale == 1


def test_overflow_gives_nan(generator: torch.Generator) -> None:
    source = 1e200 * normal(5, 3, generator=generator)
    assert kabsch(source, source).rotation.isnan().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_gives_nan(value: float, generator: torch.Generator) -> None:
    source, target = normal(2, 2, 5, 3, generator=generator)
    clean = kabsch(source[1], target[1])
    source[0, 2, 1] = value
    found = kabsch(source, target)
    assert found.rotation[0].isnan().all() and found.translation[0].isnan().all()
    assert found.residual[0].isnan() and found.conditioning[0].isnan()
    torch.testing.assert_close(found.transform[1], clean.transform)


@pytest.mark.parametrize(
    ("function", "name", "rows", "size"),
    [(transform_points, "points", "N, 3", (5, 2)), (transform_normals, "normals", "N, 3", (3,))],
)
def test_wrong_arguments_of_the_action(function: Callable[..., Tensor], name: str, rows: str, size: tuple) -> None:
    points = torch.zeros(5, 3)
    with pytest.raises(ValueError, match=r"^transform: expected shape \(\.\.\., 4, 4\), got \(3, 3\)$"):
        function(torch.eye(3), points)
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \(\.\.\., {rows}\), got "):
        function(torch.eye(4), torch.zeros(size))
    with pytest.raises(ValueError, match=rf"^transform, {name}: expected one dtype, got torch.float32, torch.float64$"):
        function(torch.eye(4), points.double())
    with pytest.raises(ValueError, match=rf"^transform, {name}: expected one device, got cpu, meta$"):
        function(torch.eye(4), points.to("meta"))
    with pytest.raises(ValueError, match=rf"^transform, {name}: expected leading shapes that broadcast"):
        function(torch.eye(4).expand(4, 4, 4), points.expand(5, 5, 3))
    with pytest.raises(TypeError, match=rf"^{name}: expected a floating point tensor, got torch.int64$"):
        function(torch.eye(4), points.long())


def test_wrong_arguments_of_the_group() -> None:
    eye, shift = torch.eye(3), torch.zeros(3)
    with pytest.raises(ValueError, match=r"^rotation: expected shape \(\.\.\., 3, 3\), got \(4, 4\)$"):
        make_transform(torch.eye(4), shift)
    with pytest.raises(ValueError, match=r"^translation: expected shape \(\.\.\., 3\), got \(4,\)$"):
        make_transform(eye, torch.zeros(4))
    with pytest.raises(TypeError, match=r"^scale: expected a torch\.Tensor, got float$"):
        make_transform(eye, shift, scale=2.0)
    with pytest.raises(ValueError, match=r"^rotation, translation, scale: expected one dtype"):
        make_transform(eye, shift, scale=torch.ones((), dtype=F64))
    with pytest.raises(ValueError, match=r"^rotation, translation: expected one device"):
        make_transform(eye, shift.to("meta"))
    with pytest.raises(ValueError, match=r"^rotation, translation: expected leading shapes that broadcast"):
        make_transform(eye.expand(2, 3, 3), shift.expand(3, 3))
    with pytest.raises(ValueError, match=r"^inner: expected shape \(\.\.\., 4, 4\), got \(3, 3\)$"):
        compose_transforms(torch.eye(4), eye)
    with pytest.raises(ValueError, match=r"^outer, inner: expected one dtype"):
        compose_transforms(torch.eye(4), torch.eye(4, dtype=F64))
    with pytest.raises(ValueError, match=r"^outer, inner: expected one device"):
        compose_transforms(torch.eye(4), torch.eye(4, device="meta"))
    with pytest.raises(ValueError, match=r"^outer, inner: expected leading shapes that broadcast"):
        compose_transforms(torch.eye(4).expand(2, 4, 4), torch.eye(4).expand(3, 4, 4))
    with pytest.raises(ValueError, match=r"^transform: expected shape \(\.\.\., 4, 4\), got \(3, 3\)$"):
        invert_transform(eye)
    with pytest.raises(TypeError, match=r"^transform: expected a floating point tensor"):
        invert_transform(torch.eye(4).long())


@pytest.mark.parametrize("align", ALIGNERS)
def test_wrong_arguments_of_an_alignment(align: Callable[..., Alignment]) -> None:
    points, weights = torch.zeros(5, 3), torch.ones(5)
    with pytest.raises(ValueError, match=r"^source: expected shape \(\.\.\., N, D\), got \(3,\)$"):
        align(points[0], points)
    with pytest.raises(ValueError, match=r"^target: expected shape \(\.\.\., 5, 3\), got \(5, 2\)$"):
        align(points, points[:, :2])
    with pytest.raises(
        ValueError, match=r"^source: expected shape \(\.\.\., N, D\) with D of at least 2, got \(5, 1\)$"
    ):
        align(points[:, :1], points[:, :1])
    with pytest.raises(ValueError, match=r"^target: expected shape \(\.\.\., 5, 3\), got \(4, 3\)$"):
        align(points, points[:4])
    with pytest.raises(ValueError, match=r"^weights: expected shape \(\.\.\., 5\), got \(5, 1\)$"):
        align(points, points, weights=weights[:, None])
    with pytest.raises(ValueError, match=r"^source, target: expected one dtype"):
        align(points, points.double())
    with pytest.raises(ValueError, match=r"^source, target, weights: expected one device"):
        align(points, points, weights=weights.to("meta"))
    with pytest.raises(ValueError, match=r"^source, target, weights: expected leading shapes that broadcast"):
        align(points.expand(2, 5, 3), points, weights=weights.expand(3, 5))
    with pytest.raises(TypeError, match=r"^weights: expected a floating point tensor, got torch.bool$"):
        align(points, points, weights=weights.bool())
