"""Times, peak memory and bandwidths on a GPU, for `gpu.py`.

Every call is timed with events of the device, from cold caches: before each one a large buffer is overwritten, which
also lets the host run ahead, so that its overhead is not in the time. What a call costs in a loop of calls, overhead of
Python and of launches included, is recorded beside it. Without a device (Triton's interpreter) the same code runs with
the clock of the host, and its times mean nothing.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from attention_cases import (
    HEADS,
    OURS,
    OURS_TORCH,
    TOLERANCES,
    WAYS,
    Layer,
    Module,
    Operands,
    Way,
    backward_call,
    bytes_needed,
    difference,
    everything,
    floor_of,
    forward_call,
)
from attention_report import Record
from gpu_checks import grid_neighborhood
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rotaware.kernels import knn, morton_order
from rotaware.kernels.attention import neighborhood_attention
from rotaware.kernels.grid import GridWindow
from rotaware.kernels.inverse import inverse_neighbors
from rotaware.kernels.neighborhood import Neighborhood

if find_spec("triton") is not None:
    import triton
    import triton.language as tl

    @triton.jit
    def sum_rows_kernel(
        table: tl.tensor, idx: tl.tensor, out: tl.tensor, M: tl.tensor,
        K: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr,
    ) -> None:  # fmt: skip
        """The sum of the K rows that each query names: nothing but gathered reads, in the tiles of our kernels."""
        rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = rows < M
        c = tl.arange(0, C)
        total = tl.zeros((ROWS, C), tl.float32)
        for start in range(0, K, SLOTS):
            slot = start + tl.arange(0, SLOTS)
            near = tl.load(idx + rows * K + slot[:, None], mask=inside, other=0).to(tl.int64)
            total += tl.sum(tl.load(table + (near * C)[:, :, None] + c).to(tl.float32), 0)
        tl.store(out + (rows * C)[:, None] + c, total, mask=inside[:, None])


WARM_UPS, FEWEST, MOST = 2, 3, 50
# Bytes per second that no device overwrites, and how often a buffer is overwritten at most.
FASTEST, MOST_FLUSHES = 8e12, 40
Call = Callable[[], Any]


class Clock:
    """Times calls on one device."""

    def __init__(self, device: torch.device, seconds: float, deadline: float = math.inf) -> None:
        self.device, self.seconds, self.deadline = device, seconds, deadline
        self.real = device.type == "cuda"
        size = min(1 << 30, torch.cuda.get_device_properties(device).total_memory // 16) if self.real else 1 << 10
        # Overwritten as often as takes longer than the host needs to launch what is timed.
        self.flush = torch.empty(size, dtype=torch.int8, device=device)
        self.flushes = 1

    def is_late(self) -> bool:
        """Whether nothing more should be started."""
        return time.monotonic() > self.deadline

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.real:
            torch.cuda.synchronize(self.device)

    def measure(self, call: Call) -> Record:
        """Milliseconds, rounds and peak memory beyond what was allocated; a lack of memory is told, not raised."""
        try:
            return self._measure(call)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return {"needs": "more memory than the device has"}

    def _measure(self, call: Call) -> Record:
        for _ in range(WARM_UPS if self.real else 1):
            call()
        self.synchronize()
        start = time.perf_counter()
        call()
        launched = time.perf_counter() - start
        self.synchronize()
        once = time.perf_counter() - start
        self.flushes = min(MOST_FLUSHES, 1 + int(launched * FASTEST / self.flush.numel()))
        rounds = int(min(MOST, max(FEWEST, self.seconds / max(once, 1e-4)))) if self.real else 1
        start = time.perf_counter()
        for _ in range(rounds):
            call()
        self.synchronize()
        record: Record = {"wall_ms": 1e3 * (time.perf_counter() - start) / rounds, "rounds": rounds}
        times = [self._cold(call) for _ in range(rounds)] if self.real else [1e3 * once]
        record |= {"median_ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}
        if self.real:
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            call()
            record["peak_bytes"] = torch.cuda.max_memory_allocated(self.device) - before
        return record

    def _cold(self, call: Call) -> float:
        """Milliseconds of a call that finds nothing in the caches."""
        for _ in range(self.flushes):
            self.flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def best(self, call: Call, rounds: int) -> float:
        """Milliseconds of the fastest of some calls from cold caches, after one more."""
        call()
        return min(self._cold(call) if self.real else self._host(call) for _ in range(rounds))

    @staticmethod
    def _host(call: Call) -> float:
        """Milliseconds by the clock of the host."""
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    def free_bytes(self) -> float:
        """Memory of the device that is left."""
        if not self.real:
            return 2e9
        torch.cuda.empty_cache()
        return float(torch.cuda.mem_get_info(self.device)[0])


def copy_bandwidth(clock: Clock) -> Record:
    """Bytes read and written per second by a copy that no cache holds."""
    size = 1 << 31 if clock.real else 1 << 16
    source = torch.ones(size // 4, device=clock.device)
    target = torch.empty_like(source)
    record = clock.measure(lambda: target.copy_(source))
    return {"bytes_per_second": 2 * size / (1e-3 * record["min_ms"]), "times": record}


def gather_bandwidth(clock: Clock, channels: int, rows: int, slots: int, idx: Tensor | None = None) -> Record:
    """Bytes of rows read per second by the plain gather kernel, random rows unless a list is given."""
    generator = torch.Generator(clock.device).manual_seed(0)
    table = torch.randn(rows, channels, generator=generator, device=clock.device)
    if idx is None:
        shape = (1 << 18 if clock.real else 128, slots)
        idx = torch.randint(rows, shape, generator=generator, device=clock.device, dtype=torch.int32)
    queries, slots = idx.shape
    out = torch.empty(queries, channels, device=clock.device)
    block, steps = (max(1, 2048 // (8 * channels)), 8) if clock.real else (64, slots)

    def run() -> None:
        grid = (triton.cdiv(queries, block),)
        sum_rows_kernel[grid](table, idx, out, queries, K=slots, C=channels, ROWS=block, SLOTS=steps, num_warps=4)

    run()
    right = difference(out[:100], table[idx[:100].long()].sum(1))
    if not right < 1e-5:
        raise RuntimeError(f"the gather kernel is wrong by {right:.2g}")
    record = clock.measure(run)
    moved = idx.numel() * channels * 4
    return {
        "table_bytes": table.numel() * 4,
        "row_bytes": channels * 4,
        "slots": slots,
        "bytes_per_second": moved / (1e-3 * record["min_ms"]),
        "times": record,
    }


def labels_of(layer: Layer | str, dtype: torch.dtype, order: str) -> Record:
    """What tells the records of a layer from others."""
    title = layer if isinstance(layer, str) else layer.title
    return {"layer": title, "dtype": str(dtype).removeprefix("torch."), "threads": None, "order": order}


def time_layer(
    clock: Clock, o: Operands, ways: dict[str, Way], order: str, bandwidth: float | None
) -> Iterator[Record]:
    """One record per way and pass; a way whose result or gradients differ from ours is not timed."""
    dtype, layer = o.q.dtype, o.layer
    labels = labels_of(layer, dtype, order) | {"edge_bytes": layer.edge_bytes(dtype.itemsize)}
    expected = everything(WAYS[OURS], o)
    for name, way in ways.items():
        error = None
        for backward in (False, True):
            record: Record = {"backward": backward, "way": name}
            need = bytes_needed(way, layer, dtype.itemsize, backward)
            if need > clock.free_bytes():
                yield labels | record | {"needs": f"about {need / 1e9:.0f} GB"}
                continue
            try:
                if backward or error is None:
                    error = _error(way, o, expected, backward)
                if not error <= TOLERANCES[dtype]:
                    yield labels | record | {"failure": f"differs from ours by {error:.2g}"}
                    continue
                record |= clock.measure((backward_call if backward else forward_call)(way, o))
            except torch.cuda.OutOfMemoryError:
                record["needs"] = "more memory than the device has"
            except Exception as problem:
                record["failure"] = failure(problem)
            if "min_ms" in record:
                floor = floor_of(layer, dtype.itemsize, backward)
                record |= {"floor_bytes": floor.compulsory, "uncached_bytes": floor.uncached, "error": error}
                if bandwidth is not None:
                    record["share"] = floor.compulsory / bandwidth / (1e-3 * record["min_ms"])
            yield labels | record


def _error(way: Way, o: Operands, expected: list[Tensor], backward: bool) -> float:
    """Largest relative difference from what we compute."""
    if not backward:
        return difference(forward_call(way, o)(), expected[0])
    return max(map(difference, everything(way, o), expected))


def time_module(clock: Clock, layer: Layer, module: Module, dtype: torch.dtype) -> Iterator[Record]:
    """RoITr's whole layer, folded and as published."""
    labels = labels_of(layer.title.replace(":", " layer:", 1), dtype, "Morton")
    expected: list[Tensor] | None = None
    for name, run in module.run.items():
        found = [run().detach(), *torch.autograd.grad(run(), module.leaves, module.grad)]
        expected = found if expected is None else expected
        error = max(map(difference, found, expected))
        for backward in (False, True):
            record: Record = {"backward": backward, "way": name}
            if error <= TOLERANCES[dtype]:
                record |= clock.measure(_module_call(module, run, backward))
            else:
                record["failure"] = f"differs from ours by {error:.2g}"
            yield labels | record


