"""RoIAlign: the oracles of the specification, a loop over samples, laws, and both ways against each other."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rotaware.kernels.roi_pooling import RoIAlignBackend, pool_rois, roi_align, roi_align_rotated


@pytest.fixture(params=["gather", "grid_sample"])
def backend(request: pytest.FixtureRequest) -> RoIAlignBackend:
    return request.param


def plainly(features: Tensor, roi: Tensor, size: int, scale: float, samples: int) -> Tensor:
    """One box, sample by sample, as the specification 2.9 says."""
    image, cx, cy, w, h, theta = roi.tolist()
    channels, height, width = features.shape[1:]
    out = torch.zeros(channels, size, size, dtype=features.dtype)
    cx, cy, w, h = cx * scale - 0.5, cy * scale - 0.5, w * scale, h * scale
    for row in range(size):
        for column in range(size):
            for sy in range(samples):
                for sx in range(samples):
                    xx = -w / 2 + (column + (sx + 0.5) / samples) * w / size
                    yy = -h / 2 + (row + (sy + 0.5) / samples) * h / size
                    x = cx + xx * math.cos(theta) - yy * math.sin(theta)
                    y = cy + xx * math.sin(theta) + yy * math.cos(theta)
                    if x < -1 or x > width or y < -1 or y > height:
                        continue
                    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
                    x0, y0 = min(int(x), width - 2), min(int(y), height - 2)
                    fx, fy = x - x0, y - y0
                    part = features[int(image), :, y0 : y0 + 2, x0 : x0 + 2]
                    weights = torch.tensor([[(1 - fy) * (1 - fx), (1 - fy) * fx], [fy * (1 - fx), fy * fx]])
                    out[:, row, column] += (part * weights).sum((1, 2)) / samples**2
    return out


def test_oracles_of_the_specification(backend: RoIAlignBackend) -> None:
    small = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
    large = torch.tensor([[1.0, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]]).view(1, 1, 4, 4)
    # The suite turns counter-clockwise.
    for features, centre, side, turn, expected in (
        (small, 0.5, 1, 0, [[1, 1.25], [1.5, 1.75]]),
        (small, 0.5, 1, -math.pi / 2, [[1.5, 1], [1.75, 1.25]]),
        (large, 1.5, 3, 0, [[1.9375, 4.75], [7.5625, 10.375]]),
        (large, 1.5, 3, -math.pi / 2, [[7.5625, 1.9375], [10.375, 4.75]]),
    ):
        found = roi_align_rotated(features, torch.tensor([[0, centre, centre, side, side, turn]]), 2, backend=backend)
        np.testing.assert_allclose(found[0, 0], expected, atol=1e-5)
        if turn == 0:
            hull = torch.tensor([[0, centre - side / 2, centre - side / 2, centre + side / 2, centre + side / 2]])
            np.testing.assert_allclose(roi_align(features, hull, 2, backend=backend)[0, 0], expected, atol=1e-5)


def some_rois(count: int, images: int, extent: float) -> Tensor:
    draw = torch.rand(count, 6, generator=torch.Generator().manual_seed(1))
    return torch.stack(
        [(draw[:, 0] * images).floor(), draw[:, 1] * extent * 1.2 - 0.1 * extent, draw[:, 2] * extent,
         draw[:, 3] * extent / 2 + 1, draw[:, 4] * extent / 2 + 1, 7 * draw[:, 5]], dim=1,
    )  # fmt: skip


def as_laid_out(features: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return features.contiguous(memory_format=torch.channels_last)
    return features if layout == "contiguous" else torch.stack([features, features], dim=-1)[..., 0]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_equals_sample_by_sample(samples: int, layout: str, backend: RoIAlignBackend) -> None:
    features = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rois = some_rois(30, 2, 40.0)
    expected = torch.stack([plainly(features, roi, 3, 0.25, samples) for roi in rois])
    assert (expected == 0).any()  # some samples are outside
    found = roi_align_rotated(as_laid_out(features, layout), rois, 3, scale=0.25, samples=samples, backend=backend)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_upright_boxes_average_a_slope_exactly(backend: RoIAlignBackend) -> None:
    x = (torch.arange(16.0).expand(16, 16) + 0.5).view(1, 1, 16, 16)
    found = roi_align_rotated(x, torch.tensor([[0, 8.0, 8.0, 6.0, 4.0, 0.0]]), (2, 3), backend=backend)
    torch.testing.assert_close(found[0, 0], torch.tensor([[6.0, 8, 10], [6, 8, 10]]))


@pytest.mark.parametrize("quarter", range(4))
def test_turning_image_and_box_alike_changes_nothing(quarter: int, backend: RoIAlignBackend) -> None:
    features = torch.randn(1, 4, 24, 24, dtype=torch.float64)
    rois = torch.tensor([[0, 10.0, 13.0, 9.0, 5.0, 0.4], [0, 14.0, 9.0, 4.0, 12.0, -1.1]], dtype=torch.float64)
    found = roi_align_rotated(features, rois, 4, backend=backend)
    # Clockwise on the screen about the middle.
    turned = torch.rot90(features, -quarter, (2, 3))
    arm = rois[:, 1:3] - 12
    cos, sin = round(math.cos(quarter * math.pi / 2)), round(math.sin(quarter * math.pi / 2))
    rois[:, 1] = 12 + cos * arm[:, 0] - sin * arm[:, 1]
    rois[:, 2] = 12 + sin * arm[:, 0] + cos * arm[:, 1]
    rois[:, 5] += quarter * math.pi / 2
    torch.testing.assert_close(roi_align_rotated(turned, rois, 4, backend=backend), found, atol=1e-10, rtol=1e-10)


def test_gradients_reach_the_features(backend: RoIAlignBackend) -> None:
    features = torch.randn(2, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    rois = some_rois(6, 2, 6.0).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: roi_align_rotated(each, rois.detach(), 2, backend=backend), features)
    roi_align_rotated(features, rois, 2, backend=backend).sum().backward()
    assert rois.grad is None


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_both_ways_agree_on_a_pyramid(layout: str) -> None:
    generator = torch.Generator().manual_seed(2)
    levels = [torch.randn(2, 19, 64 // 2**k, 48 // 2**k, generator=generator) for k in range(4)]
    rois = some_rois(60, 2, 240.0)
    rois[:, 3:5] *= torch.logspace(-1, 1, 60)[:, None]
    upstream = torch.randn(60, 19, 3, 5, generator=generator)
    outputs, gradients = [], []
    for backend in ("gather", "grid_sample"):
        leaves = [level.clone().requires_grad_() for level in levels]
        pyramid = [as_laid_out(leaf, layout) for leaf in leaves]
        pooled = pool_rois(pyramid, rois, (3, 5), (4, 8, 16, 32), enlarge=(1.2, 1.4), backend=backend)
        pooled.backward(upstream)
        outputs.append(pooled.detach())
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*outputs, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(*gradients, atol=2e-4, rtol=1e-4)
    assert all(grad.abs().sum() > 0 for grad in gradients[0]), "every level takes part"


def test_equal_to_the_bit_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    features = torch.randn(2, 32, 40, 40, requires_grad=True)
    rois, upstream = some_rois(100, 2, 40.0), torch.randn(100, 32, 7, 7)
    found = []
    for count in (1, 2, 2):
        threads(count)
        pooled = roi_align_rotated(features, rois, 7)
        found.append((pooled, *torch.autograd.grad(pooled, features, upstream)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


# What torch loads for forward-mode differentiation warns of itself.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_derivatives_of_any_kind() -> None:
    features, rois = torch.randn(2, 2, 6, 5, dtype=torch.float64), some_rois(6, 2, 6.0)
    found = roi_align_rotated(features, rois, 2)
    # Linear: the derivative along the features themselves is the function.
    _, along = torch.func.jvp(lambda each: roi_align_rotated(each, rois, 2, backend="gather"), (features,), (features,))
    torch.testing.assert_close(along, found, atol=1e-5, rtol=1e-5)
    mapped = torch.func.vmap(lambda each: roi_align_rotated(each, rois, 2))(torch.stack([features, 2 * features]))
    torch.testing.assert_close(mapped, torch.stack([found, 2 * found]), atol=1e-5, rtol=1e-5)
    assert torch.autograd.gradgradcheck(lambda each: roi_align_rotated(each, rois, 2), features.requires_grad_())


def test_boxes_that_are_not_ordinary(backend: RoIAlignBackend) -> None:
    features = torch.full((1, 2, 6, 7), 3.0, requires_grad=True)
    boxes = torch.tensor([[4.0, 4, 0, 0, 0], [4, 4, 1e-6, 1e-6, 1], [4, 4, -2, 3, 1]])
    rois = torch.nn.functional.pad(boxes, (1, 0))
    torch.testing.assert_close(roi_align_rotated(features, rois, 2, backend=backend), torch.full((3, 2, 2, 2), 3.0))
    boxes = torch.tensor([[4.0, 4, 1e7, 1e7, 1], [math.nan, 4, 3, 3, 0], [4, 4, math.inf, 3, 0], [4, 4, 3, 3, math.nan],
                          [-50, 4, 3, 3, 0], [1e17, 1e18, 1e3, 1e3, 28]])  # fmt: skip
    rois = torch.nn.functional.pad(boxes, (1, 0))
    found = pool_rois([features], rois, 2, (1,), backend=backend)
    assert found.eq(0).all()
    found.sum().backward()
    assert features.grad is not None and features.grad.eq(0).all()
    thin = torch.arange(5.0).view(1, 1, 5, 1)
    found = roi_align_rotated(thin, torch.tensor([[0, 0.5, 2.5, 1e-3, 4, 0]]), (2, 1), backend=backend)
    torch.testing.assert_close(found[0, 0, :, 0], torch.tensor([1.0, 3.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_places_stay_exact_in_half_precision(dtype: torch.dtype, backend: RoIAlignBackend) -> None:
    features = torch.randint(0, 2, (1, 1, 4, 3000), generator=torch.Generator().manual_seed(0)).float()
    rois = torch.tensor([[0, 2801.5, 2.0, 12.0, 2.0, 0.0]])
    expected = roi_align_rotated(features, rois, (1, 12), samples=1, backend=backend)
    with torch.autocast("cpu", dtype=dtype):
        half = features.to(dtype).requires_grad_()
        found = roi_align_rotated(half, rois, (1, 12), samples=1, backend=backend)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=0)
    found.float().sum().backward()
    assert half.grad is not None and half.grad.sum().item() == pytest.approx(12, abs=0.1)


def test_memory_is_bounded_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features, rois = torch.randn(2, 3, 8, 8), some_rois(17, 2, 8.0)
    whole = roi_align_rotated(features, rois, 3, backend="grid_sample")
    monkeypatch.setattr("rotaware.kernels.roi_pooling.HELD", 3 * 36 * 2)
    torch.testing.assert_close(roi_align_rotated(features, rois, 3, backend="grid_sample"), whole)


def test_levels(backend: RoIAlignBackend) -> None:
    # Each level holds its own number, so that what is pooled tells where from.
    pyramid = [torch.full((1, 1, 256 // 2**k, 256 // 2**k), float(k)) for k in range(4)]
    sides = [1.0, 55.9, 111.9, 112.1, 223.0, 225.0, 447.0, 449.0, 5000.0]
    rois = torch.tensor([[0, 512, 512, side, side, 0.3] for side in sides])
    found = pool_rois(pyramid, rois, 1, (4, 8, 16, 32), backend=backend)[:, 0, 0, 0]
    assert found.round().tolist()[:8] == [0, 0, 0, 1, 1, 2, 2, 3]
    enlarged = pool_rois(pyramid, rois[2:3], 1, (4, 8, 16, 32), enlarge=(1.2, 1.4), backend=backend)
    assert enlarged.item() == 1
    assert pool_rois(pyramid, rois[:0], 7, (4, 8, 16, 32), backend=backend).shape == (0, 1, 7, 7)
    with pytest.raises(ValueError, match="one per level"):
        pool_rois(pyramid, rois, 7, (4, 8))
    with pytest.raises(ValueError, match=r"features: expected shape \(1, 1, H, W\)"):
        pool_rois([pyramid[0], torch.zeros(1, 2, 4, 4)], rois, 7, (4, 8))
    with pytest.raises(ValueError, match="one dtype"):
        pool_rois([pyramid[0], pyramid[1].double()], rois, 7, (4, 8))


class Pool(nn.Module):
    """Of a batch of two, and of a pyramid."""

    def forward(self, fine: Tensor, coarse: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        return roi_align_rotated(fine, rois, 3, scale=0.25), pool_rois([fine, coarse], rois, 2, (4, 8))


def test_exports_as_grid_sample() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    inputs = (torch.randn(2, 4, 40, 48), torch.randn(2, 4, 20, 24), some_rois(9, 2, 160.0) * torch.tensor(
        [1, 1, 1, 1.5, 2.5, 1]))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Pool(), inputs, dynamo=True, verbose=False)
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    assert any(node.op_type == "GridSample" for node in program.model.graph)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    found = session.run(
        None, {name.name: each.numpy() for name, each in zip(session.get_inputs(), inputs, strict=True)}
    )
    for ours, theirs in zip(Pool()(*inputs), found, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_errors() -> None:
    features = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"rois: expected shape \(R, 6\)"):
        roi_align_rotated(features, torch.zeros(2, 5), 2)
    with pytest.raises(ValueError, match=r"rois: expected shape \(R, 5\)"):
        roi_align(features, torch.zeros(2, 6), 2)
    with pytest.raises(TypeError, match="rois: expected a floating point"):
        roi_align_rotated(features, torch.zeros(2, 6, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="at least 1"):
        roi_align_rotated(features, torch.zeros(1, 6), 0)
    with pytest.raises(ValueError, match="backend"):
        roi_align_rotated(features, torch.zeros(1, 6), 2, backend="numba")  # type: ignore[arg-type]
    for number in (1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="numbers of images from 0 to 0"):
            roi_align_rotated(features, torch.tensor([[number, 2, 2, 2, 2, 0]]), 2)
