"""The other forms of a report: Markdown, a parquet table of samples, the schema; and the words that ask for them."""

from __future__ import annotations

import itertools
import json
import queue
import re
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

import vlitqc
from vlitqc.cli import cli
from vlitqc.engine import scorecard
from vlitqc.engine.run import Run
from vlitqc.errors import InputError, RunError, UsageError, VlitqcError
from vlitqc.registry import REPORTS
from vlitqc_reports import html, markdown, samples_table
from vlitqc_reports.samples_table import write_samples

Make = Callable[..., Path]
READER = MarkdownIt("commonmark", {"html": True}).enable("table")
EVIL = (
    "<img src=x onerror=alert(1)> | `a` ``b`` [x](javascript:alert(1)) ![y](http://e.vil/) **z** \\| \\ "
    "\n# h\n<!-- \u202e"
)


@pytest.fixture
def run(messy: Path, tiny: str) -> Run:
    """Records of every sort of fault and shape."""
    return vlitqc.score(messy, tiny, report=False)


# ---------------------------------------------------------------- Markdown


def tokens(text: str) -> Iterator[Token]:
    """Every token, inline ones too."""
    for token in READER.parse(text):
        yield token
        yield from token.children or ()


def cells(text: str) -> list[list[str]]:
    """The rows of every table, as a reader of Markdown shows their cells."""
    rows: list[list[str]] = []
    inside = False
    for token in READER.parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open", "th_close", "td_close"):
            inside = token.nesting == 1
        elif inside and token.type == "inline":
            rows[-1].append("".join(child.content for child in token.children or ()))
    return rows


def test_the_scorecard_as_markdown_says_what_it_says(run: Run, tmp_path: Path) -> None:
    out = markdown.write_markdown(run, tmp_path / "new" / "card.md")
    text = out.read_text(encoding="utf-8")
    card = run.scorecard
    assert text.startswith(f"## Quality of `data.jsonl`: {card['verdict']['level']}\n\n")
    assert card["verdict"]["headline"] in text
    assert "can be compared with others of the same profile" in text
    assert card["profile"]["sha256"] in text
    assert card["input"]["sha256"] in text
    assert f"```sh\n{card['command']}\n```" in text
    rows = cells(text)
    counts = card["counts"]
    assert [f"{counts[k]:,}" for k in ("records", "scored", "partial", "unreadable")] in rows
    metrics = run.metrics()
    by_title = {row[1]: row for row in rows if len(row) == 7}
    assert {*by_title} == {m["title"] for m in metrics.values()} | {"Measurement"}
    readable = metrics["image_readability"]
    principle, _, value, interval, unit, scored, better = by_title["Image readability"]
    assert (principle, unit, better) == ("Readability", "", "higher")
    assert float(value) == pytest.approx(readable["value"], abs=0.01)
    assert [float(end) for end in interval.split("–")] == pytest.approx(readable["interval"], abs=0.01)
    assert scored == f"{readable['n_scored']} of {readable['n_total']}"
    assert by_title["Correctness"][2] == "–"
    assert "- Correctness: Needs a judge." in text
    assert [[i["severity"], i["kind"], str(i["n"])] for i in card["issues"]] == [
        r for r in rows if len(r) == 3
    ][1:]
    # A card is public, and says nothing of where things lie but in the command.
    assert str(run.path.parent) not in text.replace(card["command"], "")
    assert [p.name for p in out.parent.iterdir()] == ["card.md"]


def test_headings_follow_one_another_below_the_first_level(run: Run) -> None:
    levels = [int(t.tag[1]) for t in tokens(markdown.render(run.scorecard)) if t.type == "heading_open"]
    assert levels[0] == 2
    assert {*levels[1:]} == {3}


def test_no_blank_line_parts_a_table(run: Run) -> None:
    text = markdown.render(run.scorecard)
    assert "\n\n\n" not in text
    assert sum(t.type == "table_open" for t in tokens(text)) == len(
        re.findall(r"^\| :?--", text, re.MULTILINE)
    )


