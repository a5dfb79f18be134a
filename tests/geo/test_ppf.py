from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rotaware.geo import assert_invariant, point_pair_features, signed_point_pair_features

FEATURES = [point_pair_features, signed_point_pair_features]
KINDS = ["point", "vector", "point", "vector"]
NAMES = ["anchor_points", "anchor_normals", "neighbor_points", "neighbor_normals"]


def pairs(batch: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    points1, normals1, points2, normals2 = torch.randn(4, *batch, 3, dtype=torch.float64, generator=generator)
    normals1, normals2 = (torch.nn.functional.normalize(normals, dim=-1) for normals in (normals1, normals2))
    return [tensor.to(dtype) for tensor in (points1, normals1, points2, normals2)]


def test_published_value(dtype: torch.dtype) -> None:
    """The check value of the RoITr specification, section 3."""
    p1, n1 = torch.tensor([0, 0, 0], dtype=dtype), torch.tensor([0, 0, 1], dtype=dtype)
    p2, n2 = torch.tensor([1, 0, 1], dtype=dtype), torch.tensor([1, 0, 0], dtype=dtype)
    expected = torch.tensor([2**0.5, 0.25, 0.25, 0.5], dtype=dtype)
    torch.testing.assert_close(point_pair_features(p1, n1, p2, n2), expected)
    signed = signed_point_pair_features(p1, n1, p2, n2)
    torch.testing.assert_close(signed, torch.cat([expected, torch.zeros(1, dtype=dtype)]))


def test_definition(batch: tuple[int, ...], dtype: torch.dtype, tolerance: float, generator: torch.Generator) -> None:
    p1, n1, p2, n2 = pairs((*batch, 20), generator)
    d = p2 - p1

    def angle(a: Tensor, b: Tensor) -> Tensor:
        return ((a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)).acos() / torch.pi

    volume = torch.linalg.det(torch.stack([n1, d, n2], -1)) / d.norm(dim=-1)
    expected = torch.stack([d.norm(dim=-1), angle(n1, d), angle(n2, d), angle(n1, n2), volume], -1)
    features = signed_point_pair_features(*(tensor.to(dtype) for tensor in (p1, n1, p2, n2)))
    assert features.dtype == dtype
    torch.testing.assert_close(features.double(), expected, rtol=0, atol=max(5 * tolerance, 1e-13))


@pytest.mark.parametrize("features", FEATURES)
def test_rigid_motions_change_nothing(
    features: Callable[..., Tensor], batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    inputs = pairs((*batch, 50), generator, dtype)
    assert_invariant(features, inputs, input_kinds=KINDS, tolerance=1e-12 if dtype == torch.float64 else 5e-6)


def test_reflection_changes_only_the_sign(generator: torch.Generator) -> None:
    inputs = pairs((50,), generator)
    mirrored = [tensor * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64) for tensor in inputs]
    torch.testing.assert_close(point_pair_features(*mirrored), point_pair_features(*inputs))
    signs = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(signed_point_pair_features(*mirrored), signs * signed_point_pair_features(*inputs))
    assert signed_point_pair_features(*inputs)[:, 4].abs().median() > 0.1


def test_scale_changes_only_the_distance(generator: torch.Generator) -> None:
    p1, n1, p2, n2 = pairs((50,), generator)
    factors = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    scaled = signed_point_pair_features(3 * p1, n1, 3 * p2, n2)
    torch.testing.assert_close(scaled, factors * signed_point_pair_features(p1, n1, p2, n2))
    longer_normals = signed_point_pair_features(p1, 2 * n1, p2, 5 * n2)
    torch.testing.assert_close(longer_normals, signed_point_pair_features(p1, n1, p2, n2))


def test_swapping_the_two_points(generator: torch.Generator) -> None:
    p1, n1, p2, n2 = pairs((50,), generator)
    distance, a1, a2, a12, volume = signed_point_pair_features(p1, n1, p2, n2).unbind(-1)
    swapped = signed_point_pair_features(p2, n2, p1, n1)
    torch.testing.assert_close(swapped, torch.stack([distance, 1 - a2, 1 - a1, a12, volume], -1))


def test_flipping_a_normal(generator: torch.Generator) -> None:
    p1, n1, p2, n2 = pairs((50,), generator)
    distance, a1, a2, a12, volume = signed_point_pair_features(p1, n1, p2, n2).unbind(-1)
    anchor_flipped = torch.stack([distance, 1 - a1, a2, 1 - a12, -volume], -1)
    torch.testing.assert_close(signed_point_pair_features(p1, -n1, p2, n2), anchor_flipped)
    neighbor_flipped = torch.stack([distance, a1, 1 - a2, 1 - a12, -volume], -1)
    torch.testing.assert_close(signed_point_pair_features(p1, n1, p2, -n2), neighbor_flipped)


def test_small_angles_keep_their_precision(dtype: torch.dtype) -> None:
    angle = torch.logspace(-12, -1, 12, dtype=dtype)
    tilted = torch.stack([angle.sin(), 0 * angle, angle.cos()], -1)
    up = torch.tensor([0, 0, 1], dtype=dtype)
    features = point_pair_features(0 * up, up, up, tilted)
    torch.testing.assert_close(features[:, 3] * torch.pi, angle, rtol=1e-6, atol=0)
    opposite = point_pair_features(0 * up, -up, up, tilted)
    torch.testing.assert_close(opposite[:, 3] * torch.pi, torch.pi - angle, rtol=0, atol=1e-6)


def test_coincident_points(dtype: torch.dtype, generator: torch.Generator) -> None:
    point, n1, _, n2 = (tensor.requires_grad_() for tensor in pairs((), generator, dtype))
    features = signed_point_pair_features(point, n1, point, n2)
    assert features[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0]
    for gradient in torch.autograd.grad(features.sum(), (point, n1, n2)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("features", FEATURES)
def test_exact_derivatives(features: Callable[..., Tensor], generator: torch.Generator) -> None:
    inputs = [tensor.requires_grad_() for tensor in pairs((3,), generator)]
    assert torch.autograd.gradcheck(features, inputs)
    assert torch.autograd.gradgradcheck(features, inputs)


@pytest.mark.parametrize("features", FEATURES)
def test_gradients_are_finite_where_vectors_are_parallel(features: Callable[..., Tensor]) -> None:
    up, zero = torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3)
    for first, second, offset in [(up, up, up), (up, -up, up), (up, up, -up), (zero, up, up), (zero, zero, zero)]:
        inputs = [tensor.clone().requires_grad_() for tensor in (zero, first, offset, second)]
        gradients = torch.autograd.grad(features(*inputs).sum(), inputs, create_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients)
        length = torch.cat(gradients).square().sum()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(length, inputs))


