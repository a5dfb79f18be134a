"""The decision: two descriptions are compared, and the second object is turned until it can be told.

Khazoum et al., arXiv 2512.13517, module III. A description is nine moves of six directions, as scores of a network or
as what is known; see `rotaware.datasets.RELATIONS` for the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from rotaware.geo.checks import require_shape

MOVES, DIRECTIONS = 9, 6
DESCRIPTION = MOVES * DIRECTIONS
SAME, MIRROR = 0, 4
# Degrees by which each class turns the source; 0 for the two answers.
TURNS = (0, 90, -90, 180, 0)
MOST_ACTIONS = 6


@dataclass(frozen=True)
class AgentConfig:
    """A decision network.

    Args:
        hidden: widths of the layers between; none for a linear one.
        dropout: behind each of them.
        actions: five classes, of which three turn the source; False decides between same and mirror at once.
    """

    hidden: tuple[int, ...] = (512, 512)
    dropout: float = 0.1
    actions: bool = True

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden) or not 0 <= self.dropout < 1:
            raise ValueError(
                f"hidden, dropout: expected positive widths and a share below 1, got {self.hidden} and {self.dropout}"
            )


class DecisionAgent(nn.Module):
    """What to do about a pair of descriptions.

    >>> agent = DecisionAgent()
    >>> agent(torch.zeros(2, 9, 6), torch.zeros(2, 9, 6)).shape
    torch.Size([2, 5])
    """

    def __init__(self, config: AgentConfig | None = None) -> None:
        super().__init__()
        self.config = config or AgentConfig()
        widths = (2 * DESCRIPTION, *self.config.hidden)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(self.config.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], len(TURNS) if self.config.actions else 2))

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """Scores (B, 5), or (B, 2) for same and mirror, of descriptions (B, 9, 6)."""
        require_shape("target", target, "B", MOVES, DIRECTIONS)
        require_shape("source", source, len(target), MOVES, DIRECTIONS)
        scores: Tensor = self.layers(torch.cat([target.flatten(1), source.flatten(1)], dim=1))
        return scores


def known_description(symbols: Tensor) -> Tensor:
    """Moves (B, 9) int64 as descriptions (B, 9, 6) that are sure of them.

    >>> known_description(torch.tensor([[4, 4, 4, 2, 2, 3, 3, 5, 5]])).sum().item()
    9.0
    """
    require_shape("symbols", symbols, "B", MOVES)
    return functional.one_hot(symbols, DIRECTIONS).float()


def train_agent(
    agent: DecisionAgent,
    target: Tensor,
    source: Tensor,
    relations: Tensor,
    *,
    epochs: int = 30,
    batch: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> list[float]:
    """Supervised training with Adam on pairs whose relation is known; no reward, and nothing is turned.

    Args:
        agent: is trained, and left in evaluation mode.
        target, source: (N, 9, 6) descriptions.
        relations: (N,) int64 classes; for an agent without actions, 0 for same and 1 for mirror.
        epochs, batch, learning_rate: of the training.
        seed: of the order and of the dropout.
    Returns:
        Mean loss of each epoch.
    """
    if not len(target) == len(source) == len(relations) > 0:
        raise ValueError(
            f"target, source, relations: expected as many of each, got {len(target)}, {len(source)}, {len(relations)}"
        )
    optimizer = torch.optim.Adam(agent.parameters(), lr=learning_rate)
    history = []
    agent.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(epochs):
            losses = []
            for rows in torch.randperm(len(target)).split(batch):
                loss = functional.cross_entropy(agent(target[rows], source[rows]), relations[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            history.append(float(torch.stack(losses).mean()))
    agent.eval()
    return history


@dataclass(frozen=True)
class Look:
    """One look at pairs, of those that were not decided before."""

    trials: Tensor  # (n,) int64, their numbers
    angles: Tensor  # (n,) degrees by which the sources are turned
    source: Tensor  # (n, 9, 6) how they are described
    probabilities: Tensor  # (n, 5)


@dataclass(frozen=True)
class Decisions:
    """What was decided about pairs, and how."""

    answers: Tensor  # (B,) int64, SAME, MIRROR, or -1 where there was no answer
    actions: Tensor  # (B,) int64, how often the source was turned
    angles: Tensor  # (B,) int64, degrees by which, in all
    looks: tuple[Look, ...]


@torch.no_grad()
def decide(
    agent: Callable[[Tensor, Tensor], Tensor],
    target: Tensor,
    describe_source: Callable[[Tensor, Tensor], Tensor],
    *,
    most_actions: int = MOST_ACTIONS,
) -> Decisions:
    """Look, and turn the source until the agent answers.

    Args:
        agent: a `DecisionAgent` with actions in evaluation mode, or a function like it.
        target: (B, 9, 6) descriptions.
        describe_source: from the numbers of trials (n,) and the degrees (n,) by which their sources are turned in all,
            to descriptions (n, 9, 6).
        most_actions: a trial without an answer after as many has none.

    >>> sure = lambda target, source: torch.tensor([[5.0, 0, 0, 0, 0]]).expand(len(target), -1)
    >>> found = decide(sure, torch.zeros(3, 9, 6), lambda trials, angles: torch.zeros(len(trials), 9, 6))
    >>> found.answers.tolist(), found.actions.tolist()
    ([0, 0, 0], [0, 0, 0])
    """
    count, turns = len(target), torch.tensor(TURNS)
    answers = torch.full((count,), -1)
    actions, angles = torch.zeros(2, count, dtype=torch.int64).unbind()
    open_trials, looks = torch.arange(count), list[Look]()
    for step in range(most_actions + 1):
        if len(open_trials) == 0:
            break
        source = describe_source(open_trials, angles[open_trials])
        scores = agent(target[open_trials], source).cpu()
        looks.append(Look(open_trials, angles[open_trials], source, scores.softmax(dim=1)))
        chosen = scores.argmax(dim=1)
        answered = (chosen == SAME) | (chosen == MIRROR)
        answers[open_trials[answered]] = chosen[answered]
        open_trials, chosen = open_trials[~answered], chosen[~answered]
        if step < most_actions:
            actions[open_trials] += 1
            angles[open_trials] += turns[chosen]
    return Decisions(answers, actions, angles, tuple(looks))


def mean_actions(decisions: Decisions, disparities: Sequence[int] | Tensor, chosen: Tensor) -> dict[int, float]:
    """Mean number of actions at each disparity, over some of the trials.

    Args:
        decisions: of B trials.
        disparities: (B,) degrees.
        chosen: (B,) bool, such as those that were decided rightly.
    """
    given = torch.as_tensor(disparities)
    found = {}
    for disparity in sorted(set(given.tolist())):
        rows = (given == disparity) & chosen
        if bool(rows.any()):
            found[int(disparity)] = float(decisions.actions[rows].double().mean())
    return found
