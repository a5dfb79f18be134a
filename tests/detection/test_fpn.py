"""Pyramids against the equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rotaware.detection.fpn import FPN


def features(size: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4 * 2**k, size // 2**k, size // 2**k, generator=generator) for k in range(4)]


@pytest.mark.parametrize("extra", ["pool", "convolution"])
def test_levels(extra: str) -> None:
    levels = features()
    fpn = FPN((4, 8, 16, 32), 6, extra=extra)  # type: ignore[arg-type]
    found = fpn(levels)
    first = 0 if extra == "pool" else 1
    assert fpn.strides == tuple(4 * 2**k for k in range(first, first + 5))
    assert [each.shape[-1] for each in found] == [256 // stride for stride in fpn.strides]
    top = fpn.lateral[-1](levels[3])
    torch.testing.assert_close(found[3 - first], fpn.output[-1](top))
    below = fpn.lateral[-2](levels[2]) + top.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(found[2 - first], fpn.output[-2](below))
    if extra == "pool":
        assert torch.equal(found[4], found[3][:, :, ::2, ::2])
    else:
        torch.testing.assert_close(found[3], fpn.coarser[0](levels[3]))
        torch.testing.assert_close(found[4], fpn.coarser[1](fpn.coarser[0](levels[3])))


def test_odd_sizes_meet() -> None:
    levels = [torch.randn(1, 4 * 2**k, size, size + 1) for k, size in enumerate((25, 13, 7, 4))]
    assert [tuple(each.shape[2:]) for each in FPN((4, 8, 16, 32), 6)(levels)] == [
        (25, 26), (13, 14), (7, 8), (4, 5), (2, 3),
    ]  # fmt: skip


def test_initial_values_and_errors() -> None:
    fpn = FPN((4, 8, 16, 32), 64)
    bound = (6 / (9 * 64 + 9 * 64)) ** 0.5
    assert 0.95 * bound < fpn.output[0].weight.abs().max() <= bound and fpn.output[0].bias.abs().max() == 0
    assert functional.mse_loss(fpn.lateral[0].weight, torch.zeros(64, 4, 1, 1)) > 0
    with pytest.raises(ValueError, match="extra"):
        FPN((4, 8, 16, 32), extra="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="four stages"):
        FPN((4, 8))
