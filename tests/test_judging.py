"""From a judge's answers to scores: votes, ties, unreadable answers, failed calls, expectations, costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlitqc.types import (
    Answers,
    Batch,
    Image,
    Judge,
    Judged,
    Media,
    ModelRef,
    Origin,
    Question,
    Sample,
    Score,
    Turn,
    Weights,
)
from vlitqc_metrics._algorithms.judging import (
    Item,
    TurnJudge,
    Verdict,
    expectation,
    most_frequent,
    read_prompt,
    sample_score,
)
from vlitqc_metrics.correctness import Correctness
from vlitqc_metrics.instruction_complexity import InstructionComplexity

LEVELS = read_prompt("instruction_complexity")
DOWN = "the server is down"


class Counting:
    """Answers every question alike, and counts."""

    ref = ModelRef("Judge", "counting", "1", "0" * 64)
    usage: Mapping[str, int] = {}

    def __init__(self, *texts: str, failure: str | None = None, retry: bool = False) -> None:
        self.answers = Answers(texts, failure, retry)
        self.weights = Weights({"0": 0.25, "1": 0.75}) if failure is None else Weights(None, failure, retry)
        self.calls: list[list[Question]] = []

    def ask(self, questions: Sequence[Question], votes: int) -> list[Answers]:
        self.calls.append(list(questions))
        return [self.answers] * len(questions)

    def weigh(self, questions: Sequence[Question]) -> list[Weights]:
        self.calls.append(list(questions))
        return [self.weights] * len(questions)


def picture(sha256: str) -> Image:
    return Image(f"{sha256}.png", np.zeros((4, 4, 3), np.uint8), None, sha256)


def sample(*turns: tuple[str, str], n_images: int = 1) -> Sample:
    media = tuple(Media("image", f"{i}") for i in range(n_images))
    return Sample("s", tuple(Turn(*turn) for turn in turns), media, {}, Origin("f", 0, 1, 0, 0, ""))


def batch(*samples: Sample) -> Batch:
    return Batch(samples, [[picture(f"p{j}") for j in range(len(s.images))] for s in samples])


# ---------------------------------------------------------------- votes


@pytest.mark.parametrize(
    ("texts", "value", "reason", "told"),
    [
        (["7", "7", "3", "9", "7"], 7.0, None, [7, 7, 3, 9, 7]),
        (["7"], 7.0, None, [7]),
        (["7", "x", "x", "x", "x"], 7.0, None, [7, None, None, None, None]),
        (['{"level": 4}', "4", "5", "no", "4"], 4.0, None, [4, 4, 5, None, 4]),
        (["7", "3"], None, "the judge's 2 answers are tied", [7, 3]),
        (["7", "7", "3", "3", "1"], None, "the judge's 5 answers are tied", [7, 7, 3, 3, 1]),
        (
            ["7", "3", "x", "", "3", "7"],
            None,
            "2 of 6 answers could not be read, the rest are tied",
            [7, 3, None, None, 3, 7],
        ),
        (["x", "11"], None, "none of the judge's 2 answers could be read", [None, None]),
    ],
)
def test_the_most_frequent_answer(
    texts: list[str], value: float | None, reason: str | None, told: Any
) -> None:
    verdict = most_frequent(LEVELS, Answers(tuple(texts)), len(texts))
    assert (verdict.value, verdict.reason, verdict.told) == (value, reason, told)
    assert (verdict.n_given, verdict.n_read) == (len(texts), sum(x is not None for x in told))
    assert not verdict.failed and not verdict.retry


@pytest.mark.parametrize(
    ("texts", "retry", "value", "waits"),
    [
        ((), True, None, True),
        ((), False, None, False),
        (("7", "7", "7"), True, 7.0, False),  # the two that are missing cannot change it
        (("7", "7"), True, 7.0, True),  # three can
        (("7", "7", "3"), True, 7.0, True),
        (("7", "7", "7", "3"), True, 7.0, False),
        (("7", "7", "3", "3"), True, None, True),
        (("7", "7", "3"), False, 7.0, False),  # they will never come: what there is counts
    ],
)
def test_calls_that_failed(texts: tuple[str, ...], retry: bool, value: float | None, waits: bool) -> None:
    verdict = most_frequent(LEVELS, Answers(texts, DOWN, retry), 5)
    if waits or not texts:
        assert verdict == Verdict(
            None, f"judge: {DOWN}", len(texts), len(texts), [int(t) for t in texts], True, retry
        )
    else:
        assert (verdict.value, verdict.failed, verdict.retry) == (value, False, False)


def test_no_answer_and_no_failure_is_a_failed_call() -> None:
    verdict = most_frequent(LEVELS, Answers(()), 5)
    assert (verdict.reason, verdict.failed, verdict.retry) == ("judge: it gave no answer", True, False)


@given(st.lists(st.sampled_from(["1", "2", "3", "oops"]), min_size=1, max_size=9))
def test_votes_agree_with_counting_by_hand(texts: list[str]) -> None:
    verdict = most_frequent(LEVELS, Answers(tuple(texts)), len(texts))
    counts = {choice: texts.count(choice) for choice in "123"}
    best = [choice for choice in "123" if counts[choice] == max(counts.values()) > 0]
    assert verdict.value == (float(best[0]) if len(best) == 1 else None)
    assert most_frequent(LEVELS, Answers(tuple(reversed(texts))), len(texts)).value == verdict.value


# ---------------------------------------------------------------- expectation


def test_the_expectation_is_the_mean_over_the_probabilities() -> None:
    verdict = expectation(Weights({"1": 0.5, "4": 0.25, "10": 0.25}))
    assert verdict.value == 0.5 * 1 + 0.25 * 4 + 0.25 * 10
    assert verdict.told == {"1": 0.5, "4": 0.25, "10": 0.25}
    assert expectation(Weights({"1": 1 / 3, "2": 2 / 3})).told == {"1": 0.333, "2": 0.667}
    # A sum that is 1 but for rounding stays within the scale.
    assert expectation(Weights({"0": 0.0, "1": 0.9999999})).value == 1.0
    failed = expectation(Weights(None, DOWN, retry=True))
    assert (failed.value, failed.reason, failed.retry) == (None, f"judge: {DOWN}", True)


def test_p_correct_is_the_correctness() -> None:
    (score,) = Correctness(Counting(), scoring="expectation").score(batch(sample(("a", "b"))))
    assert score.value == 75.0
    assert score.notes == {"votes": '[{"0":0.25,"1":0.75}]'}
    assert score.parts == {"turns_judged": 1.0, "parsed": 1.0}


# ---------------------------------------------------------------- samples


def seen(value: float) -> Verdict:
    return Verdict(value, None, 2, 2, [value, value])


def test_a_sample_is_the_mean_over_its_turns() -> None:
    tied = Verdict(None, "tied", 4, 2, [1, 0, None, None])
    refused = Verdict(None, "judge: refused", 0, 0, [], failed=True)
    waiting = Verdict(None, "judge: down", 1, 1, [1], failed=True, retry=True)
    score = sample_score([seen(1), None, tied, seen(0), seen(1), refused], 100.0)
    assert score.value == pytest.approx(200 / 3)
    assert score.parts == {"turns_judged": 3.0, "parsed": 8 / 10}
    assert json.loads(score.notes["votes"]) == [[1, 1], None, [1, 0, None, None], [0, 0], [1, 1], []]
    assert sample_score([tied, refused]) == Score(
        reason="judge: refused",
        fault=True,
        parts={"turns_judged": 0.0, "parsed": 0.5},
        notes={"votes": "[[1,0,null,null],[]]"},
    )
    # The mean without the turn that is still to come would be another number tomorrow.
    later = sample_score([seen(1), waiting])
    assert (later.value, later.reason, later.fault, later.retry) == (None, "judge: down", True, True)
    assert later.parts["turns_judged"] == 1.0


def test_a_judge_that_is_down_leaves_a_reason_and_asks_again() -> None:
    for retry in (True, False):
        for scoring in ("votes", "expectation"):
            judge = Counting(failure=DOWN, retry=retry)
            for metric in (
                Correctness(judge, scoring=scoring),
                InstructionComplexity(judge, scoring=scoring),
            ):
                (score,) = metric.score(batch(sample(("a", "b"))))
                assert score.reason == f"judge: {DOWN}"
                assert (score.fault, score.retry) == (True, retry)
                assert "parsed" not in score.parts


# ---------------------------------------------------------------- asking


def test_a_batch_is_one_call_and_equal_questions_are_asked_once() -> None:
    judge = Counting("1", "1", "0")
    made = batch(
        sample(("<image>\nWhat?", "A duck."), ("Why?", "It swims.")),
        sample(("What? <image>", "A duck.")),
        sample(("What?", "A duck."), n_images=2),
        sample(("What?", "A duck."), ("", ""), ("<image>", "<image>")),
        sample(("What?", "A duck."), n_images=0),
    )
    scores = Correctness(judge, votes=3).score(made)
    (asked,) = judge.calls
    assert [len(question.images) for question in asked] == [1, 1, 2]
    assert [score.value for score in scores] == [100.0, 100.0, 100.0, 100.0, None]
    assert scores[4].reason == "text-only"
    assert json.loads(scores[3].notes["votes"]) == [[1, 1, 0], None, None]
    assert scores[3].parts["turns_judged"] == 1.0
    judge = Counting("7")
    assert [s.value for s in InstructionComplexity(judge, votes=1).score(made)] == [7.0] * 5
    (asked,) = judge.calls
    assert len(asked) == 2 and all(question.images == () for question in asked)
    # Nothing to ask is no call.
    assert Correctness(judge).score(batch(sample(n_images=0))) == [Score(reason="text-only")]
    assert len(judge.calls) == 1


def test_fields_do_not_run_into_each_other() -> None:
    judge = Counting("1")
    turns = TurnJudge(judge, read_prompt("correctness"), scoring="votes", votes=1)
    turns.verdicts(
        [Item({"instruction": "ab", "response": "c"}), Item({"instruction": "a", "response": "bc"})]
    )
    assert len(judge.calls[0]) == 2


def test_a_turn_is_judged_by_itself() -> None:
    judge = Counting("1")
    Correctness(judge).score(batch(sample(("Is it a duck?", "Yes, it is."), ("And this?", "A goose."))))
    first, second = judge.calls[0]
    assert "duck" in first.content and "goose" not in first.content
    assert "goose" in second.content and "duck" not in second.content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scoring": "median"}, "scoring must be one of votes, expectation; got 'median'"),
        ({"votes": 0}, "votes must be a whole number from 1 to 1000; got 0"),
        ({"votes": 2.0}, "votes must be a whole number from 1 to 1000; got 2.0"),
        ({"votes": True}, "votes must be"),
        ({"votes": 1001}, "votes must be"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    for metric in (Correctness, InstructionComplexity):
        with pytest.raises(TypeError, match=message):
            metric(Counting(), **options)


# ---------------------------------------------------------------- cost


def test_the_cost_is_what_is_sent() -> None:
    made = sample(("What?", "A duck."), ("Why?", ""), ("<image>", "It swims."), n_images=2)
    judge = Counting("1")
    metric = Correctness(judge, votes=5)
    assert isinstance(metric, Judged) and isinstance(InstructionComplexity(judge), Judged)
    cost = metric.cost(made)
    metric.score(batch(made))
    (asked,) = judge.calls
    assert (cost.calls, cost.images) == (5 * len(asked), 5 * 2 * len(asked)) == (10, 20)
    assert cost.characters == 5 * sum(len(question.system) + len(question.content) for question in asked)
    once = Correctness(judge, scoring="expectation").cost(made)
    assert (once.calls, once.images) == (2, 4)
    level = InstructionComplexity(judge, votes=3).cost(made)
    assert (level.calls, level.images) == (6, 0)
    nothing = metric.cost(sample(("What?", "A duck."), n_images=0))
    assert (nothing.calls, nothing.characters, nothing.images) == (0, 0, 0)


def test_the_judges_of_these_tests_keep_the_protocol() -> None:
    judge: Judge = Counting("1")
    assert judge.ref.kind == "Judge"


def test_a_judge_that_says_one_thing_is_warned_of() -> None:
    metric = InstructionComplexity(Counting([]))
    even = metric.remarks(np.array([2.0, 2.0, 2.4, 7.0, 8.0]))
    assert even == {"most_frequent_level": 2, "most_frequent_share": 0.6}, "60% is not more than 60%"
    lopsided = metric.remarks(np.array([3.0, 3.0, 2.9, 7.0]))
    assert lopsided["warning"] == ("75% of the samples are on level 3: this judge hardly tells them apart")
