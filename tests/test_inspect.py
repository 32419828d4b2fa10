"""What ``vlitqc inspect`` counts, how it tells it, and with which code it ends."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image as PilImage
from rich.console import Console

import vlitqc
from vlitqc import console, registry
from vlitqc.cli import cli
from vlitqc.engine import inspection
from vlitqc.engine.inspection import Spread, _Seen
from vlitqc.errors import InputError, UnknownName, UsageError

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
FORMATS_PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared data here")


def pair(n: int, **more: Any) -> dict[str, Any]:
    return {"id": f"r{n}", "instruction": "What is it?", "output": f"Number {n}", **more}


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def kinds(found: inspection.Inspection) -> list[tuple[str, str, int, int]]:
    return [(f.kind, f.severity, f.n, f.records) for f in found.issues]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["inspect", *map(str, arguments)])


def page(found: inspection.Inspection, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, emoji=False).print(console.inspection(found.as_json()))
    return out.getvalue()


# ---------------------------------------------------------------- counts


class TestCounts:
    def test_records_and_shape(self, tmp_path: Path) -> None:
        chat = [{"from": "human", "value": "one two three"}, {"from": "gpt", "value": "你好 and yes"}] * 3
        path = write(tmp_path / "a.jsonl", pair(1), pair(2), {"id": "c", "conversations": chat})
        with path.open("a") as file:
            file.write("{broken\n")
        found = vlitqc.inspect(path)
        assert (found.format, found.files, found.bytes) == ("jsonl", 1, path.stat().st_size)
        assert (found.records, found.readable, found.unreadable, found.with_errors) == (4, 3, 1, 1)
        assert dict(found.dialects) == {"alpaca": 2, "sharegpt": 1}
        assert found.turns == Spread(1, 1, 1, 3, 3)
        assert found.instruction_words == Spread(3, 3, 3, 3, 3)
        assert found.response_words == Spread(2, 2, 4, 4, 4)
        assert kinds(found) == [("malformed_record", "error", 1, 1)]
        (example,) = found.issues[0].examples
        assert (example.file, example.line, example.row) == (str(path), 4, 3)
        assert found.issues[0].share == 0.25

    def test_quantiles_are_those_of_numpy_by_nearest_rank(self) -> None:
        rng = np.random.default_rng(0)
        for n in (1, 2, 7, 100, 101):
            values = rng.integers(0, 50, n)
            counts = {int(v): int((values == v).sum()) for v in values}
            expected = np.percentile(values, [0, 5, 50, 95, 100], method="inverted_cdf")
            spread = Spread.of(counts)
            assert [spread.min, spread.p5, spread.p50, spread.p95, spread.max] == expected.tolist()
        assert Spread.of({}) == Spread(0, 0, 0, 0, 0)

    def test_the_limit(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", *(pair(n) for n in range(9)))
        assert vlitqc.inspect(path, limit=4).records == 4
        with pytest.raises(UsageError, match="limit=0"):
            vlitqc.inspect(path, limit=0)

    def test_a_renamed_field(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", *({"q": "Who?", "a": f"{n}"} for n in range(3)))
        assert vlitqc.inspect(path).readable == 0
        assert vlitqc.inspect(path, map={"instruction": "q", "response": "a"}).readable == 3
        with pytest.raises(UnknownName):
            vlitqc.inspect(path, map={"instrction": "q"})

    def test_records_in_memory_are_refused(self) -> None:
        with pytest.raises(UsageError, match="write them to a file"):
            vlitqc.inspect([pair(1)])

    def test_several_files_are_one_input(self, tmp_path: Path) -> None:
        for n in range(3):
            write(tmp_path / f"{n}.jsonl", pair(n), pair(n + 1))
        found = vlitqc.inspect(tmp_path)
        assert (found.files, found.records) == (3, 6)
        assert vlitqc.inspect([tmp_path / "0.jsonl", tmp_path / "2.jsonl"]).records == 4

    def test_progress_is_told(self, tmp_path: Path) -> None:
        told: list[tuple[int, float | None]] = []

        class Watching:
            def records(self, done: int, share: float | None) -> None:
                told.append((done, share))

        path = write(tmp_path / "a.jsonl", *(pair(n) for n in range(600)))
        vlitqc.inspect(path, progress=Watching())
        assert [done for done, _ in told] == [256, 512]
        assert all(share is not None and 0 < share < 1 for _, share in told)


class TestIssues:
    def test_a_repeated_id_with_the_place_of_the_first(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", pair(1), pair(2), pair(1), pair(1), pair(2))
        found = vlitqc.inspect(path)
        assert kinds(found) == [("duplicate_id", "note", 3, 3)]
        told = [(issue.line, issue.id, issue.detail) for issue in found.issues[0].examples]
        assert told == [
            (3, "r1", "a.jsonl:1 has the same id"),
            (4, "r1", "a.jsonl:1 has the same id"),
            (5, "r2", "a.jsonl:2 has the same id"),
        ]
        assert found.with_errors == 0

    def test_a_first_place_that_is_far_off(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inspection, "FIRST_PLACES", 1)
        path = write(tmp_path / "a.jsonl", pair(1), pair(2), pair(2))
        assert vlitqc.inspect(path).issues[0].examples[0].detail == "an earlier record has the same id"

    def test_records_without_an_id_have_none_in_common(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", *({"instruction": "q", "output": "a"} for _ in range(5)))
        assert vlitqc.inspect(path).issues == ()

    def test_hashes_are_merged_and_still_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inspection, "_RECENT", 100)
        seen, known = _Seen(), set()
        for n in np.random.default_rng(0).integers(0, 3000, 5000).tolist():
            assert seen.before(str(n)) is (n in known)
            known.add(n)
        assert seen._sorted.nbytes + 8 * len(seen._recent) == 8 * len(known)

    def test_long_texts(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", pair(1, output="x" * 50_000), pair(2, output="x" * 50_001))
        found = vlitqc.inspect(path)
        assert kinds(found) == [("long_text", "note", 1, 1)]
        assert found.issues[0].examples[0].detail == "the response of turn 1 of 1 has 50,001 characters"

    def test_examples_are_of_different_records(self, tmp_path: Path) -> None:
        turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": ""}] * 2
        path = write(tmp_path / "a.jsonl", *({"id": str(n), "conversations": turns} for n in range(5)))
        for issue in vlitqc.inspect(path).issues:
            assert issue.n > issue.records == 5
            assert [example.row for example in issue.examples] == [0, 1, 4], "the first two and the last"

    def test_errors_come_first_then_the_frequent(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "a.jsonl",
            pair(1, output=""),
            pair(1),
            pair(1),
            {"x": 1},
            {"x": 2},
            pair(1),
        )
        found = vlitqc.inspect(path)
        assert [(f.severity, f.kind) for f in found.issues] == [
            ("error", "malformed_record"),
            ("error", "empty_turn"),
            ("note", "duplicate_id"),
        ]
        assert found.with_errors == 3


class TestMedia:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        PilImage.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
        PilImage.new("RGB", (80, 80), "red").save(tmp_path / "b.jpg")
        (tmp_path / "cut.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:-40])
        (tmp_path / "text.png").write_text("no picture")
        with wave.open(str(tmp_path / "s.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(2 * 8000 * 3))
        return tmp_path

    def test_every_kind_and_fate(self, folder: Path) -> None:
        references = ["a.png", "b.jpg", "cut.jpg", "text.png", "none.png", "../x.png", "https://x.org/a.png"]
        records = [pair(n, image=name) for n, name in enumerate(references)]
        path = write(folder / "data.jsonl", *records, pair(8, audio="s.wav"), pair(9, video="v.mp4"))
        found = vlitqc.inspect(path)
        image = found.media["image"]
        assert (image.references, image.local, image.embedded, image.remote) == (7, 6, 0, 1)
        assert (image.readable, image.missing, image.broken, image.outside) == (2, 1, 2, 1)
        assert image.formats == {"PNG": 1, "JPEG": 1}
        audio, video = found.media["audio"], found.media["video"]
        assert (audio.references, audio.readable, audio.seconds) == (1, 1, 3.0)
        assert (video.references, video.readable, video.missing) == (1, 0, 1)
        errors = {f.kind: f.n for f in found.issues if f.severity == "error"}
        assert errors == {
            "missing_image": 1,
            "missing_video": 1,
            "path_outside_root": 1,
            "remote_image": 1,
            "truncated_image": 1,
            "unreadable_image": 1,
        }
        assert found.image_root == str(folder.resolve())
        assert found.with_errors == 6

    def test_counted_but_not_opened(self, folder: Path) -> None:
        path = write(folder / "data.jsonl", pair(1, image="a.png"), pair(2, image="none.png"))
        found = vlitqc.inspect(path, media=False)
        assert (found.media["image"].references, found.media["image"].readable) == (2, 0)
        assert (found.image_root, found.with_errors) == (None, 0)

    def test_the_root(self, folder: Path) -> None:
        (folder / "deep").mkdir()
        path = write(folder / "deep" / "data.jsonl", pair(1, image="a.png"), pair(2, image="../b.jpg"))
        assert vlitqc.inspect(path, image_root=folder).media["image"].readable == 1
        found = vlitqc.inspect(path, image_root=folder / "deep", allow_outside=True)
        assert (found.media["image"].readable, found.media["image"].missing) == (1, 1)
        with pytest.raises(UsageError, match="is not a folder"):
            vlitqc.inspect(path, image_root=folder / "none")

    def test_pictures_beside_a_data_file_deep_in_a_folder(self, folder: Path) -> None:
        deep = folder / "more" / "one" / "two"
        (deep / "images").mkdir(parents=True)
        (folder / "a.png").rename(deep / "images" / "z.png")
        write(deep / "data.jsonl", *(pair(n, image="z.png") for n in range(3)))
        found = vlitqc.inspect(folder / "more")
        assert found.media["image"].readable == 3
        assert found.image_root == str((deep / "images").resolve())

    def test_pictures_that_start_from_the_folder_itself(self, folder: Path) -> None:
        (folder / "deep").mkdir()
        write(folder / "deep" / "data.jsonl", pair(1, image="a.png"), pair(2, image="b.jpg"))
        assert vlitqc.inspect(folder).image_root == str(folder.resolve())

    def test_batches_do_not_lose_any(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inspection, "BATCH_SAMPLES", 4)
        path = write(folder / "data.jsonl", *(pair(n, image="a.png") for n in range(10)), pair(10))
        assert vlitqc.inspect(path).media["image"].readable == 10


# ---------------------------------------------------------------- the command


class TestCommand:
    def test_a_page_that_fits_80_columns(self, tmp_path: Path) -> None:
        records = [pair(n, image=f"{n}.png") for n in range(1200)]
        path = write(tmp_path / "data.jsonl", *records, pair(1), {"x": 1})
        text = page(vlitqc.inspect(path))
        assert max(map(len, text.splitlines())) <= 80
        assert "1,202, 1 unreadable (<0.1%)" in text
        assert "missing_image" in text and "1,200 records" in text
        assert "line 1 (id r0)" in text
        assert "duplicate_id" in text and "note " in text

    def test_what_to_do_next(self, tmp_path: Path) -> None:
        path = write(tmp_path / "my data.jsonl", {"q": "a", "a": "b"}, {"q": "a"})
        done = run(path, "--map", "instruction=q", "--map", "response=a")
        assert done.exit_code == 0, done.output
        mapped = "--map instruction=q --map response=a"
        assert f"next  vlitqc score '{path}' {mapped}\n" in done.output
        assert "then" not in done.output, "the unreadable one goes to a file of its own"

    def test_the_filter_of_this_input_for_as_many_as_it_drops(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write(
            Path("-x.jsonl"), *(pair(n) for n in range(6)), pair(7, output=""), pair(8, output=""), {"x": 1}
        )
        out = run("--", "-x.jsonl").output
        assert "next  vlitqc score ./-x.jsonl\n" in out
        assert "then  vlitqc filter ./-x.jsonl --drop-issue error  to drop 2 records with errors" in out

    def test_nobody_is_told_to_drop_most_of_the_data(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", pair(1), *(pair(n, image=f"{n}.png") for n in range(5)))
        out = run(path).output
        assert "with --image-root DIR" in out
        assert "--drop-issue" not in out

    def test_several_paths_are_named(self, tmp_path: Path) -> None:
        paths = [write(tmp_path / f"{n}.jsonl", pair(n)) for n in range(5)]
        out = run(*paths).output
        assert [str(path) in out.partition("next")[0] for path in paths] == [True, True, True, False, False]
        assert "and 2 more" in out
        assert vlitqc.inspect(paths).paths == tuple(map(str, paths))

    def test_a_url_follows_its_place(self, tmp_path: Path) -> None:
        url = f"https://example.org/{'x' * 40}.png"
        text = page(vlitqc.inspect(write(tmp_path / "a.jsonl", pair(1, image=url))))
        assert f" {url}" in text, "whole, on a line"
        assert "remote:" not in text, "the kind says so already"

    def test_the_first_frame_says_what_is_done(self) -> None:
        screen = Console(file=io.StringIO(), force_terminal=True, width=100)
        with console.progress(screen, quiet=False, stage="reading"):
            pass
        told = screen.file.getvalue()  # type: ignore[attr-defined]
        assert "reading" in told and "scoring" not in told

    @pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
    def test_a_terminal_that_is_not_utf_8(self, tmp_path: Path, encoding: str) -> None:
        path = write(tmp_path / "a.jsonl", *(pair(n, id="你好 – é") for n in range(3)))
        done = subprocess.run(
            [sys.executable, "-c", "from vlitqc.cli import main; main()", "inspect", str(path)],
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"(id ?? - " in done.stdout

    def test_json(self, tmp_path: Path) -> None:
        path = write(tmp_path / "data.jsonl", pair(1), pair(1, image="\u202egnp.exe"))
        done = run(path, "--json")
        assert done.exit_code == 0
        assert done.output.isascii()
        found = json.loads(done.output)
        assert found["records"] == 2
        assert found["media"]["image"]["missing"] == 1
        assert [issue["kind"] for issue in found["issues"]] == [
            "missing_image",
            "duplicate_id",
            "image_token_mismatch",
        ]
        assert found["issues"][1]["examples"][0]["line"] == 2

    @pytest.mark.parametrize("extra", [[], ["--json"]])
    def test_nothing_readable_is_an_error(self, tmp_path: Path, extra: list[str]) -> None:
        path = write(tmp_path / "data.jsonl", {"x": 1}, {"x": 2})
        done = run(path, *extra)
        assert isinstance(done.exception, InputError)
        assert done.exception.exit_code == 3
        assert "no record can be read, of 2" in str(done.exception)
        assert "malformed_record" in done.output

    def test_unusable_inputs(self, tmp_path: Path) -> None:
        for content in (b"", b"\xff\xd8\xff\xe0" * 100, b"some prose\n"):
            (tmp_path / "a").write_bytes(content)
            done = run(tmp_path / "a")
            assert isinstance(done.exception, InputError), content
        assert isinstance(run(tmp_path / "none.jsonl").exception, InputError)
        assert run().exit_code == 2

    def test_nothing_in_the_data_reaches_the_terminal_as_itself(self, tmp_path: Path) -> None:
        evil = "\x1b[31m\u202e\x07[bold]"
        path = write(
            tmp_path / "data.jsonl",
            {"id": evil, "instruction": "q", "output": "a", "image": f"{evil}.png"},
            {"id": evil, "instruction": "q", "output": "a"},
            {evil: 1},
        )
        out = run(path).output
        assert not set(out) & {"\x1b", "\u202e", "\x07"}
        assert "[bold]" in out

    def test_hints(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "a.jsonl", pair(1, image="x/a.png"), pair(2, image="../b.png"), {"x": 1}, {}, {}
        )
        out = run(path).output
        assert "hint  media paths leave the image root" in out
        assert "hint  most records hold no conversation" in out
        for held in ({"image": "a.jpg", "id": "1"}, {"caption": "A dog", "id": "1"}):
            told = run(write(tmp_path / "b.jsonl", held)).output
            assert "no conversation found" in told
            assert "hint  " not in told, "no map helps"
        assert "most of the media" not in out
        out = run(write(tmp_path / "a.jsonl", pair(1, image="x/a.png"))).output
        assert "hint  most of the media are missing" in out

    def test_nothing_is_written(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", pair(1))
        assert run(path).exit_code == 0
        assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- docs/formats.md


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", FORMATS_PAGE, re.DOTALL | re.MULTILINE)
    return [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page's commands name."""
    write(tmp_path / "data.jsonl", pair(1, question={"text": "Why?"}, target="So."))
    write(tmp_path / "a.jsonl", pair(1))
    (tmp_path / "shards").mkdir()
    for path in (tmp_path / "b.parquet", tmp_path / "shards" / "0.parquet"):
        pq.write_table(pa.Table.from_pylist([pair(2)]), path)
    (tmp_path / "pairs.csv").write_text("photo,alt\na.jpg,A dog\n")
    (tmp_path / "captions.tsv").write_text("a.jpg\tA dog\tEin Hund\nb.jpg\tA cat\tEine Katze\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_page_works(line: str, examples: Path) -> None:
    _, name, *arguments = shlex.split(line)
    command: Any = cli.commands[name]
    if name == "inspect":
        done = run(*arguments)
        assert done.exit_code == 0, done.output
    else:
        parent = click.Context(cli, **cli.context_settings)
        with command.make_context(name, arguments, parent=parent) as context:
            assert isinstance(context, click.Context)


def test_the_page_names_every_format() -> None:
    table = FORMATS_PAGE.partition("## What is read")[2].partition("###")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(registry.entries(registry.FORMATS))


def test_the_page_names_every_kind_of_issue() -> None:
    table = FORMATS_PAGE.partition("## Every kind of issue")[2].partition("##")[0]
    told = {
        kind
        for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for kind in re.findall(r"`(.*?)`", cell)
    }
    sources = [path.read_text() for name in ("vlitqc", "metrics") for path in (ROOT / name).rglob("*.py")]
    found = {
        kind
        for text in sources
        for kind in re.findall(r'"([a-z]+(?:_[a-z]+)+)",\s*"(?:error|warning|note)"', text)
    }
    media = {
        f"{fault}_{kind}"
        for fault in ("missing", "unreadable", "truncated", "remote")
        for kind in ("image", "video", "audio")
    }
    missing = (found | media) - told
    assert not missing, f"docs/formats.md does not tell of {sorted(missing)}"


def test_the_limits_of_the_page_are_the_ones_in_force() -> None:
    from vlitqc.formats import delimited, json_records

    assert f"more than {inspection.LONG_TEXT:,} characters" in FORMATS_PAGE
    assert f"over at most {delimited.MAX_QUOTED_BYTES >> 20} MiB" in FORMATS_PAGE
    assert delimited.MAX_ROW_BYTES == json_records.MAX_RECORD_BYTES
    assert f"Records of more than {delimited.MAX_ROW_BYTES >> 20} MiB" in FORMATS_PAGE


# ---------------------------------------------------------------- real files


@needs_data
@pytest.mark.parametrize(
    ("name", "records", "readable", "media"),
    [
        ("llava_pretrain_2k/playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_dev.json", 160, 160, (160, 160)),
        ("flickr8k_itm/flickr8k.DevImages.txt", 600, 600, (600, 600)),
        ("derived_formats/dev/ofa_caption.tsv", 6, 6, (6, 6)),
        ("mantis_examples/data/examples/chat/train.json", 15, 15, (54, 54)),
        ("llava_pretrain_2k", 160, 160, (160, 160)),
        ("xcomposer_finetune", 4, 4, (2, 2)),
        ("sharegpt_v3/ShareGPT_V3_head2MB_truncated.json", 294, 290, None),
    ],
)
def test_real_files(name: str, records: int, readable: int, media: tuple[int, int] | None) -> None:
    found = vlitqc.inspect(DATA / name)
    assert (found.records, found.readable) == (records, readable)
    if media is None:
        assert not found.media
    else:
        image = found.media["image"]
        assert (image.references, image.readable) == media
    assert max(map(len, page(found, 100).splitlines())) <= 100
