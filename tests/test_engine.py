"""The engine: every record ends in one state, every cell has a value or a reason, a fault costs only its sample."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import vlitqc
from vlitqc.engine import dataset, shards
from vlitqc.engine.dataset import BINS, count_reasons, spread
from vlitqc.engine.inputs import run_of
from vlitqc.engine.shards import cut, read_done, shard_size
from vlitqc.errors import InputError, RunError, UnknownName, UsageError
from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    Issue,
    Media,
    MetricSpec,
    Origin,
    Principle,
    Sample,
    Score,
)

Make = Callable[..., Path]


def spec(name: str, level: Any = "sample", **more: Any) -> MetricSpec:
    fields: dict[str, Any] = {
        "name": name,
        "title": name.title(),
        "principle": Principle.BEYOND,
        "level": level,
        "summary": "made up for a test",
        "unit": "",
        "bounds": (-math.inf, math.inf),
        "higher_is_better": True,
        "reduction": "mean",
        "version": "1",
        "source": "a test",
    }
    return MetricSpec(**fields | more)


def length(sample: Sample) -> float:
    return float(sum(len(turn.response) for turn in sample.turns))


def sample_metric(answer: Callable[[Batch], Any], **more: Any) -> Any:
    class Made:
        def score(self, batch: Batch) -> Any:
            return answer(batch)

    Made.spec = spec(more.pop("name", "made"), **more)  # type: ignore[attr-defined]
    return Made


def dataset_metric(
    features: Callable[[Batch], Mapping[str, Features]],
    resolve: Callable[[FeatureStore], DatasetScore],
    **more: Any,
) -> Any:
    class Made:
        def features(self, batch: Batch) -> Mapping[str, Features]:
            return features(batch)

        def resolve(self, store: FeatureStore) -> DatasetScore:
            return resolve(store)

    Made.spec = spec("made", "dataset", **more)  # type: ignore[attr-defined]
    return Made


def ids_of(batch: Batch) -> dict[str, Features]:
    return {"ids": Features([s.id for s in batch.samples], np.arange(len(batch), dtype=np.int64))}


def score(path: Any, profile: str, **options: Any) -> Any:
    return vlitqc.score(path, profile, report=False, **options)


# ---------------------------------------------------------------- states and cells


def test_every_record_ends_in_exactly_one_state(messy: Path, tiny: str, messy_states: dict[str, str]) -> None:
    run = score(messy, tiny)
    assert run.scores["state"].tolist() == list(messy_states.values())
    assert run.scores["row"].tolist() == list(range(len(messy_states)))
    wanted = {s: list(messy_states.values()).count(s) for s in ("scored", "partial", "unreadable")}
    assert run.scorecard["counts"] == {"records": len(messy_states), **wanted}


def test_every_cell_has_a_value_or_a_reason(messy: Path, tiny: str) -> None:
    scores = score(messy, tiny).scores
    for name in ("image_readability", "correctness"):
        if name in scores:
            has_value, has_reason = scores[name].notna(), scores[f"{name}_reason"].notna()
            assert (has_value ^ has_reason).all(), scores[~(has_value ^ has_reason)]
    reasons = scores["image_readability_reason"]
    assert reasons[5] == "text-only"
    assert reasons[1].startswith("record unreadable: ")
    assert reasons[2].startswith("image unreadable: missing")
    assert reasons[3].startswith("image unreadable: truncated")
    assert (scores["n_turns"] > 0).tolist() == (scores["state"] != "unreadable").tolist()
    assert scores["n_images"].tolist() == [1, 0, 1, 1, 1, 0, 2, 1, 1, 1, 1, 0, 0, 1]


def test_every_fault_is_an_issue_at_its_place(messy: Path, tiny: str, messy_states: dict[str, str]) -> None:
    issues = score(messy, tiny).issues
    names = list(messy_states)
    found = {(names[i.row], i.kind) for i in issues.itertuples() if i.severity == "error"}
    assert found == {
        ("malformed", "malformed_record"),
        ("missing", "missing_image"),
        ("truncated", "truncated_image"),
        ("empty", "empty_turn"),
        ("no_image", "unreadable_image"),
        ("outside", "path_outside_root"),
        ("remote", "remote_image"),
        ("list", "malformed_record"),
        ("no_conversation", "malformed_record"),
    }
    # A blank line stands before row 8, so from there on lines run one ahead.
    assert all(i.line == i.row + (1 if i.row < 8 else 2) for i in issues.itertuples())
    assert issues["row"].is_monotonic_increasing
    assert set(issues["file"]) == {str(messy)}


def test_a_value_belongs_to_its_own_record(make_data: Make, tiny: str) -> None:
    path = make_data(12)
    together = score(path, tiny).scores.set_index("id")["image_readability"]
    assert together.nunique() > 6
    lines = [json.loads(line) for line in path.read_text().splitlines()][::-1]
    back = score(make_data(lines=lines, name="back.jsonl"), tiny).scores.set_index("id")["image_readability"]
    pd.testing.assert_series_equal(together, back.reindex(together.index))


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_batch_size_changes_no_score(messy: Path, tiny: str, batch_size: int, tmp_path: Path) -> None:
    whole = score(messy, tiny, out=tmp_path / "a", batch_size=7)
    other = score(messy, tiny, out=tmp_path / "b", batch_size=batch_size)
    pd.testing.assert_frame_equal(whole.scores, other.scores)
    pd.testing.assert_frame_equal(whole.issues, other.issues)
    assert whole.scorecard["principles"] == other.scorecard["principles"]


def test_a_run_without_an_image_metric_still_finds_broken_pictures(messy: Path, tiny: str) -> None:
    run = score(messy, tiny, metrics=["composition"])
    assert {"missing_image", "truncated_image", "unreadable_image"} <= set(run.issues["kind"])
    assert run.metrics()["composition"]["value"] == pytest.approx(100 / 11)


def test_a_data_set_of_which_nothing_can_be_read(make_data: Make, texts: str) -> None:
    run = score(make_data(lines=[b'{"a": 1}', b"{broken", b"[]"]), texts)
    assert run.scorecard["counts"] == {"records": 3, "scored": 0, "partial": 0, "unreadable": 3}
    assert run.scorecard["verdict"]["level"] == "poor"
    for metric in run.metrics().values():
        assert metric["value"] is None
        assert metric["reason"]
        assert metric["interval"] is None


def test_a_data_set_of_texts_alone(make_data: Make, record: Any, tiny: str) -> None:
    run = score(make_data(lines=[record(i) for i in range(5)]), tiny)
    metric = run.metrics()["image_readability"]
    assert (metric["value"], metric["reason"], metric["reasons"]) == (None, "text-only", {"text-only": 5})
    assert run.metrics()["composition"]["value"] == 100
    assert run.scorecard["counts"]["scored"] == 5


def test_a_metric_that_the_profile_cannot_serve_says_why(make_data: Make, tiny: str) -> None:
    run = score(make_data(2), tiny)
    metric = run.metrics()["correctness"]
    assert (metric["value"], metric["reason"], metric["n_scored"]) == (None, "needs a judge", 0)
    assert run.scorecard["counts"]["scored"] == 2


def test_a_missing_model_costs_its_metric_and_not_the_run(
    make_data: Make, profile_file: Callable[[str], str]
) -> None:
    profile = profile_file("""
