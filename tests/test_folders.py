"""Folders, patterns and several files as one input; image folders; data sets of save_to_disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlitqc.errors import FormatError, InputError, UnknownName, UsageError
from vlitqc.formats import Reader, folder, open_input
from vlitqc.formats.names import Names
from vlitqc.types import Origin, Sample, Unreadable


def line(id: str, **more: Any) -> bytes:
    return json.dumps({"id": id, "instruction": f"What is {id}?", "output": f"It is {id}."} | more).encode()


def write(path: Path, *ids: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line(id) + b"\n" for id in ids))
    return path


def ids(reader: Reader) -> list[str]:
    return [record.id for record in reader.records()]


def split(reader: Reader, out: Path, rule: Any = None) -> dict[str, Path]:
    """Kept and dropped by turns, or by ``rule(origin)``."""
    rule = rule or (lambda origin: "kept" if origin.row % 2 == 0 else "dropped")
    targets = {name: out / name for name in ("kept", "dropped")}
    reader.divide([(r.origin, rule(r.origin)) for r in reader.records()], targets)
    return targets


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards in two formats, one of them compressed, and things that are no data."""
    root = tmp_path / "data"
    write(root / "part-10.jsonl", "x10a", "x10b")
    write(root / "part-9.jsonl", "x9a", "x9b", "x9c")
    (root / "deep").mkdir()
    (root / "deep" / "list.json").write_bytes(b"[" + b", ".join(map(line, ("l1", "l2"))) + b"]")
    (root / "README.md").write_text("# Data")
    (root / "package.json").write_text('{"name": "x", "dependencies": {"a": "1"}}')
    (root / "pictures").mkdir()
    (root / "pictures" / "1.jpg").write_bytes(b"no picture")
    (root / ".cache").mkdir()
    write(root / ".cache" / "old.jsonl", "hidden")
    return root


class TestCollection:
    def test_records_come_in_natural_order_numbered_through(self, shards: Path) -> None:
        reader = open_input(shards)
        assert ids(reader) == ["l1", "l2", "x9a", "x9b", "x9c", "x10a", "x10b"]
        assert [r.origin.row for r in reader.records()] == list(range(7))
        assert [r.origin.row for r in reader.records(5)] == list(range(5, 12))
        assert reader.name == "folder"
        assert reader.path == shards
        assert reader.suffix == ""
        assert [f.name for f in reader.files] == ["list.json", "part-9.jsonl", "part-10.jsonl"]

    def test_what_is_no_data_is_counted(self, shards: Path) -> None:
        assert open_input(shards).others == {".md": 1, ".jpg": 1, "settings": 1, "hidden": 1}

    @pytest.mark.parametrize(
        ("name", "value", "n"),
        [
            ("1.json", {"url": "http://a/1.jpg", "image_id": "1", "caption": "a cat"}, 1),
            ("1.json", {"image_id": "1", "caption": "a cat"}, 1),
            ("1.json", {"r1": {"question_id": 1, "text": "Q", "answer": "A"}}, 1),
            ("state.json", [{"query": "Q", "response": "A"}], 1),
            ("state.json", {"query": "Q", "response": "A"}, 0),
            ("1.json", {"lr": 0.1, "layers": {"n": 2}}, 0),
        ],
    )
    def test_settings_are_what_cannot_be_a_record(
        self, tmp_path: Path, name: str, value: Any, n: int
    ) -> None:
        (tmp_path / "a.jsonl").write_text('{"query": "Q", "response": "A"}\n')
        (tmp_path / name).write_text(json.dumps(value))
        reader = open_input(tmp_path)
        assert (len(list(reader.records())), reader.others.get("settings", 0)) == (1 + n, 1 - n)  # type: ignore[attr-defined]

    def test_a_record_is_found_again(self, shards: Path) -> None:
        reader = pickle.loads(pickle.dumps(open_input(shards)))
        for record in list(reader.records()):
            assert reader.record(record.origin) == record

    def test_a_changed_file_is_told(self, shards: Path) -> None:
        reader = open_input(shards)
        origins = [r.origin for r in reader.records()]
        write(shards / "part-9.jsonl", "new")
        with pytest.raises(InputError, match=r"part-9\.jsonl"):
            reader.record(origins[3])
        (shards / "part-10.jsonl").unlink()
        with pytest.raises(InputError, match=r"part-10\.jsonl"):
            open_input(shards).record(origins[6])

    def test_the_share_is_by_bytes_and_ends_at_one(self, shards: Path) -> None:
        reader = open_input(shards)
        shares = [reader.share(r.origin) for r in reader.records()]
        sizes = [f.stat().st_size for f in reader.files]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1, abs=0.02)
        before = sum(sizes[:1])
        inside = [r.origin for r in reader.records()][2].end
        assert shares[2] == pytest.approx((before + inside) / sum(sizes))

    def test_divide_gives_a_folder_with_the_same_names(self, shards: Path, tmp_path: Path) -> None:
        reader = open_input(shards)
        out = split(reader, tmp_path / "out", lambda o: "dropped" if "x" not in Path(o.file).stem else "kept")
        assert tree(out["kept"]) == {}
        out = split(reader, tmp_path / "out", lambda o: "kept" if o.file.endswith("9.jsonl") else "dropped")
        assert tree(out["kept"]) == {"part-9.jsonl": (shards / "part-9.jsonl").read_bytes()}
        assert sorted(tree(out["dropped"])) == ["deep/list.json", "part-10.jsonl"]
        assert json.loads((out["dropped"] / "deep/list.json").read_bytes()) == json.loads(
            (shards / "deep/list.json").read_bytes()
        )
        assert ids(open_input(out["dropped"])) == ["l1", "l2", "x10a", "x10b"]

    def test_a_failed_divide_leaves_the_old_output(self, shards: Path, tmp_path: Path) -> None:
        reader = open_input(shards)
        before = {name: tree(path) for name, path in split(reader, tmp_path / "out").items()}
        origins = [(r.origin, "kept") for r in reader.records()]
        write(shards / "part-10.jsonl", "changed")
        targets = {name: tmp_path / "out" / name for name in before}
        with pytest.raises(InputError):
            reader.divide(origins, targets)
        assert {name: tree(path) for name, path in targets.items()} == before
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["dropped", "kept"]

    @pytest.mark.parametrize("target", ["data", "."])
    def test_the_input_is_never_overwritten(self, shards: Path, target: str) -> None:
        reader = open_input(shards)
        with pytest.raises(UsageError, match="holds the input"):
            reader.divide([], {"kept": shards.parent / target})
        assert len(ids(reader)) == 7

    def test_places_out_of_order_are_a_mistake_of_the_caller(self, shards: Path, tmp_path: Path) -> None:
        reader = open_input(shards)
        o = [r.origin for r in reader.records()]
        with pytest.raises(InputError, match="not in the order"):
            reader.divide([(o[0], "k"), (o[2], "k"), (o[1], "k")], {"k": tmp_path / "k"})

    def test_compressed_shards(self, shards: Path, tmp_path: Path) -> None:
        raw = (shards / "part-9.jsonl").read_bytes()
        (shards / "part-9.jsonl").unlink()
        (shards / "part-9.jsonl.gz").write_bytes(gzip.compress(raw))
        reader = open_input(shards)
        assert ids(reader) == ["l1", "l2", "x9a", "x9b", "x9c", "x10a", "x10b"]
        out = split(reader, tmp_path / "out", lambda _: "kept")
        assert gzip.decompress((out["kept"] / "part-9.jsonl.gz").read_bytes()) == raw

    def test_thousands_of_shards_keep_no_file_open(self, tmp_path: Path) -> None:
        for n in range(1500):
            write(tmp_path / "many" / f"s{n}.jsonl", f"r{n}")
        reader = open_input(tmp_path / "many")
        before = len(list(Path("/proc/self/fd").iterdir()))
        found = []
        for record in reader.records():
            found.append(record)
            if record.origin.row % 500 == 499:
                assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
        assert [r.id for r in found] == [f"r{n}" for n in range(1500)]
        assert all(reader.record(r.origin) == r for r in found[::97])


