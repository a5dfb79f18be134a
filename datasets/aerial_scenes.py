"""Generated aerial pictures with oriented objects, in the classes of DOTA: training data from nothing but seeds.

Ground with roads, water and aprons; ships in rows and alone, parked and driving vehicles, planes, tanks; shadows,
buildings and trees that are nothing to find; blur, noise and light. Labels are exact: the rectangle of each outline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from rotaware.geo.box_iou import box_iou_rotated
from rotaware.geo.boxes import boxes_to_quads

from .aerial_images import AerialImage
from .aerial_objects import KINDS, Array, Color, Part, building, tree

AERIAL_CLASSES = tuple(KINDS)
# Everything is drawn this much larger, then averaged.
_FINER = 2
_GROUND: tuple[Color, ...] = ((96, 104, 72), (112, 108, 86), (126, 118, 100), (84, 92, 66), (140, 132, 116))
_WATER: tuple[Color, ...] = ((46, 66, 78), (36, 58, 66), (58, 82, 88))
_ASPHALT: tuple[Color, ...] = ((92, 92, 94), (110, 109, 106), (128, 126, 122))


@dataclass(frozen=True)
class _Thing:
    """Something placed: box (cx, cy, w, h, theta) in pixels, its class or None, its parts, and a shadow's length."""

    box: Array
    label: int | None
    parts: list[Part]
    shadow: float


class AerialScenes:
    """Generated images, each wholly decided by the seed and its number.

    Args:
        count: of images.
        size: edge of the square images, pixels.
        seed: of all.
        metres_per_pixel: least and most; cars take 5 m, ships up to 90 m.

    >>> scenes = AerialScenes(2, size=128)
    >>> scenes[0].image.shape, len(scenes), scenes.classes[0]
    ((128, 128, 3), 2, 'plane')
    """

    classes = AERIAL_CLASSES

    def __init__(
        self, count: int, *, size: int = 256, seed: int = 0, metres_per_pixel: tuple[float, float] = (0.15, 0.4)
    ) -> None:
        if count < 1 or size < 32:
            raise ValueError(f"count, size: expected at least 1 and 32, got {count} and {size}")
        if not 0 < metres_per_pixel[0] <= metres_per_pixel[1]:
            raise ValueError(f"metres_per_pixel: expected two rising positive numbers, got {metres_per_pixel}")
        self.count, self.size, self.seed, self.metres_per_pixel = count, size, seed, metres_per_pixel

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> AerialImage:
        """An image with its objects."""
        if not 0 <= number < self.count:
            raise IndexError(f"number: expected 0 to {self.count - 1}, got {number}")
        generator = np.random.default_rng([0xA3, self.seed, number])
        low, high = np.log(self.metres_per_pixel)
        scene = AerialScene(generator, self.size, float(np.exp(generator.uniform(low, high))))
        things = [each for each in scene.things if each.label is not None]
        boxes = np.array([each.box for each in things]).reshape(-1, 5)
        return AerialImage(
            f"S{self.seed:03d}_{number:06d}",
            scene.picture(),
            boxes_to_quads(torch.from_numpy(boxes)).numpy(),
            np.array([each.label for each in things], dtype=np.int64),
            np.zeros(len(things), dtype=bool),
        )


