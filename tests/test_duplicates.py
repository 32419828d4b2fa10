"""Duplicates, with encoders that can be worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from vlitqc.testing import MemoryFeatures
from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FloatArray,
    Image,
    Media,
    ModelRef,
    Origin,
    Rgb,
    Sample,
    Turn,
)
from vlitqc_metrics.duplicates import Duplicates, connected_groups, near_text_pairs, normalise


class WordBag:
    """Texts as unit vectors of word counts, so that sharing most words is a high cosine."""

    ref = ModelRef("TextEncoder", "words", "1", "a" * 64)

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        rows = np.zeros((len(texts), 200), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[self.places.setdefault(word, len(self.places))] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def sentences(self, text: str) -> list[str]:
        return [text]


class Shade:
    """A picture's mean brightness as an angle in degrees."""

    ref = ModelRef("ImageEncoder", "shade", "1", "b" * 64)

    def encode_images(self, images: Sequence[Rgb]) -> FloatArray:
        angles = np.radians([float(image.mean()) for image in images])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def picture(angle: int, name: str | None = None) -> Image:
    return Image(f"{angle}.png", np.full((2, 2, 3), angle, np.uint8), None, name or f"sha-{angle}")


def sample(i: int, turns: Sequence[tuple[str, str]], media: Sequence[Media]) -> Sample:
    origin = Origin("f.jsonl", 10 + i, 100 + i, 0, 0, str(i))
    return Sample(f"id-{i}", tuple(Turn(*turn) for turn in turns), tuple(media), {}, origin)


def batch(*rows: tuple[Sequence[tuple[str, str]], Sequence[Image]]) -> Batch:
    samples = [
        sample(i, turns, [Media("image", image.reference) for image in images])
        for i, (turns, images) in enumerate(rows)
    ]
    return Batch(samples, [images for _, images in rows])


def score(made: Batch, metric: Duplicates | None = None) -> DatasetScore:
    metric = metric or Duplicates(WordBag(), Shade())
    whole = metric.resolve(MemoryFeatures.collect(metric, [made]))
    alone = metric.resolve(MemoryFeatures.collect(metric, [made.part(i) for i in range(len(made))]))
    assert whole.columns == alone.columns
    return whole


ASK = "<image>\nDescribe the picture."
CAPTION = "a brown dog runs over the wet sand of a wide beach"
NEARLY = "a brown dog runs over the wet sand of a long beach"
OTHER = "two children build a tower out of wooden blocks"


def test_exact_duplicates() -> None:
    found = score(
        batch(
            ([(ASK, CAPTION)], [picture(0)]),
            ([(ASK, OTHER)], [picture(90)]),
            ([("Describe the picture.\n<image>", CAPTION + " ")], [picture(0)]),
            ([(ASK, CAPTION)], [picture(0)]),
        )
    )
    assert found.value == 50.0
    assert found.columns["duplicate_group"].to_pylist() == [0, None, 0, 0]
    assert found.columns["duplicate_kind"].to_pylist() == [None, None, "exact", "exact"]
    assert found.missing == "not a duplicate"
    assert [(i.kind, i.severity, i.row, i.line, i.id, i.file) for i in found.issues] == [
        ("exact_duplicate", "error", 12, 102, "id-2", "f.jsonl"),
        ("exact_duplicate", "error", 13, 103, "id-3", "f.jsonl"),
    ]
    assert "row 10 (line 100, id id-0)" in found.issues[0].detail
    assert found.interval is None
    assert (found.n_scored, found.n_total) == (4, 4)


@pytest.mark.parametrize("models", [(), (WordBag(), Shade())], ids=["hashes", "models"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is this a US coin?", "Is this a us coin?"),  # the case of a letter
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()"),  # white space within
        ("2² metres", "22 metres"),  # NFKC
        ("x <image> y", "x y"),  # a mark amid the words
        ("<image>\nIs this a coin?", "<image><image>\nIs this a coin?"),  # more marks than pictures
    ],
)
def test_what_is_equal_but_for_writing_is_near_and_not_exact(
    one: str, other: str, models: Sequence[WordBag | Shade]
) -> None:
    for turns in ([(one, "no")], [(other, "no")]), ([("Why?", one)], [("Why?", other)]):
        found = score(batch(*((turn, [picture(0)]) for turn in turns)), Duplicates(*models))  # type: ignore[arg-type]
        assert found.columns["duplicate_kind"].to_pylist() == [None, "near_text"]
        assert [(i.kind, i.severity) for i in found.issues] == [("near_duplicate_text", "warning")]


def test_a_box_is_part_of_an_answer() -> None:
    boxes = [(ASK, f"<ref>dog</ref><box>(1,2),(3,{i})</box>") for i in (4, 5)]
    found = score(batch(*(([box], [picture(0)]) for box in (*boxes, boxes[0]))))
    assert found.columns["duplicate_kind"].to_pylist() == [None, "near_text", "exact"]


