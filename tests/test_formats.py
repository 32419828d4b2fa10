"""Splitting files into records, reading conversations from them, and writing them back byte for byte."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlitqc.errors import FormatError, InputError, UnknownName, UsageError
from vlitqc.formats import Reader, json_records, open_input
from vlitqc.formats.conversation import read_conversation
from vlitqc.formats.names import Names
from vlitqc.formats.streams import Stream
from vlitqc.types import Issue, Origin, Record, Sample, Turn, Unreadable

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared data here")


def pair(n: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": f"r{n}", "instruction": "What?", "output": f"é {n}", **more}


def opened(path: Path, content: str | bytes, format: str | None = None) -> Reader:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return open_input(path, format)


def read(path: Path, content: str | bytes) -> list[Record]:
    return list(opened(path, content).records())


def raw_of(origin: Origin) -> bytes:
    """The bytes that a record's origin names, in a file without layers."""
    with Path(origin.file).open("rb") as file:
        file.seek(origin.start)
        return file.read(origin.end - origin.start)


def write(reader: Reader, target: Path, records: Iterable[Record] | None = None) -> None:
    """All records, or these, to one output."""
    records = reader.records() if records is None else records
    reader.divide(((record.origin, "out") for record in records), {"out": target})


def ids(records: Iterable[Record]) -> list[str | None]:
    """Their ids, None for those that cannot be read."""
    return [record.id if isinstance(record, Sample) else None for record in records]


def sample(**fields: Any) -> Sample:
    record = conversation(**fields)
    assert isinstance(record, Sample), record
    return record


def conversation(**fields: Any) -> Record:
    return read_conversation(fields, Origin("folder/file.json", 7, 3, 0, 1, ""))


def kinds(record: Record) -> list[tuple[str, str]]:
    return [(issue.kind, issue.severity) for issue in record.issues]


# ---------------------------------------------------------------- detection


