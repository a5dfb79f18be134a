"""The `rotaware` command: picks the subcommand, turns every exception into one line and an exit code."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from . import apply, datasets, demo, detect, doctor, dota, evaluate, inspect, multi, register, view
from .messages import ExitCode, UsageError, error_text, exit_code_of, nearest
from .options import Parser, join_signed_values

# A module has SUMMARY and either `add_arguments` and `run`, or ACTIONS, modules of that kind by name.
_COMMANDS: dict[str, ModuleType] = {
    "register": register,
    "multi": multi,
    "view": view,
    "inspect": inspect,
    "apply": apply,
    "evaluate": evaluate,
    "datasets": datasets,
    "detect": detect,
    "dota": dota,
    "demo": demo,
    "doctor": doctor,
}

_EPILOG = """\
examples:
  rotaware register scan_b.ply scan_a.ply
  rotaware inspect scan_b.ply
  rotaware apply scan_b__to__scan_a/transform.txt photos.ply -o moved.ply
  rotaware detect predict harbour.png --model run -o found

exit codes: 0 registered, 2 not registered, 3 ambiguous, 4 bad input, 5 unreadable file, 6 out of memory,
            64 bad usage, 70 our bug, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises, except SystemExit from --help and --version.

    Args:
        argv: arguments after the program's name; None takes them from the process.
    """
    arguments = join_signed_values(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name the terminal cannot show must not turn a finished registration into a failure.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            if not debug and not sys.warnoptions:
                # Libraries' warnings are for developers; ours reach the user as notices with a code and a hint.
                warnings.simplefilter("ignore")
            return _run(arguments)
    except BrokenPipeError:
        # The reader (head, less) has left. Nothing to report, and the flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.REGISTERED)
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, arguments, debug)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, without importing anything slow."""
    return _build()[0]


def _build() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog="rotaware",
        description="Register 3-D scans: a pose to trust, or a plain 'not registered' with the reason. "
        "Detect oriented objects in aerial images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rotaware {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands = {}
    for name, module in _COMMANDS.items():
        commands[name] = command = _added(subparsers, name, module)
        if actions := _actions(module):
            below = command.add_subparsers(dest="action", metavar="ACTION", required=True)
            commands |= {f"{name} {action}": _added(below, action, part) for action, part in actions.items()}
    return parser, commands


def _actions(module: ModuleType) -> dict[str, ModuleType]:
    return getattr(module, "ACTIONS", {})


def _added(subparsers: Any, name: str, module: ModuleType) -> Parser:
    command: Parser = subparsers.add_parser(
        name,
        help=module.SUMMARY,
        description=module.SUMMARY[:1].upper() + module.SUMMARY[1:] + ".",
        allow_abbrev=False,
    )
    if not _actions(module):
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    return command


def _run(arguments: list[str]) -> int:
    parser, commands = _build()
    if not arguments:
        parser.print_help()
        return int(ExitCode.REGISTERED)
    name = next((token for token in arguments if not token.startswith("-")), None)
    if name is None:
        parser.check_options(arguments)
    elif name not in _COMMANDS:
        raise UsageError(_unknown_command(name, arguments))
    else:
        rest = arguments[arguments.index(name) + 1 :]
        actions = _actions(_COMMANDS[name])
        if actions and rest and not rest[0].startswith("-"):
            if rest[0] not in actions:
                raise UsageError(_unknown(f"{name} {rest[0]}", [f"{name} {action}" for action in actions]))
            name, rest = f"{name} {rest[0]}", rest[1:]
        commands[name].check_options(rest)
    options = parser.parse_args(arguments)
    module = _COMMANDS[options.command]
    return int(_actions(module).get(getattr(options, "action", ""), module).run(options))


def _unknown_command(name: str, arguments: Sequence[str]) -> str:
    files = [token for token in arguments if Path(token).suffix and Path(token).is_file()]
    if name in files and len(files) == 2:
        return f"{name!r} is a file, not a command; did you mean 'rotaware register {' '.join(files)}'?"
    return _unknown(name, _COMMANDS)


def _unknown(name: str, known: Iterable[str]) -> str:
    guess = nearest(name, known)
    hint = f"did you mean {guess!r}?" if guess else f"the commands are {', '.join(known)}"
    return f"unknown command {name!r}; {hint}"


def _report(error: BaseException, arguments: Sequence[str], debug: bool) -> int:
    code = exit_code_of(error)
    if isinstance(error, KeyboardInterrupt):
        text = str(error) or "interrupted; nothing written"
    elif code is ExitCode.OUR_BUG:
        text = f"internal error ({type(error).__name__}); {_write_crash_file(error, arguments)}"
    else:
        text = error_text(error)
    if debug:
        traceback.print_exception(error)
    print(text if code is ExitCode.INTERRUPTED else f"error: {text}", file=sys.stderr)
    if "--json" in arguments and code not in (ExitCode.BAD_USAGE, ExitCode.INTERRUPTED):
        # A script that asked for JSON gets JSON, also when there is no result.
        print(json.dumps({"schema_version": 1, "status": "error", "exit_code": int(code), "reason": text}, indent=2))
    return int(code)


def _write_crash_file(error: BaseException, arguments: Sequence[str]) -> str:
    """Save the stack trace in the current folder, else in the temporary one; returns what to tell the user."""
    lines = [
        "rotaware crash report",
        f"rotaware {_version()}, python {platform.python_version()}, {platform.platform()}",
        f"arguments: {list(arguments)}",
        "",
        *traceback.format_exception(error),
    ]
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        path = folder / "crash.txt"
        try:
            if path.exists() and not path.read_text(encoding="utf-8").startswith(lines[0]):
                continue
            path.write_text("\n".join(lines), encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        return f"details are in {path}; please send that file with a bug report"
    return "run again with --debug to see the details"


def _version() -> str:
    try:
        return version("rotaware")
    except PackageNotFoundError:
        return "unknown"
