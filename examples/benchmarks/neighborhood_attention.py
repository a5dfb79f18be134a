"""Neighborhood attention on the CPU: time and peak memory beside the literal form, chunked bmm, and dense attention.

Every way is compared with ours before it is timed, result and gradients, and ours with float64 autograd of the
definition; a difference ends the run. The ways take turns within each repetition, after a warm-up in which everything
is compiled; lists of neighbors are built once, as a network does. Behind each time stands its share of the roofline:
the bytes that a fused kernel must move over the bandwidth of a copy, measured here with the same threads. Peak memory
is what a process of its own needs beyond the operands. "layer" in a title is RoITr's whole layer instead of its
attention alone.

The table goes to standard output; with `--output` the JSON goes to that file and the table beside it as .md. A full
run takes about half an hour on two idle cores; `--compiled` adds `torch.compile`, and half a minute for each layer.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# Of this process as well: the first call is timed from here.
START = time.perf_counter()

import torch  # noqa: E402
from attention_cases import (  # noqa: E402
    COMPILED,
    COMPILED_EDGES,
    DENSE,
    LARGE,
    MEDIUM,
    OURS,
    ROITR,
    SMALL,
    TINY,
    TOLERANCES,
    WAYS,
    Layer,
    Module,
    Operands,
    Way,
    backward_call,
    bytes_needed,
    chosen,
    compiled_way,
    definition_error,
    difference,
    disagreement,
    everything,
    floor_of,
    forward_call,
    make_module,
    make_operands,
    neighbors_of,
    ways_for,
)
from attention_report import Record, cpu_verdicts, memory_table, number, time_table  # noqa: E402
from protocol import described, environment  # noqa: E402

from rotaware.geo.files import write_whole  # noqa: E402

VERSIONS_OF = ("rotaware", "torch", "numba", "numpy")
LAYERS = (*SMALL, *ROITR, *MEDIUM, *LARGE)
PATIENCE = 8  # times the seconds of one group, for the least number of repetitions
MEMORY_SHARE = 0.6  # of what is free: a way that needs more is not run
COPIED = 1 << 28  # bytes
# Blocks from this size on go back to the system when they are freed, so that peaks are seen.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
Call = Callable[[], Any]


def copy_bandwidth() -> float:
    """Bytes per second of a copy on the threads of now, read and written ones."""
    source = torch.ones(COPIED // 4)
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * COPIED / min(times)


def free_memory() -> float:
    """Bytes that can be had without swapping; unlimited where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return float("inf")


