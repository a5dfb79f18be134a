from __future__ import annotations

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from rotaware.geo import (
    axis_angle_to_matrix,
    axis_angle_to_quaternion,
    geodesic_distance,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    random_quaternions,
    random_rotations,
    rotation_angle,
    sample_rotations,
)
from rotaware.geo.losses import (
    ChordalLoss,
    GeodesicLoss,
    QuaternionDistance,
    QuaternionLoss,
    SymmetricLoss,
    axis_angle_geodesic_distance,
    chordal_distance,
    quaternion_distance,
    quaternion_geodesic_distance,
    rotation_error_summary,
    so3_relative_angle,
    so3_rotation_angle,
)
from rotaware.geo.symmetry import symmetric_geodesic_distance, symmetry_group
from rotaware.geo.testing import RotationKind

KINDS = get_args(QuaternionDistance)
AXIS = torch.tensor([2 / 7, -3 / 7, 6 / 7], dtype=torch.float64)
ANGLES = torch.tensor(
    [0, 1e-12, 1e-7, 1e-3, 0.5, 1, 2, 3, math.pi - 1e-3, math.pi - 1e-7, math.pi], dtype=torch.float64
)
# The distances of a pair at an angle.
EXPECTED = {
    "geodesic": lambda a: a,
    "chordal": lambda a: 2 * torch.sin(a / 4),
    "cosine": lambda a: 2 * torch.sin(a / 4).square(),
    "squared_sine": lambda a: torch.sin(a / 2).square(),
}


