"""Parquet and Arrow: rows to conversations, damage, random access, and writing rows back by value."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlitqc.errors import FormatError, InputError, UsageError
from vlitqc.formats import HEAD_BYTES
from vlitqc.formats.arrow import Arrow
from vlitqc.formats.names import Names
from vlitqc.formats.parquet import Parquet
from vlitqc.formats.table import MAX_LOST, SLICE_ROWS, Table
from vlitqc.types import Record, Sample, Unreadable

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared data here")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def opened(path: Path) -> Table:
    head = path.read_bytes()[:HEAD_BYTES]
    (form,) = (form for form in (Parquet, Arrow) if form.fits(path, head))
    return form(path, Names())


def parquet(path: Path, table: pa.Table, **settings: Any) -> Table:
    pq.write_table(table, path, **settings)
    return opened(path)


def arrow(
    path: Path, table: pa.Table, rows: int = 1000, *, file: bool = False, codec: str | None = None
) -> Table:
    options = pa.ipc.IpcWriteOptions(compression=codec)
    new = pa.ipc.new_file if file else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return opened(path)


def load(path: Path) -> pa.Table:
    start = path.read_bytes()[:6]
    if start.startswith(b"PAR1"):
        return pq.ParquetFile(path).read()
    source = pa.py_buffer(path.read_bytes())
    return (pa.ipc.open_file if start == b"ARROW1" else pa.ipc.open_stream)(source).read_all()


def sample(record: Record) -> Sample:
    assert isinstance(record, Sample), record
    return record


def is_lost(record: Record) -> bool:
    return isinstance(record, Unreadable) and [i.kind for i in record.issues] == ["damaged_table"]


def pairs(n: int, start: int = 0) -> pa.Table:
    rows = range(start, start + n)
    return pa.table({"instruction": [f"Q{i}?" for i in rows], "output": [f"A{i} é" for i in rows]})


def one(tmp_path: Path, table: pa.Table) -> Sample:
    """The first row, which Parquet and Arrow read alike."""
    first, second = parquet(tmp_path / "a.parquet", table), arrow(tmp_path / "a.arrow", table)
    a, b = next(first.records()), next(second.records())
    assert a.origin.sha256 == b.origin.sha256
    got, other = sample(a), sample(b)
    assert (got.turns, got.media, got.meta) == (other.turns, other.media, other.meta)
    return got


def divided(reader: Table, choices: Sequence[str | None], folder: Path) -> dict[str, pa.Table]:
    names = sorted({"kept", "dropped", *(name for name in choices if name)})
    targets = {name: folder / f"{name}{reader.suffix}" for name in names}
    places = (
        (record.origin, name)
        for record, name in zip(reader.records(), choices, strict=True)
        if name is not None
    )
    reader.divide(places, targets)
    return {name: load(path) for name, path in targets.items()}


def assert_selects(table: pa.Table, choices: Sequence[str | None], outputs: dict[str, pa.Table]) -> None:
    for name, got in outputs.items():
        rows = [i for i, choice in enumerate(choices) if choice == name]
        expected = table.take(pa.array(rows, pa.int64()))
        assert got.schema.equals(expected.schema, check_metadata=True)
        assert got.equals(expected, check_metadata=True)


# ---------------------------------------------------------------- values


class TestFields:
    def test_pictures_as_datasets_stores_them(self, tmp_path: Path) -> None:
        held = [
            {"bytes": b"\x89PNG1", "path": "a.png"},
            {"bytes": b"2", "path": None},
            {"bytes": None, "path": "c"},
        ]
        table = pa.table(
            {
                "images": pa.array([held], pa.list_(IMAGE)),
                "texts": [[{"user": "What?", "assistant": "That.", "source": "vqa"}]],
            }
        )
        record = one(tmp_path, table)
        assert (record.media[0].reference, record.media[0].data) == ("a.png", b"\x89PNG1")
        assert [m.data for m in record.media] == [b"\x89PNG1", b"2", None]
        assert record.media[2].reference == "c"
        assert [(t.instruction, t.response) for t in record.turns] == [("What?", "That.")]

    @pytest.mark.parametrize(
        "column",
        [
            pa.array([{"bytes": b"x", "path": None}], IMAGE),
            pa.array([b"x"], pa.binary()),
            pa.array([b"x"], pa.large_binary()),
            pa.array([b"x"], pa.binary_view()),
            pa.array([b"x"], pa.binary(1)),
            pa.array([b"x"]).dictionary_encode(),
        ],
        ids=lambda column: str(column.type)[:20],
    )
    def test_a_picture_in_any_binary_column(self, tmp_path: Path, column: pa.Array) -> None:
        record = one(tmp_path, pa.table({"image": column, "caption": ["a dog"]}))
        assert [m.data for m in record.media] == [b"x"]

    def test_text_in_binary_columns(self, tmp_path: Path) -> None:
        picture = b"\xff\xd8\xff\xe0 picture"
        columns = {"image": [picture], "caption": ["é dog".encode()], "id": [b"7"], "other": [b"plain"]}
        got = one(tmp_path, pa.table({name: pa.array(held, pa.binary()) for name, held in columns.items()}))
        assert (got.id, got.turns[0].response, got.media[0].data) == ("7", "é dog", picture)
        assert got.meta == {"other": {"bytes": b"plain"}}
        lists = pa.table(
            {"image": [picture], "captions": pa.array([[b"a dog", b"a cat"]], pa.list_(pa.binary()))}
        )
        assert [turn.response for turn in one(tmp_path, lists).turns] == ["a dog", "a cat"]
        broken = pa.table({"image": [picture], "caption": [b"\xff"]})
        assert all(isinstance(r, Unreadable) for r in parquet(tmp_path / "b.parquet", broken).records())

    def test_mapped_binary_columns(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": [b"P6 1 1 255 abc"], "said": [b"a dog"]}), path)
        (record,) = Parquet(path, Names({"image": "text", "caption": "said"})).records()
        got = sample(record)
        assert (got.turns[0].response, got.media[0].data) == ("a dog", b"P6 1 1 255 abc")

    def test_a_row_without_its_picture(self, tmp_path: Path) -> None:
        for value in (None, {"bytes": None, "path": None}):
            table = pa.table({"image": pa.array([value], IMAGE)}).append_column(
                "messages", [[[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]]]
            )
            assert one(tmp_path, table).media == ()

    def test_parts_lose_the_keys_that_are_null(self, tmp_path: Path) -> None:
        parts = [{"index": None, "text": "Who?", "type": "text"}, {"index": 0, "text": None, "type": "image"}]
        answer = [{"index": None, "text": "They.", "type": "text"}]
        table = pa.table(
            {
                "messages": [[{"content": parts, "role": "user"}, {"content": answer, "role": "assistant"}]],
                "images": pa.array([[{"bytes": b"x", "path": None}]], pa.list_(IMAGE)),
            }
        )
        record = one(tmp_path, table)
        assert [(t.instruction, t.response) for t in record.turns] == [("Who?", "They.")]
        assert len(record.images) == 1
        assert record.issues == ()

    def test_objects_of_lists_become_lists_of_objects(self, tmp_path: Path) -> None:
        turned = {"from": ["human", "gpt"], "value": ["Q", "A"], "weight": [None, 1.0]}
        plain = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A", "weight": 1.0}]
        records = [one(tmp_path, pa.table({"conversations": [value]})) for value in (turned, plain)]
        assert records[0].turns == records[1].turns
        assert records[0].turns[0].response == "A"

    def test_values_that_json_does_not_have(self, tmp_path: Path) -> None:
        day = datetime.datetime(2023, 4, 27, 1, 2, 3, 500)
        columns = {
            "ms": pa.array([day], pa.timestamp("us")),
            "zone": pa.array([day], pa.timestamp("us", "UTC")),
            "ns": pa.array([1_682_557_323_000_000_001], pa.timestamp("ns")),
            "day": pa.array([day.date()]),
            "time": pa.array([day.time()]),
            "span": pa.array([datetime.timedelta(hours=1)]),
            "price": pa.array([decimal.Decimal("1.10")]),
            "kind": pa.array(["photo"]).dictionary_encode(),
            "map": pa.array([[("a", 1), ("b", None)]], pa.map_(pa.string(), pa.int64())),
            "nested": pa.array([{"x": {"y": None, "z": [day.date(), None]}}]),
            "half": pa.array([0.5], pa.float16()),
            "none": pa.array([None], pa.null()),
            "flag": pa.array([True]),
        }
        record = one(tmp_path, pairs(1).from_arrays(list(columns.values()), list(columns)).append_column(
            "instruction", [["Q"]]).append_column("output", [["A"]]))  # fmt: skip
        assert dict(record.meta) == {
            "ms": "2023-04-27T01:02:03.000500",
            "zone": "2023-04-27T01:02:03.000500+00:00",
            "ns": "2023-04-27T01:02:03.000000001",
            "day": "2023-04-27",
            "time": "01:02:03.000500",
            "span": "1:00:00",
            "price": "1.10",
            "kind": "photo",
            "map": {"a": 1, "b": None},
            "nested": {"x": {"z": ["2023-04-27", None]}},
            "half": 0.5,
            "none": None,
            "flag": True,
        }
        json.dumps(dict(record.meta))

    def test_a_value_that_python_cannot_hold_costs_itself(self, tmp_path: Path) -> None:
        table = pairs(2).append_column("when", pa.array([1, 2**62], pa.timestamp("s")))
        reader = arrow(tmp_path / "a", table)
        good, bad = reader.records()
        assert sample(good).meta == {"when": "1970-01-01T00:00:01"}
        assert sample(bad).meta == {}
        assert [(i.kind, i.severity) for i in bad.issues] == [("unreadable_value", "warning")]
        assert "column 'when' is left out: a timestamp[s]" in bad.issues[0].detail
        assert reader.record(bad.origin) == bad
        choices = ["kept", "dropped"]
        assert_selects(table, choices, divided(reader, choices, tmp_path / "out"))

    def test_text_that_is_no_utf8_costs_its_column_in_parquet(self, tmp_path: Path) -> None:
        raw = pa.array([b"fine", b"\xff\xfe"], pa.binary())
        table = pairs(2).append_column("note", raw.view(pa.string()))
        good, bad = parquet(tmp_path / "a.parquet", table).records()
        assert sample(good).meta == {"note": "fine"}
        assert [i.kind for i in bad.issues] == ["unreadable_value"]
        assert sample(bad).turns[0].response == "A1 é"

    def test_web_pages_alt_texts(self, tmp_path: Path) -> None:
        table = pa.table({"URL": ["http://x/a.jpg"], "TEXT": ["a dog"], "WIDTH": [3]})
        record = one(tmp_path, table)
        assert record.images[0].reference == "http://x/a.jpg"
        assert record.turns[0].response == "a dog"

    def test_names_can_be_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"pic": [b"x"], "q": ["Q"], "a": ["A"]}), path)
        (record,) = Parquet(path, Names({"image": "pic", "instruction": "q", "response": "a"})).records()
        assert sample(record).images[0].data == b"x"
        assert sample(record).turns[0].response == "A"


class TestExtensionTypes:
    def test_json(self, tmp_path: Path) -> None:
        messages = json.dumps([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}])
        storage = pa.array([messages, "no json"])
        table = pa.table({"messages": pa.ExtensionArray.from_storage(pa.json_(pa.string()), storage)})
        reader = parquet(tmp_path / "a.parquet", table)
        first, second = reader.records()
        assert sample(first).turns[0].response == "A"
        assert isinstance(second, Unreadable)
        assert_selects(table, ["dropped", "kept"], divided(reader, ["dropped", "kept"], tmp_path))

    @pytest.mark.parametrize("depth", [50, 300, 900, 990])
    def test_deep_json(self, tmp_path: Path, depth: int) -> None:
        storage = pa.array(["[" * depth + "]" * depth])
        table = pairs(1).append_column(
            "image", pa.ExtensionArray.from_storage(pa.json_(pa.string()), storage)
        )
        (record,) = parquet(tmp_path / "a.parquet", table).records()
        assert isinstance(record, Sample) or [i.kind for i in record.issues] == ["malformed_record"]

    def test_uuids_and_unknown_types_read_as_what_they_are_stored_in(self, tmp_path: Path) -> None:
        field = pa.field(
            "odd",
            pa.int64(),
            metadata={"ARROW:extension:name": "someone.else", "ARROW:extension:metadata": "x"},
        )
        uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef"], pa.binary(16)))
        table = pairs(1).append_column(field, [[5]]).append_column("uuid", uuids)
        for reader in (parquet(tmp_path / "a.parquet", table), arrow(tmp_path / "a.arrow", table)):
            (record,) = reader.records()
            assert sample(record).meta["odd"] == 5
            assert sample(record).meta["uuid"] == {"bytes": b"0123456789abcdef"}
            assert_selects(load(reader.path), ["kept"], divided(reader, ["kept"], tmp_path))

    def test_no_pickle_is_ever_opened(self, tmp_path: Path) -> None:
        proof = tmp_path / "opened"

        class Trap:
            def __reduce__(self) -> Any:
                return Path.touch, (proof,)

        trap = pickle.dumps(Trap())
        field = pa.field(
            "trap",
            pa.int64(),
            metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": trap},
        )
        table = pairs(3).append_column(field, [[1, 2, 3]])
        for reader in (parquet(tmp_path / "a.parquet", table), arrow(tmp_path / "a.arrow", table)):
            assert [sample(r).meta["trap"] for r in reader.records()] == [1, 2, 3]
            divided(reader, ["kept"] * 3, tmp_path)
        assert not proof.exists()
        pickle.loads(trap)
        assert proof.exists()  # the trap works


class TestDigest:
    def test_it_is_over_a_form_that_anybody_can_write(self, tmp_path: Path) -> None:
        table = pa.table({"a": [1], "b": ["é"], "c": [b"\0"], "d": [[None, True, 0.5]][:1] and [[0.5]]})
        (record,) = parquet(tmp_path / "a.parquet", table).records()
        form = b"s1:ai1;" + b"s1:bs2:\xc3\xa9" + b"s1:cb1:\0" + b"s1:dl1:d?\xe0\0\0\0\0\0\0"
        assert record.origin.sha256 == hashlib.sha256(form).hexdigest()

    def test_it_depends_on_values_and_not_on_storage(self, tmp_path: Path) -> None:
        table = pairs(50)
        large = pa.table(
            {
                "instruction": table["instruction"].cast(pa.large_string()),
                "output": table["output"].dictionary_encode(),
            }
        )
        readers = [
            parquet(tmp_path / "a", table),
            parquet(tmp_path / "b", large, row_group_size=7, compression="zstd"),
            arrow(tmp_path / "c", large, 9),
            arrow(tmp_path / "d", table, 11, file=True, codec="lz4"),
        ]
        digests = [[record.origin.sha256 for record in reader.records()] for reader in readers]
        assert all(row == digests[0] for row in digests)
        assert len(set(digests[0])) == 50


# ---------------------------------------------------------------- places


class TestPlaces:
    def test_origins_and_shares(self, tmp_path: Path) -> None:
        reader = parquet(tmp_path / "a.parquet", pairs(10), row_group_size=4)
        records = list(reader.records(100))
        assert [(r.origin.row, r.origin.line, r.origin.start, r.origin.end) for r in records] == [
            (100 + i, 1 + i, i, i + 1) for i in range(10)
        ]
        assert reader.share(records[4].origin) == 0.5
        assert (reader.name, reader.layers, reader.suffix, reader.files) == (
            "parquet", (), ".parquet", (tmp_path / "a.parquet",),
        )  # fmt: skip

    @pytest.mark.parametrize("n", [0, 1, SLICE_ROWS - 1, SLICE_ROWS, SLICE_ROWS + 1, 3 * SLICE_ROWS])
    def test_every_row_comes_once_and_can_be_found_again(self, tmp_path: Path, n: int) -> None:
        table = pairs(n)
        for reader in (
            parquet(tmp_path / "a", table, row_group_size=SLICE_ROWS + 5),
            arrow(tmp_path / "b", table, SLICE_ROWS + 5),
            arrow(tmp_path / "c", table, 100, file=True),
        ):
            records = list(reader.records())
            assert [sample(r).turns[0].response for r in records] == [f"A{i} é" for i in range(n)]
            again = pickle.loads(pickle.dumps(reader))
            for i in {0, n // 2, n - 1} if n else ():
                assert again.record(records[i].origin) == records[i]

    def test_a_file_that_has_changed(self, tmp_path: Path) -> None:
        for write in (parquet, arrow):
            reader = write(tmp_path / "a", pairs(5))
            origins = [record.origin for record in reader.records()]
            write(tmp_path / "a", pairs(4, 1))
            for origin in origins:
                with pytest.raises(InputError, match="has changed since it was read"):
                    reader.record(origin)
            for some in (origins, origins[4:]):
                with pytest.raises(InputError, match="has changed since it was read"):
                    reader.divide([(origin, "kept") for origin in some], {"kept": tmp_path / "kept"})
            assert not (tmp_path / "kept").exists()

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        reader = parquet(tmp_path / "a", pairs(5))
        (first, *_) = reader.records()
        reader.path.unlink()
        with pytest.raises(InputError, match=r"No such file or directory.*put it back"):
            reader.record(first.origin)

    def test_the_input_is_never_overwritten(self, tmp_path: Path) -> None:
        reader = parquet(tmp_path / "a", pairs(5))
        with pytest.raises(UsageError, match="is the input itself"):
            reader.divide([], {"kept": tmp_path / "a"})


# ---------------------------------------------------------------- writing back


class TestDivide:
    @settings(max_examples=30, deadline=None)
    @given(
        choices=st.lists(st.sampled_from(["kept", "dropped", None]), max_size=40),
        size=st.integers(1, 45),
        form=st.sampled_from(["parquet", "stream", "file"]),
        codec=st.sampled_from(["zstd", "lz4", None]),
    )
    def test_kept_and_dropped_are_the_input(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        choices: list[str | None],
        size: int,
        form: str,
        codec: str,
    ) -> None:
        folder = tmp_path_factory.mktemp("divide")
        n = len(choices)
        pictures = [None if i % 5 == 4 else [{"bytes": bytes([i]) * i, "path": None}] for i in range(n)]
        table = pairs(n)
        table = table.append_column("images", pa.array(pictures, pa.list_(IMAGE)))
        table = table.append_column(
            "kind", pa.array([None if i % 3 else "x" for i in range(n)]).dictionary_encode()
        )
        table = table.append_column("score", pa.array([i / 7 for i in range(n)], pa.float32()))
        table = table.replace_schema_metadata({"huggingface": "{}", "pandas": "{}"})
        path = folder / "in.x"
        if form == "parquet":
            reader = parquet(path, table, row_group_size=size, compression=codec or "none")
        else:
            reader = arrow(path, table, size, file=form == "file", codec=codec)
        outputs = divided(reader, choices, folder)
        assert_selects(load(path), choices, outputs)
        assert sum(map(len, outputs.values())) == sum(choice is not None for choice in choices)

    def test_codecs_dictionaries_and_row_groups_stay(self, tmp_path: Path) -> None:
        table = pairs(30).append_column("n", pa.array(range(30)))
        reader = parquet(
            tmp_path / "a.parquet",
            table,
            row_group_size=10,
            compression={"instruction": "zstd", "output": "gzip", "n": "none"},
            use_dictionary=["output"],
            write_page_index=True,
        )
        choices = ["dropped" if i // 10 == 1 or i == 0 else "kept" for i in range(30)]
        assert_selects(table, choices, divided(reader, choices, tmp_path))
        kept = pq.ParquetFile(tmp_path / "kept.parquet").metadata
        assert [kept.row_group(i).num_rows for i in range(kept.num_row_groups)] == [9, 10]
        columns = [kept.row_group(0).column(j) for j in range(3)]
        assert [c.compression for c in columns] == ["ZSTD", "GZIP", "UNCOMPRESSED"]
        assert [c.has_dictionary_page for c in columns] == [False, True, False]
        assert columns[0].has_offset_index

    @pytest.mark.parametrize("compliant", [True, False])
    def test_elements_keep_their_names(self, tmp_path: Path, compliant: bool) -> None:
        typed = pa.list_(pa.field("bag", pa.list_(pa.field("x", pa.int64(), nullable=False))))
        table = pairs(2).append_column("deep", pa.array([[[1]], None], typed))
        reader = parquet(
            tmp_path / "a.parquet",
            table,
            use_compliant_nested_type=compliant,
            compression={"instruction": "gzip"},
        )
        outputs = divided(reader, ["kept", "dropped"], tmp_path)
        assert_selects(load(reader.path), ["kept", "dropped"], outputs)

    def test_files_that_arrow_did_not_write(self, tmp_path: Path) -> None:
        """Without Arrow's own schema, with INT96 times and fields' numbers, as Spark writes."""
        field = pa.field("n", pa.int32(), metadata={"PARQUET:field_id": "7"})
        table = pairs(4).append_column(field, [pa.array(range(4), pa.int32())])
        table = table.append_column("t", pa.array(range(4), pa.timestamp("ns")))
        reader = parquet(
            tmp_path / "a.parquet",
            table,
            store_schema=False,
            use_deprecated_int96_timestamps=True,
            version="1.0",
        )
        choices = ["kept", "dropped", "dropped", "kept"]
        assert_selects(load(reader.path), choices, divided(reader, choices, tmp_path))

    def test_batches_and_their_compression_stay(self, tmp_path: Path) -> None:
        choices = ["dropped" if i // 10 == 1 or i == 0 else "kept" for i in range(30)]
        for file in (False, True):
            reader = arrow(tmp_path / "a.arrow", pairs(30), 10, file=file, codec="zstd")
            divided(reader, choices, tmp_path)
            raw = (tmp_path / "kept.arrow").read_bytes()
            assert raw.startswith(b"ARROW1") is file
            assert [len(b) for b in load(tmp_path / "kept.arrow").to_batches()] == [9, 10]
            again = arrow(tmp_path / "b.arrow", pairs(30).slice(1, 9), file=file, codec="zstd")
            assert len(raw) < 3 * len(again.path.read_bytes())

    def test_dictionaries_that_change_within_a_stream(self, tmp_path: Path) -> None:
        batches = [
            pa.record_batch(
                {
                    "instruction": [f"{word}{i}" for i in range(3)],
                    "output": pa.array([word] * 3).dictionary_encode(),
                }
            )
            for word in ("a", "b", "c")
        ]
        table = pa.Table.from_batches(batches)
        reader = arrow(tmp_path / "a.arrow", table)
        assert [sample(r).turns[0].response for r in reader.records()] == list("aaabbbccc")
        choices = ["kept", "dropped", "kept"] * 3
        outputs = divided(reader, choices, tmp_path)
        assert outputs["kept"]["output"].to_pylist() == list("aabbcc")
        assert outputs["kept"].schema.equals(table.schema)


# ---------------------------------------------------------------- damage


def group_bounds(path: Path, group: int, column: int = 1) -> tuple[int, int]:
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return start, start + chunk.total_compressed_size


class TestDamagedParquet:
    @pytest.mark.parametrize("how", ["header", "middle", "checksum"])
    def test_one_row_group_costs_itself(self, tmp_path: Path, how: str) -> None:
        path = tmp_path / "a.parquet"
        table = pairs(30)
        codec = "none" if how == "checksum" else "zstd"
        parquet(path, table, row_group_size=10, compression=codec, write_page_checksum=how == "checksum")
        start, end = group_bounds(path, 1)
        raw = bytearray(path.read_bytes())
        if how == "header":
            raw[start : start + 20] = b"\xff" * 20
        else:
            middle = (start + end) // 2
            raw[middle : middle + 8] = bytes(b ^ 0x55 for b in raw[middle : middle + 8])
        path.write_bytes(raw)
        reader = opened(path)
        records = list(reader.records())
        assert [is_lost(r) for r in records] == [10 <= i < 20 for i in range(30)]
        assert [r.origin.start for r in records] == list(range(30))
        assert "row 11 cannot be read, row group 2 of 3 being damaged: " in records[10].issues[0].detail
        assert [r.origin for r in (reader.record(records[i].origin) for i in (5, 15, 25))] == [
            records[i].origin for i in (5, 15, 25)
        ]
        assert is_lost(reader.record(records[15].origin))
        choices = ["dropped" if is_lost(r) else "kept" for r in records]
        outputs = divided(reader, choices, tmp_path / "out")
        assert outputs["kept"].equals(pa.concat_tables([table.slice(0, 10), table.slice(20)]))
        assert (len(outputs["dropped"]), outputs["dropped"].schema) == (0, table.schema)

    @pytest.mark.parametrize("keep", [4, 12, 0.5, -1, -8])
    def test_a_lost_footer_is_told(self, tmp_path: Path, keep: float) -> None:
        path = tmp_path / "a.parquet"
        parquet(path, pairs(30))
        raw = path.read_bytes()
        path.write_bytes(raw[: int(keep * len(raw)) if keep == 0.5 else int(keep)])
        with pytest.raises(FormatError, match=r"cannot be read .*cut short: fetch it again"):
            opened(path)

    def test_a_codec_that_nobody_knows(self, tmp_path: Path) -> None:
        """Asked for its name, pyarrow ends the process."""
        path = tmp_path / "a.parquet"
        parquet(path, pairs(20), row_group_size=10)
        raw = path.read_bytes()
        codec = b"instruction\x15\x02"  # the end of the column's path, then field 4: SNAPPY
        assert raw.count(codec) == 2
        path.write_bytes(raw.replace(codec, b"instruction\x15\x42", 1))
        reader = opened(path)
        records = list(reader.records())
        assert [is_lost(r) for r in records] == [True] * 10 + [False] * 10
        choices = ["dropped" if is_lost(r) else "kept" for r in records]
        assert divided(reader, choices, tmp_path)["kept"].equals(pairs(10, 10))
        path.write_bytes(raw.replace(codec, b"instruction\x15\x42"))
        assert len(divided(opened(path), ["kept"] * 20, tmp_path)["kept"]) == 0

    def test_packed_files_and_encrypted_footers_are_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        path.write_bytes(b"PARE" + bytes(100))
        with pytest.raises(FormatError, match="encrypted"):
            opened(path)
        path.write_bytes(b"\x1f\x8b" + bytes(100))
        with pytest.raises(FormatError, match="gunzip"):
            Parquet(path, Names())

    def test_encrypted_columns_cost_their_rows(self, tmp_path: Path) -> None:
        from pyarrow.parquet import encryption

        class Keys(encryption.KmsClient):  # type: ignore[misc, name-defined]
            def __init__(self, config: Any) -> None:
                encryption.KmsClient.__init__(self)

            def wrap_key(self, key: bytes, name: str) -> bytes:
                return key.hex().encode()

            def unwrap_key(self, key: bytes, name: str) -> bytes:
                return bytes.fromhex(key.decode())

        factory = encryption.CryptoFactory(Keys)
        config = encryption.EncryptionConfiguration(
            footer_key="f", column_keys={"c": ["output"]}, plaintext_footer=True
        )
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
        path = tmp_path / "a.parquet"
        with pq.ParquetWriter(path, pairs(3).schema, encryption_properties=properties) as writer:
            writer.write_table(pairs(3))
        try:
            records = list(opened(path).records())
        except FormatError as error:
            assert "crypt" in str(error)
        else:
            assert [is_lost(record) for record in records] == [True] * 3
            assert "crypt" in records[0].issues[0].detail

    def test_a_footer_that_promises_too_much(self, tmp_path: Path) -> None:
        """A part of any number of rows is reported in a bounded number of records."""
        reader = arrow(tmp_path / "a.arrow", pairs(3))
        raw = bytearray(reader.path.read_bytes())
        at = raw.rindex((3).to_bytes(8, "little"), 0, raw.rindex(b"Q0?"))
        places = [i for i in range(at + 1) if raw[i : i + 8] == (3).to_bytes(8, "little")]
        for place in places:
            changed = bytearray(raw)
            changed[place : place + 8] = (1 << 40).to_bytes(8, "little")
            reader.path.write_bytes(changed)
            lost = [r for r in opened(reader.path).records() if is_lost(r)]
            assert len(lost) <= MAX_LOST
            if len(lost) == MAX_LOST:
                assert lost[-1].origin.end == 1 << 40
                break
        else:
            pytest.fail("no place holds the batch's length")

    def test_bytes_changed_at_random_never_break_the_reader(self, tmp_path: Path) -> None:
        chance = random.Random(0)
        table = pairs(40).append_column("image", pa.array([bytes(20)] * 40))
        path = tmp_path / "a"
        for write in (
            lambda: parquet(path, table, row_group_size=10, compression="snappy"),
            lambda: arrow(path, table, 10),
            lambda: arrow(path, table, 10, file=True, codec="zstd"),
        ):
            form = type(write())
            raw = path.read_bytes()
            for _ in range(60):
                changed = bytearray(raw)
                for _ in range(chance.randint(1, 4)):
                    changed[chance.randrange(12, len(raw))] = chance.randrange(256)
                path.write_bytes(changed)
                try:
                    reader = form(path, Names())
                except FormatError:
                    continue
                records = list(reader.records())
                for record in chance.sample(records, min(2, len(records))):
                    assert reader.record(record.origin).origin == record.origin


class TestDamagedArrow:
    @pytest.mark.parametrize("file", [False, True])
    @pytest.mark.parametrize("codec", [None, "zstd"])
    def test_cut_anywhere(self, tmp_path: Path, file: bool, codec: str | None) -> None:
        path = tmp_path / "a.arrow"
        arrow(path, pairs(30), 10, file=file, codec=codec)
        raw = path.read_bytes()
        most = 0
        for cut in (*range(400, len(raw), 37), len(raw)):
            path.write_bytes(raw[:cut])
            try:
                records = list(opened(path).records())
            except FormatError as error:
                assert "cannot be read" in str(error)
                continue
            read = [sample(r).turns[0].response for r in records if not is_lost(r)]
            assert read == [f"A{i} é" for i in range(len(read))]
            assert len(read) % 10 == 0
            assert most <= len(read)
            assert len(read) == 30 or is_lost(records[-1]) or records[-1].issues[-1].kind == "table_cut_short"
            most = max(most, len(read))
        assert most == 30

    def test_a_batch_in_the_middle_costs_itself(self, tmp_path: Path) -> None:
        reader = arrow(tmp_path / "a.arrow", pairs(30), 10, codec="zstd")
        raw = bytearray(reader.path.read_bytes())
        frames = [i for i in range(len(raw)) if raw[i : i + 4] == b"\x28\xb5\x2f\xfd"]
        middle = frames[len(frames) // 2]
        raw[middle : middle + 12] = bytes(12)
        reader.path.write_bytes(raw)
        records = list(reader.records())
        assert [is_lost(r) for r in records] == [10 <= i < 20 for i in range(30)]
        choices = ["dropped" if is_lost(r) else "kept" for r in records]
        outputs = divided(reader, choices, tmp_path / "out")
        assert outputs["kept"].equals(pa.concat_tables([pairs(10), pairs(10, 20)]))

    def test_offsets_that_lead_out_of_their_buffer(self, tmp_path: Path) -> None:
        reader = arrow(tmp_path / "a.arrow", pairs(4))
        raw = reader.path.read_bytes()
        offsets = b"".join(i.to_bytes(4, "little") for i in (0, 3, 6, 9, 12))
        broken = b"".join(i.to_bytes(4, "little") for i in (0, 3, 6, 9, 0x7FFFFFF0))
        assert raw.count(offsets) == 1
        reader.path.write_bytes(raw.replace(offsets, broken))
        assert all(is_lost(record) for record in reader.records())

    def test_what_follows_the_end_is_told(self, tmp_path: Path) -> None:
        reader = arrow(tmp_path / "a.arrow", pairs(4))
        with reader.path.open("ab") as file:
            file.write(reader.path.read_bytes())
        *_, last = opened(reader.path).records()
        assert is_lost(last)
        assert "bytes follow the end of the stream" in last.issues[0].detail

    def test_other_files(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_bytes(b"FEA1" + bytes(50))
        with pytest.raises(FormatError, match="version 1"):
            opened(path)
        for head in (
            b"\xff\xff\xff\xff",
            b"\xff\xff\xff\xff\x10\0\0\0" + b"\xff" * 40,
            b"\xff" * 60,
            b"{}",
            b"",
        ):
            assert not Arrow.fits(path, head)
        pyarrow.feather.write_feather(pairs(3), str(path))
        assert len(list(opened(path).records())) == 3


def test_memory_is_bounded_in_one_huge_row_group(tmp_path: Path) -> None:
    """48 MB of pictures in one row group: at no time does pyarrow hold more than half of that."""
    chance = random.Random(1)
    pictures = pa.array([{"bytes": chance.randbytes(200_000), "path": None} for _ in range(240)], IMAGE)
    table = pa.table({"image": pictures, "caption": ["a"] * 240})
    reader = parquet(tmp_path / "a.parquet", table, write_batch_size=4, use_dictionary=False)
    del table, pictures
    before = pa.total_allocated_bytes()
    most = n = 0
    for record in reader.records():
        n += len(sample(record).images[0].data or b"")
        most = max(most, pa.total_allocated_bytes() - before)
    assert n == 48_000_000
    assert most < 24_000_000


# ---------------------------------------------------------------- the datasets library, and real files


class TestDatasets:
    def dataset(self) -> Any:
        import datasets
        from PIL import Image

        datasets.disable_progress_bars()
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "more": datasets.Sequence(datasets.Image()),
                "label": datasets.ClassLabel(names=["cat", "dog"]),
                "conversations": [{"from": datasets.Value("string"), "value": datasets.Value("string")}],
                "extra": datasets.Json(),
            }
        )
        rows = [
            {
                "image": Image.new("RGB", (4, 4), (i, 0, 0)),
                "more": [Image.new("L", (2, 2), i)] * (i % 3),
                "label": i % 2,
                "conversations": [
                    {"from": "human", "value": f"<image>{i}?"},
                    {"from": "gpt", "value": f"{i}!"},
                ],
                "extra": {"n": i},
            }
            for i in range(12)
        ]
        return datasets.Dataset.from_list(rows, features=features)

    def test_parquet_and_saved_folders_load_again(self, tmp_path: Path) -> None:
        import datasets

        made = self.dataset()
        made.to_parquet(tmp_path / "a.parquet", batch_size=5)
        made.save_to_disk(tmp_path / "saved")
        (saved,) = (tmp_path / "saved").glob("*.arrow")
        choices = ["kept" if i % 3 else "dropped" for i in range(12)]
        for path in (tmp_path / "a.parquet", saved):
            reader = opened(path)
            records = [sample(record) for record in reader.records()]
            assert [r.turns[0].response for r in records] == [f"{i}!" for i in range(12)]
            assert all((r.images[0].data or b"").startswith(b"\x89PNG") for r in records)
            assert records[3].meta["extra"] == {"n": 3}
            assert records[3].meta["label"] == 1
            assert_selects(load(path), choices, divided(reader, choices, tmp_path))
            kept = tmp_path / f"kept{path.suffix}"
            if path.suffix == ".parquet":
                loaded = datasets.Dataset.from_parquet(str(kept), cache_dir=str(tmp_path / "cache"))
            else:
                loaded = datasets.Dataset.from_file(str(kept))
            assert loaded.features == made.features
            assert [row["label"] for row in loaded] == [i % 2 for i in range(12) if i % 3]
            assert [row["image"].getpixel((0, 0))[0] for row in loaded] == [i for i in range(12) if i % 3]


REAL = {
    "data_juicer/tests/format/data/structured/demo-dataset.parquet": (6, 0),
    "derived_formats/dev/cauldron_style-00000-of-00001.parquet": (10, 10),
    "img2dataset_tests/tests/test_files/sample_image.parquet": (2, 0),
    "img2dataset_tests/tests/test_files/test_1000.parquet": (1000, 1000),
    "llama_factory_forks/data/mllm_example_dataset/data/test-0.parquet": (3, 3),
}


@needs_data
@pytest.mark.parametrize("name", REAL)
def test_real_parquet(tmp_path: Path, name: str) -> None:
    reader = opened(DATA / name)
    records = list(reader.records())
    n_rows, n_samples = REAL[name]
    assert (len(records), sum(isinstance(r, Sample) for r in records)) == (n_rows, n_samples)
    assert not any(map(is_lost, records))
    assert [reader.record(r.origin) for r in records[:20]] == records[:20]
    choices = ["kept" if i % 3 else "dropped" for i in range(n_rows)]
    assert_selects(load(DATA / name), choices, divided(reader, choices, tmp_path))


@needs_data
def test_the_pictures_of_a_real_file_are_whole(tmp_path: Path) -> None:
    path = DATA / "derived_formats/dev/cauldron_style-00000-of-00001.parquet"
    expected = [[p["bytes"] for p in row] for row in load(path)["images"].to_pylist()]
    assert [[m.data for m in sample(r).images] for r in opened(path).records()] == expected
    assert all(picture.startswith(b"\xff\xd8") for row in expected for picture in row)
