"""Properties of the whole filter under any rules: a run goes in, and what comes out is its input, divided.

The run is a real one with columns put in by hand, so that scores are tied and missing, groups are small and large,
and names are odd.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from partition import assert_divided

import vlitqc
from vlitqc.engine.run import Run
from vlitqc.errors import UsageError
from vlitqc.filtering.request import filtered
from vlitqc.filtering.rules import Condition, Rule
from vlitqc.filtering.table import ScoreTable

ODD = "a column, = 'of' sorts"
N = 70
UNREADABLE = {3, 11, 40, 69}

quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
writing = settings(parent=quick, max_examples=5)


# ---------------------------------------------------------------- the run


def _pieces(record: Callable[..., dict[str, Any]], *, cut: bool) -> list[bytes]:
    """Records with and without a picture, and with faults; some of them written as no serialiser writes."""
    pieces = []
    for i in range(N):
        made = record(i, f"{i % 5}.png" if i % 3 else None, note="é漢" * (i % 2), source=f"s{i % 2}")
        if i % 9 == 4:
            made["conversations"][1]["value"] = ""
        if i % 13 == 6:
            made["image"] = "nowhere.png"
        text = json.dumps(made, ensure_ascii=i % 4 == 0, separators=(" ,", ":  ") if i % 5 == 0 else None)
        pieces.append(text.encode())
    for i in UNREADABLE:
        pieces[i] = pieces[i][: len(pieces[i]) // 2] if cut else b"[%d]" % i
    return pieces


LAYOUTS: dict[str, Callable[[list[bytes]], bytes]] = {
    "data.jsonl": b"\n".join,  # no newline at the end
    "data.json": lambda pieces: b"[ " + b" ,\n\t".join(pieces) + b"]\n",
    "data.jsonl.gz": lambda pieces: gzip.compress(b"".join(piece + b"\n" for piece in pieces)),
}


@dataclass(frozen=True)
class Scored:
    path: Path
    run: Run


def _with_columns(run: Run) -> Run:
    """The run, opened again, once its scores have a task, and columns with ties and holes."""
    i = np.arange(N)
    rng = np.random.default_rng(5)
    more = pl.DataFrame(
        {
            "row": i,
            "task": [None if k % 17 == 5 else ("qa", "qa", "ocr", "caption")[k % 4] for k in i],
            "a": pl.Series(np.where(i % 7 == 2, np.nan, rng.normal(size=N).round(1)), nan_to_null=True),
            "b": np.where(i % 5 == 1, np.nan, i % 6),  # what is missing is NaN here, as it may be in a run
        }
    ).with_columns((pl.col("a") * 100).alias(ODD))
    for part in sorted((run.path / "scores").glob("part-*.parquet")):
        pl.read_parquet(part).join(more, on="row", how="left", maintain_order="left").write_parquet(part)
    return Run.open(run.path)


@pytest.fixture(scope="module")
def scored(
    tmp_path_factory: pytest.TempPathFactory,
    record: Callable[..., dict[str, Any]],
    picture: Callable[[int], bytes],
    tiny: str,
) -> dict[str, Scored]:
    runs = {}
    for name, layout in LAYOUTS.items():
        home = tmp_path_factory.mktemp("set")
        for i in range(5):
            (home / f"{i}.png").write_bytes(picture(i))
        path = home / name
        path.write_bytes(layout(_pieces(record, cut="jsonl" in name)))
        runs[name] = Scored(path, _with_columns(vlitqc.score(path, tiny, report=False)))
    return runs


# ---------------------------------------------------------------- any rules

NUMBERS = ["a", "b", ODD, "image_readability", "n_turns"]
absolute = st.floats(-3, 6).map(lambda x: f"{x:.2f}")
percentile = st.floats(0, 100).map(lambda x: f"p{x:.2f}")
spread = st.builds("{}{:.2f}".format, st.sampled_from(["z", "mad"]), st.floats(0, 3))
groups = st.sampled_from([None, "task", "source"])
thresholds = st.builds(
    lambda column, side, level, by: vlitqc.Threshold(column, side, vlitqc.Level.parse(level), by),
    st.sampled_from(NUMBERS),
    st.sampled_from(["below", "above"]),
    st.one_of(absolute, percentile, spread),
    groups,
)
issues = st.sampled_from(["error", "empty_turn", "missing_image", "image_token_mismatch", "small_image"])


def _column(name: str) -> str:
    return f"`{name}`" if name == ODD else name


signed = st.builds("{}{:+.2f}".format, st.sampled_from(["z", "mad"]), st.floats(-3, 3))
comparisons = st.builds(
    "{} {} {}".format,
    st.sampled_from([_column(name) for name in NUMBERS]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.one_of(absolute, percentile, signed),
)
phrases = st.one_of(
    comparisons,
    st.builds("{} <= {} < {}".format, absolute, st.sampled_from(["a", "b"]), absolute),
    st.builds("a {} b >= {}".format, st.sampled_from(["+", "-", "*", "/"]), absolute),
    st.sampled_from(
        [
            "text_only",
            'task == "qa"',
            'task in ["qa", "ocr"]',
            "source not in ['s1']",
            '"empty_turn" in issues',
            "a is missing",
            "task is not missing",
        ]
    ),
)
expressions = st.recursive(
    phrases,
    lambda inner: st.one_of(
        st.builds("not ({})".format, inner),
        st.builds("({}) {} ({})".format, inner, st.sampled_from(["and", "or"]), inner),
    ),
    max_leaves=4,
)
simple: st.SearchStrategy[Condition] = st.one_of(
    thresholds, issues.map(vlitqc.HasIssue.parse), st.builds(vlitqc.Where, expressions, groups)
)
conditions: st.SearchStrategy[Condition] = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds(vlitqc.Not, inner),
        st.builds(vlitqc.And, st.tuples(inner, inner)),
        st.builds(vlitqc.Or, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=4,
)
rules = st.builds(Rule, conditions, st.sampled_from(["keep", "drop"]))
selections = st.builds(
    vlitqc.Selection,
    keep=st.one_of(
        st.none(), st.integers(1, N).map(str), st.floats(1, 100).map(lambda share: f"{share:.1f}%")
    ),
    balance=st.sampled_from([None, "task"]),
    quotas=st.dictionaries(st.sampled_from(["qa", "ocr", "caption"]), st.integers(1, 20), max_size=2),
).filter(lambda selection: selection.keep or selection.balance or selection.quotas)
readable_ids = st.sampled_from([f"r{i}" for i in range(N) if i not in UNREADABLE])


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Keywords for ``vlitqc.filter`` and ``Run.filter``."""
    asked: dict[str, Any] = {"rules": draw(st.lists(rules, min_size=1, max_size=4))}
    if draw(st.booleans()):
        asked |= {"selection": draw(selections), "seed": draw(st.integers(0, 2**32))}
    # A share of the few records that rules may leave has no room for one that must be kept; a number has, for one.
    share = "selection" in asked and str(asked["selection"].keep).endswith("%")
    if not share and draw(st.booleans()):
        asked["must_keep"] = draw(st.lists(readable_ids, max_size=1 if "selection" in asked else 4))
    return asked


