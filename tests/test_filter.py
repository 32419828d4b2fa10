"""Filtering: nothing lost, nothing invented, every drop with its reasons."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vlitqc
from vlitqc.engine import disk
from vlitqc.engine.inputs import run_of
from vlitqc.engine.run import Run
from vlitqc.errors import InputError, RunError, UnknownName, UsageError
from vlitqc.filtering import audit, recipes, vacuous
from vlitqc.filtering.apply import filter_run
from vlitqc.filtering.audit import NOT_SELECTED
from vlitqc.filtering.conditions import HasIssue, Not, Threshold, Where
from vlitqc.filtering.decisions import decide
from vlitqc.filtering.explain import explain
from vlitqc.filtering.rules import Rule
from vlitqc.filtering.selection import Selection
from vlitqc.filtering.table import ScoreTable
from vlitqc.formats import open_input
from vlitqc.formats.folder import AUDITED
from vlitqc.formats.writing import put

Make = Callable[..., Path]


def score(path: Any, profile: str, **options: Any) -> Run:
    return vlitqc.score(path, profile, report=False, **options)


def below(text: str) -> Rule:
    return Rule(Threshold.parse(text, "below"))


def above(text: str) -> Rule:
    return Rule(Threshold.parse(text, "above"))


def issue(text: str) -> Rule:
    return Rule(HasIssue.parse(text))


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
        "decisions": beside / "set.decisions.parquet",
        "filter": beside / "set.filter.json",
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


def test_what_a_killed_filter_left_hidden_goes(make_data: Make, tiny: str) -> None:
    path = make_data(3)
    run = score(path, tiny)
    hidden = path.with_name(".data.filter.json.part")
    hidden.mkdir()
    (hidden / "data.kept.jsonl").touch()
    path.with_name(".data.filter.json.lock").touch()
    other = path.with_name(".other.filter.json.part")
    other.mkdir()
    vlitqc.filter(run, drop_issues=["error"])
    assert list(path.parent.glob(".*")) == [other]


def test_two_filters_do_not_write_at_once(make_data: Make, tiny: str) -> None:
    path = make_data(3)
    run = score(path, tiny)
    with (
        disk.locked(path.with_name(".data.filter.json.lock"), "it"),
        pytest.raises(RunError, match=r"data\.filter\.json is in use by another vlitqc; wait for it"),
    ):
        vlitqc.filter(run, drop_issues=["error"])
    assert not path.with_name("data.kept.jsonl").exists()
    assert vlitqc.filter(run, drop_issues=["error"]).counts["kept"] == 3


@pytest.mark.parametrize("name", ["data.control.jsonl", "data.comparison.json", "data.unreadable.jsonl"])
def test_only_what_an_earlier_filter_wrote_is_its_own(make_data: Make, tiny: str, name: str) -> None:
    path = make_data(6)
    run = score(path, tiny)
    vlitqc.filter(run, drop_issues=["error"])
    mine = path.with_name(name)
    mine.write_text("years of work")
    before = snapshot(path.parent)
    for options in ({}, {"keep": 3}):
        with pytest.raises(RunError, match=f"{name} exists and is no filter's output"):
            vlitqc.filter(run, drop_issues=["error"], **options)
    assert snapshot(path.parent) == before


def test_an_input_that_was_moved_into_an_output_is_not_lost(several: Path, tiny: str) -> None:
    vlitqc.filter(score(several, tiny), drop_issues=["error"])
    moved = several.with_name("set.kept") / "set"
    several.rename(moved)
    run = score(moved, tiny, out=moved.parents[1] / "run")
    with pytest.raises(RunError, match=r"set\.kept exists and is no filter's output"):
        vlitqc.filter(run, drop_issues=["error"], out=moved.parents[1])
    assert (moved / "a.jsonl").exists()


@pytest.mark.parametrize("folder", [False, True])
def test_a_filter_that_ends_between_two_outputs_is_told_from_a_finished_one(
    several: Path, make_data: Make, tiny: str, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    path = several if folder else make_data(8, name="data.jsonl")
    run = score(path, tiny)
    first = filter_run(run, selection=Selection(keep="3", diversity="none"))
    k = 0
    while True:
        left = [k]

        def stop(draft: Path, target: Path, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            put(draft, target)

        with monkeypatch.context() as patch:
            patch.setattr("vlitqc.filtering.apply.put", stop)
            try:
                result = vlitqc.filter(run, drop_below={"image_readability": f"p{20 + k}"})
            except KeyboardInterrupt:
                told = explain(run, "r1")
                assert "did not finish" in told.note
                assert told.records[0].fate is None
                assert told.records[0].metrics
            else:
                break
        k += 1
    assert k == len(result.written) >= 4
    assert not first.written["control"].exists()
    assert explain(run, "r1").note == ""
    assert not list(path.parent.glob(".*"))


def test_the_disk_that_is_full_is_named(make_data: Make, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_data(3)
    run = score(path, tiny)

    def full(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(run.reader), "divide", full)
    with pytest.raises(RunError, match=r"no space left for .*; free some and run the same command"):
        vlitqc.filter(run, drop_issues=["error"])


# ---------------------------------------------------------------- rules and fates


def test_no_rule_is_refused(make_data: Make, tiny: str) -> None:
    run = score(make_data(1), tiny)
    with pytest.raises(UsageError, match="no rule was given"):
        filter_run(run)


def test_unknown_columns_are_refused_with_near_ones(make_data: Make, tiny: str) -> None:
    run = score(make_data(2), tiny)
    with pytest.raises(UnknownName, match="'image_readibility'; did you mean image_readability"):
        filter_run(run, [below("image_readibility=3")])


def test_unreadable_records_fail_no_rule_and_are_counted_by_themselves(messy: Path, tiny: str) -> None:
    run = score(messy, tiny)
    result = filter_run(run, [issue("error"), below("image_readability=p50")], dry_run=True)
    told = result.decisions.set_index("row")
    unreadable = run.scores["state"] == "unreadable"
    assert result.fates.tolist() == [
        2 if gone else 0 if kept else 1 for gone, kept in zip(unreadable, told["kept"], strict=True)
    ]
    assert told["fate"].tolist() == [("kept", "dropped", "unreadable")[fate] for fate in result.fates]
    for failed in told.loc[unreadable, "rules_failed"]:
        assert [entry["rule"] for entry in failed] == ["unreadable"]
    assert result.mask.tolist() == result.kept.tolist() == told["kept"].tolist()
    assert run.scores[result.mask]["id"].tolist() == told[told["kept"]]["id"].tolist()
    for words, n in result.by_rule.items():
        assert n == sum(words in {entry["rule"] for entry in failed} for failed in told["rules_failed"])


def test_the_same_rule_twice_is_told_apart_in_the_audit(make_data: Make, tiny: str) -> None:
    run = score(make_data(4), tiny)
    result = filter_run(run, [below("image_readability=p50"), below("image_readability=p50")], dry_run=True)
    assert list(result.by_rule.values()) == [2, 2]
    assert {len(failed) for failed in result.decisions["rules_failed"]} == {0, 2}


# ---------------------------------------------------------------- ids that must be kept


def test_ids_that_must_be_kept_are_kept_and_their_failed_rules_told(make_data: Make, tiny: str) -> None:
    run = score(make_data(10), tiny)
    rules = [below("image_readability=p50")]
    plain = filter_run(run, rules, dry_run=True)
    lost = plain.decisions.loc[~plain.decisions["kept"], "id"].tolist()
    result = filter_run(run, rules, must_keep=lost[:2])
    assert result.counts == {"kept": 7, "dropped": 3, "unreadable": 0}
    assert result.by_rule == plain.by_rule
    stored = {row["id"]: row for row in pq.read_table(result.written["decisions"]).to_pylist()}
    assert [name for name, row in stored.items() if row["must_keep"]] == lost[:2]
    assert all(stored[name]["kept"] and stored[name]["rules_failed"] for name in lost[:2])
    kept = [json.loads(line)["id"] for line in lines_of(result.written["kept"])]
    assert kept == [f"r{i}" for i in range(10) if f"r{i}" not in lost[2:]]


def test_every_record_of_an_id_is_kept(make_data: Make, record: Any, tiny: str) -> None:
    records = [record(i, "0.png") | {"id": "twice" if i < 2 else f"r{i}"} for i in range(4)]
    make_data(1)
    result = filter_run(score(make_data(lines=records), tiny), [above("n_images=0")], must_keep=["twice"])
    assert result.kept.tolist() == [True, True, False, False]


def test_ids_that_nobody_has_are_refused(messy: Path, tiny: str) -> None:
    run = score(messy, tiny)
    with pytest.raises(UsageError, match=r"--must-keep 'a', 'b', 'c' and 2 more: no record of this run has"):
        filter_run(run, [issue("error")], must_keep=["r0", *"edcba"])
    with pytest.raises(UsageError, match=r"--must-keep '\\udcff': no record"):
        filter_run(run, [issue("error")], must_keep=["\udcff"])
    assert filter_run(run, [issue("error")], must_keep=["r2"], dry_run=True).kept[2]


def test_an_id_none_of_whose_records_can_be_read_is_refused(make_data: Make, record: Any, tiny: str) -> None:
    broken = {"conversations": 3}
    run = score(make_data(lines=[record(0), {"id": "r1", **broken}, {"id": "r0", **broken}]), tiny)
    (name,) = run.scores.loc[run.scores["row"] == 1, "id"]
    with pytest.raises(UsageError, match=f"must-keep '{name}': the record cannot be read"):
        filter_run(run, [issue("error")], must_keep=["r0", name])
    assert run.scores["id"].tolist().count("r0") == 2
    kept = filter_run(run, [above("n_turns=0")], must_keep=["r0"])
    assert kept.fates.tolist() == [0, 2, 2]


# ---------------------------------------------------------------- selections


def test_a_selection_comes_with_a_control_of_its_size_and_a_comparison(
    make_data: Make, tiny: str, tmp_path: Path
) -> None:
    path = make_data(30)
    run = score(path, tiny)
    rules, selection = [below("image_readability=p20")], Selection(keep="8", diversity="none")
    result = filter_run(run, rules, selection=selection, must_keep=["r3"], seed=5)
    pool = result.decided.failed == 0
    assert result.counts == {"kept": 8, "dropped": 22, "unreadable": 0}
    assert result.selected is not None
    assert result.by_rule[NOT_SELECTED] == (pool & ~result.kept).sum()
    assert result.kept[3]
    told = result.decisions
    for failed, left in zip(told["rules_failed"], pool & ~result.kept, strict=True):
        assert (NOT_SELECTED in {entry["rule"] for entry in failed}) == left
        assert all(entry["text"] for entry in failed if entry["rule"] == NOT_SELECTED)
    lines = path.read_bytes().splitlines()
    control = lines_of(result.written["control"])
    assert result.written["control"].name == "data.control.jsonl"
    assert len(control) == 8
    assert control == [line for line in lines if line in control]
    assert {lines.index(line) for line in control} <= {*np.flatnonzero(pool).tolist(), 3}
    stored = json.loads(result.written["comparison"].read_bytes())
    assert list(stored) == ["input", "selected", "control"]
    values = run.scores["image_readability"].to_numpy()
    drawn = np.array([line in control for line in lines])
    for name, these in {"input": values, "selected": values[result.kept], "control": values[drawn]}.items():
        assert stored[name]["image_readability"]["value"] == pytest.approx(these.mean(), rel=1e-12)
    dry = filter_run(
        run, rules, selection=selection, must_keep=["r3"], seed=5, dry_run=True, effect=True
    ).effect
    assert dry is not None
    assert dry.drawn_from == "what the rules keep"
    moved = {one.name: one.random.value for one in dry.principles}
    assert moved["image_readability"] == stored["control"]["image_readability"]["value"]
    again = filter_run(run, rules, selection=selection, must_keep=["r3"], seed=5, out=str(tmp_path / "again"))
    other = filter_run(run, rules, selection=selection, must_keep=["r3"], seed=6, out=tmp_path / "other")
    names = ("kept", "dropped", "control", "decisions", "comparison", "filter")
    assert all(again.written[name].read_bytes() == result.written[name].read_bytes() for name in names)
    assert other.written["control"].read_bytes() != result.written["control"].read_bytes()


def test_what_a_selection_left_goes_with_the_next_filter_that_has_none(several: Path, tiny: str) -> None:
    run = score(several, tiny)
    first = filter_run(run, selection=Selection(keep="5", diversity="none"))
    assert first.written["control"] == several.with_name("set.control")
    copied = [path.name for path in first.written["control"].iterdir()]
    assert {"a.jsonl", "b.json"} >= set(copied) > set()
    filter_run(run, [issue("error")])
    assert not first.written["control"].exists()
    assert not first.written["comparison"].exists()
    assert first.written["filter"].exists()


def test_outputs_in_a_folder_that_is_scored_again_are_no_input(several: Path, tiny: str) -> None:
    run = score([several / "a.jsonl"], tiny, out=several.parent / "run")
    result = filter_run(run, selection=Selection(keep="5", diversity="none"), out=several)
    assert {path.name for path in result.written.values()} >= {
        "a.control.jsonl",
        "a.comparison.json",
        "a.filter.json",
    }
    assert [path.name for path in open_input(several).files] == ["a.jsonl", "b.json"]


# ---------------------------------------------------------------- what stands beside


def test_the_filter_is_written_beside_its_outputs(make_data: Make, tiny: str) -> None:
    path = make_data(10)
    run = score(path, tiny)
    because = "Nobody can see what is in them: é."
    rule = Rule(Threshold.parse("image_readability=p50", "below"), "drop", because)
    result = filter_run(run, [rule], seed=7, must_keep=["r1", "r1"])
    told = json.loads(result.written["filter"].read_bytes())
    assert result.written["filter"].name == "data.filter.json"
    ((words, n),) = result.by_rule.items()
    (written,) = told["rules"]
    compared = written.pop("compared")
    assert written == {
        "words": words, "name": "", "missing": "drop", "because": because, "n": n, "unknown": 0
    }  # fmt: skip
    level = float(np.percentile(run.scores["image_readability"], 50))
    assert compared == [{"column": "image_readability", "side": "below", "threshold": level}]
    assert (told["recipe"], told["selection"], told["seed"], told["must_keep"]) == (None, None, 7, ["r1"])
    assert told["counts"] == result.counts
    assert told["run"]["path"] == str(run.path.absolute())
    assert told["run"]["sha256"] == hashlib.sha256((run.path / "run.json").read_bytes()).hexdigest()
    assert told["run"]["profile"]["name"] == "tiny"
    assert told["input"] == {"paths": [str(path)], "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    for name in ("kept", "dropped", "decisions"):
        output = result.written[name]
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
        assert told["written"][name] == {"name": output.name, "sha256": digest}
    metadata = pq.read_schema(result.written["decisions"]).metadata
    assert json.loads(metadata[AUDITED]) == [str(path)]


def test_a_recipe_is_written_with_its_text(make_data: Make, tiny: str, tmp_path: Path) -> None:
    run = score(make_data(6), tiny)
    text = """
