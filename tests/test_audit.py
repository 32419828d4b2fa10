"""The audit: one row a record, an entry for every comparison of each failed rule, in batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlitqc.filtering import audit
from vlitqc.filtering.audit import Verdicts
from vlitqc.filtering.decisions import Decided
from vlitqc.filtering.rules import Comparison, Settled
from vlitqc.filtering.selection import Selected
from vlitqc.filtering.table import ScoreTable
from vlitqc.formats.folder import AUDITED, FATES


class Said(Selected):
    """A selection that names the rows it is asked about."""

    def why(self, rows: Any) -> list[str | None]:
        return [f"row {row} was too many" for row in rows.tolist()]


def table_of(m: list[float | None], task: list[str | None]) -> ScoreTable:
    n = len(m)
    frame = pl.DataFrame(
        {
            "row": range(n),
            "id": [f"r{i}" for i in range(n)],
            "file": ["f"] * n,
            "line": range(1, n + 1),
            "m": pl.Series(m, dtype=pl.Float64),
            "task": pl.Series(task, dtype=pl.String),
            "odd": [i % 2 == 1 for i in range(n)],
        }
    )
    return ScoreTable(frame.lazy(), pl.DataFrame({"row": [], "kind": [], "severity": []}))


M, TASK = pl.col("m"), pl.col("task")
LEVELS = pl.when(TASK == "a").then(1.5).otherwise(pl.lit(None, pl.Float64))
RULES = (
    Settled("m < 2", M < 2, (Comparison("m", M, pl.lit(2), "below"),)),
    Settled(
        "task is a, odd, m below by task",
        TASK == "a",
        (
            Comparison("task", TASK),
            Comparison("odd", pl.col("odd")),
            Comparison("m", M, LEVELS, "below"),
            Comparison("row", pl.col("row"), pl.lit(1.0)),
        ),
    ),
    Settled("nothing compared", pl.lit(value=True), ()),
)


def verdicts_of(failed: list[int], unreadable: list[bool], kept: list[bool]) -> Verdicts:
    decided = Decided(RULES, np.array(failed, np.uint64), (0, 0, 0), np.array(unreadable, np.bool_))
    names = ["unreadable" if u else "kept" if k else "dropped" for u, k in zip(unreadable, kept, strict=True)]
    fates = np.array([FATES.index(name) for name in names], np.int8)
    must = np.array(kept, np.bool_) & (decided.failed != 0)
    return Verdicts(decided, fates, must, Said(np.array(kept), [], []))


def entry(rule: str, column: str | None = None, **more: Any) -> dict[str, Any]:
    return {"rule": rule, "column": column, "value": None, "threshold": None, "text": None} | more


def told(m: list[float | None], task: list[str | None], verdicts: Verdicts) -> list[dict[str, Any]]:
    batches = list(audit.decisions(table_of(m, task), verdicts))
    assert all(batch.schema.equals(audit.SCHEMA) for batch in batches)
    found = pa.Table.from_batches(batches, audit.SCHEMA)
    found.validate(full=True)
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


def test_every_sort_of_entry() -> None:
    m = [1.0, None, 3.0, 0.5, 9.0, 9.0, 1.0]
    task = ["a", "a", None, "b", "a", "a", "a"]
    failed = [0b001, 0b010, 0b100, 0b111, 0, 0, 0b001]
    unreadable = [False, False, False, False, True, False, False]
    kept = [False, False, False, False, False, False, True]
    rows = told(m, task, verdicts_of(failed, unreadable, kept))
    below, mixed, bare = (rule.words for rule in RULES)
    assert [row["rules_failed"] for row in rows] == [
        [entry(below, "m", value=1.0, threshold=2.0)],
        [
            entry(mixed, "task", text="a"),
            entry(mixed, "odd", text="true"),
            entry(mixed, "m", threshold=1.5),
            entry(mixed, "row", value=1.0, threshold=1.0),
        ],
        [entry(bare)],
        [
            entry(below, "m", value=0.5, threshold=2.0),
            entry(mixed, "task", text="b"),
            entry(mixed, "odd", text="true"),
            entry(mixed, "m", value=0.5),
            entry(mixed, "row", value=3.0, threshold=1.0),
            entry(bare),
        ],
        [entry("unreadable", text="unreadable")],
        [entry("not selected", text="row 5 was too many")],
        [entry(below, "m", value=1.0, threshold=2.0)],
    ]
    assert [row["fate"] for row in rows] == ["dropped"] * 4 + ["unreadable", "dropped", "kept"]
    assert [row["kept"] for row in rows] == kept
    assert [row["must_keep"] for row in rows] == [False] * 6 + [True]
    assert [(row["row"], row["id"], row["file"], row["line"]) for row in rows] == [
        (i, f"r{i}", "f", i + 1) for i in range(7)
    ]


def test_no_rule_and_no_record() -> None:
    empty = Decided((), np.zeros(2, np.uint64), (), np.zeros(2, np.bool_))
    verdicts = Verdicts(empty, np.zeros(2, np.int8), np.zeros(2, np.bool_), None)
    assert [row["rules_failed"] for row in told([1.0, 2.0], ["a", "b"], verdicts)] == [[], []]
    nobody = Decided(RULES, np.zeros(0, np.uint64), (0, 0, 0), np.zeros(0, np.bool_))
    assert told([], [], Verdicts(nobody, np.zeros(0, np.int8), np.zeros(0, np.bool_), None)) == []


def test_the_last_of_64_rules() -> None:
    rules = tuple(Settled(f"rule {k}", M < 0, (Comparison("m", M, pl.lit(float(k))),)) for k in range(64))
    failed = np.array([1 << 63, (1 << 64) - 1, 1], np.uint64)
    decided = Decided(rules, failed, (0,) * 64, np.zeros(3, np.bool_))
    rows = told([1.0] * 3, ["a"] * 3, Verdicts(decided, np.ones(3, np.int8), np.zeros(3, np.bool_), None))
    assert [[one["rule"] for one in row["rules_failed"]] for row in rows] == [
        ["rule 63"],
        [f"rule {k}" for k in range(64)],
        ["rule 0"],
    ]
    assert [one["threshold"] for one in rows[1]["rules_failed"]] == [float(k) for k in range(64)]


records = st.tuples(
    st.none() | st.floats(-5, 5),
    st.none() | st.sampled_from(["a", "b", "é\u202e\n", ""]),
    st.integers(0, 7),
    st.sampled_from(["plain", "unreadable", "left", "must"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(records, max_size=12))
def test_batches_say_what_a_loop_over_records_says(data: list[tuple[Any, Any, int, str]]) -> None:
    m, task = [one[0] for one in data], [one[1] for one in data]
    sorts = [one[3] for one in data]
    failed = [0 if sort in ("unreadable", "left") else bits for _, _, bits, sort in data]
    unreadable = [sort == "unreadable" for sort in sorts]
    kept = [
        sort == "must" or (sort == "plain" and not bits) for bits, sort in zip(failed, sorts, strict=True)
    ]
    wanted = []
    for i, (bits, sort) in enumerate(zip(failed, sorts, strict=True)):
        level = 1.5 if task[i] == "a" else None
        mixed = RULES[1].words
        entries = {
            0: [entry(RULES[0].words, "m", value=m[i], threshold=2.0)],
            1: [
                entry(mixed, "task", text=task[i]),
                entry(mixed, "odd", text="true" if i % 2 else "false"),
                entry(mixed, "m", value=m[i], threshold=level),
                entry(mixed, "row", value=float(i), threshold=1.0),
            ],
            2: [entry(RULES[2].words)],
        }
        told_here = [one for k in range(3) if bits >> k & 1 for one in entries[k]]
        if sort == "unreadable":
            told_here = [entry("unreadable", text="unreadable")]
        elif sort == "left":
            told_here = [entry("not selected", text=f"row {i} was too many")]
        wanted.append(told_here)
    size = audit.BATCH
    try:
        audit.BATCH = 5
        rows = told(m, task, verdicts_of(failed, unreadable, kept))
    finally:
        audit.BATCH = size
    assert [row["rules_failed"] for row in rows] == wanted


def test_it_is_written_in_groups_and_knows_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BATCH", 4)
    path = tmp_path / "x.decisions.parquet"
    verdicts = verdicts_of([1] * 10, [False] * 10, [False] * 10)
    about = {AUDITED: json.dumps(["/é"]), audit.RUN_SHA256: "abc"}
    audit.write_decisions(path, table_of([1.0] * 10, ["a"] * 10), verdicts, about)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)] == [4, 4, 2]
    assert audit.metadata_of(path)[audit.RUN_SHA256] == b"abc"
    assert audit.inputs_of(path) == [Path("/é")]
    assert [p.name for p in tmp_path.iterdir()] == ["x.decisions.parquet"]


def test_it_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.decisions.parquet"
    table = table_of([1.0], ["a"])
    audit.write_decisions(path, table, verdicts_of([1], [False], [False]), {AUDITED: "[]"})
    before = path.read_bytes()
    broken = ScoreTable(table.scores.with_columns(M.cast(pl.String).str.to_date("%Y")), table.issues)
    with pytest.raises(pl.exceptions.PolarsError):
        audit.write_decisions(path, broken, verdicts_of([2], [False], [False]), {AUDITED: "[]"})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.decisions.parquet"]


@pytest.mark.parametrize("value", [b"{", b"3", b"[3]", b"\xff"])
def test_metadata_that_is_no_list_of_paths_is_not_ours(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({AUDITED: value}), path)
    assert audit.inputs_of(path) is None
    path.write_bytes(b"PAR1")
    assert (audit.inputs_of(path), audit.metadata_of(path)) == (None, {})
    assert audit.metadata_of(tmp_path) == {}