[models.lm]
backend = "bigram_lm"
kind = "LanguageModel"
name = "gone"
licence = "none"
files = [{ role = "unigrams", path = "/nowhere/at/all.txt", sha256 = "00" }]
[metrics.text_readability]
models = { model = "lm" }
[metrics.image_readability]
""")
    run = score(make_data(3), profile)
    assert run.metrics()["text_readability"]["reason"].startswith(
        "model unavailable: model file /nowhere/at/all.txt"
    )
    assert run.metrics()["image_readability"]["n_scored"] == 3
    assert run.scores["text_readability_reason"].notna().all()


# ---------------------------------------------------------------- faults in metrics


def test_a_poisoned_sample_loses_its_own_score_only(
    make_data: Make, profile_file: Any, register: Any
) -> None:
    def answer(batch: Batch) -> list[Score]:
        if any(s.id == "r5" for s in batch.samples):
            raise RuntimeError("cannot digest this")
        return [Score(length(s)) for s in batch.samples]

    register("made", sample_metric(answer))
    run = score(make_data(12), profile_file("[metrics.made]\n[metrics.image_readability]"))
    scores = run.scores
    assert scores.loc[5, "made_reason"] == "error: RuntimeError: cannot digest this"
    assert scores["state"].tolist() == ["partial" if i == 5 else "scored" for i in range(12)]
    mates = [i for i in range(12) if i != 5]
    samples = [run.record(i) for i in mates]
    assert scores.loc[mates, "made"].tolist() == [length(s) for s in samples]
    assert scores["image_readability"].notna().all()
    assert run.metrics()["made"]["n_scored"] == 11
    assert run.metrics()["made"]["reasons"] == {"error": 1}


@pytest.mark.parametrize(
    "answer",
    [
        lambda batch: [Score(1.0)] * (len(batch) + 1),
        lambda batch: [],
        lambda batch: None,
        lambda batch: [1.0] * len(batch),
        lambda batch: [Score(1.0, parts={"half": math.nan})] * len(batch),
        lambda batch: [Score(math.nan)] * len(batch),
        lambda batch: 1 / 0,
    ],
    ids=["too many", "none", "None", "no Score", "part NaN", "NaN", "raises"],
)
def test_wrong_answers_become_reasons(
    make_data: Make, profile_file: Any, register: Any, answer: Callable[[Batch], Any]
) -> None:
    register("made", sample_metric(answer, parts=("half",)))
    run = score(make_data(5), profile_file("[metrics.made]\n[metrics.image_readability]"))
    assert run.scores["made"].isna().all()
    assert run.scores["made_reason"].str.startswith("error: ").all()
    assert run.scorecard["counts"] == {"records": 5, "scored": 0, "partial": 5, "unreadable": 0}
    assert run.scores["image_readability"].notna().all()


def test_half_a_surrogate_pair_in_words_of_a_metric_is_spelled(
    make_data: Make, profile_file: Any, register: Any
) -> None:
    def answer(batch: Batch) -> list[Score]:
        if any(s.id == "r2" for s in batch.samples):
            raise ValueError("bad \ud800")
        return [
            Score(1.0, notes={"why": "x\udcff"}) if s.id == "r0" else Score(reason="not \udfff")
            for s in batch.samples
        ]

    def features(batch: Batch) -> dict[str, Features]:
        raise ValueError("no \ud800")

    def resolve(store: FeatureStore) -> DatasetScore:
        return DatasetScore(reason="none \ud800", n_total=store.n_samples)

    register("made", sample_metric(answer, notes=("why",)))
    whole = dataset_metric(features, resolve)
    whole.spec = spec("whole", "dataset")
    register("whole", whole)
    run = score(make_data(3), profile_file("[metrics.made]\n[metrics.whole]"))
    assert run.scores["made_why"][0] == r"x\udcff"
    assert run.scores["made_reason"].tolist()[1:] == [r"not \udfff", r"error: ValueError: bad \ud800"]
    assert set(run.issues["detail"]) == {r"whole: error: ValueError: no \ud800"}


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        ({"a": 3}, "a"),
        ({"a": 3, "b": 1}, "a (and 1 other reason)"),
        ({"a": 3, "b": 1, "c": 1}, "a (and 2 other reasons)"),
    ],
)
def test_why_there_is_no_value_is_said_with_the_right_plural(reasons: dict[str, int], told: str) -> None:
    assert dataset._why_none(reasons, 5) == told


def test_a_metric_that_miscounts_in_batches_is_asked_sample_by_sample(
    make_data: Make, profile_file: Any, register: Any
) -> None:
    register("made", sample_metric(lambda b: [Score(length(s)) for s in b.samples][: 1 + (len(b) > 1)]))
    run = score(make_data(6), profile_file("[metrics.made]"))
    assert run.scores["made"].notna().all()


def test_the_culprit_is_found_by_halves(make_data: Make, profile_file: Any, register: Any) -> None:
    sizes: list[int] = []

    def answer(batch: Batch) -> list[Score]:
        sizes.append(len(batch))
        if any(s.id in ("r5", "r9") for s in batch.samples):
            raise RuntimeError("cannot digest this")
        return [Score(length(s)) for s in batch.samples]

    register("made", sample_metric(answer))
    run = score(make_data(16), profile_file("[metrics.made]"), batch_size=16)
    # 16 fails, its halves fail, and down to the two that are alone: never all sixteen one by one.
    assert sizes == [16, 8, 4, 4, 2, 1, 1, 2, 8, 4, 2, 1, 1, 2, 4]
    assert run.scores["made"].isna().to_numpy().nonzero()[0].tolist() == [5, 9]
    assert not read_done(run.path / "shards" / "00000").retry  # type: ignore[union-attr]


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["Python", "CUDA", "torch on the CPU"],
)
@pytest.mark.parametrize("room", [5, 1, 0])
def test_out_of_memory_halves_the_batch(
    make_data: Make, profile_file: Any, register: Any, error: Exception, room: int, tmp_path: Path
) -> None:
    enough = room

    def fits(batch: Batch) -> None:
        if len(batch) > enough:
            raise error

    def answer(batch: Batch) -> list[Score]:
        fits(batch)
        return [Score(length(s)) for s in batch.samples]

    def vectors(batch: Batch) -> dict[str, Features]:
        fits(batch)
        values = np.array([[length(s), 2.0] for s in batch.samples], np.float32)
        return {"v": Features(values, np.arange(len(batch), dtype=np.int64))}

    def resolve(store: FeatureStore) -> DatasetScore:
        values, index = store.vectors("v")
        return DatasetScore(float(values.sum()), details={"index": index.tolist(), "v": values.tolist()})

    made = dataset_metric(vectors, resolve)
    made.spec = spec("far", "dataset")
    register("far", made)
    register("made", sample_metric(answer))
    data, profile = make_data(40), profile_file("[metrics.made]\n[metrics.far]")
    tight = score(data, profile, out=tmp_path / "tight")
    done = read_done(tight.path / "shards" / "00000")
    assert done is not None
    assert done.retry == (room == 0)
    if room == 0:
        assert tight.scores["made_reason"].eq("error: out of memory for this sample alone").all()
        assert tight.issues["kind"].tolist() == ["metric_error"] * 40
        assert tight.scores["state"].eq("partial").all()
    enough = 40
    # With memory again, the same command scores what was starved and nothing else.
    again = score(data, profile, out=tmp_path / "tight")
    whole = score(data, profile, out=tmp_path / "whole")
    pd.testing.assert_frame_equal(again.scores, whole.scores)
    assert again.scorecard["principles"] == whole.scorecard["principles"]
    if room:
        pd.testing.assert_frame_equal(tight.scores, whole.scores)
        assert tight.metrics()["far"]["details"] == whole.metrics()["far"]["details"]


def test_features_that_fail_for_one_sample(make_data: Make, profile_file: Any, register: Any) -> None:
    seen: dict[str, Any] = {}

    def features(batch: Batch) -> dict[str, Features]:
        if any(s.id == "r3" for s in batch.samples):
            raise ValueError("no")
        return ids_of(batch)

    def resolve(store: FeatureStore) -> DatasetScore:
        texts, index = store.strings("ids")
        seen.update(texts=texts, index=index.tolist(), ids=store.column("id"))
        return DatasetScore(float(len(texts)), n_scored=len(texts), n_total=store.n_samples)

    register("made", dataset_metric(features, resolve))
    run = score(make_data(8), profile_file("[metrics.made]"), batch_size=3)
    assert seen["texts"] == ["r0", "r1", "r2", "r4", "r5", "r6", "r7"]
    assert [seen["ids"][i] for i in seen["index"]] == seen["texts"]
    issue = run.issues[run.issues["kind"] == "metric_error"].iloc[0]
    assert (issue["row"], issue["id"], issue["severity"]) == (3, "r3", "error")
    assert issue["detail"] == "made: error: ValueError: no"
    assert run.scores["state"].tolist() == ["scored"] * 3 + ["partial"] + ["scored"] * 4


def _raise(error: Exception) -> Any:
    raise error


def own_column(values: Any) -> DatasetScore:
    return DatasetScore(1.0, n_scored=1, n_total=4, columns={"made": values})


@pytest.mark.parametrize(
    ("resolve", "reason"),
    [
        (lambda s: _raise(ValueError("boom")), "error: ValueError: boom"),
        (lambda s: DatasetScore(math.nan), "error: ValueError"),
        (lambda s: DatasetScore(1.0, interval=(0.0, math.inf)), "error: ValueError"),
        (lambda s: DatasetScore(1.0, details={"share": math.nan}), "error: ValueError"),
        (lambda s: DatasetScore(1.0, details={"counts": np.zeros(2)}), "error: TypeError"),
        (lambda s: DatasetScore(1.0, columns={"made": [1.0]}), "error: ValueError: column made has 1 values"),
        (
            lambda s: DatasetScore(1.0, missing=["none"]),
            "error: ValueError: missing has 1 reasons for 4 samples",
        ),
        (lambda s: None, "error: AttributeError"),
        (lambda s: own_column([1.0, math.inf, 2.0, None]), "error: ValueError: column made holds infinity"),
        (lambda s: own_column(["a", "b", None, "c"]), "error: ValueError: column made holds string"),
        (lambda s: own_column([[1], [], None, [2]]), "error: ValueError: column made holds list"),
        (
            lambda s: own_column(pa.array(["1", "2", "1", "2"]).dictionary_encode()),
            "error: ValueError: column made holds string where numbers belong",
        ),
    ],
    ids=[
        *("raises", "NaN", "interval", "details NaN", "details array", "short column", "few reasons", "None"),
        *("infinity", "texts", "lists", "dictionary"),
    ],
)
def test_a_resolution_that_fails_is_a_reason(
    make_data: Make, profile_file: Any, register: Any, resolve: Any, reason: str
) -> None:
    register("made", dataset_metric(ids_of, resolve, columns=("made",)))
    run = score(make_data(4), profile_file("[metrics.made]\n[metrics.image_readability]"))
    assert run.metrics()["made"]["value"] is None
    assert run.metrics()["made"]["reason"].startswith(reason)
    assert run.metrics()["image_readability"]["n_scored"] == 4


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([True, False, None, True], [1.0, 0.0, 1.0]),
        ([np.float32("nan"), 1.0, None, 2.0], [1.0, 2.0]),
        (np.array([1, np.nan, 2, np.nan], np.float16), [1.0, 2.0]),
        (pa.array([1.0, math.nan, None, 2.0]), [1.0, 2.0]),
        ([None] * 4, []),
        (pa.nulls(4), []),
        ([2**60 + 1, 0, None, None], [2.0**60, 0.0]),
    ],
    ids=["bools", "NaN of NumPy", "half", "Arrow", "none", "nulls", "large"],
)
def test_a_column_of_numbers_is_null_where_it_has_none(values: Any, kept: list[float]) -> None:
    score = own_column(values)
    column = dataset._label_columns(spec("made", "dataset", columns=("made",)), score, 4)["made"]
    assert column.null_count == 4 - len(kept)
    assert not pa.types.is_null(column.type)
    assert dataset._present(column).tolist() == kept
    assert dataset.dataset_summary("made", score)["n_scored"] == 1


@pytest.mark.parametrize(
    ("score_of", "told"),
    [
        (
            lambda: DatasetScore(1.0, missing=["no picture", None, "no text", None]),
            "not applicable to this sample",
        ),
        (lambda: DatasetScore(reason="too few", missing=["no picture", None, "no text", None]), "too few"),
    ],
    ids=["with a value", "without"],
)
def test_each_sample_has_its_own_reason_in_a_column(
    make_data: Make, profile_file: Any, register: Any, score_of: Callable[[], DatasetScore], told: str
) -> None:
    register("made", dataset_metric(ids_of, lambda store: score_of(), columns=("made",)))
    run = score(make_data(4), profile_file("[metrics.made]"))
    assert run.scores["made_reason"].tolist() == ["no picture", told, "no text", told]


def test_columns_of_a_data_set_metric_meet_their_rows(messy: Path, profile_file: Any, register: Any) -> None:
    def resolve(store: FeatureStore) -> DatasetScore:
        ids = store.column("id")
        note = Issue("odd", "note", "as told", store.column("file")[1], store.column("line")[1], 2, ids[1])
        columns = {"made": [float(i[1:]) if i != "r0" else None for i in ids], "made_id": ids}
        return DatasetScore(1.0, n_scored=len(ids) - 1, n_total=len(ids), columns=columns, issues=[note])

    register("made", dataset_metric(ids_of, resolve, columns=("made", "made_id"), texts=("made_id",)))
    run = score(messy, profile_file("[metrics.made]"), batch_size=4)
    readable = run.scores[run.scores["state"] != "unreadable"]
    assert readable["made_id"].tolist() == readable["id"].tolist()
    assert readable["made"].tolist()[1:] == [float(i[1:]) for i in readable["id"][1:]]
    assert readable["made"].isna().tolist() == [True] + [False] * (len(readable) - 1)
    assert run.scores.loc[run.scores["state"] == "unreadable", ["made", "made_id"]].isna().all(axis=None)
    assert readable["made_reason"].tolist()[0] == "not applicable to this sample"
    assert readable["made_reason"].isna().tolist() == [False] + [True] * (len(readable) - 1)
    assert (run.scores.loc[run.scores["state"] == "unreadable", "made_reason"] == "record unreadable").all()
    assert run.issues.query("kind == 'odd'")[["row", "id"]].values.tolist() == [[2, "r2"]]


def test_a_column_of_texts_is_one_without_any_text(make_data: Make, profile_file: Any, register: Any) -> None:
    spec = {"columns": ("size", "kind"), "texts": ("kind",)}
    register("made", dataset_metric(ids_of, lambda store: DatasetScore(reason="nothing to say"), **spec))
    run = score(make_data(4), profile_file("[metrics.made]\n[metrics.image_readability]"))
    assert run.filter(where='kind != "x" and kind not in ["y"]').all()
    assert run.filter(drop_below=["image_readability=p50,by=kind"]).all()
    with pytest.raises(UnknownName, match="no metric with scores in this run is called 'kind'"):
        run.filter(drop_below={"kind": 1})


def test_vectors_are_joined_over_shards_and_batches_without_pictures(
    make_data: Make, record: Any, profile_file: Any, register: Any
) -> None:
    seen: dict[str, Any] = {}

    def features(batch: Batch) -> dict[str, Features]:
        has = [i for i, s in enumerate(batch.samples) if s.images]
        rows = np.array([[float(batch.samples[i].id[1:]), 1.0] for i in has], np.float32)
        return {"v": Features(rows if has else np.empty((0, 0), np.float32), np.array(has, np.int64))}

    def resolve(store: FeatureStore) -> DatasetScore:
        values, index = store.vectors("v")
        seen.update(values=np.array(values), index=index, none=store.vectors("absent"))
        return DatasetScore(1.0)

    path = make_data(2)
    pictured = {4, 5, 33, 69}
    lines = [record(i, "0.png" if i in pictured else None) for i in range(70)]
    path = make_data(lines=lines)
    register("made", dataset_metric(features, resolve))
    score(path, profile_file("[metrics.made]"), batch_size=5)
    assert seen["index"].tolist() == sorted(pictured)
    assert seen["values"].tolist() == [[i, 1.0] for i in sorted(pictured)]
    assert seen["none"][0].shape == (0, 0)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("option", ["limit", "batch_size", "workers"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_below_one_are_refused(make_data: Make, tiny: str, option: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{option}={value}: expected 1 or more"):
        score(make_data(1), tiny, **{option: value})


def test_limit_takes_the_first_records(make_data: Make, tiny: str) -> None:
    run = score(make_data(9), tiny, limit=4)
    assert run.scores["id"].tolist() == ["r0", "r1", "r2", "r3"]
    assert run.info["plan"]["limit"] == 4


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\x89PNG\r\n\x1a\n\0\0", b"hello there\n"])
def test_an_input_that_cannot_be_used_leaves_nothing_behind(
    tmp_path: Path, tiny: str, content: bytes
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError):
        score(path, tiny)
    assert [p.name for p in tmp_path.iterdir()] == ["data.jsonl"]


def test_an_empty_list_has_no_records(tmp_path: Path, tiny: str) -> None:
    path = tmp_path / "data.json"
    path.write_text("[]")
    with pytest.raises(InputError, match="holds no records"):
        score(path, tiny)


def test_unknown_names_are_refused_with_near_ones(make_data: Make, tiny: str) -> None:
    with pytest.raises(UnknownName, match="did you mean image_readability"):
        score(make_data(1), tiny, metrics=["image_readibility"])
    with pytest.raises(UnknownName, match="profile is called 'lit'; did you mean lite"):
        score(make_data(1), "lit")
    with pytest.raises(UnknownName, match="did you mean jsonl"):
        score(make_data(1), tiny, format="jsnl")


def test_a_folder_of_other_files_is_never_taken_for_a_run(make_data: Make, tiny: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"):
        score(make_data(1), tiny, out=mine)
    with pytest.raises(UsageError, match="is a file"):
        score(make_data(1), tiny, out=mine / "thesis.txt")
    with pytest.raises(RunError, match="cannot write the run directory"):
        score(make_data(1), tiny, out=mine / "thesis.txt" / "run")
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]


def test_an_image_root_that_is_no_folder(make_data: Make, tiny: str) -> None:
    with pytest.raises(UsageError, match=r"image root .* is not a folder"):
        score(make_data(1), tiny, image_root="/no/such/folder")


def test_an_option_that_the_metric_does_not_have(make_data: Make, profile_file: Any) -> None:
    with pytest.raises(
        UsageError, match=r"metrics\.image_readability: .*unexpected keyword argument 'sharpnes'"
    ):
        score(make_data(1), profile_file("[metrics.image_readability]\noptions = { sharpnes = 2 }"))


def test_a_floor_for_a_metric_without_a_score_per_sample(make_data: Make, profile_file: Any) -> None:
    with pytest.raises(UsageError, match=r"metrics\.composition\.floor: the metric scores the data set"):
        score(make_data(1), profile_file("[metrics.composition]\nfloor = 1.0"))


# ---------------------------------------------------------------- small parts


@pytest.mark.parametrize(
    "values",
    [
        [1.0, np.nextafter(1.0, 2)],
        [0.3, 0.3 + 4e-16],
        [1e17, 1e17],
        [0.0, 5e-324],
        [-2.5],
        list(range(100)),
    ],
)
def test_the_histogram_holds_every_value(values: list[float]) -> None:
    found = spread(np.array(values, np.float64))
    assert len(found["histogram"]["counts"]) == BINS
    assert sum(found["histogram"]["counts"]) == len(values)
    edges = found["histogram"]["edges"]
    assert edges == sorted(set(edges))
    assert edges[0] <= min(values)
    assert edges[-1] >= max(values)


def test_the_spread_of_nothing() -> None:
    assert spread(np.empty(0)) == {"quantiles": None, "histogram": None}


def test_reasons_are_counted_by_kind() -> None:
    reasons = [
        "image unreadable: a",
        "text-only",
        "image unreadable: b",
        "error: ValueError: x",
        "note: kept",
    ]
    assert count_reasons(Counter(reasons)) == {
        "image unreadable": 2,
        "error": 1,
        "note: kept": 1,
        "text-only": 1,
    }


def test_cut_points_do_not_depend_on_the_length() -> None:
    def records(n: int) -> list[Any]:
        return [Sample(str(i), (), (), {}, Origin("f", i, i, i, i, "")) for i in range(n)]

    long, short = list(cut(records(1000))), list(cut(records(333)))
    assert sum(len(s.records) for s in long) == 1000
    assert [s.index for s in long] == list(range(len(long)))
    assert all(a.records == b.records for a, b in zip(long, short[:-1], strict=False))
    assert [shard_size(i) for i in (0, 3, 4, 24, 1000)] == [32, 32, 64, 2048, 2048]


def test_shards_are_also_cut_by_the_bytes_of_their_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)

    def sample(i: int, size: int) -> Sample:
        media = (Media("image", "a", b"x" * size), Media("image", "elsewhere.png"))
        return Sample(str(i), (), media, {}, Origin("f", i, i, i, i, ""))

    sizes = [40, 60, 1, 0, 0, 101, 100, 100, *[3] * 40]
    long = [len(s.records) for s in cut(sample(i, size) for i, size in enumerate(sizes))]
    assert long == [3, 3, 2, 32, 8]
    for n in range(len(sizes)):
        short = [len(s.records) for s in cut(sample(i, size) for i, size in enumerate(sizes[:n]))]
        assert short[:-1] == long[: max(0, len(short) - 1)]
        assert sum(short) == n


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fingerprint": "x", "other": 1}'])
def test_a_damaged_marker_is_no_marker(tmp_path: Path, text: str) -> None:
    (tmp_path / "done.json").write_text(text)
    assert read_done(tmp_path) is None
    assert read_done(tmp_path / "absent") is None


# ---------------------------------------------------------------- what is not ours


def test_a_folder_with_other_files_is_left_alone(make_data: Make, tiny: str, tmp_path: Path) -> None:
    path = make_data(2)
    foreign = tmp_path / "work"
    (foreign / "scores").mkdir(parents=True)
    (foreign / "scores" / "mine.txt").write_text("mine")
    (foreign / "run.json").write_text("{}")
    for out in (foreign, None):
        if out is None:
            foreign.rename(path.with_name(f"{path.stem}.vlitqc"))
        with pytest.raises(UsageError, match="holds other files"):
            score(path, tiny, out=out)
    kept = path.with_name(f"{path.stem}.vlitqc") / "scores" / "mine.txt"
    assert kept.read_text() == "mine"


def test_two_inputs_do_not_share_a_run(make_data: Make, tiny: str) -> None:
    path = make_data(2)
    score(path, tiny)
    other = path.with_suffix(".json")
    other.write_bytes(b"[" + b",".join(path.read_bytes().splitlines()) + b"]")
    with pytest.raises(UsageError, match="holds the run of"):
        score(other, tiny)
    with pytest.raises(RunError, match="holds the run of"):
        vlitqc.Run.open(other)
    assert len(vlitqc.Run.open(path).scores) == 2


def test_a_value_does_not_depend_on_which_other_metrics_run(
    make_data: Make, profile_file: Any, register: Any
) -> None:
    seen: list[tuple[int, int]] = []

    def look(batch: Batch) -> list[Score]:
        seen.append(batch.images[0][0].pixels.shape[:2])
        return [Score(1.0)] * len(batch)

    register("near", sample_metric(look, name="near", image_side=8))
    register("far", sample_metric(lambda batch: [Score(1.0)] * len(batch), name="far", image_side=24))
    profile = profile_file("[metrics.near]\n[metrics.far]")
    score(make_data(1), profile, metrics=["near"], out=make_data(1).with_name("one"))
    score(make_data(1), profile, out=make_data(1).with_name("both"))
    assert seen[0] == seen[1]


def test_a_folder_without_data_is_no_input(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    for name in (".", "..", str(inner)):
        with pytest.raises(InputError, match="holds no data file"):
            score(Path(name), tiny)
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "b"]


# ---------------------------------------------------------------- inputs of every kind


@pytest.fixture
def folder(make_data: Make, record: Any) -> Path:
    """A folder of three files of ten records each, with their pictures."""
    home = make_data(10).parent
    (home / "data.jsonl").unlink()
    for part in range(3):
        rows = range(10 * part, 10 * part + 10)
        make_data(lines=[record(i, f"{i % 10}.png") for i in rows], name=f"part-{part}.jsonl")
    return home


def test_a_folder_a_pattern_and_a_list_are_one_input(
    folder: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    inputs: list[Any] = [folder, f"{folder}/*.jsonl", sorted(folder.glob("*.jsonl"))]
    runs = []
    for i, data in enumerate(inputs):
        run = score(data, tiny)
        assert run.path == folder.with_name("set.vlitqc")
        assert run.info["plan"]["image_root"] == str(folder)
        assert len(vlitqc.Run.open(data).scores) == 30
        runs.append(run.scores)
        assert run.record(25).id == "r25"
        run.path.rename(tmp_path / f"{i}.vlitqc")
    assert runs[0]["row"].tolist() == list(range(30))
    assert runs[0]["id"].tolist() == [f"r{i}" for i in range(30)]
    assert runs[0]["file"].nunique() == 3
    for other in runs[1:]:
        pd.testing.assert_frame_equal(runs[0], other)


def test_an_input_is_opened_again_as_it_was(make_data: Make, record: Any, tiny: str, tmp_path: Path) -> None:
    """With the renamed fields, and every file's bytes and sha256."""
    lines = [{"id": f"r{i}", "ask": f"What is {i}?", "say": f"It is {i}."} for i in range(4)]
    first, second = (make_data(lines=lines, name=f"{name}.jsonl") for name in "ab")
    run = score([first, second], tiny, map={"instruction": "ask", "response": "say"})
    assert run.scorecard["counts"] == {"records": 8, "scored": 8, "partial": 0, "unreadable": 0}
    told = run.info["input"]
    assert told["paths"] == [str(first), str(second)]
    assert told["names"]["fields"] == {"instruction": "ask", "response": "say"}
    sizes = [first.stat().st_size, second.stat().st_size]
    assert [entry["bytes"] for entry in told["files"]] == sizes
    assert (told["bytes"], told["n_files"]) == (sum(sizes), 2)
    assert all(len(entry["sha256"]) == 64 for entry in told["files"])
    assert vlitqc.Run.open(run.path).record(5).turns[0].instruction == "What is 1?"
    second.write_bytes(second.read_bytes().replace(b"It is 3", b"It is 4"))
    changed = vlitqc.Run.open(run.path)
    with pytest.raises(InputError, match=rf"{second} has changed since it was scored; run again"):
        _ = changed.reader
    with pytest.raises(InputError, match=rf"{second} has changed since it was scored; run again"):
        changed.record(5)
    assert changed.record(0).turns[0].response == "It is 0."
    second.unlink()
    less = vlitqc.Run.open(run.path)
    with pytest.raises(InputError, match=rf"{second} is no longer there"):
        _ = less.reader
    with pytest.raises(InputError, match=rf"{second} is no longer there"):
        less.record(5)
    assert less.record(0) == changed.record(0)