# ---------------------------------------------------------------- what always holds


@quick
@given(asked=requests())
def test_every_record_has_one_fate_and_the_audit_tells_why(
    scored: dict[str, Scored], asked: dict[str, Any]
) -> None:
    run = scored["data.jsonl"].run
    result = filtered(run, dry_run=True, **asked)
    decisions = result.decisions
    assert decisions["row"].tolist() == run.scores["row"].tolist()
    assert decisions["id"].tolist() == run.scores["id"].tolist()

    # Fates, counts and the mask say the same.
    assert decisions["fate"].value_counts().to_dict() == {k: n for k, n in result.counts.items() if n}
    assert decisions["kept"].tolist() == (decisions["fate"] == "kept").tolist()
    assert set(np.flatnonzero(decisions["fate"] == "unreadable")) == UNREADABLE
    mask = run.filter(**asked)
    assert (mask.name, mask.dtype) == ("kept", np.dtype(bool))
    pd.testing.assert_index_equal(mask.index, run.scores.index, check_names=False)
    assert mask.tolist() == decisions["kept"].tolist()
    assert len(run.scores[mask]) == result.counts["kept"]

    # The audit has every rule that a record fails, and the rules' counts are its counts.
    failed = [{entry["rule"] for entry in entries} for entries in decisions["rules_failed"]]
    readable = [words for row, words in enumerate(failed) if row not in UNREADABLE]
    for words, n in result.by_rule.items():
        assert sum(words in row for row in readable) == n
    assert set().union(*readable) <= {*result.by_rule, "not selected"}
    must = set(asked.get("must_keep", ()))
    assert decisions["must_keep"].tolist() == decisions["id"].isin(must).tolist()
    for kept, kept_anyway, words in zip(decisions["kept"], decisions["must_keep"], failed, strict=True):
        assert kept == (kept_anyway or not words)


@quick
@given(asked=requests())
def test_a_selection_takes_no_more_than_it_was_asked_for(
    scored: dict[str, Scored], asked: dict[str, Any]
) -> None:
    assume("selection" in asked)
    run, selection = scored["data.jsonl"].run, asked["selection"]
    pool = run.filter(**{**asked, "selection": None})
    kept = run.filter(**asked)
    assert not (kept & ~pool).any()
    must = run.scores["id"].isin(asked.get("must_keep", ()))
    if selection.keep is not None:
        share = selection.keep.removesuffix("%")
        most = int(share) if share == selection.keep else int(np.ceil(float(share) / 100 * pool.sum()))
        assert kept.sum() <= max(most, must.sum())
    for task, most in selection.quotas.items():
        mine = run.scores["task"] == task
        assert (kept & mine).sum() <= max(most, (must & mine).sum())


