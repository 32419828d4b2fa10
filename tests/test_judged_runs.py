"""Runs with a judge: what is told beforehand, what it cost, what a limit leaves, what a later run asks again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from rich.console import Console

import vlitqc
from vlitqc import console
from vlitqc.errors import UsageError
from vlitqc.executors.local import share
from vlitqc.registry import MODELS
from vlitqc.types import (
    Answers,
    Batch,
    Cost,
    DatasetScore,
    Features,
    FeatureStore,
    MetricSpec,
    ModelRef,
    Principle,
    Question,
    Sample,
    Scale,
    Score,
)

Make = Callable[..., Path]


class Server:
    """A judge that may be down; counts over all of its instances, as a server would."""

    RUNTIME_OPTIONS = frozenset({"url"})
    up: ClassVar[bool] = True
    asked: ClassVar[list[str]] = []
    known: ClassVar[set[str]] = set()

    def __init__(
        self, ref: ModelRef, files: Mapping[str, Path], *, url: str = "", limit: int | None = None
    ) -> None:
        self.ref, self.limit = ref, limit
        self.usage = {"calls": 0, "cached": 0, "failed": 0}

    def ask(self, questions: Sequence[Question], votes: int) -> list[Answers]:
        return [self._answer(q.content) for q in questions]

    def _answer(self, content: str) -> Answers:
        if content in Server.known:
            self.usage["cached"] += 1
            return Answers(("1",))
        if self.limit is not None and self.usage["calls"] >= self.limit:
            return Answers((), "the limit is reached", retry=True)
        self.usage["calls"] += 1
        Server.asked.append(content)
        if not Server.up:
            self.usage["failed"] += 1
            return Answers((), "the server is down", retry=True)
        Server.known.add(content)
        return Answers(("1",))


class Verdict:
    """A judged sample metric with a note, whose scale is its judge's."""

    spec: ClassVar[MetricSpec] = MetricSpec(
        "verdict", "Verdict", Principle.BEYOND, "sample", "s", "", (0.0, 1.0), True, "mean", "1", "a test",
        notes=("said",),
    )  # fmt: skip

    def __init__(self, judge: Server) -> None:
        self.judge = judge
        self.spec = type(self).spec.on_scale(Scale("votes", (0.0, 5.0), None))  # type: ignore[misc]

    def score(self, batch: Batch) -> list[Score]:
        asked = self.judge.ask([Question("p@1", "s", sample.id) for sample in batch.samples], 1)
        return [
            Score(1.0, notes={"said": "yes"})
            if found.texts
            else Score(reason=f"judge: {found.failure}", fault=True, retry=found.retry)
            for found in asked
        ]

    def remarks(self, values: NDArray[np.float64]) -> dict[str, object]:
        if len(values) == 3:
            raise ZeroDivisionError("three")
        return {"n": len(values), "warning": "all [alike]"}

    def cost(self, sample: Sample) -> Cost:
        return Cost(calls=1, characters=400, images=len(sample.images))


class Settled:
    """A judged data-set metric that asks when it resolves."""

    spec: ClassVar[MetricSpec] = MetricSpec(
        "settled", "Settled", Principle.BEYOND, "dataset", "s", "", (0.0, 1.0), True, "one", "1", "a test"
    )

    def __init__(self, judge: Server) -> None:
        self.judge = judge

    def features(self, batch: Batch) -> dict[str, Features]:
        return {"ids": Features([s.id for s in batch.samples], np.arange(len(batch)), retry=not Server.up)}

    def resolve(self, store: FeatureStore) -> DatasetScore:
        ids, _ = store.strings("ids")
        found = self.judge.ask([Question("p@1", "s", f"settle {name}") for name in ids], 1)
        done = sum(bool(answer.texts) for answer in found)
        return DatasetScore(done / len(ids), n_scored=done, n_total=len(ids))


