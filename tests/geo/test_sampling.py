from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from rotaware.geo import is_rotation, matrix_to_axis_angle, random_quaternions, random_rotations, rotation_angle


def test_samples_are_rotations(batch: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    matrix, quat = random_rotations(batch, dtype=dtype), random_quaternions(batch, dtype=dtype)
    assert (matrix.shape, matrix.dtype) == ((*batch, 3, 3), dtype)
    assert (quat.shape, quat.dtype) == ((*batch, 4), dtype)
    assert is_rotation(matrix, tolerance=tolerance).all()
    torch.testing.assert_close(quat.norm(dim=-1), torch.ones(batch, dtype=dtype))
    assert (quat[..., 0] >= 0).all()


def test_a_number_is_one_axis() -> None:
    assert random_rotations(7).shape == (7, 3, 3)
    assert random_quaternions(0).shape == (0, 4)


def test_measure_is_uniform(generator: torch.Generator) -> None:
    """Haar measure has a known law of the angle, and turning every sample by a fixed rotation does not change it."""
    matrix = random_rotations(20_000, dtype=torch.float64, generator=generator)
    fixed = random_rotations(dtype=torch.float64, generator=generator)

    def angle_law(angle: np.ndarray) -> np.ndarray:
        return (angle - np.sin(angle)) / np.pi

    for sample in (matrix, fixed @ matrix, matrix @ fixed):
        assert stats.kstest(rotation_angle(sample).numpy(), angle_law).pvalue > 1e-3
        # Every column is uniform on the sphere, so each of its coordinates is uniform in [-1, 1].
        for entry in sample.flatten(1).T:
            assert stats.kstest(entry.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    axis = torch.nn.functional.normalize(matrix_to_axis_angle(matrix), dim=-1)
    assert stats.kstest(axis[:, 2].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_every_draw_comes_from_the_generator() -> None:
    def draw(seed: int) -> torch.Tensor:
        return random_rotations((5, 2), generator=torch.Generator().manual_seed(seed))

    before = torch.random.get_rng_state()
    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    first = random_rotations(3)
    torch.manual_seed(1)
    assert torch.equal(random_rotations(3), first)


def test_order_and_half_precision() -> None:
    def draw(**options: object) -> torch.Tensor:
        return random_quaternions(5, generator=torch.Generator().manual_seed(0), **options)

    assert torch.equal(draw(order="xyzw"), draw()[:, [1, 2, 3, 0]])
    assert torch.equal(draw(dtype=torch.bfloat16), draw().bfloat16())


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"^dtype: expected a floating point type, got torch\.int64$"):
        random_quaternions(3, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"^dtype: expected a floating point type, got torch\.int64$"):
        random_rotations(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^order: expected one of 'wxyz', 'xyzw', got 'zyxw'$"):
        random_quaternions(3, order="zyxw")
