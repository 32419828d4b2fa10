"""Metric cards: every metric has one, the pages say what the code says, and numbers come from files or not at all."""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from vlitqc import cards, console, profiles, registry
from vlitqc.cli import cli
from vlitqc.errors import UsageError
from vlitqc.types import MetricSpec, Principle

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "metrics" / "vlitqc_metrics" / "cards"
MEASURED = {"cost", "validity", "floors"}
OURS = [name for name, entry in registry.entries(registry.METRICS).items() if entry.owner == "vlitqc"]
SHIPPED = [profiles.load(name) for name in profiles.names()]
HEADINGS = [
    "What it measures",
    "Definition",
    "Models",
    "Cost",
    "Validity",
    "Known failure modes",
    "Recommended use",
    "Floors",
    "References",
]
PROSE = """
measures = "a"
formula = "b"
definition = "c"
use = "d"
failures = [{ short = "e", long = "f" }]
references = [{ title = "g", url = "https://example.org" }]
"""


def script(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return script(ROOT / "docs" / "build_cards.py")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., cards.Card]]:
    """Makes the card of a third party's metric ``toy`` whose package has the files given, by their names."""
    spec = MetricSpec(
        "toy", "Toy", Principle.READABILITY, "sample", "A toy.", "", (0.0, 1.0), True, "mean", "1", "nobody"
    )

    def make(**files: str) -> cards.Card:
        package = tmp_path / "toy_package"
        package.mkdir(exist_ok=True)
        package.joinpath("__init__.py").touch()
        for name, text in files.items():
            package.joinpath("cards").mkdir(exist_ok=True)
            package.joinpath("cards", f"{name}.toml").write_text(text, encoding="utf-8")
        cards._table.cache_clear()
        return cards.load("toy")

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "find", lambda *_: SimpleNamespace(value="toy_package.metric:Toy"))
    monkeypatch.setattr(registry, "load_metric", lambda _: SimpleNamespace(spec=spec))
    yield make
    cards._table.cache_clear()
    sys.modules.pop("toy_package", None)


def lite() -> profiles.Profile:
    return profiles.load("lite")


# ---------------------------------------------------------------- ours


def test_pages_are_in_step_with_the_code(build: ModuleType) -> None:
    assert build.differences(build.pages()) == [], "run: python docs/build_cards.py"


def test_a_page_out_of_date_is_told(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("of a metric that is no more\n")
    (tmp_path / "a.md").write_text("one\ntwo\n")
    found = build.differences({"a.md": "one\nthree\n", "b.md": "new\n"}, tmp_path)
    assert [line for line in found if line[0] in "+-" and line[:3] not in ("+++", "---")] == [
        "-two",
        "+three",
        "+new",
        "-of a metric that is no more",
    ]
    assert (
        build.differences({"a.md": "one\ntwo\n", "gone.md": "of a metric that is no more\n"}, tmp_path) == []
    )


def test_every_metric_has_a_card_and_every_card_a_metric() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} - MEASURED == set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_card_is_complete(name: str, build: ModuleType) -> None:
    card = cards.load(name)
    assert card.prose is not None
    for text in (card.prose.measures, card.prose.definition, card.prose.use):
        assert len(text.split()) >= 10
    assert "\n" not in card.prose.formula
    assert len(card.prose.failures) >= 2
    for failure in card.prose.failures:
        assert len(failure.short) <= 100
        assert "\n" not in failure.short
        assert failure.long
    assert len(card.prose.references) >= 2
    assert all(
        reference.url.startswith("https://") and reference.title for reference in card.prose.references
    )
    assert set(card.prose.scales) <= set(profiles.names())
    page = build.page(card, SHIPPED)
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == HEADINGS
    assert card.spec.reduction in page


@pytest.mark.parametrize("profile", SHIPPED, ids=lambda profile: profile.name)
@pytest.mark.parametrize("name", OURS)
def test_a_card_has_numbers_or_says_why_not(name: str, profile: profiles.Profile) -> None:
    card = cards.load(name)
    cost = card.cost(profile)
    assert bool(cost.seconds) != bool(cost.reason)
    assert cost.seconds or cost.reason != cards.UNKNOWN_COST
    if profile.name == "lite":
        assert bool(cost.seconds) == (profile.metrics[name].unavailable is None)
    why = card.why_no_auc(profile)
    own = [cell.auc for found in card.validity(profile) for cell in found.own if cell.auc is not None]
    assert bool(own) == (why is None)
    assert not own or all(0 <= auc <= 1 for auc in own)
    assert why != cards.NO_RUN
    floor = card.floor(profile)
    assert floor.floor == profile.metrics[name].floor
    assert (floor.floor is None) == floor.why.startswith("none: ")
    assert floor.why != cards.NO_FLOOR
    assert floor.why != "set by hand"


