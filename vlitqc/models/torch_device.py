"""Which device a torch backend computes on."""

from __future__ import annotations

from vlitqc.errors import ModelUnavailable, UsageError

DEVICES = ("auto", "cpu", "cuda")


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
