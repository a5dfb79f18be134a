"""Point clouds to pixels on the CPU: cameras, depth-buffered splats, eye-dome lighting, colours.

No display server, no GPU, and the same bytes for the same input. Shading needs depth alone, so clouds without normals
stay legible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Size = tuple[int, int]  # (width, height) in pixels
Color = tuple[int, int, int]

# Okabe and Ito's colour-blind safe orange and blue, the orange a little darker so that it holds on white.
SOURCE_COLOR: Color = (224, 118, 0)
TARGET_COLOR: Color = (0, 114, 178)
NEUTRAL_COLOR: Color = (176, 184, 194)
# What both clouds show; correspondences that fit the pose, and that do not.
SHARED_COLOR: Color = (107, 47, 146)
INLIER_COLOR: Color = (0, 143, 107)
OUTLIER_COLOR: Color = (184, 70, 140)

# Lightness rises steadily from blue to amber: the order survives every kind of colour blindness and grey printing,
# and both ends stand out from a white and from a black ground.
RAMP: tuple[Color, ...] = ((52, 80, 190), (128, 76, 184), (206, 78, 142), (240, 122, 74), (248, 184, 52))

# Slopes above this count alike, so that a silhouette does not swallow the shading of surfaces.
_EDL_MAX_SLOPE = 6.0
_COMPASS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
_FIT_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Camera:
    """Where the eye stands.

    `rotation` (3, 3): rows are the image's right, up and towards-the-eye axes in the world. `center` (3,): the world
    point in the middle of the image. `scale`: pixels per world unit there. `distance`: from `center` to the eye in
    world units; infinite for an orthographic camera.
    """

    rotation: np.ndarray
    center: np.ndarray
    scale: float
    distance: float = np.inf

    def project(self, points: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Pixel positions and depths; points behind the eye get depth inf.

        Args:
            points: (N, 3), world units.
            size: (width, height) of the image.
        Returns:
            (N, 2) float64 pixels, x to the right and y down, and (N,) float64 depths beyond `center`, world units.

        >>> camera = Camera(np.eye(3), np.zeros(3), scale=10.0)
        >>> camera.project(np.array([[1.0, 2.0, 0.5]]), (100, 100))[0].tolist()
        [[60.0, 30.0]]
        """
        local = (np.asarray(points, dtype=np.float64) - self.center) @ self.rotation.T
        depth = -local[:, 2]
        magnification = np.full(len(local), self.scale)
        if np.isfinite(self.distance):
            visible = depth > -0.99 * self.distance
            magnification *= self.distance / np.where(visible, self.distance + depth, 1.0)
            depth = np.where(visible, depth, np.inf)
        pixels = np.empty((len(local), 2))
        pixels[:, 0] = size[0] / 2 + local[:, 0] * magnification
        pixels[:, 1] = size[1] / 2 - local[:, 1] * magnification
        return pixels, depth