def test_a_file_more_in_a_folder_is_a_change_and_is_scored(folder: Path, tiny: str, record: Any) -> None:
    run = score(folder, tiny)
    more = folder / "part-3.jsonl"
    more.write_text(json.dumps(record(30, "0.png")) + "\n")
    with pytest.raises(InputError, match="has changed since it was scored: 4 files now, 3 then"):
        _ = vlitqc.Run.open(folder).reader
    assert vlitqc.Run.open(folder).record(0).id == "r0"
    assert len(score(folder, tiny).scores) == 31
    assert vlitqc.Run.open(run.path).record(30).id == "r30"


def test_where_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/data", "x/y", "z"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("x/data/a.jsonl", "x/data/b.jsonl.gz", "x/y/c.json", "z/c[1].json"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "z")
    x = tmp_path / "x"
    wanted: list[tuple[list[Any], Path]] = [
        ([x / "data"], x / "data.vlitqc"),
        ([x / "data" / "b.jsonl.gz"], x / "data" / "b.vlitqc"),
        ([x / "data" / "a.jsonl", x / "data" / "b.jsonl.gz"], x / "data.vlitqc"),
        ([x / "data" / "*.jsonl"], x / "data.vlitqc"),
        ([x / "*" / "*.json*"], tmp_path / "x.vlitqc"),
        ([x / "data", x / "y"], tmp_path / "x.vlitqc"),
        ([Path("../x/data/*"), x / "y" / "c.json"], tmp_path / "x.vlitqc"),
        # Nobody looks beside the folder in which they work, nor beside one above.
        ([Path("*.json")], tmp_path / "z" / "z.vlitqc"),
        ([Path("c[1].json"), x / "data"], tmp_path / f"{tmp_path.name}.vlitqc"),
        ([Path("c[1].json")], Path("c[1].vlitqc")),
        ([Path()], tmp_path / "z.vlitqc"),
        ([Path("..")], tmp_path.with_name(f"{tmp_path.name}.vlitqc")),
    ]
    for paths, run in wanted:
        assert run_of(paths) == run, paths


