"""Content words and their ids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlitqc_metrics._algorithms.words import content_word_ids, content_words, stop_words


def test_the_stop_words_are_those_of_spacy() -> None:
    from spacy.lang.en.stop_words import STOP_WORDS

    assert stop_words() == STOP_WORDS | {"wo", "sha"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What color is the car on the street?", ["color", "car", "street"]),
        ("<image>\nDescribe THE image.", ["describe", "image"]),
        ("<ImageHere> <|im_start|>Count cats<|im_end|>", ["count", "cats"]),
        ("The dog's ball isn't red; it's the cat\u2019s", ["dog", "ball", "red", "cat"]),
        ("We won't, can't, shan't, don't", []),
        ("See https://a.org/dogs and www.b.org/cats now", []),
        ("3 dogs, 2nd x b", ["dogs", "nd"]),
        ("well-lit snake_case naïve", ["lit", "snake", "case", "naïve"]),
        ("a < b > c", []),
        ("", []),
    ],
)
def test_content_words(text: str, words: list[str]) -> None:
    assert content_words(text) == words


def test_ids_number_words_by_first_appearance_and_keep_repeats() -> None:
    ids, vocabulary = content_word_ids(["Red car, red bus", "is the", "bus stop"])
    assert vocabulary == ["red", "car", "bus", "stop"]
    assert [row.tolist() for row in ids] == [[0, 1, 0, 2], [], [2, 3]]
    assert all(row.dtype == np.int32 and row.ndim == 1 for row in ids)
    assert content_word_ids([]) == ([], [])


@given(st.lists(st.text(max_size=60), max_size=8))
def test_ids_spell_the_words_of_any_text(texts: list[str]) -> None:
    ids, vocabulary = content_word_ids(texts)
    assert [[vocabulary[i] for i in row] for row in ids] == [content_words(text) for text in texts]
    assert len(set(vocabulary)) == len(vocabulary)
    assert not stop_words().intersection(vocabulary)
