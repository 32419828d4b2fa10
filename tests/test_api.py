"""The Python API as its docstring tells it."""

from __future__ import annotations

import functools
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vlitqc
from vlitqc.comparison.compare import Comparison
from vlitqc.errors import InputError, RunError, UnknownName, UsageError, VlitqcError
from vlitqc.filtering.request import Words, request
from vlitqc.types import Sample, Unreadable

Make = Callable[..., Path]


@pytest.fixture
def small_run(make_data: Make, record: Any, tiny: str) -> vlitqc.Run:
    """Nine records with a picture each, from two sources."""
    make_data(9)
    lines = [record(i, f"{i}.png", source="ab"[i % 2]) for i in range(9)]
    return vlitqc.score(make_data(lines=lines), tiny, report=False)


def test_score_a_file_then_filter_it(make_data: Make, tiny: str) -> None:
    path = make_data(30)
    run = vlitqc.score(path, tiny)
    assert isinstance(run, vlitqc.Run)
    assert run.path == path.parent / "data.vlitqc"
    assert isinstance(run.scores, pd.DataFrame)
    assert len(run.scores) == 30
    assert run.scorecard["counts"]["records"] == 30
    assert list(run.issues.columns) == ["kind", "severity", "detail", "file", "line", "row", "id"]
    assert (run.path / "report.html").stat().st_size > 1000
    pd.testing.assert_frame_equal(pd.read_parquet(run.path / "scores"), run.scores)

    result = vlitqc.filter(run, drop_below={"image_readability": "p10"})
    assert result.counts == {"kept": 27, "dropped": 3, "unreadable": 0}
    assert len(result.decisions) == 30
    assert list(result.decisions.columns) == [
        "row", "id", "file", "line", "fate", "kept", "must_keep", "rules_failed"
    ]  # fmt: skip
    assert result.written["kept"] == path.parent / "data.kept.jsonl"
    assert len(result.written["kept"].read_text().splitlines()) == 27
    again = vlitqc.filter(str(run.path), drop_below={"image_readability": "p10"}, dry_run=True)
    assert again.counts == result.counts
    pd.testing.assert_frame_equal(again.decisions, result.decisions)


def test_score_takes_texts_and_paths(make_data: Make, tiny: str, tmp_path: Path) -> None:
    path = make_data(2)
    run = vlitqc.score(str(path), tiny, out=str(tmp_path / "run"), image_root=str(path.parent), report=False)
    assert run.metrics()["image_readability"]["n_scored"] == 2


def test_score_records_from_memory(make_data: Make, record: Any, tiny: str, tmp_path: Path) -> None:
    root = make_data(3).parent
    records = [record(i, f"{i}.png", note="schön 漢字 \ud800") for i in range(3)]
    run = vlitqc.score(records, tiny, out=tmp_path / "run", image_root=root, report=False)
    assert run.scores["id"].tolist() == ["r0", "r1", "r2"]
    assert run.metrics()["image_readability"]["n_scored"] == 3
    assert set(run.issues["kind"]) <= {"broken_character", "small_image"}
    assert "schön 漢字" in (tmp_path / "run" / "input.jsonl").read_text(encoding="utf-8")
    again = vlitqc.score(records[:2], tiny, out=tmp_path / "run", image_root=root, report=False)
    assert len(again.scores) == 2


def test_records_from_memory_that_will_not_do(record: Any, tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="records without a file need out=DIR"):
        vlitqc.score([record(0)], tiny)
    with pytest.raises(UsageError, match=r"cannot be written as JSON: .*ndarray"):
        vlitqc.score([record(0, image=np.zeros(3))], tiny, out=tmp_path / "a")
    with pytest.raises(UsageError, match="no records"):
        vlitqc.score([], tiny, out=tmp_path / "b")