BAD_FILES = {
    "zero.jsonl": (b"", "is empty"),
    "blank.json": (b" \n\n ", "is empty"),
    "pointer.jsonl": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "git lfs pull",
    ),
    "junk.tar": (bytes(range(256)) * 9, "junk.tar"),
    "words.jsonl": (b"these are words and no records at all", "words.jsonl"),
    "cut.parquet": (b"PAR1\x00\x00\x00\x00", "cut.parquet"),
}


class TestUnreadableFiles:
    @pytest.mark.parametrize("name", BAD_FILES)
    def test_one_bad_file_is_one_unreadable_record(self, shards: Path, tmp_path: Path, name: str) -> None:
        content, told = BAD_FILES[name]
        (shards / name).write_bytes(content)
        reader = open_input(shards)
        records = list(reader.records())
        assert Counter(type(r) for r in records)[Sample] == 7
        (bad,) = (r for r in records if isinstance(r, Unreadable))
        assert [r.origin.row for r in records] == list(range(8))
        assert bad.origin.file == str(shards / name)
        assert bad.issues[0].severity == "error"
        assert told in bad.issues[0].detail
        assert reader.record(bad.origin) == bad
        assert reader.share(bad.origin) is not None
        out = split(reader, tmp_path / "out", lambda o: "dropped" if o == bad.origin else "kept")
        assert tree(out["dropped"]) == {name: content}
        assert len(tree(out["kept"])) == 3

    @pytest.mark.parametrize("name", [n for n in BAD_FILES if n != "words.jsonl"])
    def test_its_issue_covers_the_file(self, shards: Path, name: str) -> None:
        content = BAD_FILES[name][0]
        (shards / name).write_bytes(content)
        (bad,) = (r for r in open_input(shards).records() if isinstance(r, Unreadable))
        assert bad.issues[0].kind == "unreadable_file"
        assert (bad.origin.start, bad.origin.end) == (0, len(content))
        assert bad.origin.sha256 == hashlib.sha256(content).hexdigest()

    def test_what_holds_no_conversation_is_left_aside_beside_data(self, shards: Path, tmp_path: Path) -> None:
        (shards / "coco.json").write_text('{"info": {"a": {}},\n "annotations": [{"id": 1}, {"id": 2}]}')
        (shards / "scores.csv").write_text("file,score\na.jpg,1\nb.jpg,2\n")
        reader = open_input(shards)
        assert ids(reader) == ["l1", "l2", "x9a", "x9b", "x9c", "x10a", "x10b"]
        coco, scores = reader.notes
        assert coco.startswith(f"{shards / 'coco.json'} is one JSON object that holds 1 info, 2 annotations")
        assert coco.endswith("; left aside")
        assert scores.startswith(f"{shards / 'scores.csv'} is a table with the columns file, score")
        assert "--map instruction=COLUMN" in scores
        for out in split(reader, tmp_path / "out").values():
            assert not tree(out).keys() & {"coco.json", "scores.csv"}

    def test_where_nothing_else_is_it_is_an_error(self, tmp_path: Path) -> None:
        for name in ("a.csv", "b.csv"):
            (tmp_path / name).write_text("file,score\na.jpg,1\nb.jpg,2\n")
        reader = open_input(tmp_path)
        records = list(reader.records())
        assert [r.issues[0].kind for r in records] == ["unreadable_file"] * 2
        assert [r.origin.row for r in records] == [0, 1]
        assert [reader.record(r.origin) for r in records] == records
        assert reader.notes == ()
        # Asked for by name, each is an error also beside data.
        given = [tmp_path / "a.csv", write(tmp_path / "more.jsonl", "m")]
        assert [type(r) for r in open_input(given).records()] == [Unreadable, Sample]

    def test_a_bad_file_that_changes_is_told(self, shards: Path, tmp_path: Path) -> None:
        (shards / "zero.jsonl").write_bytes(b"")
        reader = open_input(shards)
        places = [(r.origin, "k") for r in reader.records()]
        (shards / "zero.jsonl").write_bytes(b" ")
        with pytest.raises(InputError, match=r"zero\.jsonl has changed"):
            open_input(shards).record(places[-1][0])
        with pytest.raises(InputError, match=r"zero\.jsonl has changed"):
            open_input(shards).divide(places, {"k": tmp_path / "k"})
        assert not (tmp_path / "k").exists()

    def test_a_file_that_vanishes_meanwhile(self, shards: Path, tmp_path: Path) -> None:
        reader = open_input(shards)
        (shards / "part-9.jsonl").unlink()
        records = list(reader.records())
        assert [r.id for r in records] == ["l1", "l2", "part-9.jsonl", "x10a", "x10b"]
        assert "part-9.jsonl" in records[2].issues[0].detail
        assert reader.record(records[2].origin) == records[2]
        # Nothing is left of it that could be copied.
        out = split(reader, tmp_path / "out", lambda o: "kept" if o == records[2].origin else "dropped")
        assert tree(out["kept"]) == {}

    def test_a_file_without_permission(self, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _deny(monkeypatch, shards / "part-9.jsonl")
        records = list(open_input(shards).records())
        assert [r.id for r in records] == ["l1", "l2", "part-9.jsonl", "x10a", "x10b"]
        assert "Permission denied" in records[2].issues[0].detail

    def test_a_folder_without_permission(
        self, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _deny(monkeypatch, shards / "deep")
        reader = open_input(shards)
        records = list(reader.records())
        assert [r.id for r in records] == ["deep", "x9a", "x9b", "x9c", "x10a", "x10b"]
        assert "Permission denied" in records[0].issues[0].detail
        assert shards / "deep" not in reader.files
        assert reader.record(records[0].origin) == records[0]
        out = split(reader, tmp_path / "out", lambda _: "kept")
        assert sorted(tree(out["kept"])) == ["part-10.jsonl", "part-9.jsonl"]
        _deny(monkeypatch, shards)
        with pytest.raises(InputError, match="check its permissions"):
            open_input(shards)


def _deny(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """As if ``path`` could not be read; the tests may run as root, who can read everything."""

    def denying(real: Any) -> Any:
        def opened(where: Any, *args: Any, **more: Any) -> Any:
            if isinstance(where, str | Path) and Path(where) == path:
                raise PermissionError(13, "Permission denied", str(where))
            return real(where, *args, **more)

        return opened

    for place, name in ((os, "scandir"), (Path, "open"), (io, "FileIO")):
        monkeypatch.setattr(place, name, denying(getattr(place, name)))


PERMISSIONS = """
import os, sys, tempfile
from pathlib import Path
import pyarrow.parquet
import vlitqc.formats.folder, vlitqc.formats.image_folder, vlitqc.formats.llama_factory
from vlitqc.errors import InputError
from vlitqc.formats import open_input

home = Path(sys.argv[1])
try:
    open_input(home)
except InputError:
    pass
os.chdir("/")
if os.getuid() == 0:
    os.setuid(65534)

def read(given):
    try:
        reader = open_input(given)
        records = list(reader.records())
    except InputError as error:
        return "error " + str(error).rpartition("(")[2]
    with tempfile.TemporaryDirectory() as out:
        reader.divide([(r.origin, "kept") for r in records], {"kept": Path(out) / "kept"})
    return [type(r).__name__ for r in records]

print(read(home))
print(read(home / "b.jsonl"))
print(read(home / "shut"))
print(read(home / "deaf"))
print(read(home / "deaf" / "e.jsonl"))
print(read(str(home / "*" / "*.jsonl")))
print(read([home / "a.jsonl", home / "shut"]))
"""


def test_permissions_that_are_really_missing() -> None:
    """In a process that is not root's: a file, a folder that cannot be listed, and one that cannot be searched."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        for file in ("a.jsonl", "b.jsonl", "shut/d.jsonl", "deaf/e.jsonl", "open/c.jsonl"):
            write(home / file, file)
        for file, mode in (("b.jsonl", 0), ("shut", 0), ("deaf", 0o444)):
            (home / file).chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", PERMISSIONS, name], capture_output=True, text=True, check=False
        )
        for file in ("shut", "deaf"):
            (home / file).chmod(0o755)
    assert done.stderr == ""
    denied = "error Permission denied); check its permissions"
    assert done.stdout.splitlines() == [
        "['Sample', 'Unreadable', 'Unreadable', 'Sample', 'Unreadable']",
        denied,
        denied,
        "['Unreadable']",
        denied,
        "['Unreadable', 'Sample']",
        "['Sample', 'Unreadable']",
    ]


class TestWhatIsGiven:
    @pytest.fixture
    def listed(self, tmp_path: Path) -> Path:
        """LLaMA-Factory's catalogue of a file beside it and a folder, and a file that it does not list."""
        root = tmp_path / "listed"
        columns = {"prompt": "q", "response": "a", "images": "im"}
        entries = {"a": {"file_name": "a.json", "columns": columns}, "c": {"file_name": "c"}}
        write(root / "c" / "1.jsonl", "c1")
        write(root / "unlisted.jsonl", "u")
        (root / "a.json").write_text(json.dumps([{"id": f"a{n}", "q": "x", "a": "y"} for n in range(2)]))
        (root / "dataset_info.json").write_text(json.dumps(entries))
        return root

    @pytest.mark.parametrize(
        ("given", "found"),
        [
            (["*.json*"], ["a0", "a1", "c1", "u"]),
            (["dataset_info.json", "c/1.jsonl"], ["a0", "a1", "c1"]),
            (["c/1.jsonl", "dataset_info.json"], ["c1", "a0", "a1"]),
            (["unlisted.jsonl", "."], ["u", "a0", "a1", "c1"]),
        ],
    )
    def test_a_catalogue_is_the_files_that_it_lists(
        self, listed: Path, tmp_path: Path, given: list[str], found: list[str]
    ) -> None:
        reader = open_input([listed / name for name in given])
        assert ids(reader) == found
        assert reader.path == listed
        out = split(reader, tmp_path / "out", lambda o: "kept")
        assert [r["id"] for r in json.loads((out["kept"] / "a.json").read_text())] == ["a0", "a1"]
        assert (out["dropped"] / "dataset_info.json").exists()

    def test_a_catalogue_that_lists_itself(self, listed: Path) -> None:
        entries = {"me": {"file_name": "dataset_info.json"}, "a": {"file_name": "unlisted.jsonl"}}
        (listed / "dataset_info.json").write_text(json.dumps(entries))
        assert ids(open_input(listed)) == ["u"]

    def test_a_pattern_meets_no_settings(self, shards: Path) -> None:
        (shards / "state.json").write_text('{"_data_files": [{"filename": "x"}]}')
        assert ids(open_input(shards / "*.json*")) == ["x9a", "x9b", "x9c", "x10a", "x10b"]
        assert ids(open_input(shards / "*.json*", "jsonl")) == ["x9a", "x9b", "x9c", "x10a", "x10b"]

    def test_a_loop_of_links_is_told(self, shards: Path) -> None:
        (shards / "loop.jsonl").symlink_to("loop.jsonl")
        for given in (shards / "loop.jsonl", shards):
            with pytest.raises(InputError, match=r"loop\.jsonl is a loop of links"):
                told = [r.issues[0].detail for r in open_input(given).records() if r.issues]
                raise InputError(told[0])

    def test_one_file_stays_its_own_reader(self, shards: Path) -> None:
        for given in (shards / "part-9.jsonl", [str(shards / "part-9.jsonl")], str(shards / "part-9*")):
            reader = open_input(given)
            assert reader.name == "jsonl"
            assert reader.path == shards / "part-9.jsonl"

    def test_a_pattern(self, shards: Path) -> None:
        reader = open_input(f"{shards}/**/*.json*")
        assert ids(reader)[:2] == ["l1", "l2"]
        assert ids(open_input(f"{shards}/*.jsonl")) == ["x9a", "x9b", "x9c", "x10a", "x10b"]
        assert open_input(f"{shards}/*.jsonl").path == shards
        assert ids(open_input(str(shards / "**.jsonl"))) == ["x9a", "x9b", "x9c", "x10a", "x10b"]
        assert ids(open_input(f"{shards}/part-[0-8]*.jsonl")) == ["x10a", "x10b"]

    def test_a_pattern_of_everything_means_the_data(self, shards: Path) -> None:
        (shards / "package.json").unlink()
        assert ids(open_input(f"{shards}/*")) == ["x9a", "x9b", "x9c", "x10a", "x10b"]

    def test_a_pattern_of_an_ending_means_that_ending(self, tmp_path: Path) -> None:
        write(tmp_path / "a.txt", "a")
        write(tmp_path / "b.txt", "b")
        assert ids(open_input(f"{tmp_path}/*.txt")) == ["a", "b"]

    def test_a_name_with_marks_of_a_pattern_is_a_file_first(self, tmp_path: Path) -> None:
        write(tmp_path / "a[1].jsonl", "brackets")
        write(tmp_path / "a1.jsonl", "no brackets")
        assert ids(open_input(tmp_path / "a[1].jsonl")) == ["brackets"]
        write(tmp_path / "*.jsonl", "star")
        assert ids(open_input(f"{tmp_path}/*.jsonl")) == ["star"]

    def test_a_pattern_without_a_match(self, shards: Path) -> None:
        with pytest.raises(InputError, match=r"no file matches .*\*\.parquet.* check the pattern"):
            open_input(f"{shards}/*.parquet")

    def test_several_in_the_given_order_and_each_file_once(self, shards: Path) -> None:
        (shards / "link.jsonl").symlink_to(shards / "part-9.jsonl")
        os.link(shards / "part-10.jsonl", shards / "hard.jsonl")
        given = [shards / "part-10.jsonl", shards / "link.jsonl", shards, shards / "part-10.jsonl"]
        reader = open_input(given)
        assert ids(reader) == ["x10a", "x10b", "x9a", "x9b", "x9c", "l1", "l2"]
        assert reader.path == shards

    def test_several_have_the_folder_that_holds_all(self, tmp_path: Path) -> None:
        a, b = write(tmp_path / "one/x/a.jsonl", "a"), write(tmp_path / "one/y/a.jsonl", "b")
        reader = open_input([a, b])
        assert reader.path == tmp_path / "one"
        out = split(reader, tmp_path / "out", lambda _: "kept")
        assert tree(out["kept"]) == {"x/a.jsonl": a.read_bytes(), "y/a.jsonl": b.read_bytes()}

    def test_relative_paths(self, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(shards)
        reader = open_input(".")
        assert reader.path == shards
        assert len(ids(open_input(["part-9.jsonl", "./deep"]))) == 5
        assert len(ids(open_input("**/*.jsonl"))) == 5

    def test_a_missing_path_among_several_is_told(self, shards: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere\.jsonl does not exist"):
            open_input([shards / "part-9.jsonl", shards / "nowhere.jsonl"])
        for odd in ("a" * 5000, "a\0b"):
            with pytest.raises(InputError):
                open_input(odd)
        with pytest.raises(UsageError, match="no input was given"):
            open_input([])

    def test_a_folder_without_data_among_several_is_told(self, shards: Path) -> None:
        reader = open_input([shards / "part-9.jsonl", shards / "pictures"])
        assert len(ids(reader)) == 3
        assert "pictures" in reader.notes[0]

    def test_the_format_of_every_file(self, shards: Path) -> None:
        reader = open_input(shards, "jsonl")
        records = list(reader.records())
        assert reader.name == "jsonl"
        assert [r.id for r in records if isinstance(r, Sample)] == ["x9a", "x9b", "x9c", "x10a", "x10b"]
        assert "is not jsonl" in records[0].issues[0].detail
        assert len(ids(open_input([shards / "part-9.jsonl", shards / "deep"], "folder"))) == 5
        assert len(ids(open_input(shards, open_input(shards).name))) == 7
        with pytest.raises(FormatError, match="is not saved_dataset"):
            open_input(shards, "saved_dataset")
        with pytest.raises(UnknownName):
            open_input(shards, "jsonx")

    def test_names_reach_every_file(self, tmp_path: Path) -> None:
        for n in range(2):
            (tmp_path / f"{n}.json").write_text(json.dumps({"q": f"What {n}?", "a": "That."}))
        reader = open_input(tmp_path, names=Names({"instruction": "q", "response": "a"}))
        turns = [r.turns[0].instruction for r in reader.records() if isinstance(r, Sample)]
        assert turns == ["What 0?", "What 1?"]


class TestFolder:
    def test_a_loop_of_links_ends_and_each_folder_is_read_once(self, shards: Path) -> None:
        (shards / "deep" / "up").symlink_to(shards)
        (shards / "again").symlink_to(shards / "deep")
        (shards / "self.jsonl").symlink_to(shards / "self.jsonl")
        reader = open_input(shards)
        records = list(reader.records())
        assert [r.id for r in records if isinstance(r, Sample)].count("l1") == 1
        assert sum(isinstance(r, Sample) for r in records) == 7
        (bad,) = (r for r in records if isinstance(r, Unreadable))
        assert bad.origin.file == str(shards / "self.jsonl")
        found = open_input(f"{shards}/**/*.jsonl").records()
        assert sum(isinstance(r, Sample) for r in found) == 5

    def test_links_that_leave_the_folder(self, shards: Path, tmp_path: Path) -> None:
        elsewhere = write(tmp_path / "elsewhere" / "e.jsonl", "e1")
        (shards / "linked.jsonl").symlink_to(elsewhere)
        (shards / "outside").symlink_to(elsewhere.parent)
        reader = open_input(shards)
        assert ids(reader).count("e1") == 1
        assert reader.others["links to other folders"] == 1

    def test_a_broken_link_is_an_unreadable_file(self, shards: Path) -> None:
        (shards / "gone.jsonl").symlink_to(shards / "nowhere")
        reader = open_input(shards)
        (bad,) = (r for r in reader.records() if isinstance(r, Unreadable))
        assert bad.issues[0].kind == "unreadable_file"
        # Nothing that could be opened to see later whether it is still the same.
        assert shards / "gone.jsonl" not in reader.files

    def test_a_pipe_is_not_waited_for(self, shards: Path) -> None:
        for name in ("pipe.json", "pipe.jsonl", "dataset_info.json", "metadata.jsonl"):
            os.mkfifo(shards / name)
        reader = open_input(shards)
        assert len(ids(reader)) == 7
        assert reader.others["devices and pipes"] == 4
        (bad,) = (
            r for r in open_input([shards, shards / "pipe.json"]).records() if isinstance(r, Unreadable)
        )
        assert "device or a pipe" in bad.issues[0].detail

    def test_our_own_outputs_are_left_out(self, shards: Path) -> None:
        for fate in ("kept", "dropped"):
            write(shards / f"part-9.{fate}.jsonl", "copy")
            write(shards / f"deep.{fate}" / "a.jsonl", "copy")
        write(shards / "run.vlitqc" / "input.jsonl", "run")
        table = pa.table({"kept": [True]})
        pq.write_table(table, shards / "part-9.decisions.parquet")
        # Without our mark these are somebody else's files.
        assert "copy" in ids(open_input(shards))
        for stem in ("part-9", "deep"):
            marked = table.replace_schema_metadata({folder.AUDITED: b"x"})
            pq.write_table(marked, shards / f"{stem}.decisions.parquet")
        reader = open_input(shards)
        assert ids(reader) == ["l1", "l2", "x9a", "x9b", "x9c", "x10a", "x10b"]
        assert reader.others["vlitqc's own"] == 7

    def test_runs_elsewhere_are_known_by_what_they_hold(self, shards: Path) -> None:
        run = shards / "runs" / "first"
        write(run / "input.jsonl", "run")
        pq.write_table(pa.table({"id": ["run"], "caption": ["x"]}), run / "issues.parquet")
        (run / "run.json").write_text('{"plan": {}}')
        assert "run" in ids(open_input(shards)), "somebody else's run.json"
        (run / "run.json").write_text('{"plan": {}, "input": {}}')
        reader = open_input(shards)
        assert ids(reader) == ["l1", "l2", "x9a", "x9b", "x9c", "x10a", "x10b"]
        assert reader.others["vlitqc's own"] == 1
        with pytest.raises(InputError, match="is a run of vlitqc and no data"):
            open_input(run)

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        (tmp_path / "notes.md").write_text("words")
        (tmp_path / "b.md").write_text("words")
        with pytest.raises(InputError, match=r"holds no data file; found \.md 2; data files end in"):
            open_input(tmp_path)
        write(tmp_path / "x.vlitqc" / "input.jsonl", "a")
        with pytest.raises(InputError, match="is a run of vlitqc and no data"):
            open_input(tmp_path / "x.vlitqc")
        (tmp_path / "none").mkdir()
        with pytest.raises(InputError, match="nothing at all"):
            open_input(tmp_path / "none")

    @pytest.mark.parametrize(
        ("name", "content", "is_data"),
        [
            ("state.json", {"steps": [{"loss": 1}]}, False),
            ("other.json", {"version": 1, "license": "MIT"}, False),
            ("model.safetensors.index.json", {"weight_map": {"a": "b"}}, False),
            ("1.json", {"instruction": "What?", "output": "That."}, True),
            ("2.json", {"annotations": [{"instruction": "What?", "output": "That."}]}, True),
            ("3.json", [{"instruction": "What?", "output": "That."}], True),
        ],
    )
    def test_settings_are_no_data(self, shards: Path, name: str, content: Any, is_data: bool) -> None:
        (shards / name).write_text(json.dumps(content, indent=1))
        reader = open_input(shards)
        assert (shards / name in reader.files) == is_data
        assert reader.others["settings"] == (1 if is_data else 2)

    def test_one_pair_of_mimic_it(self, tmp_path: Path) -> None:
        pair = {"data": {"LA_INS_0": {"instruction": "What?", "answer": "That.", "image_ids": ["I0"]}}}
        (tmp_path / "LA_instructions.json").write_text(json.dumps({"meta": {"version": "1"}} | pair))
        (tmp_path / "LA.json").write_text(json.dumps({"I0": "aGVsbG8="}))
        write(tmp_path / "more.jsonl", "m")
        for given in (
            tmp_path,
            [tmp_path / "LA.json", tmp_path / "LA_instructions.json", tmp_path / "more.jsonl"],
        ):
            reader = open_input(given)
            records = list(reader.records())
            assert len(records) == 2
            assert [type(r) for r in records] == [Sample, Sample]
            assert {f.name for f in reader.files} == {"LA.json", "LA_instructions.json", "more.jsonl"}
        out = split(reader, tmp_path / "out", lambda o: "kept" if "LA" in o.file else "dropped")
        assert "more.jsonl" not in tree(out["kept"])
        assert list(tree(out["dropped"])) == ["more.jsonl"]


# ---------------------------------------------------------------- image folders


@pytest.fixture
def pictures(tmp_path: Path, picture: Any) -> Path:
    """``metadata.jsonl`` in two splits, a picture that no line lists, and a line whose picture is missing."""
    root = tmp_path / "pictures"
    for split_name, names in (("train", ("1", "2", "spare")), ("test", ("3",))):
        (root / split_name).mkdir(parents=True)
        for n, name in enumerate(names):
            (root / split_name / f"{name}.png").write_bytes(picture(n))
    lines = [
        {"file_name": "1.png", "text": "one"},
        {"file_name": "2.png", "text": "two"},
        {"file_name": "no.png", "text": "none"},
    ]
    _lines(root / "train" / "metadata.jsonl", lines)
    _lines(root / "test" / "metadata.jsonl", [{"file_name": "3.png", "text": "three"}])
    (root / "README.md").write_text("# Pictures")
    return root


def _lines(path: Path, records: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


class TestImageFolder:
    def test_lines_are_records_and_pictures_relative_to_the_folder(self, pictures: Path) -> None:
        reader = open_input(pictures)
        assert reader.name == "imagefolder"
        records = [r for r in reader.records() if isinstance(r, Sample)]
        assert [(r.images[0].reference, r.turns[0].response) for r in records] == [
            ("test/3.png", "three"),
            ("train/1.png", "one"),
            ("train/2.png", "two"),
            ("train/no.png", "none"),
        ]
        assert all(reader.record(r.origin) == r for r in records)
        assert reader.others == {".md": 1, "pictures that no line lists": 1}

    def test_lines_come_back_byte_for_byte(self, pictures: Path, tmp_path: Path) -> None:
        out = split(open_input(pictures), tmp_path / "out")
        train = (pictures / "train/metadata.jsonl").read_bytes().splitlines(keepends=True)
        assert tree(out["kept"]) == {
            "test/metadata.jsonl": (pictures / "test/metadata.jsonl").read_bytes(),
            "train/metadata.jsonl": train[1],
        }
        assert tree(out["dropped"]) == {"train/metadata.jsonl": train[0] + train[2]}

    def test_the_same_as_the_datasets_library(self, pictures: Path, tmp_path: Path) -> None:
        import datasets

        path = pictures / "train/metadata.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
        theirs = datasets.load_dataset(
            "imagefolder", data_dir=str(pictures), cache_dir=str(tmp_path / "cache")
        )
        ours = Counter(r.turns[0].response for r in open_input(pictures).records() if isinstance(r, Sample))
        assert ours == Counter(text for part in theirs.values() for text in part["text"])

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_other_tables_of_metadata(self, tmp_path: Path, picture: Any, kind: str) -> None:
        (tmp_path / "1.png").write_bytes(picture(1))
        columns = {"file_name": ["1.png", "2.png"], "text": ["one", "two"]}
        if kind == "parquet":
            pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
        else:
            (tmp_path / "metadata.csv").write_text("file_name,text\n1.png,one\n2.png,two\n")
        reader = open_input(tmp_path)
        assert reader.name == "imagefolder"
        assert [r.images[0].reference for r in reader.records() if isinstance(r, Sample)] == [
            "1.png",
            "2.png",
        ]

    def test_further_columns_of_pictures(self, tmp_path: Path, picture: Any) -> None:
        (tmp_path / "a").mkdir()
        for n in range(3):
            (tmp_path / "a" / f"{n}.png").write_bytes(picture(n))
        line = {"before_file_name": "0.png", "after_file_names": ["1.png", "2.png"], "text": "changed"}
        _lines(tmp_path / "a" / "metadata.jsonl", [line])
        (record,) = open_input(tmp_path).records()
        assert isinstance(record, Sample)
        assert [m.reference for m in record.images] == ["a/0.png", "a/1.png", "a/2.png"]
        assert not record.meta

    def test_beside_other_data_the_folder_is_a_plain_one(self, pictures: Path) -> None:
        write(pictures / "more.jsonl", "m")
        reader = open_input(pictures)
        assert reader.name == "folder"
        references = [r.images[0].reference for r in reader.records() if isinstance(r, Sample) and r.images]
        assert references == ["test/3.png", "train/1.png", "train/2.png", "train/no.png"]

    def test_two_image_folders_have_references_below_the_common_one(self, pictures: Path) -> None:
        reader = open_input([pictures / "train", pictures / "test"])
        references = [r.images[0].reference for r in reader.records() if isinstance(r, Sample)]
        assert references == ["train/1.png", "train/2.png", "train/no.png", "test/3.png"]

    def test_a_metadata_file_of_something_else(self, tmp_path: Path) -> None:
        write(tmp_path / "metadata.jsonl", "a")
        assert open_input(tmp_path).name == "folder"

    def test_class_folders(self, tmp_path: Path, picture: Any) -> None:
        root = tmp_path / "animals"
        for n, name in enumerate(
            ("train/cat/10.png", "train/cat/9.png", "train/dog/1.png", "test/dog/2.png")
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(picture(n))
        (root / "train" / "dog" / "cut.png").write_bytes(b"")
        (root / "loose.png").write_bytes(picture(9))
        reader = pickle.loads(pickle.dumps(open_input(root)))
        records = list(reader.records())
        assert [
            (r.id, r.turns[0].response, r.images[0].reference) for r in records if isinstance(r, Sample)
        ] == [
            ("test/dog/2.png", "dog", "test/dog/2.png"),
            ("train/cat/9.png", "cat", "train/cat/9.png"),
            ("train/cat/10.png", "cat", "train/cat/10.png"),
            ("train/dog/1.png", "dog", "train/dog/1.png"),
            ("train/dog/cut.png", "dog", "train/dog/cut.png"),
        ]
        assert not any(r.issues for r in records if isinstance(r, Sample))
        (loose,) = (r for r in records if isinstance(r, Unreadable))
        assert "no folder named after its class" in loose.issues[0].detail
        assert all(reader.record(r.origin) == r for r in records)
        assert reader.others == {}
        shares = [reader.share(r.origin) for r in records]
        assert shares == sorted(shares)
        assert shares[-1] == 1
        out = split(reader, tmp_path / "out", lambda o: "kept" if "cat" in o.file else "dropped")
        told = [json.loads(line) for line in (out["kept"] / "metadata.jsonl").read_text().splitlines()]
        assert told == [
            {"file_name": "train/cat/9.png", "text": "cat"},
            {"file_name": "train/cat/10.png", "text": "cat"},
        ]
        again = [r.turns[0].response for r in open_input(out["dropped"]).records() if isinstance(r, Sample)]
        assert again == ["dog", "dog", "dog"]
        (root / "train/cat/9.png").write_bytes(picture(30))
        with pytest.raises(InputError, match=r"9\.png has changed"):
            reader.divide([(r.origin, "kept") for r in records], out)

    @pytest.mark.parametrize(
        "names",
        [["1.png", "2.png"], ["train/1.png", "test/2.png"], ["images/1.png"], ["a/b/1.png", "c/2.png"]],
    )
    def test_pictures_without_any_text(self, tmp_path: Path, picture: Any, names: list[str]) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_bytes(picture(1))
        (tmp_path / "captions.txt").write_text("1.png a cat")
        with pytest.raises(
            FormatError, match=r"expected a metadata\.jsonl.*if captions\.txt holds the texts"
        ):
            open_input(tmp_path)

    @pytest.mark.parametrize("settings", ["classes.json", "train/config.json"])
    def test_class_folders_beside_settings(self, tmp_path: Path, picture: Any, settings: str) -> None:
        for name in ("train/cat/1.png", "train/dog/2.png"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_bytes(picture(1))
        (tmp_path / settings).write_text('{"0": "cat", "1": "dog"}')
        reader = open_input(tmp_path)
        assert reader.name == "imagefolder"
        assert [r.turns[0].response for r in reader.records() if isinstance(r, Sample)] == ["cat", "dog"]
        assert reader.others == {"settings": 1}

    def test_a_folder_is_walked_once_to_detect_and_once_to_open(
        self, tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("cat/1.png", "dog/2.png"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_bytes(picture(1))
        scanned: list[str] = []
        scandir = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: scanned.append(str(path)) or scandir(path))
        assert len(list(open_input(tmp_path).records())) == 2
        assert sorted(scanned) == sorted([str(tmp_path), f"{tmp_path}/cat", f"{tmp_path}/dog"] * 2)

    def test_pictures_beside_records_are_theirs(self, tmp_path: Path, picture: Any) -> None:
        for name in ("images/cat/1.png", "images/dog/2.png"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_bytes(picture(1))
        data = write(tmp_path / "data.jsonl", "a")
        assert ids(open_input(tmp_path)) == ["a"]
        reader = open_input([data, tmp_path / "images"])
        assert ids(reader) == ["a"]
        assert "holds pictures only" in reader.notes[0]


# ---------------------------------------------------------------- save_to_disk


class TestSavedDataset:
    @pytest.fixture
    def saved(self, tmp_path: Path, picture: Any) -> Path:
        import datasets

        rows = {
            "id": [f"s{n}" for n in range(5)],
            "image": [{"bytes": picture(n), "path": f"{n}.png"} for n in range(5)],
            "text": [f"a picture {n}" for n in range(5)],
        }
        features = datasets.Features(
            {"id": datasets.Value("string"), "image": datasets.Image(), "text": datasets.Value("string")}
        )
        train = datasets.Dataset.from_dict(rows, features=features)
        path = tmp_path / "saved"
        datasets.DatasetDict({"train": train, "test": train.select(range(2))}).save_to_disk(
            path, num_shards={"train": 2, "test": 1}
        )
        return path

    def test_records(self, saved: Path, picture: Any) -> None:
        (saved / "train" / "cache-0123.arrow").write_bytes(b"")
        reader = open_input(saved)
        assert reader.name == "saved_dataset"
        records = [r for r in reader.records() if isinstance(r, Sample)]
        assert [r.id for r in records] == [*(f"s{n}" for n in range(5)), "s0", "s1"]
        assert [r.images[0].data for r in records[:5]] == [picture(n) for n in range(5)]
        assert [f.name for f in reader.files] == [
            "data-00000-of-00002.arrow", "data-00001-of-00002.arrow", "data-00000-of-00001.arrow",
        ]  # fmt: skip
        assert reader.others == {".arrow": 1}
        assert all(reader.record(r.origin) == r for r in records)

    def test_the_datasets_library_loads_what_is_written(self, saved: Path, tmp_path: Path) -> None:
        import datasets

        out = split(
            open_input(saved), tmp_path / "out", lambda o: "kept" if o.row in (0, 4, 6) else "dropped"
        )
        before = datasets.load_from_disk(saved)
        kept, dropped = (datasets.load_from_disk(path) for path in out.values())
        assert kept["train"]["id"][:] == ["s0", "s4"]
        assert kept["test"]["id"][:] == ["s1"]
        assert dropped["train"]["id"][:] == ["s1", "s2", "s3"]
        assert kept["train"].features == before["train"].features
        raw = {
            name: part["train"].cast_column("image", datasets.Image(decode=False))
            for name, part in (("b", before), ("k", kept))
        }
        assert [raw["b"][n]["image"] for n in (0, 4)] == [row["image"] for row in raw["k"]]

    def test_a_target_without_a_record_still_loads(self, saved: Path, tmp_path: Path) -> None:
        import datasets

        out = split(open_input(saved), tmp_path / "out", lambda _: "kept")
        assert datasets.load_from_disk(out["dropped"]).num_rows == {"train": 0, "test": 0}
        assert datasets.load_from_disk(out["kept"]).num_rows == {"train": 5, "test": 2}

    def test_one_split(self, saved: Path) -> None:
        assert ids(open_input(saved / "test")) == ["s0", "s1"]
        assert open_input(saved / "test").name == "saved_dataset"

    def test_a_missing_file_is_an_unreadable_one(self, saved: Path) -> None:
        (saved / "train" / "data-00000-of-00002.arrow").unlink()
        records = list(open_input(saved).records())
        assert [type(r).__name__ for r in records] == ["Unreadable"] + ["Sample"] * 4

    @pytest.mark.parametrize("name", ["../../secret.arrow", "/etc/passwd", "", None])
    def test_no_listed_file_lies_outside(self, tmp_path: Path, name: Any) -> None:
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(FormatError, match="no name of a file in it"):
            open_input(tmp_path / "s")

    def test_within_a_folder_of_other_data(self, saved: Path) -> None:
        write(saved.parent / "more.jsonl", "m")
        reader = open_input(saved.parent)
        assert reader.name == "folder"
        assert ids(reader) == ["m", "s0", "s1", *(f"s{n}" for n in range(5))]
        assert "settings" not in reader.others


def test_an_origin_of_another_input_is_told(shards: Path) -> None:
    with pytest.raises(InputError, match="is no file of"):
        open_input(shards).record(Origin("/elsewhere/a.jsonl", 0, 1, 0, 1, ""))
