"""Conversion by name: every pair of representations, through either hub, gives what the named functions give."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from rotaware.geo.continuous import matrix_to_rotation_6d
from rotaware.geo.convert import ALIASES, MAPS, convert
from rotaware.geo.euler import matrix_to_euler
from rotaware.geo.heads import RotationHead
from rotaware.geo.sampling import random_rotations
from rotaware.geo.so3 import axis_angle_to_matrix, matrix_to_quaternion
from rotaware.geo.testing import sample_rotations

NAMES = list(MAPS)
PAIRS = list(itertools.product(NAMES, NAMES))
all_sources = pytest.mark.parametrize("src", NAMES)
SCIPY = {
    "quaternion": lambda r: r.as_quat(canonical=True, scalar_first=True),
    "axis_angle": lambda r: r.as_rotvec(),
    "euler": lambda r: r.as_euler("ZYX"),
    "mrp": lambda r: r.as_mrp(),
    "matrix": lambda r: r.as_matrix(),
}


def options_of(src: str, dst: str) -> dict[str, Any]:
    """What has no default."""
    return {
        f"{end}_convention": "ZYX" for end, name in (("src", src), ("dst", dst)) if name in ("euler", "euler_sincos")
    }


def encoded(matrix: Tensor, name: str) -> Tensor:
    return convert(matrix, "matrix", name, **options_of("matrix", name))


def decoded(x: Tensor, name: str) -> Tensor:
    return convert(x, name, "matrix", **options_of(name, "matrix"))


@pytest.mark.parametrize("name", NAMES)
def test_to_the_matrix_and_back(name: str, kind: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    rotation = sample_rotations(kind, 20, dtype=dtype, generator=generator)
    x = encoded(rotation, name)
    assert x.dtype == dtype
    torch.testing.assert_close(decoded(x, name), rotation, atol=3e-6 if dtype == torch.float32 else 1e-14, rtol=0)


@all_sources
def test_every_pair_agrees_with_the_way_through_the_matrix(src: str, generator: torch.Generator) -> None:
    rotation = random_rotations((3, 4), dtype=torch.float64, generator=generator)
    x = encoded(rotation, src)
    for dst in NAMES:
        result = convert(x, src, dst, **options_of(src, dst))
        torch.testing.assert_close(result, encoded(rotation, dst), atol=1e-10, rtol=1e-10)
        # Float32 in, float32 out; compared as rotations, since some numbers are badly conditioned.
        narrow = convert(x.float(), src, dst, **options_of(src, dst))
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(decoded(narrow.double(), dst), decoded(x.float().double(), src), atol=2e-5, rtol=0)


@pytest.mark.parametrize("src, dst", list(itertools.product(SCIPY, SCIPY)))
def test_against_scipy(src: str, dst: str) -> None:
    rotation = Rotation.random(50, random_state=0)
    x, expected = (torch.from_numpy(SCIPY[name](rotation)) for name in (src, dst))
    torch.testing.assert_close(convert(x, src, dst, **options_of(src, dst)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 1e-7, torch.pi - 1e-7, torch.pi])
@all_sources
def test_special_angles(src: str, angle: float) -> None:
    axes = torch.tensor([[0, 0, 1.0], [0.6, 0, 0.8], [0.6, 0.48, 0.64]], dtype=torch.float64)
    rotation = axis_angle_to_matrix(angle * axes)
    x = encoded(rotation, src)
    for dst in NAMES:
        result = convert(x, src, dst, **options_of(src, dst))
        torch.testing.assert_close(decoded(result, dst), rotation, atol=1e-13, rtol=0)


@pytest.mark.parametrize("src", [name for name in NAMES if name != "matrix"])
def test_the_answer_depends_on_the_rotation_only(src: str, generator: torch.Generator) -> None:
    """Numbers that are not canonical: longer, of another turn, of the other sign."""
    dim = encoded(torch.eye(3), src).shape[-1]
    x = 2 * torch.randn(50, dim, dtype=torch.float64, generator=generator)
    for dst in NAMES:
        result = convert(x, src, dst, **options_of(src, dst))
        torch.testing.assert_close(result, encoded(decoded(x, src), dst), atol=1e-9, rtol=1e-9)


def test_options_reach_their_ends(generator: torch.Generator) -> None:
    rotation = random_rotations(5, generator=generator)
    quat = matrix_to_quaternion(rotation, "xyzw")
    for order in ({"order": "xyzw"}, {"src_order": "xyzw"}):
        torch.testing.assert_close(convert(quat, "quaternion", "matrix", **order), rotation)
        torch.testing.assert_close(convert(quat, "quaternion", "mrp", **order), encoded(rotation, "mrp"))
    torch.testing.assert_close(convert(rotation, "matrix", "quaternion", dst_order="xyzw"), quat)
    real_first = convert(quat, "quaternion", "quaternion", src_order="xyzw")
    torch.testing.assert_close(real_first, matrix_to_quaternion(rotation))
    torch.testing.assert_close(convert(real_first, "quaternion", "quaternion", dst_order="xyzw"), quat)
    rows = convert(quat, "quaternion", "6d", order="xyzw", layout="rows")
    torch.testing.assert_close(rows, matrix_to_rotation_6d(rotation, "rows"))
    torch.testing.assert_close(
        convert(rows, "6d", "two_vector", src_layout="rows", dst_layout="interleaved", method="two_vector"),
        matrix_to_rotation_6d(rotation, "interleaved"),
    )
    degrees = convert(rows, "6d", "euler", layout="rows", convention="zyz", degrees=True)
    torch.testing.assert_close(degrees, matrix_to_euler(rotation, "zyz", degrees=True), atol=1e-3, rtol=1e-4)
    radians = convert(degrees, "euler", "euler", src_convention="zyz", src_degrees=True, dst_convention="XYZ")
    torch.testing.assert_close(radians, matrix_to_euler(rotation, "XYZ"), atol=1e-4, rtol=1e-4)
    raw = torch.randn(5, 6, generator=generator)
    torch.testing.assert_close(convert(raw, "6d", "matrix", method="two_vector"), convert(raw, "two_vector", "matrix"))
    assert not torch.allclose(convert(raw, "6d", "matrix"), convert(raw, "two_vector", "matrix"), atol=1e-3)


def test_aliases() -> None:
    x = torch.tensor([0.1, 0.2, 0.3])
    for alias, name in ALIASES.items():
        assert alias not in MAPS
        torch.testing.assert_close(
            convert(x, "rotation_vector", alias, **options_of("axis_angle", name)),
            convert(x, "axis_angle", name, **options_of("axis_angle", name)),
        )


@pytest.mark.parametrize("name", [name for name in NAMES if name != "matrix"])
def test_heads_speak_the_same_numbers(name: str, generator: torch.Generator) -> None:
    head = RotationHead(name).eval()
    raw = torch.randn(9, head.dim, generator=generator)
    convention = {"convention": "XZY"} if "convention" in head.options else {}
    assert torch.equal(convert(raw, name, "matrix", **convention), head(raw))
    assert torch.equal(convert(head(raw), "matrix", name, **convention), head.encode(head(raw)))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@all_sources
def test_half_precision_is_rounded_once(src: str, half: torch.dtype, generator: torch.Generator) -> None:
    # Far from half turns and gimbal lock, where the numbers of some would magnify the error of float32 itself.
    axis = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator), dim=-1)
    x = encoded(axis_angle_to_matrix(axis), src).to(half)
    for dst in NAMES:
        result = convert(x, src, dst, **options_of(src, dst))
        exact = convert(x.double(), src, dst, **options_of(src, dst))
        assert result.dtype == half
        torch.testing.assert_close(result.double(), exact, atol=1e-5, rtol=torch.finfo(half).eps)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_no_half_turn_overflows_half_precision(half: torch.dtype) -> None:
    quat = torch.tensor([0.0, 0.6, 0.0, 0.8], dtype=half)
    for src, x in (("quaternion", quat), ("matrix", convert(quat, "quaternion", "matrix"))):
        gibbs = convert(x, src, "gibbs")
        assert gibbs.isfinite().all() and gibbs.abs().max() > 1e3
        turned = convert(gibbs, "gibbs", "axis_angle")
        expected = torch.pi * torch.tensor([0.6, 0.0, 0.8])
        torch.testing.assert_close(turned.abs().float(), expected, atol=8 * torch.finfo(half).eps, rtol=0)
    assert convert(torch.full((4,), torch.nan, dtype=half), "quaternion", "gibbs").isnan().all()


@pytest.mark.parametrize("src, dst", [("quaternion", "axis_angle"), ("6d", "quaternion"), ("euler_sincos", "10d")])
def test_gradients_batches_and_transforms(src: str, dst: str, generator: torch.Generator) -> None:
    options = options_of(src, dst)
    x = encoded(axis_angle_to_matrix(torch.randn(4, 3, dtype=torch.float64, generator=generator)), src)
    assert torch.autograd.gradcheck(lambda x: convert(x, src, dst, **options), x.clone().requires_grad_())
    torch.testing.assert_close(
        torch.vmap(lambda x: convert(x, src, dst, **options))(x), convert(x, src, dst, **options)
    )
    for shape in ((), (0,), (2, 0)):
        batch = x[0].expand(*shape, x.shape[-1])
        assert convert(batch, src, dst, **options).shape[:-1] == shape


def test_zeros_and_their_gradients(dtype: torch.dtype) -> None:
    for src, dst in PAIRS:
        x = torch.zeros_like(encoded(torch.eye(3, dtype=dtype), src)).requires_grad_()
        result = convert(x, src, dst, **options_of(src, dst))
        if src == "matrix" and dst == "matrix":
            continue
        (gradient,) = torch.autograd.grad(result.sum(), x, allow_unused=True, materialize_grads=True)
        assert result.isfinite().all() and gradient.isfinite().all(), (src, dst)


def test_compiled_as_one_graph(generator: torch.Generator) -> None:
    compiled = torch.compile(convert, fullgraph=True, backend="aot_eager")
    quat = torch.randn(5, 4, generator=generator)
    expected = convert(quat, "quaternion", "axis_angle", order="xyzw")
    torch.testing.assert_close(compiled(quat, "quaternion", "axis_angle", order="xyzw"), expected)


@pytest.mark.parametrize(
    "src, dst, options, error, message",
    [
        ("quatern", "matrix", {}, ValueError, r"^src: expected one of 'matrix', .*, got 'quatern', did you mean 'q"),
        ("quaternion", "9D", {}, ValueError, r"^dst: expected one of .*, got '9D', did you mean '9d'\?"),
        ("quaternion", None, {}, ValueError, r"^dst: expected one of .*, got None"),
        (
            "quaternion",
            "quaternion",
            {"order": "xyzw"},
            TypeError,
            "^order: expected src_order or dst_order, since both",
        ),
        (
            "quaternion",
            "matrix",
            {"oder": "xyzw"},
            TypeError,
            r'^oder: expected an option of "quaternion" -> "matrix" \(',
        ),
        ("quaternion", "matrix", {"dst_order": "xyzw"}, TypeError, r"^dst_order: expected an option of .* \(order\)"),
        ("quaternion", "6d", {"method": "two_vector"}, TypeError, "^method: expected an option of"),
        ("quaternion", "5d", {"layout": "rows"}, TypeError, r"^layout: expected an option of .* \(order\)"),
        ("5d", "9d", {"layout": "rows"}, TypeError, r"^layout: expected an option of .* \(none\)"),
        ("quaternion", "euler", {}, TypeError, "^dst_convention: expected a value, since 'euler' has no default"),
        ("euler", "matrix", {}, TypeError, "^src_convention: expected a value, since 'euler' has no default"),
        ("quaternion", "euler", {"convention": "ZZY"}, ValueError, "^convention: expected three letters"),
        ("quaternion", "matrix", {"order": "zyxw"}, ValueError, "^order: expected one of 'wxyz', 'xyzw', got 'zyxw'"),
        ("quaternion", "mrp", {"order": "zyxw"}, ValueError, "^order: expected one of 'wxyz', 'xyzw', got 'zyxw'"),
        ("quaternion", "quaternion", {"dst_order": "zyxw"}, ValueError, "^order: expected one of 'wxyz', 'xyzw'"),
        ("quaternion", "6d", {"layout": "row"}, ValueError, "^layout: expected one of 'columns', 'rows', 'interl"),
    ],
)
def test_wrong_options(src: Any, dst: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        convert(torch.tensor([1.0, 0.0, 0.0, 0.0]), src, dst, **options)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"^x: expected a floating point tensor, got torch\.int64"):
        convert(torch.zeros(4).long(), "quaternion", "matrix")
    with pytest.raises(TypeError, match=r"^x: expected a torch\.Tensor, got list"):
        convert([1.0, 0.0, 0.0, 0.0], "quaternion", "matrix")  # type: ignore[arg-type]
    for name in NAMES:
        with pytest.raises(ValueError, match=r": expected shape \(\.\.\., .*, got \(2, 7\)"):
            convert(torch.zeros(2, 7), name, "matrix", **options_of(name, "matrix"))
