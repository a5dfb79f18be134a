"""Detections in the files of the DOTA evaluation server: one text file per class, in a folder or a zip.

`Task1_<class>.txt` holds `image score x1 y1 x2 y2 x3 y3 x4 y4` in pixels of the whole image, also where nothing was
found; `Task2_<class>.txt` holds hulls, `image score xmin ymin xmax ymax`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from rotaware.geo.files import write_whole

Array = np.ndarray


@dataclass(frozen=True)
class ClassDetections:
    """All detections of one class, over all images; rows belong together."""

    images: tuple[str, ...]
    scores: Array  # (N,)
    quads: Array  # (N, 4, 2) pixels

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.scores.shape != (count,) or self.quads.shape != (count, 4, 2):
            raise ValueError(
                f"scores, quads: expected shapes ({count},) and ({count}, 4, 2), "
                f"got {self.scores.shape} and {self.quads.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, chosen: Array) -> ClassDetections:
        """Some of the rows, by number."""
        images = tuple(self.images[row] for row in chosen)
        return ClassDetections(images, self.scores[chosen], self.quads[chosen])


NONE = ClassDetections((), np.zeros(0), np.zeros((0, 4, 2)))


def read_detections(path: str | PathLike[str]) -> dict[str, ClassDetections]:
    """Detections by class, of a folder or a zip with files Task1_<class>.txt.

    Raises:
        FileNotFoundError: no such folder or zip, or no such files in it.
        ValueError: a line that does not hold what it should, with file and line.
    """
    path = Path(path)
    found = {}
    for name, text in _texts(path):
        if name.startswith("Task1_") and name.endswith(".txt"):
            found[name[len("Task1_") : -len(".txt")]] = _parsed(f"{path}/{name}", text)
    if not found:
        raise FileNotFoundError(f"{path}: expected files Task1_<class>.txt, found none")
    return found


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix == ".txt":
                yield file.name, file.read_text(encoding="utf-8-sig")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".txt") and "/" not in name:
                    yield name, archive.read(name).decode("utf-8-sig")
    else:
        raise FileNotFoundError(f"{path}: expected a folder or a zip of detections")


def _parsed(where: str, text: str) -> ClassDetections:
    images, numbers = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            values = [float(part) for part in parts[1:]]
        except ValueError:
            values = []
        if len(values) != 9 or not np.isfinite(values).all():
            raise ValueError(f"{where}, line {number}: expected image, score and 8 finite numbers, got {line[:80]!r}")
        images.append(parts[0])
        numbers.append(values)
    table = np.array(numbers, dtype=np.float64).reshape(-1, 9)
    return ClassDetections(tuple(images), table[:, 0], table[:, 1:].reshape(-1, 4, 2))


def write_detections(path: str | PathLike[str], detections: Mapping[str, ClassDetections], *, task: int = 1) -> None:
    """Files for the server: a zip if `path` ends in .zip, else a folder.

    Args:
        detections: by class; those without any get an empty file.
        task: 1 for quads, 2 for their hulls.
    """
    if task not in (1, 2):
        raise ValueError(f"task: expected 1 or 2, got {task}")
    path = Path(path)
    texts = {f"Task{task}_{name}.txt": _written(each, task) for name, each in detections.items()}
    if path.suffix != ".zip":
        for name, text in texts.items():
            write_whole(path / name, text)
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            # A fixed date: the same detections make the same file.
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    write_whole(path, buffer.getvalue())


def _written(detections: ClassDetections, task: int) -> str:
    quads = detections.quads
    numbers = quads.reshape(len(quads), 8)
    if task == 2:
        numbers = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    return "".join(
        f"{image} {score:.6g} {' '.join(f'{value:.2f}' for value in row)}\n"
        for image, score, row in zip(detections.images, detections.scores, numbers, strict=True)
    )
