from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from rotaware.geo import (
    geodesic_distance,
    is_rotation,
    matrix_to_axis_angle,
    quaternion_to_axis_angle,
    quaternion_to_matrix,
    rotation_angle,
)
from rotaware.geo.sampling import (
    perturb,
    random_axis_angle,
    random_o_n,
    random_quaternion,
    random_quaternions,
    random_rotation,
    random_rotation_matrix,
    random_rotations,
    random_so_n,
    rotation_grid,
)

# Every function that draws, as a function of the generator.
DRAWS: dict[str, Callable[..., Tensor]] = {
    "quaternions": lambda **o: random_quaternions((5, 2), **o),
    "rotations": lambda **o: random_rotations((5, 2), **o),
    "axis_angle": lambda **o: random_axis_angle((5, 2), **o),
    "rotation": random_rotation,
    "bounded": lambda **o: random_rotations((5, 2), max_angle=1.0, **o),
    "uniform_angle": lambda **o: random_quaternions((5, 2), angle_law="uniform", **o),
    "so_n": lambda **o: random_so_n(4, (5, 2), **o),
    "o_n": lambda **o: random_o_n(4, (5, 2), **o),
    "perturb": lambda **o: perturb(torch.eye(3).expand(5, 3, 3), 0.1, **o),
}


def haar(angle: np.ndarray) -> np.ndarray:
    """Distribution function of the angle of a uniform rotation."""
    return (angle - np.sin(angle)) / np.pi


def cube_smaller(angle: np.ndarray) -> np.ndarray:
    """angle - sin(angle) to relative precision."""
    x = angle * angle
    series = angle * x / 6 * (1 - x / 20 * (1 - x / 42 * (1 - x / 72 * (1 - x / 110 * (1 - x / 156)))))
    return np.where(angle < 1, series, angle - np.sin(angle))