def timed(calls: dict[str, Call], seconds: float, least: int) -> dict[str, Record]:
    """Times in milliseconds of calls that take turns for some seconds."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    rounds, begin = 0, time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        # Ways that take seconds are not repeated as often as asked.
        while (
            rounds < 1
            or time.perf_counter() < begin + seconds
            or (rounds < least and time.perf_counter() < begin + PATIENCE * seconds)
        ):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                samples[name].append(1e3 * (time.perf_counter() - start))
            rounds += 1
    finally:
        gc.enable()
    return {
        name: {"median_ms": statistics.median(values), "min_ms": min(values), "max_ms": max(values), "rounds": rounds}
        for name, values in samples.items()
    }


def require(error: float, dtype: torch.dtype, what: str) -> None:
    """End the run where a result is wrong: no timing of it is worth reporting."""
    if not error <= TOLERANCES[dtype]:
        raise SystemExit(f"{what}: differs by {error:.2g} of the norm, nothing is reported")


def affordable(ways: dict[str, Way], layer: Layer, itemsize: int) -> tuple[dict[str, Way], dict[str, Record]]:
    """The ways that memory suffices for, and records on the others."""
    needs = {name: bytes_needed(way, layer, itemsize, backward=True) for name, way in ways.items()}
    most = MEMORY_SHARE * free_memory()
    rest = {name: {"needs": f"about {need / 1e9:.0f} GB"} for name, need in needs.items() if need > most}
    return {name: way for name, way in ways.items() if name not in rest}, rest


def labels_of(layer: Layer, dtype: torch.dtype, order: str) -> Record:
    """What tells the records of a layer from others."""
    return {
        "layer": layer.title,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "order": order,
    }


def time_layer(
    layer: Layer, dtype: torch.dtype, order: str, bandwidth: float, options: argparse.Namespace
) -> Iterator[Record]:
    """One record per way and pass."""
    require(definition_error(layer, dtype), dtype, f"{layer.title}, ours against the definition")
    o = make_operands(
        layer, neighbors_of(layer, shuffled=order == "shuffled"), dtype, dense="SDPA dense" in ways_for(layer)
    )
    ways = ways_for(layer)
    if options.compiled:
        ways[COMPILED] = Way(compiled_way(), COMPILED_EDGES)
    ways, refused = affordable(ways, layer, dtype.itemsize)
    expected = everything(WAYS[OURS], o)
    for name, way in ways.items():
        require(disagreement(way, o, expected), dtype, f"{layer.title}, {name}")
    del expected
    labels = labels_of(layer, dtype, order)
    for backward in (False, True):
        prepare = backward_call if backward else forward_call
        found = timed({name: prepare(way, o) for name, way in ways.items()}, options.seconds, options.least)
        floor = floor_of(layer, dtype.itemsize, backward)
        for name, record in (found | refused).items():
            if "min_ms" in record:
                record["share"] = floor.compulsory / bandwidth / (1e-3 * record["min_ms"])
                record["share_uncached"] = floor.uncached / bandwidth / (1e-3 * record["min_ms"])
            yield labels | {"backward": backward, "way": name, "floor_bytes": floor.compulsory} | record


def module_calls(module: Module, backward: bool) -> dict[str, Call]:
    """Each form of the layer."""

    def call(run: Callable[[], torch.Tensor]) -> Any:
        if backward:
            return torch.autograd.grad(run(), module.leaves, module.grad)
        with torch.no_grad():
            return run()

    return {name: lambda run=run: call(run) for name, run in module.run.items()}  # type: ignore[misc]


def time_module(layer: Layer, options: argparse.Namespace) -> Iterator[Record]:
    """RoITr's layer, folded and as published."""
    module = make_module(layer, neighbors_of(layer))
    forward, backward = (
        {name: call() for name, call in module_calls(module, backward).items()} for backward in (False, True)
    )
    for name in module.run:
        pairs = zip([forward[name], *backward[name]], [forward[OURS], *backward[OURS]], strict=True)
        require(max(difference(*pair) for pair in pairs), torch.float32, f"{layer.title}, whole layer, {name}")
    del forward, backward
    labels = labels_of(replace(layer, name=f"{layer.name} layer"), torch.float32, "Morton")
    for with_gradients in (False, True):
        found = timed(module_calls(module, with_gradients), options.seconds, options.least)
        for name, record in found.items():
            yield labels | {"backward": with_gradients, "way": name} | record


def this_script(*arguments: str, **variables: str) -> Record:
    """Run this script in a process of its own; it ends with a line of JSON."""
    command = [sys.executable, __file__, *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1]) | {"process_s": time.perf_counter() - start}


def first_call() -> Record:
    """Seconds of a process that imports, and attends for the first time."""
    imported = time.perf_counter()
    o = make_operands(Layer("first", 1000, 1000, 16, 64, False), neighbors_of(Layer("", 1000, 1000, 16, 64, False)))
    ready = time.perf_counter()
    forward_call(WAYS[OURS], o)()
    forward = time.perf_counter()
    backward_call(WAYS[OURS], o)()
    return {
        "import_s": imported - START,
        "neighbors_s": ready - imported,
        "forward_s": forward - ready,
        "forward_backward_s": time.perf_counter() - forward,
    }


def first_calls(cold: bool) -> dict[str, Record]:
    """The first call ever (nothing compiled yet), and that of a second process."""
    if not cold:
        return {"compiled before": this_script("--first-call")}
    with tempfile.TemporaryDirectory() as folder:
        return {name: this_script("--first-call", NUMBA_CACHE_DIR=folder) for name in ("first ever", "second process")}


def peak_of(call: Call) -> int:
    """Bytes by which the process grows while it runs."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        before = _status("VmRSS:")
        call()
        return _status("VmHWM:") - before
    except OSError:
        scale = 1 if sys.platform == "darwin" else 1024
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call()
        return scale * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - highest)


def _status(field: str) -> int:
    """A size that Linux tells of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def peaks(title: str, name: str) -> Record:
    """Peak memory of both passes of a way, in this process, on one thread."""
    torch.set_num_threads(1)
    (layer,) = (layer for layer in (*LAYERS, *TINY) if layer.title == title)
    few = replace(layer, keys=200, queries=200)
    warm: Operands = make_operands(few, neighbors_of(few), dense=True)
    o = make_operands(layer, neighbors_of(layer), dense=name == DENSE)
    found = {}
    # The inverse list belongs to the neighborhood.
    o.neighborhood.inverse()
    for label, prepare in (("forward", forward_call), ("backward", backward_call)):
        prepare(WAYS[name], warm)()
        found[label] = peak_of(prepare(WAYS[name], o))
    return found


