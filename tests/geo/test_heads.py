"""Heads: each representation keeps what its record says of it, and a network can use it like any other layer."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from rotaware.geo.heads import RotationHead, representations
from rotaware.geo.sampling import random_rotations
from rotaware.geo.so3 import axis_angle_to_matrix, geodesic_distance, matrix_to_axis_angle, rotation_angle

NAMES = list(representations())
RAW_LOSS = [name for name, record in representations().items() if not record.no_raw_loss]
# Every head once, and those with options in another setting as well.
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    ("6d", {"layout": "rows", "method": "two_vector"}),
    ("two_vector", {"layout": "interleaved"}),
    ("quaternion", {"order": "xyzw", "half_space": True}),
    ("euler", {"convention": "zyz"}),
    ("euler_sincos", {"convention": "ZYX"}),
    ("axis_angle", {"max_angle": math.pi}),
    ("9d", {"project": "inference"}),
]
all_settings = pytest.mark.parametrize("name, options", SETTINGS, ids=lambda value: str(value))
all_names = pytest.mark.parametrize("name", NAMES)

ROUND_TRIP = {torch.float64: 2e-14, torch.float32: 3e-6}


def special_rotations(kind: str, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Rotations (64, 3, 3) over the group, close to the identity, or at and close to half turns."""
    axis = torch.nn.functional.normalize(torch.randn(64, 3, dtype=torch.float64, generator=generator), dim=-1)
    axis[:3] = torch.eye(3, dtype=torch.float64)
    angle = {
        "uniform": torch.rand(64, 1, dtype=torch.float64, generator=generator) * math.pi,
        "near_identity": 1e-7 * torch.rand(64, 1, dtype=torch.float64, generator=generator),
        "near_pi": math.pi - 1e-7 * torch.rand(64, 1, dtype=torch.float64, generator=generator).round(),
    }[kind]
    return axis_angle_to_matrix(axis * angle).to(dtype)


def closed_path(axis: Tensor, start: Tensor, steps: int) -> Tensor:
    """A full turn about an axis, through a half turn, from a rotation back to itself: (steps + 1, 3, 3)."""
    angle = torch.linspace(0, 2 * math.pi, steps + 1, dtype=torch.float64)[:, None]
    return axis_angle_to_matrix(angle * axis) @ start


def largest_step(head: RotationHead, steps: int) -> float:
    """Longest move of the code between neighbours on some closed paths of that many steps."""
    axes = torch.cat([torch.eye(3, dtype=torch.float64), torch.tensor([[0.6, 0.48, 0.64]], dtype=torch.float64)])
    starts = torch.stack([torch.eye(3, dtype=torch.float64), axis_angle_to_matrix(axes[3])])
    codes = [head.encode(closed_path(axis, start, steps)) for axis in axes for start in starts]
    return max(float((code[1:] - code[:-1]).norm(dim=-1).max()) for code in codes)


def test_the_list_is_complete() -> None:
    dims = {name: record.dim for name, record in representations().items()}
    assert dims == {
        "9d": 9, "raw_9d": 9, "10d": 10, "two_vector": 6, "6d": 6, "5d": 5, "quaternion": 4, "axis_angle": 3, "mrp": 3,
        "gibbs": 3, "axis_angle_4d": 4, "euler_sincos": 6, "euler": 3,
    }  # fmt: skip
    for record in representations().values():
        assert record.degenerate and record.preimage
        head = RotationHead(record.name)
        assert (head.name, head.dim, head.continuous) == (record.name, record.dim, record.continuous)
        assert head.options == dict(record.options)
        for alias in record.aliases:
            assert RotationHead(alias).name == record.name
    representations().clear()
    assert representations(), "the caller gets a copy"