def test_records_may_come_from_a_generator_and_one_name_as_a_text(
    record: Any, tiny: str, tmp_path: Path
) -> None:
    run = vlitqc.score((record(i) for i in range(3)), tiny, metrics="composition", out=tmp_path / "run")
    assert run.scores["id"].tolist() == ["r0", "r1", "r2"]
    assert set(run.metrics()) == {"composition"}
    assert vlitqc.filter(run, drop_issues="error", dry_run=True).counts["kept"] == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"id": "1"}, "is a single record; pass a list of records"),
        (5, "is of type int; pass a path"),
        (None, "is of type NoneType; pass a path"),
        (b"data.jsonl", "is of type bytes; pass a path"),
        (
            pd.DataFrame({"id": ["1"]}),
            r"is a table in memory; pass its records, as in df.to_dict\('records'\)",
        ),
        ([{"id": "1"}, 5], "a record is of type int; pass dicts"),
        (iter(()), "there are no records"),
    ],
)
def test_what_is_no_data_is_said(data: Any, message: str, tiny: str, tmp_path: Path) -> None:
    for call in (vlitqc.score, vlitqc.inspect):
        with pytest.raises(UsageError, match=message):
            call(data, **({"profile": tiny, "out": tmp_path / "run"} if call is vlitqc.score else {}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"drop_above": "image_readability=p10"},
            "drop_above='image_readability=p10': expected levels by metric",
        ),
        ({"drop_below": 5}, "drop_below=5: expected levels by metric, as in {'matching_degree': 'p10'}"),
        ({"drop_below": {"n_turns": None}}, "drop_below: None is no level; expected a number, or a text"),
        ({"drop_below": {"n_turns": True}}, "drop_below: True is no level"),
        ({"drop_below": {"n_turns": "ten"}}, "'ten' is no level: expected a number"),
        ({"drop_below": {"n_turns": float("nan")}}, "'nan' is no level"),
        ({"drop_below": {"n_turns": 10**5000}}, "is no level: expected a number"),
        ({"drop_below": {"n_turns": 1}, "by": "tasks"}, "'tasks'"),
        ({"drop_below": {"n_turns": 1}, "by": ""}, "'' is no name of a column"),
        ({"where": "n_turns > 1", "by": "n_turns"}, "--by n_turns: groups need a column of text"),
        ({"where": "n_turns > mad3"}, "a level in an expression has its side: mad-3 or mad+3"),
        ({"where": "source == '\ud800'"}, "half of a surrogate pair is no character"),
        ({"quotas": "t=" + "9" * 5000}, "expected TASK=N"),
        ({"balance": ""}, "balance='': expected the name of a column"),
        ({"drop_below": {1: 1}}, "1 is of type int; expected a name"),
        ({"drop_below": {"n_turn": 1}}, "did you mean n_turns"),
        ({"drop_issues": 5}, "drop_issues=5: expected a text or several"),
        ({"drop_issues": [5]}, "drop_issues: 5 is of type int; expected a text"),
        ({"drop_issues": "empty_turns"}, "did you mean empty_turn"),
        ({"where": {"n_turns": 1}}, "where={'n_turns': 1}: expected a text or several"),
        ({"where": "n_turns +"}, "n_turns"),
        ({"rules": "text_only"}, "rules='text_only': expected rules, as in [vlitqc.Rule("),
        ({"rules": [vlitqc.Where("text_only")]}, "is a Where; expected vlitqc.Rule(condition)"),
        ({"recipe": "cleen"}, "did you mean clean"),
        ({"recipe": 5}, "recipe=5: expected a recipe's name or path"),
        ({"by": 5, "where": "text_only"}, "by=5: expected the name of a column"),
        ({"missing": "keeep"}, "no way with missing scores is called 'keeep'; did you mean keep"),
        ({"selection": "20%"}, "selection='20%': expected vlitqc.Selection(…)"),
        ({"keep": 0.2}, "keep=0.2: expected a number of records, or a share such as '20%'"),
        ({"keep": True}, "keep=True: expected a number of records"),
        ({"keep": 10**5000}, "keep: expected a number of records"),
        ({"balance": True}, "balance=True: expected the name of a column"),
        (
            {"quotas": {"ocr": "many"}},
            "--quota ocr=many (quotas): expected TASK=N, at most so many records of a task, as in ocr=2000",
        ),
        ({"quotas": {"ocr": True}}, "--quota ocr=True (quotas): expected TASK=N"),
        ({"quotas": {"ocr": -1}}, "--quota ocr=-1 (quotas): expected TASK=N"),
        ({"by": "source"}, "by=source: no rule here takes it"),
        ({"missing": "drop", "recipe": "clean"}, "missing=drop: no rule here takes it"),
        ({"quotas": 5}, "quotas=5: expected a text or several"),
        ({"diversity": "greed"}, "did you mean greedy"),
        ({"must_keep": 5}, "must_keep=5: expected a text or several"),
        ({"must_keep": b"r1"}, "must_keep=b'r1': expected a text or several"),
        ({"seed": -1}, "seed=-1: expected a whole number, 0 or more"),
        ({"seed": "0"}, "seed='0': expected a whole number, 0 or more"),
        ({"recommended": True}, "floor"),
    ],
)
def test_what_is_wrong_with_a_filter_is_said(
    small_run: vlitqc.Run, asked: dict[str, Any], message: str
) -> None:
    files = sorted(small_run.path.parent.iterdir())
    for call in (small_run.filter, functools.partial(vlitqc.filter, small_run)):
        with pytest.raises(UsageError, match=re.escape(message)):
            call(**asked)
    assert sorted(small_run.path.parent.iterdir()) == files


