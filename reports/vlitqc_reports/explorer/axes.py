"""The thresholds that a metric can have on the page, and where every record stands between them.

A threshold is a short decimal, a *stop*, and lies nowhere else: so the command that the page prints reads well,
and the page counts exactly what the command will drop. Of a record the page knows between which stops its value
lies, its *code*, and not the value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

NARROW, WIDE = 120, 600
"""Most stops of an axis with codes of one byte, and of two."""

_TAILS = (0.1, 0.5, 1, 2, 3, 5, 7.5)
"""Percentiles at both ends that become stops; between them they lie evenly."""

Codes = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Axis:
    """The stops of one metric, ascending decimals, and the code of every value.

    The code of v is #(stops < v) + #(stops ≤ v), so that v < stop k ⇔ code ≤ 2k, v = stop k ⇔ code = 2k + 1 and
    v > stop k ⇔ code ≥ 2k + 2, the numbers compared as float64; a missing value has the type's largest number.
    ``below[k]`` and ``above[k]`` count the records with a value < and > stop k.
    """

    name: str
    stops: tuple[str, ...]
    codes: Codes
    below: tuple[int, ...]
    above: tuple[int, ...]

    @property
    def n_scored(self) -> int:
        """Records with a value."""
        return int(np.count_nonzero(self.codes != np.iinfo(self.codes.dtype).max))


def axis(name: str, values: NDArray[np.float64], *, floor: float | None = None, wide: bool = False) -> Axis:
    """The axis of ``values``, one a readable record, NaN where it is missing.

    About half of the stops are round numbers at equal distances over the range, half lie at percentiles, closer
    together at both ends; ``floor`` is one of them. Few distinct whole numbers are the stops themselves. ``wide``:
    up to 600 stops instead of 120.
    """
    finite = values[np.isfinite(values)]
    stops = _stops(finite, floor, WIDE if wide else NARROW)
    numbers = np.array([float(stop) for stop in stops], np.float64)
    wider = np.searchsorted(numbers, values, "left") + np.searchsorted(numbers, values, "right")
    codes: Codes = wider.astype(np.uint16) if wide else wider.astype(np.uint8)
    missing = np.isnan(values)
    codes[missing] = np.iinfo(codes.dtype).max
    upto = np.cumsum(np.bincount(codes[~missing], minlength=2 * len(stops) + 1))
    return Axis(
        name,
        stops,
        codes,
        below=tuple(upto[0:-1:2].tolist()),
        above=tuple((upto[-1] - upto[1::2]).tolist()),
    )


def _stops(finite: NDArray[np.float64], floor: float | None, most: int) -> tuple[str, ...]:
    """Ascending decimals, all different as numbers."""
    found: dict[float, str] = {}

    def add(texts: Iterable[str]) -> None:
        for text in texts:
            found.setdefault(float(text), text)

    if floor is not None and math.isfinite(floor):
        add([decimal(floor)])
    if len(finite):
        distinct = _few_whole_numbers(finite, most - 1)
        if distinct is not None:
            add(decimal(value) for value in distinct)
        else:
            add(_round_numbers(float(finite.min()), float(finite.max()), most // 2))
            add(_percentiles(finite, most - len(found)))
    return tuple(found[number] for number in sorted(found))


def decimal(value: float, digits: int = 17) -> str:
    """The shortest decimal of at most so many significant digits that is this float64, or is next to it."""
    exact = Decimal(repr(value)) if digits >= 17 else Decimal(f"{value:.{digits}g}")
    if not exact:
        return "0"
    # A number as long as 1e300 is better read in powers.
    return f"{exact.normalize():f}" if -7 < exact.adjusted() < 16 else f"{exact.normalize():e}"


def _few_whole_numbers(finite: NDArray[np.float64], most: int) -> list[float] | None:
    if not np.array_equal(finite, np.floor(finite)):
        return None
    distinct = np.unique(finite)
    return distinct.tolist() if len(distinct) <= most else None


def _round_numbers(low: float, high: float, most: int) -> Iterable[str]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], at most ``most``."""
    start, end = Decimal(repr(low)), Decimal(repr(high))
    if start == end:
        return
    power = Decimal(1).scaleb(((end - start) / most).adjusted())
    step = next(m * power for m in (1, 2, 5, 10, 20) if (end - start) / (m * power) <= most - 1)
    first, last = math.ceil(start / step), math.floor(end / step)
    for k in range(first, last + 1):
        yield decimal(float(k * step))


def _percentiles(finite: NDArray[np.float64], most: int) -> Iterable[str]:
    """Scores at percentiles, each rounded to as few digits as still tell it from its neighbours."""
    n_inner = max(1, most - 2 * len(_TAILS))
    shares = np.array([*_TAILS, *np.linspace(10, 90, n_inner), *(100 - t for t in reversed(_TAILS))])
    # Scores that occur, so that nothing between two distant ones has to be made up, and no sum overflows.
    scores = np.unique(np.percentile(finite, shares, method="nearest"))
    halves = scores / 2  # whose distances do not overflow
    # Scores equal but for rounding would need all their digits to be told apart, and nobody sets a threshold there.
    apart = np.diff(halves) > 1e-6 * (halves[-1] - halves[0])
    scores = scores[np.concatenate([[True], apart])]
    for k, score in enumerate(scores):
        gaps = [float(abs(score - scores[j])) for j in (k - 1, k + 1) if 0 <= j < len(scores)]
        gap = min(gaps, default=abs(float(score)))
        texts = (decimal(float(score), digits) for digits in range(1, 18))
        yield next(text for text in texts if abs(float(text) - score) <= gap / 4)
