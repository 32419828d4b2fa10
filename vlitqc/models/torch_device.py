"""Which device a torch backend computes on, and in which precision."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from vlitqc.errors import ModelUnavailable, UsageError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32")

_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def has_gpu() -> bool:
    """Whether torch sees a GPU; torch, which takes seconds to import, is not asked where there can be none."""
    if sys.platform != "win32" and not any(map(os.path.exists, _DRIVERS)):
        return False
    import torch

    return torch.cuda.is_available()


def torch_device(name: str) -> str:
    """``cpu`` or ``cuda`` for one of ``auto``, ``cpu``, ``cuda``; ``auto`` takes the GPU where there is one.

    Raises UsageError for another name, and ModelUnavailable where CUDA is asked for and absent.
    """
    import torch

    if name not in DEVICES:
        raise UsageError(f"device must be one of {', '.join(DEVICES)}; got '{name}'")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ModelUnavailable("device 'cuda' was asked for but torch sees no GPU; use --device cpu")
    return "cuda" if name != "cpu" and has_cuda else "cpu"


def check_precision(name: str, allowed: Sequence[str] = PRECISIONS) -> None:
    """Raise TypeError unless ``name`` is one of ``allowed``."""
    if name not in allowed:
        raise TypeError(f"precision must be one of {', '.join(allowed)}; got {name!r}")


def compute_dtype(device: str, precision: str) -> torch.dtype:
    """float32 on the CPU or for ``fp32``; else bfloat16 where torch has it on the GPU, else float16."""
    import torch

    if device == "cpu" or precision == "fp32":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """The context in which a float32 model computes in ``compute_dtype``."""
    import torch

    dtype = compute_dtype(device, precision)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype)
