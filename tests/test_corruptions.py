"""The controlled faults of validation: what each does to a record, and that every metric has one aimed at it."""

from __future__ import annotations

import tomllib
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data as photographs
from skimage.filters import laplace
from skimage.metrics import peak_signal_noise_ratio

from vlitqc.registry import METRICS, entries, load_metric
from vlitqc.types import Rgb, Turn
from vlitqc.validity.case import Case
from vlitqc.validity.corruptions import CORRUPTIONS, Corruption
from vlitqc.validity.corruptions.anatomy import with_words, words
from vlitqc.validity.corruptions.pairs import other_colour, other_entity, other_number, other_relation
from vlitqc.validity.corruptions.texts import neighbours
from vlitqc.validity.corruptions.vocabulary import FILE, vocabulary

SENTENCE = "A man in a red shirt holds two small dogs on the left side of a wet street."
ON_PIXELS = (
    "blur",
    "noise",
    "jpeg",
    "downscaled",
    "rotated",
    "exposure",
    "occlusion",
    "flattened",
    "cropped",
)
ON_TEXTS = (
    "shuffled_words", "shuffled_instruction_words", "typos", "random_letters", "truncated_response",
    "repeated_response", "wrong_language", "boilerplate_response", "simplified_instructions", "leaked_responses",
    "swapped_entities", "swapped_numbers", "swapped_colours", "swapped_relations",
)  # fmt: skip
SWAPS = ("swapped_pictures", "swapped_responses")
SETS = tuple(name for name, one in CORRUPTIONS.items() if one.scope == "set")


PHOTOGRAPH: Rgb = photographs.astronaut()


def picture(number: int, side: int = 48) -> Rgb:
    """A photograph's window, another for every number."""
    return np.ascontiguousarray(PHOTOGRAPH[7 * number : 7 * number + side, 120 : 120 + side + 16])


def case(number: int, task: str = "captioning", response: str = SENTENCE) -> Case:
    asked = f"Please tell me about picture number {number} of the {task} collection."
    return Case(f"r{number}", (Turn(asked, f"{response} It is picture {number}."),), (picture(number),), task)


def cases(n: int = 12) -> list[Case]:
    return [case(i, ("captioning", "counting", "reasoning")[i % 3 if i < 8 else 0]) for i in range(n)]


def applied(name: str, of: list[Case], strength: float | None = None, seed: int = 0) -> list[Case | None]:
    one = CORRUPTIONS[name]
    return one.apply(of, one.strengths[-1] if strength is None else strength, np.random.default_rng(seed))


def some(found: list[Case | None]) -> list[Case]:
    assert all(found)
    return [one for one in found if one is not None]


def told(name: str, response: str, strength: float | None = None, seed: int = 0) -> str | None:
    """The response of a record under a corruption; None where there was nothing to corrupt."""
    (found,) = applied(name, [Case("x", (Turn("What is to be seen?", response),), ())], strength, seed)
    return None if found is None else found.turns[0].response


def same(one: Case | None, other: Case | None) -> bool:
    if one is None or other is None:
        return one is other
    shown = len(one.pictures) == len(other.pictures) and all(
        np.array_equal(a, b) for a, b in zip(one.pictures, other.pictures, strict=True)
    )
    return shown and (one.id, one.turns, one.task) == (other.id, other.turns, other.task)


# ---------------------------------------------------------------- the table of corruptions


