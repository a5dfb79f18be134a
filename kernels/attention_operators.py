"""The operators behind neighborhood attention: forward and backward, opaque to the compiler, and their derivatives."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rotaware.geo.fused import is_transformed

from . import reference
from .grid import GridWindow
from .inverse import inverse_neighbors
from .operators import define_operator

MODULES = {"numba": "numba_attention", "triton": "triton_attention", "torch": "torch_attention"}


def flattened(window: GridWindow) -> list[int]:
    """A window as integers, which is what an operator takes."""
    causal = tuple(int(flag) for flag in window.causal)
    return [*window.shape, *window.window, *window.dilation, *window.stride, *causal, window.batch]


def _unflattened(numbers: Sequence[int]) -> GridWindow:
    """The inverse of `flattened`."""
    axes = len(numbers) // 5
    shape, window, dilation, stride, causal = (
        tuple(numbers[start : start + axes]) for start in range(0, 5 * axes, axes)
    )
    return GridWindow(shape, window, dilation, stride, tuple(bool(flag) for flag in causal), numbers[-1])


@functools.cache
def _module(name: str) -> ModuleType:
    """The code of a backend, loaded when first asked for: Triton may be missing and takes long to import."""
    return importlib.import_module(f"rotaware.kernels.{MODULES[name]}")


def _tiles_grid(window: Sequence[int], q: Tensor, v: Tensor, extra: Sequence[Tensor | None], backend: str) -> bool:
    """Whether the kernel that shares keys among the queries of a tile takes this grid."""
    if backend != "triton" or not window or any(tensor is not None for tensor in extra):
        return False
    return _grid_module().supports(_unflattened(window), q.shape[2], v.shape[2], q.dtype) is None


@functools.cache
def _grid_module() -> ModuleType:
    return importlib.import_module("rotaware.kernels.triton_grid")


def without_autocast(device: torch.device) -> Any:
    """A context in which every dtype stays as it was chosen.

    >>> with without_autocast(torch.device("cpu")):
    ...     torch.is_autocast_enabled("cpu")
    False
    """
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()


def autocasts(device: torch.device) -> bool:
    """Whether autocast is at work on a device; devices without it, such as "meta", have none.

    >>> autocasts(torch.device("meta"))
    False
    """
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    idx: Tensor,
    u: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
    ptr: Tensor | None,
    edge: Tensor | None,
    scale: float,
    window: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The forward pass, opaque to the compiler."""
    q, k, v, idx = (x.contiguous() for x in (q, k, v, idx))
    u, y, bias = (None if x is None else x.contiguous() for x in (u, y, bias))
    with without_autocast(q.device):
        if _tiles_grid(window, q, v, (u, bias), backend):
            out, lse = _grid_module().forward(q, k, v, _unflattened(window), scale)
            return out, q.new_empty(*q.shape[:2], 0), lse
        return _module(backend).forward(q, k, v, idx, u, y, bias, scale)


def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    idx: Tensor,
    u: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
    ptr: Tensor | None,
    edge: Tensor | None,
    scale: float,
    window: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    queries, heads = q.shape[:2]
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return (
        q.new_empty(queries, heads, v.shape[2]),
        q.new_empty(queries, heads, 0 if u is None else u.shape[2]),
        q.new_empty(queries, heads, dtype=lse_dtype),
    )


