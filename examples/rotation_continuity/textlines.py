"""Words of a text file, each with its line number, and errors that say where they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NoReturn

from command import BadData


class Words:
    """A cursor over the words of a text file, without lines that start with '#'."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        self.words = [
            (number, word)
            for number, line in enumerate(lines, 1)
            if not line.lstrip().startswith("#")
            for word in line.split()
        ]
        self.next = 0

    def fail(self, expected: str) -> NoReturn:
        """Raise BadData with the place of the next word."""
        if self.next < len(self.words):
            number, word = self.words[self.next]
            raise BadData(f"{self.path}, line {number}: expected {expected}, got {word[:40]!r}")
        raise BadData(f"{self.path}: expected {expected}, got the end of the file")

    @property
    def line(self) -> int:
        """Number of the line of the next word; 0 at the end of the file."""
        return self.words[self.next][0] if self.next < len(self.words) else 0

    def peek(self) -> str:
        """The next word, '' at the end of the file."""
        return self.words[self.next][1] if self.next < len(self.words) else ""

    def take(self, *expected: str) -> str:
        """The next word, one of `expected` where any are given, in either case."""
        word = self.peek()
        if not word or (expected and word.lower() not in {choice.lower() for choice in expected}):
            self.fail(" or ".join(map(repr, expected)) or "a word")
        self.next += 1
        return word

    def rest_of_line(self) -> list[str]:
        """The words left on the line of the next word."""
        number, start = self.line, self.next
        while self.next < len(self.words) and self.words[self.next][0] == number:
            self.next += 1
        return [word for _, word in self.words[start : self.next]]

    def number(self, what: str = "a number") -> float:
        """The next word as a finite number."""
        try:
            value = float(self.peek())
        except ValueError:
            self.fail(what)
        if not math.isfinite(value):
            self.fail(f"{what} that is finite")
        self.next += 1
        return value

    def count(self, what: str) -> int:
        """The next word as a whole number that is not negative."""
        if not self.peek().isdecimal():
            self.fail(what)
        return int(self.take())