@pytest.mark.parametrize("one", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_corruption_says_what_it_is(one: Corruption) -> None:
    assert one.summary.endswith((".", "?")) and one.summary[0].isupper() and one.unit
    assert list(one.strengths) == sorted(set(one.strengths)) and one.strengths[0] > 0
    assert one.targets and set(one.targets.values()) <= {"falls", "rises"}
    assert not set(one.targets) & set(one.may_move)
    assert all(why and why[0].islower() and not why.endswith(".") for why in one.may_move.values())
    assert {*one.targets, *one.may_move} <= set(entries(METRICS))


def test_the_tables_name_is_the_corruptions_own() -> None:
    assert all(name == one.name for name, one in CORRUPTIONS.items())
    assert {*ON_PIXELS, *ON_TEXTS, *SWAPS, *SETS} == set(CORRUPTIONS)


def test_every_metric_has_a_corruption_aimed_at_it() -> None:
    aimed = {metric for one in CORRUPTIONS.values() for metric in one.targets}
    assert aimed == {name for name, entry in entries(METRICS).items() if entry.owner == "vlitqc"}


def test_a_fault_makes_no_metric_better() -> None:
    for one in CORRUPTIONS.values():
        for metric, direction in one.targets.items():
            better = load_metric(metric).spec.higher_is_better
            assert better is None or direction == ("falls" if better else "rises"), (one.name, metric)


def test_the_words_lie_beside_the_code_and_are_consistent() -> None:
    stock = vocabulary()
    assert tomllib.loads(FILE.read_text(encoding="utf-8"))["colours"] == list(stock.colours)
    for (kind, plural), nouns in stock.of_class.items():
        assert len(set(nouns)) == len(nouns) > 1
        for noun in nouns:
            found = stock.nouns[noun]
            assert (found.kind, found.thing) == (kind, noun)
            assert found.plural == plural or noun in stock.of_class[kind, False]
    for relation in stock.relations:
        assert not relation.pattern.fullmatch(relation.opposite)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_equal_seeds_corrupt_alike_and_leave_the_cases_as_they_were(name: str) -> None:
    given_cases, untouched = cases(), cases()
    for strength in CORRUPTIONS[name].strengths:
        first, again = (applied(name, given_cases, strength, seed=3) for _ in range(2))
        assert len(first) == len(given_cases) and any(one is not None for one in first)
        assert all(map(same, first, again))
        assert all(one is None or one.id == before.id for one, before in zip(first, given_cases, strict=True))
        assert all(map(same, given_cases, untouched))
        if CORRUPTIONS[name].scope == "case":
            assert not any(map(same, first, given_cases))
        else:
            assert None not in first and not all(map(same, first, given_cases))


@pytest.mark.parametrize("name", [*ON_TEXTS, *ON_PIXELS])
def test_a_case_is_corrupted_alike_whatever_the_others_are(name: str) -> None:
    together, alone = cases(6), [case(3), case(0)]
    assert same(applied(name, together)[0], applied(name, alone)[1])


# What has no choice in it is the same for every seed; relations have none here.
SETTLED = {
    "truncated_response", "repeated_response", "simplified_instructions", "leaked_responses", "blur", "jpeg",
    "downscaled", "flattened", "rotated", "swapped_relations",
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_another_seed_draws_otherwise(name: str) -> None:
    before = [case(i, task, SENTENCE.replace("on the left side of ", "in ") + " A dog is on the grass.")
              for i, task in enumerate(["a", "a", "b", "b", "c", "d"])]  # fmt: skip
    runs = [applied(name, before, seed=seed) for seed in range(3)]
    assert all(all(map(same, runs[0], run)) for run in runs[1:]) == (name in SETTLED)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_nothing_to_corrupt_is_none(name: str) -> None:
    bare = [Case(str(i), (Turn("", ""),), ()) for i in range(3)]
    assert applied(name, []) == []
    if name in {"duplicated_records", "reworded_records"}:
        return  # equal records are copies of each other already
    assert applied(name, bare) == [None, None, None]


@pytest.mark.parametrize("name", [*ON_PIXELS, *(n for n in SETS if "pictures" in n), "swapped_pictures"])
def test_pictures_stay_pictures(name: str) -> None:
    for strength in CORRUPTIONS[name].strengths:
        for one in applied(name, cases(4), strength):
            assert one is not None
            for shown in one.pictures:
                assert shown.dtype == np.uint8 and shown.ndim == 3 and shown.shape[2] == 3 and shown.size
                if name in ON_PIXELS and name not in {"cropped", "rotated"}:
                    assert shown.shape == picture(0).shape


@pytest.mark.parametrize("name", ON_PIXELS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 9, 3), (9, 1, 3)])
def test_the_smallest_pictures_survive(name: str, shape: tuple[int, int, int]) -> None:
    tiny = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for strength in CORRUPTIONS[name].strengths:
        (found,) = applied(name, [Case("x", (Turn("a", "b"),), (tiny,))], strength)
        assert found is None or (found.pictures[0].size and found.pictures[0].dtype == np.uint8)


ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@settings(deadline=None, max_examples=30)
@given(asked=ANY_TEXT, response=ANY_TEXT, name=st.sampled_from([*ON_TEXTS, "reworded_records"]))
def test_any_text_stays_valid_text(asked: str, response: str, name: str) -> None:
    before = [Case(str(i), (Turn(asked, response),), ()) for i in range(2)]
    for strength in CORRUPTIONS[name].strengths:
        for old, new in zip(before, applied(name, before, strength), strict=True):
            if new is None:
                continue
            assert name == "reworded_records" or new.turns != old.turns
            for turn in new.turns:
                turn.instruction.encode()
                turn.response.encode()


