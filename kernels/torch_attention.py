"""Neighborhood attention in plain torch, on any device: a gather buffer of bounded size, and no atomics.

Keys and values are gathered a chunk of queries at a time, into one buffer, for the inner products only. Weighted sums
of rows go through `embedding_bag`, which adds each bag in order and gathers nothing: values per query on the way
forward, queries and gradients per key on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# Bytes of the gather buffer. Measured on a CPU with 1 MiB of L2 cache per core: best from 2 to 8 MiB; below, calls of
# PyTorch take longer than their work, above, the buffer leaves the caches.
CPU_BYTES = 4 << 20
DEVICE_BYTES = 64 << 20


class Chunk(NamedTuple):
    """Consecutive queries and their neighbors."""

    start: int
    stop: int
    absent: Tensor  # (B, 1, K), slots without a neighbor
    alone: Tensor  # (B, 1, 1), queries without any
    rows: Tensor  # (B, K) int64, in place of each absent neighbor another one of the row, or 0
    y: Tensor | None  # (B, K, P), zero at absent neighbors


class Problem:
    """Inputs in the dtype of the arithmetic, queries scaled, and the gather buffer."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        idx: Tensor,
        u: Tensor | None,
        y: Tensor | None,
        bias: Tensor | None,
        scale: float,
    ) -> None:
        self.dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        self.q, self.k, self.v = q.to(self.dtype) * scale, k.to(self.dtype), v.to(self.dtype)
        self.u = None if u is None else u.to(self.dtype) * scale
        self.idx, self.y, self.bias = idx, y, bias
        self.heads = q.shape[1]
        self.head = torch.arange(self.heads, device=q.device)[:, None]
        row = idx.shape[1] * self.heads * max(k.shape[2], v.shape[2])
        self.step = max(1, buffer_bytes(q.device) // (row * self.q.element_size()))
        self.buffer = self.q.new_empty(min(self.step, len(q)) * row)

    def chunks(self) -> Iterator[Chunk]:
        """All queries in order."""
        for start in range(0, len(self.idx), self.step):
            stop = min(start + self.step, len(self.idx))
            idx = self.idx[start:stop].long()
            absent = idx < 0
            # What lies in a row that nobody names may be NaN, so an absent neighbor reads a row that somebody does.
            last = idx.amax(1, keepdim=True)
            rows = torch.where(absent, last.clamp(min=0), idx)
            y = self.y
            if y is not None:
                y = torch.where(absent[..., None], 0, y[start:stop].to(self.dtype))
            yield Chunk(start, stop, absent[:, None], (last < 0)[..., None], rows, y)

    def products(self, left: Tensor, table: Tensor, rows: Tensor) -> Tensor:
        """(B, H, K) inner products of left (B, H, c) with the named rows of table (N, H, c)."""
        gathered = self.buffer[: rows.numel() * table[0].numel()].view(-1, table[0].numel())
        torch.index_select(table.flatten(1), 0, rows.flatten(), out=gathered)
        gathered = gathered.view(*rows.shape, *table.shape[1:])
        return gathered.mul_(left[:, None]).sum(-1).mT.contiguous()

    def logits(self, chunk: Chunk) -> Tensor:
        """(B, H, K), minus infinity at absent neighbors."""
        start, stop = chunk.start, chunk.stop
        logits = self.products(self.q[start:stop], self.k, chunk.rows)
        if self.u is not None and chunk.y is not None:
            logits.baddbmm_(self.u[start:stop], chunk.y.mT)
        if self.bias is not None:
            logits += self.bias[start:stop].mT
        return logits.masked_fill_(chunk.absent, -torch.inf)

    def sums(self, weights: Tensor, table: Tensor, chunk: Chunk) -> Tensor:
        """(B, H, c) sums of the named rows of table (N, H, c) with weights (B, H, K)."""
        rows = (chunk.rows[:, None] * self.heads + self.head).flatten(0, 1)
        sums = embedding_bag(rows, table.flatten(0, 1), per_sample_weights=weights.flatten(0, 1), mode="sum")
        return sums.view(-1, self.heads, table.shape[2]).masked_fill_(chunk.alone, 0)


def buffer_bytes(device: torch.device) -> int:
    """Size of the gather buffer on a device.

    >>> buffer_bytes(torch.device("cpu")) == CPU_BYTES
    True
    """
    return CPU_BYTES if device.type == "cpu" else DEVICE_BYTES


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    idx: Tensor,
    u: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention as `reference.attend` defines it, in bounded memory; arguments are not checked and get no gradient.

    Args:
        q: (M, H, d).
        k: (N, H, d).
        v: (N, H, dv).
        idx: (M, K) int32, -1 for no neighbor.
        u: (M, H, P) or None.
        y: (M, K, P), float32 or the dtype of `q`; None as `u` is.
        bias: (M, K, H), float32 or the dtype of `q`, or None.
        scale: factor of both products.
    Returns:
        out (M, H, dv) and z (M, H, P) in the dtype of `q`, and the logarithms of the sums of exponentials (M, H),
        float64 for float64 and float32 otherwise, in which everything is computed.

    >>> q, k, v = torch.zeros(1, 1, 4), torch.zeros(3, 1, 4), torch.tensor([[[1.0]], [[2.0]], [[30.0]]])
    >>> forward(q, k, v, torch.tensor([[0, 1, -1]], dtype=torch.int32), None, None, None, 0.5)[0]
    tensor([[[1.5000]]])
    """
    heads = q.shape[:2]
    out, z = q.new_zeros(*heads, v.shape[2]), q.new_zeros(*heads, 0 if u is None else u.shape[2])
    lse = q.new_zeros(heads, dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    if idx.numel() == 0 or len(k) == 0:
        return out, z, lse
    problem = Problem(q, k, v, idx, u, y, bias, scale)
    for chunk in problem.chunks():
        here = slice(chunk.start, chunk.stop)
        logits = problem.logits(chunk)
        largest = logits.amax(2, keepdim=True).masked_fill_(chunk.alone, 0)
        terms = logits.sub_(largest).exp_()
        total = terms.sum(2, keepdim=True).masked_fill_(chunk.alone, 1)
        weights = terms.div_(total)
        out[here] = problem.sums(weights, problem.v, chunk)
        if chunk.y is not None:
            z[here] = torch.bmm(weights, chunk.y)
        lse[here] = total.log_().add_(largest)[..., 0]
    return out, z, lse


def backward(
    grad_out: Tensor,
    grad_z: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    idx: Tensor,
    u: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    z: Tensor,
    lse: Tensor,
    ptr: Tensor | None,
    edge: Tensor | None,
    scale: float,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients of `forward`, bitwise the same in every run; arguments are not checked.

    The weights and the gradients of the logits of all edges, (M, K, H) each, are held between the query side and the
    key side.

    Args:
        grad_out: (M, H, dv) gradient of `out`.
        grad_z: (M, H, P) gradient of `z`.
        q, k, v, idx, u, y, bias, scale: what `forward` took.
        out, z, lse: what it returned.
        ptr: (N + 1,) int64, where the edges of each key start in `edge`.
        edge: (M * K,) numbers i * K + j of the edges, sorted by the key idx[i, j], those without a neighbor last.
            This and `ptr` may be None if neither the gradient of k nor that of v is wanted.
        wanted: which gradients of (q, k, v, u, y, bias) to compute.
    Returns:
        Six tensors in the shape and dtype of those inputs; empty (0,) where not wanted or where the input is None.

    >>> q, k, v = torch.zeros(1, 1, 4), torch.zeros(2, 1, 4), torch.tensor([[[1.0]], [[2.0]]])
    >>> inputs = (q, k, v, torch.tensor([[0, 1]], dtype=torch.int32), None, None, None)
    >>> ptr, edge, wanted = torch.tensor([0, 1, 2]), torch.tensor([0, 1]), [False, False, True, False, False, False]
    >>> backward(torch.ones(1, 1, 1), q[..., :0], *inputs, *forward(*inputs, 0.5), ptr, edge, 0.5, wanted)[2]
    tensor([[[0.5000]],
    <BLANKLINE>
            [[0.5000]]])
    """
    inputs = (q, k, v, u, y, bias)
    grads = [
        q.new_empty(0) if x is None or not asked else torch.zeros_like(x, memory_format=torch.contiguous_format)
        for x, asked in zip(inputs, wanted, strict=True)
    ]
    if idx.numel() == 0 or len(k) == 0:
        return grads
    grad_q, grad_k, grad_v, grad_u, grad_y, grad_bias = grads
    problem = Problem(q, k, v, idx, u, y, bias, scale)
    grad_out, grad_z = grad_out.to(problem.dtype).contiguous(), grad_z.to(problem.dtype)
    mean = ((grad_out * out).sum(2) + (grad_z * z).sum(2))[..., None]
    # Per head, then per edge, as the key side reads them.
    per_edge = (problem.heads, *idx.shape)
    held_weights = problem.q.new_empty(per_edge if grad_v.numel() else 0)
    held_slopes = problem.q.new_empty(per_edge if grad_k.numel() else 0)
    for chunk in problem.chunks():
        here = slice(chunk.start, chunk.stop)
        weights = problem.logits(chunk).sub_(lse[here, :, None]).exp_()
        if grad_v.numel():
            held_weights[:, here] = weights.transpose(0, 1)
        if not any(grad.numel() for grad in (grad_q, grad_k, grad_u, grad_y, grad_bias)):
            continue
        # The gradient of the logits.
        slopes = problem.products(grad_out[here], problem.v, chunk.rows)
        if chunk.y is not None:
            slopes.baddbmm_(grad_z[here], chunk.y.mT)
        slopes.sub_(mean[here]).mul_(weights).masked_fill_(chunk.absent, 0)
        if grad_k.numel():
            held_slopes[:, here] = slopes.transpose(0, 1)
        if grad_q.numel():
            grad_q[here] = problem.sums(slopes, problem.k, chunk).mul_(scale)
        if grad_u.numel() and chunk.y is not None:
            grad_u[here] = torch.bmm(slopes, chunk.y).mul_(scale)
        if grad_y.numel() and problem.u is not None:
            grad_y[here] = torch.bmm(slopes.mT, problem.u[here]).baddbmm_(weights.mT, grad_z[here])
        if grad_bias.numel():
            grad_bias[here] = slopes.mT
    if ptr is not None and edge is not None and (grad_k.numel() or grad_v.numel()):
        for first, last, begin, end in key_chunks(ptr, edge, problem):
            edges = edge[begin:end].long()
            rows = (edges // idx.shape[1] * problem.heads + problem.head).flatten()
            offsets = (ptr[first:last] - begin + problem.head * len(edges)).flatten()
            for grad, table, held in ((grad_k, problem.q, held_slopes), (grad_v, grad_out, held_weights)):
                if grad.numel():
                    weights = held.flatten(1).index_select(1, edges).flatten()
                    sums = embedding_bag(rows, table.flatten(0, 1), offsets, per_sample_weights=weights, mode="sum")
                    grad[first:last] = sums.view(problem.heads, last - first, -1).transpose(0, 1)
    return grads


def key_chunks(ptr: Tensor, edge: Tensor, problem: Problem) -> list[tuple[int, int, int, int]]:
    """Runs of keys that share at most a buffer full of edges (one key may have more): keys from, to, edges from, to."""
    # An edge takes two words of 8 bytes per head, its row and its weight.
    step = max(1, buffer_bytes(ptr.device) // (16 * problem.heads))
    marks = torch.arange(step, max(step, len(edge)), step, device=ptr.device)
    cuts = torch.searchsorted(ptr, marks, right=True) - 1
    cuts = torch.cat([cuts.new_zeros(1), cuts, cuts.new_full((1,), len(ptr) - 1)])
    # The one wait for the device.
    keys, edges = torch.stack([cuts, ptr[cuts]]).tolist()
    runs = zip(keys[:-1], keys[1:], edges[:-1], edges[1:], strict=True)
    return [run for run in runs if run[2] < run[3]]