def _run_backward(
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
    window: Sequence[int],
    backend: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    """The backward pass, opaque to the compiler; gradients that are not wanted are empty."""
    grad_out, grad_z, q, k, v, idx, out, z, lse = (
        x.contiguous() for x in (grad_out, grad_z, q, k, v, idx, out, z, lse)
    )
    u, y, bias = (None if x is None else x.contiguous() for x in (u, y, bias))
    with without_autocast(q.device):
        if _tiles_grid(window, q, v, (u, bias), backend):
            grads = _grid_module().backward(grad_out, q, k, v, _unflattened(window), out, lse, scale, list(wanted[:3]))
            return (*grads, *(q.new_empty(0) for _ in range(3)))
        if ptr is None or edge is None:
            ptr, edge = inverse_neighbors(idx, len(k)) if wanted[1] or wanted[2] else (None, None)
        inputs = (grad_out, grad_z, q, k, v, idx, u, y, bias, out, z, lse, ptr, edge)
        return tuple(_module(backend).backward(*inputs, scale, list(wanted)))


def _fake_backward(
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
    window: Sequence[int],
    backend: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    return tuple(
        q.new_empty(0) if like is None or not wish else like.new_empty(like.shape)
        for like, wish in zip((q, k, v, u, y, bias), wanted, strict=True)
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.window, ctx.backend = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, grad_out: Tensor, grad_z: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, idx, u, y, bias, ptr, edge, out, z, lse = ctx.saved_tensors
    inputs = (q, k, v, u, y, bias)
    needed = ctx.needs_input_grad
    wanted = [x is not None and needed[place] for x, place in zip(inputs, (0, 1, 2, 4, 5, 6), strict=True)]
    if is_transformed((grad_out, grad_z)):
        grads = _reference_gradients(grad_out, grad_z, inputs, idx, ctx.scale, wanted)
    else:
        grads = attend_backward(
            grad_out, grad_z, q, k, v, idx, u, y, bias, out, z, lse, ptr, edge, ctx.scale, ctx.window, ctx.backend,
            wanted,
        )  # fmt: skip
    dq, dk, dv, du, dy, db = (grad if wish else None for grad, wish in zip(grads, wanted, strict=True))
    return dq, dk, dv, None, du, dy, db, None, None, None, None, None


def _reference_gradients(
    grad_out: Tensor,
    grad_z: Tensor,
    inputs: Sequence[Tensor | None],
    idx: Tensor,
    scale: float,
    wanted: Sequence[bool],
    create_graph: bool = False,
) -> list[Tensor | None]:
    """Gradients through the definition, which can be differentiated again."""
    with torch.enable_grad():
        roots = [x if x is None else x if create_graph else x.detach().requires_grad_() for x in inputs]
        q, k, v, u, y, bias = roots
        assert q is not None and k is not None and v is not None
        out, z, _ = reference.attend(q, k, v, idx, u, y, bias, scale)
        chosen = [x for x, wish in zip(roots, wanted, strict=True) if x is not None and wish]
        outputs, grads = ((out,), (grad_out,)) if u is None else ((out, z), (grad_out, grad_z.to(z.dtype)))
        found = iter(torch.autograd.grad(outputs, chosen, grads, create_graph=create_graph, allow_unused=True))
    results: list[Tensor | None] = []
    for like, wish in zip(inputs, wanted, strict=True):
        grad = next(found) if wish and like is not None else None
        results.append(torch.zeros_like(like) if grad is None and wish and like is not None else grad)
    return results


def _remember_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_out, grad_z, q, k, v, idx, u, y, bias, *_, ctx.scale, _, _, ctx.wanted = inputs
    ctx.save_for_backward(grad_out, grad_z, q, k, v, idx, u, y, bias)


def _differentiate_backward(ctx: Any, *grad_grads: Tensor) -> tuple[Tensor | None, ...]:
    """Second derivatives, of the definition."""
    grad_out, grad_z, q, k, v, idx, u, y, bias = ctx.saved_tensors
    with torch.enable_grad():
        saved = (grad_out, grad_z, q, k, v, u, y, bias)
        # Fresh nodes, since grad_out may itself depend on q. A tensor with a history keeps it behind its node: the
        # results can then be differentiated once more.
        leaves = [x if x is None else x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in saved]
        outer, outer_z, *inputs = leaves
        assert outer is not None and outer_z is not None
        first = _reference_gradients(outer, outer_z, inputs, idx, ctx.scale, ctx.wanted, create_graph=True)
        pairs = [(x, g) for x, g in zip(first, grad_grads, strict=True) if x is not None and x.requires_grad]
        present = [x for x in leaves if x is not None]
        found = torch.autograd.grad(
            [x for x, _ in pairs],
            present,
            [g for _, g in pairs],
            allow_unused=True,
            create_graph=torch.is_grad_enabled(),
        )
    seconds = iter(found)
    grads = [None if x is None else next(seconds) for x in leaves]
    return (*grads[:5], None, *grads[5:], *[None] * 9)


INPUTS = "Tensor q, Tensor k, Tensor v, Tensor idx, Tensor? u, Tensor? y, Tensor? bias"
LISTS = "Tensor? ptr, Tensor? edge"

attend_backward = define_operator(
    "neighborhood_attention_backward",
    f"(Tensor grad_out, Tensor grad_z, {INPUTS}, Tensor out, Tensor z, Tensor lse, {LISTS}, float scale, "
    "SymInt[] window, str backend, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    run=_run_backward,
    fake=_fake_backward,
    backward=_differentiate_backward,
    setup_context=_remember_backward,
)
attend = define_operator(
    "neighborhood_attention",
    f"({INPUTS}, {LISTS}, float scale, SymInt[] window, str backend) -> (Tensor out, Tensor z, Tensor lse)",
    run=_run,
    fake=_fake,
    backward=_differentiate,
    setup_context=_remember,
)