# ---------------------------------------------------------------- words


def test_words_are_without_the_signs_around_them() -> None:
    found = [word.text for word in words("«It's» a light-colored dog (no. 7), 红狗! — नमस्ते …")]
    assert found == ["It's", "a", "light-colored", "dog", "no", "7", "红", "狗", "नमस्ते"]


@given(ANY_TEXT)
def test_a_text_is_its_words_and_what_is_between(text: str) -> None:
    found = words(text)
    assert with_words(text, found, [word.text for word in found]) == text
    assert all(text[word.start : word.end] == word.text for word in found)
    assert all(a.end <= b.start for a, b in pairwise(found))


@pytest.mark.parametrize("name", ["shuffled_words", "typos", "random_letters"])
def test_a_stronger_fault_keeps_the_weaker_ones_places(name: str) -> None:
    text = " ".join(f"word{chr(97 + i)}{chr(105 + i)}" for i in range(16)) + "."
    before = text.split()
    changed = []
    for strength in CORRUPTIONS[name].strengths:
        after = (told(name, text, strength) or "").split()
        assert len(after) == len(before) and after[-1].endswith(".")
        changed.append({i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b})
    assert all(weak < strong for weak, strong in pairwise(changed))
    assert [len(places) for places in changed] == [round(16 * s) for s in CORRUPTIONS[name].strengths]


def test_shuffling_moves_words_and_leaves_signs() -> None:
    found = told("shuffled_words", "One, two; three (four) five!")
    assert found is not None
    assert sorted(word.text for word in words(found)) == sorted(["One", "two", "three", "four", "five"])
    assert "".join(c for c in found if not c.isalpha()) == ", ;  () !"
    assert told("shuffled_words", "Two words", 0.25) == "words Two"
    assert told("shuffled_words", "Word.") is None
    assert told("shuffled_words", "no no no no") is None


@pytest.mark.parametrize("seed", range(20))
def test_a_slip_is_one_letter(seed: int) -> None:
    before, after = "umbrella", told("typos", "umbrella", seed=seed)
    assert after is not None and after != before
    if len(after) == len(before):
        at = [i for i in range(len(before)) if before[i] != after[i]]
        if len(at) == 2:
            assert at[1] == at[0] + 1 and sorted(before) == sorted(after)
        else:
            assert len(at) == 1 and after[at[0]] in neighbours(before[at[0]])
    else:
        longer, shorter = sorted([before, after], key=len, reverse=True)
        assert len(longer) == len(shorter) + 1
        assert shorter in {longer[:i] + longer[i + 1 :] for i in range(len(longer))}


