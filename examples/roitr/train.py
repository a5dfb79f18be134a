"""Train RoITr on folders in the layout of 3DMatch, real scans or generated rooms (`generate_rooms.py`), or on 4DMatch.

    python examples/roitr/generate_rooms.py rooms/train --rooms 300
    python examples/roitr/generate_rooms.py rooms/validation --rooms 10 --first-seed 900000
    python examples/roitr/train.py --config examples/roitr/configs/small.json --data rooms/train \
        --validation rooms/validation --output runs/small

The same script runs on one CPU, one GPU (`--accelerator gpu --precision bf16-mixed`), or several (`--devices 8
--num-nodes 4`). What training sample n is depends on the seed and n alone, so neither the number of processes nor an
interruption changes the result: `--resume` goes on from the last checkpoint to the same weights. One is written every
`save_every` steps, and on SIGTERM and Ctrl-C. The output folder gets `log.jsonl`, a line per step; `last.ckpt`;
`best/`, the averaged weights that were best on the validation set, and `final/`, those of the end, which
`RoITr.from_pretrained` loads; and `curve.png`.
"""

from __future__ import annotations

import copy
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from curve import can_draw, draw_log
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from recipe import Options, parse
from samples import Minibatch, Samples, Schedule, pairs_below
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from rotaware.datasets import write_indoor_rooms
from rotaware.geo.files import clear_unfinished, write_whole
from rotaware.geo.training_runs import (
    Stop,
    append_log,
    cut_log,
    keep_freed_memory,
    peak_megabytes,
    read_log,
    start_worker,
)
from rotaware.pointcloud import Losses, RoITr, RoITrConfig, RoITrObjective

# Steps in a row without a finite gradient, after which a run has failed.
MOST_SKIPPED = 20
# What the progress bar says, and how short.
SHOWN = {
    "coarse": "coarse",
    "fine": "fine",
    "pir": "PIR",
    "ir": "IR",
    "validation_pir": "validation PIR",
    "validation_ir": "validation IR",
}
# As `rotaware.pointcloud.Quality`, and whether the inlier ratio is above 5 %.
QUALITIES = ("pir", "ir", "matches", "fmr")


class BadRun(ValueError):
    """Options that do not fit what is on disk: said in one line, exit code 1."""


class LossOf(nn.Module):
    """The objective on a minibatch: what runs in parallel."""

    def __init__(self, objective: RoITrObjective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, minibatch: Minibatch) -> Losses:
        """Mean losses; the patches of a sample are chosen by its number."""
        return self.objective(minibatch.pairs, minibatch.numbers)


