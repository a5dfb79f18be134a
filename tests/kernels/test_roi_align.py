"""RoIAlign: the oracles of the specification, a loop over samples, and laws."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rotaware.kernels.roi_align import pool_rois, roi_align_rotated


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


def test_oracles_of_the_specification() -> None:
    small = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
    large = torch.tensor([[1.0, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]]).view(1, 1, 4, 4)
    # The suite turns counter-clockwise.
    for features, centre, side, turn, expected in (
        (small, 0.5, 1, 0, [[1, 1.25], [1.5, 1.75]]),
        (small, 0.5, 1, -math.pi / 2, [[1.5, 1], [1.75, 1.25]]),
        (large, 1.5, 3, 0, [[1.9375, 4.75], [7.5625, 10.375]]),
        (large, 1.5, 3, -math.pi / 2, [[7.5625, 1.9375], [10.375, 4.75]]),
    ):
        found = roi_align_rotated(features, torch.tensor([[0, centre, centre, side, side, turn]]), 2)
        np.testing.assert_allclose(found[0, 0], expected, atol=1e-5)


def some_rois(count: int, images: int, extent: float) -> Tensor:
    draw = torch.rand(count, 6, generator=torch.Generator().manual_seed(1))
    return torch.stack(
        [(draw[:, 0] * images).floor(), draw[:, 1] * extent * 1.2 - 0.1 * extent, draw[:, 2] * extent,
         draw[:, 3] * extent / 2 + 1, draw[:, 4] * extent / 2 + 1, 7 * draw[:, 5]], dim=1,
    )  # fmt: skip


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_equals_sample_by_sample(samples: int, layout: str) -> None:
    features = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        features = torch.stack([features, features], dim=-1)[..., 0]
    rois = some_rois(30, 2, 40.0)
    found = roi_align_rotated(features, rois, 3, scale=0.25, samples=samples)
    expected = torch.stack([plainly(features, roi, 3, 0.25, samples) for roi in rois])
    assert (expected == 0).any()  # some samples are outside
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_upright_boxes_average_a_slope_exactly() -> None:
    x = torch.arange(16.0).expand(16, 16) + 0.5
    found = roi_align_rotated(x.view(1, 1, 16, 16), torch.tensor([[0, 8.0, 8.0, 6.0, 4.0, 0.0]]), (2, 3))
    torch.testing.assert_close(found[0, 0], torch.tensor([[6.0, 8, 10], [6, 8, 10]]))


@pytest.mark.parametrize("quarter", range(4))
def test_turning_image_and_box_alike_changes_nothing(quarter: int) -> None:
    features = torch.randn(1, 4, 24, 24, dtype=torch.float64)
    rois = torch.tensor([[0, 10.0, 13.0, 9.0, 5.0, 0.4], [0, 14.0, 9.0, 4.0, 12.0, -1.1]], dtype=torch.float64)
    found = roi_align_rotated(features, rois, 4)
    # Clockwise on the screen about the middle.
    turned = torch.rot90(features, -quarter, (2, 3))
    arm = rois[:, 1:3] - 12
    cos, sin = round(math.cos(quarter * math.pi / 2)), round(math.sin(quarter * math.pi / 2))
    rois[:, 1] = 12 + cos * arm[:, 0] - sin * arm[:, 1]
    rois[:, 2] = 12 + sin * arm[:, 0] + cos * arm[:, 1]
    rois[:, 5] += quarter * math.pi / 2
    torch.testing.assert_close(roi_align_rotated(turned, rois, 4), found, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_features() -> None:
    features = torch.randn(2, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    rois = some_rois(6, 2, 6.0).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: roi_align_rotated(each, rois.detach(), 2), features)
    roi_align_rotated(features, rois, 2).sum().backward()
    assert rois.grad is None


def test_memory_is_bounded_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features, rois = torch.randn(2, 3, 8, 8), some_rois(17, 2, 8.0)
    whole = roi_align_rotated(features, rois, 3)
    monkeypatch.setattr("rotaware.kernels.roi_align.HELD", 3 * 36 * 2)
    torch.testing.assert_close(roi_align_rotated(features, rois, 3), whole)


def test_levels() -> None:
    # Each level holds its own number, so that what is pooled tells where from.
    pyramid = [torch.full((1, 1, 256 // 2**k, 256 // 2**k), float(k)) for k in range(4)]
    sides = [1.0, 55.9, 111.9, 112.1, 223.0, 225.0, 447.0, 449.0, 5000.0]
    rois = torch.tensor([[0, 512, 512, side, side, 0.3] for side in sides])
    assert pool_rois(pyramid, rois, 1, (4, 8, 16, 32))[:, 0, 0, 0].round().tolist()[:8] == [0, 0, 0, 1, 1, 2, 2, 3]
    enlarged = pool_rois(pyramid, rois[2:3], 1, (4, 8, 16, 32), enlarge=(1.2, 1.4))
    assert enlarged.item() == 1
    assert pool_rois(pyramid, rois[:0], 7, (4, 8, 16, 32)).shape == (0, 1, 7, 7)
    with pytest.raises(ValueError, match="one per level"):
        pool_rois(pyramid, rois, 7, (4, 8))


def test_exports_as_grid_sample() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    class Pool(nn.Module):
        def forward(self, features: Tensor, rois: Tensor) -> Tensor:
            return roi_align_rotated(features, rois, 3, scale=0.5)

    features, rois = torch.randn(1, 4, 10, 12), some_rois(5, 1, 20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Pool(), (features, rois), dynamo=True, verbose=False)
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    assert any(node.op_type == "GridSample" for node in program.model.graph)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(
        None, {name.name: each.numpy() for name, each in zip(session.get_inputs(), (features, rois), strict=True)}
    )
    np.testing.assert_allclose(found, roi_align_rotated(features, rois, 3, scale=0.5), atol=1e-4)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"rois: expected shape \(R, 6\)"):
        roi_align_rotated(torch.zeros(1, 1, 4, 4), torch.zeros(2, 5), 2)
    with pytest.raises(ValueError, match="at least 1"):
        roi_align_rotated(torch.zeros(1, 1, 4, 4), torch.zeros(2, 6), 0)
