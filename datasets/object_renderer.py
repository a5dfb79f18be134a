"""Pictures and volumes of Shepard-Metzler objects, on the CPU, without a display.

The camera looks at the middle of the object from 25 units away; a cube is 2 units wide, and the window is the middle
half of the plane at distance 1, a field of view of 53.1 degrees. Pictures are exact: for every sample of a pixel, a ray
meets each cube that it can meet, and the nearest face is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rotaware.geo.checks import require_choice
from rotaware.geo.threads import run_in_pieces
from rotaware.geo.volumes import orbit_rotation

from .object_symbols import DISTANCE, EDGE, ELEVATION
from .shepard_metzler import Path, positions

Style = Literal["line", "shaded", "depth", "normal"]
# Half of the width of a volume, and of the picture at the distance of the object's middle.
HALF = 0.5 * DISTANCE
# World units from an edge of a cube that are drawn black: 1.1 pixels of 128.
LINE = 0.11
# The light of shaded pictures, in the frame of the camera: from above, in the plane of the view, so that the picture of
# the mirrored object is the mirrored picture.
_LIGHT = (math.sin(math.radians(35)), math.cos(math.radians(35)))
_CHANNELS = {"line": 1, "shaded": 1, "depth": 1, "normal": 3}


def render(
    paths: Sequence[Path],
    azimuths: Sequence[float] | NDArray[np.float64],
    elevations: Sequence[float] | NDArray[np.float64] | float = ELEVATION,
    *,
    size: int = 128,
    style: Style = "line",
    line: float = LINE,
    samples: int = 2,
) -> NDArray[np.uint8]:
    """Pictures of objects.

    Args:
        paths: N of them, of any numbers of cubes.
        azimuths, elevations: of the cameras, degrees.
        size: edge of the pictures in pixels.
        style: "line" drawings, as in the paper; "shaded" faces with edges; "depth", nearer is brighter; "normal", the
            direction of the face in the frame of the camera as a colour.
        line: world units from an edge that are black, in the first two.
        samples: of a pixel, in each direction.
    Returns:
        (N, C, size, size), C 1 but for normals, which have 3. White is background, black in depth and normals.

    >>> from rotaware.datasets import parse_path
    >>> render([parse_path("UUUBBRRFF")], [30.0], size=64).shape
    (1, 1, 64, 64)
    """
    require_choice("style", style, get_args(Style))
    if size < 1 or samples < 1:
        raise ValueError(f"size, samples: expected at least 1, got {size} and {samples}")
    count = len(paths)
    azimuths = np.broadcast_to(np.asarray(azimuths, dtype=np.float64), (count,))
    elevations = np.broadcast_to(np.asarray(elevations, dtype=np.float64), (count,))
    pictures = np.empty((count, _CHANNELS[style], size, size), dtype=np.uint8)
    cameras = np.stack(
        [orbit_rotation(*angles).numpy() for angles in zip(azimuths, elevations, strict=True)] or [np.eye(3)]
    )
    centres = [_centres(path) for path in paths]

    def some(start: int, stop: int) -> None:
        work = np.empty((size * samples, size * samples, 2))
        for number in range(start, stop):
            _draw(centres[number], cameras[number], samples, get_args(Style).index(style), line, _LIGHT, work,
                  pictures[number])  # fmt: skip

    run_in_pieces(some, count, smallest=8)
    return pictures


def voxelise(
    paths: Sequence[Path],
    azimuths: Sequence[float] | NDArray[np.float64],
    elevations: Sequence[float] | NDArray[np.float64] | float = ELEVATION,
    *,
    size: int = 32,
    samples: int = 3,
) -> NDArray[np.float32]:
    """Objects as volumes in the frame of the camera: what share of each voxel is filled.

    Args:
        paths, azimuths, elevations: as `render`.
        size: edge of the volumes in voxels; they reach 12.5 units from the middle, as far as the pictures.
        samples: of a voxel, in each direction.
    Returns:
        (N, size, size, size) in [0, 1]; axes toward the viewer, down, right.

    >>> from rotaware.datasets import parse_path
    >>> volume = voxelise([parse_path("UUUBBRRFF")], [0.0], size=25)[0]
    >>> round(float(volume.sum()) * (2 * HALF / 25) ** 3 / EDGE**3)  # cubes
    10
    """
    if size < 1 or samples < 1:
        raise ValueError(f"size, samples: expected at least 1, got {size} and {samples}")
    count = len(paths)
    azimuths = np.broadcast_to(np.asarray(azimuths, dtype=np.float64), (count,))
    elevations = np.broadcast_to(np.asarray(elevations, dtype=np.float64), (count,))
    volumes = np.empty((count, size, size, size), dtype=np.float32)

    def some(start: int, stop: int) -> None:
        for number in range(start, stop):
            camera = orbit_rotation(azimuths[number], elevations[number]).numpy()
            _fill(_centres(paths[number]), camera, samples, volumes[number])

    run_in_pieces(some, count, smallest=8)
    return volumes


def _centres(path: Path) -> NDArray[np.float64]:
    places = EDGE * positions(path).astype(np.float64)
    return places - places.mean(axis=0)


@njit(cache=True, nogil=True)
def _draw(centres, camera, samples, style, line, light, work, picture):  # type: ignore[no-untyped-def]
    """One picture; `work` holds depth and tone of each sample, or depth and the face that it sees."""
    size = picture.shape[1]
    fine = size * samples
    half = 0.5 * EDGE
    eye = DISTANCE * camera[2]
    for y in range(fine):
        for x in range(fine):
            work[y, x, 0] = np.inf
            work[y, x, 1] = 1.0
    for k in range(len(centres)):
        # The rectangle that the cube's corners span.
        low_x, low_y, high_x, high_y = fine, fine, 0, 0
        for corner in range(8):
            px = centres[k, 0] + (half if corner & 1 else -half) - eye[0]
            py = centres[k, 1] + (half if corner & 2 else -half) - eye[1]
            pz = centres[k, 2] + (half if corner & 4 else -half) - eye[2]
            depth = -(camera[2, 0] * px + camera[2, 1] * py + camera[2, 2] * pz)
            u = (camera[0, 0] * px + camera[0, 1] * py + camera[0, 2] * pz) / depth
            v = (camera[1, 0] * px + camera[1, 1] * py + camera[1, 2] * pz) / depth
            sx, sy = (u + 0.5) * fine, (0.5 - v) * fine
            low_x, low_y = min(low_x, int(np.floor(sx))), min(low_y, int(np.floor(sy)))
            high_x, high_y = max(high_x, int(np.ceil(sx))), max(high_y, int(np.ceil(sy)))
        for y in range(max(0, low_y), min(fine, high_y)):
            v = 0.5 - (y + 0.5) / fine
            for x in range(max(0, low_x), min(fine, high_x)):
                u = (x + 0.5) / fine - 0.5
                near, far, face = -np.inf, np.inf, 0
                for axis in range(3):
                    ray = u * camera[0, axis] + v * camera[1, axis] - camera[2, axis]
                    start = eye[axis] - centres[k, axis]
                    if abs(ray) < 1e-12:
                        if abs(start) > half:
                            near = np.inf
                        continue
                    first, last = (-half - start) / ray, (half - start) / ray
                    if first > last:
                        first, last = last, first
                    if first > near:
                        near, face = first, axis
                    far = min(far, last)
                if near < far and near < work[y, x, 0]:
                    work[y, x, 0] = near
                    border = 0.0
                    for axis in range(3):
                        ray = u * camera[0, axis] + v * camera[1, axis] - camera[2, axis]
                        if axis != face:
                            border = max(border, abs(eye[axis] - centres[k, axis] + near * ray))
                        elif ray > 0:
                            side = -1.0
                        else:
                            side = 1.0
                    if style == 3:
                        work[y, x, 1] = side * (face + 1)
                    elif border > half - line:
                        work[y, x, 1] = 0.0
                    elif style == 0:
                        work[y, x, 1] = 1.0
                    else:
                        upward, toward = side * camera[1, face], side * camera[2, face]
                        work[y, x, 1] = 0.35 + 0.6 * max(0.0, light[0] * upward + light[1] * toward)
    _average(work, samples, style, camera, picture)


@njit(cache=True, nogil=True)
def _average(work, samples, style, camera, picture):  # type: ignore[no-untyped-def]
    """Samples become pixels."""
    size = picture.shape[1]
    share = 1.0 / (samples * samples)
    for y in range(size):
        for x in range(size):
            total = np.zeros(3)
            for sy in range(samples):
                for sx in range(samples):
                    depth, tone = work[y * samples + sy, x * samples + sx]
                    if style <= 1:
                        total[0] += tone
                    elif depth == np.inf:
                        continue
                    elif style == 2:
                        total[0] += min(1.0, max(0.0, 1.0 - (depth - 0.5 * DISTANCE) / DISTANCE))
                    else:
                        side = 1.0 if tone > 0 else -1.0
                        for row in range(3):
                            total[row] += 0.5 + 0.5 * side * camera[row, int(abs(tone)) - 1]
            for channel in range(len(picture)):
                picture[channel, y, x] = np.uint8(255.0 * total[channel] * share + 0.5)


@njit(cache=True, nogil=True)
def _fill(centres, camera, samples, volume):  # type: ignore[no-untyped-def]
    """One volume; cube by cube, the voxels that it may reach."""
    size = volume.shape[0]
    half, voxel = 0.5 * EDGE, 2 * HALF / size
    reach = half * np.sqrt(3.0) / voxel
    share = 1.0 / samples**3
    volume[:] = 0.0
    for k in range(len(centres)):
        middle = camera @ centres[k]
        # Along (toward, down, right).
        at = np.array([middle[2], -middle[1], middle[0]]) / voxel + 0.5 * size
        low = np.maximum(np.floor(at - reach), 0.0).astype(np.int64)
        high = np.minimum(np.ceil(at + reach), size).astype(np.int64)
        for d in range(low[0], high[0]):
            for h in range(low[1], high[1]):
                for w in range(low[2], high[2]):
                    inside = 0
                    for i in range(samples**3):
                        toward = (d + (i % samples + 0.5) / samples - 0.5 * size) * voxel - middle[2]
                        down = (h + (i // samples % samples + 0.5) / samples - 0.5 * size) * voxel + middle[1]
                        right = (w + (i // samples**2 + 0.5) / samples - 0.5 * size) * voxel - middle[0]
                        held = True
                        for axis in range(3):
                            along = toward * camera[2, axis] - down * camera[1, axis] + right * camera[0, axis]
                            held = held and -half <= along < half
                        inside += held
                    volume[d, h, w] += inside * share
