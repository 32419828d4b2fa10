"""From a judge's answers to scores: every turn of a batch put to it at once, its votes counted or weighed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import mean
from typing import Any

from vlitqc.prompts import Prompt
from vlitqc.types import Answers, Cost, Image, Judge, Rgb, Score, Weights
from vlitqc_metrics._algorithms.pictures import pixels_of

SCORINGS = ("votes", "expectation")
PARTS = ("turns_judged", "parsed")
"""``turns_judged``: turns with a verdict; ``parsed``: share of the judge's answers that could be read."""

NOTES = ("votes",)
"""``votes``: JSON, what the judge said of each turn, in order; null for a turn that was not put to it."""

MOST_VOTES = 1000
_DECIMALS = 3


def read_prompt(name: str) -> Prompt:
    """The prompt file ``prompts/<name>.toml`` of this package."""
    return Prompt.read(resources.files("vlitqc_metrics").joinpath("prompts", f"{name}.toml"))


@dataclass(frozen=True, slots=True)
class Item:
    """A turn to be judged: the texts that the prompt shows, and the pictures, all readable."""

    data: Mapping[str, str]
    images: tuple[Image, ...] = ()

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Equal where the judge is asked the same."""
        return tuple(self.data.values()), tuple(image.sha256 for image in self.images)

    @property
    def pictures(self) -> tuple[Rgb, ...]:
        """The pixels of its pictures."""
        return tuple(pixels_of(self.images))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says of one turn: exactly one of ``value`` and ``reason`` is set.

    ``n_read`` of ``n_given`` answers could be read; ``told`` is JSON-able, for a reviewer. ``failed``: there is
    no verdict because a call failed; ``retry``: asking again may help.
    """

    value: float | None
    reason: str | None
    n_given: int
    n_read: int
    told: Any
    failed: bool = False
    retry: bool = False


def most_frequent(prompt: Prompt, answers: Answers, votes: int) -> Verdict:
    """The most frequent of ``votes`` answers, of those that can be read, as a number.

    None where none can be read, where two are equally frequent, where no call succeeded, and where calls that
    failed, and may succeed later, could still change which answer is the most frequent.
    """
    read = [prompt.parse(text) for text in answers.texts]
    parsed = [float(choice) for choice in read if choice is not None]
    told = [None if choice is None else _short(float(choice)) for choice in read]
    n, n_read = len(read), len(parsed)

    def none(reason: str, *, failed: bool = False) -> Verdict:
        return Verdict(None, reason, n, n_read, told, failed, failed and answers.retry)

    ranked = [*Counter(parsed).most_common(2), (0.0, 0), (0.0, 0)]
    (value, first), (_, second) = ranked[:2]
    lost = votes - n
    if answers.failure is not None and (n == 0 or (answers.retry and first - second <= lost)):
        return none(f"judge: {answers.failure}", failed=True)
    if n == 0:
        return none("judge: it gave no answer", failed=True)
    if n_read == 0:
        return none(f"none of the judge's {n} answers could be read")
    if first == second:
        unread = n - n_read
        many = f"{unread} of {n} answers could not be read, the rest are tied" if unread else None
        return none(many or f"the judge's {n} answers are tied")
    return Verdict(value, None, n, n_read, told)


def expectation(weights: Weights) -> Verdict:
    """Σ pᵢ·i over the choices, which are numbers, with the judge's probabilities pᵢ."""
    if weights.probabilities is None:
        return Verdict(None, f"judge: {weights.failure}", 0, 0, None, failed=True, retry=weights.retry)
    shares = {choice: float(p) for choice, p in weights.probabilities.items()}
    numbers = [float(choice) for choice in shares]
    total = sum(shares.values())
    value = sum(number * p for number, p in zip(numbers, shares.values(), strict=True)) / total
    # Rounding must not carry the mean past the ends of the scale.
    value = min(max(value, min(numbers)), max(numbers))
    return Verdict(value, None, 1, 1, {choice: round(p, _DECIMALS) for choice, p in shares.items()})


class TurnJudge:
    """One prompt put to one judge: ``votes`` answers a turn and the most frequent of them, or the expectation.

    ``scoring`` is ``votes`` or ``expectation``; the latter needs one call a turn, whatever ``votes``. Raises
    TypeError for options that do not fit.
    """

    def __init__(self, judge: Judge, prompt: Prompt, *, scoring: str, votes: int) -> None:
        if scoring not in SCORINGS:
            raise TypeError(f"scoring must be one of {', '.join(SCORINGS)}; got {scoring!r}")
        if not isinstance(votes, int) or isinstance(votes, bool) or not 1 <= votes <= MOST_VOTES:
            raise TypeError(f"votes must be a whole number from 1 to {MOST_VOTES}; got {votes!r}")
        self.judge = judge
        self.prompt = prompt
        self.scoring = scoring
        self.votes = votes

    @property
    def _bare(self) -> bool:
        return self.scoring == "expectation"

    def verdicts(self, items: Sequence[Item]) -> list[Verdict]:
        """A verdict for each item, in order; all in one call of the judge, equal ones asked once."""
        distinct = {item.key: item for item in items}
        if not distinct:
            return []
        questions = [
            self.prompt.question(item.data, item.pictures, bare=self._bare) for item in distinct.values()
        ]
        if self._bare:
            found = [expectation(weights) for weights in self.judge.weigh(questions)]
        else:
            answers = self.judge.ask(questions, self.votes)
            found = [most_frequent(self.prompt, answer, self.votes) for answer in answers]
        by_key = dict(zip(distinct, found, strict=True))
        return [by_key[item.key] for item in items]

    def cost(self, data: Sequence[Mapping[str, str]], n_images: int) -> Cost:
        """What one sample asks at most: a call for each vote on each of its turns ``data``."""
        each = 1 if self._bare else self.votes
        questions = [self.prompt.question(texts, bare=self._bare) for texts in data]
        characters = sum(len(question.system) + len(question.content) for question in questions)
        return Cost(each * len(questions), each * characters, each * len(questions) * n_images)


def sample_score(verdicts: Sequence[Verdict | None], scale: float = 1.0) -> Score:
    """``scale`` × the mean over the turns with a verdict; None stands for a turn that was not put to the judge.

    No score where no turn has a verdict, or where one lacks it for a fault that may pass: the mean of the rest
    would be another number tomorrow.
    """
    asked = [verdict for verdict in verdicts if verdict is not None]
    values = [verdict.value for verdict in asked if verdict.value is not None]
    n_given, n_read = sum(v.n_given for v in asked), sum(v.n_read for v in asked)
    parts = {"turns_judged": float(len(values))}
    if n_given:
        parts["parsed"] = n_read / n_given
    told = [None if verdict is None else verdict.told for verdict in verdicts]
    notes = {"votes": json.dumps(told, separators=(",", ":"))}
    waiting = next((verdict for verdict in asked if verdict.retry), None)
    if values and waiting is None:
        return Score(scale * mean(values), parts=parts, notes=notes)
    # A failed call says more of what to do than an answer that could not be read.
    worst = waiting or next((v for v in asked if v.failed), asked[0])
    return Score(reason=worst.reason, fault=True, parts=parts, notes=notes, retry=worst.retry)


def _short(number: float) -> float | int:
    return int(number) if number.is_integer() else number
