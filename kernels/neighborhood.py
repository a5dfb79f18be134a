"""Who attends to whom: a table of neighbors with what attention needs to know about it, built once and shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rotaware.geo.checks import require_integer, require_same_device, require_shape

from .batches import Backend, Lengths
from .grid import GridWindow, grid_index, grid_window
from .inverse import Inverse, inverse_neighbors
from .neighbors import knn, radius_search


class Neighborhood:
    """The keys that each query sees, as a table of their rows.

    Build it with `from_index`, `knn`, `radius` or `grid`, once per level of a network: layers, heads and the backward
    passes of all of them share the table and its inverse. It can be pickled, also by the workers of a data loader, and
    passed to a function under `torch.compile`, which compiles once for all sizes.

    Attributes:
        idx: (M, K) int32, contiguous; -1 where there is no neighbor. A key named twice in a row counts twice.
        num_keys: N.
        window: the windows of the grid if the rows are its tokens in row-major order, else None.

    >>> Neighborhood.from_index(torch.tensor([[0, 1], [1, -1]]))
    Neighborhood(num_queries=2, k=2, num_keys=2, device=cpu)
    """

    def __init__(self, idx: Tensor, num_keys: int, window: GridWindow | None = None) -> None:
        self.idx = idx
        self.num_keys = num_keys
        self.window = window
        self._inverse: Inverse | None = None

    @classmethod
    def from_index(cls, idx: Tensor, num_keys: int | None = None, *, validate: bool = False) -> Neighborhood:
        """From any table.

        Args:
            idx: (M, K) integers from -1 (no neighbor) to N - 1; kept as int32.
            num_keys: N; None where the queries are the keys, N = M.
            validate: check every entry, which costs one synchronisation on an accelerator. Without it, what attention
                does with an entry out of range is not defined.
        Raises:
            TypeError: `idx` is not an integer tensor, or `num_keys` no integer.
            ValueError: a wrong shape, a negative `num_keys`, with `validate` an entry out of range.

        >>> Neighborhood.from_index(torch.tensor([[0, 5]]), 5, validate=True)
        Traceback (most recent call last):
        ValueError: idx: expected entries from -1 to 4, got 5 in row 0, slot 1
        """
        require_integer("idx", idx)
        require_shape("idx", idx, "M", "K")
        keys = idx.shape[0] if num_keys is None else num_keys
        if not isinstance(keys, int):
            raise TypeError(f"num_keys: expected an integer, got {type(keys).__name__}")
        if keys < 0:
            raise ValueError(f"num_keys: expected at least 0, got {keys}")
        if validate:
            wrong = ((idx < -1) | (idx >= keys)).nonzero()
            if len(wrong):
                row, slot = wrong[0].tolist()
                raise ValueError(
                    f"idx: expected entries from -1 to {keys - 1}, got {int(idx[row, slot])} in row {row}, slot {slot}"
                )
        return cls(idx.to(torch.int32).contiguous(), keys)

    @classmethod
    def knn(
        cls,
        points: Tensor,
        k: int,
        *,
        queries: Tensor | None = None,
        lengths: Lengths | None = None,
        query_lengths: Lengths | None = None,
        exclude_self: bool = False,
        max_radius: float | None = None,
        tie_tolerance: float = 0.0,
        backend: Backend = "auto",
    ) -> Neighborhood:
        """The k nearest points, nearest first; arguments and errors are those of `rotaware.kernels.knn`.

        >>> line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
        >>> Neighborhood.knn(line, 2).idx.tolist()
        [[0, 1], [1, 0], [2, 1]]
        """
        found = knn(
            points,
            k,
            queries=queries,
            lengths=lengths,
            query_lengths=query_lengths,
            exclude_self=exclude_self,
            max_radius=max_radius,
            tie_tolerance=tie_tolerance,
            backend=backend,
        )
        return cls(found.index, len(points))

    @classmethod
    def radius(
        cls,
        points: Tensor,
        radius: float,
        *,
        max_neighbors: int | None = None,
        queries: Tensor | None = None,
        lengths: Lengths | None = None,
        query_lengths: Lengths | None = None,
        exclude_self: bool = False,
        backend: Backend = "auto",
    ) -> Neighborhood:
        """The points within a radius, nearest first.

        Args:
            points: (N, 3) float32 or float64, any unit.
            radius: largest distance that counts (inclusive), in the unit of the points.
            max_neighbors: K, the nearest of those within the radius; None makes the table as wide as the fullest
                neighborhood, for which an accelerator is synchronised once.
            queries, lengths, query_lengths, exclude_self, backend: as for `knn`.
        Raises:
            TypeError: not floating point tensors.
            ValueError: as for `rotaware.kernels.radius_search`, or `max_neighbors` < 1.
            RuntimeError: backend "numba" and the tensors are not on the CPU.

        >>> line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
        >>> Neighborhood.radius(line, 1.5).idx.tolist()
        [[0, 1], [1, 0], [2, -1]]
        """
        options: dict[str, Any] = {
            "queries": queries,
            "lengths": lengths,
            "query_lengths": query_lengths,
            "exclude_self": exclude_self,
            "backend": backend,
        }
        if max_neighbors is not None:
            if max_neighbors < 1:
                raise ValueError(f"max_neighbors: expected at least 1, got {max_neighbors}")
            return cls.knn(points, max_neighbors, max_radius=radius, **options)
        found = radius_search(points, radius, **options)
        counts = found.offsets.diff()
        width = int(counts.max()) if len(counts) else 0
        filled = torch.arange(width, device=points.device) < counts[:, None]
        # Both lists run row by row.
        idx = torch.full_like(filled, -1, dtype=torch.int32).masked_scatter_(filled, found.index)
        return cls(idx, len(points))

    @classmethod
    def grid(
        cls,
        shape: int | Sequence[int],
        window: int | Sequence[int],
        *,
        dilation: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        causal: bool | Sequence[bool] = False,
        batch: int = 1,
        device: torch.device | str | None = None,
    ) -> Neighborhood:
        """Windows around the tokens of a grid; arguments and errors are those of `grid_window`.

        >>> Neighborhood.grid((8, 8), 3)
        Neighborhood(num_queries=64, k=9, num_keys=64, device=cpu)
        """
        windows = grid_window(shape, window, dilation, stride, causal, batch)
        return cls(grid_index(windows, device), windows.tokens, windows)

    @property
    def num_queries(self) -> int:
        """M."""
        return self.idx.shape[0]

    @property
    def k(self) -> int:
        """K, the width of the table."""
        return self.idx.shape[1]

    def inverse(self) -> Inverse:
        """For each key the slots that name it, on the device of the table; built at the first call and kept.

        Raises:
            ValueError: on the CPU, an entry of N or more.

        >>> Neighborhood.from_index(torch.tensor([[0, 1], [1, -1]])).inverse().ptr.tolist()
        [0, 1, 3]
        """
        if self._inverse is None:
            # What inference mode makes could not be used in training.
            with torch.inference_mode(False):
                self._inverse = inverse_neighbors(self.idx, self.num_keys)
        return self._inverse

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Neighborhood:
        """On another device, with the inverse if it has been built; itself if it is there already.

        >>> Neighborhood.from_index(torch.tensor([[0, 1]]), 2).to("cpu").idx.device
        device(type='cpu')
        """
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Neighborhood:
        """In page-locked memory, from which `to(device, non_blocking=True)` need not wait; a data loader calls it."""
        return self._with(lambda tensor: tensor.pin_memory())

    def permute(self, order: Tensor, key_order: Tensor | None = None) -> Neighborhood:
        """The neighborhood of the same points in another order: attention over permuted rows gives permuted rows.

        Args:
            order: (M,) integers; the new query i is the old query order[i], as in `q[order]`.
            key_order: (N,) integers, as in `k[key_order]`; None takes `order` if there are as many queries as keys,
                which are then taken to be the same points, and else leaves the keys where they are.
        Returns:
            A table whose slots keep their places. It is no grid's any more.
        Raises:
            TypeError: not integers.
            ValueError: a wrong length or device. That each row occurs once is not checked.

        >>> table = Neighborhood.from_index(torch.tensor([[0, 1], [1, -1]]))
        >>> table.permute(torch.tensor([1, 0])).idx.tolist()
        [[0, -1], [1, 0]]
        """
        require_integer("order", order)
        require_shape("order", order, self.num_queries)
        if key_order is None and self.num_queries == self.num_keys:
            key_order = order
        require_same_device({"idx": self.idx, "order": order, "key_order": key_order})
        idx = self.idx[order.to(torch.int64)]
        if key_order is not None:
            require_integer("key_order", key_order)
            require_shape("key_order", key_order, self.num_keys)
            places = torch.arange(self.num_keys, dtype=torch.int32, device=idx.device)
            # One entry more for the empty slots, whose -1 reads the last one. Keys that do not return become empty.
            place = idx.new_full((self.num_keys + 1,), -1).scatter(0, key_order.to(torch.int64), places)
            idx = place[idx.to(torch.int64)]
        return Neighborhood(idx, self.num_keys)

    def _with(self, move: Callable[[Tensor], Tensor]) -> Neighborhood:
        """The same neighborhood with every tensor moved."""
        idx = move(self.idx)
        if idx is self.idx:
            return self
        moved = Neighborhood(idx, self.num_keys, self.window)
        if self._inverse is not None:
            moved._inverse = Inverse(*map(move, self._inverse))
        return moved

    def __repr__(self) -> str:
        return (
            f"Neighborhood(num_queries={self.num_queries}, k={self.k}, num_keys={self.num_keys}, "
            f"device={self.idx.device})"
        )
