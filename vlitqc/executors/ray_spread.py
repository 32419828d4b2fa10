"""Parts of a data-set metric as tasks of a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError, UnserializableException

from vlitqc.errors import RunError
from vlitqc.executors.ray_models import own, portable

Part = TypeVar("Part")
T = TypeVar("T")

RETRIES = 3
"""So many times Ray gives a part to another worker when a worker or its node dies over it."""


class RaySpread:
    """A ``Spread`` over the cluster that this process is connected to: a task a part, on one processor each.

    Tasks wait while others hold the processors, so the workers of the run must have ended. No task has a GPU.
    """

    def __init__(self, width: int | None = None) -> None:
        """``width``: by default the processors of the cluster as it is when parts are counted."""
        self._width = width

    @property
    def width(self) -> int:
        """How many parts are computed at a time."""
        with _in_a_sentence():
            cluster: dict[str, float] = ray.cluster_resources()
        return self._width or max(1, int(cluster.get("CPU", 1)))

    def map(self, function: Callable[[Part], T], parts: Iterable[Part]) -> Iterator[T]:
        """As ``Spread.map``; at most twice ``width`` parts are under way or wait to be taken."""
        remote: Any = ray.remote(_compute)
        task = remote.options(num_cpus=1, max_retries=RETRIES, name=f"vlitqc {_name(function)}")
        under_way: deque[Any] = deque()
        try:
            with _in_a_sentence():
                # Put once, what the function holds reaches every node once and not with every part.
                shared = ray.put(function)
                most = 2 * self.width
                for part in parts:
                    under_way.append(task.remote(shared, part))
                    if len(under_way) >= most:
                        yield ray.get(under_way.popleft())
                while under_way:
                    yield ray.get(under_way.popleft())
        finally:
            for call in under_way:
                with suppress(RayError):
                    ray.cancel(call)


def _compute(function: Callable[[Part], T], part: Part) -> T:
    with portable():
        return function(part)


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    try:
        yield
    except (RayTaskError, UnserializableException) as error:
        raise own(error) from None
    except RayError as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RunError(
            f"parts of a metric's work end again and again ({cause}), perhaps for want of memory; the same command "
            "goes on"
        ) from error


def _name(function: Callable[..., Any]) -> str:
    named = function.func if isinstance(function, partial) else function
    return str(getattr(named, "__name__", named))
