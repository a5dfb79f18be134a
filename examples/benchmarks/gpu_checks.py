"""The Triton kernels against float64 autograd of the definition, for `gpu.py`: results, all gradients, equal bits.

Inputs are unit normal, lists have empty slots, an empty row, a row that names one key again and again, and keys that
nobody names; what nobody may read is NaN. Every kernel runs in both variants: all neighbors in one step (T) and steps
of few (S).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rotaware.kernels import reference
from rotaware.kernels.attention import neighborhood_attention
from rotaware.kernels.grid import GridWindow, grid_window
from rotaware.kernels.inverse import inverse_by_sorting, inverse_neighbors
from rotaware.kernels.neighborhood import Neighborhood

Record = dict[str, Any]
NAMES = ("out", "z", "lse", "grad q", "grad k", "grad v", "grad u", "grad y", "grad bias")
# Relative to the norm: results, gradients.
TOLERANCES = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (2e-2, 2e-2), torch.float16: (2e-2, 2e-2)}
VARIANTS = ("T", "S")
# Neighbors (or entries of an inverse list) of a step of variant S.
STEP = 4


class Sizes(NamedTuple):
    """Of one problem."""

    queries: int
    keys: int
    heads: int
    slots: int
    d: int
    dv: int
    pair: int
    bias: bool


SIZES = {
    "RoITr 64": Sizes(1000, 1000, 4, 8, 16, 16, 4, False),
    "RoITr 128": Sizes(500, 2000, 4, 16, 32, 32, 4, False),
    "RoITr 256": Sizes(468, 468, 4, 16, 64, 64, 4, False),
    "plain": Sizes(777, 1234, 4, 32, 32, 32, 0, False),
    "pair and bias": Sizes(300, 200, 3, 12, 24, 24, 3, True),
    "odd widths": Sizes(129, 257, 6, 33, 48, 96, 13, True),
    "one neighbor": Sizes(65, 70, 1, 1, 8, 1, 0, True),
    "one point": Sizes(1, 1, 2, 8, 16, 16, 4, True),
    "many neighbors": Sizes(100, 150, 2, 128, 64, 64, 4, True),
    "wide": Sizes(90, 60, 2, 16, 256, 40, 64, True),
}
TINY_SIZES = {
    "tiny pair and bias": Sizes(37, 29, 2, 8, 24, 16, 4, True),
    "tiny plain": Sizes(20, 33, 1, 12, 16, 16, 0, False),
}
WINDOWS = {
    "1-D": grid_window(300, 7, batch=2),
    "1-D causal, dilated": grid_window(200, 8, dilation=3, causal=True),
    "2-D": grid_window((24, 40), 7),
    "2-D strided, dilated": grid_window((40, 33), (6, 5), dilation=(2, 1), stride=(2, 3)),
    "2-D mixed causal": grid_window((20, 24), (4, 7), causal=(True, False)),
    "3-D": grid_window((8, 10, 12), (3, 5, 3)),
    "3-D causal in time": grid_window((6, 9, 12), (4, 3, 4), stride=(1, 1, 2), causal=(True, False, False)),
}
TINY_WINDOWS = {"tiny 2-D": grid_window((6, 9), (3, 4)), "tiny 3-D": grid_window((4, 4, 5), 3)}
GRID_WIDTHS = ((32, 32), (24, 48))


class Inputs(NamedTuple):
    """Arguments of a backend and gradients of its results."""

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

    @property
    def sources(self) -> tuple[Tensor | None, ...]:
        """What gets a gradient."""
        return self.q, self.k, self.v, self.u, self.y, self.bias


def make_inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Inputs:
    """Random numbers and lists; NaN where nobody may look."""
    generator = torch.Generator().manual_seed(seed)
    m, n, heads, slots = sizes[:4]

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    idx = torch.randint(0, max(1, n - 2), (m, slots), generator=generator, dtype=torch.int32)
    idx[torch.rand(m, slots, generator=generator) < 0.2] = -1
    idx[1:2] = idx[2:3, :1]
    idx[3:4] = -1
    idx = idx.to(device)
    q, k, v = draw(m, heads, sizes.d), draw(n, heads, sizes.d), draw(n, heads, sizes.dv)
    u, y = (draw(m, heads, sizes.pair), draw(m, slots, sizes.pair)) if sizes.pair else (None, None)
    bias = draw(m, slots, heads) if sizes.bias else None
    named = torch.zeros(n, dtype=torch.bool, device=device)
    named[idx[idx >= 0].long()] = True
    for rows in (k, v):
        rows[~named] = torch.nan
    for slot_rows in (y, bias):
        if slot_rows is not None:
            slot_rows[idx < 0] = torch.nan
    return Inputs(q, k, v, idx, u, y, bias, sizes.d**-0.5, draw(m, heads, sizes.dv), draw(m, heads, sizes.pair))


def definition(x: Inputs) -> list[Tensor]:
    """Results and gradients in float64, in the order of NAMES; empty where there is no such input."""
    leaves = [None if source is None else source.detach().double().requires_grad_() for source in x.sources]
    q, k, v, u, y, bias = leaves
    assert q is not None and k is not None and v is not None
    results = reference.attend(q, k, v, x.idx, u, y, bias, x.scale)
    total = (results[0] * x.grad_out.double()).sum() + (results[1] * x.grad_z.double()).sum()
    present = [leaf for leaf in leaves if leaf is not None]
    found = iter(torch.autograd.grad(total, present, materialize_grads=True))
    gradients = [q.new_empty(0) if leaf is None else next(found) for leaf in leaves]
    return [*(result.detach() for result in results), *gradients]


def errors(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype, names: tuple[str, ...] = NAMES) -> Record:
    """Relative errors by name, and what is beyond the tolerance. What should vanish is measured on the scale of one."""
    result: Record = {"errors": {}, "wrong": []}
    for name, x, right in zip(names, found, expected, strict=True):
        if not right.numel() and not x.numel():
            continue
        unit, size = math.sqrt(right.numel()), float(right.norm())
        error = float((x.double() - right).norm()) / (size if size > 1e-6 * unit else unit)
        result["errors"][name] = error
        if not error <= TOLERANCES[dtype]["grad" in name]:
            result["wrong"].append(f"{name} by {error:.2g}")
    return result


def run_twice(call: Callable[[], list[Tensor]]) -> tuple[list[Tensor], bool]:
    """Results, and whether a second run has the same bits."""
    first, second = call(), call()
    return first, all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def record(kernel: str, case: str, dtype: torch.dtype, found: Record, equal_bits: bool) -> Record:
    """One line of the report."""
    passed = not found["wrong"] and equal_bits
    label = str(dtype).removeprefix("torch.")
    return {"kernel": kernel, "case": case, "dtype": label, "passed": passed, "equal_bits": equal_bits} | found


def check_general(case: str, dtype: torch.dtype, device: torch.device) -> Iterator[Record]:
    """Both variants of the kernels for neighbor lists."""
    from rotaware.kernels import triton_attention

    x = make_inputs((SIZES | TINY_SIZES)[case], dtype, device)
    ptr, edge = inverse_by_sorting(x.idx, len(x.k))
    expected = definition(x)
    wanted = [source is not None for source in x.sources]
    usual = triton_attention.choose_tile

    def compute() -> list[Tensor]:
        results = triton_attention.forward(*x[:8])
        inputs = (x.grad_out, x.grad_z, *x[:7], *results, ptr, edge, x.scale)
        return [*results, *triton_attention.backward(*inputs, wanted)]

    for variant in VARIANTS:

        def choose(problem: Any, run: Any, variant: str = variant) -> Any:
            tile = usual(problem, run)
            steps = problem.slots if variant == "T" or problem.whole else min(STEP, problem.slots)
            rows = tile.rows if device.type == "cpu" else max(1, min(tile.rows, 2048 // (steps * problem.width)))
            return tile._replace(slots=steps, rows=rows)

        triton_attention.choose_tile = choose
        try:
            found, equal_bits = run_twice(compute)
        finally:
            triton_attention.choose_tile = usual
        yield record(f"lists, variant {variant}", case, dtype, errors(found, expected, dtype), equal_bits)
    found, equal_bits = run_twice(compute)
    yield record("lists, tile of the table", case, dtype, errors(found, expected, dtype), equal_bits)


def grid_inputs(window: GridWindow, widths: tuple[int, int], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """q, k, v and the gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(window.tokens, 2, width) for width in (widths[0], widths[0], widths[1], widths[1])]
    return [torch.randn(*shape, generator=generator).to(device, dtype) for shape in shapes]


