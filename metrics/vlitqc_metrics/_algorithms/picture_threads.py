"""Classical measures of several pictures at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from vlitqc.types import Rgb, processors

THREADS = min(8, processors())
"""Their arrays are small: more threads would wait for the interpreter rather than compute."""


def each_picture(measure: Callable[[Rgb], float], pictures: Sequence[Rgb]) -> list[float]:
    """``measure`` of each picture, in order, on threads: Pillow, numpy and scipy compute beside each other.

    Raises what ``measure`` raises first, in the pictures' order.
    """
    if min(THREADS, len(pictures)) < 2:
        return [measure(pixels) for pixels in pictures]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="measure") as pool:
        return list(pool.map(measure, pictures))