def test_a_filter_knows_its_keywords(small_run: vlitqc.Run) -> None:
    wrong: Any = {"keeep": 5}
    for call in (small_run.filter, functools.partial(vlitqc.filter, small_run)):
        with pytest.raises(TypeError, match="keeep"):
            call(**wrong)
    words = set(inspect.signature(vlitqc.filter).parameters) - {
        "run", "out", "dry_run", "effect", "principles", "seed"
    }  # fmt: skip
    assert words == Words.__optional_keys__ == set(inspect.signature(request).parameters) - {"run"}


def test_a_mask_says_which_records_stay_and_writes_nothing(small_run: vlitqc.Run) -> None:
    files = sorted(small_run.path.parent.iterdir())
    values = small_run.scores["image_readability"]
    level = float(values.iloc[4])
    mask = small_run.filter(drop_below={"image_readability": level})
    assert (mask.name, mask.dtype) == ("kept", np.dtype(bool))
    assert mask.index.tolist() == small_run.scores["row"].tolist()
    assert mask.tolist() == (values >= level).tolist()
    assert 0 < mask.sum() < len(mask)
    for same in (
        small_run.filter(where=f"image_readability >= {level!r}"),
        small_run.filter(where=[f"image_readability >= {level!r}", "n_turns > 0"]),
        small_run.filter(
            rules=vlitqc.Rule(vlitqc.Threshold("image_readability", "below", vlitqc.Level("at", level)))
        ),
        small_run.filter(rules=[vlitqc.Rule(~vlitqc.Where(f"image_readability >= {level!r}"))]),
    ):
        pd.testing.assert_series_equal(same, mask)
    assert len(small_run.scores[mask]) == mask.sum()
    assert sorted(small_run.path.parent.iterdir()) == files


def test_texts_and_mappings_are_the_same_words(small_run: vlitqc.Run) -> None:
    one = request(
        small_run,
        drop_below={"n_turns": 1, "image_readability": "p10"},
        drop_above={"n_media": "mad3"},
        quotas={"a=b": 5},
        by="source",
    )
    two = request(
        small_run,
        drop_below=["n_turns=1", "image_readability=p10"],
        drop_above=["n_media=mad3"],
        quotas=["a=b=5"],
        by="source",
    )
    assert one == two
    assert [rule.drop for rule in one.rules] == [
        vlitqc.Threshold("n_turns", "below", vlitqc.Level("at", 1.0), "source"),
        vlitqc.Threshold("image_readability", "below", vlitqc.Level("p", 10.0), "source"),
        vlitqc.Threshold("n_media", "above", vlitqc.Level("mad", 3.0), "source"),
    ]
    with pytest.raises(UsageError, match=re.escape("--quota ocr=x (quotas): expected TASK=N")):
        request(small_run, quotas=["ocr=x"])


