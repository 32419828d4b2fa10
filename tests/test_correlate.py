"""``vlitqc correlate``: runs joined with a table of benchmarks, what is refused, and what is shown."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from scipy import stats

import vlitqc
from vlitqc import cli, console
from vlitqc.comparison.benchmarks import MOST_BENCHMARKS, MOST_BYTES, Correlations, read_benchmarks, schema
from vlitqc.engine.run import Run
from vlitqc.errors import InputError, UnknownName, UsageError

LIGHT = """
[metrics.image_readability]
[metrics.composition]
[metrics.duplicates]
[metrics.correctness]
unavailable = "needs a judge"
"""
HEAD = 'name = "light"\ntitle = "Light"\nsummary = "No weights."\nadds = "Nothing."\n'
NAMES = ("first", "second", "third", "fourth", "fifth")
READABILITY = (0.31, 0.54, 0.42, 0.77, 0.58)
SCORES = (20.0, 35.5, 30.1, 41.0, 29.0)

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def scored(
    tmp_path_factory: pytest.TempPathFactory,
    picture: Callable[[int], bytes],
    record: Callable[..., dict[str, Any]],
) -> tuple[Run, Run]:
    """A run of 20 records, and one of 12 others."""
    home = tmp_path_factory.mktemp("scored")
    profile = home / "light.toml"
    profile.write_text(HEAD + LIGHT, encoding="utf-8")

    def score(name: str, ids: range) -> Run:
        folder = home / name
        folder.mkdir()
        for i in ids:
            (folder / f"{i}.png").write_bytes(picture(i))
        lines = [json.dumps(record(i, f"{i}.png" if i % 5 else None)) for i in ids]
        (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return vlitqc.score(folder / "data.jsonl", str(profile), out=folder / f"{name}.vlitqc", report=False)

    return score("large", range(20)), score("small", range(100, 112))


def like(source: Run, target: Path, readability: float) -> Run:
    """A run of other data with another scorecard: that of the source with this image readability."""
    shutil.copytree(source.path, target)
    card = json.loads((target / "scorecard.json").read_text(encoding="utf-8"))
    for principle in card["principles"]:
        for one in principle["metrics"]:
            one["value"] = readability if one["name"] == "image_readability" else one["value"]
    (target / "scorecard.json").write_text(json.dumps(card), encoding="utf-8")
    info = json.loads((target / "run.json").read_text(encoding="utf-8"))
    info["input"]["sha256"] = target.name
    (target / "run.json").write_text(json.dumps(info), encoding="utf-8")
    return Run.open(target)


@pytest.fixture(scope="module")
def runs(scored: tuple[Run, Run], tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Five runs whose image readability is known."""
    home = tmp_path_factory.mktemp("runs")
    pairs = zip(NAMES, READABILITY, strict=True)
    return [like(scored[0], home / f"{name}.vlitqc", value) for name, value in pairs]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Writes a table of benchmarks: its text, or the lines of a good one with these further columns."""

    def write(text: str | bytes | None = None, **columns: tuple[object, ...]) -> Path:
        if text is None:
            all_columns = {"score": SCORES, **columns}
            lines = [f"data,{','.join(all_columns)}"]
            rows = zip(NAMES, *all_columns.values(), strict=True)
            text = "\n".join([*lines, *(",".join(map(str, row)) for row in rows)]) + "\n"
        path = tmp_path / "scores.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls the command line in this process."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlitqc", "correlate", *map(str, args)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        told = capsys.readouterr()
        return int(code or 0), told.out, told.err

    return run


def pair(found: Correlations, metric: str, benchmark: str) -> dict[str, Any]:
    (one,) = (
        one for one in found.as_json()["pairs"] if (one["metric"], one["benchmark"]) == (metric, benchmark)
    )
    return dict(one)


def shown(found: Correlations, width: int = 160) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(console.correlations(found.as_json()))
    return stream.getvalue()


# ---------------------------------------------------------------- what is correlated


def test_a_metric_with_a_benchmark(runs: list[Run], table: Write) -> None:
    found = vlitqc.correlate(*runs, benchmarks=table(other=(1, 2, 3, 5, 4)))
    jsonschema.validate(found.as_json(), schema())
    one = pair(found, "image_readability", "score")
    expected = stats.pearsonr(READABILITY, SCORES)
    assert one["n"] == 5
    assert (one["pearson"]["value"], one["pearson"]["p"]) == pytest.approx(
        (expected.statistic, expected.pvalue)
    )
    assert one["pearson"]["interval"] == pytest.approx(list(expected.confidence_interval()))
    assert one["spearman"]["value"] == pytest.approx(stats.spearmanr(READABILITY, SCORES).statistic)
    # Of all pairs only the two of image readability vary.
    two = pair(found, "image_readability", "other")
    p = sorted((each["pearson"]["p"], each["pearson"]["q"]) for each in (one, two))
    assert [q for _, q in p] == pytest.approx([min(2 * p[0][0], p[1][0]), p[1][0]])
    assert found.as_json()["counts"]["pearson"]["tested"] == 2
    assert pair(found, "duplicates", "score")["pearson"]["reason"] == "all values of duplicates are equal"
    assert pair(found, "correctness", "score")["n"] == 0
    assert "correctness: 0 of at least 3 data sets have both (needs a judge)" in shown(found)
    row = found.table.set_index(["metric", "benchmark"]).loc[("image_readability", "score")]
    assert row["pearson_high"] == pytest.approx(one["pearson"]["interval"][1])


def test_an_empty_cell_costs_its_pair_one_data_set(runs: list[Run], table: Write) -> None:
    found = vlitqc.correlate(
        *runs, benchmarks=table(gap=(1, "", 3, 5, ""), few=(1, 2, "", "", ""), same=(7,) * 5)
    )
    known = [0, 2, 3]
    one = pair(found, "image_readability", "gap")
    assert one["n"] == 3
    assert one["pearson"]["value"] == pytest.approx(
        np.corrcoef(np.array(READABILITY)[known], [1, 3, 5])[0, 1]
    )
    assert one["pearson"]["reason"] == "no interval: 3 of at least 4 data sets"
    assert "without second, fifth: gap: no score in the CSV" in shown(found)
    assert pair(found, "image_readability", "few")["pearson"]["value"] is None
    assert pair(found, "image_readability", "same")["pearson"]["reason"] == "all values of same are equal"


def test_data_sets_of_one_side_alone_are_named(runs: list[Run], table: Write) -> None:
    path = table("data,score\nfirst,1\nsecond,3\nthird,2\nsixth,4\n")
    found = vlitqc.correlate(*runs, benchmarks=path)
    told = found.as_json()
    assert [one["name"] for one in told["sets"]] == ["first", "second", "third"]
    assert told["without_benchmarks"] == ["fourth", "fifth"]
    assert told["without_run"] == ["sixth"]
    assert "not in the CSV, left out: fourth, fifth" in shown(found)
    assert "in the CSV, but no run named: sixth" in shown(found)


def test_two_data_sets_show_nothing(runs: list[Run], table: Write) -> None:
    found = vlitqc.correlate(*runs[:2], benchmarks=table())
    jsonschema.validate(found.as_json(), schema())
    assert {one["pearson"]["value"] for one in found.as_json()["pairs"]} == {None}
    assert "it takes three data sets with both" in shown(found)


def test_names_say_which_run_is_which(runs: list[Run], table: Write) -> None:
    path = table("data,score\nLLaVA 1.5,1\nsecond,3\nthird,2\n")
    by_path = vlitqc.correlate(*runs[:3], benchmarks=path, names={str(runs[0].path): "LLaVA 1.5"})
    by_name = vlitqc.correlate(*runs[:3], benchmarks=path, names={"first": "LLaVA 1.5"})
    assert by_path.as_json() == by_name.as_json()
    assert by_path.as_json()["sets"][0]["name"] == "LLaVA 1.5"
    assert "LLaVA 1.5 (first)" in shown(by_path)


def test_more_than_compare_can_show_are_correlated(scored: tuple[Run, Run], tmp_path: Path) -> None:
    values = [0.1 * i for i in range(1, 11)]
    many = [like(scored[0], tmp_path / f"set{i}.vlitqc", value) for i, value in enumerate(values)]
    path = tmp_path / "scores.csv"
    path.write_text("data,score\n" + "".join(f"set{i},{i}\n" for i in range(10)), encoding="utf-8")
    one = pair(vlitqc.correlate(*many, benchmarks=path), "image_readability", "score")
    assert (one["n"], one["pearson"]["value"]) == (10, 1)


def test_data_sets_of_other_sizes_are_taken_at_equal_size(
    scored: tuple[Run, Run], runs: list[Run], table: Write
) -> None:
    path = table("data,score\nsmall,1\nfirst,3\nsecond,2\n")
    at_size = vlitqc.correlate(scored[1], *runs[:2], benchmarks=path, replicates=2)
    as_it_is = vlitqc.correlate(scored[1], *runs[:2], benchmarks=path, replicates=0)
    told, raw = (
        next(one for one in found.as_json()["metrics"] if one["name"] == "duplicates")
        for found in (at_size, as_it_is)
    )
    assert told["size"] == 12
    assert raw["size"] is None
    assert told["values"][0] == raw["values"][0]
    assert "at equal size, 12 scored records: " in shown(at_size)
    assert "sizes differ, which says more of size than of content: " in shown(as_it_is)
    sample = next(one for one in at_size.as_json()["metrics"] if one["name"] == "image_readability")
    assert sample["values"][1:] == list(READABILITY[:2])


def test_shared_records_are_told(runs: list[Run], table: Write, tmp_path: Path) -> None:
    again = Run(Path(shutil.copytree(runs[0].path, tmp_path / "fifth.vlitqc")))
    found = vlitqc.correlate(*runs[:4], again, benchmarks=table())
    assert found.as_json()["overlapping"] == [["first", "fifth"]]
    assert "these share records: first and fifth." in shown(found)


# ---------------------------------------------------------------- what is shown


def test_the_command_says_what_so_few_can_show(
    runs: list[Run], table: Write, call: Callable[..., tuple[int, str, str]]
) -> None:
    places = [run.path for run in runs]
    code, out, err = call(*places, "--benchmarks", table(other=(1, 2, 3, 5, 4)))
    assert (code, err) == (0, "")
    assert "5 data sets: first, second, third, fourth, fifth; profile light" in out
    line = next(line for line in out.splitlines() if line.startswith("image_readability"))
    r, p = stats.pearsonr(READABILITY, SCORES)
    assert line.split()[1:4] == ["score", "5", f"{r:.3f}"]
    assert f" {p:.3f} " in line
    assert "p ≤ 0.05 takes |r| ≥ 0.878" in out
    assert "p of rho is 0.017 at the least" in out
    code, out, _ = call(*places, "--benchmarks", table(), "--json")
    assert code == 0
    jsonschema.validate(json.loads(out), schema())


def test_whether_any_survives_is_said(runs: list[Run], table: Write) -> None:
    noise = {f"noise{i}": tuple(np.random.default_rng(i).normal(size=5)) for i in range(8)}
    found = vlitqc.correlate(*runs, benchmarks=table(**noise))
    counts = found.as_json()["counts"]["pearson"]
    assert counts["q"] == 0
    assert (
        f"Pearson: {counts['p']} of 9 p ≤ 0.05, where chance alone makes 0.45; none of the 9 survives"
        in shown(found)
    )
    line = tuple(100 * value + 0.001 * i**2 for i, value in enumerate(READABILITY))
    assert (
        "Pearson: 1 of 2 p ≤ 0.05, where chance alone makes 0.1; 1 of 2 survives Benjamini–Hochberg."
        in shown(vlitqc.correlate(*runs, benchmarks=table(score=(3, 1, 2, 2, 1), line=line)))
    )


@pytest.mark.parametrize("width", [80, 160])
def test_no_line_is_cut(runs: list[Run], table: Write, width: int) -> None:
    found = vlitqc.correlate(*runs, benchmarks=table(text_recognition=(1, 2, 3, 5, 4)))
    told = shown(found, width)
    assert all(cell_len(line) <= width for line in told.splitlines())
    assert "…" not in told
    assert told.count("image_readability") == (1 if width == 160 else 2)


def test_names_of_the_table_are_no_commands_to_the_terminal(runs: list[Run], table: Write) -> None:
    hostile = "\x1b[31m[red]\u202e"
    path = table(
        "data,score,x" + hostile + "\n" + "".join(f"{name},{i * i},{i}\n" for i, name in enumerate(NAMES))
    )
    told = shown(vlitqc.correlate(*runs, benchmarks=path))
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert "[red]" in told


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("data,score\n", "has a header and no data set below it"),
        ("data\nfirst\n", "has one column"),
        ("data,score,\nfirst,1,2\n", "column 3 has no name"),
        ("data,score,score\nfirst,1,2\n", "two columns score"),
        ("data,score\nfirst,1\n\nfirst,2\n", "line 4: first has a line already, 2"),
        ("data,score\n,1\n", "line 2: its first cell is empty"),
        ("data,score\nfirst,high\n", "line 2, column score: 'high' is not a number"),
        ("data;score\nfirst;12,5\n", "'12,5' is not a number"),
        ("data,score\nfirst,nan\n", "'nan' is not a number"),
        ("data,score\nfirst,1e999\n", "'1e999' is not a number"),
        ("data,score\nfirst,1_0\n", "'1_0' is not a number"),
        ("data,score\nfirst,1,2\n", "line 2 has 3 cells, and the header 2"),
        ('data,score\n"first,1\n', "no CSV"),
        (
            "data,scör\nfirst,1\n".encode("latin-1"),
            "byte 0xf6 at place 7 is not UTF-8; save the table as CSV in UTF-8",
        ),
        ("d," + ",".join(f"b{i}" for i in range(MOST_BENCHMARKS + 1)), "201 columns of benchmarks"),
        (b"d,s\n" + b"\n" * MOST_BYTES, "is larger than 1,048,576 bytes"),
    ],
)
def test_a_table_that_is_none_is_refused(table: Write, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=r"scores\.csv") as told:
        read_benchmarks(table(text))
    assert message in str(told.value)


def test_a_table_as_spreadsheets_write_it(table: Write) -> None:
    found = read_benchmarks(
        table('\ufeffdata;"text; recognition";VR\r\n "first" ;1.5;\r\n;;\r\nsecond;-2e1;3\r\n')
    )
    assert found.names == ("text; recognition", "VR")
    assert found.scores["second"] == {"text; recognition": -20, "VR": 3}
    assert next(iter(found.scores.values()))["VR"] is None


@pytest.mark.parametrize(
    "text",
    [
        "\n\ndata;a\nfirst;1\n",
        'data,"a; b; c, d"\nfirst,1\n',
        "\ta\nfirst\t1\n",
        "data,a\rfirst,1\r",
    ],
)
def test_separators_are_told_by_the_header_outside_its_quotes(table: Write, text: str) -> None:
    found = read_benchmarks(table(text))
    assert len(found.names) == 1
    assert list(found.scores["first"].values()) == [1]


def test_a_long_name_does_not_flood_the_error(table: Write, runs: list[Run]) -> None:
    name = "n" * 100_000
    for text in (
        f"d,{name},{name}\na,1,2\n",
        f"d,s\n{name},1\n{name},2\n",
        f"d,{name}\na,high\n",
        f"d,s\n{name},1\n",
    ):
        path = table(text)
        with pytest.raises((InputError, UsageError)) as told:
            vlitqc.correlate(*runs, benchmarks=path)
        assert "nnn…" in str(told.value)
        assert len(str(told.value)) < 500 + len(str(path))


@pytest.mark.parametrize("name", ["nowhere.csv", "."])
def test_a_table_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="expected a CSV of benchmark scores"):
        read_benchmarks(tmp_path / name)


def test_other_profiles_are_refused(runs: list[Run], table: Write, tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs[2].path, tmp_path / "third.vlitqc"))
    info = json.loads((other / "run.json").read_text(encoding="utf-8"))
    info["profile"]["name"] = "modern"
    (other / "run.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"1 \(first\) was scored with profile light and 3 \(third\) with modern"
    ):
        vlitqc.correlate(*runs[:2], other, benchmarks=table())


def test_names_that_fit_nothing_are_refused(runs: list[Run], table: Write) -> None:
    path = table()
    with pytest.raises(UnknownName, match="did you mean first"):
        vlitqc.correlate(*runs, benchmarks=path, names={"frist": "x"})
    with pytest.raises(UsageError, match="two of the data sets named are called second"):
        vlitqc.correlate(*runs, benchmarks=path, names={"first": "second"})
    with pytest.raises(UsageError, match="given two names: a and b"):
        vlitqc.correlate(*runs, benchmarks=path, names={"first": "a", str(runs[0].path): "b"})
    with pytest.raises(UsageError, match=r"no data set is in .*named were first, second, and it has a, b"):
        vlitqc.correlate(*runs[:2], benchmarks=table("d,s\na,1\nb,2\n"))
    with pytest.raises(UsageError, match="no data set was named"):
        vlitqc.correlate(benchmarks=path)
    with pytest.raises(UsageError, match="replicates=1"):
        vlitqc.correlate(*runs, benchmarks=path, replicates=1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--benchmarks"),
        (["--benchmarks", "nowhere.csv"], 3, "nowhere.csv does not exist"),
        (["--names", "first"], 2, "expected RUN=NAME"),
        (["--names", "=x"], 2, "expected RUN=NAME"),
        (["--names", "first=a", "--names", "first=b"], 2, "gives first two names: a and b"),
        (["--replicates", "-1"], 2, "--replicates"),
    ],
)
def test_wrong_words_get_a_sentence(
    runs: list[Run],
    table: Write,
    call: Callable[..., tuple[int, str, str]],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    if arguments and "--benchmarks" not in arguments:
        arguments = [*arguments, "--benchmarks", str(table())]
    found, out, err = call(*(run.path for run in runs), *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_a_name_of_the_command_line_may_hold_an_equals_sign_in_its_path(
    runs: list[Run], table: Write, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    odd = Path(shutil.copytree(runs[0].path, tmp_path / "lr=1e-5.vlitqc"))
    places = [odd, *(run.path for run in runs[1:])]
    code, out, _ = call(*places, "--benchmarks", table(), "--names", f"{odd}=first")
    assert code == 0
    assert "first (lr=1e-5)" in out
