from __future__ import annotations

import torch

from rotaware.geo.numerics import matmul, safe_norm, safe_sqrt, upcast


def test_half_precision_is_the_only_one_raised() -> None:
    types = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    assert [upcast(torch.zeros(1, dtype=dtype)).dtype for dtype in types] == [torch.float32] * 3 + [torch.float64]


def test_square_root_has_no_infinite_gradient() -> None:
    x = torch.tensor([0.0, 4.0], requires_grad=True)
    root = safe_sqrt(x)
    root.sum().backward()
    assert root.tolist() == [0.0, 2.0]
    assert x.grad is not None and x.grad.tolist() == [0.0, 0.25]
    assert safe_sqrt(torch.tensor(torch.nan)).isnan()


def test_norm_neither_overflows_nor_underflows(dtype: torch.dtype) -> None:
    big = torch.finfo(dtype).max / 8
    x = torch.tensor([[3.0, 4.0], [3 * big, 4 * big], [3 / big, 4 / big], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    norm = safe_norm(x)
    norm.sum().backward()
    torch.testing.assert_close(
        norm.detach() / torch.tensor([1, big, 1 / big, 1], dtype=dtype), 5 * (norm > 0).to(dtype)
    )
    expected = torch.tensor([[0.6, 0.8]] * 3 + [[0.0, 0.0]], dtype=dtype)
    torch.testing.assert_close(x.grad, expected)


def test_norm_second_derivative(generator: torch.Generator) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(safe_norm, x)
    assert torch.autograd.gradgradcheck(safe_norm, x)


def test_product_keeps_its_precision_under_autocast() -> None:
    left = torch.full((1, 1), 1 + 2**-20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (left @ left).dtype == torch.bfloat16
        assert matmul(left, torch.ones(1, 1)).item() == left.item()
