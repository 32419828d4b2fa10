"""``vlitqc validate``: the experiment from clean records to the page, with light metrics."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import rich.console
from sklearn.metrics import roc_auc_score

import vlitqc
from vlitqc import cli, console
from vlitqc.engine.run import Run
from vlitqc.errors import InputError, UnknownName, UsageError
from vlitqc.models import ngram_lm
from vlitqc.types import Principle, Turn
from vlitqc.validity import experiment
from vlitqc.validity.case import Case
from vlitqc.validity.corruptions import CORRUPTIONS, Corruption
from vlitqc.validity.result import FEWEST, Validity, schema

Make = Callable[..., Path]
RECORDS = 16
CHEAP = ["shuffled_words", "blur", "lost_pictures"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("validated")


@pytest.fixture(scope="module")
def data(home: Path, picture: Callable[[int], bytes], record: Callable[..., dict[str, Any]]) -> Path:
    for i in range(RECORDS):
        (home / f"{i}.png").write_bytes(picture(i))
    path = home / "data.jsonl"
    path.write_text("".join(json.dumps(record(i, f"{i}.png")) + "\n" for i in range(RECORDS)))
    return path


@pytest.fixture(scope="module")
def run(data: Path, texts: str) -> Run:
    return vlitqc.score(data, texts, report=False)


@pytest.fixture(scope="module")
def found(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Validity:
    """What is found of the run's input; the temporary folder and the user's cache are empty afterwards."""
    used, cache = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(used))
        patch.setenv("VLITQC_CACHE_SIZE", "1G")
        patch.setattr("vlitqc.models.feature_cache.cache_folder", lambda option=None: cache)
        result = vlitqc.validate(run, corruptions=CHEAP, records=12, parts=6, seed=3)
    assert list(used.iterdir()) == []
    assert list(cache.iterdir()) == []
    return result


def cell(found: Validity, metric: str, corruption: str) -> dict[str, Any]:
    (one,) = [c for c in found.as_json()["cells"] if (c["metric"], c["corruption"]) == (metric, corruption)]
    return dict(one)


# ---------------------------------------------------------------- the result


def test_it_is_as_its_schema_says(found: Validity, run: Run) -> None:
    told = found.as_json()
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(told, schema())
    assert told["data_sha256"] == run.info["input"]["sha256"]
    assert told["profile_sha256"] == run.profile.sha256, "that of the run, since none was asked for"
    assert (told["data"], told["profile"], told["records"]) == ("data.jsonl", "texts", 12)
    places = {(c["metric"], c["corruption"]) for c in told["cells"]}
    assert places == {(metric, name) for metric in run.metrics() for name in CHEAP}
    assert len(found.cells) == len(places)


def test_an_auc_is_that_of_sets_written_and_scored_by_hand(
    found: Validity, run: Run, texts: str, tmp_path: Path
) -> None:
    frame = run.scores
    drawn = np.random.default_rng(3).random(RECORDS).argsort()[:12]
    assert found.as_json()["metrics"]["text_readability"]["value"] == pytest.approx(
        frame["text_readability"].iloc[drawn].mean(), rel=1e-5
    )
    cases = []
    for row in np.sort(drawn).tolist():
        turn = run.record(row).turns[0]  # type: ignore[union-attr]
        cases.append(Case(str(row), (Turn(turn.instruction.removeprefix("<image>\n"), turn.response),), ()))
    corruption = CORRUPTIONS["shuffled_words"]
    rng = np.random.default_rng([3, zlib.crc32(b"shuffled_words")])
    shuffled = [one for one in corruption.apply(cases, corruption.strengths[-1], rng) if one is not None]
    lines = [
        {
            "id": one.id,
            "conversations": [
                {"from": "human", "value": one.turns[0].instruction},
                {"from": "gpt", "value": one.turns[0].response},
            ],
        }
        for one in shuffled
    ]
    path = tmp_path / "shuffled.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    after = vlitqc.score(path, texts, metrics="text_readability", report=False).scores
    before = frame.set_index("row")["text_readability"].loc[[int(one.id) for one in shuffled]]
    labels = [1] * len(before) + [0] * len(after)
    told = cell(found, "text_readability", "shuffled_words")
    assert told["n"] == len(shuffled)
    assert told["auc"] == pytest.approx(
        roc_auc_score(labels, [*before, *after["text_readability"]]), abs=1e-6
    )
    caught = told["by_strength"][-1]["caught"]
    assert caught["p05"] == pytest.approx(
        (after["text_readability"].to_numpy() < np.quantile(before, 0.05)).mean()
    )


def test_what_is_not_touched_does_not_move(found: Validity) -> None:
    for metric, name in (("image_readability", "shuffled_words"), ("text_readability", "blur")):
        still = cell(found, metric, name)
        assert (still["role"], still["auc"], still["interval"]) == ("off", 0.5, [0.5, 0.5])
        assert (still["wanted"], still["holds"]) == ({"below": 0.6}, True)
        assert still["by_strength"][0]["caught"] is None


def test_a_metric_of_the_data_set_is_looked_at_on_halves(found: Validity) -> None:
    lost = cell(found, "composition", "lost_pictures")
    assert (lost["role"], lost["direction"], lost["n"], lost["auc"]) == ("target", "rises", 6, 1.0)
    assert lost["spearman"] > 0.8
    assert (lost["wanted"], lost["holds"]) == ({"at_least": 0.9}, True)
    steps = CORRUPTIONS["lost_pictures"].strengths
    assert [step["strength"] for step in lost["by_strength"]] == list(steps)


def test_scores_that_are_lost_are_counted_apart(found: Validity) -> None:
    steps = cell(found, "image_readability", "lost_pictures")["by_strength"]
    lost = [step["became_null"] for step in steps]
    assert lost == sorted(lost)
    assert lost[-1] == pytest.approx(0.6, abs=0.1)
    assert steps[-1]["n"] == round(12 * (1 - lost[-1]))
    # Whoever still has a picture has the same one.
    assert steps[0]["auc"] == 0.5


def test_a_metric_that_the_profile_does_not_serve_has_a_reason(found: Validity) -> None:
    told = found.as_json()["metrics"]["correctness"]
    assert (told["value"], told["reason"], told["quantiles"]) == (None, "needs a judge", None)
    without = cell(found, "correctness", "blur")
    assert (without["auc"], without["reason"], without["by_strength"]) == (None, "needs a judge", [])
    assert without["holds"] is None


def test_the_same_seed_gives_the_same_bytes(found: Validity, run: Run, tmp_path: Path) -> None:
    again = vlitqc.validate(run, corruptions=CHEAP, records=12, parts=6, seed=3)  # and without a cache
    written = [one.write(tmp_path / f"{i}.json").read_bytes() for i, one in enumerate((found, again))]
    assert written[0] == written[1]
    other = vlitqc.validate(run, corruptions="shuffled_words", metrics="text_readability", records=12, seed=4)
    assert other.as_json()["metrics"]["text_readability"] != found.as_json()["metrics"]["text_readability"]


# ---------------------------------------------------------------- what is drawn, and what can go wrong


@pytest.fixture
def corruption(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Registers a corruption made up on the spot: what it does to a case."""

    def register(name: str, apply: Callable[[Case], Case | None]) -> None:
        def each(cases: Sequence[Case], strength: float, rng: np.random.Generator) -> list[Case | None]:
            return [apply(case) for case in cases]

        made = Corruption(name, Principle.READABILITY, "Made up.", {}, (1.0,), "", "case", each)
        monkeypatch.setitem(CORRUPTIONS, name, made)

    return register