@all_settings
def test_encode_is_a_right_inverse(
    name: str, options: dict[str, Any], kind: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    head = RotationHead(name, **options).eval()
    rotation = special_rotations(kind, dtype, generator)
    code = head.encode(rotation)
    assert code.shape == (64, head.dim) and code.dtype == dtype
    torch.testing.assert_close(head(code), rotation, atol=ROUND_TRIP[dtype], rtol=0)
    # The canonical code of what was decoded is that code again, up to what lies near gimbal lock and half turns.
    if kind == "uniform" and dtype == torch.float64:
        torch.testing.assert_close(head.encode(head(code)), code, atol=1e-9, rtol=1e-9)


@all_settings
def test_any_numbers_make_a_rotation(
    name: str, options: dict[str, Any], dtype: torch.dtype, generator: torch.Generator
) -> None:
    head = RotationHead(name, **options).eval()
    raw = torch.randn(500, head.dim, dtype=dtype, generator=generator)
    raw[:5] = torch.tensor([0, 1e-30, 1e30, 1, -1], dtype=dtype)[:, None]
    rotation = head(raw).double()
    unit = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    bound = 2e-14 if dtype == torch.float64 else 8e-7
    torch.testing.assert_close(rotation @ rotation.mT, unit, atol=bound, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()


@all_names
def test_continuous_is_what_the_record_says(name: str) -> None:
    head = RotationHead(name)
    coarse, fine = largest_step(head, 400), largest_step(head, 4000)
    if head.continuous:
        # Ten times as many steps, each a tenth as long: a path without a jump.
        assert fine == pytest.approx(coarse / 10, rel=0.05)
    else:
        assert fine > 0.5 and fine > 0.9 * coarse


@pytest.mark.parametrize("name", ["quaternion", "axis_angle", "mrp", "gibbs", "axis_angle_4d"])
def test_where_the_discontinuous_ones_jump(name: str) -> None:
    head = RotationHead(name)
    path = closed_path(torch.tensor([0.6, 0.48, 0.64], dtype=torch.float64), torch.eye(3, dtype=torch.float64), 401)
    moves = (head.encode(path)[1:] - head.encode(path)[:-1]).norm(dim=-1)
    # Between the steps 200 and 201 lies the half turn.
    assert int(moves.argmax()) == 200


@all_settings
def test_losses_and_their_gradients_are_finite(
    name: str, options: dict[str, Any], dtype: torch.dtype, generator: torch.Generator
) -> None:
    head = RotationHead(name, **options).eval()
    kinds = ("uniform", "near_identity", "near_pi")
    target = torch.cat([special_rotations(kind, dtype, generator) for kind in kinds])
    code, zeros = head.encode(target), torch.zeros(len(target), head.dim, dtype=dtype)
    allowed = name in RAW_LOSS or "half_space" in options
    for kind in ("chordal", "geodesic", "raw") if allowed else ("chordal", "geodesic"):
        for numbers in (code, zeros, torch.randn(zeros.shape, dtype=dtype, generator=generator)):
            raw = numbers.clone().requires_grad_()
            loss = head.loss(raw, target, kind=kind)  # type: ignore[arg-type]
            (gradient,) = torch.autograd.grad(loss, raw, create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), raw, allow_unused=True, materialize_grads=True)
            assert loss.shape == () and loss.dtype == dtype and loss.isfinite()
            assert gradient.isfinite().all() and second.isfinite().all()
            if numbers is code:
                assert loss.detach() == pytest.approx(0, abs=5e-6 if dtype == torch.float32 else 5e-13)


@all_names
def test_losses_are_what_they_are_called(name: str, generator: torch.Generator) -> None:
    head = RotationHead(name).eval()
    target = random_rotations((4, 5), dtype=torch.float64, generator=generator)
    raw = torch.randn(4, 5, head.dim, dtype=torch.float64, generator=generator)
    angle = geodesic_distance(head(raw), target)
    torch.testing.assert_close(head.loss(raw, target, "geodesic", "none"), angle)
    torch.testing.assert_close(head.loss(raw, target, "geodesic", "sum"), angle.sum())
    torch.testing.assert_close(head.loss(raw, target, "geodesic"), angle.mean())
    torch.testing.assert_close(head.loss(raw, target, reduction="none"), 8 * (angle / 2).sin().square())
    torch.testing.assert_close(head.loss(raw, target), 9 * nn.functional.mse_loss(head(raw), target))
    if name in RAW_LOSS:
        torch.testing.assert_close(head.loss(raw, target, "raw"), nn.functional.mse_loss(raw, head.encode(target)))
        torch.testing.assert_close(
            head.loss(raw, target[0], "raw", "none"), (raw - head.encode(target[0])).square().mean(-1)
        )


@pytest.mark.parametrize("name", [name for name in NAMES if name not in RAW_LOSS])
def test_a_raw_loss_without_meaning_is_refused(name: str) -> None:
    head = RotationHead(name)
    with pytest.raises(ValueError, match=rf"^kind: expected 'chordal' or 'geodesic' for '{name}', got 'raw': "):
        head.loss(torch.ones(head.dim), torch.eye(3), "raw")


def test_half_space_allows_the_raw_loss_of_quaternions() -> None:
    head = RotationHead("quaternion", half_space=True)
    turn = axis_angle_to_matrix(torch.tensor([0.0, 0.0, 1.0]))
    assert head.loss(head.encode(turn), turn, "raw") == 0
    assert head.loss(-head.encode(turn), turn, "raw") == pytest.approx(1)
    assert head.loss(-head.encode(turn), turn) == pytest.approx(0, abs=1e-6)


def test_noise_in_the_numbers_reaches_the_rotation_in_the_known_order(generator: torch.Generator) -> None:
    """Squared chordal error over the variance of the noise: 3 for 9D, 5 for two vectors, 6 for 6D."""
    rotation = random_rotations(100_000, dtype=torch.float64, generator=generator)
    noise = 0.01
    error = {}
    for name in ("9d", "two_vector", "6d", "5d"):
        head = RotationHead(name)
        code = head.encode(rotation)
        moved = head(code + noise * torch.randn(code.shape, dtype=torch.float64, generator=generator))
        error[name] = float((moved - rotation).square().sum((-2, -1)).mean()) / noise**2
    assert error["9d"] == pytest.approx(3, abs=0.05)
    assert error["two_vector"] == pytest.approx(5, abs=0.05)
    assert error["6d"] == pytest.approx(6, abs=0.05)
    assert error["5d"] > 6.5


def test_raw_numbers_in_training_projected_in_evaluation(dtype: torch.dtype, generator: torch.Generator) -> None:
    head, raw = RotationHead("raw_9d"), torch.randn(7, 9, dtype=dtype, generator=generator)
    target = random_rotations(7, dtype=dtype, generator=generator)
    assert head.training and head.project == "inference"
    assert torch.equal(head(raw), raw.unflatten(-1, (3, 3)))
    torch.testing.assert_close(head.loss(raw, target), 9 * nn.functional.mse_loss(raw, target.flatten(-2)))
    torch.testing.assert_close(head.loss(raw, target, "raw"), nn.functional.mse_loss(raw, target.flatten(-2)))
    with pytest.raises(ValueError, match=r"^kind: expected 'chordal' or 'raw' while training raw matrices, got 'geod"):
        head.loss(raw, target, "geodesic")
    projecting = RotationHead("9d")
    head.eval()
    assert torch.equal(head(raw), projecting(raw))
    assert torch.equal(head.loss(raw, target, "geodesic"), projecting.loss(raw, target, "geodesic"))
    # A start on raw numbers.
    projecting.project = "inference"
    assert torch.equal(projecting(raw), raw.unflatten(-1, (3, 3)))
    projecting.project = "train"
    assert torch.equal(projecting(raw), head(raw))


@pytest.mark.parametrize("bound", [0.5, 2.0, math.pi])
def test_bounded_angles(bound: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    head = RotationHead("axis_angle", max_angle=bound)
    axis = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64, generator=generator), dim=-1)
    length = torch.logspace(-30, 30, 200, dtype=torch.float64)[:, None]
    turned = matrix_to_axis_angle(head((axis * length).to(dtype)).double())
    expected = axis * bound * (length / bound).tanh()
    if bound == math.pi:
        turned = turned * torch.where((turned * expected).sum(-1, keepdim=True) < 0, -1, 1)
    torch.testing.assert_close(turned, expected, atol=2e-6 if dtype == torch.float32 else 1e-13, rtol=0)
    # An angle beyond the bound becomes the bound, about the same axis.
    beyond = axis_angle_to_matrix((axis * (bound + 0.1)).to(dtype)) if bound < 3 else torch.eye(3, dtype=dtype)
    nearest = axis_angle_to_matrix((axis * bound).to(dtype)) if bound < 3 else beyond
    torch.testing.assert_close(head(head.encode(beyond)), nearest, atol=3e-6, rtol=0)


