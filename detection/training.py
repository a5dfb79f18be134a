"""Training of detectors on one CPU, one GPU or several, with `lightning.fabric`.

Which samples a step sees and what its losses draw depends on the seed and the step alone, so that a run that was
stopped goes on to the same weights.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rotaware.geo.checks import require_choice
from rotaware.geo.files import clear_unfinished, write_whole
from rotaware.geo.training_runs import Stop, append_log, cut_log, peak_megabytes, start_worker

from .augmentation import Augmentation
from .checkpoints import save_detector
from .detectors import Detector
from .training_samples import Batch, Schedule, Source, TrainingSamples, generator_of

if TYPE_CHECKING:
    from lightning.fabric import Fabric

# Steps in a row without a finite gradient, after which a run has failed.
MOST_SKIPPED = 20
# Where the learning rate falls to a tenth, as shares of the run: after epochs 8 and 11 of 12.
DROPS = (8 / 12, 11 / 12)


@dataclass(frozen=True)
class TrainingOptions:
    """How a detector is trained; the defaults are those published for DOTA, for batches of 2.

    Args:
        steps: of the optimiser.
        batch: images per step and process.
        optimizer: "sgd" with `momentum`, or "adamw".
        learning_rate: highest; Rotated RetinaNet uses half as much. Proportional to the batch.
        weight_decay: of the optimiser.
        backbone_rate: factor of the learning rate of the backbone; 0.5 where pretrained ARC weights are tuned.
        warmup, warmup_start: steps during which the rate rises from this share of it.
        schedule: "step" drops to a tenth after 8 and 11 twelfths of the steps, "cosine" ends at 0.
        clip: largest norm of the gradient.
        average: decay of the moving average of the weights, which is what is saved; 0 is without.
        seed: of all that is drawn.
    """

    steps: int
    batch: int = 2
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.005
    momentum: float = 0.9
    weight_decay: float = 1e-4
    backbone_rate: float = 1.0
    warmup: int = 500
    warmup_start: float = 0.001
    schedule: Literal["step", "cosine"] = "step"
    clip: float = 35.0
    average: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("optimizer", self.optimizer, ("sgd", "adamw"))
        require_choice("schedule", self.schedule, ("step", "cosine"))
        if min(self.steps, self.batch) < 1 or min(self.learning_rate, self.clip) <= 0:
            raise ValueError(
                f"steps, batch, learning_rate, clip: expected positive numbers, got {self.steps}, {self.batch}, "
                f"{self.learning_rate} and {self.clip}"
            )
        if not 0 <= self.average < 1:
            raise ValueError(f"average: expected a decay in [0, 1), got {self.average}")

    def rate(self, step: int) -> float:
        """Learning rate of a step.

        >>> options = TrainingOptions(1200, warmup=100, warmup_start=0.0)
        >>> [round(options.rate(step), 6) for step in (0, 50, 799, 800, 1100)]
        [0.0, 0.0025, 0.005, 0.0005, 5e-05]
        """
        share = step / self.steps
        if self.schedule == "cosine":
            rate = self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        else:
            rate = self.learning_rate * 0.1 ** sum(share >= drop for drop in DROPS)
        return rate * min(1.0, self.warmup_start + (1 - self.warmup_start) * step / max(1, self.warmup))


class NonFiniteError(RuntimeError):
    """A run whose losses or gradients are not finite, with the images of the last step."""


class ResumeError(ValueError):
    """A folder that holds another run, or one when none was to be resumed."""


class LossOf(nn.Module):
    """The losses of a detector, named: what runs in parallel."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Detector.losses`."""
        return self.detector.losses(batch.images, batch.targets, generator=generator)


