"""Every metric keeps the public contract, and the contract catches metrics that do not."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlitqc import profiles
from vlitqc.engine.plan import Plan, prepare
from vlitqc.models.store import ModelStore
from vlitqc.registry import METRICS, entries, load_metric
from vlitqc.testing import MemoryFeatures, check_metric, example_batch
from vlitqc.types import (
    Answers,
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    Metric,
    MetricSpec,
    ModelRef,
    Principle,
    Question,
    Score,
    Weights,
)

LITE = profiles.load("lite")
OURS = [entry.name for entry in entries(METRICS).values() if entry.owner == "vlitqc"]
UNAVAILABLE = [name for name in OURS if name in LITE.metrics and LITE.metrics[name].unavailable]
PLUGIN = Path(__file__).parent / "plugin" / "vlitqc_shouting" / "__init__.py"


class ScriptedJudge:
    """Answers from a fixed list, chosen by the question alone; some cannot be read, some are missing or fail."""

    ref = ModelRef("Judge", "scripted", "1", "0" * 64)
    usage: Mapping[str, int] = {}
    ANSWERS = ("1", "0", '{"score": 1}', '{"level": 7}', "10 because", "", "unsure", "1.")

    def ask(self, questions: Sequence[Question], votes: int) -> list[Answers]:
        return [self._answers(question, votes) for question in questions]

    def weigh(self, questions: Sequence[Question]) -> list[Weights]:
        return [self._weights(question) for question in questions]

    def _answers(self, question: Question, votes: int) -> Answers:
        start = self._draw(question)
        if start % 5 == 0:
            return Answers((), "no connection", retry=start % 2 == 0)
        texts = [self.ANSWERS[(start + i // 2) % len(self.ANSWERS)] for i in range(votes)]
        return Answers(tuple(texts))

    def _weights(self, question: Question) -> Weights:
        start = self._draw(question)
        if start % 5 == 0:
            return Weights(None, "no connection", retry=start % 2 == 0)
        shares = [(start + i) % 7 + 1 for i in range(len(question.choices))]
        return Weights({c: share / sum(shares) for c, share in zip(question.choices, shares, strict=True)})

    def _draw(self, question: Question) -> int:
        pictures = b"".join(image.tobytes() for image in question.images)
        return hashlib.sha256(question.content.encode(errors="surrogatepass") + pictures).digest()[0]


@pytest.fixture(scope="module")
def store() -> ModelStore:
    return ModelStore(LITE, device="cpu")


def test_the_lite_profile_names_every_metric() -> None:
    assert set(OURS) == set(LITE.metrics)
    assert UNAVAILABLE == ["correctness", "ifd", "instruction_complexity"]


# IFD needs a language model that lite does not load; test_ifd.py holds it to the contract with one.
@pytest.mark.parametrize("name", [name for name in OURS if name != "ifd"])
def test_our_metrics_keep_the_contract(name: str, store: ModelStore) -> None:
    (planned,) = prepare(Plan(LITE, (name,), Path()), store)
    if name in UNAVAILABLE:
        assert planned.metric is None
        metric = load_metric(name)(judge=ScriptedJudge())
        check_metric(load_metric(name)(judge=ScriptedJudge(), scoring="expectation"))
    else:
        assert planned.unavailable is None
        metric = planned.metric
    check_metric(metric)


def test_a_third_partys_metric_keeps_the_contract() -> None:
    spec = spec_from_file_location("vlitqc_shouting", PLUGIN)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    check_metric(module.Shouting())


# ---------------------------------------------------------------- metrics that break the contract

LENGTH = MetricSpec(
    name="length",
    title="Length",
    principle=Principle.BEYOND,
    level="sample",
    summary="Characters of the responses.",
    unit="characters",
    bounds=(0.0, float("inf")),
    higher_is_better=None,
    reduction="sum over turns",
    version="1",
    source="this test",
    parts=("turns",),
)
TOTAL = replace(LENGTH, name="total", level="dataset", parts=(), columns=("total_length",))


def length(batch: Batch, i: int) -> float:
    return float(sum(len(turn.response) for turn in batch.samples[i].turns))


class Length:
    spec = LENGTH

    def score(self, batch: Batch) -> list[Score]:
        return [Score(length(batch, i), parts={"turns": len(s.turns)}) for i, s in enumerate(batch.samples)]


class Total:
    spec = TOTAL

    def features(self, batch: Batch) -> Mapping[str, Features]:
        values = np.array([[length(batch, i)] for i in range(len(batch))], np.float32)
        return {"length": Features(values, np.arange(len(batch), dtype=np.int64))}

    def resolve(self, store: FeatureStore) -> DatasetScore:
        values, index = store.vectors("length")
        if not len(values):
            return DatasetScore(reason="no record could be read", n_total=store.n_samples)
        total = float(values.sum())
        column: list[float | None] = [None] * store.n_samples
        for i, value in zip(index, values[:, 0], strict=True):
            column[i] = float(value)
        return DatasetScore(
            total, n_scored=len(values), n_total=store.n_samples, columns={"total_length": column}
        )


def test_sound_metrics_pass() -> None:
    check_metric(Length())
    check_metric(Total())


class TooFew(Length):
    def score(self, batch: Batch) -> list[Score]:
        return super().score(batch)[1:]


class OutOfBounds(Length):
    spec = replace(LENGTH, bounds=(0.0, 10.0))


class UndeclaredPart(Length):
    spec = replace(LENGTH, parts=())


class InfinitePart(Length):
    def score(self, batch: Batch) -> list[Score]:
        return [replace(score, parts={"turns": float("nan")}) for score in super().score(batch)]


class EmptyReason(Length):
    def score(self, batch: Batch) -> list[Score]:
        return [Score(reason=" ") for _ in batch.samples]


class FaultyValue(Length):
    def score(self, batch: Batch) -> list[Score]:
        return [replace(score, fault=True) for score in super().score(batch)]


class NumpyValue(Length):
    def score(self, batch: Batch) -> list[Score]:
        return [Score(np.float32(length(batch, i))) for i in range(len(batch))]  # type: ignore[arg-type]


class Restless(Length):
    def __init__(self) -> None:
        self.calls = itertools.count()

    def score(self, batch: Batch) -> list[Score]:
        call = next(self.calls)
        return [Score(length(batch, i) + call) for i in range(len(batch))]


class Relative(Length):
    """Measures a sample against its batch."""

    def score(self, batch: Batch) -> list[Score]:
        longest = max(length(batch, i) for i in range(len(batch))) or 1.0
        return [Score(length(batch, i) / longest) for i in range(len(batch))]


class ByPlace(Length):
    def score(self, batch: Batch) -> list[Score]:
        return [Score(float(i % 2)) for i in range(len(batch))]


class Painter(Length):
    def score(self, batch: Batch) -> list[Score]:
        for image in batch.distinct_images().values():
            assert image.pixels is not None
            image.pixels[0, 0] ^= 255
        return super().score(batch)


class NoSummary(Length):
    spec = replace(LENGTH, summary="")


class NoRange(Length):
    spec = replace(LENGTH, bounds=(1.0, 1.0))


class BadName(Length):
    spec = replace(LENGTH, name="Text Length")


class SpecOfInstance(Length):
    spec = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.spec = LENGTH


class WrongLevel(Length):
    spec = TOTAL


class Backwards(Total):
    def features(self, batch: Batch) -> Mapping[str, Features]:
        found = super().features(batch)["length"]
        return {"length": Features(found.values[::-1], found.index[::-1])}


class PastTheEnd(Total):
    def features(self, batch: Batch) -> Mapping[str, Features]:
        found = super().features(batch)["length"]
        return {"length": Features(found.values, found.index + 1)}


class Doubles(Total):
    def features(self, batch: Batch) -> Mapping[str, Features]:
        found = super().features(batch)["length"]
        return {"length": Features(np.asarray(found.values, np.float64), found.index)}  # type: ignore[arg-type]


class Centred(Total):
    """Features that depend on the rest of the batch."""

    def features(self, batch: Batch) -> Mapping[str, Features]:
        found = super().features(batch)["length"]
        values = np.asarray(found.values)
        return {"length": Features(values - values.mean(), found.index)}


class AFile(Total):
    def features(self, batch: Batch) -> Mapping[str, Features]:
        return {"../length": super().features(batch)["length"]}


class Changed(Total):
    """A data-set metric whose score is altered before it is returned."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def resolve(self, store: FeatureStore) -> DatasetScore:
        score = super().resolve(store)
        return replace(score, **self.changes) if score.value is not None else score