def test_the_floors_of_the_profiles_are_those_derived() -> None:
    derived = {
        (profile, name): floor.floor for name in OURS for profile, floor in cards.load(name).derived.items()
    }
    assert {profile for profile, _ in derived} <= set(profiles.names())
    told = {
        (profile.name, name): entry.floor for profile in SHIPPED for name, entry in profile.metrics.items()
    }
    assert derived == {key: told[key] for key in derived}


def test_measurements_are_of_metrics_and_profiles_that_there_are() -> None:
    found = {
        name: tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
        for name in MEASURED
        if (FOLDER / f"{name}.toml").is_file()
    }
    assert set(profiles.names()) <= set(found["cost"]["cost"])
    derived = {key: body for key, body in found.get("floors", {}).items() if key in profiles.names()}
    tables = [*found["cost"]["cost"].values(), *derived.values()]
    tables += [run["metrics"] for run in found.get("validity", {}).get("measured", [])]
    assert set().union(*tables) == set(OURS)
    for costs in found["cost"]["cost"].values():
        for told in costs.values():
            assert set(told.get("seconds", ())) <= set(found["cost"]["sets"])
            assert all(value >= 0 for value in told.get("seconds", {}).values())


@pytest.mark.parametrize("name", OURS)
def test_the_short_form_is_short(name: str) -> None:
    shown = Console(width=100, record=True, file=None, quiet=False)
    with shown.capture() as captured:
        shown.print(console.rows(["", name], cards.load(name).short(lite())))
    lines = captured.get().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


def test_the_command_shows_a_card() -> None:
    told = CliRunner().invoke(cli, ["metrics", "matching_degree", "--profile", "paper"])
    assert told.exit_code == 0
    rows = [line.partition(" ")[0] for line in told.output.splitlines()]
    assert [row for row in rows if row in ("formula", "models", "cost", "floor", "fails")] == [
        "formula",
        "models",
        "cost",
        "floor",
        "fails",
    ]
    assert "CLIP ViT-B/32" in told.output
    assert "15; a cosine of 0.15" in told.output
    found = json.loads(CliRunner().invoke(cli, ["metrics", "matching_degree", "--json"]).output)
    assert found["floor"]["floor"] == lite().metrics["matching_degree"].floor
    assert found["card"]["references"][0]["url"].startswith("https://")


# ---------------------------------------------------------------- anybody's


def test_a_third_party_needs_no_card(toy: Callable[..., cards.Card]) -> None:
    card = toy()
    assert card.prose is None
    rows = dict(card.short(lite()))
    assert rows["what"] == "A toy."
    assert rows["models"] == "on request: --metrics"
    assert rows["floor"] == cards.NO_FLOOR
    assert card.as_json(lite())["card"] is None


def test_a_third_party_may_have_a_card(toy: Callable[..., cards.Card]) -> None:
    card = toy(toy=PROSE, cost="[cost.lite.toy]\nseconds = { here = 1.5 }\n[cost.paper.toy]\nas = 'lite'\n")
    assert card.prose is not None
    assert card.prose.failures == (cards.Failure("e", "f"),)
    rows = dict(card.short(lite()))
    assert rows["cost"] == "1.5 s (here) of one core for 1,000 samples"
    assert rows["own faults"] == cards.NO_RUN
    assert card.cost(profiles.load("paper")) == card.cost(lite())
    assert card.same == {"paper": "lite"}
    assert card.cost(profiles.load("modern")).reason == cards.UNKNOWN_COST


