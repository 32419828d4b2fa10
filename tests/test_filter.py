"""Filtering: nothing lost, nothing invented, every drop with its reasons."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlitqc
from vlitqc.engine import disk
from vlitqc.engine.run import Run
from vlitqc.errors import InputError, RunError, UnknownName, UsageError
from vlitqc.filtering.rules import HasIssue, Rule, Threshold, decide, floors

Make = Callable[..., Path]


def score(path: Any, profile: str, **options: Any) -> Run:
    return vlitqc.score(path, profile, report=False, **options)


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


# ---------------------------------------------------------------- byte for byte

LAYOUTS: dict[str, Callable[[list[bytes]], bytes]] = {
    "plain": lambda lines: b"".join(line + b"\n" for line in lines),
    "no newline at the end": b"\n".join,
    "CRLF": lambda lines: b"".join(line + b"\r\n" for line in lines),
    "blank lines and indents": lambda lines: b"\n\n" + b"\n \n\t".join(lines) + b"\n\n",
    "byte order mark": lambda lines: b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lines_are_divided_byte_for_byte(messy: Path, tiny: str, layout: str) -> None:
    lines = [line for line in messy.read_bytes().splitlines() if line]
    # Spacing, key order, escapes and numbers as no serialiser of ours would write them.
    odd = b'{"id" :"odd","n":1.0e2,  "u":"\\u00e9\xc3\xa9", "conversations":[{"from":"human","value":"Hi?"}'
    odd += b',{"from":"gpt","value":"Yes, hello there to you."}], "n":2}'
    lines.insert(3, odd)
    messy.write_bytes(LAYOUTS[layout](lines))
    run = score(messy, tiny)
    result = vlitqc.filter(run, drop_below={"image_readability": "p50"}, drop_issues=["error"])
    mark = b"\xef\xbb\xbf" if layout == "byte order mark" else b""
    assert all(result.written[name].read_bytes().startswith(mark) for name in result.counts)
    parts = {name: lines_of(result.written[name]) for name in ("kept", "dropped", "unreadable")}
    parts = {name: [line.removeprefix(mark) for line in part] for name, part in parts.items()}
    assert {name: len(part) for name, part in parts.items()} == result.counts
    assert result.counts["unreadable"] == 3
    assert min(result.counts.values()) > 0
    told = result.decisions
    fate = np.where(
        run.scores["state"] == "unreadable", "unreadable", np.where(told["kept"], "kept", "dropped")
    )
    parts = {name: iter(part) for name, part in parts.items()}
    assert [next(parts[name]) for name in fate] == lines
    assert all(next(rest, None) is None for rest in parts.values())


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_is_divided_into_lists(
    make_data: Make, record: Any, tiny: str, indent: int | None, tmp_path: Path
) -> None:
    make_data(12)
    records = [record(i, f"{i}.png", note="é – \u202e") for i in range(12)]
    path = make_data(lines=[json.dumps(r, indent=indent, ensure_ascii=i % 2 == 0).encode() for i, r in
                            enumerate(records)], as_list=True, name="data.json")  # fmt: skip
    run = score(path, tiny)
    result = vlitqc.filter(run, drop_above={"image_readability": "p75"}, out=tmp_path / "out")
    kept = json.loads(result.written["kept"].read_bytes())
    dropped = json.loads(result.written["dropped"].read_bytes())
    assert (len(kept), len(dropped)) == (9, 3)
    assert sorted([*kept, *dropped], key=lambda r: int(r["id"][1:])) == records
    assert result.written["kept"].name == "data.kept.json"
    whole = path.read_bytes()
    for name in ("kept", "dropped"):
        for place in run.scores[
            run.scores["id"].isin([r["id"] for r in (kept, dropped)[name == "dropped"]])
        ].itertuples():
            assert whole[place.start : place.end] in result.written[name].read_bytes()


def test_a_list_with_a_broken_record(make_data: Make, record: Any, tiny: str) -> None:
    path = make_data(lines=[record(0), b'{"id": "r1"}', b"3", record(2)], as_list=True, name="data.json")
    result = vlitqc.filter(score(path, tiny), drop_issues=["error"])
    assert result.counts == {"kept": 2, "dropped": 0, "unreadable": 2}
    assert json.loads(result.written["dropped"].read_bytes()) == []
    assert json.loads(result.written["unreadable"].read_bytes()) == [{"id": "r1"}, 3]


def test_the_kept_file_can_be_scored_and_filtered_again(make_data: Make, tiny: str) -> None:
    run = score(make_data(20), tiny)
    kept = vlitqc.filter(run, drop_below={"image_readability": "p25"}).written["kept"]
    again = score(kept, tiny)
    first = run.scores.set_index("id")["image_readability"]
    second = again.scores.set_index("id")["image_readability"]
    pd.testing.assert_series_equal(second, first.reindex(second.index))
    assert (
        vlitqc.filter(again, drop_below={"image_readability": -1.0}).written["kept"].read_bytes()
        == kept.read_bytes()
    )


# ---------------------------------------------------------------- folders


@pytest.fixture
def several(make_data: Make, record: Any) -> Path:
    """A folder of two files, one of them a list, with a broken record."""
    home = make_data(12).parent
    (home / "data.jsonl").unlink()
    make_data(lines=[record(i, f"{i}.png") for i in range(8)], name="a.jsonl")
    rest = [record(i, f"{i}.png") for i in range(8, 12)]
    make_data(lines=[*rest, b'{"id": "odd"}'], as_list=True, name="b.json")
    return home


def test_a_folder_is_divided_into_folders(several: Path, tiny: str) -> None:
    run = score(several, tiny)
    result = vlitqc.filter(several, drop_below={"image_readability": "p50"})
    assert result.counts == {"kept": 6, "dropped": 6, "unreadable": 1}
    beside = several.parent
    assert result.written == {name: beside / f"set.{name}" for name in result.counts} | {
        "decisions": beside / "set.decisions.parquet"
    }
    kept = lines_of(beside / "set.kept" / "a.jsonl") + [
        json.dumps(r).encode() for r in json.loads((beside / "set.kept" / "b.json").read_bytes())
    ]
    wanted = run.scores["id"][result.decisions["kept"]].tolist()
    assert [json.loads(line)["id"] for line in kept] == wanted
    assert json.loads((beside / "set.unreadable" / "b.json").read_bytes()) == [{"id": "odd"}]
    again = vlitqc.filter(several, drop_issues=["error"])
    assert again.counts == {"kept": 12, "dropped": 0, "unreadable": 1}
    assert (beside / "set.kept" / "a.jsonl").read_bytes() == (several / "a.jsonl").read_bytes()
    assert not list(beside.glob(".*"))


def test_a_folder_that_no_filter_wrote_is_not_overwritten(several: Path, tiny: str) -> None:
    run = score(several, tiny)
    mine = several.with_name("set.kept")
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"set\.kept exists and is no filter's output"):
        vlitqc.filter(run, drop_issues=["error"])
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]


def test_an_unreadable_folder_from_before_goes(several: Path, tiny: str) -> None:
    vlitqc.filter(score(several, tiny), drop_issues=["error"])
    assert several.with_name("set.unreadable").is_dir()
    (several / "b.json").write_bytes((several / "b.json").read_bytes().replace(b',\n {"id": "odd"}', b""))
    result = vlitqc.filter(score(several, tiny), drop_issues=["error"])
    assert "unreadable" not in result.written
    assert not several.with_name("set.unreadable").exists()


def test_only_the_drafts_of_the_dead_are_swept(make_data: Make, tiny: str) -> None:
    path = make_data(3)
    run = score(path, tiny)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    drafts = {
        name: path.with_name(name)
        for name in (
            f".data.kept.jsonl.{process.pid}.part",
            f".data.kept.jsonl.{os.getppid()}.part",
            f".data.kept.jsonl.{process.pid}.txt",
            f".other.kept.jsonl.{process.pid}.part",
        )
    }
    for draft in drafts.values():
        draft.touch()
    vlitqc.filter(run, drop_issues=["error"])
    assert [draft.exists() for draft in drafts.values()] == [False, True, True, True]


def test_the_disk_that_is_full_is_named(make_data: Make, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_data(3)
    run = score(path, tiny)

    def full(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(run.reader), "divide", full)
    with pytest.raises(RunError, match=r"no space left for .*; free some and run the same command"):
        vlitqc.filter(run, drop_issues=["error"])


# ---------------------------------------------------------------- rules


def table(**columns: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    n = len(next(iter(columns.values())))
    base = {"row": range(n), "id": [f"r{i}" for i in range(n)], "file": "f", "line": range(1, n + 1)}
    scores = pd.DataFrame({**base, "state": "scored", **columns})
    return scores, pd.DataFrame({"kind": [], "severity": [], "row": []})


def test_equal_to_the_level_is_kept() -> None:
    scores, issues = table(m=[1.0, 2.0, 3.0, np.nan])
    below, words = Threshold.parse("m=2", "below").failed(scores, issues)
    assert (below.tolist(), words) == ([True, False, False, False], "m < 2")
    above, words = Threshold.parse("m=2", "above").failed(scores, issues)
    assert (above.tolist(), words) == ([False, False, True, False], "m > 2")


def test_percentiles_are_those_of_the_scores_present() -> None:
    values = [float(i) for i in range(11)]
    scores, issues = table(m=[*values, *[np.nan] * 9])
    mask, words = Threshold.parse("m=p10", "below").failed(scores, issues)
    assert words == "m < 1 (p10)"
    assert np.flatnonzero(mask).tolist() == [0]
    mask, words = Threshold.parse("m=p12.5", "below").failed(scores, issues)
    assert words == "m < 1.25 (p12.5)"
    assert np.flatnonzero(mask).tolist() == [0, 1]
    assert not Threshold.parse("m=p0", "below").failed(scores, issues)[0].any()
    assert not Threshold.parse("m=p100", "above").failed(scores, issues)[0].any()


def test_a_record_without_a_score_is_kept_and_says_so() -> None:
    scores, issues = table(m=[np.nan, np.nan])
    decisions, counts = decide(scores, issues, [Threshold.parse("m=p50", "below")])
    assert decisions["kept"].tolist() == [True, True]
    assert counts == {"m < p50 (no record has a score)": 0}


def test_an_unreadable_record_fails_for_that_alone() -> None:
    scores, _ = table(m=[0.0, 0.0, 9.0])
    scores.loc[0, "state"] = "unreadable"
    issues = pd.DataFrame({"kind": ["empty_turn", "odd"], "severity": ["error", "note"], "row": [0, 1]})
    rules: list[Rule] = [
        Threshold.parse("m=5", "below"),
        HasIssue("error"),
        HasIssue("odd"),
        HasIssue("small_image"),
    ]
    decisions, counts = decide(scores, issues, rules)
    assert decisions["kept"].tolist() == [False, False, True]
    assert decisions["rules_failed"].tolist() == [["unreadable"], ["m < 5", "issue odd"], []]
    assert counts == {"m < 5": 1, "issue error": 0, "issue odd": 1, "issue small_image": 0}


@pytest.mark.parametrize(
    "text",
    [
        "m",
        "m=",
        "=3",
        "",
        "m=ten",
        "m=p",
        "m=p-1",
        "m=p101",
        "m=pp10",
        "m=nan",
        "m=inf",
        "m=1,5",
        "m==3",
        "m=10%",
    ],
)
@pytest.mark.parametrize("side", ["below", "above"])
def test_malformed_rules_say_what_was_expected(text: str, side: Any) -> None:
    with pytest.raises(UsageError, match=f"^--drop-{side} .*: expected"):
        Threshold.parse(text, side)


def test_unknown_metrics_are_refused_with_near_ones(make_data: Make, tiny: str) -> None:
    run = score(make_data(2), tiny)
    with pytest.raises(UnknownName, match="'image_readibility'; did you mean image_readability"):
        vlitqc.filter(run, drop_below={"image_readibility": 3})
    for column in ("row", "start", "state", "id"):
        with pytest.raises(UnknownName):
            vlitqc.filter(run, drop_below={column: 3})
    assert vlitqc.filter(run, drop_below={"n_images": 2}, dry_run=True).counts["dropped"] == 2


def test_no_rule_is_refused(make_data: Make, tiny: str) -> None:
    run = score(make_data(1), tiny)
    with pytest.raises(UsageError, match="no rule was given"):
        vlitqc.filter(run)
    with pytest.raises(UsageError, match="recommends no floor"):
        vlitqc.filter(run, recommended=True)


def test_recommended_floors_are_used_to_the_last_digit() -> None:
    scored = {"floor": 0.1234567890123, "n_scored": 3}
    rules = floors({"a": scored, "b": scored | {"floor": None}, "c": scored | {"n_scored": 0}})
    assert rules == [Threshold("a", "below", "0.1234567890123")]
    scores, issues = table(a=[0.1234567890122, 0.1234567890123])
    assert rules[0].failed(scores, issues)[0].tolist() == [True, False]


def test_recommended_floors_drop_what_the_verdict_counts(make_data: Make, record: Any, texts: str) -> None:
    salad = record(1)
    salad["conversations"][1]["value"] = "zq the of xv a kjw to and brrt in of of the a xkcd"
    run = score(make_data(lines=[record(3), salad, record(4)]), texts)
    result = vlitqc.filter(run, recommended=True)
    assert result.counts == {"kept": 2, "dropped": 1, "unreadable": 0}
    assert result.by_rule == {"text_readability < 0": 1}
    assert run.scorecard["verdict"]["suspect"] == 1


def test_issues_drop_their_records(messy: Path, tiny: str, messy_states: dict[str, str]) -> None:
    run = score(messy, tiny)
    names = list(messy_states)

    def dropped(*kinds: str) -> set[str]:
        result = vlitqc.filter(run, drop_issues=kinds, dry_run=True)
        failed = result.decisions[~result.decisions["kept"]]
        return {names[row] for row in failed["row"]} - {"malformed", "list", "no_conversation"}

    assert dropped("missing_image") == {"missing"}
    assert dropped("missing_image", "empty_turn") == {"missing", "empty"}
    assert dropped("error") == {"missing", "truncated", "empty", "no_image", "outside", "remote"}
    assert dropped("rare_task") == set()
    with pytest.raises(UnknownName, match="did you mean missing_image"):
        dropped("missing_imag")


# ---------------------------------------------------------------- files


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in found}


def test_a_dry_run_writes_nothing(make_data: Make, tiny: str, tmp_path: Path) -> None:
    run = score(make_data(10), tiny)
    before = snapshot(tmp_path)
    result = vlitqc.filter(run, drop_below={"image_readability": "p50"}, dry_run=True, out=tmp_path / "new")
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "new").exists()
    assert result.written == {}
    assert result.counts == {"kept": 5, "dropped": 5, "unreadable": 0}


def test_reasons_are_written_beside_the_files(make_data: Make, tiny: str, tmp_path: Path) -> None:
    run = score(make_data(10), tiny)
    result = vlitqc.filter(run, drop_below={"image_readability": "p50"}, out=tmp_path / "a" / "b")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [
        "data.decisions.parquet",
        "data.dropped.jsonl",
        "data.kept.jsonl",
    ]
    stored = pq.read_table(result.written["decisions"]).to_pylist()
    assert [row["kept"] for row in stored] == result.decisions["kept"].tolist()
    assert all(bool(row["rules_failed"]) == (not row["kept"]) for row in stored)
    (rule,) = {reason for row in stored for reason in row["rules_failed"]}
    assert rule.startswith("image_readability < ")
    assert rule.endswith(" (p50)")
    assert result.by_rule == {rule: 5}


def test_a_changed_input_is_refused_and_nothing_written(make_data: Make, tiny: str, tmp_path: Path) -> None:
    path = make_data(6)
    run = score(path, tiny)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(InputError, match="has changed since it was scored"):
        vlitqc.filter(run, drop_below={"image_readability": "p50"}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(make_data: Make, tiny: str) -> None:
    path = make_data(2)
    run = score(path, tiny)
    with pytest.raises(RunError, match="cannot write"):
        vlitqc.filter(run, drop_below={"image_readability": 0}, out=path / "under")


@pytest.mark.parametrize("names", [["a.jsonl", "b.jsonl"], ["*.jsonl"]])
def test_the_outputs_of_other_paths_in_the_same_folder_are_not_replaced(
    make_data: Make, tiny: str, tmp_path: Path, names: list[str]
) -> None:
    paths = [make_data(4, name=f"{name}.jsonl") for name in "abc"]
    home = paths[0].parent
    first = vlitqc.filter(score([home / n for n in names], tiny, out=tmp_path / "1"), drop_issues="error")
    before = first.written["kept"]
    told = sorted((path.name, path.read_bytes()) for path in before.iterdir())
    other = score([paths[0], paths[2]], tiny, out=tmp_path / "2")
    with pytest.raises(RunError, match=r"exists and is no filter's output of this run"):
        vlitqc.filter(other, drop_issues="error")
    assert sorted((path.name, path.read_bytes()) for path in before.iterdir()) == told
    again = vlitqc.filter(Run.open(tmp_path / "1"), drop_issues="small_image")
    assert again.written == first.written


def test_what_a_refused_disk_says_is_the_systems_sentence(tmp_path: Path) -> None:
    quoting = OSError(errno.EACCES, "Failed to open '.a.4711.part'. Detail: [errno 13] Permission denied")
    with pytest.raises(RunError) as told, disk.writing(tmp_path):
        raise quoting
    assert str(told.value) == f"cannot write {tmp_path} (Permission denied); name another place with --out"


def test_unreadable_files_without_bytes_are_said_to_be_nowhere(several: Path, tiny: str) -> None:
    (several / "b.json").unlink()
    (several / "gone.jsonl").symlink_to(several / "nowhere")
    result = vlitqc.filter(score(several, tiny), drop_issues="error")
    assert result.counts == {"kept": 8, "dropped": 0, "unreadable": 1}
    assert (result.not_copied, "unreadable" in result.written) == (1, False)
    assert not several.with_name("set.unreadable").exists()
    (several / "empty.jsonl").write_bytes(b"")
    result = vlitqc.filter(score(several, tiny), drop_issues="error")
    assert (result.not_copied, result.counts["unreadable"]) == (1, 2)
    assert [path.name for path in result.written["unreadable"].iterdir()] == ["empty.jsonl"]


def test_a_picture_that_cannot_be_opened_is_a_record_like_any_other(
    tmp_path: Path, tiny: str, picture: Callable[[int], bytes]
) -> None:
    home = tmp_path / "set"
    for n, name in enumerate(("cat/a.png", "dog/b.png")):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_bytes(picture(n))
    (home / "dog" / "gone.png").symlink_to(home / "nowhere.png")
    (home / "loose.png").symlink_to(home / "nowhere.png")
    result = vlitqc.filter(score(home, tiny), drop_issues="error")
    assert result.counts == {"kept": 2, "dropped": 1, "unreadable": 1}
    assert (result.not_copied, set(result.written)) == (1, {"kept", "dropped", "decisions"})


# ---------------------------------------------------------------- properties

cells = st.one_of(st.none(), st.floats(-5, 5), st.sampled_from([0.0, 1.0]))
levels = st.one_of(st.floats(-5, 5).map(repr), st.integers(0, 100).map("p{}".format))
thresholds = st.builds(Threshold, st.sampled_from(["a", "b"]), st.sampled_from(["below", "above"]), levels)
issue_rules = st.builds(HasIssue, st.sampled_from(["error", "rare_task", "empty_turn", "small_image"]))


@st.composite
def scored_sets(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame]:
    n = draw(st.integers(1, 12))
    column = st.lists(cells, min_size=n, max_size=n)
    scores, _ = table(a=np.array(draw(column), np.float64), b=np.array(draw(column), np.float64))
    scores["state"] = draw(
        st.lists(st.sampled_from(["scored", "partial", "unreadable"]), min_size=n, max_size=n)
    )
    rows = draw(st.lists(st.integers(0, n - 1), max_size=6))
    kinds = [draw(st.sampled_from([("rare_task", "note"), ("empty_turn", "error")])) for _ in rows]
    issues = pd.DataFrame({"kind": [k for k, _ in kinds], "severity": [s for _, s in kinds], "row": rows})
    return scores, issues


@settings(max_examples=150, deadline=None)
@given(scored_sets(), st.lists(st.one_of(thresholds, issue_rules), min_size=1, max_size=4))
def test_any_rules_make_a_partition(data: tuple[pd.DataFrame, pd.DataFrame], rules: list[Rule]) -> None:
    scores, issues = data
    decisions, counts = decide(scores, issues, rules)
    assert decisions["row"].tolist() == scores["row"].tolist()
    assert [
        kept == (not failed)
        for kept, failed in zip(decisions["kept"], decisions["rules_failed"], strict=True)
    ]
    unreadable = scores["state"] == "unreadable"
    assert not decisions.loc[unreadable, "kept"].any()
    assert all(f == ["unreadable"] for f in decisions.loc[unreadable, "rules_failed"])
    assert all("unreadable" not in f for f in decisions.loc[~unreadable, "rules_failed"])
    for words, n in counts.items():
        assert n == sum(words in failed for failed in decisions["rules_failed"])


@settings(max_examples=150, deadline=None)
@given(
    scored_sets(),
    st.lists(st.one_of(thresholds, issue_rules), max_size=3),
    st.one_of(thresholds, issue_rules),
)
def test_one_more_rule_never_keeps_more(
    data: tuple[pd.DataFrame, pd.DataFrame], rules: list[Rule], more: Rule
) -> None:
    fewer, _ = decide(*data, rules)
    tighter, _ = decide(*data, [*rules, more])
    assert not (tighter["kept"] & ~fewer["kept"]).any()


@settings(max_examples=150, deadline=None)
@given(
    scored_sets(),
    st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
    st.tuples(st.integers(0, 100), st.integers(0, 100)),
)
def test_a_tighter_level_never_keeps_more(
    data: tuple[pd.DataFrame, pd.DataFrame], numbers: tuple[float, float], percents: tuple[int, int]
) -> None:
    for low, high in (map(repr, sorted(numbers)), (f"p{p}" for p in sorted(percents))):
        below = [decide(*data, [Threshold("a", "below", level)])[0]["kept"] for level in (low, high)]
        assert not (below[1] & ~below[0]).any()


@settings(max_examples=100, deadline=None)
@given(scored_sets())
def test_the_two_sides_meet_at_the_level(data: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    scores, issues = data
    below, _ = Threshold("a", "below", "1.0").failed(scores, issues)
    above, _ = Threshold("a", "above", "1.0").failed(scores, issues)
    neither = scores["a"].isna() | (scores["a"] == 1.0)
    assert ((below.astype(int) + above) == (~neither).astype(int)).all()


def test_a_file_that_no_filter_wrote_is_not_overwritten(make_data: Make, tiny: str) -> None:
    path = make_data(3)
    run = score(path, tiny)
    mine = path.with_name(f"{path.stem}.kept{path.suffix}")
    mine.write_text("mine")
    with pytest.raises(RunError, match="is no filter's output"):
        vlitqc.filter(run, drop_issues=["error"])
    assert mine.read_text() == "mine"
    mine.unlink()
    vlitqc.filter(run, drop_issues=["error"])
    audit = path.with_name(f"{path.stem}.decisions.parquet")
    again = vlitqc.filter(path, drop_below={"image_readability": "p50"})
    pd.DataFrame({"mine": [1]}).to_parquet(audit)
    with pytest.raises(RunError, match="is no filter's output"):
        vlitqc.filter(run, drop_issues=["error"])
    assert sum(again.counts.values()) == 3 and again.counts["kept"] < 3


@pytest.mark.parametrize("others", [0, 1])
def test_rows_of_a_damaged_table_are_counted_and_said_to_be_in_no_output(
    tmp_path: Path, tiny: str, others: int
) -> None:
    path = tmp_path / "data.parquet"
    table = pa.table({"instruction": [f"Q{i}?" for i in range(30)], "output": [f"A{i}" for i in range(30)]})
    if others:
        table = table.set_column(0, "instruction", pa.array([None, *(f"Q{i}?" for i in range(1, 30))]))
    pq.write_table(table, path, row_group_size=10, use_dictionary=False)
    at = pq.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    raw = bytearray(path.read_bytes())
    raw[at : at + 20] = b"\xff" * 20
    path.write_bytes(raw)
    result = vlitqc.filter(score(path, tiny), drop_issues=["empty_turn"])
    unreadable = 10 + others
    assert result.counts == {"kept": 30 - unreadable, "dropped": 0, "unreadable": unreadable}
    assert result.not_copied == 10
    assert pq.read_table(result.written["kept"]).equals(pa.concat_tables([table[others:10], table[20:]]))
    assert ("unreadable" in result.written) == bool(others)
    assert len(result.decisions) == 30