def test_a_run_of_some_files_is_not_that_of_others(folder: Path, tiny: str, tmp_path: Path) -> None:
    a, b, c = sorted(folder.glob("*.jsonl"))
    run = score([a, b], tiny)
    assert len(score([a, b, c], tiny).scores) == 30
    for fewer in ([b, c], [a, c]):
        with pytest.raises(UsageError, match=r"holds the run of .* and 2 more; pass --out DIR"):
            score(fewer, tiny)
    with pytest.raises(RunError, match=r"holds the run of .* and 2 more"):
        vlitqc.Run.open([a, b])
    assert len(vlitqc.Run.open([a, b, c]).scores) == 30
    with pytest.raises(UsageError, match="lies in the input"):
        score(folder, tiny, out=folder / "run")
    assert run.path.is_dir()


def test_paths_and_records_are_not_mixed(make_data: Make, tiny: str, record: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="paths and records are mixed"):
        score([make_data(1), record(0)], tiny, out=tmp_path / "run")
    with pytest.raises(UsageError, match="no records to score"):
        score([], tiny, out=tmp_path / "run")
    with pytest.raises(UsageError, match="expected OURS=THEIRS"):
        score(make_data(1), tiny, map={"image": ""})
    with pytest.raises(UnknownName, match="did you mean response"):
        score(make_data(1), tiny, map={"respons": "target"})


