"""The training objective: means over pairs, no matter how they are packed, and pairs that overlap nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from roitr_cases import SMALL, network, pair
from torch import Tensor

from rotaware.geo import make_transform, transform_points
from rotaware.pointcloud.losses import circle_loss, point_loss
from rotaware.pointcloud.objective import Losses, RoITrObjective
from rotaware.pointcloud.pairs import CloudPair, PairBatch
from rotaware.pointcloud.supervision import node_overlaps, point_labels, sample_node_pairs

# Lengths that suit a surface of a square metre with 400 points.
RADIUS, FEW = 0.08, 12


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def objective() -> RoITrObjective:
    return RoITrObjective(network().train(), radius=RADIUS, patch_pairs=FEW)


def stepped(loss_of: RoITrObjective, pairs: list[CloudPair], seeds: list[int]) -> tuple[Losses, dict[str, Tensor]]:
    """Losses and gradients of a batch."""
    loss_of.zero_grad()
    losses = loss_of(PairBatch.build(pairs, loss_of.model.config), seeds)
    losses.total.backward()
    grads = {}
    for name, parameter in loss_of.named_parameters():
        assert parameter.grad is not None, name
        grads[name] = parameter.grad.clone()
    return losses, grads


def test_losses_of_a_pair_step_by_step() -> None:
    loss_of, here = objective(), pair()
    losses, _ = stepped(loss_of, [here], [5])
    batch = PairBatch.build([here], SMALL)
    output = loss_of.model(batch)
    target, source = batch.patches(0, "target"), batch.patches(0, "source")
    assert here.transform is not None
    overlaps = node_overlaps(target, source, here.transform, radius=RADIUS)
    assert len(overlaps.overlap) > FEW
    features = [output.node_features[batch.node_rows(0, side)] for side in ("target", "source")]  # type: ignore[arg-type]
    coarse = circle_loss(features[0], features[1], overlaps, masked=True)
    chosen = sample_node_pairs(overlaps, count=FEW, least=0.1, generator=torch.Generator().manual_seed(5))
    assert len(chosen.target) == FEW
    plan = loss_of.model.transport(batch, output, 0, chosen.target, chosen.source)
    moved = transform_points(here.transform, source.patch_points()[chosen.source])
    labels = point_labels(
        target.patch_points()[chosen.target],
        moved,
        target.mask[chosen.target],
        source.mask[chosen.source],
        radius=RADIUS,
    )
    assert labels.match.any()
    assert labels.row_slack.any()
    fine = point_loss(plan, labels)
    torch.testing.assert_close(losses.coarse, coarse)
    torch.testing.assert_close(losses.fine, fine)
    torch.testing.assert_close(losses.total, coarse + fine)
    assert coarse > 0.1
    assert fine > 0.1


def test_a_batch_is_the_mean_of_its_pairs() -> None:
    pairs, seeds = [pair(seed=0), pair(300, 420, seed=1), pair(350, 310, seed=2)], [3, 4, 5]
    loss_of = objective()
    losses, grads = stepped(loss_of, pairs, seeds)
    single = [stepped(loss_of, [each], [seed]) for each, seed in zip(pairs, seeds, strict=True)]
    for name in Losses._fields:
        mean = torch.stack([getattr(each, name) for each, _ in single]).mean()
        torch.testing.assert_close(getattr(losses, name), mean, rtol=1e-5, atol=1e-6)
    largest = max(float(grad.abs().max()) for grad in grads.values())
    for name, grad in grads.items():
        mean = torch.stack([each[name] for _, each in single]).mean(0)
        torch.testing.assert_close(
            grad, mean, rtol=1e-3, atol=1e-5 * largest, msg=lambda text, name=name: f"{name} {text}"
        )


def test_the_seed_chooses_the_patches() -> None:
    loss_of = objective()
    results = [stepped(loss_of, [pair()], [seed])[0] for seed in (0, 0, 1)]
    assert all(torch.equal(one, other) for one, other in zip(results[0], results[1], strict=True))
    assert torch.equal(results[0].coarse, results[2].coarse)
    assert not torch.equal(results[0].fine, results[2].fine)


def apart(seed: int = 0) -> CloudPair:
    """A pair whose truth leads far away."""
    return replace(pair(seed=seed), transform=make_transform(torch.eye(3), torch.tensor([50.0, 0, 0])))


def test_no_overlap_no_loss_but_gradients() -> None:
    """Parallel training waits for a gradient of every parameter, in every step."""
    losses, grads = stepped(objective(), [apart()], [0])
    assert all(each == 0 for each in losses)
    assert all(grad.isfinite().all() for grad in grads.values())
    mixed, some = stepped(objective(), [pair(seed=0), apart(1)], [0, 0])
    alone, expected = stepped(objective(), [pair(seed=0)], [0])
    torch.testing.assert_close(2 * mixed.total, alone.total, rtol=1e-5, atol=1e-6)
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, grad in some.items():
        torch.testing.assert_close(2 * grad, expected[name], rtol=1e-3, atol=1e-5 * largest)


def test_every_parameter_learns() -> None:
    _, grads = stepped(objective(), [pair()], [0])
    silent = {name for name, grad in grads.items() if not grad.any()}
    assert not {name for name in silent if not name.endswith("bias")}


def test_a_flow_is_part_of_the_truth() -> None:
    here, loss_of = pair(), objective()
    assert here.transform is not None
    shift = torch.tensor([0.0, 0.4, 0.1])
    undone = here.transform.clone()
    undone[:3, 3] -= here.transform[:3, :3] @ shift
    deforming = replace(here, transform=undone, flow=shift.expand(len(here.source), 3))
    expected, found = stepped(loss_of, [here], [0])[0], stepped(loss_of, [deforming], [0])[0]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    without, _ = stepped(loss_of, [replace(deforming, flow=None)], [0])
    assert (without.coarse - expected.coarse).abs() > 1e-3
    # In a batch each pair keeps its own.
    mixed, _ = stepped(loss_of, [deforming, here], [0, 0])
    torch.testing.assert_close(mixed.total, expected.total, rtol=1e-4, atol=1e-5)


def test_quality_by_hand() -> None:
    loss_of = objective()
    pairs = [pair(), apart(1)]
    batch = PairBatch.build(pairs, SMALL)
    with torch.no_grad():
        output = loss_of.model(batch)
        found = loss_of.quality(batch, output, inlier_radius=0.2)
        matches = loss_of.model.match(batch, output)
    for number, (each, quality, match) in enumerate(zip(pairs, found, matches, strict=True)):
        assert each.transform is not None
        assert quality.matches == len(match.source) > 0
        moved = transform_points(each.transform, each.source[match.source])
        near = (moved - each.target[match.target]).norm(dim=1) < 0.2
        assert quality.inlier_ratio == pytest.approx(float(near.float().mean()))
        overlaps = node_overlaps(
            batch.patches(number, "target"), batch.patches(number, "source"), each.transform, radius=RADIUS
        )
        true = set(zip(overlaps.target.tolist(), overlaps.source.tolist(), strict=True))
        chosen = list(zip(match.nodes.target.tolist(), match.nodes.source.tolist(), strict=True))
        assert quality.patch_inlier_ratio == pytest.approx(sum(each in true for each in chosen) / len(chosen))
    assert found[0].inlier_ratio > 0
    assert found[0].patch_inlier_ratio > 0
    assert found[1][:2] == (0, 0)


def test_a_few_steps_lower_the_loss() -> None:
    loss_of, here = objective(), [pair(200, 200)]
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=3e-3)
    batch = PairBatch.build(here, SMALL)
    history = []
    for _ in range(12):
        optimizer.zero_grad()
        losses = loss_of(batch, [0])
        losses.total.backward()
        optimizer.step()
        history.append(float(losses.total.detach()))
    assert history[-1] < 0.9 * history[0]


def test_a_batch_without_a_truth() -> None:
    batch = PairBatch.build([replace(pair(), transform=None)], SMALL)
    with pytest.raises(ValueError, match="batch: expected pairs with a transform, got none"):
        objective()(batch, [0])
