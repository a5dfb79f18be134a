"""Every option beyond the published RoITr, measured on its own: small networks on the same seeds, scans and steps.

    python examples/roitr/generate_rooms.py rooms/train --rooms 300
    python examples/roitr/generate_rooms.py rooms/validation --rooms 10 --first-seed 900000
    python examples/roitr/options.py --data rooms/train --validation rooms/validation --output runs/options

Each row of the table is the published behaviour with one thing changed: `train.py` trains it, and all networks are
judged on the same validation pairs in the same random poses. Run the command again to go on: what is finished is kept.
The output folder gets a folder for each network, and `options.json` and `options.md` for all.

PIR, IR (within 0.20 m, 2.5 times the distance between points) and FMR are of the matches as they come. A pair is
registered if the best pose that `rotaware.pointcloud.estimators.hypotheses` finds, from the matches alone, is within 15
degrees and 0.30 m. Seconds are of one core and do not count waiting.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from conditions import FACTORS, FLIPS, LOW_OVERLAP, changed_by_turning, evaluated
from curve import read_log
from recipe import Options
from samples import Samples, pairs_below

from rotaware.datasets import write_indoor_rooms
from rotaware.geo.files import write_whole
from rotaware.kernels import farthest_point_sampling
from rotaware.pointcloud import RoITr, RoITrConfig, RoITrObjective
from rotaware.pointcloud.node_geometry import GeometricEmbedding, NodeGeometry

# Metres between points. It is 0.025 in the published recipe; other lengths grow with it, and minutes are enough.
SPACING = 0.08
NETWORK: dict[str, Any] = {
    "widths": [32, 48, 64, 64],
    "point_channels": 64,
    "patch_pairs": 48,
    "distance_scale": 8 * SPACING,
    "tie_tolerance": 0.0,
}
RECIPE: dict[str, Any] = {
    "steps": 1500,
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-4,
    "thin": SPACING,
    "radius": 1.5 * SPACING,
    "patch_pairs": 64,
    "masked": False,
    "rotations": "published",
}
QUICK_NETWORK = {"widths": [32, 32, 32, 32], "point_channels": 16, "patch_points": 24, "patch_pairs": 16}
QUICK_RECIPE = {"steps": 2, "thin": 0.15, "patch_pairs": 8}
QUICK_ROWS = ("published", "signed", "ties")


class Purpose(NamedTuple):
    """What an option is for: a quantity of `conditions.py` under a condition."""

    condition: str
    quantity: str
    words: str


@dataclass(frozen=True)
class Row:
    """The published behaviour with one thing changed."""

    words: str
    network: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    purposes: tuple[Purpose, ...] = ()
    # Else the published weights are used in another way.
    is_trained: bool = True


ROWS = {
    "published": Row("published behaviour"),
    "signed": Row(
        "signed pair features",
        {"pair_features": "signed_ppf"},
        purposes=(Purpose("mirrored", "kept", "matches that stay when the source is mirrored, %"),),
    ),
    "flips": Row(
        "trained with a tenth of the normals turned around",
        recipe={"flips": FLIPS},
        purposes=(Purpose("flips", "ir", "IR with a tenth of the normals turned around, %"),),
    ),
    "sensor": Row(
        "trained with the sensor mistaken, 0.3 m per axis",
        recipe={"sensor_shift": 0.3},
        purposes=(Purpose("sensor", "ir", "IR with the sensor mistaken by 0.5 m, %"),),
    ),
    "voxels": Row(
        "lengths in voxels",
        {"voxel": SPACING},
        {"thin": 0.0, "occupied": [1800, 2800]},
        tuple(Purpose(name, "ir", f"IR with lengths times {factor:g}, %") for name, factor in FACTORS.items()),
    ),
    "patches": Row(
        "patches of 128 points",
        {"patch_points": 128},
        purposes=(Purpose("plain", "in_patches", "points that are in a patch, %"),),
    ),
    "masked": Row(
        "masked circle loss",
        recipe={"masked": True},
        purposes=(Purpose("plain", "low_overlap_ir", f"IR of pairs with an overlap below {LOW_OVERLAP}, %"),),
    ),
    "uniform": Row(
        "both scans turned, uniform over SO(3)",
        recipe={"rotations": "uniform"},
        purposes=(Purpose("given", "ir", "IR in the poses of the scans, %"),),
    ),
    "adaptive": Row(
        "as many pairs of patches as look alike",
        {"node_matching": "adaptive"},
        purposes=(Purpose("plain", "matches", "matches"),),
        is_trained=False,
    ),
    "ties": Row(
        "ties go to the lower row",
        {"tie_tolerance": None},
        purposes=(
            Purpose("turned", "entries", "entries of tables that change when a scan on a lattice is turned, %"),
            Purpose("turned", "changed", "matches that change when scans on a lattice are turned, %"),
        ),
        is_trained=False,
    ),
}
QUANTITIES = {"pir": "PIR, %", "ir": "IR, %", "fmr": "FMR, %", "registered": "registered, %"}
# Pairs on the lattice; steps that are timed; superpoints are one in so many points, as published.
LATTICE_PAIRS, TIMED_STEPS, POINTS_PER_NODE = 6, 10, 64


def conditions_of(name: str) -> list[str]:
    """What a network is judged under: that which it is for; the published one under everything."""
    names = ROWS if name == "published" else (name,)
    return list(dict.fromkeys(["plain", *(purpose.condition for each in names for purpose in ROWS[each].purposes)]))


# One network.


def result_of(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The result of one network; from its folder, if it was measured before in the same way."""
    row, conditions = ROWS[name], conditions_of(name)
    content = {"network": {**args.network, **row.network}, "recipe": {**args.recipe, **row.recipe, "seed": seed}}
    settings = {**content, "data": args.sizes, "pairs": args.pairs, "conditions": conditions}
    folder = args.output / f"{name}-{seed}"
    file = folder / "result.json"
    if file.is_file():
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if result["settings"] == settings:
            return result
    folder.mkdir(parents=True, exist_ok=True)
    if row.is_trained:
        write_whole(folder / "recipe.json", json.dumps(content, indent=1) + "\n")
        train(folder, args)
    weights = folder if row.is_trained else args.output / f"published-{seed}"
    network = RoITr(RoITrConfig.from_json(json.dumps(content["network"])))
    network.load_state_dict(RoITr.from_pretrained(weights / "final").state_dict())
    recipe: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content["recipe"].items()
    }
    options = Options(**recipe)
    result = {"settings": settings}
    if row.is_trained:
        result["cost"] = cost_of_training(network, pairs_below(args.data, "pairs.pkl", options.least_overlap), options)
        result["cost"]["megabytes"] = max(record["peak_megabytes"] for record in read_log(folder / "log.jsonl"))
    network.eval().requires_grad_(False)
    validation = pairs_below(args.validation, "pairs.pkl", options.least_overlap)
    # Every condition but that one is of single pairs of scans.
    single = [condition for condition in conditions if condition != "turned"]
    result["found"] = evaluated(network, validation, options, single, args.pairs)
    if "turned" in conditions:
        count = min(LATTICE_PAIRS, args.pairs)
        result["found"]["turned"] = changed_by_turning(network, validation, options, count)
    write_whole(file, json.dumps(result, indent=1) + "\n")
    return result