def test_only_clean_records_are_drawn(
    messy: Path, tiny: str, messy_states: dict[str, str], corruption: Callable[..., None]
) -> None:
    rows = list(messy_states)
    drawn: list[tuple[str, int]] = []

    def look(case: Case) -> Case:
        drawn.append((rows[int(case.id)], len(case.pictures)))
        assert all("<image>" not in turn.instruction for turn in case.turns)
        for picture in case.pictures:
            with pytest.raises(ValueError, match="read-only"):
                picture[:] = 0
        return case

    corruption("nothing", look)
    vlitqc.validate(messy, tiny, corruptions="nothing")
    assert drawn == [("good", 1), ("text", 0), ("many", 2), ("embedded", 1), ("last", 1)], "in their order"


def test_too_few_that_can_be_corrupted_are_a_reason(
    data: Path, tiny: str, corruption: Callable[..., None]
) -> None:
    corruption("rare", lambda case: case if int(case.id) < 3 else None)
    corruption("never", lambda case: None)
    found = vlitqc.validate(data, tiny, corruptions=["rare", "never"])
    assert cell(found, "image_readability", "rare")["reason"] == (
        "3 of 16 records have something to corrupt; 5 are needed"
    )
    assert cell(found, "composition", "never")["reason"].startswith("0 of 16 records")
    assert cell(found, "composition", "never")["auc"] is None