@pytest.mark.parametrize("features", FEATURES)
def test_a_neighborhood_broadcasts_its_center(features: Callable[..., Tensor], generator: torch.Generator) -> None:
    points, normals, _, _ = pairs((7,), generator)
    index = torch.randint(7, (7, 4), generator=generator)
    table = features(points[:, None], normals[:, None], points[index], normals[index])
    assert table.shape[:2] == (7, 4)
    i, j = 3, 2
    single = features(points[i], normals[i], points[index[i, j]], normals[index[i, j]])
    torch.testing.assert_close(table[i, j], single)
    torch.testing.assert_close(torch.vmap(features)(points, normals, points, normals), features(*[points, normals] * 2))


@pytest.mark.parametrize("features", FEATURES)
def test_half_precision_is_rounded_once(features: Callable[..., Tensor], generator: torch.Generator) -> None:
    inputs = pairs((20,), generator, torch.float16)
    assert torch.equal(features(*inputs), features(*(tensor.float() for tensor in inputs)).half())


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("position", range(4))
def test_wrong_arguments(features: Callable[..., Tensor], position: int) -> None:
    def call(wrong: Tensor) -> None:
        inputs = [torch.ones(5, 3)] * 4
        inputs[position] = wrong
        features(*inputs)

    name, all_names = NAMES[position], ", ".join(NAMES)
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \(\.\.\., 3\), got \(5, 4\)$"):
        call(torch.ones(5, 4))
    with pytest.raises(TypeError, match=f"^{name}: expected a floating point tensor, got torch.int64$"):
        call(torch.ones(5, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=f"^{all_names}: expected one dtype"):
        call(torch.ones(5, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=f"^{all_names}: expected one device"):
        call(torch.ones(5, 3, device="meta"))
    with pytest.raises(ValueError, match=f"^{all_names}: expected leading shapes that broadcast"):
        call(torch.ones(4, 3))
