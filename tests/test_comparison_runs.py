"""``vlitqc compare`` over runs and outputs of filters: what is compared and refused, and every form of the result."""

from __future__ import annotations

import io
import json
import re
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

import vlitqc
from vlitqc import cli, console
from vlitqc.comparison.compare import Comparison, _printed, schema
from vlitqc.comparison.differences import Difference
from vlitqc.comparison.markdown import escaped
from vlitqc.engine.run import Run
from vlitqc.errors import RunError, UsageError
from vlitqc_reports.comparison import render

N = 40
HOSTILE = "<img src=x onerror=alert(1)>{{7*7}}|`\u202e[red]"
LIGHT = """
[metrics.image_readability]
[metrics.visual_complexity]
[metrics.composition]
[metrics.duplicates]
[metrics.correctness]
unavailable = "needs a judge"
"""

Runs = tuple[Run, Run]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    picture: Callable[[int], bytes],
    record: Callable[..., dict[str, Any]],
) -> Runs:
    """A run of 40 records, two of them unreadable, and one of 24 others, in a folder with a hostile name."""
    home = tmp_path_factory.mktemp("sets")
    profile = home / "light.toml"
    head = 'name = "light"\ntitle = "Light"\nsummary = "No weights."\nadds = "Nothing."\n'
    profile.write_text(head + LIGHT, encoding="utf-8")

    def scored(name: str, ids: range, broken: tuple[int, ...] = ()) -> Run:
        folder = home / name
        folder.mkdir()
        for i in ids:
            (folder / f"{i}.png").write_bytes(picture(i))
        lines = [
            b'{"id": "broken'
            if i in broken
            else json.dumps(record(i, f"{i}.png" if i % 5 else None)).encode()
            for i in ids
        ]
        (folder / "data.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        return vlitqc.score(folder / "data.jsonl", str(profile), out=folder / f"{name}.vlitqc", report=False)

    return scored("first", range(N), (3, 30)), scored(HOSTILE, range(100, 124))


@pytest.fixture
def run(runs: Runs, tmp_path: Path) -> Run:
    """A copy of the first run that a test may write into; its input is where it was."""
    return Run(Path(shutil.copytree(runs[0].path, tmp_path / "copy.vlitqc")))


@pytest.fixture
def filtered(run: Run, tmp_path: Path) -> Path:
    """The folder of a filter's output: what scores below the lower third of image readability is dropped."""
    vlitqc.filter(run, drop_below={"image_readability": "p33"}, out=tmp_path)
    return tmp_path


def compare(*data: Run | Path, **options: Any) -> Comparison:
    return vlitqc.compare(*data, **({"replicates": 3} | options))


def metric(found: Comparison, name: str) -> dict[str, Any]:
    (one,) = (one for one in found.as_json()["metrics"] if one["name"] == name)
    return dict(one)


def changed(source: Run, target: Path, **files: Callable[[Any], None]) -> Run:
    """A copy of a run in which something of ``run`` or ``scorecard`` is another."""
    shutil.copytree(source.path, target)
    for name, change in files.items():
        path = target / f"{name}.json"
        told = json.loads(path.read_text(encoding="utf-8"))
        change(told)
        path.write_text(json.dumps(told), encoding="utf-8")
    return Run.open(target)


# ---------------------------------------------------------------- what is compared


def test_two_runs_side_by_side(runs: Runs) -> None:
    found = compare(*runs)
    jsonschema.validate(found.as_json(), schema())
    assert [data["n"] for data in found.as_json()["sets"]] == [38, 24]
    a, b = (run.scores["image_readability"].dropna() for run in runs)
    readability = metric(found, "image_readability")["differences"]
    assert readability[0] is None
    assert readability[1]["value"] == pytest.approx(b.mean() - a.mean())
    assert readability[1]["method"] == "Welch"
    counts = metric(found, "image_readability")["histogram"]["counts"]
    assert [sum(one) for one in counts] == [len(a), len(b)]
    assert metric(found, "composition")["fair"]["m"] == 24
    assert metric(found, "correctness")["differences"][1]["reason"] == "needs a judge"


def test_the_same_run_twice_differs_by_nothing(runs: Runs) -> None:
    found = compare(runs[0], runs[0]).as_json()
    told = [one["differences"][1] for one in found["metrics"]]
    assert [each["interval"] for each in told].count([0, 0]) == 4
    assert all(each["value"] in (0, None) and not each["clear"] for each in told)
    assert found["sets"][1]["from_first"] == {"same": True, "n": 4, "clear": 0, "holds": 0}
    assert "nothing differs" in render(found)
    assert "nothing differs" in shown(found)
    assert [data["name"] for data in found["sets"]] == ["first/first", "first/first"]


def test_the_same_records_in_another_run_are_known_by_their_scores(runs: Runs, tmp_path: Path) -> None:
    again = compare(runs[0], changed(runs[0], tmp_path / "again.vlitqc")).as_json()
    assert again["sets"][1]["from_first"]["same"]

    def another_value(told: Any) -> None:
        for principle in told["principles"]:
            for one in principle["metrics"]:
                one["value"] = 50.0 if one["name"] == "duplicates" else one["value"]

    other = compare(runs[0], changed(runs[0], tmp_path / "other.vlitqc", scorecard=another_value)).as_json()
    assert not other["sets"][1]["from_first"]["same"]


def test_equal_numbers_of_different_records_are_not_the_same_records(two: Comparison) -> None:
    found = json.loads(json.dumps(two.as_json()))
    for one in found["metrics"]:
        if one["differences"][1]["interval"]:
            one["differences"][1] |= {"value": 0, "interval": [0, 0]}
    assert "nothing differs" not in render(found)
    assert "nothing differs" not in shown(found)


def test_what_is_not_compared_is_listed_of_the_same_records_too(runs: Runs, tmp_path: Path) -> None:
    other = changed(runs[0], tmp_path / "other.vlitqc", scorecard=other_version)
    found = compare(runs[0], other, mix_profiles=True).as_json()
    assert found["sets"][1]["from_first"]["same"]
    assert "not compared (another scale): image_readability" in shown(found)
    assert "1 not compared" in render(found)


@pytest.mark.parametrize(
    "output", ["data.filter.json", "data.kept.jsonl", "data.dropped.jsonl", "data.decisions.parquet"]
)
def test_an_output_of_a_filter_is_a_part_of_its_run(run: Run, filtered: Path, output: str) -> None:
    found = compare(run, filtered / output)
    part = "dropped" if "dropped" in output else "kept"
    told = found.as_json()["sets"][1]
    lines = (filtered / f"data.{part}.jsonl").read_bytes().splitlines()
    assert (told["part"], told["n"], told["n_run"]) == (part, len(lines), N)
    assert told["name"] == f"data {part}"
    readability = metric(found, "image_readability")
    assert readability["differences"][1]["method"] == "the same records, resampled together"
    assert readability["differences"][1]["clear"]
    assert (readability["differences"][1]["value"] > 0) == (part == "kept")
    assert metric(found, "composition")["differences"][1]["method"] == "a random part of as many records"
    jsonschema.validate(found.as_json(), schema())


def test_filtered_adds_what_the_latest_filter_kept(run: Run, filtered: Path) -> None:
    found = compare(run, filtered=True)
    assert found.as_json() == compare(run, filtered / "data.filter.json").as_json()


def test_without_a_filter_there_is_nothing_to_add(runs: Runs) -> None:
    with pytest.raises(UsageError, match=r"has no filter's result; filter the data: vlitqc filter '"):
        compare(runs[1], filtered=True)


def test_a_latest_filter_that_was_moved_is_named(run: Run, filtered: Path) -> None:
    (filtered / "data.decisions.parquet").rename(filtered / "away.parquet")
    with pytest.raises(UsageError) as caught:
        compare(run, filtered=True)
    sentence = (
        f"{filtered}/data.decisions.parquet is not there any more; name data.filter.json where it is now"
    )
    assert str(caught.value).startswith(sentence)


def test_a_latest_filter_of_an_earlier_run_is_named(run: Run, filtered: Path) -> None:
    path = run.path / "run.json"
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(UsageError, match=r"data\.decisions\.parquet is of another run than") as caught:
        compare(run, filtered=True)
    assert str(caught.value).endswith(f"filter the data again: vlitqc filter {run.path}")


def test_an_output_of_a_filter_alone_asks_for_its_run(run: Run, filtered: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compare(filtered / "data.kept.jsonl")
    cure = f"name its run, too: vlitqc compare {run.path} {filtered}/data.filter.json"
    assert str(caught.value) == f"one data set was named, data kept; {cure}"
    with pytest.raises(UsageError, match="no data set was named"):
        compare()


def test_a_filter_whose_run_was_moved_asks_for_it(run: Run, filtered: Path) -> None:
    moved = run.path.rename(filtered / "moved.vlitqc")
    with pytest.raises(
        RunError, match=r"copy\.vlitqc, which is not there any more; name the run where it is"
    ):
        compare(filtered / "data.filter.json", filtered / "data.dropped.jsonl")
    assert compare(moved, filtered / "data.filter.json").as_json()["sets"][1]["part"] == "kept"


def test_a_filter_knows_its_run_where_it_was(run: Run, filtered: Path) -> None:
    found = compare(filtered / "data.filter.json", run)
    assert [data["part"] for data in found.as_json()["sets"]] == ["kept", None]
    moved = run.path.rename(filtered / "moved.vlitqc")
    assert compare(moved, filtered / "data.filter.json").as_json()["sets"][1]["run"] == str(moved)


def test_the_input_stands_for_its_run(
    make_data: Callable[..., Path], tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(6)
    vlitqc.score(data, tiny, report=False)
    found = compare(data, data.with_name("data.vlitqc"))
    assert [one["name"] for one in found.as_json()["sets"]] == ["set/data", "set/data"]


# ---------------------------------------------------------------- what is refused


def test_one_data_set_is_not_enough_and_nine_are_too_many(runs: Runs) -> None:
    with pytest.raises(UsageError, match="name two or more, or pass --filtered"):
        compare(runs[0])
    with pytest.raises(UsageError, match="9 data sets were named; compare at most 8"):
        compare(*[runs[0]] * 9)


@pytest.mark.parametrize("options", [{"replicates": -1}, {"replicates": 1}, {"size": 0}])
def test_numbers_out_of_range_are_refused(runs: Runs, options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"^{name}="):
        compare(*runs, **options)


def test_a_filter_of_an_earlier_run_is_refused(run: Run, filtered: Path) -> None:
    path = run.path / "run.json"
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(RunError, match="is of an earlier run than the one that is now in"):
        compare(run, filtered / "data.filter.json")


def test_a_filter_without_its_decisions_is_refused(run: Run, filtered: Path) -> None:
    (filtered / "data.decisions.parquet").unlink()
    with pytest.raises(RunError, match=r"data\.decisions\.parquet does not exist; filter the data again"):
        compare(run, filtered / "data.filter.json")
    with pytest.raises(RunError, match=r"other\.filter\.json does not exist"):
        compare(run, filtered / "other.filter.json")


def test_a_filter_that_kept_nothing_is_refused(run: Run, tmp_path: Path) -> None:
    vlitqc.filter(run, where="image_readability > 2", missing="drop", out=tmp_path)
    with pytest.raises(UsageError, match="has no kept record"):
        compare(run, tmp_path / "data.filter.json")


def other_profile(told: Any) -> None:
    told["profile"]["name"] = "heavy"


def other_content(told: Any) -> None:
    told["profile"]["sha256"] = "0" * 64


def other_version(told: Any) -> None:
    for principle in told["principles"]:
        for one in principle["metrics"]:
            one["version"] += "0" if one["name"] == "image_readability" else ""


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {"run": other_profile},
            r"A \(first\) was scored with profile light and B \(other\) with heavy; score",
        ),
        ({"run": other_content}, r"different contents of profile light \(sha256 \w{12} and 0{12}\); score"),
        (
            {"scorecard": other_version},
            r"image_readability is version \d+ in A \(first\) and \d+0 in B \(other\); score",
        ),
    ],
    ids=["name", "content", "version"],
)
def test_profiles_are_not_mixed_unless_told(
    runs: Runs, tmp_path: Path, files: dict[str, Any], sentence: str
) -> None:
    other = changed(runs[0], tmp_path / "other.vlitqc", **files)
    with pytest.raises(UsageError, match=sentence) as caught:
        compare(runs[0], other)
    assert "pass --mix-profiles" in str(caught.value)
    found = compare(runs[0], other, mix_profiles=True)
    jsonschema.validate(found.as_json(), schema())
    assert found.as_json()["mixed"] == [str(caught.value).partition("; ")[0]]