class Training:
    """Everything a checkpoint holds, and one step of it."""

    def __init__(self, fabric: Fabric, detector: Detector, options: TrainingOptions, images: int) -> None:
        self.fabric, self.options, self.detector = fabric, options, detector
        # What decides the result beside the code.
        self.described = {
            "options": asdict(options),
            "detector": detector.config.to_dict(),
            "images": images,
            "processes": fabric.world_size,
        }
        self.averaged = copy.deepcopy(detector).to(fabric.device).requires_grad_(False).eval()
        trained = [each for each in detector.parameters() if each.requires_grad]
        backbone = {id(each) for each in detector.backbone.parameters()}
        groups = [
            {"params": [each for each in trained if id(each) not in backbone], "factor": 1.0},
            {"params": [each for each in trained if id(each) in backbone], "factor": options.backbone_rate},
        ]
        optimizer: torch.optim.Optimizer
        if options.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
        else:
            optimizer = torch.optim.SGD(groups, lr=1.0, momentum=options.momentum, weight_decay=options.weight_decay)
        self.loss_of, self.optimizer = fabric.setup(LossOf(detector), optimizer)
        self.step, self.skipped, self.best = 0, 0, -math.inf

    def advance(self, batch: Batch) -> dict[str, float]:
        """One step of the optimiser; the losses of all processes, averaged.

        Raises:
            NonFiniteError: after `MOST_SKIPPED` steps in a row whose gradient was not finite.
        """
        options, began = self.options, time.perf_counter()
        rate = options.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.loss_of.train()
        # Dropout draws from the generator of all.
        torch.manual_seed(generator_of(options.seed, self.step, self.fabric.global_rank).initial_seed())
        batch = batch.to(self.fabric.device)
        losses = self.loss_of(batch, generator_of(options.seed, self.step, self.fabric.global_rank))
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad()
        self.fabric.backward(total)
        norm = nn.utils.clip_grad_norm_(self.detector.parameters(), options.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.skipped = 0
        else:
            self.skipped += 1
            warnings.warn(f"step {self.step + 1} skipped: {self._blamed(batch, losses)}", stacklevel=2)
        if self.skipped == MOST_SKIPPED:
            raise NonFiniteError(f"{MOST_SKIPPED} steps in a row, the last: {self._blamed(batch, losses)}")
        self.step += 1
        self._average()
        values = cast(Tensor, self.fabric.all_reduce(torch.stack([each.detach() for each in losses.values()])))
        record = dict(zip(losses, values.tolist(), strict=True))
        return {
            "step": self.step,
            "total": sum(record.values()),
            **record,
            "gradient": float(norm),
            "learning_rate": rate,
            "seconds": time.perf_counter() - began,
        }

    def _average(self) -> None:
        """Weights follow slowly, counts and statistics at once."""
        # At first, over what there is.
        decay = min(self.options.average, self.step / (self.step + 9))
        with torch.no_grad():
            for mean, value in zip(self.averaged.parameters(), self.detector.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
            for kept, now in zip(self.averaged.buffers(), self.detector.buffers(), strict=True):
                kept.copy_(now)

    def _blamed(self, batch: Batch, losses: Mapping[str, Tensor]) -> str:
        """Which loss was not finite, and on which images."""
        bad = [name for name, value in losses.items() if not bool(torch.isfinite(value))]
        if not bad:
            return f"gradient not finite, losses are; images {', '.join(batch.names)}"
        generator = generator_of(self.options.seed, self.step, self.fabric.global_rank)
        guilty = []
        # Statistics of a batch change with what is in it.
        self.detector.eval()
        with torch.no_grad():
            for number, name in enumerate(batch.names):
                one = batch.only(number)
                found = self.detector.losses(one.images, one.targets, generator=generator)
                if not all(bool(torch.isfinite(value)) for value in found.values()):
                    guilty.append(name)
        where = f"on {', '.join(guilty)}" if guilty else f"on the batch {', '.join(batch.names)}, not on one alone"
        return f"loss {', '.join(bad)} not finite {where}"

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "detector": self.detector.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "best": self.best,
            "described": self.described,
        }
        write_whole(path, lambda unfinished: torch.save(state, unfinished), durable=True)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ResumeError: it belongs to other options, another detector or other data, so that the result would be
                another one.
        """
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        theirs = state["described"]
        changed = [name for name, value in self.described.items() if _plain(theirs.get(name)) != _plain(value)]
        if changed:
            raise ResumeError(f"{path}: expected a run with the same {', '.join(changed)}, got one with other ones")
        self.detector.load_state_dict(state["detector"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.skipped, self.best = state["step"], state["skipped"], state["best"]


def train_detector(
    detector: Detector,
    source: Source,
    augmentation: Augmentation,
    options: TrainingOptions,
    output: str | PathLike[str],
    *,
    fabric: Fabric | None = None,
    resume: bool = False,
    workers: int = 0,
    save_every: int = 500,
    validate: Callable[[Detector], Mapping[str, float]] | None = None,
    validate_every: int = 1000,
    notes: Mapping[str, Any] | None = None,
    on_step: Callable[[Mapping[str, float]], None] | None = None,
) -> bool:
    """Train a detector and save it; Ctrl-C and SIGTERM end a run in order, after its step.

    Args:
        detector: with its first weights.
        source: images with objects.
        augmentation: how they are changed and cropped.
        options: see `TrainingOptions`.
        output: folder: `log.jsonl` gets a line per step, `last.ckpt` what a run goes on from, `final` the detector at
            the end, and `best` the one whose validation was best.
        fabric: launched; None for one process on the CPU.
        resume: go on with the run in `output`, if there is one.
        workers: processes that prepare images.
        save_every: steps between checkpoints.
        validate: measures a detector in evaluation mode; the best is that with the largest of its first numbers.
        validate_every: steps between validations.
        notes: to be saved with the detector.
        on_step: gets what is logged.
    Returns:
        Whether it came to the end; False if it was stopped.
    Raises:
        ResumeError: `output` holds another run.
        NonFiniteError: losses or gradients stayed infinite or NaN.
    """
    if fabric is None:
        fabric = _one_process()
    output = Path(output)
    last, log = output / "last.ckpt", output / "log.jsonl"
    state = Training(fabric, detector, options, len(source))
    if last.is_file():
        if not resume:
            raise ResumeError(f"{output}: expected a folder without a run, got one at {last}; resume goes on with it")
        state.load(last)
    is_first = fabric.global_rank == 0
    fabric.barrier()
    if is_first:
        output.mkdir(parents=True, exist_ok=True)
        cut_log(log, state.step)
        clear_unfinished(last)
    loader = DataLoader(
        TrainingSamples(source, augmentation, options.seed),
        batch_size=None,
        sampler=Schedule(options.batch, state.step, fabric.global_rank, fabric.world_size),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=start_worker,
        pin_memory=fabric.device.type == "cuda",
    )
    described = {**state.described, "augmentation": asdict(augmentation), **(notes or {})}
    batches, damaged = iter(loader), set[str]()
    with Stop(fabric) as stop:
        while state.step < options.steps and not stop.agreed():
            began = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - began
            for text in set(batch.damage) - damaged:
                warnings.warn(f"left out: {text}", stacklevel=2)
            damaged.update(batch.damage)
            record = {**state.advance(batch), "waited": waited, "damaged_images": len(damaged)}
            ended = state.step == options.steps
            if validate is not None and (state.step % validate_every == 0 or ended):
                measured = validate(state.averaged)
                record |= {f"validation_{name}": value for name, value in measured.items()}
                value = next(iter(measured.values()))
                if value > state.best:
                    state.best = value
                    if is_first:
                        save_detector(
                            state.averaged, output / "best", notes={"step": state.step, **measured, **described}
                        )
            if is_first:
                record["peak_megabytes"] = peak_megabytes(fabric.device)
                append_log(log, record)
                if on_step is not None:
                    on_step(record)
                if state.step % save_every == 0 or ended or stop.asked:
                    state.save(last)
    if is_first and state.step == options.steps:
        save_detector(state.averaged, output / "final", notes={"step": state.step, **described})
    return state.step == options.steps


def _one_process() -> Fabric:
    try:
        from lightning.fabric import Fabric
    except ImportError as error:
        raise ImportError("training needs lightning: pip install 'rotaware[train]'") from error
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


def _plain(value: Any) -> Any:
    """As JSON would hold it: lists for tuples."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