def hostile(card: dict[str, Any]) -> dict[str, Any]:
    """The scorecard with ``EVIL`` in every text that data, a profile or a metric of a third party may bring."""
    evil = deepcopy(card)
    evil["command"] = f"vlitqc score '{EVIL}' ````"
    evil["input"]["paths"] = [f"/data/{EVIL}".replace("/e.vil/", "e.vil")]
    evil["profile"] |= {"name": EVIL, "sha256": EVIL}
    evil["verdict"] |= {
        "headline": EVIL,
        "to_fix": [{"title": EVIL, "detail": EVIL, "n": 3, "command": EVIL}],
    }
    evil["issues"] = [{"kind": EVIL, "severity": "error", "n": 1, "examples": []}]
    evil["models"] = [
        dict.fromkeys(("slot", "kind", "name", "revision", "sha256", "licence", "package"), EVIL)
    ]
    for principle in evil["principles"]:
        for metric in principle["metrics"]:
            metric |= {"title": EVIL, "unit": EVIL}
            if metric["value"] is None:
                metric["reason"] = EVIL
            if metric["name"] == "composition":
                metric["details"] |= {"languages": {EVIL: 3, "`": 2, "|": 1}, "turns": {EVIL: 1}}
    return evil


def test_nothing_of_the_data_is_markup(run: Run) -> None:
    plain, evil = markdown.render(run.scorecard), markdown.render(hostile(run.scorecard))
    kinds = [t.type for t in tokens(evil)]
    assert not {"html_inline", "html_block", "link_open", "image", "em_open"} & {*kinds}
    assert kinds.count("strong_open") == 1 + 1  # the profile and the one thing to fix
    assert kinds.count("heading_open") == [t.type for t in tokens(plain)].count("heading_open") + (
        1 - bool(run.scorecard["verdict"]["to_fix"])
    )
    assert "\u202e" not in evil
    assert {len(row) for row in cells(evil)} <= {2, 3, 4, 5, 7}
    told = "<img src=x onerror=alert(1)>"
    assert sum(told in "".join(row) for row in cells(evil)) >= len(run.metrics()) + 3


@given(st.text(alphabet="`|\\*_[]<>&~#$:/.\n ahtpsw@!-", max_size=24))
def test_any_text_shows_as_itself(text: str) -> None:
    shown = " ".join(text.split())
    for cell, wanted in ((markdown.code_cell(text), shown or "–"), (markdown.escaped(text), shown)):
        table = f"| a | b |\n| -- | -- |\n| x{cell}x | second |\n"
        rows = cells(table)
        assert len(rows) == 2
        assert rows[1][1] == "second"
        # In a span of code a reader of tables leaves the backslashes that stand before a bar doubled.
        assert re.sub(r"\\+\|", "|", rows[1][0]) == re.sub(r"\\+\|", "|", f"x{wanted}x")
        assert not {"html_inline", "link_open", "image", "em_open", "strong_open"} & {
            t.type for t in tokens(table)
        }


@given(st.text(alphabet="`|\\ a", max_size=12))
def test_outside_of_a_table_code_shows_as_itself_to_the_bar(text: str) -> None:
    (span,) = (t for t in tokens(f"## {markdown.code(text)}") if t.type == "code_inline")
    assert span.content == (" ".join(text.split()) or "–")


def test_nobody_is_mentioned_and_no_mail_address_is_a_link() -> None:
    found = list(tokens(markdown.escaped("mail a@b.example, thank @octocat or @@x` today")))
    assert not any("@" in t.content for t in found if t.type == "text")
    assert [t.content for t in found if t.type == "code_inline"] == ["@", "@", "@@"]


def test_links_that_readers_see_by_themselves_are_broken() -> None:
    for text in ("https://e.vil/x", "HTTP://e.vil", "see www.e.vil now", "mailto:a"):
        assert not re.search(r"(?i)https?://|www\.|mailto:", markdown.escaped(text))


# ---------------------------------------------------------------- samples


