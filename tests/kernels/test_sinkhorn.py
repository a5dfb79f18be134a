"""Transport plans against their laws and, with gradients, against logarithms in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from rotaware.kernels import numba_sinkhorn, sinkhorn
from rotaware.kernels.sinkhorn import log_optimal_transport

# Valid rows and columns of a batch: all, some, one, a side without any, and nothing at all.
COUNTS = ((7, 9), (4, 9), (7, 2), (1, 1), (5, 0), (0, 6), (0, 0), (7, 8))


def case(scale: float = 3.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores (8, 7, 9), alpha and masks in which valid rows and columns are scattered."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(len(COUNTS), 7, 9, generator=generator, dtype=torch.float64) * scale
    masks = []
    for side, size in enumerate((7, 9)):
        order = torch.stack([torch.randperm(size, generator=generator) for _ in COUNTS])
        masks.append(order < torch.tensor(COUNTS)[:, side, None])
    return scores.to(dtype), torch.tensor(0.8, dtype=dtype), masks[0], masks[1]


def literal(scores: Tensor, alpha: Tensor, rows: Tensor, columns: Tensor, iterations: int = 100) -> Tensor:
    """One plan by the formulas, on the valid rows and columns only, with masses that sum to one."""
    m, n = int(rows.sum()), int(columns.sum())
    inner = torch.cat([scores[rows][:, columns], alpha.expand(m, 1)], 1)
    padded = torch.cat([inner, alpha.expand(1, n + 1)], 0)
    mu, nu = torch.tensor([1.0] * m + [n]).double() / (m + n), torch.tensor([1.0] * n + [m]).double() / (m + n)
    u, v = torch.zeros(m + 1).double(), torch.zeros(n + 1).double()
    for _ in range(iterations):
        u = mu.log() - (padded + v).logsumexp(1)
        v = nu.log() - (padded + u[:, None]).logsumexp(0)
    return padded + u[:, None] + v + torch.tensor(m + n).log()


def gradients(
    backend: str, inputs: tuple[Tensor, ...], weights: Tensor, **options: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Plan, and gradients of scores and alpha of a weighted sum of its finite part."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs[:2]]
    plan = log_optimal_transport(*leaves, *inputs[2:], backend=backend, **options)
    return plan.detach(), torch.autograd.grad(plan, leaves, weights.to(plan.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_formula(backend: str, dtype: torch.dtype) -> None:
    scores, alpha, rows, columns = case(dtype=dtype)
    plan = log_optimal_transport(scores, alpha, rows, columns, backend=backend)
    assert plan.dtype == dtype
    for p, (m, n) in enumerate(COUNTS):
        if m and n:
            expected = literal(scores[p].double(), alpha.double(), rows[p], columns[p]).to(dtype)
            with_slack = [torch.cat([mask[p], torch.tensor([True])]) for mask in (rows, columns)]
            found = plan[p][with_slack[0]][:, with_slack[1]]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_rows_columns_and_slack_share_all_mass(backend: str) -> None:
    scores, alpha, rows, columns = case(scale=1.0)
    plan = log_optimal_transport(scores, alpha, rows, columns, backend=backend).exp()
    m, n = rows.sum(1), columns.sum(1)
    torch.testing.assert_close(plan[:, :-1].sum(2), rows.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(plan[:, :, :-1].sum(1), columns.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(plan[:, -1].sum(1), n.double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(plan[:, :, -1].sum(1), m.double(), rtol=0, atol=1e-5)
    assert (plan[:, :-1][~rows] == 0).all()
    assert (plan[:, :, :-1].transpose(1, 2)[~columns] == 0).all()
    assert not plan[COUNTS.index((0, 0))].any()


def test_missing_entries_do_not_matter(backend: str) -> None:
    scores, alpha, rows, columns = case()
    valid = rows[:, :, None] & columns[:, None]
    expected = log_optimal_transport(scores, alpha, rows, columns, backend=backend)
    for other in (1e30, -1e30, torch.nan, torch.inf):
        plan = log_optimal_transport(torch.where(valid, scores, other), alpha, rows, columns, backend=backend)
        torch.testing.assert_close(plan, expected)


def test_no_mask_is_a_full_mask(backend: str) -> None:
    scores, alpha, rows, columns = case()
    expected = log_optimal_transport(scores, alpha, torch.ones_like(rows), torch.ones_like(columns), backend=backend)
    assert torch.equal(log_optimal_transport(scores, alpha, backend=backend), expected)


@pytest.mark.parametrize("scale", [0.0, 3.0, 30.0, 1e3])
@pytest.mark.parametrize("iterations", [1, 2, 100])
def test_compiled_loops_agree_with_the_definition(scale: float, iterations: int) -> None:
    inputs = case(scale)
    weights = torch.randn(8, 8, 10, generator=torch.Generator().manual_seed(1)).double()
    plan, expected = gradients("torch", inputs, weights, iterations=iterations)
    found, grads = gradients("numba", inputs, weights, iterations=iterations)
    torch.testing.assert_close(found, plan, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(grads, expected, rtol=1e-6, atol=1e-9)
    half = (inputs[0].float(), inputs[1].float(), *inputs[2:])
    single, grads = gradients("numba", half, weights, iterations=iterations)
    doubled = gradients("torch", tuple(x.double() if x.is_floating_point() else x for x in half), weights,
                        iterations=iterations)  # fmt: skip
    torch.testing.assert_close(single.double(), doubled[0], rtol=1e-5, atol=1e-5)
    for one, other in zip(grads, doubled[1], strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() + 1e-6


@pytest.mark.parametrize("reach", [1e3, 1e5])
@pytest.mark.parametrize(("iterations", "is_sound"), [(10, True), (400, False)])
def test_scores_beyond_the_range_of_scaling(reach: float, iterations: int, is_sound: bool) -> None:
    """Six rows that want one column only: its factor shrinks with each iteration, until there is none left."""
    scores = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    scores[:, :, 0] += reach
    padded = torch.nn.functional.pad(scores[0], (0, 1, 0, 1), value=-reach).numpy()
    u, v = np.empty((iterations + 1, 7)), np.empty((iterations + 1, 6))
    masses = np.array([1.0] * 6 + [5.0]), np.array([1.0] * 5 + [6.0])
    assert numba_sinkhorn.scaling(padded, *masses, np.empty((7, 6)), np.empty(7), u, v) == is_sound
    inputs = scores, torch.tensor(-reach).double()
    weights = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(1)).double()
    plan, expected = gradients("torch", inputs, weights, iterations=iterations)
    found, grads = gradients("numba", inputs, weights, iterations=iterations)
    torch.testing.assert_close(found, plan, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(grads, expected, rtol=1e-6, atol=1e-8)


def test_nothing_valid_gives_no_nan(backend: str) -> None:
    scores, alpha, rows, columns = case()
    nothing = torch.zeros_like(rows), torch.zeros_like(columns)
    for masks in ((nothing[0], columns), (rows, nothing[1]), nothing):
        plan, grads = gradients(backend, (scores, alpha, *masks), torch.ones(8, 8, 10))
        assert plan.isfinite().all()
        assert all(grad.isfinite().all() for grad in grads)
        assert not grads[0].any()


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0), (2, 0, 0)])
def test_empty(backend: str, shape: tuple[int, int, int]) -> None:
    scores, alpha = torch.zeros(shape, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    plan = log_optimal_transport(scores, alpha, backend=backend)
    assert plan.shape == (shape[0], shape[1] + 1, shape[2] + 1)
    plan.sum().backward()
    assert scores.grad is not None and scores.grad.shape == shape


def test_derivatives_of_both_orders(backend: str) -> None:
    scores, alpha, rows, columns = case()
    keep = slice(1, 5)
    masks = rows[keep, :4], columns[keep, :3]
    leaves = scores[keep, :4, :3].clone().requires_grad_(), alpha.requires_grad_()

    def run(scores: Tensor, alpha: Tensor) -> Tensor:
        return log_optimal_transport(scores, alpha, *masks, iterations=5, backend=backend)

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


def test_the_operators_keep_the_rules() -> None:
    scores, alpha, rows, columns = case()
    grad = torch.randn(8, 8, 10, generator=torch.Generator().manual_seed(1)).double()
    for tensor in (scores, alpha, grad):
        tensor.requires_grad_()
    torch.library.opcheck(torch.ops.rotaware.optimal_transport, (scores, alpha, rows, columns, 2))
    torch.library.opcheck(torch.ops.rotaware.optimal_transport_backward, (grad, scores, alpha, rows, columns, 2))


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_the_two_may_be_fixed(backend: str, which: int) -> None:
    inputs = case()
    weights = torch.randn(8, 8, 10, generator=torch.Generator().manual_seed(1)).double()
    _, both = gradients(backend, inputs, weights)
    leaf = inputs[which].clone().requires_grad_()
    pair = (leaf, inputs[1]) if which == 0 else (inputs[0], leaf)
    plan = log_optimal_transport(*pair, *inputs[2:], backend=backend)
    (grad,) = torch.autograd.grad(plan, leaf, weights, create_graph=True)
    torch.testing.assert_close(grad, both[which])
    (second,) = torch.autograd.grad(grad.square().sum(), leaf)
    assert second.isfinite().all() and second.any()


def test_half_precision_is_computed_in_single(backend: str) -> None:
    scores, alpha, rows, columns = case(dtype=torch.bfloat16)
    scores.requires_grad_()
    plan = log_optimal_transport(scores, alpha, rows, columns, backend=backend)
    assert plan.dtype == torch.float32
    assert torch.equal(plan, log_optimal_transport(scores.float(), alpha.float(), rows, columns, backend=backend))
    plan.exp().square().sum().backward()
    assert scores.grad is not None and scores.grad.dtype == torch.bfloat16


def test_autocast_changes_nothing(backend: str) -> None:
    inputs = case(dtype=torch.float32)
    weights = torch.randn(8, 8, 10, generator=torch.Generator().manual_seed(1))
    plan, expected = gradients(backend, inputs, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, grads = gradients(backend, inputs, weights)
    assert all(torch.equal(one, other) for one, other in zip((found, *grads), (plan, *expected), strict=True))


def test_nan_is_not_hidden(backend: str) -> None:
    scores, alpha, rows, columns = case()
    scores[0, 0, 0] = torch.nan
    plan, (of_scores, _) = gradients(backend, (scores, alpha, rows, columns), torch.ones(8, 8, 10))
    assert plan[0].isnan().all() and plan[1:].isfinite().all()
    assert of_scores[0].isnan().any() and of_scores[1:].isfinite().all()


def test_equal_to_the_bit_for_any_number_of_threads(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinkhorn, "PRODUCTS_PER_PIECE", 1)
    inputs = case(dtype=torch.float32)
    weights = torch.randn(8, 8, 10, generator=torch.Generator().manual_seed(1))
    results = []
    for count in (1, 2, 2):
        threads(count)
        plan, grads = gradients("numba", inputs, weights)
        results.append((plan, *grads))
    assert all(torch.equal(one, other) for again in results[1:] for one, other in zip(again, results[0], strict=True))


def test_compiled_whole_and_once_for_all_sizes() -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def loss(scores: Tensor, alpha: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return log_optimal_transport(scores * 2, alpha, rows, columns).exp().square().sum()

    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=True)
    frames = []
    for size in (8, 5, 3):
        scores, alpha, rows, columns = (x[:size].clone() if x.ndim else x for x in case())
        leaves = scores.requires_grad_(), alpha.requires_grad_()
        found = torch.autograd.grad(compiled(*leaves, rows, columns), leaves)
        expected = torch.autograd.grad(loss(*leaves, rows, columns), leaves)
        torch.testing.assert_close(found, expected)
        frames.append(counter.frame_count)
    assert frames[0] == frames[-1]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_transforms_see_through() -> None:
    scores, alpha, rows, columns = case()

    def run(scores: Tensor) -> Tensor:
        return log_optimal_transport(scores, alpha, rows, columns, iterations=5)

    direction = torch.randn(scores.shape, generator=torch.Generator().manual_seed(2)).double()
    _, tangent = torch.func.jvp(run, (scores,), (direction,))
    step = 1e-6
    difference = (run(scores + step * direction) - run(scores - step * direction)) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-4, atol=1e-3)
    leaf = scores.clone().requires_grad_()
    seeds = torch.eye(80).double().reshape(80, 1, 8, 10).expand(80, 8, 8, 10)[:3]
    (batched,) = torch.autograd.grad(run(leaf), leaf, seeds, is_grads_batched=True)
    for one, seed in zip(batched, seeds, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(run(leaf), leaf, seed)[0])


def test_refusals() -> None:
    scores, alpha, rows, columns = case()
    with pytest.raises(ValueError, match=r"alpha: expected one number, got shape \(2,\)"):
        log_optimal_transport(scores, torch.ones(2))
    with pytest.raises(ValueError, match="row_mask"):
        log_optimal_transport(scores, alpha, columns, rows)
    with pytest.raises(TypeError, match=r"column_mask: expected a bool tensor, got torch\.int64"):
        log_optimal_transport(scores, alpha, rows, columns.long())
    with pytest.raises(ValueError, match="iterations: expected at least 1, got 0"):
        log_optimal_transport(scores, alpha, iterations=0)
    with pytest.raises(RuntimeError, match="backend: expected tensors on the CPU for 'numba', got meta"):
        log_optimal_transport(scores.to("meta"), alpha.to("meta"), backend="numba")