def test_words_become_rules_in_their_order(small_run: vlitqc.Run) -> None:
    own = vlitqc.Rule(vlitqc.HasIssue.parse("empty_turn"), "keep", "nothing is said")
    asked = request(
        small_run,
        rules=own,
        where="text_only",
        drop_issues="error",
        drop_above={"n_turns": 3},
        missing="drop",
        by="source",
    )
    assert asked.rules == (
        vlitqc.Rule(vlitqc.Threshold("n_turns", "above", vlitqc.Level("at", 3.0), "source"), "drop"),
        vlitqc.Rule(vlitqc.HasIssue.parse("error"), "drop"),
        vlitqc.Rule(vlitqc.Not(vlitqc.Where("text_only", by="source")), "drop"),
        own,
    )
    assert (asked.recipe, asked.selection, asked.must_keep) == (None, None, ())


def test_a_filter_of_nothing_is_clean_and_a_number_to_keep_is_a_subset(small_run: vlitqc.Run) -> None:
    def recipe_of(**words: Any) -> str | None:
        recipe = request(small_run, **words).recipe
        return recipe.name if recipe else None

    assert recipe_of() == recipe_of(must_keep="r1") == "clean"
    assert recipe_of(balance="source") == recipe_of(selection=vlitqc.Selection()) == "clean"
    assert recipe_of(keep=5) == recipe_of(keep="5%", balance="source") == "subset"
    assert recipe_of(keep=5, recipe="clean") == "clean"
    assert recipe_of(keep=5, where="text_only") is None
    assert recipe_of(where="text_only", recipe="dedup") == "dedup"

    subset = request(small_run, recipe="subset").selection
    assert subset is not None
    assert request(small_run, keep="30%").selection == replace(subset, keep="30%")
    # Equal groups are cut to their median, not to the fifth that the recipe takes.
    assert request(small_run, balance="source").selection == vlitqc.Selection(balance="source")
    by_hand = vlitqc.Selection(tau=0.8, diversity="none")
    changed = request(small_run, selection=by_hand, keep=7, balance="task", quotas={"a": 1}).selection
    assert changed == vlitqc.Selection("7", "task", {"a": 1}, "none", 0.8)
    assert request(small_run, diversity="facility_location", where="text_only").selection == vlitqc.Selection(
        diversity="facility_location"
    )


def test_what_must_be_kept_is_kept_and_missing_scores_go_where_it_is_said(
    make_data: Make, record: Any, tiny: str
) -> None:
    path = make_data(4)
    run = vlitqc.score(
        make_data(lines=[*(record(i, f"{i}.png") for i in range(4)), record(4)]), tiny, report=False
    )
    assert path == Path(run.info["input"]["paths"][0])
    high = {"image_readability": 1e9}
    assert run.filter(drop_below=high).tolist() == [False] * 4 + [True]
    assert not run.filter(drop_below=high, missing="drop").any()
    with pytest.raises(UsageError, match="r4"):
        run.filter(drop_below=high, missing="error")
    assert run.filter(drop_below=high, must_keep=["r2", "r0"]).tolist() == [True, False, True, False, True]
    with pytest.raises(UsageError, match="no record of this run has that id"):
        run.filter(drop_below=high, must_keep="nobody")