def test_neighbours_are_beside_the_key() -> None:
    assert [neighbours(letter) for letter in "qpslzé7"] == ["w", "o", "ad", "k", "x", "", ""]


def test_numbers_are_not_mistyped() -> None:
    assert told("typos", "42 1998 7", 0.6) is None


def test_truncation_and_repetition_to_the_letter() -> None:
    text = "One two three four. Five six, seven eight!"
    assert told("truncated_response", text, 0.25) == "One two three four. Five six"
    assert told("truncated_response", text, 0.75) == "One two"
    assert told("truncated_response", "Yes.") is None
    loop = " three four. Five six, seven eight"
    assert told("repeated_response", text, 1) == f"One two{loop}{loop}!"
    assert told("repeated_response", text, 3) == f"One two{loop * 4}!"


def test_random_letters_keep_the_lengths() -> None:
    found = told("random_letters", SENTENCE) or ""
    assert [len(word) for word in found.split()] == [len(word) for word in SENTENCE.split()]


def test_boilerplate_replaces_the_end() -> None:
    stock = vocabulary().boilerplate
    whole, part = told("boilerplate_response", SENTENCE), told("boilerplate_response", SENTENCE, 0.3)
    assert whole is not None and whole.startswith(stock) and whole.endswith(stock)
    assert part is not None and part.startswith("A man in a red shirt holds two small dogs on the ")
    assert part.endswith(stock)


def test_the_other_language_is_not_the_texts_own() -> None:
    stock = vocabulary().languages
    for code, sentences in stock.items():
        for seed in range(8):
            found = told("wrong_language", sentences[0], seed=seed) or ""
            assert not any(sentence in found for sentence in sentences)
            assert any(sentence in found for other in stock for sentence in stock[other] if other != code)


def test_simplified_instructions_are_never_longer() -> None:
    simple = vocabulary().simple_with_picture
    (long,) = applied("simplified_instructions", [case(1)])
    assert long is not None and long.turns == (replace(case(1).turns[0], instruction=simple),)
    assert applied("simplified_instructions", [replace(case(1), turns=(Turn("Who is this?", "A"),))]) == [
        None
    ]


def test_a_leaked_response_is_in_the_instruction() -> None:
    (found,) = applied("leaked_responses", [case(1)])
    assert found is not None and case(1).turns[0].response in found.turns[0].instruction
    assert found.turns[0].response == case(1).turns[0].response


# ---------------------------------------------------------------- pictures


def strengthened(name: str, before: Rgb) -> list[Rgb]:
    """The picture, then the picture under each strength."""
    of = [Case("x", (Turn("a", "b"),), (before,))]
    return [before, *(some(applied(name, of, s))[0].pictures[0] for s in CORRUPTIONS[name].strengths)]


@pytest.mark.parametrize(
    "name", ["blur", "noise", "jpeg", "downscaled", "exposure", "occlusion", "flattened"]
)
def test_a_stronger_fault_is_farther_from_the_picture(name: str) -> None:
    before, *seen = strengthened(name, picture(0, side=160))
    ratios = [float(peak_signal_noise_ratio(before, after)) for after in seen]
    assert ratios == sorted(ratios, reverse=True) and len(set(ratios)) == len(ratios)


@pytest.mark.parametrize("name", ["blur", "downscaled"])
def test_smoothing_takes_the_edges(name: str) -> None:
    edges = [float(laplace(shown.mean(axis=2)).var()) for shown in strengthened(name, picture(0, side=160))]
    assert edges == sorted(edges, reverse=True)


def test_flattening_leaves_few_colours_and_little_to_store() -> None:
    seen = strengthened("flattened", picture(0, side=160))
    colours = [len(np.unique(shown.reshape(-1, 3), axis=0)) for shown in seen]
    assert colours[0] > 1000 and colours[1:] == sorted(colours[1:], reverse=True)
    assert all(n <= 0.5 / s + 1 for n, s in zip(colours[1:], CORRUPTIONS["flattened"].strengths, strict=True))
    stored = [len(zlib.compress(shown.tobytes())) for shown in seen]
    assert stored == sorted(stored, reverse=True)


