"""The definition of neighborhood attention in plain torch: every faster form is tested against it.

Differentiable to any order, forward mode included, on any device and in any dtype; it holds (M, K, H, d) copies of the
gathered keys and values, which the other backends exist to avoid.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    idx: Tensor,
    u: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of each query over the keys named in its row of `idx`; arguments are not checked.

    With n = idx[i, j], per head: `l_ij = scale (q_i . k_n + u_i . y_ij) + bias_ij`, `a = softmax_j(l)`,
    `out_i = sum_j a_ij v_n`, `z_i = sum_j a_ij y_ij`.

    Args:
        q: (M, H, d).
        k: (N, H, d).
        v: (N, H, dv).
        idx: (M, K) integers, -1 for no neighbor; a name may occur twice and then counts twice.
        u: (M, H, P) pair queries, or None.
        y: (M, K, P) pair features, or None as `u` is.
        bias: (M, K, H) or None.
        scale: factor of both products.
    Returns:
        out (M, H, dv), z (M, H, P) (P = 0 without a pair term) and the logarithm of the sum of exponentials (M, H).
        A query without neighbors gets zeros in all three.
    Source: `specs` of the project; RoITr (Yu et al., CVPR 2023), equations 2 to 4, with the pair embedding folded.

    >>> q, k, v = torch.zeros(1, 1, 4), torch.zeros(3, 1, 4), torch.tensor([[[1.0]], [[2.0]], [[30.0]]])
    >>> attend(q, k, v, torch.tensor([[0, 1, -1]]), None, None, None, 0.5)[0]
    tensor([[[1.5000]]])
    """
    present = (idx >= 0)[..., None]
    rows = idx.clamp(min=0).to(torch.int64)
    # Rows of absent neighbors are replaced, not multiplied by zero: what lies there may be NaN.
    gathered_k = torch.where(present[..., None], gather_rows(k, rows), 0)
    gathered_v = torch.where(present[..., None], gather_rows(v, rows), 0)
    logits = (q[:, None] * gathered_k).sum(-1)
    if u is not None and y is not None:
        y = torch.where(present, y, 0)
        logits = logits + (u[:, None] * y[:, :, None]).sum(-1)
    logits = logits * scale
    if bias is not None:
        logits = logits + torch.where(present, bias, 0)
    logits = torch.where(present, logits, -torch.inf)
    largest = logits.detach().amax(1) if idx.shape[1] else logits.new_full((len(q), q.shape[1]), -torch.inf)
    largest = torch.where(largest == -torch.inf, 0, largest)
    terms = torch.exp(logits - largest[:, None])
    total = terms.sum(1)
    total = torch.where(present.any(1), total, 1)
    weights = terms / total[:, None]
    out = (weights[..., None] * gathered_v).sum(1)
    z = q.new_zeros(*q.shape[:2], 0) if y is None else (weights[..., None] * y[:, :, None]).sum(1)
    return out, z, torch.log(total) + largest


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    """`table[rows]`, also from a table without rows, where it gives zeros.

    >>> gather_rows(torch.empty(0, 2), torch.zeros(1, 3, dtype=torch.int64)).shape
    torch.Size([1, 3, 2])
    """
    return table[rows] if len(table) else table.new_zeros(*rows.shape, *table.shape[1:])
