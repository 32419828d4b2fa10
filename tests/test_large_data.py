"""The data-set pass over many samples: what is held at once, what is joined, and that nothing else changes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from vlitqc.engine import dataset, features
from vlitqc.engine.disk import write_vectors
from vlitqc.engine.features import ShardFeatures
from vlitqc.engine.plan import Planned
from vlitqc.engine.run import Run
from vlitqc.engine.shards import ISSUE_SCHEMA, Done, folder, issue_table, write_shard
from vlitqc.engine.subset import PartFeatures
from vlitqc.profiles import MetricEntry
from vlitqc.testing import MemoryFeatures
from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    FloatArray,
    Issue,
    MetricSpec,
    ModelRef,
    Origin,
    Principle,
    Sample,
)
from vlitqc_metrics import duplicates, object_categories
from vlitqc_metrics._algorithms import mapped
from vlitqc_metrics._algorithms.mapped import SampleMeans, release, take
from vlitqc_metrics._algorithms.numbering import (
    first_like,
    first_places,
    most_frequent,
    numbered,
    numbered_sets,
)
from vlitqc_metrics.duplicates import Duplicates, near_text_pairs
from vlitqc_metrics.object_categories import ObjectCategories

SIZES = (3, 1, 4, 2)
UNREADABLE = 5
"""The record of the input that cannot be read."""


def rows_of(start: int, n: int) -> pa.Table:
    at = range(start, start + n)
    return pa.table(
        {
            "row": pa.array(at, pa.int64()),
            "id": pa.array([None if i == 2 else f"id {i % 4}" for i in at], pa.string()),
            "file": pa.array([f"/set/{'ab'[i % 2]}.jsonl" for i in at]),
            "line": pa.array([i + 1 for i in at], pa.int64()),
            "state": pa.array(["unreadable" if i == UNREADABLE else "scored" for i in at]),
        }
    )


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Four shards of ten records, of which one cannot be read."""
    found = []
    start = sample = 0
    for i, n in enumerate(SIZES):
        readable = n - (start <= UNREADABLE < start + n)
        index = np.arange(readable, dtype=np.int64)
        texts = [f"text {(sample + k) % 3}" for k in range(readable)]
        vectors = np.arange(sample, sample + readable, dtype=np.float32)[:, None] * np.ones(4, np.float32)
        write_shard(
            path := folder(tmp_path / "shards", i),
            Done("", n, readable),
            rows_of(start, n),
            [Issue("empty_turn", "error", "none", "/set/a.jsonl", 1, start)],
            {"texts": Features(texts, index), "response-x": Features(vectors, index)},
        )
        found.append(path)
        start, sample = start + n, sample + readable
    return found


@pytest.fixture
def store(shards: list[Path], tmp_path: Path) -> ShardFeatures:
    return ShardFeatures(shards, [3, 1, 3, 2], tmp_path / "features", seed=0)


# ---------------------------------------------------------------- features


def test_strings_by_number_are_the_strings(store: ShardFeatures, shards: list[Path]) -> None:
    kept = [np.ones(n, np.bool_) for n in (3, 1, 3, 2)]
    texts, index = store.strings("texts")
    samples = [Sample(str(i), (), (), {}, Origin("f", i, i, 0, 0, "")) for i in range(9)]
    memory = MemoryFeatures(samples, {"texts": Features(texts, index)})
    for each in (store, PartFeatures(list(zip(shards, kept, strict=True)), seed=0), memory):
        coded, found = each.coded("texts")
        assert found.tolist() == index.tolist() == list(range(9))
        assert coded.to_pylist() == texts == [f"text {i % 3}" for i in range(9)]
        assert coded.dictionary.to_pylist() == ["text 0", "text 1", "text 2"]
        nothing, nowhere = each.coded("other")
        assert (len(nothing), len(nothing.dictionary), len(nowhere)) == (0, 0, 0)


