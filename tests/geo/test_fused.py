from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from rotaware.geo.fused import Map
from rotaware.geo.scalar import formula


@formula
def weighted(a, b, c, s, weight):  # type: ignore[no-untyped-def]
    """Three numbers and one to two."""
    return a * b + weight * s, b * c * s


@formula
def weighted_derivative(a, b, c, s, g, h, weight):  # type: ignore[no-untyped-def]
    return g * b, g * a + h * c * s, h * b * s, weight * g + h * b * c


WEIGHTED = Map(weighted, weighted_derivative, inputs={"vector": (3,), "scale": ()}, output=(2,))


def by_hand(vector: Tensor, scale: Tensor, weight: float) -> Tensor:
    a, b, c = vector.unbind(-1)
    return torch.stack([a * b + weight * scale, b * c * scale], -1)


def test_value_and_gradients(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    vector = torch.randn(*batch, 3, dtype=dtype, generator=generator, requires_grad=True)
    scale = torch.randn(batch, dtype=dtype, generator=generator, requires_grad=True)
    upstream = torch.randn(*batch, 2, dtype=dtype, generator=generator)
    found = WEIGHTED(vector, scale, parameters=(0.5,))
    expected = by_hand(vector, scale, 0.5)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, (vector, scale), upstream),
        torch.autograd.grad(expected, (vector, scale), upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_second_derivatives(generator: torch.Generator) -> None:
    vector = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    scale = torch.randn(4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, s: WEIGHTED(v, s, parameters=(0.5,)), (vector, scale))
    assert torch.autograd.gradgradcheck(lambda v, s: WEIGHTED(v, s, parameters=(0.5,)), (vector, scale))


@pytest.mark.parametrize("transformed", [False, True], ids=["compiled", "expression"])
def test_columns_are_read_and_written_where_asked(transformed: bool, generator: torch.Generator) -> None:
    vector = torch.randn(5, 3, generator=generator, requires_grad=True)
    scale = torch.randn(5, generator=generator)

    def function(v: Tensor, s: Tensor) -> Tensor:
        return WEIGHTED(v, s, load=((2, 0, 1), None), store=(1, 0), parameters=(0.5,))

    found = (torch.vmap(function) if transformed else function)(vector, scale)
    expected = by_hand(vector[:, [2, 0, 1]], scale, 0.5)[:, [1, 0]]
    torch.testing.assert_close(found, expected)
    weight = torch.tensor([1.0, 3.0])
    gradients = [torch.autograd.grad((y * weight).sum(), vector)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_leading_axes_broadcast_and_gradients_are_summed(generator: torch.Generator) -> None:
    vector = torch.randn(4, 1, 3, generator=generator, requires_grad=True)
    scale = torch.randn(5, generator=generator, requires_grad=True)
    found, expected = WEIGHTED(vector, scale, parameters=(0.5,)), by_hand(vector, scale, 0.5)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found.sum(), (vector, scale)),
        torch.autograd.grad(expected.sum(), (vector, scale)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_memory_may_lie_anyhow(generator: torch.Generator) -> None:
    base = torch.randn(3, 10, dtype=torch.complex64, generator=generator)
    views = [base.real.mT, base.conj().imag.mT, base.real.mT[::2], base.real[:, :1].mT.expand(10, 3)]
    for vector in views:
        scale = torch.ones(len(vector))
        torch.testing.assert_close(WEIGHTED(vector, scale, parameters=(1.0,)), by_hand(vector, scale, 1.0))


def test_threads_do_not_change_a_bit(generator: torch.Generator) -> None:
    vector = torch.randn(100001, 3, generator=generator, requires_grad=True)
    scale = torch.randn(100001, generator=generator)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            value = WEIGHTED(vector, scale, parameters=(0.5,))
            results.append((value, torch.autograd.grad(value.sin().sum(), vector)[0]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_block_borders(dtype: torch.dtype, generator: torch.Generator) -> None:
    for count in (0, 1, 63, 64, 65, 128, 129):
        vector = torch.randn(count, 3, dtype=dtype, generator=generator)
        scale = torch.randn(count, dtype=dtype, generator=generator)
        torch.testing.assert_close(WEIGHTED(vector, scale, parameters=(2.0,)), by_hand(vector, scale, 2.0))


def test_one_compiled_function_serves_all_calls() -> None:
    kernel = WEIGHTED._forward_kernel
    WEIGHTED(torch.zeros(2, 3), torch.zeros(2), parameters=(1.0,))
    WEIGHTED(torch.zeros(4, 2, 3), torch.zeros(()), parameters=(2.0,))
    assert WEIGHTED._forward_kernel is kernel
    assert len([s for s in kernel.signatures if "float32" in str(s)]) == 1  # type: ignore[attr-defined]


def test_import_does_not_bring_the_compiler() -> None:
    script = "import sys, rotaware.geo; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bad_arguments() -> None:
    vector, scale = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(ValueError, match=r"vector: expected shape \(..., 3\), got \(2, 4\)"):
        WEIGHTED(torch.zeros(2, 4), scale, parameters=(1.0,))
    with pytest.raises(TypeError, match=r"scale: expected a floating point tensor, got torch.int64"):
        WEIGHTED(vector, scale.long(), parameters=(1.0,))
    with pytest.raises(TypeError, match=r"vector: expected a torch.Tensor, got list"):
        WEIGHTED([1.0, 2.0, 3.0], scale, parameters=(1.0,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"vector, scale: expected one dtype, got torch.float32, torch.float64"):
        WEIGHTED(vector, scale.double(), parameters=(1.0,))
    with pytest.raises(ValueError, match="vector, scale: expected one device, got cpu, meta"):
        WEIGHTED(vector, scale.to("meta"), parameters=(1.0,))
    with pytest.raises(ValueError, match=r"vector, scale: expected leading shapes that broadcast, got \(2,\), \(3,\)"):
        WEIGHTED(vector, torch.zeros(3), parameters=(1.0,))
