"""Every tile of the Triton kernels, timed, for `gpu.py --tune`: variants T and S, rows, warps and heads of a program.

Kernels are compiled by several processes first, each a share of the tiles; one process then times them one by one. The
same processes compile what other parts of `gpu.py` need; all of it is found again on disk.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from attention_cases import (
    COMPILED_EDGES,
    HEADS,
    OURS,
    WAYS,
    Layer,
    Way,
    backward_call,
    compiled_way,
    difference,
    everything,
    forward_call,
    fused,
    make_operands,
)
from attention_report import Record
from gpu_times import Clock, failure, flex_way

from rotaware.kernels.grid import GridWindow
from rotaware.kernels.neighborhood import Neighborhood

ROUNDS = 7
# Also on a CPU, in the interpreter.
TRITON = Way(partial(fused, backend="triton"), WAYS[OURS].edges)
GRID_KERNELS = ("forward", "query", "key")


def random_lists(layer: Layer, device: torch.device) -> Neighborhood:
    """A neighborhood that costs nothing to make: enough to compile kernels for."""
    generator = torch.Generator().manual_seed(0)
    idx = torch.randint(layer.keys, (layer.queries, layer.slots), generator=generator, dtype=torch.int32)
    return Neighborhood.from_index(idx.to(device), layer.keys)


def warm_layer(layer: Layer, dtype: str, device: str) -> None:
    """Compile, and so keep on disk, what a layer needs."""
    torch.set_num_threads(1)
    everything(TRITON, make_operands(layer, random_lists(layer, torch.device(device)), getattr(torch, dtype)))


def warm_compiled(layer: Layer, dtype: str, device: str) -> None:
    """The same for the definition under `torch.compile`."""
    _one_thread()
    run = compiled_way()
    o = make_operands(layer, random_lists(layer, torch.device(device)), getattr(torch, dtype))
    forward_call(Way(run, COMPILED_EDGES), o)()
    backward_call(Way(run, COMPILED_EDGES), o)()


def warm_flex(window: GridWindow, width: int, dtype: str, device: str) -> None:
    """The same for FlexAttention."""
    _one_thread()
    run = flex_way(window, torch.device(device))
    shape = (window.tokens, HEADS, width)
    q, k, v = (torch.zeros(shape, device=device, dtype=getattr(torch, dtype), requires_grad=True) for _ in range(3))
    with torch.no_grad():
        run(q, k, v)
    run(q, k, v).sum().backward()


def _one_thread() -> None:
    """As many processes as cores compile; none may start more."""
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"


def warm_tiles(layer: Layer, dtype: str, device: str, share: int, shares: int) -> None:
    """Compile every `shares`-th tile of a layer's kernels."""
    torch.set_num_threads(1)
    around = random_lists(layer, torch.device(device))
    list(sweep_layer(layer, around, getattr(torch, dtype), None, share, shares))


def sweep_layer(
    layer: Layer, around: Neighborhood, dtype: torch.dtype, clock: Clock | None, share: int = 0, shares: int = 1
) -> Iterator[Record]:
    """Times of all tiles of a layer's forward, query and key kernel; without a clock they are only run once.

    When the time is up, of those that were reached, the static one first.
    """
    from rotaware.kernels import triton_attention, triton_launch

    usual = triton_attention.choose_tile
    best: dict[str, Any] = {}
    found: list[Record] = []

    def choose(problem: Any, run: Any) -> Any:
        static = triton_launch.static_tile(problem)
        if problem.kernel in best:
            return best[problem.kernel]
        times: dict[Any, float] = {}
        for tile in list(triton_launch.candidates(problem))[share::shares]:
            if times and clock is not None and clock.is_late():
                break
            try:
                run(tile)
                if clock is not None:
                    times[tile] = clock.best(partial(run, tile), ROUNDS)
            except Exception as error:
                # Some tiles need more registers or shared memory than there are.
                if "OutOfResources" not in failure(error):
                    raise
        if clock is not None:
            best[problem.kernel] = min(times, key=times.__getitem__)
            found.append(
                {
                    "layer": layer.title,
                    "dtype": str(dtype).removeprefix("torch."),
                    "kernel": problem.kernel,
                    "itemsize": problem.itemsize,
                    "width": min(256, max(16, problem.width, problem.pair_width)),
                    "heads": static.heads,
                    "slots": problem.slots,
                    "static": list(static),
                    "static_ms": times.get(static),
                    "best": list(best[problem.kernel]),
                    "best_ms": times[best[problem.kernel]],
                    "times": [[*tile, ms] for tile, ms in times.items()],
                }
            )
        return static

    o = make_operands(layer, around, dtype)
    triton_attention.choose_tile = choose
    try:
        first = everything(TRITON, o)
        if clock is not None:
            error = max(map(difference, everything(TRITON, o), first))
            found = [record | {"difference": error} for record in found]
    finally:
        triton_attention.choose_tile = usual
    yield from found


