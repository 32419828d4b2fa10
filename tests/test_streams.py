"""Layers off and on again: whatever a file is wrapped in, and whatever of that is broken."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import pickle
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlitqc.errors import FormatError, InputError
from vlitqc.formats import open_input, streams
from vlitqc.formats.streams import Content

TEXT = "".join(f'{{"id": {n}, "text": "é 指 😀 {n * 7919 % 1000}"}}\n' for n in range(20_000))
PLAIN = TEXT.encode()


def zstd(data: bytes) -> bytes:
    """One frame, by pyarrow's one-shot codec: its streams are what is tested."""
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


WRAPPED: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "plain": (PLAIN, ()),
    "marked": (codecs.BOM_UTF8 + PLAIN, ()),
    "gzip": (gzip.compress(PLAIN), ("gzip",)),
    "members": (gzip.compress(PLAIN[:9999]) + gzip.compress(b"") + gzip.compress(PLAIN[9999:]), ("gzip",)),
    "padded": (gzip.compress(PLAIN) + bytes(700), ("gzip",)),
    "zstd": (zstd(PLAIN), ("zstd",)),
    "frames": (zstd(PLAIN[:7777]) + zstd(PLAIN[7777:]), ("zstd",)),
    "utf-16 marked little": (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), ("utf-16",)),
    "utf-16 marked big": (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), ("utf-16",)),
    "utf-16 little": (TEXT.encode("utf-16-le"), ("utf-16",)),
    "utf-16 big": (TEXT.encode("utf-16-be"), ("utf-16",)),
    "gzip of utf-16": (gzip.compress(TEXT.encode("utf-16")), ("gzip", "utf-16")),
    "gzip of zstd": (gzip.compress(zstd(PLAIN)), ("gzip", "zstd")),
    "gzip of marked": (gzip.compress(codecs.BOM_UTF8 + PLAIN), ("gzip",)),
}
wrapped = pytest.mark.parametrize("name", WRAPPED)


def content(path: Path, data: bytes) -> Content:
    path.write_bytes(data)
    return Content(path)


def unpacked(path: Path, data: bytes) -> tuple[bytes, str | None]:
    with content(path, data).open() as stream:
        return stream.read(), stream.fault