class AerialScene:
    """One picture: places things, then draws them."""

    def __init__(self, generator: np.random.Generator, size: int, metres: float) -> None:
        self.draw, self.size, self.metres = generator, size, metres
        self.light = generator.uniform(0, 2 * np.pi)
        self.things: list[_Thing] = []
        self.areas: list[Part] = []
        # On water or on land, and along which direction things lie.
        self.wet = generator.uniform() < 0.4
        self.along = generator.uniform(0, np.pi)
        if self.wet:
            self._harbour()
        else:
            self._land()

    def _harbour(self) -> None:
        """Water with a quay on one side, ships in rows at it and alone."""
        half = self.size / 2
        ahead = np.array([math.cos(self.along), math.sin(self.along)])
        across = np.array([-ahead[1], ahead[0]])
        middle = np.array([half, half]) + across * self.size * self.draw.uniform(0.1, 0.6)
        reach = 2 * self.size
        quay = [
            middle - reach * ahead,
            middle + reach * ahead,
            middle + reach * (ahead + across),
            middle + reach * (across - ahead),
        ]
        self.areas.append((np.array(quay), self._one(_ASPHALT + _GROUND)))
        length = self._length("ship")
        turn = self.along + (np.pi / 2 if self.draw.uniform() < 0.6 else 0.0)
        pitch = length * (0.45 if turn != self.along else 1.15)
        for place in np.arange(-self.size, self.size, pitch):
            if self.draw.uniform() < 0.75:
                centre = middle + ahead * place - across * (length * (0.6 if turn != self.along else 0.25))
                self._add("ship", centre, turn + self.draw.normal(scale=0.02), length * self.draw.uniform(0.85, 1.0))
        for _ in range(int(self.draw.integers(1, 6))):
            self._add("ship", self._anywhere(), self.draw.uniform(0, 2 * np.pi), self._length("ship"))
        for _ in range(int(self.draw.integers(0, 5))):
            self._distract(middle + across * self.draw.uniform(20, 200) + ahead * self.draw.uniform(-half, half))

    def _land(self) -> None:
        """Planes on an apron, tanks, roads with traffic, parked rows; buildings and trees between."""
        # What is large goes first, or it would find no room.
        plan = self.draw.uniform(size=5)
        if plan[0] < 0.5:
            self._apron()
        if plan[1] < 0.45:
            self._tanks()
        if plan[2] < 0.75:
            self._road(self.along)
        if plan[3] < 0.4:
            self._road(self.along + np.pi / 2)
        if plan[4] < 0.5:
            self._row("small-vehicle" if self.draw.uniform() < 0.7 else "large-vehicle")
        for name, most in (("small-vehicle", 5), ("large-vehicle", 3)):
            for _ in range(int(self.draw.integers(0, most))):
                self._add(name, self._anywhere(), self.draw.uniform(0, 2 * np.pi), self._length(name))
        for _ in range(int(self.draw.integers(1, 8))):
            self._distract(self._anywhere())

    def _road(self, direction: float) -> None:
        ahead = np.array([math.cos(direction), math.sin(direction)])
        across = np.array([-ahead[1], ahead[0]])
        middle, lane = self._anywhere(), 3.6 / self.metres
        reach, half = 2 * self.size * ahead, lane * self.draw.integers(1, 3)
        self.areas.append((np.array([middle - reach - half * across, middle + reach - half * across,
                                     middle + reach + half * across, middle - reach + half * across]),
                           self._one(_ASPHALT)))  # fmt: skip
        for side in (-1, 1):
            for place in np.arange(-self.size, self.size, self.draw.uniform(9, 25) / self.metres):
                name = "small-vehicle" if self.draw.uniform() < 0.75 else "large-vehicle"
                centre = middle + ahead * (place + self.draw.normal(scale=2.0)) + across * side * lane / 2
                turn = direction + (np.pi if side > 0 else 0.0) + self.draw.normal(scale=0.03)
                self._add(name, centre, turn, self._length(name))

    def _row(self, name: str) -> None:
        """Parked side by side, in one to four rows."""
        length = self._length(name)
        width, turn = length / np.mean(KINDS[name].aspect), self.draw.uniform(0, 2 * np.pi)
        ahead = np.array([math.cos(turn), math.sin(turn)])
        across, corner = np.array([-ahead[1], ahead[0]]), self._anywhere()
        rows, columns = int(self.draw.integers(1, 5)), int(self.draw.integers(3, 13))
        pitch = 1.35 * width
        front, back, side = (1.5 * rows - 0.7) * length, -0.8 * length, columns * pitch
        lot = np.array([[back, -pitch], [back, side], [front, side], [front, -pitch]])
        self.areas.append((corner + lot @ np.stack([ahead, across]), self._one(_ASPHALT)))
        for row in range(rows):
            for column in range(columns):
                if self.draw.uniform() < 0.8:
                    centre = corner + ahead * 1.5 * row * length + across * column * pitch
                    self._add(name, centre, turn + self.draw.normal(scale=0.02), length * self.draw.uniform(0.9, 1.05))

    def _apron(self) -> None:
        turn, length = self.draw.uniform(0, 2 * np.pi), self._length("plane")
        across, first = np.array([-math.sin(turn), math.cos(turn)]), self.draw.uniform(0.2, 0.8, 2) * self.size
        for place in range(int(self.draw.integers(1, 6))):
            # To both sides in turn.
            at = first + across * ((place + 1) // 2) * (-1) ** place * length * 1.2
            self._add("plane", at, turn + self.draw.normal(scale=0.1), length * self.draw.uniform(0.8, 1.1))

    def _tanks(self) -> None:
        diameter, corner = self._length("storage-tank"), self.draw.uniform(0.1, 0.7, 2) * self.size
        for row in range(int(self.draw.integers(1, 4))):
            for column in range(int(self.draw.integers(1, 4))):
                self._add("storage-tank", corner + 1.25 * diameter * np.array([column, row]), 0.0, diameter)

    def _distract(self, centre: Array) -> None:
        if self.draw.uniform() < 0.5:
            sides = self.draw.uniform(6, 28, 2) / self.metres
            thing = (np.array([*centre, *sides, self.along]), building(self.draw), 6.0)
        else:
            width = self.draw.uniform(3, 9) / self.metres
            thing = (np.array([*centre, width, width, 0.0]), tree(self.draw), 4.0)
        self._place(_Thing(thing[0], None, thing[1], thing[2] / self.metres))

    def _add(self, name: str, centre: Array, turn: float, length: float) -> None:
        kind = KINDS[name]
        box = np.array([*centre, length, length / self.draw.uniform(*kind.aspect), turn])
        self._place(_Thing(box, AERIAL_CLASSES.index(name), kind.draw(self.draw), kind.height / self.metres))

    def _place(self, thing: _Thing) -> None:
        """Unless it is too small to see, mostly outside, or on something else."""
        x, y, w, h, _ = thing.box
        margin = 0.25 * max(w, h)
        if min(w, h) < 4.0 or not (margin <= x <= self.size - margin and margin <= y <= self.size - margin):
            return
        if self.things:
            placed = torch.from_numpy(np.array([each.box for each in self.things]))
            grown = torch.from_numpy(thing.box * [1, 1, 1.06, 1.1, 1])[None]
            if bool((box_iou_rotated(grown, placed) > 0).any()):
                return
        self.things.append(thing)

    def _length(self, name: str) -> float:
        """In pixels; objects that would not fit are taken as large as fits."""
        low, high = KINDS[name].length
        return min(float(np.exp(self.draw.uniform(np.log(low), np.log(high)))) / self.metres, 0.6 * self.size)

    def _anywhere(self) -> Array:
        return self.draw.uniform(0, self.size, 2)

    def _one(self, colors: tuple[Color, ...]) -> Color:
        red, green, blue = np.clip(
            np.array(colors[int(self.draw.integers(len(colors)))]) * self.draw.uniform(0.85, 1.15), 0, 255
        )
        return int(red), int(green), int(blue)

    def picture(self) -> NDArray[np.uint8]:
        """(size, size, 3)."""
        edge = self.size * _FINER
        canvas = Image.new("RGB", (edge, edge), self._one(_WATER if self.wet else _GROUND))
        pen = ImageDraw.Draw(canvas)
        for outline, color in self.areas:
            pen.polygon([tuple(point) for point in outline * _FINER], fill=color)
        canvas = Image.fromarray(self._textured(np.asarray(canvas)))
        dark = Image.new("L", (edge, edge), 0)
        below = ImageDraw.Draw(dark)
        for thing in self.things:
            offset = 0.7 * thing.shadow * np.array([math.cos(self.light), math.sin(self.light)])
            below.polygon(
                [tuple(point) for point in (_placed(thing.parts[0][0], thing.box) + offset) * _FINER], fill=130
            )
        canvas.paste(Image.new("RGB", (edge, edge), (18, 20, 26)), mask=dark.filter(ImageFilter.GaussianBlur(1.0)))
        pen = ImageDraw.Draw(canvas)
        for thing in self.things:
            for outline, color in thing.parts:
                pen.polygon([tuple(point) for point in _placed(outline, thing.box) * _FINER], fill=color)
        return self._photographed(canvas)

    def _textured(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Ground is uneven at every scale."""
        edge = len(pixels)
        rough = np.zeros((edge, edge), dtype=np.float32)
        for cells, strength in ((4, 9.0), (12, 7.0), (40, 5.0), (edge // _FINER, 5.0)):
            noise = self.draw.normal(scale=strength, size=(cells, cells)).astype(np.float32)
            rough += np.asarray(Image.fromarray(noise).resize((edge, edge), Image.Resampling.BICUBIC))
        return np.clip(pixels + rough[:, :, None] * (0.6 if self.wet else 1.0), 0, 255).astype(np.uint8)

    def _photographed(self, canvas: Image.Image) -> NDArray[np.uint8]:
        """Averaged, blurred a little, with noise and the light of the day."""
        picture = canvas.reduce(_FINER).filter(ImageFilter.GaussianBlur(float(self.draw.uniform(0.2, 0.8))))
        values = np.asarray(picture, dtype=np.float64)
        values = (values - 110) * self.draw.uniform(0.8, 1.2) + 110 + self.draw.uniform(-20, 20)
        values = values * self.draw.uniform(0.94, 1.06, 3) + self.draw.normal(
            scale=self.draw.uniform(1, 6), size=values.shape
        )
        return np.clip(values, 0, 255).astype(np.uint8)


def _placed(outline: Array, box: Array) -> Array:
    """An outline in the pixels of the image."""
    x, y, w, h, theta = box
    cos, sin = math.cos(theta), math.sin(theta)
    local = outline * [w / 2, h / 2]
    return np.stack([x + cos * local[:, 0] - sin * local[:, 1], y + sin * local[:, 0] + cos * local[:, 1]], axis=1)