def test_noise_has_the_spread_that_it_says() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    for sigma in CORRUPTIONS["noise"].strengths[:2]:
        (found,) = some(applied("noise", [Case("x", (Turn("a", "b"),), (grey,))], sigma))
        assert np.std(found.pictures[0]) == pytest.approx(sigma, rel=0.02)


def test_occlusion_covers_the_share_and_keeps_what_was_covered() -> None:
    white = np.full((64, 80, 3), 255, np.uint8)
    covered = np.zeros((64, 80), bool)
    for share in CORRUPTIONS["occlusion"].strengths:
        (found,) = some(applied("occlusion", [Case("x", (Turn("a", "b"),), (white,))], share))
        now = found.pictures[0][:, :, 0] == 128
        assert now.mean() == pytest.approx(share) and not (covered & ~now).any()
        covered = now


def test_crops_lie_in_each_other() -> None:
    numbered = np.zeros((100, 120, 3), np.uint8)
    numbered[:, :, 0], numbered[:, :, 1] = np.arange(100)[:, None], np.arange(120)
    windows = [numbered]
    for share in CORRUPTIONS["cropped"].strengths:
        (found,) = some(applied("cropped", [Case("x", (Turn("a", "b"),), (numbered,))], share))
        shown = found.pictures[0]
        assert shown.shape[0] * shown.shape[1] == pytest.approx((1 - share) * 12000, rel=0.05)
        windows.append(shown)
    for outer, inner in pairwise(windows):
        for channel in (0, 1):
            assert outer[:, :, channel].min() <= inner[:, :, channel].min()
            assert inner[:, :, channel].max() <= outer[:, :, channel].max()


def test_turning_turns() -> None:
    shown = picture(0)
    case_of = [Case(str(i), (Turn("a", "b"),), (shown,)) for i in range(12)]
    sides = [one.pictures[0] for one in some(applied("rotated", case_of, 90))]
    lying = [np.rot90(shown), np.rot90(shown, -1)]
    assert {[np.array_equal(side, one) for one in lying].index(True) for side in sides} == {0, 1}
    assert all(
        np.array_equal(one.pictures[0], shown[::-1, ::-1]) for one in some(applied("rotated", case_of))
    )


def test_exposure_goes_both_ways() -> None:
    case_of = [Case(str(i), (Turn("a", "b"),), (picture(0),)) for i in range(12)]
    light = [one.pictures[0].mean() > picture(0).mean() for one in some(applied("exposure", case_of, 1))]
    assert set(light) == {False, True}


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize("name", SWAPS)
@pytest.mark.parametrize("seed", range(5))
def test_swaps_are_a_derangement(name: str, seed: int) -> None:
    before = cases(9)
    after = some(applied(name, before, seed=seed))

    def swapped(one: Case) -> object:
        return one.pictures[0].tobytes() if name == "swapped_pictures" else one.turns[0].response

    assert not any(swapped(a) == swapped(b) for a, b in zip(before, after, strict=True))
    assert sorted(map(repr, map(swapped, before))) == sorted(map(repr, map(swapped, after)))
    for a, b in zip(before, after, strict=True):
        if name == "swapped_pictures":
            assert a.turns == b.turns
        else:
            assert np.array_equal(a.pictures[0], b.pictures[0])
            assert a.turns[0].instruction == b.turns[0].instruction


def test_records_of_one_picture_swap_with_those_of_another() -> None:
    shared, other = picture(0), picture(1)
    before = [Case(str(i), (Turn("q", f"answer {i}"),), (other if i == 5 else shared,)) for i in range(6)]
    for name in SWAPS:
        after = some(applied(name, before))
        assert not any(
            np.array_equal(a.pictures[0], b.pictures[0]) and a.turns == b.turns
            for a, b in zip(before, after, strict=True)
        )
        if name == "swapped_responses":
            assert {one.turns[0].response for one in after[:5]} == {"answer 5"}
    assert applied("swapped_pictures", before[:5]) == [None] * 5
    assert applied("swapped_responses", before[:5]) == [None] * 5


