"""RoITr on the CPU: time and memory of the published and of the bundled network, folded layers beside literal ones.

A generated pair of about 20 000 points per scan. "Literal" is the same network with its local attention computed as the
equations are written, with a vector for every pair of neighbors; both have the same weights, and their outputs are
compared before anything is timed. Each measurement runs in a process of its own, whose peak memory is what it needs
beyond an idle process with everything imported. The invariance is measured on scans whose coordinates lie on 2 mm.

The table goes to standard output; with `--output` the JSON goes to that file and the table beside it as .md.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import core_count, described, environment, markdown_table
from scipy.spatial.transform import Rotation

from rotaware.datasets import indoor_pair
from rotaware.geo.files import write_whole
from rotaware.kernels import LiteralPPFAttention, PPFAttention
from rotaware.pointcloud import CloudPair, PairBatch, RoITr, RoITrConfig, RoITrObjective, network_pair, register
from rotaware.pointcloud.learned import bundled_roitr

VERSIONS_OF = ("rotaware", "numba", "numpy", "torch")
SEED = 11
REPEATS = 5


def scans(quick: bool) -> Any:
    """A generated pair of scans, about 20 000 points each, on 2 mm."""
    return indoor_pair(SEED, frames=3 if quick else 10, overlap=(0.3, 0.9))


def pair_for(config: RoITrConfig, quick: bool) -> CloudPair:
    """The pair as the network takes it."""
    found = scans(quick)
    return network_pair(
        found.source, found.target, config, transform=found.T_target_source, occupied=800 if quick else 6000
    )


def published() -> RoITr:
    """The published network, with random weights."""
    torch.manual_seed(0)
    return RoITr(RoITrConfig())


def literal(model: RoITr) -> RoITr:
    """A copy with the same weights, local attention as it is written."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, part in list(module.named_children()):
            if type(part) is PPFAttention:
                layer = LiteralPPFAttention(
                    part.in_channels,
                    part.out_channels,
                    hidden_channels=part.hidden_channels,
                    num_heads=part.num_heads,
                    pair_channels=part.pair_channels,
                )
                layer.load_state_dict(part.state_dict())
                setattr(module, name, layer)
    return model


NETWORKS: dict[str, Callable[[], RoITr]] = {
    "published": published,
    "published, literal": lambda: literal(published()),
    "bundled": lambda: copy.deepcopy(bundled_roitr()),
    "bundled, literal": lambda: literal(bundled_roitr()),
}


def seconds_of(run: Callable[[], Any], repeats: int) -> float:
    """Median after a warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_megabytes() -> float:
    """Most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_inference(name: str, quick: bool) -> dict[str, float]:
    """Preparation, forward pass and matching of one pair."""
    model = NETWORKS[name]().eval()
    pair = pair_for(model.config, quick)
    idle = peak_megabytes()
    repeats = 1 if quick else REPEATS
    build = seconds_of(lambda: PairBatch.build([pair], model.config, inverse=False), repeats)
    batch = PairBatch.build([pair], model.config, inverse=False)
    with torch.no_grad():
        forward = seconds_of(lambda: model(batch), repeats)
        output = model(batch)
        match = seconds_of(lambda: model.match(batch, output), repeats)
    return {
        "points": len(batch.points) / 2,
        "tables_s": build,
        "forward_s": forward,
        "matching_s": match,
        "peak_mb": peak_megabytes() - idle,
    }


def measure_training(name: str, quick: bool) -> dict[str, float]:
    """Forward and backward pass of the encoder and decoder alone, and of the whole objective."""
    model = NETWORKS[name]().train().requires_grad_(True)
    pair = pair_for(model.config, quick)
    batch = PairBatch.build([pair], model.config)
    objective = RoITrObjective(model, radius=0.05 if model.config.voxel is None else 0.06)
    idle, repeats = peak_megabytes(), 1 if quick else 3

    def local() -> None:
        sum(part.square().mean() for part in model.backbone(batch.pyramid)).backward()

    def whole() -> None:
        objective(batch, [0]).total.backward()

    local_s, step_s = seconds_of(local, repeats), seconds_of(whole, repeats)
    return {"local_layers_s": local_s, "step_s": step_s, "pairs_per_s": 1 / step_s, "peak_mb": peak_megabytes() - idle}


def measure_registration(_: str, quick: bool) -> dict[str, float]:
    """From two arrays to a verdict, everything included but the compilation."""
    found = scans(quick)
    idle = peak_megabytes()
    values: dict[str, float] = {}
    for method in ("auto", "roitr", "classic"):
        run = partial(register, found.source, found.target, method=method)
        values[f"{method}_s"] = seconds_of(run, 1 if quick else 3)
    return values | {"peak_mb": peak_megabytes() - idle}


