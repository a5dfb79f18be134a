"""Versions of what the results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_REQUIRED = ("rotaware", "numpy", "scipy", "torch", "numba", "small_gicp")
_OPTIONAL = ("rich", "trimesh", "kiss_matcher", "open3d")


def installed_versions(*, optional: bool = False) -> dict[str, str]:
    """Name -> version of Python and the packages we compute with; "missing" for one that is not installed.

    >>> sorted(installed_versions())[-1]
    'torch'
    """
    names = _REQUIRED + _OPTIONAL if optional else _REQUIRED
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
