"""The decision agent on descriptions that are right: how often it decides rightly about objects it has never seen.

By hidden layers, with actions (five classes, then the loop of at most six actions) and without (same or mirror at
once). Trained on 220 objects in six poses, tested on 58 others whose mirror images are not among those. The table goes
to standard output; with `--output` the JSON goes to that file and the table beside it as .md.

    python examples/mental/agent_on_symbols.py --output examples/mental/results/agent_on_symbols.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rotaware.datasets import MentalTrial, MentalTrials, describe, posed_paths, quadrant, split_objects
from rotaware.geo.files import write_whole
from rotaware.mental import AgentConfig, DecisionAgent, decide, known_description, mean_actions, train_agent
from rotaware.mental.agent import MIRROR, SAME

HIDDEN: tuple[tuple[int, ...], ...] = ((), (128,), (512,), (512, 512))


def trials_of(paths: Sequence[tuple[int, ...]], seed: int) -> list[MentalTrial]:
    """All trials of a part."""
    trials = MentalTrials(paths, seed=seed)
    return [trials[number] for number in range(len(trials))]


def descriptions(trials: Sequence[MentalTrial]) -> tuple[Tensor, Tensor]:
    """Of targets and sources, (N, 9, 6)."""
    target = torch.tensor([each.target_symbols for each in trials])
    source = torch.tensor([each.source_symbols for each in trials])
    return known_description(target), known_description(source)


def in_the_loop(agent: DecisionAgent, test: Sequence[MentalTrial]) -> dict[str, Any]:
    """What the agent answers when it may turn the source, whose description is right at every angle."""

    def turned(numbers: Tensor, angles: Tensor) -> Tensor:
        symbols = [
            describe(test[number].source, quadrant(test[number].source_azimuth + angle))
            for number, angle in zip(numbers.tolist(), angles.tolist(), strict=True)
        ]
        return known_description(torch.tensor(symbols))

    decisions = decide(agent, descriptions(test)[0], turned)
    mirror = torch.tensor([each.mirror for each in test])
    right = decisions.answers == torch.where(mirror, MIRROR, SAME)
    disparities = [each.disparity for each in test]
    return {
        "accuracy": float(right.double().mean()),
        "unanswered": float((decisions.answers < 0).double().mean()),
        "actions_of_right_matches": mean_actions(decisions, disparities, right & ~mirror),
    }


def scored(hidden: tuple[int, ...], seed: int, objects: int | None, epochs: int) -> dict[str, Any]:
    """One record."""
    split = split_objects(seed)
    train, test = (trials_of(posed_paths(part[:objects]), seed) for part in (split.train, split.test))
    inputs, unseen = descriptions(train), descriptions(test)
    record: dict[str, Any] = {"hidden": list(hidden), "seed": seed, "train": len(train), "test": len(test)}
    for actions in (True, False):
        relations, wanted = (
            torch.tensor([each.relation if actions else int(each.mirror) for each in part]) for part in (train, test)
        )
        torch.manual_seed(seed)
        agent = DecisionAgent(AgentConfig(hidden, actions=actions))
        train_agent(agent, *inputs, relations, epochs=epochs, seed=seed)
        with torch.no_grad():
            right = agent(*unseen).argmax(dim=1) == wanted
        record["five_way" if actions else "two_way"] = float(right.double().mean())
        if actions:
            record["loop"] = in_the_loop(agent, test)
    return record


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: means over the seeds."""
    lines = [
        "| hidden layers | five-way | in the loop | unanswered | actions by disparity | two-way at once |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for hidden in dict.fromkeys(tuple(record["hidden"]) for record in records):
        group = [record for record in records if tuple(record["hidden"]) == hidden]

        def mean(values: Sequence[float]) -> str:
            return f"{100 * statistics.fmean(values):.2f}"

        counts = [each["loop"]["actions_of_right_matches"] for each in group]
        actions = [
            f"{key}: {statistics.fmean(each[key] for each in counts if key in each):.2f}"
            for key in dict.fromkeys(key for each in counts for key in each)
        ]
        cells = [
            ", ".join(map(str, hidden)) or "none", mean([each["five_way"] for each in group]),
            mean([each["loop"]["accuracy"] for each in group]), mean([each["loop"]["unanswered"] for each in group]),
            ", ".join(actions), mean([each["two_way"] for each in group]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Train, score, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of split, trials and weights")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="few objects and epochs: a test of this script")
    parser.add_argument("--output", type=Path, help="file for the JSON, replaced when all is done")
    options = parser.parse_args(arguments)
    objects, epochs = (10, 2) if options.quick else (None, options.epochs)
    seeds = options.seeds[:1] if options.quick else options.seeds
    records = [scored(hidden, seed, objects, epochs) for hidden in HIDDEN for seed in seeds]
    print(table(records))
    if options.output is not None:
        report = {"torch": torch.__version__, "epochs": epochs, "records": records}
        write_whole(options.output, json.dumps(report, indent=1) + "\n")
        write_whole(options.output.with_suffix(".md"), table(records))


if __name__ == "__main__":
    main()
