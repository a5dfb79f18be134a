"""The first run of an installation compiles kernels: slower than all later ones, so it says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def announce_compilation(say: Callable[[str], None], what: str) -> None:
    """Say that `what` will be compiled now, unless numba's cache holds compiled code already.

    The search for nearest neighbors stands for all kernels: every registration needs it.
    """
    from rotaware.kernels.numba_neighbors import nearest

    if not any(Path(nearest.stats.cache_path or "").glob("numba_neighbors.nearest-*.nbi")):
        say(f"first run here: compiling {what} (10 to 20 s; later runs find it on disk)")
