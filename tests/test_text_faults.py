"""What text files have wrong with them: which records are read, what is told of the others, and nothing is lost."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlitqc.errors import FormatError, InputError
from vlitqc.formats import Reader, open_input
from vlitqc.formats.names import Names
from vlitqc.formats.streams import Content
from vlitqc.types import Record, Sample, Unreadable

BOM = b"\xef\xbb\xbf"


def line(n: int, text: str = "é") -> bytes:
    return json.dumps({"id": f"r{n}", "query": "q", "response": text}, ensure_ascii=False).encode()


A, B, C = line(0), line(1), line(2)


def pretty(n: int) -> bytes:
    return json.dumps(json.loads(line(n)), indent=2, ensure_ascii=False).encode()


def opened(path: Path, data: bytes) -> Reader:
    path.write_bytes(data)
    return open_input(path)


def told(record: Record) -> str:
    return " | ".join(f"{issue.kind}: {issue.detail}" for issue in record.issues)


def ids(records: list[Record]) -> list[str | None]:
    return [record.id if isinstance(record, Sample) else None for record in records]


def held(reader: Reader, records: list[Record]) -> list[bytes]:
    """The bytes of each record, unpacked."""
    with Content(reader.path).open() as file:
        found = []
        for record in records:
            file.seek(record.origin.start)
            found.append(file.read(record.origin.end - record.origin.start))
    return found


CASES: dict[str, tuple[bytes, str, list[bytes], list[str | None], dict[int, str]]] = {
    # name: content; format; each record's bytes; its id, None for unreadable; words on some
    "objects on one line": (A + B + C, "jsonl", [A, B, C], ["r0", "r1", "r2"], {}),
    "objects on a later line": (A + b"\n" + B + b" " + C + b"\n", "jsonl", [A, B, C], ["r0", "r1", "r2"], {}),
    "objects on a line, the last cut": (
        A + b"\n" + B + C[:-4] + b"\n",
        "jsonl",
        [A, B, C[:-4]],
        ["r0", "r1", None],
        {2: "malformed_record: the record that starts in line 1 is never closed"},
    ),
    "commas left from a list": (A + b",\n" + B + b",\n" + C, "jsonl", [A, B, C], ["r0", "r1", "r2"], {}),
    "objects over several lines": (
        pretty(0) + pretty(1) + b"\n\n" + pretty(2),
        "jsonl",
        [pretty(0), pretty(1), pretty(2)],
        ["r0", "r1", "r2"],
        {},
    ),
    "lines, then objects over several lines": (
        A + b"\n" + pretty(1) + b"\n" + C + b"\n",
        "jsonl",
        [A, pretty(1), C],
        ["r0", "r1", "r2"],
        {},
    ),
    "the last line cut": (
        A + b"\n" + B[:-9],
        "jsonl",
        [A, B[:-9]],
        ["r0", None],
        {1: f"Unterminated string starting at in line 2, column 28; the file ends at byte {len(A + B) - 8}"},
    ),
    "a record cut by the next": (
        A + b"\n" + B[:-9] + C + b"\n",
        "jsonl",
        [A, B[:-9], C],
        ["r0", None, "r2"],
        {1: "not valid JSON: Unterminated string starting at in line 2, column 28"},
    ),
    "a list cut in a string": (
        b"[" + A + b",\n" + B[:-9],
        "json",
        [A, B[:-9]],
        ["r0", None],
        {1: f"line 2 is never closed (cut short, or a bracket lost); the file ends at byte {len(A + B) - 6}"},
    ),
    "a list cut between records": (
        b"[" + A + b",\n" + B + b",\n",
        "json",
        [A, B],
        ["r0", "r1"],
        {1: "list_cut_short: the list is cut short after this record"},
    ),
    "two lists": (b"[" + A + b"]\n[" + B + b"," + C + b"]", "json", [A, B, C], ["r0", "r1", "r2"], {}),
    "a byte order mark": (BOM + A + b"\n" + B, "jsonl", [A, B], ["r0", "r1"], {}),
    "byte order marks between lines": (
        BOM + A + b"\n" + BOM + B + b"\n" + BOM + BOM + C,
        "jsonl",
        [A, B, C],
        ["r0", "r1", "r2"],
        {},
    ),
    "a byte order mark after a record without a line end": (
        A + BOM + B + b"\n", "jsonl", [A, B], ["r0", "r1"], {}
    ),
    "byte order marks between lists": (
        BOM + b"[" + A + b"]" + BOM + b"[" + B + b"]", "json", [A, B], ["r0", "r1"], {}
    ),
    "byte order marks between objects over lines": (
        BOM + pretty(0) + b"\n" + BOM + pretty(1), "jsonl", [pretty(0), pretty(1)], ["r0", "r1"], {}
    ),
    "NULs at the end": (
        A + b"\n" + bytes(4096),
        "jsonl",
        [A, bytes(4096)],
        ["r0", None],
        {1: f"malformed_record: 4096 NUL bytes from byte {len(A) + 1} on, as a crash or a full disk leaves them"},
    ),
    "NULs before a record on its line": (
        A + b"\n" + bytes(5) + B + b"\n" + C,
        "jsonl",
        [A, bytes(5), B, C],
        ["r0", None, "r1", "r2"],
        {1: f"5 NUL bytes from byte {len(A) + 1} on"},
    ),
    "NULs after a record on its line": (
        A + bytes(3) + b"\n" + B,
        "jsonl",
        [A, bytes(3), B],
        ["r0", None, "r1"],
        {1: f"3 NUL bytes from byte {len(A)} on"},
    ),
    "NULs at the beginning": (
        bytes(7) + A + b"\n" + B, "jsonl", [bytes(7), A, B], [None, "r0", "r1"], {0: "7 NUL bytes from byte 0 on"}
    ),
    "NULs between two records on a line": (
        A + bytes(2) + B, "jsonl", [A, bytes(2), B], ["r0", None, "r1"], {1: "2 NUL bytes"}
    ),
    "a NUL in a text": (
        A + b"\n" + B.replace(b"q", b"q\0", 1) + b"\n" + C,
        "jsonl",
        [A, B.replace(b"q", b"q\0", 1), C],
        ["r0", None, "r2"],
        {1: "1 NUL byte from byte 15 on"},
    ),
    "NULs before a list": (
        bytes(9) + b"[" + A + b"]", "json", [bytes(9), A], [None, "r0"], {0: "9 NUL bytes from byte 0 on"}
    ),
    "NULs after a list": (
        b"[" + A + b"]" + bytes(9),
        "json",
        [A, bytes(9)],
        ["r0", None],
        {1: "something that is no list follows the end of the list"},
    ),
    "NULs between the elements of a list": (
        b"[" + A + b",\n" + bytes(9) + B + b"]", "json", [A, bytes(9), B], ["r0", None, "r1"], {1: "9 NUL bytes"}
    ),
    "no UTF-8": (
        A + b"\n" + B.replace("é".encode(), b"\xe9") + b"\n" + C,
        "jsonl",
        [A, B.replace("é".encode(), b"\xe9"), C],
        ["r0", None, "r2"],
        {1: f"not valid UTF-8: byte 0xe9 at byte {B.index('é'.encode())} of the record"},
    ),
    "half a surrogate pair in bytes": (
        A.replace("é".encode(), b"\xed\xa0\xbd") + b"\n" + B,
        "jsonl",
        [A.replace("é".encode(), b"\xed\xa0\xbd"), B],
        ["r0", "r1"],
        {0: "broken_character: half of a surrogate pair"},
    ),
    "half a surrogate pair escaped": (
        A.replace("é".encode(), b"\\ud83d") + b"\n" + B,
        "jsonl",
        [A.replace("é".encode(), b"\\ud83d"), B],
        ["r0", "r1"],
        {0: "broken_character: half of a surrogate pair"},
    ),
    "a comma too many": (
        A + b"\n" + B[:-1] + b",}\n" + C,
        "jsonl",
        [A, B[:-1] + b",}", C],
        ["r0", None, "r2"],
        {1: "not valid JSON: Expecting property name enclosed in double quotes in line 2, column 44"},
    ),
    "a comma too many in a list": (b"[" + A + b",\n" + B + b",\n]", "json", [A, B], ["r0", "r1"], {}),
    "a key twice": (
        b'{"id": "no", "query": "a", "response": "b", "id": "r0"}\n' + B,
        "jsonl",
        [b'{"id": "no", "query": "a", "response": "b", "id": "r0"}', B],
        ["r0", "r1"],
        {0: "duplicate_key: the key 'id' stands 2 times in the record; the last one is read"},
    ),
    "no numbers": (
        A[:-1] + b', "a": NaN, "b": [-Infinity, Infinity]}\n' + B,
        "jsonl",
        [A[:-1] + b', "a": NaN, "b": [-Infinity, Infinity]}', B],
        ["r0", "r1"],
        {},
    ),
    "brackets without end": (
        A + b"\n" + b"[" * 100_000 + b"\n" + C,
        "jsonl",
        [A, b"[" * 100_000, C],
        ["r0", None, "r2"],
        {1: "nested too deeply"},
    ),
    "closed brackets without end": (
        b"[" + A + b",\n" + b"[" * 100_000 + b"]" * 100_000 + b",\n" + C + b"]",
        "json",
        [A, b"[" * 100_000 + b"]" * 100_000, C],
        ["r0", None, "r2"],
        {1: "nested too deeply"},
    ),
    "carriage returns": (A + b"\r\n" + B + b"\r\n\r\n" + C, "jsonl", [A, B, C], ["r0", "r1", "r2"], {}),
    "lists a line": (
        b'["what?", "a cat", 3]\n["what?", "a dog", 4]\n',
        "jsonl",
        [b'["what?", "a cat", 3]', b'["what?", "a dog", 4]'],
        [None, None],
        {0: "a list of 3; say which is which, such as --map instruction=0", 1: "--map response=1 --map image=2"},
    ),
    "a list of lists": (
        b'[["what?", "a cat", 3], ["what?", "a dog", 4]]',
        "json",
        [b'["what?", "a cat", 3]', b'["what?", "a dog", 4]'],
        [None, None],
        {0: "expected an object, got a list of 3", 1: "--map instruction=0"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True], ids=["as it is", "in gzip"])
@pytest.mark.parametrize("name", CASES)
def test_a_fault_costs_only_its_record(tmp_path: Path, name: str, packed: bool) -> None:
    content, form, raws, expected, words = CASES[name]
    reader = opened(tmp_path / "a", gzip.compress(content) if packed else content)
    records = list(reader.records(first_row=5))
    assert reader.name == form
    assert ids(records) == expected
    assert held(reader, records) == raws
    assert [record.origin.row for record in records] == list(range(5, 5 + len(raws)))
    for n, record in enumerate(records):
        assert words.get(n, "") in told(record)
        assert record.origin.line == content[: record.origin.start].count(b"\n") + 1
        if n not in words:
            assert told(record) == ""
    reader.divide(((record.origin, "out") for record in records), {"out": tmp_path / "out"})
    joined = b"[" + b",\n".join(raws) + b"]" if form == "json" else b"".join(raw + b"\n" for raw in raws)
    with Content(tmp_path / "out").open() as file:
        assert file.read() == joined
    assert Content(tmp_path / "out").layers == reader.layers


@pytest.mark.parametrize("name", CASES)
def test_a_record_is_the_same_alone(tmp_path: Path, name: str) -> None:
    reader = opened(tmp_path / "a", CASES[name][0])
    for record in reader.records():
        again = reader.record(record.origin)
        assert type(again) is type(record)
        assert ids([again]) == ids([record])


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".parquet", ".tar", ""])
def test_a_wrong_ending_changes_nothing(tmp_path: Path, form: str, ending: str) -> None:
    content = b"[" + A + b"," + B + b"]" if form == "json" else A + b"\n" + B
    reader = opened(tmp_path / f"a{ending}", content)
    assert (reader.name, ids(list(reader.records()))) == (form, ["r0", "r1"])


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_a_broken_layer_costs_only_the_record_that_is_cut(tmp_path: Path, form: str) -> None:
    lines = [line(n, f"{n * 7919 % 1009} é") for n in range(3000)]
    content = b"[" + b",\n".join(lines) + b"]" if form == "json" else b"\n".join(lines)
    packed = gzip.compress(content)[:-2000]
    reader = opened(tmp_path / "a", packed)
    records = list(reader.records())
    whole = [record for record in records if isinstance(record, Sample)]
    assert 1000 < len(whole) < 3000
    assert len(records) - len(whole) <= 1
    assert held(reader, whole) == lines[: len(whole)]
    assert [issue for record in records[:-1] for issue in record.issues] == []
    assert (
        f"damaged_file: what follows this record is lost: the gzip data is cut short at byte {len(packed)}"
        in told(records[-1])
    )
    reader.divide(((record.origin, "out") for record in records), {"out": tmp_path / "out"})
    assert ids(list(open_input(tmp_path / "out").records())) == ids(records)


def test_a_layer_that_breaks_between_two_records(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(A + b"\n" + B + b"\n"))
    packed[-5] ^= 1
    first, last = opened(tmp_path / "a", bytes(packed)).records()
    assert told(first) == ""
    assert isinstance(last, Sample)
    assert [(issue.kind, issue.severity) for issue in last.issues] == [("damaged_file", "warning")]
    assert "incorrect data check" in told(last)


def test_half_a_surrogate_pair_in_utf16(tmp_path: Path) -> None:
    text = '{"query": "a \ud83d b", "response": "\U0001f600"}\n{"query": "q", "response": "r"}'
    data = text.encode("utf-16", "surrogatepass")
    reader = opened(tmp_path / "a", data)
    broken, whole = reader.records()
    assert isinstance(broken, Sample)
    assert (broken.turns[0].instruction, broken.turns[0].response) == ("a \ufffd b", "\U0001f600")
    assert "broken_character" in told(broken)
    assert told(whole) == ""
    reader.divide([(broken.origin, "out")], {"out": tmp_path / "out"})
    assert (tmp_path / "out").read_bytes() == (text.splitlines()[0] + "\n").encode("utf-16", "surrogatepass")


def test_a_pair_written_as_two_halves_is_one_character(tmp_path: Path) -> None:
    (record,) = opened(tmp_path / "a", A.replace("é".encode(), b"\xed\xa0\xbd\xed\xb8\x80")).records()
    assert isinstance(record, Sample)
    assert (record.turns[0].response, told(record)) == ("\U0001f600", "")


def test_hangul_begins_with_the_byte_of_surrogates(tmp_path: Path) -> None:
    (record,) = opened(tmp_path / "a", line(0, "\ud55c\uae00\ufffd")).records()
    assert isinstance(record, Sample)
    assert (record.turns[0].response, told(record)) == ("\ud55c\uae00\ufffd", "")


def test_keys_with_half_a_surrogate_pair_beside_one_that_stands_twice(tmp_path: Path) -> None:
    data = A[:-1] + b', "\\ud800": 1, "\\ud800": 2, "query": "again"}'
    (record,) = opened(tmp_path / "a", data).records()
    assert "the key 'query' stands 2 times in the record" in told(record)
    told(record).encode()  # can be written everywhere


@pytest.mark.parametrize("depth", range(900, 1000, 7))
def test_a_key_that_stands_twice_in_a_deep_record(tmp_path: Path, depth: int) -> None:
    deep = b'{"id":' * depth + b"1" + b"}" * depth
    (record,) = opened(tmp_path / "a", A[:-1] + b', "meta": ' + deep + b', "query": "again"}').records()
    assert told(record) == "" or "duplicate_key" in told(record) or "nested too deeply" in told(record)


def test_elements_of_a_list_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'[["what?", "a cat", 3], ["what?", "a dog", 4]]')
    names = Names({"instruction": "0", "response": "1", "image": "2"})
    records = list(open_input(tmp_path / "a", names=names).records())
    assert [r.turns[0].response for r in records if isinstance(r, Sample)] == ["a cat", "a dog"]
    assert [r.media[0].reference for r in records if isinstance(r, Sample)] == ["3", "4"]


def test_a_long_line_is_read_in_memory_of_its_size(tmp_path: Path) -> None:
    big = line(1, "x" * 50_000_000)
    reader = opened(tmp_path / "a", A + b"\n" + big + b"\n" + C)
    tracemalloc.start()
    found = []
    for record in reader.records():
        found.append(record.id)
        del record
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == ["r0", "r1", "r2"]
    assert peak < 6 * len(big)


def test_a_file_that_grows_or_shrinks_while_it_is_read(tmp_path: Path) -> None:
    n = 1000
    data = b"".join(line(i, "x" * 900) + b"\n" for i in range(n))
    reader = opened(tmp_path / "a", data)
    records = reader.records()
    first = next(records)
    with (tmp_path / "a").open("ab") as file:
        file.write(line(n) + b"\n")
    rest = list(records)
    assert ids([first, *rest]) == [f"r{i}" for i in range(n + 1)]
    records = reader.records()
    assert next(records) == first
    with (tmp_path / "a").open("r+b") as file:
        file.truncate(500)
    rest = list(records)
    assert all(isinstance(record, Sample) for record in rest[:-1])
    assert (reader.share((rest or [first])[-1].origin) or 0) <= 1
    with pytest.raises(InputError, match="has changed since it was read; score it again"):
        reader.record(first.origin)
    with pytest.raises(InputError, match="has changed"):
        reader.divide([(first.origin, "out")], {"out": tmp_path / "out"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"BZh91AY", "is compressed with bzip2; unpack it with: bunzip2"),
        (b"PK\x03\x04....", "is a zip archive"),
        (b"<!DOCTYPE html><html>", "is HTML or XML, perhaps the page of a failed download"),
        (bytes(99), "is binary data"),
    ],
)
def test_what_is_no_data_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        opened(tmp_path / "a", data)


@given(
    pieces=st.lists(
        st.sampled_from([A, B, pretty(2), b"\n", b",", b"[", b"]", b"{", b'"', BOM, b"\0", b"\xff", b" x "]),
        max_size=12,
    ),
    packed=st.booleans(),
)
@example(pieces=[b"\0", b"\n", b"\0", b"[", A], packed=False)
@settings(deadline=None, max_examples=200)
def test_no_mixture_raises_or_loses_a_byte(tmp_path_factory: Any, pieces: list[bytes], packed: bool) -> None:
    folder = tmp_path_factory.mktemp("m")
    content = b"".join(pieces)
    try:
        reader = opened(folder / "a", gzip.compress(content) if packed else content)
    except InputError:
        return
    if (
        "utf-16" in reader.layers
    ):  # NUL, newline, NUL, bracket is a text too; its places are those of another content
        return
    records = list(reader.records())
    at = 0
    for record in records:  # between records stands nothing but blanks, commas, brackets of a list, and marks
        assert set(content[at : record.origin.start]) <= set(b" \n,[]" + BOM)
        assert at <= record.origin.start
        at = record.origin.end
        assert ids([reader.record(record.origin)]) == ids([record])
    assert set(content[at:]) <= set(b" \n,[]" + BOM)
    reader.divide(((record.origin, "out") for record in records), {"out": folder / "out"})


@pytest.mark.parametrize(
    ("whole", "broken"), [('"q3"', '"q3'), ('"r3"}', '"r3"'), ('"r3"}', '"r3"]'), (': "q3"', ": [")]
)
@pytest.mark.parametrize("within", ["[%s]", '{"data": [%s], "n": 1}'])
def test_a_loss_costs_one_record_of_a_list_on_one_line(
    tmp_path: Path, whole: str, broken: str, within: str
) -> None:
    pairs = [{"id": f"r{n}", "instruction": f"q{n}", "output": f"r{n}"} for n in range(9)]
    text = within % json.dumps(pairs)[1:-1].replace(whole, broken)
    records = list(opened(tmp_path / "a", text.encode()).records())
    assert ids(records) == [None if n == 3 else f"r{n}" for n in range(9)]
    assert "is never closed" in told(records[3])


def test_what_opens_alike_within_a_record_is_none(tmp_path: Path) -> None:
    text = '[{"id": "a", "x": [{"id": 1}, {"id": 2, "output": "lost}]}, {"id": "b", "query": "q", "response": "r"}]'
    records = list(opened(tmp_path / "a", text.encode()).records())
    assert records[-1].id == "b"
    assert all(not told(record) or isinstance(record, Unreadable) for record in records)


def test_a_lost_bracket_in_a_large_list_does_not_fill_memory(tmp_path: Path) -> None:
    records = [{"id": f"r{n}", "instruction": "q" * 3000, "output": "r"} for n in range(20_000)]
    text = json.dumps(records, indent=2).replace("}", "", 1)
    path = tmp_path / "a"
    path.write_text(text)
    size = len(text)
    del text, records
    tracemalloc.start()
    found = Counter(type(record) for record in open_input(path).records())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == {Sample: 19_999, Unreadable: 1}
    assert peak < 25_000_000 < size


def test_a_cut_record_is_told_alike_when_read_again(tmp_path: Path) -> None:
    reader = opened(tmp_path / "a", b"[" + A + b", " + B[:-3])
    last = list(reader.records())[-1]
    assert told(last).startswith(told(reader.record(last.origin)))
    assert "is never closed" in told(reader.record(last.origin))
