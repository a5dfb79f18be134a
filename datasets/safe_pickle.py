"""Arrays and numbers out of pickles and PyTorch files; no code that may be in them ever runs.

NumPy's own constructors take more from a pickle than is safe: `numpy.ndarray` makes an array of Python objects over
any bytes, which are then followed as addresses. So files are rebuilt with the stand-ins below, which become arrays of
plain numbers or text, or an error, once the file has been read.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rotaware.geo.threads import SAFE_GLOBALS_LOCK

_DTYPE_CODE = re.compile(r"[iu][1248]|f[248]|b1|[SU]\d+")
_REFUSED_BY_TORCH = re.compile(r"(?:GLOBAL|global) ['`]?([\w.]+)")


class _Dtype:
    """Stands for `numpy.dtype`."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def resolved(self) -> np.dtype[Any]:
        if not _DTYPE_CODE.fullmatch(self.code) or self.order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"refused an array of {self.code!r}: only plain numbers and text are read")
        return np.dtype(self.code).newbyteorder(">" if self.order == ">" else "<")


class _Array:
    """Stands for `numpy.ndarray`."""

    def __init__(self, raw: object = b"", dtype: object = None, shape: object = (), order: object = "C") -> None:
        self.raw, self.dtype, self.shape, self.order = raw, dtype, shape, order

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, in_columns, self.raw = state
        self.order = "F" if in_columns else "C"

    def resolved(self) -> np.ndarray:
        if not isinstance(self.dtype, _Dtype) or not isinstance(self.raw, (bytes, bytearray)):
            raise pickle.UnpicklingError("refused an array of Python objects")
        flat: Any = np.frombuffer(self.raw, self.dtype.resolved())
        return np.array(flat.reshape(self.shape, order=self.order))


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, raw: bytes) -> Any:
    return np.frombuffer(raw, dtype.resolved(), 1)[0]


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


# The names of NumPy 1 (core) and of NumPy 2 (_core).
_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Array for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        raise pickle.UnpicklingError(f"refused {module}.{name}: only arrays, numbers and text are read")


def load_pickle(content: bytes) -> Any:
    """What a pickle holds: numbers, text, arrays of them, and lists, tuples and dicts of these.

    Raises:
        ValueError: damaged, or it names anything else.

    >>> load_pickle(pickle.dumps({"overlap": [0.5], "rot": np.eye(2)}))["rot"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    >>> load_pickle(pickle.dumps(print))
    Traceback (most recent call last):
    ValueError: refused builtins.print: only arrays, numbers and text are read
    """
    return _read(lambda: _Unpickler(io.BytesIO(content)).load())


def load_torch(path: Path) -> Any:
    """What a PyTorch file holds: the same, and tensors.

    Raises:
        OSError: it cannot be opened.
        ValueError: damaged, or it names anything else.
    """
    stand_ins: list[Any] = [(value, ".".join(name)) for name, value in _STAND_INS.items() if name[0] != "_codecs"]

    def load() -> Any:
        with SAFE_GLOBALS_LOCK, torch.serialization.safe_globals(stand_ins):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    content = path.read_bytes()
    return _read(load)


def _read(load: Callable[[], Any]) -> Any:
    try:
        return _resolved(load())
    except MemoryError:
        raise
    # A parser of damaged bytes may raise anything.
    except Exception as error:
        raise ValueError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """One sentence; torch's own text goes on to advise loading the file without care."""
    named = _REFUSED_BY_TORCH.search(str(error))
    if named is not None:
        return f"refused {named[1]}: only arrays, numbers and text are read"
    sentence = re.split(r"\.?(?:\s*\n|\. |$)", str(error).rpartition("WeightsUnpickler error: ")[2].strip())[0]
    kind = "" if isinstance(error, (ValueError, RuntimeError, pickle.UnpicklingError)) else type(error).__name__
    return f"{kind} {sentence[:200]}".strip() or type(error).__name__


def _resolved(item: Any) -> Any:
    if isinstance(item, (_Array, _Dtype)):
        return item.resolved()
    if isinstance(item, dict):
        return {key: _resolved(value) for key, value in item.items()}
    if type(item) in (list, tuple):
        return type(item)(_resolved(value) for value in item)
    return item
