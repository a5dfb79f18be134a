"""Pictures from above with their objects: what every dataset of rotated detection gives, and how its files are read."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

# Whole images of DOTA reach 20 000 pixels along a side, which Pillow takes for an attack; this is four times as large.
MOST_PIXELS = 2**31
_LIMIT = threading.Lock()
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class AerialImage:
    """An image and its objects."""

    name: str
    image: NDArray[np.uint8]  # (H, W, 3) RGB
    quads: NDArray[np.float64]  # (n, 4, 2) continuous pixels, in the order of the label
    labels: NDArray[np.int64]  # (n,)
    difficult: NDArray[np.bool_]  # (n,)


@dataclass(frozen=True)
class Labels:
    """The objects of an image, and what was wrong with the file of its labels."""

    quads: NDArray[np.float64]  # (n, 4, 2)
    labels: NDArray[np.int64]  # (n,)
    difficult: NDArray[np.bool_]  # (n,)
    # Objects by kind of damage: left out, but for "untangled", whose corners were put in order.
    problems: Mapping[str, int]


class LabelledFolder(ABC):
    """Image files with objects, of whatever layout."""

    classes: tuple[str, ...]  # names, in the order of the labels
    images: list[Path]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, number: int) -> str:
        """Of an image."""
        return self.images[number].stem

    @abstractmethod
    def objects(self, number: int) -> Labels:
        """Of an image, without reading its pixels."""

    def __getitem__(self, number: int) -> AerialImage:
        """An image with its objects.

        Raises:
            FileNotFoundError: the image or its labels are not there.
            ValueError: a damaged file.
        """
        found = self.objects(number)
        image = read_image(self.images[number])
        return AerialImage(self.name(number), image, found.quads, found.labels, found.difficult)


def read_image(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of 8 bits, whatever the file holds: grey, palettes, transparency (left out), 16 bits.

    What EXIF says about turning it is ignored: labels are those of the pixels as stored.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, not an image, or larger than 2^31 pixels.
    """
    with _opened(Path(path)) as file:
        return _eight_bits(file)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file, with room for large images; what goes wrong while it is read is an error that names it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image")
    with _LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS // 2
        try:
            with Image.open(path) as file:
                yield file
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path}: expected an image, got {error}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _eight_bits(file: Image.Image) -> NDArray[np.uint8]:
    if file.mode.startswith("I") or file.mode == "F":
        grey = np.asarray(file, dtype=np.float64)
        # 16 bits in whatever container; others are taken as they are.
        scale = 257.0 if file.mode.startswith("I") and grey.max(initial=0.0) > 255 else 1.0
        eight = np.clip(np.round(grey / scale), 0, 255).astype(np.uint8)
        return np.repeat(eight[:, :, None], 3, axis=2)
    if file.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        # The colours themselves: nothing is known to lie below them.
        file = file.convert("RGBA")
        return np.ascontiguousarray(np.asarray(file)[:, :, :3])
    return np.array(file.convert("RGB"))


def image_size(path: str | PathLike[str]) -> tuple[int, int]:
    """Width and height, from the header alone.

    Raises:
        FileNotFoundError, ValueError: as `read_image`.
    """
    with _opened(Path(path)) as file:
        return file.size