def test_an_input_is_the_same_by_any_path(
    make_data: Make, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_data(2)
    score(path, tiny)
    link = path.with_name("link") / path.name
    link.parent.symlink_to(path.parent)
    (path.parent / "below").mkdir()
    monkeypatch.chdir(path.parent / "below")
    for same in (Path("..") / path.name, link):
        assert len(score(same, tiny).scores) == 2
        assert len(vlitqc.Run.open(same).scores) == 2


def test_a_moved_folder_can_be_scored_again(make_data: Make, tiny: str) -> None:
    path = make_data(2)
    score(path, tiny)
    moved = path.parent.rename(path.parent.with_name("moved")) / path.name
    assert len(score(moved, tiny).scores) == 2


def test_records_in_memory_do_not_replace_the_run_of_a_file(make_data: Make, record: Any, tiny: str) -> None:
    path = make_data(2)
    run = score(path, tiny)
    with pytest.raises(UsageError, match="holds the run of"):
        vlitqc.score([record(0)], tiny, out=run.path)


def test_nothing_to_score_leaves_no_folder(tmp_path: Path, tiny: str) -> None:
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(InputError, match="holds no records"):
        score(tmp_path / "none.json", tiny)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("none")] == ["none.json"]


def test_a_missing_model_makes_every_record_partial(make_data: Make, profile_file: Any) -> None:
    profile = profile_file(
        """
[metrics.task_diversity]
models = { tagger = "gone" }
[models.gone]
backend = "zero_shot_tagger"
kind = "Tagger"
name = "gone"
licence = "none"
files = [{ role = "taxonomy", path = "/no/such/file", sha256 = "0" }]
"""
    )
    run = score(make_data(3), profile)
    assert run.scores["state"].tolist() == ["partial"] * 3
    assert run.scores["task_reason"].str.startswith("model unavailable").all()


