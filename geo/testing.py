"""Assertions that a function respects rigid motions, and the rotations worth testing with. For users and our tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from .checks import require_choice, require_tensor
from .rigid import make_transform, transform_points
from .sampling import random_rotations
from .so3 import axis_angle_to_matrix

Kind = Literal["invariant", "vector", "point", "rotation", "transform"]
"""How a tensor changes under the motion x' = Q x + t.

"invariant": not at all. "vector" (..., 3): Q x, such as a normal. "point" (..., 3): Q x + t. "rotation" (..., 3, 3):
Q R, and "transform" (..., 4, 4): the motion after T, such as a pose that maps into the moved frame.
"""

RotationKind = Literal["uniform", "near_identity", "near_pi"]

# Largest error, relative to the size of the output where that exceeds 1, by the lowest precision among the inputs.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}


def sample_rotations(
    kind: RotationKind,
    size: int | Sequence[int] = (),
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rotations that find bugs.

    Args:
        kind: "uniform" (Haar), "near_identity" (angle 1e-7 radian about a random axis) or "near_pi" (pi - 1e-7).
        size: leading axes of the result.
        dtype: of the result.
        device: of the result; that of `generator` by default.
        generator: source of every draw; the global one by default.
    Returns:
        (*size, 3, 3).
    Raises:
        TypeError: `dtype` is not a floating point type.
        ValueError: unknown kind.

    >>> sample_rotations("near_pi", (3, 1, 2)).shape
    torch.Size([3, 1, 2, 3, 3])
    """
    require_choice("kind", kind, get_args(RotationKind))
    rotation = random_rotations(size, dtype=dtype, device=device, generator=generator)
    if kind == "uniform":
        return rotation
    angle = 1e-7 if kind == "near_identity" else torch.pi - 1e-7
    return axis_angle_to_matrix(angle * rotation[..., 0].double()).to(dtype)


def assert_equivariant(
    function: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor],
    *,
    input_kinds: Sequence[Kind],
    output_kinds: Sequence[Kind],
    translation: float = 1.0,
    samples: int = 4,
    tolerance: float | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """Assert that moving the inputs of a function moves its outputs.

    The inputs are moved by random rigid motions: uniform, near the identity and near a half turn. Motions are applied
    in float64 whatever the dtype of the inputs, so that the assertion measures the function and not itself.

    Args:
        function: takes the inputs, returns a tensor or a sequence of tensors; must not be random.
        inputs: its arguments. Those that are "invariant" may have any dtype.
        input_kinds: how each input moves, see `Kind`.
        output_kinds: how each output must move.
        translation: standard deviation of each coordinate of the translation; 0 tests rotations only.
        samples: number of motions of each of the three kinds of rotation.
        tolerance: largest error allowed, relative to the size of the output where that exceeds 1; by default 1e-9 for
            float64 inputs, 1e-4 for float32, 3e-2 for float16, 2e-1 for bfloat16.
        generator: source of the motions, on the CPU; one of fixed seed by default.
    Returns:
        The worst error.
    Raises:
        AssertionError: the worst error of an output is above the tolerance, or is NaN; the message gives the error of
            each kind of rotation.
        TypeError: an input or an output is not a tensor.
        ValueError: unknown kind, or not as many kinds as tensors.

    >>> points = torch.randn(10, 3, dtype=torch.float64)
    >>> mean = lambda points: points.mean(0)
    >>> assert_equivariant(mean, [points], input_kinds=["point"], output_kinds=["point"]) < 1e-12
    True
    """
    _require_kinds("input_kinds", input_kinds, "inputs", inputs)
    moving = [value.dtype for value, kind in zip(inputs, input_kinds, strict=True) if kind != "invariant"]
    limit = max((_TOLERANCE[dtype] for dtype in moving), default=0.0) if tolerance is None else tolerance
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    expected = _outputs(function, inputs)
    _require_kinds("output_kinds", output_kinds, "outputs", expected)
    errors: dict[RotationKind, list[float]] = {}
    for rotation_kind in get_args(RotationKind):
        errors[rotation_kind] = [0.0] * len(expected)
        for _ in range(samples):
            shift = translation * torch.randn(3, dtype=torch.float64, generator=generator)
            motion = make_transform(sample_rotations(rotation_kind, generator=generator), shift)
            moved = [_move(motion, value, kind) for value, kind in zip(inputs, input_kinds, strict=True)]
            for i, actual in enumerate(_outputs(function, moved)):
                error = _error(actual, _move(motion, expected[i].double(), output_kinds[i]))
                errors[rotation_kind][i] = _worst(errors[rotation_kind][i], error)
    return _judge(errors, output_kinds, limit)


