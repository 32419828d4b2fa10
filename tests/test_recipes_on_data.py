"""The shipped recipes on whole data sets under the lite profile: the demo data, and 160 real LLaVA records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from partition import assert_divided, records_of

import vlitqc
from vlitqc.cli import cli
from vlitqc.engine.run import Run
from vlitqc.filtering import recipes

RECIPES = ("clean", "dedup", "align", "judge", "paper", "subset")


@pytest.fixture(params=["demo_run", "llava_run"])
def scored(request: pytest.FixtureRequest) -> Run:
    run: Run = request.getfixturevalue(request.param)
    return run


def input_of(run: Run) -> Path:
    (path,) = run.info["input"]["paths"]
    return Path(path)


def test_these_are_the_recipes() -> None:
    assert sorted(recipes.names()) == sorted(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_divides_the_input_as_its_dry_run_says(scored: Run, tmp_path: Path, recipe: str) -> None:
    before = sorted(input_of(scored).parent.iterdir())
    asked = ["filter", str(scored.path), "--recipe", recipe, "--out", str(tmp_path), "--dry-run"]
    shown = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert "dry run: nothing was written" in shown.output
    print(shown.output)
    assert sorted(input_of(scored).parent.iterdir()) == before and not list(tmp_path.iterdir())

    dry = vlitqc.filter(scored, recipe=recipe, dry_run=True)
    real = vlitqc.filter(scored, recipe=recipe, out=tmp_path)
    assert (real.counts, real.by_rule) == (dry.counts, dry.by_rule)
    assert sum(real.counts.values()) == len(scored.scores)
    assert real.counts["kept"] > 0
    decisions = pd.read_parquet(real.written["decisions"])
    assert decisions["kept"].tolist() == dry.mask.tolist() == scored.filter(recipe=recipe).tolist()
    assert_divided(input_of(scored), decisions["fate"], real.written)
    told = json.loads(real.written["filter"].read_text(encoding="utf-8"))
    assert told["recipe"]["name"] == recipe
    assert told["counts"] == real.counts
    if recipe == "subset":
        control = records_of(real.written["control"])
        assert len(control) == real.counts["kept"]
        assert [record for record in records_of(input_of(scored)) if record in set(control)] == control
        comparison = json.loads(real.written["comparison"].read_text(encoding="utf-8"))
        assert set(comparison) >= {"selected", "control"}


def test_clean_takes_what_is_broken_and_nothing_else(demo_run: Run) -> None:
    planted = json.loads((input_of(demo_run).parent / "planted.json").read_text(encoding="utf-8"))
    facts = {
        "empty_turn",
        "exact_duplicate",
        "image_token_mismatch",
        "missing_image",
        "truncated_image",
        "unreadable_image",
    }
    broken = [entry for entry in planted if entry.get("issue") in facts]
    result = vlitqc.filter(demo_run, dry_run=True)  # with nothing asked for, the recipe is "clean"
    dropped = set(result.decisions.loc[result.decisions["fate"] == "dropped", "id"])
    # Of two equal records either is the repetition.
    assert all(len(dropped & {entry["id"], entry.get("of")}) == 1 for entry in broken)
    assert len(dropped) == len(broken)
    assert result.counts["unreadable"] == 1


def test_clean_takes_nothing_from_good_data(llava_run: Run) -> None:
    assert llava_run.filter().all()


def test_a_number_to_keep_starts_from_the_recipe_subset_and_equal_groups_from_clean(demo_run: Run) -> None:
    twenty = demo_run.filter(keep=20)
    assert twenty.sum() == 20
    pd.testing.assert_series_equal(twenty, demo_run.filter(recipe="subset", keep="20"))
    clean = demo_run.filter()
    assert not (twenty & ~clean).any()
    balanced = demo_run.filter(balance="task")
    counts = demo_run.scores.loc[balanced.to_numpy(), "task"].value_counts()
    assert counts.max() <= np.median(demo_run.scores.loc[clean.to_numpy(), "task"].value_counts())
