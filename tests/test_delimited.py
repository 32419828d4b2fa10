"""CSV and TSV: which files are tables, where their rows lie, what is read from them, and writing them back."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import itertools
import json
import pickle
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlitqc.errors import FormatError, InputError
from vlitqc.formats import HEAD_BYTES, delimited, open_input
from vlitqc.formats.delimited import Csv, Tsv
from vlitqc.formats.names import Names
from vlitqc.types import Record, Sample, Unreadable

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared data here")
BOM = b"\xef\xbb\xbf"
HEADER = "id,image,caption\n"


def table(path: Path, content: str | bytes, fields: dict[str, str] | None = None) -> Csv | Tsv:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with delimited.Content(path).open() as stream:
        head = stream.read(HEAD_BYTES)
    (kind,) = [kind for kind in (Csv, Tsv) if kind.fits(path, head)]
    return kind(path, Names(fields or {}))


def read(path: Path, content: str | bytes, fields: dict[str, str] | None = None) -> list[Record]:
    return list(table(path, content, fields).records())


def responses(records: Sequence[Record]) -> list[str | None]:
    """What each record answers, None for those that cannot be read."""
    return [record.turns[0].response if isinstance(record, Sample) else None for record in records]


def faults(records: Sequence[Record]) -> list[tuple[int, str]]:
    return [(issue.line, issue.kind) for record in records for issue in record.issues]


def fits(name: str, text: str | bytes) -> list[str]:
    content = text.encode() if isinstance(text, str) else text
    return [kind.name for kind in (Csv, Tsv) if kind.fits(Path(name), content)]


# ---------------------------------------------------------------- detection


class TestDetection:
    @pytest.mark.parametrize(
        ("name", "text", "format"),
        [
            ("a.csv", "image,caption\na.jpg,A dog\n", "csv"),
            ("a", "image,caption\na.jpg,A dog\n", "csv"),
            ("a.txt", "image;caption\na.jpg;A dog, running\nb.jpg;A cat\n", "csv"),
            ("a.txt", "image_id|image|caption\n1|a.jpg|A dog\n", "csv"),
            ("a.csv", "image\tcaption\na.jpg\tA dog, running\n", "tsv"),
            ("a.txt", "a.jpg\tA dog runs\nb.jpg\tA cat sits\n", "tsv"),
            ("a.txt", "https://x.org/1\tA dog runs\nhttps://x.org/2\tA cat sits\n", "tsv"),
            ("a.tsv", "1\tx\n2\ty\n", "tsv"),
            ("a.csv.gz", "Frage,Antwort\nWas?,Das da drüben ist es\n", "csv"),
            ("a", "Question,Answer\nWhat?,That\n", "csv"),
            ("a.txt", "\r\nimage,caption\r\na.jpg,A dog\r\n", "csv"),
        ],
    )
    def test_tables(self, name: str, text: str, format: str) -> None:
        assert fits(name, text) == [format]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.jsonl", '{"image": "a.jpg", "caption": "A dog"}\n' * 3),
            ("a.csv", '{"image": "a.jpg", "caption": "A dog"\n' * 3),
            ("a.json", '[\n"a.jpg", "A dog"]'),
            ("a.html", "<p>image,caption\n<p>a.jpg,A dog\n"),
            (
                "a.txt",
                "In this text, we describe a dog, a cat, and a horse.\nThe image, here, is a.jpg.\nNo more.\n",
            ),
            ("a.py", "import os, sys\n\nimage, caption = load(x)\nfor a in b:\n    print(a, b)\n"),
            ("a.log", "2024-01-01 10:00:00,123 INFO start\n2024-01-01 10:00:00,124 INFO stop\n"),
            ("a.log", "2024-01-01\tINFO\tthe server has started\n2024-01-02\tINFO\tit has stopped again\n"),
            ("a.txt", "a dog\na cat\na horse\n"),
            ("a.csv", "caption\na dog\na cat\n"),
            ("a.txt", "x,y\n1,2\n3,4\n"),
            ("a.csv", ""),
            ("a.csv", "\n\n"),
            ("a.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)) * 40),
        ],
    )
    def test_what_is_no_table(self, name: str, text: str | bytes) -> None:
        assert fits(name, text) == []

    def test_the_cut_last_row_of_a_long_head_is_left_aside(self) -> None:
        head = ("image,caption\n" + "a.jpg,A dog\n" * 6000).encode()[: 1 << 16]
        assert fits("a", head) == ["csv"]

    @pytest.mark.parametrize(
        ("text", "columns"),
        [
            ("image,caption\na.jpg,A dog\n", ("image", "caption")),
            ("Image, CAPTION ,split\na.jpg,A dog,val\n", ("image", "caption", "split")),
            (",image,caption\n0,a.jpg,A dog\n", ("0", "image", "caption")),
            ("image,caption,\na.jpg,A dog,\n", ("image", "caption", "2")),
            ("image,caption,caption\na.jpg,A dog,A cat\n", ("image", "caption", "2")),
            ("image,caption,2024\na.jpg,A dog,yes\n", ("image", "caption", "2024")),
            (
                f"image,caption,{'how good ' * 20}\na.jpg,A dog,yes\n",
                ("image", "caption", "how good " * 19 + "how good"),
            ),
            ("URL,TEXT\nhttps://x.org/a.jpg,A dog\n", ("URL", "TEXT")),
        ],
    )
    def test_headers(self, tmp_path: Path, text: str, columns: tuple[str, ...] | None) -> None:
        opened = table(tmp_path / "a.csv", text)
        assert opened._layout.header is (columns is not None)
        if columns:
            assert opened._layout.columns == columns

    def test_without_a_header_columns_are_found_by_their_content(self, tmp_path: Path) -> None:
        text = "7\tcats\ta.jpg\tA dog runs\n8\tcats\tb.jpg\tA cat sits\n"
        first, _ = read(tmp_path / "a.txt", text)
        assert isinstance(first, Sample)
        assert (first.id, first.turns[0].response, first.media[0].reference) == ("7", "A dog runs", "a.jpg")
        assert first.meta == {"1": "cats"}

    def test_names_go_before_what_is_found(self, tmp_path: Path) -> None:
        text = "a.jpg\tA dog runs here\tEin Hund\nb.jpg\tA cat sits here\tEine Katze\n"
        assert responses(read(tmp_path / "a.tsv", text)) == ["A dog runs here", "A cat sits here"]
        assert responses(read(tmp_path / "a.tsv", text, {"caption": "2"})) == ["Ein Hund", "Eine Katze"]

    def test_names_of_a_header(self, tmp_path: Path) -> None:
        text = "Frage;Antwort\nWas?;Das da drüben ist es\nWer?;Der da ist es\n"
        with pytest.raises(FormatError, match=r"columns Frage, Antwort.*--map instruction=COLUMN"):
            read(tmp_path / "a.csv", text)
        records = read(tmp_path / "a.csv", text, {"instruction": "Frage", "response": "Antwort"})
        assert [r.turns[0].instruction for r in records if isinstance(r, Sample)] == ["Was?", "Wer?"]
        with pytest.raises(FormatError, match=r"no column 'Antwrt'.* Frage, Antwort"):
            read(tmp_path / "a.csv", text, {"instruction": "Frage", "response": "Antwrt"})

    def test_a_picture_in_the_first_row_goes_before_a_word_that_is_a_fields_name(
        self, tmp_path: Path
    ) -> None:
        text = "a.jpg,text\nb.jpg,A cat on a mat\n"
        assert responses(read(tmp_path / "a.csv", text)) == ["text", "A cat on a mat"]

    @pytest.mark.parametrize("format", ["csv", "tsv"])
    def test_a_format_that_is_named_needs_only_columns(self, tmp_path: Path, format: str) -> None:
        mark = {"csv": ";", "tsv": "\t"}[format]
        path = tmp_path / "a.dat"
        path.write_text(f'{{"id": 1}}{mark}x1{mark}dog\n{{"id": 2}}{mark}x2{mark}cat\n')
        names = Names.parse(["id=0.id", "image=1", "caption=2"])
        records = list(open_input(path, format, names).records())
        assert [(r.id, r.turns[0].response) for r in records if isinstance(r, Sample)] == [
            ("1", "dog"),
            ("2", "cat"),
        ]
        path.write_text("a dog\na cat\n")
        with pytest.raises(FormatError, match=f"is not {format}: no two columns between"):
            open_input(path, format, names)

    @pytest.mark.parametrize("first", [True, False])
    def test_a_column_of_objects_is_neither_json_lines_nor_a_caption(
        self, tmp_path: Path, first: bool
    ) -> None:
        path = tmp_path / "a.tsv"
        held = [json.dumps({"said": f"A dog runs over the mat, {i} times"}) for i in range(3)]
        path.write_text(
            "".join(f"{h}\tx{i}.jpg\n" if first else f"x{i}.jpg\t{h}\n" for i, h in enumerate(held))
        )
        with pytest.raises(FormatError, match=r"is a table with the columns .*; say which do, such as --map"):
            open_input(path)
        names = Names.parse([f"caption={1 - first}.said"])
        assert (
            responses(list(open_input(path, names=names).records()))[2] == "A dog runs over the mat, 2 times"
        )

    def test_a_column_that_is_mapped_and_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            FormatError, match=r"no column 'nope', which is mapped to caption; .* image, text; map"
        ):
            read(tmp_path / "a.csv", "image,text\na.jpg,A dog\n", {"caption": "nope"})

    def test_the_cure_names_the_columns_that_look_right(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match="--map image=photo --map caption=alt"):
            read(tmp_path / "a.csv", "photo,alt\na.jpg,A brown dog runs\n")
        with pytest.raises(
            FormatError, match=r"columns id, 1 \(for want of a header; the first row is 1, x\)"
        ):
            read(tmp_path / "a.tsv", "1\tx\n2\tx\n")

    def test_a_header_alone(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match="a header and no row"):
            read(tmp_path / "a.csv", HEADER)


# ---------------------------------------------------------------- rows


def rows(
    content: bytes, separator: bytes = b",", width: int | None = None, end: bytes = b"\n"
) -> list[list[str]]:
    found = delimited._Rows(io.BufferedReader(io.BytesIO(content)), delimited._Dialect(separator, end), width)
    return [[cell.decode() for cell in row.cells] for row in found]


CELL = st.text(st.sampled_from('a,;\t"\n\r é'), max_size=6)


class TestRows:
    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.lists(CELL, min_size=2, max_size=3), min_size=1, max_size=5),
        st.sampled_from([",", ";", "|"]),
        st.sampled_from(["\n", "\r\n", "\r"]),
    )
    def test_what_pythons_csv_writes_is_read_as_it_was(self, cells: Any, separator: str, end: str) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(cells)
        content = text.getvalue().encode()
        assert rows(content, separator.encode(), end=end[-1:].encode()) == cells

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=60) | st.text(st.sampled_from('a,"\n\r'), max_size=30).map(str.encode))
    def test_any_bytes_are_rows_or_blank_lines_one_after_another(self, content: bytes) -> None:
        for separator in (b",", b"\t"):
            at = 0
            for row in delimited._Rows(
                io.BufferedReader(io.BytesIO(content)), delimited._Dialect(separator), 2
            ):
                assert not content[at : row.start].strip(b"\r\n")
                assert row.raw == content[row.start : row.end]
                assert row.line == content[: row.start].count(b"\n") + 1
                assert row.fault is not None or len(row.cells) == 2
                at = row.end
            assert not content[at:].strip(b"\r\n")

    @pytest.mark.parametrize("tail", [b"", b"\r"])
    def test_lines_that_end_as_on_old_macs(self, tmp_path: Path, tail: bytes) -> None:
        content = b'image,caption,n\ra.jpg,"A\rdog",1\rb.jpg,"A ""cat""",2\r\rc.jpg,A hen,3' + tail
        reader = table(tmp_path / "a.csv", content)
        records = list(reader.records())
        assert responses(records) == ["A\rdog", 'A "cat"', "A hen"]
        assert [record.origin.line for record in records] == [2, 4, 6]
        assert [reader.record(record.origin) for record in records] == records
        targets = {name: tmp_path / f"{name}.csv" for name in ("kept", "dropped")}
        reader.divide(zip((r.origin for r in records), ("kept", "dropped", "kept"), strict=True), targets)
        assert targets["kept"].read_bytes() == b'image,caption,n\ra.jpg,"A\rdog",1\rc.jpg,A hen,3' + tail
        assert targets["dropped"].read_bytes() == b'image,caption,n\rb.jpg,"A ""cat""",2\r'

    def test_a_carriage_return_within_a_line_is_kept(self, tmp_path: Path) -> None:
        text = "image,caption\na.jpg,A\rdog\nb.jpg,A cat\n"
        assert responses(read(tmp_path / "a.csv", text)) == ["A\rdog", "A cat"]

    def test_a_row_that_ends_with_several_carriage_returns_is_read_again_as_it_was(
        self, tmp_path: Path
    ) -> None:
        text = 'image,caption\na.jpg,A "big" dog\r\r\nb.jpg,"A cat"\r\r\nc.jpg,A "hen"\r'
        reader = table(tmp_path / "a.csv", text)
        records = list(reader.records())
        assert responses(records) == ['A "big" dog', "A cat", 'A "hen"']
        assert [reader.record(record.origin) for record in records] == records

    def test_quotes_after_a_backslash(self, tmp_path: Path) -> None:
        text = 'image,caption\na.jpg,"A \\"big\\" dog, C:\\\\"\nb.jpg,"A ""cat"", sits\n\\n"\n'
        assert responses(read(tmp_path / "a.csv", text)) == ['A "big" dog, C:\\', 'A "cat", sits\n\\n']

    def test_quotes_after_a_backslash_without_the_separator(self, tmp_path: Path) -> None:
        told = [
            f'a sign that says \\"stop {n}\\" here' if n % 3 == 0 else f"a plain cat {n}" for n in range(12)
        ]
        text = "image,caption\n" + "".join(f'"i{n}.jpg","{one}"\n' for n, one in enumerate(told))
        found = responses(read(tmp_path / "a.csv", text))
        assert found == [one.replace("\\", "") for one in told]

    def test_a_backslash_before_a_closing_quote_is_a_backslash(self, tmp_path: Path) -> None:
        text = 'image,caption\na.jpg,"in C:\\"\nb.jpg,"[""a \\""b\\""""]"\n'
        assert responses(read(tmp_path / "a.csv", text)) == ["in C:\\", '["a \\"b\\""]']

    @pytest.mark.parametrize("mark", [";", "\t"])
    def test_the_line_that_tells_the_separator(self, tmp_path: Path, mark: str) -> None:
        rows = f"image{mark}caption\r\na.jpg{mark}A dog, a cat\r\n"
        reader = table(tmp_path / "a.csv", f"sep={mark}\r\n{rows}")
        (record,) = reader.records()
        assert (responses([record]), record.origin.line) == (["A dog, a cat"], 3)
        reader.divide([(record.origin, "kept")], {"kept": tmp_path / "kept.csv"})
        assert (tmp_path / "kept.csv").read_bytes() == reader.path.read_bytes()

    def test_quotes(self) -> None:
        assert rows(b'a,"b, c"\n"d ""e""",f\n') == [["a", "b, c"], ['d "e"', "f"]]
        assert rows(b'"a\nb",c\r\n"d\r\ne",f') == [["a\nb", "c"], ["d\r\ne", "f"]]
        assert rows(b'a,""\n"",b\n') == [["a", ""], ["", "b"]]
        assert rows(b'5" pipe,a "quoted" word\n') == [['5" pipe', 'a "quoted" word']]

    def test_places(self, tmp_path: Path) -> None:
        content = BOM + b'image,caption\r\na.jpg,"A\r\ndog"\r\n\r\nb.jpg,A cat'
        first, second = (record.origin for record in read(tmp_path / "a.csv", content))
        assert (first.row, first.line, content[first.start : first.end]) == (0, 2, b'a.jpg,"A\r\ndog"')
        assert (second.row, second.line, content[second.start : second.end]) == (1, 5, b"b.jpg,A cat")

    def test_rows_are_numbered_on(self, tmp_path: Path) -> None:
        opened = table(tmp_path / "a.csv", HEADER + "1,a.jpg,A\n2,b.jpg,B\n")
        assert [record.origin.row for record in opened.records(5)] == [5, 6]


