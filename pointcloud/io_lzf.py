"""LZF decompression, the algorithm of `binary_compressed` PCD files (liblzf by Marc Lehmann; own implementation)."""

from __future__ import annotations

import numpy as np
from numba import njit


def lzf_decompress(data: bytes, size: int) -> bytes | None:
    """The `size` bytes that `data` expands to, or None when it is damaged. Never reads or writes out of bounds.

    >>> lzf_decompress(bytes([0, 65, 224, 0, 0]), 10)
    b'AAAAAAAAAA'
    """
    # One byte of input makes at most 88 of output (3 bytes for 264), so a wild size never gets memory.
    if size > 88 * len(data):
        return None
    output = np.zeros(size, np.uint8)
    written = _expand(np.frombuffer(data, np.uint8), output)
    return output.tobytes() if written == size else None


@njit(cache=True)
def _expand(source: np.ndarray, output: np.ndarray) -> int:
    """Number of bytes written, or -1 when a run leaves either buffer."""
    read, write = 0, 0
    while read < source.size:
        control = int(source[read])
        read += 1
        if control < 32:
            # A literal run of control + 1 bytes.
            length = control + 1
            if read + length > source.size or write + length > output.size:
                return -1
            for offset in range(length):
                output[write + offset] = source[read + offset]
            read += length
        else:
            # A copy of earlier output: 3 bits of length, 13 bits of distance, a length of 7 continues in a byte.
            length = control >> 5
            if length == 7:
                if read >= source.size:
                    return -1
                length += int(source[read])
                read += 1
            if read >= source.size:
                return -1
            start = write - ((control & 31) << 8) - int(source[read]) - 1
            read += 1
            length += 2
            if start < 0 or write + length > output.size:
                return -1
            # Byte by byte: the copy may overlap what it writes.
            for offset in range(length):
                output[write + offset] = output[start + offset]
        write += length
    return write
