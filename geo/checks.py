"""Shape, dtype and device checks of tensors: the only place where such errors are worded.

Every check is O(1) on the host: it reads metadata, never values, so it costs no device synchronisation and stays legal
under `torch.vmap` and `torch.compile`. The form is always "name: expected ..., got ...".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import EllipsisType

import torch
from torch import Tensor


def require_tensor(name: str, value: object) -> None:
    """Raise unless `value` is a tensor.

    Raises:
        TypeError: it is something else.

    >>> require_tensor("points", torch.zeros(5, 3))
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")


def require_floating(name: str, value: Tensor) -> None:
    """Raise unless `value` is a tensor of real floating point numbers.

    Raises:
        TypeError: not a tensor, or an integer, boolean or complex one.

    >>> require_floating("points", torch.zeros(5, 3))
    """
    require_tensor(name, value)
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating point tensor, got {value.dtype}")


def require_integer(name: str, value: Tensor) -> None:
    """Raise unless `value` is a tensor of integers (booleans are not).

    Raises:
        TypeError: not a tensor, or a floating point, complex or boolean one.

    >>> require_integer("lengths", torch.tensor([5, 7]))
    """
    require_tensor(name, value)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name}: expected an integer tensor, got {value.dtype}")


def require_shape(name: str, value: Tensor, *shape: int | str | EllipsisType) -> None:
    """Raise unless `value` has the given shape.

    Args:
        name: how the caller knows the tensor.
        value: any tensor.
        shape: one entry per axis: a number is that size, a string is any size under that name, a leading `...` is
            any number of axes. A name used twice stands for the same size twice.
    Raises:
        TypeError: `value` is not a tensor.
        ValueError: the shape differs.

    >>> require_shape("points", torch.zeros(2, 5, 3), ..., "N", 3)
    >>> require_shape("points", torch.zeros(1024, 4), ..., "N", 3)
    Traceback (most recent call last):
    ValueError: points: expected shape (..., N, 3), got (1024, 4)
    """
    require_tensor(name, value)
    axes = shape[1:] if shape[:1] == (...,) else shape
    sizes = tuple(value.shape[value.ndim - len(axes) :]) if len(axes) <= value.ndim else ()
    fits = len(sizes) == len(axes) and (len(axes) < len(shape) or len(axes) == value.ndim)
    named: dict[str, int] = {}
    for axis, size in zip(axes, sizes, strict=False):
        fits = fits and size == (named.setdefault(axis, size) if isinstance(axis, str) else axis)
    if not fits:
        raise ValueError(f"{name}: expected shape {_shape_text(shape)}, got {tuple(value.shape)}")


def require_broadcastable(tensors: Mapping[str, Tensor], *, trailing: int = 0) -> None:
    """Raise unless the leading axes of the tensors broadcast together.

    Args:
        tensors: name to tensor, at least one.
        trailing: how many last axes each function reads for itself, left out of the comparison.
    Raises:
        ValueError: the leading shapes do not broadcast.

    >>> require_broadcastable({"rotation": torch.zeros(4, 1, 3, 3), "other": torch.zeros(5, 3, 3)}, trailing=2)
    """
    leading = [tuple(tensor.shape[: tensor.ndim - trailing]) for tensor in tensors.values()]
    longest = max([len(shape) for shape in leading])
    padded = [(1,) * (longest - len(shape)) + shape for shape in leading]
    # Compared one by one, since the sizes of a traced program can be symbols, which no set takes.
    wide = [[size for size in sizes if size != 1] for sizes in zip(*padded, strict=True)]
    if any(size != sizes[0] for sizes in wide for size in sizes):
        raise ValueError(f"{', '.join(tensors)}: expected leading shapes that broadcast, got {_listed(leading)}")


def require_same_dtype(tensors: Mapping[str, Tensor | None]) -> None:
    """Raise unless all tensors have one dtype; `None` entries (absent options) are skipped.

    Raises:
        ValueError: the dtypes differ.

    >>> require_same_dtype({"points": torch.zeros(5, 3), "normals": torch.zeros(5, 3), "weights": None})
    """
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    dtypes = [tensor.dtype for tensor in present.values()]
    if any(dtype != dtypes[0] for dtype in dtypes):
        raise ValueError(f"{', '.join(present)}: expected one dtype, got {_listed(dtypes)}")


def require_same_device(tensors: Mapping[str, Tensor | None]) -> None:
    """Raise unless all tensors live on one device; `None` entries (absent options) are skipped.

    Raises:
        ValueError: the devices differ.

    >>> require_same_device({"points": torch.zeros(5, 3), "normals": torch.zeros(5, 3)})
    """
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    devices = [tensor.device for tensor in present.values()]
    if any(device != devices[0] for device in devices):
        raise ValueError(f"{', '.join(present)}: expected one device, got {_listed(devices)}")


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of `choices`.

    Raises:
        ValueError: it is not; the message lists them.

    >>> require_choice("backend", "numba", ("auto", "numba", "torch"))
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def _shape_text(shape: Sequence[int | str | EllipsisType]) -> str:
    """The expected shape as a tuple would print, names without quotes."""
    axes = ["..." if axis is ... else str(axis) for axis in shape]
    return f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})"


def _listed(values: Sequence[object]) -> str:
    """Values joined for a message."""
    return ", ".join(map(str, values))


def require_state(name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise unless `state` holds the tensors of `expected`, of the same shapes, and no others.

    Raises:
        ValueError: names every tensor that is missing, unexpected or of another shape.

    >>> require_state("weights", {"a": torch.zeros(2)}, {"a": torch.ones(2)})
    """
    problems = [f"missing {key}" for key in expected if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in expected]
    problems += [
        f"{key}: expected shape {tuple(expected[key].shape)}, got {tuple(value.shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if problems:
        raise ValueError(f"{name}: {'; '.join(sorted(problems))}")