class TestReading:
    @wrapped
    def test_the_content_is_the_text(self, tmp_path: Path, name: str) -> None:
        data, layers = WRAPPED[name]
        found = content(tmp_path / "a", data)
        assert found.layers == layers
        assert found.start == (3 if "marked" in name and "16" not in name else 0)
        with found.open() as stream:
            assert stream.tell() == found.start
            assert stream.readline() == PLAIN[: PLAIN.index(b"\n") + 1]
            assert stream.read() == PLAIN[PLAIN.index(b"\n") + 1 :]
            assert stream.fault is None

    @wrapped
    def test_places_can_be_sought(self, tmp_path: Path, name: str) -> None:
        found = content(tmp_path / "a", WRAPPED[name][0])
        begin = found.start
        with found.open() as stream:
            assert stream.seek(0, io.SEEK_END) == begin + len(PLAIN)
            assert stream.read() == b""
            for at in (600_000, 5, 300_001, 300_050, 0, len(PLAIN) - 3, 100_000):
                assert stream.seek(begin + at) == stream.tell() == begin + at
                assert stream.read(40) == PLAIN[at : at + 40]
            stream.seek(begin + 10)
            stream.seek(7, io.SEEK_CUR)
            assert stream.read(3) == PLAIN[17:20]
            assert stream.seek(begin + len(PLAIN) + 99) >= begin + len(PLAIN)
            assert stream.read() == b""

    @wrapped
    def test_writing_puts_the_same_layers_on(self, tmp_path: Path, name: str) -> None:
        data, layers = WRAPPED[name]
        found = pickle.loads(pickle.dumps(content(tmp_path / "a", data)))
        with found.create(tmp_path / "b") as file:
            for at in range(0, len(PLAIN), 7777):
                file.write(PLAIN[at : at + 7777])
        again = Content(tmp_path / "b")
        assert (again.layers, again.start) == (layers, found.start)
        with again.open() as stream:
            assert stream.read() == PLAIN
        if not layers or layers == ("utf-16",):
            assert (tmp_path / "b").read_bytes() == data
        with pytest.raises(FileExistsError):
            found.create(tmp_path / "b")

    def test_packing_the_same_twice_gives_the_same_file(self, tmp_path: Path) -> None:
        found = content(tmp_path / "a", WRAPPED["gzip"][0])
        for name in ("b", "c"):
            with found.create(tmp_path / name) as file:
                file.write(PLAIN)
        assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
        assert gzip.decompress((tmp_path / "b").read_bytes()) == PLAIN

    @given(
        units=st.lists(st.integers(0, 0xFFFF), max_size=40),
        codec=st.sampled_from(["utf-16-le", "utf-16-be"]),
        step=st.integers(1, 9),
    )
    @settings(deadline=None, max_examples=200)
    def test_any_utf16_comes_back(
        self, tmp_path_factory: Any, units: list[int], codec: str, step: int
    ) -> None:
        folder = tmp_path_factory.mktemp("u")
        order = "little" if codec.endswith("le") else "big"
        data = b"".join(unit.to_bytes(2, order) for unit in [0xFEFF, *units])  # type: ignore[arg-type]
        plain, streams.STEP = streams.STEP, step
        try:
            found = content(folder / "a", data)
            if found.layers != ("utf-16",):  # FF FE 00 00 is the mark of UTF-32
                return
            with found.open() as stream, found.create(folder / "b") as file:
                while text := stream.read(3):
                    file.write(text)
            assert (folder / "b").read_bytes() == data
        except FormatError as error:
            assert "UTF-32" in str(error) and units[0] == 0
        finally:
            streams.STEP = plain

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"a\0\0\0\0\0\0\0",  # the name of a tar's first member
            b"\0\0\0\0{\"a\": 1}",
            b"\xff\xd8\xff\xe0\0\x10JFIF",
            b"{\0",
            b'\0\n\0{"id": 1}',  # NULs of a crash around a line end
            b'\n\0{\0"id": 1}',
            b"PK\x03\x04",
        ],
    )  # fmt: skip
    def test_what_has_no_layer(self, tmp_path: Path, data: bytes) -> None:
        found = content(tmp_path / "a", data)
        assert found.layers == ()
        with found.open() as stream:
            assert stream.read() == data

    @pytest.mark.parametrize("codec", ["utf-32", "utf-32-le", "utf-32-be"])
    def test_utf32_is_refused_with_the_cure(self, tmp_path: Path, codec: str) -> None:
        with pytest.raises(
            FormatError, match=r"is UTF-32 text; convert it with: iconv -f UTF-32-[LB]E -t UTF-8"
        ):
            content(tmp_path / "a", "[{}]".encode(codec))

    def test_packing_without_end_is_not_followed(self, tmp_path: Path) -> None:
        data = PLAIN
        for _ in range(9):
            data = gzip.compress(data)
        assert content(tmp_path / "a", data).layers == ("gzip",) * streams.MAX_LAYERS
        with pytest.raises(InputError, match="packed too many times"):
            open_input(tmp_path / "a")