class TestDetection:
    @pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt", "a"])
    @pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
    def test_content_decides_and_not_the_name(self, tmp_path: Path, name: str, bom: bytes) -> None:
        records = [pair(0), pair(1)]
        as_list = opened(tmp_path / name, bom + json.dumps(records).encode())
        assert (as_list.name, ids(as_list.records())) == ("json", ["r0", "r1"])
        as_lines = opened(tmp_path / name, bom + "\n".join(map(json.dumps, records)).encode())
        assert (as_lines.name, ids(as_lines.records())) == ("jsonl", ["r0", "r1"])
        assert as_lines.suffix == (Path(name).suffix or ".jsonl")
        assert as_lines.path == tmp_path / name

    def test_broken_first_lines_do_not_hide_the_format(self, tmp_path: Path) -> None:
        records = read(tmp_path / "a.jsonl", f'"id": 1}}\n{json.dumps(pair())}\n')
        assert ids(records) == [None, "r0"]

    @pytest.mark.parametrize(
        "line",
        ["[broken line about dogs", "[[1, 2", '["a", "b"]', "[]", "[1, 2]", '[{"id": "a"}]', "[x] {", "["],
    )
    def test_a_first_line_with_a_bracket_does_not_make_a_list(self, tmp_path: Path, line: str) -> None:
        reader = opened(tmp_path / "a", "\n".join([line, *(json.dumps(pair(n)) for n in range(20))]))
        records = list(reader.records())
        if line == "[":  # this one is a list that lost its end
            assert (reader.name, ids(records)) == ("json", [f"r{n}" for n in range(20)])
            assert kinds(records[-1]) == [("list_cut_short", "warning")]
            return
        assert (reader.name, ids(records)) == ("jsonl", [None] + [f"r{n}" for n in range(20)])
        assert raw_of(records[0].origin) == line.encode()

    @pytest.mark.parametrize("opening", ["[", "[ ", "[\n", "[\n\n  "])
    @pytest.mark.parametrize("between", [",\n", "\n,", ", "])
    def test_a_list_with_a_record_a_line_stays_one(self, tmp_path: Path, opening: str, between: str) -> None:
        for values in ([pair(0), pair(1)], [pair(0)], []):
            content = opening + between.join(map(json.dumps, values)) + "\n]\n"
            reader = opened(tmp_path / "a", content)
            assert (reader.name, ids(reader.records())) == ("json", [v["id"] for v in values])
        reader = opened(tmp_path / "a", "[\n[1],\n" + json.dumps(pair()) + "\n]")
        assert (reader.name, ids(reader.records())) == ("json", [None, "r0"])

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "is empty"),
            (b" \n\t ", "is empty"),
            (b"\x00\x01\x02", "binary data"),
            (b"some words\nand more\n", "text that begins with 'some words and more'"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            (b"\x1f\x8b\x08\x00", "is damaged: the gzip data is cut short at byte 4"),
            ("[]".encode("utf-32"), "iconv"),
            (b"\xfd7zXZ\0.", "unxz"),
            (json.dumps({"info": {"a": 1}, "annotations": [{"id": 1}, {"id": 2}]}).encode(), "'annotations'"),
            (json.dumps({"a": {"b": "c"}}, indent=1).encode(), "is one JSON object"),
            (b"[broken line about dogs\n", "text that begins with '.broken line about dogs'"),
        ],
    )
    def test_files_that_hold_no_records(self, tmp_path: Path, content: bytes, words: str) -> None:
        with pytest.raises(InputError, match=words):
            opened(tmp_path / "a", content)

    def test_paths_that_are_no_files(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            open_input(tmp_path / "none.json")
        with pytest.raises(InputError, match="holds no data file"):
            open_input(tmp_path)
        with pytest.raises(InputError, match="device or a pipe"):
            open_input(Path("/dev/null"))

    def test_the_format_may_be_named(self, tmp_path: Path) -> None:
        assert opened(tmp_path / "a", "[]", "json").name == "json"
        with pytest.raises(FormatError, match="is not jsonl"):
            open_input(tmp_path / "a", "jsonl")
        with pytest.raises(UnknownName, match="did you mean jsonl"):
            open_input(tmp_path / "a", "jsonll")

    def test_an_empty_list_has_no_records(self, tmp_path: Path) -> None:
        assert read(tmp_path / "a", " [ ] \n") == []


# ---------------------------------------------------------------- splitting


class TestSplitting:
    def test_origins(self, tmp_path: Path) -> None:
        first, second = json.dumps(pair(0)), json.dumps(pair(1, text='}]"\\" [{é'), ensure_ascii=False)
        for content, lines in (
            (f"[\n {first} ,\n\n{second}]\n", (2, 4)),
            (f"[{first},{second}]", (1, 1)),
            (f"\n\n  {first}\r\n   \n{second}", (3, 5)),
        ):
            reader = opened(tmp_path / "a", content)
            records = list(reader.records())
            assert ids(records) == ["r0", "r1"]
            for row, (record, raw) in enumerate(zip(records, (first.encode(), second.encode()), strict=True)):
                origin = record.origin
                assert (origin.row, origin.line, origin.file) == (row, lines[row], str(tmp_path / "a"))
                assert content.encode()[origin.start : origin.end] == raw == raw_of(origin)
                assert origin.sha256 == hashlib.sha256(raw).hexdigest()
                assert reader.record(origin) == record

    def test_a_changed_file_is_noticed(self, tmp_path: Path) -> None:
        reader = opened(tmp_path / "a", json.dumps([pair(0)]))
        (record,) = reader.records()
        (tmp_path / "a").write_text(json.dumps([pair(1)]))
        with pytest.raises(InputError, match="has changed"):
            reader.record(record.origin)
        (tmp_path / "a").unlink()
        with pytest.raises(InputError, match="cannot be read"):
            reader.record(record.origin)

    def test_objects_over_several_lines(self, tmp_path: Path) -> None:
        content = "\n".join(json.dumps(pair(n), indent=2) for n in range(3)) + "\n{}\n"
        reader = opened(tmp_path / "a.jsonl", content)
        records = list(reader.records())
        assert reader.name == "jsonl"
        assert ids(records) == ["r0", "r1", "r2", None]
        assert [record.origin.line for record in records] == [1, 6, 11, 16]

    def test_trailing_and_missing_commas_lose_nothing(self, tmp_path: Path) -> None:
        a, b = json.dumps(pair(0)), json.dumps(pair(1))
        assert ids(read(tmp_path / "a", f"[{a}{b},,]")) == ["r0", "r1"]

    @pytest.mark.parametrize("indent", [None, 0, 1, 4])
    def test_a_list_cut_anywhere_gives_every_whole_record(self, tmp_path: Path, indent: int | None) -> None:
        records = [pair(n, nested=[{"a": [1, {"a": "]"}]}]) for n in range(3)]
        content = json.dumps(records, indent=indent, ensure_ascii=False).encode()
        ends = [r.origin.end for r in read(tmp_path / "a", content)]
        assert len(ends) == 3
        for cut in range(2, len(content) - 1):
            found = read(tmp_path / "a", content[:cut])
            whole = sum(end <= cut for end in ends)
            rest = content[ends[whole - 1] if whole else 1 : cut].strip(b" \n,")
            assert ids(found) == [f"r{n}" for n in range(whole)] + [None] * bool(rest)
            assert all(record.origin.end > record.origin.start for record in found)
            if rest:
                assert kinds(found[-1]) == [("malformed_record", "error")]
                assert "cut short" in found[-1].issues[0].detail
                assert found[-1].origin.end == cut
            elif found:
                (issue,) = found[-1].issues
                assert (issue.kind, issue.severity) == ("list_cut_short", "warning")
                assert issue.detail == "the list is cut short after this record"
                assert (issue.id, issue.row) == (found[-1].id, whole - 1)
            assert not [issue for record in found[:-1] for issue in record.issues]

    @pytest.mark.parametrize("first", ["null", '"x"', "3", "[1]", ""])
    @pytest.mark.parametrize("gap", [",\n", ", "])
    def test_an_odd_first_element_costs_only_itself(self, tmp_path: Path, first: str, gap: str) -> None:
        text = "[" + gap.join([first, json.dumps(pair(0)), json.dumps(pair(1))]) + "\n]"
        reader = opened(tmp_path / "a", text)
        assert reader.name == "json"
        assert ids(reader.records()) == ([None] if first else []) + ["r0", "r1"]

    def test_a_list_cut_after_a_broken_record_tells_both(self, tmp_path: Path) -> None:
        records = read(tmp_path / "a", f'[{json.dumps(pair())},\n{{"id": 1,}},\n')
        assert ids(records) == ["r0", None]
        assert kinds(records[1]) == [("malformed_record", "error"), ("list_cut_short", "warning")]

    @pytest.mark.parametrize(
        "stray",
        [
            "oops",
            "some words, and more",
            'he said "a { brace" twice,\n"and" left',
            "1 2 3",
            "nullable, true",
            '"id": 5, "a": "b"',
        ],
    )
    @pytest.mark.parametrize("chunk", [1, 3, 1 << 18])
    def test_stray_words_are_one_fault(
        self, tmp_path: Path, stray: str, chunk: int, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(json_records, "CHUNK", chunk)
        for before, after in ((",\n", ",\n"), (" ", " ")):
            content = f"[{json.dumps(pair(0))}{before}{stray}{after}{json.dumps(pair(1))}]"
            reader = opened(tmp_path / "a", content)
            records = list(reader.records())
            assert ids(records) == ["r0", None, "r1"]
            assert raw_of(records[1].origin) == stray.encode()
        (first, last) = read(tmp_path / "a", f"[{json.dumps(pair(0))}, {stray}")
        assert ids([first, last]) == ["r0", None]

    @pytest.mark.parametrize("depth", [20, 400, 480])
    @pytest.mark.parametrize("form", ["json", "jsonl"])
    def test_pictures_nested_deeply_cost_only_their_record(
        self, tmp_path: Path, depth: int, form: str
    ) -> None:
        deep = '{"url":[' * depth + '"a.jpg"' + "]}" * depth
        line = json.dumps(pair(1, images=0)).replace('"images": 0', f'"images": {deep}')
        parts = [json.dumps(pair(0)), line, json.dumps(pair(2))]
        content = "\n".join(parts) if form == "jsonl" else f"[{','.join(parts)}]"
        records = read(tmp_path / "a", content)
        assert ids(records) == ["r0", "r1" if depth == 20 else None, "r2"]
        if depth > 20:
            assert kinds(records[1]) == [("malformed_record", "error")]
            assert "nested too deeply" in records[1].issues[0].detail
        assert len(read(tmp_path / "b", line)) == 1  # a lone object is looked at before it is read

    @pytest.mark.parametrize("indent", [None, 1, 4])
    @pytest.mark.parametrize("lost", ['"What?"', '{"a"', "[1", '"a": "]"}', "]}", '"instruction"'])
    def test_one_broken_record_costs_only_itself(self, tmp_path: Path, indent: int | None, lost: str) -> None:
        def text(n: int) -> str:
            return json.dumps(pair(n, nested=[[1, {"a": "]"}]]), indent=indent).replace(
                "\n", "\n" + " " * (indent or 0)
            )

        whole = text(1)
        broken = whole.replace(lost, lost[1:], 1)
        if broken == whole:  # the indented form writes it apart
            broken = whole[:-1].rstrip() if lost == "]}" else whole.replace("[", "", 1)
        pad = "\n" + " " * (indent or 0)
        content = f"[{pad}{text(0)},{pad}{broken},{pad}{text(2)},{pad}{text(3)}\n]\n"
        records = read(tmp_path / "a", content)
        found = ids(records)
        assert found[0] == "r0"
        assert found[-2:] == ["r2", "r3"]
        assert set(found[1:-2]) == {None}
        assert records[-1].origin.line == content[: records[-1].origin.start].count("\n") + 1

    def test_something_after_the_list(self, tmp_path: Path) -> None:
        records = read(tmp_path / "a", f"[{json.dumps(pair())}]\nand {json.dumps(pair(1))}]")
        assert ids(records) == ["r0", None]
        assert "follows the end of the list" in records[1].issues[0].detail

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (b'{"id": 1,}', "in line 2, column 10"),
            (b'{"id": "cut', "not valid JSON: Unterminated string"),
            (b'{"id": "\xff"}', "not valid UTF-8: byte 0xff at byte 8"),
            (b"[1, 2]", "expected an object, got a list of 2; say which is which, such as --map"),
            (b"17", "expected an object, got a number"),
            (b"null", "expected an object, got null"),
            (b"true", "expected an object, got true or false"),
            (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
            (b'{"id": ' + b"1" * 5000 + b"}", "not valid JSON"),
            (b'{"id": 5, "a": 1}', "no conversation found: expected one of conversations,"),
            (b'{"conversations": []}', "'conversations' holds no message"),
        ],
    )
    @pytest.mark.parametrize("form", ["json", "jsonl"])
    def test_malformed_records(self, tmp_path: Path, line: bytes, words: str, form: str) -> None:
        good = [json.dumps(pair(n)).encode() for n in range(2)]
        parts = [good[0], line, good[1]]
        content = b"\n".join(parts) if form == "jsonl" else b"[" + b",\n".join(parts) + b"]"
        if b'"cut' in line and form == "json":
            return  # the string would swallow the comma; lists cut short have their own test
        reader = opened(tmp_path / "a", content)
        assert reader.name == form
        first, broken, last = reader.records()
        assert ids([first, broken, last]) == ["r0", None, "r1"]
        (issue,) = broken.issues
        assert (issue.kind, issue.severity, issue.line, issue.row) == ("malformed_record", "error", 2, 1)
        assert issue.file == str(tmp_path / "a")
        assert words in issue.detail
        assert raw_of(broken.origin) == line

    def test_what_is_tolerated(self, tmp_path: Path) -> None:
        line = '{"id": "a", "id": "b", "score": NaN, "bound": -Infinity, "query": "q", "response": "r"}'
        (record,) = read(tmp_path / "a", line)
        assert record.id == "b"
        assert kinds(record) == [("duplicate_key", "warning")]

    def test_half_a_surrogate_pair_is_replaced_and_told(self, tmp_path: Path) -> None:
        lines = [
            r'{"query": "\ud83d\ude00 \\ud800", "response": "r"}',
            r'{"query": "\ud83d \ude00", "response": "r"}',
        ]
        whole, half = read(tmp_path / "a", "\n".join(lines))
        assert isinstance(whole, Sample) and isinstance(half, Sample)
        assert whole.turns[0].instruction == "\U0001f600 \\ud800"
        assert whole.issues == ()
        assert half.turns[0].instruction == "\ufffd \ufffd"
        assert kinds(half) == [("broken_character", "warning")]

    def test_records_over_the_limit_are_told_and_not_held(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(json_records, "MAX_RECORD_BYTES", 1000)
        monkeypatch.setattr(json_records, "CHUNK", 256)
        big = json.dumps(pair(1, text="x" * 9000))
        content = f"{json.dumps(pair(0))}\n{big}\n{json.dumps(pair(2))}"
        records = read(tmp_path / "a", content)
        assert ids(records) == ["r0", None, "r2"]
        assert "longer than" in records[1].issues[0].detail
        assert records[1].origin.sha256 == hashlib.sha256(big.encode()).hexdigest()
        assert raw_of(records[1].origin) == big.encode()
        nested = json.dumps([pair(0), {"deep": [pair(n) for n in range(200)]}])
        records = read(tmp_path / "b", nested)
        assert ids(records) == ["r0", None]
        assert records[1].origin.end == len(nested)

    @pytest.mark.parametrize("chunk", [1, 2, 7, 64])
    def test_the_size_of_a_chunk_does_not_matter(self, tmp_path: Path, chunk: int, monkeypatch: Any) -> None:
        content = json.dumps([pair(n, text='a\\"}{[]\n é\\') for n in range(5)], indent=1, ensure_ascii=False)
        expected = read(tmp_path / "a", content)
        assert ids(expected) == [f"r{n}" for n in range(5)]
        monkeypatch.setattr(json_records, "CHUNK", chunk)
        assert read(tmp_path / "a", content) == expected
        assert read(tmp_path / "a", content.replace(",\n {", "," + " \n" * 99 + " {")) != expected

    JSON = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )

    @given(
        values=st.lists(JSON, max_size=6),
        indent=st.sampled_from([None, 0, 2]),
        ascii=st.booleans(),
        chunk=st.integers(1, 40),
    )
    @settings(deadline=None, max_examples=150)
    def test_lists_split_and_rejoin(
        self, values: list[Any], indent: int | None, ascii: bool, chunk: int
    ) -> None:
        text = json.dumps(values, indent=indent, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
        plain, json_records.CHUNK = json_records.CHUNK, chunk
        try:
            pieces = list(json_records.Values(io.BytesIO(text), 1 << 20).in_list())
        finally:
            json_records.CHUNK = plain
        assert [piece.fault for piece in pieces] == [""] * len(values)
        # An oracle that knows nothing of brackets: Python's own parser says where each element ends.
        at, decoder, source = 1, json.JSONDecoder(), text.decode("utf-8", "surrogatepass")
        for piece in pieces:
            while source[at] in " \n,":
                at += 1
            _, end = decoder.raw_decode(source, at)
            assert piece.raw == source[at:end].encode("utf-8", "surrogatepass")
            assert piece.raw == text[piece.start : piece.end]
            assert piece.line == source[:at].count("\n") + 1
            at = end

    @given(
        values=st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=6),
        spread=st.booleans(),
        blanks=st.lists(st.sampled_from(["\n", "\n\n", "\r\n", " \n "]), min_size=6, max_size=6),
    )
    @settings(deadline=None, max_examples=100)
    def test_lines_split_and_rejoin(self, values: list[Any], spread: bool, blanks: list[str]) -> None:
        texts = [json.dumps(value, indent=1 if spread else None) for value in values]
        content = "".join(text + blank for text, blank in zip(texts, blanks, strict=False)).encode()
        split = json_records.Values(io.BytesIO(content), 1 << 20).in_stream() if spread else None
        pieces = list(split or json_records._lines(Stream(io.BytesIO(content))))
        assert [piece.raw for piece in pieces] == [text.encode() for text in texts]
        assert all(piece.raw == content[piece.start : piece.end] for piece in pieces)
        assert all(piece.line == content[: piece.start].count(b"\n") + 1 for piece in pieces)

    @given(content=st.binary(max_size=60) | st.text('{}[]",:\\\n a1', max_size=60).map(str.encode))
    @settings(deadline=None, max_examples=300)
    def test_no_bytes_raise_or_repeat(self, content: bytes) -> None:
        for pieces in (
            json_records.Values(io.BytesIO(b"[" + content), 1 << 20).in_list(),
            json_records.Values(io.BytesIO(content), 1 << 20).in_stream(),
        ):
            last = 0
            for piece in pieces:
                assert last <= piece.start <= piece.end
                last = piece.end


class TestScale:
    @pytest.mark.parametrize("form", ["json", "jsonl"])
    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path, form: str) -> None:
        record = json.dumps(pair(0, text="x" * 600), ensure_ascii=False).encode()
        n = 30_000_000 // len(record)
        opening, between = (b"[", b",\n") if form == "json" else (b"", b"\n")
        with (tmp_path / "a").open("wb") as file:
            file.write(opening)
            for _ in range(n - 1):
                file.write(record + between)
            file.write(record + (b"]" if form == "json" else b""))
        reader = open_input(tmp_path / "a")
        assert reader.name == form
        assert isinstance(reader, json_records.JsonRecords)
        tracemalloc.start()
        with reader.content.open() as file:
            assert sum(1 for _ in reader.pieces(file)) == n
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8_000_000
        began = time.process_time()
        assert sum(isinstance(record, Sample) for record in reader.records()) == n
        assert n / (time.process_time() - began) > 2_000  # a guard against quadratic work, not a benchmark