def test_a_row_a_record(run: Run, messy_states: dict[str, str], tmp_path: Path) -> None:
    out = write_samples(run, tmp_path / "new" / "samples.parquet")
    frame = pd.read_parquet(out)
    scores = run.scores
    assert frame["row"].tolist() == list(range(len(messy_states)))
    assert frame["state"].tolist() == list(messy_states.values())
    named = frame.set_index(pd.Index(messy_states))
    home = run.path.parent
    good = named.loc["good"]
    asked, answered = run.record(0).turns[0].instruction, run.record(0).turns[0].response  # type: ignore[union-attr]
    assert (good["text"], good["instruction"], good["response"]) == (
        f"{asked}\n\n{answered}",
        asked,
        answered,
    )
    assert good["image"] == str(home / "0.png")
    assert named.loc["many", "images"].tolist() == [str(home / "1.png"), str(home / "2.png")]
    assert named.loc["many", "image"] == str(home / "1.png")
    assert named.loc["missing", "image"] == str(home / "nowhere.png")
    assert named.loc["text", "images"].tolist() == []
    for name in ("text", "embedded", "outside", "remote"):
        assert pd.isna(named.loc[name, "image"])
    for name in ("malformed", "list", "no_conversation"):
        assert named.loc[name, ["text", "instruction", "response", "image", "images"]].isna().all()
    for column in set(frame) & set(scores):
        pd.testing.assert_series_equal(frame[column], scores[column])
    assert set(scores) - set(frame) == {"start", "end", "sha256"}
    assert list(frame)[:5] == ["row", "id", "file", "line", "state"]
    assert [p.name for p in out.parent.iterdir()] == ["samples.parquet"]


def test_turns_are_joined_by_blank_lines(make_data: Make, record: Any, tiny: str, tmp_path: Path) -> None:
    line = record(0)
    line["conversations"] += [
        {"from": "human", "value": "And?"},
        {"from": "gpt", "value": "No."},
    ]
    run = vlitqc.score(make_data(lines=[line]), tiny, report=False)
    (found,) = pd.read_parquet(write_samples(run, tmp_path / "s.parquet")).to_dict("records")
    assert found["instruction"].endswith("picture number 0?\n\nAnd?")
    assert found["response"] == "A pattern of grey squares .\n\nNo."
    assert found["text"].split("\n\n")[2:] == ["And?", "No."]


def test_a_folder_whose_name_is_no_utf8(
    make_data: Make, record: Any, picture: Any, tiny: str, tmp_path: Path
) -> None:
    root = tmp_path / "im\udcff"
    root.mkdir()
    (root / "a.png").write_bytes(picture(1))
    run = vlitqc.score(make_data(lines=[record(0, "a.png")]), tiny, image_root=root, report=False)
    (found,) = pd.read_parquet(write_samples(run, tmp_path / "s.parquet"))["image"]
    assert found == str(tmp_path / "im\\udcff" / "a.png")


def test_a_score_that_is_named_like_content_keeps_its_values(run: Run, tmp_path: Path) -> None:
    for part in (run.path / "scores").glob("*.parquet"):
        table = pq.read_table(part)
        for name in ("text", "x", "score_text"):
            table = table.append_column(name, pc.cast(table["row"], "float64"))
        pq.write_table(table, part)
    samples = pd.read_parquet(write_samples(run, tmp_path / "s.parquet", projection="none"))
    assert samples["text"].dropna().map(type).eq(str).all()
    assert samples["x"].isna().all()
    for name in ("score_text", "score_x", "score_score_text"):
        assert samples[name].tolist() == samples["row"].tolist()