def train(folder: Path, args: argparse.Namespace) -> None:
    """Let `train.py` train by the recipe in a folder, or finish what it began."""
    command = [sys.executable, str(Path(__file__).with_name("train.py")), "--config", str(folder / "recipe.json")]
    command += ["--data", args.data, "--output", str(folder), "--workers", str(args.workers)]
    command += ["--accelerator", "cpu", "--resume", "--quiet"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"{folder}: training ended with {done.returncode}")


def cost_of_training(network: RoITr, pairs: Any, options: Options) -> dict[str, float]:
    """CPU seconds that one pair takes: to be made ready, and forward and backward."""
    samples = Samples(pairs, network.config, options, augmented=True)
    objective = RoITrObjective(network, radius=options.radius, patch_pairs=options.patch_pairs, masked=options.masked)
    spent = []
    for number in range(TIMED_STEPS):
        began = time.process_time()
        minibatch = samples[[number]]
        ready = time.process_time()
        objective(minibatch.pairs, [number]).total.backward()
        spent.append((ready - began, time.process_time() - ready))
    data, step = (statistics.median(each) for each in zip(*spent, strict=True))
    return {"data_seconds": data, "step_seconds": step}


# The embedding, which needs no training.


def compared_embeddings(cloud: np.ndarray, quick: bool) -> dict[str, Any]:
    """The embedding from tables beside the literal one, of the published width, for the superpoints of a scan."""
    points = torch.from_numpy(np.asarray(cloud, dtype=np.float64))
    count = 20 if quick else len(points) // POINTS_PER_NODE
    nodes = points[farthest_point_sampling(points, count).long()].numpy()
    found = {}
    for tabulated in (False, True):
        # A process that has held nothing else.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            found[tabulated] = process.submit(embedding_of, nodes, tabulated, 1 if quick else 5).result()
    exact, ours = found[False].pop("values"), found[True].pop("values")
    difference = float(np.abs(ours - exact).max() / np.abs(exact).max())
    return {"superpoints": count, "difference": difference, "literal": found[False], "tabulated": found[True]}


