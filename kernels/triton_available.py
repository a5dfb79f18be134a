"""Whether Triton kernels can run on a device, found out without importing triton."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

# Volta, the oldest architecture that Triton compiles for.
OLDEST = (7, 0)


def reason_unavailable(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on tensors of `device`, or None if they can.

    They run on CUDA devices of compute capability 7.0 and later, and on the CPU in Triton's interpreter, which is slow
    and meant for tests: with TRITON_INTERPRET=1 in the environment before the kernels are first used.

    >>> reason_unavailable(torch.device("meta"))
    'Triton kernels need a CUDA device, got meta'
    """
    if device.type not in ("cuda", "cpu"):
        return f"Triton kernels need a CUDA device, got {device}"
    if find_spec("triton") is None:
        return "triton is not installed"
    if device.type == "cpu":
        if interpreted():
            return None
        return "Triton kernels need a CUDA device, got cpu (TRITON_INTERPRET=1 runs them in the interpreter, for tests)"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"Triton kernels need compute capability {_dotted(OLDEST)}, {device} has {_dotted(capability)}"
    return None


def interpreted() -> bool:
    """Whether the environment asks for Triton's interpreter; read by Triton as kernels are defined.

    >>> isinstance(interpreted(), bool)
    True
    """
    return os.environ.get("TRITON_INTERPRET", "0").strip().lower() in ("1", "true", "yes", "on", "y")


def _dotted(version: tuple[int, int]) -> str:
    """A version as it is written."""
    return f"{version[0]}.{version[1]}"