def test_a_run_gives_back_its_records_and_pictures(messy: Path, tiny: str) -> None:
    run = vlitqc.Run.open(vlitqc.score(messy, tiny, report=False).path)
    many = run.record(6)
    assert isinstance(many, Sample)
    assert (many.id, [m.reference for m in many.media]) == ("r6", ["1.png", "2.png"])
    shapes = [image.pixels.shape for image in run.images(many) if image.pixels is not None]
    assert shapes == [(48, 48, 3)] * 2
    assert isinstance(run.record(1), Unreadable)
    embedded, missing = run.record(7), run.record(2)
    assert isinstance(embedded, Sample)
    assert isinstance(missing, Sample)
    assert run.images(embedded)[0].pixels is not None
    assert str(run.images(missing)[0].fault).startswith("missing")
    for row in (-1, len(run.scores)):
        with pytest.raises(RunError, match=f"has no row {row}; its rows are 0 to {len(run.scores) - 1}"):
            run.record(row)


def test_a_changed_input_is_not_read(make_data: Make, tiny: str) -> None:
    path = make_data(3)
    run = vlitqc.score(path, tiny, report=False)
    path.write_bytes(path.read_bytes().replace(b"grey", b"gray"))
    with pytest.raises(InputError, match="has changed since it was scored; run again"):
        run.record(0)
    path.unlink()
    with pytest.raises(InputError, match="is no longer there"):
        vlitqc.Run.open(run.path).record(0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "run.json").unlink(), "is not a run directory; make one with: vlitqc score DATA"),
        (lambda p: (p / "scorecard.json").unlink(), "did not finish"),
        (lambda p: (p / "run.json").write_text("{"), "cannot be read"),
        (lambda p: (p / "run.json").write_text("[]"), "was not written by vlitqc"),
        (lambda p: (p / "run.json").write_text("{}"), "was not written by vlitqc"),
        (lambda p: (p / "scorecard.json").write_text("{}"), "was not written by vlitqc"),
        (lambda p: (p / "scores" / "part-00000.parquet").write_bytes(b"PAR1"), "scores cannot be read"),
        (lambda p: (p / "issues.parquet").unlink(), "issues.parquet cannot be read"),
    ],
)
def test_a_damaged_run_is_a_run_error(
    make_data: Make, tiny: str, spoil: Callable[[Path], Any], message: str
) -> None:
    run = vlitqc.score(make_data(2), tiny, report=False)
    spoil(run.path)
    with pytest.raises(RunError, match=message):
        _ = vlitqc.Run.open(run.path).scores, vlitqc.Run.open(run.path).issues


def test_errors_of_ours_share_a_base(tmp_path: Path, tiny: str) -> None:
    for wrong in (
        lambda: vlitqc.score(tmp_path / "absent.jsonl", tiny),
        lambda: vlitqc.score(tmp_path, tiny),
        lambda: vlitqc.Run.open(tmp_path),
        lambda: vlitqc.filter(tmp_path, recommended=True),
    ):
        with pytest.raises(VlitqcError):
            wrong()


def test_progress_is_told(make_data: Make, tiny: str) -> None:
    class Told:
        def __init__(self) -> None:
            self.done: list[tuple[int, float | None]] = []
            self.stages: list[str] = []

        def records(self, done: int, share: float | None) -> None:
            self.done.append((done, share))

        def stage(self, name: str) -> None:
            self.stages.append(name)

    told = Told()
    path = make_data(40)
    vlitqc.score(path, tiny, progress=told, report=False)
    size = path.stat().st_size
    assert [done for done, _ in told.done] == [32, 40]
    assert told.done[-1] == (40, (size - 1) / size)
    assert told.stages == ["Image readability", "Correctness", "Text-only share"]


def test_a_report_can_be_written_elsewhere(make_data: Make, tiny: str, tmp_path: Path) -> None:
    run = vlitqc.score(make_data(2), tiny, report=False)
    assert not (run.path / "report.html").exists()
    assert run.report(tmp_path / "page.html") == tmp_path / "page.html"
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!")


def test_a_report_may_be_a_folder_and_goes_when_the_data_is_scored_again(make_data: Make, tiny: str) -> None:
    run = vlitqc.score(make_data(2), tiny, report=False)
    index = run.path / "report" / "index.html"
    assert run.report(folder=True) == index
    assert len(list((run.path / "report" / "pictures").iterdir())) == 2
    again = vlitqc.score(make_data(3), tiny, report=False)
    assert not index.exists()
    assert again.report(folder=True) == index
    assert len(list((run.path / "report" / "pictures").iterdir())) == 3


