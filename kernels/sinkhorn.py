"""Optimal transport between small sets, with a slack for what has no partner, differentiable through all iterations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rotaware.geo.checks import require_choice, require_floating, require_same_device, require_shape
from rotaware.geo.fused import is_transformed
from rotaware.geo.threads import run_in_pieces

from .batches import Backend
from .numba_sinkhorn import MISSING, differentiate, transport
from .operators import define_operator, sees_through

# Multiplications below which a piece of work is not worth a thread.
PRODUCTS_PER_PIECE = 1 << 22


def log_optimal_transport(
    scores: Tensor,
    alpha: Tensor,
    row_mask: Tensor | None = None,
    column_mask: Tensor | None = None,
    *,
    iterations: int = 100,
    backend: Backend = "auto",
) -> Tensor:
    """Logarithm of the transport plan between rows and columns of each score matrix, by Sinkhorn's iterations.

    Every valid row and column has mass 1, which it shares among its partners and the slack; the slack row can take all
    columns and the slack column all rows.

    Args:
        scores: (B, R, C), in units of log probability.
        alpha: one number, usually a parameter: the score of having no partner.
        row_mask: (B, R) bool, which rows exist; None for all.
        column_mask: (B, C) bool, which columns exist.
        iterations: each scales all rows and then all columns, so that columns sum to 1 exactly and rows nearly.
        backend: "numba" on the CPU, "torch" anywhere; "auto" takes numba for CPU tensors.
    Returns:
        (B, R + 1, C + 1), slack last, in the dtype of `scores`, at least float32; -1e6, whose exponential is zero,
        where something is missing. Compiled loops compute in float64. Gradients of every order flow to `scores` and
        `alpha`, through all iterations; those of the first order are equal to the bit in every run.
    Raises:
        TypeError: `scores` or `alpha` not floating point, masks not bool.
        ValueError: shapes or devices that do not fit, or less than one iteration.
        RuntimeError: backend "numba" and tensors that are not on the CPU.
    Source: Sarlin et al., SuperGlue, CVPR 2020, section 3.2; with masks: Qin et al., GeoTransformer, CVPR 2022.

    >>> plan = log_optimal_transport(torch.tensor([[[9.0, 0.0], [0.0, -9.0]]]), torch.tensor(1.0)).exp()
    >>> plan[0, 0, 0].round(decimals=2), plan[0, 1, 2].round(decimals=2)
    (tensor(0.9800), tensor(0.9900))
    >>> plan[0].sum(0)
    tensor([1.0000, 1.0000, 2.0000])
    """
    require_floating("scores", scores)
    require_shape("scores", scores, "B", "R", "C")
    require_floating("alpha", alpha)
    if alpha.numel() != 1:
        raise ValueError(f"alpha: expected one number, got shape {tuple(alpha.shape)}")
    require_choice("backend", backend, ("auto", "numba", "torch"))
    if iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}")
    rows = _whole("row_mask", row_mask, scores, scores.shape[1])
    columns = _whole("column_mask", column_mask, scores, scores.shape[2])
    require_same_device({"scores": scores, "alpha": alpha, "row_mask": rows, "column_mask": columns})
    is_cpu = scores.device.type == "cpu"
    if backend == "numba" and not is_cpu:
        raise RuntimeError(f"backend: expected tensors on the CPU for 'numba', got {scores.device}")
    dtype = torch.promote_types(scores.dtype, torch.float32)
    scores, alpha = scores.to(dtype), alpha.reshape(()).to(dtype)
    if backend == "torch" or not is_cpu or sees_through(scores, alpha):
        return _definition(scores, alpha, rows, columns, iterations)
    return _operator(scores, alpha, rows, columns, iterations)


def _whole(name: str, mask: Tensor | None, scores: Tensor, count: int) -> Tensor:
    """A mask, or that of everything."""
    if mask is None:
        return torch.ones(scores.shape[0], count, dtype=torch.bool, device=scores.device)
    require_shape(name, mask, scores.shape[0], count)
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: expected a bool tensor, got {mask.dtype}")
    return mask


def _definition(scores: Tensor, alpha: Tensor, row_mask: Tensor, column_mask: Tensor, iterations: int) -> Tensor:
    """The plan in plain torch, on logarithms relative to the mass of a valid row."""
    B, R, C = scores.shape
    m, n = row_mask.sum(1, keepdim=True), column_mask.sum(1, keepdim=True)
    # The slack takes what the other side has. Of nothing there is no logarithm: then it is missing, too.
    no_row, no_column = torch.cat([~row_mask, n == 0], 1), torch.cat([~column_mask, m == 0], 1)
    missing = no_row[:, :, None] | no_column[:, None]
    column, row = alpha.expand(B, R, 1), alpha.expand(B, 1, C + 1)
    padded = torch.cat([torch.cat([scores, column], 2), row], 1).masked_fill(missing, MISSING)
    log_mu = torch.cat([scores.new_zeros(B, R), n.clamp(min=1).to(scores.dtype).log()], 1).masked_fill(no_row, MISSING)
    log_nu = torch.cat([scores.new_zeros(B, C), m.clamp(min=1).to(scores.dtype).log()], 1).masked_fill(
        no_column, MISSING
    )
    u, v = torch.zeros_like(log_mu), torch.zeros_like(log_nu)
    for _ in range(iterations):
        u = log_mu - torch.logsumexp(padded + v[:, None], 2)
        v = log_nu - torch.logsumexp(padded + u[:, :, None], 1)
    return (padded + u[:, :, None] + v[:, None]).masked_fill(missing, MISSING)


def _run(scores: Tensor, alpha: Tensor, row_mask: Tensor, column_mask: Tensor, iterations: int) -> Tensor:
    """`_definition`, opaque to the compiler."""
    B, R, C = scores.shape
    plan = scores.new_empty(B, R + 1, C + 1)
    tables = scores.contiguous().numpy(), float(alpha), row_mask.contiguous().numpy(), column_mask.contiguous().numpy()
    result = plan.numpy()
    smallest = _patches_per_piece(scores, iterations)
    run_in_pieces(lambda start, stop: transport(start, stop, *tables, iterations, result), B, smallest=smallest)
    return plan


def _fake(scores: Tensor, alpha: Tensor, row_mask: Tensor, column_mask: Tensor, iterations: int) -> Tensor:
    return scores.new_empty(scores.shape[0], scores.shape[1] + 1, scores.shape[2] + 1)


def _run_backward(
    grad: Tensor, scores: Tensor, alpha: Tensor, row_mask: Tensor, column_mask: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Gradients of scores and alpha, opaque to the compiler."""
    grad, scores, row_mask, column_mask = (x.contiguous() for x in (grad, scores, row_mask, column_mask))
    tables = grad.numpy(), scores.numpy(), float(alpha), row_mask.numpy(), column_mask.numpy()
    of_scores, of_alpha = torch.empty_like(scores), torch.empty(len(scores), dtype=torch.float64)
    results = of_scores.numpy(), of_alpha.numpy()
    smallest = _patches_per_piece(scores, iterations)
    run_in_pieces(
        lambda start, stop: differentiate(start, stop, *tables, iterations, *results), len(scores), smallest=smallest
    )
    # The sum of numpy: torch may split it over threads.
    return of_scores, torch.tensor(float(results[1].sum()), dtype=alpha.dtype)


