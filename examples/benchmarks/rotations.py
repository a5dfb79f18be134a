"""Rotation functions timed beside roma, formulas in the manner of PyTorch3D, and SciPy.

Every way is checked against float64 arithmetic of NumPy and SciPy before it is timed: one whose answer or gradient is
wrong is reported as wrong and not timed. All get the same numbers in their own layout, one dtype (NumPy arrays are
float64: SciPy knows nothing else), and the same number of threads. The ways take turns within each repetition; reported
are the minimum and the median, in milliseconds. The backward pass goes to all arguments, from a given random gradient.

The table goes to standard output; with `--output` the JSON goes to that file and the table beside it as .md. A full run
takes some six minutes on an idle core. `--compiled` adds rows, and a minute or more of compiling for each function, so
choose with `--only` and `--sizes`; on CUDA, where it is the way to few kernels, it matters most.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Before anything imports SciPy: with it, SciPy's rotations take tensors.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy as np
import torch
from protocol import described, environment, markdown_table
from rotation_functions import LIBRARIES, OURS, SCIPY, SCIPY_TORCH, Operation, Way, operations, sample
from threadpoolctl import threadpool_limits
from torch import Tensor

from rotaware.geo.files import write_whole

VERSIONS_OF = ("rotaware", "torch", "numba", "numpy", "scipy", "roma")
CHECKED = 1000  # rows
# Largest difference from float64, times the size of the answer: beyond it something else was computed.
WRONG = 2e-2
# From here on a difference is worth a remark.
INEXACT = {torch.float32: 1e-4, torch.float64: 1e-9}
BURST_S = 5e-4  # short calls are timed this long at a time
PATIENCE = 8  # times the seconds of one function, for the least number of repetitions
QUICK = ("quaternion_to_matrix", "geodesic_distance", "special_procrustes (9D)")
Call = Callable[[], Any]


def arguments_of(operation: Operation, count: int, dtype: torch.dtype, device: torch.device) -> list[Any]:
    """Arguments in our layout."""
    generator = torch.Generator().manual_seed(0)
    drawn = [sample(kind, count, generator) for kind in operation.arguments]
    return [value.to(device, dtype) if isinstance(value, Tensor) else value for value in drawn]


def all_ways(operation: Operation) -> dict[str, Way]:
    """Also SciPy on tensors, which is called as on arrays."""
    ways = dict(operation.ways)
    if SCIPY in ways and operation.differentiable:
        ways[SCIPY_TORCH] = ways[SCIPY]
    return {library: ways[library] for library in LIBRARIES if library in ways}


def prepared(library: str, way: Way, arguments: list[Any]) -> tuple[Any, ...]:
    """Arguments in the way's own layout, contiguous, of storage of their own."""
    ready = []
    for value in way.prepare(*arguments):
        if isinstance(value, Tensor):
            value = value.double().cpu().numpy().copy() if library == SCIPY else value.clone().contiguous()
        ready.append(value)
    return tuple(ready)


def difference(operation: Operation, result: Any, arguments: list[Any]) -> float:
    """Largest error of our layout's result, relative to the largest entry of the right one where that is above 1."""
    found = torch.as_tensor(result).detach().double().cpu().numpy()
    if operation.same == "orthogonal":
        return float(np.abs(found @ found.swapaxes(-1, -2) - np.eye(3)).max() + np.abs(np.linalg.det(found) - 1).max())
    assert operation.oracle is not None
    right = np.asarray(operation.oracle(*(argument.double().cpu().numpy() for argument in arguments)))
    error = np.abs(found - right)
    if operation.same == "sign":
        error = np.minimum(error.max(-1), np.abs(found + right).max(-1))
    elif operation.same == "angles":
        error = np.minimum(error, np.abs(2 * np.pi - error))
    return float(error.max() / max(1.0, np.abs(right).max()))


