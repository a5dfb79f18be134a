"""Interpolation against its formula, and the gradient it must carry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rotaware.kernels import interpolate, interpolation_weights


def test_weights_are_inverse_distances(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, sources = torch.rand(40, 3, generator=generator).double(), torch.rand(25, 3, generator=generator).double()
    distance, index = torch.cdist(queries, sources, compute_mode="donot_use_mm_for_euclid_dist").sort(1)
    expected = 1 / (distance[:, :3] + 1e-8)
    found = interpolation_weights(queries, sources, backend=backend)
    assert torch.equal(found.index.long(), index[:, :3])
    torch.testing.assert_close(found.weights, expected / expected.sum(1, keepdim=True))
    features = torch.rand(25, 7, generator=generator).double()
    torch.testing.assert_close(
        interpolate(features, *found), (features[index[:, :3]] * found.weights[..., None]).sum(1)
    )


def test_a_constant_is_reproduced(cloud: Tensor) -> None:
    queries = cloud + 0.01
    features = torch.full((len(cloud), 2), 3.5, dtype=cloud.dtype)
    torch.testing.assert_close(interpolate(features, *interpolation_weights(queries, cloud)), features)


def test_a_query_on_a_source_takes_its_feature() -> None:
    sources = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    features = torch.rand(20, 4, generator=torch.Generator().manual_seed(1))
    found = interpolate(features, *interpolation_weights(sources, sources))
    torch.testing.assert_close(found, features, rtol=0, atol=2e-6)


def test_missing_sources_weigh_nothing(backend: str) -> None:
    queries, sources = torch.zeros(3, 3), torch.tensor([[0.0, 0, 1], [0, 0, 3]])
    found = interpolation_weights(queries, sources, lengths=[0, 2], query_lengths=torch.tensor([1, 2]), backend=backend)
    assert found.index.tolist() == [[-1, -1, -1], [0, 1, -1], [0, 1, -1]]
    torch.testing.assert_close(found.weights, torch.tensor([[0.0, 0, 0], [0.75, 0.25, 0], [0.75, 0.25, 0]]))
    features = torch.tensor([[4.0], [8.0]])
    torch.testing.assert_close(interpolate(features, *found), torch.tensor([[0.0], [5], [5]]))


def test_an_empty_slot_reads_no_foreign_feature() -> None:
    features = torch.tensor([[torch.inf], [2.0]])
    assert interpolate(features, torch.tensor([[1, -1]]), torch.tensor([[1.0, 0.0]])).tolist() == [[2.0]]


def test_without_any_source_there_are_zeros() -> None:
    nothing = torch.empty(0, 3)
    found = interpolation_weights(torch.zeros(2, 3), nothing)
    assert interpolate(torch.empty(0, 5), *found).tolist() == [[0.0] * 5] * 2
    assert interpolate(torch.ones(2, 5), *interpolation_weights(nothing, torch.zeros(2, 3))).shape == (0, 5)


def test_the_gradient_reaches_the_features_only() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    found = interpolation_weights(torch.rand(9, 3, generator=generator, dtype=torch.float64), sources)
    assert not found.weights.requires_grad
    features = torch.rand(6, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: interpolate(values, *found), features)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"weights: expected shape \(2, 3\)", {"weights": torch.zeros(2, 2)}),
        (ValueError, "features, weights: expected one dtype", {"weights": torch.zeros(2, 3, dtype=torch.float64)}),
        (TypeError, "index: expected an integer tensor", {"index": torch.zeros(2, 3)}),
        (ValueError, r"features: expected shape \(N, C\)", {"features": torch.zeros(4)}),
    ],
)
def test_misuse_is_named(error: type[Exception], message: str, arguments: dict[str, Tensor]) -> None:
    right = {"features": torch.zeros(4, 1), "index": torch.zeros(2, 3, dtype=torch.int32), "weights": torch.zeros(2, 3)}
    with pytest.raises(error, match=message):
        interpolate(**{**right, **arguments})
