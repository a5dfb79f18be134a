from __future__ import annotations

import pytest
import torch

from rotaware.geo.checks import (
    require_broadcastable,
    require_choice,
    require_floating,
    require_integer,
    require_same_device,
    require_same_dtype,
    require_shape,
    require_tensor,
)


def test_only_tensors_pass() -> None:
    require_tensor("points", torch.zeros(0))
    with pytest.raises(TypeError, match=r"^points: expected a torch\.Tensor, got list$"):
        require_tensor("points", [1.0])
    for check in (require_floating, require_integer, require_shape):
        with pytest.raises(TypeError, match=r"^points: expected a torch\.Tensor, got float$"):
            check("points", 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_types(dtype: torch.dtype) -> None:
    require_floating("points", torch.zeros(3, dtype=dtype))
    with pytest.raises(TypeError, match=f"^lengths: expected an integer tensor, got {dtype}$"):
        require_integer("lengths", torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integer_types(dtype: torch.dtype) -> None:
    require_integer("lengths", torch.zeros(3, dtype=dtype))
    with pytest.raises(TypeError, match=f"^points: expected a floating point tensor, got {dtype}$"):
        require_floating("points", torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_neither_floating_nor_integer(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="expected a floating point tensor"):
        require_floating("mask", torch.zeros(3, dtype=dtype))
    with pytest.raises(TypeError, match="expected an integer tensor"):
        require_integer("mask", torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((3,), (3,)),
        ((), ()),
        ((), (...,)),
        ((7, 2), (...,)),
        ((3,), (..., 3)),
        ((2, 4, 3), (..., "N", 3)),
        ((4, 3), (..., "N", 3)),
        ((0, 3), ("N", 3)),
        ((5, 5), (..., "n", "n")),
    ],
)
def test_shapes_that_fit(size: tuple[int, ...], shape: tuple) -> None:
    require_shape("x", torch.zeros(size), *shape)


@pytest.mark.parametrize(
    ("size", "shape", "message"),
    [
        ((1024, 4), (..., "N", 3), r"^x: expected shape \(\.\.\., N, 3\), got \(1024, 4\)$"),
        ((3,), (..., "N", 3), r"^x: expected shape \(\.\.\., N, 3\), got \(3,\)$"),
        ((2, 3), (3,), r"^x: expected shape \(3,\), got \(2, 3\)$"),
        ((1,), (), r"^x: expected shape \(\), got \(1,\)$"),
        ((2, 4, 3), ("N", 3), r"^x: expected shape \(N, 3\), got \(2, 4, 3\)$"),
        ((5, 4), (..., "n", "n"), r"^x: expected shape \(\.\.\., n, n\), got \(5, 4\)$"),
    ],
)
def test_shapes_that_do_not_fit(size: tuple[int, ...], shape: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_shape("x", torch.zeros(size), *shape)


@pytest.mark.parametrize(
    ("left", "right", "fits"),
    [
        ((3, 3), (5, 3, 3), True),
        ((4, 1, 3, 3), (5, 3, 3), True),
        ((1, 3, 3), (0, 3, 3), True),
        ((4, 3, 3), (5, 3, 3), False),
        ((0, 3, 3), (5, 3, 3), False),
        ((5, 4, 3, 3), (4, 5, 3, 3), False),
    ],
)
def test_broadcasting_is_that_of_torch(left: tuple[int, ...], right: tuple[int, ...], fits: bool) -> None:
    tensors = {"a": torch.zeros(left), "b": torch.zeros(right)}
    if fits:
        require_broadcastable(tensors, trailing=2)
        torch.broadcast_shapes(left[:-2], right[:-2])
        return
    with pytest.raises(ValueError, match=r"^a, b: expected leading shapes that broadcast, got \("):
        require_broadcastable(tensors, trailing=2)
    with pytest.raises(RuntimeError):
        torch.broadcast_shapes(left[:-2], right[:-2])


def test_one_dtype() -> None:
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    require_same_dtype({})
    require_same_dtype({"a": single, "b": None, "c": single})
    with pytest.raises(ValueError, match=r"^a, c: expected one dtype, got torch\.float32, torch\.float64$"):
        require_same_dtype({"a": single, "b": None, "c": double})


def test_one_device() -> None:
    cpu, other = torch.zeros(1), torch.zeros(1, device="meta")
    require_same_device({})
    require_same_device({"a": cpu, "b": None, "c": cpu})
    with pytest.raises(ValueError, match=r"^a, c: expected one device, got cpu, meta$"):
        require_same_device({"a": cpu, "b": None, "c": other})


def test_choices_are_listed() -> None:
    require_choice("backend", "numba", ("auto", "numba"))
    with pytest.raises(ValueError, match=r"^backend: expected one of 'auto', 'numba', got 'cuda'$"):
        require_choice("backend", "cuda", ("auto", "numba"))