def _module_call(module: Module, run: Callable[[], Tensor], backward: bool) -> Call:
    def forward() -> Tensor:
        with torch.no_grad():
            return run()

    return (lambda: torch.autograd.grad(run(), module.leaves, module.grad)) if backward else forward


def failure(error: Exception) -> str:
    """One line on what went wrong."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def time_lists(clock: Clock, points: Tensor, slots: int) -> Iterator[Record]:
    """What is built once per cloud: order, neighbors and inverse list, on the device; inverse also on the CPU."""
    device_points = points.to(clock.device)
    idx = Neighborhood.knn(points, slots).idx.to(clock.device)
    calls: dict[str, Call] = {
        "knn": lambda: knn(device_points, slots),
        "morton_order": lambda: morton_order(device_points),
        "inverse list": lambda: inverse_neighbors(idx, len(points)),
        "inverse list, int64 sort": lambda: torch.sort(idx.flatten().long(), stable=True),
    }
    for name, call in calls.items():
        labels = {"operation": name, "points": len(points), "slots": slots}
        try:
            yield labels | clock.measure(call)
        except Exception as problem:
            yield labels | {"failure": failure(problem)}


def window_mask(window: GridWindow) -> Callable[..., Tensor]:
    """Which pairs of tokens see each other, as FlexAttention asks; without dilation, stride and causality."""
    steps = [1]
    for length in reversed(window.shape[1:]):
        steps.insert(0, steps[0] * length)

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        inside = None
        for step, length, width in zip(steps, window.shape, window.window, strict=True):
            left = width // 2
            center = (query // step % length).clamp(left, length - width + left)
            first = center - left
            place = key // step % length
            here = (place >= first) & (place < first + width)
            inside = here if inside is None else inside & here
        assert inside is not None
        return inside

    return mask


def flex_way(window: GridWindow, device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """FlexAttention on the windows, compiled, with the mask made once; neighbor lists have no such form."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()
    blocks = torch.compile(create_block_mask)(
        window_mask(window), None, None, window.tokens, window.tokens, device=device.type
    )
    attention = torch.compile(flex_attention)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out: Tensor = attention(q, k, v, block_mask=blocks)
        return out[0].transpose(0, 1)

    return run