# ---------------------------------------------------------------- names that are not UTF-8

ODD = os.fsdecode(b"bad\xff")
LINE = '{"id": "1", "instruction": "What is it?", "output": "It is a thing."}\n'


def odd_file(tmp_path: Path) -> dict[str, Any]:
    data = tmp_path / f"{ODD}.jsonl"
    data.write_text(LINE)
    return {"data": data}


def odd_parent(tmp_path: Path) -> dict[str, Any]:
    data = tmp_path / ODD / "a.jsonl"
    data.parent.mkdir()
    data.write_text(LINE)
    return {"data": data}


def odd_out(tmp_path: Path) -> dict[str, Any]:
    data = tmp_path / "a.jsonl"
    data.write_text(LINE)
    return {"data": data, "out": tmp_path / ODD}


@pytest.mark.parametrize("make", [odd_file, odd_parent, odd_out])
def test_a_path_that_is_not_utf8_is_refused_and_leaves_nothing(
    tmp_path: Path, tiny: str, make: Callable[[Path], dict[str, Any]]
) -> None:
    given = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"bad\\udcff.*: this name is not UTF-8; rename it"):
        score(given.pop("data"), tiny, **given)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_of_a_folder_whose_name_is_not_utf8_is_one_record(tmp_path: Path, tiny: str) -> None:
    home = tmp_path / "set"
    home.mkdir()
    (home / "a.jsonl").write_text(LINE)
    for name in (f"{ODD}.jsonl", f"{ODD}.parquet", f"{ODD}.decisions.parquet"):
        (home / name).write_text(LINE)
    run = score(home, tiny)
    assert run.scores["state"].tolist().count("unreadable") == 3
    assert set(run.issues["kind"]) == {"unreadable_file"}
    assert run.issues["file"].str.contains(r"bad\udcff", regex=False).all()
    row = int(run.issues["row"][0])
    assert run.record(row).id.startswith(r"bad\udcff")
    written = vlitqc.filter(run, drop_issues="error").written
    copied = {path.name: path.read_text() for path in written["unreadable"].iterdir()}
    assert copied == {f"{ODD}{end}": LINE for end in (".jsonl", ".parquet", ".decisions.parquet")}
    run.report()


