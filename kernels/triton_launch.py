"""How the Triton kernels of neighborhood attention are cut into programs: a static table, and tuning on request.

A kernel keeps gathered tiles of (slots, rows, width) numbers in registers. The table is chosen so that registers are
not spilled: by the assembler's count there are none for compute capabilities 8.0 and 9.0, heads of 16 to 128 numbers, 8
to 64 slots, float32 and bfloat16, but for 8 bytes in one case with a gradient of pair features. Nothing was timed: no
GPU was at hand.

With ROTAWARE_AUTOTUNE=1 in the environment the tile is measured instead, once per kind of problem and process; since
another process may find another tile, results then differ between processes in the last bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """What one program does: rows (queries or keys), slots of a step, warps, and heads one after another."""

    rows: int
    slots: int
    warps: int
    heads: int


class Problem(NamedTuple):
    """What a tile depends on. Widths and slots are padded to powers of two."""

    kernel: str  # "forward", "query" or "key"
    width: int  # of the widest of keys and values
    pair_width: int  # 0 without a pair term
    slots: int
    heads: int
    itemsize: int  # bytes of a stored number
    whole: bool  # all slots and all heads in one program: a gradient of pair features is wanted
    rows: int
    device: torch.device


# (rows, slots, warps) of the forward, query and key kernel by compute capability, bytes of a number, and width.
# Capability 0 is any that has no entry of its own: registers of a thread are the same on all of them. Rows are those
# that four warps hold when each thread reads 16 bytes; slots are as many as leave room for three programs or more on a
# multiprocessor, with pair features and bias, for numbers of up to 4 bytes.
TILES = {
    (0, 2, 16): ((64, 4, 4), (64, 4, 4), (64, 2, 4)),
    (0, 2, 32): ((32, 4, 4), (32, 4, 4), (32, 2, 4)),
    (0, 2, 64): ((16, 4, 4), (16, 4, 4), (16, 2, 4)),
    (0, 2, 128): ((8, 4, 4), (8, 4, 4), (8, 2, 4)),
    (0, 2, 256): ((4, 4, 4), (4, 4, 4), (4, 2, 4)),
    (0, 4, 16): ((32, 8, 4), (32, 8, 4), (32, 4, 4)),
    (0, 4, 32): ((16, 8, 4), (16, 4, 4), (16, 4, 4)),
    (0, 4, 64): ((8, 8, 4), (8, 8, 4), (8, 4, 4)),
    (0, 4, 128): ((4, 8, 4), (4, 8, 4), (4, 4, 4)),
    (0, 4, 256): ((2, 8, 4), (2, 8, 4), (2, 4, 4)),
    (0, 8, 16): ((16, 4, 4), (16, 4, 4), (16, 4, 4)),
    (0, 8, 32): ((8, 4, 4), (8, 4, 4), (8, 4, 4)),
    (0, 8, 64): ((4, 4, 4), (4, 4, 4), (4, 4, 4)),
    (0, 8, 128): ((2, 4, 4), (2, 4, 4), (2, 4, 4)),
    (0, 8, 256): ((1, 4, 4), (1, 4, 4), (1, 4, 4)),
}
KERNELS = ("forward", "query", "key")
# Numbers of 4 bytes that a thread may hold of one gathered tile.
MOST_LIVE = 64
# The same for a program that also holds the gradient of all pair features of its rows.
MOST_LIVE_WHOLE = 32
# What a program of the interpreter costs does not depend on its size; Triton limits the numbers of a tile.
INTERPRETED = 64
MOST_NUMBERS = 2**20

_measured: dict[Problem, Tile] = {}


def padded(size: int) -> int:
    """The next power of two, at least 1.

    >>> padded(0), padded(24), padded(64)
    (1, 32, 64)
    """
    return 1 << max(0, size - 1).bit_length()


def choose_tile(problem: Problem, run: Callable[[Tile], object]) -> Tile:
    """The tile of a kernel: measured by `run`, which launches it, when the environment asks for that, else static."""
    wished = os.environ.get("ROTAWARE_AUTOTUNE", "0") == "1" and problem.device.type == "cuda"
    # Launches of a captured graph are recorded, not run, and a traced program must not depend on a clock.
    if not wished or torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
        return static_tile(problem)
    from triton.testing import do_bench

    return tuned_tile(problem, lambda tile: do_bench(lambda: run(tile), warmup=5, rep=20, return_mode="median"))


def static_tile(problem: Problem) -> Tile:
    """The tile of a problem by `TILES`.

    >>> static_tile(Problem("forward", 64, 4, 16, 4, 4, False, 30000, torch.device("cuda")))
    Tile(rows=8, slots=8, warps=4, heads=1)
    """
    if problem.device.type == "cpu":
        slots = INTERPRETED if problem.kernel == "key" else problem.slots
        rows = MOST_NUMBERS // (slots * max(problem.width, problem.pair_width))
        return Tile(min(INTERPRETED, max(1, rows)), slots, 1, problem.heads)
    width = min(256, max(16, problem.width, problem.pair_width))
    own = (_capability(problem.device), problem.itemsize, width)
    rows, slots, warps = TILES.get(own, TILES[0, *own[1:]])[KERNELS.index(problem.kernel)]
    # The width of a row is what the table was made for: narrow heads are done several per program, one by one.
    tile = Tile(rows, min(slots, problem.slots), warps, min(problem.heads, max(1, 64 // width)))
    if not problem.whole:
        return tile
    tile = tile._replace(slots=problem.slots, heads=problem.heads)
    while live(problem, tile) > MOST_LIVE_WHOLE and tile.rows > 1:
        tile = tile._replace(rows=tile.rows // 2)
    while live(problem, tile) > MOST_LIVE_WHOLE and tile.warps < 16:
        tile = tile._replace(warps=tile.warps * 2)
    return tile


def product_rows(width: int, device: torch.device) -> int:
    """Rows of a program of the kernel that multiplies rows of `width` numbers: 16 numbers of each per thread.

    >>> product_rows(64, torch.device("cuda"))
    32
    """
    return max(1, min(INTERPRETED**2, MOST_NUMBERS // width) if device.type == "cpu" else 2048 // width)


def live(problem: Problem, tile: Tile) -> float:
    """Numbers of 4 bytes per thread that a tile keeps in registers, of gathered rows and of what goes with them.

    >>> live(Problem("forward", 64, 0, 16, 4, 4, False, 30000, torch.device("cuda")), Tile(8, 16, 4, 1))
    64.0
    """
    width = problem.width + problem.pair_width * (3 if problem.whole else 1)
    return tile.rows * tile.slots * width * max(1, problem.itemsize // 4) / (32 * tile.warps)


def candidates(problem: Problem) -> Iterator[Tile]:
    """The static tile, then all others that the register rule admits."""
    usual = static_tile(problem)
    yield usual
    most = MOST_LIVE_WHOLE if problem.whole else MOST_LIVE
    steps = {problem.slots} if problem.whole else {min(steps, problem.slots) for steps in (2, 4, 8, problem.slots)}
    for rows in (1, 2, 4, 8, 16, 32, 64, 128):
        for slots in sorted(steps):
            for warps in (1, 2, 4, 8):
                for heads in sorted({problem.heads} if problem.whole else {1, problem.heads}):
                    tile = Tile(rows, slots, warps, heads)
                    # Below 8 numbers a thread hardly has loads in flight.
                    if tile != usual and 8 <= live(problem, tile) <= most:
                        yield tile


def tuned_tile(problem: Problem, measure: Callable[[Tile], float]) -> Tile:
    """The candidate of the least `measure`; remembered for problems alike, with rows within a factor of four."""
    from triton.runtime.errors import OutOfResources

    bucket = problem._replace(rows=max(0, problem.rows.bit_length() - 1) // 2)
    if bucket not in _measured:
        times: dict[Tile, float] = {}
        for tile in candidates(problem):
            try:
                times[tile] = measure(tile)
            except OutOfResources:
                continue
        _measured[bucket] = min(times, key=times.__getitem__)
    return _measured[bucket]


def _capability(device: torch.device) -> int:
    """Compute capability as one number, 80 for 8.0; 0 where there is no device."""
    if not torch.cuda.is_available():
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
