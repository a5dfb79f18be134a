"""A pinhole depth camera in front of solids: exact ray casting, sensor noise, fusion of frames.

Camera frame: x right, y down, z forward. Depth is the z coordinate in metres, 0 where the sensor has no answer.
Nothing here runs in parallel by itself: the kernels release the GIL and keep no state, so callers run one fragment
per thread or per worker process, and results cannot depend on the number of either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

# For its effect, before the first kernel: it finds numba a folder for compiled code.
from rotaware.geo import compile_cache as _compile_cache  # noqa: F401

from .ray_casting import cast_rays
from .solids import Array, Solids


@dataclass(frozen=True)
class DepthCamera:
    """Geometry and noise of a structured-light depth camera; the defaults are a Kinect at half resolution.

    The depth z is read through its disparity, which makes all errors grow with z squared: Gaussian noise of standard
    deviation `noise * z^2`, rounding to steps of `quantum * z^2`, and a smooth distortion of standard deviation
    `warp * z^2` that stays the same from frame to frame, so that fusion cannot average it out. Any of them may be 0.
    Rays leave `shuffle` pixels (standard deviation) beside the pixel they are booked to, which frays object edges.

    Reference: Khoshelham and Elberink, Sensors 2012 (steps of 2.85e-3; noise of 1.4e-3 in the middle of the image, here
    more, so that fused walls are as rough as those of 3DMatch, 2 to 4 mm); Barron and Malik, CVPR 2013, and Handa et
    al., ICRA 2014 (shuffled pixels, rounded disparity); Teichman et al., RSS 2013 (distortion).

    >>> DepthCamera().scaled(0.5).width
    160
    """

    # Pixels.
    width: int = 320
    height: int = 240
    focal: float = 292.5
    # Metres; nothing nearer or farther is answered.
    min_range: float = 0.5
    max_range: float = 4.0
    # Metres per square metre.
    noise: float = 3.0e-3
    quantum: float = 2.85e-3
    warp: float = 1.5e-3
    # Pixels.
    shuffle: float = 0.4
    # Cosine between the ray and the surface normal under which half of the returns are lost.
    grazing_cosine: float = 0.15
    # Share of pixels lost beside a depth edge, and anywhere.
    edge_loss: float = 0.5
    speckle_loss: float = 0.01

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 2:
                raise ValueError(f"{name}: expected an integer of at least 2, got {value!r}")
        if not self.focal > 0:
            raise ValueError(f"focal: expected a positive number of pixels, got {self.focal!r}")
        if not 0 < self.min_range < self.max_range:
            raise ValueError(
                f"min_range, max_range: expected 0 < min_range < max_range, got {self.min_range!r}, {self.max_range!r}"
            )
        for name in ("noise", "quantum", "warp", "shuffle"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)!r}")
        for name in ("grazing_cosine", "edge_loss", "speckle_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number in [0, 1], got {getattr(self, name)!r}")

    def scaled(self, factor: float) -> DepthCamera:
        """The same field of view and noise with `factor` times the pixels on each side."""
        values = dict(self.__dict__)
        values.update(
            width=max(2, round(self.width * factor)),
            height=max(2, round(self.height * factor)),
            focal=self.focal * factor,
        )
        return DepthCamera(**values)


@dataclass(frozen=True)
class View:
    """What the rays of one frame met, free of noise. All (height, width)."""

    # Metres along z; inf where nothing was met.
    depth: Array
    # |cos| of the angle between ray and surface normal, in [0, 1].
    cosine: Array
    # Row of the solid that was met; -1 for none.
    solid: NDArray[np.int64]


def cast_view(
    solids: Solids, T_world_camera: Array, camera: DepthCamera, generator: np.random.Generator | None = None
) -> View:
    """First surface along every pixel's ray.

    Args:
        solids: in world coordinates.
        T_world_camera: (4, 4).
        camera: its geometry is used; rays are shuffled if a generator is given.
        generator: draws the shuffle.

    >>> from .solids import box
    >>> wall = box([0.0, 0.0, 2.5], [9.0, 9.0, 1.0])
    >>> view = cast_view(wall, np.eye(4), DepthCamera(width=4, height=4))
    >>> float(view.depth.min()), float(view.depth.max())
    (2.0, 2.0)
    """
    shape = (camera.height, camera.width)
    offset = np.zeros((2, *shape))
    if generator is not None:
        offset = camera.shuffle * np.clip(generator.standard_normal((2, *shape)), -3.0, 3.0)
    depth, cosine = np.full(shape, np.inf), np.zeros(shape)
    solid = np.full(shape, -1, np.int64)
    cast_rays(
        solids.kind,
        solids.center,
        solids.axes,
        solids.half,
        solids.taper,
        solids.bounding_radius(),
        np.ascontiguousarray(T_world_camera, dtype=np.float64),
        float(camera.focal),
        3.0 * camera.shuffle,
        offset,
        depth,
        cosine,
        solid,
    )
    return View(depth, cosine, solid)


def draw_warp(camera: DepthCamera, generator: np.random.Generator) -> Array:
    """(height, width) disparity error of one sensor, per metre: a random mix of the lowest cosine waves."""
    waves = np.arange(1, 7)
    down = np.cos(np.pi * np.outer((np.arange(camera.height) + 0.5) / camera.height, waves))
    across = np.cos(np.pi * np.outer((np.arange(camera.width) + 0.5) / camera.width, waves))
    # Each product of two cosines has variance 1/4 over the image.
    return camera.warp * 2.0 / len(waves) * (down @ generator.standard_normal((len(waves), len(waves))) @ across.T)


def measure_depth(
    view: View, solids: Solids, camera: DepthCamera, generator: np.random.Generator, warp: Array | float = 0.0
) -> Array:
    """Depth image (height, width) a sensor reports for `view`: noise, rounding and missing answers (0).

    `warp` is the sensor's own distortion, see `draw_warp`.

    Lost are: surfaces out of range, glancing rays, some pixels beside a depth edge, some anywhere, and the share that
    each solid's `response` leaves out.
    """
    shape = view.depth.shape
    met = np.isfinite(view.depth)
    depth = np.where(met, view.depth, 0.0)

    # Half of the noise variance is shared by blocks of pixels: a stereo matcher looks at windows, not at pixels.
    coarse = generator.standard_normal((shape[0] // 3 + 2, shape[1] // 3 + 2))
    rows, columns = generator.integers(0, 3, 2)
    blocks = np.kron(coarse, np.ones((3, 3)))[rows : rows + shape[0], columns : columns + shape[1]]
    noise = np.sqrt(0.5) * (generator.standard_normal(shape) + blocks)
    inverse = 1.0 / np.where(met, depth, 1.0) - camera.noise * noise - warp
    if camera.quantum > 0:
        inverse = camera.quantum * np.maximum(np.rint(inverse / camera.quantum), 1.0)
    measured = 1.0 / np.maximum(inverse, 1e-3)

    lost = generator.random(shape) > np.where(met, solids.response[view.solid], 0.0)
    lost |= generator.random(shape) < camera.speckle_loss
    glancing = 1.0 / (1.0 + np.exp((view.cosine - camera.grazing_cosine) / 0.03))
    lost |= generator.random(shape) < glancing
    lost |= _beside_edge(depth) & (generator.random(shape) < camera.edge_loss)
    lost |= ~met | (measured < camera.min_range) | (measured > camera.max_range)
    return np.where(lost, 0.0, measured)


def fuse_frames(
    depth: Array, T_first_frame: Array, camera: DepthCamera, *, truncation: float = 0.03, min_support: int = 1
) -> NDArray[np.float32]:
    """One cloud from several depth images, each point averaged with what the other frames saw on the same surface.

    A pixel's point is projected into every other frame; where that frame's depth, interpolated, agrees within
    `truncation` plus what its noise allows, the two are averaged with inverse-variance weights along the pixel's ray.
    Points that fewer than `min_support` other frames confirm are dropped, which clears away flying pixels.

    Args:
        depth: (F, height, width), metres, 0 for missing.
        T_first_frame: (F, 4, 4) estimated poses; frame f to the frame the cloud is wanted in.
        truncation: metres.
        min_support: 0 keeps every pixel.
    Returns:
        (N, 3) float32, frame after frame, row after row.
    """
    points = np.full((*depth.shape, 3), np.nan)
    inverse = np.stack([np.linalg.inv(T) for T in T_first_frame])
    _fuse(
        np.ascontiguousarray(depth),
        np.ascontiguousarray(T_first_frame),
        inverse,
        float(camera.focal),
        float(truncation),
        2.5 * (camera.noise + 0.3 * camera.quantum),
        int(min_support),
        points,
    )
    flat = points.reshape(-1, 3)
    return flat[~np.isnan(flat[:, 0])].astype(np.float32)


def first_of_voxel(points: NDArray[np.float32], voxel: float) -> NDArray[np.int64]:
    """Rows of the first point in every voxel of the grid anchored at the origin, ascending.

    The rule by which the published 3DMatch clouds were thinned.

    >>> first_of_voxel(np.array([[0.1, 0.0, 0.0], [0.2, 0.0, 0.0], [1.5, 0.0, 0.0]], np.float32), 1.0).tolist()
    [0, 2]
    """
    # In float64, as the published clouds: float32 moves points across voxel borders.
    cell = np.floor(points.astype(np.float64) / voxel).astype(np.int64)
    cell -= cell.min(axis=0, initial=0)
    span = cell.max(axis=0, initial=0) + 1
    _, first = np.unique((cell[:, 0] * span[1] + cell[:, 1]) * span[2] + cell[:, 2], return_index=True)
    return np.sort(first)


def _beside_edge(depth: Array) -> NDArray[np.bool_]:
    """(H, W), both pixels of every adjacent two whose depths differ by more than 5 percent."""
    edge = np.zeros(depth.shape, np.bool_)
    for axis in (0, 1):
        near, far = np.delete(depth, -1, axis), np.delete(depth, 0, axis)
        jump = np.abs(near - far) > 0.05 * np.minimum(near, far)
        last = [(0, 0), (0, 0)]
        last[axis] = (0, 1)
        edge |= np.pad(jump, last)
        last[axis] = (1, 0)
        edge |= np.pad(jump, last)
    return edge


@njit(cache=True, nogil=True)
def _fuse(
    depth: Array,
    pose: Array,
    inverse: Array,
    focal: float,
    truncation: float,
    tolerance: float,
    min_support: int,
    points: Array,
) -> None:
    """Fill points (F, H, W, 3) with averaged positions; NaN stays where there is none."""
    frames, height, width = depth.shape
    cx, cy = 0.5 * (width - 1), 0.5 * (height - 1)
    relative = np.zeros((frames, frames, 3, 4))
    for i in range(frames):
        for j in range(frames):
            relative[i, j] = (inverse[j] @ pose[i])[:3]
    for i in range(frames):
        for row in range(height):
            for column in range(width):
                z = depth[i, row, column]
                if z == 0.0:
                    continue
                rx, ry = (column - cx) / focal, (row - cy) / focal
                weight = 1.0 / z**4
                shift = 0.0
                support = 0
                for j in range(frames):
                    if j == i:
                        continue
                    m = relative[i, j]
                    zj = z * (m[2, 0] * rx + m[2, 1] * ry + m[2, 2]) + m[2, 3]
                    if zj <= 0.0:
                        continue
                    u = focal * (z * (m[0, 0] * rx + m[0, 1] * ry + m[0, 2]) + m[0, 3]) / zj + cx
                    v = focal * (z * (m[1, 0] * rx + m[1, 1] * ry + m[1, 2]) + m[1, 3]) / zj + cy
                    if u < 0.0 or v < 0.0 or u >= width - 1 or v >= height - 1:
                        continue
                    p, q = int(u), int(v)
                    fu, fv = u - p, v - q
                    gate = truncation + tolerance * zj * zj
                    total = 0.0
                    share = 0.0
                    for dq in range(2):
                        for dp in range(2):
                            seen = depth[j, q + dq, p + dp]
                            if seen > 0.0 and abs(seen - zj) < gate:
                                w = (fu if dp else 1.0 - fu) * (fv if dq else 1.0 - fv)
                                total += w * (seen - zj)
                                share += w
                    if share > 0.5:
                        w = 1.0 / zj**4
                        shift += w * total / share
                        weight += w
                        support += 1
                if support < min_support:
                    continue
                fused = z + shift / weight
                for a in range(3):
                    points[i, row, column, a] = fused * (pose[i, a, 0] * rx + pose[i, a, 1] * ry + pose[i, a, 2])
                    points[i, row, column, a] += pose[i, a, 3]