def test_it_is_written_in_pieces(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pd.read_parquet(write_samples(run, tmp_path / "whole.parquet"))

    def seek(self: Run, row: int) -> None:
        raise AssertionError("a record was looked up by itself")

    monkeypatch.setattr(Run, "record", seek)
    for name, value, groups in (("ROWS", 3, 5), ("BYTES", 150, 6)):
        with monkeypatch.context() as patch:
            patch.setattr(samples_table, name, value)
            out = write_samples(run, tmp_path / f"{name}.parquet")
        assert pq.read_metadata(out).num_row_groups >= groups
        pd.testing.assert_frame_equal(pd.read_parquet(out), whole)


def test_of_a_run_with_a_limit_the_first_records(make_data: Make, tiny: str, tmp_path: Path) -> None:
    run = vlitqc.score(make_data(9), tiny, limit=4, report=False)
    assert pd.read_parquet(write_samples(run, tmp_path / "s.parquet"))["row"].tolist() == [0, 1, 2, 3]


def test_coordinates_are_of_every_record_that_has_vectors(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable = (run.scores["state"] != "unreadable").to_numpy()
    n = int(readable.sum())
    rng = np.random.default_rng(1)
    has_one = np.arange(n) != 4
    vectors = {
        "response": (rng.normal(size=(n, 5)).astype(np.float32), np.ones(n, np.bool_)),
        "picture": (rng.normal(size=(n, 3)).astype(np.float32), has_one),
    }
    monkeypatch.setattr(Run, "vectors", lambda self, kind: vectors[kind])
    frame = pd.read_parquet(write_samples(run, tmp_path / "s.parquet"))
    assert frame["x"].notna().tolist() == frame["y"].notna().tolist() == readable.tolist()
    assert np.flatnonzero(frame["image_x"].notna()).tolist() == np.flatnonzero(readable)[has_one].tolist()
    for axes in (["x", "y"], ["image_x", "image_y"]):
        points = frame[axes].dropna().to_numpy()
        assert points.min() >= 0
        assert points.max() <= 1
        assert len(np.unique(points, axis=0)) == len(points)
    centred = vectors["response"][0] - vectors["response"][0].mean(axis=0)
    direction = np.linalg.svd(centred)[2][0]
    assert abs(np.corrcoef(centred @ direction, frame["x"].dropna())[0, 1]) > 0.999
    none = pd.read_parquet(write_samples(run, tmp_path / "none.parquet", projection="none"))
    assert none[["x", "y", "image_x", "image_y"]].isna().all(axis=None)
    with pytest.raises(UsageError, match="tsne"):
        write_samples(run, tmp_path / "s.parquet", projection="tsne")


def test_an_input_that_has_changed_is_said(run: Run, tmp_path: Path) -> None:
    data = Path(run.info["input"]["paths"][0])
    data.write_bytes(data.read_bytes() + b"{}\n")
    with pytest.raises(InputError, match="has changed since it was scored"):
        write_samples(Run.open(run.path), tmp_path / "samples.parquet")
    assert not (tmp_path / "samples.parquet").exists()


def test_other_records_than_those_of_the_run_are_no_samples(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = list(run.reader.records())
    for wrong in (records[:5], [*records[:4], *records[5:]]):
        monkeypatch.setattr(type(run.reader), "records", lambda self, first_row=0, wrong=wrong: iter(wrong))
        with pytest.raises(RunError, match="score it again"):
            write_samples(run, tmp_path / "samples.parquet")
        assert list(tmp_path.glob("*.parquet")) == []
        assert list(tmp_path.glob(".*.new")) == []


# ---------------------------------------------------------------- the documents


def test_what_the_documents_say_of_sizes_and_columns_is_true(run: Run, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "reports.md").read_text(encoding="utf-8")
    assert f"at most {html.MAX_BYTES // 10**6} MB" in text
    assert f"`index.html` at most {html.MAX_FOLDER_BYTES // 10**6} MB" in text
    cards = html._MOST_CARDS
    assert f"the most telling, at most {cards['file']:,} | at most {cards['folder']:,} |" in text
    table = text.partition("## Parquet of samples")[2].partition("##")[0]
    told = [
        name
        for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    ]
    first = [name for name in told if name != "task"]  # which needs a tagger
    assert list(pd.read_parquet(write_samples(run, tmp_path / "s.parquet")))[: len(first)] == first
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        compile(code, "reports.md", "exec")


# ---------------------------------------------------------------- the command


def asked(*words: object) -> tuple[int, str]:
    """The command line's exit code and what it printed, errors of ours as their sentence."""
    ended = CliRunner().invoke(cli, [str(word) for word in words])
    if isinstance(ended.exception, VlitqcError):
        return ended.exception.exit_code, str(ended.exception)
    return ended.exit_code, ended.output


def test_each_form_has_its_place_in_the_run(run: Run) -> None:
    for words, name in (
        ((), "report.html"),
        (("--form", "markdown"), "scorecard.md"),
        (("--form", "parquet"), "samples.parquet"),
        (("--form", "parquet", "--map", "none"), "samples.parquet"),
        (("--map", "none"), "report.html"),
    ):
        (run.path / name).unlink(missing_ok=True)
        assert asked("report", run.path, *words) == (0, f"{run.path / name}\n")
        assert (run.path / name).is_file()
    code, told = asked("report", run.path, "--folder")
    assert (code, Path(told.strip())) == (0, run.path / "report" / "index.html")
    assert Path(told.strip()).is_file()


def test_a_form_is_written_where_asked(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "CARD.md"
    assert asked("report", run.path, "--form", "markdown", "--out", out) == (0, f"{out}\n")
    assert out.read_text().startswith("## Quality")


@pytest.mark.parametrize("form", ["html", "markdown", "parquet"])
def test_neither_the_input_nor_the_run_is_overwritten(run: Run, form: str) -> None:
    path = Path(run.info["input"]["paths"][0])
    linked = path.with_name("linked.html")
    linked.symlink_to(path)
    picture = path.with_name("picture.jpg")
    picture.write_bytes(b"of the data")
    parts = (
        "run.json",
        "scorecard.json",
        "profile.json",
        "issues.parquet",
        "filters.json",
        ".lock",
        "shards/x",
    )
    for out, told in (
        (path, "would be a part of the input"),
        (linked, "would be a part of the input"),
        (picture, "is there and is no ."),
        *((run.path / name, "belongs to the run") for name in (*parts, "features/x", "remote/x")),
        (run.path / "scores" / "part-00000.parquet", "belongs to the run"),
        (run.path / "scores", "is a folder"),
        (run.path, "is a folder"),
        (".", "has no name"),
        ("/", "has no name"),
        ("", "has no name"),
    ):
        before = {each: each.read_bytes() for each in (path, picture, *run.path.rglob("*")) if each.is_file()}
        code, said = asked("report", run.path, "--form", form, "--out", out)
        assert (code, told in said, "\n" in said) == (2, True, False)
        assert {each: each.read_bytes() for each in before} == before


@pytest.mark.parametrize("pattern", ["", "*.jsonl"])
def test_no_report_becomes_a_part_of_its_input(
    make_data: Make, tiny: str, tmp_path: Path, pattern: str
) -> None:
    folder = make_data(2).parent / "set"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes((folder.parent / "data.jsonl").read_bytes())
    run = vlitqc.score(folder / pattern, tiny, out=tmp_path / "run", report=False)
    for name in ("a.jsonl", "b.jsonl"):
        with pytest.raises(UsageError, match="would be a part of the input"):
            run.report(folder / name, form="markdown")
    if pattern:
        assert run.report(folder / "card.md", form="markdown").is_file()
    assert run.report(run.path / "card.md", form="markdown").is_file()


@pytest.mark.parametrize("pattern", ["", "*"])
def test_a_run_among_its_input_holds_its_reports(
    make_data: Make, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    folder = make_data(2).parent / "set"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes((folder.parent / "data.jsonl").read_bytes())
    if pattern:
        monkeypatch.chdir(folder)
        run = vlitqc.score(pattern, tiny)  # the run lies in the folder, where the pattern finds it
        assert (folder / run.path / "report.html").is_file()
    else:
        run = vlitqc.score(folder, tiny, out=tmp_path / "run", report=False)
        run = vlitqc.Run.open(run.path.rename(folder / "moved"))
    assert run.report(form="parquet") == run.path / "samples.parquet"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--form", "markdown", "--folder"), "--folder: the form 'markdown' does not take it"),
        (("--form", "markdown", "--map", "pca"), "--map: the form 'markdown' does not take it"),
        (("--form", "parquet", "--folder"), "--folder: the form 'parquet' does not take it"),
        (("--form", "markdwn"), "did you mean markdown"),
        (("--port", "8000"), "--port: it is an option of --serve; add that, or leave it out"),
        (("--no-open",), "--no-open: it is an option of --serve; add that, or leave it out"),
        (
            ("--port", "8000", "--no-open"),
            "--no-open, --port: they are options of --serve; add that, or leave them",
        ),
        (("--serve", "--out", "x"), "--out does not go with --serve"),
        (("--serve", "--form", "html"), "--form does not go with --serve"),
        (("--serve", "--folder"), "--folder does not go with --serve"),
        (("--schema", "--out", "x"), "--out, RUN does not go with --schema"),
        (("--schema", "--serve"), "--serve, RUN does not go with --schema"),
    ],
)
def test_options_that_do_not_go_together(run: Run, words: tuple[str, ...], told: str) -> None:
    before = sorted(run.path.iterdir())
    code, said = asked("report", run.path, *words)
    assert code == 2
    assert told in said
    assert "\n" not in said
    assert sorted(run.path.iterdir()) == before


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_is_a_number_of_a_port(run: Run, port: str) -> None:
    code, told = asked("report", run.path, "--serve", "--port", port)
    assert code == 2
    assert "--port" in told


def test_a_form_of_another_package_takes_what_it_takes(run: Run, register: Callable[..., None]) -> None:
    given: list[dict[str, Any]] = []

    def plain(run: Run, out: Path) -> Path:
        out.write_text(run.scorecard["verdict"]["level"])
        return out

    def folders(run: Run, out: Path, *, folder: bool = False) -> Path:
        given.append({"folder": folder})
        return out

    def everything(run: Run, out: Path, **options: Any) -> Path:
        given.append(options)
        return out

    for name, value in (("plain", plain), ("folders", folders), ("everything", everything)):
        register(name, value, REPORTS)
    assert asked("report", run.path, "--form", "plain") == (0, f"{run.path / 'report.plain'}\n")
    assert (run.path / "report.plain").read_text() == run.scorecard["verdict"]["level"]
    assert asked("report", run.path, "--form", "plain", "--folder")[0] == 2
    assert asked("report", run.path, "--form", "folders", "--folder")[0] == 0
    assert asked("report", run.path, "--form", "folders", "--map", "none")[0] == 2
    assert asked("report", run.path, "--form", "everything", "--folder", "--map", "umap")[0] == 0
    assert given == [{"folder": True}, {"folder": True, "projection": "umap"}]


def test_the_schema_is_printed_and_holds(run: Run) -> None:
    import jsonschema

    code, printed = asked("report", "--schema")
    assert code == 0
    schema = json.loads(printed)
    assert schema == scorecard.schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == scorecard.SCHEMA == run.scorecard["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(run.scorecard)
    for key in itertools.islice(run.scorecard, 4):
        broken = {k: v for k, v in run.scorecard.items() if k != key}
        assert not jsonschema.Draft202012Validator(schema).is_valid(broken)


def test_a_browser_is_opened_unless_told_otherwise(
    run: Run, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import webbrowser

    from vlitqc.registry import SERVERS

    opened: queue.Queue[str] = queue.Queue()
    served: list[tuple[int, str]] = []

    def serve(run: Run, *, port: int, projection: str, ready: Callable[[str], None]) -> None:
        served.append((port, projection))
        ready("http://127.0.0.1:4711/secret/")

    monkeypatch.setattr(webbrowser, "open", opened.put)
    for name in ("WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    register("page", serve, SERVERS)
    before = threading.active_count()
    code, told = asked("report", run.path, "--serve")
    assert code == 0
    assert told.splitlines()[2] == "http://127.0.0.1:4711/secret/"
    assert opened.get(timeout=10) == "http://127.0.0.1:4711/secret/"
    assert asked("report", run.path, "--serve", "--no-open", "--port", "4711", "--map", "none")[0] == 0
    monkeypatch.delenv("DISPLAY")
    assert asked("report", run.path, "--serve")[0] == 0
    assert threading.active_count() == before
    assert opened.empty()
    assert served == [(0, "pca"), (4711, "none"), (0, "pca")]
