"""Loops over arrays that are compiled where there is much to do, and are plain Python where there is little.

To load numba and the compiled loops that it keeps on disk takes two thirds of a second, in which plain Python does a
million steps. So a process begins with plain loops, and goes over to compiled ones when it has been asked for as many.
Both forms do the same operations on the same types in the same order: results are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any, TypeVar

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

PLAIN_STEPS = 1_000_000
"""Steps that plain Python does in about the time that the compiled loops take to load."""

NUMPY_STEPS = 16
"""So many numbers NumPy goes through, several times, while plain Python does a step."""

_STEPS_A_PAIR = 3  # between comparing two rows and joining them


class _Asked:
    """The steps that this process was asked for so far."""

    steps = 0


_called_by_kernels: list[Callable[..., Any]] = []
_lock = Lock()


def called_by_kernels(function: Kernel) -> Kernel:
    """Mark a function that kernels call by name: in their compiled form it is compiled too."""
    _called_by_kernels.append(function)
    return function


def suited(kernel: Kernel, steps: int, few: Kernel | None = None) -> Kernel:
    """``kernel`` itself as long as all that is asked for in this process is little, then its compiled form.

    ``steps`` are those of all calls that the result is used for. ``few`` takes the place of ``kernel`` itself, where
    NumPy does the same at once. The compiled form lets other threads run.
    """
    with _lock:
        _Asked.steps += steps
        if _Asked.steps > PLAIN_STEPS:
            form: Kernel = _compiled(kernel)
            return form
    return few or kernel


def suited_to_pairs(kernel: Kernel, n: int) -> Kernel:
    """``suited`` to work on all pairs of n rows."""
    return suited(kernel, _STEPS_A_PAIR * n * (n - 1) // 2)


@cache
def _compiled(kernel: Callable[..., Any]) -> Any:
    """Made once a process, from what lies on disk where it can."""
    from numba import njit
    from numba.extending import register_jitable

    while _called_by_kernels:
        register_jitable(_called_by_kernels.pop())
    try:
        return njit(cache=True, nogil=True)(kernel)
    except RuntimeError:  # there is no folder that it could be kept in
        return njit(nogil=True)(kernel)
