"""The corruptions, by name; one file for what they are done to."""

from __future__ import annotations

from vlitqc.validity.corruptions.corruption import Corruption
from vlitqc.validity.corruptions.pairs import PAIRS
from vlitqc.validity.corruptions.pictures import PICTURES
from vlitqc.validity.corruptions.sets import SETS
from vlitqc.validity.corruptions.texts import TEXTS

CORRUPTIONS: dict[str, Corruption] = {one.name: one for one in (*TEXTS, *PICTURES, *PAIRS, *SETS)}

__all__ = ["CORRUPTIONS", "Corruption"]