def dense_grid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token with every other: more work than the windows ask for, and another result."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)


def grid_ways(window: GridWindow, device: torch.device, interpreted: bool) -> dict[str, Any]:
    """Ours by tiles, ours by lists, chunked torch, and SDPA of everything."""
    tiles = grid_neighborhood(window, device)
    lists = Neighborhood.from_index(tiles.idx)
    backend: Any = "triton" if interpreted else "auto"
    return {
        OURS: lambda q, k, v: neighborhood_attention(q, k, v, tiles, backend=backend),
        "rotaware lists": lambda q, k, v: neighborhood_attention(q, k, v, lists, backend=backend),
        OURS_TORCH: lambda q, k, v: neighborhood_attention(q, k, v, tiles, backend="torch"),
        "SDPA of everything": dense_grid,
    }


def time_grid(
    clock: Clock, window: GridWindow, width: int, dtype: torch.dtype, ways: dict[str, Any], bandwidth: float | None
) -> Iterator[Record]:
    """One record per way and pass; each is compared with the lists first, except dense attention."""
    generator = torch.Generator(clock.device).manual_seed(0)
    shape = (window.tokens, HEADS, width)
    q, k, v, grad = (torch.randn(*shape, generator=generator, device=clock.device).to(dtype) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    plain = [x.detach() for x in leaves]
    sizes = "x".join(map(str, window.shape))
    layer = Layer(f"grid {sizes}", window.tokens, window.tokens, window.slots, HEADS * width, False)
    labels = labels_of(f"{sizes}, window {'x'.join(map(str, window.window))}, C = {layer.channels}", dtype, "grid")
    labels["edge_bytes"] = layer.edge_bytes(dtype.itemsize)
    exact = neighborhood_attention(q, k, v, grid_neighborhood(window, clock.device), backend="torch")
    assert isinstance(exact, Tensor)
    expected = [exact.detach(), *torch.autograd.grad(exact, leaves, grad)]
    for name, way in ways.items():
        for backward in (False, True):
            record: Record = {"backward": backward, "way": name}

            def call(way: Any = way, backward: bool = backward) -> Any:
                if backward:
                    return torch.autograd.grad(way(q, k, v), leaves, grad)
                with torch.no_grad():
                    return way(*plain)

            try:
                found = call() if backward else (call(),)
                right = expected[1:] if backward else expected[:1]
                error = 0.0 if way is dense_grid else max(map(difference, found, right))
                del found
                if error <= TOLERANCES[dtype]:
                    record |= clock.measure(call) | {"error": error}
                else:
                    record["failure"] = f"differs from the lists by {error:.2g}"
            except torch.cuda.OutOfMemoryError:
                record["needs"] = "more memory than the device has"
            except Exception as problem:
                record["failure"] = failure(problem)
            if "min_ms" in record and bandwidth is not None:
                # No list is read: windows are known.
                moved = floor_of(layer, dtype.itemsize, backward).compulsory - layer.queries * layer.slots * 4 * (
                    1 + 2 * backward
                )
                record |= {"floor_bytes": moved, "share": moved / bandwidth / (1e-3 * record["min_ms"])}
            yield labels | record
