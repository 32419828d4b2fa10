"""Metrics that read one sample: object annotations, a judge's answers, samples without a picture, readability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest

from vlitqc.testing import MemoryFeatures
from vlitqc.types import (
    Answers,
    Batch,
    Box,
    Image,
    Media,
    ModelRef,
    Origin,
    Question,
    Rgb,
    Sample,
    Score,
    Tag,
    Turn,
    Weights,
)
from vlitqc_metrics._algorithms.objects import annotated_categories
from vlitqc_metrics._algorithms.pictures import no_picture
from vlitqc_metrics.correctness import Correctness
from vlitqc_metrics.image_readability import ImageReadability
from vlitqc_metrics.instruction_complexity import InstructionComplexity
from vlitqc_metrics.instruction_diversity import InstructionDiversity
from vlitqc_metrics.object_diversity import ObjectDiversity
from vlitqc_metrics.task_balance import TaskBalance
from vlitqc_metrics.task_diversity import TaskDiversity
from vlitqc_metrics.text_readability import TextReadability

GOOD = Image("a.png", np.zeros((16, 16, 3), np.uint8), None, "sha-a")
BROKEN = Image("gone.png", None, "missing: gone.png")
ORIGIN = Origin("f.json", 0, 1, 0, 0, "")

Kind = Literal["image", "video", "audio"]


def sample(
    *turns: tuple[str, str], kinds: Sequence[Kind] = ("image",), meta: Mapping[str, Any] | None = None
) -> Sample:
    media = tuple(Media(kind, f"{i}") for i, kind in enumerate(kinds))
    return Sample("s", tuple(Turn(*turn) for turn in turns), media, meta or {}, ORIGIN)


def batch(*samples: Sample, image: Image = GOOD) -> Batch:
    return Batch(samples, [[image] * len(s.images) for s in samples])


# ---------------------------------------------------------------- no picture


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        ([], "text-only"),
        (["video"], "no image: the record has 1 video, which this metric does not see"),
        (
            ["audio", "video", "audio"],
            "no image: the record has 2 sounds and 1 video, which this metric does not see",
        ),
    ],
)
def test_a_sample_without_a_picture_says_what_it_has(kinds: Sequence[Kind], reason: str) -> None:
    made = sample(("What?", "That."), kinds=kinds)
    assert no_picture(made, ()) == Score(reason=reason)
    for metric in (ImageReadability(), ObjectDiversity(), Correctness(Written())):
        assert metric.score(batch(made)) == [Score(reason=reason)]


def test_an_unreadable_picture_is_a_fault() -> None:
    assert no_picture(sample(), [BROKEN]) == Score(reason="image unreadable: missing: gone.png", fault=True)


# ---------------------------------------------------------------- object annotations

BOX = [1, 2, 30, 40]


@pytest.mark.parametrize(
    ("meta", "counts"),
    [
        ({"objects": {"bus": 2, "car": 0}}, {"bus": 2, "car": 0}),
        ({"objects": {"bus": 300_000_000}}, {"bus": 300_000_000}),
        ({"objects": {}}, {}),
        ({"objects": []}, {}),
        ({"objects": [{"label": "bus", "box": {"x": 1}}, {"name": 7, "bbox": BOX}]}, {"bus": 1, "7": 1}),
        ({"annotations": [{"category": "bus", "segmentation": [BOX]}] * 2}, {"bus": 2}),
        ({"objects": {"bbox": [BOX, BOX], "category": [3, 3], "area": [1.5, 2]}}, {"3": 2}),
        ({"objects": {"bbox": [BOX, BOX], "categories": ["bus", "car"]}}, {"bus": 1, "car": 1}),
        ({"objects": {"bbox": [], "label": []}}, {}),
        ({"objects": "bus", "annotations": [{"label": "bus", "xyxy": BOX}]}, {"bus": 1}),
    ],
)
def test_annotations_that_are_understood(meta: Mapping[str, Any], counts: dict[str, int]) -> None:
    assert annotated_categories(meta) == counts


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"annotations": ["good", "reviewed-by-bob"]},
        {"annotations": []},
        {"annotations": {"agreement": 3}},
        {"annotations": [{"label": "good"}]},
        {"objects": ["bus", "car"]},
        {"objects": [{"bbox": BOX}]},
        {"objects": [{"label": "bus", "bbox": None}]},
        {"objects": [{"label": ["bus"], "bbox": BOX}]},
        {"objects": [{"label": "bus", "bbox": BOX}, "car"]},
        {"objects": {"bus": -1}},
        {"objects": {"bus": True}},
        {"objects": {"bus": 1.5}},
        {"objects": {"bus": 10**400}},
        {"objects": {"bbox": [BOX], "category": ["bus", "car"]}},
        {"objects": {"bbox": [None], "category": ["bus"]}},
        {"objects": {"bbox": [BOX], "category": [["bus"]]}},
        {"objects": 3},
    ],
)
def test_what_is_no_annotation_of_objects(meta: Mapping[str, Any]) -> None:
    assert annotated_categories(meta) is None
    (score,) = ObjectDiversity().score(batch(sample(meta=meta)))
    assert score == Score(reason="no object detector in this profile, and no box annotations in the record")


class TwoDucks:
    ref = ModelRef("Detector", "ducks", "1", "0" * 64)

    def detect(self, images: Sequence[Rgb]) -> list[list[Box]]:
        return [[Box(name, 0.5, 0.0, 0.0, 1.0, 1.0) for name in ("duck", "duck", "pond")] for _ in images]


def test_objects_are_counted_by_category() -> None:
    made = batch(
        sample(meta={"objects": {"bus": 300_000_000, "car": 0, "tree": 5}}),
        sample(meta={"annotations": ["good"]}, kinds=["image", "image"]),
    )
    counted, detected = ObjectDiversity(TwoDucks()).score(made)
    assert (counted.value, counted.parts) == (2.0, {"instances": 300_000_005.0})
    assert (detected.value, detected.parts) == (2.0, {"instances": 6.0})


# ---------------------------------------------------------------- judges


class Written:
    """Gives the answers written in the question's data, between ``[`` and ``]``, separated by commas."""

    ref = ModelRef("Judge", "written", "1", "0" * 64)
    usage: Mapping[str, int] = {}

    def __init__(self) -> None:
        self.asked = 0

    def ask(self, questions: Sequence[Question], votes: int) -> list[Answers]:
        self.asked += len(questions)
        found = [question.content.partition("[")[2].partition("]")[0] for question in questions]
        return [Answers(tuple(text.split(","))) if text else Answers((), "no connection") for text in found]

    def weigh(self, questions: Sequence[Question]) -> list[Weights]:
        raise AssertionError("votes are asked for")


