"""Splitting a compiled loop over threads.

The compiled kernels release the interpreter lock and are run from ordinary threads instead of numba's own parallel
loops: those abort the process when two threads enter at once or after a fork (a data loader's workers), and they take
seconds to compile. Every piece writes rows of its own, so results do not depend on the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# Several pieces per thread even out rows of unequal cost.
PIECES_PER_THREAD = 4
# What `torch.load` may rebuild is one list for the whole process: whoever adds to it holds this until it is done.
SAFE_GLOBALS_LOCK = threading.Lock()


def run_in_pieces(run: Callable[[int, int], None], count: int, *, smallest: int) -> None:
    """Call `run(start, stop)` on pieces that cover `range(count)`, on `torch.get_num_threads()` threads.

    Args:
        run: must write only what belongs to its own rows.
        count: number of rows.
        smallest: rows below which starting a thread costs more than it saves.

    >>> seen = []
    >>> run_in_pieces(lambda start, stop: seen.extend(range(start, stop)), 3, smallest=100)
    >>> seen
    [0, 1, 2]
    """
    threads = min(torch.get_num_threads(), count // max(1, smallest))
    if threads < 2:
        run(0, count)
        return
    pieces = min(PIECES_PER_THREAD * threads, count // smallest)
    borders = [count * piece // pieces for piece in range(pieces + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(run, borders[:-1], borders[1:]):
            pass
