"""The inverse of a table of neighbors: which slots name a key. Every sum over a key's queries is taken through it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .operators import define_operator


class Inverse(NamedTuple):
    """For each key the slots that name it: those of key n are the entries ptr[n] to ptr[n + 1] of `edge`."""

    ptr: Tensor  # (N + 1,) int64
    edge: Tensor  # (M * K,) row * K + slot, ascending for each key, empty slots last; int32, from 2^31 slots on int64


def inverse_neighbors(idx: Tensor, num_keys: int) -> Inverse:
    """The slots of a table that name each key, opaque to `torch.compile`.

    Args:
        idx: (M, K) int32 or int64; negative where there is no neighbor.
        num_keys: N.
    Returns:
        As `Inverse` says. No gradient, no synchronisation on an accelerator.
    Raises:
        ValueError: on the CPU, a name of N or more. Elsewhere such a slot counts as empty.

    >>> inverse_neighbors(torch.tensor([[1, -1], [1, 0]]), 2)
    Inverse(ptr=tensor([0, 1, 3]), edge=tensor([3, 0, 2, 1], dtype=torch.int32))
    """
    return Inverse(*_inverse_operator(idx, num_keys))


def inverse_by_sorting(idx: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """`inverse_neighbors` in plain torch, on any device: sizes depend on no value, nothing is synchronised.

    >>> inverse_by_sorting(torch.tensor([[1, -1], [1, 0]]), 2)
    (tensor([0, 1, 3]), tensor([3, 0, 2, 1], dtype=torch.int32))
    """
    names = idx.reshape(-1)
    names = torch.where((names >= 0) & (names < num_keys), names, num_keys)
    names, edge = torch.sort(names, stable=True)
    keys = torch.arange(num_keys + 1, dtype=names.dtype, device=idx.device)
    return torch.searchsorted(names, keys), edge.to(_edge_dtype(idx))


def inverse_by_counting(idx: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """`inverse_neighbors` on the CPU: a counting sort, linear in the slots.

    >>> inverse_by_counting(torch.tensor([[1, -1], [1, 0]]), 2)
    (tensor([0, 1, 3]), tensor([3, 0, 2, 1], dtype=torch.int32))
    """
    ptr = torch.zeros(num_keys + 1, dtype=torch.int64)
    edge = torch.empty(idx.numel(), dtype=_edge_dtype(idx))
    names = idx.reshape(-1).numpy()
    wrong = _sort_by_counting(names, ptr.numpy(), edge.numpy())
    if wrong >= 0:
        row, slot = divmod(wrong, idx.shape[1])
        raise ValueError(
            f"idx: expected names below {num_keys} (the number of keys), got {names[wrong]} in row {row}, slot {slot}"
        )
    return ptr, edge


@njit(cache=True, nogil=True)
def _sort_by_counting(names: np.ndarray, ptr: np.ndarray, edge: np.ndarray) -> int:
    """Fill ptr (N + 1,), given as zeros, and edge; returns a position whose name is too large, -1 if there is none."""
    keys = ptr.shape[0] - 1
    for place in range(names.shape[0]):
        name = names[place]
        if name >= keys:
            return place
        if name >= 0:
            ptr[name + 1] += 1
    for key in range(keys):
        ptr[key + 1] += ptr[key]
    # The last cursor belongs to the empty slots.
    cursor = ptr.copy()
    for place in range(names.shape[0]):
        name = names[place]
        key = name if name >= 0 else keys
        edge[cursor[key]] = place
        cursor[key] += 1
    return -1


def _edge_dtype(idx: Tensor) -> torch.dtype:
    return torch.int32 if idx.numel() < 1 << 31 else torch.int64


def _run(idx: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    return (inverse_by_counting if idx.is_cpu else inverse_by_sorting)(idx, num_keys)


def _fake(idx: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    return idx.new_empty(num_keys + 1, dtype=torch.int64), idx.new_empty(idx.numel(), dtype=_edge_dtype(idx))


_inverse_operator = define_operator(
    "inverse_neighbors", "(Tensor idx, SymInt num_keys) -> (Tensor ptr, Tensor edge)", run=_run, fake=_fake
)