def test_a_picture_of_a_class_whose_name_is_not_utf8_is_one_record(
    tmp_path: Path, tiny: str, picture: Callable[[int], bytes]
) -> None:
    home = tmp_path / "set"
    for n, name in enumerate(("cat/a.png", f"dog/{ODD}.png", "dog/c.png", f"{ODD}/d.png")):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(picture(n))
    run = score(home, tiny)
    assert run.scorecard["counts"] == {"records": 4, "scored": 2, "partial": 0, "unreadable": 2}
    written = vlitqc.filter(run, drop_issues="error").written
    lines = (written["unreadable"] / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["file_name"] for line in lines) == [
        r"bad\udcff/d.png",
        r"dog/bad\udcff.png",
    ]


def test_an_image_root_and_a_link_may_lead_to_names_that_are_not_utf8(
    make_data: Make, tiny: str, tmp_path: Path
) -> None:
    path = make_data(2)
    pictures = path.parent / ODD
    pictures.mkdir()
    for file in path.parent.glob("*.png"):
        file.rename(pictures / file.name)
    target = path.rename(path.with_name(f"{ODD}.jsonl"))
    path.symlink_to(target)
    run = score(path, tiny, image_root=pictures)
    assert run.scorecard["counts"]["scored"] == 2
    assert vlitqc.Run.open(path).info["plan"]["image_root"] == str(pictures)
    assert run.record(1).id == "r1"


