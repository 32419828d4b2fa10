"""LLaMA-Factory's dataset_info.json: which files it lists, and what it calls their columns and speakers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from vlitqc.errors import FormatError
from vlitqc.formats import Reader, open_input
from vlitqc.formats.llama_factory import entry_names
from vlitqc.formats.names import Names
from vlitqc.types import Sample


def store(root: Path, entries: dict[str, Any], files: dict[str, Any]) -> Path:
    for name, records in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("l"):
            (root / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        else:
            (root / name).write_text(json.dumps(records, indent=1))
    (root / "dataset_info.json").write_text(json.dumps(entries, indent=2))
    return root


def samples(reader: Reader) -> list[Sample]:
    records = list(reader.records())
    assert all(isinstance(record, Sample) for record in records), records
    return [record for record in records if isinstance(record, Sample)]


ODD = {
    "alpaca_like": {
        "file_name": "odd.json",
        "columns": {
            "prompt": "frage", "query": "zusatz", "response": "antwort", "system": "rolle",
            "history": "vorher", "images": "bilder",
        },
    },
    "chat": {
        "file_name": "sub/chat.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "images": "pics", "tools": "tools"},
        "tags": {
            "role_tag": "who", "content_tag": "says", "user_tag": "q", "assistant_tag": "a",
            "observation_tag": "o", "function_tag": "f", "system_tag": "s",
        },
    },
    "hub": {"hf_hub_url": "somebody/something", "ms_hub_url": "x/y"},
    "absent": {"file_name": "absent.json"},
    "outside": {"file_name": "../outside.json"},
}  # fmt: skip
ODD_FILES = {
    "odd.json": [
        {
            "frage": "<image>Was ist das?", "zusatz": "Kurz.", "antwort": "Ein Hund.", "rolle": "Sei nett.",
            "vorher": [["Hallo", "Hallo!"]], "bilder": ["1.png"],
        },
        {"frage": "Und das?", "zusatz": "", "antwort": "Eine Katze."},
    ],
    "sub/chat.jsonl": [
        {
            "talk": [
                {"who": "s", "says": "Be brief."},
                {"who": "q", "says": "<image>What is it?"},
                {"who": "f", "says": "look()"},
                {"who": "o", "says": "a dog"},
                {"who": "a", "says": "A dog."},
            ],
            "pics": ["2.png"],
            "tools": "[]",
        },
        {"talk": [{"who": "q", "says": "Why?"}, {"who": "a", "says": "So."}]},
    ],
    "unlisted.json": [{"instruction": "What?", "output": "That."}],
}  # fmt: skip


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    (tmp_path / "outside.json").write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    root = tmp_path / "set"
    root.mkdir()
    return store(root, ODD, ODD_FILES)


class TestLlamaFactory:
    @pytest.mark.parametrize("given", [".", "dataset_info.json"])
    def test_columns_and_tags_are_translated(self, odd: Path, given: str) -> None:
        reader = open_input(odd / given)
        assert reader.name == "llama_factory"
        assert reader.path == odd
        first, second, chat, last = samples(reader)
        assert [(t.instruction, t.response) for t in first.turns] == [
            ("Hallo", "Hallo!"),
            ("<image>Was ist das?\nKurz.", "Ein Hund."),
        ]
        assert [m.reference for m in first.images] == ["1.png"]
        assert first.meta["system"] == "Sei nett."
        assert second.turns[0].response == "Eine Katze."
        assert [(t.instruction, t.response) for t in chat.turns] == [
            ("<image>What is it?", "look()"),
            ("a dog", "A dog."),
        ]
        assert [m.reference for m in chat.images] == ["2.png"]
        assert chat.meta["system"] == "Be brief."
        assert not any(record.issues for record in (first, second, chat, last))
        assert all(reader.record(r.origin) == r for r in (first, second, chat, last))

    def test_what_is_not_read_is_told(self, odd: Path) -> None:
        reader = open_input(odd)
        assert reader.notes == (
            "2 entries of dataset_info.json without a file here: absent (absent.json), outside "
            "(../outside.json, outside the folder)",
            "1 entry of dataset_info.json on a hub, not read: hub",
            "1 data file not in dataset_info.json, not read: unlisted.json",
        )
        assert reader.others == {"not in dataset_info.json": 1}

    def test_one_file_has_the_columns_of_the_catalogue_beside_it(self, odd: Path) -> None:
        (_, second) = samples(open_input(odd / "odd.json"))
        assert second.turns[0].instruction == "Und das?"
        assert len(samples(open_input([odd / "odd.json", odd / "unlisted.json"]))) == 3

    def test_what_the_caller_maps_goes_first(self, odd: Path) -> None:
        (_, second) = samples(
            open_input(odd / "odd.json", names=Names({"instruction": "antwort", "response": "frage"}))
        )
        assert second.turns[0].response == "Und das?"

    def test_each_output_loads_as_it_is(self, odd: Path, tmp_path: Path) -> None:
        reader = open_input(odd)
        targets = {"kept": tmp_path / "kept", "dropped": tmp_path / "dropped"}
        places = [(r.origin, "kept" if r.origin.row == 1 else "dropped") for r in reader.records()]
        reader.divide(places, targets)
        for target in targets.values():
            assert (target / "dataset_info.json").read_bytes() == (odd / "dataset_info.json").read_bytes()
            assert sorted(p.name for p in target.rglob("*") if p.is_file()) == [
                "chat.jsonl", "dataset_info.json", "odd.json",
            ]  # fmt: skip
        assert json.loads((targets["kept"] / "odd.json").read_text()) == ODD_FILES["odd.json"][1:]
        assert (targets["kept"] / "sub/chat.jsonl").read_bytes() == b""
        assert (targets["dropped"] / "sub/chat.jsonl").read_bytes() == (odd / "sub/chat.jsonl").read_bytes()
        assert len(samples(open_input(targets["kept"] / "odd.json"))) == 1

    def test_pictures_are_relative_to_the_catalogue_also_from_above(self, odd: Path) -> None:
        write = odd.parent / "more.jsonl"
        write.write_text('{"instruction": "What?", "output": "That."}\n')
        reader = open_input([write, odd])
        assert reader.path == odd.parent
        found = [m.reference for r in samples(reader) for m in r.images]
        assert found == ["set/1.png", "set/2.png"]
        assert len(reader.notes) == 3

    def test_a_file_that_two_entries_list_is_read_once_and_told(self, tmp_path: Path) -> None:
        turned = {"file_name": "a.json", "columns": {"prompt": "output", "response": "instruction"}}
        entries = {"one": {"file_name": "a.json"}, "two": turned}
        store(tmp_path, entries, {"a.json": [{"instruction": "What?", "output": "That."}]})
        reader = open_input(tmp_path)
        assert [r.turns[0].response for r in samples(reader)] == ["That."]
        assert reader.notes == ("listed twice in dataset_info.json, read once: two (a.json, read as one)",)

    @pytest.mark.parametrize("given", [".", "dataset_info.json"])
    def test_what_a_catalogue_without_any_file_lacks(self, tmp_path: Path, given: str) -> None:
        entries = {"gone": {"file_name": "gone.json"}, "out": {"file_name": "../x.json"}}
        store(tmp_path / "set", entries, {"../x.json": []})
        with pytest.raises(
            FormatError,
            match=r"has a file in .*: gone \(gone\.json\), out \(../x\.json, outside the folder\)",
        ):
            open_input(tmp_path / "set" / given)

    def test_an_entry_may_be_a_folder_and_files_are_read_once(self, tmp_path: Path) -> None:
        record = {"instruction": "What?", "output": "That."}
        entries = {"folder": {"file_name": "many"}, "again": {"file_name": "many/1.json"}}
        store(tmp_path, entries, {"many/1.json": [record], "many/2.jsonl": [record, record]})
        assert len(samples(open_input(tmp_path))) == 3

    def test_pairs_of_answers(self, tmp_path: Path) -> None:
        entry = {
            "file_name": "pairs.json",
            "ranking": True,
            "columns": {"prompt": "question", "chosen": "better", "rejected": "worse"},
        }
        store(
            tmp_path, {"pairs": entry}, {"pairs.json": [{"question": "What?", "better": "A.", "worse": "B."}]}
        )
        (record,) = samples(open_input(tmp_path))
        assert [(t.instruction, t.response) for t in record.turns] == [("What?", "A.")]
        assert record.meta["worse"] == "B."

    def test_pairs_of_answers_after_a_chat(self, tmp_path: Path) -> None:
        entry = {
            "file_name": "pairs.json",
            "ranking": True,
            "formatting": "sharegpt",
            "columns": {"messages": "talk", "chosen": "better", "rejected": "worse"},
        }
        chat = {
            "talk": [{"from": "human", "value": "What?"}],
            "better": {"from": "gpt", "value": "A."},
            "worse": {"from": "gpt", "value": "B."},
        }
        store(tmp_path, {"pairs": entry}, {"pairs.json": [chat]})
        (record,) = samples(open_input(tmp_path))
        assert [(t.instruction, t.response) for t in record.turns] == [("What?", "A.")]

    def test_other_files_of_that_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"instruction": "What?", "output": "That."}\n')
        for content in (
            "{}",
            "[]",
            "{",
            '{"features": {"a": {"dtype": "string"}}}',
            '{"x": {"file_name": 1}}',
        ):
            (tmp_path / "dataset_info.json").write_text(content)
            assert open_input(tmp_path).name == "folder"
            assert len(samples(open_input(tmp_path / "a.jsonl"))) == 1

    def test_a_catalogue_without_a_file(self, tmp_path: Path) -> None:
        store(tmp_path, {"hub": {"hf_hub_url": "a/b"}}, {})
        with pytest.raises(FormatError, match=r"no entry of .* has a file"):
            open_input(tmp_path / "dataset_info.json")

    def test_catalogues_within_catalogues_without_end(self, tmp_path: Path) -> None:
        folder = tmp_path
        for _ in range(600):
            (folder / "dataset_info.json").write_text('{"a": {"file_name": "a"}}')
            folder = folder / "a"
            folder.mkdir()
        (folder / "a.jsonl").write_text('{"instruction": "What?", "output": "That."}\n')
        started = time.process_time()
        assert len(samples(open_input(tmp_path))) == 1
        assert time.process_time() - started < 10

    def test_names_of_an_entry(self) -> None:
        names = entry_names(ODD["chat"], Names({"image": "own"}, {"q": "assistant"}))
        assert names.fields == {"messages": "talk", "image": "own", "role": "who", "content": "says"}
        assert names.speakers == {
            "q": "assistant",
            "a": "assistant",
            "o": "tool",
            "f": "assistant",
            "s": "system",
        }
        assert entry_names({"columns": 3, "tags": {"user_tag": None}}, Names()) == Names()