@pytest.mark.parametrize(
    ("turns", "images"),
    [
        ([(ASK, OTHER)], [picture(0)]),  # another answer
        ([("<image>\nWhich animal?", CAPTION)], [picture(90)]),  # another picture
        ([(ASK, CAPTION)], []),  # no picture
        ([(ASK, CAPTION)], [picture(0), picture(90)]),  # one more picture
        ([(ASK, CAPTION), (ASK, OTHER)], [picture(0)]),  # one more turn
    ],
)
def test_what_is_no_duplicate(turns: Sequence[tuple[str, str]], images: Sequence[Image]) -> None:
    found = score(batch(([(ASK, CAPTION)], [picture(0)]), (turns, images)))
    assert found.value == 0.0
    assert found.columns["duplicate_kind"].to_pylist() == [None, None]


def test_the_order_of_pictures_and_turns_counts() -> None:
    pictures = [picture(0), picture(90)]
    turns = [("one?", "yes"), ("two?", "no")]
    found = score(batch((turns, pictures), (turns, pictures[::-1]), (turns[::-1], pictures)))
    assert found.details["exact"] == 0


def test_near_duplicate_text_on_the_same_picture() -> None:
    found = score(batch(([(ASK, CAPTION)], [picture(0)]), ([("What is it?", NEARLY)], [picture(0)])))
    assert found.columns["duplicate_group"].to_pylist() == [0, 0]
    assert found.columns["duplicate_kind"].to_pylist() == [None, "near_text"]
    assert [(i.kind, i.severity) for i in found.issues] == [("near_duplicate_text", "warning")]


def test_a_new_question_with_the_same_short_answer_is_legitimate() -> None:
    dog, cat = ("Is there a dog?", "yes"), ("Is there a cat?", "yes")
    assert score(batch(([dog], [picture(0)]), ([cat], [picture(0)]))).value == 0.0
    assert score(batch(([dog, cat], [picture(0)]), ([cat, dog], [picture(0)]))).value == 0.0
    # The same question with an answer that differs in nothing but its marks is none.
    again = score(batch(([dog], [picture(0)]), ([("is there a DOG?", "yes yes")], [picture(0)])))
    assert again.columns["duplicate_kind"].to_pylist() == [None, "near_text"]


def test_near_duplicate_text_needs_a_like_picture() -> None:
    near, far = picture(10), picture(40)  # cosines 0.985 and 0.766
    found = score(
        batch(([(ASK, CAPTION)], [picture(0)]), ([(ASK, NEARLY)], [near]), ([(ASK, NEARLY)], [far]))
    )
    assert found.columns["duplicate_kind"].to_pylist() == [None, "near_text", None]


def test_text_only_needs_the_same_instruction() -> None:
    poem = ("Write about a dog.", CAPTION)
    found = score(
        batch(([poem], []), ([("Write about a beach.", CAPTION)], []), ([("write about a DOG.", NEARLY)], []))
    )
    assert found.columns["duplicate_kind"].to_pylist() == [None, None, "near_text"]


def test_near_duplicate_pictures_are_only_noted() -> None:
    found = score(
        batch(
            ([(ASK, CAPTION)], [picture(0)]),
            ([(ASK, OTHER)], [picture(10)]),
            ([("And now?", OTHER + " again")], [picture(10)]),
            ([(ASK, "a red car")], [picture(90)]),
        )
    )
    assert found.value == 25.0  # the third repeats the second's answer on the second's picture
    notes = [i for i in found.issues if i.kind == "near_duplicate_image"]
    assert [(i.severity, i.row) for i in notes] == [("note", 11)]
    assert found.details["near_images"] == 1


def test_the_same_picture_with_other_bytes_is_near_and_not_exact() -> None:
    found = score(batch(([(ASK, CAPTION)], [picture(0, "one")]), ([(ASK, CAPTION)], [picture(0, "two")])))
    assert found.columns["duplicate_kind"].to_pylist() == [None, "near_text"]


def test_unreadable_pictures_are_told_apart_by_name() -> None:
    gone, lost = Image("gone.png", None, "missing"), Image("lost.png", None, "missing")
    found = score(batch(([(ASK, CAPTION)], [gone]), ([(ASK, CAPTION)], [lost]), ([(ASK, CAPTION)], [gone])))
    assert found.columns["duplicate_kind"].to_pylist() == [None, None, "exact"]


def test_videos_are_told_apart_by_name() -> None:
    turns = [("<video>\nWhat happens?", CAPTION)]
    samples = [sample(i, turns, [Media("video", name)]) for i, name in enumerate(("a.mp4", "b.mp4", "a.mp4"))]
    found = score(Batch(samples, [[], [], []]))
    assert found.columns["duplicate_kind"].to_pylist() == [None, None, "exact"]


def test_samples_without_responses_are_compared_by_their_words_alone() -> None:
    found = score(
        batch(([(ASK, "")], [picture(0)]), ([("Why?", "")], [picture(0)]), ([(ASK, "")], [picture(0)]))
    )
    assert found.columns["duplicate_kind"].to_pylist() == [None, None, "exact"]


