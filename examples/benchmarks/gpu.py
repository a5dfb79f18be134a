"""Our GPU code on a GPU: first whether every Triton kernel is right, then how fast, beside all other ways.

In this order: kernels against float64 autograd of the definition, with bitwise equal repetitions; operators of boxes
against the CPU, and Oriented R-CNN at 1024 pixels, plain and ARC, for inference and training; bandwidth of a copy
and of gathered rows; attention of RoITr's layers at 30k points, of 20k, 200k and 1M points, in Morton order and
shuffled, in float32 and bfloat16; lists and searches on the device; grids beside FlexAttention and dense attention; and
at last what must be compiled for long. The share of the roofline, bytes that a fused kernel must move over the measured
copy bandwidth, stands behind each time. Peak memory is what the allocator of torch saw.

What fails is recorded and does not stop the rest; the exit code is 1 if a check of correctness failed, and 2 where
there is no CUDA device. Results are written after each step. From a bare checkout:

    python -m pip install --no-deps --no-build-isolation -e .
    python examples/benchmarks/gpu.py --budget 540
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from protocol import core_count, described, environment

from rotaware.geo.files import write_whole

if TYPE_CHECKING:
    from gpu_times import Clock

VERSIONS_OF = ("rotaware", "torch", "triton", "numba", "numpy")
OUTPUT = Path(__file__).resolve().parent / "results" / "gpu.json"
DTYPES = ("float32", "bfloat16")
GRID_WIDTH = 32
# (shape, window) of the grids that are timed.
GRIDS = (((64, 64), (7, 7)), ((128, 128), (7, 7)), ((256, 256), (7, 7)), ((16, 32, 32), (3, 5, 5)))
TINY_GRIDS = (((6, 8), (3, 3)),)
PARTS = ("checks", "detection", "bandwidth", "layers", "lists", "grids", "flex", "compiled")
SECONDS_LEFT = 15  # what the last item and the report may still take


class Run:
    """The report, the time that is left, and what went wrong."""

    def __init__(self, report: dict[str, Any], output: Path | None, budget: float) -> None:
        self.report, self.output = report, output
        self.begin = time.monotonic()
        self.deadline = self.begin + budget

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def item(self, name: str, call: Callable[[], None]) -> None:
        """Do something unless time is up; record what it raises."""
        if self.left() < SECONDS_LEFT:
            self.report["skipped"].append(name)
            return
        start = time.monotonic()
        try:
            call()
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            self.report["failures"].append({"item": name, "error": text})
            print(f"{name}: {text}", file=sys.stderr)
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        seconds = time.monotonic() - start
        self.report["seconds"][name] = round(seconds, 2)
        print(f"{time.monotonic() - self.begin:6.1f} s: {name} ({seconds:.1f} s)", file=sys.stderr, flush=True)
        self.save()

    def save(self) -> None:
        """What is known so far."""
        if self.output is not None:
            write_whole(self.output, json.dumps(self.report, indent=1) + "\n")


def gpu_facts() -> dict[str, Any]:
    """What the device is."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_memory": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }


