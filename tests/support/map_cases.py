"""Every map of `rotaware.geo` with how to draw its arguments: what the tests of promises made for all run over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from rotaware import geo

Shape = tuple[int, ...]
# Rotations by at most this angle: away from pi, where some maps jump.
LARGEST_ANGLE = 2.5


@dataclass(frozen=True)
class Case:
    """A map of the room with a sampler of each of its arguments."""

    name: str
    function: Callable[..., Tensor]
    arguments: tuple[str | Shape, ...]

    def sample(self, batch: Shape, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [draw(kind, batch, generator).to(dtype) for kind in self.arguments]


def draw(kind: str | Shape, batch: Shape, generator: torch.Generator) -> Tensor:
    """(*batch, ...) regular arguments of one kind; a shape stands for normal numbers."""
    size = {"generator": generator, "dtype": torch.float64}
    if kind == "rotation":
        return geo.random_rotations(batch, max_angle=LARGEST_ANGLE, **size)  # type: ignore[arg-type]
    if kind == "rotations":
        return geo.random_rotations((*batch, 4), max_angle=1.0, **size)  # type: ignore[arg-type]
    if kind == "quaternions":
        return geo.random_quaternions((*batch, 4), max_angle=1.0, **size)  # type: ignore[arg-type]
    if kind == "quaternion":
        return geo.random_quaternions(batch, max_angle=LARGEST_ANGLE, **size)  # type: ignore[arg-type]
    if kind == "transform":
        return geo.make_transform(draw("rotation", batch, generator), draw((3,), batch, generator))
    if kind == "planar":
        return geo.angle_to_matrix2d(draw((), batch, generator))
    if kind in ("rotation4", "similarity4"):
        matrix = geo.special_procrustes(draw((4, 4), batch, generator))
        return matrix if kind == "rotation4" else 1.7 * matrix
    if kind in ("skew3", "skew4"):
        n = int(kind[-1])
        raw = draw((n, n), batch, generator)
        return (raw - raw.mT) / 3
    assert isinstance(kind, tuple)
    return torch.randn((*batch, *kind), generator=generator, dtype=torch.float64)


def case(function: Callable[..., Tensor], *arguments: str | Shape, name: str = "") -> Case:
    return Case(name or function.__name__, function, arguments)


CASES = [
    case(geo.quaternion_to_matrix, (4,)),
    case(partial(geo.quaternion_to_matrix, order="xyzw"), (4,), name="quaternion_to_matrix_xyzw"),
    case(geo.matrix_to_quaternion, "rotation"),
    case(geo.axis_angle_to_matrix, (3,)),
    case(geo.matrix_to_axis_angle, "rotation"),
    case(geo.axis_angle_to_quaternion, (3,)),
    case(geo.quaternion_to_axis_angle, "quaternion"),
    case(geo.rotation_angle, "rotation"),
    case(geo.geodesic_distance, "rotation", "rotation"),
    case(geo.rotation_6d_to_matrix, (6,)),  # type: ignore[arg-type]
    case(partial(geo.rotation_6d_to_matrix, layout="rows"), (6,), name="rotation_6d_to_matrix_rows"),
    case(partial(geo.rotation_6d_to_matrix, method="two_vector"), (6,), name="two_vector_to_matrix"),
    case(geo.matrix_to_rotation_6d, "rotation"),
    case(partial(geo.matrix_to_rotation_6d, layout="rows"), "rotation", name="matrix_to_rotation_6d_rows"),
    case(geo.rotation_5d_to_matrix, (5,)),
    case(geo.matrix_to_rotation_5d, "rotation"),
    case(geo.rotation_9d_to_matrix, (9,)),
    case(geo.matrix_to_rotation_9d, "rotation"),
    case(geo.rotation_10d_to_matrix, (10,)),  # type: ignore[arg-type]
    case(geo.rotation_10d_to_quaternion, (10,)),
    case(geo.matrix_to_rotation_10d, "rotation"),
    case(geo.symmetric_from_10d, (10,)),
    case(geo.special_procrustes, (3, 3)),
    case(geo.special_procrustes, (4, 4), name="special_procrustes_4"),
    case(geo.special_procrustes_quaternion, "rotation"),
    case(geo.procrustes, (3, 3)),
    case(geo.procrustes_conditioning, (3, 3)),
    case(geo.quaternion_raw_multiply, (4,), (4,)),
    case(geo.quaternion_multiply, (4,), (4,)),
    case(geo.quaternion_conjugate, (4,)),
    case(geo.quaternion_inverse, (4,)),
    case(geo.quaternion_normalize, (4,)),
    case(geo.quaternion_standardize, (4,)),
    case(geo.quaternion_exp, (4,)),
    case(geo.quaternion_log, (4,)),
    case(geo.quaternion_pow, "quaternion", ()),
    case(geo.quaternion_apply, (4,), (3,)),
    case(geo.quaternion_xyzw_to_wxyz, (4,)),
    case(geo.quaternion_wxyz_to_xyzw, (4,)),
    case(partial(geo.euler_to_matrix, convention="XYZ"), (3,), name="euler_to_matrix"),
    case(partial(geo.matrix_to_euler, convention="zyx"), "rotation", name="matrix_to_euler"),
    case(partial(geo.euler_to_quaternion, convention="ZXZ"), (3,), name="euler_to_quaternion"),
    case(partial(geo.quaternion_to_euler, convention="zxz"), "quaternion", name="quaternion_to_euler"),
    case(geo.mrp_to_quaternion, (3,)),
    case(geo.quaternion_to_mrp, "quaternion"),
    case(geo.mrp_to_matrix, (3,)),
    case(geo.matrix_to_mrp, "rotation"),
    case(geo.gibbs_to_quaternion, (3,)),
    case(geo.quaternion_to_gibbs, "quaternion"),
    case(geo.gibbs_to_matrix, (3,)),
    case(geo.matrix_to_gibbs, "rotation"),
    case(geo.axis_angle4_to_matrix, (4,)),
    case(geo.matrix_to_axis_angle4, "rotation"),
    case(geo.gram_schmidt, (4, 3)),
    case(geo.generalized_cross, (4, 3)),
    case(partial(geo.so_n_to_matrix, n=4), (12,), name="so_n_to_matrix"),
    case(partial(geo.so_n_to_matrix, n=4, reduced=True), (10,), name="so_n_to_matrix_reduced"),
    case(geo.matrix_to_so_n, "rotation4"),
    case(partial(geo.matrix_to_so_n, reduced=True), "rotation4", name="matrix_to_so_n_reduced"),
    case(partial(geo.o_n_to_matrix, n=4), (13,), name="o_n_to_matrix"),
    case(geo.matrix_to_o_n, "rotation4"),
    case(partial(geo.similarity_to_matrix, n=4), (12,), name="similarity_to_matrix"),
    case(geo.matrix_to_similarity, "similarity4"),
    case(geo.hat_n, (6,)),
    case(geo.vee_n, "skew4"),
    case(geo.son_exp, "skew4"),
    case(geo.son_log, "rotation4"),
    case(geo.cayley, "skew4"),
    case(geo.inverse_cayley, "rotation4"),
    case(geo.hat, (3,)),
    case(geo.vee, "skew3"),
    case(geo.so3_left_jacobian, (3,)),
    case(partial(geo.so3_right_jacobian, inverse=True), (3,), name="so3_right_jacobian_inverse"),
    case(geo.so3_box_plus, "rotation", (3,)),
    case(geo.so3_box_minus, "rotation", "rotation"),
    case(geo.rotation_inverse, "rotation"),
    case(geo.rotation_apply, "rotation", (3,)),
    case(geo.rotation_compose, "rotation", "rotation"),
    case(geo.orthonormalize, "rotation"),
    case(partial(geo.elementary_rotation, "y"), (), name="elementary_rotation"),
    case(geo.rotation_between_vectors, (3,), (3,)),
    case(geo.look_rotation, (3,), (3,)),
    case(lambda quat, axis: geo.swing_twist(quat, axis).swing, "quaternion", (3,), name="swing"),
    case(lambda quat, axis: geo.swing_twist(quat, axis).twist, "quaternion", (3,), name="twist"),
    case(geo.quaternion_slerp, "quaternion", "quaternion", ()),
    case(geo.quaternion_nlerp, "quaternion", "quaternion", ()),
    case(geo.geodesic_interpolate, "rotation", "rotation", ()),
    case(geo.chordal_distance, "rotation", "rotation"),
    case(geo.quaternion_distance, "quaternion", "quaternion"),
    case(geo.axis_angle_geodesic_distance, (3,), (3,)),
    case(geo.rotation_mean, "rotations"),
    case(partial(geo.rotation_mean, kind="geodesic"), "rotations", name="rotation_mean_geodesic"),
    case(geo.quaternion_mean, "quaternions"),
    case(geo.wrap_angle, ()),
    case(geo.angle_to_vector, ()),
    case(geo.vector_to_angle, (2,)),
    case(geo.angle_to_matrix2d, ()),
    case(geo.matrix2d_to_angle, "planar"),
    case(geo.make_transform, "rotation", (3,)),
    case(geo.compose_transforms, "transform", "transform"),
    case(geo.invert_transform, "transform"),
    case(geo.transform_points, "transform", (5, 3)),
    case(lambda x, y: geo.kabsch(x, y).rotation, (5, 3), (5, 3), name="kabsch"),
    case(lambda x, y: geo.umeyama(x, y).transform, (5, 3), (5, 3), name="umeyama"),
]
BY_NAME = {one.name: one for one in CASES}
DIFFERENTIABLE = [one for one in CASES if one.name != "procrustes_conditioning"]

every_map = pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
every_differentiable_map = pytest.mark.parametrize("one", DIFFERENTIABLE, ids=lambda one: one.name)


def maps(*names: str, slow: Sequence[str] = ()) -> pytest.MarkDecorator:
    chosen = [pytest.param(BY_NAME[name], id=name) for name in names]
    return pytest.mark.parametrize(
        "one", chosen + [pytest.param(BY_NAME[n], id=n, marks=pytest.mark.slow) for n in slow]
    )


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-11) -> bool:
    scale = 1 + expected.abs().amax() if expected.numel() else 1
    return actual.shape == expected.shape and bool(((actual - expected).abs() <= tolerance * scale).all())


def gradient(one: Case, arguments: list[Tensor]) -> list[Tensor]:
    """Of a fixed function of the result, by reverse mode."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    result = one.function(*leaves)
    weights = torch.linspace(0.5, 2, result.numel(), dtype=result.dtype).reshape(result.shape)
    gradients = torch.autograd.grad((weights * result).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)]