@pytest.mark.parametrize("bound", [1.0, math.pi])
def test_derivatives_of_the_bound(bound: float) -> None:
    head = RotationHead("axis_angle", max_angle=bound)
    direction = torch.tensor([0.6, 0.48, 0.64], dtype=torch.float64)
    for length in (0.0, 1e-7, 0.0999 * bound, 0.1001 * bound, 1.0, 5.0):
        raw = (length * direction).requires_grad_()
        assert gradcheck(head, (raw,))
        assert gradgradcheck(head, (raw,))
    for angle in (1e-7, 0.0999 * bound, 0.1001 * bound, 0.9 * bound):
        vector = (angle * direction).requires_grad_()
        assert gradcheck(lambda v: head.encode(axis_angle_to_matrix(v)), (vector,))
    for length in (0.0, 1e-30, 1e-7, 1e30):
        raw = (length * direction).float().requires_grad_()
        (gradient,) = torch.autograd.grad(head(raw)[0, 1], raw, create_graph=True)
        (second,) = torch.autograd.grad(gradient.sum(), raw)
        assert gradient.isfinite().all() and second.isfinite().all()


@all_names
def test_shapes_and_dtypes(name: str, batch: tuple[int, ...], generator: torch.Generator) -> None:
    head = RotationHead(name).eval()
    for shape in (batch, (0,), (2, 0)):
        raw = torch.randn(*shape, head.dim, generator=generator)
        assert head(raw).shape == (*shape, 3, 3)
        assert head.encode(head(raw)).shape == (*shape, head.dim)
        assert head.loss(raw, head(raw), reduction="none").shape == shape
    raw = torch.randn(20, head.dim, generator=generator)
    for half in (torch.float16, torch.bfloat16):
        rotation = head(raw.to(half))
        exact = head(raw.to(half).double())
        assert rotation.dtype == half
        torch.testing.assert_close(rotation.double(), exact, atol=torch.finfo(half).eps, rtol=0)
        assert head.encode(rotation).dtype == half and head.encode(rotation).isfinite().all()
        loss = head.loss(raw.to(half), rotation.flip(0))
        wide = head.loss(raw.to(half).double(), rotation.flip(0).double())
        assert loss.dtype == half
        torch.testing.assert_close(loss.double(), wide, atol=0, rtol=0.51 * torch.finfo(half).eps)
    # As under autocast: the layer before the head puts out half precision, the target is not.
    loss = head.loss(raw.bfloat16(), head(raw))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, head.loss(raw.bfloat16().float(), head(raw)))