def check_grid(case: str, dtype: torch.dtype, device: torch.device) -> Iterator[Record]:
    """The kernel that shares keys among the queries of a tile."""
    from rotaware.kernels import triton_grid

    window = (WINDOWS | TINY_WINDOWS)[case]
    idx = grid_neighborhood(window, device).idx
    for widths in GRID_WIDTHS[:1] if case in TINY_WINDOWS else GRID_WIDTHS:
        q, k, v, grad = grid_inputs(window, widths, dtype, device)
        scale = widths[0] ** -0.5
        expected = definition(Inputs(q, k, v, idx, None, None, None, scale, grad, grad[..., :0]))

        def compute() -> list[Tensor]:
            out, lse = triton_grid.forward(q, k, v, window, scale)  # noqa: B023
            gradients = triton_grid.backward(grad, q, k, v, window, out, lse, scale, [True] * 3)  # noqa: B023
            return [out, lse, *gradients]

        found, equal_bits = run_twice(compute)
        names = ("out", "lse", "grad q", "grad k", "grad v")
        right = [expected[NAMES.index(name)] for name in names]
        yield record("grid", f"{case}, d = {widths}", dtype, errors(found, right, dtype, names), equal_bits)


def grid_neighborhood(window: GridWindow, device: torch.device | str) -> Neighborhood:
    """The windows as a neighborhood."""
    shape, keys, dilation, stride, causal, batch = window
    return Neighborhood.grid(
        shape, keys, dilation=dilation, stride=stride, causal=causal, batch=batch, device=torch.device(device)
    )