BODY = """
[models.judge]
backend = "server"
kind = "Judge"
name = "server"
licence = "none"
options = { url = "http://one" }
[metrics.verdict]
models = { judge = "judge" }
"""


@pytest.fixture
def profile(register: Callable[..., None], profile_file: Callable[[str], str]) -> str:
    register("server", Server, MODELS)
    register("verdict", Verdict)
    register("settled", Settled)
    Server.up, Server.asked, Server.known = True, [], set()
    return profile_file(BODY)


def test_notes_and_the_scale_of_the_instance(profile: str, make_data: Make) -> None:
    run = vlitqc.score(make_data(5), profile)
    assert run.scores["verdict_said"].tolist() == ["yes"] * 5
    section = run.metrics()["verdict"]
    assert (section["unit"], section["bounds"], section["higher_is_better"]) == ("votes", [0.0, 5.0], None)


def test_what_is_about_to_be_asked_is_told(profile: str, make_data: Make) -> None:
    told: list[str] = []
    vlitqc.score(make_data(40), profile, limit=30, announce=told.append)
    # 30 records of one call, 400 characters (100 tokens) and one picture (576 tokens)
    assert told == [
        "judge: at most 30 calls and about 20,280 tokens to read, for verdict of 30 records; "
        "answers in the cache cost nothing"
    ]


def test_nothing_is_told_without_a_judge(tiny: str, make_data: Make) -> None:
    told: list[str] = []
    run = vlitqc.score(make_data(3), tiny, announce=told.append)
    assert told == []
    assert run.info["usage"] == {}


def test_usage_is_that_of_this_run(profile: str, make_data: Make) -> None:
    data = make_data(40)
    assert vlitqc.score(data, profile).info["usage"] == {"judge": {"calls": 40, "cached": 0, "failed": 0}}
    again = vlitqc.score(data, profile).info["usage"]
    assert again == {"judge": {"calls": 0, "cached": 0, "failed": 0}}, "finished shards ask nothing"


def test_a_fault_that_may_pass_is_asked_again(profile: str, make_data: Make) -> None:
    data = make_data(40)
    Server.up = False
    first = vlitqc.score(data, profile)
    assert first.scores["verdict"].isna().all()
    assert set(first.scores["verdict_reason"]) == {"judge: the server is down"}
    assert set(first.scores["state"]) == {"partial"}
    Server.up = True
    second = vlitqc.score(data, profile)
    assert second.scores["verdict"].tolist() == [1.0] * 40
    assert second.info["usage"]["judge"]["calls"] == 40


def test_a_fault_in_features_that_may_pass_is_asked_again(
    profile: str, profile_file: Callable[[str], str], make_data: Make
) -> None:
    data = make_data(3)
    own = profile_file(BODY + "[metrics.settled]\nmodels = { judge = 'judge' }\n")
    Server.up = False
    assert vlitqc.score(data, own).metrics()["settled"]["value"] == 0.0
    Server.up = True
    assert vlitqc.score(data, own).metrics()["settled"]["value"] == 1.0


def test_the_limit_and_the_run_that_goes_on(
    profile: str, profile_file: Callable[[str], str], make_data: Make
) -> None:
    data = make_data(40)
    own = profile_file(BODY + "[metrics.settled]\nmodels = { judge = 'judge' }\n")
    first = vlitqc.score(data, own, judge_limit=50)
    assert len(Server.asked) == 50, "40 verdicts, and 10 that the data-set pass had left"
    assert first.metrics()["settled"]["n_scored"] == 10
    second = vlitqc.score(data, own, judge_limit=50)
    assert second.metrics()["settled"]["n_scored"] == 40
    assert len(Server.asked) == 80, "no answer is asked for twice"
    with pytest.raises(UsageError, match="judge_limit=0: expected 1 or more"):
        vlitqc.score(data, own, judge_limit=0)


