"""Compiled code always finds a folder: a read-only installation without a home folder still works."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

# Numba tries a folder by opening a temporary file in it; here only those below the temporary folder are writable.
READ_ONLY = """
import tempfile
from pathlib import Path
open_file, root = tempfile.TemporaryFile, tempfile.gettempdir()
def refuse(*arguments, dir=None, **options):
    if not Path(dir).is_relative_to(root):
        raise PermissionError(13, "read-only file system", str(dir))
    return open_file(*arguments, dir=dir, **options)
tempfile.TemporaryFile = refuse
import rotaware.datasets, rotaware.pointcloud
from rotaware.geo.compile_cache import cache_folder
print(cache_folder())
"""


def _cache_of_a_read_only_installation(temporary: Path) -> Path:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CACHE")}
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY],
        env=environment | {"TMPDIR": str(temporary)},
        cwd=temporary,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_falls_back_to_a_private_folder(tmp_path: Path) -> None:
    folder = _cache_of_a_read_only_installation(tmp_path).parent
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert _cache_of_a_read_only_installation(tmp_path).parent == folder, "a second run finds what the first compiled"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no user ids here")
def test_a_folder_open_to_others_is_not_trusted(tmp_path: Path) -> None:
    planted = tmp_path / f"rotaware-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    assert _cache_of_a_read_only_installation(tmp_path).parent != planted
    assert not any(planted.iterdir())