def test_what_cannot_be_corrupted_stays_in_the_set(
    data: Path, tiny: str, corruption: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    scored = experiment._Scored.__init__

    def counted(self: Any, run: Run, *more: Any) -> None:
        sizes.append(len(run.scores))
        scored(self, run, *more)

    monkeypatch.setattr(experiment._Scored, "__init__", counted)
    corruption("some", lambda case: replace(case, pictures=()) if int(case.id) % 2 else None)
    found = vlitqc.validate(data, tiny, corruptions="some", parts=5)
    assert sizes == [RECORDS, RECORDS]
    lost = cell(found, "image_readability", "some")
    assert (lost["n"], lost["became_null"], lost["auc"]) == (0, 1.0, None)
    assert lost["reason"] == "0 of 8 records still have a value when corrupted; 5 are needed"
    assert (cell(found, "composition", "some")["auc"], cell(found, "composition", "some")["n"]) == (1.0, 5)


def test_models_are_loaded_once(
    data: Path, texts: str, corruption: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = ngram_lm._Lexicon

    def counted(*files: Path) -> Any:
        loaded.append(files)
        return load(*files)

    monkeypatch.setattr(ngram_lm, "_Lexicon", counted)

    def louder(case: Case) -> Case:
        return replace(case, turns=tuple(Turn(t.instruction, t.response.upper()) for t in case.turns))

    corruption("upper", louder)
    vlitqc.validate(data, texts, corruptions="upper", metrics="text_readability")
    assert len(loaded) == 1, "for the clean set and the corrupted one"


def test_large_pictures_are_reduced_once(
    make_data: Make, record: Callable[..., dict[str, Any]], tiny: str, corruption: Callable[..., None]
) -> None:
    from PIL import Image

    shapes = []
    corruption("nothing", lambda case: shapes.append(case.pictures[0].shape))
    path = make_data(lines=[record(0, "wide.png"), record(1, "wide.png")])
    Image.new("RGB", (1280, 320), "red").save(path.parent / "wide.png")
    vlitqc.validate(path, tiny, corruptions="nothing")
    assert shapes == [(160, 640, 3)] * 2


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"corruptions": "blurr"}, UnknownName, "no corruption is called 'blurr'; did you mean blur"),
        ({"metrics": "image_readabilty"}, UnknownName, "did you mean image_readability"),
        ({"records": 4}, UsageError, "records=4: expected 5 or more"),
        ({"seed": -1}, UsageError, "seed=-1: expected 0 or more"),
        ({"image_root": "nowhere"}, UsageError, "the image root nowhere is not a folder"),
    ],
)
def test_wrong_words_are_told(
    data: Path, tiny: str, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        vlitqc.validate(data, tiny, **given)


def test_without_a_clean_record_there_is_nothing_to_corrupt(
    make_data: Make, record: Callable[..., Any], tiny: str
) -> None:
    path = make_data(lines=[record(i, "nowhere.png") for i in range(3)])
    with pytest.raises(InputError, match="has no clean record"):
        vlitqc.validate(path, tiny)
    with pytest.raises(UsageError, match="write them to a file"):
        vlitqc.validate([{"id": "1"}], tiny)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def told(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlitqc", "validate", *map(str, args)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return told


def test_the_table_says_who_notices_and_the_file_is_beside_the_input(
    make_data: Make, tiny: str, call: Callable[..., tuple[int, str, str]]
) -> None:
    path = make_data(8)
    code, out, _ = call(path, "--profile", tiny, "--corruptions", "lost_pictures,typos", "--parts", 6)
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert any(
        line.startswith("composition lost_pictures 6 1.000 1.000 – 1.000") and line.endswith("≥ 0.90 yes")
        for line in lines
    )
    assert any(line.startswith("None of 2 pairs of a metric and a corruption.") for line in lines)
    assert "correctness: needs a judge" in lines
    beside = path.with_name("data.validity.json")
    assert f"result {beside}" in lines
    jsonschema.validate(json.loads(beside.read_text()), schema())


def test_of_a_run_it_goes_into_the_run_and_its_page(
    run: Run, call: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = call(run.path, "--corruptions", "lost_pictures", "--metrics", "composition", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((run.path / "validity.json").read_text())
    assert 'id="validity"' in (run.path / "report.html").read_text()


def test_a_smaller_result_says_what_it_took_the_place_of(
    make_data: Make, tiny: str, call: Callable[..., tuple[int, str, str]]
) -> None:
    path = make_data(8)
    beside = path.with_name("data.validity.json")
    words = (path, "--profile", tiny, "--metrics", "composition", "--json", "--corruptions")
    assert call(*words, "blur,typos")[::2] == (0, "")
    wide = beside.read_bytes()
    assert call(*words, "blur", "--out", beside)[::2] == (0, "")
    beside.write_bytes(wide)
    assert call(*words, "blur")[::2] == (
        0,
        "note  data.validity.json took the place of an earlier result: 2 corruptions, 1 metric; "
        "--out FILE.json keeps both\n",
    )


@pytest.mark.parametrize("option", ["--records", "--parts"])
def test_what_is_too_few_is_said_before_anything_is_read(
    option: str, data: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = call(data, option, FEWEST - 1)
    assert code == 2
    assert f"x>={FEWEST}" in err


def test_the_help_names_every_corruption(call: Callable[..., tuple[int, str, str]]) -> None:
    listed = call("--help")[1].split("Corruptions:")[1].split("Examples:")[0]
    assert set(re.findall(r"\w+", listed)) - {"texts", "pictures", "pairs", "sets"} == CORRUPTIONS.keys()


def test_of_another_profile_it_is_beside_the_run(run: Run, tmp_path: Path) -> None:
    runs = [Run(tmp_path / name) for name in ("v1.2", "v1.3.vlitqc")]
    for one in runs:
        shutil.copytree(run.path, one.path)
    sources = [experiment._Source.of(one, None, None, None, False) for one in runs]
    assert [one.beside.name for one in sources] == ["v1.2.validity.json", "v1.3.validity.json"]


def test_wrong_words_on_the_command_line(
    make_data: Make, data: Path, tiny: str, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    precious = tmp_path / "precious.json"
    precious.write_text('{"mine": 1}')
    code, _, err = call(data, "--out", precious)
    assert (code, precious.read_text()) == (2, '{"mine": 1}')
    assert "no result of validate; choose another output" in err
    path = make_data(5)
    path.with_name("data.validity.json").write_text("[]")
    code, out, err = call(
        path, "--profile", tiny, "--corruptions", "lost_pictures", "--metrics", "composition"
    )
    assert (code, path.with_name("data.validity.json").read_text()) == (2, "[]")
    assert "composition  lost_pictures" in out, "what was measured is told where it cannot be written"
    assert "choose another output" in err
    for words, message in (
        (("--corruptions", " , "), "names nothing"),
        (("--corruptions", "blr", "--profile", tiny), "did you mean blur"),
        (("--judge-url", "http://localhost:1"), "needs --judge-model"),
        (("--out", tmp_path / "x.html"), "expected a file FILE.json"),
    ):
        code, _, err = call(data, *words)
        assert code == 2
        assert message in err


# ---------------------------------------------------------------- the page


@pytest.fixture
def page_with(run: Run) -> Callable[[Any], str]:
    """The run's page beside whatever is in its validity.json."""

    def page(told: Any) -> str:
        text = told if isinstance(told, str) else json.dumps(told)
        (run.path / "validity.json").write_text(text)
        return run.report().read_text(encoding="utf-8")

    return page


def test_the_page_has_the_matrix(found: Validity, page_with: Callable[[Any], str]) -> None:
    page = page_with(found.as_json())
    assert '<a href="#validity">' in page
    matrix = page.split('class="v-matrix"')[1].split("</table>")[0]
    assert matrix.count("<tr>") == 1 + 3, "correctness has no value and no row"
    assert (
        "Text-only share under lost pictures: AUC 1.000, 95% interval 1.000–1.000, n = 6; must rise" in matrix
    )
    table = page.split('class="spread v-rows"')[1].split("</table>")[0]
    assert "it stays where its interval begins below the limit" in page
    assert table.count("<tr>") == 1 + matrix.count("AUC ")
    assert "<bdi>Correctness</bdi>: <bdi>needs a judge</bdi>" in page


def changed(found: Validity, change: Callable[[dict[str, Any]], None], **more: Any) -> dict[str, Any]:
    """The result with each of its cells changed."""
    told: dict[str, Any] = json.loads(json.dumps({**found.as_json(), **more}))
    for one in told["cells"]:
        change(one)
    return told


def in_terminal(told: dict[str, Any], width: int = 160) -> list[str]:
    out = io.StringIO()
    rich.console.Console(file=out, width=width).print(console.validity(told))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_what_was_not_measured_has_its_reason_on_both(
    found: Validity, page_with: Callable[[Any], str]
) -> None:
    """A target, all that there is of another metric, and a metric without a value."""

    def lose(one: dict[str, Any]) -> None:
        if one["metric"] == "composition" or (one["metric"], one["corruption"]) == (
            "text_readability",
            "shuffled_words",
        ):
            one.update(
                n=0, became_null=0.0, auc=None, interval=None, spearman=None, holds=None, reason="too few"
            )

    told = changed(found, lose)
    lines = in_terminal(told)
    assert lines[lines.index("Not measured") + 1 :] == [
        "text_readability under shuffled_words, composition: too few",
        "correctness: needs a judge",
    ]
    section = page_with(told).split("<h3>Not measured</h3>")[1].split('v-after"')[0]
    assert re.findall(r"<bdi>(.*?)</bdi>: <bdi>(.*?)</bdi>", section) == [
        ("Text readability under shuffled words, Text-only share", "too few"),
        ("Correctness", "needs a judge"),
    ]


def test_where_nothing_was_measured_nothing_is_said_to_hold(
    found: Validity, page_with: Callable[[Any], str]
) -> None:
    def lose(one: dict[str, Any]) -> None:
        one.update(n=0, became_null=0.0, auc=None, interval=None, spearman=None, holds=None, reason="too few")

    told = changed(found, lose)
    lines = in_terminal(told)
    assert "No pair of a metric and what it must notice could be measured." in lines
    assert "No pair could be measured." in lines
    section = page_with(told).split('id="validity"')[1].split("</section>")[0]
    assert "No pair of a metric and a corruption could be measured on 12 clean records" in section
    assert "0 of 0" not in section
    assert "should not move" not in section


@pytest.mark.parametrize("missed", [True, False])
def test_a_missed_target_points_to_the_card(
    found: Validity, page_with: Callable[[Any], str], missed: bool
) -> None:
    def miss(one: dict[str, Any]) -> None:
        if one["role"] == "target" and one["auc"] is not None:
            one["holds"] = not missed

    told = changed(found, miss)
    assert ("What a metric cannot see is on its card: vlitqc metrics NAME" in in_terminal(told)) == missed
    assert ("<code>vlitqc metrics NAME</code>" in page_with(told)) == missed


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (120, "metric corruption n AUC 95% interval strength lost wanted"),
        (80, "metric corruption n AUC 95% interval lost wanted"),
        (60, "metric corruption n AUC wanted"),
        (55, "metric corruption AUC wanted"),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_whole_names(
    found: Validity, width: int, columns: str
) -> None:
    lines = in_terminal(found.as_json(), width)
    assert " ".join(lines[3].split()) == columns
    assert any(line.split()[:2] == ["text_readability", "shuffled_words"] for line in lines)
    assert max(map(len, lines)) <= width


def test_hostile_text_stays_text(found: Validity, page_with: Callable[[Any], str]) -> None:
    told = json.loads(json.dumps(found.as_json()))
    evil = '"><script>alert(1)</script>\u202e\ud800'
    for corruption in told["corruptions"].values():
        corruption["summary"] = evil
    told["corruptions"][evil] = told["corruptions"].pop("blur")
    told["metrics"][evil] = told["metrics"].pop("image_readability")
    for one in told["cells"]:
        one["why"] = one["why"] and evil
        one["metric"] = one["metric"].replace("image_readability", evil)
        one["corruption"] = one["corruption"].replace("blur", evil)
        one["reason"] = one["reason"] and evil
    page = page_with(told)
    section = page.split('id="validity"')[1].split('id="reproduction"')[0]
    assert "<script" not in section
    assert "\u202e" not in section
    assert "&lt;script&gt;" in section
    assert "U+202E" in section


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"data_sha256": "0" * 64}, "it is of another data set"),
        ({"profile_sha256": "0" * 64}, "it is of another profile"),
        ({"format": 2}, "is damaged"),
        ({"records": math.inf}, "is damaged"),
        ({"cells": [{"metric": "composition", "corruption": "blur"}]}, "is damaged"),
        ({"corruptions": []}, "is damaged"),
        ("[1, 2]", "is damaged"),
        ('{"format": 1, ', "is damaged"),
    ],
)
def test_a_page_ignores_what_is_not_its_own(
    found: Validity, page_with: Callable[[Any], str], change: Any, note: str
) -> None:
    page = page_with(change if isinstance(change, str) else {**found.as_json(), **change})
    assert 'id="validity"' not in page
    assert note in page