def test_correctness_says_how_many_turns_have_a_verdict() -> None:
    judge = Written()
    (score,) = Correctness(judge).score(
        batch(sample(("a", "[1,1,0]"), ("b", "[0]"), ("c", "[unsure]"), ("d", "[]"), ("e", "[1,0]")))
    )
    assert score == Score(
        50.0,
        parts={"turns_judged": 2.0, "parsed": 6 / 7},
        notes={"votes": "[[1,1,0],[0],[null],[],[1,0]]"},
    )
    assert Correctness.spec.parts == ("turns_judged", "parsed")
    assert Correctness.spec.notes == ("votes",)
    assert judge.asked == 5


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ("unsure,maybe", "none of the judge's 2 answers could be read"),
        ("", "judge: no connection"),
        ("1,0", "the judge's 2 answers are tied"),
        ("1,0,maybe", "1 of 3 answers could not be read, the rest are tied"),
    ],
)
def test_a_judge_that_gives_no_verdict_is_a_fault(answers: str, reason: str) -> None:
    (score,) = Correctness(Written()).score(batch(sample(("a", f"[{answers}]"))))
    assert (score.value, score.reason, score.fault) == (None, reason, True)


def test_a_sample_without_picture_or_turn_is_not_put_to_the_judge() -> None:
    judge = Written()
    scores = Correctness(judge).score(
        batch(sample(("a", "[1]"), kinds=()), sample(), sample(("[1]", "<image>")))
    )
    assert scores == [
        Score(reason="text-only"),
        Score(reason="no response text"),
        Score(reason="no response text"),
    ]
    (broken,) = Correctness(judge).score(batch(sample(("a", "[1]")), image=BROKEN))
    assert broken.fault and judge.asked == 0