def test_samples_are_rotations(batch: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    for options in ({}, {"max_angle": 0.5}, {"angle_law": "uniform"}):
        matrix, quat = (
            random_rotations(batch, dtype=dtype, **options),
            random_quaternions(batch, dtype=dtype, **options),
        )
        vector = random_axis_angle(batch, dtype=dtype, **options)
        assert (matrix.shape, matrix.dtype) == ((*batch, 3, 3), dtype)
        assert (quat.shape, quat.dtype) == ((*batch, 4), dtype)
        assert (vector.shape, vector.dtype) == ((*batch, 3), dtype)
        assert is_rotation(matrix, tolerance=tolerance).all()
        torch.testing.assert_close(quat.norm(dim=-1), torch.ones(batch, dtype=dtype))
        assert (quat[..., 0] >= 0).all()
        assert (vector.norm(dim=-1) <= options.get("max_angle", math.pi) * (1 + 1e-6)).all()


def test_a_number_is_one_axis() -> None:
    assert random_rotations(7).shape == (7, 3, 3)
    assert random_quaternions(0).shape == (0, 4)
    assert random_axis_angle(0, max_angle=1.0).shape == (0, 3)
    assert random_so_n(5, 2).shape == random_o_n(5, 2).shape == (2, 5, 5)
    assert random_so_n(3, 0).shape == (0, 3, 3)
    assert random_rotation().shape == (3, 3)


def test_names_of_pytorch3d_and_of_the_specification() -> None:
    assert random_rotation_matrix is random_rotations
    assert random_quaternion is random_quaternions


def test_measure_is_uniform(generator: torch.Generator) -> None:
    """Haar measure has a known law of the angle, and turning every sample by a fixed rotation does not change it."""
    matrix = random_rotations(20_000, dtype=torch.float64, generator=generator)
    fixed = random_rotations(dtype=torch.float64, generator=generator)
    for sample in (matrix, fixed @ matrix, matrix @ fixed):
        assert stats.kstest(rotation_angle(sample).numpy(), haar).pvalue > 1e-3
        # Every column is uniform on the sphere, so each of its coordinates is uniform in [-1, 1].
        for entry in sample.flatten(1).T:
            assert stats.kstest(entry.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    axis = torch.nn.functional.normalize(matrix_to_axis_angle(matrix), dim=-1)
    assert stats.kstest(axis[:, 2].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    # Known moments, with a standard error of about 1 / sqrt(20000) = 0.007.
    assert matrix.mean(0).abs().max() < 0.025
    assert abs(matrix.diagonal(dim1=-2, dim2=-1).sum(-1).square().mean() - 1) < 0.05
    assert abs(rotation_angle(matrix).mean() - (math.pi / 2 + 2 / math.pi)) < 0.02


@pytest.mark.parametrize("max_angle", [1e-9, 1e-6, 1e-2, 0.5, 2.0, 3.0, math.pi])
def test_law_of_a_bounded_angle(max_angle: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    vector = random_axis_angle(4000, dtype=dtype, generator=generator, max_angle=max_angle)
    angle = vector.double().norm(dim=-1).numpy()
    assert angle.max() <= max_angle * (1 + 2 * torch.finfo(dtype).eps)
    assert stats.kstest(cube_smaller(angle) / cube_smaller(np.array(max_angle)), "uniform").pvalue > 1e-3
    axis = vector.double() / torch.from_numpy(angle)[:, None]
    for coordinate in axis.T:
        assert stats.kstest(coordinate.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    uniform = random_axis_angle(4000, dtype=dtype, generator=generator, max_angle=max_angle, angle_law="uniform")
    assert stats.kstest(uniform.double().norm(dim=-1).numpy() / max_angle, "uniform").pvalue > 1e-3


def test_bounded_haar_is_haar_cut_off(generator: torch.Generator) -> None:
    everything = random_rotations(30_000, dtype=torch.float64, generator=generator)
    cut = everything[rotation_angle(everything) <= 1.5]
    bounded = random_rotations(5_000, dtype=torch.float64, generator=generator, max_angle=1.5)
    for entry, other in zip(cut.flatten(1).T, bounded.flatten(1).T, strict=True):
        assert stats.ks_2samp(entry.numpy(), other.numpy()).pvalue > 1e-3


def test_one_seed_is_one_rotation_in_every_form(dtype: torch.dtype, tolerance: float) -> None:
    for options in ({}, {"max_angle": 0.5}, {"max_angle": 1e-6}, {"angle_law": "uniform"}):

        def draw(function: Callable[..., Tensor], options: dict[str, object] = options) -> Tensor:
            return function(50, dtype=dtype, generator=torch.Generator().manual_seed(0), **options)

        quat, matrix, vector = map(draw, (random_quaternions, random_rotations, random_axis_angle))
        torch.testing.assert_close(quaternion_to_matrix(quat), matrix, rtol=0, atol=tolerance)
        torch.testing.assert_close(quaternion_to_axis_angle(quat), vector, rtol=0, atol=2 * tolerance)
    tiny = random_axis_angle(100, dtype=dtype, generator=torch.Generator().manual_seed(0), max_angle=1e-6)
    again = random_rotations(100, dtype=dtype, generator=torch.Generator().manual_seed(0), max_angle=1e-6)
    # Tiny angles keep their relative precision through the matrix.
    torch.testing.assert_close(matrix_to_axis_angle(again), tiny, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", DRAWS)
def test_every_draw_comes_from_the_generator(name: str) -> None:
    def draw(seed: int) -> Tensor:
        return DRAWS[name](generator=torch.Generator().manual_seed(seed))

    before = torch.random.get_rng_state()
    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    first = DRAWS[name]()
    torch.manual_seed(1)
    assert torch.equal(DRAWS[name](), first)


def test_order_and_half_precision() -> None:
    def draw(**options: object) -> torch.Tensor:
        return random_quaternions(5, generator=torch.Generator().manual_seed(0), **options)

    assert torch.equal(draw(order="xyzw"), draw()[:, [1, 2, 3, 0]])
    assert torch.equal(draw(dtype=torch.bfloat16), draw().bfloat16())
    for function in (random_rotations, random_axis_angle, lambda size, **o: random_so_n(4, size, **o)):
        half, single = (
            function(5, dtype=dtype, generator=torch.Generator().manual_seed(0))
            for dtype in (torch.float16, torch.float32)
        )
        assert torch.equal(half, single.half())


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_uniform_orthogonal_matrices(n: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Moments of Haar measure, which any scheme that forgets a sign gets wrong, and invariance from both sides."""
    count = 10_000
    rotation = random_so_n(n, count, dtype=dtype, generator=generator)
    orthogonal = random_o_n(n, count, dtype=dtype, generator=generator)
    eye = torch.eye(n, dtype=dtype)
    for matrix in (rotation, orthogonal):
        assert (matrix @ matrix.mT - eye).abs().max() < 20 * n * torch.finfo(dtype).eps
        fixed = random_so_n(n, dtype=dtype, generator=generator)
        for sample in (matrix, fixed @ matrix, matrix @ fixed):
            assert sample.mean(0).abs().max() < 0.04
            assert (sample.square().mean(0) - 1 / n).abs().max() < 0.03
            trace = sample.diagonal(dim1=-2, dim2=-1).sum(-1)
            # E[tr^2] is 1, but 2 on SO(2), whose standard representation falls apart over the complex numbers.
            expected = 2 if n == 2 and matrix is rotation else 1
            assert abs(trace.square().mean() - expected) < 0.08
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(count, dtype=dtype), rtol=0, atol=1e-5)
    assert abs((torch.linalg.det(orthogonal) > 0).to(dtype).mean() - 0.5) < 0.025
    # The first column is uniform on the sphere.
    law = stats.beta(0.5, (n - 1) / 2).cdf
    assert stats.kstest(rotation[:, 0, 0].double().square().numpy(), law).pvalue > 1e-3


def test_rotations_of_space_from_both_samplers_have_one_law(generator: torch.Generator) -> None:
    angle = rotation_angle(random_so_n(3, 5000, dtype=torch.float64, generator=generator))
    assert stats.kstest(angle.numpy(), haar).pvalue > 1e-3


@pytest.mark.parametrize("side", ["right", "left"])
def test_noise_is_isotropic_on_the_side_asked_for(side: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    fixed = random_rotations(dtype=dtype, generator=generator)
    noisy = perturb(fixed.expand(20_000, 3, 3), 0.1, side, generator=generator)
    assert is_rotation(noisy).all()
    relative = fixed.mT @ noisy if side == "right" else noisy @ fixed.mT
    noise = matrix_to_axis_angle(relative)
    for coordinate in noise.T:
        assert stats.kstest(coordinate.double().numpy() / 0.1, "norm").pvalue > 1e-3
    assert (torch.cov(noise.T) / 0.01 - torch.eye(3, dtype=dtype)).abs().max() < 0.05
    seeded = [perturb(fixed, 0.1, s, generator=torch.Generator().manual_seed(0)) for s in ("right", "left")]
    # The same draw, in two frames.
    torch.testing.assert_close(fixed.mT @ seeded[0], seeded[1] @ fixed.mT, rtol=0, atol=1e-6)


def test_noise_of_any_batch_and_scale(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    fixed = random_rotations(batch, dtype=dtype, generator=generator)
    assert perturb(fixed, 0.2, generator=generator).shape == (*batch, 3, 3)
    torch.testing.assert_close(perturb(fixed, 0.0), fixed)
    angle = geodesic_distance(fixed, perturb(fixed, torch.tensor(1e-4, dtype=dtype), generator=generator))
    assert (angle < 1e-3).all() and (angle > 0).all()
    assert perturb(fixed.half(), 0.1).dtype == torch.float16
    scales = torch.tensor([0.0, 1.0], dtype=dtype)[:, None]
    angle = geodesic_distance(torch.eye(3, dtype=dtype), perturb(torch.eye(3, dtype=dtype).expand(2, 9, 3, 3), scales))
    assert (angle[0] == 0).all() and (angle[1] > 0).all()


def test_noise_is_differentiable_in_rotation_and_scale(generator: torch.Generator) -> None:
    rotation = random_rotations(3, dtype=torch.float64, generator=generator).requires_grad_()
    sigma = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)

    def noisy(rotation: Tensor, sigma: Tensor) -> Tensor:
        return perturb(rotation, sigma, generator=torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(noisy, (rotation, sigma))
    assert torch.autograd.gradgradcheck(noisy, (rotation, sigma))


@pytest.mark.parametrize("kind", ["super_fibonacci", "hopf"])
def test_grids_are_even(kind: str, generator: torch.Generator) -> None:
    """Nearer to uniform than chance in the mean, the law of the angle, the spacing and the largest hole."""
    grid = rotation_grid(kind, 2, dtype=torch.float64)
    chance = random_rotations(len(grid), dtype=torch.float64, generator=generator)
    probes = random_rotations(300, dtype=torch.float64, generator=generator)
    assert grid.shape == (4608, 3, 3)
    assert is_rotation(grid).all()
    assert grid.mean(0).abs().max() < 1e-3
    # Integrals of products of two entries vanish or are 1 / 3, too.
    flat = grid.flatten(1)
    assert (flat.T @ flat / len(grid) - torch.eye(9, dtype=torch.float64) / 3).abs().max() < 5e-3
    turned = probes[0] @ grid
    assert stats.kstest(rotation_angle(turned).numpy(), haar).statistic < 0.01

    def spacing(sample: Tensor) -> float:
        trace = (sample.flatten(1) @ sample.flatten(1).T).fill_diagonal_(-1)
        return math.acos((float(trace.max()) - 1) / 2)

    def hole(sample: Tensor) -> float:
        return math.acos((float((probes.flatten(1) @ sample.flatten(1).T).amax(1).min()) - 1) / 2)

    # 4608 balls that fill the group without a gap have a radius of 8.8 degrees.
    assert math.degrees(spacing(grid)) > 8 > 2 > math.degrees(spacing(chance))
    assert math.degrees(hole(grid)) < 13.5
    assert hole(grid) < hole(chance)


def test_grids_of_every_size() -> None:
    assert [len(rotation_grid("hopf", level)) for level in range(3)] == [72, 576, 4608]
    assert [len(rotation_grid(number=number)) for number in (0, 1, 2, 1000)] == [0, 1, 2, 1000]
    assert len(rotation_grid(level=1)) == 576
    assert rotation_grid(number=3, dtype=torch.bfloat16).dtype == torch.bfloat16
    # Spacing of the Hopf grid halves with the level: 60, 30, 15 degrees between turns about one direction.
    for level in range(3):
        first, second = rotation_grid("hopf", level, dtype=torch.float64)[:2]
        assert math.isclose(float(geodesic_distance(first, second)), math.pi / 3 / 2**level, rel_tol=1e-9)


def test_areas_of_the_hopf_grid_are_equal() -> None:
    """The images of the x axis are the HEALPix centres: symmetric, and of the heights published for 12 areas."""
    axes = rotation_grid("hopf", 0, dtype=torch.float64)[::6, :, 0]
    torch.testing.assert_close(axes[:, 0], torch.tensor([2 / 3, 0, -2 / 3], dtype=torch.float64).repeat_interleave(4))
    torch.testing.assert_close(axes.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-15)
    finer = rotation_grid("hopf", 2, dtype=torch.float64)[::24, :, 0]
    assert torch.unique(finer.round(decimals=9), dim=0).shape == (192, 3)
    torch.testing.assert_close(finer.T @ finer / 192, torch.eye(3, dtype=torch.float64) / 3, rtol=0, atol=2e-3)


@pytest.mark.parametrize("function", [random_quaternions, random_rotations, random_axis_angle])
def test_wrong_arguments(function: Callable[..., Tensor]) -> None:
    with pytest.raises(TypeError, match=r"^dtype: expected a floating point type, got torch\.int64$"):
        function(3, dtype=torch.int64)
    for wrong in (-0.1, 3.2, math.nan):
        with pytest.raises(ValueError, match=rf"^max_angle: expected a number in \[0, pi\], got {wrong}$"):
            function(3, max_angle=wrong)
    with pytest.raises(ValueError, match=r"^angle_law: expected one of 'haar', 'uniform', got 'normal'$"):
        function(3, angle_law="normal")
    with pytest.raises(ValueError, match=r"^size: expected numbers that are not negative, got -1$"):
        function(-1)
    with pytest.raises(ValueError, match=r"^size: expected numbers that are not negative, got \(2, -1\)$"):
        function((2, -1), max_angle=1.0)


def test_wrong_order() -> None:
    with pytest.raises(ValueError, match=r"^order: expected one of 'wxyz', 'xyzw', got 'zyxw'$"):
        random_quaternions(3, order="zyxw")


@pytest.mark.parametrize("function", [random_so_n, random_o_n])
def test_wrong_arguments_of_any_dimension(function: Callable[..., Tensor]) -> None:
    for n in (-1, 0, 1):
        with pytest.raises(ValueError, match=rf"^n: expected at least 2, got {n}$"):
            function(n)
    with pytest.raises(TypeError, match=r"^dtype: expected a floating point type, got torch\.bool$"):
        function(3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^size: expected numbers that are not negative, got -2$"):
        function(3, -2)


def test_wrong_arguments_of_the_noise() -> None:
    eye = torch.eye(3)
    with pytest.raises(ValueError, match=r"^side: expected one of 'right', 'left', got 'top'$"):
        perturb(eye, 0.1, "top")
    with pytest.raises(ValueError, match=r"^rotation: expected shape \(\.\.\., 3, 3\), got \(2, 2\)$"):
        perturb(torch.eye(2), 0.1)
    with pytest.raises(TypeError, match=r"^rotation: expected a floating point tensor, got torch\.int64$"):
        perturb(eye.long(), 0.1)
    with pytest.raises(TypeError, match=r"^sigma: expected a floating point tensor, got torch\.int64$"):
        perturb(eye, torch.tensor(1))
    with pytest.raises(ValueError, match=r"^rotation, sigma: expected one dtype, got torch\.float32, torch\.float64$"):
        perturb(eye, torch.tensor(0.1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^rotation, sigma: expected one device, got cpu, meta$"):
        perturb(eye, torch.tensor(0.1, device="meta"))
    for shape in ((2,), (1, 2)):
        with pytest.raises(ValueError, match=r"^sigma: expected a shape that broadcasts to \(5,\), got"):
            perturb(eye.expand(5, 3, 3), torch.zeros(shape))


def test_wrong_arguments_of_the_grid() -> None:
    with pytest.raises(ValueError, match=r"^kind: expected one of 'super_fibonacci', 'hopf', got 'cube'$"):
        rotation_grid("cube", 1)
    with pytest.raises(ValueError, match=r"^level, number: expected one of them, got None, None$"):
        rotation_grid()
    with pytest.raises(ValueError, match=r"^level, number: expected one of them, got 1, 5$"):
        rotation_grid(level=1, number=5)
    with pytest.raises(
        ValueError, match=r"^number: expected None for 'hopf', which has 72 \* 8\*\*level points, got 5$"
    ):
        rotation_grid("hopf", number=5)
    with pytest.raises(ValueError, match=r"^level: expected at least 0, got -1$"):
        rotation_grid("hopf", -1)
    with pytest.raises(ValueError, match=r"^number: expected at least 0, got -1$"):
        rotation_grid(number=-1)
    with pytest.raises(TypeError, match=r"^dtype: expected a floating point type, got torch\.int32$"):
        rotation_grid(level=0, dtype=torch.int32)