# ---------------------------------------------------------------- writing back


class TestWriting:
    @pytest.mark.parametrize("form", ["json", "jsonl", "spread"])
    def test_records_come_back_byte_for_byte(self, tmp_path: Path, form: str) -> None:
        texts = [
            json.dumps(pair(n), indent=3 if form == "spread" else None).replace(":", " : ") for n in range(3)
        ]
        reader = opened(tmp_path / "a", f"[ {' , '.join(texts)} ]" if form == "json" else "\n".join(texts))
        write(reader, tmp_path / "new" / "out")
        expected = "[" + ",\n".join(texts) + "]" if form == "json" else "".join(f"{text}\n" for text in texts)
        assert (tmp_path / "new" / "out").read_text() == expected
        again = open_input(tmp_path / "new" / "out")
        assert again.name == reader.name
        assert [raw_of(r.origin) for r in again.records()] == [text.encode() for text in texts]
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]

    def test_nothing_written_is_still_a_list(self, tmp_path: Path) -> None:
        reader = opened(tmp_path / "a", json.dumps([pair()]))
        write(reader, tmp_path / "out", [])
        assert (tmp_path / "out").read_text() == "[]"

    def test_a_failure_leaves_what_was_there(self, tmp_path: Path) -> None:
        reader = opened(tmp_path / "a", json.dumps([pair()]))
        records = list(reader.records())
        (tmp_path / "out").write_text("old")

        def places() -> Iterator[tuple[Origin, str]]:
            yield records[0].origin, "out"
            assert not (tmp_path / "new").exists()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            reader.divide(places(), {"out": tmp_path / "out", "new": tmp_path / "new"})
        assert (tmp_path / "out").read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]

    def test_each_record_goes_where_it_is_sent(self, tmp_path: Path) -> None:
        lines = [json.dumps(pair(n)) for n in range(5)]
        reader = opened(tmp_path / "a", "\n".join(lines))
        places = [(r.origin, "odd" if r.origin.row % 2 else "even") for r in reader.records()]
        reader.divide(places, {name: tmp_path / name for name in ("odd", "even", "none")})
        assert (tmp_path / "odd").read_text().splitlines() == lines[1::2]
        assert (tmp_path / "even").read_text().splitlines() == lines[::2]
        assert (tmp_path / "none").read_bytes() == b""

    def test_a_changed_input_is_not_divided(self, tmp_path: Path) -> None:
        reader = opened(tmp_path / "a", json.dumps(pair(0)))
        records = list(reader.records())
        (tmp_path / "a").write_text(json.dumps(pair(1)))
        with pytest.raises(InputError, match="has changed"):
            write(reader, tmp_path / "out", records)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_the_input_is_never_overwritten(self, tmp_path: Path) -> None:
        reader = opened(tmp_path / "a", json.dumps([pair()]))
        (tmp_path / "link").symlink_to(tmp_path / "a")
        for target in ("a", "link"):
            with pytest.raises(UsageError, match="the input itself"):
                write(reader, tmp_path / target)