def test_without_models_only_exact_duplicates_are_found() -> None:
    found = score(
        batch(
            ([(ASK, CAPTION)], [picture(0)]),
            ([(ASK, NEARLY)], [picture(1)]),
            ([(ASK, CAPTION)], [picture(0)]),
        ),
        Duplicates(),
    )
    assert found.columns["duplicate_kind"].to_pylist() == [None, None, "exact"]
    assert found.details["near_images_compared"] is False and found.details["near_images"] is None


def test_beyond_the_largest_number_pictures_are_compared_by_bytes() -> None:
    made = batch(([(ASK, CAPTION)], [picture(0)]), ([(ASK, NEARLY)], [picture(1)]))
    assert score(made).details["near_images"] == 1
    found = score(made, Duplicates(WordBag(), Shade(), max_pictures=1))
    assert found.columns["duplicate_kind"].to_pylist() == [None, None]
    assert found.details["near_images_compared"] is False


def test_samples_left_out_of_the_draw_are_counted_and_told() -> None:
    made = batch(*[([(f"{ASK} {i}", CAPTION)], [picture(0)]) for i in range(5)])
    assert score(made).details["near_text_left_out"] == 0
    found = score(made, Duplicates(WordBag(), Shade(), max_items=2))
    assert found.details["near_text_left_out"] == 3
    kinds = found.columns["duplicate_kind"].to_pylist()
    assert kinds.count("near_text") == 1
    told = Counter(found.missing.to_pylist())
    assert told == {"not a duplicate": 2, "not among the samples drawn to be compared for near text": 3}


@pytest.mark.parametrize("name", ["max_items", "max_pictures"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "9", math.nan])
def test_how_many_are_compared_is_a_whole_number_or_all(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a whole number from 1, or inf, got"):
        Duplicates(**{name: value})  # type: ignore[arg-type]
    assert getattr(Duplicates(**{name: math.inf}), name) == math.inf


def test_no_sample() -> None:
    metric = Duplicates(WordBag(), Shade())
    assert metric.resolve(MemoryFeatures([], {})).reason == "no sample"


def test_a_sample_whose_features_failed_is_not_judged() -> None:
    metric = Duplicates(WordBag(), Shade())
    made = batch(*[([(ASK, CAPTION)], [picture(0)])] * 4)
    features = {}
    for name, found in metric.features(made).items():
        kept = np.flatnonzero(found.index != 1)
        values = found.values
        left = values[kept] if isinstance(values, np.ndarray) else [values[k] for k in kept]
        features[name] = Features(left, found.index[kept])
    left_out = metric.resolve(MemoryFeatures(made.samples, features))
    assert left_out.columns["duplicate_kind"].to_pylist() == [None, None, "exact", "exact"]
    assert left_out.value == pytest.approx(200 / 3)
    assert (left_out.n_scored, left_out.n_total) == (3, 4)
    assert metric.resolve(MemoryFeatures(made.samples, {})).reason == "no sample"


def numbers(keys: Sequence[str | None]) -> NDArray[np.int64]:
    known = list(dict.fromkeys(key for key in keys if key is not None))
    return np.array([-1 if key is None else known.index(key) for key in keys], np.int64)


def near_pairs(
    rows: FloatArray,
    context: Sequence[str | None],
    asked: Sequence[str],
    shortest: NDArray[np.int64],
    threshold: float,
    **options: int,
) -> list[tuple[int, int]]:
    found, _ = near_text_pairs(
        lambda samples: rows[samples], numbers(context), numbers(asked), shortest, threshold, **options
    )
    return [(first, other) for first, other in found.tolist()]


def test_the_threshold_is_inclusive() -> None:
    rows = np.array([[1, 0], [0.6, 0.8], [0, 0]], np.float32)
    shortest = np.array([9, 9, 9])
    context = ["here"] * 3
    asked = ["a", "b", "c"]
    assert near_pairs(rows, context, asked, shortest, 0.59) == [(0, 1)]
    assert near_pairs(rows, context, asked, shortest, 0.61) == []
    assert near_pairs(rows[:1].repeat(2, 0), context[:2], asked[:2], shortest[:2], 1.0) == [(0, 1)]


@pytest.mark.parametrize(("words", "pairs"), [(4, []), (5, [(0, 1)])])
def test_five_words_say_enough(words: int, pairs: list[tuple[int, int]]) -> None:
    rows = np.ones((2, 3), np.float32)
    assert near_pairs(rows, ["x", "x"], ["a", "b"], np.array([words, 9]), 0.9) == pairs
    assert near_pairs(rows, ["x", "x"], ["a", "a"], np.array([words, 9]), 0.9) == [(0, 1)]
    assert near_pairs(rows, [None, None], ["a", "a"], np.array([9, 9]), 0.9) == []


def test_groups_by_hand() -> None:
    assert connected_groups(6, np.array([(1, 4), (2, 3), (3, 5)])).tolist() == [-1, 0, 1, 1, 0, 1]
    assert connected_groups(2, np.empty((0, 2), np.int64)).tolist() == [-1, -1]


def test_normalising() -> None:
    assert normalise("<image>\n  What   IS\tthis\u00a0?") == "what is this ?"
    assert normalise("ﬁne １２") == "fine 12"
    assert normalise("Straße") == normalise("STRASSE")
