"""The fused Triton kernels against float64 autograd of the definition; without a CUDA device in Triton's interpreter.

Run as a program, this file compiles the kernels for GPUs that need not be there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attention_cases import LAYOUTS, Layout, assert_near, build, check, make_case
from torch import Tensor

from rotaware.kernels import triton_available, triton_launch
from rotaware.kernels.triton_launch import Problem, Tile, candidates, live, padded, static_tile, tuned_tile

triton = pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

from rotaware.kernels import triton_attention  # noqa: E402

# Head widths, neighbor lists and pair features as large as the kernels promise, and heads beyond any use.
LARGE = {"all": Layout(9, 12, 2, 128, 256, 40, pair=64, bias=True), "heads": Layout(5, 6, 1, 3, 300, 600)}
GPU = torch.device("cuda")


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Memory that torch hands out uninitialized holds NaN, so an entry that a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, int], None]:
    """Fix the rows, slots and heads of all programs, as far as a kernel lets them be chosen."""

    def fix(rows: int, slots: int, heads: int) -> None:
        def choose(problem: Problem, run: Callable[[Tile], object]) -> Tile:
            if problem.whole:
                return Tile(rows, problem.slots, 4, problem.heads)
            return Tile(rows, slots, 4, heads)

        monkeypatch.setattr(triton_attention, "choose_tile", choose)

    return fix


@pytest.mark.parametrize("name", LAYOUTS)
def test_results_are_those_of_the_definition(name: str, unwritten_is_nan: None) -> None:
    check(triton_attention, make_case(name).to(DEVICE))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["pair and bias", "wider values", "width 1"])
def test_other_dtypes(name: str, dtype: torch.dtype, unwritten_is_nan: None) -> None:
    check(triton_attention, make_case(name, dtype).to(DEVICE))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_pair_features_and_bias_may_be_wider(dtype: torch.dtype, unwritten_is_nan: None) -> None:
    check(triton_attention, make_case("wide pair", dtype, side_dtype=torch.float32).to(DEVICE))


@pytest.mark.parametrize("name", LARGE)
def test_the_largest_sizes(name: str, unwritten_is_nan: None) -> None:
    check(triton_attention, build(LARGE[name], torch.float32).to(DEVICE))


@pytest.mark.parametrize(
    ("rows", "slots", "heads"),
    [
        pytest.param(16, 16, 1, id="tile"),
        pytest.param(16, 4, 2, id="stream"),
        pytest.param(32, 1, 4, id="one slot at a time"),
        pytest.param(8, 32, 2, id="more slots than there are"),
    ],
)
@pytest.mark.parametrize("name", ["wide pair", "narrower values"])
def test_every_way_to_cut(
    cut: Callable[[int, int, int], None], name: str, rows: int, slots: int, heads: int, unwritten_is_nan: None
) -> None:
    # Three heads: two per program leave a program with one.
    cut(rows, slots, heads)
    check(triton_attention, make_case(name).to(DEVICE))


@pytest.mark.parametrize("rows", [1, 4, 32])
def test_a_program_takes_one_or_several_keys(
    cut: Callable[[int, int, int], None], rows: int, unwritten_is_nan: None
) -> None:
    case = build(Layout(40, 11, 2, 6, 8, 8, pair=3, bias=True), torch.float32).to(DEVICE)
    result = case.forward(triton_attention)
    expected = case.backward(triton_attention, result)
    cut(rows, 4, 2)
    wanted = [False, True, True, False, False, False]
    for found, exact in zip(case.backward(triton_attention, result, wanted)[1:3], expected[1:3], strict=True):
        assert_near(found, exact.double(), 1e-6, "gradient")


def test_a_stream_and_a_tile_agree_on_large_logits(cut: Callable[[int, int, int], None]) -> None:
    # Without the running maximum, exponentials of the stream would overflow.
    case = make_case("33 slots").to(DEVICE)
    case = replace(case, q=case.q * 300)
    cut(32, 64, 3)
    tile = case.forward(triton_attention)
    cut(32, 4, 3)
    for name, found, exact in zip(("out", "z", "lse"), case.forward(triton_attention), tile, strict=True):
        assert_near(found, exact.double(), 1e-5, name)


@pytest.mark.parametrize("name", ["pair and bias", "plain", "no key"])
def test_only_wanted_gradients_are_computed(name: str, unwritten_is_nan: None) -> None:
    case = make_case(name).to(DEVICE)
    result = case.forward(triton_attention)
    everything = case.backward(triton_attention, result)
    for place in range(6):
        wanted = [turn == place for turn in range(6)]
        found = case.backward(triton_attention, result, wanted)
        for wish, one, other in zip(wanted, found, everything, strict=True):
            assert_near(one, (other if wish else other.new_empty(0)).double(), 1e-6, "gradient")


def test_two_runs_are_equal_bit_for_bit() -> None:
    case = make_case("pair and bias").to(DEVICE)
    first, second = (case.forward(triton_attention) for _ in range(2))
    slopes = [case.backward(triton_attention, first) for _ in range(2)]
    for one, other in [*zip(first, second, strict=True), *zip(*slopes, strict=True)]:
        assert torch.equal(one, other)


def test_gradients_of_outputs_may_have_any_strides() -> None:
    case = make_case("pair").to(DEVICE)
    ones = replace(
        case, grad_out=case.q.new_ones(()).expand(case.grad_out.shape), grad_z=case.grad_z.mT.contiguous().mT
    )
    check(triton_attention, ones)


def test_queries_without_neighbors_may_be_nan() -> None:
    case = make_case("pair and bias").to(DEVICE)
    empty = (case.idx < 0).all(1)
    assert empty.any()
    clean = case.backward(triton_attention, case.forward(triton_attention))
    poison = torch.where(empty[:, None, None], torch.nan, 0)
    case = replace(case, q=case.q + poison, u=None if case.u is None else case.u + poison)
    result = case.forward(triton_attention)
    assert all((x[empty] == 0).all() for x in result)
    for one, other in zip(case.backward(triton_attention, result), clean, strict=True):
        assert torch.equal(one, other)


def test_pair_features_of_no_numbers_are_no_pair_term(unwritten_is_nan: None) -> None:
    case = make_case("plain").to(DEVICE)
    m, h = case.q.shape[:2]
    none = replace(case, u=case.q.new_empty(m, h, 0), y=case.q.new_empty(*case.idx.shape, 0))
    result = none.forward(triton_attention)
    for one, other in zip(result, case.forward(triton_attention), strict=True):
        assert torch.equal(one, other)
    shapes = [x.shape for x in none.backward(triton_attention, result)]
    assert shapes[3:] == [(m, h, 0), (*case.idx.shape, 0), (0,)]


def untouched(*shape: int) -> Tensor:
    """A half precision tensor of some gigabytes, of which the machine provides only the pages that are written."""
    try:
        return torch.empty(shape, dtype=torch.float16, device=DEVICE)
    except RuntimeError:
        pytest.skip("no address space for a tensor of 4 GiB")


# The kernels take contiguous tensors and no strides, so only tensors that are that long can show an overflow. Rows of
# 256 numbers pass 2^31 numbers at row 2^23.
FAR = 2**23 + 3
NAMED = torch.tensor([2, FAR - 1, FAR, FAR + 1])


def test_keys_may_lie_beyond_two_to_the_31() -> None:
    generator = torch.Generator().manual_seed(0)
    table, near = untouched(FAR + 2, 1, 256), torch.randn(4, 1, 256, generator=generator).half().to(DEVICE)
    table[NAMED] = near
    q, slope = torch.randn(2, 5, 1, 256, generator=generator).half().to(DEVICE)
    short = torch.randint(0, 4, (5, 3), generator=generator)
    found = []
    for rows, idx in ((table, NAMED[short]), (near, short)):
        inputs = (q, rows, rows, idx.int().to(DEVICE), None, None, None)
        result = triton_attention.forward(*inputs, 0.1)
        unused = idx.new_empty(0).to(DEVICE)
        gradients = triton_attention.backward(
            slope, q.new_empty(5, 1, 0), *inputs, *result, unused, unused, 0.1, [True] + [False] * 5
        )
        found.append((*result, gradients[0]))
    for far, exact in zip(*found, strict=True):
        assert torch.equal(far, exact)


def test_pairs_may_lie_beyond_two_to_the_31() -> None:
    # Queries that key 0 finds in its inverse list: rows of q and of its gradients, and of pair features.
    generator = torch.Generator().manual_seed(0)
    slots = pairs = 16
    table, features = untouched(FAR + 2, 1, 256), untouched(FAR + 2, slots, pairs)
    u, levels = untouched(FAR + 2, 1, pairs), torch.empty(FAR + 2, 1, device=DEVICE)
    tables = {"rows": table, "features": features, "u": u, "levels": levels}
    near = {}
    for name, far in tables.items():
        near[name] = torch.randn(4, *far.shape[1:], generator=generator).to(DEVICE, far.dtype)
        far[NAMED] = near[name]
    key = torch.randn(1, 1, 256, generator=generator).half().to(DEVICE)
    tile = Tile(4, 4, 4, 1)
    found = []
    for queries, x in ((NAMED, tables), (torch.arange(4), near)):
        edge = (queries * slots + torch.tensor([0, 3, 7, 15])).int().to(DEVICE)
        ptr = torch.tensor([0, 4], device=DEVICE)
        sizes = triton_attention.constants(key, key, slots, x["u"], None)
        gradients = torch.empty_like(key), torch.empty_like(key)
        triton_attention.key_kernel[(1,)](
            x["rows"], key, key, x["u"], x["features"], key, x["levels"], x["levels"], x["rows"], x["u"], ptr, edge,
            *gradients, 1, 0.1, 0.0, WANT_K=True, WANT_V=True, **sizes, **triton_attention.options(tile),
        )  # fmt: skip
        found.append(gradients)
    for far, exact in zip(*found, strict=True):
        assert torch.equal(far, exact) and exact.isfinite().all()


def problems(device: torch.device) -> Iterator[Problem]:
    """Problems of all sizes."""
    for kernel in ("forward", "query", "key"):
        for width in (1, 16, 32, 64, 128, 256, 512):
            for slots in (1, 8, 16, 32, 128):
                for itemsize in (2, 4, 8):
                    for pairs in (0, 4, 64):
                        whole = kernel == "query" and pairs > 0
                        yield Problem(kernel, width, pairs, slots, 4, itemsize, whole, 30_000, device)


def test_tiles_fit_registers_and_the_problem() -> None:
    for problem in problems(GPU):
        tile = static_tile(problem)
        assert 1 <= tile.slots <= problem.slots and 1 <= tile.heads <= problem.heads
        assert all(size == padded(size) for size in (tile.rows, tile.slots, tile.warps))
        if problem.whole:
            assert tile.slots == problem.slots and tile.heads == problem.heads
            # Where 16 warps do not hold one row the assembler spills.
            assert live(problem, tile) <= 32 or tile[0:3:2] == (1, 16)
        elif problem.width <= 256:
            assert live(problem, tile) <= 64


def test_candidates_follow_the_register_rule() -> None:
    for problem in problems(GPU):
        usual, *others = candidates(problem)
        assert usual == static_tile(problem) and usual not in others and len(set(others)) == len(others)
        assert len(others) < 200
        for tile in others:
            assert live(problem, tile) <= (32 if problem.whole else 64)
            assert not problem.whole or (tile.slots, tile.heads) == (problem.slots, problem.heads)


def test_tuning_takes_the_fastest_tile_and_remembers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    monkeypatch.setattr(triton_launch, "_measured", {})
    problem = Problem("forward", 64, 4, 16, 4, 4, False, 30_000, GPU)
    best = list(candidates(problem))[5]
    asked = []

    def measure(tile: Tile) -> float:
        asked.append(tile)
        if len(asked) == 2:
            raise OutOfResources(2**20, 2**16, "shared memory")
        return 1.0 if tile == best else 2.0

    assert tuned_tile(problem, measure) == best
    assert asked == list(candidates(problem))
    assert tuned_tile(problem._replace(rows=20_000), measure) == best
    assert len(asked) == len(list(candidates(problem)))
    tuned_tile(problem._replace(rows=3_000), measure)
    assert len(asked) == 2 * len(list(candidates(problem)))


@pytest.mark.parametrize(("variable", "capturing", "tuned"), [("1", False, 1), ("1", True, 0), ("0", False, 0)])
def test_tuning_happens_on_request_only(
    monkeypatch: pytest.MonkeyPatch, variable: str, capturing: bool, tuned: int
) -> None:
    problem = Problem("forward", 64, 4, 16, 4, 4, False, 30_000, GPU)
    calls = []
    monkeypatch.setenv("ROTAWARE_AUTOTUNE", variable)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(triton_launch, "tuned_tile", lambda problem, measure: calls.append(problem))
    triton_launch.choose_tile(problem, lambda tile: None)
    assert len(calls) == tuned
    # The clock of the interpreter says nothing.
    triton_launch.choose_tile(problem._replace(device=torch.device("cpu")), lambda tile: None)
    assert len(calls) == tuned


def test_why_the_kernels_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, meta = torch.device("cpu"), torch.device("meta")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton_available.reason_unavailable(cpu) is None
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "TRITON_INTERPRET=1" in (triton_available.reason_unavailable(cpu) or "")
    assert "meta" in (triton_available.reason_unavailable(meta) or "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert triton_available.reason_unavailable(GPU) == "torch finds no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, fits in (((6, 1), False), ((7, 0), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        reason = triton_available.reason_unavailable(GPU)
        assert reason is None if fits else reason is not None and "7.0" in reason and "6.1" in reason
    monkeypatch.setattr(triton_available, "find_spec", lambda name: None)
    assert triton_available.reason_unavailable(GPU) == "triton is not installed"


def test_looking_for_triton_does_not_import_it() -> None:
    program = (
        "import sys, torch; from rotaware.kernels.triton_available import reason_unavailable as reason;"
        "[reason(torch.device(kind)) for kind in ('cpu', 'cuda')]; sys.exit('triton' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_kernels_compile_for_gpus() -> None:
    search = os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": search}
    done = subprocess.run([sys.executable, "-W", "error", __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 20


def compile_kernels() -> None:
    """Machine code of every kernel for two architectures in float32 and bfloat16; a line for each.

    A gathered row must be read in wide loads, must not be exchanged between threads through shared memory, and nothing
    may be spilled.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    slots = 16
    for capability in (80, 90):
        for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
            q, u, bias = (torch.empty(*shape, dtype=dtype) for shape in ((0, 4, 24), (0, 4, 4), (0, 16, 4)))
            for kind, whole in (
                ("product", False),
                ("forward", False),
                ("query", False),
                ("query", True),
                ("key", False),
            ):
                kernel = getattr(triton_attention, f"{kind}_kernel")
                tile = Tile(64, 1, 4, 1)
                if kind != "product":
                    tile = static_tile(Problem(kind, 32, 4, slots, 4, dtype.itemsize, whole, 1000, GPU))
                values = triton_attention.constants(q, q, slots, u, bias) | triton_attention.options(tile)
                values |= {f"WANT_{which}": True for which in ("Q", "U", "K", "V", "BIAS")} | {"WANT_Y": whole}
                values = {argument: values[argument] for argument in kernel.arg_names if argument in values}
                types = dict.fromkeys(values, "constexpr") | dict.fromkeys("MNR", "i32")
                types |= {"scale_high": "fp32", "scale_low": "fp32", "idx": "*i32", "ptr": "*i64", "edge": "*i32"}
                types |= dict.fromkeys(("lse", "delta", "y", "bias", "grad_y", "grad_bias"), "*fp32")
                signature = {argument: types.get(argument, f"*{name}") for argument in kernel.arg_names}
                aligned = {
                    (place,): [["tt.divisibility", 16]]
                    for place, argument in enumerate(kernel.arg_names)
                    if signature[argument].startswith("*")
                }
                compiled = triton.compile(
                    ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned),
                    target=GPUTarget("cuda", capability, 32),
                    options={"num_warps": tile.warps, "enable_fp_fusion": True},
                )
                assert compiled.asm["cubin"]
                assert "ld.global.v4.b32" in compiled.asm["ptx"], kernel
                exchanged = re.findall(
                    r"ttg.convert_layout %\S+ : tensor<(\S+)x(?:f32|bf16|f16)", compiled.asm["ttgir"]
                )
                assert not [shape for shape in exchanged if re.fullmatch(r"\d+x\d+x32", shape)], (kernel, exchanged)
                with tempfile.TemporaryDirectory() as folder:
                    binary = Path(folder) / "kernel.cubin"
                    binary.write_bytes(compiled.asm["cubin"])
                    used = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True)
                assert "STACK:0 " in used.stdout, used.stdout
                sys.stdout.write(f"{kernel.__name__} {capability} {name}\n")


if __name__ == "__main__":
    compile_kernels()