title = "No pictures"
[[rules]]
drop = { metric = "n_images", above = 0 }
because = "This is about text."
[[rules]]
drop = { metric = "correctness", below = 50 }
needs = "correctness"
"""
    (tmp_path / "own.toml").write_text(text)
    recipe = recipes.load(tmp_path / "own.toml")
    result = filter_run(run, recipe=recipe)
    assert result.counts == {"kept": 0, "dropped": 6, "unreadable": 0}
    told = json.loads(result.written["filter"].read_bytes())
    assert told["recipe"] == recipe.as_json()
    assert told["recipe"]["text"] == text
    assert [rule["because"] for rule in told["rules"]] == ["This is about text."]
    assert told["notes"] == result.notes == recipe.left_out(run.metrics())
    assert len(told["notes"]) == 1
    assert told["recipe"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    more = filter_run(run, [above("n_turns=9")], recipe=recipe)
    assert len(more.by_rule) == 2
    assert json.loads(more.written["filter"].read_bytes())["sha256"] != told["sha256"]


def test_the_run_lists_its_latest_filters(
    make_data: Make, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_POINTERS", 3)
    run = score(make_data(2), tiny)
    rule = above("n_images=0")
    for i in range(5):
        filter_run(run, [rule], out=tmp_path / f"out{i}")
    filter_run(run, [rule], out=tmp_path / "out3")
    listed = json.loads((run.path / "filters.json").read_bytes())["filters"]
    assert listed == [str(tmp_path / f"out{i}" / "data.decisions.parquet") for i in (3, 4, 2)]


@pytest.mark.parametrize("there", ["{", "[]", '{"filters": 3}', '{"filters": [3]}'])
def test_a_list_of_filters_that_cannot_be_read_is_begun_again(make_data: Make, tiny: str, there: str) -> None:
    run = score(make_data(2), tiny)
    (run.path / "filters.json").write_text(there)
    decisions = filter_run(run, [above("n_images=0")]).written["decisions"]
    assert json.loads((run.path / "filters.json").read_bytes())["filters"] == [str(decisions)]


def test_a_run_that_cannot_be_written_to_is_filtered_all_the_same(
    make_data: Make, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = score(make_data(2), tiny)
    before = snapshot(run.path)
    written = Path.write_text

    def write_text(path: Path, *args: Any, **more: Any) -> int:
        if path.is_relative_to(run.path):
            raise OSError(errno.EROFS, "Read-only file system")
        return written(path, *args, **more)

    monkeypatch.setattr(Path, "write_text", write_text)
    assert filter_run(run, [above("n_images=0")]).written["filter"].is_file()
    assert snapshot(run.path) == before


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


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.unlink(), "is no longer there"),
        (lambda path: path.write_bytes(path.read_bytes() + b"{}"), "has changed since it was scored"),
        (lambda path: path.touch(), None),
    ],
)
def test_a_dry_run_notes_an_input_that_is_gone_or_has_changed(
    make_data: Make, tiny: str, change: Callable[[Path], object], why: str | None
) -> None:
    path = make_data(3)
    run = score(path, tiny)
    change(path)
    notes = filter_run(run, [issue("error")], dry_run=True).notes
    assert len(notes) == (why is not None)
    assert all(note.startswith("nothing can be written: ") and why and why in note for note in notes)


@pytest.mark.parametrize(
    ("where", "notes"),
    [
        ('source == "b"', []),
        ('source != "photo"', ['no record\'s source is "photo"; did you mean "photos"?']),
        ('source not in ["photo", "charts"]', ['no record\'s source is "photo"; did you mean "photos"?']),
        ('source in ["charts", "zzz"]', []),
        ('source in ["photos", "photo"]', []),
        ('source in ["yyy", "zzz"]', ['no record\'s source is "yyy" or "zzz"']),
        ('"zzz" == source', ['no record\'s source is "zzz"']),
        ("correctness >= 50", ["no record has a score of correctness"]),
        ("n_turns > 0 or correctness >= 50", ["no record has a score of correctness"]),
        ("n_turns > 0 and correctness >= 50", ["no record has a score of correctness"]),
    ],
)
def test_a_rule_that_compares_with_what_no_record_has_is_noted(where: str, notes: list[str]) -> None:
    columns = {"n_turns": [1, 0, 1], "source": ["photos", "charts", "b"]}
    scores = pl.LazyFrame({"row": [0, 1, 2], "state": ["scored"] * 3, **columns})
    scores = scores.with_columns(correctness=pl.lit(None, pl.Float64))
    issues = pl.DataFrame(schema={"row": pl.Int64, "kind": pl.String, "severity": pl.String})
    table = ScoreTable(scores, issues)
    decided = decide(table, [Rule(Not(Where(where)))])
    assert vacuous.notes(table, decided, {"correctness": {"n_scored": 0}}) == notes


def test_reasons_are_written_beside_the_files(make_data: Make, tiny: str, tmp_path: Path) -> None:
    run = score(make_data(10), tiny)
    result = vlitqc.filter(run, drop_below={"image_readability": "p50"}, out=tmp_path / "a" / "b")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [
        "data.decisions.parquet",
        "data.dropped.jsonl",
        "data.filter.json",
        "data.kept.jsonl",
    ]
    stored = pq.read_table(result.written["decisions"]).to_pylist()
    assert [row["kept"] for row in stored] == result.decisions["kept"].tolist()
    assert all(bool(row["rules_failed"]) == (not row["kept"]) for row in stored)
    level = float(np.percentile(run.scores["image_readability"], 50))
    (rule,) = result.by_rule
    assert result.by_rule == {rule: 5}
    assert rule.startswith("image_readability < ")
    for row, value in zip(stored, run.scores["image_readability"], strict=True):
        entry = {
            "rule": rule,
            "column": "image_readability",
            "value": value,
            "threshold": level,
            "text": None,
        }
        assert row["rules_failed"] == ([entry] if value < level else [])


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
    assert (result.not_copied, set(result.written)) == (1, {"kept", "dropped", "decisions", "filter"})


# ---------------------------------------------------------------- properties

COLUMNS = st.sampled_from(["image_readability", "image_readability_worst", "n_images", "n_turns"])
LEVELS = st.one_of(st.floats(-5, 5).map(repr), st.integers(0, 100).map("p{}".format))
THRESHOLDS = st.builds(
    lambda column, level, side: Threshold.parse(f"{column}={level}", side),
    COLUMNS,
    LEVELS,
    st.sampled_from(["below", "above"]),
)
ISSUES = st.sampled_from(["error", "missing_image", "empty_turn"]).map(HasIssue.parse)
RULES = st.builds(Rule, st.one_of(THRESHOLDS, ISSUES), st.sampled_from(["keep", "drop"]))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(RULES, min_size=1, max_size=4),
    st.none() | st.builds(Selection, st.integers(1, 6).map(str), diversity=st.just("none")),
    st.sets(st.sampled_from(["r0", "r5", "r2"])),
)
def test_any_filter_divides_the_input(
    messy: Path, tiny: str, rules: list[Rule], selection: Selection | None, must_keep: set[str]
) -> None:
    if not run_of([messy]).exists():
        score(messy, tiny)
    try:
        result = filter_run(Run.open(messy), rules, selection=selection, must_keep=must_keep)
    except UsageError as error:
        assert "must" in str(error), error
        return
    lines = iter([line for line in messy.read_bytes().splitlines() if line])
    parts = {name: iter(lines_of(result.written[name])) for name in result.counts}
    for fate, line in zip(result.decisions["fate"], lines, strict=True):
        assert next(parts[fate]) == line
    assert all(next(rest, None) is None for rest in parts.values())
    fails = result.decided.failed != 0
    must = result.verdicts.must_keep
    readable = ~result.decided.unreadable
    if selection is None:
        assert result.kept.tolist() == (readable & (~fails | must)).tolist()
    assert not (must & ~result.kept).any()
    for kept, failed in zip(result.kept[readable & ~must], result.decisions["rules_failed"][readable & ~must],
                            strict=True):  # fmt: skip
        assert kept == (len(failed) == 0)


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
    decisions = path.with_name(f"{path.stem}.decisions.parquet")
    again = vlitqc.filter(path, drop_below={"image_readability": "p50"})
    pd.DataFrame({"mine": [1]}).to_parquet(decisions)
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