def test_a_limit_within_the_shards(profile: str, make_data: Make) -> None:
    data = make_data(40)
    first = vlitqc.score(data, profile, judge_limit=35)
    assert first.scores["verdict"].notna().sum() == 35
    assert set(first.scores["verdict_reason"].dropna()) == {"judge: the limit is reached"}
    second = vlitqc.score(data, profile, judge_limit=35)
    assert second.scores["verdict"].notna().all()
    assert second.info["usage"]["judge"]["calls"] == 5


def test_another_url_computes_nothing_anew(
    profile: str, profile_file: Callable[[str], str], make_data: Make
) -> None:
    data = make_data(5)
    first = vlitqc.score(data, profile)
    again = vlitqc.score(data, profile_file(BODY.replace("http://one", "http://two")))
    assert again.info["usage"]["judge"]["calls"] == 0
    pd.testing.assert_frame_equal(first.scores, again.scores)


def test_a_judge_in_the_call(tiny: str, make_data: Make) -> None:
    with pytest.raises(UsageError, match="judge: name the model"):
        vlitqc.score(make_data(2), tiny, judge={"url": "http://localhost:1"})


def test_run_json_names_every_file(texts: str, make_data: Make) -> None:
    run = vlitqc.score(make_data(2), texts)
    files = json.loads((run.path / "run.json").read_text())["files"]
    assert [(f["slot"], f["role"], f["source"]) for f in files] == [
        ("bigrams", "unigrams", "wordsegment==1.3.1"),
        ("bigrams", "bigrams", "wordsegment==1.3.1"),
        ("bigrams", "wordfreq", "wordfreq==3.1.1"),
    ]
    assert all(len(f["sha256"]) == 64 and f["fault"] is None for f in files)


def test_a_metric_whose_judge_nobody_named(make_data: Make, profile_file: Callable[[str], str]) -> None:
    own = profile_file(
        "[metrics.correctness]\nmodels = { judge = 'judge' }\nunavailable = 'name one'\n[metrics.composition]\n"
    )
    run = vlitqc.score(make_data(2), own)
    assert run.scores["correctness_reason"].tolist() == ["name one"] * 2
    assert set(run.scores["state"]) == {"scored"}


def test_remarks_of_a_metric(profile: str, make_data: Make) -> None:
    run = vlitqc.score(make_data(5), profile)
    assert run.metrics()["verdict"]["details"] == {"n": 5, "warning": "all [alike]"}
    shown = Console(width=200, record=True, file=io.StringIO())
    shown.print(console.scorecard(run.scorecard))
    assert "votes  all [alike]" in shown.export_text()


def test_remarks_that_fail_cost_no_run(profile: str, make_data: Make) -> None:
    run = vlitqc.score(make_data(3), profile)
    assert run.metrics()["verdict"]["details"] == {"warning": "its remarks failed: ZeroDivisionError: three"}
    assert run.metrics()["verdict"]["value"] == 1.0


@pytest.mark.parametrize(
    ("limit", "workers", "shares"), [(7, 3, [3, 2, 2]), (2, 4, [1, 1, 0, 0]), (4, 1, [4])]
)
def test_workers_share_a_limit(limit: int, workers: int, shares: list[int]) -> None:
    assert [share(limit, i, workers) for i in range(workers)] == shares
    assert share(None, 0, workers) is None


def test_a_shared_cost_is_counted_once(profile: str, register: Callable[..., None], make_data: Make) -> None:
    class Shared(Verdict):
        spec = replace(Verdict.spec, name="shared")
        cost_shared = "one tagger"

    class Other(Shared):
        spec = replace(Verdict.spec, name="other")

    for name, made in (("shared", Shared), ("other", Other)):
        register(name, made)
    told: list[str] = []
    own = Path(profile)
    own.write_text(
        own.read_text()
        + "[metrics.shared]\nmodels = { judge = 'judge' }\n[metrics.other]\nmodels = { judge = 'judge' }\n"
    )
    vlitqc.score(make_data(2), profile, announce=told.append)
    assert told[0].startswith("judge: at most 4 calls"), "those of verdict, and those that the two share"
