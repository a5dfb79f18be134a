"""The result folder: checked before the work, prepared under a temporary name, put in place in one step."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rotaware.pointcloud import InputError, Layout, PointCloud, Registration, output_extension, write_point_cloud
from rotaware.pointcloud.report import write_overview_png, write_report_html

from .result_json import dump
from .verdict import verdict_lines
from .versions import installed_versions

# Orange and blue, told apart by every kind of colour vision (Okabe and Ito, 2008).
_SOURCE_COLOR = (230, 159, 0)
_TARGET_COLOR = (0, 114, 178)

_FILES = frozenset(
    {
        "result.json",
        "transform.npy",
        "transform.txt",
        "merged.ply",
        "overview.png",
        "report.html",
        "correspondences.npz",
        "log.txt",
    }
)


class ResultFolder:
    """A folder that appears complete or not at all.

    Use `check()` before the computation and `with folder as temporary:` to fill it. On success the temporary folder
    takes the place of the real one; after an exception or Ctrl-C it is removed and the old content is as it was.
    Files of others are never deleted: a folder that holds any is refused, or with `force` (or when it already holds a
    result of ours) only our own files in it are replaced.

    Args:
        path: the folder to make.
        force: write into a folder that holds foreign files.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.path = Path(path)
        self.written = False
        self._force = force
        # A link stays a link: its target is what gets replaced.
        self._real = Path(os.path.realpath(path))
        self._temporary: Path | None = None
        self._inside = False

    def check(self) -> None:
        """Find out now what would fail after the computation.

        Raises:
            InputError: the folder cannot be made or written, or holds files that are not ours.
        """
        if self._real.exists() and not self._real.is_dir():
            raise InputError(f"cannot write the results to {str(self.path)!r}: it is a file; name a folder with -o")
        if self._real.is_dir() and not self._force and any(self._real.iterdir()) and not _holds_result(self._real):
            raise InputError(
                f"output folder {str(self.path)!r} holds other files; name another with -o, or use --force to add to it"
            )
        folder = self._real if self._keeps_folder() else self._real.parent
        while not folder.exists():
            folder = folder.parent
        try:
            os.rmdir(tempfile.mkdtemp(prefix=".rotaware-", dir=folder))
        except OSError as error:
            raise InputError(f"cannot write the results to {str(self.path)!r}: {error.strerror}; use -o") from None

    def __enter__(self) -> Path:
        self._inside = self._keeps_folder()
        parent = self._real if self._inside else self._real.parent
        parent.mkdir(parents=True, exist_ok=True)
        self._temporary = parent / f".{self._real.name}.{os.getpid()}.partial"
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir()
        return self._temporary

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._temporary is not None
        try:
            if error is None:
                if self._inside:
                    self._move_files(self._temporary)
                else:
                    self._swap(self._temporary)
                self.written = True
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _keeps_folder(self) -> bool:
        """Whether the existing folder must survive: it holds foreign files, or is one we stand in or a mount point."""
        real = self._real
        if not real.is_dir():
            return False
        here = Path(os.path.realpath(os.curdir))
        only_ours = all(is_result_file(entry) and entry.is_file() for entry in real.iterdir())
        return not only_ours or os.path.ismount(real) or real == here or real in here.parents

    def _swap(self, temporary: Path) -> None:
        if not self._real.exists():
            os.rename(temporary, self._real)
            return
        old = temporary.with_suffix(".old")
        try:
            os.rename(self._real, old)
            os.rename(temporary, self._real)
        except BaseException:
            if not self._real.exists():
                os.rename(old, self._real)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _move_files(self, temporary: Path) -> None:
        """File by file; `result.json` leaves first and arrives last, so its presence means that all is there."""
        ours = [entry for entry in self._real.iterdir() if is_result_file(entry) and entry.is_file()]
        for stale in sorted(ours, key=lambda entry: entry.name != "result.json"):
            stale.unlink()
        for ready in sorted(temporary.iterdir(), key=lambda entry: entry.name == "result.json"):
            os.replace(ready, self._real / ready.name)


def is_result_file(path: str | Path) -> bool:
    """Whether a file of this name is one that a result folder of ours holds."""
    name = Path(path).name
    return name in _FILES or Path(name).stem == "aligned"


def _holds_result(folder: Path) -> bool:
    """Whether `folder` holds a result.json that we wrote."""
    try:
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return bool(content["tool"]["name"] == "rotaware")
    except (OSError, ValueError, TypeError, KeyError):
        return False


def write_results(
    folder: Path,
    registration: Registration,
    source: PointCloud,
    target: PointCloud,
    document: dict[str, Any],
    options: argparse.Namespace,
) -> None:
    """Write every file of a result into `folder`, which exists and is empty.

    A rejected pose leaves no transform and no moved cloud, unless `options.force`.
    """
    matrix = registration.T_target_source
    usable = registration.status != "not_registered" or options.force
    if matrix is not None and usable:
        np.save(folder / "transform.npy", matrix)
        np.savetxt(folder / "transform.txt", matrix, fmt="%.17g")
        moved = source.transformed(matrix)
        write_point_cloud(folder / f"aligned{output_extension(moved)}", moved)
        if options.merged:
            write_point_cloud(folder / "merged.ply", _merged(moved, target))
    pairs = registration.correspondences
    np.savez_compressed(
        folder / "correspondences.npz",
        source_index=pairs.source_index,
        target_index=pairs.target_index,
        confidence=pairs.confidence,
        inlier=pairs.inlier,
    )
    source_name, target_name = Path(options.source).name, Path(options.target).name
    if "png" in options.report:
        write_overview_png(
            folder / "overview.png",
            registration,
            source.points,
            target.points,
            source_name=source_name,
            target_name=target_name,
        )
    if "html" in options.report:
        write_report_html(
            folder / "report.html",
            registration,
            source.points,
            target.points,
            source_name=source_name,
            target_name=target_name,
            source_colors=source.colors,
            target_colors=target.colors,
        )
    (folder / "log.txt").write_text(_log(registration, document), encoding="utf-8", errors="backslashreplace")
    (folder / "result.json").write_text(dump(document), encoding="utf-8")


def _merged(moved: PointCloud, target: PointCloud) -> PointCloud:
    points, colors = [], []
    for cloud, color in ((moved, _SOURCE_COLOR), (target, _TARGET_COLOR)):
        finite = cloud.points[np.isfinite(cloud.points).all(axis=1)]
        points.append(finite)
        colors.append(np.broadcast_to(np.array(color, dtype=np.uint8), finite.shape))
    rgb = np.concatenate(colors)
    attributes = {name: rgb[:, column] for column, name in enumerate(("red", "green", "blue"))}
    # Float32 is enough near the origin; the writer widens it for map coordinates.
    return PointCloud(np.concatenate(points), attributes, layout=Layout(coordinate_dtype=np.dtype(np.float32)))


def _log(registration: Registration, document: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    lines = [
        f"versions: {versions}",
        *(f"{item['role']}: {item['path']}  sha256 {item['sha256']}" for item in document["inputs"]),
        f"parameters: {json.dumps(json.loads(dump(document['parameters'])))}",
        f"engine: {registration.engine} ({registration.why}); refine: {registration.refine}; seed {registration.seed}",
        "",
        "seconds per stage:",
        *(f"  {name:<24} {seconds:8.2f}" for name, seconds in registration.timings.items()),
        "",
        registration.explain(),
        "",
        *verdict_lines(registration),
    ]
    return "\n".join(lines) + "\n"