def test_values_of_another_scale_have_no_difference(runs: Runs, tmp_path: Path) -> None:
    other = changed(runs[0], tmp_path / "other.vlitqc", scorecard=other_version)
    found = compare(runs[0], other, mix_profiles=True)
    mixed, same = metric(found, "image_readability"), metric(found, "visual_complexity")
    assert [value["note"] for value in mixed["values"]] == [None, "another scale"]
    assert mixed["values"][0]["value"] == mixed["values"][1]["value"]
    assert mixed["differences"][1]["value"] is None
    assert mixed["differences"][1]["reason"] == "another scale"
    assert mixed["histogram"]["counts"][1] is None
    assert same["differences"][1]["interval"] == [0, 0]
    assert "another scale" in render(found.as_json())


def test_models_are_not_mixed_either(runs: Runs, tmp_path: Path) -> None:
    def with_model(sha256: str) -> Run:
        def to_run(told: Any) -> None:
            model = {"slot": "s", "kind": "k", "name": "n", "revision": "1", "sha256": sha256}
            told["models"] = [model]

        def to_card(told: Any) -> None:
            for principle in told["principles"]:
                for one in principle["metrics"]:
                    one["models"] = ["s"] if one["name"] == "visual_complexity" else []

        return changed(runs[0], tmp_path / f"{sha256}.vlitqc", run=to_run, scorecard=to_card)

    with pytest.raises(
        UsageError, match=r"the models of visual_complexity in A \(aa\) are not those in B \(bb\)"
    ):
        compare(with_model("aa"), with_model("bb"))