def test_a_longer_conversation_takes_the_shorter_ones_responses_in_turn() -> None:
    long = Case("a", (Turn("1", "x"), Turn("2", "y"), Turn("3", "z")), ())
    short = Case("b", (Turn("1", "v"), Turn("2", "w")), ())
    first, second = some(applied("swapped_responses", [long, short]))
    assert [turn.response for turn in first.turns] == ["v", "w", "v"]
    assert [turn.response for turn in second.turns] == ["x", "y"]


COLOURS = {"red", "green", "blue", "yellow", "black", "white", "brown", "pink", "purple", "grey", "gray"}
WORDS_OF_NUMBER = {"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"}
PEOPLE = {"man", "woman", "boy", "girl", "baby"}
# What is changed, the caption, and every caption that it may become; none where there is nothing to change.
SWAP_TABLE: list[tuple[Callable[..., str], str, set[str]]] = [
    (other_colour, "A red car by a blue house.", {"A blue car by a red house."}),
    (other_colour, "Red roses, blue sky", {"Blue roses, red sky"}),
    (other_colour, "A RED car", {f"A {c.upper()} car" for c in COLOURS - {"red"}}),
    (other_colour, "a grey, gray cat", {f"a {c}, gray cat" for c in COLOURS - {"grey", "gray"}}
     | {f"a grey, {c} cat" for c in COLOURS - {"grey", "gray"}}),
    (other_colour, "a black and white dog", {f"a {c} and white dog" for c in COLOURS - {"black"}}
     | {f"a black and {c} dog" for c in COLOURS - {"white"}}),
    (other_colour, "Fred is bored by colourless ideas", set()),
    (other_number, "Two dogs", {f"{w.capitalize()} dogs" for w in WORDS_OF_NUMBER - {"two"}}),
    (other_number, "bus 12 of it", {f"bus {n} of it" for n in range(7, 18) if n != 12}),
    (other_number, "There is 1.", {f"There is {n}." for n in range(2, 7)}),
    (other_number, "At 3:45 on 2/4, 1998, 2.5 m, 5% of $7, no one", set()),
    (other_relation, "A cat to the left of a dog.", {"A cat to the right of a dog."}),
    (other_relation, "He left the room right now on Monday.", set()),
    (other_relation, "In front of a bus", {"Behind a bus"}),
    (other_relation, "a cup on the table", {"a cup under the table"}),
    (other_relation, "a cup on top of the table", {"a cup underneath the table"}),
    (other_relation, "on the left", {"on the right"}),
    (other_relation, "next to a man above it", {"far from a man above it", "next to a man below it"}),
    (other_entity, "A dog chases a cat.", {"A cat chases a dog."}),
    (other_entity, "An elephant beside a cup", {"A cup beside an elephant"}),
    (other_entity, "A man and a woman", {f"A {p} and a woman" for p in PEOPLE - {"man"}}
     | {f"A man and a {p}" for p in PEOPLE - {"woman"}}),
    (other_entity, "Men sleep", {"Women sleep", "Boys sleep", "Girls sleep", "Babies sleep"}),
    (other_entity, "a child, a person and a dogma", set()),
    (other_entity, "the puppy", {f"the {a}" for a in (
        "cat", "horse", "cow", "sheep", "bird", "elephant", "bear", "zebra", "giraffe", "rabbit", "goat", "monkey",
        "fish")}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "caption", "expected"), SWAP_TABLE, ids=[f"{row[0].__name__}: {row[1]}" for row in SWAP_TABLE]
)
def test_one_detail_is_changed_and_nothing_else(
    change: Callable[..., str], caption: str, expected: set[str]
) -> None:
    found = {change(caption, 1.0, np.random.default_rng(seed)) for seed in range(150)}
    assert found <= (expected or {caption})
    assert len(found) >= 0.8 * len(expected)


