"""Documents with their records under a key, and MIMIC-IT's pairs of files."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlitqc.errors import FormatError, InputError
from vlitqc.formats import Reader, json_records, open_input
from vlitqc.formats.names import Names
from vlitqc.types import Record, Sample, Unreadable

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared data here")
DERIVED = DATA / "derived_formats" / "dev"
COCO = DATA / "coco_captions_val2017" / "captions_val2017_dev.json"


def pair(n: int, **more: Any) -> dict[str, Any]:
    return {"id": f"r{n}", "instruction": "Q", "output": f"é {n}", **more}


def opened(path: Path, value: Any, **more: Any) -> Reader:
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, **more))
    return open_input(path)


def ids(records: Iterable[Record]) -> list[str | None]:
    return [record.id if isinstance(record, Sample) else None for record in records]


def divided(reader: Reader, records: list[Record], folder: Path, rows: Iterable[int]) -> dict[str, Any]:
    """The two documents that the records of ``rows`` and the others go to."""
    kept = set(rows)
    places = [(r.origin, "kept" if r.origin.row in kept else "dropped") for r in records]
    reader.divide(places, {"kept": folder / "kept", "dropped": folder / "dropped"})
    return {name: json.loads((folder / name).read_bytes()) for name in ("kept", "dropped")}


class TestReading:
    @pytest.mark.parametrize("indent", [None, 0, 3])
    @pytest.mark.parametrize("key", ["annotations", "data", 'odd "key" \\ é'])
    def test_a_list_under_a_key(self, tmp_path: Path, indent: int | None, key: str) -> None:
        value = {"info": {"a": [1, {"b": "]}"}]}, key: [pair(n) for n in range(4)], "version": 1.5}
        reader = opened(tmp_path / "a.json", value, indent=indent)
        records = list(reader.records(first_row=3))
        assert (reader.name, reader.suffix, ids(records)) == (
            "json_document",
            ".json",
            ["r0", "r1", "r2", "r3"],
        )
        assert [r.origin.row for r in records] == [3, 4, 5, 6]
        raw = (tmp_path / "a.json").read_bytes()
        for n, record in enumerate(records):
            assert json.loads(raw[record.origin.start : record.origin.end]) == pair(n)
            assert record.origin.line == raw[: record.origin.start].count(b"\n") + 1
            assert pickle.loads(pickle.dumps(reader)).record(record.origin) == record
        assert [record.issues for record in records] == [()] * 4

    def test_records_by_their_ids(self, tmp_path: Path) -> None:
        pairs = {
            "a": {"instruction": "Q", "answer": "A"},
            "b": {"id": "own", "instruction": "Q", "answer": "A"},
        }
        reader = opened(tmp_path / "a", {"meta": {}, "data": pairs})
        records = list(reader.records())
        assert ids(records) == ["a", "own"]
        raw = (tmp_path / "a").read_bytes()
        assert raw[records[0].origin.start : records[0].origin.end].startswith(b'"a": {"instruction"')
        assert reader.record(records[0].origin) == records[0]

    def test_every_key_that_holds_conversations_is_read(self, tmp_path: Path) -> None:
        value = {"train": [pair(0), pair(1)], "names": ["x"], "test": {"k": pair(2)}, "other": [{"a": 1}]}
        reader = opened(tmp_path / "a", value)
        records = list(reader.records())
        assert ids(records) == ["r0", "r1", "r2"]
        assert divided(reader, records, tmp_path, [1]) == {
            "kept": {"train": [pair(1)], "names": ["x"], "test": {}, "other": [{"a": 1}]},
            "dropped": {"train": [pair(0)], "names": ["x"], "test": {"k": pair(2)}, "other": [{"a": 1}]},
        }

    def test_late_and_other_records_are_read_as_well(self, tmp_path: Path) -> None:
        late = [{"a": n} for n in range(8)] + [pair(0)]
        test, part, table = [{"q": "x", "a": "y"}], {"k": {"instruction": "Q"}}, [{"id": 1, "url": "u"}]
        value = {
            "test": test,
            "one": late,
            "two": [pair(1)],
            "part": part,
            "licenses": table,
            "images": table,
        }
        reader = opened(tmp_path / "a", value)
        records = list(reader.records())
        assert ids(records) == [*[None] * 9, "r0", "r1", "k"]
        assert isinstance(records[0], Unreadable) and "--map" in records[0].issues[0].detail
        found = divided(reader, records, tmp_path, range(10))
        tables = {"licenses": table, "images": table}
        assert found["kept"] == {"test": test, "one": late, "two": [], "part": {}, **tables}
        assert found["dropped"] == {"test": [], "one": [], "two": [pair(1)], "part": part, **tables}

    def test_what_cannot_be_read_is_a_record_too(self, tmp_path: Path) -> None:
        value = {"data": [pair(0), 3, {"a": 1}, ["x"], None, "text", pair(1)]}
        reader = opened(tmp_path / "a", value)
        records = list(reader.records())
        assert ids(records) == ["r0", None, None, None, None, None, "r1"]
        told = [record.issues[0].detail for record in records[1:-1]]
        assert told[0] == "expected an object, got a number"
        assert told[-1] == "expected an object, got a string"
        assert divided(reader, records, tmp_path, [0, 6])["dropped"] == {
            "data": [3, {"a": 1}, ["x"], None, "text"]
        }

    @pytest.mark.parametrize(
        "value",
        [
            pair(0),
            {"id": 1, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            {"messages": [{"role": "user", "content": "q"}], "images": [{"path": "a.jpg", "caption": "c"}]},
        ],
    )
    @pytest.mark.parametrize("indent", [None, 2])
    def test_a_lone_record_is_none(self, tmp_path: Path, value: Any, indent: int | None) -> None:
        reader = opened(tmp_path / "a", value, indent=indent)
        assert reader.name == "jsonl"
        assert all(isinstance(record, Sample) for record in reader.records())

    def test_a_lone_record_with_a_large_picture_is_none(self, tmp_path: Path) -> None:
        picture = base64.b64encode(bytes(3_000_000)).decode()
        messages = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
        for value in (
            {"image": picture, "conversations": messages},
            {"conversations": messages, "image": picture},
        ):
            line = json.dumps(value)
            assert opened(tmp_path / "a", line).name == "jsonl"
            assert opened(tmp_path / "a", f"{line}\n{line}\n").name == "jsonl"

    def test_large_things_before_the_records(self, tmp_path: Path) -> None:
        value = {
            "text": "x" * 2_000_000,
            "log": [{"n": n, "t": "y" * 90} for n in range(20_000)],
            "data": [pair(0)],
        }
        reader = opened(tmp_path / "a", value)
        records = list(reader.records())
        assert (reader.name, ids(records)) == ("json_document", ["r0"])
        assert divided(reader, records, tmp_path, []) == {"dropped": value, "kept": {**value, "data": []}}

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (
                {"info": {"a": 1}, "annotations": [{"id": 1}, {"id": 2}]},
                "holds 2 annotations; no conversation",
            ),
            ({"info": {"a": 1}, "annotations": [{"id": 1}, {"id": 2}]}, "--map instruction=THEIRS"),
            ({"model": {"layers": {"a": 1}}, "steps": [1, 2]}, "is one JSON object"),
            ({"train": {"data": [pair(0)]}, "test": {"data": []}}, "holds 'train', 'test'; no conversation"),
        ],
    )
    def test_other_documents_are_refused(self, tmp_path: Path, value: Any, words: str) -> None:
        for indent in (None, 1):
            with pytest.raises(FormatError, match=words):
                opened(tmp_path / "a", value, indent=indent)

    def test_fields_may_be_named(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text(json.dumps({"rows": [{"ask": "Q", "say": "A"}]}))
        reader = open_input(tmp_path / "a", names=Names({"instruction": "ask", "response": "say"}))
        (record,) = reader.records()
        assert isinstance(record, Sample)
        assert (record.turns[0].instruction, record.turns[0].response) == ("Q", "A")

    @pytest.mark.parametrize("chunk", [1, 5, 64])
    def test_the_size_of_a_chunk_does_not_matter(self, tmp_path: Path, chunk: int, monkeypatch: Any) -> None:
        value = {"é": [], "a": {"x": None}, "data": {f"k {n}": pair(n) for n in range(3)}, "rest": [pair(9)]}
        expected = list(opened(tmp_path / "a", value).records())
        assert ids(expected) == ["r0", "r1", "r2", "r9"]
        monkeypatch.setattr(json_records, "CHUNK", chunk)
        assert list(open_input(tmp_path / "a").records()) == expected

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        pairs = ",\n".join(json.dumps(pair(n, more="x" * 9000)) for n in range(3000))
        (tmp_path / "a").write_text(f'{{"images": [], "data": [{pairs}]}}')
        size = len(pairs)
        del pairs
        tracemalloc.start()
        reader = open_input(tmp_path / "a")
        reader.divide(((r.origin, "out") for r in reader.records()), {"out": tmp_path / "out"})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8_000_000 < size / 3
        assert json.loads((tmp_path / "out").read_bytes()) == json.loads((tmp_path / "a").read_bytes())


class TestFaults:
    @pytest.mark.parametrize("named", [False, True])
    def test_a_document_cut_anywhere_gives_every_whole_record(self, tmp_path: Path, named: bool) -> None:
        pairs = [pair(n) for n in range(4)]
        value = {"info": 1, "data": {p["id"]: p for p in pairs} if named else pairs}
        whole = list(opened(tmp_path / "a", value).records())
        content = (tmp_path / "a").read_bytes()
        for cut in range(whole[0].origin.end, len(content) - 2):
            (tmp_path / "b").write_bytes(content[:cut])
            reader = open_input(tmp_path / "b")
            records = list(reader.records())
            n = sum(record.origin.end <= cut for record in whole)
            rest = content[whole[n - 1].origin.end : cut].lstrip(b" ,")
            assert reader.name == "json_document"
            assert ids(records) == [f"r{i}" for i in range(n)] + [None] * bool(rest)
            if rest:
                assert f"the file ends at byte {cut}" in records[-1].issues[0].detail
                assert content[records[-1].origin.start : records[-1].origin.end] == rest
            kept = divided(reader, records[:n], tmp_path, range(n))["kept"]
            assert kept == {"info": 1, "data": dict(list(value["data"].items())[:n]) if named else pairs[:n]}  # type: ignore[attr-defined]

    def test_a_broken_record_costs_only_itself(self, tmp_path: Path) -> None:
        text = json.dumps({"data": [pair(0), pair(1), pair(2)]}).replace('"r1"', '"r1",,')
        records = list(opened(tmp_path / "a", text).records())
        assert ids(records) == ["r0", None, "r2"]
        assert "not valid JSON" in records[1].issues[0].detail

    def test_through_layers(self, tmp_path: Path) -> None:
        text = json.dumps({"info": "é", "data": [pair(n) for n in range(3)]}, ensure_ascii=False)
        for n, data in enumerate(
            (gzip.compress(text.encode()), text.encode("utf-16"), text.encode("utf-8-sig"))
        ):
            (tmp_path / "a").write_bytes(data)
            reader = open_input(tmp_path / "a")
            records = list(reader.records())
            assert ids(records) == ["r0", "r1", "r2"]
            assert [reader.record(r.origin) for r in records] == records
            reader.divide([(records[1].origin, "out")], {"out": tmp_path / f"out{n}"})
            again = open_input(tmp_path / f"out{n}")
            assert (again.name, again.layers, ids(again.records())) == (
                "json_document",
                reader.layers,
                ["r1"],
            )

    def test_a_changed_document_is_not_divided(self, tmp_path: Path) -> None:
        reader = opened(tmp_path / "a", {"data": [pair(0), pair(1)]})
        records = list(reader.records())
        (tmp_path / "a").write_text(json.dumps({"data": [pair(0), pair(2)]}))
        with pytest.raises(InputError, match="has changed"):
            reader.divide([(r.origin, "out") for r in records], {"out": tmp_path / "out"})
        assert not (tmp_path / "out").exists()

    JSON = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    )

    @given(
        before=st.dictionaries(st.text("abc", max_size=2), JSON, max_size=3),
        after=st.dictionaries(st.text("xyz", max_size=2), JSON, max_size=3),
        n=st.integers(1, 5),
        named=st.booleans(),
        indent=st.sampled_from([None, 1]),
        kept=st.sets(st.integers(0, 4)),
        chunk=st.integers(1, 30),
    )
    @settings(deadline=None, max_examples=150)
    def test_division_keeps_every_value_in_order(
        self,
        tmp_path_factory: Any,
        before: dict[str, Any],
        after: dict[str, Any],
        n: int,
        named: bool,
        indent: int | None,
        kept: set[int],
        chunk: int,
    ) -> None:
        pairs = [pair(i) for i in range(n)]

        def document(rows: Iterable[int]) -> dict[str, Any]:
            chosen = [pairs[i] for i in rows]
            return {**before, "data": {f"k{p['id']}": p for p in chosen} if named else chosen, **after}

        folder = tmp_path_factory.mktemp("d")
        plain, json_records.CHUNK = json_records.CHUNK, chunk
        try:
            reader = opened(folder / "a", document(range(n)), indent=indent)
            records = list(reader.records())
            found = divided(reader, records, folder, kept)
        finally:
            json_records.CHUNK = plain
        assert ids(records) == [f"r{i}" for i in range(n)]
        for name, rows in (("kept", kept & set(range(n))), ("dropped", set(range(n)) - kept)):
            assert json.dumps(found[name]) == json.dumps(document(sorted(rows)))


class TestPictures:
    IMAGES: tuple[dict[str, Any], ...] = ({"id": 7, "file_name": "a/7.jpg"}, {"id": 8, "file_name": "8.png"})

    @pytest.mark.parametrize("last", [False, True])
    def test_captions_get_the_file_names_of_their_pictures(self, tmp_path: Path, last: bool) -> None:
        captions = [{"image_id": i, "id": 10 + i, "caption": f"about {i}"} for i in (8, 7, 8, 9)]
        images = {"images": self.IMAGES}
        value = {"info": {}, **({} if last else images), "annotations": captions, **(images if last else {})}
        reader = opened(tmp_path / "a", value)
        records = list(reader.records())
        assert [r.images[0].reference for r in records if isinstance(r, Sample)] == [
            "8.png",
            "a/7.jpg",
            "8.png",
            "9",
        ]
        assert ids(records) == ["18", "17", "18", "19"]
        assert [reader.record(r.origin) for r in records] == records
        assert divided(reader, records, tmp_path, [0])["kept"] == json.loads(
            json.dumps(value | {"annotations": captions[:1]})
        )

    def test_ids_alone_are_names_with_jpg(self, tmp_path: Path) -> None:
        annotations = [
            {"image_id": "2", "caption": "A"},
            {"image_id": "b.png", "caption": "B"},
            {"image": "c", "image_id": 1, "caption": "C"},
        ]
        records = opened(tmp_path / "a", {"annotations": annotations}).records()
        assert [r.images[0].reference for r in records if isinstance(r, Sample)] == ["2.jpg", "b.png", "c"]


class TestMimicIt:
    JPG, PNG = b"\xff\xd8\xff\xe0 a picture", b"\x89PNG another"

    def write(
        self, folder: Path, images: dict[str, Any] | None, name: str = "LA_instructions.json"
    ) -> Reader:
        """Three records: a picture, two pictures, and one that is not there."""
        ids = (["LA_IMG_1"], ["LA_IMG_2", "LA_IMG_1"], ["LA_IMG_3"])
        data = {
            f"LA_INS_{n}": {
                "instruction": "Q",
                "answer": f"A{n}",
                "image_ids": found,
                "rel_ins_ids": ["LA_INS_0"],
            }
            for n, found in enumerate(ids)
        }
        if images is not None:
            (folder / "LA.json").write_text(json.dumps(images, indent=1))
        return opened(folder / name, {"meta": {"version": "1"}, "data": data})

    def images(self) -> dict[str, str]:
        return {f"LA_IMG_{n}": base64.b64encode(data).decode() for n, data in ((1, self.JPG), (2, self.PNG))}

    @pytest.mark.parametrize("name", ["LA_instructions.json", "train.json"])
    def test_pictures_come_from_the_file_beside(self, tmp_path: Path, name: str) -> None:
        reader = self.write(tmp_path, self.images(), name)
        assert reader.name == "mimic_it"
        assert reader.files == (tmp_path / name, tmp_path / "LA.json")
        records = list(reader.records())
        assert ids(records) == ["LA_INS_0", "LA_INS_1", "LA_INS_2"]
        samples = [record for record in records if isinstance(record, Sample)]
        assert [[(m.reference, m.data) for m in s.images] for s in samples] == [
            [("LA_IMG_1", self.JPG)],
            [("LA_IMG_2", self.PNG), ("LA_IMG_1", self.JPG)],
            [("LA_IMG_3", None)],
        ]
        assert samples[0].meta["rel_ins_ids"] == ["LA_INS_0"]
        again = pickle.loads(pickle.dumps(reader))
        assert [again.record(r.origin) for r in records] == records
        found = divided(reader, records, tmp_path, [1])
        value = json.loads((tmp_path / name).read_bytes())
        assert found["kept"] == {"meta": {"version": "1"}, "data": {"LA_INS_1": value["data"]["LA_INS_1"]}}
        assert list(found["dropped"]["data"]) == ["LA_INS_0", "LA_INS_2"]

    def test_without_the_pictures_each_is_missing(self, tmp_path: Path) -> None:
        reader = self.write(tmp_path, None)
        assert reader.files == (tmp_path / "LA_instructions.json",)
        media = [m for record in reader.records() if isinstance(record, Sample) for m in record.images]
        assert [(m.reference, m.data) for m in media] == [(f"LA_IMG_{n}", None) for n in (1, 2, 1, 3)]

    def test_a_broken_picture_costs_only_itself(self, tmp_path: Path) -> None:
        reader = self.write(tmp_path, self.images() | {"LA_IMG_2": "@@@", "LA_IMG_3": 5})
        media = [m for record in reader.records() if isinstance(record, Sample) for m in record.images]
        assert [m.data for m in media] == [self.JPG, None, self.JPG, None]

    def test_a_file_of_pictures_with_a_broken_entry_gives_the_others(self, tmp_path: Path) -> None:
        reader = self.write(tmp_path, self.images())
        content = (tmp_path / "LA.json").read_bytes()
        (tmp_path / "LA.json").write_bytes(content.replace(b"{", b'{"LA_IMG_0": [1,,], "odd": "\\x", ', 1))
        media = [m for record in reader.records() if isinstance(record, Sample) for m in record.images]
        assert [m.data for m in media] == [self.JPG, self.PNG, self.JPG, None]

    def test_a_file_of_pictures_cut_short_gives_the_whole_ones(self, tmp_path: Path) -> None:
        reader = self.write(tmp_path, self.images())
        content = (tmp_path / "LA.json").read_bytes()
        (tmp_path / "LA.json").write_bytes(content[:-8])
        media = [m for record in reader.records() if isinstance(record, Sample) for m in record.images]
        assert [m.data for m in media] == [self.JPG, None, self.JPG, None]

    def test_no_other_folder_is_looked_into(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "x.json").write_text(json.dumps({"../x_IMG_1": "AAAA"}))
        data = {"a": {"instruction": "Q", "answer": "A", "image_ids": ["../x_IMG_1"]}}
        reader = opened(tmp_path / "in" / "a.json", {"data": data})
        assert reader.files == (tmp_path / "in" / "a.json",)


@needs_data
class TestRealFiles:
    @pytest.mark.parametrize(
        ("path", "form", "key", "n"),
        [
            (COCO, "json_document", "annotations", 215),
            (DATA / "minigpt4_captions" / "filter_cap.json", "json_document", "annotations", 300),
            (DERIVED / "LA_instructions.json", "mimic_it", "data", 10),
        ],
    )
    def test_records_are_read_and_divided(
        self, tmp_path: Path, path: Path, form: str, key: str, n: int
    ) -> None:
        reader = open_input(path)
        records = list(reader.records())
        assert (reader.name, len(records)) == (form, n)
        assert not [record for record in records if isinstance(record, Unreadable)]
        assert all(record.images for record in records if isinstance(record, Sample))
        value = json.loads(path.read_bytes())
        found = divided(reader, records, tmp_path, range(0, n, 2))
        for name, start in (("kept", 0), ("dropped", 1)):
            held = value[key]
            rows = dict(list(held.items())[start::2]) if isinstance(held, dict) else held[start::2]
            assert json.dumps(found[name]) == json.dumps(value | {key: rows})

    def test_coco_captions_name_pictures_that_their_document_lists(self) -> None:
        value = json.loads(COCO.read_bytes())
        listed = {image["id"]: image["file_name"] for image in value["images"]}
        expected = [listed[caption["image_id"]] for caption in value["annotations"]]
        records = open_input(COCO).records()
        assert [r.images[0].reference for r in records if isinstance(r, Sample)] == expected

    def test_every_picture_of_a_mimic_it_pair_is_there(self) -> None:
        stored = json.loads((DERIVED / "LA.json").read_bytes())
        for record in open_input(DERIVED / "LA_instructions.json").records():
            assert isinstance(record, Sample)
            expected = [base64.b64decode(stored[id]) for id in record.meta["image_ids"]]
            assert [medium.data for medium in record.images] == expected


class TestRecordsByTheirIds:
    """An object whose every value is a record."""

    @pytest.mark.parametrize("indent", [None, 1])
    def test_the_document_itself_may_hold_them(self, tmp_path: Path, indent: int | None) -> None:
        value = {
            f"a{n}": {"hint": "", "objects": [{"caption": "c", "image": "i"}], **pair(n)} for n in range(5)
        }
        for held in value.values():
            del held["id"]
        reader = opened(tmp_path / "a", value, indent=indent)
        records = list(reader.records())
        assert (reader.name, ids(records)) == ("json_document", ["a0", "a1", "a2", "a3", "a4"])
        assert [reader.record(r.origin) for r in records] == records
        found = divided(reader, records, tmp_path, [1, 4])
        assert found["kept"] == {key: value[key] for key in ("a1", "a4")}
        assert found["dropped"] == {key: value[key] for key in ("a0", "a2", "a3")}

    def test_cut_short(self, tmp_path: Path) -> None:
        text = json.dumps({f"a{n}": {"instruction": "Q", "output": "A"} for n in range(4)})
        reader = opened(tmp_path / "a", text[:-20])
        records = list(reader.records())
        assert ids(records) == ["a0", "a1", "a2", None]
        assert "is never closed" in records[3].issues[0].detail
        assert list(divided(reader, records[:3], tmp_path, [0, 1, 2])["kept"]) == ["a0", "a1", "a2"]

    def test_their_fields_may_be_named(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text(json.dumps({n: {"ask": "Q", "say": "A"} for n in ("x", "y")}))
        names = Names({"instruction": "ask", "response": "say"})
        assert ids(open_input(tmp_path / "a", names=names).records()) == ["x", "y"]

    def test_what_stands_beside_the_records_is_none(self, tmp_path: Path) -> None:
        value = {"info": {"description": "D", "url": "http://h/a.jpg"}, "data": {"x": pair(0)}}
        assert ids(opened(tmp_path / "a", value).records()) == ["r0"]


class TestWhatFollows:
    PICTURE = base64.b64encode(bytes(1_500_000)).decode()

    @pytest.mark.parametrize("more", [{"instruction": "Q", "output": "A"}, {}])
    def test_large_lines_with_objects_in_lists_are_lines(self, tmp_path: Path, more: dict[str, Any]) -> None:
        lines = [
            json.dumps({"id": str(n), "image": self.PICTURE, **more, "parts": [pair(n)]}) for n in range(3)
        ]
        reader = opened(tmp_path / "a", "\n".join(lines))
        records = list(reader.records())
        assert (reader.name, len(records)) == ("jsonl", 3)
        assert ids(records) == (["0", "1", "2"] if more else [None] * 3)

    @pytest.mark.parametrize("size", [2, 6000])
    def test_documents_that_were_put_together_are_one_each(self, tmp_path: Path, size: int) -> None:
        text = json.dumps({"data": [pair(n) for n in range(size)]})
        reader = opened(tmp_path / "a", f"{text}\n{text}\n")
        assert [r.origin.end - r.origin.start for r in reader.records()] == [len(text.encode())] * 2

    @pytest.mark.parametrize("size", [2, 6000])
    @pytest.mark.parametrize("tail", ["garbage", "}", "]", "\0\0"])
    def test_what_is_no_document_is_an_unreadable_record(self, tmp_path: Path, tail: str, size: int) -> None:
        value = {"data": [pair(n) for n in range(size)], "more": 1}
        text = json.dumps(value, ensure_ascii=False)
        reader = opened(tmp_path / "a", f"{text}\n{tail}\n")
        *records, last = reader.records()
        assert (reader.name, len(records), type(last)) == ("json_document", size, Unreadable)
        assert (tmp_path / "a").read_bytes()[last.origin.start : last.origin.end].decode() == tail
        found = divided(reader, records, tmp_path, range(size))
        assert found["kept"] == value
        reader.divide([(last.origin, "out")], {"out": tmp_path / "out"})
        assert (tmp_path / "out").read_text() == f'{{"data": [], "more": 1}}\n{tail}'

    def test_what_cannot_be_told_in_a_broken_document(self, tmp_path: Path) -> None:
        text = json.dumps({"data": [pair(0)], "test": [pair(1)]}).replace('"test"', 'test"')
        records = list(opened(tmp_path / "a", text).records())
        told = [text.encode()[r.origin.start : r.origin.end] for r in records]
        assert ids(records) == ["r0", *[None] * (len(records) - 1)]
        assert (
            b"".join(told[1:]).replace(b" ", b"")
            == b'test":[{"id":"r1","instruction":"Q","output":"\\u00e91"}]}'
        )

    @pytest.mark.parametrize("named", [False, True])
    @pytest.mark.parametrize("lost", ["], ", '"z": }, ', "data}, "])
    def test_a_broken_document_is_divided_without_loss(self, tmp_path: Path, lost: str, named: bool) -> None:
        first = json.dumps({"first": {"k": pair(0)} if named else [pair(0)]})[:-1]
        text = f'{first}, {lost}{json.dumps(pair(1))}, {{"a": [,]}}, {json.dumps(pair(2))}]}}'
        reader = opened(tmp_path / "a", text)
        records = list(reader.records())
        whole: list[Record] = [record for record in records if isinstance(record, Sample)]
        assert (reader.name, ids(whole)) == ("json_document", ["r0", "r1", "r2"])
        for n, kept in enumerate((records, whole, whole[:1], whole[:2], [*whole[:1], records[-2]])):
            reader.divide([(record.origin, "out") for record in kept], {"out": tmp_path / f"out{n}"})
            again = list(open_input(tmp_path / f"out{n}").records())
            assert sorted(ids(again), key=str) == sorted(ids(kept), key=str)

    def test_a_lone_object_in_the_terms_of_names(self, tmp_path: Path) -> None:
        value = {"ask": "Q", "say": "A", "parts": [{"n": 1}]}
        (tmp_path / "a").write_text(json.dumps(value, indent=1))
        reader = open_input(tmp_path / "a", names=Names({"instruction": "ask", "response": "say"}))
        (record,) = reader.records()
        assert isinstance(record, Sample) and record.turns[0].response == "A"
        reader.divide([(record.origin, "in")], {"in": tmp_path / "in", "out": tmp_path / "out"})
        assert json.loads((tmp_path / "in").read_bytes()) == value
        assert (tmp_path / "out").read_bytes() == b""