def test_a_comparison_overwrites_nothing_of_its_data_sets(small_run: vlitqc.Run) -> None:
    found = Comparison({"sets": [{"run": str(small_run.path)}]})
    data = Path(small_run.info["input"]["paths"][0])
    for out, told in ((data, "the input"), (small_run.path / "run.json", "the run"), (".", "no name")):
        with pytest.raises(UsageError, match=told):
            found.write(out)


def test_what_is_in_the_place_of_a_report_stays(make_data: Make, tiny: str) -> None:
    path = make_data(2)
    run = vlitqc.score(path, tiny, report=False)
    (run.path / "report").write_text("mine")
    (run.path / "report.html").mkdir()
    (run.path / "scorecard.md").symlink_to("nowhere")
    again = vlitqc.score(path, tiny, report=False)
    assert again.scorecard["counts"] == run.scorecard["counts"]
    with pytest.raises(UsageError, match=r"report.html is a folder, where a file would go"):
        vlitqc.score(path, tiny)
    assert vlitqc.Run.open(run.path).scorecard["counts"] == run.scorecard["counts"]
    with pytest.raises(
        UsageError, match=r"report is a file where a report has a folder|is no report of vlitqc"
    ):
        again.report(folder=True)
    assert (run.path / "report").read_text() == "mine"
    assert again.report(form="markdown").read_text().startswith("## Quality")


def test_import_is_cheap_and_names_are_listed() -> None:
    code = (
        "import json, sys, vlitqc\n"
        "heavy = [m for m in ('numpy', 'pandas', 'polars', 'lark', 'torch') if m in sys.modules]\n"
        "print(json.dumps([heavy, {name: getattr(vlitqc, name).__name__ for name in vlitqc.__all__}]))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy, names = json.loads(told.stdout)
    assert heavy == []
    assert list(names) == list(names.values()) == sorted(names)
    assert {"Rule", "Run", "Selection", "Threshold", "Where", "filter", "score"} <= set(names)
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        _ = vlitqc.scores


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: (p / "scores" / "part-00000.parquet").write_bytes(b"PAR1"),
        lambda p: (p / "issues.parquet").unlink(),
        lambda p: (p / "scores" / "part-00000.parquet").unlink(),
    ],
)
def test_a_damaged_run_is_not_filtered(make_data: Make, tiny: str, spoil: Callable[[Path], Any]) -> None:
    run = vlitqc.score(make_data(2), tiny, report=False)
    spoil(run.path)
    with pytest.raises(RunError, match=r"cannot be read \(.*score the data again"):
        run.filter(where="text_only")


def test_a_run_of_an_earlier_version_is_not_filtered(make_data: Make, tiny: str) -> None:
    run = vlitqc.score(make_data(2), tiny, report=False)
    (part,) = (run.path / "scores").glob("part-*.parquet")
    pd.read_parquet(part).drop(columns="n_media").to_parquet(part)
    with pytest.raises(RunError, match="is of an earlier version; score the data again"):
        run.filter(where="text_only")


def test_a_long_list_of_known_names_is_cut() -> None:
    known = [f"name_{i:02}" for i in range(15)]
    assert str(UnknownName("thing", "?", known)).endswith("; known: " + ", ".join(known[:12]) + " and 3 more")
    assert str(UnknownName("thing", "?", known[:12])).endswith(", name_11")
    assert str(UnknownName("thing", "name_1", ["name_1x"], "so there")).endswith("name_1x?; so there")


def test_an_effect_may_leave_the_scorecard_out(small_run: vlitqc.Run) -> None:
    told = vlitqc.filter(small_run, where="id != 'r0'", dry_run=True, effect=True, principles=False).effect
    assert told is not None
    assert (told.principles, told.note) == ((), "not asked for")