# ---------------------------------------------------------------- sets


def test_few_tasks_keeps_whole_records_of_the_tasks_that_stay() -> None:
    before = [case(i, task=f"task {i % 10}") for i in range(40)]
    left = []
    for strength, n in zip(CORRUPTIONS["duplicated_tasks"].strengths, (8, 5, 1), strict=True):
        after = some(applied("duplicated_tasks", before, strength))
        left.append({one.task for one in after})
        assert len(left[-1]) == n
        known = {one.turns: one for one in before}
        assert all(np.array_equal(known[one.turns].pictures[0], one.pictures[0]) for one in after)
    assert left[0] > left[1] > left[2]
    assert applied("duplicated_tasks", [case(i) for i in range(4)]) == [None] * 4


def test_the_long_tail_grows_longer_and_loses_no_task() -> None:
    before = [case(i, task=f"task {i % 6}") for i in range(60)]
    largest = []
    for strength in CORRUPTIONS["long_tail"].strengths:
        sizes = np.unique(
            [one.task for one in some(applied("long_tail", before, strength))], return_counts=True
        )[1]
        assert len(sizes) == 6
        largest.append(int(sizes.max()))
    assert 10 < largest[0] < largest[1] < largest[2]
    assert applied("long_tail", [case(i) for i in range(4)]) == [None] * 4


@pytest.mark.parametrize(
    ("name", "distinct"),
    [
        ("duplicated_instructions", lambda one: one.turns[0].instruction),
        ("duplicated_responses", lambda one: one.turns[0].response),
        ("duplicated_pictures", lambda one: one.pictures[0].tobytes()),
        ("duplicated_records", lambda one: (one.turns, one.pictures[0].tobytes())),
        ("lost_pictures", lambda one: bool(one.pictures) and one.id),
    ],
)
def test_the_stronger_the_fewer_are_distinct(name: str, distinct: Callable[[Case], object]) -> None:
    before = cases(20)
    counts = [len(before)]
    for strength in CORRUPTIONS[name].strengths:
        counts.append(len({distinct(one) for one in some(applied(name, before, strength))}))
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == len(counts)


def test_instructions_become_alike_within_their_task_alone() -> None:
    after = some(applied("duplicated_instructions", cases()))
    pairs = {(one.task, one.turns[0].instruction) for one in after}
    assert len(pairs) == 3 and all(task in asked for task, asked in pairs)


def test_similar_pictures_are_windows_of_one() -> None:
    before = cases(6)
    after = some(applied("similar_pictures", before))
    shown = [one.pictures[0] for one in after]
    assert len({one.tobytes() for one in shown}) > 3
    wide, high = picture(0).shape[1], picture(0).shape[0]
    assert all(0.8 * high <= one.shape[0] <= high and 0.8 * wide <= one.shape[1] <= wide for one in shown)

    def within(inner: Rgb, outer: Rgb) -> bool:
        rows, columns = inner.shape[:2]
        return any(
            np.array_equal(inner, outer[top : top + rows, left : left + columns])
            for top in range(outer.shape[0] - rows + 1)
            for left in range(outer.shape[1] - columns + 1)
        )

    assert any(all(within(one, whole.pictures[0]) for one in shown) for whole in before)


def test_reworded_copies_differ_in_their_first_words_alone() -> None:
    before = cases()
    after = some(applied("reworded_records", before))
    new = [one for one, old in zip(after, before, strict=True) if not same(one, old)]
    assert len(new) == round(0.6 * len(before))
    responses = {one.turns[0].response for one in before}
    for one in new:
        said = one.turns[0].response
        opener = next(o for o in vocabulary().openers if said.startswith(o))
        assert said.removeprefix(opener) in responses
