"""`rotaware view`: look at a result again, live in the browser, as its page, or as a picture for print."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .messages import ExitCode

SUMMARY = "look at a result again: live in the browser, or as a picture for print"

_USUAL_PORT = 8080
# Twice the usual overview: 300 dots per inch, 30 cm wide.
_PRINT_SCALE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware view`."""
    parser.add_argument("result", metavar="RESULT", help="folder that rotaware register wrote")
    parser.add_argument("--port", type=_port, metavar="N", help=f"of the viewer (default {_USUAL_PORT}, or a free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--png", metavar="FILE", help="write a picture of 3600 x 1800 pixels instead")


def run(options: argparse.Namespace) -> int:
    """Write the picture, or serve the viewer until Ctrl-C."""
    folder = Path(options.result)
    if folder.name == "result.json":
        folder = folder.parent
    if options.png:
        _write_picture(folder, Path(options.png))
        return int(ExitCode.REGISTERED)

    port = _free_port(options.port)
    live = find_spec("viser") is not None
    stop = _serve_live(folder, port) if live else _serve_page(_page_of(folder), port)
    try:
        print(f"{'live viewer' if live else 'report page'}: http://127.0.0.1:{port}   Ctrl-C ends", flush=True)
        if not live:
            print("for the live viewer: pip install 'rotaware[viz]'", file=sys.stderr)
        if not options.no_browser:
            webbrowser.open(f"http://127.0.0.1:{port}")
        threading.Event().wait()
    except KeyboardInterrupt:
        # The only way out, so nothing was cut short.
        pass
    finally:
        stop()
    return int(ExitCode.REGISTERED)


def _write_picture(folder: Path, path: Path) -> None:
    from rotaware.pointcloud import InputError, write_overview_png

    from .saved_result import read_result

    if path.suffix.lower() != ".png" or path.is_dir():
        raise InputError(f"--png: expected the name of a .png file, got {str(path)!r}")
    write_overview_png(path, **read_result(folder).shown(colors=False), scale=_PRINT_SCALE)
    print(f"wrote {path}")


def _serve_live(folder: Path, port: int) -> Callable[[], None]:
    from rotaware.pointcloud.report_live import start_live_viewer

    from .saved_result import read_result

    return start_live_viewer(**read_result(folder).shown(), port=port)


def _page_of(folder: Path) -> bytes:
    """The page in the folder; made anew where `register` was told not to write one."""
    from rotaware.pointcloud import write_report_html

    from .saved_result import read_document, read_result

    read_document(folder)
    page = folder / "report.html"
    if page.is_file():
        return page.read_bytes()
    with tempfile.TemporaryDirectory() as temporary:
        page = Path(temporary) / "report.html"
        write_report_html(page, **read_result(folder).shown())
        return page.read_bytes()


def _serve_page(page: bytes, port: int) -> Callable[[], None]:
    """Serve one page to this machine; returns what stops it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(page)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = 0
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return port


def _free_port(wanted: int | None) -> int:
    """The wanted port; or the usual one, else any that is free."""
    for port in (_USUAL_PORT, 0) if wanted is None else (wanted,):
        with socket.socket() as probe:
            if os.name == "posix":
                # A viewer that has just ended keeps its port busy for a minute, but not for another viewer.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    from rotaware.pointcloud import InputError

    raise InputError(f"cannot listen on port {wanted}: it is taken or not allowed; leave --port out to get a free one")