def measure_invariance(name: str, quick: bool) -> dict[str, float]:
    """Largest relative change of a descriptor, and changed correspondences, over rotations of both scans."""
    model = NETWORKS[name]().eval()
    found = scans(quick)
    clouds = [np.round(np.asarray(cloud, dtype=np.float64) / 0.002) * 0.002 for cloud in (found.source, found.target)]
    base = network_pair(clouds[0], clouds[1], RoITrConfig())
    normals = [each.double().numpy() for each in (base.source_normals, base.target_normals)]

    def run(turns: np.ndarray) -> tuple[Any, set[tuple[int, int]]]:
        parts = [
            torch.from_numpy(array @ turn.T).float()
            for cloud, normal, turn in zip(clouds, normals, turns, strict=True)
            for array in (cloud, normal)
        ]
        batch = PairBatch.build([CloudPair(parts[0], parts[1], parts[2], parts[3])], model.config, inverse=False)
        with torch.no_grad():
            output = model(batch)
        matches = model.match(batch, output)[0]
        return output, set(zip(matches.source.tolist(), matches.target.tolist(), strict=True))

    reference, expected = run(np.stack([np.eye(3)] * 2))
    count = 2 if quick else 20
    change, differing, most = 0.0, 0, 0
    for seed in range(count):
        output, matches = run(Rotation.random(2, random_state=seed).as_matrix())
        for ours, theirs in zip(output, reference, strict=True):
            change = max(change, float(((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max()))
        differing += matches != expected
        most = max(most, len(matches ^ expected))
    return {
        "rotations": count,
        "largest_change": change,
        "correspondences": len(expected),
        "rotations_with_another": differing,
        "most_differing": most,
    }


MEASURES: dict[str, Callable[[str, bool], dict[str, float]]] = {
    "inference": measure_inference,
    "training": measure_training,
    "registration": measure_registration,
    "invariance": measure_invariance,
}
TASKS = [
    *(("inference", name) for name in NETWORKS),
    *(("training", name) for name in NETWORKS),
    ("registration", "bundled"),
    ("invariance", "published"),
    ("invariance", "bundled"),
]


# A test of the script, not a measurement.
QUICK = {("inference", "bundled"), ("invariance", "bundled")}


def serve(kind: str, name: str, threads: int, quick: bool, queue: Any) -> None:
    """One measurement, in its own process."""
    torch.set_num_threads(threads)
    try:
        queue.put(MEASURES[kind](name, quick))
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")


def require_equal(quick: bool) -> None:
    """The literal network computes what the folded one does."""
    model, written = NETWORKS["bundled"]().eval(), NETWORKS["bundled, literal"]().eval()
    batch = PairBatch.build([pair_for(model.config, quick)], model.config)
    with torch.no_grad():
        for ours, theirs in zip(model(batch), written(batch), strict=True):
            error = float((ours - theirs).abs().max() / theirs.abs().max())
            if error > 1e-4:
                raise SystemExit(f"folded and literal network differ by {error:.1e} of the largest value")


def markdown(report: dict[str, Any]) -> str:
    """One table per kind of measurement."""
    text = []
    for kind in MEASURES:
        rows = [record for record in report["records"] if record["kind"] == kind]
        if rows:
            keys = list(rows[0]["values"])
            lines = ([r["network"], *(shown(r["values"][key]) for key in keys)] for r in rows)
            text.append(
                f"{kind.capitalize()}, {report['threads']} threads:\n\n" + markdown_table(["network", *keys], lines)
            )
    return "\n\n".join([*text, f"Measured {described(report['environment'])}."]) + "\n"


def shown(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, write, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=core_count())
    parser.add_argument("--kinds", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--quick", action="store_true", help="a small pair, few repeats: a test of this script")
    parser.add_argument("--output", type=Path, help="file for the JSON, replaced when the run is complete")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    report: dict[str, Any] = {"environment": environment(VERSIONS_OF), "threads": args.threads, "records": []}
    require_equal(args.quick)
    context = multiprocessing.get_context("spawn")
    for kind, name in TASKS:
        if kind not in args.kinds or (args.quick and (kind, name) not in QUICK):
            continue
        queue = context.Queue()
        process = context.Process(target=serve, args=(kind, name, args.threads, args.quick, queue))
        process.start()
        values = queue.get(timeout=1200)
        process.join()
        if isinstance(values, str):
            raise SystemExit(f"{kind}, {name}: {values}")
        report["records"].append({"kind": kind, "network": name, "values": values})
    text = markdown(report)
    print(text)
    if args.output:
        write_whole(args.output, json.dumps(report, indent=1) + "\n")
        write_whole(args.output.with_suffix(".md"), text)
    return report


if __name__ == "__main__":
    main()
