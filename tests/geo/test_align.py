"""Alignment in any dimension, of vectors, and with reflections; in space `test_rigid.py` has the rest."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.transform import Rotation

from rotaware.geo import align_points, align_vectors, kabsch, random_o_n, random_so_n, umeyama

F64 = torch.float64


@pytest.mark.parametrize("dim", [2, 3, 4, 6])
def test_recovers_a_similarity_of_any_dimension(dim: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    source = torch.randn(4, 3 * dim, dim, dtype=F64, generator=generator)
    rotation = random_so_n(dim, 4, dtype=F64, generator=generator)
    scale = torch.tensor([0.5, 1.0, 2.0, 7.0], dtype=F64)
    translation = torch.randn(4, dim, dtype=F64, generator=generator)
    target = scale[:, None, None] * source @ rotation.mT + translation[:, None]
    found = align_points(source.to(dtype), target.to(dtype), scale=True)
    bound = 1e-12 if dtype == F64 else 1e-5
    torch.testing.assert_close(found.rotation.double(), rotation, atol=bound, rtol=0)
    torch.testing.assert_close(found.scale.double(), scale, atol=bound, rtol=bound)
    torch.testing.assert_close(found.translation.double(), translation, atol=bound, rtol=bound)
    homogeneous = torch.cat([source, torch.ones_like(source[..., :1])], -1)
    moved = (homogeneous @ found.transform.double().mT)[..., :dim]
    torch.testing.assert_close(moved, target, atol=20 * bound, rtol=0)


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_reflections_only_where_allowed(dim: int, generator: torch.Generator) -> None:
    source = torch.randn(50, 4 * dim, dim, dtype=F64, generator=generator)
    orthogonal = random_o_n(dim, 50, dtype=F64, generator=generator)
    target = source @ orthogonal.mT
    found = align_points(source, target, allow_reflection=True)
    torch.testing.assert_close(found.rotation, orthogonal, atol=1e-10, rtol=0)
    proper = align_points(source, target)
    mirrored = torch.linalg.det(orthogonal) < 0
    assert mirrored.any() and not mirrored.all()
    assert (torch.linalg.det(proper.rotation) > 0).all()
    assert (proper.residual[mirrored] > 0.1).all()
    assert (found.residual < 1e-10).all()


def test_flags_what_the_points_leave_open(generator: torch.Generator) -> None:
    line = torch.randn(10, 1, dtype=F64, generator=generator) * torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    plane = line + torch.randn(10, 1, dtype=F64, generator=generator) * torch.tensor([3.0, 0.0, -1.0], dtype=F64)
    assert align_points(line, line).conditioning < 1e-12
    assert align_points(plane, plane).conditioning > 1e-3
    assert align_points(plane, plane, allow_reflection=True).conditioning < 1e-12


def test_vectors_are_those_of_scipy(generator: torch.Generator) -> None:
    source, target = torch.randn(2, 7, 3, dtype=F64, generator=generator)
    weights = torch.rand(7, dtype=F64, generator=generator)
    expected, _ = Rotation.align_vectors(target.numpy(), source.numpy(), weights=weights.numpy())
    found = align_vectors(source, target, weights)
    torch.testing.assert_close(found.rotation, torch.from_numpy(expected.as_matrix()), atol=1e-12, rtol=0)
    assert not found.translation.any() and found.scale == 1


def test_names_of_the_literature_are_the_general_function(generator: torch.Generator) -> None:
    source, target = torch.randn(2, 9, 3, dtype=F64, generator=generator)
    weights = torch.rand(9, dtype=F64, generator=generator)
    for named, general in (
        (kabsch(source, target, weights=weights), align_points(source, target, weights)),
        (umeyama(source, target, weights=weights), align_points(source, target, weights, scale=True)),
    ):
        assert all(torch.equal(one, other) for one, other in zip(named, general, strict=True))


def test_derivatives(generator: torch.Generator) -> None:
    source, target = torch.randn(2, 6, 2, dtype=F64, generator=generator)
    weights = torch.rand(6, dtype=F64, generator=generator)
    arguments = tuple(x.requires_grad_() for x in (source, target, weights))
    for function in (align_points, align_vectors):
        assert torch.autograd.gradcheck(lambda *a, f=function: f(*a)[:1], arguments)
        assert torch.autograd.gradgradcheck(lambda *a, f=function: f(*a)[:1], arguments)
