"""Pictures and volumes of objects: against meshes, projected by other means, and the laws of mirrors and turns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image, ImageDraw

from rotaware.datasets import enumerate_objects, mirrored_path, parse_path, posed_paths, render, rotated_path, voxelise
from rotaware.datasets.object_renderer import HALF
from rotaware.datasets.shepard_metzler import positions
from rotaware.geo import cube_rotations, orbit_rotation, rotate_volume

PATHS = posed_paths(enumerate_objects()[::37])
AZIMUTHS = np.linspace(3.0, 357.0, len(PATHS))


def silhouette(path: tuple[int, ...], azimuth: float, elevation: float, size: int) -> np.ndarray:
    """(size, size) bool: the shadow of a mesh of ten boxes, filled triangle by triangle."""
    places = 2.0 * positions(path)
    boxes = [trimesh.creation.box((2, 2, 2), trimesh.transformations.translation_matrix(place)) for place in places]
    mesh = trimesh.util.concatenate(boxes)
    a, e = math.radians(azimuth), math.radians(elevation)
    # The world turned under a camera on the Z axis.
    about = trimesh.transformations.rotation_matrix
    turn = about(e, (1, 0, 0)) @ about(-a, (0, 1, 0))
    seen = trimesh.transform_points(mesh.vertices - places.mean(axis=0), turn)
    scale = size / (25.0 - seen[:, 2])
    pixels = np.stack([size / 2 + scale * seen[:, 0], size / 2 - scale * seen[:, 1]], axis=1)
    picture = Image.new("1", (size, size))
    pen = ImageDraw.Draw(picture)
    for face in mesh.faces:
        pen.polygon([tuple(point) for point in pixels[face]], fill=1)
    return np.asarray(picture)


@pytest.mark.parametrize("elevation", [25.0, -60.0])
def test_silhouettes_are_those_of_meshes(elevation: float) -> None:
    depth = render(PATHS, AZIMUTHS, elevation, size=768, style="depth", samples=1)[:, 0]
    # Large, because the outline of a filled polygon is a pixel wide.
    for path, azimuth, picture in zip(PATHS[::5], AZIMUTHS[::5], depth[::5], strict=True):
        wanted, found = silhouette(path, azimuth, elevation, 768), picture > 0
        assert (wanted & found).sum() / (wanted | found).sum() > 0.98


@pytest.mark.parametrize("style", ["line", "shaded", "depth"])
def test_the_mirrored_object_from_the_other_side_is_the_mirrored_picture(style: str) -> None:
    pictures = render(PATHS, AZIMUTHS, style=style)  # type: ignore[arg-type]
    mirrored = render([mirrored_path(path) for path in PATHS], -AZIMUTHS, style=style)  # type: ignore[arg-type]
    np.testing.assert_array_equal(mirrored, pictures[..., ::-1])


def test_turning_the_object_is_turning_the_camera() -> None:
    about_y = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # by 90 degrees
    turned = [rotated_path(path, about_y) for path in PATHS]
    for style in ("line", "normal"):
        one = render(PATHS, AZIMUTHS, style=style)  # type: ignore[arg-type]
        other = render(turned, AZIMUTHS + 90.0, style=style)  # type: ignore[arg-type]
        # A sample on an edge can fall to either side.
        assert (one != other).mean() < 1e-3


def test_nearer_faces_hide_farther_ones() -> None:
    # Straight away from the camera: one face is seen, its edges, and nothing of the nine behind it.
    line = render([(2,) * 9], [0.0], 0.0, size=129, samples=1)[0, 0]
    inside = np.argwhere(line == 0)
    assert len(inside) > 0 and len(np.unique(inside[:, 0])) < 20
    depth = render([(2,) * 9], [0.0], 0.0, size=129, style="depth", samples=1)[0, 0]
    seen = depth[depth > 0]
    assert seen.max() == depth[64, 64] and (seen == seen.max()).mean() > 0.95


def test_normals_are_directions_in_the_frame_of_the_camera() -> None:
    picture = render([parse_path("UUUBBRRFF")], [40.0], style="normal", size=128, samples=1)[0]
    colors = np.unique(picture.reshape(3, -1).T, axis=0)
    normals = colors[colors.any(axis=1)] / 255.0 * 2 - 1
    camera = orbit_rotation(40.0, 25.0).numpy()
    faces = np.concatenate([camera.T, -camera.T])
    assert len(normals) == 3 and (normals[:, 2] > 0).all()
    assert np.abs(normals[:, None] - faces).max(axis=2).min(axis=1).max() < 0.01


def test_volumes_hold_the_object_in_the_frame_of_the_camera() -> None:
    volumes = voxelise(PATHS, AZIMUTHS, size=25)
    voxel = 2 * HALF / 25
    np.testing.assert_allclose(volumes.sum(axis=(1, 2, 3)) * voxel**3, 80.0, rtol=0.03)
    for path, azimuth, volume in zip(PATHS[:9], AZIMUTHS[:9], volumes[:9], strict=True):
        places = 2.0 * positions(path)
        right, up, toward = orbit_rotation(azimuth, 25.0).numpy() @ (places - places.mean(axis=0)).T
        at = np.stack([toward, -up, right]) / voxel + 12.0
        assert (volume[tuple(np.rint(at).astype(int))] > 0.6).all()


def test_volumes_of_turned_cameras_are_turned_volumes() -> None:
    upright = voxelise(PATHS[:12], AZIMUTHS[:12], 0.0, size=25)
    quarter = voxelise(PATHS[:12], AZIMUTHS[:12] + 90.0, 0.0, size=25)
    # At no elevation, a quarter turn about the vertical, which is along h.
    moved = torch.from_numpy(upright)
    errors = [
        float((rotate_volume(moved, rotation) - torch.from_numpy(quarter)).abs().max())
        for rotation in cube_rotations()
        if float(rotation[1, 1]) == 1.0
    ]
    assert min(errors) < 0.2 < sorted(errors)[1]


def test_sizes_and_threads_do_not_matter() -> None:
    assert render([], [], size=8).shape == (0, 1, 8, 8) and voxelise([], [], size=4).shape == (0, 4, 4, 4)
    before = torch.get_num_threads()
    pictures = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            pictures.append(render(PATHS, AZIMUTHS, size=32))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*pictures)
    with pytest.raises(ValueError, match="style"):
        render(PATHS[:1], [0.0], style="oil")  # type: ignore[arg-type]
