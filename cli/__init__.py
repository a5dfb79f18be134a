"""The command line, and the only room that prints."""

from .main import main

__all__ = ["main"]