def check_operator(case: str, dtype: torch.dtype, device: torch.device) -> Iterator[Record]:
    """The public operator with Triton behind it, differentiated by autograd, with its own inverse list."""
    sizes = (SIZES | TINY_SIZES)[case]
    x = make_inputs(sizes, dtype, device, seed=1)
    expected = definition(x)
    leaves = [None if source is None else source.detach().requires_grad_() for source in x.sources]
    q, k, v, u, y, bias = leaves
    assert q is not None and k is not None and v is not None
    present = [leaf for leaf in leaves if leaf is not None]
    pair = None if u is None or y is None else (u, y)

    def compute() -> list[Tensor]:
        around = Neighborhood.from_index(x.idx, len(x.k))
        result = neighborhood_attention(q, k, v, around, pair=pair, bias=bias, scale=x.scale, backend="triton")
        out, z = (result, None) if isinstance(result, Tensor) else result
        total = (out * x.grad_out).sum() + (0 if z is None else (z * x.grad_z).sum())
        found = iter(torch.autograd.grad(total, present))
        gradients = [x.q.new_empty(0) if leaf is None else next(found) for leaf in leaves]
        return [out.detach(), x.grad_z[..., :0] if z is None else z.detach(), *gradients]

    found, equal_bits = run_twice(compute)
    names = tuple(name for name in NAMES if name != "lse")
    right = [expected[NAMES.index(name)] for name in names]
    yield record("operator", case, dtype, errors(found, right, dtype, names), equal_bits)


def check_inverse(case: str, dtype: torch.dtype, device: torch.device) -> Iterator[Record]:
    """Inverse lists made on the device against those made on the CPU."""
    idx = make_inputs((SIZES | TINY_SIZES)[case], dtype, device).idx
    keys = (SIZES | TINY_SIZES)[case].keys
    on_device, on_cpu = inverse_neighbors(idx, keys), inverse_neighbors(idx.cpu(), keys)
    same = all(torch.equal(a.cpu(), b) for a, b in zip(on_device, on_cpu, strict=True))
    yield record("inverse list", case, dtype, {"errors": {}, "wrong": [] if same else ["lists differ"]}, True)


def check_large(case: str, dtype: torch.dtype, device: torch.device) -> Iterator[Record]:
    """Rows beyond 2^31 numbers: nine million keys of 256 channels, of which a thousand queries see the last ones."""
    heads, d, keys, queries, slots = 4, 64, 9_000_000, 1_000, 16
    few = 5_000
    generator = torch.Generator(device).manual_seed(0)
    k, v = (torch.zeros(keys, heads, d, dtype=dtype, device=device) for _ in range(2))
    for rows in (k, v):
        rows[-few:] = torch.randn(few, heads, d, generator=generator, device=device).to(dtype)
    q, grad = (torch.randn(queries, heads, d, generator=generator, device=device).to(dtype) for _ in range(2))
    near = torch.randint(0, few, (queries, slots), generator=generator, device=device, dtype=torch.int32)
    small = Inputs(q, k[-few:], v[-few:], near, None, None, None, d**-0.5, grad, grad[..., :0])
    expected = definition(small)
    around = Neighborhood.from_index(near + (keys - few), keys)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = neighborhood_attention(q, k, v, around, backend="triton")
    assert isinstance(out, Tensor)
    gradients = torch.autograd.grad(out, leaves, grad)
    untouched = not bool(gradients[1][:-few].any()) and not bool(gradients[2][:-few].any())
    found = [out.detach(), gradients[0], gradients[1][-few:], gradients[2][-few:]]
    names = ("out", "grad q", "grad k", "grad v")
    right = [expected[NAMES.index(name)] for name in names]
    result = errors(found, right, dtype, names)
    if not untouched:
        result["wrong"].append("gradients of keys that nobody names")
    yield record("operator", case, dtype, result, True)


CHECKS: dict[str, Callable[[str, torch.dtype, torch.device], Iterator[Record]]] = {
    "lists": check_general,
    "grid": check_grid,
    "operator": check_operator,
    "inverse": check_inverse,
    "large": check_large,
}


def all_checks(tiny: bool) -> list[tuple[str, str, str]]:
    """Name of the check, of the case and of the dtype."""
    sizes, windows = (TINY_SIZES, TINY_WINDOWS) if tiny else (SIZES, WINDOWS)
    dtypes = ("float32", "bfloat16")
    jobs = [("lists", case, dtype) for case in sizes for dtype in dtypes]
    jobs += [("grid", case, dtype) for case in windows for dtype in dtypes]
    jobs += [("operator", case, dtype) for case in list(sizes)[-2:] for dtype in dtypes]
    jobs += [("inverse", case, "float32") for case in sizes]
    return jobs if tiny else [*jobs, ("large", "nine million keys", "bfloat16")]


def run_check(job: tuple[str, str, str], device: str) -> list[Record]:
    """One check; what it raises becomes a record that has not passed."""
    check, case, dtype = job
    found: list[Record] = []
    try:
        for result in CHECKS[check](case, getattr(torch, dtype), torch.device(device)):
            found.append(result)
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        found.append({"kernel": check, "case": case, "dtype": dtype, "passed": False, "wrong": [text]})
    return found
