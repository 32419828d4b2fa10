"""Where the time of a run goes: exclusive seconds by stage, metric and model."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

SECTIONS = {"stage": "stages", "metric": "metrics", "model": "models"}
"""The kinds that are measured, and what they are called in ``run.json``."""


class Clock:
    """Measures the thread that made it; a measurement in another thread does nothing, since its time runs beside.

    Times are exclusive: what is measured within a measurement is taken off the outer one, so that all of them add
    up to no more than the time that passed.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._open: list[_Span] = []
        self._seconds: dict[tuple[str, str], float] = {}

    def measure(self, kind: str, name: str) -> AbstractContextManager[None]:
        """Within it the time is that of ``name``; ``kind`` is a key of ``SECTIONS``."""
        if threading.get_ident() != self._thread:
            return nullcontext()
        return _Span(self, (kind, name))

    def measured(self, kind: str, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items; the time that it takes to make each is that of ``name``."""
        coming = iter(items)
        while True:
            with self.measure(kind, name):
                try:
                    item = next(coming)
                except StopIteration:
                    return
            yield item

    def take(self) -> dict[str, dict[str, float]]:
        """Seconds by section and name since the last call, in the order of first use; open measurements come later."""
        found: dict[str, dict[str, float]] = {section: {} for section in SECTIONS.values()}
        for (kind, name), seconds in self._seconds.items():
            found[SECTIONS[kind]][name] = seconds
        self._seconds.clear()
        return found


class _Span:
    __slots__ = ("_clock", "_key", "_nested", "_started")

    def __init__(self, clock: Clock, key: tuple[str, str]) -> None:
        self._clock = clock
        self._key = key

    def __enter__(self) -> None:
        self._nested = 0.0
        self._clock._open.append(self)
        self._started = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        spent = perf_counter() - self._started
        clock = self._clock
        clock._open.pop()
        if clock._open:
            clock._open[-1]._nested += spent
        clock._seconds[self._key] = clock._seconds.get(self._key, 0.0) + spent - self._nested


def added(
    one: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """The sum of two sets of times, name by name."""
    return {
        section: {
            name: one.get(section, {}).get(name, 0.0) + other.get(section, {}).get(name, 0.0)
            for name in {**one.get(section, {}), **other.get(section, {})}
        }
        for section in {**one, **other}
    }