# ---------------------------------------------------------------- forms


def shown(found: dict[str, Any], width: int = 120) -> str:
    screen = Console(width=width, highlight=False, emoji=False, record=True, file=io.StringIO())
    screen.print(console.comparison(found))
    return screen.export_text()


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("visual_complexity", (50.0, 50.04, (-3.0, 3.08)), ("50.0", "50.0", "0.0", "-3.0 to +3.1")),
        ("visual_complexity", (50.0, 49.99, (-90.0, 89.98)), ("50.0", "50.0", "0.0", "-90.0 to +90.0")),
        ("image_readability", (0.5, 0.25, (-0.5, 0.0)), ("0.5000", "0.2500", "-0.2500", "-0.5000 to 0.0000")),
        ("other", (1000.0, 2000.0, (900.0, 1100.0)), ("1,000", "2,000", "+1,000", "+900 to +1,100")),
        ("other", (0.53, 0.53, (0.0, 0.0)), ("0.53", "0.53", "0.00", "0.00 to 0.00")),
    ],
)
def test_numbers_have_the_digits_of_their_column_and_no_signed_zero(
    name: str, values: tuple[float, float, tuple[float, float]], told: tuple[str, ...]
) -> None:
    first, other, interval = values
    section = {"name": name, "fair": None, "values": [{"value": first}, {"value": other}]}
    printed = _printed(section, Difference(other - first, interval), 1)
    assert printed == dict(zip(("first", "other", "difference", "interval"), told, strict=True))


