"""Texts in pieces that a text model takes whole: sentences first, then words, and letters only at the last."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# A sentence ends at its mark and closing quotes, before white space; full-width marks need no space. What
# follows an ASCII mark must not be a lower-case letter, which speaks for an abbreviation.
_BOUNDARY = re.compile(r"(?<=[.!?…؟।])[\"'”’»)\]]{0,3} (?![a-zà-öø-ÿа-я])|(?<=[。！？])[」』”]?")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|Fig|vs|etc|approx|e\.g|i\.e|[a-z]\.[a-z])\.$"
)
_WORD = re.compile(r"\w")
_LETTER = re.compile(r"[^\W\d_]")

LONGEST_WORD = 128
"""Characters. A word beyond is cut there before anything is counted, since byte-pair encoding takes time that
grows faster than the word does: a hostile "word" of a megabyte would hold a tokenizer for hours."""


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of ``text``, trimmed; a list mark or an initial stays with what follows it.

    Works on marks and letter case only, so it knows no language: Latin, Greek, Cyrillic, Arabic, Devanagari
    and CJK marks end sentences. Pieces without a letter or digit join their neighbour. Empty only where
    ``text`` has no letter and no digit.
    """
    pieces: list[str] = []
    for raw in text.splitlines():
        line = " ".join(raw.split())
        start = seen = 0
        has_letter = False
        for found in _BOUNDARY.finditer(line):
            has_letter = has_letter or _LETTER.search(line, seen, found.end()) is not None
            seen = found.end()
            # "2." and "Dr." end nothing. Only as much is looked at as an abbreviation can be long.
            if not has_letter or _ABBREVIATION.search(line[max(start, found.start() - 12) : found.start()]):
                continue
            pieces.append(line[start : found.end()].strip())
            start, has_letter = found.end(), False
        last = line[start:].strip()
        if _WORD.search(last):
            pieces.append(last)
        elif last and pieces:
            pieces[-1] = f"{pieces[-1]} {last}"
    return pieces


def fit(texts: Sequence[str], limit: int, count: Callable[[Sequence[str]], Sequence[int]]) -> list[list[str]]:
    """Each text as pieces of at most ``limit`` tokens: whole where it fits, else cut, nothing left out.

    A text that is too long is cut at white space, each piece taking as many words as fit; a word that is too
    long is cut between characters. Joined, and without white space, the pieces are the text.

    Args:
        texts: any texts; white space is where words end.
        limit: tokens, as ``count`` counts them; at least 1.
        count: the number of tokens of each text. It need not be additive over words.

    Raises:
        ValueError: ``limit`` is below 1, or a single character has more tokens than ``limit``.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1 token; got {limit}")
    whole = fits(texts, limit, count)
    return [[text] if ok else _pack(text, limit, count) for text, ok in zip(texts, whole, strict=True)]


def fits(texts: Sequence[str], limit: int, count: Callable[[Sequence[str]], Sequence[int]]) -> list[bool]:
    """Whether each text stays whole under ``fit``; one with a word beyond ``LONGEST_WORD`` does not."""
    countable = [text for text in texts if _longest_word(text) <= LONGEST_WORD]
    sizes = dict(zip(countable, count(countable), strict=True)) if countable else {}
    return [text in sizes and sizes[text] <= limit for text in texts]


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0) if len(text) > LONGEST_WORD else len(text)


def _pack(text: str, limit: int, count: Callable[[Sequence[str]], Sequence[int]]) -> list[str]:
    pieces: list[str] = []
    words: list[str] = []
    for word in text.split():
        if len(word) <= LONGEST_WORD:
            words.append(word)
            continue
        pieces += _pack_words(words, limit, count)
        words = []
        for start in range(0, len(word), LONGEST_WORD):
            pieces += _cut_word(word[start : start + LONGEST_WORD], limit, count)
    return pieces + _pack_words(words, limit, count)


def _pack_words(
    words: Sequence[str], limit: int, count: Callable[[Sequence[str]], Sequence[int]]
) -> list[str]:
    if not words:
        return []
    groups: list[list[str]] = []
    room = 0
    for word, size in zip(words, count(words), strict=True):
        if not groups or size > room:
            groups.append([])
            room = limit
        groups[-1].append(word)
        room -= size
    pieces: list[str] = []
    waiting = groups[::-1]
    while waiting:
        group = waiting.pop()
        piece = " ".join(group)
        if count([piece])[0] <= limit:
            pieces.append(piece)
        elif len(group) > 1:  # the tokens of the words do not add up to those of the piece
            waiting += [group[len(group) // 2 :], group[: len(group) // 2]]
        else:
            pieces += _cut_word(piece, limit, count)
    return pieces


def _cut_word(word: str, limit: int, count: Callable[[Sequence[str]], Sequence[int]]) -> list[str]:
    pieces = []
    start = 0
    while start < len(word):
        end = len(word)
        if count([word[start:]])[0] > limit:
            end, beyond = start + 1, len(word)
            while end + 1 < beyond:
                middle = (end + beyond) // 2
                if count([word[start:middle]])[0] <= limit:
                    end = middle
                else:
                    beyond = middle
            if end == start + 1 and count([word[start:end]])[0] > limit:
                raise ValueError(f"the character {word[start]!r} has more than {limit} tokens")
        pieces.append(word[start:end])
        start = end
    return pieces