@all_settings
def test_nan_stays_where_it_is(name: str, options: dict[str, Any], generator: torch.Generator) -> None:
    head = RotationHead(name, **options).eval()
    raw = torch.randn(3, head.dim, generator=generator)
    whole = head(raw)
    raw[1] = torch.nan
    rotation = head(raw)
    assert rotation[1].isnan().all()
    assert torch.equal(rotation[[0, 2]], whole[[0, 2]])
    code = head.encode(rotation)
    assert code[1].isnan().any() and code[[0, 2]].isfinite().all()


def test_in_a_network() -> None:
    torch.manual_seed(0)
    for name in NAMES:
        head = RotationHead(name)
        network = nn.Sequential(nn.Linear(9, head.dim), head)
        assert list(head.parameters()) == [] and head.state_dict() == {}
        assert set(network.state_dict()) == {"0.weight", "0.bias"}
        x = torch.randn(4, 9)
        assert network(x).shape == (4, 3, 3)
        for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert torch.equal(copied(x), network(x))
        assert network.double()(x.double()).dtype == torch.float64


def test_a_small_network_learns() -> None:
    """From a fixed input to a fixed rotation: each head can be trained, and the loss goes to 0."""
    torch.manual_seed(0)
    target = axis_angle_to_matrix(torch.tensor([0.3, -1.0, 0.5]))
    for name in NAMES:
        head = RotationHead(name)
        raw = nn.Parameter(0.1 * torch.randn(head.dim) + 0.2)
        optimizer = torch.optim.Adam([raw], lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            head.loss(raw, target).backward()
            optimizer.step()
        assert rotation_angle(head.eval()(raw).detach().mT @ target) < 0.02, name


@pytest.mark.parametrize(
    "name, options, text",
    [
        ("6d", {}, "RotationHead('6d', dim=6, layout='columns', method='gram_schmidt')"),
        ("raw_9d", {}, "RotationHead('raw_9d', dim=9, project='inference')"),
        ("rotvec", {"max_angle": 2.0}, "RotationHead('axis_angle', dim=3, max_angle=2.0)"),
        ("5d", {}, "RotationHead('5d', dim=5)"),
    ],
)
def test_repr(name: str, options: dict[str, Any], text: str) -> None:
    assert repr(RotationHead(name, **options)) == text


@pytest.mark.parametrize(
    "name, options, error, message",
    [
        ("6D", {}, ValueError, "^rep: expected one of '9d', 'raw_9d', .*, got '6D', did you mean '6d'"),
        ("quaternoin", {}, ValueError, "got 'quaternoin', did you mean 'quaternion'"),
        ("matrix", {}, ValueError, "^rep: expected one of "),
        (6, {}, ValueError, "^rep: expected one of .*, got 6"),
        (
            "6d",
            {"layuot": "rows"},
            TypeError,
            r"^layuot: expected an option of '6d' \(layout, method\), did you mean 'l",
        ),
        ("5d", {"layout": "rows"}, TypeError, r"^layout: expected an option of '5d' \(none\)"),
        ("6d", {"layout": "row"}, ValueError, "^layout: expected one of 'columns', 'rows', 'interleaved', got 'row'"),
        ("6d", {"method": "qr"}, ValueError, "^method: expected one of 'gram_schmidt', 'two_vector', got 'qr'"),
        ("quaternion", {"order": "real_first"}, ValueError, "^order: expected one of 'wxyz', 'xyzw', got 'real_first'"),
        ("quaternion", {"half_space": 1}, TypeError, "^half_space: expected a bool, got 1"),
        ("euler", {"convention": "XXY"}, ValueError, "^convention: expected three letters .*, got 'XXY'"),
        ("axis_angle", {"max_angle": 4.0}, ValueError, r"^max_angle: expected None or radians in \(0, pi\], got 4.0"),
        ("axis_angle", {"max_angle": 0}, ValueError, "^max_angle: "),
        ("axis_angle", {"max_angle": math.nan}, ValueError, "^max_angle: "),
        ("9d", {"project": "test"}, ValueError, "^project: expected one of 'train', 'inference', got 'test'"),
        ("6d", {"project": "inference"}, ValueError, "^project: expected 'train' for '6d'"),
        ("raw_9d", {"project": "train"}, ValueError, "^project: expected 'inference' for 'raw_9d'"),
    ],
)
def test_wrong_options(name: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RotationHead(name, **options)


def test_wrong_arguments() -> None:
    head, raw = RotationHead("6d"), torch.zeros(4, 6)
    with pytest.raises(ValueError, match=r"^raw: expected shape \(..., 6\), got \(4, 5\)"):
        head(raw[:, :5])
    with pytest.raises(TypeError, match=r"^raw: expected a floating point tensor, got torch\.int64"):
        head(raw.long())
    with pytest.raises(ValueError, match=r"^target: expected shape \(..., 3, 3\), got \(4, 9\)"):
        head.loss(raw, torch.zeros(4, 9))
    with pytest.raises(TypeError, match=r"^target: expected a floating point tensor"):
        head.loss(raw, torch.zeros(4, 3, 3).long())
    with pytest.raises(ValueError, match="expected leading shapes that broadcast"):
        head.loss(raw, torch.zeros(5, 3, 3), "raw")
    with pytest.raises(ValueError, match=r"^kind: expected one of 'chordal', 'geodesic', 'raw', got 'l2'"):
        head.loss(raw, torch.zeros(4, 3, 3), "l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^reduction: expected one of 'mean', 'sum', 'none', got 'max'"):
        head.loss(raw, torch.zeros(4, 3, 3), reduction="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^project: expected 'train' for '6d'"):
        head.project = "inference"


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name, options", [("6d", {}), ("axis_angle", {"max_angle": 2.0}), ("euler_sincos", {})])
def test_vmap_and_forward_mode(name: str, options: dict[str, Any], generator: torch.Generator) -> None:
    head = RotationHead(name, **options)
    raw = torch.randn(5, head.dim, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(torch.vmap(head)(raw), head(raw))
    forward, backward = (torch.vmap(jac(head))(raw) for jac in (torch.func.jacfwd, torch.func.jacrev))
    torch.testing.assert_close(forward, backward)
    target = random_rotations(5, dtype=torch.float64, generator=generator)
    losses = torch.vmap(lambda x, r: head.loss(x, r))(raw, target)
    torch.testing.assert_close(losses, head.loss(raw, target, reduction="none"))


@pytest.mark.parametrize("name, options", [("6d", {}), ("axis_angle", {"max_angle": 2.0})])
def test_compiled_as_one_graph(name: str, options: dict[str, Any]) -> None:
    head, target = RotationHead(name, **options), random_rotations(7)
    raw = torch.randn(7, head.dim, requires_grad=True)
    compiled = torch.compile(head.loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(raw, target), head.loss(raw, target))
    expected, got = (torch.autograd.grad(loss(raw, target), raw)[0] for loss in (head.loss, compiled))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["6d", "5d", "quaternion", "euler_sincos", "axis_angle_4d", "raw_9d"])
def test_exported_for_any_batch(name: str) -> None:
    head = RotationHead(name)
    # The long program of Procrustes is exported together with ONNX below.
    head.train(name == "raw_9d")
    program = torch.export.export(head, (torch.randn(7, head.dim),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    raw = torch.randn(3, head.dim)
    torch.testing.assert_close(program.module()(raw), head(raw), atol=2e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own, of functions that have moved
@pytest.mark.parametrize("name", ["6d", "two_vector", "quaternion", "axis_angle", "9d"])
def test_onnx_runs_it_as_we_do(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    head = RotationHead(name).eval()
    rows = ({0: torch.export.Dim("batch")},)
    path = tmp_path / "head.onnx"
    torch.onnx.export(head, (torch.randn(7, head.dim),), path, dynamo=True, verbose=False, dynamic_shapes=rows)
    session = onnxruntime.InferenceSession(path)
    raw = torch.randn(11, head.dim)
    (rotation,) = session.run(None, {session.get_inputs()[0].name: raw.numpy()})
    torch.testing.assert_close(torch.from_numpy(rotation), head(raw), atol=2e-6, rtol=0)
