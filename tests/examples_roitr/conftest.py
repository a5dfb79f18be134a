"""The modules of `examples/roitr`, a few generated scans, and a network small enough to train in seconds."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rotaware.datasets import write_indoor_rooms

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "roitr"
MODULES = ("recipe", "samples", "curve", "train")
CONFIG: dict[str, Any] = {
    "network": {
        "widths": [32, 32, 32, 32],
        "point_channels": 16,
        "patch_points": 24,
        "patch_pairs": 16,
        "voxel": 0.04,
    },
    "recipe": {
        "steps": 6,
        "occupied": [500, 700],
        "patch_pairs": 8,
        # Large, so that any difference shows.
        "warmup": 0,
        "learning_rate": 1e-3,
        "validate_every": 3,
        "validation_pairs": 2,
        "measure_every": 2,
        "save_every": 2,
    },
}


@pytest.fixture(scope="session")
def parts() -> Iterator[SimpleNamespace]:
    """The modules, imported as the script does."""
    pytest.importorskip("lightning", reason="the extra `train` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
        for name in MODULES:
            del sys.modules[name]


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of 3DMatch."""
    folder = tmp_path_factory.mktemp("rooms")
    assert write_indoor_rooms(folder, [100_000], 3, frames=3) >= 2
    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`CONFIG` as a file."""
    file = tmp_path_factory.mktemp("config") / "tiny.json"
    file.write_text(json.dumps(CONFIG))
    return file
