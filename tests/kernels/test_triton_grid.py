"""The tiled grid kernels against float64 autograd of the definition; without a CUDA device in Triton's interpreter.

Run as a program, this file compiles the kernels for GPUs that need not be there.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rotaware.kernels import reference
from rotaware.kernels.grid import GridWindow, grid_index, grid_window

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    # Triton reads it as it is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton", reason="triton is not installed")

from rotaware.kernels import triton_grid  # noqa: E402
from rotaware.kernels.triton_grid import Tiling  # noqa: E402

SCALE = 0.3
# In the interpreter time goes with the number of rounds: one tiling with few, one with as many as can be.
COARSE = (Tiling(64, 64, 4, 1),) * 3
FINE = (Tiling(16, 16, 4, 1),) * 3
SHARED_MEMORY = 99 * 1024

WINDOWS = {
    "odd": grid_window(100, 7),
    "even": grid_window((9, 10), (4, 2)),
    "one key": grid_window((5, 9), 1),
    "whole grid": grid_window((7, 9), (7, 9)),
    "dilated": grid_window((11, 10), (3, 2), dilation=(1, 3)),
    "dilated to the brim": grid_window((8, 9), (4, 3), dilation=(2, 3)),
    "strided": grid_window((10, 9), (5, 4), stride=(3, 2)),
    "blocked": grid_window((14, 9), (7, 3), stride=(7, 3)),
    "blocked, ragged": grid_window(70, 12, stride=12),
    "causal": grid_window(90, 6, causal=True),
    "causal and strided": grid_window((10, 9), (4, 5), stride=(3, 5), causal=True),
    "mixed causal": grid_window((11, 9), (3, 4), stride=(1, 2), causal=(True, False)),
    "video": grid_window((5, 6, 5), (3, 2, 5), causal=(True, False, False)),
    "volume": grid_window((4, 7, 6), (2, 3, 3), dilation=(2, 1, 1), stride=(1, 3, 2), causal=(False, True, False)),
    "batch": grid_window((5, 6), 3, batch=3),
}


class Case(NamedTuple):
    """Inputs on the device, and the incoming gradient."""

    window: GridWindow
    q: Tensor
    k: Tensor
    v: Tensor
    grad_out: Tensor


def make_case(
    window: GridWindow, heads: int = 1, d: int = 8, dv: int = 8, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Case:
    """Normal numbers of one dtype."""
    generator = torch.Generator().manual_seed(seed)
    widths = (d, d, dv, dv)
    return Case(window, *(torch.randn(window.tokens, heads, w, generator=generator).to(DEVICE, dtype) for w in widths))


def run(case: Case, wanted: tuple[bool, bool, bool] = (True, True, True)) -> list[Tensor]:
    """Output, logarithm of the sum, and the three gradients."""
    window, q, k, v, grad_out = case
    out, lse = triton_grid.forward(q, k, v, window, SCALE)
    return [out, lse, *triton_grid.backward(grad_out, q, k, v, window, out, lse, SCALE, list(wanted))]


def define(case: Case) -> list[Tensor]:
    """The same in float64."""
    inputs = [tensor.double().requires_grad_() for tensor in (case.q, case.k, case.v)]
    out, _, lse = reference.attend(*inputs, grid_index(case.window, DEVICE), None, None, None, SCALE)
    return [out, lse, *torch.autograd.grad(out, inputs, case.grad_out.double())]


def check(case: Case, forward: float = 1e-5, backward: float = 1e-4) -> None:
    """Every result against float64, relative to its norm or, where it vanishes, to 1."""
    results = run(case)
    for place, (name, found, expected) in enumerate(
        zip(("out", "lse", "dq", "dk", "dv"), results, define(case), strict=True)
    ):
        assert found.shape == expected.shape, name
        assert found.dtype == (torch.float32 if name == "lse" else case.q.dtype), name
        error = (found.double() - expected).norm() / expected.norm().clamp(min=1)
        assert error <= (forward if place < 2 else backward), f"{name}: {error:.1e}"


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Memory that torch hands out uninitialized holds NaN, so an entry that a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def tile_with(monkeypatch: pytest.MonkeyPatch, tilings: tuple[Tiling, ...]) -> None:
    """One tiling for all widths."""
    monkeypatch.setattr(triton_grid, "TILINGS", dict.fromkeys(triton_grid.TILINGS, tilings))


@pytest.mark.parametrize("name", WINDOWS)
def test_results_are_those_of_the_definition(
    name: str, unwritten_is_nan: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile_with(monkeypatch, COARSE)
    check(make_case(WINDOWS[name]))


@pytest.mark.parametrize(
    "window",
    [
        grid_window((6, 5), (4, 3), stride=(2, 3)),
        grid_window((5, 6), (3, 4), causal=(True, False)),
        grid_window((3, 3, 4), (2, 3, 3), stride=(2, 1, 3), causal=(False, True, False)),
    ],
    ids=["strided", "mixed causal", "volume"],
)
def test_small_tiles_and_many_rounds(
    window: GridWindow, unwritten_is_nan: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile_with(monkeypatch, FINE)
    check(make_case(window))


@pytest.mark.parametrize("seed", range(12))
def test_any_window(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tile_with(monkeypatch, COARSE)
    draw = random.Random(seed)
    axes = 1 + seed % 3
    shape = [draw.randint(1, (150, 14, 6)[axes - 1]) for _ in range(axes)]
    dilation = [draw.randint(1, min(2, length)) for length in shape]
    keys = [draw.randint(1, length // gap) for length, gap in zip(shape, dilation, strict=True)]
    stride = [draw.randint(1, window) for window in keys]
    causal = [draw.random() < 0.5 for _ in shape]
    check(make_case(grid_window(shape, keys, dilation, stride, causal), seed=seed))


@pytest.mark.parametrize("widths", [(24, 5), (1, 40), (16, 16), (96, 64), (20, 200)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_any_head_width_and_dtype(dtype: torch.dtype, widths: tuple[int, int], unwritten_is_nan: None) -> None:
    case = make_case(grid_window((4, 5), 3), 2, *widths, dtype)
    tolerances = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (1e-2, 2e-2), torch.float16: (2e-3, 4e-3)}
    check(case, *tolerances[dtype])


def test_large_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    tile_with(monkeypatch, FINE)
    case = make_case(grid_window((6, 7), 3))
    case.q.mul_(300)
    check(case, 1e-4, 1e-3)


def test_two_runs_are_bitwise_equal() -> None:
    case = make_case(grid_window((2, 9), (2, 3)), heads=2, dtype=torch.bfloat16)
    assert all(map(torch.equal, run(case), run(case)))


def test_only_wanted_gradients_are_computed() -> None:
    case = make_case(grid_window(12, 3))
    everything = run(case)[2:]
    for wanted in ((True, False, False), (False, True, False), (False, False, True), (False, False, False)):
        for want, found, expected in zip(wanted, run(case, wanted)[2:], everything, strict=True):
            assert torch.equal(found, expected) if want else found.shape == (0,)


def test_an_incoming_gradient_may_have_any_strides() -> None:
    case = make_case(grid_window(12, 3), heads=2)
    strided = case._replace(grad_out=case.grad_out.transpose(0, 1).contiguous().transpose(0, 1))
    assert not strided.grad_out.is_contiguous()
    assert all(map(torch.equal, run(case), run(strided)))


@pytest.mark.parametrize("heads", [0, 2])
def test_nothing_to_do(heads: int) -> None:
    case = make_case(grid_window((4, 5), 3, batch=0 if heads else 1), heads)
    assert [tuple(result.shape) for result in run(case)] == [
        (n, heads, 8)[: 3 - (i == 1)] for i, n in enumerate([len(case.q)] * 5)
    ]


@pytest.mark.parametrize(
    ("axes", "d", "dv", "dtype", "reason"),
    [
        (1, 32, 32, torch.float32, None),
        (2, 1, 256, torch.bfloat16, None),
        (3, 24, 48, torch.float16, None),
        (4, 32, 32, torch.float32, "axes"),
        (2, 257, 32, torch.float32, "head widths"),
        (2, 32, 0, torch.float32, "head widths"),
        (2, 32, 32, torch.float64, "dtype"),
    ],
)
def test_what_is_supported(axes: int, d: int, dv: int, dtype: torch.dtype, reason: str | None) -> None:
    found = triton_grid.supports(grid_window((4,) * axes, 3), d, dv, dtype)
    assert found is None if reason is None else found is not None and reason in found


@pytest.mark.slow
def test_kernels_compile_for_gpus() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-W", "error", __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12


def compile_kernels() -> None:
    """Machine code of every kernel for 2-D and 3-D, float32 and bfloat16; prints a line for each."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernels = (triton_grid.forward_kernel, triton_grid.query_kernel, triton_grid.key_kernel)
    for which, kernel in enumerate(kernels):
        for axes in (2, 3):
            for size, name, capability in ((4, "fp32", 80), (2, "bf16", 90)):
                tiling = triton_grid.TILINGS[size, 32][which]
                constants = triton_grid.constants(axes, 4, 24, 32, tiling)
                types = {"scale": "fp32", "lse": "*fp32", "delta": "*fp32"} | dict.fromkeys(constants, "constexpr")
                signature = {
                    argument: types.get(argument, "i32" if argument in triton_grid.RUNTIME else f"*{name}")
                    for argument in kernel.arg_names
                }
                compiled = triton.compile(
                    ASTSource(fn=kernel, signature=signature, constexprs=constants),
                    target=GPUTarget("cuda", capability, 32),
                    options={"num_warps": tiling.warps, "num_stages": tiling.stages, "enable_fp_fusion": True},
                )
                assert compiled.asm["cubin"]
                assert compiled.metadata.shared <= SHARED_MEMORY
                sys.stdout.write(f"{kernel.__name__} {axes} {name} {compiled.metadata.shared}\n")


if __name__ == "__main__":
    compile_kernels()
