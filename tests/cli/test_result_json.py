"""The text form of a result: strict, stable, readable; its content is tested in test_register.py."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rotaware.cli.result_json import dump, tool_version


def test_every_kind_of_value_becomes_plain_json() -> None:
    document = {
        "array": np.arange(3),
        "scalar": np.float32(0.5),
        "flag": np.bool_(True),
        "nested": {"tuple": (1, math.inf), "row": [-0.0, math.nan, 1e-300]},
        "path": Path("a/b"),
        "none": None,
    }
    assert json.loads(dump(document)) == {
        "array": [0, 1, 2],
        "scalar": 0.5,
        "flag": True,
        "nested": {"tuple": [1, None], "row": [0.0, None, 1e-300]},
        "path": "a/b",
        "none": None,
    }


def test_numbers_keep_every_digit() -> None:
    values = np.random.default_rng(0).normal(size=(50, 4)) * 10.0 ** np.arange(-20, 30)[:, None]
    np.testing.assert_array_equal(json.loads(dump({"values": values}))["values"], values)


def test_a_matrix_row_is_one_line() -> None:
    text = dump({"matrix": np.eye(4), "row": [1.5, None], "names": ["a", "b"], "empty": [], "text": "[\n1\n]"})
    assert "[0.0, 1.0, 0.0, 0.0],\n" in text and '"row": [1.5, null]' in text
    assert json.loads(text)["text"] == "[\n1\n]" and json.loads(text)["empty"] == []


@pytest.mark.parametrize("name", ["scän.ply", "bad\udcff.ply"])
def test_any_file_name_is_plain_ascii(name: str) -> None:
    text = dump({"path": name})
    assert text.isascii() and json.loads(text)["path"] == name


def test_tool_version_is_known() -> None:
    version = tool_version()
    assert set(version) == {"version", "commit"} and version["version"]