def outputs_of(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def backward_call(call: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward pass to every argument."""
    leaves = [argument.detach().clone().requires_grad_() for argument in arguments]
    generator = torch.Generator(leaves[0].device).manual_seed(2)
    gradients = [
        torch.empty(out.shape, dtype=out.dtype, device=out.device).normal_(generator=generator)
        for out in outputs_of(call(*arguments))
    ]
    return lambda: torch.autograd.grad(outputs_of(call(*leaves)), leaves, gradients)


def failure(error: Exception) -> str:
    """One line on what went wrong."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


def judged(operation: Operation, library: str, way: Way, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Whether a way answers rightly, and has a finite gradient, on a thousand rows."""
    arguments = arguments_of(operation, CHECKED, dtype, device)
    own = prepared(library, way, arguments)
    verdict: dict[str, Any] = {}
    try:
        verdict["error"] = difference(operation, way.read(way.call(*own)), arguments)
        if not verdict["error"] <= WRONG:
            verdict["wrong"] = f"differs from float64 by {verdict['error']:.1g}"
    except Exception as error:
        verdict["wrong"] = failure(error)
    if "wrong" in verdict or not operation.differentiable or library == SCIPY:
        return verdict
    try:
        if not all(bool(gradient.isfinite().all()) for gradient in backward_call(way.call, own)()):
            verdict["wrong_backward"] = "gradient is not finite"
    except Exception as error:
        verdict["wrong_backward"] = failure(error)
    return verdict


def timed(calls: dict[str, Call], seconds: float, least: int, synchronize: Call) -> dict[str, dict[str, Any]]:
    """Times of calls that take turns, for some seconds, in milliseconds; or why there are none."""
    bursts: dict[str, int] = {}
    results: dict[str, dict[str, Any]] = {}
    for name, call in calls.items():
        try:
            # The first call compiles and allocates; a long one needs no second to know so.
            for _ in range(2):
                start = time.perf_counter()
                call()
                synchronize()
                took = time.perf_counter() - start
                if took > 100 * BURST_S:
                    break
            bursts[name] = int(min(50, max(1, BURST_S / took)))
        except Exception as error:
            results[name] = {"failure": failure(error)}
    samples: dict[str, list[float]] = {name: [] for name in bursts}
    rounds, begin = 0, time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        # Functions that take seconds are not repeated as often as asked.
        while bursts and (
            rounds < 1
            or time.perf_counter() < begin + seconds
            or (rounds < least and time.perf_counter() < begin + PATIENCE * seconds)
        ):
            for name, burst in bursts.items():
                call = calls[name]
                start = time.perf_counter()
                for _ in range(burst):
                    call()
                synchronize()
                samples[name].append(1e3 * (time.perf_counter() - start) / burst)
            rounds += 1
    finally:
        gc.enable()
    return results | {
        name: {"min_ms": min(values), "median_ms": statistics.median(values), "rounds": rounds}
        for name, values in samples.items()
    }


def compiled_ways(ways: dict[str, Way]) -> dict[str, Way]:
    """Everything but SciPy under `torch.compile`."""
    torch.compiler.reset()
    return {
        library: Way(torch.compile(way.call, fullgraph=True, dynamic=True), way.prepare, way.read)
        for library, way in ways.items()
        if library not in (SCIPY, SCIPY_TORCH)
    }


def compiler_fault(device: torch.device) -> str | None:
    """Why nothing can be compiled here."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(8, device=device))
    except Exception as error:
        return failure(error)
    return None


def compared(name: str, operation: Operation, compiled: bool, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One record per way, count and pass."""
    dtype, device = torch.float64 if options.float64 else torch.float32, torch.device(options.device)
    synchronize: Call = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    ways = compiled_ways(all_ways(operation)) if compiled else all_ways(operation)
    if device.type != "cpu":
        ways.pop(SCIPY, None)
    verdicts = {library: judged(operation, library, way, dtype, device) for library, way in ways.items()}
    records = []
    for count in options.sizes:
        arguments = arguments_of(operation, count, dtype, device)
        own = {library: prepared(library, way, arguments) for library, way in ways.items()}
        for backward in (False, True) if operation.differentiable else (False,):
            calls: dict[str, Call] = {}
            found: dict[str, dict[str, Any]] = {}
            for library, way in ways.items():
                verdict = verdicts[library]
                wrong = verdict.get("wrong") or (verdict.get("wrong_backward") if backward else None)
                if wrong:
                    found[library] = {"failure": wrong}
                elif not backward:
                    calls[library] = partial(way.call, *own[library])
                elif library != SCIPY:
                    calls[library] = backward_call(way.call, own[library])
            found |= timed(calls, options.seconds, options.least, synchronize)
            labels = {"operation": name, "compiled": compiled, "count": count, "backward": backward}
            records += [
                labels | {"library": library, "error": verdicts[library].get("error")} | found[library]
                for library in ways
                if library in found
            ]
    return records


def number(value: float) -> str:
    """Three digits, no more."""
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


def shares(records: list[dict[str, Any]]) -> dict[tuple[str, bool, int, bool], float]:
    """Our time as a share of the best other's, by operation, compiled or not, count and pass."""
    times: dict[tuple[str, bool, int, bool], dict[str, float]] = {}
    for record in records:
        if "min_ms" in record:
            label = (record["operation"], record["compiled"], record["count"], record["backward"])
            times.setdefault(label, {})[record["library"]] = record["min_ms"]
    return {
        label: by_library[OURS] / min(time for library, time in by_library.items() if library != OURS)
        for label, by_library in times.items()
        if OURS in by_library and len(by_library) > 1
    }


def rows_of(records: list[dict[str, Any]], count: int) -> list[list[str]]:
    """One row per operation: both passes of every library, the fastest in bold, and our share of the best other."""
    share_of = shares(records)
    chosen = [record for record in records if record["count"] == count]
    rows = []
    for name, compiled in dict.fromkeys((record["operation"], record["compiled"]) for record in chosen):
        cells = {library: ["-", "-"] for library in LIBRARIES}
        verdict = ["-", "-"]
        for backward in (False, True):
            same = [r for r in chosen if (r["operation"], r["compiled"], r["backward"]) == (name, compiled, backward)]
            fastest = min((record["min_ms"] for record in same if "min_ms" in record), default=0.0)
            for record in same:
                text = number(record["min_ms"]) if "min_ms" in record else "failed"
                cells[record["library"]][backward] = f"**{text}**" if record.get("min_ms") == fastest else text
            share = share_of.get((name, compiled, count, backward))
            if share is not None:
                verdict[backward] = f"**{share:.2f} loss**" if share > 1 else f"{share:.2f}"
        label = name + (", compiled" if compiled else "")
        rows.append([label, *(" / ".join(cells[library]) for library in LIBRARIES), " / ".join(verdict)])
    return rows


def remarks(records: list[dict[str, Any]], dtype: torch.dtype) -> list[str]:
    """What was wrong or inexact, once each."""
    lines = []
    for record in records:
        label = f"{record['operation']}{', compiled' if record['compiled'] else ''}, {record['library']}"
        if "failure" in record:
            lines.append(f"- {label}{', backward' if record['backward'] else ''}: {record['failure']}")
        elif record["error"] > INEXACT[dtype]:
            lines.append(f"- {label}: timed, but up to {record['error']:.1g} from float64")
    return list(dict.fromkeys(lines))


def markdown(report: dict[str, Any]) -> str:
    """The table with what a reader needs to judge it."""
    conditions = report["conditions"]
    records = report["results"]
    header = ["milliseconds, forward / forward + backward", *LIBRARIES, "ours / best other"]
    rows: list[list[str]] = []
    for count in conditions["sizes"]:
        rows += [[f"**N = {count:,}**", *[""] * (len(header) - 1)], *rows_of(records, count)]
    found = list(shares(records).values())
    text = [
        f"Minimum of interleaved repetitions, {conditions['dtype']}, {conditions['device']}, "
        f"{conditions['threads']} thread(s); SciPy float64 is NumPy. The fastest is bold. The last column is our time "
        "divided by that of the best other: below 1 we are faster.",
        markdown_table(header, rows),
        f"{sum(share <= 1 for share in found)} wins, {sum(share > 1 for share in found)} losses.",
    ]
    noted = remarks(records, getattr(torch, conditions["dtype"]))
    if report["skipped"]:
        noted.append(f"- not compiled: {report['skipped']}")
    if noted:
        text.append("Not right, or right to fewer digits:\n\n" + "\n".join(noted))
    text.append(f"Measured {described(report)}; load before the run {report['load_before']:.1f}.")
    return "\n\n".join(text) + "\n"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three functions on few rows: a test of this script")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="functions whose name contains one of these")
    parser.add_argument("--sizes", nargs="+", type=lambda text: int(float(text)), default=[1, 1000, 1_000_000],
                        metavar="N", help="rows (1 1e3 1e6)")  # fmt: skip
    parser.add_argument("--float64", action="store_true", help="instead of float32")
    parser.add_argument("--device", default="cpu", help="for example cuda (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of all libraries (%(default)s)")
    parser.add_argument("--compiled", action="store_true", help="also everything but SciPy under torch.compile")
    parser.add_argument("--seconds", type=float, default=0.7, help="per function, size and pass (%(default)s)")
    parser.add_argument(
        "--least", type=int, default=3, help="repetitions, unless they take 8 times --seconds (%(default)s)"
    )
    parser.add_argument("--output", type=Path, help="file for the JSON; the table is written beside it as .md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.only, options.sizes, options.seconds, options.least = QUICK, [1, 100], 0.02, 1
    # SciPy and roma warn about what this script does on purpose.
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = environment(VERSIONS_OF)
    dtype, device = torch.float64 if options.float64 else torch.float32, torch.device(options.device)
    if device.type == "cuda":
        report["machine"]["gpu"] = torch.cuda.get_device_name(device)
    report["conditions"] = {"dtype": str(dtype).removeprefix("torch."), "device": report["machine"].get("gpu", "CPU")}
    report["conditions"] |= {"threads": options.threads, "sizes": options.sizes, "seconds": options.seconds}
    report["skipped"] = compiler_fault(device) if options.compiled else None
    passes = [False, True] if options.compiled and report["skipped"] is None else [False]
    report["results"] = []
    chosen = {
        name: operation
        for name, operation in operations(dtype, device).items()
        if not options.only or any(text in name for text in options.only)
    }
    with threadpool_limits(options.threads):
        for compiled in passes:
            for name, operation in chosen.items():
                records = compared(name, operation, compiled, options)
                report["results"] += records
                share = ", ".join(f"{value:.2f}" for value in shares(records).values())
                print(f"{name}{', compiled' if compiled else ''}: {share}", file=sys.stderr)
    text = markdown(report)
    if options.output is not None:
        write_whole(options.output, json.dumps(report, indent=1) + "\n")
        write_whole(options.output.with_suffix(".md"), text)
    print(text, end="")
    return report


if __name__ == "__main__":
    main()