def assert_invariant(
    function: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor],
    *,
    input_kinds: Sequence[Kind],
    translation: float = 1.0,
    samples: int = 4,
    tolerance: float | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """Assert that moving the inputs of a function changes none of its outputs.

    Arguments, result and errors are those of `assert_equivariant`; every output is "invariant".

    >>> points = torch.randn(10, 3, dtype=torch.float64)
    >>> assert_invariant(torch.pdist, [points], input_kinds=["point"]) < 1e-12
    True
    """
    return assert_equivariant(
        function,
        inputs,
        input_kinds=input_kinds,
        output_kinds=["invariant"] * len(_outputs(function, inputs)),
        translation=translation,
        samples=samples,
        tolerance=tolerance,
        generator=generator,
    )


def _outputs(function: Callable[..., Tensor | Sequence[Tensor]], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Detached outputs of a function, always as a list."""
    result = function(*inputs)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    for i, output in enumerate(outputs):
        require_tensor(f"output {i}", output)
    return [output.detach() for output in outputs]


def _move(motion: Tensor, value: Tensor, kind: Kind) -> Tensor:
    """`value` after the motion, computed in float64, in the dtype of `value`."""
    if kind == "invariant":
        return value
    motion = motion.to(value.device)
    wide = value.double()
    if kind == "point":
        moved = transform_points(motion, wide.reshape(-1, 3)).reshape(wide.shape)
    elif kind == "vector":
        moved = wide @ motion[:3, :3].mT
    else:
        size = 3 if kind == "rotation" else 4
        moved = motion[:size, :size] @ wide
    return moved.to(value.dtype)


def _error(actual: Tensor, expected: Tensor) -> float:
    """Largest deviation, relative to the largest expected number where that exceeds 1."""
    if actual.shape != expected.shape:
        raise AssertionError(
            f"output: expected shape {tuple(expected.shape)}, got {tuple(actual.shape)} after a motion"
        )
    if expected.numel() == 0:
        return 0.0
    return float((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1))


def _worst(left: float, right: float) -> float:
    """The larger error; NaN is the largest of all."""
    return left if math.isnan(left) or left > right else right


def _judge(errors: dict[RotationKind, list[float]], output_kinds: Sequence[Kind], limit: float) -> float:
    """The worst error of all, or an AssertionError that says where it is."""
    worst = 0.0
    failures = []
    for i, kind in enumerate(output_kinds):
        by_rotation = {rotation_kind: values[i] for rotation_kind, values in errors.items()}
        if not all(error <= limit for error in by_rotation.values()):
            listed = ", ".join(f"{rotation_kind} {error:.2e}" for rotation_kind, error in by_rotation.items())
            failures.append(f"output {i} ({kind}): expected an error of at most {limit:.1e}, got {listed}")
        for error in by_rotation.values():
            worst = _worst(worst, error)
    if failures:
        raise AssertionError("\n".join(failures))
    return worst


def _require_kinds(name: str, kinds: Sequence[Kind], tensors_name: str, tensors: Sequence[Tensor]) -> None:
    """Check that every tensor is one and has a known kind."""
    if len(kinds) != len(tensors):
        raise ValueError(f"{name}: expected {len(tensors)} kinds, one for each of the {tensors_name}, got {len(kinds)}")
    for kind in kinds:
        require_choice(name, kind, get_args(Kind))
    for tensor in tensors:
        require_tensor(tensors_name, tensor)
