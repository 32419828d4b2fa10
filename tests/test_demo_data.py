"""The demo data set: what it plants, that it is the same every time, and that its checker can tell."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, Protocol

import pandas as pd
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MAKE = EXAMPLES / "make_demo_data.py"
CHECK = EXAMPLES / "check_planted.py"

EXPECTED_PLANTS = {
    "wrong_caption": 3,
    "blurred_image": 2,
    "noisy_image": 2,
    "compressed_image": 1,
    "word_salad": 2,
    "gibberish": 2,
    "exact_duplicate": 2,
    "near_duplicate_text": 2,
    "near_duplicate_image": 1,
    "rare_task": 1,
    "tiny_image": 1,
    "truncated_image": 1,
    "not_an_image": 1,
    "missing_image": 1,
    "path_outside_root": 1,
    "malformed_record": 1,
    "empty_turn": 1,
    "token_without_image": 1,
    "image_without_token": 1,
    "html": 1,
}
BROKEN_PICTURES = {"truncated_image", "not_an_image", "missing_image", "path_outside_root"}


def run(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )


def load(script: Path) -> ModuleType:
    spec = spec_from_file_location(script.stem, script)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "data"
    result = run(MAKE, out)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("122 records, 28 planted defects")
    return out


def lines_of(demo: Path) -> list[bytes]:
    data = (demo / "data.jsonl").read_bytes()
    assert data.endswith(b"\n") and b"\r" not in data
    return data[:-1].split(b"\n")


def records_of(demo: Path) -> dict[str, dict[str, Any]]:
    """The records that parse, by id."""
    records: dict[str, dict[str, Any]] = {}
    for line in lines_of(demo):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        assert record["id"] not in records
        records[record["id"]] = record
    return records


def planted_of(demo: Path) -> list[dict[str, Any]]:
    planted: list[dict[str, Any]] = json.loads((demo / "planted.json").read_text(encoding="utf-8"))
    return planted


def pictures_of(record: dict[str, Any]) -> list[str]:
    image = record.get("image", [])
    return [image] if isinstance(image, str) else image


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_records_parse_and_have_the_llava_shape(demo: Path) -> None:
    records = records_of(demo)
    assert len(records) == 122
    for record in records.values():
        assert set(record) <= {"id", "image", "conversations"}
        speakers = [turn["from"] for turn in record["conversations"]]
        assert speakers == ["human", "gpt"] * (len(speakers) // 2) and speakers
        assert all(isinstance(turn["value"], str) for turn in record["conversations"])
    turns = Counter(len(record["conversations"]) // 2 for record in records.values())
    assert turns[1] > turns[2] > turns[3] >= 2
    assert sum("image" not in record for record in records.values()) >= 6
    assert sum(isinstance(record.get("image"), list) for record in records.values()) >= 5


def test_lines_differ_in_their_bytes(demo: Path) -> None:
    lines = lines_of(demo)
    assert lines.count(b"") == 1
    assert any(line.startswith(b'{"id": ') for line in lines)
    assert any(line.startswith(b'{"id":"') for line in lines)
    assert any(line.startswith((b'{"image"', b'{"conversations"')) for line in lines)
    assert any(not line.isascii() for line in lines)
    assert any(b"\\u" in line for line in lines)


def test_every_kind_is_planted_and_listed_at_its_line(demo: Path) -> None:
    planted, lines = planted_of(demo), lines_of(demo)
    assert Counter(entry["kind"] for entry in planted) == EXPECTED_PLANTS
    for entry in planted:
        assert entry["note"]
        assert ("issue" in entry) + ("metric" in entry) == (entry["kind"] != "html")
        line = lines[entry["line"] - 1]
        if entry["kind"] == "malformed_record":
            assert "id" not in entry
            with pytest.raises(ValueError):
                json.loads(line)
        else:
            assert json.loads(line)["id"] == entry["id"]


def test_all_pictures_open_but_the_planted_ones(demo: Path) -> None:
    broken = {entry["id"]: entry["kind"] for entry in planted_of(demo) if entry["kind"] in BROKEN_PICTURES}
    used = set()
    for identifier, record in records_of(demo).items():
        for name in pictures_of(record):
            used.add(name)
            if identifier in broken:
                with pytest.raises(OSError), Image.open(demo / name) as picture:
                    picture.load()
            else:
                with Image.open(demo / name) as picture:
                    picture.load()
                    assert picture.mode in ("L", "RGB")
                    assert min(picture.size) == 32 if identifier == "cat-tiny" else min(picture.size) >= 150
    written = {f"images/{path.name}" for path in (demo / "images").iterdir()}
    assert used - written == {"images/never_written.jpg", "../outside.jpg"}
    assert written <= used
    assert len(written) >= 40


def test_the_truncated_file_is_a_jpeg_that_breaks_off(demo: Path) -> None:
    path = demo / "images" / "rocket_truncated.jpg"
    data = path.read_bytes()
    assert data.startswith(b"\xff\xd8") and not data.endswith(b"\xff\xd9")
    with pytest.raises(OSError, match="truncated"), Image.open(path) as picture:
        picture.load()


def test_tokens_agree_with_images_but_where_planted(demo: Path) -> None:
    mismatched = {entry["id"] for entry in planted_of(demo) if entry.get("issue") == "image_token_mismatch"}
    for identifier, record in records_of(demo).items():
        tokens = [turn["value"].count("<image>") for turn in record["conversations"]]
        assert sum(tokens) == tokens[0]  # all in the first instruction
        assert (tokens[0] == len(pictures_of(record))) == (identifier not in mismatched)


def test_planted_texts_are_what_they_say(demo: Path) -> None:
    records = records_of(demo)
    source = tomllib.loads((EXAMPLES / "demo_content.toml").read_text(encoding="utf-8"))
    written = {record["id"]: record for record in source["records"]}
    for entry in planted_of(demo):
        if "id" not in entry:
            continue
        conversations = records[entry["id"]]["conversations"]
        response = conversations[-1]["value"]
        if entry["kind"] == "word_salad":
            original = written[entry["id"]]["turns"][0][1]
            assert response != original and sorted(response.split()) == sorted(original.split())
        elif entry["kind"] == "gibberish":
            original = written[entry["id"]]["turns"][0][1]
            assert [len(word) for word in response.split()] == [len(word) for word in original.split()]
            shared = set(response.split()) & set(original.split())
            assert all(len(word) <= 2 for word in shared)  # two random letters may happen to be a word
        elif entry["kind"] == "exact_duplicate":
            other = records[entry["of"]]
            assert pictures_of(other) == pictures_of(records[entry["id"]])
            assert other["conversations"] == conversations
        elif entry["kind"] == "empty_turn":
            assert response == ""
        elif entry["kind"] == "html":
            assert "<script>" in conversations[0]["value"]
        elif entry["kind"] == "path_outside_root":
            (name,) = pictures_of(records[entry["id"]])
            assert not (demo / name).resolve().is_relative_to(demo.resolve())
    empty = [
        r["id"] for r in records.values() if any(not turn["value"].strip() for turn in r["conversations"])
    ]
    assert empty == ["roof-empty"]


def test_tasks_are_balanced_but_for_the_planted_one() -> None:
    source = tomllib.loads((EXAMPLES / "demo_content.toml").read_text(encoding="utf-8"))
    tasks = Counter(record["task"] for record in source["records"])
    assert tasks["creative"] == 1
    main = [count for _, count in tasks.most_common(9)]
    assert max(main) <= 2 * min(main)


def test_two_builds_are_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    assert run(MAKE, tmp_path / "again").returncode == 0
    assert files_of(tmp_path / "again") == files_of(demo)


def test_rebuilding_replaces_its_own_files_and_keeps_a_run_beside_them(tmp_path: Path) -> None:
    build = load(MAKE).build
    build(tmp_path / "out")
    before = files_of(tmp_path / "out")
    stray = tmp_path / "out" / "images" / "stray.jpg"
    stray.write_bytes(b"old")
    (tmp_path / "out" / "data.jsonl").write_bytes(b"changed")
    kept = tmp_path / "out" / "data.vlitqc" / "run.json"
    kept.parent.mkdir()
    kept.write_bytes(b"{}")
    build(tmp_path / "out")
    assert kept.read_bytes() == b"{}"
    kept.unlink()
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize("occupant", ["folder", "file"])
def test_what_it_did_not_make_is_left_alone(tmp_path: Path, occupant: str) -> None:
    out = tmp_path / "mine"
    content = out if occupant == "file" else out / "data.jsonl"
    content.parent.mkdir(exist_ok=True)
    content.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="was not made by this script"):
        load(MAKE).build(out)
    assert load(MAKE).main([str(out)]) == 1
    assert files_of(tmp_path) == {str(content.relative_to(tmp_path)): b"precious"}


def test_no_socket_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    records, planted = load(MAKE).build(tmp_path / "out")
    assert (records, len(planted)) == (122, 28)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such_package/x\.png: not installed; try: pip install"):
        load(MAKE).open_source("no_such_package/x.png")


# ---- check_planted.py, on a hand-made run of 20 samples: the limit of the lowest tenth is rank 2


def write_run(folder: Path, values: list[float | None], issues: list[tuple[str, int, str | None]]) -> Path:
    """A run with samples s1 … sn in two score files, and issues (kind, line, id)."""
    (folder / "scores").mkdir(parents=True)
    ids = [f"s{number}" for number in range(1, len(values) + 1)]
    scores = pd.DataFrame({"id": ids, "line": range(1, len(values) + 1), "m": values})
    half = len(scores) // 2
    scores.iloc[:half].to_parquet(folder / "scores" / "part-00000.parquet")
    scores.iloc[half:].to_parquet(folder / "scores" / "part-00001.parquet")
    columns = {"kind": "str", "line": "int64", "id": "object"}
    pd.DataFrame(issues, columns=list(columns)).astype(columns).to_parquet(folder / "issues.parquet")
    return folder


class Checker(Protocol):
    def __call__(self, run_dir: Path, planted: list[dict[str, Any]]) -> tuple[int, list[bool], str]: ...


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Checker:
    main = load(CHECK).main

    def check(run_dir: Path, planted: list[dict[str, Any]]) -> tuple[int, list[bool], str]:
        """(exit code, found or not for every entry, the printed text)."""
        path = tmp_path / "planted.json"
        path.write_text(json.dumps(planted), encoding="utf-8")
        code = main([str(run_dir), str(path)])
        printed = capsys.readouterr()
        rows = printed.out.splitlines()[1 : len(planted) + 1]
        return code, [row.split()[0] == "yes" for row in rows], printed.out + printed.err

    return check


def test_checker_ranks_within_the_scored_samples(tmp_path: Path, check: Checker) -> None:
    values: list[float | None] = [float(number) for number in range(20)]
    run_dir = write_run(tmp_path / "run", [*values, None], [])  # 20 scored, 21 in all: still rank ≤ 2
    planted = [{"id": f"s{n}", "line": n, "kind": "k", "metric": "m", "note": ""} for n in (1, 2, 3, 21)]
    code, found, text = check(run_dir, planted)
    assert (code, found) == (1, [True, True, False, False])
    assert "lowest 3 of 20 (limit 2)" in text and "not scored" in text
    assert "2 of 4 planted defects found" in text
    assert check(run_dir, planted[:2])[0] == 0


def test_checker_reads_issues_by_id_by_line_and_by_partner(tmp_path: Path, check: Checker) -> None:
    issues = [("malformed_record", 7, None), ("exact_duplicate", 3, "s3"), ("empty_turn", 4, "s4")]
    run_dir = write_run(tmp_path / "run", [0.0] * 5, issues)
    planted = [
        {"line": 7, "kind": "a", "issue": "malformed_record"},
        {"line": 8, "kind": "b", "issue": "malformed_record"},
        {"id": "s5", "of": "s3", "line": 5, "kind": "c", "issue": "exact_duplicate"},
        {"id": "s4", "line": 3, "kind": "d", "issue": "exact_duplicate"},  # another issue, another's line
        {"id": "s1", "line": 1, "kind": "e"},
        {"id": "gone", "line": 1, "kind": "f"},
    ]
    code, found, _ = check(run_dir, planted)
    assert (code, found) == (1, [True, False, True, False, True, False])


def test_checker_aligns_its_columns(tmp_path: Path, check: Checker) -> None:
    run_dir = write_run(tmp_path / "run", [0.0] * 5, [])
    planted = [
        {"id": "s1", "line": 1, "kind": "short", "metric": "m"},
        {"id": "s2", "line": 2, "kind": "much_longer_kind", "metric": "absent"},
    ]
    code, found, text = check(run_dir, planted)
    assert (code, found) == (1, [True, False])
    header, first, second = text.splitlines()[:3]
    assert header.index("sample") == first.index("s1") == second.index("s2")
    assert "the run has no column absent" in second


def test_checker_says_when_there_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "planted.json").write_text("[]", encoding="utf-8")
    result = run(CHECK, tmp_path / "run", tmp_path / "planted.json")
    assert result.returncode == 2
    assert result.stderr.startswith("check_planted: ") and not result.stdout