def embedding_of(nodes: np.ndarray, tabulated: bool, repeats: int) -> dict[str, Any]:
    """Values of the embedding, and CPU seconds and memory of it forward and backward."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = GeometricEmbedding(RoITrConfig().widths[-1], tabulated=tabulated)
    few, geometry = (NodeGeometry.of(torch.from_numpy(each).float()) for each in (nodes[:8], nodes))
    # Compiled before anything is measured.
    module(few).sum().backward()
    idle, seconds = peak_megabytes(), []
    for _ in range(repeats):
        began = time.process_time()
        embedded = module(geometry)
        embedded.sum().backward()
        seconds.append(time.process_time() - began)
    megabytes = peak_megabytes() - idle
    return {"seconds": statistics.median(seconds), "megabytes": megabytes, "values": embedded.detach().numpy()}


def peak_megabytes() -> float:
    """Most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


# The tables.


def markdown(report: Mapping[str, Any]) -> str:
    """Two tables: what every option costs and does in general, and what it does where it is meant to help."""
    rows, setting = report["rows"], report["setting"]
    general = [[ROWS[name].words, *accuracy(rows, name), *cost(rows[name])] for name in rows]
    special = [line for name in rows for line in special_lines(rows, name)] + embedding_lines(report["embedding"])
    seeds = len(rows["published"])
    text = [
        f"{setting['steps']} steps of one pair, out of {setting['training_pairs']}; {setting['pairs']} pairs for "
        f"validation, in random poses; {seeds} seed{'s' * (seeds > 1)}. In brackets the mean difference from the "
        "published behaviour with the same seed; ± is half the range over the seeds, which tells how much is noise. "
        "Where normals are wrong, the estimator still gets the true ones.",
        table(["", *QUANTITIES.values(), "CPU s, data", "CPU s, step", "MB"], general),
        table(["option", "what it is for", "published", "with it"], special),
        f"Measured with {report['environment']}, one thread.",
    ]
    return "\n\n".join(text)


def accuracy(rows: Mapping[str, Any], name: str) -> Iterator[str]:
    """Cells of one row: means over the seeds, and what they differ by."""
    for quantity in QUANTITIES:
        own, published = (values_of(rows[each], "plain", quantity) for each in (name, "published"))
        mean = f"{100 * statistics.fmean(own.values()):.1f}"
        if name == "published":
            yield mean + (f" ± {50 * (max(own.values()) - min(own.values())):.1f}" if len(own) > 1 else "")
        else:
            yield f"{mean} ({100 * statistics.fmean(own[seed] - published[seed] for seed in own):+.1f})"