def look_from(direction: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Camera rotation for an eye that stands in `direction` of the scene and keeps `up` upright.

    Args:
        direction: (3,), from the scene towards the eye, any length above zero.
        up: (3,), any length above zero.
    Returns:
        (3, 3) float64 in SO(3), rows right, up, towards the eye.

    >>> look_from(np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0]))[0].tolist()
    [1.0, 0.0, 0.0]
    """
    back = np.asarray(direction, dtype=np.float64) / np.linalg.norm(direction)
    right = np.cross(up, back)
    if np.linalg.norm(right) < 1e-6 * np.linalg.norm(up):
        # Looking straight along `up`: any axis that is not parallel will do, the smallest component is the safest.
        right = np.cross(np.eye(3)[np.argmin(np.abs(back))], back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back]) + 0.0


def fit_camera(
    points: np.ndarray, rotation: np.ndarray, size: Size, *, margin: float = 0.06, fov_deg: float | None = None
) -> Camera:
    """Camera that shows nearly all of `points`; a few stray points may fall outside.

    Args:
        points: (N, 3), N >= 1, world units.
        rotation: (3, 3) from `look_from`.
        size: (width, height) of the image.
        margin: share of the image left free on each side.
        fov_deg: opening angle of a perspective camera, degrees; None for orthographic.
    """
    local = np.asarray(points, dtype=np.float64) @ rotation.T
    low, high = np.percentile(local, _FIT_PERCENTILES, axis=0)
    center = rotation.T @ ((low + high) / 2)
    radius = max(float(np.linalg.norm(high - low)) / 2, 1e-12 * max(1.0, float(np.abs(center).max())))
    distance = np.inf if fov_deg is None else radius / np.sin(np.radians(fov_deg) / 2)
    pixels, depth = Camera(rotation, center, 1.0, distance).project(points, (0, 0))
    reach = np.percentile(np.abs(pixels[np.isfinite(depth)]), _FIT_PERCENTILES[1], axis=0)
    # A thin cloud would otherwise be magnified without bound along its short side.
    reach = np.maximum(reach, radius * 1e-3)
    scale = (1 - 2 * margin) * float(min(size[0] / 2 / reach[0], size[1] / 2 / reach[1]))
    return Camera(rotation, center, scale, distance)


def best_view(points: np.ndarray, up: np.ndarray, *, max_points: int = 8000) -> np.ndarray:
    """Direction towards an eye that sees much of the surface with few points hidden.

    Twenty-four candidates around `up` are drawn at thumbnail size; the score is the covered area times the share of
    points in front. Seen from behind, a wall hides what stands before it, so the open side of a scan wins.

    Args:
        points: (N, 3), N >= 1.
        up: (3,) unit vector.
    Returns:
        (3,) unit vector.
    """
    sample = np.asarray(points, dtype=np.float64)[:: max(1, len(points) // max_points)]
    size = (64, 64)
    basis = look_from(np.array([up[1], up[2], up[0]]), up)
    best_score, best_direction = -1.0, basis[2]
    # Oblique views read as three-dimensional; the axis-parallel ones are left out.
    for elevation in np.radians([22.0, 38.0, 60.0]):
        for azimuth in np.radians(np.arange(8) * 45.0 + 22.0):
            around = np.cos(azimuth) * basis[0] + np.sin(azimuth) * basis[2]
            direction = np.cos(elevation) * around + np.sin(elevation) * np.asarray(up)
            camera = fit_camera(sample, look_from(direction, up), size)
            pixels, depth = camera.project(sample, size)
            column, row = np.clip(pixels.astype(np.int64), 0, 63).T
            cell = row * 64 + column
            front = np.full(64 * 64, np.inf)
            np.minimum.at(front, cell, depth)
            hidden = depth > front[cell] + 2.0 / camera.scale
            score = np.isfinite(front).sum() / camera.scale**2 * (1 - hidden.mean())
            if score > best_score * (1 + 1e-9):
                best_score, best_direction = float(score), direction
    return best_direction


def colors_from_values(values: np.ndarray) -> np.ndarray:
    """Colour of each value along `RAMP`; values outside [0, 1] take the colour of the nearer end.

    Args:
        values: (N,).
    Returns:
        (N, 3) uint8.

    >>> colors_from_values(np.array([0.0, 9.0])).tolist() == [list(RAMP[0]), list(RAMP[-1])]
    True
    """
    stops = np.linspace(0.0, 1.0, len(RAMP))
    ramp = np.array(RAMP, dtype=np.float64)
    channels = [np.interp(values, stops, ramp[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def render(
    clouds: Sequence[tuple[np.ndarray, np.ndarray | Color]],
    camera: Camera,
    size: Size,
    *,
    radius: float | None = None,
    background: Color = (255, 255, 255),
    lighting: float = 0.36,
    supersample: int = 2,
) -> np.ndarray:
    """Picture of one or more clouds in one depth buffer, with eye-dome lighting.

    Args:
        clouds: pairs of points (N, 3) and colours (N, 3) uint8 or one colour for all.
        camera: for an image of `size`.
        size: (width, height).
        radius: of a splat, in pixels of the result; None picks one that just closes the surfaces.
        background: where no point lands.
        lighting: strength of the eye-dome lighting, 0 for flat colours.
        supersample: pixels are averaged from a square of so many samples a side.
    Returns:
        (height, width, 3) uint8.
    Reference: eye-dome lighting after Boucheny, "Visualisation scientifique de grands volumes de donnees", 2009.

    >>> camera = Camera(np.eye(3), np.zeros(3), scale=10.0)
    >>> picture = render([(np.zeros((1, 3)), TARGET_COLOR)], camera, (21, 21), radius=3.0)
    >>> picture[10, 10].tolist() == list(TARGET_COLOR)
    True
    """
    width, height = size[0] * supersample, size[1] * supersample
    points = np.concatenate([np.asarray(cloud, dtype=np.float64).reshape(-1, 3) for cloud, _ in clouds])
    colors = np.concatenate(
        [np.broadcast_to(np.asarray(color, dtype=np.uint8), (len(cloud), 3)) for cloud, color in clouds]
    )
    fine = Camera(camera.rotation, camera.center, camera.scale * supersample, camera.distance)
    pixels, depth = fine.project(points, (width, height))
    inside = np.isfinite(depth) & (pixels >= -16).all(axis=1) & (pixels < (width + 16, height + 16)).all(axis=1)
    pixels, depth, colors = pixels[inside], depth[inside], colors[inside]
    if radius is None:
        radius = _closing_radius(pixels, (width, height)) / supersample

    winner, front = _splat(pixels, depth, (width, height), radius * supersample)
    winner, front = _close_holes(winner, front, max(1, round(radius * supersample)), 6.0 * radius / camera.scale)
    covered = winner >= 0
    image = np.empty((height, width, 3), dtype=np.float32)
    image[:] = background
    image[covered] = colors[winner[covered]]
    if lighting > 0:
        # Neighbours are sought beyond the splat itself: nearer ones repeat its depth and the noise of the sensor.
        reach = supersample + round(radius * supersample)
        image[covered] *= _eye_dome_shade(front, fine.scale, reach, lighting)[covered, None]
    image = image.reshape(size[1], supersample, size[0], supersample, 3).mean(axis=(1, 3))
    return np.rint(image).astype(np.uint8)


def _closing_radius(pixels: np.ndarray, size: Size) -> float:
    """Splat radius, in pixels, at which the points of a typical covered block close the surface."""
    # In shares of the picture, so that a finer one shows the same surfaces; small ones need whole pixels.
    block = max(16, min(size) // 70)
    columns = size[0] // block + 3
    cell = (pixels[:, 1] // block + 1).astype(np.int64) * columns + (pixels[:, 0] // block + 1).astype(np.int64)
    counts = np.bincount(np.maximum(cell, 0))
    counts = counts[counts > 0]
    if counts.size == 0:
        return 2.0
    # The median over covered blocks: neither stray points nor a dense corner decide.
    typical = float(np.median(counts))
    return float(np.clip(1.85 * block / np.sqrt(np.pi * typical), 1.0, max(7.0, min(size) / 160)))


def _splat(pixels: np.ndarray, depth: np.ndarray, size: Size, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Index of the front-most point, -1 for none, and its depth, both (height, width)."""
    width, height = size
    empty = np.iinfo(np.uint64).max
    buffer = np.full(width * height, empty, dtype=np.uint64)
    base = depth.min(initial=0.0)
    # The bits of a non-negative float32 sort like its value; the index below them breaks ties the same way each time.
    key = (depth - base).astype(np.float32).view(np.uint32).astype(np.uint64) << np.uint64(32)
    key |= np.arange(len(depth), dtype=np.uint64)
    column = np.floor(pixels[:, 0]).astype(np.int64)
    row = np.floor(pixels[:, 1]).astype(np.int64)
    reach = int(radius)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dx * dx + dy * dy > radius * radius:
                continue
            x, y = column + dx, row + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            np.minimum.at(buffer, y[inside] * width + x[inside], key[inside])
    hit = buffer != empty
    winner = np.where(hit, (buffer & np.uint64(0xFFFFFFFF)).astype(np.int64), -1).reshape(height, width)
    front = np.full(width * height, np.inf, dtype=np.float32)
    front[hit] = (buffer[hit] >> np.uint64(32)).astype(np.uint32).view(np.float32)
    return winner, front.reshape(height, width)


