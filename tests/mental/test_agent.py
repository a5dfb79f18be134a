"""The agent: it learns the relation of descriptions, and turns the source until it can answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rotaware.datasets import (
    MentalTrials,
    describe,
    describe_source,
    enumerate_objects,
    posed_paths,
    quadrant,
    relation,
)
from rotaware.mental import AgentConfig, DecisionAgent, decide, known_description, mean_actions, train_agent
from rotaware.mental.agent import MIRROR, SAME, TURNS

TRIALS = [MentalTrials(posed_paths(enumerate_objects()[::30]), seed=2)[number] for number in range(1800)]
TARGET, SOURCE = (
    known_description(torch.tensor([getattr(each, name) for each in TRIALS]))
    for name in ("target_symbols", "source_symbols")
)
RELATIONS = torch.tensor([each.relation for each in TRIALS])


class Ideal:
    """Knows the relation of every pair of descriptions."""

    def __init__(self) -> None:
        self.known: dict[tuple[bytes, bytes], int] = {}
        for path in posed_paths(enumerate_objects()[::30]):
            for target in range(4):
                for source in range(4):
                    for mirror in (False, True):
                        pair = describe(path, target), describe_source(path, source, mirror)
                        self.known[bytes(pair[0]), bytes(pair[1])] = relation(target, source, mirror)

    def __call__(self, target: Tensor, source: Tensor) -> Tensor:
        pairs = zip(target.argmax(dim=2).tolist(), source.argmax(dim=2).tolist(), strict=True)
        classes = [self.known[bytes(one), bytes(other)] for one, other in pairs]
        return torch.nn.functional.one_hot(torch.tensor(classes), len(TURNS)).float()


def turned(numbers: Tensor, angles: Tensor) -> Tensor:
    """Right descriptions of the sources at any angle."""
    symbols = [
        describe(TRIALS[number].source, quadrant(TRIALS[number].source_azimuth + angle))
        for number, angle in zip(numbers.tolist(), angles.tolist(), strict=True)
    ]
    return known_description(torch.tensor(symbols))


def test_the_ideal_agent_is_always_right_and_turns_at_most_once() -> None:
    found = decide(Ideal(), TARGET, turned)
    mirror = torch.tensor([each.mirror for each in TRIALS])
    assert torch.equal(found.answers, torch.where(mirror, MIRROR, SAME))
    means = mean_actions(found, [each.disparity for each in TRIALS], ~mirror)
    assert (means[0], means[120], means[180]) == (0.0, 1.0, 1.0) and means[60] == pytest.approx(2 / 3, abs=0.06)
    first, second = found.looks
    assert len(first.trials) == len(TRIALS) and len(second.trials) == int(found.actions.sum())
    assert torch.equal(found.angles[second.trials], second.angles)
    assert torch.equal(first.probabilities.argmax(dim=1), RELATIONS)


def test_an_agent_that_never_answers_stops() -> None:
    def restless(target: Tensor, source: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1, 0, 0, 0]]).expand(len(target), -1)

    found = decide(restless, TARGET[:3], turned, most_actions=6)
    assert found.answers.tolist() == [-1] * 3 and found.actions.tolist() == [6] * 3
    assert found.angles.tolist() == [540] * 3
    assert [int(look.angles[0]) for look in found.looks] == list(range(0, 541, 90))


def test_relations_of_unseen_objects_are_learnt() -> None:
    trials = MentalTrials(posed_paths(enumerate_objects()[1::4]), seed=1)
    seen = [trials[number] for number in range(len(trials))]
    target, source = (
        known_description(torch.tensor([getattr(each, name) for each in seen]))
        for name in ("target_symbols", "source_symbols")
    )
    torch.manual_seed(0)
    agent = DecisionAgent(AgentConfig((128,)))
    history = train_agent(agent, target, source, torch.tensor([each.relation for each in seen]), epochs=8)
    assert history[-1] < 0.2 * history[0] and not agent.training
    with torch.no_grad():
        right = agent(TARGET, SOURCE).argmax(dim=1) == RELATIONS
    assert float(right.double().mean()) > 0.95


def test_training_depends_on_its_seed_alone() -> None:
    weights = []
    for before in (0, 99):
        torch.manual_seed(5)
        agent = DecisionAgent(AgentConfig((16,)))
        torch.manual_seed(before)
        state = torch.get_rng_state()
        train_agent(agent, TARGET[:300], SOURCE[:300], RELATIONS[:300], epochs=2, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        weights.append(agent.layers[0].weight)
    assert torch.equal(*weights)


def test_widths_count_parameters_and_wrong_input_is_named() -> None:
    agent = DecisionAgent()
    assert sum(each.numel() for each in agent.parameters()) == 108 * 512 + 512 + 512 * 512 + 512 + 512 * 5 + 5
    assert DecisionAgent(AgentConfig((), actions=False))(TARGET[:2], SOURCE[:2]).shape == (2, 2)
    with pytest.raises(ValueError, match="target"):
        agent(torch.zeros(2, 54), torch.zeros(2, 54))
    with pytest.raises(ValueError, match="source"):
        agent(TARGET[:2], SOURCE[:3])
    with pytest.raises(ValueError, match="expected as many of each, got 2, 2, 3"):
        train_agent(agent, TARGET[:2], SOURCE[:2], RELATIONS[:3])
    with pytest.raises(ValueError, match="expected positive widths"):
        AgentConfig((0,))
