from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rotaware.geo import assert_equivariant, assert_invariant, is_rotation, rotation_angle, sample_rotations
from rotaware.geo.testing import Kind


def test_samplers_give_the_angles_they_promise(
    batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    for kind, angle in [("near_identity", 1e-7), ("near_pi", torch.pi - 1e-7)]:
        matrix = sample_rotations(kind, batch, dtype=dtype, generator=generator)
        assert (matrix.shape, matrix.dtype) == ((*batch, 3, 3), dtype)
        assert is_rotation(matrix).all()
        torch.testing.assert_close(rotation_angle(matrix), torch.full(batch, angle, dtype=dtype), rtol=3e-7, atol=0)
    uniform = sample_rotations("uniform", 1000, dtype=dtype, generator=generator)
    assert rotation_angle(uniform).mean().item() == pytest.approx(torch.pi / 2 + 2 / torch.pi, abs=0.1)


def test_samplers_follow_the_generator() -> None:
    first, second = (sample_rotations("near_pi", 3, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


def frame(points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A function of three points with an output of every kind."""
    origin = points.mean(0)
    axes = torch.stack([points[0] - points[1], normals[0], torch.linalg.cross(points[0] - points[1], normals[0])], -1)
    pose = torch.eye(4, dtype=points.dtype)
    pose[:3, :3], pose[:3, 3] = axes, origin
    return origin, normals.sum(0), axes, pose, torch.cdist(points, points)


def test_all_kinds(dtype: torch.dtype, generator: torch.Generator) -> None:
    points, normals = (torch.randn(3, 3, dtype=torch.float64, generator=generator).to(dtype) for _ in range(2))
    kinds = ["point", "vector", "rotation", "transform", "invariant"]
    worst = assert_equivariant(frame, [points, normals], input_kinds=["point", "vector"], output_kinds=kinds)
    assert worst <= (1e-13 if dtype == torch.float64 else 2e-5)
    for i, wrong in [(0, "vector"), (1, "invariant"), (2, "invariant"), (3, "invariant"), (4, "rotation")]:
        claimed = [*kinds[:i], wrong, *kinds[i + 1 :]]
        with pytest.raises(AssertionError, match=rf"^output {i} \({wrong}\): expected an error of at most"):
            assert_equivariant(frame, [points, normals], input_kinds=["point", "vector"], output_kinds=claimed)


def test_pose_inputs_move_too(generator: torch.Generator) -> None:
    pose = torch.eye(4, dtype=torch.float64)
    points = torch.randn(4, 3, dtype=torch.float64, generator=generator)

    def into_the_frame(pose: Tensor, rotation: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        return local, rotation.T @ pose[:3, :3]

    assert_invariant(into_the_frame, [pose, pose[:3, :3], points], input_kinds=["transform", "rotation", "point"])


def test_report_names_every_kind_of_rotation() -> None:
    points = torch.eye(3, dtype=torch.float64)
    number = r"\d\.\d{2}e[+-]\d\d"
    pattern = (
        rf"^output 0 \(invariant\): expected an error of at most 1\.0e-09, "
        rf"got uniform {number}, near_identity {number}, near_pi {number}$"
    )
    with pytest.raises(AssertionError, match=pattern):
        assert_invariant(lambda points: points, [points], input_kinds=["vector"])


def test_a_fault_near_one_rotation_is_found(generator: torch.Generator) -> None:
    """Right except for small motions: only the sampler near the identity sees it."""
    points = torch.randn(5, 3, dtype=torch.float64, generator=generator)

    def faulty(moved: Tensor) -> Tensor:
        shift = (moved - points).norm()
        return moved.norm() + ((shift < 1e-5) & (shift > 0))

    with pytest.raises(
        AssertionError, match=r"uniform \d\.\d\de-\d\d, near_identity \d\.\d\de-01, near_pi \d\.\d\de-\d\d"
    ):
        assert_invariant(faulty, [points], input_kinds=["vector"])


def test_nan_is_an_error() -> None:
    def sometimes(points: Tensor) -> Tensor:
        return torch.where(points[0, 0] > 0.99, points.norm(), torch.nan)

    with pytest.raises(AssertionError, match=r"got uniform nan, near_identity 0\.00e\+00, near_pi nan$"):
        assert_invariant(sometimes, [torch.eye(3)], input_kinds=["vector"])


def test_nan_is_not_forgotten() -> None:
    results = iter([0.0, torch.nan] + [0.0] * 11)
    with pytest.raises(AssertionError, match=r"got uniform nan, near_identity 0\.00e\+00, near_pi 0\.00e\+00$"):
        assert_equivariant(
            lambda points: torch.tensor(next(results)),
            [torch.eye(3)],
            input_kinds=["point"],
            output_kinds=["invariant"],
        )


def test_the_assertion_adds_no_error_of_its_own(generator: torch.Generator) -> None:
    """The inputs are moved in float64, so that moving float32 inputs costs their final rounding and no more."""
    vectors = torch.randn(1000, 3, generator=generator)
    kinds: list[Kind] = ["vector"]
    assert assert_equivariant(lambda x: x, [vectors], input_kinds=kinds, output_kinds=kinds, tolerance=6e-8) > 0


def test_a_changed_shape_is_an_error() -> None:
    def visible(points: Tensor) -> Tensor:
        return points[points[:, 0] >= 0.99]

    with pytest.raises(AssertionError, match=r"^output: expected shape \(1, 3\), got \(0, 3\) after a motion$"):
        assert_invariant(visible, [torch.eye(3)], input_kinds=["vector"])


def test_integer_inputs_and_no_translation(generator: torch.Generator) -> None:
    points = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    index = torch.tensor([0, 2, 5])

    def length(points: Tensor, index: Tensor) -> Tensor:
        return points[index].norm(dim=-1)

    kinds = ["point", "invariant"]
    assert assert_invariant(length, [points, index], input_kinds=kinds, translation=0) < 1e-14
    with pytest.raises(AssertionError):
        assert_invariant(length, [points, index], input_kinds=kinds)


def test_tolerance_and_generator_are_used(generator: torch.Generator) -> None:
    points = torch.randn(60, 3, dtype=torch.float64, generator=generator)
    first = assert_invariant(torch.pdist, [points], input_kinds=["point"])
    with pytest.raises(AssertionError, match=r"at most 0\.0e\+00"):
        assert_invariant(torch.pdist, [points], input_kinds=["point"], tolerance=0)
    assert assert_invariant(torch.pdist, [points], input_kinds=["point"]) == first
    before = generator.get_state()
    assert assert_invariant(torch.pdist, [points], input_kinds=["point"], generator=generator) > 0
    assert not torch.equal(generator.get_state(), before)
    empty = torch.zeros(0, 3)
    assert assert_invariant(lambda points: points, [empty], input_kinds=["point"]) == 0


def test_wrong_arguments() -> None:
    points = torch.eye(3)
    with pytest.raises(ValueError, match=r"^kind: expected one of 'uniform', 'near_identity', 'near_pi', got 'small'$"):
        sample_rotations("small")
    with pytest.raises(TypeError, match=r"^dtype: expected a floating point type, got torch\.int32$"):
        sample_rotations("uniform", dtype=torch.int32)
    with pytest.raises(ValueError, match=r"^input_kinds: expected 1 kinds, one for each of the inputs, got 2$"):
        assert_invariant(torch.pdist, [points], input_kinds=["point", "point"])
    with pytest.raises(ValueError, match=r"^output_kinds: expected 1 kinds, one for each of the outputs, got 0$"):
        assert_equivariant(torch.pdist, [points], input_kinds=["point"], output_kinds=[])
    with pytest.raises(ValueError, match=r"^input_kinds: expected one of 'invariant', .*, got 'scalar'$"):
        assert_invariant(torch.pdist, [points], input_kinds=["scalar"])
    with pytest.raises(ValueError, match=r"^output_kinds: expected one of 'invariant', .*, got 'scalar'$"):
        assert_equivariant(torch.pdist, [points], input_kinds=["point"], output_kinds=["scalar"])
    with pytest.raises(TypeError, match=r"^inputs: expected a torch\.Tensor, got list$"):
        assert_equivariant(torch.pdist, [[1.0]], input_kinds=["point"], output_kinds=["invariant"])
    with pytest.raises(TypeError, match=r"^output 0: expected a torch\.Tensor, got float$"):
        assert_invariant(lambda points: [1.0], [points], input_kinds=["point"])
