"""What corruptions are made of: the words of a text, and how a change of one text or picture becomes one of cases."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vlitqc.types import Rgb, Turn
from vlitqc.validity.case import Case
from vlitqc.validity.corruptions.corruption import Apply

ChangeText = Callable[[str, float, np.random.Generator], str]
"""``change(text, strength, rng)``; the same text back where there is nothing to change."""
ChangePicture = Callable[[Rgb, float, np.random.Generator], Rgb]
"""``change(picture, strength, rng)``; the same picture back where there is nothing to change."""
ChangeCase = Callable[[Case, float, np.random.Generator], "Case | None"]

# Scripts without spaces, of which every character counts as a word: kana and Chinese characters.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUN = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text: ``text[start:end]``."""

    start: int
    end: int
    text: str


def words(text: str) -> list[Word]:
    """The words in order: runs without white space, less the punctuation and symbols at their two ends.

    What stands within a word stays ("light-colored", "don't"); Chinese characters and kana are a word each.
    """
    found = []
    for run in _RUN.finditer(text):
        start, end = run.span()
        while start < end and not _wordly(text[start]):
            start += 1
        while start < end and not _wordly(text[end - 1]):
            end -= 1
        if start < end:
            found.append(Word(start, end, text[start:end]))
    return found


def _wordly(character: str) -> bool:
    """Whether it is a letter, a mark on one, or a digit."""
    return unicodedata.category(character)[0] in "LMN"


def with_words(text: str, old: Sequence[Word], new: Sequence[str]) -> str:
    """``text`` with ``new[i]`` in the place of ``old[i]``; what stands between the words stays."""
    pieces, at = [], 0
    for word, changed in zip(old, new, strict=True):
        pieces += [text[at : word.start], changed]
        at = word.end
    return "".join([*pieces, text[at:]])


def share_of(n: int, share: float, least: int = 1) -> int:
    """How many of ``n`` are ``share`` of them: at least ``least``, where there are so many."""
    return min(n, max(least, round(share * n)))


def each_case(change: ChangeCase) -> Apply:
    """Corrupts every case by itself, with a random stream that depends on ``rng`` and its id alone.

    So a case is corrupted alike whatever the others are, and, with equally seeded ``rng``, from the same draws
    at every strength.
    """

    def apply(cases: Sequence[Case], strength: float, rng: np.random.Generator) -> list[Case | None]:
        seed = int(rng.integers(2**63))
        return [change(case, strength, _stream(seed, case.id)) for case in cases]

    return apply


def _stream(seed: int, id: str) -> np.random.Generator:
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8])])


def in_responses(change: ChangeText) -> Apply:
    """Corrupts the response of every turn."""
    return _in_turns("response", change)


def in_instructions(change: ChangeText) -> Apply:
    """Corrupts the instruction of every turn."""
    return _in_turns("instruction", change)


def _in_turns(part: Literal["instruction", "response"], change: ChangeText) -> Apply:
    def of_case(case: Case, strength: float, rng: np.random.Generator) -> Case | None:
        turns = [
            replace(turn, **{part: change(getattr(turn, part), strength, own)})
            for turn, own in zip(case.turns, rng.spawn(len(case.turns)), strict=True)
        ]
        return with_turns(case, turns)

    return each_case(of_case)


def in_pictures(change: ChangePicture) -> Apply:
    """Corrupts every picture."""

    def of_case(case: Case, strength: float, rng: np.random.Generator) -> Case | None:
        # Taken once: pictures may be decoded whenever they are asked for.
        before = tuple(case.pictures)
        own = zip(before, rng.spawn(len(before)), strict=True)
        after = tuple(np.ascontiguousarray(change(picture, strength, stream)) for picture, stream in own)
        same = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        return None if same else replace(case, pictures=after)

    return each_case(of_case)


def with_turns(case: Case, turns: Sequence[Turn]) -> Case | None:
    """The case with other turns; None where they are the same."""
    return None if tuple(turns) == case.turns else replace(case, turns=tuple(turns))


def pictures_key(case: Case) -> bytes:
    """Equal for cases with the same pictures in the same order; empty for a case without."""
    if not case.pictures:
        return b""
    digest = hashlib.sha256()
    for picture in case.pictures:
        digest.update(str(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).data)
    return digest.digest()