# ---------------------------------------------------------------- conversations


HUMAN, GPT = {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}
USER, ASSISTANT = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


class TestShapes:
    @pytest.mark.parametrize(
        ("fields", "turns"),
        [
            ({"conversations": [HUMAN, GPT]}, [("Q", "A")]),
            ({"conversations": [HUMAN, {"from": "bot", "value": "B"}]}, [("Q", "B")]),
            ({"conversation": [USER, ASSISTANT, USER, ASSISTANT]}, [("Q", "A"), ("Q", "A")]),
            ({"messages": [USER, ASSISTANT]}, [("Q", "A")]),
            (
                {"messages": [{"role": "User", "content": [{"type": "text", "text": "a"}, "b"]}, ASSISTANT]},
                [("a\nb", "A")],
            ),
            ({"texts": [{"user": "Q", "assistant": "A", "source": "s"}]}, [("Q", "A")]),
            ({"conversations": ["Q", "A"]}, [("Q", "A")]),
            ({"query": "Q", "response": "A"}, [("Q", "A")]),
            ({"query": "Q", "response": "A", "history": [["q", "a"]]}, [("q", "a"), ("Q", "A")]),
            ({"query": "Q", "response": "A", "history": [USER, ASSISTANT]}, [("Q", "A"), ("Q", "A")]),
            ({"query": "Q", "response": "A", "history": None}, [("Q", "A")]),
            ({"instruction": "Q", "input": "", "output": "A"}, [("Q", "A")]),
            ({"instruction": "Q", "input": "more", "output": "A"}, [("Q\nmore", "A")]),
            ({"question": "Q", "answer": 4}, [("Q", "4")]),
            ({"prompt": "Q", "chosen": "A", "rejected": "B"}, [("Q", "A")]),
            ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": []}, [("Q", "A")]),
            ({"chosen": [USER, ASSISTANT], "rejected": [USER]}, [("Q", "A")]),
            ({"conversations": [HUMAN], "chosen": GPT, "rejected": HUMAN}, [("Q", "A")]),
            ({"image": "a.jpg", "caption": "A"}, [("", "A")]),
            ({"image": "a.jpg", "text": "A"}, [("", "A")]),
            ({"image": "a.jpg", "captions": ["A", "B"]}, [("", "A"), ("", "B")]),
            ({"messages": [USER, USER, ASSISTANT, ASSISTANT]}, [("Q\nQ", "A\nA")]),
        ],
    )
    def test_dialects(self, fields: dict[str, Any], turns: list[tuple[str, str]]) -> None:
        record = sample(**fields)
        assert record.turns == tuple(Turn(*turn) for turn in turns)
        assert [issue for issue in record.issues if issue.severity != "note"] == []

    def test_tools_stay_in_the_text(self) -> None:
        record = sample(
            conversations=[
                HUMAN,
                {"from": "function_call", "value": "call()"},
                {"from": "observation", "value": "42"},
                GPT,
            ]
        )
        assert record.turns == (Turn("Q", "call()"), Turn("42", "A"))
        call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
        record = sample(messages=[USER, call, {"role": "tool", "content": "42"}, ASSISTANT])
        assert record.turns == (Turn("Q", '{"name": "f"}'), Turn("42", "A"))

    def test_everything_else_is_kept(self) -> None:
        system = {"role": "system", "content": "Be kind"}
        record = sample(id=5, messages=[system, USER, ASSISTANT], bbox=[[1, 2]], rejected="B", image=None)
        assert record.id == "5"
        assert record.meta == {"bbox": [[1, 2]], "rejected": "B", "image": None, "system": "Be kind"}

    def test_ids(self) -> None:
        assert sample(query="q", response="r").id == "file:7"
        assert sample(query="q", response="r", id="").id == "file:7"
        assert sample(query="q", response="r", id=0).id == "0"
        assert sample(query="q", response="r", question_id=3).id == "3"

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({}, "no conversation found"),
            ({"text": "only text"}, "got the keys id, text"),
            ({"conversations": [3]}, "message 1 of 'conversations' is no object"),
            ({"conversations": [{"value": "x"}]}, "names no speaker"),
            ({"messages": [{"role": "system", "content": "x"}]}, "no turn"),
            ({"query": "q", "response": "r", "history": ["x"]}, "'history'"),
            ({"query": "q", "response": "r", "history": "xy"}, "'history'"),
        ],
    )
    def test_no_conversation(self, fields: dict[str, Any], words: str) -> None:
        record = conversation(id="a", **fields)
        assert isinstance(record, Unreadable)
        assert record.id == "a"
        assert kinds(record) == [("malformed_record", "error")]
        assert words in record.issues[0].detail

    @given(fields=st.dictionaries(
        st.sampled_from(["id", "image", "images", "conversations", "messages", "query", "response", "history", "text"]),
        TestSplitting.JSON | st.lists(st.dictionaries(
            st.sampled_from(["from", "role", "value", "content", "type", "image_url", "bytes"]), TestSplitting.JSON
        )),
    ))  # fmt: skip
    @settings(deadline=None, max_examples=300)
    def test_no_record_raises(self, fields: dict[str, Any]) -> None:
        assert isinstance(conversation(**fields), Sample | Unreadable)


