"""WebDataset tars: members to samples to conversations, faults of archives, and writing back byte for byte."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import random
import re
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlitqc.errors import FormatError, InputError
from vlitqc.formats import webdataset
from vlitqc.formats.names import Names
from vlitqc.formats.webdataset import WebDataset
from vlitqc.types import Record, Sample, Unreadable

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared data here")

Member = tuple[str, bytes]


def info(name: str, size: int = 0, type: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type = size, type
    for key, value in more.items():
        setattr(made, key, value)
    return made


def packed(members: Iterable[Member | tarfile.TarInfo], format: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive as tarfile writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, errors="surrogateescape") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                archive.addfile(info(member[0], len(member[1])), io.BytesIO(member[1]))
    return out.getvalue()


def opened(path: Path, content: bytes) -> WebDataset:
    path.write_bytes(content)
    assert WebDataset.fits(path, (gzip.decompress(content) if path.suffix == ".gz" else content)[:65536])
    return WebDataset(path, Names())


def read(tmp_path: Path, *members: Member | tarfile.TarInfo) -> list[Record]:
    return list(opened(tmp_path / "a.tar", packed(members)).records())


def one(tmp_path: Path, *members: Member | tarfile.TarInfo) -> Sample:
    (record,) = read(tmp_path, *members)
    assert isinstance(record, Sample), record
    return record


def kinds(record: Record) -> list[str]:
    return [issue.kind for issue in record.issues]


def caption(key: str, text: str = "a dog") -> list[Member]:
    return [
        (f"{key}.jpg", f"picture of {key}".encode(errors="surrogateescape")),
        (f"{key}.txt", text.encode()),
    ]


def chat(question: str = "<image>What?", **more: Any) -> bytes:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "That."}]
    return json.dumps({"conversations": turns, **more}).encode()


def grouped(archive: bytes) -> list[tuple[str, dict[str, bytes]]]:
    """The reading rule of the webdataset package, written anew: regular files in order; the key is the path up to the
    first dot of the base name, and the next sample begins where it changes."""
    files = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name)
            if member.isreg() and match:
                file = tar.extractfile(member)
                assert file is not None
                files.append((match[1], match[2].lower(), file.read()))
    return [
        (key, {end: data for _, end, data in held}) for key, held in itertools.groupby(files, lambda f: f[0])
    ]


def divided(reader: WebDataset, choices: Sequence[str | None], folder: Path) -> dict[str, bytes]:
    targets = {name: folder / f"{name}{reader.suffix}" for name in ("kept", "dropped")}
    records = list(reader.records())
    reader.divide(
        ((r.origin, name) for r, name in zip(records, choices, strict=True) if name is not None), targets
    )
    return {name: path.read_bytes() for name, path in targets.items()}


# ---------------------------------------------------------------- fields


class TestFields:
    def test_a_picture_with_its_caption(self, tmp_path: Path) -> None:
        record = one(tmp_path, *caption("000"))
        assert record.id == "000"
        assert [(m.kind, m.reference, m.data) for m in record.media] == [
            ("image", "000.jpg", b"picture of 000")
        ]
        assert [(t.instruction, t.response) for t in record.turns] == [("", "a dog")]
        assert record.issues == ()

    @pytest.mark.parametrize(
        "ending", ["jpg", "JPEG", "png", "webp", "gif", "bmp", "tiff", "ppm", "left.png"]
    )
    @pytest.mark.parametrize("text", ["txt", "caption", "text", "TXT"])
    def test_endings(self, tmp_path: Path, ending: str, text: str) -> None:
        record = one(tmp_path, (f"a/b.c/x.{ending}", b"p"), (f"a/b.c/x.{text}", b"words"))
        assert (record.id, record.images[0].data, record.turns[0].response) == ("a/b.c/x", b"p", "words")

    def test_videos_sounds_and_other_members(self, tmp_path: Path) -> None:
        record = one(
            tmp_path,
            ("x.mp4", b"v"),
            ("x.wav", b"s"),
            ("x.txt", b"t"),
            ("x.cls", b"7"),
            ("x.npy", b"\x93NUMPY\0"),
        )
        assert [(m.kind, m.data) for m in record.media] == [("video", b"v"), ("audio", b"s")]
        assert (record.meta["cls"], record.meta["npy"]) == ("7", "7 bytes")

    def test_json_gives_its_fields(self, tmp_path: Path) -> None:
        record = one(tmp_path, ("x.json", chat(id="mine", source="web")), ("x.jpg", b"p"))
        assert (record.id, dict(record.meta)) == ("mine", {"source": "web"})
        assert [(t.instruction, t.response) for t in record.turns] == [("<image>What?", "That.")]
        assert (len(record.images), record.issues) == (1, ())

    def test_json_of_img2dataset(self, tmp_path: Path) -> None:
        fields = {"caption": "a dog", "url": "http://x/y.jpg", "key": "000", "status": "success", "width": 3}
        record = one(tmp_path, *caption("000"), ("000.json", json.dumps(fields).encode()))
        assert [(m.reference, m.data) for m in record.media] == [("000.jpg", b"picture of 000")]
        assert [t.response for t in record.turns] == ["a dog"]
        assert record.meta["status"] == "success"

    def test_a_caption_beside_another_is_kept(self, tmp_path: Path) -> None:
        record = one(tmp_path, *caption("x", "of the txt"), ("x.json", b'{"caption": "of the json"}'))
        assert record.turns[0].response == "of the json"
        assert record.meta["txt"] == "of the txt"

    def test_json_that_is_no_object(self, tmp_path: Path) -> None:
        record = one(tmp_path, *caption("x"), ("x.json", b"[1, 2]"), ("x.boxes.json", b'{"a": 1}'))
        assert (record.meta["json"], record.meta["boxes"]) == ([1, 2], {"a": 1})

    def test_several_pictures_in_the_order_of_their_numbers(self, tmp_path: Path) -> None:
        members = [(f"x.{n}.jpg", str(n).encode()) for n in (10, 0, 2, 1)]
        record = one(tmp_path, *members, ("x.json", chat("<image>" * 4)))
        assert [m.data for m in record.images] == [b"0", b"1", b"2", b"10"]
        record = one(tmp_path, ("x.img2.png", b"2"), ("x.img1.jpg", b"1"), ("x.json", chat("<image>" * 2)))
        assert [m.data for m in record.images] == [b"1", b"2"]

    def test_the_embedded_picture_wins_over_the_path(self, tmp_path: Path) -> None:
        for path in ("x.jpg", "train2017/x.jpg", "elsewhere.jpg"):
            record = one(tmp_path, ("x.jpg", b"p"), ("x.json", chat(image=path)))
            assert [m.data for m in record.images] == [b"p"]
        listed = chat("<image><image>", images=["b.jpg", "a.jpg"])
        record = one(tmp_path, ("x.a.jpg", b"a"), ("x.b.jpg", b"b"), ("x.json", listed))
        assert [m.data for m in record.images] == [b"b", b"a"]

    def test_content_parts_that_name_members(self, tmp_path: Path) -> None:
        pictures = [{"type": "image", "image": "0.jpg"}, {"type": "image", "path": "1.jpg"}]
        parts = [pictures[0], {"type": "text", "text": "What?"}, pictures[1]]
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "That."}]
        members = [
            ("x.1.jpg", b"1"),
            ("x.0.jpg", b"0"),
            ("x.json", json.dumps({"messages": messages}).encode()),
        ]
        record = one(tmp_path, *members)
        assert [m.data for m in record.images] == [b"0", b"1"]
        assert record.issues == ()

    @pytest.mark.parametrize(
        "fields",
        [
            {"url": "http://h.org/train/x.jpg"},
            {"path": "images/x.jpg"},
            {"meta": {"url": "http://h.org/x.jpg", "path": "x.jpg"}},
            {"image_url": "http://h.org/other.jpg", "file_name": "x.jpg"},
            {"image": {"path": "x.jpg"}},
            {"image_url": "http://h.org/x.jpg"},
        ],
    )
    def test_the_embedded_picture_wins_over_every_address(
        self, tmp_path: Path, fields: dict[str, Any]
    ) -> None:
        said = json.dumps({"caption": "a dog", **fields}).encode()
        (medium,) = one(tmp_path, ("x.jpg", b"picture"), ("x.json", said)).media
        assert medium.data == b"picture"

    def test_the_cauldron_in_a_tar(self, tmp_path: Path) -> None:
        fields = {"texts": [{"user": "What?", "assistant": "That.", "source": "s"}]}
        record = one(tmp_path, ("x.jpg", b"p"), ("x.json", json.dumps(fields).encode()))
        assert [t.response for t in record.turns] == ["That."]
        assert record.images[0].data == b"p"

    def test_packed_members(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert (
            one(tmp_path, ("x.jpg", b"p"), ("x.txt.gz", gzip.compress(b"a dog"))).turns[0].response == "a dog"
        )
        broken = [gzip.compress(b"a dog" * 9)[:-9], b"no gzip", b"\x1f\x8b\x08" + b"\xff" * 30]
        for data in broken:
            (record,) = read(tmp_path, ("x.jpg", b"p"), ("x.txt.gz", data))
            assert kinds(record) == ["malformed_record"]
            assert "'x.txt.gz' at byte 1024 holds " in record.issues[0].detail
        monkeypatch.setattr(webdataset, "MAX_MEMBER_BYTES", 1000)
        (record,) = read(tmp_path, ("x.jpg", b"p"), ("x.txt.gz", gzip.compress(bytes(1001))))
        assert kinds(record) == ["member_too_large"]
        assert "unpacks to more than the limit of 1000 bytes" in record.issues[0].detail

    @pytest.mark.parametrize(
        ("name", "data", "why"),
        [
            ("x.json", b'{"a": ', "is not valid JSON: Expecting value: line 1 column 7"),
            ("x.json", b"", "is not valid JSON"),
            ("x.json", b"[" * 100_000, "is nested too deeply"),
            ("x.json", b'{"a": ' + b"1" * 5000 + b"}", "is not valid JSON: Exceeds the limit"),
            ("x.json", '{"a": 1}'.encode("utf-16"), "is not valid UTF-8: byte 0xff at byte 0"),
            ("x.txt", b"caf\xe9", "is not valid UTF-8: byte 0xe9 at byte 3 of it"),
        ],
    )
    def test_a_broken_member_is_named(self, tmp_path: Path, name: str, data: bytes, why: str) -> None:
        first, second = read(tmp_path, ("x.jpg", b"p"), (name, data), *caption("y"))
        assert isinstance(first, Unreadable)
        assert f"'{name}' at byte 1024 {why}" in first.issues[0].detail
        assert isinstance(second, Sample)

    @pytest.mark.parametrize("depth", [50, 300, 900, 990])
    def test_deep_json(self, tmp_path: Path, depth: int) -> None:
        nest = b"[" * depth + b"]" * depth
        for key in (b"image", b"meta", b"messages"):
            fields = b'{"%s": %s, "instruction": "What?", "output": "That."}' % (key, nest)
            (record,) = read(tmp_path, ("x.jpg", b"p"), ("x.json", fields))
            assert isinstance(record, Sample) or kinds(record) == ["malformed_record"]

    def test_a_bom_in_a_member(self, tmp_path: Path) -> None:
        assert one(tmp_path, ("x.jpg", b"p"), ("x.txt", b"\xef\xbb\xbfa dog")).turns[0].response == "a dog"


# ---------------------------------------------------------------- archives


class TestMembers:
    def test_names_of_every_kind(self, tmp_path: Path) -> None:
        long, odd = "deep/" * 60, b"caf\xe9".decode("utf-8", "surrogateescape")
        for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            names = [long + "x", odd, "/etc/passwd", "../../up", "日本", "with space"]
            archive = packed([m for name in names for m in caption(name)], format)
            reader = opened(tmp_path / "a.tar", archive)
            records = list(reader.records())
            assert [r.id for r in records] == [
                long + "x",
                "caf\ufffd",
                "/etc/passwd",
                "../../up",
                "日本",
                "with space",
            ]
            assert all(isinstance(r, Sample) and r.images[0].data for r in records)
            assert [reader.record(r.origin) for r in records] == records
            ranges = [archive[r.origin.start : r.origin.end] for r in records]
            assert b"".join(ranges) == archive[: records[-1].origin.end]
            assert divided(reader, ["kept"] * 6, tmp_path)["kept"] == archive

    def test_directories_and_global_headers_go_everywhere(self, tmp_path: Path) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", pax_headers={"comment": "all"}) as tar:
            for folder in ("a", "b"):
                tar.addfile(info(folder, type=tarfile.DIRTYPE))
                for name, data in caption(f"{folder}/0"):
                    tar.addfile(info(name, len(data)), io.BytesIO(data))
        reader = opened(tmp_path / "a.tar", out.getvalue())
        outputs = divided(reader, ["kept", "dropped"], tmp_path)
        for name, key in (("kept", "a/0"), ("dropped", "b/0")):
            with tarfile.open(fileobj=io.BytesIO(outputs[name])) as tar:
                assert sorted({*tar.getnames()} - {"a", "b"}) == [f"{key}.jpg", f"{key}.txt"]
                assert {"a", "b"} < set(tar.getnames())
                assert tar.pax_headers == {"comment": "all"}

    def test_a_directory_within_a_sample_does_not_split_it(self, tmp_path: Path) -> None:
        jpg, txt = caption("x")
        reader = opened(tmp_path / "a.tar", packed([jpg, info("d", type=tarfile.DIRTYPE), txt]))
        (record,) = reader.records()
        assert isinstance(record, Sample)
        assert (record.origin.start, record.origin.end) == (0, 5 * 512)
        assert divided(reader, ["kept"], tmp_path)["kept"] == reader.path.read_bytes()

    def test_what_macos_adds_is_part_of_the_sample_or_goes_everywhere(self, tmp_path: Path) -> None:
        members = [
            (name, data)
            for key in ("d/a", "d/b")
            for ending, data in (("jpg", b"picture"), ("txt", b"text " + key.encode()))
            for name, data in ((f"d/._{key[2:]}.{ending}", b"\0\5\x16\7" * 200), (f"{key}.{ending}", data))
        ]
        archive = packed(members)
        reader = opened(tmp_path / "a.tar", archive)
        records = list(reader.records())
        assert [(r.id, kinds(r)) for r in records] == [("d/a", []), ("d/b", [])]
        assert [r.turns[0].response for r in records if isinstance(r, Sample)] == ["text d/a", "text d/b"]
        outputs = divided(reader, ["kept", "kept"], tmp_path)
        assert outputs["kept"].rstrip(b"\0") == archive.rstrip(b"\0")
        with tarfile.open(fileobj=io.BytesIO(outputs["dropped"])) as tar:
            assert tar.getnames() == ["d/._a.jpg", "d/._b.jpg"]

    def test_members_of_no_sample_are_records(self, tmp_path: Path) -> None:
        strays = [("README", b"read me"), *caption("x"), (".hidden.jpg", b"h"), ("d/.x.jpg", b"x")]
        reader = opened(tmp_path / "a.tar", packed(strays))
        records = list(reader.records())
        assert [kinds(r) for r in records] == [["stray_member"], [], ["stray_member"], ["stray_member"]]
        assert "'README' at byte 0 is a file without an extension" in records[0].issues[0].detail
        outputs = divided(reader, ["dropped", "kept", "dropped", "dropped"], tmp_path)
        with tarfile.open(fileobj=io.BytesIO(outputs["dropped"])) as tar:
            assert tar.getnames() == ["README", ".hidden.jpg", "d/.x.jpg"]

    @pytest.mark.parametrize(
        ("type", "what"),
        [
            (tarfile.SYMTYPE, "a symbolic link"),
            (tarfile.LNKTYPE, "a hard link"),
            (tarfile.CHRTYPE, "a device"),
            (tarfile.FIFOTYPE, "a pipe"),
        ],
    )
    def test_links_and_devices_are_not_followed(self, tmp_path: Path, type: bytes, what: str) -> None:
        secret = tmp_path / "secret.txt"
        secret.write_text("secret")
        links = [info(name, type=type, linkname=str(secret)) for name in ("x.png", "link")]
        record, stray = read(tmp_path, *caption("x"), *links)
        assert kinds(record) == ["unread_member"]
        assert f"'x.png' at byte 2048 is {what}" in record.issues[0].detail
        assert [m.reference for m in record.media] == ["x.jpg"]
        assert kinds(stray) == ["stray_member"]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "secret.txt"]

    def test_duplicate_names(self, tmp_path: Path) -> None:
        record = one(tmp_path, *caption("x", "old"), ("x.txt", b"new"))
        assert record.turns[0].response == "new"
        assert kinds(record) == ["duplicate_member"]

    def test_parts_that_stand_apart(self, tmp_path: Path) -> None:
        jpg, txt = caption("x")
        first, other, second = read(tmp_path, jpg, *caption("y"), txt)
        assert isinstance(other, Sample)
        assert "split_sample" not in kinds(first)
        assert "split_sample" in kinds(second)
        assert "'x' do not stand together" in second.issues[-1].detail

    def test_empty_members(self, tmp_path: Path) -> None:
        (record,) = read(tmp_path, ("x.jpg", b""), ("x.json", chat("What?")))
        assert kinds(record) == ["unreadable_image"]
        assert record.media == ()

    def test_too_large_members(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(webdataset, "MAX_MEMBER_BYTES", 1000)
        monkeypatch.setattr(webdataset, "MAX_SAMPLE_BYTES", 1500)
        big, many, fine = read(
            tmp_path, ("a.jpg", bytes(1001)), ("b.0.jpg", bytes(1000)), ("b.1.jpg", bytes(501)), *caption("c")
        )
        assert kinds(big) == kinds(many) == ["member_too_large"]
        assert (
            "'a.jpg' at byte 0 holds 1001 bytes, over the limit of 1000 for a member" in big.issues[0].detail
        )
        assert "over the limit of 1500 for a sample" in many.issues[0].detail
        assert isinstance(fine, Sample)

    def test_sparse_members(self, tmp_path: Path) -> None:
        """GNU's old form: the map of where the data lies goes on in blocks behind the header."""
        header = bytearray(info("x.jpg", 512, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
        header[482] = 1
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        archive = bytes(header) + bytes(512) + b"d" * 512 + packed([("x.txt", b"t"), *caption("y")])
        reader = opened(tmp_path / "a.tar", archive)
        first, second = reader.records()
        assert (first.origin.end, second.origin.start) == (5 * 512, 5 * 512)
        assert "unread_member" in kinds(first)
        assert isinstance(second, Sample)

    def test_no_samples(self, tmp_path: Path) -> None:
        for members in ([("README", b"x")], [info("d", type=tarfile.DIRTYPE)]):
            with pytest.raises(FormatError, match="a tar without samples"):
                opened(tmp_path / "a.tar", packed(members))

    def test_what_is_no_tar(self, tmp_path: Path) -> None:
        for head in (b"", b"{}", bytes(1024), b"x" * 600, packed(caption("x"))[:511]):
            assert not WebDataset.fits(tmp_path, head)

    def test_layers(self, tmp_path: Path) -> None:
        archive = packed([m for i in range(5) for m in caption(f"{i}")])
        reader = opened(tmp_path / "a.tar.gz", gzip.compress(archive))
        assert (reader.layers, reader.suffix, reader.name) == (("gzip",), ".tar.gz", "webdataset")
        records = list(reader.records(7))
        assert [r.origin.row for r in records] == [7, 8, 9, 10, 11]
        assert reader.record(records[3].origin) == records[3]
        assert reader.share(records[3].origin) is None
        outputs = divided(reader, ["kept", "dropped", "kept", "kept", None], tmp_path)
        assert [key for key, _ in grouped(gzip.decompress(outputs["kept"]))] == ["0", "2", "3"]

    def test_the_file_has_changed(self, tmp_path: Path) -> None:
        reader = opened(tmp_path / "a.tar", packed([*caption("x"), *caption("y")]))
        origins = [r.origin for r in reader.records()]
        for archive in (packed([*caption("x"), *caption("z")]), packed(caption("x")), b""):
            reader.path.write_bytes(archive)
            with pytest.raises(InputError, match="has changed since it was read"):
                reader.record(origins[1])
            with pytest.raises(InputError, match="has changed since it was read"):
                reader.divide([(origins[1], "kept")], {"kept": tmp_path / "kept"})
        assert not (tmp_path / "kept").exists()


class TestFaults:
    def test_cut_at_every_place(self, tmp_path: Path) -> None:
        members = [m for i in range(4) for m in caption(f"{i}", "words " * 100)]
        archive = packed(members)
        whole = list(opened(tmp_path / "a.tar", archive).records())
        ends = [r.origin.end for r in whole]
        contents = [
            end - (-len("words " * 100) % 512) for end in ends
        ]  # what pads the last member may be missing
        for cut in range(1024, len(archive), 61):
            reader = opened(tmp_path / "a.tar", archive[:cut])
            records = list(reader.records())
            n_whole = sum(content <= cut for content in contents)
            assert [r.id for r in records[:n_whole]] == [str(i) for i in range(n_whole)]
            assert all(isinstance(r, Sample) for r in records[:n_whole])
            assert records[-1].origin.end == min(cut, ends[-1])
            rest = records[n_whole:]
            if rest and cut % 512:
                assert str(cut) in rest[-1].issues[-1].detail
            outputs = divided(reader, ["kept"] * n_whole + ["dropped"] * len(rest), tmp_path)
            assert [key for key, _ in grouped(outputs["kept"])] == [str(i) for i in range(n_whole)]
            assert all(archive[r.origin.start : r.origin.end] in outputs["dropped"] for r in rest)

    def test_an_end_without_its_mark_is_told(self, tmp_path: Path) -> None:
        reader = opened(tmp_path / "a.tar", packed([*caption("x"), *caption("y")])[:4096])
        first, second = reader.records()
        assert (kinds(first), kinds(second)) == ([], ["archive_cut_short"])
        assert "ends at byte 4096 without an end mark" in second.issues[0].detail
        assert reader.record(second.origin) == second

    @pytest.mark.parametrize("length", [1, 511, 512, 700, 5120])
    def test_garbage_between_members(self, tmp_path: Path, length: int) -> None:
        archive = packed([*caption("x"), *caption("y")])
        garbage = random.Random(length).randbytes(length)
        reader = opened(tmp_path / "a.tar", archive[:2048] + garbage + archive[2048:])
        first, broken, second = reader.records()
        assert [r.id for r in (first, second)] == ["x", "y"]
        assert isinstance(second, Sample)
        assert (broken.origin.start, broken.origin.end) == (2048, 2048 + length)
        assert f"bytes 2048 to {2048 + length} are no member of the archive" in broken.issues[0].detail
        assert reader.record(broken.origin) == broken
        outputs = divided(reader, ["kept", "dropped", "kept"], tmp_path)
        assert outputs["kept"] == archive
        assert outputs["dropped"].startswith(garbage)

    def test_huge_and_negative_sizes(self, tmp_path: Path) -> None:
        for size, where in ((8**11 - 1, 2), (-(1 << 40), 3), (1 << 60, 3)):
            header = info("evil.jpg", size).tobuf(tarfile.GNU_FORMAT)
            reader = opened(tmp_path / "a.tar", packed(caption("x"))[:2048] + header + packed(caption("y")))
            records = list(reader.records())
            assert len(records) == where
            assert records[0].id == "x"
            assert isinstance(records[1], Unreadable)
            assert isinstance(records[-1], Sample) is (where == 3)

    def test_headers_that_extend_without_end(self, tmp_path: Path) -> None:
        fine = packed(caption("x"))[:2048]
        evil = [
            info("h", 1 << 30, tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT),
            info("h", 20, tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT) + b"no pax at all, only text".ljust(512),
            info("h", 20, tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT)
            + b"nospaceinthisheader!".ljust(512, b"\0"),
            info("h", 20, tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT) + b"0 path=x\n".ljust(512, b"\0"),
            (info("h", 512, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT) + b"n" * 512) * 1000,
        ]
        for headers in evil:
            records = list(opened(tmp_path / "a.tar", fine + headers + packed(caption("y"))).records())
            assert records[0].id == "x"
            assert any(isinstance(record, Unreadable) for record in records)

    def test_archives_one_after_another(self, tmp_path: Path) -> None:
        first, second = opened(tmp_path / "a", packed(caption("x")) + packed(caption("y"))).records()
        assert (first.id, kinds(first)) == ("x", [])
        assert (second.id, kinds(second)) == ("y", ["after_end_of_archive"])

    def test_damaged_gzip(self, tmp_path: Path) -> None:
        chance = random.Random(3)
        members = [m for i in range(20) for m in (*caption(f"{i}"), (f"{i}.bin", chance.randbytes(3000)))]
        archive = gzip.compress(packed(members))
        path = tmp_path / "a.tar.gz"
        path.write_bytes(archive[: len(archive) // 2])
        records = list(WebDataset(path, Names()).records())
        assert 5 < len(records) < 15
        assert all(isinstance(r, Sample) for r in records[:-1])
        assert "gzip data is cut short" in records[-1].issues[0].detail


# ---------------------------------------------------------------- writing back


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 12), format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_kept_and_dropped_are_the_input(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, n: int, format: int
) -> None:
    folder = tmp_path_factory.mktemp("divide")
    members: list[Member] = []
    for i in range(n):
        prefix = data.draw(st.sampled_from(["", "d/", "long/" * 30, "é"]))
        members += [
            (f"{prefix}{i}.{end}", data.draw(st.binary(max_size=1500)))
            for end in data.draw(
                st.lists(st.sampled_from(["jpg", "txt", "json", "0.png"]), min_size=1, unique=True)
            )
        ]
    archive = packed(members, format)
    reader = opened(folder / "a.tar", archive)
    records = list(reader.records())
    assert len(records) == n
    samples = grouped(archive)
    for record, (key, held) in zip(records, samples, strict=True):
        assert grouped(archive[record.origin.start : record.origin.end] + bytes(1024)) == [(key, held)]
        assert reader.record(record.origin) == record
    choices = [data.draw(st.sampled_from(["kept", "dropped", None])) for _ in range(n)]
    for name, output in divided(reader, choices, folder).items():
        chosen = [i for i, choice in enumerate(choices) if choice == name]
        assert grouped(output) == [samples[i] for i in chosen]
        ranges = b"".join(archive[records[i].origin.start : records[i].origin.end] for i in chosen)
        assert output.startswith(ranges)
        assert len(output) % tarfile.RECORDSIZE == 0
        assert not output[len(ranges) :].strip(b"\0")


def test_bytes_changed_at_random_never_break_the_reader(tmp_path: Path) -> None:
    """Whatever an archive holds, its records and what lies between cover it, and every record can be read again."""
    chance = random.Random(5)
    archive = packed([m for i in range(6) for m in caption("long/" * (i % 2 * 40) + f"é{i}")])
    path = tmp_path / "a.tar"
    for _ in range(80):
        changed = bytearray(archive)
        for _ in range(chance.randint(1, 5)):
            at = chance.randrange(512, len(changed))
            if chance.random() < 0.7:
                changed[at] = chance.randrange(256)
            else:
                del changed[at : at + chance.randrange(700)]
            changed = changed if len(changed) > 1024 else bytearray(archive)
        path.write_bytes(changed)
        reader = WebDataset(path, Names())
        at = 0
        records = list(reader.records())
        for record in records:
            assert not bytes(changed[at : record.origin.start]).strip(b"\0")
            assert reader.record(record.origin).origin == record.origin
            at = record.origin.end
        outputs = divided(reader, [chance.choice(["kept", "dropped"]) for _ in records], tmp_path)
        assert all(
            any(bytes(changed[r.origin.start : r.origin.end]) in o for o in outputs.values()) for r in records
        )


# ---------------------------------------------------------------- real archives


REAL = {
    "clip_retrieval_tests/tests/test_clip_inference/test_tars/image1.tar": (4, 0),
    "clip_retrieval_tests/tests/test_clip_inference/test_tars/image3.tar": (2, 0),
    "derived_formats/dev/wds-000000.tar": (10, 10),
    "webdataset_tars/testdata/compressed.tar": (3, 0),
    "webdataset_tars/testdata/sample.tgz": (90, 0),
}


@needs_data
@pytest.mark.parametrize("name", REAL)
def test_real_archives(tmp_path: Path, name: str) -> None:
    path = DATA / name
    raw = path.read_bytes()
    archive = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    reader = WebDataset(path, Names())
    records = list(reader.records())
    samples = grouped(archive)
    assert len(records) == len(samples)
    assert (len(records), sum(isinstance(r, Sample) for r in records)) == REAL[name]
    assert [reader.record(r.origin) for r in records[:10]] == records[:10]
    for record, (key, held) in zip(records, samples, strict=True):
        assert record.id == key
        if isinstance(record, Sample):
            assert [m.data for m in record.images] == [held["jpg"]]
            assert record.turns[0].response == held["txt"].decode()
    choices = ["kept" if i % 3 else "dropped" for i in range(len(records))]
    for which, output in divided(reader, choices, tmp_path).items():
        unpacked = gzip.decompress(output) if output.startswith(b"\x1f\x8b") else output
        assert grouped(unpacked) == [s for s, choice in zip(samples, choices, strict=True) if choice == which]
    if archive is raw:
        assert divided(reader, ["kept"] * len(records), tmp_path)["kept"] == raw
