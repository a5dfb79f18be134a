"""What every map of the room promises, whatever it computes: batches, dtypes, derivatives, compilers and exporters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from rotaware.geo import (
    axis_angle_to_matrix,
    axis_angle_to_quaternion,
    compose_transforms,
    geodesic_distance,
    invert_transform,
    kabsch,
    make_transform,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    quaternion_to_axis_angle,
    quaternion_to_matrix,
    random_quaternions,
    random_rotations,
    rotation_angle,
    transform_points,
    umeyama,
)
from rotaware.geo.continuous import (
    matrix_to_rotation_5d,
    matrix_to_rotation_6d,
    matrix_to_rotation_9d,
    matrix_to_rotation_10d,
    rotation_5d_to_matrix,
    rotation_6d_to_matrix,
    rotation_9d_to_matrix,
    rotation_10d_to_matrix,
    rotation_10d_to_quaternion,
    symmetric_from_10d,
)
from rotaware.geo.euler import euler_to_matrix, euler_to_quaternion, matrix_to_euler, quaternion_to_euler
from rotaware.geo.frames import (
    elementary_rotation,
    look_rotation,
    orthonormalize,
    rotation_apply,
    rotation_between_vectors,
    rotation_compose,
    rotation_inverse,
    swing_twist,
)
from rotaware.geo.interpolation import geodesic_interpolate, quaternion_nlerp, quaternion_slerp
from rotaware.geo.lie import hat, so3_box_minus, so3_box_plus, so3_left_jacobian, so3_right_jacobian, vee
from rotaware.geo.losses import axis_angle_geodesic_distance, chordal_distance, quaternion_distance
from rotaware.geo.means import quaternion_mean, rotation_mean
from rotaware.geo.planar import angle_to_matrix2d, angle_to_vector, matrix2d_to_angle, vector_to_angle, wrap_angle
from rotaware.geo.procrustes import (
    procrustes,
    procrustes_conditioning,
    special_procrustes,
    special_procrustes_quaternion,
)
from rotaware.geo.quaternion import (
    quaternion_apply,
    quaternion_conjugate,
    quaternion_exp,
    quaternion_inverse,
    quaternion_log,
    quaternion_multiply,
    quaternion_normalize,
    quaternion_pow,
    quaternion_raw_multiply,
    quaternion_standardize,
    quaternion_wxyz_to_xyzw,
    quaternion_xyzw_to_wxyz,
)
from rotaware.geo.rodrigues import (
    axis_angle4_to_matrix,
    gibbs_to_matrix,
    gibbs_to_quaternion,
    matrix_to_axis_angle4,
    matrix_to_gibbs,
    matrix_to_mrp,
    mrp_to_matrix,
    mrp_to_quaternion,
    quaternion_to_gibbs,
    quaternion_to_mrp,
)
from rotaware.geo.skew import cayley, hat_n, inverse_cayley, son_exp, son_log, vee_n
from rotaware.geo.son import (
    generalized_cross,
    gram_schmidt,
    matrix_to_o_n,
    matrix_to_similarity,
    matrix_to_so_n,
    o_n_to_matrix,
    similarity_to_matrix,
    so_n_to_matrix,
)

# PyTorch scripts its forward derivatives the first time one is asked for, and warns that scripts are no longer made.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

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
        return random_rotations(batch, max_angle=LARGEST_ANGLE, **size)  # type: ignore[arg-type]
    if kind == "rotations":
        return random_rotations((*batch, 4), max_angle=1.0, **size)  # type: ignore[arg-type]
    if kind == "quaternions":
        return random_quaternions((*batch, 4), max_angle=1.0, **size)  # type: ignore[arg-type]
    if kind == "quaternion":
        return random_quaternions(batch, max_angle=LARGEST_ANGLE, **size)  # type: ignore[arg-type]
    if kind == "transform":
        return make_transform(draw("rotation", batch, generator), draw((3,), batch, generator))
    if kind == "planar":
        return angle_to_matrix2d(draw((), batch, generator))
    if kind in ("rotation4", "similarity4"):
        matrix = special_procrustes(draw((4, 4), batch, generator))
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
    case(quaternion_to_matrix, (4,)),
    case(partial(quaternion_to_matrix, order="xyzw"), (4,), name="quaternion_to_matrix_xyzw"),
    case(matrix_to_quaternion, "rotation"),
    case(axis_angle_to_matrix, (3,)),
    case(matrix_to_axis_angle, "rotation"),
    case(axis_angle_to_quaternion, (3,)),
    case(quaternion_to_axis_angle, "quaternion"),
    case(rotation_angle, "rotation"),
    case(geodesic_distance, "rotation", "rotation"),
    case(rotation_6d_to_matrix, (6,)),  # type: ignore[arg-type]
    case(partial(rotation_6d_to_matrix, layout="rows"), (6,), name="rotation_6d_to_matrix_rows"),
    case(partial(rotation_6d_to_matrix, method="two_vector"), (6,), name="two_vector_to_matrix"),
    case(matrix_to_rotation_6d, "rotation"),
    case(partial(matrix_to_rotation_6d, layout="rows"), "rotation", name="matrix_to_rotation_6d_rows"),
    case(rotation_5d_to_matrix, (5,)),
    case(matrix_to_rotation_5d, "rotation"),
    case(rotation_9d_to_matrix, (9,)),
    case(matrix_to_rotation_9d, "rotation"),
    case(rotation_10d_to_matrix, (10,)),  # type: ignore[arg-type]
    case(rotation_10d_to_quaternion, (10,)),
    case(matrix_to_rotation_10d, "rotation"),
    case(symmetric_from_10d, (10,)),
    case(special_procrustes, (3, 3)),
    case(special_procrustes, (4, 4), name="special_procrustes_4"),
    case(special_procrustes_quaternion, "rotation"),
    case(procrustes, (3, 3)),
    case(procrustes_conditioning, (3, 3)),
    case(quaternion_raw_multiply, (4,), (4,)),
    case(quaternion_multiply, (4,), (4,)),
    case(quaternion_conjugate, (4,)),
    case(quaternion_inverse, (4,)),
    case(quaternion_normalize, (4,)),
    case(quaternion_standardize, (4,)),
    case(quaternion_exp, (4,)),
    case(quaternion_log, (4,)),
    case(quaternion_pow, "quaternion", ()),
    case(quaternion_apply, (4,), (3,)),
    case(quaternion_xyzw_to_wxyz, (4,)),
    case(quaternion_wxyz_to_xyzw, (4,)),
    case(partial(euler_to_matrix, convention="XYZ"), (3,), name="euler_to_matrix"),
    case(partial(matrix_to_euler, convention="zyx"), "rotation", name="matrix_to_euler"),
    case(partial(euler_to_quaternion, convention="ZXZ"), (3,), name="euler_to_quaternion"),
    case(partial(quaternion_to_euler, convention="zxz"), "quaternion", name="quaternion_to_euler"),
    case(mrp_to_quaternion, (3,)),
    case(quaternion_to_mrp, "quaternion"),
    case(mrp_to_matrix, (3,)),
    case(matrix_to_mrp, "rotation"),
    case(gibbs_to_quaternion, (3,)),
    case(quaternion_to_gibbs, "quaternion"),
    case(gibbs_to_matrix, (3,)),
    case(matrix_to_gibbs, "rotation"),
    case(axis_angle4_to_matrix, (4,)),
    case(matrix_to_axis_angle4, "rotation"),
    case(gram_schmidt, (4, 3)),
    case(generalized_cross, (4, 3)),
    case(partial(so_n_to_matrix, n=4), (12,), name="so_n_to_matrix"),
    case(partial(so_n_to_matrix, n=4, reduced=True), (10,), name="so_n_to_matrix_reduced"),
    case(matrix_to_so_n, "rotation4"),
    case(partial(matrix_to_so_n, reduced=True), "rotation4", name="matrix_to_so_n_reduced"),
    case(partial(o_n_to_matrix, n=4), (13,), name="o_n_to_matrix"),
    case(matrix_to_o_n, "rotation4"),
    case(partial(similarity_to_matrix, n=4), (12,), name="similarity_to_matrix"),
    case(matrix_to_similarity, "similarity4"),
    case(hat_n, (6,)),
    case(vee_n, "skew4"),
    case(son_exp, "skew4"),
    case(son_log, "rotation4"),
    case(cayley, "skew4"),
    case(inverse_cayley, "rotation4"),
    case(hat, (3,)),
    case(vee, "skew3"),
    case(so3_left_jacobian, (3,)),
    case(partial(so3_right_jacobian, inverse=True), (3,), name="so3_right_jacobian_inverse"),
    case(so3_box_plus, "rotation", (3,)),
    case(so3_box_minus, "rotation", "rotation"),
    case(rotation_inverse, "rotation"),
    case(rotation_apply, "rotation", (3,)),
    case(rotation_compose, "rotation", "rotation"),
    case(orthonormalize, "rotation"),
    case(partial(elementary_rotation, "y"), (), name="elementary_rotation"),
    case(rotation_between_vectors, (3,), (3,)),
    case(look_rotation, (3,), (3,)),
    case(lambda quat, axis: swing_twist(quat, axis).swing, "quaternion", (3,), name="swing"),
    case(lambda quat, axis: swing_twist(quat, axis).twist, "quaternion", (3,), name="twist"),
    case(quaternion_slerp, "quaternion", "quaternion", ()),
    case(quaternion_nlerp, "quaternion", "quaternion", ()),
    case(geodesic_interpolate, "rotation", "rotation", ()),
    case(chordal_distance, "rotation", "rotation"),
    case(quaternion_distance, "quaternion", "quaternion"),
    case(axis_angle_geodesic_distance, (3,), (3,)),
    case(rotation_mean, "rotations"),
    case(partial(rotation_mean, kind="geodesic"), "rotations", name="rotation_mean_geodesic"),
    case(quaternion_mean, "quaternions"),
    case(wrap_angle, ()),
    case(angle_to_vector, ()),
    case(vector_to_angle, (2,)),
    case(angle_to_matrix2d, ()),
    case(matrix2d_to_angle, "planar"),
    case(make_transform, "rotation", (3,)),
    case(compose_transforms, "transform", "transform"),
    case(invert_transform, "transform"),
    case(transform_points, "transform", (5, 3)),
    case(lambda x, y: kabsch(x, y).rotation, (5, 3), (5, 3), name="kabsch"),
    case(lambda x, y: umeyama(x, y).transform, (5, 3), (5, 3), name="umeyama"),
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


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class TestBatches:
    @every_map
    def test_any_leading_axes(self, one: Case, dtype: torch.dtype) -> None:
        arguments = one.sample((6,), dtype)
        result = one.function(*arguments)
        assert result.dtype == dtype and result.shape[0] == 6
        single = one.function(*(x[0] for x in arguments))
        assert close(single, result[0], 1e-5 if dtype == torch.float32 else 1e-11)
        folded = one.function(*(x.unflatten(0, (2, 1, 3)) for x in arguments))
        assert close(folded.flatten(0, 2), result, 1e-5 if dtype == torch.float32 else 1e-11)
        for empty in ((0,), (2, 0)):
            nothing = one.function(*(x[:1].expand(*empty, *x.shape[1:]) for x in arguments))
            assert nothing.shape == (*empty, *result.shape[1:]) and nothing.dtype == dtype

    @every_differentiable_map
    def test_gradient_of_nothing_is_empty(self, one: Case) -> None:
        arguments = [x[:0].requires_grad_() for x in one.sample((1,))]
        gradients = torch.autograd.grad(one.function(*arguments).sum(), arguments, allow_unused=True)
        assert all(g is None or g.shape == x.shape for g, x in zip(gradients, arguments, strict=True))

    @every_differentiable_map
    def test_strides_do_not_matter(self, one: Case) -> None:
        arguments = one.sample((4,))
        spread = [torch.stack([x, x], -1)[..., 0] for x in arguments]  # every second number of memory
        expanded = [x[0].expand_as(x) for x in arguments]
        assert close(one.function(*spread), one.function(*arguments))
        assert close(one.function(*expanded), one.function(*(x.contiguous() for x in expanded)))
        gradients = [gradient(one, values) for values in (spread, arguments)]
        assert all(close(a, b) for a, b in zip(*gradients, strict=True))

    @every_map
    def test_nan_stays_where_it_is(self, one: Case) -> None:
        arguments = one.sample((3,))
        clean = one.function(*arguments)
        poisoned = [x.clone() for x in arguments]
        poisoned[0][1] = torch.nan
        result = one.function(*poisoned)
        assert result[1].isnan().any()
        assert close(result[::2], clean[::2])

    @every_map
    def test_the_argument_is_not_changed(self, one: Case) -> None:
        arguments = one.sample((3,))
        before = [x.clone() for x in arguments]
        one.function(*arguments)
        assert all(torch.equal(x, y) for x, y in zip(arguments, before, strict=True))

    @every_map
    def test_writing_into_the_result_does_not_reach_the_argument(
        self, one: Case, request: pytest.FixtureRequest
    ) -> None:
        if one.name == "rotation_inverse":
            pytest.skip("a view, as its documentation says")
        if one.name in ("matrix_to_rotation_6d_rows", "matrix_to_rotation_9d"):
            request.applymarker(pytest.mark.xfail(reason="a view, where the other layouts are copies", strict=True))
        arguments = one.sample((3,))
        before = [x.clone() for x in arguments]
        one.function(*arguments).zero_()
        assert all(torch.equal(x, y) for x, y in zip(arguments, before, strict=True))


class TestPrecision:
    @every_map
    @pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
    def test_half_is_the_rounded_float32_result(
        self, one: Case, half: torch.dtype, request: pytest.FixtureRequest
    ) -> None:
        if one.name == "rotation_10d_to_quaternion" and half == torch.float16:
            request.applymarker(pytest.mark.xfail(reason="the matrix in between is rounded as well", strict=True))
        arguments = one.sample((5,), half)
        result = one.function(*arguments)
        expected = one.function(*(x.float() for x in arguments)).to(half)
        assert result.dtype == half
        # One unit of the half type, for maps of several steps.
        assert ((result - expected).abs() <= torch.finfo(half).eps * expected.abs()).all()

    @every_map
    def test_autocast_changes_nothing(self, one: Case) -> None:
        arguments = one.sample((5,), torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            inside = one.function(*arguments)
        assert inside.dtype == torch.float32
        assert torch.equal(inside, one.function(*arguments))

    @maps("axis_angle_to_matrix", "matrix_to_quaternion", "rotation_6d_to_matrix", "special_procrustes")
    def test_threads_change_nothing(self, one: Case, threads: Callable[[int], None]) -> None:
        arguments = [x.expand(40_000, *x.shape[1:]) * 1.0 for x in one.sample((1,), torch.float32)]
        arguments[0] += torch.linspace(0, 1e-3, 40_000).reshape(-1, *[1] * (arguments[0].ndim - 1))
        results = []
        for number in (1, 2):
            threads(number)
            results.append((one.function(*arguments), *gradient(one, arguments)))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def gradient(one: Case, arguments: list[Tensor]) -> list[Tensor]:
    """Of a fixed function of the result, by reverse mode."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    result = one.function(*leaves)
    weights = torch.linspace(0.5, 2, result.numel(), dtype=result.dtype).reshape(result.shape)
    gradients = torch.autograd.grad((weights * result).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)]