class TestIssues:
    def test_empty_sides(self) -> None:
        assert kinds(sample(messages=[USER])) == [("empty_turn", "error")]
        assert kinds(sample(messages=[ASSISTANT])) == [("empty_turn", "warning")]
        assert kinds(sample(messages=[USER, {"role": "assistant", "content": " \n"}])) == [
            ("empty_turn", "error")
        ]
        record = sample(image="a", conversations=[{"from": "human", "value": "<image>\n"}, GPT])
        assert kinds(record) == [("empty_turn", "warning")]
        assert record.issues[0] == Issue(
            "empty_turn", "warning", "turn 1 of 1 has no instruction", "folder/file.json", 3, 7, "file:7"
        )

    def test_unknown_speakers_are_read_and_told(self) -> None:
        record = sample(messages=[{"role": "narrator", "content": "Q"}, ASSISTANT])
        assert record.turns == (Turn("Q", "A"),)
        assert kinds(record) == [("unknown_role", "warning")]

    @pytest.mark.parametrize(
        ("text", "media", "found"),
        [
            ("<image>\nQ", {"image": "a.jpg"}, []),
            ("<image><image>Q", {"images": ["a.jpg", "b.jpg"]}, []),
            ("<ImageHere>Q", {"image": ["a.jpg"]}, []),
            ("<img>a.jpg</img>Q", {}, []),
            ("<img>a.jpg</img>Q", {"images": ["a.jpg"]}, []),
            ("Q", {}, []),
            ("<video>Q", {"video": "v.mp4"}, []),
            ("<image>Q", {"video": "v.mp4"}, []),
            ("Q", {"images": ["a.jpg"]}, [("image_token_mismatch", "note")]),
            ("<image>Q", {}, [("image_token_mismatch", "error")]),
            ("<image>Q", {"images": ["a.jpg", "b.jpg"]}, [("image_token_mismatch", "error")]),
            ("<image><image>Q", {"image": "a.jpg"}, [("image_token_mismatch", "error")]),
            ("<image><video>Q", {"video": "v.mp4"}, [("image_token_mismatch", "error")]),
        ],
    )
    def test_tokens_and_pictures(self, text: str, media: dict[str, Any], found: list[Any]) -> None:
        assert kinds(sample(conversations=[{"from": "human", "value": text}, GPT], **media)) == found

    def test_content_lists_need_no_tokens(self) -> None:
        def asked(*parts: Any, **more: Any) -> Sample:
            return sample(
                messages=[{"role": "user", "content": [*parts, {"type": "text", "text": "Q"}]}, ASSISTANT],
                **more,
            )

        for part in (
            {"type": "image", "image": "a.jpg"},
            {"type": "image_url", "image_url": {"url": "a.jpg"}},
            {"type": "image_url", "image_url": "a.jpg"},
            {"type": "image_url", "value": "a.jpg"},
            {"type": "image", "path": "a.jpg"},
            {"image": "a.jpg"},
        ):
            record = asked(part)
            assert [m.reference for m in record.images] == ["a.jpg"]
            assert record.turns == (Turn("Q", "A"),)
            assert record.issues == ()
        assert asked({"type": "image"}, images=["a.jpg"]).issues == ()
        assert kinds(asked({"type": "image"}, images=["a.jpg", "b.jpg"])) == [
            ("image_token_mismatch", "error")
        ]
        assert asked({"type": "text", "text": "T", "image": None}).turns == (Turn("T\nQ", "A"),)


