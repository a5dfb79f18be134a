"""The README is what a newcomer does, so the tests do it: from top to bottom, in one folder that starts empty.

The pages in `docs/` are read by who is in already: each page's Python runs as one script.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
README = CHECKOUT / "README.md"
PAGES = sorted((CHECKOUT / "docs").glob("*.md"))

# Lines about files that only the reader has.
PLACEHOLDER = re.compile(r"\b(SRC|TGT|SOURCE|TARGET|FILE|FOLDER)\b|your_")
INSTALL_COMMANDS = ("pip install .", "pip install -c constraints/cpu.txt '.[dev]'")
SECONDS = 120


@dataclass(frozen=True)
class Block:
    """A fenced block of a document; `line` is that of its first line of code."""

    language: str
    code: str
    line: int


def blocks(document: Path = README) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    fences = re.finditer(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1) for found in fences]


def commands(block: Block) -> list[str]:
    """The lines that call `rotaware` on something the reader has by then."""
    lines = block.code.replace("\\\n", " ").splitlines()
    lines = [line.strip().removeprefix("$ ") for line in lines]
    return [line for line in lines if line.startswith("rotaware ") and not PLACEHOLDER.search(line)]


def run_command(line: str, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"`{line}` ended with {done.returncode}:\n{done.stdout}{done.stderr}"


def run_python(block: Block, document: Path = README, names: dict[str, object] | None = None) -> None:
    # Empty lines in front make a traceback name the line of the document.
    code = compile("\n" * (block.line - 1) + block.code, str(document), "exec")
    exec(code, {"__name__": "__main__"} if names is None else names)


def test_readme_works_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = {"bash": 0, "python": 0}
    for block in blocks():
        if block.language == "python" and not PLACEHOLDER.search(block.code):
            run_python(block)
            ran["python"] += 1
        elif block.language == "bash":
            for line in commands(block):
                run_command(line, tmp_path)
                ran["bash"] += 1
    assert all(ran.values()), f"the README shows the command and the Python API, yet what ran is {ran}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    python = [block for block in blocks(page) if block.language == "python"]
    assert python, f"{page.name} shows no Python"
    for block in python:
        run_python(block, page, names)


@pytest.mark.parametrize("command", INSTALL_COMMANDS)
def test_readme_tells_how_to_install(command: str) -> None:
    shown = [
        line.partition(" #")[0].strip()
        for block in blocks()
        if block.language == "bash"
        for line in block.code.splitlines()
    ]
    shown = [part.strip() for line in shown for part in line.split("&&")]
    assert command in shown


def test_ci_runs_the_commands_of_the_readme() -> None:
    ci = (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install -c constraints/cpu.txt '.[dev]'" in ci
    assert re.search(r"pytest$", ci, flags=re.MULTILINE)


@pytest.mark.parametrize("document", [README, *PAGES], ids=lambda document: document.name)
def test_pictures_and_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        assert link.startswith(("https://", "mailto:")) or (document.parent / link).exists(), f"{link} does not exist"