def values_of(results: Mapping[str, Any], condition: str, quantity: str) -> dict[str, float]:
    """By seed, where it was measured."""
    found = {seed: result["found"].get(condition, {}).get(quantity) for seed, result in results.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def cost(results: Mapping[str, Any]) -> Iterator[str]:
    """Cells of one row: medians over the seeds."""
    costs = [result["cost"] for result in results.values() if "cost" in result]
    for key, form in (("data_seconds", ".3f"), ("step_seconds", ".3f"), ("megabytes", ".0f")):
        yield format(statistics.median(each[key] for each in costs), form) if costs else "-"


def special_lines(rows: Mapping[str, Any], name: str) -> Iterator[list[str]]:
    """What an option is for, without and with it."""
    for condition, quantity, words in ROWS[name].purposes:
        both = [values_of(rows[each], condition, quantity).values() for each in ("published", name)]
        if all(both):
            factor, form = (100, ".1f") if words.endswith("%") else (1, ".0f")
            yield [ROWS[name].words, words, *(format(factor * statistics.fmean(each), form) for each in both)]


def embedding_lines(found: Mapping[str, Any]) -> list[list[str]]:
    """The same of the tabulated embedding."""
    option = f"geometric embedding from tables, {found['superpoints']} superpoints"
    both = [found["literal"], found["tabulated"]]
    return [
        [option, "largest difference, of the largest value", "0", f"{found['difference']:.1e}"],
        [option, "CPU s, forward and backward", *(f"{each['seconds']:.3f}" for each in both)],
        [option, "MB, forward and backward", *(f"{each['megabytes']:.0f}" for each in both)],
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train, judge, and write the tables after every network."""
    args.output.mkdir(parents=True, exist_ok=True)
    least = Options(**args.recipe).least_overlap
    training, validation = (pairs_below(folder, "pairs.pkl", least) for folder in (args.data, args.validation))
    args.pairs = min(args.pairs, len(validation))
    args.sizes = {args.data: len(training), args.validation: len(validation)}
    report: dict[str, Any] = {
        "environment": f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}",
        "setting": {"steps": args.recipe["steps"], "training_pairs": len(training), "pairs": args.pairs},
        "embedding": compared_embeddings(validation[0].source, args.quick),
        "rows": {},
    }
    for seed in range(args.seeds):
        for name in args.rows:
            print(f"{name}, seed {seed}", file=sys.stderr)
            report["rows"].setdefault(name, {})[str(seed)] = result_of(name, seed, args)
            write_whole(args.output / "options.json", json.dumps(report, indent=1) + "\n")
            write_whole(args.output / "options.md", markdown(report) + "\n")
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of training scans")
    parser.add_argument("--validation", help="folder of validation scans")
    parser.add_argument("--output", type=Path, help="folder for networks and tables")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--steps", type=int, help=f"of training (default: {RECIPE['steps']})")
    parser.add_argument("--seeds", type=int, default=2, help="networks per row (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=48, help="validation pairs (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare training data")
    parser.add_argument("--quick", action="store_true", help="a minute, on generated scans: shows that everything runs")
    args = parser.parse_args(arguments)
    args.network, args.recipe = dict(NETWORK), dict(RECIPE)
    if args.steps:
        args.recipe["steps"] = args.steps
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            args.network |= QUICK_NETWORK
            args.recipe |= QUICK_RECIPE
            args.data = args.validation = folder
            args.output, args.seeds, args.pairs, args.workers = Path(folder) / "runs", 1, 2, 0
            args.rows = args.rows or QUICK_ROWS
            write_indoor_rooms(folder, [100_000], 3, frames=3)
        missing = [f"--{name}" for name in ("data", "validation", "output") if getattr(args, name) is None]
        if missing:
            parser.error(f"the following arguments are required: {', '.join(missing)}")
        args.rows = dict.fromkeys(["published", *(args.rows or ROWS)])
        print(markdown(measure(args)))


if __name__ == "__main__":
    main()
