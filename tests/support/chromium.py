"""Headless Chromium for tests of pages: what a page holds after its scripts ran, what it logged, how it looks."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")

# Without the flags about networking, a browser looks for updates and for its maker's hosts at every start.
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr"),
)
# WebGL drawn by the processor: the same pixels on every machine.
_SOFTWARE_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")


@dataclass(frozen=True)
class Page:
    """A page some time after it was opened; `log` holds one line per message on its console, errors included."""

    elements: str
    log: list[str]

    def data(self, name: str) -> str | None:
        """Value of the first attribute `data-name`, which scripts can leave behind; None when there is none."""
        found = re.search(rf' data-{name}="([^"]*)"', self.elements)
        return unescape(found[1]) if found else None


def browse(
    url: str,
    *,
    size: tuple[int, int] = (900, 700),
    webgl: bool = True,
    milliseconds: int = 3000,
    screenshot: Path | None = None,
) -> Page:
    """Open `url` in a browser of its own and leave it for so many milliseconds of the page's own time.

    With `screenshot`, a PNG of the window goes there, and the elements stay empty.
    """
    assert BROWSER, "mark the test with needs_chromium"
    task = "--dump-dom" if screenshot is None else f"--screenshot={screenshot}"
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [BROWSER, *_FLAGS, *(_SOFTWARE_WEBGL if webgl else _NO_WEBGL), task]
        command += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        command += [f"--virtual-time-budget={milliseconds}", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return Page(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])