def pair(kind: RotationKind, size: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rotations at an angle of the given kind, float64."""
    a = random_rotations(size, dtype=torch.float64, generator=generator)
    return a, a @ sample_rotations(kind, size, generator=generator)


def test_aliases() -> None:
    assert so3_relative_angle is geodesic_distance
    assert so3_rotation_angle is rotation_angle


def test_distances_are_functions_of_the_angle(
    kind: RotationKind, batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    a, b = pair(kind, (*batch, 50), generator)
    angle = geodesic_distance(a, b)
    atol = 1e-14 if dtype == torch.float64 else 6e-7
    p, q = matrix_to_quaternion(a), -1.7 * matrix_to_quaternion(b)
    for name in KINDS:
        distance = quaternion_distance(p.to(dtype), q.to(dtype), name)
        assert distance.dtype == dtype and distance.shape == (*batch, 50)
        torch.testing.assert_close(distance.double(), EXPECTED[name](angle), rtol=0, atol=atol)
        swapped = quaternion_distance(p.to(dtype).roll(-1, -1), q.to(dtype).roll(-1, -1), name, "xyzw")
        assert torch.equal(swapped, distance)
    assert torch.equal(quaternion_geodesic_distance(p, q), quaternion_distance(p, q))
    chord = 2 * math.sqrt(2) * torch.sin(angle / 2)
    a, b = a.to(dtype), b.to(dtype)
    torch.testing.assert_close(chordal_distance(a, b).double(), chord, rtol=0, atol=2 * atol)
    torch.testing.assert_close(chordal_distance(a, b, squared=True).double(), chord.square(), rtol=0, atol=8 * atol)
    mean_square = torch.nn.functional.mse_loss(a, b, reduction="none").mean((-2, -1))
    torch.testing.assert_close(chordal_distance(a, b, squared=True) / 9, mean_square)
    u, v = matrix_to_axis_angle(a), matrix_to_axis_angle(b)
    torch.testing.assert_close(axis_angle_geodesic_distance(u, v).double(), angle, rtol=0, atol=4 * atol)


def test_small_distances_keep_their_relative_precision(dtype: torch.dtype) -> None:
    angle = torch.logspace(-12, 0, 25, dtype=dtype)
    eps = torch.finfo(dtype).eps
    identity = torch.tensor([1, 0, 0, 0], dtype=dtype)
    quat = axis_angle_to_quaternion(angle[:, None] * AXIS.to(dtype))
    for name in KINDS:
        expected = EXPECTED[name](angle)
        torch.testing.assert_close(quaternion_distance(identity, quat, name), expected, rtol=8 * eps, atol=0)


def test_distances_over_the_whole_range(dtype: torch.dtype) -> None:
    zero, v = torch.zeros(3, dtype=dtype), (ANGLES[:, None] * AXIS).to(dtype)
    atol = 4e-15 if dtype == torch.float64 else 6e-7
    torch.testing.assert_close(axis_angle_geodesic_distance(zero, v).double(), ANGLES, rtol=0, atol=atol)
    beyond = axis_angle_geodesic_distance(v, -v)
    torch.testing.assert_close(beyond.double(), torch.minimum(2 * ANGLES, 2 * math.pi - 2 * ANGLES), rtol=0, atol=atol)


def test_distances_vanish_for_equal_rotations(dtype: torch.dtype, generator: torch.Generator) -> None:
    q = random_quaternions(20, dtype=dtype, generator=generator).requires_grad_()
    for name in KINDS:
        for other in (q, -q):
            distance = quaternion_distance(q, other.detach(), name)
            assert torch.equal(distance, torch.zeros_like(distance))
            assert torch.equal(torch.autograd.grad(distance.sum(), q)[0], torch.zeros_like(q))
    a = random_rotations(20, dtype=dtype, generator=generator).requires_grad_()
    distance = chordal_distance(a, a.detach())
    assert torch.equal(torch.autograd.grad(distance.sum(), a)[0], torch.zeros_like(a))


# Forward mode makes torch 2.13 import a part of itself that it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", KINDS)
def test_exact_derivatives_of_quaternion_distances(name: str, generator: torch.Generator) -> None:
    q = random_quaternions(5, dtype=torch.float64, generator=generator)
    p = 1.4 * torch.cat([random_quaternions(3, dtype=torch.float64, generator=generator), q[3:] + 0.01])
    q.requires_grad_(), p.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, p: quaternion_distance(q, p, name), (q, p), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda q, p: quaternion_distance(q, p, name), (q, p))


def test_squared_sine_and_squared_chordal_are_smooth_everywhere(generator: torch.Generator) -> None:
    q = random_quaternions(2, dtype=torch.float64, generator=generator)
    half_turned = q.flip(-1) * torch.tensor([-1, 1, -1, 1], dtype=torch.float64)
    p = torch.cat([q[:1], half_turned[1:]])
    assert ((q * p).sum(-1).abs() - torch.tensor([1.0, 0.0])).abs().max() < 1e-12
    q.requires_grad_(), p.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, p: quaternion_distance(q, p, "squared_sine"), (q, p))
    assert torch.autograd.gradgradcheck(lambda q, p: quaternion_distance(q, p, "squared_sine"), (q, p))
    a = random_rotations(2, dtype=torch.float64, generator=generator).requires_grad_()
    same = a.detach().clone()
    assert torch.autograd.gradcheck(lambda a: chordal_distance(a, same, squared=True), a)
    assert torch.autograd.gradgradcheck(lambda a: chordal_distance(a, same, squared=True), a)
    b = random_rotations(2, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda a: chordal_distance(a, b), a)
    assert torch.autograd.gradgradcheck(lambda a: chordal_distance(a, b), a)


@pytest.mark.parametrize("name", KINDS)
def test_derivatives_are_finite(name: str, dtype: torch.dtype) -> None:
    rows = [[0, 0, 0, 0], [1, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -2, 0], [1e-30, 0, 1e-30, 0],
            [1e30, 1e30, 0, 0], [3e38, -3e38, 3e38, 3e38], [1, 1e-7, 0, 0], [1e-7, 1, 0, 0],
            [1e-17, 0, 0, 1e-17]]  # fmt: skip
    q = torch.tensor(rows, dtype=torch.float64).to(dtype)[:, None].requires_grad_()
    p = q.detach()[:, 0]
    distance = quaternion_distance(q, p, name)
    gradient = torch.autograd.grad(distance.sum(), q, create_graph=True)[0]
    second = torch.autograd.grad(gradient.sum(), q)[0]
    assert distance.isfinite().all() and gradient.isfinite().all() and second.isfinite().all()
    # 0 is the identity, without a gradient.
    assert torch.equal(distance[0], distance[1])
    assert torch.equal(gradient[0], torch.zeros_like(gradient[0]))


def test_broadcast_vmap_half_nan_and_empty(generator: torch.Generator) -> None:
    q, p = random_quaternions((4, 1), generator=generator), random_quaternions(5, generator=generator)
    for name in KINDS:
        table = quaternion_distance(q, p, name)
        assert table.shape == (4, 5)
        torch.testing.assert_close(torch.vmap(lambda q, n=name: quaternion_distance(q, p, n))(q), table)
        half = quaternion_distance(q.half(), p.half(), name)
        assert torch.equal(half, quaternion_distance(q.half().float(), p.half().float(), name).half())
        broken = p.clone()
        broken[2, 3] = math.nan
        assert torch.equal(quaternion_distance(q, broken, name).isnan(), (torch.arange(5) == 2).expand(4, 5))
        assert quaternion_distance(q[:0], p, name).shape == (0, 5)
    a, b = random_rotations((4, 1), generator=generator), random_rotations(5, generator=generator)
    assert chordal_distance(a, b).shape == (4, 5)
    assert chordal_distance(torch.zeros(2, 5, 5), torch.ones(5, 5))[0] == 5
    assert chordal_distance(a.half(), b.half()).dtype == torch.float16
    v = matrix_to_axis_angle(a)
    assert axis_angle_geodesic_distance(v, matrix_to_axis_angle(b)).shape == (4, 5)


LOSSES = {
    "geodesic": (GeodesicLoss, {}, geodesic_distance),
    "huber": (GeodesicLoss, {"delta": 0.7}, lambda a, b: huber(geodesic_distance(a, b), 0.7)),
    "squared_chordal": (ChordalLoss, {}, lambda a, b: chordal_distance(a, b).square()),
    "chordal": (ChordalLoss, {"squared": False}, chordal_distance),
    "symmetric": (SymmetricLoss, {"group": "T"}, lambda a, b: symmetric_geodesic_distance(a, b, "T")),
    "symmetric_huber": (
        SymmetricLoss,
        {"group": symmetry_group("T"), "delta": 0.3},
        lambda a, b: huber(symmetric_geodesic_distance(a, b, "T"), 0.3),
    ),
}


def huber(angle: Tensor, delta: float) -> Tensor:
    return torch.nn.functional.huber_loss(angle, torch.zeros_like(angle), delta=delta, reduction="none")


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_reduced_distances(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    loss, options, distance = LOSSES[name]
    a, b = random_rotations((2, 3, 7), dtype=dtype, generator=generator)
    expected = distance(a, b)
    torch.testing.assert_close(loss(**options, reduction="none")(a, b), expected)
    torch.testing.assert_close(loss(**options, reduction="sum")(a, b), expected.sum())
    torch.testing.assert_close(loss(**options)(a, b), expected.mean())
    assert loss(**options).state_dict() == {}
    assert "reduction='mean'" in repr(loss(**options))


@pytest.mark.parametrize("name", KINDS)
def test_quaternion_loss(name: QuaternionDistance, generator: torch.Generator) -> None:
    q, p = random_quaternions((2, 3, 7), generator=generator)
    torch.testing.assert_close(QuaternionLoss(name)(q, p), quaternion_distance(q, p, name).mean())
    by_order = QuaternionLoss(name, order="xyzw", reduction="none")(q.roll(-1, -1), p.roll(-1, -1))
    assert torch.equal(by_order, quaternion_distance(q, p, name))


def test_losses_fit_a_rotation(generator: torch.Generator) -> None:
    target = random_rotations(8, dtype=torch.float64, generator=generator)
    group = symmetry_group("D3")
    for loss, reached in (
        (GeodesicLoss(delta=0.1), geodesic_distance),
        (ChordalLoss(), geodesic_distance),
        (SymmetricLoss(group, delta=0.1), lambda a, b: symmetric_geodesic_distance(a, b, group)),
    ):
        v = torch.zeros(8, 3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([v], lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            loss(axis_angle_to_matrix(v), target).backward()
            optimizer.step()
        assert reached(axis_angle_to_matrix(v.detach()), target).max() < 0.05


def test_symmetric_loss_moves_with_the_module() -> None:
    loss = SymmetricLoss("O").to(torch.float32)
    assert loss.group.dtype == torch.float32 and loss.group.shape == (24, 3, 3)


def test_huber_loss_is_smooth_at_zero() -> None:
    a = torch.eye(3, dtype=torch.float64).requires_grad_()
    gradient = torch.autograd.grad(GeodesicLoss(delta=0.1)(a, a.detach()), a, create_graph=True)[0]
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_summary_matches_numpy(size: int, generator: torch.Generator) -> None:
    angles = math.pi * torch.rand(size, dtype=torch.float64, generator=generator) ** 3
    degrees = np.rad2deg(angles.numpy())
    summary = rotation_error_summary(angles.reshape(1, size), percentiles=(0, 12.5, 90, 100))
    assert summary.count == size
    for value, expected in (
        (summary.mean_deg, degrees.mean()),
        (summary.median_deg, np.median(degrees)),
        (summary.max_deg, degrees.max()),
        (summary.std_deg, degrees.std()),
        *((value, np.percentile(degrees, percent)) for percent, value in summary.percentiles_deg.items()),
        *((value, (degrees < limit).mean()) for limit, value in summary.accuracy.items()),
    ):
        assert value == pytest.approx(expected, abs=1e-12)
    assert list(summary.percentiles_deg) == [0, 12.5, 90, 100] and list(summary.accuracy) == [5, 10, 15, 30]


def test_summary_of_nan_is_nan() -> None:
    summary = rotation_error_summary(torch.tensor([0.01, math.nan]))
    statistics = [summary.mean_deg, summary.median_deg, summary.max_deg, summary.std_deg]
    assert all(map(math.isnan, itertools.chain(statistics, summary.percentiles_deg.values())))
    assert summary.accuracy[5.0] == 0.5


def test_compiles_whole(generator: torch.Generator) -> None:
    q, p = random_quaternions((2, 3), generator=generator)
    compiled = torch.compile(quaternion_distance, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, p), quaternion_distance(q, p))


def test_wrong_arguments() -> None:
    eye, quat = torch.eye(3), torch.ones(4)
    with pytest.raises(ValueError, match=r"^rotation: expected shape \(\.\.\., n, n\), got \(2, 3\)$"):
        chordal_distance(torch.zeros(2, 3), eye)
    with pytest.raises(ValueError, match=r"^other: expected shape \(\.\.\., 3, 3\), got \(4, 4\)$"):
        chordal_distance(eye, torch.eye(4))
    with pytest.raises(TypeError, match=r"^rotation: expected a floating point tensor, got torch\.int64$"):
        chordal_distance(eye.long(), eye)
    with pytest.raises(ValueError, match=r"^kind: expected one of 'geodesic', 'chordal', .*, got 'angle'$"):
        quaternion_distance(quat, quat, "angle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^order: expected one of 'wxyz', 'xyzw', got 'wzyx'$"):
        quaternion_geodesic_distance(quat, quat, "wzyx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^quat, other: expected one dtype, got"):
        quaternion_distance(quat, quat.double())
    with pytest.raises(ValueError, match=r"^quat, other: expected leading shapes that broadcast, got \(4,\), \(5,\)$"):
        quaternion_distance(quat.expand(4, 4), quat.expand(5, 4))
    with pytest.raises(ValueError, match=r"^axis_angle, other: expected one device, got cpu, meta$"):
        axis_angle_geodesic_distance(torch.zeros(3), torch.zeros(3, device="meta"))
    for loss in (GeodesicLoss, ChordalLoss, QuaternionLoss):
        with pytest.raises(ValueError, match=r"^reduction: expected one of 'mean', 'sum', 'none', got 'avg'$"):
            loss(reduction="avg")
    with pytest.raises(ValueError, match=r"^reduction: expected one of"):
        SymmetricLoss("T", reduction="avg")  # type: ignore[arg-type]
    for delta in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"^delta: expected a positive number of radians or None, got"):
            GeodesicLoss(delta)
        with pytest.raises(ValueError, match=r"^delta: expected a positive number of radians or None, got"):
            SymmetricLoss("T", delta)
    with pytest.raises(ValueError, match=r"^kind: expected one of"):
        QuaternionLoss("angle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^group: expected shape \(k, 3, 3\), got \(3, 3\)$"):
        SymmetricLoss(eye)
    with pytest.raises(ValueError, match=r"^angles: expected at least one, got shape \(0,\)$"):
        rotation_error_summary(torch.zeros(0))
    with pytest.raises(ValueError, match=r"^percentiles: expected numbers in \[0, 100\], got \(101,\)$"):
        rotation_error_summary(torch.zeros(3), percentiles=(101,))