def memory_records(layer: Layer, names: list[str]) -> Iterator[Record]:
    """One record per way and pass."""
    ways, refused = affordable({name: way for name, way in ways_for(layer).items() if name in names}, layer, 4)
    labels = labels_of(layer, torch.float32, "Morton") | {"edge_bytes": layer.edge_bytes(4)}
    for name in (*ways, *refused):
        found = refused.get(name) or this_script("--peak", layer.title, name, **ALLOCATOR)
        for backward, label in enumerate(("forward", "backward")):
            peak = {"peak_bytes": found[label]} if label in found else found
            yield labels | {"threads": 1, "backward": bool(backward), "way": name} | peak


def markdown(report: dict[str, Any]) -> str:
    """Tables with what a reader needs to judge them."""
    bandwidth = ", ".join(
        f"{value / 1e9:.1f} GB/s on {key} thread(s)" for key, value in report["copy_bandwidth"].items()
    )
    first = [
        f"- {name}: import {record['import_s']:.1f} s, neighbors {record['neighbors_s']:.1f} s, first forward "
        f"{record['forward_s']:.1f} s, first forward + backward {record['forward_backward_s']:.1f} s, whole process "
        f"{record['process_s']:.1f} s"
        for name, record in report["first_calls"].items()
    ]
    text = [
        "Minimum of interleaved repetitions. In brackets the share of the roofline: bytes that a fused kernel must "
        f"move over the bandwidth of a copy, {bandwidth}. The last column is the time of the best other way over ours: "
        "above 1 we are faster.",
        time_table(report["results"]),
        "Peak memory beyond the operands, float32, one thread, each way in a process of its own. No way may be called "
        "fused that needs a tensor of shape (M, K, C), whose size is in the last column.",
        memory_table(report["memory"]),
        "First calls:\n\n" + "\n".join(first),
        "Acceptance:\n\n" + "\n".join(cpu_verdicts([*report["results"], *report["memory"]])),
        f"Measured {described(report)}; load before the run {report['load_before']:.1f}.",
    ]
    return "\n\n".join(text) + "\n"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny layers, few repetitions: a test of this script")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="layers whose title contains one of these")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of all ways (1 2)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="(float32 bfloat16)")
    parser.add_argument("--compiled", action="store_true", help="also the definition under torch.compile")
    parser.add_argument("--seconds", type=float, default=1.0, help="per layer and pass (%(default)s)")
    parser.add_argument("--least", type=int, default=3, help="repetitions, unless they take 8 times --seconds")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--output", type=Path, help="file for the JSON; the table is written beside it as .md")
    # What this script calls itself with.
    parser.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.first_call or options.peak:
        found = first_call() if options.first_call else peaks(*options.peak)
        print(json.dumps(found))
        return found
    layers = list(chosen(TINY if options.quick else LAYERS, options.only))
    if options.quick:
        options.threads, options.seconds, options.least = [1], 0.02, 1
    report: dict[str, Any] = environment(VERSIONS_OF)
    report["first_calls"] = first_calls(cold=not options.quick)
    report |= {"copy_bandwidth": {}, "results": [], "memory": []}
    results: list[Record] = report["results"]
    for threads in options.threads:
        torch.set_num_threads(threads)
        bandwidth = report["copy_bandwidth"][threads] = copy_bandwidth()
        for layer in layers:
            for dtype in options.dtypes:
                results += time_layer(layer, getattr(torch, dtype), "Morton", bandwidth, options)
                show(layer, results)
            if layer in MEDIUM:
                results += time_layer(layer, torch.float32, "shuffled", bandwidth, options)
            if layer in (*ROITR, *TINY) and layer.pair:
                results += time_module(layer, options)
    if not options.no_memory:
        for layer in layers[:1] if options.quick else layers:
            report["memory"] += memory_records(layer, [OURS] if options.quick else list(WAYS))
    text = markdown(report)
    if options.output is not None:
        write_whole(options.output, json.dumps(report, indent=1) + "\n")
        write_whole(options.output.with_suffix(".md"), text)
    print(text, end="")
    return report


def show(layer: Layer, results: list[Record]) -> None:
    """One line while the run goes on."""
    mine = [record for record in results if record["layer"] == layer.title]
    last = {(record["way"], record["backward"]): record.get("min_ms") for record in mine}
    texts = [f"{way}{'+' if backward else ''} {number(ms)}" for (way, backward), ms in last.items() if ms]
    print(f"{layer.title}: {', '.join(texts)} ms", file=sys.stderr)


if __name__ == "__main__":
    main()