def _close_holes(winner: np.ndarray, front: np.ndarray, reach: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Fills pixels that look past a surface: six of their eight neighbours stand nearer by more than `gap`."""
    height, width = front.shape
    nearer = np.zeros(front.shape, dtype=np.int8)
    best_front, best_winner = front.copy(), winner.copy()
    padded_front = np.pad(front, reach, constant_values=np.inf)
    padded_winner = np.pad(winner, reach, constant_values=-1)
    for dy, dx in _COMPASS:
        window = np.s_[reach * (1 + dy) : reach * (1 + dy) + height, reach * (1 + dx) : reach * (1 + dx) + width]
        neighbor = padded_front[window]
        nearer += neighbor + np.float32(gap) < front
        closer = neighbor < best_front
        best_front[closer] = neighbor[closer]
        best_winner[closer] = padded_winner[window][closer]
    hole = nearer >= 6
    return np.where(hole, best_winner, winner), np.where(hole, best_front, front)


def _eye_dome_shade(front: np.ndarray, scale: float, step: int, strength: float) -> np.ndarray:
    """Factor in (0, 1] per pixel: dark where the neighbours stand nearer to the eye."""
    height, width = front.shape
    slope = np.zeros_like(front)
    samples = 0
    for reach in (step, 3 * step):
        padded = np.pad(front, reach, constant_values=np.inf)
        for dy, dx in _COMPASS:
            top, left = reach + dy * reach, reach + dx * reach
            neighbor = padded[top : top + height, left : left + width]
            run = reach * float(np.hypot(dy, dx)) / scale
            with np.errstate(invalid="ignore"):
                rise = (front - neighbor) / np.float32(run)
            slope += np.clip(np.nan_to_num(rise, nan=0.0, neginf=0.0, posinf=0.0), 0.0, _EDL_MAX_SLOPE)
            samples += 1
    return np.exp(np.float32(-strength) * slope / np.float32(samples) * np.float32(2.0))
