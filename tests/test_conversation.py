"""Dialects of instruction data: a record of each, how it is named, and fields that are mapped."""

from __future__ import annotations

import base64
import datetime
from typing import Any

import pytest

from vlitqc.formats.conversation import DIALECTS, read_conversation
from vlitqc.formats.names import Names
from vlitqc.media_tokens import TOKENS, strip_media_tokens
from vlitqc.types import Media, Origin, Record, Sample, Turn, Unreadable

ORIGIN = Origin("folder/file.json", 7, 3, 0, 1, "")
PNG = b"\x89PNG\r\n\x1a\nnot a whole one"
BASE64 = base64.b64encode(PNG).decode()
HUMAN, GPT = {"from": "human", "value": "<image>\nQ"}, {"from": "gpt", "value": "A"}
PLAIN = {"from": "human", "value": "Q"}
USER, ASSISTANT = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


def read(fields: dict[str, Any], speakers: dict[str, str] | None = None, **names: str) -> Record:
    return read_conversation(fields, ORIGIN, Names(names, speakers or {}))


def sample(fields: dict[str, Any], speakers: dict[str, str] | None = None, **names: str) -> Sample:
    record = read(fields, speakers, **names)
    assert isinstance(record, Sample), record
    return record


def errors(record: Record) -> list[str]:
    return [issue.kind for issue in record.issues if issue.severity != "note"]


# ---------------------------------------------------------------- dialects

