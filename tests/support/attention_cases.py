"""Inputs of neighborhood attention that are hard on a backend, and what float64 autograd of the definition says.

A backend is a module with `forward` and `backward`; `check` holds one against the definition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rotaware.kernels.reference import attend

# Relative to the Frobenius norm of each tensor: outputs, gradients.
TOLERANCES = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (1e-5, 1e-4),
    torch.float16: (2e-2, 2e-2),
    torch.bfloat16: (2e-2, 2e-2),
}
# The inputs that take a gradient, in the order of `wanted`.
NAMES = ("q", "k", "v", "u", "y", "bias")
ALL = (True,) * 6


@dataclass(frozen=True)
class Layout:
    """Sizes of a case and how its neighbor lists are drawn."""

    queries: int
    keys: int
    heads: int
    slots: int
    width: int
    value_width: int
    pair: int = 0
    bias: bool = False
    # "mixed": a quarter of the slots are empty, row 0 has no neighbor, row 1 names one key in every slot, the first
    # key and the last two are named by nobody. "full": no empty slot. "whole cloud": each row names every key, then
    # -1. "hub": every row names key 0 twice.
    lists: str = "mixed"


# Few different head widths on purpose: numba compiles for each combination of them.
LAYOUTS = {
    "plain": Layout(37, 29, 1, 8, 16, 16),
    "pair": Layout(37, 29, 4, 8, 16, 16, pair=4),
    "pair and bias": Layout(37, 29, 4, 16, 16, 16, pair=4, bias=True),
    "bias": Layout(29, 37, 3, 12, 24, 24, bias=True),
    "width 1": Layout(20, 20, 3, 3, 1, 1, pair=3, bias=True),
    "width 8": Layout(19, 33, 4, 12, 8, 8, pair=3),
    "width 64": Layout(18, 23, 4, 16, 64, 64, pair=4),
    "wider values": Layout(21, 18, 3, 8, 8, 96, pair=4, bias=True),
    "narrower values": Layout(21, 18, 1, 8, 48, 1, pair=3, bias=True),
    "one slot": Layout(25, 25, 4, 1, 16, 16, pair=4, bias=True),
    "33 slots": Layout(23, 40, 3, 33, 16, 16, pair=4),
    "wide pair": Layout(22, 26, 3, 12, 24, 16, pair=13, bias=True),
    "full": Layout(24, 24, 4, 16, 16, 16, pair=4, bias=True, lists="full"),
    "small cloud": Layout(9, 5, 4, 12, 16, 16, pair=4, bias=True, lists="whole cloud"),
    "one key": Layout(7, 1, 3, 3, 8, 8, pair=3, bias=True),
    "one point": Layout(1, 1, 4, 8, 16, 16, pair=4, bias=True, lists="whole cloud"),
    "hub": Layout(300, 20, 1, 4, 8, 8, pair=3, lists="hub"),
    "no query": Layout(0, 5, 4, 8, 16, 16, pair=4, bias=True),
    "no key": Layout(5, 0, 4, 8, 8, 96, pair=4, bias=True),
    "no slot": Layout(5, 5, 4, 0, 8, 96, pair=4, bias=True),
    "nothing": Layout(0, 0, 1, 0, 16, 16),
}


@dataclass(frozen=True)
class Case:
    """Arguments of a backend. What nobody may look at holds NaN."""

    q: Tensor
    k: Tensor
    v: Tensor
    idx: Tensor
    u: Tensor | None
    y: Tensor | None
    bias: Tensor | None
    scale: float
    grad_out: Tensor
    grad_z: Tensor
    ptr: Tensor
    edge: Tensor

    def to(self, device: torch.device | str) -> Case:
        """The case on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def map(self, function: Callable[[Tensor], Tensor]) -> Case:
        """The case with each of its tensors mapped."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: function(x) for name, x in values.items() if isinstance(x, Tensor)})

    def forward(self, backend: ModuleType) -> tuple[Tensor, Tensor, Tensor]:
        """out, z and lse of a backend."""
        found: tuple[Tensor, Tensor, Tensor] = backend.forward(
            self.q, self.k, self.v, self.idx, self.u, self.y, self.bias, self.scale
        )
        return found

    def backward(
        self, backend: ModuleType, result: tuple[Tensor, Tensor, Tensor], wanted: Sequence[bool] = ALL
    ) -> list[Tensor]:
        """The six gradients of a backend, given what its `forward` returned."""
        inputs = (self.q, self.k, self.v, self.idx, self.u, self.y, self.bias)
        gradients: list[Tensor] = backend.backward(
            self.grad_out, self.grad_z, *inputs, *result, self.ptr, self.edge, self.scale, list(wanted)
        )
        return gradients

    def has(self) -> list[bool]:
        """For each of `NAMES` whether the case has that input."""
        return [getattr(self, name) is not None for name in NAMES]


@cache
def make_case(
    name: str, dtype: torch.dtype = torch.float32, seed: int = 0, side_dtype: torch.dtype | None = None
) -> Case:
    """The case of that name in `LAYOUTS`, on the CPU; treat its tensors as constants.

    `side_dtype` is that of y and bias, by default `dtype`.
    """
    return build(LAYOUTS[name], dtype, seed, side_dtype)


def build(layout: Layout, dtype: torch.dtype, seed: int = 0, side_dtype: torch.dtype | None = None) -> Case:
    """Unit normal inputs for a layout: the same numbers in every dtype, up to rounding."""
    generator = torch.Generator().manual_seed(seed)
    side_dtype = side_dtype or dtype

    def draw(*shape: int, into: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(into)

    m, n, h, slots = layout.queries, layout.keys, layout.heads, layout.slots
    idx = draw_lists(layout, generator)
    q, k, v = draw(m, h, layout.width), draw(n, h, layout.width), draw(n, h, layout.value_width)
    u = draw(m, h, layout.pair) if layout.pair else None
    y = draw(m, slots, layout.pair, into=side_dtype) if layout.pair else None
    bias = draw(m, slots, h, into=side_dtype) if layout.bias else None
    grad_out, grad_z = draw(m, h, layout.value_width), draw(m, h, layout.pair)
    named = torch.zeros(n, dtype=torch.bool)
    named[idx[idx >= 0].long()] = True
    for table in (k, v):
        table[~named] = torch.nan
    for table in (y, bias):
        if table is not None:
            table[idx < 0] = torch.nan
    return Case(q, k, v, idx, u, y, bias, layout.width**-0.5, grad_out, grad_z, *invert(idx, n))


def draw_lists(layout: Layout, generator: torch.Generator) -> Tensor:
    """(M, K) int32 neighbor lists."""
    m, n, slots = layout.queries, layout.keys, layout.slots
    if n == 0 or slots == 0:
        return torch.full((m, slots), -1, dtype=torch.int32)
    if layout.lists == "whole cloud":
        order = torch.argsort(torch.rand(m, n, generator=generator), dim=1)[:, :slots]
        idx = torch.full((m, slots), -1, dtype=torch.int32)
        idx[:, : order.shape[1]] = order.int()
        return idx
    # Key 0, where a backend may send its empty slots, and the last ones are named by nobody.
    first = 1 if n > 3 and layout.lists != "hub" else 0
    last = max(first, n - 3)
    idx = torch.randint(first, last + 1, (m, slots), generator=generator, dtype=torch.int32)
    if layout.lists == "hub":
        idx[:, :2] = 0
    if layout.lists == "mixed":
        idx[torch.rand(m, slots, generator=generator) < 0.25] = -1
        idx[:1] = -1
        idx[1:2] = last
    return idx


def invert(idx: Tensor, keys: int) -> tuple[Tensor, Tensor]:
    """The inverse list (ptr, edge) of a case, by definition: edges sorted by the key they name, the empty ones last."""
    flat = idx.flatten().long()
    edge = torch.where(flat < 0, keys, flat).argsort(stable=True).int()
    counts = torch.bincount(flat[flat >= 0], minlength=keys)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), edge


def expect(case: Case) -> tuple[tuple[Tensor, Tensor, Tensor], list[Tensor | None]]:
    """(out, z, lse) and the gradients of q, k, v, u, y and bias, by float64 autograd of the definition."""

    def leaf(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.detach().double().requires_grad_()

    leaves = {name: leaf(getattr(case, name)) for name in NAMES}
    q, k, v, u, y, bias = leaves.values()
    assert q is not None and k is not None and v is not None
    out, z, lse = attend(q, k, v, case.idx, u, y, bias, case.scale)
    total = (out * case.grad_out.double()).sum() + (z * case.grad_z.double()).sum()
    present = [x for x in leaves.values() if x is not None]
    gradients = dict(zip(map(id, present), torch.autograd.grad(total, present, materialize_grads=True), strict=True))
    return (out.detach(), z.detach(), lse.detach()), [gradients.get(id(x)) for x in leaves.values()]


def assert_near(found: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    """Equal shapes, and a difference of at most `tolerance` times the norm of what is expected.

    What is zero in exact arithmetic (the softmax of one neighbor is constant) is compared on the scale of the inputs,
    which is one per entry.
    """
    assert found.shape == expected.shape, f"{name}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    assert found.isfinite().all(), f"{name}: {int((~found.isfinite()).sum())} entries are not finite"
    unit = math.sqrt(expected.numel())
    size = float(expected.norm())
    error = float((found.double() - expected).norm())
    bound = tolerance * (size if size > 1e-6 * unit else unit)
    assert error <= bound, f"{name}: error {error:.3g}, allowed {bound:.3g}"


def check(backend: ModuleType | Any, case: Case, tolerances: tuple[float, float] | None = None) -> None:
    """A backend's outputs and gradients, their dtypes and their layout, against the definition."""
    expected, gradients = expect(case.to("cpu"))
    output_tolerance, gradient_tolerance = tolerances or TOLERANCES[case.q.dtype]
    result = case.forward(backend)
    lse_dtype = torch.float64 if case.q.dtype == torch.float64 else torch.float32
    for name, x, dtype, exact in zip(
        ("out", "z", "lse"), result, (case.q.dtype, case.q.dtype, lse_dtype), expected, strict=True
    ):
        assert x.dtype == dtype and x.device == case.q.device and x.is_contiguous(), name
        assert_near(x.cpu(), exact, output_tolerance, name)
    for name, x, exact_gradient in zip(NAMES, case.backward(backend, result), gradients, strict=True):
        given = getattr(case, name)
        if exact_gradient is None:
            assert x.numel() == 0, f"gradient of the absent {name}"
            continue
        assert x.dtype == given.dtype and x.device == given.device and x.is_contiguous(), f"gradient of {name}"
        assert_near(x.cpu(), exact_gradient, gradient_tolerance, f"gradient of {name}")
