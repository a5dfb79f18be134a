"""What every test stands on: the installed package, threads that fit the machine, and data that may be missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

CHECKOUT = Path(__file__).resolve().parents[1]

# With the checkout on the path, `import geo` would load a second copy of `rotaware.geo`, and `import datasets` ours
# in place of somebody else's. Without it, `pytest` and `python -m pytest` agree.
sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != CHECKOUT]

# Set before numba and torch are first imported, and inherited by the commands that tests start. At least two numba
# threads, so that tests can compare one thread with two on any machine.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, CORES)))
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, min(4, CORES))))

# Without a GPU, Triton's kernels run in its interpreter. Triton asks as it is imported, which torch's compiler does.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples in every run, and no time limit that a busy machine could break.
settings.register_profile("rotaware", deadline=None, derandomize=True, database=None)
settings.load_profile("rotaware")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder that holds `pyproject.toml`."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Licensed scans that are not part of the project: `$ROTAWARE_SHARED/data`, else `../shared/data`."""
    data = Path(os.environ.get("ROTAWARE_SHARED", CHECKOUT.parent / "shared")) / "data"
    if not data.is_dir():
        pytest.skip(f"no licensed test data at {data}; point ROTAWARE_SHARED to the folder that holds data/")
    return data
