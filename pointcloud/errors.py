"""The two errors of this room that a caller may want to tell apart; a missing file is a FileNotFoundError."""

from __future__ import annotations


class InputError(ValueError):
    """The input was read, but its content cannot be used (command line exit code 4)."""


class UnreadableFileError(ValueError):
    """The file is damaged, truncated, or of a format that is not supported (command line exit code 5)."""