class TestFaults:
    """Of a layer that breaks off, every byte before the fault is read, and the fault tells its place."""

    @pytest.mark.parametrize("pack", [gzip.compress, zstd])
    def test_a_cut_at_any_place(self, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
        packed = pack(PLAIN)
        kept = []
        for cut in range(4, len(packed), len(packed) // 40):
            data, fault = unpacked(tmp_path / "a", packed[:cut])
            assert PLAIN.startswith(data)
            assert fault is not None and f"is cut short at byte {cut}" in fault
            kept.append(len(data))
        assert kept == sorted(kept)
        assert kept[-1] > 0.9 * len(PLAIN)

    def test_as_much_as_gzip_can_give_is_read(self, tmp_path: Path) -> None:
        packed = gzip.compress(PLAIN)[:60_000]
        oracle = zlib.decompressobj(31)
        assert unpacked(tmp_path / "a", packed)[0] == oracle.decompress(packed)

    def test_a_wrong_checksum_loses_nothing(self, tmp_path: Path) -> None:
        packed = bytearray(gzip.compress(PLAIN))
        packed[-6] ^= 0xFF
        data, fault = unpacked(tmp_path / "a", bytes(packed))
        assert data == PLAIN
        assert fault == f"the gzip data is damaged at byte {len(packed) - 5} (incorrect data check)"

    @pytest.mark.parametrize(
        ("pack", "words"),
        [
            (gzip.compress, "something that is no gzip data follows at byte"),
            (zstd, "the zstd data is damaged at byte"),
        ],
    )
    def test_something_behind_the_packed_data(self, tmp_path: Path, pack: Any, words: str) -> None:
        data, fault = unpacked(tmp_path / "a", pack(PLAIN) + b"hello")
        assert data == PLAIN
        assert fault is not None and words in fault

    @pytest.mark.parametrize("pack", [gzip.compress, zstd])
    def test_a_whole_member_before_a_broken_one_is_read(self, tmp_path: Path, pack: Any) -> None:
        data, fault = unpacked(tmp_path / "a", pack(PLAIN) + pack(PLAIN)[:500])
        assert data.startswith(PLAIN)
        assert fault is not None and "cut short" in fault

    def test_half_a_character_at_the_end(self, tmp_path: Path) -> None:
        for text in ("[1]", "[1]\ud83d"):
            raw = text.encode("utf-16", "surrogatepass") + b"\x20"
            data, fault = unpacked(tmp_path / "a", raw)
            assert data == text.encode("utf-8", "surrogatepass")
            assert fault == f"the UTF-16 text is cut short within a character at byte {len(raw)}"

    def test_the_outer_layers_fault_is_told(self, tmp_path: Path) -> None:
        packed = gzip.compress(TEXT.encode("utf-16"))
        _, fault = unpacked(tmp_path / "a", packed[:-5000])
        assert fault == f"the gzip data is cut short at byte {len(packed) - 5000}"

    @given(
        data=st.binary(max_size=80), head=st.sampled_from([b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xff\xfe"])
    )
    @settings(deadline=None, max_examples=200)
    def test_no_bytes_raise(self, tmp_path_factory: Any, data: bytes, head: bytes) -> None:
        path = tmp_path_factory.getbasetemp() / "any"
        try:
            unpacked(path, head + data)
        except FormatError as error:
            assert "UTF-32" in str(error)

    def test_a_bomb_is_never_held(self, tmp_path: Path) -> None:
        with gzip.open(tmp_path / "a", "wb", compresslevel=1) as file:
            for _ in range(200):
                file.write(bytes(1 << 20))
        assert (tmp_path / "a").stat().st_size < 2_000_000
        tracemalloc.start()
        with Content(tmp_path / "a").open() as stream:
            n = 0
            while data := stream.read(1 << 16):
                n += len(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert n == 200 << 20
        assert peak < 4_000_000

    def test_nothing_to_unpack_is_told_when_it_is_opened(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(gzip.compress(PLAIN)[:12])
        with pytest.raises(InputError, match="is damaged: the gzip data is cut short at byte 12"):
            open_input(tmp_path / "a")


class TestPackedRecords:
    @wrapped
    def test_records_go_through_all_layers_and_back(self, tmp_path: Path, name: str) -> None:
        lines = [
            json.dumps({"id": f"r{n}", "query": "指?", "response": "é"}, ensure_ascii=False) for n in range(9)
        ]
        text = "\n".join(lines)
        pack: dict[str, Callable[[], bytes]] = {
            "plain": text.encode,
            "marked": lambda: text.encode("utf-8-sig"),
            "members": lambda: gzip.compress(text[:20].encode()) + gzip.compress(text[20:].encode()),
            "padded": lambda: gzip.compress(text.encode()) + bytes(9),
            "zstd": lambda: zstd(text.encode()),
            "frames": lambda: zstd(text[:20].encode()) + zstd(text[20:].encode()),
            "gzip of utf-16": lambda: gzip.compress(text.encode("utf-16")),
            "gzip of zstd": lambda: gzip.compress(zstd(text.encode())),
            "gzip of marked": lambda: gzip.compress(text.encode("utf-8-sig")),
            "utf-16 marked little": lambda: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
            "utf-16 marked big": lambda: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
            "utf-16 little": lambda: text.encode("utf-16-le"),
            "utf-16 big": lambda: text.encode("utf-16-be"),
        }
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(pack.get(name, lambda: gzip.compress(text.encode()))())
        reader = open_input(path)
        assert (reader.name, reader.suffix, reader.layers) == ("jsonl", ".jsonl.gz", WRAPPED[name][1])
        records = list(reader.records())
        assert [record.id for record in records] == [f"r{n}" for n in range(9)]
        assert [reader.record(record.origin) for record in reversed(records)] == records[::-1]
        assert (reader.share(records[-1].origin) is None) == bool(reader.layers)
        places = [(r.origin, "even" if r.origin.row % 2 == 0 else "odd") for r in records]
        reader.divide(places, {"even": tmp_path / "even", "odd": tmp_path / "odd"})
        for part, rows in (("even", slice(0, None, 2)), ("odd", slice(1, None, 2))):
            again = open_input(tmp_path / part)
            assert again.layers == reader.layers
            assert [r.origin.sha256 for r in again.records()] == [r.origin.sha256 for r in records[rows]]
            with Content(tmp_path / part).open() as stream:
                assert stream.read().decode().splitlines() == lines[rows]
