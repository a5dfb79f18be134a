"""Neighborhood attention: every query attends to the keys that a table names for it, and to nothing else.

One operator with several backends behind it, all with the results and gradients of `rotaware.kernels.reference`:
`numba` (compiled, for the CPU), `triton` (fused, for GPUs) and `torch` (chunked, for any device). None holds a gathered
copy of keys or values, and every gradient is summed in a fixed order, so two runs are equal bit for bit.
"""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from rotaware.geo.checks import (
    require_choice,
    require_floating,
    require_same_device,
    require_same_dtype,
    require_shape,
)
from rotaware.geo.fused import constant_while_tracing

from . import reference, triton_available
from .attention_operators import attend, autocasts, flattened, without_autocast
from .neighborhood import Neighborhood
from .operators import sees_through

AttentionBackend = Literal["auto", "numba", "triton", "torch", "reference"]
NAMES = ("numba", "triton", "torch", "reference")
# Used in place of backend="auto" where it is set.
BACKEND_VARIABLE = "ROTAWARE_ATTENTION_BACKEND"
# Neighbors of a query that the Triton kernels hold in registers.
MOST_TRITON_NEIGHBORS = 128


class BackendStatus(NamedTuple):
    """Whether a backend can run here."""

    name: str
    devices: tuple[str, ...]  # device types it runs on in this process
    reason: str | None  # why it runs on none, or not on an accelerator that is present


@overload
def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    neighborhood: Neighborhood,
    *,
    pair: None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: AttentionBackend = "auto",
    validate: bool = False,
) -> Tensor: ...


