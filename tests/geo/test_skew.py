from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from rotaware.geo import axis_angle_to_matrix, matrix_to_axis_angle, sample_rotations
from rotaware.geo.polar import svd_procrustes
from rotaware.geo.skew import cayley, hat_n, inverse_cayley, son_exp, son_log, vee_n
from rotaware.geo.testing import RotationKind

SIZES = range(2, 9)
MAPS = [hat_n, vee_n, son_exp, son_log, cayley, inverse_cayley]
PI = torch.pi
SMALL = [[0.0], [1e-7], [1e-7, 1e-7], [1.0, 1.0], [PI / 2] * 3]
NEAR_PI = [[PI - 1e-3] * 2, [PI - 1e-7], [PI - 1e-7, 0.5], [PI - 1e-7] * 2, [PI - 1e-10] * 2, [PI - 1e-12]]
SPECIAL_ANGLES = [*SMALL, *NEAR_PI, [PI - 1e-9, PI - 1e-6], [PI], [PI, 1.0], [PI, PI], [PI] * 3]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotations(n: int, *batch: int, seed: int = 0) -> Tensor:
    return svd_procrustes(random(*batch, n, n, seed=seed), special=True)[0]


def planes(n: int, angles: list[float], seed: int = 0) -> tuple[Tensor, Tensor]:
    """A rotation by these angles in orthogonal planes, and its logarithm."""
    basis = rotations(n, seed=seed)
    turn, skew = torch.eye(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    for i, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        turn[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        skew[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[0, -angle], [angle, 0]], dtype=torch.float64)
    return basis @ turn @ basis.mT, basis @ skew @ basis.mT


def argument(function: Callable[[Tensor], Tensor], n: int, *batch: int) -> Tensor:
    if function in (son_log, inverse_cayley):
        return rotations(n, *batch, seed=7)
    vector = 0.8 * random(*batch, n * (n - 1) // 2)
    return vector if function is hat_n else hat_n(vector)


def deviation(matrix: Tensor) -> float:
    """Largest entry of |R^T R - I|."""
    wide = matrix.detach().double()
    return float((wide.mT @ wide - torch.eye(matrix.shape[-1])).abs().max())


@pytest.mark.parametrize("n", SIZES)
def test_hat_and_vee(n: int, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    vector = random(*batch, n * (n - 1) // 2).to(dtype)
    skew = hat_n(vector)
    assert skew.shape == (*batch, n, n) and skew.dtype == dtype
    assert skew.equal(-skew.mT) and vee_n(skew).equal(vector)
    # The last numbers turn the first axes, whatever the dimension.
    if n > 2:
        assert skew[..., :2, :2].equal(hat_n(vector[..., -1:]))
    if n > 3:
        assert skew[..., :3, :3].equal(hat_n(vector[..., -3:]))
    other = random(*batch, n, n)
    assert vee_n(other + other.mT).abs().max() < 1e-15


def test_hat_is_the_cross_product() -> None:
    a, b = random(2, 10, 3)
    torch.testing.assert_close((hat_n(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


@pytest.mark.parametrize("scale", [1e-7, 1.0, 10.0])
@pytest.mark.parametrize("n", SIZES)
def test_exponential_matches_scipy(n: int, scale: float, dtype: torch.dtype) -> None:
    skew = scale * hat_n(random(10, n * (n - 1) // 2)).to(dtype)
    expected = torch.from_numpy(np.stack([scipy.linalg.expm(k) for k in skew.double().numpy()]))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(son_exp(skew).double(), expected, atol=tolerance * max(scale, 1), rtol=0)


@pytest.mark.parametrize("n", SIZES)
def test_logarithm_matches_scipy(n: int, dtype: torch.dtype) -> None:
    rotation = rotations(n, 10).to(dtype)
    expected = torch.from_numpy(np.stack([scipy.linalg.logm(r).real for r in rotation.double().numpy()]))
    torch.testing.assert_close(
        son_log(rotation).double(), expected, atol=2e-6 if dtype == torch.float32 else 5e-13, rtol=0
    )


@pytest.mark.parametrize("n", SIZES)
def test_round_trips(n: int, batch: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    rotation = rotations(n, *batch, 10).to(dtype)
    log = son_log(rotation)
    assert log.equal(-log.mT) and log.dtype == dtype
    torch.testing.assert_close(son_exp(log), rotation, atol=tolerance, rtol=0)
    skew = hat_n(random(*batch, 10, n * (n - 1) // 2).clamp(-1, 1) / n).to(dtype)
    torch.testing.assert_close(son_log(son_exp(skew)), skew, atol=tolerance, rtol=0)
    torch.testing.assert_close(inverse_cayley(cayley(skew)), skew, atol=tolerance, rtol=0)


@pytest.mark.parametrize("angles", SPECIAL_ANGLES, ids=str)
def test_logarithm_at_special_angles(angles: list[float], dtype: torch.dtype, tolerance: float) -> None:
    for n in (2 * len(angles), 2 * len(angles) + 1, 8):
        exact, expected = planes(n, angles, seed=n)
        rotation = exact.to(dtype).requires_grad_()
        log = son_log(rotation)
        torch.testing.assert_close(son_exp(log.detach()), rotation.detach(), atol=tolerance, rtol=0)
        actual = torch.linalg.eigvals(log.detach().double()).imag.sort(descending=True).values[: len(angles)]
        target = torch.tensor(sorted(angles, reverse=True), dtype=torch.float64)
        # At pi an angle may be taken the other way round, from where it lies above pi.
        slack = 1e-6 if dtype == torch.float32 else 2e-9 if max(angles) > PI - 1e-8 else 1e-13
        torch.testing.assert_close(actual, target, atol=slack, rtol=0)
        well_posed = max(angles) < PI - 1e-8 and sum(angles[:2]) < 2 * PI - 1e-4
        if dtype == torch.float64 and well_posed:
            torch.testing.assert_close(log.detach(), expected, atol=1e-11 if max(angles) > 3 else 1e-13, rtol=0)
        (grad,) = torch.autograd.grad((log * torch.randn_like(log)).sum(), rotation, create_graph=True)
        (second,) = torch.autograd.grad((grad * torch.randn_like(grad)).sum(), rotation)
        assert grad.isfinite().all() and second.isfinite().all()


def test_space_is_the_axis_angle(kind: RotationKind, generator: torch.Generator) -> None:
    rotation = sample_rotations(kind, 50, generator=generator)
    vector = matrix_to_axis_angle(rotation)
    torch.testing.assert_close(vee_n(son_log(rotation)), vector, atol=1e-15, rtol=0)
    torch.testing.assert_close(son_exp(hat_n(vector)), axis_angle_to_matrix(vector), atol=1e-15, rtol=0)
    # Larger rotations agree with the closed forms of space.
    larger = torch.nn.functional.pad(rotation, (0, 1, 0, 1)) + torch.diag(torch.tensor([0.0, 0, 0, 1])).double()
    torch.testing.assert_close(son_log(larger)[..., :3, :3], son_log(rotation), atol=1e-12, rtol=0)


@pytest.mark.parametrize("n", SIZES)
def test_cayley_is_exp_with_the_tangent_of_half_the_angle(n: int, dtype: torch.dtype, tolerance: float) -> None:
    for angle in (0.0, 1e-7, 0.3, 1.5, 3.0, PI - 1e-3):
        rotation, log = planes(n, [angle])
        skew = log * (np.tan(angle / 2) / angle if angle else 0.5)
        actual = cayley(skew.to(dtype))
        # A large matrix holds its smaller angles to rounding of the largest only.
        torch.testing.assert_close(actual.double(), rotation, atol=tolerance * (1 + np.tan(angle / 2)), rtol=0)
        if n > 3:
            eye = torch.eye(n, dtype=torch.float64)
            torch.testing.assert_close(cayley(skew), torch.linalg.solve(eye - skew, eye + skew), atol=1e-12, rtol=0)
        if angle < 3:
            torch.testing.assert_close(inverse_cayley(actual).double(), skew, atol=50 * tolerance, rtol=0)


@pytest.mark.parametrize("n", SIZES)
def test_inverse_cayley_near_and_at_half_turns(n: int, dtype: torch.dtype) -> None:
    for angles in ([PI - 1e-7], [PI], [PI, PI]):
        if 2 * len(angles) > n:
            continue
        rotation = planes(n, angles)[0].to(dtype).requires_grad_()
        skew = inverse_cayley(rotation)
        assert skew.equal(-skew.mT) and skew.isfinite().all()
        assert skew.abs().max() < 10 / torch.finfo(dtype).eps
        if angles == [PI - 1e-7] and dtype == torch.float64:
            torch.testing.assert_close(torch.linalg.matrix_norm(skew, 2) * 1e-7 / 2, torch.tensor(1.0).double(),
                                       atol=1e-6, rtol=0)  # fmt: skip
        if n <= 3 or (angles == [PI - 1e-7] and dtype == torch.float64):
            torch.testing.assert_close(cayley(skew), rotation, atol=1e-6 if dtype == torch.float32 else 1e-7, rtol=0)
        (grad,) = torch.autograd.grad(skew[1, 0], rotation)
        assert grad.isfinite().all()


@pytest.mark.parametrize("function", [son_exp, cayley])
@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_any_numbers_give_a_rotation(n: int, function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    limit = 3e-15 if dtype == torch.float64 else 8e-7
    for scale in (0.0, 1e-30, 1.0, 1e3, 1e6, 1e11, 1e13, 1e30):
        skew = (scale * hat_n(random(3, n * (n - 1) // 2))).to(dtype).requires_grad_()
        rotation = function(skew)
        assert deviation(rotation) < limit
        assert (torch.linalg.det(rotation.detach().double()) - 1).abs().max() < limit
        (grad,) = torch.autograd.grad((rotation * torch.randn_like(rotation)).sum(), skew, create_graph=True)
        (second,) = torch.autograd.grad((grad * torch.randn_like(grad)).sum(), skew)
        assert grad.isfinite().all() and second.isfinite().all()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("function", MAPS)
def test_derivatives_and_vmap(function: Callable[[Tensor], Tensor], n: int) -> None:
    x = argument(function, n, 2)
    torch.testing.assert_close(torch.vmap(function)(x), function(x), atol=1e-13, rtol=0)
    points = [x]
    if function is not hat_n:
        # 1e-7 from the identity; and, for n > 3, equal angles, whose eigenvectors are not unique.
        near = torch.eye(n, dtype=torch.float64) if function in (son_log, inverse_cayley) else torch.zeros(n, n)
        points.append((near + 1e-7 * hat_n(random(n * (n - 1) // 2)))[None])
        if n > 3 and function is son_log:
            points += [planes(n, [1.0, 1.0])[0][None], planes(n, [PI - 1e-2, 0.5])[0][None]]
    for point in points:
        point = point.double().requires_grad_()
        assert gradcheck(function, point, check_forward_ad=True, check_batched_grad=n < 4, fast_mode=n > 3)
        assert gradgradcheck(function, point[:1].detach().requires_grad_(), fast_mode=n > 3)


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("function", [son_exp, son_log, cayley, inverse_cayley])
def test_bad_numbers_spoil_only_their_own_element(function: Callable[[Tensor], Tensor], n: int) -> None:
    x = argument(function, n, 4)
    x[1, 0, 1], x[2, 1, 0] = torch.nan, torch.inf
    result = function(x)
    assert result.isnan().flatten(1).any(-1).tolist() == [False, True, True, False]
    torch.testing.assert_close(result[[0, 3]], function(x[[0, 3]]), atol=1e-14, rtol=0)
    finite = torch.zeros(0, n, n)
    assert function(finite).shape == (0, n, n)


@pytest.mark.parametrize("function", [son_exp, son_log])
def test_compiles_whole(function: Callable[[Tensor], Tensor]) -> None:
    x = argument(function, 4, 2)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), function(x), atol=1e-13, rtol=0)


def test_half_precision_is_rounded_once() -> None:
    for function in (son_exp, son_log, cayley, inverse_cayley):
        x = argument(function, 4, 20).half()
        torch.testing.assert_close(function(x), function(x.double()).half(), rtol=1e-3, atol=1e-3)


@settings(max_examples=50)
@given(n=st.integers(2, 8), seed=st.integers(0, 2**20), scale=st.floats(1e-8, 0.5))
def test_exp_and_log_are_equivariant_and_odd(n: int, seed: int, scale: float) -> None:
    turn = rotations(n, seed=seed)
    skew = scale * hat_n(random(n * (n - 1) // 2, seed=seed).clamp(-2, 2)) / n
    rotation = son_exp(skew)
    torch.testing.assert_close(son_exp(turn @ skew @ turn.mT), turn @ rotation @ turn.mT, atol=1e-13, rtol=0)
    torch.testing.assert_close(son_exp(-skew), rotation.mT, atol=1e-13, rtol=0)
    torch.testing.assert_close(son_exp(2 * skew), rotation @ rotation, atol=1e-13, rtol=0)
    torch.testing.assert_close(son_log(rotation), skew, atol=1e-14, rtol=0)
    torch.testing.assert_close(inverse_cayley(cayley(skew)), skew, atol=1e-14, rtol=0)


def test_errors() -> None:
    for function in (vee_n, son_exp, son_log, cayley, inverse_cayley):
        for shape in ((3,), (2, 3), (1, 1), (0, 0)):
            with pytest.raises(ValueError, match=r": expected shape \(..., n, n\) with n of at least 2, got"):
                function(torch.zeros(shape))
        with pytest.raises(TypeError, match="expected a floating point tensor"):
            function(torch.eye(3, dtype=torch.long))
    for count in (0, 2, 4, 5, 7):
        with pytest.raises(ValueError, match=r"vector: expected shape \(..., n \(n - 1\) / 2\) with n >= 2, got"):
            hat_n(torch.zeros(count))
    with pytest.raises(TypeError, match="vector: expected a floating point tensor"):
        hat_n(torch.zeros(3, dtype=torch.long))
