"""What is kept of the experiment on validity becomes tables and floors: worked out by hand on small results."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from vlitqc import profiles
from vlitqc.registry import load_metric
from vlitqc.validity import result as validity_result

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
KEPT = sorted((BENCHMARKS / "validity").glob("*.json"))


def module(name: str) -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


floors = module("floors")
tables = module("validity_tables")
validity = module("validity")
sets = module("validity_sets")


def cell(metric: str, corruption: str, auc: float | None, **more: Any) -> dict[str, Any]:
    role = more.pop("role", "target")
    interval = more.pop("interval", None if auc is None else [auc - 0.05, min(1.0, auc + 0.05)])
    wanted = {"target": {"at_least": 0.9}, "off": {"below": 0.6}, "may_move": None}[role]
    holds = None
    if auc is not None and wanted:
        holds = auc >= 0.9 if role == "target" else interval[0] < 0.6
    caught = more.pop("caught", ())
    return {
        "metric": metric,
        "corruption": corruption,
        "role": role,
        "direction": "falls" if role == "target" else None,
        "why": None,
        "n": 100,
        "became_null": 0.0,
        "auc": auc,
        "interval": interval,
        "spearman": None,
        "spearman_interval": None,
        "by_strength": [
            {"strength": float(i), "n": 100, "became_null": 0.0, "auc": auc, "interval": interval}
            | {"caught": {"p01": share, "p05": min(1.0, 2 * share)} if role == "target" else None}
            for i, share in enumerate(caught, 1)
        ],
        "reason": None if auc is not None else "nothing to corrupt",
        "wanted": wanted,
        "holds": holds,
        **more,
    }


def metric(name: str, p01: float | None) -> dict[str, Any]:
    spec = load_metric(name).spec
    points = {"p01": 0.0, "p05": 0.5, "p50": 1.0, "p95": 1.5, "p99": 2.0}
    shifted = None if p01 is None else {key: p01 + value for key, value in points.items()}
    return {
        "version": spec.version,
        "level": spec.level,
        "principle": str(spec.principle),
        "higher_is_better": spec.higher_is_better,
        "value": 1.0 if p01 is not None else None,
        "reason": None if p01 is not None else "needs a judge",
        "quantiles": shifted,
    }


def result(text: float, picture: float, match: float, *, strong: float = 0.8) -> dict[str, Any]:
    """Scores of records with these 1% points; the corruptions catch shares that grow to ``strong``."""
    names = {"text_readability": text, "image_readability": picture, "matching_degree": match}
    return {
        "format": 1,
        "vlitqc": "1.0",
        "data": "x.jsonl",
        "data_sha256": "a" * 64,
        "profile": "lite",
        "profile_sha256": "b" * 64,
        "records": 100,
        "parts": 5,
        "seed": 0,
        "metrics": {
            **{name: metric(name, point) for name, point in names.items()},
            "granularity_complexity": metric("granularity_complexity", 0.0),
            "correctness": metric("correctness", None),
        },
        "corruptions": {
            name: {"principle": "readability", "summary": "s", "strengths": [1.0, 2.0], "unit": "u"}
            | {"scope": "case"}
            for name in ("shuffled_words", "blur", "rotated", "swapped_responses")
        },
        "cells": [
            cell("text_readability", "shuffled_words", 0.97, caught=(0.25, strong)),
            cell("text_readability", "blur", 0.5, role="off"),
            cell("image_readability", "blur", 0.99, caught=(0.5, 1.0)),
            cell("image_readability", "rotated", 0.5, caught=(0.01, 0.02)),
            cell("image_readability", "shuffled_words", 0.7, role="off"),
            cell("matching_degree", "swapped_responses", 0.91, caught=(0.04, 0.09)),
            cell("matching_degree", "blur", 0.8, role="may_move", why="less is seen"),
            cell("correctness", "swapped_responses", None, reason="needs a judge"),
            cell("granularity_complexity", "rotated", 0.62, role="off", interval=[0.55, 0.7]),
        ],
    }


@pytest.fixture
def two() -> dict[str, dict[str, Any]]:
    return {"coco": result(-1.234, 0.5, -8.0, strong=0.8), "llava": result(-1.0, 0.4567, -9.0, strong=0.6)}


def test_the_results_here_are_what_the_experiment_writes(two: dict[str, dict[str, Any]]) -> None:
    validator = Draft202012Validator(validity_result.schema())
    for found in two.values():
        validator.validate(found)


# ---------------------------------------------------------------- floors


def test_a_floor_is_the_lowest_of_the_points_rounded_down(two: dict[str, dict[str, Any]]) -> None:
    found = floors.of_measured(two)
    text, picture = found["text_readability"], found["image_readability"]
    assert text["floor"] == -1.3
    assert text["point"] == "the lowest 1% point of clean data, that of COCO"
    assert text["sets"] == {"COCO": -1.234, "LLaVA-Pretrain": -1.0}
    assert text["caught"] == {"shuffled_words": 0.8}
    assert text["measured"]["LLaVA-Pretrain"]["caught_p01"] == {"shuffled_words": [0.25, 0.6]}
    assert text["measured"]["COCO"]["p05"] == pytest.approx(-0.734)
    assert picture["floor"] == 0.45
    assert picture["caught"] == {"blur": 1.0, "rotated": 0.02}


def test_a_floor_that_catches_little_is_none_with_the_share(two: dict[str, dict[str, Any]]) -> None:
    found = floors.of_measured(two)["matching_degree"]
    assert "floor" not in found
    why = "at the 1% point of clean data it catches no more than 9% (of swapped_responses, LLaVA-Pretrain)"
    assert found["reason"] == why
    two["llava"]["cells"][5]["by_strength"][-1]["caught"]["p01"] = 0.1
    assert floors.of_measured(two)["matching_degree"]["floor"] == -9.0


def test_what_is_no_defect_has_no_floor_whatever_it_catches(two: dict[str, dict[str, Any]]) -> None:
    found = floors.of_measured(two)
    reasons = {name: told["reason"] for name, told in found.items() if "floor" not in told}
    assert reasons["granularity_complexity"] == "a low value is no defect: sound records are simple, too"
    assert reasons["visual_complexity"] == reasons["granularity_complexity"]
    assert reasons["ifd"] == "neither end of its scale is a defect"
    assert reasons["matching_percentile"].startswith("it ranks a record among the pictures")
    assert reasons["correctness"].startswith("needs a multimodal judge")
    assert not {"task_diversity", "duplicates", "composition"} & set(found)


def test_other_profiles_have_the_floors_in_use_with_their_source() -> None:
    paper = floors.of_others(profiles.load("paper"))
    assert paper["matching_degree"]["floor"] == 15
    assert "0.15 to 0.28" in paper["matching_degree"]["point"]
    assert paper["text_readability"] == {"reason": "nothing was measured with the models of paper"}
    assert not any("floor" in told for told in floors.of_others(profiles.load("modern")).values())


def test_results_of_another_version_or_profile_are_refused(two: dict[str, dict[str, Any]]) -> None:
    two["coco"]["metrics"]["text_readability"]["version"] = "0"
    with pytest.raises(ValueError, match="COCO was measured with another version"):
        floors.of_measured(two)
    with pytest.raises(ValueError, match="no result of the profile lite"):
        floors.of_measured({"coco": two["coco"] | {"profile": "paper"}})


@given(st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6))
def test_rounding_goes_down_by_less_than_a_tenth(value: float) -> None:
    found = floors.rounded_down(value)
    assert found <= value + 1e-9 * abs(value)
    assert value - found <= abs(value) / 10 + 1e-9 * abs(value)
    assert found == 0 or float(f"{found:.2g}") == pytest.approx(found)


@pytest.mark.parametrize(
    ("value", "found"),
    [(0.29, 0.29), (0.3, 0.3), (-1.21, -1.3), (-9.4, -9.4), (-9.41, -9.5), (12.9, 12.0), (0, 0)],
)
def test_rounding_by_hand(value: float, found: float) -> None:
    assert floors.rounded_down(value) == found


def test_a_profile_gets_its_floors_and_loses_the_others() -> None:
    text = "[metrics.a]\nfloor = -2.0\nmodels = { lm = 'x' }\n\n[metrics.b]\n\n[metrics.c]\nfloor = 1\n"
    found = floors.in_profile(text, {"a": -1.5, "b": 0.3, "c": None})
    assert tomllib.loads(found) == {
        "metrics": {"a": {"floor": -1.5, "models": {"lm": "x"}}, "b": {"floor": 0.3}, "c": {}}
    }
    assert floors.in_profile(found, {"a": -2.0, "b": None, "c": 1.0}).replace("1.0", "1") == text
    with pytest.raises(ValueError, match=r"no section \[metrics.d\]"):
        floors.in_profile(text, {"d": 1.0})


def test_everything_is_written_and_read_again(
    two: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, found in two.items():
        tables.store(name, found, tmp_path / "validity")
    shutil.copy(ROOT / "vlitqc" / "profiles" / "lite.toml", tmp_path)
    page = tmp_path / "validity.md"
    page.write_text("# Page\n<!-- floors:begin -->\nold\n<!-- floors:end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(tables, "stored", lambda real=tables.stored: real(tmp_path / "validity"))
    for name, value in (("PROFILES", tmp_path), ("PAGE", page), ("FLOORS", tmp_path / "floors.toml")):
        monkeypatch.setattr(floors, name, value)
    assert floors.main(["--write"]) == 0
    written = tomllib.loads((tmp_path / "floors.toml").read_text(encoding="utf-8"))
    profile = profiles.load(str(tmp_path / "lite.toml"))
    assert {name: told.get("floor") for name, told in written["lite"].items()} == {
        name: profile.metrics[name].floor for name in written["lite"]
    }
    assert profile.metrics["text_readability"].floor == -1.3
    text = page.read_text(encoding="utf-8")
    assert "| `text_readability` | -1.3 | COCO -1.23, LLaVA-Pretrain -1 | `shuffled_words` 80% |" in text
    assert "old" not in text and text.startswith("# Page\n") and text.endswith("\nafter\n")


def test_the_floors_of_the_profiles_are_those_written_down() -> None:
    written = tomllib.loads(floors.FLOORS.read_text(encoding="utf-8"))
    assert set(written) == set(profiles.names())
    for name in profiles.names():
        profile = profiles.load(name)
        assert set(written[name]) == set(floors.candidates(profile))
        for metric_name, told in written[name].items():
            assert ("floor" in told) != ("reason" in told)
            assert profile.metrics[metric_name].floor == told.get("floor")


@pytest.mark.skipif(not KEPT, reason="no result of benchmarks/validity.py is kept")
def test_what_is_written_down_is_what_the_kept_results_say() -> None:
    assert tomllib.loads(floors.FLOORS.read_text(encoding="utf-8")) == floors.every(tables.stored())


@pytest.mark.parametrize("file", KEPT, ids=lambda path: path.stem)
def test_kept_results_fit_their_schema_and_are_small(file: Path) -> None:
    Draft202012Validator(validity_result.schema()).validate(json.loads(file.read_text(encoding="utf-8")))
    assert file.stem in sets.SETS
    assert file.stat().st_size < 1_000_000


# ---------------------------------------------------------------- tables


def test_what_is_kept_is_what_was_found_but_for_strengths_of_cells_that_are_no_target(
    two: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    found = two["coco"]
    found["cells"][1]["by_strength"] = [{"strength": 1.0}, {"strength": 2.0}]
    tables.store("llava", found, tmp_path)
    tables.store("demo", found, tmp_path)
    kept = tables.stored(tmp_path)
    assert list(kept) == ["demo", "llava"]
    found["cells"][1]["by_strength"] = [{"strength": 2.0}]
    assert kept["demo"] == found


def test_a_metric_under_its_own_corruptions_has_a_row(two: dict[str, dict[str, Any]]) -> None:
    del two["llava"]["cells"][3]
    text = tables.own_table(two, spearman=False)
    assert text.splitlines()[0] == "| metric | its own corruption | COCO | LLaVA-Pretrain | wanted |"
    assert "| `image_readability` | `blur` | 0.99 [0.94, 1.00] | 0.99 [0.94, 1.00] | 0.9 |" in text
    assert "| `image_readability` | `rotated` | **0.50** [0.45, 0.55] | – | 0.9 |" in text
    assert "correctness" not in text
    assert tables.unmeasured(two) == {
        "granularity_complexity": "no corruption aims at it",
        "correctness": "needs a judge",
    }


def test_strengths_and_lost_scores_are_told(two: dict[str, dict[str, Any]]) -> None:
    one = cell("text_readability", "blur", 0.95, spearman=-0.8, became_null=0.12)
    assert tables.cell_text(one, spearman=True) == "0.95 [0.90, 1.00]; ρ -0.80; 12% null"
    assert tables.cell_text(one) == "0.95 [0.90, 1.00]; 12% null"
    assert tables.cell_text(None) == "–"


def test_movements_are_listed_with_their_reason_or_without(
    two: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [(row.metric, row.corruption, row.why) for row in tables.moved(two)] == [
        ("image_readability", "shuffled_words", ""),
        ("matching_degree", "blur", "less is seen"),
    ]
    assert "**not explained**" in tables.moved_table(two)
    assert tables.by_chance(two) == (2, 6)
    missed = tables.failures(two)
    assert missed == [
        "image_readability under rotated: 0.50 (coco), 0.50 (llava); wanted 0.9",
        "image_readability moves under shuffled_words: 0.70 (coco), 0.70 (llava); wanted below 0.6",
    ]
    explained = {("image_readability", key): "because" for key in ("shuffled_words", "rotated")}
    monkeypatch.setattr(tables, "EXPLAINED", explained)
    assert tables.failures(two) == missed[:1]
    text = tables.document(two, full=True)
    assert "- `image_readability` under `rotated` (COCO, LLaVA-Pretrain): because" in text
    assert "Of 6 cells that should not move, 2 more lie at 0.6 or above" in text


def test_the_page_is_renewed_between_its_marks_only() -> None:
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb <!-- y:begin -->\n<!-- y:end -->"
    assert tables.between(text, "x", "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match="no place for z"):
        tables.between(text, "z", "new")
    page = (ROOT / "docs" / "validity.md").read_text(encoding="utf-8")
    for name in ("validity", "floors"):
        assert name in tables.between(page, name, name)


def test_tables_are_renewed_from_what_was_kept_and_the_exit_code_tells(
    two: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page, file, known = (tmp_path / name for name in ("validity.md", "VALIDITY.md", "known.json"))
    page.write_text("<!-- validity:begin -->\n<!-- validity:end -->\n", encoding="utf-8")
    for name, path in (("PAGE", page), ("TABLES", file), ("KNOWN", known)):
        monkeypatch.setattr(validity, name, path)
    monkeypatch.setattr(tables, "stored", lambda: {})
    with pytest.raises(SystemExit):
        validity.main(["--tables-only"])
    assert "no result is kept" in capsys.readouterr().err
    monkeypatch.setattr(tables, "stored", lambda: two)
    rows = [
        validity.judged({"set": "x", "case": "blur", "spearman": rho, "required": -0.9}) for rho in (-1, 0)
    ]
    known.write_text(json.dumps({"image_readability": rows}), encoding="utf-8")
    assert validity.main(["--tables-only"]) == 1
    told = capsys.readouterr().out
    assert "3 limits are missed" in told
    assert "image readability, Spearman with distortion level: x, blur" in told
    assert "| x | blur |" in file.read_text(encoding="utf-8")
    assert "| `text_readability` | `shuffled_words` | 0.97 [0.92, 1.00] |" in page.read_text(encoding="utf-8")
    for found in two.values():
        found["cells"] = found["cells"][:3]
    known.unlink()
    assert validity.main(["--tables-only"]) == 0


def test_areas_and_folders_that_are_not_there_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (
            ["--data", ".", "--areas", "moon"],
            "there is no moon; there are demo, flickr8k, coco, llava, photos, demo_smollm2",
        ),
        (["--areas", "demo"], "--data None is not a folder"),
        (["--data", ".", "--areas", "demo", "--records", "0"], "records=0"),
        (["--data", ".", "--areas", "demo", "--profile", "light"], "did you mean lite"),
        (["--data", ".", "--areas", "demo", "--instructions", "nowhere.txt"], "nowhere.txt is not a file"),
    ):
        with pytest.raises(SystemExit):
            validity.main(arguments)
        assert message in " ".join(capsys.readouterr().err.split())


def test_limits_hold_of_nothing_where_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validity.main(["--data", str(tmp_path), "--areas", "coco,matching"]) == 1
    told = capsys.readouterr().out
    assert "coco: left out" in told
    assert "nothing was measured" in told
    assert "every limit holds" not in told


def test_the_demo_set_is_the_demo_data_without_what_was_planted(tmp_path: Path) -> None:
    source = sets.demo(tmp_path, tmp_path)
    ids = [json.loads(line)["id"] for line in source.file.read_text(encoding="utf-8").splitlines()]
    planted = json.loads((source.image_root / "planted.json").read_text(encoding="utf-8"))
    assert not {entry.get("id") for entry in planted} & set(ids)
    assert len(ids) == len(set(ids)) > 40
    assert (source.image_root / "images").is_dir()


def test_photos_have_a_question_and_their_first_caption(tmp_path: Path) -> None:
    (tmp_path / "joined").mkdir()
    told = {"image": "a/1.jpg", "captions": ["A dog.", "The dog."]}
    (tmp_path / "joined" / "coco_photos.jsonl").write_text(json.dumps(told) + "\n", encoding="utf-8")
    source = sets.SETS["coco"](tmp_path, tmp_path)
    record = json.loads(source.file.read_text(encoding="utf-8"))
    assert source.image_root / record["image"] == tmp_path / "a/1.jpg"
    question, answer = record["conversations"]
    assert question["value"] == f"<image>\n{sets.QUESTIONS[0]}"
    assert answer == {"from": "gpt", "value": "A dog."}
    with pytest.raises(FileNotFoundError):
        sets.SETS["flickr8k"](tmp_path, tmp_path)


def test_missing_numbers_are_no_floors(two: dict[str, dict[str, Any]]) -> None:
    for found in two.values():
        found["metrics"]["text_readability"]["quantiles"] = None
        found["cells"] = [one for one in found["cells"] if one["metric"] != "image_readability"]
    found = floors.of_measured(two)
    assert found["text_readability"] == {"reason": "no set has a score of it"}
    assert found["image_readability"]["reason"] == "no corruption that it should notice was measured"
    assert math.isfinite(found["image_readability"]["sets"]["COCO"])