class Training:
    """Everything a checkpoint holds, and one step of it.

    No random state is among it: what is drawn for a sample depends on its number alone.
    """

    def __init__(self, fabric: Fabric, network: RoITr, options: Options, pairs: int) -> None:
        self.fabric, self.options = fabric, options
        self.pairs, self.pairs_per_step = pairs, options.batch * fabric.world_size
        self.model = network
        self.averaged = copy.deepcopy(network).to(fabric.device).requires_grad_(False)
        kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(
            network.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=options.weight_decay
        )
        self.loss_of, self.optimizer = fabric.setup(LossOf(self.objective_of(network)), optimizer)
        self.step, self.skipped, self.best = 0, 0, -math.inf

    def objective_of(self, network: RoITr) -> RoITrObjective:
        """A network with the losses of the recipe."""
        options = self.options
        return RoITrObjective(network, radius=options.radius, patch_pairs=options.patch_pairs, masked=options.masked)

    def learning_rate(self) -> float:
        """Of the step to come."""
        options = self.options
        warm = min(1.0, (self.step + 1) / max(1, options.warmup))
        if options.schedule == "epoch":
            passes = self.step * self.pairs_per_step // self.pairs
            return float(warm * options.learning_rate * 0.95**passes)
        share = 0.5 * (1 + math.cos(math.pi * self.step / options.steps))
        return warm * (options.final_learning_rate + (options.learning_rate - options.final_learning_rate) * share)

    def advance(self, batches: Iterator[Minibatch]) -> dict[str, float]:
        """One step of the optimiser; losses are means over all pairs of all processes."""
        options, began, waited = self.options, time.perf_counter(), 0.0
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        sums = torch.zeros(3, device=self.fabric.device)
        passes = options.batch // options.packed
        for part in range(passes):
            before = time.perf_counter()
            minibatch = next(batches)
            waited += time.perf_counter() - before
            minibatch = minibatch.to(self.fabric.device)
            with self.fabric.no_backward_sync(self.loss_of, enabled=part + 1 < passes):
                losses = self.loss_of(minibatch)
                self.fabric.backward(losses.total / passes)
            sums += torch.stack([each.detach() for each in losses]) / passes
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.clip or math.inf)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.skipped = 0
        else:
            self.skipped += 1
        if self.skipped == MOST_SKIPPED:
            raise RuntimeError(f"the gradient was not finite in {MOST_SKIPPED} steps in a row, up to {self.step + 1}")
        self.step += 1
        decay = min(options.average, self.step / (self.step + 9))
        with torch.no_grad():
            for mean, value in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        sums = self._mean(sums)
        record = dict(zip(("total", "coarse", "fine"), sums.tolist(), strict=True))
        if self.step % options.measure_every == 0:
            measured = self._mean(self.quality(self.model, minibatch))
            record |= dict(zip(QUALITIES, measured.tolist(), strict=True))
        seconds = time.perf_counter() - began
        return {
            "step": self.step,
            **record,
            "gradient": float(norm),
            "learning_rate": rate,
            "seconds": seconds,
            "waited": waited,
            "pairs_per_second": self.pairs_per_step / seconds,
        }

    @torch.no_grad()
    def quality(self, network: RoITr, minibatch: Minibatch) -> torch.Tensor:
        """(4,) `QUALITIES` of the matches that a network predicts, means over the pairs."""
        with self.fabric.autocast():
            found = self.objective_of(network).quality(minibatch.pairs, network(minibatch.pairs))
        rows = [[*map(float, each), float(each.inlier_ratio > 0.05)] for each in found]
        return torch.tensor(rows, device=self.fabric.device).mean(0)

    def validate(self, samples: Samples) -> dict[str, float]:
        """Losses and quality of the averaged weights on the validation set, which the processes share out."""
        count, objective = self.options.validation_pairs, self.objective_of(self.averaged)
        sums = torch.zeros(3 + len(QUALITIES), device=self.fabric.device)
        for number in range(self.fabric.global_rank, count, self.fabric.world_size):
            minibatch = samples[[number]].to(self.fabric.device)
            with torch.no_grad(), self.fabric.autocast():
                losses = objective(minibatch.pairs, [number])
            sums += torch.cat([torch.stack(list(losses)), self.quality(self.averaged, minibatch)])
        values = (self._mean(sums) * (self.fabric.world_size / count)).tolist()
        names = ("total", "coarse", "fine", *QUALITIES)
        return {f"validation_{name}": value for name, value in zip(names, values, strict=True)}

    def is_best(self, record: dict[str, float]) -> bool:
        """Whether a validation is better than all before it; remembers it."""
        name = self.options.criterion
        value = record[f"validation_{name}"] * (-1 if name == "total" else 1)
        if not value > self.best:
            return False
        self.best = value
        return True

    def _mean(self, values: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.fabric.all_reduce(values, reduce_op="mean"))

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "best": self.best,
            "options": asdict(self.options),
            "network": self.model.config.to_json(),
            "pairs": self.pairs,
            "pairs_per_step": self.pairs_per_step,
        }
        write_whole(path, lambda unfinished: torch.save(state, unfinished), durable=True)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            BadRun: it belongs to another recipe, network or data, so that the result would be another one.
        """
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        changed = self.options.changes(state["options"])
        now = {"network": self.model.config.to_json(), "pairs": self.pairs, "pairs_per_step": self.pairs_per_step}
        changed += [name for name, value in now.items() if state.get(name, value) != value]
        if changed:
            raise BadRun(f"--resume: {path} was made with other {', '.join(changed)}")
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.skipped, self.best = state["step"], state.get("skipped", 0), state["best"]


def train(args: Any, config: RoITrConfig, options: Options) -> None:
    """The loop."""
    fabric = Fabric(
        accelerator=args.accelerator,
        devices=args.devices,
        num_nodes=args.num_nodes,
        strategy=DDPStrategy() if args.devices * args.num_nodes > 1 else "auto",
        precision=args.precision,
    )
    fabric.launch()
    # Not left to Fabric, which gives two processes fewer threads each than one: sums would be rounded differently.
    torch.set_num_threads(args.threads)
    is_first = fabric.global_rank == 0
    torch.use_deterministic_algorithms(fabric.device.type == "cpu")
    pairs = pairs_below(args.data, args.pairs, options.least_overlap, options.most_overlap)
    if options.epochs:
        per_step = options.batch * fabric.world_size
        options = replace(options, steps=math.ceil(options.epochs * len(pairs) / per_step))
    torch.manual_seed(options.seed)
    state = Training(fabric, RoITr.from_pretrained(args.start) if args.start else RoITr(config), options, len(pairs))
    if state.model.config != config:
        raise BadRun(f"--start: {args.start} has another network than {args.config}")

    output = Path(args.output)
    last, log = output / "last.ckpt", output / "log.jsonl"
    output.mkdir(parents=True, exist_ok=True)
    if last.is_file():
        if not args.resume:
            raise BadRun(f"--output: {output} holds a run already; --resume goes on with it")
        state.load(last)
    fabric.barrier()
    if is_first:
        cut_log(log, state.step)
        clear_unfinished(last)
    samples, validation = Samples(pairs, config, options, augmented=True), None
    if args.validation:
        held_out = pairs_below(args.validation, args.validation_list or args.pairs, options.least_overlap)
        validation = Samples(held_out, config, options, augmented=False)
    loader = DataLoader(
        samples,
        batch_size=None,
        sampler=Schedule(options, state.step, fabric.global_rank, fabric.world_size),
        num_workers=args.workers,
        prefetch_factor=4 if args.workers else None,
        worker_init_fn=start_worker,
        pin_memory=fabric.device.type == "cuda",
    )
    batches = iter(loader)
    shown: dict[str, str] = {}
    bar = tqdm(total=options.steps, initial=state.step, disable=not is_first or args.quiet, unit="step")
    with Stop(fabric) as stop:
        while state.step < options.steps and not stop.agreed():
            record = state.advance(batches)
            is_last = state.step == options.steps
            if validation is not None and (state.step % options.validate_every == 0 or is_last):
                record |= state.validate(validation)
                if state.is_best(record) and is_first:
                    notes = {"criterion": options.criterion, **record, "recipe": asdict(options)}
                    state.averaged.save_pretrained(output / "best", notes=notes)
            if is_first:
                record["peak_megabytes"] = peak_megabytes(fabric.device)
                append_log(log, record)
                shown |= {SHOWN[name]: f"{value:.3f}" for name, value in record.items() if name in SHOWN}
                bar.set_postfix(shown)
                bar.update()
                if state.step % options.save_every == 0 or is_last:
                    state.save(last)
    bar.close()
    if not is_first:
        return
    if state.step < options.steps:
        state.save(last)
        print(f"stopped after step {state.step} of {options.steps}; --resume goes on from there", file=sys.stderr)
        return
    print(f"{state.step} steps, averaged weights in {output / 'final'}")
    state.averaged.save_pretrained(output / "final", notes={"step": state.step, "recipe": asdict(options)})
    if can_draw():
        draw_log(read_log(log), output / "curve.png")


def main() -> None:
    """The command."""
    args, config, options = parse(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            args.data = args.data or folder
            args.output = args.output or f"{folder}/run"
            if args.data == folder:
                write_indoor_rooms(folder, [100_000], 3, frames=3)
            args.validation = args.validation or args.data
        try:
            train(args, config, options)
        except (OSError, BadRun) as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from error


if __name__ == "__main__":
    keep_freed_memory()
    main()