def best_table(records: list[Record], capability: int) -> list[str]:
    """Lines for `TILES` of `rotaware.kernels.triton_launch`: per width and dtype the tile that loses least overall."""
    lines = []
    for key in sorted({(record["itemsize"], record["width"]) for record in records}):
        tiles = []
        for kernel in ("forward", "query", "key"):
            same = [r for r in records if (r["itemsize"], r["width"]) == key and r["kernel"] == kernel]
            times = [{tuple(tile[:3]): ms for *tile, ms in r["times"] if tile[3] == r["heads"]} for r in same]
            losses: dict[tuple[int, ...], list[float]] = {tile: [] for found in times for tile in found}
            for (rows, slots, warps), lost in losses.items():
                for record, found in zip(same, times, strict=True):
                    ms = found.get((rows, min(slots, record["slots"]), warps))
                    if ms is not None:
                        lost.append(math.log(ms / record["best_ms"]))
            # A tile that one of the layers cannot have is none for all.
            common = {tile: sum(lost) for tile, lost in losses.items() if len(lost) == len(same)}
            tiles.append(str(min(common, key=common.__getitem__)) if common else "None")
        lines.append(f"({capability}, {key[0]}, {key[1]}): ({', '.join(tiles)}),")
    return lines


def grid_tilings() -> list[tuple[int, int, int, int]]:
    """Lanes, chunk, warps and stages."""
    return list(itertools.product((16, 32, 64), (16, 32, 64, 128), (4, 8), (1, 2, 3)))


def warm_grid(window: GridWindow, width: int, dtype: str, device: str, share: int, shares: int) -> None:
    """Compile every `shares`-th tiling of a grid's kernels."""
    torch.set_num_threads(1)
    list(sweep_grid(window, width, getattr(torch, dtype), torch.device(device), None, share, shares))


def sweep_grid(
    window: GridWindow,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    clock: Clock | None,
    share: int = 0,
    shares: int = 1,
) -> Iterator[Record]:
    """Times of all tilings of the three kernels for grids; the key and query kernels with what goes before them."""
    from rotaware.kernels import triton_grid

    q, k, v, grad = (torch.randn(window.tokens, HEADS, width, device=device).to(dtype) for _ in range(4))
    scale = width**-0.5
    out, lse = triton_grid.forward(q, k, v, window, scale)
    tables = triton_grid.TILINGS
    key = (dtype.itemsize, max(16, 1 << (width - 1).bit_length()))
    usual = tables[key]
    for kernel, name in enumerate(GRID_KERNELS):
        wanted = [name == "query", name == "key", name == "key"]

        def run(wanted: list[bool] = wanted) -> Any:
            if not any(wanted):
                return triton_grid.forward(q, k, v, window, scale)
            return triton_grid.backward(grad, q, k, v, window, out, lse, scale, wanted)

        times: dict[tuple[int, ...], float] = {}
        for tiling in [tuple(usual[kernel]), *grid_tilings()][share::shares]:
            if times and clock is not None and clock.is_late():
                break
            forward, query, key_side = (triton_grid.Tiling(*tiling) if i == kernel else usual[i] for i in range(3))
            tables[key] = (forward, query, key_side)
            try:
                run()
                if clock is not None:
                    times[tiling] = clock.best(run, ROUNDS)
            except Exception as error:
                if "OutOfResources" not in failure(error):
                    raise
            finally:
                tables[key] = usual
        if clock is not None:
            best = min(times, key=times.__getitem__)
            yield {
                "grid": list(window.shape),
                "width": width,
                "dtype": str(dtype).removeprefix("torch."),
                "kernel": name,
                "static": list(usual[kernel]),
                "static_ms": times.get(tuple(usual[kernel])),
                "best": list(best),
                "best_ms": times[best],
                "times": [[*tiling, ms] for tiling, ms in times.items()],
            }