class TestFaults:
    def test_ragged_rows(self, tmp_path: Path) -> None:
        records = read(tmp_path / "a.csv", HEADER + "1,a.jpg,A dog\n2,b.jpg\n3,c.jpg,A,b\n\n4,d.jpg,D\n")
        assert responses(records) == ["A dog", None, None, "D"]
        assert [issue.detail for record in records for issue in record.issues] == [
            "the row has 2 fields, the table has 3 columns",
            "the row has 4 fields, the table has 3 columns",
        ]
        assert faults(records) == [(3, "ragged_row"), (4, "ragged_row")]

    def test_a_header_over_one_long_ragged_row(self, tmp_path: Path) -> None:
        records = read(tmp_path / "a.csv", HEADER + f"1,a.jpg,{'A dog, ' * 20_000}\n")
        assert faults(records) == [(2, "ragged_row")]

    def test_a_quote_that_nothing_closes_costs_its_line(self, tmp_path: Path) -> None:
        content = HEADER + '1,a.jpg,"A dog\n2,b.jpg,B\n3,c.jpg,C\n'
        records = read(tmp_path / "a.csv", content)
        assert responses(records) == [None, "B", "C"]
        assert faults(records) == [(2, "unbalanced_quote")]
        assert "field 3 is never closed" in records[0].issues[0].detail

    def test_a_quote_that_is_closed_in_a_later_row(self, tmp_path: Path) -> None:
        content = HEADER + '1,a.jpg,"A dog\n2,b.jpg,B\n3,c.jpg,"C, d"\n4,d.jpg,D\n'
        records = read(tmp_path / "a.csv", content)
        assert responses(records) == [None, "B", "C, d", "D"]
        assert faults(records) == [(2, "unbalanced_quote")]

    def test_a_quote_that_swallows_whole_rows(self, tmp_path: Path) -> None:
        content = HEADER + '1,a.jpg,"A dog\n2,b.jpg,B\n3,"c.jpg",C\n4,d.jpg,x"\n5,e.jpg,E\n'
        records = read(tmp_path / "a.csv", content)
        assert responses(records) == [None, "B", "C", 'x"', "E"]

    def test_text_after_a_closing_quote(self, tmp_path: Path) -> None:
        records = read(tmp_path / "a.csv", HEADER + '1,a.jpg,"He says "hi" to me"\n2,b.jpg,B\n')
        assert responses(records) == [None, "B"]
        assert faults(records) == [(2, "unbalanced_quote")]

    def test_between_tabs_a_quote_is_a_character(self, tmp_path: Path) -> None:
        text = 'a.jpg\t"Hello" he says\nb.jpg\t"never closed here\nc.jpg\t6" pipes run\nd.jpg\t"both are"\n'
        found = responses(read(tmp_path / "a.tsv", text))
        assert found == ['"Hello" he says', '"never closed here', '6" pipes run', "both are"]

    def test_between_tabs_a_quoted_field_may_go_over_lines(self, tmp_path: Path) -> None:
        text = 'a.jpg\t"A dog\nand a cat"\nb.jpg\t"lost here\nc.jpg\tand here"\n'
        assert responses(read(tmp_path / "a.tsv", text)) == ["A dog\nand a cat", '"lost here', 'and here"']

    def test_the_search_for_a_closing_quote_is_bounded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(delimited, "MAX_QUOTED_BYTES", 1000)
        filler = "".join(f"{n},x.jpg,X\n" for n in range(200))
        records = read(tmp_path / "a.csv", HEADER + f'a,a.jpg,"A dog\n{filler}z,z.jpg,last"\n')
        assert len(records) == 202
        assert faults(records) == [(2, "unbalanced_quote")]

    def test_invalid_utf8_costs_its_row(self, tmp_path: Path) -> None:
        content = HEADER.encode() + b"1,a.jpg,caf\xe9\n2,b.jpg,B\n"
        records = read(tmp_path / "a.csv", content)
        assert responses(records) == [None, "B"]
        assert records[0].issues[0].detail == "not valid UTF-8: byte 0xe9 at byte 3 of field 3"

    def test_nul_characters_are_told(self, tmp_path: Path) -> None:
        records = read(tmp_path / "a.csv", HEADER + "1,a.jpg,A\0B\n2,b.jpg,B\n" + "\0" * 50 + "\n")
        assert responses(records) == ["A\0B", "B", None]
        assert faults(records) == [(2, "broken_character"), (4, "ragged_row")]

    def test_a_row_longer_than_the_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(delimited, "MAX_ROW_BYTES", 1000)
        content = HEADER + f"1,a.jpg,{'A' * 3000}\n2,b.jpg,B\n"
        opened = table(tmp_path / "a.csv", content)
        records = list(opened.records())
        assert responses(records) == [None, "B"]
        origin = records[0].origin
        assert content[origin.start : origin.end] == content.splitlines()[1]
        opened.divide([(r.origin, "all") for r in records], {"all": tmp_path / "b.csv"})
        assert (tmp_path / "b.csv").read_text() == content

    def test_a_cut_gzip(self, tmp_path: Path) -> None:
        content = (HEADER + "".join(f"{n},{n}.jpg,A dog {n}\n" for n in range(3000))).encode()
        packed = gzip.compress(content)
        records = read(tmp_path / "a.csv.gz", packed[: len(packed) // 2])
        assert 100 < len(records) < 3000
        assert [type(record) for record in records[:-1]] == [Sample] * (len(records) - 1)
        assert isinstance(records[-1], Unreadable)
        cut, lost = records[-1].issues
        assert (cut.kind, cut.detail) == ("malformed_record", "the row is cut short")
        assert (lost.kind, lost.severity) == ("damaged_file", "warning")
        assert "what follows this record is lost: the gzip data is cut short" in lost.detail


# ---------------------------------------------------------------- cells


class TestCells:
    def test_messages_as_json(self, tmp_path: Path) -> None:
        said = [{"role": "user", "content": 'Say "x", please'}, {"role": "assistant", "content": "x\nor y"}]
        text = io.StringIO()
        csv.writer(text).writerows([["id", "messages"], ["a", json.dumps(said)], ["b", str(said)]])
        first, second = read(tmp_path / "a.csv", text.getvalue())
        assert isinstance(first, Sample)
        assert (first.turns[0].instruction, first.turns[0].response) == ('Say "x", please', "x\nor y")
        assert isinstance(second, Unreadable)  # Python's own notation is not evaluated

    def test_lists_of_pictures(self, tmp_path: Path) -> None:
        (record,) = read(tmp_path / "a.csv", 'images,caption\n"[""a.jpg"", ""b.jpg""]",[A dog]\n')
        assert isinstance(record, Sample)
        assert [m.reference for m in record.media] == ["a.jpg", "b.jpg"]
        assert record.turns[0].response == "[A dog]"

    def test_half_a_surrogate_pair_in_a_cell_is_no_character(self, tmp_path: Path) -> None:
        said = (
            '[{""role"": ""user"", ""content"": ""a""}, {""role"": ""assistant"", ""content"": ""\\ud800""}]'
        )
        (record,) = read(tmp_path / "a.csv", f'id,messages\n1,"{said}"\n')
        assert responses([record]) == ["\ufffd"]

    def test_a_cell_nested_too_deeply_costs_its_row(self, tmp_path: Path) -> None:
        said = '[{""role"": ""user"", ""content"": ""q""}, {""role"": ""assistant"", ""content"": ""a""}]'
        text = f'id,messages\n1,"{said}"\n'
        records = read(tmp_path / "a.csv", text + f"2,{'[' * 100_000}\n")
        assert responses(records) == ["a", None]

    def test_pictures_in_base64(self, tmp_path: Path) -> None:
        data = bytes(range(256)) * 2000
        text = "".join(f"{n}\tA dog runs\t{base64.b64encode(data).decode()}\n" for n in range(3))
        records = read(tmp_path / "a.tsv", text)
        assert [record.id for record in records] == ["0", "1", "2"]
        assert all(isinstance(r, Sample) and r.media[0].data == data for r in records)

    def test_instruction_tables(self, tmp_path: Path) -> None:
        (record,) = read(tmp_path / "a.csv", "instruction,input,output\nSum,1 and 2,3\n")
        assert isinstance(record, Sample)
        assert (record.turns[0].instruction, record.turns[0].response) == ("Sum\n1 and 2", "3")


# ---------------------------------------------------------------- back


CONTENTS = {
    "plain": HEADER.encode() + b"1,a.jpg,A\n2,b.jpg,B\n3,c.jpg,C\n4,d.jpg,D",
    "crlf": BOM + b'id,image,caption\r\n1,a.jpg,"A\r\n""dog"""\r\n2,b.jpg,B\n3,c.jpg,C\r\n4,d.jpg,D\r\n',
    "broken": HEADER.encode() + b'1,a.jpg,A\n2,b\n3,c.jpg,"C\n4,d.jpg,\xff\r\r\n',
    "headless": b"1\ta.jpg\tA dog\n2\tb.jpg\tA cat\n3\tc.jpg\tA cow\n4\td.jpg\tA hen\n",
}


def filled(content: bytes) -> list[bytes]:
    """The lines that are not blank."""
    return [line for line in content.split(b"\n") if line.strip(b"\r")]


class TestBack:
    @pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
    def test_every_byte_goes_to_its_file(self, tmp_path: Path, content: bytes) -> None:
        opened = table(tmp_path / "a.csv", content)
        records = list(opened.records())
        assert len(records) == 4
        for record in records:
            assert content[record.origin.start : record.origin.end].strip()
            again = opened.record(record.origin)
            assert again.origin == record.origin
            assert type(again) is type(record)
        targets = {name: tmp_path / f"{name}.csv" for name in ("all", "odd", "none")}
        places = [(r.origin, "all") for r in records]
        opened.divide(places, targets)
        assert targets["all"].read_bytes() == content
        header = content[: records[0].origin.start]
        assert targets["none"].read_bytes() == header
        opened.divide([(r.origin, "odd" if r.origin.row % 2 else "all") for r in records], targets)
        parts = [path.read_bytes().removeprefix(header) for path in (targets["all"], targets["odd"])]
        starts = [r.origin.start for r in records] + [len(content)]
        pieces = [content[a:b] for a, b in itertools.pairwise(starts)]
        assert parts == [pieces[0] + pieces[2], pieces[1] + pieces[3]]

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.sampled_from([*CONTENTS.values()]),
        st.lists(
            st.tuples(
                st.integers(0, 120),
                st.integers(0, 3),
                st.sampled_from([b'"', b"\n", b",", b"\xff", b"", b"\0"]),
            )
        ),
    )
    def test_damaged_tables_lose_no_byte(
        self, tmp_path: Path, content: bytes, edits: list[tuple[int, int, bytes]]
    ) -> None:
        for at, n, text in edits:
            content = content[:at] + text + content[at + n :]
        path = tmp_path / "a.csv"
        try:
            opened = table(path, content)
        except (FormatError, ValueError):  # refused with a reason, or no table any more
            return
        records = list(opened.records())
        assert all(opened.record(record.origin).origin == record.origin for record in records)
        opened.divide([(record.origin, "all") for record in records], {"all": tmp_path / "all"})
        assert filled((tmp_path / "all").read_bytes()) == filled(content)

    def test_layers_are_kept(self, tmp_path: Path) -> None:
        content = "id,image,caption\n1,a.jpg,Ä dog\n2,b.jpg,B\n"
        opened = table(tmp_path / "a.csv.gz", gzip.compress(content.encode("utf-16")))
        assert (opened.layers, opened.suffix, opened.share(next(opened.records()).origin)) == (
            ("gzip", "utf-16"),
            ".csv.gz",
            None,
        )
        first, second = (record.origin for record in opened.records())
        targets = {name: tmp_path / f"{name}.csv.gz" for name in ("first", "second")}
        opened.divide([(first, "first"), (second, "second")], targets)
        lines = content.splitlines(keepends=True)
        for line, target in zip(lines[1:], targets.values(), strict=True):
            assert gzip.decompress(target.read_bytes()).decode("utf-16") == lines[0] + line

    def test_a_changed_file_is_told_and_nothing_is_written(self, tmp_path: Path) -> None:
        opened = table(tmp_path / "a.csv", CONTENTS["plain"])
        records = list(opened.records())
        (tmp_path / "a.csv").write_bytes(CONTENTS["plain"].replace(b"C", b"X"))
        with pytest.raises(InputError, match="no longer holds record 2"):
            opened.divide([(r.origin, "all") for r in records], {"all": tmp_path / "all.csv"})
        assert not (tmp_path / "all.csv").exists()
        with pytest.raises(InputError, match="has changed"):
            opened.record(records[2].origin)

    def test_a_reader_travels(self, tmp_path: Path) -> None:
        opened = pickle.loads(pickle.dumps(table(tmp_path / "a.csv", CONTENTS["plain"])))
        assert responses(list(opened.records())) == ["A", "B", "C", "D"]
        assert (opened.files, opened.suffix) == ((tmp_path / "a.csv",), ".csv")
        assert [opened.share(r.origin) for r in opened.records()][-1] == 1.0

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        opened = table(tmp_path / "a.csv", HEADER + f'1,a.jpg,"{"A dog " * 500}"\n' * 3_000)
        tracemalloc.start()
        assert sum(1 for _ in opened.records()) == 3_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 << 20


# ---------------------------------------------------------------- real files


@needs_data
class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "format", "n"),
        [
            ("derived_formats/dev/ofa_caption.tsv", "tsv", 6),
            ("flickr8k_itm/flickr8k.DevImages.txt", "tsv", 600),
        ],
    )
    def test_captions(self, tmp_path: Path, name: str, format: str, n: int) -> None:
        opened = table(tmp_path / Path(name).name, (DATA / name).read_bytes())
        records = list(opened.records())
        assert (opened.name, len(records)) == (format, n)
        assert all(isinstance(r, Sample) and len(r.images) == 1 and r.turns[0].response for r in records)
        opened.divide([(r.origin, "all") for r in records], {"all": tmp_path / "all"})
        assert (tmp_path / "all").read_bytes() == (DATA / name).read_bytes()

    @pytest.mark.parametrize(
        "name",
        [
            "savoias/complexity.csv",
            "iqa_pytorch_calibra/ResultsCalibra/results_official.csv",
            "pillow_broken/EXPECTED_pillow.tsv",
            "data_juicer/tests/format/data/structured/demo-dataset.csv",
            "data_juicer/tests/format/data/structured/demo-dataset.tsv",
        ],
    )
    def test_tables_without_conversations(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(FormatError, match=r"is a table with the columns .*--map"):
            table(tmp_path / Path(name).name, (DATA / name).read_bytes())

    def test_a_text_column_can_be_mapped(self, tmp_path: Path) -> None:
        name = "data_juicer/tests/format/data/structured/demo-dataset.csv"
        content = (DATA / name).read_bytes()
        records = read(tmp_path / "a.csv", content, {"instruction": "text", "response": "meta"})
        expected = list(csv.DictReader(io.StringIO(content.decode())))
        assert responses(records) == [row["meta"] for row in expected]