def alone(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process that ends with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def parallel(run: Run, options: argparse.Namespace, name: str, jobs: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Results of functions with their arguments, in processes of their own: one that dies takes nothing with it."""
    jobs = list(jobs)
    if options.workers == 0:
        return [call(*arguments) for call, *arguments in jobs if run.left() > SECONDS_LEFT]
    threads = ThreadPoolExecutor(options.workers)
    futures = [threads.submit(alone, *job) for job in jobs]
    wait(futures, timeout=max(1.0, run.left() - SECONDS_LEFT))
    threads.shutdown(wait=False, cancel_futures=True)
    results: list[Any] = []
    for job, future in zip(jobs, futures, strict=True):
        try:
            results.append(future.result(timeout=0))
        except (Exception, CancelledError) as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            run.report["failures"].append({"item": f"{name}: {job[1:]}", "error": text})
    # A kernel that never ends would keep its process, and this one, alive.
    for process in multiprocessing.active_children():
        process.kill()
    return results


def check(run: Run, options: argparse.Namespace) -> None:
    """Every kernel against the definition."""
    from gpu_checks import all_checks, run_check

    jobs = [(run_check, job, options.device) for job in all_checks(options.tiny)]
    found = parallel(run, options, "check", jobs)
    run.report["checks"] += [record for records in found for record in records]
    run.report["checks_missing"] = len(jobs) - len(found)


def detection(run: Run, device: torch.device, options: argparse.Namespace) -> None:
    """Operators of boxes, then a detector."""
    from gpu_detection import check_detection, time_detection

    def checked() -> None:
        run.report["checks"] += check_detection(options.device, options.tiny)

    def timed() -> None:
        run.report["detection"] += time_detection(device, options.tiny)

    run.item("check of boxes and detectors", checked)
    run.item("detectors", timed)


def measure_bandwidth(run: Run, clock: Clock, options: argparse.Namespace) -> None:
    """Copy, then gathered rows: from the L2 cache, from memory, and by the list of a cloud in Morton order."""
    from attention_cases import LARGE, TINY, neighbors_of
    from gpu_times import copy_bandwidth, gather_bandwidth

    found = run.report["bandwidth"]
    found["copy"] = copy_bandwidth(clock)
    for channels in (64, 128):
        for label, size in (("L2", 1 << 24), ("memory", 1 << 32)):
            rows = 64 if options.tiny else size // (4 * channels)
            found[f"gather, {label}, random, C = {channels}"] = gather_bandwidth(clock, channels, rows, 32)
        layer = TINY[0] if options.tiny else LARGE[0]
        for shuffled in (False, True):
            idx = neighbors_of(layer, clock.device, shuffled=shuffled).idx
            name = f"gather, {layer.keys:,} points, {'shuffled' if shuffled else 'Morton'}, C = {channels}"
            found[name] = gather_bandwidth(clock, channels, layer.keys, layer.slots, idx)


def time_layers(run: Run, clock: Clock, options: argparse.Namespace) -> None:
    """All ways that need no long compilation, layer by layer."""
    from attention_cases import CHUNKED, LITERAL, OURS, OURS_TORCH, ROITR, chosen, make_module, ways_for
    from gpu_tune import warm_layer

    layers = list(chosen(all_layers(options), options.only))

    def warm() -> None:
        parallel(run, options, "warm", [(warm_layer, x, dtype, options.device) for x in layers for dtype in DTYPES])

    if options.workers:
        run.item("compile for all layers", warm)
    for order in ("Morton", "shuffled"):
        for layer in layers:
            for dtype in DTYPES:
                ways = ways_for(layer)
                if order == "shuffled":
                    ways = {name: ways[name] for name in (OURS, OURS_TORCH, LITERAL)}
                elif not layer.name.startswith("RoITr"):
                    ways = {name: way for name, way in ways.items() if name != CHUNKED or layer.keys <= 200_000}
                name = f"{layer.title}, {dtype}, {order}"
                run.item(name, lambda layer=layer, dtype=dtype, ways=ways, order=order: time_one(  # type: ignore[misc]
                    run, clock, layer, dtype, ways, order))  # fmt: skip
            if order == "Morton" and layer.pair and (layer in ROITR or options.tiny):
                for dtype in DTYPES:

                    def whole(layer: Any = layer, dtype: str = dtype) -> None:
                        from attention_cases import neighbors_of
                        from gpu_times import time_module

                        module = make_module(layer, neighbors_of(layer, clock.device), getattr(torch, dtype))
                        run.report["results"] += time_module(clock, layer, module, getattr(torch, dtype))

                    run.item(f"{layer.title}, whole layer, {dtype}", whole)


def time_one(run: Run, clock: Clock, layer: Any, dtype: str, ways: dict[str, Any], order: str) -> None:
    """One layer in one dtype and order."""
    from attention_cases import DENSE, make_operands, neighbors_of
    from gpu_times import time_layer

    around = neighbors_of(layer, clock.device, shuffled=order == "shuffled")
    o = make_operands(layer, around, getattr(torch, dtype), dense=DENSE in ways)
    run.report["results"] += time_layer(clock, o, ways, order, bandwidth_of(run))


def all_layers(options: argparse.Namespace) -> tuple[Any, ...]:
    """In the order of importance."""
    from attention_cases import LARGE, MEDIUM, ROITR, SMALL, TINY

    return TINY if options.tiny else (*ROITR, *LARGE, *MEDIUM, *SMALL)


def bandwidth_of(run: Run) -> float | None:
    """Bytes per second of a copy, if it was measured."""
    copied = run.report["bandwidth"].get("copy")
    return None if copied is None else copied["bytes_per_second"]


def time_compiled(run: Run, clock: Clock, options: argparse.Namespace) -> None:
    """The definition under torch.compile, each layer by itself."""
    from attention_cases import COMPILED, COMPILED_EDGES, Way, chosen, compiled_way
    from attention_report import unique
    from gpu_tune import warm_compiled

    layers = [layer for layer in chosen(all_layers(options), options.only) if layer.name != "small"]

    def warm() -> None:
        # The compiler is told that the numbers of points may change.
        few = [replace(layer, keys=min(8192, layer.keys), queries=min(8192, layer.queries)) for layer in layers]
        jobs = [(warm_compiled, layer, dtype, options.device) for layer in unique(few) for dtype in DTYPES]
        parallel(run, options, "torch.compile", jobs)

    if options.workers:
        run.item("torch.compile for all layers", warm)
    for layer in layers:
        for dtype in DTYPES:

            def one(layer: Any = layer, dtype: str = dtype) -> None:
                time_one(run, clock, layer, dtype, {COMPILED: Way(compiled_way(), COMPILED_EDGES)}, "Morton")

            run.item(f"{layer.title}, {dtype}, compiled", one)


def time_lists_and_searches(run: Run, clock: Clock, options: argparse.Namespace) -> None:
    """Geometry on the device."""
    from attention_cases import surface_cloud
    from gpu_times import time_lists

    for count in (100,) if options.tiny else (30_000, 200_000, 1_000_000):

        def one(count: int = count) -> None:
            run.report["lists"] += time_lists(clock, surface_cloud(count), 16)

        run.item(f"lists of {count:,} points", one)


def time_grids(run: Run, clock: Clock, options: argparse.Namespace, flex: bool) -> None:
    """Grids, with FlexAttention alone or with all others."""
    from gpu_times import flex_way, grid_ways, time_grid
    from gpu_tune import warm_flex

    from rotaware.kernels.grid import grid_window

    grids = [grid_window(shape, keys) for shape, keys in (TINY_GRIDS if options.tiny else GRIDS)]

    def warm() -> None:
        jobs = [(warm_flex, window, GRID_WIDTH, dtype, options.device) for window in grids for dtype in DTYPES]
        parallel(run, options, "FlexAttention", jobs)

    if flex and options.workers:
        run.item("FlexAttention for all grids", warm)
    for window in grids:
        for dtype in DTYPES:

            def one(window: Any = window, dtype: str = dtype) -> None:
                ways = grid_ways(window, clock.device, not clock.real)
                if flex:
                    ways = {"FlexAttention": flex_way(window, clock.device)}
                found = time_grid(clock, window, GRID_WIDTH, getattr(torch, dtype), ways, bandwidth_of(run))
                run.report["results"] += found

            run.item(f"grid {window.shape}, {dtype}{', FlexAttention' if flex else ''}", one)


def tune(run: Run, clock: Clock, options: argparse.Namespace) -> None:
    """All tiles of all kernels for the layers, and tilings of grids."""
    from attention_cases import chosen, neighbors_of
    from gpu_tune import best_table, sweep_grid, sweep_layer, warm_grid, warm_tiles

    from rotaware.kernels.grid import grid_window

    shares = max(1, options.workers)
    tuning = run.report["tuning"]
    for layer in chosen(all_layers(options), options.only):
        if layer.name == "small":
            continue
        for dtype in DTYPES:

            def one(layer: Any = layer, dtype: str = dtype) -> None:
                few = replace(layer, keys=min(layer.keys, 4096), queries=min(layer.queries, 4096))
                if options.workers:
                    jobs = [(warm_tiles, few, dtype, options.device, share, shares) for share in range(shares)]
                    parallel(run, options, "tiles", jobs)
                around = neighbors_of(layer, clock.device)
                tuning["layers"] += sweep_layer(layer, around, getattr(torch, dtype), clock)
                capability = run.report["machine"].get("capability", "0").replace(".", "")
                tuning["table"] = best_table(tuning["layers"], int(capability))

            run.item(f"tiles of {layer.title}, {dtype}", one)
    for shape, keys in TINY_GRIDS if options.tiny else GRIDS[1:]:
        for dtype in DTYPES:

            def grid(shape: Any = shape, keys: Any = keys, dtype: str = dtype) -> None:
                if options.workers:
                    small = grid_window(tuple(4 * width for width in keys), keys)
                    jobs = [(warm_grid, small, GRID_WIDTH, dtype, options.device, i, shares) for i in range(shares)]
                    parallel(run, options, "tilings", jobs)
                window = grid_window(shape, keys)
                tuning["grids"] += sweep_grid(window, GRID_WIDTH, getattr(torch, dtype), clock.device, clock)

            run.item(f"tilings of grid {shape}, {dtype}", grid)


def markdown(report: dict[str, Any]) -> str:
    """Tables with what a reader needs to judge them."""
    from attention_report import gpu_verdicts, memory_table, number, time_table

    checks = report["checks"]
    wrong = [f"- {x['kernel']}, {x['case']}, {x['dtype']}: {', '.join(x['wrong']) or 'bits differ'}"
             for x in checks if not x["passed"]]  # fmt: skip
    passed = f"{len(checks) - len(wrong)} of {len(checks)} checks passed, {report['checks_missing']} did not end."
    bandwidth = [f"- {name}: {x['bytes_per_second'] / 1e9:.0f} GB/s" for name, x in report["bandwidth"].items()]
    lists = [
        f"- {x['operation']}, {x['points']:,} points, k = {x['slots']}: {number(x['min_ms'])} ms"
        for x in report["lists"]
        if "min_ms" in x
    ]
    failures = [f"- {x['item']}: {x['error']}" for x in report["failures"]]
    failures += [
        f"- {x['layer']}, {x['dtype']}, {x['way']}: {x['failure']}" for x in report["results"] if "failure" in x
    ]
    text = [
        "Correctness against float64 autograd of the definition, with equal bits in two runs: " + passed,
        *(["\n".join(wrong)] if wrong else []),
        *(["Bandwidth:\n\n" + "\n".join(bandwidth)] if bandwidth else []),
        *(["Built once per cloud:\n\n" + "\n".join(lists)] if lists else []),
    ]  # fmt: skip
    if report["detection"]:
        from gpu_detection import detection_table

        text += ["Oriented R-CNN:", detection_table(report["detection"])]
    if report["results"]:
        text += [
            "Fastest of repeated calls from cold caches, by events of the device. In brackets the share of the "
            "roofline: bytes that a fused kernel must move over the bandwidth of a copy. The last column is the time "
            "of the best other way over ours.",
            time_table(report["results"]),
            "Peak memory beyond the operands, and the size of one tensor (M, K, C).",
            memory_table(report["results"]),
            "Acceptance:\n\n" + "\n".join(gpu_verdicts(report["results"])),
        ]
    if report["tuning"]["table"]:
        text.append("Best tiles:\n\n" + "\n".join(f"    {line}" for line in report["tuning"]["table"]))
    if failures:
        text.append("Failed:\n\n" + "\n".join(dict.fromkeys(failures)))
    if report["skipped"]:
        text.append(f"No time was left for {len(report['skipped'])} items: {'; '.join(report['skipped'])}.")
    gpu = report["machine"].get("gpu", "Triton's interpreter, whose times mean nothing")
    text.append(f"Measured on {gpu}; {described(report)}.")
    return "\n\n".join(text) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Check, time, report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=570, metavar="SECONDS", help="stop after these (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="layers whose title contains one of these")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what to do, in this order (all)")
    parser.add_argument("--tune", action="store_true", help="after the checks time all tiles of all kernels instead")
    parser.add_argument("--interpret", action="store_true", help="tiny sizes in Triton's interpreter, without a GPU")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a test of this script, with or without a GPU")
    parser.add_argument("--workers", type=int, help="processes that check and compile (cores - 2, at most 12)")
    parser.add_argument("--seconds", type=float, default=0.1, help="per way and pass (%(default)s)")
    parser.add_argument("--commit", help="of the checkout, where git does not know it")
    parser.add_argument("--output", type=Path, help=f"file for the JSON, the tables beside it as .md ({OUTPUT.name} "
                        "among the results)")  # fmt: skip
    options = parser.parse_args(arguments)
    on_gpu = torch.cuda.is_available() and not options.interpret
    if not on_gpu and not (options.interpret or options.quick):
        print("no CUDA device: nothing to measure; --interpret checks the kernels in Triton's interpreter")
        return 2
    options.tiny = options.quick or not on_gpu
    if not on_gpu:
        # Read as the kernels are first imported.
        os.environ["TRITON_INTERPRET"] = "1"
        options.workers = 0
    elif options.workers is None:
        options.workers = 0 if options.tiny else max(1, min(12, core_count() - 2))
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    options.device = str(device)
    if options.output is None and not options.tiny:
        options.output = OUTPUT
    report: dict[str, Any] = environment(VERSIONS_OF)
    report["commit"] = report["commit"] or options.commit
    if on_gpu:
        report["machine"] |= gpu_facts()
    report |= {"checks": [], "checks_missing": 0, "bandwidth": {}, "results": [], "lists": [], "detection": []}
    report |= {"tuning": {"layers": [], "grids": [], "table": []}, "failures": [], "skipped": [], "seconds": {}}
    run = Run(report, options.output, options.budget)
    perform(run, device, options)
    text = markdown(report)
    run.save()
    if options.output is not None:
        write_whole(options.output.with_suffix(".md"), text)
    print(text, end="")
    correct = all(record["passed"] for record in report["checks"]) and not report["checks_missing"]
    failed = any(failure["item"].startswith("check") for failure in report["failures"])
    return 0 if correct and not failed else 1


def perform(run: Run, device: torch.device, options: argparse.Namespace) -> None:
    """Everything that is asked for."""
    from gpu_times import Clock

    parts = options.parts or (("checks",) if options.tune else PARTS)
    if "checks" in parts:
        run.item("checks", lambda: check(run, options))
    if "detection" in parts:
        detection(run, device, options)
    clock = Clock(device, options.seconds, run.deadline - SECONDS_LEFT)
    if "bandwidth" in parts:
        run.item("bandwidth", lambda: measure_bandwidth(run, clock, options))
    if "layers" in parts:
        time_layers(run, clock, options)
    if "lists" in parts:
        time_lists_and_searches(run, clock, options)
    if "grids" in parts:
        time_grids(run, clock, options, flex=False)
    if "flex" in parts and clock.real:
        time_grids(run, clock, options, flex=True)
    if "compiled" in parts and clock.real:
        time_compiled(run, clock, options)
    if options.tune:
        tune(run, clock, options)


if __name__ == "__main__":
    sys.exit(main())
