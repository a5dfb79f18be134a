"""RoITr's local layer as published: the definition of the folded one, and what it is measured against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .attention import AttentionBackend
from .layers import PPFAttention
from .neighborhood import Neighborhood
from .reference import gather_rows


class LiteralPPFAttention(PPFAttention):
    """`PPFAttention` with nothing folded or fused: the same parameters and results, by the published steps.

    The embedded pairs, their two maps and the gathered keys and values are tensors of shape (M, K, channels), so time
    and memory are many times those of `PPFAttention`. Values in rows of the features that no center names must be
    finite. Arguments and errors are those of `PPFAttention`.

    Reference: Yu et al., "Rotation-Invariant Transformer for Point Cloud Matching", CVPR 2023, equations 2 to 4.

    >>> folded, literal = PPFAttention(1, 64), LiteralPPFAttention(1, 64)
    >>> literal.load_state_dict(folded.state_dict())
    <All keys matched successfully>
    >>> around = Neighborhood.from_index(torch.tensor([[1, 2], [0, 2], [-1, -1]]))
    >>> features, pairs = torch.ones(3, 1), torch.rand(3, 2, 4)
    >>> torch.allclose(folded(features, around, pairs), literal(features, around, pairs), atol=1e-5)
    True
    """

    def forward(
        self,
        features: Tensor,
        neighborhood: Neighborhood,
        pair_features: Tensor,
        *,
        query_rows: Tensor | None = None,
        backend: AttentionBackend = "auto",
    ) -> Tensor:
        """New features (M, out_channels) of the centers; `backend` is not used, these are plain torch operations."""
        hidden, centers = self.project_input(features, neighborhood, pair_features, query_rows)
        attention, heads = self.transformer.attention, (self.num_heads, -1)
        rows = neighborhood.idx.clamp(min=0).to(torch.int64)
        present = (neighborhood.idx >= 0)[..., None]
        embedded = self.embedding(pair_features)
        q = attention.proj_q(centers).unflatten(-1, heads)
        k = gather_rows(attention.proj_k(hidden), rows).unflatten(-1, heads)
        v = gather_rows(attention.proj_v(hidden), rows).unflatten(-1, heads)
        p = attention.proj_p(embedded).unflatten(-1, heads)
        vp = attention.proj_vp(embedded).unflatten(-1, heads)
        logits = torch.einsum("mhc,mkhc->mkh", q, k) + torch.einsum("mhc,mkhc->mkh", q, p)
        logits = (logits / math.sqrt(q.shape[-1])).masked_fill(~present, -torch.inf)
        # A center without neighbors has only minus infinity, of which the softmax is NaN.
        weights = torch.where(present, torch.softmax(logits.masked_fill(~present.any(1, True), 0), 1), 0)
        attended = torch.einsum("mkh,mkhc->mhc", weights, v + vp)
        mixed = self.transformer.linear(attended.flatten(1))
        return self.out_proj(self.transformer.norm(mixed + centers))
