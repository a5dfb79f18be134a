"""PointCloud: what moves with a transform, what stays, and in which dtype the coordinates are stored."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rotaware.pointcloud.cloud import Layout, PointCloud, rounding_step, storage_dtype


def random_pose(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.random(rng=rng).as_matrix()
    T[:3, 3] = rng.normal(size=3) * 3
    return T


def random_cloud(seed: int, count: int = 40) -> PointCloud:
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    columns = dict(zip(("nx", "ny", "nz"), normals.T.astype(np.float32), strict=True))
    attributes = {"label": rng.integers(0, 9, count), **columns, "time": rng.random(count)}
    return PointCloud(rng.normal(size=(count, 3)), attributes, viewpoint=rng.normal(size=3))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_transformed_moves_points_normals_and_viewpoint_alike(seed: int) -> None:
    cloud, T = random_cloud(seed), random_pose(seed)
    moved = cloud.transformed(T)
    np.testing.assert_allclose(moved.points, cloud.points @ T[:3, :3].T + T[:3, 3], atol=1e-12)
    # What a sensor sees is the angle between a normal and its line of sight: no motion changes it.
    before = np.sum(cloud.normals * (cloud.viewpoint - cloud.points), axis=1)
    after = np.sum(moved.normals * (moved.viewpoint - moved.points), axis=1)
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert moved.attributes["nx"].dtype == np.float32
    for name in ("label", "time"):
        assert moved.attributes[name] is cloud.attributes[name]
    assert list(moved.attributes) == list(cloud.attributes)


def test_transformed_there_and_back_is_identity() -> None:
    cloud, T = random_cloud(3), random_pose(3)
    back = cloud.transformed(T).transformed(np.linalg.inv(T))
    np.testing.assert_allclose(back.points, cloud.points, atol=1e-12)
    np.testing.assert_allclose(back.normals, cloud.normals, atol=1e-6)


def test_transformed_composes() -> None:
    cloud, first, second = random_cloud(4), random_pose(4), random_pose(5)
    stepwise, at_once = cloud.transformed(first).transformed(second), cloud.transformed(second @ first)
    np.testing.assert_allclose(stepwise.points, at_once.points, atol=1e-12)
    np.testing.assert_allclose(stepwise.viewpoint, at_once.viewpoint, atol=1e-12)


def test_transformed_with_scale_keeps_normals_unit() -> None:
    cloud, T = random_cloud(6), random_pose(6)
    T[:3, :3] *= 1000.0
    moved = cloud.transformed(T)
    np.testing.assert_allclose(np.linalg.norm(moved.normals, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.ptp(moved.points @ T[:3, 0]), np.ptp(cloud.points[:, 0]) * 1e6, rtol=1e-9)


def test_transformed_leaves_the_input_alone() -> None:
    cloud = random_cloud(7)
    points, normals = cloud.points.copy(), cloud.normals
    cloud.transformed(random_pose(7))
    assert np.array_equal(cloud.points, points) and np.array_equal(cloud.normals, normals)


def test_transformed_keeps_rows_of_nan() -> None:
    points = np.ones((3, 3))
    points[1, 2] = np.nan
    moved = PointCloud(points).transformed(random_pose(8))
    assert np.isnan(moved.points[1]).any() and np.isfinite(moved.points[[0, 2]]).all()


@pytest.mark.parametrize(
    "T",
    [np.eye(3), np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([1.0, 2.0, 1.0, 1.0]), np.zeros((4, 4)), np.eye(4) * np.nan,
     np.ones((4, 4))],
)  # fmt: skip
def test_transformed_refuses_what_is_no_motion(T: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^T: expected"):
        random_cloud(9).transformed(T)


def test_normals_from_one_column_rotate_too() -> None:
    normals = np.eye(3, dtype=np.float32)
    T = random_pose(10)
    moved = PointCloud(np.zeros((3, 3)), {"normals": normals}).transformed(T)
    np.testing.assert_allclose(moved.attributes["normals"], T[:3, :3].T, atol=1e-6)
    assert moved.attributes["normals"].dtype == np.float32


@pytest.mark.parametrize("names", ["nx ny nz", "normal_x normal_y normal_z", "Nx Ny Nz", "NormalX NormalY NormalZ"])
def test_normals_are_found_by_their_usual_names(names: str) -> None:
    columns = {name: np.full(2, float(axis)) for axis, name in enumerate(names.split())}
    assert PointCloud(np.zeros((2, 3)), columns).normals.tolist() == [[0.0, 1.0, 2.0]] * 2
    assert PointCloud(np.zeros((2, 3)), dict(list(columns.items())[:2])).normals is None


def test_colors_in_every_form() -> None:
    expected = np.array([[255, 128, 0], [1, 2, 3]], dtype=np.uint8)
    red, green, blue = expected.T.astype(np.uint32)
    forms = [
        {"red": expected[:, 0], "green": expected[:, 1], "blue": expected[:, 2]},
        {"r": red.astype(np.int64), "g": green.astype(np.int64), "b": blue.astype(np.int64)},
        {"colors": expected / 255.0},
        {"red": red.astype(np.uint16) << 8, "green": green.astype(np.uint16) << 8, "blue": blue.astype(np.uint16) << 8},
        {"rgb": (red << 16 | green << 8 | blue).view(np.float32)},
        {"rgba": red << 16 | green << 8 | blue | np.uint32(0xFF000000)},
    ]
    for attributes in forms:
        assert np.array_equal(PointCloud(np.zeros((2, 3)), attributes).colors, expected), attributes
    assert PointCloud(np.zeros((2, 3)), {"label": red}).colors is None


def test_bad_fields_are_refused() -> None:
    with pytest.raises(ValueError, match=r"points: expected real numbers of shape \(N, 3\), got float64 \(3, 2\)"):
        PointCloud(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="points: expected real numbers"):
        PointCloud(np.zeros((2, 3), dtype=complex))
    with pytest.raises(ValueError, match="attributes\\['label'\\]: expected 2 rows"):
        PointCloud(np.zeros((2, 3)), {"label": np.zeros(3)})
    with pytest.raises(ValueError, match="viewpoint: expected shape"):
        PointCloud(np.zeros((2, 3)), viewpoint=np.zeros(2))


def test_pickle_round_trip() -> None:
    cloud = random_cloud(11)
    copy = pickle.loads(pickle.dumps(cloud))
    assert np.array_equal(copy.points, cloud.points) and copy.layout == cloud.layout
    assert all(np.array_equal(copy.attributes[name], values) for name, values in cloud.attributes.items())


def cloud_of(points: np.ndarray, dtype: str) -> PointCloud:
    stored = points.astype(dtype)
    step = rounding_step(stored.astype(np.float64), stored.dtype)
    return PointCloud(stored, layout=Layout(coordinate_dtype=stored.dtype, coordinate_step=step))


def test_storage_dtype_stays_while_rounding_is_harmless() -> None:
    points = np.random.default_rng(0).uniform(-2, 2, (100, 3))
    near, far = np.eye(4), np.eye(4)
    near[:3, 3], far[:3, 3] = 5.0, 500_000.0
    cloud = cloud_of(points, "f4")
    assert storage_dtype(cloud) == np.float32
    assert storage_dtype(cloud.transformed(near)) == np.float32
    assert storage_dtype(cloud.transformed(far)) == np.float64
    # A file that was already coarse cannot lose what it never had.
    assert storage_dtype(cloud_of(points + 500_000.0, "f4").transformed(near)) == np.float32
    assert storage_dtype(cloud_of(points, "f2").transformed(near)) == np.float32
    assert storage_dtype(cloud_of(points, "f8").transformed(far)) == np.float64


def test_storage_dtype_of_integers_and_overflow() -> None:
    whole = cloud_of(np.arange(30).reshape(10, 3), "i2")
    shift, turn = np.eye(4), random_pose(0)
    shift[:3, 3] = 7.0
    assert storage_dtype(whole.transformed(shift)) == np.int16
    assert storage_dtype(whole.transformed(turn)) == np.float64
    shift[:3, 3] = 1e6
    assert storage_dtype(whole.transformed(shift)) == np.float64
    shift[:3, 3] = 1e300
    assert storage_dtype(cloud_of(np.eye(3), "f4").transformed(shift)) == np.float64
    assert storage_dtype(cloud_of(np.zeros((0, 3)), "f4")) == np.float32
    assert storage_dtype(cloud_of(np.full((2, 3), np.nan), "f4")) == np.float32
