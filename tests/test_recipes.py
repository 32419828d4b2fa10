"""Recipes: the shipped ones on a messy run and by hand, one file in three languages, and files that do not fit."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import vlitqc
from vlitqc.analysis.issues import KINDS
from vlitqc.errors import RunError, UnknownName, UsageError, VlitqcError
from vlitqc.filtering import recipes
from vlitqc.filtering.conditions import And, HasIssue, Not, Or, Threshold, Where
from vlitqc.filtering.decisions import decide
from vlitqc.filtering.levels import Level
from vlitqc.filtering.rules import Rule
from vlitqc.filtering.selection import Selection
from vlitqc.filtering.table import ScoreTable

SHIPPED = ["align", "clean", "dedup", "judge", "paper", "subset"]
ROOT = Path(__file__).resolve().parents[1]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a recipe file and returns its path."""

    def put(text: str | bytes, name: str = "own.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return put


def metric(n_scored: int = 1, floor: float | None = None) -> dict[str, Any]:
    return {"n_scored": n_scored, "floor": floor}


def table(rows: int = 0, *, issues: list[tuple[int, str, str]] | None = None, **columns: Any) -> ScoreTable:
    """A table of scores made by hand."""
    n = rows or len(next(iter(columns.values())))
    frame = pl.DataFrame(
        {"row": range(n), "id": [f"r{i}" for i in range(n)], "state": ["scored"] * n, **columns}
    )
    schema = {"row": pl.Int64, "kind": pl.String, "severity": pl.String}
    return ScoreTable(frame.lazy(), pl.DataFrame(issues or [], schema, orient="row"))


def dropped(recipe: recipes.Recipe, scores: ScoreTable, metrics: dict[str, Any]) -> list[bool]:
    found: list[bool] = (decide(scores, recipe.rules_for(metrics)).failed > 0).tolist()
    return found


# ---------------------------------------------------------------- the shipped ones


def test_these_recipes_are_shipped() -> None:
    assert recipes.names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_documented(name: str) -> None:
    recipe = recipes.load(name)
    text = (resources.files(recipes) / f"{name}.toml").read_text()
    assert recipe.text == text
    assert text.startswith(f"# {name}: ")
    assert recipe.name == name
    assert recipe.title
    assert len(recipe.summary.split()) > 30
    assert (
        "eaves alone" in recipe.summary
        or "does not promise" in recipe.summary
        or "sound records" in recipe.summary
    )
    assert all(rule.because.endswith(".") for rule in recipe.rules)
    # Nothing goes for want of a score, and a comment stands beside every number.
    assert {rule.missing for rule in recipe.rules} == {"keep"}
    for block in text.split("[[rules]]")[1:]:
        assert "#" in block or not any(c.isdigit() for c in block), block
    assert f"### `{name}`" in (ROOT / "docs/filtering.md").read_text()


def test_the_rules_of_clean_look_at_no_score() -> None:
    for rule in recipes.load("clean").rules:
        assert set(rule.condition) <= {"issue", "severity"}
    for name in ("align", "judge", "paper", "subset"):
        assert recipes.load(name).extends[0].name == "clean"
    assert recipes.load("dedup").extends == ()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rules_have_short_names(name: str) -> None:
    names = [rule.name for rule in recipes.load(name).rules]
    assert all(0 < len(name) <= 20 for name in names)
    assert len({*names}) == len(names)


def test_the_name_of_a_rule_is_beside_its_words(write: Write) -> None:
    recipe = recipes.load(write('[[rules]]\ndrop = "m > 1"\nname = "many"\n[[rules]]\ndrop = "m > 2"'))
    decided = decide(table(m=[1.0, 2.0]), recipe.rules_for({}))
    assert [(rule.words, rule.name) for rule in decided.rules] == [("m > 1", "many"), ("m > 2", "")]
    assert decided.by_rule == {"m > 1": 1, "m > 2": 0}


def test_every_kind_that_a_recipe_names_is_one_of_ours() -> None:
    for name in SHIPPED:
        for rule in recipes.load(name).rules:
            if "issue" in rule.condition:
                kinds = rule.condition["issue"]
                assert {kinds} if isinstance(kinds, str) else set(kinds) <= KINDS.keys()


CLEAN_DROPS = {"missing", "truncated", "empty", "no_image"}
"""What ``clean`` drops of ``messy``: not ``outside`` and ``remote``, which only that run could not look at."""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_on_a_messy_run(
    messy: Path, tiny: str, messy_states: dict[str, str], name: str
) -> None:
    run = vlitqc.score(messy, tiny, report=False)
    decided = decide(ScoreTable.of(run), recipes.load(name).rules_for(run.metrics()))
    drops = {row for row, failed in zip(messy_states, decided.failed.tolist(), strict=True) if failed}
    assert drops == (set() if name == "dedup" else CLEAN_DROPS)
    assert decided.unreadable.tolist() == [state == "unreadable" for state in messy_states.values()]
    # This run has neither duplicates nor tasks, and it says so.
    told = recipes.load(name).left_out(run.metrics())
    assert any("has no metric duplicates" in line for line in told)
    assert len(told) == {"clean": 1, "dedup": 2, "align": 2, "judge": 2, "paper": 8, "subset": 1}[name]


def test_clean_drops_by_severity_and_keeps_what_only_the_run_could_not_see() -> None:
    issues = [
        (0, "empty_turn", "error"), (1, "empty_turn", "warning"),
        (2, "image_token_mismatch", "error"), (3, "image_token_mismatch", "note"),
        (4, "exact_duplicate", "error"), (5, "near_duplicate_text", "warning"),
        (6, "path_outside_root", "error"), (7, "remote_image", "error"), (8, "metric_error", "error"),
        (9, "unreadable_video", "error"), (10, "truncated_audio", "error"), (11, "missing_video", "error"),
        (12, "small_image", "note"), (12, "duplicate_id", "note"),
    ]  # fmt: skip
    scores = table(13, issues=issues)
    told = {"duplicates": metric()}
    gone = [i for i, drop in enumerate(dropped(recipes.load("clean"), scores, told)) if drop]
    assert gone == [0, 2, 4, 9, 10, 11]
    assert [i for i, drop in enumerate(dropped(recipes.load("dedup"), scores, told)) if drop] == [4, 5]


def test_align_exempts_texts_and_charts_and_what_has_no_task_or_no_score() -> None:
    tasks = [
        "captioning",
        "captioning",
        "captioning",
        "text_recognition",
        "chart_document",
        "ocr",
        None,
        "counting",
    ]
    degrees = [-10.5, -10.0, None, -50.0, -50.0, -50.0, -50.0, -50.0]
    scores = table(matching_degree=degrees, task=tasks)
    told = {"matching_degree": metric(floor=-10.0), "task_diversity": metric(), "duplicates": metric()}
    assert dropped(recipes.load("align"), scores, told) == [True, *[False] * 6, True]
    # Another profile, another scale; none, and the rule is left out and said.
    told["matching_degree"]["floor"] = -20.0
    assert dropped(recipes.load("align"), scores, told) == [*[False] * 7, True]
    told["matching_degree"]["floor"] = None
    assert not any(dropped(recipes.load("align"), scores, told))
    assert recipes.load("align").left_out(told) == [
        "recipe align, rule 1 is left out: the run's profile recommends no floor for matching_degree"
    ]


def test_the_exempt_tasks_are_in_the_taxonomy() -> None:
    taxonomy = tomllib.loads((ROOT / "vlitqc/models/task_taxonomy.toml").read_text())
    ids = {task["id"] for task in taxonomy["task"]}
    text = recipes.load("align").text
    exempt = {name for name in ids if f'"{name}"' in text}
    assert exempt == {"text_recognition", "chart_document", "text_chat"}


def test_judge_drops_where_less_than_half_of_the_turns_are_correct() -> None:
    scores = table(correctness=[0.0, 49.9, 50.0, 100.0, None])
    told = {"correctness": metric(), "duplicates": metric()}
    assert dropped(recipes.load("judge"), scores, told) == [True, True, False, False, False]


def test_paper_drops_the_emptiest_of_each_task_and_what_is_below_the_floors() -> None:
    n = 40
    scores = table(
        task=["a"] * n + ["b"] * n,
        granularity_complexity=[*range(n), *range(100, 100 + n)],
        text_readability=[1.0] * (2 * n - 1) + [-3.0],
        image_readability=[0.9] * n + [0.1] + [0.9] * (n - 1),
    )
    told = {
        "task_diversity": metric(),
        "granularity_complexity": metric(),
        "text_readability": metric(floor=-2.0),
        "image_readability": metric(floor=0.3),
        "instruction_complexity": metric(0),
    }
    gone = [i for i, drop in enumerate(dropped(recipes.load("paper"), scores, told)) if drop]
    # The 5th percentile of 40 numbers in a row lies between the second and the third.
    assert gone == [0, 1, n, n + 1, 2 * n - 1]


def test_subset_selects_a_fifth() -> None:
    assert recipes.load("subset").selection == Selection(keep="20%", diversity="greedy", tau=0.9)
    assert all(recipes.load(name).selection is None for name in SHIPPED if name != "subset")


# ---------------------------------------------------------------- what a file may say

TOML = """
name = "mine"
title = "A title"
summary = "A summary."
extends = ["dedup"]
floors = true
[[rules]]
drop = { metric = "matching_degree", below = 15, by = "task" }
missing = "drop"
because = "It says so."
[[rules]]
drop = { issue = ["exact_duplicate", "empty_turn"], severity = "error" }
[[rules]]
keep = "text_only or image_readability > p5"
missing = "error"
[[rules]]
drop = { and = [{ metric = "a", above = "p99" }, { not = { issue = "small_image" } }, { or = ["b > 1", "c < 2"] }] }
needs = ["a", "b"]
[[rules]]
drop = { where = "d > z2", by = "source" }
[[rules]]
drop = { severity = "error" }
[selection]
keep = 2000
balance = "task"
quotas = { ocr = 10 }
diversity = "none"
tau = 0.8
"""


def test_every_form_of_a_rule(write: Write) -> None:
    recipe = recipes.load(write(TOML))
    assert (recipe.name, recipe.title, recipe.summary, recipe.floors) == (
        "mine",
        "A title",
        "A summary.",
        True,
    )
    told = {name: metric(floor=None) for name in ("a", "b", "duplicates")} | {"m": metric(floor=2.5)}
    rules = recipe.rules_for(told)
    assert [rule.drop for rule in rules] == [
        HasIssue(("exact_duplicate",)),
        HasIssue(("near_duplicate_text",)),
        Threshold("matching_degree", "below", Level("at", 15.0), "task"),
        HasIssue(("exact_duplicate", "empty_turn"), "error"),
        Not(Where("text_only or image_readability > p5")),
        And((
            Threshold("a", "above", Level("p", 99.0)),
            Not(HasIssue(("small_image",))),
            Or((Where("b > 1"), Where("c < 2"))),
        )),
        Where("d > z2", "source"),
        HasIssue((), "error"),
        Threshold("m", "below", Level("at", 2.5)),
    ]  # fmt: skip
    assert [rule.missing for rule in rules[2:5]] == ["drop", "keep", "error"]
    assert rules[2].because == "It says so."
    assert recipe.selection == Selection("2000", "task", {"ocr": 10}, "none", 0.8)


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json", ".JSON"])
def test_yaml_and_json_say_the_same_as_toml(write: Write, suffix: str) -> None:
    content = tomllib.loads(TOML)
    text = json.dumps(content) if suffix.lower() == ".json" else yaml.safe_dump(content, sort_keys=False)
    one, other = recipes.load(write(TOML)), recipes.load(write(text, f"own{suffix}"))
    told = {name: metric() for name in ("a", "b", "duplicates")}
    assert other.rules_for({**told, "m": metric(floor=1.0)}) == one.rules_for(
        {**told, "m": metric(floor=1.0)}
    )
    assert (other.name, other.floors, other.selection) == (one.name, one.floors, one.selection)
    assert other.sha256 != one.sha256


def test_yaml_as_people_write_it(write: Write) -> None:
    text = """
    # a comment
    rules:
      - drop: {metric: m, below: p5}
        because: Low.
      - keep: m > 1 and "small_image" not in issues
    selection: {keep: 20%}
    """
    recipe = recipes.load(write(text, "by hand.yaml"))
    assert recipe.name == "by hand"
    assert recipe.rules_for({}) == [
        Rule(Threshold("m", "below", Level("p", 5.0)), because="Low."),
        Rule(Not(Where('m > 1 and "small_image" not in issues'))),
    ]
    assert recipe.selection == Selection(keep="20%")


def test_and_or_and_not_by_hand(write: Write) -> None:
    recipe = recipes.load(write(
        """
        [[rules]]
        drop = { and = [{ metric = "x", below = 2 }, { not = { or = ["y > 0", { issue = "small_image" }] } }] }
        """
    ))  # fmt: skip
    scores = table(
        x=[1, 1, 1, 2, None, None, 1],
        y=[0, 1, 0, 0, 0, 1, None],
        issues=[(2, "small_image", "note")],
    )
    # x < 2 and not (y > 0 or small): true; y; small; x; unknown and true; unknown and false; unknown.
    assert dropped(recipe, scores, {}) == [True, False, False, False, False, False, False]
    told = decide(scores, recipe.rules_for({}))
    assert told.unknown == (2,)
    missing = recipes.load(write(recipe.text.strip() + '\nmissing = "drop"'))
    assert dropped(missing, scores, {}) == [True, False, False, False, True, False, True]
    strict = recipes.load(write(recipe.text.strip() + '\nmissing = "error"'))
    with pytest.raises(UsageError, match="2 of the readable records"):
        decide(scores, strict.rules_for({}))


def test_keep_drops_where_it_is_false_and_not_where_it_is_unknown(write: Write) -> None:
    recipe = recipes.load(write('[[rules]]\nkeep = { metric = "x", above = 1 }'))
    assert dropped(recipe, table(x=[0.0, 1.0, 1.5, None]), {}) == [True, True, False, False]


def test_what_a_rule_needs(write: Write) -> None:
    recipe = recipes.load(write('[[rules]]\ndrop = { metric = "m", below = 1 }\nneeds = "m"'))
    path = recipe.rules[0].place.removesuffix(", rule 1")
    assert len(recipe.rules_for({"m": metric()})) == 1
    assert recipe.left_out({"m": metric()}) == []
    assert recipe.rules_for({}) == recipe.rules_for({"m": metric(0)}) == []
    assert recipe.left_out({}) == [f"{path}, rule 1 is left out: this run has no metric m"]
    assert recipe.left_out({"m": metric(0)}) == [f"{path}, rule 1 is left out: no record has a score of m"]
    unasked = recipes.load(write('[[rules]]\ndrop = { metric = "m", below = 1 }'))
    with pytest.raises(UnknownName, match="m"):
        decide(table(x=[1.0]), unasked.rules_for({}))


def test_floors_of_the_profile(write: Write) -> None:
    recipe = recipes.load(write('[[rules]]\ndrop = { or = [{ metric = "m", below = "floor" }, "x > 1"] }'))
    assert recipe.rules_for({"m": metric(floor=-2.5)})[0].drop == Or(
        (Threshold("m", "below", Level("at", -2.5)), Where("x > 1"))
    )
    assert recipe.rules_for({"m": metric()}) == []
    assert recipe.rules_for({"n": metric()}) == []
    (told,) = recipe.left_out({"n": metric()})
    assert told.endswith("rule 1 is left out: this run has no metric m")
    every = recipes.load(write("floors = true"))
    assert [
        rule.drop for rule in every.rules_for({"m": metric(floor=1e-7), "n": metric(0, 3.0), "o": metric()})
    ] == [Threshold("m", "below", Level("at", 1e-7))]
    assert every.left_out({"m": metric(floor=1.0), "n": metric(0, 3.0), "o": metric()}) == [
        "recipe own: the floor of n is left out: no record has a score of n"
    ]
    assert every.rules_for({"o": metric()}) == []
    assert every.left_out({"o": metric()}) == [
        "recipe own: the run's profile recommends no floor for what it scored"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"name": "a", "name": "b", "floors": true}', "the key 'name' stands there twice"),
        ('{"rules": [{"drop": {"metric": "m", "below": NaN}}]}', "NaN is no number"),
        ('{"rules": [{"drop": {"metric": "m", "below": -Infinity}}]}', "-Infinity is no number"),
        ('{"rules": [{"drop": {"metric": "m", "below": 1e999}}]}', "'inf' is no level"),
        ("floors: true", "is not valid JSON: Expecting value: line 1 column 1"),
        ("[" * 5000, "own.json"),
        ('{"name": "\\ud800", "floors": true}', r"name = '\\ud800': expected a text"),
        ('{"rules": [{"drop": "task == \'\\ud800\'"}]}', "half of a surrogate pair is no character"),
    ],
)
def test_hostile_json(write: Write, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        recipes.load(write(text, "own.json"))


def test_a_byte_order_mark_is_no_part_of_a_recipe(write: Write) -> None:
    text = 'name = "own"\nfloors = true'
    assert recipes.load(write(b"\xef\xbb\xbf" + text.encode())).text == text


def test_a_recipe_drops_by_severity(write: Write) -> None:
    (rule,) = recipes.load(write('[[rules]]\ndrop = { issue = "error" }')).rules_for({})
    assert rule.drop == HasIssue.parse("error") == HasIssue(("error",))


def test_extended_rules_come_first_and_once(write: Write, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write('floors = true\n[[rules]]\ndrop = "a > 1"\n[selection]\nkeep = "10%"', "sub/base.toml")
    write('extends = "base.toml"\n[[rules]]\ndrop = "b > 1"', "sub/left.toml")
    write("extends: [base.toml]\nrules: [{drop: c > 1}, {drop: a > 1, because: again}]", "sub/right.yaml")
    own = write(
        'extends = ["sub/left.toml", "./sub/right.yaml", "sub/../sub/base.toml"]\n[[rules]]\ndrop = "d > 1"'
    )
    recipe = recipes.load(own)
    assert [rule.condition for rule in recipe.rules] == ["a > 1", "b > 1", "c > 1", "d > 1"]
    assert [extended.name for extended in recipe.extends] == ["base", "left", "right"]
    assert recipe.floors
    assert recipe.selection == Selection(keep="10%")
    assert (
        recipes.load(write('extends = ["sub/left.toml", "subset"]')).selection
        == recipes.load("subset").selection
    )
    mine = recipes.load(write('extends = ["subset"]\n[selection]\nbalance = "task"'))
    assert mine.selection == Selection(balance="task")


def test_the_hash_is_of_the_text_and_of_what_it_extends(write: Write) -> None:
    base = write('[[rules]]\ndrop = "a > 1"', "base.toml")
    own = write('extends = ["base.toml"]')
    first = recipes.load(own)
    assert recipes.load(base).sha256 == hashlib.sha256(base.read_bytes()).hexdigest()
    assert recipes.load(own).sha256 == first.sha256
    write("# a comment\n" + base.read_text(), "base.toml")
    second = recipes.load(own)
    assert second.sha256 != first.sha256
    assert second.text == first.text
    write(own.read_text() + "\n")
    assert recipes.load(own).sha256 != second.sha256
    told = second.as_json()
    assert json.loads(json.dumps(told)) == told
    assert (told["text"], told["sha256"]) == (second.text, second.sha256)
    assert [part["text"] for part in told["extends"]] == [base.read_text()]


# ---------------------------------------------------------------- what does not fit

RULE = '[[rules]]\ndrop = "a > 1"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tittle = 'x'\n" + RULE, "no key of recipe .*own.toml is called 'tittle'; did you mean title"),
        (RULE + "mising = 'keep'", "no key of recipe .*own.toml, rule 1 is called 'mising'; did you mean missing"),
        (RULE + RULE + "missing = 'kep'", "own.toml, rule 2: missing = 'kep': expected keep, drop or error"),
        (RULE + "missing = []", "rule 1: missing = "),
        (RULE + "needs = 3", "rule 1: needs = 3: expected a text or a list of texts"),
        (RULE + "because = 3", "rule 1: because = 3: expected a text"),
        ("[[rules]]\nmissing = 'keep'", "rule 1: expected either drop or keep"),
        (RULE + "keep = 'b > 1'", "rule 1: expected either drop or keep"),
        ("name = 3\n" + RULE, "name = 3: expected a text"),
        ("extends = 3\n" + RULE, "extends = 3: expected a text or a list of texts"),
        ("extends = [3]\n" + RULE, "extends = 3: expected a text"),
        ("extends = ['claen']\n" + RULE, "no recipe is called 'claen'; did you mean clean"),
        ("extends = ['there/clean']\n" + RULE, "there/clean: expected a name that ends in .toml"),
        ("extends = ['nowhere.toml']\n" + RULE, "nowhere.toml does not exist"),
        ("floors = 'yes'\n" + RULE, "floors = 'yes': expected true or false"),
        ("floors = 1\n" + RULE, "floors = 1: expected true or false"),
        ("rules = 'a > 1'", "rules = 'a > 1': expected a list of tables"),
        ("rules = ['a > 1']", "rule 1: expected a table, got 'a > 1'"),
        ("rules = []", "no rules, no floors and no selection"),
        ("", "no rules, no floors and no selection"),
        ("[[rules]]\ndrop = 'a >'", "own.toml, rule 1: drop: --where"),
        ("[[rules]]\ndrop = '__import__(\"os\")'", "rule 1: drop: "),
        ("[[rules]]\ndrop = 3", "rule 1: drop = 3: expected an expression, or a table"),
        ("[[rules]]\ndrop = {}", "rule 1: drop = {}: expected an expression, or a table"),
        ("[[rules]]\ndrop = { metrik = 'a' }", "no condition .*rule 1: drop.* is called 'metrik'; did you mean metric"),
        ("[[rules]]\ndrop = { metric = 'a' }", "rule 1: drop: a: expected either below or above"),
        ("[[rules]]\ndrop = { metric = 'a', below = 1, above = 2 }", "a: expected either below or above"),
        ("[[rules]]\ndrop = { metric = 'a', bellow = 1 }", "no key of .*rule 1: drop is called 'bellow'"),
        ("[[rules]]\ndrop = { metric = 3, below = 1 }", "rule 1: drop: metric = 3: expected a text"),
        ("[[rules]]\ndrop = { metric = 'a', below = true }", "rule 1: drop: below = True: expected a number"),
        ("[[rules]]\ndrop = { metric = 'a', below = [1] }", "below = .*expected a number"),
        ("[[rules]]\ndrop = { metric = 'a', below = 'low' }", "rule 1: drop: 'low' is no level"),
        ("[[rules]]\ndrop = { metric = 'a', below = nan }", "rule 1: drop: 'nan' is no level"),
        ("[[rules]]\ndrop = { metric = 'a', above = -inf }", "rule 1: drop: '-inf' is no level"),
        ("[[rules]]\ndrop = { metric = 'a', below = 1, by = 3 }", "rule 1: drop: by = 3: expected a text"),
        ("[[rules]]\ndrop = { and = [] }", r"rule 1: drop: and = \[\]: expected a list of conditions"),
        ("[[rules]]\ndrop = { or = 'a > 1' }", "rule 1: drop: or = 'a > 1': expected a list of conditions"),
        ("[[rules]]\ndrop = { or = ['a > 1', { not = 3 }] }", "rule 1: drop: or 2: not = 3: expected an expression"),
        ("[[rules]]\ndrop = { not = 'a > 1', or = [] }", "no key of .*rule 1: drop is called"),
        ("[[rules]]\ndrop = { issue = [] }", r"rule 1: drop: issue = \[\]: expected the kinds of issues"),
        ("[[rules]]\ndrop = { issue = 'x', severity = 'bad' }", "severity = 'bad': expected error or warning or note"),
        ("[[rules]]\ndrop = { issue = [['x']] }", "issue = .*expected a text"),
        ("[selection]\nkepe = 3", "no key of .*selection is called 'kepe'; did you mean keep"),
        ("[selection]\nkeep = 1.5", "selection: keep = 1.5: expected a number of records"),
        ("[selection]\nkeep = true", "selection: keep = True"),
        ("[selection]\nbalance = 3", "selection: balance = 3: expected a text"),
        ("[selection]\nquotas = 3", "selection: quotas = 3: expected a table"),
        ("[selection]\nquotas = { ocr = -1 }", "selection: the quota of ocr is -1: expected 0 or more"),
        ("[selection]\nquotas = { ocr = true }", "selection: quotas.ocr = True"),
        ("[selection]\ndiversity = 'much'", "selection: no diversity filter is called 'much'"),
        ("[selection]\ntau = 'high'", "selection: tau = 'high': expected a cosine"),
        ("[selection]\ntau = nan", "selection: tau=nan: expected a cosine"),
        ("selection = []", "selection: expected a table"),
        ("name = 'x", "own.toml is not valid TOML"),
        ("[[rules]]\ndrop = { metric = 'a', below = 0x" + "f" * 5000 + " }", "own.toml"),
        ("[[rules]]\ndrop = { metric = 'a', below = " + "9" * 5000 + " }", "own.toml"),
        ("[[rules]]\ndrop = { metric = 'a', below = " + "9" * 400 + " }", "is no level"),
        ("x = " + "[" * 5000, "own.toml"),
        ("[[rules]]\ndrop = " + "{ not = " * 40 + "'a > 1'" + " }" * 40, "nested more than 16 deep"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_told_of_with_its_place(write: Write, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as error:
        recipes.load(write(text))
    assert len(str(error.value)) < 1500


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nrules: *c\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "aliases"),
        ("rules: &r [{drop: a > 1}, *r]", "aliases"),
        ("rules: [{<<: {drop: a > 1}}]", "line 1: a value of type merge is not read"),
        ("rules: !!python/object/apply:os.system [id]", r"line 1: tags \(!name\) are not read"),
        ("floors: !!bool maybe", r"line 1: tags \(!name\) are not read"),
        ('name: a\nrules: !!int ""', r"line 2: tags \(!name\) are not read"),
        ('name: "\\ud800"\nfloors: true', "expected a text"),
        ("rules: [{drop: !own a > 1}]", r"line 1: tags \(!name\) are not read"),
        ("rules: []\nname: 2024-01-01", "line 2: a value of type timestamp is not read; quote a text"),
        ("rules: []\nname: 2024-99-99", "line 2: a value of type timestamp"),
        ("name: !!binary aGk=", r"line 1: tags \(!name\) are not read"),
        ("rules: [{drop: a > 1, drop: b > 1}]", "line 1: the key 'drop' stands there twice"),
        ("? [a]\n: b", "line 1: a key is no text"),
        ("yes: 1", "no key of recipe .*own.yaml is called 'True'"),
        ("--- {}\n--- {}", "is not valid YAML: .*document"),
        ("rules: [", "is not valid YAML"),
        ("rules: \t- x", "is not valid YAML"),
        ("[1, 2]", r"own.yaml: expected a table, got \[1, 2\]"),
        ("", "own.yaml: expected a table, got None"),
        ("rules: " + "[" * 5000, "own.yaml"),
        ("rules: \x00", "is not valid YAML"),
        ("rules: [{drop: {metric: m, below: .nan}}]", "'nan' is no level"),
        ("rules: [{drop: {metric: m, below: " + "9" * 5000 + "}}]", "own.yaml"),
    ],
)  # fmt: skip
def test_hostile_yaml(write: Write, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        recipes.load(write(text, "own.yaml"))


@pytest.mark.parametrize("name", ["own.toml", "own.yaml"])
def test_files_that_cannot_be_text(write: Write, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"own.* is not UTF-8 \(byte 7\); save it as UTF-8"):
        recipes.load(write(b"name: '\xff'", name))
    with pytest.raises(UsageError, match="is larger than 65,536 bytes"):
        recipes.load(write(b"#" * (recipes.MAX_BYTES + 1), name))
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match="does not exist"):
        recipes.load(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="does not exist"):
        recipes.load(tmp_path / name)
    os.mkfifo(tmp_path / f"pipe-{name}")
    with pytest.raises(UsageError, match="does not exist"):
        recipes.load(tmp_path / f"pipe-{name}")
    with pytest.raises(RunError, match="cannot be read: File name too long"):
        recipes.load(tmp_path / f"{'x' * 300}{name}")
    with pytest.raises(UsageError, match=r"'\\x00own.*expected a name or a path"):
        recipes.load(f"\0{name}")


def test_names_that_are_no_recipe() -> None:
    with pytest.raises(UnknownName, match="no recipe is called 'claen'; did you mean clean"):
        recipes.load("claen")
    with pytest.raises(UsageError, match="expected a name that ends in"):
        recipes.load("../clean")


def test_recipes_that_extend_each_other(write: Write) -> None:
    write('extends = ["b.yaml"]', "a.toml")
    b = write("extends: [./a.toml]", "b.yaml")
    with pytest.raises(UsageError, match=r"extend each other in a circle: .*b.yaml → .*a.toml → .*b.yaml"):
        recipes.load(b)
    with pytest.raises(UsageError, match=r"in a circle: .*own.toml → .*own.toml"):
        recipes.load(write('extends = ["own.toml"]'))
    chain = 2000
    for i in range(chain):
        write(f'extends = ["{i + 1}.toml", "{i + 1}.toml"]', f"{i}.toml")
    write(RULE, f"{chain}.toml")
    with pytest.raises(UsageError, match="nested too deeply"):
        recipes.load(write('extends = ["0.toml"]'))
    # Each is read once, however many ways lead to it.
    assert len(recipes.load(write(f'extends = ["{chain - 60}.toml"]')).extends) == 61


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a > 1", "p5"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["drop", "keep", "and", "or", "not", "metric", "below", "issue", "where", "rules", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(rule=VALUES, key=st.sampled_from(["rules", "selection", "extends", "floors", "name"]))
def test_any_content_is_a_recipe_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, rule: Any, key: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({key: [{"drop": rule}] if key == "rules" else rule}), encoding="utf-8")
    try:
        recipes.load(path)
    except VlitqcError as error:
        assert str(error)


# ---------------------------------------------------------------- the documents


def test_the_recipes_in_the_documents_load(write: Write) -> None:
    text = (ROOT / "docs/filtering.md").read_text(encoding="utf-8")
    blocks = [block.partition("\n") for block in text.split("```")[1::2]]
    shown = [
        (language, body) for language, _, body in blocks if language in ("toml", "yaml") and "rules" in body
    ]
    assert {language for language, _ in shown} == {"toml", "yaml"}
    write(RULE, "team.toml")
    for language, body in shown:
        assert recipes.load(write(body, f"shown.{language}")).rules