def test_instruction_complexity_says_how_many_turns_have_an_answer() -> None:
    judge = Written()
    scores = InstructionComplexity(judge).score(
        batch(
            sample(("[4]", "x"), ("[8,6,8]", "x"), ("[hard]", "x"), ("", "x")),
            sample(("[hard,10 of 10]", "x")),
            sample(("[]", "x")),
            sample(("<image>", "x")),
        )
    )
    assert [(score.value, score.reason) for score in scores] == [
        (6.0, None),
        (None, "none of the judge's 2 answers could be read"),
        (None, "judge: no connection"),
        (None, "no instruction text"),
    ]
    assert scores[0].parts == {"turns_judged": 2.0, "parsed": 4 / 5}
    assert scores[0].notes == {"votes": "[[4],[8,6,8],[null],null]"}
    assert [score.fault for score in scores] == [False, True, True, False]
    assert judge.asked == 5


# ---------------------------------------------------------------- what the words promise


def test_text_readability_says_that_the_counts_know_english_only() -> None:
    for text in (TextReadability.spec.summary, " ".join(str(TextReadability.__doc__).split())):
        assert "know English only" in text


class OneTask:
    ref = ModelRef("Tagger", "one", "1", "0" * 64)

    def propose(self, instructions: Sequence[str], n_images: Sequence[int]) -> list[str]:
        return ["count"] * len(instructions)

    def settle(self, proposals: Sequence[str]) -> list[Tag]:
        return [Tag(task) for task in proposals]


def test_a_sample_without_a_task_has_no_instruction() -> None:
    metric = TaskDiversity(OneTask())
    score = metric.resolve(MemoryFeatures.collect(metric, [batch(sample(("How many?", "2")), sample())]))
    assert score.columns["task"] == ["count", None]
    assert score.missing[1] == "no instruction"


def test_a_caption_without_a_question_has_no_task() -> None:
    captions = batch(sample(("", "A cat.")), sample(("<image>", "A dog.")))
    for metric in (TaskDiversity(OneTask()), TaskBalance(OneTask()), InstructionDiversity(OneTask())):
        score = metric.resolve(MemoryFeatures.collect(metric, [captions]))
        assert (score.value, score.reason, score.n_scored) == (None, "no instruction", 0)
    mixed = batch(
        sample(("", "A cat."), ("How many?", "2")), sample(("<image>", "A dog.")), sample(("Why?", "So."))
    )
    metric = TaskDiversity(OneTask())
    score = metric.resolve(MemoryFeatures.collect(metric, [mixed]))
    assert score.columns["task"] == ["count", None, "count"]
    assert (score.value, score.n_scored, score.details["tasks"]) == (1.0, 2, {"count": 2})


def test_a_question_about_a_clip_is_no_chat_without_media() -> None:
    """The tagger is told of every medium: without one it gives the task of text alone."""
    asked: list[int] = []

    class Counting(OneTask):
        def propose(self, instructions: Sequence[str], n_images: Sequence[int]) -> list[str]:
            asked.extend(n_images)
            return super().propose(instructions, n_images)

    clip, text = (sample(("What happens?", "A dog runs."), kinds=kinds) for kinds in (("video",), ()))
    TaskDiversity(Counting()).features(batch(clip, text))
    assert asked == [1, 0]
