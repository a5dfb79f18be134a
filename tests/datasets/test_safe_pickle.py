"""Pickles: what comes back, and that nothing in them runs or reaches into memory."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_cases import CreatesFile

from rotaware.datasets.safe_pickle import load_pickle, load_torch

CONTENT: dict[str, Any] = {
    "float64": np.random.default_rng(0).normal(size=(3, 4)),
    "float32": np.ones((2, 2), dtype=np.float32),
    "in columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "other end": np.arange(3, dtype=">i4"),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "truth": np.array([True, False]),
    "nothing": np.zeros((0, 3)),
    "one": np.array(5.0),
    "scalar": np.float64(2.5),
    "integer": np.int64(7),
    "lists": [1, 2.5, "a", None, True, (1, [2])],
}


def equal(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, np.ndarray):
        return isinstance(ours, np.ndarray) and ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    return bool(ours == theirs) and type(ours) is type(theirs)


# The oldest protocols call a function to make no bytes.
CASES = [(name, protocol) for name in CONTENT for protocol in range(6) if name != "nothing" or protocol > 2]


@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_arrays_numbers_and_text_come_back(name: str, protocol: int) -> None:
    content = pickle.dumps({name: CONTENT[name]}, protocol)
    assert equal(load_pickle(content)[name], CONTENT[name])
    if protocol < 4:
        # As NumPy 1 wrote it; later protocols state the length of the name.
        assert equal(load_pickle(content.replace(b"numpy._core", b"numpy.core"))[name], CONTENT[name])


@pytest.mark.parametrize("name", ["float64", "float32", "in columns", "other end"])
def test_pytorch_files(tmp_path: Path, name: str) -> None:
    for content in (CONTENT[name], torch.tensor(CONTENT[name].astype("f4"))):
        torch.save(content, tmp_path / "cloud.pth")
        np.testing.assert_array_equal(load_torch(tmp_path / "cloud.pth"), content)


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    """torch keeps its list of safe names for the whole process, and a thread that leaves takes its names away."""
    torch.save(CONTENT["float64"], tmp_path / "cloud.pth")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(load_torch, [tmp_path / "cloud.pth"] * 200))
    for points in found:
        np.testing.assert_array_equal(points, CONTENT["float64"])


class Calls:
    """Calls something when it is unpickled without care."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Array:
    """An array whose type of numbers, or bytes, are not what NumPy would write."""

    def __init__(self, dtype: Any, raw: Any, shape: tuple[int, ...] = (1,)) -> None:
        self.state = (1, shape, dtype, False, raw)

    def __reduce__(self) -> tuple[Any, ...]:
        return (*np.zeros(0).__reduce__()[:2], self.state)


class Dtype:
    """float64, made a record with a Python object in it once it is there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("f8", False, True), (3, "<", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0x3F)


ATTACKS: dict[str, Any] = {
    "a command": Calls(os.system, "true"),
    "code": Calls(exec, "raise SystemExit('code of a file ran')"),
    "an import": Calls(__import__, "this"),
    "a file": CreatesFile(Path("never")),
    "objects over bytes": Calls(np.ndarray, (1,), np.dtype("O"), b"\x10" * 8),
    "memory of others": Calls(np.ndarray, (3,)),
    "objects": np.array([1, "a"], dtype=object),
    "objects in bytes": Array(np.dtype("O"), b"\x10" * 8),
    "a record": np.zeros(2, dtype=[("x", "f8"), ("y", "f8")]),
    "a record over a number": Array(Dtype(), b"\x10" * 8),
    "too few bytes": Array(np.dtype("f8"), b"\x10" * 7),
    "too large a shape": Array(np.dtype("f8"), b"\x10" * 8, (1 << 40,)),
}
_REFUSED_OR_HARMLESS = "a record over a number"


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_in_a_pickle_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"src": ["a"], "more": [ATTACKS[name]]}, protocol)
    if name == _REFUSED_OR_HARMLESS:
        # The record is ignored: what comes back is a number.
        assert load_pickle(content)["more"][0].dtype == np.float64
    else:
        with pytest.raises(ValueError):
            load_pickle(content)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_in_a_pytorch_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cloud.pth"
    torch.save(ATTACKS[name], path)
    before = set(torch.serialization.get_safe_globals())
    if name == _REFUSED_OR_HARMLESS:
        assert load_torch(path).dtype == np.float64
    else:
        with pytest.raises(ValueError):
            load_torch(path)
    assert list(tmp_path.iterdir()) == [path]
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_refusal_names_what_was_refused() -> None:
    with pytest.raises(ValueError, match=r"^refused builtins\.exec: only arrays, numbers and text are read$"):
        load_pickle(pickle.dumps(ATTACKS["code"]))
    with pytest.raises(ValueError, match=r"^refused an array of Python objects$"):
        load_pickle(pickle.dumps(np.array([None])))
    with pytest.raises(ValueError, match=r"^refused an array of 'V16': only plain numbers and text are read$"):
        load_pickle(pickle.dumps(ATTACKS["a record"]))


def test_a_list_inside_itself_ends() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="recursion"):
        load_pickle(pickle.dumps(endless))