class Aligned(Total):
    """Takes row i for sample i, which is wrong as soon as one sample has no features."""

    def resolve(self, store: FeatureStore) -> DatasetScore:
        values, _ = store.vectors("length")
        if len(values) and len(values) != store.n_samples:
            return DatasetScore(float("nan"), n_scored=len(values), n_total=store.n_samples)
        return super().resolve(store)


class Fragile(Total):
    def resolve(self, store: FeatureStore) -> DatasetScore:
        values, _ = store.vectors("length")
        return DatasetScore(float(values.max()), n_scored=len(values), n_total=store.n_samples)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (TooFew, "15 scores for 16 samples"),
        (OutOfBounds, "outside spec.bounds"),
        (UndeclaredPart, r"parts \['turns'\] are not in spec.parts"),
        (InfinitePart, "part turns is nan"),
        (EmptyReason, "the reason is empty"),
        (FaultyValue, "fault goes with a reason"),
        (NumpyValue, "must be a float, is float32"),
        (Restless, "must be deterministic"),
        (Relative, "in the batch and .* in half of it"),
        (ByPlace, "after a permutation"),
        (Painter, "changed the pictures"),
        (NoSummary, "spec.summary is empty"),
        (NoRange, "are no range"),
        (BadName, "expected lower-case words"),
        (SpecOfInstance, "must be a class attribute"),
        (WrongLevel, "needs the methods features"),
        (Backwards, "index must not decrease"),
        (PastTheEnd, "index must lie in 0 to 15"),
        (Doubles, "values must be float32"),
        (Centred, "differ between the batch and"),
        (AFile, "cannot name a file"),
        (partial(Changed, columns={"total_length": [1.0]}), "column total_length has 1 values"),
        (partial(Changed, columns={"total_length": ["a"] * 16}), "column total_length holds 'a'; spec.texts"),
        (partial(Changed, columns={"other": []}), r"columns \['other'\] are not in spec.columns"),
        (partial(Changed, details={"shape": np.int64(3)}), "details must be plain JSON"),
        (partial(Changed, details={"mean": float("nan")}), "details must be plain JSON"),
        (partial(Changed, interval=(2.0, 1.0)), "interval"),
        (partial(Changed, n_scored=10_000), "n_scored 10000 of 16"),
        (Aligned, "on example-.* without features: the value is nan"),
        (partial(Changed, value=-1.0), "outside spec.bounds"),
    ],
)
def test_a_breach_is_caught_and_named(metric: Callable[[], Metric], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_metric(metric())


def test_an_empty_store_must_not_break_a_metric() -> None:
    with pytest.raises(ValueError, match="zero-size array"):
        check_metric(Fragile())


def test_the_example_batch_holds_the_cases_that_break_metrics() -> None:
    batch = example_batch()
    assert len(batch) == 16
    assert len({sample.id for sample in batch.samples}) == len({s.origin.sha256 for s in batch.samples}) == 16
    assert any(not turn.response for sample in batch.samples for turn in sample.turns)
    assert any(not sample.images for sample in batch.samples)
    assert any(row and all(image.fault for image in row) for row in batch.images)
    assert any(len({image.fault is None for image in row}) == 2 for row in batch.images)
    assert any(len(sample.turns) > 1 for sample in batch.samples)
    assert any(len(turn.response.split()) > 500 for sample in batch.samples for turn in sample.turns)
    assert any("\x00" in turn.response for sample in batch.samples for turn in sample.turns)
    again = example_batch()
    assert batch.samples == again.samples
    for row, other in zip(batch.images, again.images, strict=True):
        assert [image.sha256 for image in row] == [image.sha256 for image in other]


def test_features_in_memory_have_the_manners_of_the_engines() -> None:
    batch = example_batch()
    halves = [Batch(batch.samples[:8], batch.images[:8]), Batch(batch.samples[8:], batch.images[8:])]
    store = MemoryFeatures.collect(Total(), halves, seed=3)
    values, index = store.vectors("length")
    assert store.n_samples == 16
    assert store.seed == 3
    assert index.tolist() == list(range(16))
    assert values[:, 0].tolist() == [length(batch, i) for i in range(16)]
    assert store.column("id")[9] == "example-9"
    assert store.column("line") == list(range(1, 17))
    assert store.vectors("other")[0].shape == (0, 0)
    assert store.strings("other")[0] == []
    with pytest.raises(KeyError, match="no column 'matching_degree'"):
        store.column("matching_degree")
    assert MemoryFeatures(batch.samples, {}, columns={"x": range(16)}).column("x") == list(range(16))
