"""What is done to the bond of picture and response: swapped between records, or false in one detail.

The details are those of SugarCrepe (Hsieh et al., NeurIPS 2023): an object, a number, an attribute, a relation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from vlitqc.types import Principle
from vlitqc.validity.case import Case
from vlitqc.validity.corruptions.anatomy import (
    ChangeText,
    Word,
    in_responses,
    pictures_key,
    with_turns,
    with_words,
    words,
)
from vlitqc.validity.corruptions.corruption import Corruption
from vlitqc.validity.corruptions.reasons import OF_RESPONSES, without
from vlitqc.validity.corruptions.vocabulary import vocabulary

# A whole number by itself: no decimal, date, time or part of a code.
_DIGITS = re.compile(r"[0-9]{1,3}")
_VOWELS = "aeiou"
_JOINING = frozenset({"and", "or", "a", "an", "the"})


def swapped_pictures(cases: Sequence[Case], strength: float, rng: np.random.Generator) -> list[Case | None]:
    """Each case with the pictures of another; None where a case or every other one has no pictures to swap."""
    keys = [pictures_key(case) for case in cases]
    partners = _partners(len(cases), rng, lambda i, j: bool(keys[i] and keys[j]) and keys[i] != keys[j])
    return [
        None if j is None else replace(case, pictures=cases[j].pictures)
        for case, j in zip(cases, partners, strict=True)
    ]


def swapped_responses(cases: Sequence[Case], strength: float, rng: np.random.Generator) -> list[Case | None]:
    """Each case with the responses of another, of other pictures; None where there is none.

    Turn by turn, and from the first again where the other has fewer turns.
    """
    keys = [pictures_key(case) for case in cases]
    told = [tuple(turn.response for turn in case.turns) for case in cases]

    def fits(i: int, j: int) -> bool:
        if not told[i] or not told[j] or (keys[i] and keys[i] == keys[j]):
            return False
        return all(mine != told[j][k % len(told[j])] for k, mine in enumerate(told[i]))

    return [
        None if j is None else with_responses(case, told[j])
        for case, j in zip(cases, _partners(len(cases), rng, fits), strict=True)
    ]


def with_responses(case: Case, told: Sequence[str]) -> Case | None:
    """The case with these responses, from the first again where it has more turns; None where they are its own."""
    return with_turns(
        case, [replace(turn, response=told[k % len(told)]) for k, turn in enumerate(case.turns)]
    )


def _partners(n: int, rng: np.random.Generator, fits: Callable[[int, int], bool]) -> Iterator[int | None]:
    """For each of ``n``, the next along a random circle that fits it: one never gets itself, nor, where all fit, do
    two get the same."""
    order = rng.permutation(n).tolist()
    place = np.argsort(order).tolist()
    for i in range(n):
        behind = (order[(place[i] + step) % n] for step in range(1, n))
        yield next((j for j in behind if fits(i, j)), None)


def other_number(text: str, strength: float, rng: np.random.Generator) -> str:
    """One number of the text, in words or digits, replaced by another."""
    found = words(text)
    known = vocabulary().numbers
    can = [i for i, word in enumerate(found) if word.text.lower() in known or _stands_alone(text, word)]
    if not can:
        return text
    at = can[int(rng.integers(len(can)))]
    old = found[at].text
    if old.lower() in known:
        return _replaced(text, found, at, _another(known, old.lower(), rng))
    number = int(old)
    near = [other for other in range(max(1, number - 5), number + 6) if other != number]
    return _replaced(text, found, at, str(near[int(rng.integers(len(near)))]))


def _stands_alone(text: str, word: Word) -> bool:
    """Whether a word is a whole number of up to three digits, and no part of a decimal, date or code."""
    if not _DIGITS.fullmatch(word.text):
        return False
    before, after = text[: word.start][-1:], text[word.end :][:2]
    return before not in set("$€£#№.-/") and not re.match(r"[%°/:\-]|\.\d", after)


def other_colour(text: str, strength: float, rng: np.random.Generator) -> str:
    """Two colours of the text in each other's places, or its only one replaced by another."""
    found = words(text)
    known = vocabulary().colours
    can = [i for i, word in enumerate(found) if word.text.lower() in known]
    if not can:
        return text
    first = can[int(rng.integers(len(can)))]
    old = found[first].text.lower()
    others = [i for i in can if _shade(found[i].text.lower()) != _shade(old) and not _listed(found, first, i)]
    if others:
        return _exchanged(text, found, first, others[int(rng.integers(len(others)))])
    fresh = [colour for colour in known if _shade(colour) != _shade(old)]
    return _replaced(text, found, first, fresh[int(rng.integers(len(fresh)))])


def _shade(colour: str) -> str:
    return "grey" if colour == "gray" else colour


