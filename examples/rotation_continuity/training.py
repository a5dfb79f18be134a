"""Networks and the training loop of every experiment: Adam on fresh batches, checkpoints that continue exactly."""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from command import BadData
from torch import Tensor, nn

from rotaware.geo.files import write_whole

# Batches drawn, and losses looked at, together: one call for 50 costs hardly more than one call for one.
BLOCK = 50

Batch = tuple[Tensor, ...]
Rate = Callable[[int], float]


@dataclass(frozen=True)
class Checkpoints:
    """Where a training run is saved, how often, and what must agree for it to be continued."""

    path: Path
    every: int = 0  # iterations; 0 writes none
    resume: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """What a training run says about itself."""

    loss: float  # mean over the last block
    ms_per_iteration: float  # median over the blocks


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers from each size to the next, with LeakyReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1])


def cosine(peak: float, iterations: int) -> Rate:
    """Learning rate that falls from `peak` to 0 along half a cosine."""
    return lambda iteration: 0.5 * peak * (1 + math.cos(math.pi * iteration / iterations))


def steps(*pairs: tuple[int, float]) -> Rate:
    """Learning rate that is constant from each (iteration, rate) to the next."""
    return lambda iteration: [rate for start, rate in pairs if start <= iteration][-1]


def train(
    model: nn.Module,
    draw: Callable[[int], Iterable[Batch]],
    loss_of: Callable[..., Tensor],
    *,
    iterations: int,
    rate: Rate,
    generator: torch.Generator,
    checkpoints: Checkpoints,
    title: str,
) -> Trained:
    """Train `model` in place.

    Args:
        model: every parameter of it that gets a gradient must move, or the run is refused: the released code of the
            paper trained some networks that were not the ones it evaluated.
        draw: the given number of batches, drawn from `generator`.
        loss_of: scalar loss of one batch.
    Raises:
        BadData: a checkpoint cannot be read or was made with other settings.
        RuntimeError: the loss is not finite, or parameters did not change.
    """
    first = next(model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), fused=first.device.type in ("cpu", "cuda"))
    done, times = restore(model, optimizer, generator, checkpoints, iterations)
    before = {name: weights.detach().clone() for name, weights in model.named_parameters()}
    model.train()
    loss, shown = math.nan, time.monotonic()
    unsaved = 0
    while done < iterations:
        count = min(BLOCK, iterations - done)
        start = time.perf_counter()
        total = torch.zeros((), device=first.device)
        for offset, batch in enumerate(draw(count)):
            for group in optimizer.param_groups:
                group["lr"] = rate(done + offset)
            step_loss = loss_of(*batch)
            optimizer.zero_grad()
            step_loss.backward()
            optimizer.step()
            total += step_loss.detach()
        loss = float(total) / count
        times.append(1e3 * (time.perf_counter() - start) / count)
        done, unsaved = done + count, unsaved + count
        if not math.isfinite(loss):
            raise RuntimeError(f"{title}: the loss became {loss} by iteration {done}")
        require_movement(model, before, title)
        if checkpoints.every and (unsaved >= checkpoints.every or done == iterations):
            save(model, optimizer, generator, checkpoints, done, times)
            unsaved = 0
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            left = statistics.median(times) * (iterations - done) / 1e3
            print(f"{title}: {done}/{iterations}, loss {loss:.2e}, {left:.0f} s left", file=sys.stderr)
    return Trained(loss, statistics.median(times))


def require_movement(model: nn.Module, before: dict[str, Tensor], title: str) -> None:
    """Refuse a run whose loss does not reach the parameters of the model that will be evaluated.

    `before` is emptied of the parameters that have moved: each has to be seen to move once.
    """
    for name, weights in model.named_parameters():
        if name in before and not torch.equal(before[name], weights.detach()):
            del before[name]
    if before:
        raise RuntimeError(f"{title}: training does not change {', '.join(before)}")


def save(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    checkpoints: Checkpoints,
    done: int,
    times: list[float],
) -> None:
    """Write everything that the next iteration depends on."""
    state = {
        "settings": checkpoints.settings,
        "iteration": done,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "ms_per_iteration": statistics.median(times),
    }
    write_whole(checkpoints.path, lambda path: torch.save(state, path))


def restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    checkpoints: Checkpoints,
    iterations: int,
) -> tuple[int, list[float]]:
    """Iterations done and their time so far: (0, []) without a checkpoint to continue."""
    if not (checkpoints.resume and checkpoints.path.exists()):
        return 0, []
    try:
        state = torch.load(checkpoints.path, map_location="cpu", weights_only=True)
        if state["settings"] != checkpoints.settings:
            raise BadData(
                f"{checkpoints.path} was made with other settings: {state['settings']} there, "
                f"{checkpoints.settings} here; repeat the options of that run or choose another --out"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        done = int(state["iteration"])
        times = [float(state["ms_per_iteration"])]
    except BadData:
        raise
    except Exception as error:
        raise BadData(f"{checkpoints.path} is not a checkpoint of this experiment: {error}") from error
    if done > iterations:
        raise BadData(f"{checkpoints.path} is at iteration {done}, past the {iterations} asked for")
    return done, times
