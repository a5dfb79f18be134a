"""PyTorch files (.pth, .pt) with arrays or tensors. No code from the file ever runs.

`torch.load(weights_only=True)` rebuilds tensors. NumPy arrays are rebuilt here: the unpickler gets the stand-ins below
in place of NumPy's own constructors, so a file can name nothing but plain numeric arrays.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rotaware.geo.threads import SAFE_GLOBALS_LOCK

from .cloud import PointCloud, cloud_from_columns, columns_from_cloud
from .columns import one_line
from .errors import InputError, UnreadableFileError
from .io_arrays import array_from_cloud, cloud_from_array, find_points
from .naming import columns_for

# How torch names what it refused.
_GLOBAL = re.compile(r"GLOBAL (\S+)")
_DTYPE_CODE = re.compile(r"[<>=|]?(?:[iu][1248]|f[248]|b1)")


class _DtypeRecord:
    """Stands for `numpy.dtype` while a file is unpickled."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[2:5] != (None, None, None):
            raise ValueError("structured dtypes are not supported")
        self.order = state[1]

    def resolve(self) -> np.dtype[Any]:
        if not _DTYPE_CODE.fullmatch(self.code) or self.order not in ("<", ">", "=", "|"):
            raise ValueError(f"dtype {self.code!r} is not a plain number")
        return np.dtype(self.code).newbyteorder(">" if self.order == ">" else "<")


class _ArrayRecord:
    """Stands for `numpy.ndarray` while a file is unpickled."""

    shape: tuple[int, ...] = ()
    dtype: _DtypeRecord | None = None
    fortran = False
    raw = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def resolve(self) -> np.ndarray:
        if not isinstance(self.dtype, _DtypeRecord) or not isinstance(self.raw, bytes):
            raise ValueError("an array of Python objects")
        flat = np.frombuffer(self.raw, self.dtype.resolve())
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(kind: object, shape: object, code: object) -> _ArrayRecord:
    return _ArrayRecord()


def _scalar(dtype: _DtypeRecord, raw: bytes) -> Any:
    return np.frombuffer(raw, dtype.resolve(), 1)[0]


# Names as written by NumPy 1 (core) and NumPy 2 (_core).
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_ArrayRecord, "numpy.ndarray"),
    (_DtypeRecord, "numpy.dtype"),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def read_torch(name: str, data: bytes) -> PointCloud:
    """Cloud from a .pth or .pt file: an array or tensor (N, 3 or more), or a dict, list or tuple with one.

    In a list or tuple the first array is the points. Arrays beside them that have N rows become attributes.

    Raises:
        UnreadableFileError: damaged, or it names anything but tensors and numeric arrays.
        InputError: no array of points inside.
    """
    content = _load(name, data)
    if isinstance(content, Mapping):
        items = {str(key): item for key, item in content.items()}
    elif isinstance(content, (list, tuple)):
        items = {f"item_{index}": item for index, item in enumerate(content)}
    else:
        array = _array(content)
        if array is None:
            raise InputError(f"{name}: expected an array or tensor of shape (N, 3), got {type(content).__name__}")
        return cloud_from_array(name, array, format="torch", details={"single": content})
    arrays = {key: array for key, item in items.items() if (array := _array(item)) is not None}
    key = next(iter(arrays), "") if isinstance(content, (list, tuple)) else find_points(name, arrays)
    if key not in arrays:
        raise InputError(f"{name} holds no arrays")
    points = cloud_from_array(f"{name}, array {key!r}", arrays[key], format="torch")
    columns = columns_from_cloud(points)
    table = tuple(columns)
    for other, array in arrays.items():
        if other != key and other not in columns and array.shape[:1] == (len(points),):
            columns[other] = array.astype(array.dtype.newbyteorder("="), copy=False)
    details = {"items": items, "key": key, "table": table, "kind": type(content)}
    return cloud_from_columns(columns, format="torch", details=details)


def write_torch(cloud: PointCloud) -> list[bytes]:
    """Bytes of a PyTorch file: what was read, with points and attributes replaced; else a dict of tensors.

    Raises:
        InputError: an attribute that is not numeric.
    """
    import torch

    details = cloud.layout.details if cloud.layout.format == "torch" else {}
    content: Any
    if "single" in details and all(name in cloud.layout.fields for name in cloud.attributes):
        content = _like(details["single"], array_from_cloud(cloud, "torch"))
    else:
        columns = columns_for(cloud, "torch")
        parts = [columns.pop(name) for name in details.get("table", ("x", "y", "z"))]
        key = details.get("key", "points")
        content = dict(details.get("items", {}))
        content[key] = _like(content.get(key), np.stack(parts, axis=1))
        for name, column in columns.items():
            if column.dtype.kind not in "biuf":
                raise InputError(f"a PyTorch file cannot store the column {name!r} of type {column.dtype}")
            content[name] = _like(content.get(name), column)
        if details.get("kind") in (list, tuple) and len(content) == len(details["items"]):
            content = details["kind"](content.values())
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return [buffer.getvalue()]


def _like(original: Any, array: np.ndarray) -> Any:
    """NumPy where the file had NumPy, a tensor elsewhere."""
    import torch

    if isinstance(original, np.ndarray):
        return array
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _load(name: str, data: bytes) -> Any:
    import torch

    try:
        with SAFE_GLOBALS_LOCK, warnings.catch_warnings(), torch.serialization.safe_globals(list(_STAND_INS)):
            warnings.simplefilter("ignore")
            return _resolved(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    # A foreign parser fed with damaged bytes may raise anything.
    except Exception as error:
        named = _GLOBAL.search(str(error))
        if named is not None:
            raise UnreadableFileError(
                f"{name} holds {named[1][:80]!r}; only tensors and numeric arrays are loaded from PyTorch files"
            ) from None
        raise UnreadableFileError(f"{name} cannot be read as a PyTorch file: {one_line(error)}") from None


def _resolved(item: Any) -> Any:
    """The content with every stand-in replaced by a NumPy array."""
    if isinstance(item, _ArrayRecord):
        return item.resolve()
    if isinstance(item, Mapping):
        return {key: _resolved(value) for key, value in item.items()}
    if type(item) in (list, tuple):
        return type(item)(_resolved(value) for value in item)
    return item


def _array(item: Any) -> np.ndarray | None:
    """(N, ...) array of a tensor or array, None for anything else."""
    import torch

    if isinstance(item, torch.Tensor):
        if item.layout != torch.strided or item.is_quantized or item.is_meta:
            return None
        dense = item.detach().cpu()
        item = (dense.float() if dense.dtype == torch.bfloat16 else dense).resolve_conj().resolve_neg().numpy()
    return item if isinstance(item, np.ndarray) and item.ndim > 0 else None
