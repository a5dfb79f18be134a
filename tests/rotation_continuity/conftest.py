"""The modules of `examples/rotation_continuity` and what their tests share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "rotation_continuity"
PARTS = ("command", "textlines", "skeleton", "bvh", "acclaim", "motions", "shapes", "training", "published", "curves")
MODULES = (*PARTS, "report", "sanity", "point_cloud", "inverse_kinematics", "so_n")


@pytest.fixture(scope="module")
def parts() -> Iterator[SimpleNamespace]:
    """The modules beside the experiments, imported as the scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
        torch.set_num_threads(threads)
        for name in MODULES:
            del sys.modules[name]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a text file."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def cmu(shared_data: Path) -> Path:
    folder = shared_data / "rotations" / "cmu"
    if not folder.is_dir():
        pytest.skip(f"no motion capture at {folder}")
    return folder
