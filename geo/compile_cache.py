"""A place for compiled kernels, also where the package and the home folder cannot be written.

Importing this module before the first `numba.njit(cache=True)` is enough. Numba keeps compiled code beside the source,
else in the user's cache folder, else it refuses to import the function: a container with a read-only installation and
no home folder could not even start. Then the code goes to a private folder below the temporary one.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import numba


def cache_folder() -> Path | None:
    """Where numba keeps compiled code of this room, None if nowhere.

    >>> cache_folder() is not None
    True
    """
    try:
        path = numba.njit(cache=True)(_probe).stats.cache_path
    except RuntimeError:
        return None
    return Path(path) if path else None


def ensure_cache_folder() -> None:
    """Point numba to a private temporary folder if it has no other; without effect on functions defined before."""
    if cache_folder() is None:
        numba.config.CACHE_DIR = str(_private_folder())  # type: ignore[attr-defined]


def _private_folder() -> Path:
    """`<tmp>/rotaware-<user>`, used only if it is ours and closed to others: numba runs the code it finds there."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"rotaware-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and (os.name == "nt" or (found.st_uid == user and not found.st_mode & 0o077)):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="rotaware-"))


def _probe(value: float) -> float:
    return value


ensure_cache_folder()