class TestDerivatives:
    @every_differentiable_map
    def test_function_transforms_agree(self, one: Case) -> None:
        arguments = tuple(one.sample((3,)))
        every = tuple(range(len(arguments)))
        result = one.function(*arguments)
        assert close(torch.vmap(one.function)(*arguments), result)

        backward = torch.vmap(torch.func.jacrev(one.function, argnums=every))(*arguments)
        forward = torch.vmap(torch.func.jacfwd(one.function, argnums=every))(*arguments)
        tangents = one.sample((3,), seed=1)
        tangent = torch.func.jvp(one.function, arguments, tuple(tangents))[1]
        product = torch.zeros_like(result)
        for jacobian, direction in zip(backward, tangents, strict=True):
            product = product + (jacobian.reshape(*result.shape, -1) * flat(direction, result)).sum(-1)
        assert all(close(a, b) for a, b in zip(forward, backward, strict=True))
        assert close(tangent, product)

        leaves = [x.clone().requires_grad_() for x in arguments]
        output = one.function(*leaves)
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        eager = torch.autograd.grad((weights * output).sum(), leaves, allow_unused=True, materialize_grads=True)
        traced = torch.func.grad(lambda *x: (weights * one.function(*x)).sum(), argnums=every)(*arguments)
        assert all(close(a, b) for a, b in zip(eager, traced, strict=True))

    @every_differentiable_map
    def test_batched_gradients(self, one: Case) -> None:
        leaves = [x.requires_grad_() for x in one.sample((2,))]
        output = one.function(*leaves)
        directions = torch.randn(3, *output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        together = torch.autograd.grad(output, leaves, directions, is_grads_batched=True, **options)
        for i, direction in enumerate(directions):
            single = torch.autograd.grad(output, leaves, direction, **options)
            assert all(close(a[i], b) for a, b in zip(together, single, strict=True))

    @every_differentiable_map
    def test_second_derivatives(self, one: Case) -> None:
        arguments = one.sample(())

        def loss(first: Tensor) -> Tensor:
            return one.function(first, *arguments[1:]).square().cos().sum()

        leaf = arguments[0].clone().requires_grad_()
        first = torch.autograd.grad(loss(leaf), leaf, create_graph=True)[0]
        assert first.requires_grad
        rows = [torch.autograd.grad(entry, leaf, retain_graph=True)[0] for entry in first.reshape(-1)]
        twice = torch.stack(rows).reshape(leaf.shape + leaf.shape)
        assert twice.isfinite().all()
        # Through the formulas of iterated maps themselves, eight digits are left.
        assert close(torch.func.hessian(loss)(arguments[0]), twice, 1e-8)

    @every_differentiable_map
    def test_inference_and_inner_nodes(self, one: Case) -> None:
        arguments = one.sample((2,))
        with torch.inference_mode():
            inferred = one.function(*arguments)
        leaf = arguments[0].clone().requires_grad_()
        inner = one.function(leaf * 1.0, *arguments[1:])
        assert torch.equal(inferred, inner) or close(inferred, inner)
        inner.sum().backward()
        assert leaf.grad is not None
        frozen = one.function(*arguments)
        assert not frozen.requires_grad


def flat(direction: Tensor, result: Tensor) -> Tensor:
    """(batch, 1, ..., m): the tangent of an argument against the axes of a Jacobian."""
    return direction.reshape(direction.shape[0], *[1] * (result.ndim - 1), -1)


class TestWithoutData:
    @every_map
    def test_meta_and_fake_tensors(self, one: Case) -> None:
        arguments = one.sample((3,), torch.float32)
        result = one.function(*arguments)
        meta = one.function(*(x.to("meta") for x in arguments))
        assert (meta.shape, meta.dtype, meta.device.type) == (result.shape, result.dtype, "meta")
        with FakeTensorMode() as mode:
            fake = one.function(*(mode.from_tensor(x) for x in arguments))
        assert (fake.shape, fake.dtype, fake.device) == (result.shape, result.dtype, result.device)


class TestCompilers:
    @maps(
        "matrix_to_quaternion", "matrix_to_axis_angle", "geodesic_distance", "rotation_6d_to_matrix",
        "special_procrustes_4", "quaternion_apply", "matrix_to_euler",
        slow=[
            "quaternion_to_matrix", "rotation_5d_to_matrix", "rotation_10d_to_matrix", "special_procrustes",
            "matrix_to_mrp", "so_n_to_matrix", "quaternion_slerp", "so3_left_jacobian", "kabsch",
        ],
    )  # fmt: skip
    def test_one_graph_forward_and_backward(self, one: Case) -> None:
        torch.compiler.reset()
        arguments = one.sample((3,))
        compiled = torch.compile(one.function, fullgraph=True, backend="aot_eager")
        inside = Case(one.name, compiled, one.arguments)
        assert close(compiled(*arguments), one.function(*arguments))
        assert all(close(a, b) for a, b in zip(gradient(inside, arguments), gradient(one, arguments), strict=True))

    @maps(
        "matrix_to_quaternion", "axis_angle_to_matrix", "rotation_6d_to_matrix", slow=["special_procrustes", "kabsch"]
    )
    def test_export_with_any_batch(self, one: Case) -> None:
        program = torch.export.export(
            Module(one.function), tuple(one.sample((4,))), dynamic_shapes=any_batch(one), strict=False
        )
        for rows in (2, 7):
            arguments = one.sample((rows,), seed=rows)
            assert close(program.module()(*arguments), one.function(*arguments))

    @pytest.mark.filterwarnings("ignore")
    @maps(
        "quaternion_to_matrix", "matrix_to_quaternion", "axis_angle_to_matrix", "matrix_to_axis_angle",
        "rotation_6d_to_matrix", "euler_to_matrix", "geodesic_distance",
        slow=["special_procrustes", "rotation_10d_to_matrix"],
    )  # fmt: skip
    def test_onnx(self, one: Case) -> None:
        runtime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        program = torch.onnx.export(
            Module(one.function), tuple(one.sample((4,), torch.float32)),
            dynamic_shapes=any_batch(one), dynamo=True, verbose=False,
        )  # fmt: skip
        session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
        arguments = one.sample((7,), torch.float32, seed=1)
        feeds = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), arguments, strict=True)}
        assert close(torch.from_numpy(session.run(None, feeds)[0]), one.function(*arguments), 3e-6)


class Module(torch.nn.Module):
    """A function as the exporters want it."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.function(*arguments)


def any_batch(one: Case) -> tuple[tuple[dict[int, torch.export.Dim], ...]]:
    """The first axis of every argument is open; one more tuple since the arguments are variadic."""
    batch = torch.export.Dim("batch", min=2, max=1024)
    return (tuple({0: batch} for _ in one.arguments),)
