"""Why one sample went: its rules, its scores among all others', its issues and copies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlitqc
from vlitqc.engine.run import Run
from vlitqc.errors import RunError, UsageError
from vlitqc.filtering import explain as explaining
from vlitqc.filtering import recipes
from vlitqc.filtering.apply import filter_run
from vlitqc.filtering.conditions import HasIssue, Threshold, Where
from vlitqc.filtering.explain import Explained, explain
from vlitqc.filtering.rules import Rule
from vlitqc.filtering.selection import Selection

Make = Callable[..., Path]
LOW = Rule(Threshold.parse("image_readability=p50", "below"), because="Nobody sees anything in it.")
TURNS = Rule(Threshold.parse("n_turns=5", "above"), because="Too long.")


def score(path: Any, profile: str, **options: Any) -> Run:
    return vlitqc.score(path, profile, report=False, **options)


def only(run: Run, name: str, **options: Any) -> Explained:
    told = explain(run, name, **options)
    assert told.n == 1
    json.dumps(told.as_json(), allow_nan=False)
    (one,) = told.records
    return one


def test_without_a_filter_the_scores_are_told(make_data: Make, tiny: str) -> None:
    run = score(make_data(6), tiny)
    told = explain(run, "r3")
    assert (told.decisions, told.recipe, told.n) == (None, None, 1)
    assert told.note == f"this run has not been filtered yet; try: vlitqc filter {run.path}"
    (one,) = told.records
    assert (one.row, one.id, one.line, one.state, one.fate) == (3, "r3", 4, "scored", None)
    assert (one.failed, one.passed, one.why, one.duplicates) == ([], [], None, None)
    metrics = {metric.name: metric for metric in one.metrics}
    values = run.scores["image_readability"].to_numpy()
    seen = metrics["image_readability"]
    assert seen.value == values[3]
    assert seen.percentile == pytest.approx(100 * ((values < values[3]).sum() + 0.5) / 6)
    assert seen.reason is None
    lacking = metrics["correctness"]
    assert (lacking.value, lacking.percentile, lacking.reason) == (None, None, "needs a judge")


def test_failed_and_passed_rules_with_their_distance(make_data: Make, tiny: str) -> None:
    run = score(make_data(9), tiny)
    result = filter_run(run, [LOW, TURNS])
    values = run.scores["image_readability"].to_numpy()
    level = float(np.percentile(values, 50))
    for row, value in enumerate(values):
        one = only(run, f"r{row}")
        assert one.fate == ("dropped" if value < level else "kept")
        told = {rule.because: rule for rule in (*one.failed, *one.passed)}
        (compared,) = told[LOW.because].compared
        assert (compared.column, compared.value, compared.threshold) == ("image_readability", value, level)
        assert compared.distance == pytest.approx(abs(value - level), abs=1e-15)
        assert [rule.because for rule in one.failed] == ([LOW.because] if value < level else [])
        (turns,) = told[TURNS.because].compared
        assert (turns.value, turns.threshold, turns.distance) == (1, 5, 4)
    assert {rule.rule for rule in (*one.failed, *one.passed)} == set(result.by_rule)


def test_a_passed_rule_tells_the_level_of_the_records_group(make_data: Make, record: Any, tiny: str) -> None:
    make_data(40)
    run = score(make_data(lines=[record(i, f"{i}.png", source="ab"[i % 2]) for i in range(40)]), tiny)
    filter_run(run, [Rule(Threshold.parse("image_readability=p0,by=source", "below"))])
    values = run.scores["image_readability"].to_numpy()
    for row in (0, 1):
        (compared,) = only(run, f"r{row}").passed[0].compared
        assert (compared.value, compared.threshold) == (values[row], values[row::2].min())


def test_a_passed_rule_on_what_is_computed_is_told_without_its_value(make_data: Make, tiny: str) -> None:
    run = score(make_data(2), tiny)
    filter_run(run, [Rule(Where("n_turns * 2 > 9"))])
    assert only(run, "r0").passed[0].compared == []


def test_a_record_may_be_named_by_its_row_unless_that_is_an_id(
    make_data: Make, record: Any, tiny: str
) -> None:
    run = score(
        make_data(lines=[record(i) | {"id": name} for i, name in enumerate(("a", "row:0", "c"))]), tiny
    )
    assert only(run, "row:2").id == "c"
    assert only(run, "row:0").row == 1
    assert only(run, "row:002").id == "c"
    with pytest.raises(UsageError, match=r"has no row 3; its rows are 0 to 2"):
        explain(run, "row:3")


def test_every_record_of_an_id_is_told(
    make_data: Make, record: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record(i) | {"id": "same" if i % 2 else f"r{i}"} for i in range(8)]
    run = score(make_data(lines=records), tiny)
    told = explain(run, "same")
    assert (told.n, [one.row for one in told.records]) == (4, [1, 3, 5, 7])
    assert [[issue["kind"] for issue in one.issues] for one in told.records] == [
        [],
        ["duplicate_id"],
        ["duplicate_id"],
        ["duplicate_id"],
    ]
    assert told.records[1].issues[0]["detail"] == "data.jsonl:2 has the same id"
    monkeypatch.setattr(explaining, "MAX_RECORDS", 3)
    told = explain(run, "same")
    assert (told.n, [one.row for one in told.records]) == (4, [1, 3, 5])


def test_unknown_ids_are_refused(make_data: Make, tiny: str) -> None:
    run = score(make_data(5), tiny)
    with pytest.raises(UsageError, match="no record has an empty id; one without an id is named by its row"):
        explain(run, "")
    for name in (
        "R3",
        "r3 ",
        "image_readability",
        "*",
        "r99" * 1000,
        "'; drop",
        "\udcff",
        "row:x",
        "row:-1",
    ):
        with pytest.raises(UsageError, match="has the id"):
            explain(run, name)


def test_near_ids_are_proposed(make_data: Make, record: Any, tiny: str) -> None:
    lines = [record(i) | {"id": name} for i, name in enumerate(("espresso-caption", "pasta-chat", "x" * 500))]
    run = score(make_data(lines=lines), tiny)
    with pytest.raises(UsageError, match=r"'espreso-caption'; did you mean espresso-caption\?"):
        explain(run, "espreso-caption")
    with pytest.raises(UsageError, match="name it by its row, as in row:17"):
        explain(run, "zzz")
    assert only(run, "x" * 500).row == 2


def test_unreadable_records_and_their_issues(messy: Path, tiny: str) -> None:
    run = score(messy, tiny)
    filter_run(run, [Rule(HasIssue.parse("error")), LOW])
    one = only(run, "row:1")
    assert (one.state, one.fate, one.failed, one.passed) == ("unreadable", "unreadable", [], [])
    assert [issue["kind"] for issue in one.issues] == ["malformed_record"]
    assert all(str(metric.reason).startswith("record unreadable") for metric in one.metrics)
    lost = only(run, "r2")
    assert lost.fate == "dropped"
    assert any(issue["kind"] == "missing_image" for issue in lost.issues)
    (compared,) = [c for rule in lost.passed for c in rule.compared if c.column == "image_readability"]
    assert (compared.value, compared.distance) == (None, None)


def test_what_was_not_selected_says_why(make_data: Make, tiny: str) -> None:
    run = score(make_data(12), tiny)
    result = filter_run(run, selection=Selection(keep="3", diversity="none"), must_keep=["r4"])
    left = int(np.flatnonzero(~result.kept)[0])
    one = only(run, f"row:{left}")
    assert (one.fate, one.failed, one.must_keep) == ("dropped", [], False)
    assert one.why
    kept = only(run, "r4")
    assert (kept.fate, kept.why, kept.must_keep) == ("kept", None, True)


def test_duplicates_name_the_first_of_them(make_data: Make, record: Any, profile_file: Any) -> None:
    make_data(4)
    lines = [record(0, "0.png"), record(1, "1.png"), record(1, "1.png") | {"id": "copy"}, record(2, "2.png")]
    run = score(make_data(lines=lines), profile_file("[metrics.duplicates]\n"))
    one = only(run, "copy")
    assert one.duplicates is not None
    assert (one.duplicates.size, one.duplicates.kind) == (2, "exact")
    assert {key: one.duplicates.first[key] for key in ("row", "id", "line")} == {
        "row": 1,
        "id": "r1",
        "line": 2,
    }
    assert only(run, "r2").duplicates is None


def test_the_newest_filter_speaks_and_another_can_be_named(
    make_data: Make, tiny: str, tmp_path: Path
) -> None:
    run = score(make_data(4), tiny)
    first = filter_run(run, [Rule(Threshold.parse("n_turns=0", "above"))], out=tmp_path / "one")
    (tmp_path / "own.toml").write_text('title = "Own"\n[[rules]]\ndrop = { metric = "n_turns", above = 9 }\n')
    second = filter_run(run, recipe=recipes.load(tmp_path / "own.toml"), out=tmp_path / "two")
    told = explain(run, "r1")
    assert told.decisions == str(second.written["decisions"])
    assert told.recipe is not None
    assert told.recipe["title"] == "Own"
    assert told.records[0].fate == "kept"
    assert only(run, "r1", decisions=first.written["decisions"]).fate == "dropped"
    second.written["decisions"].unlink()
    assert explain(run, "r1").decisions == str(first.written["decisions"])
    (run.path / "filters.json").unlink()
    assert explain(run, "r1").decisions is None
    beside = filter_run(run, [Rule(Threshold.parse("n_turns=0", "above"))])
    (run.path / "filters.json").unlink()
    assert explain(run, "r1").decisions == str(beside.written["decisions"])


def test_no_fate_is_told_of_decisions_that_no_finished_filter_names(make_data: Make, tiny: str) -> None:
    run = score(make_data(4), tiny)
    result = filter_run(run, [LOW])
    for name in ("filter", "decisions"):
        path = result.written[name]
        whole = path.read_bytes()
        for damage in (b"{", b"[]", b'{"written": {"decisions": {"sha256": "0"}}}', None):
            if name == "decisions":
                path.write_bytes(whole[:8] + (damage or b"\xff") * 9 + whole[40:])
            elif damage is None:
                path.unlink()
            else:
                path.write_bytes(damage)
            told = explain(run, "r0", decisions=result.written["decisions"])
            assert "did not finish, or has changed since" in told.note
            assert "filter the run again" in told.note
            assert (told.records[0].fate, told.records[0].passed, told.recipe) == (None, [], None)
            assert told.records[0].metrics
        path.write_bytes(whole)
    assert explain(run, "r0").note == ""


@pytest.mark.parametrize("name", ["issues.parquet", "scores/part-00000.parquet"])
def test_a_damaged_run_is_one_sentence(make_data: Make, tiny: str, name: str) -> None:
    run = score(make_data(lines=[{"id": f"r{i}", "conversations": 3} for i in range(40)]), tiny)
    path = run.path / name
    whole = path.read_bytes()
    for at in range(4, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + b"\xff" * 40 + whole[at + 40 :])
        for call in (lambda: explain(run, "row:3"), lambda: filter_run(run, [LOW], dry_run=True)):
            try:
                call()
            except RunError as error:
                assert "cannot be read" in str(error)
                assert "score the data again" in str(error)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"cannot be read .*; score the data again"):
        explain(run, "row:3")


def test_decisions_on_other_scores_are_not_believed(make_data: Make, tiny: str, tmp_path: Path) -> None:
    path = make_data(4)
    run = score(path, tiny)
    audit = filter_run(run, [LOW]).written["decisions"]
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])
    again = score(path, tiny)
    assert explain(again, "r1").decisions is None
    with pytest.raises(RunError, match="is no filter's decisions on the run"):
        explain(again, "r1", decisions=audit)
    for other in (tmp_path / "none.parquet", path, again.path / "issues.parquet"):
        with pytest.raises(RunError, match="is no filter's decisions on the run"):
            explain(again, "r1", decisions=other)
