from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import scipy
import torch
import trimesh
from scipy.spatial.transform import Rotation
from torch import Tensor

from rotaware.geo import (
    axis_angle_to_matrix,
    compose_transforms,
    from_numpy,
    geodesic_distance,
    make_transform,
    matrix_to_axis_angle,
    matrix_to_pytorch3d,
    matrix_to_quaternion,
    matrix_to_rotation_6d,
    matrix_to_rotation_10d,
    matrix_to_scipy,
    numpy_to_transform,
    pytorch3d_camera_to_transform,
    pytorch3d_to_matrix,
    pytorch3d_to_transform,
    quaternion_multiply,
    quaternion_to_matrix,
    quaternion_to_scipy,
    quaternion_wxyz_to_xyzw,
    quaternion_xyzw_to_wxyz,
    random_quaternions,
    random_rotations,
    roma_to_rotation_6d,
    roma_to_rotation_10d,
    rotation_6d_to_matrix,
    rotation_6d_to_roma,
    rotation_10d_to_matrix,
    rotation_10d_to_quaternion,
    rotation_10d_to_roma,
    sample_rotations,
    scipy_to_matrix,
    scipy_to_quaternion,
    special_procrustes,
    symmetric_from_10d,
    to_numpy,
    transform_points,
    transform_to_numpy,
    transform_to_pytorch3d,
    transform_to_pytorch3d_camera,
)
from rotaware.geo.testing import RotationKind

# A SciPy `Rotation` of several leading axes, and of none, came with version 1.17.
SEVERAL_AXES = tuple(int(part) for part in scipy.__version__.split(".")[:2]) >= (1, 17)

# How far float64 results of two libraries lie apart.
EQUAL = 1e-12