def other_relation(text: str, strength: float, rng: np.random.Generator) -> str:
    """One phrase of place of the text replaced by its opposite."""
    found = [
        (match.start(), match.end(), relation.opposite)
        for relation in vocabulary().relations
        for match in relation.pattern.finditer(text)
    ]
    if not found:
        return text
    # Of those that begin alike the longest: "on top of" is not "on".
    longest = {start: (start, end, new) for start, end, new in sorted(found)}
    start, end, opposite = list(longest.values())[int(rng.integers(len(longest)))]
    return text[:start] + _cased(opposite, text[start:end]) + text[end:]


def other_entity(text: str, strength: float, rng: np.random.Generator) -> str:
    """Two nouns of the text in each other's places, both of one number, or one replaced by another of its class."""
    found = words(text)
    nouns = vocabulary().nouns
    can = {i: nouns[word.text.lower()] for i, word in enumerate(found) if word.text.lower() in nouns}
    if not can:
        return text
    first = list(can)[int(rng.integers(len(can)))]
    old = can[first]
    others = [
        i
        for i, noun in can.items()
        if noun.plural == old.plural and noun.thing != old.thing and not _listed(found, first, i)
    ]
    if others:
        return _exchanged(text, found, first, others[int(rng.integers(len(others)))])
    return _replaced(
        text, found, first, _another(vocabulary().of_class[old.kind, old.plural], old.thing, rng)
    )


def _listed(found: list[Word], one: int, other: int) -> bool:
    """Whether two words are of one list ("a man and a woman", "black and white"), which says the same either way."""
    stock = vocabulary()
    between = (word.text.lower() for word in found[min(one, other) + 1 : max(one, other)])
    return all(word in _JOINING or word in stock.colours or word in stock.nouns for word in between)


def _another(known: Sequence[str], old: str, rng: np.random.Generator) -> str:
    fresh = [word for word in known if word != old]
    return fresh[int(rng.integers(len(fresh)))]


def _exchanged(text: str, found: list[Word], first: int, second: int) -> str:
    told = {first: found[second].text.lower(), second: found[first].text.lower()}
    return _rewritten(text, found, told)


def _replaced(text: str, found: list[Word], at: int, new: str) -> str:
    return _rewritten(text, found, {at: new})


def _rewritten(text: str, found: list[Word], new: dict[int, str]) -> str:
    """The text with new words at some places, in the case of the old ones, and with "a" or "an" as they need it."""
    told = [word.text for word in found]
    for at, word in new.items():
        told[at] = _cased(word, found[at].text)
        if at and told[at - 1].lower() in {"a", "an"} and text[found[at - 1].end : found[at].start].isspace():
            told[at - 1] = _cased("an" if word[0] in _VOWELS else "a", told[at - 1])
    return with_words(text, found, told)


def _cased(word: str, like: str) -> str:
    """The word with a capital where the other has one, in capitals where the other is."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


# What tells a response from one of another picture.
_MATCHING = ("matching_degree", "matching_percentile", "correctness")


def _detail(name: str, summary: str, change: ChangeText) -> Corruption:
    """One false word in a response that is right otherwise: the hardest of all for what looks at it as a whole."""
    return Corruption(
        name=name,
        principle=Principle.CORRECTNESS,
        summary=summary,
        targets=dict.fromkeys(_MATCHING, "falls"),
        strengths=(1.0,),
        unit="false details a response",
        scope="case",
        apply=in_responses(change),
        may_move={
            **without(OF_RESPONSES, *_MATCHING),
            "text_readability": "the false word may be the rarer one in its place",
        },
    )


PAIRS = (
    Corruption(
        name="swapped_pictures",
        principle=Principle.CORRECTNESS,
        summary="Each record shows the pictures of another.",
        targets=dict.fromkeys(_MATCHING, "falls"),
        strengths=(1.0,),
        unit="share of records",
        scope="case",
        apply=swapped_pictures,
        may_move={
            "instruction_complexity": "the judge also sees the picture",
            "duplicates": "records of one picture no longer share it",
        },
    ),
    Corruption(
        name="swapped_responses",
        principle=Principle.CORRECTNESS,
        summary="Each record says what another says of other pictures.",
        targets={**dict.fromkeys(_MATCHING, "falls"), "ifd": "rises"},
        strengths=(1.0,),
        unit="share of records",
        scope="case",
        apply=swapped_responses,
        may_move={
            "instruction_complexity": "the judge also reads the response",
            "duplicates": "compares the responses to records of the same picture",
        },
    ),
    _detail(
        "swapped_entities",
        "Two things of each response stand in each other's places, or one is replaced by another of its class.",
        other_entity,
    ),
    _detail("swapped_numbers", "One number of each response is another one.", other_number),
    _detail(
        "swapped_colours",
        "Two colours of each response stand in each other's places, or its only one is another.",
        other_colour,
    ),
    _detail("swapped_relations", "One phrase of place of each response is its opposite.", other_relation),
)
"""The corruptions of the bond between picture and response."""
