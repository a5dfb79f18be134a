from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from rotaware.geo import axis_angle_to_matrix, geodesic_distance, is_rotation, random_rotations
from rotaware.geo.symmetry import axis_distance, symmetric_geodesic_distance, symmetry_group

NAMES = ["C1", "C2", "C3", "C4", "C5", "C8", "C12", "C100", "D1", "D2", "D3", "D4", "D5", "D6", "D7", "T", "O", "I"]
SIZES = {"T": 12, "O": 24, "I": 60}
Z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_groups_match_scipy(name: str) -> None:
    group = symmetry_group(name)
    expected = torch.from_numpy(Rotation.create_group(name).as_matrix())
    assert len(group) == len(expected) == SIZES.get(name, 0) or len(group) == int(name[1:]) * (1 + (name[0] == "D"))
    gap = (group[:, None] - expected).abs().amax((-2, -1))
    assert gap.amin(0).max() < 1e-14 and gap.amin(1).max() < 1e-14


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_groups(name: str, dtype: torch.dtype) -> None:
    group = symmetry_group(name, dtype=dtype)
    assert group.dtype == dtype
    assert torch.equal(group[0], torch.eye(3, dtype=dtype))
    assert is_rotation(group, tolerance=8 * torch.finfo(dtype).eps).all()
    products = (group[:, None] @ group).flatten(0, 1)
    gap = torch.cdist(products.flatten(1), group.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert gap.amin(1).max() < (1e-14 if dtype == torch.float64 else 1e-5)
    # Each element once in each row of the table.
    table = gap.argmin(1).view(len(group), len(group)).sort().values
    assert torch.equal(table, torch.arange(len(group)).expand_as(table))


def test_entries_are_exact() -> None:
    for name in ("C1", "C2", "C4", "D2", "D4", "T", "O"):
        assert set(symmetry_group(name).abs().unique().tolist()) == {0.0, 1.0}
    assert len(symmetry_group("I").abs().unique()) == 5
    assert {0.0, 0.5, 1.0} < set(symmetry_group("C6").abs().unique().tolist())
    assert len(symmetry_group("C12").abs().unique()) == 4
    # No negative zero.
    assert not any((torch.signbit(g) & (g == 0)).any() for g in map(symmetry_group, NAMES))


def test_icosahedron_keeps_its_corners() -> None:
    golden = (1 + math.sqrt(5)) / 2
    corners = torch.tensor([[0, a, b * golden] for a in (-1, 1) for b in (-1, 1)], dtype=torch.float64)
    corners = torch.cat([corners.roll(k, -1) for k in range(3)])
    moved = corners @ symmetry_group("I").mT
    assert torch.cdist(moved.flatten(0, 1), corners).amin(1).max() < 1e-14


@pytest.mark.parametrize("name", ["C1", "C5", "D3", "T", "O", "I"])
def test_distance_is_the_smallest(name: str, dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = random_rotations((2, *batch, 50), dtype=dtype, generator=generator)
    group = symmetry_group(name, dtype=dtype)
    distance = symmetric_geodesic_distance(a, b, name)
    expected = geodesic_distance(a[..., None, :, :] @ group, b[..., None, :, :]).amin(-1)
    tolerance = 2e-15 if dtype == torch.float64 else 1e-6
    assert distance.dtype == dtype and distance.shape == (*batch, 50)
    torch.testing.assert_close(distance, expected, rtol=0, atol=tolerance)
    assert torch.equal(symmetric_geodesic_distance(a, b, symmetry_group(name)), distance)
    # A symmetry of the object changes nothing, and neither does a turn of the world.
    s = group[len(group) // 2]
    q = random_rotations(dtype=dtype, generator=generator)
    torch.testing.assert_close(symmetric_geodesic_distance(a @ s, b, group), distance, rtol=0, atol=2 * tolerance)
    torch.testing.assert_close(symmetric_geodesic_distance(q @ a, q @ b, group), distance, rtol=0, atol=2 * tolerance)
    assert symmetric_geodesic_distance(a, a @ s, group).max() < 2 * tolerance


def test_distance_broadcasts_with_vmap_half_and_nan(generator: torch.Generator) -> None:
    a, b = random_rotations((4, 1), generator=generator), random_rotations(5, generator=generator)
    table = symmetric_geodesic_distance(a, b, "T")
    assert table.shape == (4, 5)
    group = symmetry_group("T")
    batched = torch.vmap(lambda a: symmetric_geodesic_distance(a, b, group))(a)
    torch.testing.assert_close(batched, table, rtol=0, atol=1e-6)
    assert symmetric_geodesic_distance(a.half(), b.half(), "T").dtype == torch.float16
    assert symmetric_geodesic_distance(b[:0], b[0], "T").shape == (0,)
    broken = b.clone()
    broken[2, 1, 1] = math.nan
    assert torch.equal(symmetric_geodesic_distance(a, broken, "T").isnan().any(0), torch.arange(5) == 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(symmetric_geodesic_distance(a, b, "T"), table)


def test_distance_derivatives(generator: torch.Generator) -> None:
    a, b = random_rotations((2, 2), dtype=torch.float64, generator=generator)
    a.requires_grad_(), b.requires_grad_()
    for group in ("C3", "O"):
        assert torch.autograd.gradcheck(lambda a, b, g=group: symmetric_geodesic_distance(a, b, g), (a, b))
        assert torch.autograd.gradgradcheck(lambda a, b, g=group: symmetric_geodesic_distance(a, b, g), (a, b))
    # Midway between two equivalent poses.
    eighth = axis_angle_to_matrix(Z * math.pi / 4)[None].requires_grad_()
    distance = symmetric_geodesic_distance(eighth, torch.eye(3, dtype=torch.float64), "C4")
    torch.testing.assert_close(distance, torch.tensor([math.pi / 4], dtype=torch.float64))
    assert torch.autograd.grad(distance.sum(), eighth)[0].abs().max() < 1


def test_compiles_whole(generator: torch.Generator) -> None:
    a, b = random_rotations((2, 3), generator=generator)
    group = symmetry_group("O")
    compiled = torch.compile(symmetric_geodesic_distance, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b, group), symmetric_geodesic_distance(a, b, group))


def test_axis_distance_is_the_angle_of_axes(dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = random_rotations((2, *batch, 50), dtype=dtype, generator=generator)
    axis = 1e-3 * torch.randn(*batch, 50, 3, dtype=dtype, generator=generator)
    distance = axis_distance(a, b, axis)
    p, q = ((m.double() @ axis.double().unsqueeze(-1)).squeeze(-1) for m in (a, b))
    expected = torch.arccos(torch.cosine_similarity(p, q, dim=-1).clamp(-1, 1))
    assert distance.dtype == dtype
    torch.testing.assert_close(distance.double(), expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12)
    spin = axis_angle_to_matrix(torch.nn.functional.normalize(axis, dim=-1))
    atol = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(axis_distance(a @ spin, b, axis), distance, rtol=0, atol=atol)
    assert (distance <= geodesic_distance(a, b) + atol).all()
    assert torch.equal(axis_distance(a, a, axis), torch.zeros_like(distance))


def test_axis_distance_is_precise_near_zero_and_pi(dtype: torch.dtype) -> None:
    angle = torch.logspace(-20, 0, 21, dtype=dtype)
    tilt = axis_angle_to_matrix(angle[:, None] * torch.tensor([1, 0, 0], dtype=dtype))
    eye, z = torch.eye(3, dtype=dtype), Z.to(dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(axis_distance(eye, tilt, z), angle, rtol=4 * eps, atol=0)
    over = torch.diag(torch.tensor([1, -1, -1], dtype=dtype))
    torch.testing.assert_close(axis_distance(over, tilt, z), math.pi - angle, rtol=0, atol=4 * eps)


def test_axis_distance_derivatives(generator: torch.Generator) -> None:
    a, b = random_rotations((2, 4), dtype=torch.float64, generator=generator)
    axis = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    inputs = tuple(x.requires_grad_() for x in (a, b, axis))
    assert torch.autograd.gradcheck(axis_distance, inputs)
    assert torch.autograd.gradgradcheck(axis_distance, inputs)
    # At 0, at pi, and for no axis at all.
    eye = torch.eye(3).expand(3, 3, 3).clone().requires_grad_()
    over = torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.eye(3)])
    distance = axis_distance(eye, over, torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 0, 0]]))
    torch.testing.assert_close(distance, torch.tensor([0.0, math.pi, 0.0]))
    gradient = torch.autograd.grad(distance.sum(), eye)[0]
    assert torch.equal(gradient, torch.zeros(3, 3, 3))


