"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from vlitqc import cli
from vlitqc.engine.run import Run

Make = Callable[..., Path]

COMMANDS = [
    (),
    ("score",),
    ("filter",),
    ("report",),
    ("recipes",),
    ("explain",),
    ("check",),
    ("validate",),
    ("metrics",),
]
ESCAPE = re.compile(r"\x1b|\x9b")
COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;\d+;\d+)(?:;\d+)*m")


@dataclass
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def vlitqc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Calls the command line in this process; its streams are no terminal."""

    def call(*args: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["vlitqc", *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        told = capsys.readouterr()
        return Ended(code, told.out, told.err)

    return call


def process(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vlitqc", *map(str, args)]
    told = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | environment, timeout=120
    )
    assert "Traceback" not in told.stderr
    return told


def is_plain(text: str) -> bool:
    """Nothing in it but lines of visible characters."""
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in text.replace("\n", ""))


def is_sentence(error: str) -> bool:
    """One line that begins as an error and ends without a traceback."""
    return error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n")


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("words", COMMANDS)
def test_help_has_examples(vlitqc: Callable[..., Ended], words: tuple[str, ...]) -> None:
    told = vlitqc(*words, "--help")
    assert told.code == 0
    assert f"vlitqc {' '.join(words)}".strip() in told.out.split("Examples:")[1]
    assert told.out == vlitqc(*words, "-h").out
    assert is_plain(told.out)


def test_the_commands_stand_in_the_order_of_their_use(vlitqc: Callable[..., Ended]) -> None:
    listed = vlitqc("--help").out.partition("Commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == [
        *("inspect", "score", "report", "filter", "recipes"),
        *("explain", "check", "validate", "compare", "correlate", "metrics", "models", "cache"),
    ]


def options(command: click.Command) -> Iterator[click.Option]:
    yield from (param for param in command.params if isinstance(param, click.Option))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from options(inner)


def test_help_fits_in_110_columns(vlitqc: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for words in [(), *((name,) for name in cli.cli.commands)]:
        told = vlitqc(*words, "--help").out
        assert max(map(len, told.splitlines())) <= 110, words


def test_an_options_variable_has_the_name_of_its_flag() -> None:
    found = [*options(cli.cli)]
    assert len(found) > 50
    for option in found:
        flag = max(option.opts, key=len).removeprefix("--").replace("-", "_")
        assert option.name == flag
        if option.multiple:
            # click would split at every space otherwise, and a rule may hold some.
            assert option.type.split_envvar_value("a b\nc") != ["a", "b", "c"], option.name


@pytest.mark.parametrize("words", [(), ("score",), ("filter",), ("check",)])
def test_help_has_the_exit_codes(vlitqc: Callable[..., Ended], words: tuple[str, ...]) -> None:
    assert "Exit codes: 0 fine" in vlitqc(*words, "--help").out


def test_version(vlitqc: Callable[..., Ended]) -> None:
    assert re.search(r"version \d+\.\d+\.\d+", vlitqc("--version").out)


# ---------------------------------------------------------------- score


def test_score_prints_the_scorecard_and_the_places(
    messy: Path, tiny: str, vlitqc: Callable[..., Ended]
) -> None:
    told = vlitqc("score", messy, "--profile", tiny)
    run = messy.with_name("data.vlitqc")
    assert told.code == 0
    assert "POOR" in told.out
    assert "14 records: 5 scored, 6 in part, 3 unreadable. Profile tiny." in told.out
    assert "needs a judge" in told.out
    assert "missing_image" in told.out
    assert f"scores  {run}/scores\n" in told.out
    assert f"page    {run}/report.html\n" in told.out
    assert (run / "report.html").is_file()
    for title in ("Readability", "Correctness", "Task diversity", "Balance"):
        assert title in told.out
    assert is_plain(told.out)
    assert not ESCAPE.search(told.err)


def test_quiet_prints_nothing(make_data: Make, tiny: str, vlitqc: Callable[..., Ended]) -> None:
    path = make_data(3)
    assert vlitqc("score", path, "--profile", tiny, "--quiet") == Ended(0, "", "")
    assert vlitqc("filter", path, "--drop-below", "image_readability=0", "--quiet") == Ended(0, "", "")


def test_json_is_the_scorecard_and_nothing_else(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended]
) -> None:
    path = make_data(3)
    told = vlitqc("score", path, "--profile", tiny, "--json")
    assert (told.code, told.err) == (0, "")
    assert json.loads(told.out) == Run.open(path.with_name("data.vlitqc")).scorecard


@pytest.mark.parametrize("words", [(), ("--json",), ("--quiet",)])
def test_a_page_that_cannot_be_written_costs_no_answer(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended], words: tuple[str, ...]
) -> None:
    path = make_data(3)
    vlitqc("score", path, "--profile", tiny, "--quiet")
    run = path.with_name("data.vlitqc")
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    told = vlitqc("score", path, "--profile", tiny, *words)
    assert (told.code, is_sentence(told.err)) == (2, True)
    assert f"{run}/report.html is a folder" in told.err
    if "--json" in words:
        assert json.loads(told.out) == Run.open(run).scorecard
    else:
        assert ("Readability" in told.out, f"scores  {run}/scores\n" in told.out) == (not words, not words)


def test_the_command_is_recorded(make_data: Make, tiny: str, vlitqc: Callable[..., Ended]) -> None:
    path = make_data(2, folder="with space")
    vlitqc("score", path, "--profile", tiny, "--quiet", "--limit", 1)
    command = Run.open(path.with_name("data.vlitqc")).info["command"]
    assert command == f"vlitqc score '{path}' --profile {tiny} --quiet --limit 1"


def test_options_reach_the_run(
    make_data: Make, tiny: str, tmp_path: Path, vlitqc: Callable[..., Ended]
) -> None:
    path = make_data(6, as_list=True, name="data.json")
    told = vlitqc(
        *("score", path, "--profile", tiny, "--quiet", "--metrics", " image_readability , composition,"),
        *("--image-root", path.parent, "--format", "json", "--limit", 4, "--out", tmp_path / "run"),
        *("--device", "cpu", "--batch-size", 3, "--seed", 5, "--allow-outside"),
    )
    assert told == Ended(0, "", "")
    run = Run.open(tmp_path / "run")
    assert run.info["plan"] == {
        "metrics": ["image_readability", "composition"],
        "image_root": str(path.parent),
        "device": "cpu",
        "batch_size": 3,
        "seed": 5,
        "allow_outside": True,
        "allow_remote": False,
        "limit": 4,
    }
    assert len(run.scores) == 4


def test_several_paths_and_renamed_fields(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"id": f"r{i}", "ask": f"What is {i}?", "say": f"It is {i}."} for i in range(4)]
    paths = [make_data(lines=lines, name=f"{name}.jsonl") for name in "ab"]
    monkeypatch.chdir(paths[0].parent)
    names = ["--map", "instruction=ask", "--map", "response=say"]
    assert vlitqc("score", "a.jsonl", "b.jsonl", *names, "--profile", tiny, "--quiet") == Ended(0, "", "")
    told = vlitqc("filter", "a.jsonl", "b.jsonl", "--drop-issue", "error", "--json")
    counts = json.loads(told.out)["counts"]
    assert counts == {"kept": 8, "dropped": 0, "unreadable": 0}
    home = paths[0].parent
    assert {p.name for p in home.iterdir()} == {
        *("a.jsonl", "b.jsonl", "set.vlitqc"),
        *("set.kept", "set.dropped", "set.decisions.parquet", "set.filter.json"),
    }
    assert (home / "set.kept" / "b.jsonl").read_bytes() == paths[1].read_bytes()
    assert vlitqc("report", "set.vlitqc").code == 0


def test_every_option_has_a_variable(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_data(3)
    monkeypatch.setenv("VLITQC_SCORE_PROFILE", tiny)
    monkeypatch.setenv("VLITQC_SCORE_LIMIT", "2")
    monkeypatch.setenv("VLITQC_SCORE_QUIET", "1")
    assert vlitqc("score", path) == Ended(0, "", "")
    run = Run.open(path.with_name("data.vlitqc"))
    assert run.scorecard["profile"]["name"] == "tiny"
    assert len(run.scores) == 2


# ---------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 0),
        (("--strict",), 4),
        (("--max-errors", "9"), 0),
        (("--max-errors", "8"), 4),
        (("--max-errors", "65%"), 0),
        (("--max-errors", "64%"), 4),
        (("--max-errors", "0"), 4),
    ],
)
def test_the_budget_of_errors(
    messy: Path, tiny: str, vlitqc: Callable[..., Ended], options: tuple[str, ...], code: int
) -> None:
    told = vlitqc("score", messy, "--profile", tiny, "--quiet", *options)
    assert (told.code, told.out) == (code, "")
    assert is_sentence(told.err) if code else told.err == ""
    assert Run.open(messy.with_name("data.vlitqc")).scorecard["counts"]["records"] == 14


def test_strict_is_content_with_a_clean_set(make_data: Make, tiny: str, vlitqc: Callable[..., Ended]) -> None:
    assert (
        vlitqc("score", make_data(2), "--profile", tiny, "--strict", "--max-errors", 0, "--quiet").code == 0
    )


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "%", "-2%", "nan%", "inf%", ""])
def test_a_budget_that_is_none(make_data: Make, tiny: str, vlitqc: Callable[..., Ended], text: str) -> None:
    path = make_data(1)
    told = vlitqc("score", path, "--profile", tiny, "--max-errors", text)
    assert told.code == 2
    assert is_sentence(told.err)
    assert not path.with_name("data.vlitqc").exists()


def test_input_without_a_readable_record_ends_with_3_and_keeps_the_run(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended]
) -> None:
    path = make_data(lines=[b"{broken", b'{"a": 1}'])
    told = vlitqc("score", path, "--profile", tiny)
    assert told.code == 3
    assert is_sentence(told.err)
    assert told.err.startswith("error: no record can be read, of 2; ")
    assert len(Run.open(path).issues) == 2
    assert vlitqc("score", path, "--profile", tiny, "--json").code == 3


def test_a_pattern_that_matches_nothing_is_said_also_beside_a_run(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_data(2)
    monkeypatch.chdir(path.parent)
    assert vlitqc("score", "data.*", "--profile", tiny, "--quiet").code == 0
    told = vlitqc("score", "zz*.jsonl", "--profile", tiny)
    assert (told.code, is_sentence(told.err)) == (3, True)
    assert "no file matches" in told.err


def test_whether_a_file_can_be_read_is_left_to_what_opens_it(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_data(1)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    for words in (
        ("score", path, "--profile", tiny),
        ("inspect", path),
        ("filter", path, "--drop-issue", "error"),
    ):
        assert vlitqc(*words).code == 0


def test_what_was_not_read_is_said(
    make_data: Make, tiny: str, tmp_path: Path, vlitqc: Callable[..., Ended]
) -> None:
    home = make_data(1).parent
    (tmp_path / "bare").mkdir()
    told = vlitqc("score", home, tmp_path / "bare", "--out", tmp_path / "run", "--profile", tiny)
    assert told.code == 0
    assert f"note  {tmp_path / 'bare'} holds no data file" in told.out
    assert "files left aside: .png 1" in told.out
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"{tmp_path / 'bare'} holds no data file" in page
    assert "files left aside: .png 1" in page
    assert "<title>set and 1 more" in page


def test_unreadable_files_without_bytes_are_said_to_be_nowhere(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended]
) -> None:
    home = make_data(2).parent
    (home / "gone.jsonl").symlink_to(home / "nowhere")
    assert vlitqc("score", home, "--profile", tiny, "--quiet").code == 0
    told = vlitqc("filter", home, "--drop-issue", "error")
    assert re.search(r"^unreadable +1 +33.3% *$", told.out, re.MULTILINE)
    assert "Of the unreadable, 1 are in no output: files whose bytes cannot be had." in told.out


def unusable(folder: Path) -> dict[str, tuple[list[Any], int, str]]:
    """Calls that cannot work, with the exit code and a part of the message that each must have."""
    data = folder / "set" / "data.jsonl"
    run = ["score", data]
    mine = folder / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "noise.bin").write_bytes(b"\0\1\2\3")
    (folder / "bare").mkdir()
    fake = folder / "fake"
    fake.mkdir()
    (fake / "run.json").write_text('{"other": "program"}')
    (fake / "scorecard.json").write_text("{}")
    below = ["--drop-below", "image_readability=0"]
    return {
        "missing file": (["score", folder / "none.jsonl"], 3, "does not exist"),
        "folder": (["score", folder / "bare"], 3, "holds no data file"),
        "pattern": (["score", folder / "*.parquet"], 3, "no file matches"),
        "map": ([*run, "--map", "response"], 2, "expected OURS=THEIRS"),
        "map to nothing": ([*run, "--map", "respons=x"], 2, "did you mean response"),
        "empty file": (["score", folder / "empty.jsonl"], 3, "is empty"),
        "no format": (["score", folder / "noise.bin"], 3, "binary data"),
        "name too long": (["score", "x" * 5000], 3, "too long"),
        "metric": ([*run, "--metrics", "image_redability"], 2, "did you mean image_readability"),
        "profile": ([*run, "--profile", "light"], 2, "no profile is called 'light'"),
        "profile file": ([*run, "--profile", folder / "p.toml"], 2, "does not exist"),
        "format": ([*run, "--format", "josn"], 2, "did you mean json"),
        "other format": ([*run, "--format", "json"], 3, "is not json"),
        "out is a file": ([*run, "--out", mine / "notes.txt"], 2, "is a file"),
        "out under a file": ([*run, "--out", mine / "notes.txt" / "x"], 3, "cannot write the run directory"),
        "out with other files": ([*run, "--out", mine], 2, "holds other files"),
        "image root": ([*run, "--image-root", folder / "none"], 2, "is not a folder"),
        "filter no run": (["filter", mine, *below], 3, "is not a run directory"),
        "filter missing": (["filter", folder / "none.vlitqc", *below], 3, "does not exist"),
        "filter missing with another": (["filter", data, folder / "none"], 3, "none does not exist"),
        "filter several runs": (["filter", folder / "set/data.vlitqc", fake], 2, "one run at a time"),
        "check several runs": (["check", folder / "set/data.vlitqc", fake], 2, "one run at a time"),
        "filter by nothing": (["filter", data, "--by", "task"], 2, "by=task: no rule here takes it"),
        "filter missing nothing": (["filter", data, "--missing", "drop"], 2, "no rule here takes it"),
        "filter quota below 0": (
            ["filter", data, "--quota", "ocr=-1"],
            2,
            "--quota ocr=-1 (quotas): expected",
        ),
        "filter bare word": (["filter", data, "--where", "id == xyzzyx"], 2, 'in quotes: "xyzzyx"'),
        "filter unscored": (["filter", folder / "empty.jsonl", *below], 3, "vlitqc score DATA"),
        "filter fake run": (["filter", fake, *below], 3, "was not written by vlitqc"),
        "filter recipe": (["filter", data, "--recipe", "claen"], 2, "did you mean clean"),
        "filter recipe file": (["filter", data, "--recipe", folder / "no.toml"], 2, "does not exist"),
        "filter bare and a path": (["filter", "--drop-below", data], 2, "put --drop-below last"),
        "filter way": (["filter", data, "--drop-below", "n_images=1,missing=kep"], 2, "did you mean keep"),
        "filter where": (["filter", data, "--where", "n_images.real > 0"], 2, "expected"),
        "filter where column": (["filter", data, "--where", "n_imges > 0"], 2, "did you mean n_images"),
        "filter keep": (["filter", data, "--keep", "many"], 2, "expected a number"),
        "filter quota": (["filter", data, "--quota", "ocr"], 2, "--quota ocr (quotas): expected TASK=N"),
        "filter must keep": (
            ["filter", data, "--must-keep", "nobody"],
            2,
            "no record of this run has that id",
        ),
        "filter ids missing": (["filter", data, "--must-keep", f"@{folder}/no"], 2, "cannot be read"),
        "filter ids empty": (["filter", data, "--must-keep", f"@{folder}/empty.jsonl"], 2, "holds no id"),
        "filter ids binary": (["filter", data, "--must-keep", f"@{folder}/latin.txt"], 2, "is not UTF-8"),
        "recipe": (["recipes", "claen"], 2, "did you mean clean"),
        "explain nobody": (["explain", data, "nobody"], 2, "no record of"),
        "explain other": (
            ["explain", data, "r0", "--decisions", folder / "no"],
            3,
            "is no filter's decisions",
        ),
        "check nothing": (["check", data], 2, "no requirement was given"),
        "check text": (["check", data, "--require", "n > many"], 2, "the requirement 'n > many'"),
        "check metric": (["check", data, "--require", "image_redability.mean > 0"], 2, "did you mean"),
        "check file": (["check", data, "--require-file", folder / "no.toml"], 2, "does not exist"),
        "check junit": (
            ["check", data, "--require", "records > 0", "--junit", mine / "notes.txt" / "x"],
            *(3, "name another place with --junit"),
        ),
        "report fake run": (["report", fake], 3, "was not written by vlitqc"),
        "report no run": (["report", mine], 3, "is not a run directory"),
        "metric by name": (["metrics", "image_redability"], 2, "did you mean image_readability"),
        "models of nothing": (["models", "list", "--profile", "nil"], 2, "no profile is called 'nil'"),
    }


def test_what_cannot_work_is_one_sentence(
    make_data: Make, tiny: str, tmp_path: Path, vlitqc: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    vlitqc("score", make_data(1), "--profile", tiny, "--quiet")
    monkeypatch.setenv("VLITQC_SCORE_PROFILE", tiny)
    for name, (args, code, part) in unusable(tmp_path).items():
        told = vlitqc(*args)
        assert (name, told.code, told.out) == (name, code, "")
        assert is_sentence(told.err), (name, told.err)
        assert part in told.err, (name, told.err)
        assert is_plain(told.err)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "args",
    [
        ("scroe",),
        ("score",),
        ("score", "x", "--limit", "0"),
        ("score", "x", "--no-such"),
        ("report", "x", "y"),
    ],
)
def test_wrong_words_are_usage_errors(vlitqc: Callable[..., Ended], args: tuple[str, ...]) -> None:
    told = vlitqc(*args)
    assert (told.code, told.out) == (2, "")
    assert "Error: " in told.err
    assert told.err.startswith("Usage: ")


def test_in_a_process_of_its_own_nothing_differs(make_data: Make, tiny: str, tmp_path: Path) -> None:
    good = process("score", make_data(2), "--profile", tiny, "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["counts"]["records"] == 2
    bad = process("score", tmp_path / "none.jsonl")
    assert (bad.returncode, bad.stdout) == (3, "")
    assert is_sentence(bad.stderr)


def test_an_interrupted_run_says_how_to_go_on(
    make_data: Make, record: Any, tiny: str, tmp_path: Path
) -> None:
    make_data(20)
    path = make_data(lines=[record(i, f"{i % 20}.png") for i in range(3000)])
    command = [sys.executable, "-m", "vlitqc", "score", str(path), "--profile", tiny, "--workers", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        end = time.monotonic() + 120
        while not list(path.with_name("data.vlitqc").glob("shards/[0-9]*")) and time.monotonic() < end:
            time.sleep(0.01)
        # As Ctrl-C does: to every process of the group.
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=120)
    assert (child.returncode, out) == (130, "")
    assert "interrupted; the same command takes the run up again" in err
    assert "Traceback" not in err


# ---------------------------------------------------------------- filter, report, metrics, models


def test_filter_says_what_went_where(make_data: Make, tiny: str, vlitqc: Callable[..., Ended]) -> None:
    path = make_data(10)
    vlitqc("score", path, "--profile", tiny, "--quiet")
    told = vlitqc("filter", path, "--drop-below", "image_readability=p50", "--drop-issue", "error")
    assert told.code == 0
    assert re.search(r"image_readability < 0\.\d+ \(p50\) +5  50\.0%\n", told.out)
    assert "no record fails: issue error\n" in told.out
    assert re.search(rf"kept +5  50.0%  {re.escape(str(path.with_name('data.kept.jsonl')))} *\n", told.out)
    assert f"reasons     {path.with_name('data.decisions.parquet')}" in told.out
    assert f"asked for   {path.with_name('data.filter.json')}" in told.out
    assert "unreadable" not in told.out
    assert is_plain(told.out)


def test_filter_as_json(make_data: Make, tiny: str, vlitqc: Callable[..., Ended], tmp_path: Path) -> None:
    path = make_data(10)
    vlitqc("score", path, "--profile", tiny, "--quiet")
    rule = ("--drop-above", "image_readability=p80")
    dry = json.loads(vlitqc("filter", path, *rule, "--dry-run", "--json").out)
    wet = json.loads(vlitqc("filter", path, *rule, "--json", "--out", tmp_path / "o").out)
    assert dry["counts"] == wet["counts"] == {"kept": 8, "dropped": 2, "unreadable": 0}
    assert dry["written"] == {}
    assert set(wet["written"]) == {"kept", "dropped", "decisions", "filter"}
    assert all(Path(file).is_file() for file in wet["written"].values())


def test_bare_drop_below_means_the_recommended_floors(
    make_data: Make, record: Any, texts: str, tiny: str, vlitqc: Callable[..., Ended]
) -> None:
    salad = record(1)
    salad["conversations"][1]["value"] = "zq the of xv a kjw to and brrt in of of the a xkcd"
    path = make_data(lines=[record(3), salad, record(4)])
    vlitqc("score", path, "--profile", texts, "--quiet")
    for args in (("--drop-below", "--json"), ("--json", "--drop-below")):
        told = json.loads(vlitqc("filter", path, *args).out)
        assert told["counts"] == {"kept": 2, "dropped": 1, "unreadable": 0}
    both = vlitqc("filter", path, "--drop-below", "n_images=1", "--drop-below", "--json")
    assert set(json.loads(both.out)["by_rule"]) == {"text_readability < 0", "n_images < 1"}
    vlitqc("score", path, "--profile", tiny, "--quiet")
    none = vlitqc("filter", path, "--drop-below")
    assert (none.code, is_sentence(none.err)) == (2, True)
    assert "recommends no floor" in none.err


def test_the_latest_run_here_is_the_default(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old, new = make_data(2, name="old.jsonl"), make_data(3, name="new.jsonl")
    monkeypatch.chdir(tmp_path)
    none = vlitqc("filter", "--drop-below", "image_readability=0")
    assert (none.code, "there is no run in this folder" in none.err) == (3, True)
    for path in (old, new):
        vlitqc("score", path, "--profile", tiny, "--quiet")
    card = old.with_name("old.vlitqc") / "scorecard.json"
    os.utime(card, ns=(0, card.stat().st_mtime_ns - 10**9))
    monkeypatch.chdir(old.parent)
    told = vlitqc("filter", "--drop-below", "image_readability=0", "--dry-run", "--json")
    assert sum(json.loads(told.out)["counts"].values()) == 3


def test_a_dry_run_says_so(make_data: Make, tiny: str, vlitqc: Callable[..., Ended]) -> None:
    path = make_data(2)
    vlitqc("score", path, "--profile", tiny, "--quiet")
    told = vlitqc("filter", path, "--drop-below", "image_readability=p50", "--dry-run")
    assert "dry run: nothing was written" in told.out
    assert not path.with_name("data.kept.jsonl").exists()


def test_filtering_a_part_says_that_the_rest_is_nowhere(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended]
) -> None:
    path = make_data(5)
    vlitqc("score", path, "--profile", tiny, "--quiet", "--limit", 2)
    told = vlitqc("filter", path, "--drop-below", "image_readability=0")
    assert "--limit 2: records after those are in none of these files" in told.out


@pytest.mark.parametrize("rule", ["image_readability", "image_readability=ten", "=3"])
def test_a_malformed_rule(make_data: Make, tiny: str, vlitqc: Callable[..., Ended], rule: str) -> None:
    path = make_data(1)
    vlitqc("score", path, "--profile", tiny, "--quiet")
    told = vlitqc("filter", path, "--drop-below", rule)
    assert (told.code, is_sentence(told.err)) == (2, True)
    assert "expected" in told.err


def test_report_prints_the_page(
    make_data: Make, tiny: str, vlitqc: Callable[..., Ended], tmp_path: Path
) -> None:
    path = make_data(1)
    vlitqc("score", path, "--profile", tiny, "--quiet")
    page = path.with_name("data.vlitqc") / "report.html"
    page.unlink()
    assert vlitqc("report", path) == Ended(0, f"{page}\n", "")
    assert page.is_file()
    assert vlitqc("report", path, "--out", tmp_path / "p.html").out == f"{tmp_path / 'p.html'}\n"
    assert vlitqc("report", path, "--form", "htm").code == 2


def test_metrics_lists_all_and_tells_of_one(vlitqc: Callable[..., Ended], tiny: str) -> None:
    table = vlitqc("metrics")
    listed = json.loads(vlitqc("metrics", "--json").out)
    assert {"image_readability", "text_readability", "correctness"} <= {m["name"] for m in listed}
    assert all(m["name"] in table.out and m["principle"] in table.out for m in listed)
    own = {m["name"]: m["served_by"] for m in json.loads(vlitqc("metrics", "--json", "--profile", tiny).out)}
    assert own["correctness"] == "not scored: needs a judge"
    assert own["text_readability"] == "on request: --metrics"
    one = json.loads(vlitqc("metrics", "image_readability", "--json").out)
    assert one["direction"] == "higher is better"
    assert one["what"] in " ".join(vlitqc("metrics", "image_readability").out.split())


def test_models_list_and_verify(vlitqc: Callable[..., Ended], texts: str, tmp_path: Path) -> None:
    told = vlitqc("models", "list", "--profile", texts)
    assert (told.code, "bigram counts" in told.out, "wordsegment==1.3.1" in told.out) == (0, True, True)
    assert vlitqc("models", "verify", "--profile", texts).code == 0
    spoiled = tmp_path / "spoiled.toml"
    spoiled.write_text(Path(texts).read_text().replace("fd27e15b", "00000000"))
    wrong = vlitqc("models", "verify", "--profile", spoiled)
    assert wrong.code == 3
    assert "1 of 3 files are missing or not the ones named" in wrong.err
    assert is_sentence(wrong.err)


# ---------------------------------------------------------------- recipes, selection, dry run


@pytest.fixture
def scored(make_data: Make, tiny: str, vlitqc: Callable[..., Ended]) -> Path:
    """Ten good records with their run; the fourth stands there again at the end."""
    lines = make_data(10).read_bytes().splitlines()
    path = make_data(lines=[*lines, lines[3].replace(b'"r3"', b'"again"')])
    assert vlitqc("score", path, "--profile", tiny, "--quiet").code == 0
    return path


def counted(told: Ended) -> tuple[int, int]:
    assert (told.code, told.err) == (0, "")
    counts = json.loads(told.out)["counts"]
    return counts["kept"], counts["dropped"]


def test_without_a_rule_the_recipe_is_clean_and_that_is_said(
    scored: Path, vlitqc: Callable[..., Ended]
) -> None:
    told = vlitqc("filter", scored)
    assert told.code == 0
    assert told.out.startswith("recipe clean, since no rule was given: ")
    asked = json.loads(scored.with_name("data.filter.json").read_text())
    assert asked["recipe"]["name"] == "clean"
    named = vlitqc("filter", scored, "--recipe", "clean", "--dry-run")
    assert named.out.startswith("recipe clean: ")
    assert "since no rule" not in named.out
    assert (
        json.loads(vlitqc("filter", scored, "--keep", "3", "--dry-run", "--json").out)["recipe"]["name"]
        == "subset"
    )
    ruled = json.loads(
        vlitqc("filter", scored, "--drop-issue", "error", "--keep", "3", "--dry-run", "--json").out
    )
    assert ruled["recipe"] is None
    assert ruled["counts"]["kept"] == 3


def test_recipes_are_listed_shown_and_put_together(
    scored: Path, vlitqc: Callable[..., Ended], tmp_path: Path
) -> None:
    listed = json.loads(vlitqc("recipes", "--json").out)
    assert {"clean", "dedup", "align", "judge", "paper", "subset"} == {recipe["name"] for recipe in listed}
    table = vlitqc("recipes").out
    assert all(recipe["name"] in table for recipe in listed)
    own = tmp_path / "own.toml"
    own.write_text(vlitqc("recipes", "clean").out)
    assert vlitqc("recipes", own).out == vlitqc("recipes", "clean").out
    shown = json.loads(vlitqc("recipes", "clean", "--json").out)
    assert shown["text"] == own.read_text()
    sharp = tmp_path / "sharp.toml"
    sharp.write_text('[[rules]]\ndrop = { metric = "image_readability", below = "p50" }\n')
    both = vlitqc("filter", scored, "--recipe", own, "--recipe", sharp, "--out", tmp_path / "o", "--json")
    alone = [vlitqc("filter", scored, "--recipe", one, "--dry-run", "--json") for one in (own, sharp)]
    one, other = (json.loads(told.out)["by_rule"] for told in alone)
    assert json.loads(both.out)["by_rule"] == one | other
    assert json.loads(both.out)["recipe"]["name"] == "own + sharp"


def test_the_floors_are_shown_before_what_they_do(
    make_data: Make, record: Any, texts: str, vlitqc: Callable[..., Ended]
) -> None:
    salad = record(1)
    salad["conversations"][1]["value"] = "zq the of xv a kjw to and brrt in of of the a xkcd"
    path = make_data(lines=[record(3), salad, record(4)])
    vlitqc("score", path, "--profile", texts, "--quiet")
    lines = vlitqc("filter", path, "--drop-below").out.splitlines()
    assert lines[0].split() == ["recommended", "by", "texts", "floor", "records", "below"]
    assert lines[1].split() == ["text_readability", "0", "1"]
    assert lines[3].split() == ["rule", "records", "%"]


def test_what_a_missing_score_means_is_said_by_each_rule(
    make_data: Make, record: Any, tiny: str, vlitqc: Callable[..., Ended]
) -> None:
    make_data(4)
    path = make_data(lines=[*(record(i, f"{i}.png") for i in range(4)), record(4)])
    vlitqc("score", path, "--profile", tiny, "--quiet")
    rule = "image_readability=-1"
    dry = ("filter", path, "--dry-run", "--no-principles", "--json", "--drop-below")
    assert counted(vlitqc(*dry, rule)) == (5, 0)
    assert counted(vlitqc(*dry, rule + ",missing=drop")) == (4, 1)
    assert counted(vlitqc(*dry, rule, "--missing", "drop")) == (4, 1)
    assert counted(vlitqc(*dry, rule + ", missing = keep", "--missing", "drop")) == (5, 0)
    told = vlitqc(*dry, rule + ",missing=error")
    assert (told.code, is_sentence(told.err)) == (2, True)
    assert "r4" in told.err


def test_records_that_must_stay(scored: Path, vlitqc: Callable[..., Ended], tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_bytes(b"\xef\xbb\xbfr1\r\n\r\nr2\r\n")
    dry = ("filter", scored, "--drop-below", "image_readability=2", "--dry-run", "--json")
    assert counted(vlitqc(*dry)) == (0, 11)
    assert counted(vlitqc(*dry, "--must-keep", f"@{ids}")) == (2, 9)
    assert counted(vlitqc(*dry, "--must-keep", f"@{ids}", "--must-keep", "r1", "--must-keep", "r7")) == (3, 8)


def test_variables_hold_a_value_a_line(
    scored: Path, vlitqc: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLITQC_FILTER_WHERE", "id != 'r0' and n_images >= 1\n\nid not in ['r1', 'r2']\n")
    monkeypatch.setenv("VLITQC_FILTER_JSON", "1")
    monkeypatch.setenv("VLITQC_FILTER_DRY_RUN", "1")
    assert counted(vlitqc("filter", scored)) == (8, 3)
    monkeypatch.setenv("VLITQC_CHECK_REQUIRE", "records >= 11\nrecords < 11")
    told = vlitqc("check", scored)
    assert told.code == 1
    assert "1 of 2 requirements failed" in told.err
    monkeypatch.delenv("VLITQC_FILTER_WHERE")
    monkeypatch.setenv("VLITQC_FILTER_DROP_BELOW", "recommended")
    assert "recommends no floor" in vlitqc("filter", scored).err


def test_a_dry_run_says_what_would_be(scored: Path, vlitqc: Callable[..., Ended]) -> None:
    rules = (
        "--drop-below",
        "image_readability=p50",
        "--where",
        "id != 'r1'",
        "--drop-issue",
        "exact_duplicate",
    )
    told = vlitqc("filter", scored, *rules, "--dry-run")
    assert told.code == 0
    for part in ("rule ", "only this rule", "records that fail both", "random: as many", "closest calls"):
        assert part in told.out
    assert told.out.endswith(f"to write it:\n  vlitqc filter {scored} {shlex.join(rules)}\n")
    assert is_plain(told.out)
    quick = vlitqc("filter", scored, *rules, "--dry-run", "--no-principles").out
    assert "random: as many" not in quick
    assert quick.splitlines()[-1] == told.out.splitlines()[-1]
    page = json.loads(vlitqc("filter", scored, *rules, "--dry-run", "--json").out)
    assert (page["run"], page["seed"], page["dry_run"]) == (str(scored.with_suffix(".vlitqc")), 0, True)
    assert page["effect"]["kept"] == page["counts"]["kept"]
    assert page["effect"]["principles"]
    assert sorted(p.name for p in scored.parent.glob("data.*")) == ["data.jsonl", "data.vlitqc"]


def test_the_command_of_a_dry_run_can_be_pasted(
    scored: Path, vlitqc: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "id != 'a\x1b[31m\u202e\\\\ é'"
    monkeypatch.setenv("VLITQC_FILTER_DRY_RUN", "1")
    told = vlitqc("filter", scored, "--where", where, "--no-principles").out
    assert is_plain(told)
    command = told.splitlines()[-1].removeprefix("  VLITQC_FILTER_DRY_RUN=0 vlitqc ")
    read = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], check=True, capture_output=True, text=True
    )
    assert read.stdout.split("\0")[:-1] == ["filter", str(scored), "--where", where]


def test_missing_scores_go_by_the_recommended_floors_too(
    make_data: Make, record: Any, texts: str, vlitqc: Callable[..., Ended]
) -> None:
    path = make_data(lines=[record(3), record(4)])
    vlitqc("score", path, "--profile", texts, "--quiet")
    assert vlitqc("filter", path, "--missing", "drop", "--drop-below").code == 0
    (rule,) = json.loads(path.with_name("data.filter.json").read_text())["rules"]
    assert (rule["missing"], rule["words"]) == ("drop", "text_readability < 0 or missing")


def test_a_selection_is_held_against_a_random_one(scored: Path, vlitqc: Callable[..., Ended]) -> None:
    told = vlitqc("filter", scored, "--recipe", "clean", "--keep", "40%")
    assert told.code == 0
    assert "random: as many records drawn from what the rules keep" in told.out
    assert re.search(rf"random +{re.escape(str(scored.with_name('data.control.jsonl')))}\n", told.out)
    kept, control = (
        scored.with_name(f"data.{name}.jsonl").read_bytes().splitlines() for name in ("kept", "control")
    )
    assert len(kept) == len(control) == 4
    assert set(kept) | set(control) <= set(scored.read_bytes().splitlines())


def test_explain_tells_value_and_threshold(
    scored: Path, vlitqc: Callable[..., Ended], tmp_path: Path
) -> None:
    before = vlitqc("explain", scored, "r0").out
    assert "has not been filtered yet" in before
    scores = Run.open(scored).scores.set_index("id")["image_readability"]
    worst = scores.idxmin()
    vlitqc("filter", scored, "--drop-below", "image_readability=p20", "--out", tmp_path / "o", "--quiet")
    told = vlitqc("explain", scored, worst)
    assert told.code == 0
    assert "DROPPED" in told.out
    page = json.loads(vlitqc("explain", scored, worst, "--json").out)
    (failed,) = page["records"][0]["failed"]
    assert failed["compared"][0]["value"] == pytest.approx(scores.min())
    assert failed["rule"] in told.out
    assert f"image_readability {scores.min():.4g}, " in told.out
    decisions = ("--decisions", tmp_path / "o" / "data.decisions.parquet")
    assert "KEPT" in vlitqc("explain", scored, scores.idxmax(), *decisions).out


@pytest.mark.parametrize("name", ["scores/part-00000.parquet", "issues.parquet"])
def test_a_damaged_run_is_a_sentence(scored: Path, vlitqc: Callable[..., Ended], name: str) -> None:
    os.truncate(scored.with_name("data.vlitqc") / name, 100)
    for words in (("filter", scored, "--dry-run"), ("explain", scored, "r0")):
        told = vlitqc(*words)
        assert (told.code, told.out, is_sentence(told.err)) == (3, "", True), told
        assert "cannot be read" in told.err


def test_gates_end_with_0_or_1(scored: Path, vlitqc: Callable[..., Ended], tmp_path: Path) -> None:
    good, bad = ("--require", "records == 11"), ("--require", "image_readability.mean > 2")
    assert vlitqc("check", scored, *good).code == 0
    told = vlitqc("check", scored, *good, *bad, "--junit", tmp_path / "gates.xml")
    assert told.code == 1
    assert told.err == "error: 1 of 2 requirements failed\n"
    assert re.search(r"^passed  records == 11 +records is 11 *$", told.out, re.MULTILINE)
    assert re.search(r"^failed  image_readability.mean > 2 ", told.out, re.MULTILINE)
    assert 'failures="1"' in (tmp_path / "gates.xml").read_text()
    page = json.loads(vlitqc("check", scored, *good, *bad, "--json").out)
    assert (page["passed"], [gate["passed"] for gate in page["gates"]]) == (False, [True, False])
    gates = tmp_path / "gates.toml"
    gates.write_text('[[gates]]\nrequire = "records > 11"\nbecause = "[bold]too few[/bold]"\n')
    told = vlitqc("check", scored, "--require-file", gates)
    assert (told.code, "[bold]too few[/bold]" in told.out) == (1, True)
    assert told.err == "error: the requirement failed\n"


# ---------------------------------------------------------------- hostile data, terminals


HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp.\u2066\x00\x7f[bold]:bomb:[/]\\"


def test_escapes_in_the_data_never_reach_the_terminal(
    make_data: Make, record: Any, profile_file: Callable[[str], str], vlitqc: Callable[..., Ended]
) -> None:
    profile = profile_file(
        "[metrics.image_readability]\n[metrics.correctness]\nunavailable = 'no [/red] \\u001b'"
    )
    text = Path(profile).read_text()
    Path(profile).write_text(
        text.replace("'no [/red] \\u001b'", '"no [/red] \\u001b"')
        .replace('"own"', '"own [/x] \\u001b\\u202e"')
        .replace('"Nothing."', '"More [/y] \\u001b"')
    )
    lines: list[Any] = [
        record(0, HOSTILE) | {"id": HOSTILE},
        record(1, "../" + HOSTILE),
        {HOSTILE: HOSTILE, "id": HOSTILE},
        {
            "id": "r3",
            "conversations": [{"from": HOSTILE, "value": HOSTILE}, {"from": "gpt", "value": "Yes."}],
        },
    ]
    path = make_data(lines=lines, name="da[bold]ta\x1b[31m\u202e.jsonl", folder="a [bold] folder\x1b[1m")
    for args in (
        ("score", path, "--profile", profile),
        ("score", path, "--profile", profile, "--json"),
        ("filter", path, "--drop-issue", HOSTILE.replace("\0", ""), "--drop-issue", "error"),
        ("filter", path, "--drop-issue", "error", "--json"),
        ("filter", path, "--drop-below", HOSTILE.replace("\0", "") + "=3"),
        ("filter", path, "--where", HOSTILE.replace("\0", "")),
        ("filter", path, "--where", "id != 'r3'"),
        ("filter", path, "--drop-below", "image_readability=p50", "--dry-run"),
        ("filter", path, "--must-keep", HOSTILE.replace("\0", ""), "--recipe", "clean"),
        ("filter", path, "--recipe", HOSTILE.replace("\0", "")),
        ("recipes", HOSTILE.replace("\0", "")),
        ("explain", path, "row:0"),
        ("explain", path, "row:2"),
        ("explain", path, HOSTILE.replace("\0", "")),
        ("check", path, "--require", "records > 0"),
        ("check", path, "--require", "issues.errors < 0"),
        ("check", path, "--require", HOSTILE.replace("\0", "")),
        ("report", path),
        ("metrics", "--profile", profile),
        ("models", "list", "--profile", profile),
        ("score", str(path) + "\x1b[31m"),
        ("score", path, "--bogus\x1b[31m\u202e"),
        ("scroe\x1b[31m\u202e",),
    ):
        told = vlitqc(*args)
        assert told.code in (0, 1, 2, 3), told
        assert is_plain(told.out), told.out
        assert is_plain(told.err), told.err
        assert told.code == 0 or "rror: " in told.err
    shown = vlitqc("score", path, "--profile", profile).out
    assert "da[bold]ta" in shown
    assert "[bold]:bomb:[/]" in shown
    assert json.loads(vlitqc("score", path, "--profile", profile, "--json").out)["input"]["path"] == str(path)


def terminal(*args: object, **environment: str) -> bytes:
    """What a terminal gets to see."""
    controller, end = pty.openpty()
    keep = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS")}
    command = [sys.executable, "-m", "vlitqc", *map(str, args)]
    env = keep | {"TERM": "xterm-256color", "COLUMNS": "140"} | environment
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=end, stderr=end, env=env) as child:
        os.close(end)
        seen = b""
        # The other end is gone once the child has ended; Linux tells so by an error.
        with contextlib.suppress(OSError):
            while data := os.read(controller, 65536):
                seen += data
        os.close(controller)
        assert child.wait(30) == 0
    return seen


def test_colours_on_a_terminal_unless_refused(make_data: Make, tiny: str) -> None:
    path = make_data(2)
    coloured = terminal("score", path, "--profile", tiny)
    assert COLOUR.search(coloured)
    plain = terminal("score", path, "--profile", tiny, NO_COLOR="1")
    assert b"Readability" in plain
    assert not COLOUR.search(plain)


def test_a_pipe_gets_no_escapes(make_data: Make, tiny: str) -> None:
    told = process("score", make_data(2), "--profile", tiny, TERM="xterm-256color")
    assert told.returncode == 0
    assert "Readability" in told.stdout
    assert is_plain(told.stdout)
    assert not ESCAPE.search(told.stderr)


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m vlitqc metrics | head -n 1"
    told = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in told.stderr
    assert "principle" in told.stdout
