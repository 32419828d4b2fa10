"""What is done to texts."""

from __future__ import annotations

import string
from dataclasses import replace

import numpy as np

from vlitqc.types import Principle
from vlitqc.validity.case import Case
from vlitqc.validity.corruptions.anatomy import (
    Word,
    each_case,
    in_instructions,
    in_responses,
    share_of,
    with_turns,
    with_words,
    words,
)
from vlitqc.validity.corruptions.corruption import Corruption
from vlitqc.validity.corruptions.reasons import OF_INSTRUCTIONS, OF_RESPONSES, without
from vlitqc.validity.corruptions.vocabulary import vocabulary

LOOP_WORDS = 6
"""Words of the phrase that a looping model repeats."""

SWAPPED, DROPPED, DOUBLED, STRUCK = range(4)
"""Slips of the finger: two letters exchanged, one left out, one twice, one struck beside its key."""


def shuffled(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with ``share`` of its words, at least two, in each other's places; the rest stays where it is.

    The words move along one random cycle, so that each of those chosen leaves its place; what is chosen at a lower
    share is chosen at a higher one.
    """
    found = words(text)
    order = rng.permutation(len(found))[: share_of(len(found), share, least=2)]
    told = [word.text for word in found]
    for at, source in zip(order, np.roll(order, 1), strict=True):
        told[at] = found[source].text
    return with_words(text, found, told)


def typed(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with one slip of the finger in ``share`` of its words of at least two letters."""
    found = words(text)
    streams = rng.spawn(len(found))
    can = [i for i, word in enumerate(found) if sum(c.isalpha() for c in word.text) > 1]
    told = [word.text for word in found]
    for place in rng.permutation(len(can))[: share_of(len(can), share)]:
        told[can[place]] = mistyped(told[can[place]], streams[can[place]])
    return with_words(text, found, told)


def mistyped(word: str, rng: np.random.Generator) -> str:
    """The word with one slip at a random letter; always another word."""
    letters = [i for i, c in enumerate(word) if c.isalpha()]
    for kind in rng.permutation(4):
        for at in rng.permutation(letters):
            slipped = _slip(word, int(at), kind, rng)
            if slipped != word:
                return slipped
    return word


def _slip(word: str, at: int, kind: int, rng: np.random.Generator) -> str:
    before, letter, after = word[:at], word[at], word[at + 1 :]
    if kind == SWAPPED:
        return before + after[:1] + letter + after[1:]
    if kind == DROPPED:
        return before + after
    if kind == DOUBLED:
        return before + letter + letter + after
    beside = neighbours(letter.lower())
    if not beside:
        return word
    struck = beside[int(rng.integers(len(beside)))]
    return before + (struck.upper() if letter.isupper() else struck) + after


def neighbours(letter: str) -> str:
    """The keys left and right of a letter's; none for what is on no key."""
    for row in vocabulary().keyboard:
        at = row.find(letter)
        if at >= 0:
            return row[max(at - 1, 0) : at] + row[at + 1 : at + 2]
    return ""


def truncated(text: str, share: float, rng: np.random.Generator) -> str:
    """The text without the last ``share`` of its words, and without what followed the last one that stays."""
    found = words(text)
    kept = len(found) - share_of(len(found), share)
    return text[: found[kept - 1].end] if kept > 0 else text


def looped(text: str, times: float, rng: np.random.Generator) -> str:
    """The text with its last six words, or as many as it has, said again ``times`` times."""
    found = words(text)
    if not found:
        return text
    phrase = text[found[-LOOP_WORDS:][0].start : found[-1].end]
    return text[: found[-1].end] + f" {phrase}" * round(times) + text[found[-1].end :]


def scrambled(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with ``share`` of its words replaced by as many random letters."""
    found = words(text)
    streams = rng.spawn(len(found))
    told = [word.text for word in found]
    for at in rng.permutation(len(found))[: share_of(len(found), share)]:
        letters = streams[at].choice(list(string.ascii_lowercase), len(found[at].text))
        told[at] = "".join(letters)
    return with_words(text, found, told)


def boilerplated(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with the last ``share`` of its words replaced by sentences of no content, about as long."""
    found = words(text)
    kept = len(found) - share_of(len(found), share)
    stock = vocabulary().boilerplate
    told = [stock[i] for i in rng.permutation(len(stock))]
    return _continued(text, found, kept, told, " ")


def in_another_language(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with the last ``share`` of its words replaced by sentences in a language that is not its own."""
    found = words(text)
    spoken = {word.text.lower() for word in found}
    languages = vocabulary().languages
    common = {
        name: len(spoken & {word.text.lower() for told in sentences for word in words(told)})
        for name, sentences in languages.items()
    }
    # Languages share few words but their own; the text's own language is never among those with the fewest.
    foreign = [name for name, n in common.items() if n == min(common.values())]
    name = foreign[int(rng.integers(len(foreign)))]
    told = [languages[name][i] for i in rng.permutation(len(languages[name]))]
    kept = len(found) - share_of(len(found), share)
    return _continued(text, found, kept, told, "" if name == "zh" else " ")


def _continued(text: str, found: list[Word], kept: int, sentences: list[str], between: str) -> str:
    """The first ``kept`` words of the text, then of the sentences as many as there were words more, at least one."""
    if not found:
        return text
    told: list[str] = []
    while not told or (
        len(told) < len(sentences) and sum(len(words(one)) for one in told) < len(found) - kept
    ):
        told.append(sentences[len(told)])
    begin = f"{text[: found[kept - 1].end]} " if kept > 0 else ""
    return begin + between.join(told)


def simplified(case: Case, strength: float, rng: np.random.Generator) -> Case | None:
    """The case with every instruction cut to the simplest question, where it has more words than that."""
    stock = vocabulary()
    simple = stock.simple_with_picture if case.pictures else stock.simple_without_picture
    longer = len(words(simple))
    asked = [
        replace(turn, instruction=simple) if len(words(turn.instruction)) > longer else turn
        for turn in case.turns
    ]
    return with_turns(case, asked)


def leaked(case: Case, strength: float, rng: np.random.Generator) -> Case | None:
    """The case with every response told in the instruction already."""
    asked = [
        replace(turn, instruction=f"{turn.instruction}\nSay: {turn.response}")
        if words(turn.response)
        else turn
        for turn in case.turns
    ]
    return with_turns(case, asked)


TEXTS = (
    Corruption(
        name="shuffled_words",
        principle=Principle.READABILITY,
        summary="Words of each response stand in each other's places.",
        targets={"text_readability": "falls"},
        strengths=(0.25, 0.5, 1.0),
        unit="share of words",
        scope="case",
        apply=in_responses(shuffled),
        may_move=OF_RESPONSES,
    ),
    Corruption(
        name="shuffled_instruction_words",
        principle=Principle.READABILITY,
        summary="Words of each instruction stand in each other's places.",
        targets={"text_readability": "falls"},
        strengths=(0.25, 0.5, 1.0),
        unit="share of words",
        scope="case",
        apply=in_instructions(shuffled),
        may_move=OF_INSTRUCTIONS,
    ),
    Corruption(
        name="typos",
        principle=Principle.READABILITY,
        summary="Words of each response have one letter left out, doubled, mistaken or exchanged with the next.",
        targets={"text_readability": "falls"},
        strengths=(0.1, 0.3, 0.6),
        unit="share of words",
        scope="case",
        apply=in_responses(typed),
        may_move=OF_RESPONSES,
    ),
    Corruption(
        name="random_letters",
        principle=Principle.READABILITY,
        summary="Words of each response are replaced by as many random letters.",
        targets={
            "text_readability": "falls",
            "matching_degree": "falls",
            "matching_percentile": "falls",
            "correctness": "falls",
        },
        strengths=(0.25, 0.5, 1.0),
        unit="share of words",
        scope="case",
        apply=in_responses(scrambled),
        may_move=without(OF_RESPONSES, "matching_degree", "matching_percentile", "correctness"),
    ),
    Corruption(
        name="truncated_response",
        principle=Principle.READABILITY,
        summary="Each response breaks off before its end.",
        targets={"text_readability": "falls", "correctness": "falls"},
        strengths=(0.25, 0.5, 0.75),
        unit="share of words cut",
        scope="case",
        apply=in_responses(truncated),
        may_move=without(OF_RESPONSES, "correctness"),
    ),
    Corruption(
        name="repeated_response",
        principle=Principle.READABILITY,
        summary="Each response says its last six words again and again, as a looping model does.",
        targets={"text_readability": "falls"},
        strengths=(1.0, 3.0, 10.0),
        unit="repetitions",
        scope="case",
        apply=in_responses(looped),
        may_move=OF_RESPONSES,
    ),
    Corruption(
        name="wrong_language",
        principle=Principle.CORRECTNESS,
        summary="The end of each response is replaced by sentences in another language.",
        targets={"matching_degree": "falls", "matching_percentile": "falls", "correctness": "falls"},
        strengths=(0.5, 1.0),
        unit="share of words",
        scope="case",
        apply=in_responses(in_another_language),
        may_move={
            **without(OF_RESPONSES, "matching_degree", "matching_percentile", "correctness"),
            "text_readability": "a model of English leaves the response out, another may find it as readable",
        },
    ),
    Corruption(
        name="boilerplate_response",
        principle=Principle.CORRECTNESS,
        summary="The end of each response is replaced by sentences of no content (As an AI language model …).",
        targets={"matching_degree": "falls", "matching_percentile": "falls", "correctness": "falls"},
        strengths=(0.3, 0.6, 1.0),
        unit="share of words",
        scope="case",
        apply=in_responses(boilerplated),
        may_move={
            **without(OF_RESPONSES, "matching_degree", "matching_percentile", "correctness"),
            "text_readability": "boilerplate is easily read prose",
        },
    ),
    Corruption(
        name="simplified_instructions",
        principle=Principle.INSTRUCTION_COMPLEXITY,
        summary="Each instruction is cut to the simplest question, What is it?",
        targets={"granularity_complexity": "falls", "instruction_complexity": "falls"},
        strengths=(1.0,),
        unit="share of instructions",
        scope="case",
        apply=each_case(simplified),
        may_move={
            **without(OF_INSTRUCTIONS, "granularity_complexity", "instruction_complexity"),
            "text_readability": "another text is as readable as it is",
        },
    ),
    Corruption(
        name="leaked_responses",
        principle=Principle.INSTRUCTION_COMPLEXITY,
        summary="Each instruction tells the response that it asks for, so that nothing is left to find out.",
        targets={"ifd": "falls", "instruction_complexity": "falls"},
        strengths=(1.0,),
        unit="share of instructions",
        scope="case",
        apply=each_case(leaked),
        may_move={
            **without(OF_INSTRUCTIONS, "ifd", "instruction_complexity"),
            "text_readability": "the instruction is another text, with the response in it",
        },
    ),
)
"""The corruptions of texts."""
