"""Files that are complete whenever somebody looks; in the room that all others may import, for all write some."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(
    path: str | os.PathLike[str], content: str | bytes | Callable[[Path], object], *, durable: bool = False
) -> None:
    """Write a file whole or not at all: under another name beside it first, with the permissions of any new file.

    Args:
        path: of the file; folders are made as needed.
        content: text (UTF-8, lines end as they are), bytes, or a function that fills the file whose path it is given.
        durable: whether it survives a loss of power as well, which costs the time that the disk takes.
    Raises:
        OSError: such as a full disk; a file that was there stays as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(f"{folder}/note.txt", "done")
    ...     Path(f"{folder}/note.txt").read_text()
    'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if isinstance(content, str):
            content = content.encode("utf-8")
        if isinstance(content, bytes):
            unfinished.write_bytes(content)
        else:
            content(unfinished)
        if durable:
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def clear_unfinished(path: str | os.PathLike[str]) -> None:
    """Remove what writers of `path` that were killed have left; none may be at work."""
    path = Path(path)
    for unfinished in path.parent.glob(f".{path.name}.*"):
        unfinished.unlink()