def random_transforms(batch: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    rotation = random_rotations(batch, generator=generator, dtype=dtype)
    return make_transform(rotation, torch.randn(*batch, 3, generator=generator, dtype=dtype))


@pytest.fixture(scope="module")
def roma() -> ModuleType:
    return pytest.importorskip("roma")


class TestNumpy:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
    def test_round_trip_is_exact(self, dtype: torch.dtype, batch: tuple[int, ...], generator: torch.Generator) -> None:
        value = torch.randn(*batch, 3, generator=generator, dtype=torch.float64).to(dtype)
        back = from_numpy(to_numpy(value))
        assert back.dtype == dtype
        assert torch.equal(back, value)

    def test_bfloat16_is_widened(self) -> None:
        array = to_numpy(torch.tensor([1.0, 0.1], dtype=torch.bfloat16))
        assert array.dtype == np.float32
        assert array[1] == torch.tensor(0.1, dtype=torch.bfloat16).item()

    def test_memory_is_not_shared(self) -> None:
        value = torch.zeros(3)
        to_numpy(value)[0] = 1
        array = np.zeros(3)
        from_numpy(array)[0] = 1
        assert value[0] == 0 and array[0] == 0

    def test_gradient_and_lazy_negation_are_resolved(self) -> None:
        value = torch.tensor([1.0 + 2.0j]).conj().imag.requires_grad_()
        assert value.is_neg()
        assert to_numpy(value).tolist() == [-2.0]

    def test_awkward_arrays(self) -> None:
        plain = np.arange(6.0).reshape(2, 3)
        read_only = plain.copy()
        read_only.flags.writeable = False
        for array in (
            plain,
            read_only,
            plain[::-1, ::-1][::-1, ::-1],
            plain.astype(">f8"),
            plain.astype(np.longdouble),
        ):
            result = from_numpy(array)
            assert result.dtype == torch.float64
            assert result.tolist() == plain.tolist()
        assert from_numpy(plain[::-1]).tolist() == plain[::-1].tolist()

    def test_dtype_argument(self) -> None:
        assert from_numpy(np.eye(3), dtype=torch.float32).dtype == torch.float32
        assert numpy_to_transform(np.eye(4), dtype=torch.float32).dtype == torch.float32

    def test_integers_are_refused(self) -> None:
        with pytest.raises(TypeError, match=r"array: expected floating point numbers, got int"):
            from_numpy(np.eye(3, dtype=np.int64))
        with pytest.raises(TypeError, match=r"value: expected a floating point tensor, got torch.int64"):
            to_numpy(torch.arange(3))
        with pytest.raises(TypeError, match=r"dtype: expected a floating point type, got torch.int64"):
            from_numpy(np.eye(3), dtype=torch.int64)


class TestTransforms:
    """Arrays for Open3D and trimesh."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_round_trip_is_exact(self, dtype: torch.dtype, batch: tuple[int, ...], generator: torch.Generator) -> None:
        transform = random_transforms(batch, generator, dtype)
        array = transform_to_numpy(transform)
        assert array.dtype == np.float64 and array.flags.c_contiguous
        assert torch.equal(numpy_to_transform(array, dtype=dtype), transform)

    def test_trimesh_applies_it_as_we_do(self, generator: torch.Generator) -> None:
        transform = random_transforms((), generator)
        points = torch.randn(20, 3, generator=generator, dtype=torch.float64)
        cloud = trimesh.PointCloud(points.numpy()).apply_transform(transform_to_numpy(transform))
        expected = transform_points(transform, points)
        assert np.abs(cloud.vertices - expected.numpy()).max() < EQUAL

    def test_trimesh_quaternions_are_ours(self, generator: torch.Generator) -> None:
        quat = random_quaternions(generator=generator, dtype=torch.float64)
        matrix = numpy_to_transform(trimesh.transformations.quaternion_matrix(quat.numpy()))[:3, :3]
        assert (matrix - quaternion_to_matrix(quat)).abs().max() < EQUAL

    def test_trimesh_inverse_is_accepted(self, generator: torch.Generator) -> None:
        transform = random_transforms((), generator)
        inverse = numpy_to_transform(trimesh.transformations.inverse_matrix(transform_to_numpy(transform)))
        assert (compose_transforms(inverse, transform) - torch.eye(4)).abs().max() < EQUAL

    def test_open3d_applies_it_as_we_do(self, generator: torch.Generator) -> None:
        open3d = pytest.importorskip("open3d")
        transform = random_transforms((), generator)
        points = torch.randn(20, 3, generator=generator, dtype=torch.float64)
        cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.numpy()))
        cloud.transform(transform_to_numpy(transform))
        assert np.abs(np.asarray(cloud.points) - transform_points(transform, points).numpy()).max() < EQUAL
        quat = matrix_to_quaternion(transform[:3, :3])
        matrix = open3d.geometry.get_rotation_matrix_from_quaternion(quat.numpy())
        assert (from_numpy(matrix) - transform[:3, :3]).abs().max() < EQUAL

    def test_row_convention_is_refused(self) -> None:
        shift = make_transform(torch.eye(3), torch.tensor([1.0, 2.0, 3.0]))
        with pytest.raises(ValueError, match=r"expected last rows \(0, 0, 0, 1\), got \(1.0, 2.0, 3.0, 1.0\)"):
            numpy_to_transform(shift.mT.numpy())

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match=r"array: expected shape \(..., 4, 4\), got \(3, 3\)"):
            numpy_to_transform(np.eye(3))
        with pytest.raises(TypeError, match=r"array: expected real numbers, got complex128"):
            numpy_to_transform(np.eye(4) * 1j)
        with pytest.raises(ValueError, match=r"transform: expected shape \(..., 4, 4\), got \(3, 4\)"):
            transform_to_numpy(torch.zeros(3, 4))

    def test_integers_and_empty_batches_are_welcome(self) -> None:
        assert numpy_to_transform(np.eye(4, dtype=int)).dtype == torch.float64
        assert numpy_to_transform(np.zeros((0, 4, 4))).shape == (0, 4, 4)

    def test_nan_passes(self) -> None:
        assert numpy_to_transform(np.full((4, 4), np.nan)).isnan().all()


class TestScipy:
    def test_round_trip(self, kind: RotationKind, batch: tuple[int, ...], generator: torch.Generator) -> None:
        if len(batch) > 1 and not SEVERAL_AXES:
            pytest.skip("a Rotation has one leading axis before SciPy 1.17")
        matrix = sample_rotations(kind, batch, generator=generator)
        rotation = matrix_to_scipy(matrix)
        assert rotation.as_matrix().shape == matrix.shape
        assert np.abs(rotation.as_matrix() - matrix.numpy()).max() < EQUAL
        assert (scipy_to_matrix(rotation) - matrix).abs().max() < EQUAL

    @pytest.mark.parametrize("order", ["wxyz", "xyzw"])
    def test_quaternions_keep_their_sign(self, order: str, generator: torch.Generator) -> None:
        quat = random_quaternions(20, order=order, generator=generator, dtype=torch.float64)
        rotation = quaternion_to_scipy(3 * quat, order)
        assert (scipy_to_quaternion(rotation, order) - quat).abs().max() < EQUAL
        assert (scipy_to_matrix(rotation) - quaternion_to_matrix(quat, order)).abs().max() < EQUAL

    def test_the_orders_differ_by_the_place_of_the_real_part(self) -> None:
        rotation = Rotation.from_quat([0.5, 0.1, 0.2, 0.8])
        x, y, z, w = rotation.as_quat()
        assert scipy_to_quaternion(rotation).tolist() == [w, x, y, z]
        assert scipy_to_quaternion(rotation, "xyzw").tolist() == [x, y, z, w]

    def test_axis_angle_is_scipys_rotation_vector(self, kind: RotationKind, generator: torch.Generator) -> None:
        matrix = sample_rotations(kind, 50, generator=generator)
        expected = from_numpy(matrix_to_scipy(matrix).as_rotvec())
        assert geodesic_distance(axis_angle_to_matrix(expected), matrix).max() < EQUAL
        assert (matrix_to_axis_angle(matrix).norm(dim=-1) - expected.norm(dim=-1)).abs().max() < EQUAL

    def test_composition_is_ours(self, generator: torch.Generator) -> None:
        a, b = random_quaternions((2, 20), generator=generator, dtype=torch.float64)
        product = matrix_to_scipy(quaternion_to_matrix(a)) * matrix_to_scipy(quaternion_to_matrix(b))
        ours = quaternion_to_matrix(quaternion_multiply(a, b))
        assert (scipy_to_matrix(product) - ours).abs().max() < EQUAL

    def test_dtype_and_empty(self) -> None:
        rotation = matrix_to_scipy(torch.eye(3).expand(2, 3, 3))
        assert scipy_to_matrix(rotation, dtype=torch.float32).dtype == torch.float32
        assert scipy_to_quaternion(rotation, dtype=torch.float16).dtype == torch.float16
        assert scipy_to_matrix(matrix_to_scipy(torch.zeros(0, 3, 3))).shape == (0, 3, 3)

    def test_gradient_is_dropped(self) -> None:
        assert matrix_to_scipy(torch.eye(3, requires_grad=True)).magnitude() == 0

    def test_bad_input(self) -> None:
        with pytest.raises(TypeError, match=r"rotation: expected a scipy Rotation, got Tensor"):
            scipy_to_matrix(torch.eye(3))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"matrix: expected shape \(..., 3, 3\), got \(4, 4\)"):
            matrix_to_scipy(torch.eye(4))
        with pytest.raises(ValueError, match=r"order: expected one of 'wxyz', 'xyzw', got 'wzyx'"):
            quaternion_to_scipy(torch.zeros(4), "wzyx")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"dtype: expected a floating point type, got torch.int32"):
            scipy_to_matrix(Rotation.identity(), dtype=torch.int32)


class TestPytorch3d:
    """Against the formulas of its documentation; against the package itself where it is installed."""

    def test_rows(self, batch: tuple[int, ...], generator: torch.Generator) -> None:
        transform = random_transforms(batch, generator)
        points = torch.randn(*batch, 7, 3, generator=generator, dtype=torch.float64)
        homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
        rows = transform_to_pytorch3d(transform)
        expected = transform_points(transform, points)
        assert (homogeneous @ rows - torch.cat([expected, homogeneous[..., 3:]], -1)).abs().max() < EQUAL
        assert torch.equal(pytorch3d_to_transform(rows), transform)
        rotation = transform[..., :3, :3]
        turned = transform_points(make_transform(rotation, torch.zeros_like(rotation[..., 0])), points)
        assert (points @ matrix_to_pytorch3d(rotation) - turned).abs().max() < EQUAL
        assert torch.equal(pytorch3d_to_matrix(matrix_to_pytorch3d(rotation)), rotation)

    def test_composition_turns_around(self, generator: torch.Generator) -> None:
        a, b = random_transforms((2,), generator)
        rows = transform_to_pytorch3d(b) @ transform_to_pytorch3d(a)
        assert (pytorch3d_to_transform(rows) - compose_transforms(a, b)).abs().max() < EQUAL

    def test_camera(self, batch: tuple[int, ...], generator: torch.Generator) -> None:
        transform = random_transforms(batch, generator)
        points = torch.randn(*batch, 7, 3, generator=generator, dtype=torch.float64)
        rows, translation = transform_to_pytorch3d_camera(transform)
        in_camera = points @ rows + translation.unsqueeze(-2)
        assert (in_camera - transform_points(transform, points)).abs().max() < EQUAL
        assert torch.equal(pytorch3d_camera_to_transform(rows, translation), transform)

    def test_bad_input(self) -> None:
        for convert, name in ((matrix_to_pytorch3d, "matrix"), (pytorch3d_to_matrix, "rows")):
            with pytest.raises(ValueError, match=rf"{name}: expected shape \(..., 3, 3\), got \(4, 4\)"):
                convert(torch.eye(4))
        for convert, name in ((transform_to_pytorch3d, "transform"), (pytorch3d_to_transform, "rows")):
            with pytest.raises(TypeError, match=rf"{name}: expected a floating point tensor, got torch.int64"):
                convert(torch.eye(4, dtype=torch.int64))

    def test_package(self, generator: torch.Generator) -> None:
        transforms = pytest.importorskip("pytorch3d.transforms")
        transform = random_transforms((3,), generator)
        points = torch.randn(3, 7, 3, generator=generator, dtype=torch.float64)
        theirs = transforms.Transform3d(matrix=transform_to_pytorch3d(transform)).transform_points(points)
        assert (theirs - transform_points(transform, points)).abs().max() < EQUAL
        quat = matrix_to_quaternion(transform[:, :3, :3])
        assert (transforms.quaternion_to_matrix(quat) - transform[:, :3, :3]).abs().max() < EQUAL
        vectors = torch.randn(20, 6, generator=generator, dtype=torch.float64)
        ours = rotation_6d_to_matrix(vectors, "rows")
        assert (transforms.rotation_6d_to_matrix(vectors) - ours).abs().max() < EQUAL


class TestRoma:
    def test_quaternions(self, roma: ModuleType, generator: torch.Generator) -> None:
        quat = random_quaternions(50, generator=generator, dtype=torch.float64)
        theirs = quaternion_wxyz_to_xyzw(quat)
        assert (roma.unitquat_to_rotmat(theirs) - quaternion_to_matrix(quat)).abs().max() < EQUAL
        assert torch.equal(quaternion_to_matrix(theirs, "xyzw"), quaternion_to_matrix(quat))
        back = quaternion_xyzw_to_wxyz(roma.rotmat_to_unitquat(quaternion_to_matrix(quat)))
        assert geodesic_distance(quaternion_to_matrix(back), quaternion_to_matrix(quat)).max() < EQUAL

    def test_6d(self, roma: ModuleType, batch: tuple[int, ...], generator: torch.Generator) -> None:
        vectors = torch.randn(*batch, 6, generator=generator, dtype=torch.float64)
        theirs = roma.special_gramschmidt(rotation_6d_to_roma(vectors))
        assert (theirs - rotation_6d_to_matrix(vectors)).abs().max() < EQUAL
        assert torch.equal(roma_to_rotation_6d(rotation_6d_to_roma(vectors)), vectors)
        assert torch.equal(roma_to_rotation_6d(theirs[..., :2]), matrix_to_rotation_6d(theirs))

    def test_9d(self, roma: ModuleType, generator: torch.Generator) -> None:
        matrix = torch.randn(50, 3, 3, generator=generator, dtype=torch.float64)
        assert (roma.special_procrustes(matrix) - special_procrustes(matrix)).abs().max() < EQUAL

    def test_10d(self, roma: ModuleType, batch: tuple[int, ...], generator: torch.Generator) -> None:
        vector = torch.randn(*batch, 10, generator=generator, dtype=torch.float64)
        theirs = roma.symmatrixvec_to_unitquat(rotation_10d_to_roma(vector))
        ours = rotation_10d_to_matrix(vector)
        assert isinstance(ours, Tensor)
        assert geodesic_distance(roma.unitquat_to_rotmat(theirs), ours).max() < EQUAL
        back = rotation_10d_to_quaternion(roma_to_rotation_10d(rotation_10d_to_roma(vector)))
        assert torch.equal(back, rotation_10d_to_quaternion(vector))

    def test_10d_is_the_same_quadratic_form(self, generator: torch.Generator) -> None:
        # The permutation is a change of basis: with q = (w, x, y, z) and p = (x, y, z, w), q^T A q = p^T B p.
        vector = torch.randn(20, 10, generator=generator, dtype=torch.float64)
        q = torch.randn(20, 4, generator=generator, dtype=torch.float64)
        p = quaternion_wxyz_to_xyzw(q)
        ours = torch.einsum("bi,bij,bj->b", q, symmetric_from_10d(vector), q)
        theirs = torch.einsum("bi,bij,bj->b", p, symmetric_from_10d(rotation_10d_to_roma(vector)), p)
        assert (ours - theirs).abs().max() < EQUAL
        assert torch.equal(roma_to_rotation_10d(rotation_10d_to_roma(vector)), vector)
        assert torch.equal(rotation_10d_to_roma(roma_to_rotation_10d(vector)), vector)

    def test_10d_of_a_rotation(self, roma: ModuleType, kind: RotationKind, generator: torch.Generator) -> None:
        matrix = sample_rotations(kind, 20, generator=generator)
        theirs = roma.symmatrixvec_to_unitquat(rotation_10d_to_roma(matrix_to_rotation_10d(matrix)))
        assert geodesic_distance(roma.unitquat_to_rotmat(theirs), matrix).max() < EQUAL

    def test_homogeneous_matrices_are_ours(self, roma: ModuleType, generator: torch.Generator) -> None:
        transform = random_transforms((4,), generator)
        theirs = roma.Rigid(transform[:, :3, :3], transform[:, :3, 3])
        points = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        assert torch.equal(theirs.to_homogeneous(), transform)
        ours = transform_points(transform, points.unsqueeze(-2)).squeeze(-2)
        assert (theirs.apply(points) - ours).abs().max() < EQUAL

    def test_bad_input(self) -> None:
        for convert, name in ((rotation_10d_to_roma, "vector"), (roma_to_rotation_10d, "vector")):
            with pytest.raises(ValueError, match=rf"{name}: expected shape \(..., 10\), got \(9,\)"):
                convert(torch.zeros(9))
        with pytest.raises(ValueError, match=r"vectors: expected shape \(..., 6\), got \(3, 2\)"):
            rotation_6d_to_roma(torch.zeros(3, 2))
        with pytest.raises(ValueError, match=r"columns: expected shape \(..., 3, 2\), got \(6,\)"):
            roma_to_rotation_6d(torch.zeros(6))


TENSOR_CONVERTERS = [
    (matrix_to_pytorch3d, (3, 3)),
    (pytorch3d_to_matrix, (3, 3)),
    (transform_to_pytorch3d, (4, 4)),
    (pytorch3d_to_transform, (4, 4)),
    (rotation_6d_to_roma, (6,)),
    (roma_to_rotation_6d, (3, 2)),
    (rotation_10d_to_roma, (10,)),
    (roma_to_rotation_10d, (10,)),
]


@pytest.mark.parametrize(("convert", "shape"), TENSOR_CONVERTERS, ids=lambda value: getattr(value, "__name__", ""))
def test_tensor_converters_are_differentiable_and_batched(convert, shape, dtype, batch, generator) -> None:  # type: ignore[no-untyped-def]
    value = torch.randn(*batch, *shape, generator=generator, dtype=dtype)
    result = convert(value)
    assert result.dtype == dtype
    assert torch.equal(torch.vmap(convert)(value.expand(2, *value.shape)), result.expand(2, *result.shape))
    assert torch.autograd.gradcheck(convert, value.double().requires_grad_())
    assert convert(value[:0] if batch else value.expand(0, *shape)).shape[0] == 0
