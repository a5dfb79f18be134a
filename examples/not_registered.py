"""Two scans of different rooms: the right answer is "not registered", with the reason.

Run: python examples/not_registered.py
"""

from __future__ import annotations

from rotaware.datasets import unrelated_pair
from rotaware.pointcloud import register


def main() -> tuple[str, float]:
    """The verdict and its confidence."""
    pair = unrelated_pair(1)
    result = register(pair.source, pair.target)
    print(result.explain())
    # A best guess is kept for those who want to look at it; `ok` says whether to use it.
    print(f"\nok: {result.ok}, best guess kept: {result.T is not None}")
    return result.status, result.confidence


if __name__ == "__main__":
    main()
