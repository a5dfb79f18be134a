"""`rotaware doctor`: is this installation able to work, and with what?"""

from __future__ import annotations

import argparse
import json
import os
import time

from .messages import ExitCode

SUMMARY = "check this installation: versions, devices, caches and a short self-test"

_MAX_ROTATION_ERROR_DEG = 3.0
_MAX_TRANSLATION_ERROR_M = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print one line per finding; exit 0 when everything needed works, 70 when something is broken."""
    findings, problems = _findings()
    if options.json:
        print(json.dumps({"ok": not problems, "findings": findings, "problems": problems}, indent=2))
    else:
        for name, text in findings.items():
            print(f"{name:<14} {text}")
        for problem in problems:
            print(f"problem        {problem}")
        print("everything works" if not problems else f"{len(problems)} problem(s) found")
    return int(ExitCode.OUR_BUG if problems else ExitCode.REGISTERED)


def _findings() -> tuple[dict[str, str], list[str]]:
    from .versions import installed_versions

    findings = installed_versions(optional=True)
    problems = [
        f"{name} is not installed" for name in ("numpy", "scipy", "torch", "numba") if findings[name] == "missing"
    ]
    if problems:
        return findings, problems
    import numba
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    findings["cpu"] = f"{cores} cores usable, numba {numba.get_num_threads()} threads, torch {torch.get_num_threads()}"
    findings["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (not needed)"
    from rotaware.geo.compile_cache import cache_folder

    findings["numba cache"] = str(cache_folder())
    text, problem = _self_test()
    findings["self-test"] = text
    return findings, problems + ([problem] if problem else [])


def _self_test() -> tuple[str, str | None]:
    """Register a generated pair; what happened, and what is wrong with it if anything."""
    started = time.perf_counter()
    # A broken installation can fail in any way, imports included, and this command is there to say how.
    try:
        from rotaware import pointcloud
        from rotaware.datasets import indoor_pair

        from .transforms import pose_error

        pair = indoor_pair(0, overlap=(0.5, 0.7))
        registration = pointcloud.register(pair.source, pair.target)
    except Exception as error:
        return "failed", f"self-test: {type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    if not registration.ok or registration.T_target_source is None:
        return f"{registration.status}, {seconds:.1f} s", f"self-test: {registration.reason}"
    assert pair.T_target_source is not None
    angle, shift = pose_error(registration.T_target_source, pair.T_target_source)
    text = f"registered in {seconds:.1f} s, off by {angle:.2f} deg and {100 * shift:.1f} cm"
    good = angle < _MAX_ROTATION_ERROR_DEG and shift < _MAX_TRANSLATION_ERROR_M
    return text, None if good else f"self-test: wrong pose, {text}"
