"""What spares work in ray casting drops nothing: walls beside, behind and around the camera."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.datasets.depth_camera import DepthCamera, cast_view
from rotaware.datasets.solids import BOX, ELLIPSOID, Solids

CAMERA = DepthCamera(width=41, height=29, focal=16.0, shuffle=0.0)


def around_the_camera(kind: int, seed: int) -> tuple[Solids, np.ndarray]:
    """Large solids about the camera, most of which cross the plane through it, and a pose."""
    generator = np.random.default_rng(seed)
    count = 8
    half = np.exp(generator.uniform(np.log(0.05), np.log(4), (count, 3)))
    solids = Solids(
        kind=np.full(count, kind),
        center=generator.normal(0, 1.5, (count, 3)),
        axes=Rotation.random(count, rng=generator).as_matrix(),
        half=half,
        taper=np.zeros(count),
        response=np.ones(count),
    )
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.random(rng=generator).as_matrix(), generator.normal(0, 0.5, 3)
    return solids, T


def nearest(solids: Solids, T: np.ndarray) -> np.ndarray:
    """(H, W) depth by the definition: all pixels against all solids, nothing left out."""
    x = (np.arange(CAMERA.width) - 0.5 * (CAMERA.width - 1)) / CAMERA.focal
    y = (np.arange(CAMERA.height) - 0.5 * (CAMERA.height - 1)) / CAMERA.focal
    rays = np.stack([*np.meshgrid(x, y), np.ones((CAMERA.height, CAMERA.width))], -1) @ T[:3, :3].T
    depth = np.full(rays.shape[:2], np.inf)
    for center, axes, half, kind in zip(solids.center, solids.axes, solids.half, solids.kind, strict=True):
        start, along = (T[:3, 3] - center) @ axes / half, rays @ axes / half
        with np.errstate(divide="ignore", invalid="ignore"):
            if kind == BOX:
                ends = np.sort([(-1 - start) / along, (1 - start) / along], axis=0)
                enter, leave = ends[0].max(-1), ends[1].min(-1)
                met = np.where((enter <= leave) & (enter > 0), enter, np.inf)
            else:
                a, b, c = (along**2).sum(-1), along @ start, start @ start - 1
                root = np.sqrt(b * b - a * c)
                both = np.stack([(-b - root) / a, (-b + root) / a])
                met = np.where(both > 0, both, np.inf).min(0)
        depth = np.minimum(depth, met)
    return depth


@pytest.mark.parametrize("kind", [BOX, ELLIPSOID])
def test_every_ray_against_every_solid(kind: int) -> None:
    shares = []
    for seed in range(40):
        solids, T = around_the_camera(kind, seed)
        expected, found = nearest(solids, T), cast_view(solids, T, CAMERA).depth
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        shares.append(np.isfinite(expected).mean())
    assert np.mean(shares) > 0.3 and min(shares) < 0.95