CASES: list[tuple[str, dict[str, Any], list[tuple[str, str]], list[tuple[str, str]]]] = [
    # dialect, record, turns, media
    ("llava", {"image": "a.jpg", "conversations": [HUMAN, GPT]}, [("<image>\nQ", "A")], [("image", "a.jpg")]),
    (
        "llava",
        {"image": ["a.jpg", "b.jpg"], "conversations": [
            {"from": "user", "value": "<image> and <image>"}, {"from": "bot", "value": "A"}
        ]},
        [("<image> and <image>", "A")],
        [("image", "a.jpg"), ("image", "b.jpg")],
    ),
    ("llava", {"video": "v.mp4", "conversations": [PLAIN, GPT]}, [("Q", "A")], [("video", "v.mp4")]),
    ("sharegpt", {"conversations": [PLAIN, GPT]}, [("Q", "A")], []),
    (
        "sharegpt",
        {"conversations": [
            PLAIN, {"from": "function_call", "value": "f()"}, {"from": "observation", "value": "42"}, GPT
        ], "tools": "[]"},
        [("Q", "f()"), ("42", "A")],
        [],
    ),
    (
        "xcomposer",
        {"image": ["a.jpg"], "conversations": [
            {"from": "user", "value": "<ImageHere> Q"}, {"from": "bot", "value": "A"}
        ]},
        [("<ImageHere> Q", "A")],
        [("image", "a.jpg")],
    ),
    (
        "qwen_vl",
        {"conversations": [
            {"from": "user", "value": "Picture 1: <img>a b.jpg</img>\nQ"},
            {"from": "assistant", "value": "<ref>a cat</ref><box>(1,2),(3,4)</box>"},
        ]},
        [("Picture 1: <img>a b.jpg</img>\nQ", "<ref>a cat</ref><box>(1,2),(3,4)</box>")],
        [("image", "a b.jpg")],
    ),
    (
        "internvl",
        {"image": ["a.jpg", "b.jpg"], "width_list": [1, 2], "height_list": [1, 2], "conversations": [
            {"from": "human", "value": "<image>\n<image>\nQ"}, GPT
        ]},
        [("<image>\n<image>\nQ", "A")],
        [("image", "a.jpg"), ("image", "b.jpg")],
    ),
    (
        "mantis",
        {"images": ["a.jpg", "b.jpg"], "conversation": [
            {"role": "user", "content": "<image> <image> Q"}, ASSISTANT
        ], "source": "s"},
        [("<image> <image> Q", "A")],
        [("image", "a.jpg"), ("image", "b.jpg")],
    ),
    ("openai", {"messages": [USER, ASSISTANT]}, [("Q", "A")], []),
    (
        "openai",
        {"messages": [{"role": "user", "content": [
            {"type": "input_text", "text": "Q"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{BASE64}"},
            {"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}},
        ]}, {"role": "assistant", "content": [{"type": "output_text", "text": "A"}]}]},
        [("Q", "A")],
        [("image", f"data:image/png;base64,{BASE64[:24]}…"), ("audio", f"data:base64,{BASE64[:24]}…")],
    ),
    (
        "openai",
        {"messages": [USER, {"role": "assistant", "content": "Wait.", "tool_calls": [{"type": "function"}]},
                      {"role": "tool", "content": "42"}, ASSISTANT]},
        [("Q", 'Wait.\n{"type": "function"}'), ("42", "A")],
        [],
    ),
    ("openai", {"messages": [USER, ASSISTANT], "label": True}, [("Q", "A")], []),
    (
        "preference",
        {"input": {"messages": [USER]}, "preferred_output": [ASSISTANT], "non_preferred_output": [USER]},
        [("Q", "A")],
        [],
    ),
    ("preference", {"conversations": [PLAIN], "chosen": GPT, "rejected": GPT}, [("Q", "A")], []),
    (
        "llama_factory",
        {"messages": [{"role": "user", "content": "<video><audio>Q"}, ASSISTANT],
         "videos": ["v.mp4"], "audios": ["s.mp3"]},
        [("<video><audio>Q", "A")],
        [("video", "v.mp4"), ("audio", "s.mp3")],
    ),
    (
        "ms_swift",
        {"messages": [{"role": "user", "content": "<image>find <ref-object>"}, ASSISTANT], "images": ["a.jpg"],
         "objects": {"ref": ["x"], "bbox": [[1, 2, 3, 4]]}},
        [("<image>find <ref-object>", "A")],
        [("image", "a.jpg")],
    ),
    (
        "ms_swift",
        {"messages": [USER, ASSISTANT], "rejected_response": "B"},
        [("Q", "A")],
        [],
    ),
    (
        "ms_swift",
        {"query": "<img>http://x/a.jpg</img><image>b.jpg</image>Q", "response": "A", "history": [["q", "a"]]},
        [("q", "a"), ("<img>http://x/a.jpg</img><image>b.jpg</image>Q", "A")],
        [("image", "http://x/a.jpg"), ("image", "b.jpg")],
    ),
    (
        "ms_swift",
        {"query": "<audio>s.wav</audio><video>v.mp4</video>Q", "response": "A"},
        [("<audio>s.wav</audio><video>v.mp4</video>Q", "A")],
        [("video", "v.mp4"), ("audio", "s.wav")],
    ),
    ("visualglm", {"img": "a.jpg", "prompt": "Q", "label": "A"}, [("Q", "A")], [("image", "a.jpg")]),
    ("minigpt4", {"image_id": "10", "caption": "A"}, [("", "A")], [("image", "10.jpg")]),
    (
        "mimic_it",
        {"instruction": "Q", "answer": "A", "image_ids": ["X_1", "X_2"], "rel_ins_ids": []},
        [("Q", "A")],
        [("image", "X_1"), ("image", "X_2")],
    ),
    (
        "the_cauldron",
        {"images": [{"bytes": PNG, "path": None}], "texts": [
            {"user": "Q", "assistant": "A", "source": "s"}, {"user": "Q2", "assistant": "A2", "source": "s"}
        ]},
        [("Q", "A"), ("Q2", "A2")],
        [("image", f"data:{len(PNG)} bytes")],
    ),
    (
        "m3it",
        {"instruction": "Q", "inputs": "more", "outputs": "A", "image_base64_str": [BASE64]},
        [("Q\nmore", "A")],
        [("image", f"data:base64,{BASE64[:24]}…")],
    ),
    ("data_juicer", {"images": ["a.jpg"], "text": "<__dj__image> A"}, [("", "<__dj__image> A")], [("image", "a.jpg")]),
    (
        "data_juicer",
        {"images": ["a.jpg", "b.jpg"], "text": "<__dj__image> A <|__dj__eoc|> <__dj__image> B <|__dj__eoc|>"},
        [("", "<__dj__image> A"), ("", "<__dj__image> B")],
        [("image", "a.jpg"), ("image", "b.jpg")],
    ),
    (
        "data_juicer",
        {"images": ["a.jpg"], "text": "[[human]]: <__dj__image>\nQ\n[[gpt]]: A\n<|__dj__eoc|>"},
        [("<__dj__image>\nQ", "A")],
        [("image", "a.jpg")],
    ),
    (
        "chatml",
        {"image_file": "a.jpg", "caption": "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\n<image>\nQ<|im_end|>\n"
         "<|im_start|>assistant\nA\n<|im_end|>"},
        [("<image>\nQ", "A")],
        [("image", "a.jpg")],
    ),
    ("alpaca", {"instruction": "Q", "input": "more", "output": "A"}, [("Q\nmore", "A")], []),
    (
        "alpaca",
        {"instruction": "Q", "input": "", "output": "A", "history": [["q", "a"]], "system": "Be kind"},
        [("q", "a"), ("Q", "A")],
        [],
    ),
    ("triple", {"instruction": "Q", "input": "a.jpg", "response": "A"}, [("Q", "A")], [("image", "a.jpg")]),
    ("triple", {"instruction": "Q", "input": "Is a.jpg open?", "response": "A"}, [("Q\nIs a.jpg open?", "A")], []),
    (
        "triple",
        {"instruction": "Q", "input": {"bytes": PNG, "path": "a"}, "response": "A"},
        [("Q", "A")],
        [("image", "a")],
    ),
    ("vqa", {"image": "a.jpg", "question": "Q", "answer": 4}, [("Q", "4")], [("image", "a.jpg")]),
    (
        "vqa",
        {"question": "Q", "answers": [{"answer": "no"}, {"answer": "yes"}, {"answer": "yes"}]},
        [("Q", "yes")],
        [],
    ),
    (
        "vqa",
        {"question": "Q", "multiple_choice_answer": "net", "answers": [{"answer": "no"}]},
        [("Q", "net")],
        [],
    ),
    ("vqa", {"question_id": 1, "image": "a.jpg", "text": "Q", "label": "no"}, [("Q", "no")], [("image", "a.jpg")]),
    ("caption", {"image_path": "a.jpg", "caption": "A"}, [("", "A")], [("image", "a.jpg")]),
    ("caption", {"URL": "http://x/a", "TEXT": "A"}, [("", "A")], [("image", "http://x/a")]),
    ("caption", {"url": "http://x/a", "caption": "A", "key": "0"}, [("", "A")], [("image", "http://x/a")]),
    ("caption", {"file_name": "a.jpg", "image_id": 5, "caption": "A"}, [("", "A")], [("image", "a.jpg")]),
    ("caption", {"file_name": "a.jpg", "text": "A"}, [("", "A")], [("image", "a.jpg")]),
    ("caption", {"image": PNG, "captions": ["A", "B"]}, [("", "A"), ("", "B")], [("image", f"data:{len(PNG)} bytes")]),
    ("messages", {"dialog": ["Q", "A"]}, [("Q", "A")], []),
    ("pair", {"prompt": "Q", "completion": "A"}, [("Q", "A")], []),
]  # fmt: skip


class TestDialects:
    @pytest.mark.parametrize(("dialect", "fields", "turns", "media"), CASES)
    def test_a_record_of_each(
        self,
        dialect: str,
        fields: dict[str, Any],
        turns: list[tuple[str, str]],
        media: list[tuple[str, str]],
    ) -> None:
        record = sample(fields)
        assert record.dialect == dialect
        assert record.turns == tuple(Turn(*turn) for turn in turns)
        assert [(m.kind, m.reference) for m in record.media] == media
        assert errors(record) == []

    def test_every_row_of_the_table_has_a_record(self) -> None:
        assert {name for name, _ in DIALECTS} == {case[0] for case in CASES}

    def test_a_page_s_url_is_no_picture(self) -> None:
        assert isinstance(read({"text": "Lorem ipsum", "url": "http://x/page"}), Unreadable)

    @pytest.mark.parametrize("value", [{"from": ["human", "gpt"], "value": ["Q", "A"]}, '[["Q"]]', "[1", "Q"])
    def test_messages_in_columns_or_as_text(self, value: Any) -> None:
        columns = isinstance(value, dict)
        assert isinstance(read({"conversations": value}), Sample if columns else Unreadable)
        as_text = sample(
            {"conversations": '[{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]'}
        )
        assert as_text.turns == (Turn("Q", "A"),)

    def test_media_of_a_message(self) -> None:
        record = sample({"messages": [{**USER, "content": "<image>Q", "images": ["a.jpg"]}, ASSISTANT]})
        assert [m.reference for m in record.images] == ["a.jpg"]
        assert record.issues == ()

    @pytest.mark.parametrize(
        "fields",
        [
            {"prompt": [USER], "completion": [ASSISTANT]},
            {"prompt": [USER], "completion": ASSISTANT},
            {"messages": [USER], "response": "A"},
            {"messages": [USER], "answer": "A"},
            {"messages": [USER], "chosen": "A", "response": "another"},
        ],
    )
    def test_the_answer_beside_the_messages(self, fields: dict[str, Any]) -> None:
        record = sample(fields)
        assert record.turns == (Turn("Q", "A"),)
        assert errors(record) == []

    def test_the_answer_of_messages_that_have_one_goes_first(self) -> None:
        record = sample({"messages": [USER, ASSISTANT], "answer": "another"})
        assert record.turns == (Turn("Q", "A"),)
        assert record.meta == {"answer": "another"}

    @pytest.mark.parametrize("said", [{"caption": " one "}, {"id": 4, "text": "one"}, "one"])
    def test_captions_that_are_objects(self, said: Any) -> None:
        assert sample({"image": "a.jpg", "captions": [said]}).turns == (Turn("", "one"),)

    def test_what_json_does_not_know_is_text(self) -> None:
        record = sample({"question": "Q", "answer": datetime.date(2024, 2, 29)})
        assert record.turns == (Turn("Q", '"2024-02-29"'),)

    def test_labels_that_are_no_answers(self) -> None:
        for label in (True, {"quality": 1.0}):
            assert errors(read({"prompt": "Q", "label": label})) == ["empty_turn"]
        assert sample({"instruction": "Q", "label": 3}).turns == (Turn("Q", "3"),)

    def test_pictures_nested_deeply(self) -> None:
        nested: Any = "a.jpg"
        for _ in range(100_000):
            nested = {"path": [nested]}
        record = read({"id": "x", "image": nested, "query": "Q", "response": "A"})
        assert isinstance(record, Unreadable)
        assert record.id == "x"
        assert record.issues[0].detail.startswith("nested too deeply to be read")


# ---------------------------------------------------------------- names


class TestNames:
    def test_a_mapped_field_is_read_and_no_other(self) -> None:
        fields = {
            "question": "no",
            "ask": "Q",
            "answer": "no",
            "target": "A",
            "image": "no.jpg",
            "pic": "a.jpg",
        }
        record = sample(fields, instruction="ask", response="target", image="pic")
        assert record.turns == (Turn("Q", "A"),)
        assert [m.reference for m in record.media] == ["a.jpg"]
        assert record.meta == {"question": "no", "answer": "no", "image": "no.jpg"}
        assert record.dialect == "mapped"

    def test_numbers_are_texts_on_either_side(self) -> None:
        assert sample({"n": 4, "m": 2.5}, instruction="n", response="m").turns == (Turn("4", "2.5"),)

    def test_paths_into_objects_and_lists(self) -> None:
        fields = {"meta": {"pic": [{"path": "a.jpg"}, {"path": "b.jpg"}]}, "a.b": "Q", "x": [["A"]]}
        record = sample(fields, instruction="a.b", response="x.0.0", image="meta.pic.1.path")
        assert record.turns == (Turn("Q", "A"),)
        assert [m.reference for m in record.media] == ["b.jpg"]
        assert set(record.meta) == {"meta", "x"}
        assert sample(fields, instruction="a.b", response="x.0.0", image="meta.pic.7.path").media == ()

    def test_a_list_of_values(self) -> None:
        record = sample({"0": "what?", "1": "this", "2": 5}, instruction="0", response="1", image="2")
        assert record.turns == (Turn("what?", "this"),)
        assert [m.reference for m in record.media] == ["5"]

    def test_messages_speakers_and_their_texts(self) -> None:
        fields = {
            "talk": [{"who": "Klaus", "says": {"text": "Q"}}, {"who": 1, "says": {"text": "A"}}],
            "messages": [],
        }
        record = sample(
            fields, {"Klaus": "user", "1": "assistant"}, messages="talk", role="who", content="says.text"
        )
        assert record.turns == (Turn("Q", "A"),)
        assert record.issues == ()

    def test_caption_id_system_history_input(self) -> None:
        record = sample({"text": "no", "alt": "A", "image": "a.jpg", "nr": 3}, caption="alt", id="nr")
        assert (record.turns, record.id) == ((Turn("", "A"),), "3")
        fields = {"query": "Q", "response": "A", "past": [["q", "a"]], "sys": "S", "more": 5}
        record = sample(fields, history="past", system="sys", input="more")
        assert record.turns == (Turn("q", "a"), Turn("Q\n5", "A"))
        assert record.meta == {"system": "S"}

    def test_the_chosen_answer_of_a_conversation(self) -> None:
        record = sample(
            {"conversations": [PLAIN], "better": GPT}, messages="conversations", response="better"
        )
        assert record.turns == (Turn("Q", "A"),)

    def test_a_response_alone_may_be_mapped(self) -> None:
        assert sample({"question": "Q", "target": "A"}, response="target").turns == (Turn("Q", "A"),)

    @pytest.mark.parametrize("ours", ["messages", "instruction", "response", "caption"])
    def test_a_mapped_field_that_is_not_there(self, ours: str) -> None:
        record = read({"question": "Q", "answer": "A", "image": "a.jpg"}, **{ours: "target"})
        assert isinstance(record, Unreadable)
        assert record.issues[0].detail.startswith(f"no field 'target', which is mapped to {ours}")


# ---------------------------------------------------------------- media


class TestMedia:
    @pytest.mark.parametrize(
        ("text", "media", "found"),
        [
            ("<video>Q", {"video": "v.mp4"}, []),
            ("<audio>Q", {"audio": "s.mp3"}, []),
            ("<video>Q", {}, [("video_token_mismatch", "error")]),
            ("<audio><audio>Q", {"audio": "s.mp3"}, [("audio_token_mismatch", "error")]),
            ("<|audio_bos|><|AUDIO|><|audio_eos|>Q", {"audio": "s.mp3"}, []),
            ("<video>Q", {"videos": ["v.mp4", "w.mp4"]}, [("video_token_mismatch", "error")]),
            ("Q", {"videos": ["v.mp4"]}, [("video_token_mismatch", "note")]),
            ("Q", {"audios": ["s.mp3"]}, [("audio_token_mismatch", "note")]),
            ("<video>Q", {"audio": "s.mp3"}, [("video_token_mismatch", "error"), ("audio_token_mismatch", "note")]),
            ("<image><video>Q", {"image": "a.jpg"}, [("video_token_mismatch", "error")]),
            ("<video>v.mp4</video>Q", {}, []),
            ("<video>v.mp4</video>Q", {"video": "v.mp4"}, []),
            ("<image>a.jpg</image> <image>a.jpg</image>Q", {}, []),
            ("<image>a cat</image>Q", {"image": "a.jpg"}, []),
            ("<image>Q", {"video": ["1.jpg", "2.jpg"]}, []),
            ("<image><image>Q", {"video": ["1.jpg", "2.jpg"]}, []),
            ("<image><image><image>Q", {"video": ["1.jpg", "2.jpg"]}, [("video_token_mismatch", "error")]),
        ],
    )  # fmt: skip
    def test_tokens_and_files(self, text: str, media: dict[str, Any], found: list[Any]) -> None:
        record = sample({"conversations": [{"from": "human", "value": text}, GPT], **media})
        assert [(issue.kind, issue.severity) for issue in record.issues] == found

    def test_what_is_told(self) -> None:
        record = sample({"conversations": [{"from": "human", "value": "<audio>Q"}, GPT]})
        assert record.issues[0].detail == "audio tokens in the text: 1; sounds in the record: 0"

    def test_parts_of_other_kinds_need_no_tokens(self) -> None:
        parts = [{"type": "video", "video": ["1.jpg", "2.jpg"]}, {"type": "audio", "audio": "s.wav"}, "Q"]
        record = sample({"messages": [{"role": "user", "content": parts}, ASSISTANT]})
        assert [(m.kind, m.reference, m.frames) for m in record.media] == [
            ("video", "1.jpg", ("1.jpg", "2.jpg")),
            ("audio", "s.wav", ()),
        ]
        assert record.issues == ()

    @pytest.mark.parametrize("listed", ["a.jpg", ["a.jpg"], {"path": "a.jpg", "bytes": PNG}])
    @pytest.mark.parametrize(
        ("message", "n"),
        [
            ({"content": "<image>Q", "images": ["a.jpg"]}, 1),
            ({"content": "<image><image>Q", "images": ["a.jpg", "a.jpg"]}, 2),
            ({"content": "<image><image>Q", "images": ["a.jpg", "b.jpg"]}, 2),
            ({"content": [{"type": "image", "image": "a.jpg"}, "Q"]}, 1),
            ({"content": [{"image_url": {"url": "a.jpg"}}, {"type": "image", "image": "b.jpg"}, "Q"]}, 2),
            ({"content": "<image>a.jpg</image>Q"}, 1),
            ({"content": "<image>a.jpg</image><image>a.jpg</image>Q"}, 2),
        ],
    )  # fmt: skip
    def test_a_picture_that_a_field_lists_and_a_message_names(
        self, listed: Any, message: dict[str, Any], n: int
    ) -> None:
        record = sample({"images": listed, "messages": [{"role": "user", **message}, ASSISTANT]})
        assert len(record.images) == n
        assert errors(record) == []

    def test_two_pictures_as_data_are_told_apart(self) -> None:
        one, two = (f"data:image/png;base64,{base64.b64encode(PNG + end).decode()}" for end in (b"1", b"2"))
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in (one, two)]
        record = sample({"images": [one], "messages": [{"role": "user", "content": parts}, ASSISTANT]})
        assert [m.data for m in record.images] == [PNG + b"1", PNG + b"2"]

    @pytest.mark.parametrize(
        ("value", "n"),
        [
            ("v.mp4", 1),
            (["v.mp4", "w.mp4"], 2),
            (["1.jpg", "2.png"], 1),
            ([["1", "2"], ["3"]], 2),
            ([["1"], "v.mp4"], 2),
        ],
    )
    def test_frames_are_one_video(self, value: Any, n: int) -> None:
        assert len(sample({"query": "Q", "response": "A", "video": value}).media) == n

    @pytest.mark.parametrize(
        ("value", "medium"),
        [
            ({"bytes": PNG, "path": "a.png"}, Media("image", "a.png", PNG)),
            ({"bytes": PNG, "path": None}, Media("image", f"data:{len(PNG)} bytes", PNG)),
            ({"bytes": None, "path": "a.png"}, Media("image", "a.png")),
            ({"bytes": b"", "path": "a.png"}, Media("image", "a.png", b"")),
            (PNG, Media("image", f"data:{len(PNG)} bytes", PNG)),
            ([PNG], Media("image", f"data:{len(PNG)} bytes", PNG)),
        ],
    )
    def test_embedded_pictures(self, value: Any, medium: Media) -> None:
        assert sample({"query": "Q", "response": "A", "image": value}).media == (medium,)


class TestTokens:
    @pytest.mark.parametrize(
        ("text", "plain"),
        [
            ("<image>\nQ", "Q"),
            ("<VideoHere><__dj__audio>Q<|__dj__eoc|>", "Q"),
            ("Picture 1: <img>a b.jpg</img>\nQ", "Q"),
            ("Picture 1: it is red", "Picture 1: it is red"),
            ("<image>a/b.jpg</image>Q", "Q"),
            ("<image>a cat</image>", "a cat"),
            ("<ref>a cat</ref><box>(1,2),(3,4)</box>", "a cat"),
            ("<|object_ref_start|>a cat<|object_ref_end|><|box_start|>(1,2)<|box_end|>", "a cat"),
        ],
    )
    def test_what_is_taken_out(self, text: str, plain: str) -> None:
        assert strip_media_tokens(text) == plain

    def test_hostile_text_stays_cheap(self) -> None:
        text = "<image>" * 20_000 + "<box>" * 20_000 + "Picture 1: " * 20_000 + "<img>" * 20_000
        assert "Picture 1" in strip_media_tokens(text)
        assert all(len(token.findall(text)) <= 20_000 for token in TOKENS.values())
        said = "[[a]]:" * 10_000
        assert sample({"text": said}).dialect == "data_juicer"
        assert sample({"text": "<|im_start|>user\n" * 10_000}).dialect == "chatml"