def test_wrong_arguments() -> None:
    eye = torch.eye(3)
    for name in ("C", "C0", "D-1", "X", "c4", "C4 ", ""):
        with pytest.raises(ValueError, match=r"^name: expected C or D and a number from 1 on, T, O or I, got '"):
            symmetry_group(name)
    with pytest.raises(TypeError, match=r"^name: expected a string, got int$"):
        symmetry_group(4)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^dtype: expected a floating point type, got torch\.int64$"):
        symmetry_group("C4", dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^group: expected shape \(k, 3, 3\), got \(3, 3\)$"):
        symmetric_geodesic_distance(eye, eye, eye)
    with pytest.raises(ValueError, match=r"^group: expected at least one rotation, got shape \(0, 3, 3\)$"):
        symmetric_geodesic_distance(eye, eye, torch.zeros(0, 3, 3))
    with pytest.raises(ValueError, match=r"^other: expected shape \(\.\.\., 3, 3\), got \(2,\)$"):
        symmetric_geodesic_distance(eye, torch.zeros(2), "C4")
    with pytest.raises(TypeError, match=r"^rotation: expected a floating point tensor, got torch\.int64$"):
        axis_distance(eye.long(), eye, torch.zeros(3))
    with pytest.raises(ValueError, match=r"^axis: expected shape \(\.\.\., 3\), got \(4,\)$"):
        axis_distance(eye, eye, torch.zeros(4))
    with pytest.raises(ValueError, match=r"^rotation, other, axis: expected one dtype, got"):
        axis_distance(eye, eye, torch.zeros(3).double())