def test_measurements_are_not_those_of_a_profile_of_the_users_own(
    toy: Callable[..., cards.Card], tmp_path: Path
) -> None:
    card = toy(toy=PROSE, cost="[cost.lite.toy]\nseconds = { here = 1.5 }\n")
    own = tmp_path / "own.toml"
    own.write_bytes((ROOT / "vlitqc" / "profiles" / "lite.toml").read_bytes())
    assert card.cost(lite()).seconds
    assert card.cost(profiles.load(str(own))).reason == cards.UNKNOWN_COST


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{PROSE}misspelt = 1", "unknown key 'misspelt'"),
        (PROSE.replace('use = "d"', ""), "lacks the key 'use'"),
        (PROSE.replace('use = "d"', "use = 1"), "use = 1: expected a text"),
        (PROSE.replace('long = "f"', 'lang = "f"'), "unknown key 'lang'"),
        (PROSE.replace('[{ short = "e", long = "f" }]', '["e"]'), "expected a table"),
        ("= 1", "is not valid TOML"),
    ],
)
def test_a_card_that_does_not_fit_is_named(toy: Callable[..., cards.Card], text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        toy(toy=text)
    assert "toy_package/cards/toy.toml" in str(raised.value)


# ---------------------------------------------------------------- results of vlitqc validate


def cell(corruption: str, role: str, auc: float | None, **more: Any) -> dict[str, Any]:
    return {
        "metric": "toy",
        "corruption": corruption,
        "role": role,
        "direction": "falls" if role == "target" else None,
        "why": None,
        "n": 40,
        "became_null": 0.25,
        "auc": auc,
        "interval": None if auc is None else [round(auc - 0.05, 2), round(auc + 0.05, 2)],
        "spearman": None,
        "spearman_interval": None,
        "by_strength": [],
        "reason": None,
        "wanted": {"at_least": 0.9} if role == "target" else {"below": 0.6},
        "holds": None if auc is None else True,
        **more,
    }


def result(*cells: dict[str, Any], profile: str = "lite", version: str = "1") -> dict[str, Any]:
    return {
        "format": 1,
        "vlitqc": "0",
        "data": "a.jsonl",
        "profile": profile,
        "records": 40,
        "parts": 20,
        "seed": 0,
        "metrics": {"toy": {"version": version, "level": "sample"}, "silent": {"version": "1"}},
        "corruptions": {},
        "cells": list(cells),
    }


def test_results_are_copied_and_shown(
    build: ModuleType, toy: Callable[..., cards.Card], tmp_path: Path
) -> None:
    file = tmp_path / "validity.toml"
    first = result(
        cell("blur", "target", 0.93, spearman=-0.8, spearman_interval=[-0.9, -0.7]),
        cell("noise", "target", None, reason="no picture"),
        cell("jpeg", "target", 0.9, n=20),
        cell("typos", "off", 0.52),
        cell("rotated", "off", 0.58),
        cell("occlusion", "may_move", 0.99),
        version="0",
    )
    second = result(cell("blur", "target", 0.81), cell("rotated", "off", 0.55))
    build.record({"Photos": first, "Forms": second}, file)
    card = toy(toy=PROSE, validity=file.read_text(encoding="utf-8"))
    photos, forms = card.validity(lite())
    assert (photos.data, photos.records, forms.data) == ("Photos", 40, "Forms")
    assert photos.own[0] == cards.Cell(
        "blur", "falls", 40, 0.25, 0.93, [0.88, 0.98], -0.8, [-0.9, -0.7], wanted=0.9, holds=True
    )
    assert photos.own[1].reason == "no picture"
    assert photos.off is not None
    assert (photos.off.corruption, photos.off.auc) == ("rotated", 0.58)
    assert card.why_no_auc(lite()) is None
    assert card.why_no_auc(profiles.load("paper")) is not None
    alike = replace(card, same={"paper": "lite"})
    assert alike.validity(profiles.load("paper")) == [photos, forms]
    rows = dict(card.short(lite()))
    assert rows["own faults"] == "AUC on Photos, Forms"
    assert ("", "blur: 0.93, 0.81") in card.short(lite())
    assert not any("noise" in text for _, text in card.short(lite()))
    assert rows["other faults"] == "rotated moves it most: AUC 0.58 (Photos)"
    page = "\n".join(build.validity(card, [lite()]))
    row = "| Photos | lite | `blur` | 0.93 [0.88, 0.98] | −0.80 [−0.90, −0.70] | 40 of 40 records | 25% | ≥ 0.9: yes |"
    assert row in page
    assert "none: no picture" in page
    assert "| 20 of 40 records |" in page
    assert "measured with version 0 of the metric, which is now 1" in page


def test_where_nothing_could_be_measured_the_reason_is_told_once(
    build: ModuleType, toy: Callable[..., cards.Card], tmp_path: Path
) -> None:
    file = tmp_path / "validity.toml"
    silent = result(
        cell("blur", "target", None, reason="no picture"), cell("jpeg", "target", None, reason="no picture")
    )
    build.record({"Photos": silent, "Forms": silent}, file)
    card = toy(toy=PROSE, validity=file.read_text(encoding="utf-8"))
    assert build.validity(card, [lite()]) == ["- lite: not measured: no picture."]
    build.record({"Forms": result(cell("blur", "target", 0.8))}, file)
    page = "\n".join(build.validity(toy(toy=PROSE, validity=file.read_text(encoding="utf-8")), [lite()]))
    assert page.count("no picture") == 2, "of a set without any AUC beside one with, each fault has its row"


def test_a_result_takes_the_place_of_an_older_one(build: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "validity.toml"
    build.record(
        {"Photos": result(cell("blur", "target", 0.5)), "Forms": result(cell("blur", "target", 0.6))}, file
    )
    build.record({"Photos": result(cell("blur", "target", 0.7))}, file)
    build.record({"Photos": result(cell("blur", "target", 0.8), profile="paper")}, file)
    kept = tomllib.loads(file.read_text(encoding="utf-8"))["measured"]
    told = [(run["data"], run["profile"], run["metrics"]["toy"]["own"][0]["auc"]) for run in kept]
    assert told == [("Forms", "lite", 0.6), ("Photos", "lite", 0.7), ("Photos", "paper", 0.8)]
    assert "silent" not in kept[0]["metrics"]


def test_results_that_do_not_fit_are_refused(
    build: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    for argument, text in (
        ("Photos", "{}"),
        (f"Photos={file}", "{}"),
        (f"Photos={file}", "{"),
        ("A=/nowhere", "{}"),
    ):
        file.write_text(text)
        with pytest.raises(SystemExit) as raised:
            build.main(["--check", "--validity", argument])
        assert raised.value.code == 2
        assert f"--validity {argument}" in capsys.readouterr().err


# ---------------------------------------------------------------- derived floors, cost


def test_a_derived_floor_says_where_it_comes_from(build: ModuleType, toy: Callable[..., cards.Card]) -> None:
    floors = (
        "[lite.toy]\nfloor = -1.5\npoint = 'p01 of clean'\nsets = { Photos = -1.2 }\ncaught = { blur = 0.4 }\n"
        "[lite.toy.measured.Photos]\nrecords = 40\n"
        "[paper.toy]\nreason = 'it catches nothing'\n"
    )
    card = toy(toy=PROSE, floors=floors)
    entry = profiles.MetricEntry("toy", floor=-1.5)
    profile = SimpleNamespace(name="lite", where="lite", metrics={"toy": entry})
    assert card.floor(profile) == cards.Floor(-1.5, "p01 of clean", {"Photos": -1.2}, {"blur": 0.4})
    shown = build.floors(card, [profile])
    assert "| lite | −1.5 | p01 of clean (Photos −1.2) |" in shown[0]
    assert shown[1] == "Share of corrupted records below the floor of lite: `blur` 40%."
    assert card.floor(profiles.load("paper")).why == "none: it catches nothing"
    # What is derived says nothing of another number.
    profile.metrics["toy"] = profiles.MetricEntry("toy", floor=-2.0)
    assert card.floor(profile) == cards.Floor(-2.0, "set by hand")


def test_cost_is_that_of_the_metric_alone() -> None:
    cost = script(ROOT / "benchmarks" / "cost.py")
    times = {
        "stages": {"over the data set: a": 0.5, "over the data set: b": 9.0, "read records": 7.0},
        "metrics": {"a": 0.25},
        "models": {"x": 1.0, "y": 2.0},
        "decode": {"busy": 0.125, "waited": 5.0},
    }
    assert cost.seconds(times, "a") == 3.875
    assert cost.rate(2.0, 3.0, 100) == 10.0
    assert cost.rate(3.0, 2.9, 100) == 0.0
    paper = profiles.load("paper")
    same = {name for name in paper.metrics if cost.recipe(paper, name) == cost.recipe(lite(), name)}
    assert same == {"granularity_complexity", "duplicates", "composition"}
    told = cost.estimate("image_readability")
    assert told.startswith("about 72 s of a GPU: 5,600 GFLOP a record at 25% of 312 TFLOP/s, assumed")
    assert cost.estimate("duplicates") is None
    assert set(cost.OPERATIONS) <= set(OURS)