def test_a_column_of_some_samples_opens_only_their_shards(
    store: ShardFeatures, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = store.column("row")
    assert rows == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    opened: list[Path] = []
    whole = features.read_column

    def read(shard: Path, name: str, rows: NDArray[Any] | None = None) -> list[Any]:
        opened.append(shard)
        return whole(shard, name, rows)

    monkeypatch.setattr(features, "read_column", read)
    wanted = np.array([8, 0, 4, 8])
    assert store.column("row", wanted) == [rows[i] for i in wanted]
    assert opened == [shards[0], shards[2], shards[3]]
    part = PartFeatures(
        [(shards[2], np.array([False, True, True])), (shards[3], np.ones(2, np.bool_))], seed=0
    )
    assert part.column("row", np.array([3, 0])) == [9, 6]


def test_vectors_are_joined_once_however_many_metrics_ask(
    store: ShardFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = []

    def write(path: Path, *rest: Any) -> None:
        joined.append(path.name)
        write_vectors(path, *rest)

    monkeypatch.setattr(features, "write_vectors", write)
    first, index = store.vectors("response-x")
    again, _ = store.vectors("response-x")
    assert joined == ["response-x.npy"]
    assert again is first
    assert first[:, 0].tolist() == list(map(float, index)) == list(map(float, range(9)))


# ---------------------------------------------------------------- rows on disk


def file_backed() -> int:
    """Bytes of this process that are resident and backed by a file."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "RssFile" in line]
    return int(line.split()[1]) * 1024


def test_what_is_taken_from_a_mapped_matrix_does_not_stay_resident(tmp_path: Path) -> None:
    size = 64 << 20
    np.save(tmp_path / "x.npy", np.zeros((size // 1024, 256), np.float32))
    rows = np.load(tmp_path / "x.npy", mmap_mode="r")
    before = file_backed()
    rows.sum()
    assert file_backed() - before > size // 2
    release(rows[5:])
    assert file_backed() - before < size // 8
    taken = take(rows, np.arange(0, len(rows), 64))
    assert taken.shape == (len(rows) // 64, 256)
    assert file_backed() - before < size // 8


def test_changes_that_are_only_in_memory_are_not_given_back(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 4), np.float32))
    rows = np.load(tmp_path / "x.npy", mmap_mode="c")
    rows[0] = 7
    release(rows)
    assert rows[0].tolist() == [7] * 4


def test_means_are_those_of_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "ROWS", 3)
    rng = np.random.default_rng(0)
    sample_of = np.sort(rng.integers(0, 20, 50))
    rows = rng.standard_normal((50, 6)).astype(np.float32)
    means = SampleMeans(rows, sample_of, 21)
    wanted = rng.permutation(21)
    assert means.counts.tolist() == np.bincount(sample_of, minlength=21).tolist()
    for sample, mean in zip(wanted, means(wanted), strict=True):
        own = rows[sample_of == sample]
        assert mean == pytest.approx(own.mean(axis=0) if len(own) else np.zeros(6), abs=1e-6)
    assert means(np.empty(0, np.int64)).shape == (0, 6)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("seed", range(8))
def test_numbering_is_that_of_dictionaries(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 40))
    x, y = rng.integers(-1, 5, n), rng.integers(-1, 4, n)
    pairs = list(zip(x.tolist(), y.tolist(), strict=True))
    numbers = numbered(x, y).tolist()
    assert len(set(zip(pairs, numbers, strict=True))) == len(set(pairs)) == len(set(numbers))
    dense = np.unique(x[x >= 0], return_inverse=True)[1]
    assert [dense.tolist().index(k) for k in range(dense.max(initial=-1) + 1)] == first_places(dense).tolist()
    codes = np.full(n, -1)
    codes[x >= 0] = dense
    told = [i if k < 0 else codes.tolist().index(k) for i, k in enumerate(codes.tolist())]
    assert first_like(codes).tolist() == told
    owner = rng.integers(0, 12, n)
    sets = [frozenset(y[(owner == i) & (y >= 0)].tolist()) for i in range(13)]
    of_sets = numbered_sets(13, y[y >= 0], owner[y >= 0]).tolist()
    assert len(set(zip(sets, of_sets, strict=True))) == len(set(sets)) == len(set(of_sets))
    assert all((number == 0) == (not found) for found, number in zip(sets, of_sets, strict=True))
    counts = [Counter(y[(owner == i) & (y >= 0)].tolist()) for i in range(13)]
    best = [count.most_common(1)[0][0] if count else -1 for count in counts]
    assert most_frequent(y[y >= 0], owner[y >= 0], 13).tolist() == best


# ---------------------------------------------------------------- duplicates


def alike(n: int, size: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Rows in buckets of ``size``; within each a chain of three near rows, the others apart."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((n, 32)).astype(np.float32)
    bucket = np.arange(n) // size
    for start in range(0, n, size):
        near = np.array([start, start + size - 1])
        rows[near[1]] = rows[near[0]] + 0.05 * rows[near[1]]
    return rows, rng.permutation(n // size)[bucket]


@pytest.mark.parametrize("size", [2, 3, 8, 9, 20])
def test_near_pairs_do_not_depend_on_what_is_compared_at_once(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, context = alike(size * 30, size)
    asked, long = np.zeros(len(rows), np.int64), np.full(len(rows), 9)
    whole, _ = near_text_pairs(rows.__getitem__, context, asked, long, 0.9)
    assert whole.tolist() == [[start, start + size - 1] for start in range(0, len(rows), size)]
    monkeypatch.setattr(duplicates, "BLOCK", 7)
    again, _ = near_text_pairs(rows.__getitem__, context, asked, long, 0.9)
    assert again.tolist() == whole.tolist()


def test_of_very_many_samples_about_the_same_a_random_part_is_compared() -> None:
    rows = np.ones((40, 3), np.float32)
    context = np.repeat([0, 1], [30, 10])
    asked, short = np.zeros(40, np.int64), np.zeros(40, np.int64)
    held: list[int] = []

    def vectors(samples: NDArray[np.int64]) -> FloatArray:
        held.append(len(samples))
        return rows[samples]

    pairs, left_out = near_text_pairs(vectors, context, asked, short, 0.9, max_items=12, seed=4)
    assert held == [22]
    assert len({*pairs[:, 0], *pairs[:, 1]} & set(range(30))) == 12
    assert {*left_out, *pairs[:, 0], *pairs[:, 1]} == set(range(40)) and len(left_out) == 18
    assert set(range(30, 40)) <= {*pairs[:, 0].tolist(), *pairs[:, 1].tolist()}
    again, _ = near_text_pairs(vectors, context, asked, short, 0.9, max_items=12, seed=4)
    assert again.tolist() == pairs.tolist()
    pairs, left_out = near_text_pairs(vectors, context, asked, short, 0.9)
    assert (len(pairs), len(left_out)) == (29 + 9, 0)


def test_the_same_pictures_in_another_order_are_the_same_context() -> None:
    class Text:
        ref = ModelRef("T", "t", "", "0" * 64)

        def encode_texts(self, texts: Sequence[str]) -> FloatArray:
            raise AssertionError

        def sentences(self, text: str) -> list[str]:
            raise AssertionError

    every = np.arange(4, dtype=np.int64)
    shown = [["a", "b"], ["b", "a"], ["a"], ["a", "b", "c"]]
    names = {
        "conversation_sha256": "0123",
        "folded_conversation_sha256": "0123",
        "instruction_sha256": "0000",
    }
    stored = {
        **{name: Features(list(values), every) for name, values in names.items()},
        "other_media": Features([""] * 4, every),
        "shortest_response_words": Features(np.full((4, 1), 9, np.float32), every),
        f"response-{Text.ref.key}": Features(np.ones((4, 3), np.float32), every),
        "picture_sha256": Features([p for row in shown for p in row], np.repeat(every, [2, 2, 1, 3])),
    }
    samples = [Sample(str(i), (), (), {}, Origin("f", i, i, 0, 0, "")) for i in range(4)]
    score = Duplicates(Text()).resolve(MemoryFeatures(samples, stored))
    assert score.columns["duplicate_group"].to_pylist() == [0, 0, None, None]


# ---------------------------------------------------------------- objects


def test_a_picture_that_records_annotate_differently_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [("p", {"cat": 2}), ('q"', {"dog": 1}), ("p", {"cat": 1, "dog": 3}), ("r", {}), ('q"', {"dog": 1})]
    values = [json.dumps([key, counts]) for key, counts in told]
    samples = [Sample(str(i), (), (), {}, Origin("f", i, i, 0, 0, "")) for i in range(5)]
    stored = {"objects-annotated": Features(values, np.arange(5, dtype=np.int64))}
    for block in (65_536, 1):
        monkeypatch.setattr(object_categories, "BLOCK", block)
        score = ObjectCategories().resolve(MemoryFeatures(samples, stored))
        assert score.details["instances"] == {"dog": 4, "cat": 2}
        assert (score.details["n_pictures"], score.details["pictures_without_object"]) == (3, 1)
        assert (score.value, score.n_scored) == (2, 5)


# ---------------------------------------------------------------- columns


class Answer:
    """A data-set metric with the answer that it is given."""

    spec = MetricSpec(
        "answer", "A", Principle.BEYOND, "dataset", "A.", "", (0, 1), None, "none", "1", "here",
        columns=("answer", "label", "word"), texts=("word",),
    )  # fmt: skip

    def __init__(self, **told: Any) -> None:
        self.told = told

    def features(self, batch: Batch) -> dict[str, Features]:
        return {}

    def resolve(self, store: FeatureStore) -> DatasetScore:
        return DatasetScore(0.5, n_total=store.n_samples, **self.told)


def resolved(**told: Any) -> tuple[dict[str, Any], dict[str, list[Any]], list[pa.DataType]]:
    metric = Answer(**told)
    samples = [Sample(str(i), (), (), {}, Origin("f", i, i, 0, 0, "")) for i in range(4)]
    score, columns = dataset.resolve(
        Planned(metric.spec, MetricEntry("answer"), metric, None, ()), MemoryFeatures(samples, {})
    )
    assert score.value == 0.5, score.reason
    return (
        dataset.dataset_summary("answer", score),
        {name: column.to_pylist() for name, column in columns.items()},
        [column.type for name, column in columns.items() if not name.endswith("_reason")],
    )


def test_columns_and_reasons_may_be_arrays() -> None:
    lists = resolved(
        columns={"answer": [1.0, None, 3.0, None], "label": [None, 7, 7, 8], "word": ["a", None, "a", "b"]},
        missing=["x", None, "x", "y"],
    )
    arrow = resolved(
        columns={
            "answer": pa.array([1.0, None, 3.0, float("nan")]),
            "label": pa.array([None, 7, 7, 8]),
            "word": pa.array(["a", None, "a", "b"]).dictionary_encode(),
        },
        missing=pa.array(["x", None, "x", "y"]).dictionary_encode(),
    )
    assert arrow == lists
    assert lists[1]["answer_reason"] == [None, "not applicable to this sample", None, "y"]
    assert lists[2] == [pa.float64(), pa.int64(), pa.string()]
    assert lists[0]["quantiles"]["p50"] == 2
    numbers = resolved(columns={"answer": np.array([1, np.nan, 3, np.nan])}, missing=["x", None, "x", "y"])
    assert numbers[1]["answer"] == lists[1]["answer"]
    assert numbers[1]["label"] == numbers[1]["word"] == [None] * 4
    assert numbers[1]["word_reason"] == ["x", "not applicable to this sample", "x", "y"]


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(("rows", "parts"), [(65_536, [10]), (4, [4, 4, 2]), (1, [3, 1, 4, 2])])
def test_parts_join_shards_and_say_the_same(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, parts: list[int]
) -> None:
    monkeypatch.setattr(dataset, "PART_ROWS", rows)
    monkeypatch.setattr(dataset, "GROUP_ROWS", 3)
    target = tmp_path / "run" / "scores"
    target.mkdir(parents=True)
    (target / "part-00009.parquet").write_bytes(b"of an earlier run")
    reasons = pa.DictionaryArray.from_arrays(pa.array([None, *[0] * 8], pa.int32()), pa.array(["none"]))
    columns = {"label": pa.array([*range(8), None]), "label_reason": reasons}
    dataset.write_scores(shards, columns, target)
    found = sorted(target.iterdir())
    assert [path.name for path in found] == [f"part-{i:05d}.parquet" for i in range(len(parts))]
    assert [pq.ParquetFile(path).metadata.num_rows for path in found] == parts
    assert all(
        pq.ParquetFile(path).metadata.num_row_groups == -(-n // 3)
        for path, n in zip(found, parts, strict=True)
    )
    table = pq.read_table(target)
    assert table["row"].to_pylist() == list(range(10))
    assert table["label"].to_pylist() == [0, 1, 2, 3, 4, None, 5, 6, 7, None]
    assert table["label_reason"].to_pylist() == [None, *["none"] * 4, "record unreadable", *["none"] * 4]
    assert table.schema.field("label_reason").type == pa.string()
    assert Run(tmp_path / "run").take([9, 0, 5, 3])["row"].to_pylist() == [9, 0, 5, 3]


def test_a_part_ends_where_its_bytes_are_many(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "PART_BYTES", 1)
    dataset.write_scores(shards, {}, tmp_path / "scores")
    assert len(list((tmp_path / "scores").iterdir())) == len(shards)


def test_repeated_ids_name_the_first(shards: list[Path], tmp_path: Path) -> None:
    dataset.write_scores(shards, {}, tmp_path / "scores")
    found = dataset.repeated_ids(tmp_path / "scores")
    assert found.schema == ISSUE_SCHEMA
    assert {(r["row"], r["id"], r["detail"], r["file"], r["line"]) for r in found.to_pylist()} == {
        (4, "id 0", "a.jsonl:1 has the same id", "/set/a.jsonl", 5),
        (8, "id 0", "a.jsonl:1 has the same id", "/set/a.jsonl", 9),
        (7, "id 3", "b.jsonl:4 has the same id", "/set/b.jsonl", 8),
        (9, "id 1", "b.jsonl:2 has the same id", "/set/b.jsonl", 10),
    }
    assert set(found["kind"].to_pylist()) == {"duplicate_id"}
    table = dataset.write_issues(shards, [found, issue_table([])], tmp_path / "issues.parquet")
    assert table["row"].to_pylist() == sorted(table["row"].to_pylist())
    assert pq.read_table(tmp_path / "issues.parquet").equals(table)
    assert table.num_rows == 8


def test_issues_of_a_table_are_those_given() -> None:
    given = [Issue("a", "note", "half \udcff", "f", 1, 2, "x"), Issue("b", "error", "c", "f", 3, 4)]
    assert issue_table(iter(given)).to_pylist()[0]["detail"] == "half \\udcff"
    assert issue_table(given)["id"].to_pylist() == ["x", ""]
    assert issue_table([]).schema == ISSUE_SCHEMA