class TestMedia:
    DATA = bytes(range(256)) * 3
    BASE64 = base64.b64encode(DATA).decode()

    @pytest.mark.parametrize(
        ("field", "value", "references"),
        [
            ("image", "a.jpg", ["a.jpg"]),
            ("image", ["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]),
            ("images", [{"path": "a.jpg"}, {"url": "http://x/b.jpg"}], ["a.jpg", "http://x/b.jpg"]),
            ("images", [{"path": "a.jpg", "bytes": None}], ["a.jpg"]),
            ("image", "file:///x/a.jpg", ["/x/a.jpg"]),
            ("image", None, []),
            ("images", [None, ""], []),
            ("image", 12, ["12"]),
        ],
    )
    def test_references(self, field: str, value: Any, references: list[str]) -> None:
        record = sample(query="q", response="r", **{field: value})
        assert [m.reference for m in record.images] == references

    @pytest.mark.parametrize(
        "value",
        [
            f"data:image/png;base64,{BASE64}",
            BASE64,
            {"bytes": BASE64},
            {"bytes": f"data:image/png;base64,{BASE64}", "path": "a.png"},
            {"source": {"type": "base64", "media_type": "image/png", "data": BASE64}},
            {"url": f"data:image/png;base64,{BASE64}"},
        ],
    )
    def test_bytes_in_the_record(self, value: Any) -> None:
        (medium,) = sample(query="q", response="r", image=value).media
        assert medium.data == self.DATA
        assert medium.reference.startswith("data:")
        assert len(medium.reference) < 100

    def test_broken_base64_is_left_for_the_loader_to_tell(self) -> None:
        (medium,) = sample(query="q", response="r", image="data:image/png;base64,@@@").media
        assert (medium.reference, medium.data) == ("data:image/png;base64,@@@", None)

    def test_kinds(self) -> None:
        record = sample(query="q", response="r", image="a", videos=["v", ["f1", "f2"]], audio="s")
        assert [(m.kind, m.reference) for m in record.media] == [
            ("image", "a"),
            ("video", "v"),
            ("video", "f1"),
            ("audio", "s"),
        ]

    def test_one_field_a_kind(self) -> None:
        record = sample(image="a.jpg", image_url="http://x/a.jpg", caption="A")
        assert [m.reference for m in record.media] == ["a.jpg"]
        assert record.meta == {"image_url": "http://x/a.jpg"}


# ---------------------------------------------------------------- real files


@needs_data
class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "form", "n"),
        [
            ("llava_pretrain_2k/playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_dev.json", "json", 160),
            ("llama_factory/data/mllm_demo.json", "json", 6),
            ("llama_factory/data/v1_multimodal_demo.jsonl", "jsonl", 24),
            ("mantis_examples/data/examples/chat/train.json", "json", 15),
            ("fastchat/data/dummy_conversation.json", "json", 500),
            ("minigpt4_captions/coco_fohe.json", "jsonl", 139),
            ("derived_formats/dev/openai_vision_dataurl.jsonl", "jsonl", 6),
            ("derived_formats/dev/m3it_style.jsonl", "jsonl", 20),
            ("ms_swift/tests/llm/data/multi_modal_1.jsonl", "jsonl", 3),
            ("qwen3vl_cms1500/data/val.jsonl", "jsonl", 4),
        ],
    )
    def test_every_record_is_read_and_written_back(
        self, tmp_path: Path, name: str, form: str, n: int
    ) -> None:
        reader = open_input(DATA / name)
        records = list(reader.records())
        assert reader.name == form
        assert len(records) == n
        assert all(isinstance(record, Sample) for record in records)
        assert not [i for record in records for i in record.issues if i.severity == "error"]
        content = (DATA / name).read_bytes()
        values = (
            json.loads(content)
            if form == "json"
            else [json.loads(line) for line in content.splitlines() if line]
        )
        assert [json.loads(raw_of(record.origin)) for record in records] == values
        write(reader, tmp_path / f"out{reader.suffix}", records)
        again = open_input(tmp_path / f"out{reader.suffix}")
        hashes = [record.origin.sha256 for record in records]
        assert [record.origin.sha256 for record in again.records()] == hashes

    def test_a_real_list_cut_in_the_middle_of_a_string(self) -> None:
        records = list(open_input(DATA / "sharegpt_v3" / "ShareGPT_V3_head2MB_truncated.json").records())
        assert len(records) == 294
        assert "cut short" in records[-1].issues[0].detail
        lost = [record for record in records[:-1] if isinstance(record, Unreadable)]
        assert len(lost) == 3
        assert all("holds no" in record.issues[0].detail for record in lost)

    def test_real_objects_over_several_lines(self) -> None:
        (path,) = (DATA / "internvl_captions").rglob("*.jsonl")
        assert len(list(open_input(path).records())) == path.read_text().count('"text_id"') == 1053