@overload
def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    neighborhood: Neighborhood,
    *,
    pair: tuple[Tensor, Tensor],
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: AttentionBackend = "auto",
    validate: bool = False,
) -> tuple[Tensor, Tensor]: ...


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    neighborhood: Neighborhood,
    *,
    pair: tuple[Tensor, Tensor] | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: AttentionBackend = "auto",
    validate: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of each query over its own few keys.

    With n = idx[i, j], per head: `l_ij = scale (q_i . k_n + u_i . y_ij) + bias_ij`, `a_ij = softmax over j`,
    `out_i = sum_j a_ij v_n` and `z_i = sum_j a_ij y_ij`.

    The pair term lets a weight depend on a few numbers y about the pair, such as its point pair feature. Whatever is
    linear in them can be folded into u and z: see `rotaware.kernels.PPFAttention`.

    Args:
        q: (M, H, d) queries of H heads; float16, bfloat16, float32 or float64. Under autocast q, k, v and u are cast.
        k: (N, H, d) keys.
        v: (N, H, dv) values.
        neighborhood: which keys each query sees, M queries and N keys. Clouds of a batch are packed.
        pair: u (M, H, P) and y (M, K, P), or None. y may be wider than q, such as float32 beside bfloat16.
        bias: (M, K, H), added to the logits.
        scale: 1 / sqrt(d) by default.
        backend: "auto" takes numba for CPU tensors, Triton for CUDA tensors, else chunked torch, or what the
            environment variable `ROTAWARE_ATTENTION_BACKEND` names.
        validate: check the table first, at the cost of a synchronisation on an accelerator. An entry out of range is
            otherwise undefined behavior.
    Returns:
        out (M, H, dv); with a pair term (out, z) with z (M, H, P). A query without neighbors gets zeros. Gradients
        flow to q, k, v, u, y and bias, to any order; under forward-mode differentiation and `torch.func` transforms
        the definition itself is evaluated, which needs (M, K, H, d) memory.
    Raises:
        TypeError: not floating point tensors, or no Neighborhood.
        ValueError: shapes, dtypes or devices that do not fit; with `validate`, an entry out of range.
        RuntimeError: a backend was named that cannot run here; the message says why.
    Reference: Yu et al., RoITr, CVPR 2023, equations 2 to 4; Hassani et al., Neighborhood Attention, CVPR 2023.

    >>> from rotaware.kernels import Neighborhood
    >>> line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    >>> x = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    >>> neighborhood_attention(torch.zeros(3, 1, 1), x, x, Neighborhood.knn(line, 2)).flatten()
    tensor([1.5000, 1.5000, 2.5000])
    """
    u, y = (None, None) if pair is None else _check_pair(pair)
    _check(q, k, v, neighborhood, u, y, bias)
    if validate:
        Neighborhood.from_index(neighborhood.idx, neighborhood.num_keys, validate=True)
    if scale is None:
        scale = q.shape[2] ** -0.5
    q, k, v, u = _autocast(q, k, v, u)
    idx = neighborhood.idx
    name = _choose(backend, q.device, idx.shape[1])
    if name == "reference" or sees_through(q, k, v, u, y, bias):
        with without_autocast(q.device):
            out, z, _ = reference.attend(q, k, v, idx, u, y, bias, scale)
        return out.to(q.dtype) if pair is None else (out.to(q.dtype), z.to(q.dtype))
    ptr = edge = None
    if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
        ptr, edge = neighborhood.inverse()
    window = [] if neighborhood.window is None else flattened(neighborhood.window)
    out, z, _ = attend(q, k, v, idx, u, y, bias, ptr, edge, scale, window, name)
    return out if pair is None else (out, z)


def available_backends() -> tuple[BackendStatus, ...]:
    """What runs in this process, in the order of preference, and why the rest does not.

    >>> [status.name for status in available_backends() if "cpu" in status.devices][0]
    'numba'
    """
    accelerators = ("cuda",) if torch.cuda.is_available() else ()
    reasons = {kind: triton_available.reason_unavailable(torch.device(kind)) for kind in ("cpu", "cuda")}
    triton_devices = tuple(kind for kind, reason in reasons.items() if reason is None)
    return (
        BackendStatus("numba", ("cpu",), None),
        BackendStatus("triton", triton_devices, None if "cuda" in triton_devices else reasons["cuda"]),
        BackendStatus("torch", ("cpu", *accelerators), None),
        BackendStatus("reference", ("cpu", *accelerators), None),
    )


def _check_pair(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two floating point tensors."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"pair: expected two tensors (u, y), got {type(pair).__name__}")
    u, y = pair
    require_floating("pair[0]", u)
    require_floating("pair[1]", y)
    return u, y


def _check(
    q: Tensor, k: Tensor, v: Tensor, neighborhood: Neighborhood, u: Tensor | None, y: Tensor | None, bias: Tensor | None
) -> None:
    """Types, shapes, devices."""
    if not isinstance(neighborhood, Neighborhood):
        raise TypeError(f"neighborhood: expected a Neighborhood, got {type(neighborhood).__name__}")
    for name, tensor in {"q": q, "k": k, "v": v}.items():
        require_floating(name, tensor)
    queries, slots = neighborhood.idx.shape
    keys = neighborhood.num_keys
    require_shape("q", q, queries, "H", "d")
    heads, width = q.shape[1:]
    require_shape("k", k, keys, heads, width)
    require_shape("v", v, keys, heads, "dv")
    if u is not None and y is not None:
        require_shape("pair[0]", u, queries, heads, "P")
        require_shape("pair[1]", y, queries, slots, u.shape[2])
    if bias is not None:
        require_floating("bias", bias)
        require_shape("bias", bias, queries, slots, heads)
    require_same_dtype({"q": q, "k": k, "v": v, "pair[0]": u})
    require_same_device({"q": q, "k": k, "v": v, "idx": neighborhood.idx, "pair[0]": u, "pair[1]": y, "bias": bias})


def _autocast(*tensors: Tensor | None) -> list[Any]:
    """What autocast would do to a matrix product; an opaque operator is not asked."""
    device = next(tensor.device for tensor in tensors if tensor is not None)
    if not autocasts(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device.type)
    return [x if x is None or x.dtype == torch.float64 else x.to(dtype) for x in tensors]


def _choose(backend: str, device: torch.device, slots: int) -> str:
    """The name of the backend that will run."""
    require_choice("backend", backend, ("auto", *NAMES))
    if backend == "auto":
        backend = _preferred(device)
    if backend == "numba" and device.type != "cpu":
        raise RuntimeError(f"backend: expected tensors on the CPU for 'numba', got {device}")
    if backend == "triton":
        reason = _triton_reason(device)
        if reason is not None:
            raise RuntimeError(f"backend: 'triton' cannot run on {device}: {reason}")
        if slots > MOST_TRITON_NEIGHBORS:
            _warn_many_neighbors()
            return "torch"
    return backend


@constant_while_tracing
def _preferred(device: torch.device) -> str:
    """What "auto" stands for."""
    named = os.environ.get(BACKEND_VARIABLE, "auto")
    require_choice(BACKEND_VARIABLE, named, ("auto", *NAMES))
    if named != "auto":
        return named
    if device.type == "cpu":
        return "numba"
    return "triton" if _triton_reason(device) is None else "torch"


@constant_while_tracing
@functools.cache
def _triton_reason(device: torch.device) -> str | None:
    """Why Triton cannot run on a device, None if it can."""
    return triton_available.reason_unavailable(device)


@constant_while_tracing
@functools.cache
def _warn_many_neighbors() -> None:
    warnings.warn(
        f"backend 'triton' takes at most {MOST_TRITON_NEIGHBORS} neighbors; more run on the 'torch' backend",
        stacklevel=4,
    )