# ---------------------------------------------------------------- beside the records


def test_a_repeated_id_is_found_and_the_later_ones_can_be_dropped(
    make_data: Make, record: Any, tiny: str
) -> None:
    make_data(5)
    path = make_data(lines=[record(i, f"{n}.png") for n, i in enumerate((0, 1, 0, 2, 0))])
    run = score(path, tiny)
    found = run.issues[run.issues["kind"] == "duplicate_id"]
    assert found[["row", "line", "id", "severity"]].values.tolist() == [
        [2, 3, "r0", "note"],
        [4, 5, "r0", "note"],
    ]
    assert found["detail"].unique().tolist() == ["data.jsonl:1 has the same id"]
    result = vlitqc.filter(run, drop_issues="duplicate_id")
    assert result.decisions["kept"].tolist() == [True, True, False, True, False]


def test_a_long_text_is_noted(tmp_path: Path, tiny: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(LINE.replace("thing", "x" * (n - 9)) for n in (50_000, 50_001)))
    run = score(path, tiny)
    found = run.issues[run.issues["kind"] == "long_text"]
    assert found["row"].tolist() == [1]
    assert found["detail"].tolist() == ["the response of turn 1 of 1 has 50,001 characters"]


def test_what_is_left_aside_is_in_the_scorecard(folder: Path, tiny: str) -> None:
    (folder / "README.md").write_text("# Data")
    run = score(folder, tiny)
    told = run.scorecard["input"]
    assert told["others"] == {".png": 10, ".md": 1}
    assert (run.info["input"]["notes"], run.info["input"]["others"]) == (told["notes"], told["others"])


def test_a_part_that_is_not_read_is_a_note(folder: Path, tiny: str, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    run = score([folder, bare], tiny, out=tmp_path / "run")
    (note,) = run.scorecard["input"]["notes"]
    assert note.startswith(f"{bare} holds no data file; found nothing at all")
    assert run.scorecard["input"]["paths"] == [str(folder), str(bare)]