@writing
@given(asked=requests())
@pytest.mark.parametrize("name", LAYOUTS)
def test_kept_and_dropped_are_the_input_and_a_dry_run_tells_them(
    scored: dict[str, Scored], tmp_path_factory: pytest.TempPathFactory, name: str, asked: dict[str, Any]
) -> None:
    path, run = scored[name].path, scored[name].run
    before = path.read_bytes()
    dry = filtered(run, dry_run=True, **asked)
    assert dry.written == {}
    outs = [tmp_path_factory.mktemp("out") for _ in range(2)]
    one, two = (filtered(run, out=out, **asked) for out in outs)
    for real in (one, two):
        assert (real.counts, real.by_rule) == (dry.counts, dry.by_rule)
        pd.testing.assert_frame_equal(real.decisions, dry.decisions)
        audit = pl.read_parquet(real.written["decisions"])
        assert audit["fate"].to_list() == dry.decisions["fate"].tolist()
        assert_divided(path, audit["fate"], real.written)
    # The same seed gives the same files, but for the moment and the folder that are told.
    assert sorted(p.name for p in outs[0].iterdir()) == sorted(p.name for p in outs[1].iterdir())
    for file in outs[0].iterdir():
        if file.suffixes[-2:] != [".filter", ".json"]:
            assert file.read_bytes() == (outs[1] / file.name).read_bytes(), file.name
    assert path.read_bytes() == before


@quick
@given(
    asked=requests(),
    column=st.sampled_from(NUMBERS),
    kind=st.sampled_from(["", "p", "z", "mad"]),
    numbers=st.tuples(st.floats(0, 100), st.floats(0, 100)),
    by=groups,
    missing=st.sampled_from(["keep", "drop"]),
)
def test_a_tighter_threshold_never_keeps_more(
    scored: dict[str, Scored],
    asked: dict[str, Any],
    column: str,
    kind: str,
    numbers: tuple[float, float],
    by: str | None,
    missing: Any,
) -> None:
    run = scored["data.jsonl"].run
    asked = {"rules": asked["rules"], "by": by, "missing": missing}
    scale = {"p": 1, "": 20, "z": 40, "mad": 40}[kind]
    low, high = (f"{kind}{number / scale:.6g}" for number in sorted(numbers))
    # A distance from the centre is tighter where it is smaller, on both sides.
    looser = {"drop_below": high if kind in ("z", "mad") else low, "drop_above": high}
    for option, loose in looser.items():
        tight = low if loose == high else high
        more = run.filter(**{option: {column: loose}}, **asked)
        fewer = run.filter(**{option: {column: tight}}, **asked)
        assert not (fewer & ~more).any()
        assert not (more & ~run.filter(rules=asked["rules"])).any()


@quick
@given(condition=conditions)
def test_a_condition_is_true_false_or_unknown_of_a_record(scored: dict[str, Scored], condition: Any) -> None:
    run = scored["data.jsonl"].run
    readable = run.scores["state"] != "unreadable"
    true = readable & ~run.filter(rules=Rule(condition))
    false = readable & ~run.filter(rules=Rule(~condition))
    unknown = readable & ~true & ~false
    assert not (true & false).any()
    assert run.filter(rules=Rule(condition, "drop")).tolist() == false.tolist()
    assert run.filter(rules=Rule(~condition, "drop")).tolist() == true.tolist()
    if unknown.any():
        with pytest.raises(UsageError, match=f"{unknown.sum()} "):
            run.filter(rules=Rule(condition, "error"))
    else:
        assert run.filter(rules=Rule(condition, "error")).tolist() == (true ^ readable).tolist()


@quick
@given(one=conditions, two=conditions)
def test_operators_are_the_words_and_or_not(scored: dict[str, Scored], one: Any, two: Any) -> None:
    run = scored["data.jsonl"].run
    assert (one & two, one | two, ~one) == (vlitqc.And((one, two)), vlitqc.Or((one, two)), vlitqc.Not(one))
    # De Morgan, in three-valued logic.
    for left, right in ((~(one & two), ~one | ~two), (~(one | two), ~one & ~two)):
        for missing in ("keep", "drop"):
            assert run.filter(rules=Rule(left, missing)).equals(run.filter(rules=Rule(right, missing)))
    # Rules side by side drop what their "or" drops.
    assert run.filter(rules=[Rule(one), Rule(two)]).equals(run.filter(rules=Rule(one | two)))


def test_the_run_is_as_odd_as_it_is_meant_to_be(scored: dict[str, Scored]) -> None:
    for each in scored.values():
        scores = each.run.scores
        assert set(np.flatnonzero(scores["state"] == "unreadable")) == UNREADABLE
        assert scores["a"].isna().sum() == len([i for i in range(N) if i % 7 == 2])
        assert set(scores["task"].dropna()) == {"qa", "ocr", "caption"} and scores["task"].isna().any()
        assert {"s0", "s1"} <= set(scores["source"])
        assert {"empty_turn", "missing_image"} <= set(each.run.issues["kind"])
        assert ODD in ScoreTable.of(each.run).numbers