class TestNamedFormats:
    """What is asked for is opened, however it begins."""

    def test_lines_that_begin_like_no_object(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_text('# notes\n// more\n\n{"query": "q", "response": "r"\n')
        assert all(isinstance(r, Unreadable) for r in open_input(path, "jsonl").records())
        assert len(list(open_input(path, "jsonl").records())) == 3

    def test_lists_as_lines_with_large_elements(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_text("".join(json.dumps(["q", f"a{n}", "x" * 300_000]) + "\n" for n in range(3)))
        names = Names({"instruction": "0", "response": "1"})
        records = list(open_input(path, "jsonl", names).records())
        assert [r.turns[0].response for r in records if isinstance(r, Sample)] == ["a0", "a1", "a2"]

    def test_lists_of_messages_as_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_text('[{"from": "human", "value": "q"}]\n' * 2)
        assert len(list(open_input(path, "jsonl").records())) == 2

    @pytest.mark.parametrize("indent", [None, 2])
    def test_one_list_is_no_lines(self, tmp_path: Path, indent: int | None) -> None:
        path = tmp_path / "a"
        path.write_text(json.dumps([{"query": "q", "response": "r"}] * 3, indent=indent))
        with pytest.raises(FormatError, match="is not jsonl: it is one JSON list"):
            open_input(path, "jsonl")

    @pytest.mark.parametrize("content", [b"{}", b"[\0]\xff", b"%PDF-1.5 ["])
    def test_what_is_no_list_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a"
        path.write_bytes(content)
        with pytest.raises(FormatError, match="is not json"):
            open_input(path, "json")

    @pytest.mark.parametrize("place", range((1 << 17) - 6, (1 << 17) + 2))
    def test_objects_over_lines_from_any_place_on(self, tmp_path: Path, place: int) -> None:
        one = json.dumps({"query": "q", "response": "r"})
        line = json.dumps({"query": "q", "response": ""})
        filler = line[:-2] + "x" * (place - len(one) - len(line) - 2) + line[-2:]
        path = tmp_path / "a"
        path.write_text("\n".join((one, filler, json.dumps(json.loads(one), indent=4))))
        assert [type(r) for r in open_input(path).records()] == [Sample] * 3
