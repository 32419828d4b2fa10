"""A clean record in the form in which it can be corrupted and written again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlitqc.types import Rgb, Turn


@dataclass(frozen=True, eq=False)
class Case:
    """One conversation with its decoded pictures, which may lie in files until they are asked for.

    The turns hold no media tokens; whoever writes a case puts one ``<image>`` a picture before the first instruction.
    ``task`` is what the clean run's tagger said ("" where it said nothing).
    """

    id: str
    turns: tuple[Turn, ...]
    pictures: Sequence[Rgb]
    task: str = ""