def test_letters_go_by_place_where_data_sets_are_equal(two: Comparison) -> None:
    found = json.loads(json.dumps(two.as_json()))
    (sized,) = (one for one in found["metrics"] if one["name"] == "duplicates")
    side = {"chao1": 3.0, "coverage": 0.5, "expected": 2.0, "reason": None}
    sized["fair"]["sets"] = [dict(one) | side for one in [sized["fair"]["sets"][0]] * 2]
    assert re.findall(r">([AB]): 2 expected", render(found)) == ["A", "B"]


def test_long_names_are_cut_in_headings(two: Comparison) -> None:
    found = json.loads(json.dumps(two.as_json()))
    found["sets"][1]["name"] = "n" * 200
    (heading,) = (line for line in shown(found).splitlines() if line.startswith("B − A"))
    assert heading == f"B − A: {'n' * 23}… against first"


def test_a_stage_is_named_before_the_random_parts() -> None:
    screen = Console(force_terminal=True, width=80, file=io.StringIO())
    with console.parts_drawn(screen) as progress:
        assert progress is not None
        progress(1, 5)
    told = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "metrics of the data sets" in told
    assert "random parts" in told


@pytest.fixture(scope="module")
def two(runs: Runs) -> Comparison:
    """The comparison of the two runs."""
    return compare(*runs)