def _patches_per_piece(scores: Tensor, iterations: int) -> int:
    return max(1, PRODUCTS_PER_PIECE // max(1, 2 * iterations * scores.shape[1] * scores.shape[2]))


def _fake_backward(
    grad: Tensor, scores: Tensor, alpha: Tensor, row_mask: Tensor, column_mask: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape), torch.empty_like(alpha)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.iterations = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    scores, alpha, row_mask, column_mask = ctx.saved_tensors
    find = _definition_gradients if is_transformed((grad,)) else _backward_operator
    of_scores, of_alpha = find(grad, scores, alpha, row_mask, column_mask, ctx.iterations)
    return of_scores, of_alpha, None, None, None


def _definition_gradients(
    grad: Tensor,
    scores: Tensor,
    alpha: Tensor,
    row_mask: Tensor,
    column_mask: Tensor,
    iterations: int,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """Gradients of scores and alpha through the definition."""
    with torch.enable_grad():
        if not create_graph:
            scores, alpha = scores.detach().requires_grad_(), alpha.detach().requires_grad_()
        plan = _definition(scores, alpha, row_mask, column_mask, iterations)
        # Without any row or column the plan does not depend on the scores.
        return torch.autograd.grad(plan, (scores, alpha), grad, create_graph=create_graph, materialize_grads=True)


def _differentiate_backward(ctx: Any, grad_of_scores: Tensor, grad_of_alpha: Tensor) -> tuple[Tensor | None, ...]:
    """Second derivatives, of the definition."""
    *values, row_mask, column_mask = ctx.saved_tensors
    once_more = torch.is_grad_enabled()
    with torch.enable_grad():
        # Fresh nodes, since the gradient may itself depend on the scores. A tensor with a history keeps it behind its
        # node: the results can then be differentiated once more.
        leaves = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in values]
        grad, scores, alpha = leaves
        first = _definition_gradients(grad, scores, alpha, row_mask, column_mask, ctx.iterations, create_graph=True)
        second = torch.autograd.grad(
            first, leaves, (grad_of_scores, grad_of_alpha), create_graph=once_more, materialize_grads=True
        )
    return *second, None, None, None


_ARGUMENTS = "Tensor scores, Tensor alpha, Tensor row_mask, Tensor column_mask, int iterations"
_backward_operator = define_operator(
    "optimal_transport_backward",
    f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor)",
    run=_run_backward,
    fake=_fake_backward,
    backward=_differentiate_backward,
    setup_context=_remember,
)
_operator = define_operator(
    "optimal_transport",
    f"({_ARGUMENTS}) -> Tensor",
    run=_run,
    fake=_fake,
    backward=_differentiate,
    setup_context=_remember,
)
