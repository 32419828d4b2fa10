"""What a corruption is, whatever it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vlitqc.types import Principle
from vlitqc.validity.case import Case

Apply = Callable[[Sequence[Case], float, np.random.Generator], "list[Case | None]"]


@dataclass(frozen=True)
class Corruption:
    """A controlled fault, in one or more strengths.

    Attributes:
        name: as the tables name it, such as ``shuffled_words``.
        principle: the principle that it offends against.
        summary: what is done, in one sentence.
        targets: metric that must notice → ``"falls"`` or ``"rises"``.
        may_move: metric that may notice although it is no target → the reason.
        strengths: ascending; one alone where the fault is there or not.
        unit: of the strengths, such as ``"share of words"``.
        scope: ``"case"``: the answer at i is case i corrupted, None where there is nothing to corrupt (a caption
            without a number); ``"set"``: the answer is a data set of as many cases, or nothing but None where
            there is nothing to corrupt (tasks to lose, where there is one alone).
        apply: ``apply(cases, strength, rng)``. Ids stay; the cases themselves are not changed. With equally seeded
            ``rng`` a stronger fault is more of the weaker one.
    """

    name: str
    principle: Principle
    summary: str
    targets: Mapping[str, Literal["falls", "rises"]]
    strengths: tuple[float, ...]
    unit: str
    scope: Literal["case", "set"]
    apply: Apply = field(repr=False)
    may_move: Mapping[str, str] = field(default_factory=dict)