def test_as_tables_of_pandas(two: Comparison, runs: Runs) -> None:
    assert list(two.table.columns) == [
        *("n", "TR", "MD", "C", "T", "I", "R", "O/G", "I_cx", "Balance", "IR", "SD", "OD", "VSC")
    ]
    assert two.table["n"].tolist() == [38, 24]
    assert two.table["IR"].tolist() == pytest.approx(
        [run.metrics()["image_readability"]["value"] for run in runs]
    )
    assert np.isnan(two.table["TR"]).all()
    told = two.differences.set_index("metric")
    assert (told["low"] <= told["difference"]).loc[["image_readability", "composition"]].all()


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_terminal_lines_up(two: Comparison, width: int) -> None:
    screen = Console(width=width, highlight=False, emoji=False, record=True, force_terminal=False)
    screen.print(console.comparison(two.as_json()))
    lines = screen.export_text().splitlines()
    assert max(map(cell_len, lines)) <= width
    head = next(i for i, line in enumerate(lines) if "Balance" in line)
    columns = [[match.end() for match in re.finditer(r"\S+", line)][-1] for line in lines[head : head + 3]]
    assert len(set(columns)) == 1
    assert "\u202e" not in "".join(lines)
    assert "[red]" in "".join(lines)
    assert ("VSC" in lines[head]) == (width >= 120)


def test_in_markdown_a_name_is_text(two: Comparison) -> None:
    text = two.markdown()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {5, 6}
    assert "\\<img src=x onerror=alert\\(1\\)\\>" in text
    assert "\u202e" not in text
    assert escaped("a|b\n*c*\x1b[1m") == "a\\|b\ufffd\\*c\\*\ufffd\\[1m"


def test_on_the_page_a_name_is_text(two: Comparison, tmp_path: Path) -> None:
    page = two.write(tmp_path / "page.html")
    html = page.read_text(encoding="utf-8")
    assert html == render(two.as_json())
    assert "built-in" not in html
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;{{7*7}}" in html
    assert "<script" not in html
    assert "\u202e" not in html
    assert "default-src &#39;none&#39;; style-src &#39;sha256-" in html
    body = html.partition("</style>")[2].replace("onerror=alert", "")
    assert not re.search(r"\s(style|on\w+)=", body)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Calls the command line in this process and gives its exit code, output and errors."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlitqc", "compare", *map(str, args)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def test_the_command_line_has_every_form(command: Callable[..., Any], runs: Runs, tmp_path: Path) -> None:
    sets = [str(run.path) for run in runs]
    code, out, err = command(*sets, "--replicates", "2", "--out", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert "image_readability" in out
    assert out.endswith(f"\npage    {tmp_path}/page.html\n")
    assert (tmp_path / "page.html").is_file()
    code, out, err = command(*sets, "--replicates", "0", "--json")
    told = json.loads(out)
    jsonschema.validate(told, schema())
    assert told["options"]["replicates"] == 0
    code, out, err = command(*sets, "--replicates", "0", "--markdown")
    assert (code, out.splitlines()[0][:14]) == (0, "| data set | n")


def test_the_command_line_refuses_in_a_sentence(
    command: Callable[..., Any], runs: Runs, tmp_path: Path
) -> None:
    code, out, err = command(runs[0].path)
    assert (code, out) == (2, "")
    assert err.startswith("error: one data set was named, first; name two or more")
    code, out, err = command(runs[0].path, tmp_path / "none")
    assert (code, out) == (3, "")
    assert "does not exist" in err
    assert command(*[runs[0].path] * 2, "--json", "--markdown")[0] == 2
    assert command(*[runs[0].path] * 2, "--out", tmp_path / "page.pdf")[0] == 2
    assert command(*[runs[0].path] * 2, "--replicates", "1")[0] == 2
    other = changed(runs[0], tmp_path / "other.vlitqc", run=other_profile)
    code, out, err = command(runs[0].path, other.path)
    assert (code, out) == (2, "")
    assert "--mix-profiles" in err
