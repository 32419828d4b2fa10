"""A record as a card: all of it that a person needs, within bounds, with every hidden character named."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import vlitqc
from vlitqc.errors import InputError, RunError
from vlitqc.types import Clip, FeatureCache, Image, Media, Origin, Record, Sample, Turn, Unreadable
from vlitqc_reports.explorer import samples
from vlitqc_reports.explorer.samples import Samples, cut

RTL = "\u202e\u202e\u202e"


def metric(name: str, **given: Any) -> dict[str, Any]:
    return {"name": name, "title": name.capitalize(), "level": "sample", "unit": "", "parts": {}} | given


def sample(*turns: tuple[str, str], media: Sequence[Media] = ()) -> Sample:
    said = tuple(Turn(*turn) for turn in turns) or (Turn("What is it?", "A dog."),)
    return Sample("a", said, tuple(media), {}, Origin("data.jsonl", 0, 1, 0, 1, "0" * 64))


@dataclass
class FakeRun:
    """One record after another with the columns given; pictures are grey, 40 by 30, unless they are called broken."""

    records: list[Record | Exception]
    columns: dict[str, list[Any]] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    told: list[tuple[int, str, str, str]] = field(default_factory=list)
    opened: int = 0
    path: Path = Path("run")
    place: str = "run"
    cache: FeatureCache | None = None

    @property
    def scorecard(self) -> dict[str, Any]:
        return {"principles": [{"metrics": self.metrics}]}

    @property
    def issue_table(self) -> pa.Table:
        names = ("row", "severity", "kind", "detail")
        columns = zip(*self.told, strict=True) if self.told else ([],) * len(names)
        return pa.table(dict(zip(names, map(list, columns), strict=True)))

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        n = len(self.records)
        own = {"row": range(n), "id": ["a"] * n, "file": ["/x/data.jsonl"] * n, "line": range(1, n + 1)}
        own |= {"n_images": [1] * n, "state": ["scored"] * n, "task": ["captioning"] * n} | self.columns
        return pa.table({name: list(own[name]) for name in columns or own})

    def take(self, rows: Sequence[int]) -> pa.Table:
        return self.table().take(pa.array(rows, pa.int64()))

    def vectors(self, kind: str) -> str:
        return f"no vectors of {kind}s"

    def record(self, row: int) -> Record:
        self.opened += 1
        found = self.records[row]
        if isinstance(found, Exception):
            raise found
        return found

    def images(self, sample: Sample, *, late: bool = False) -> list[Image]:
        grey = np.full((30, 40, 3), 128, np.uint8)
        return [
            Image(m.reference, None, "truncated")
            if m.reference == "broken"
            else Image(m.reference, grey, None, "", 400, 300, "JPEG")
            for m in sample.images
        ]

    def clips(self, sample: Sample) -> list[Clip]:
        known = {
            "a.mp4": Clip("video", "a.mp4", None, "mov", seconds=12.3, frames=300, width=640, height=360),
            "frames": Clip("video", "frames", None, "frames", frames=1200, width=64, height=48),
            "b.wav": Clip("audio", "b.wav", None, "wav", seconds=75.0),
        }
        return [known.get(m.reference) or Clip("audio", m.reference, "missing") for m in sample.clips]


def card_of(record: Record | Exception, **given: Any) -> dict[str, Any]:
    return Samples(FakeRun([record], **given)).card(0)


def pictures(n: int) -> list[Media]:
    return [Media("image", f"{i}.jpg") for i in range(n)]


def test_a_card_says_what_was_said_and_where() -> None:
    card = card_of(sample(("What is it?", "A dog."), ("And this?", "A cat.")))
    assert card["turns"] == [["What is it?", "A dog."], ["And this?", "A cat."]]
    assert (card["row"], card["id"], card["where"]) == (0, "a", "data.jsonl:1")
    assert (card["task"], card["state"], card["fault"], card["more_turns"]) == (
        "captioning",
        "scored",
        None,
        0,
    )


def test_cards_come_in_the_order_asked_for() -> None:
    run = FakeRun([sample((f"q{i}", f"r{i}")) for i in range(5)])
    assert [(c["row"], c["turns"][0][0]) for c in Samples(run).cards([3, 0, 4])] == [
        (3, "q3"),
        (0, "q0"),
        (4, "q4"),
    ]


def test_a_long_text_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "TEXT", 10)
    monkeypatch.setattr(samples, "TURNS", 2)
    card = card_of(sample(("x" * 25, "short"), ("q", "r"), ("lost", "lost")))
    assert card["turns"] == [["x" * 10, "short", 15, 0], ["q", "r"]]
    assert card["more_turns"] == 1


def test_cutting_again_adds_up() -> None:
    card = card_of(sample(("x" * 900, "y" * 900), ("q" * 50, "r" * 5_000), ("a", "b")))
    once = cut(card, text=2_000, turns=8)
    assert once["turns"][0] == ["x" * 900, "y" * 900]
    assert [*map(len, once["turns"][1][:2]), *once["turns"][1][2:]] == [50, 200, 0, 4_800]
    twice = cut(once, text=300, turns=8)
    assert [*map(len, twice["turns"][0][:2]), *twice["turns"][0][2:]] == [300, 300, 600, 600]
    assert (len(twice["turns"]), twice["more_turns"]) == (1, 2)
    assert cut(twice, text=300, turns=8) == twice
    assert cut(card, text=0, turns=0)["turns"] == []
    assert cut(card, text=10**6, turns=99) == card


def test_nothing_is_cut_in_the_name_of_a_hidden_character() -> None:
    card = card_of(sample(("x" * 195 + RTL + "y" * 100, "r")))
    text, _, more, _ = cut(card, text=200, turns=1)["turns"][0]
    assert text == "x" * 195
    assert more > 100


def test_hidden_characters_are_named_in_every_text() -> None:
    hostile = f"a{RTL}b\x00\ud800"
    storable = hostile.replace("\ud800", "")
    run = FakeRun(
        [sample((hostile, hostile), media=[Media("image", hostile), Media("audio", hostile)])],
        columns={
            "id": [storable], "file": [storable], "task": [storable], "m": [None], "m_reason": [storable],
            "extra": [storable], storable: [storable],
        },
        metrics=[metric("m", title=storable)],
        told=[(0, "error", storable, storable)],
    )  # fmt: skip
    told = json.dumps(Samples(run).card(0), ensure_ascii=False)
    assert not (set(hostile) - {"a", "b"}) & set(told)
    assert told.count("\\u0001U+202E ×3\\u0002") >= 12
    told.encode("utf-8")


def test_pictures_come_with_size_and_thumbnail() -> None:
    made = Samples(FakeRun([sample(media=[Media("image", "dogs/1.jpg")])]))
    (picture,) = made.card(0)["pictures"]
    assert picture["label"] == "400 × 300 JPEG"
    assert (picture["size"], picture["reference"], picture["fault"]) == ([400, 300], "dogs/1.jpg", None)
    assert (made.thumbs[picture["thumb"]].width, made.thumbs[picture["thumb"]].height) == (40, 30)


def test_without_thumbnails_the_rest_stays() -> None:
    made = Samples(FakeRun([sample(media=pictures(1))]), side=0)
    (picture,) = made.card(0)["pictures"]
    assert (picture["thumb"], picture["fault"], picture["size"]) == (None, None, [400, 300])
    assert not made.thumbs


def test_a_broken_picture_says_why() -> None:
    first, second = card_of(sample(media=[Media("image", "broken"), Media("image", "1.jpg")]))["pictures"]
    assert (first["fault"], first["thumb"], first["size"]) == ("truncated", None, None)
    assert second["fault"] is None


def test_only_the_first_pictures_are_opened() -> None:
    card = card_of(sample(media=pictures(samples.PICTURES + 3)))
    assert (len(card["pictures"]), card["more_pictures"]) == (samples.PICTURES, 3)


def test_videos_and_sounds_say_how_long_they_last() -> None:
    media = [
        Media("video", "a.mp4"),
        Media("video", "frames"),
        Media("audio", "b.wav"),
        Media("audio", "gone"),
    ]
    assert card_of(sample(media=media))["media"] == [
        "video: a.mp4 · 12.3 s · 640 × 360",
        "video: frames · 1,200 frames · 64 × 48",
        "sound: b.wav · 1 min 15 s",
        "sound: gone · cannot be read: missing",
    ]
    many = card_of(sample(media=[Media("audio", "b.wav")] * (samples.MEDIA + 2)))["media"]
    assert (len(many), many[-1]) == (samples.MEDIA + 1, "2 more videos or sounds")


def test_boxes_are_shares_and_categories_are_words() -> None:
    boxes = [
        [
            ["dog", 0.8125, 0.1, 0.2, 0.30005, 1],
            ["dog", None, 0, 0, 1, 1],
            ["cat", 0.5, 0.5, 0.5, 0.7, 0.7],
            ["out", 0.5, -0.1, 0, 1, 1],
            ["no box"],
            "neither",
        ],
        None,
    ]
    card = card_of(
        sample(media=pictures(3)),
        columns={"object_diversity": [2.0], "object_diversity_boxes": [json.dumps(boxes)]},
        metrics=[metric("object_diversity")],
    )
    first, second, third = card["pictures"]
    assert first["marks"] == [
        ["dog 0.81", 0.1, 0.2, 0.3, 1.0],
        ["dog", 0.0, 0.0, 1.0, 1.0],
        ["cat 0.50", 0.5, 0.5, 0.7, 0.7],
    ]
    assert first["objects"] == "2 × dog, cat, out, no box"
    assert (second["marks"], second["objects"], third["marks"], third["objects"]) == ([], "", [], "")
    assert all(name != "object_diversity_boxes" for name, *_ in card["scores"])


@pytest.mark.parametrize("stored", ["", "{", "[" * 100_000, '{"a": 1}', "[[1, 2]]", "[[[1, 2, 3, 4, 5, 6]]]"])
def test_boxes_that_are_none_are_passed_over(stored: str) -> None:
    card = card_of(sample(media=pictures(1)), columns={"object_diversity_boxes": [stored]})
    assert (card["pictures"][0]["marks"], card["pictures"][0]["objects"]) == ([], "")


def test_all_scores_with_parts_and_reasons() -> None:
    card = card_of(
        sample(),
        columns={
            "match": [24.3123], "match_worst": [1.5], "match_reason": [None],
            "judge": pa.array([None], pa.float64()), "judge_reason": ["no judge is configured"],
            "response_cluster": [-1], "response_cluster_reason": [None],
            "image_cluster": pa.array([None], pa.int64()), "image_cluster_reason": ["text-only"],
            "duplicate_kind": ["near text"], "duplicate_kind_reason": [None],
            "odd": pa.array([None], pa.string()),
        },
        metrics=[metric("match", parts={"worst": 1.0}), metric("judge"), metric("whole", level="dataset")],
    )  # fmt: skip
    assert card["values"] == {"match": 24.3123}
    assert card["scores"] == [
        ["match", "Match", "24.3", None, []],
        ["judge", "Judge", None, "no judge is configured", []],
        ["response_cluster", "Response cluster", None, "in no cluster", []],
        ["image_cluster", "Image cluster", None, "text-only", []],
        ["duplicate_kind", "Duplicate kind", "near text", None, []],
    ]


def test_the_source_is_told_where_there_are_several() -> None:
    one = FakeRun([sample(), sample()], columns={"source": ["a", "a"]})
    assert Samples(one).card(1)["scores"] == []
    two = FakeRun([sample(), sample()], columns={"source": ["a", "b"]})
    assert Samples(two).card(1)["scores"] == [["source", "Source", "b", None, []]]


def test_each_card_has_its_own_issues() -> None:
    told = [
        (1, "note", "small_image", "32 × 32"),
        (0, "error", "truncated_image", "cut"),
        (1, "error", "x", "y"),
    ]
    told += [(2, "note", "many", str(i)) for i in range(99)]
    zero, one, two, none = Samples(FakeRun([sample()] * 4, told=told)).cards(range(4))
    assert zero["issues"] == [["error", "Truncated image", "cut"]]
    assert one["issues"] == [["note", "Small image", "32 × 32"], ["error", "X", "y"]]
    assert [detail for _, _, detail in two["issues"]] == [str(i) for i in range(samples.ISSUES)]
    assert none["issues"] == []


def test_an_unreadable_record_says_why_and_once() -> None:
    origin = Origin("data.jsonl", 0, 1, 0, 1, "")
    broken = Unreadable(origin, (vlitqc.types.Issue.at(origin, "malformed_record", "error", "not JSON"),))
    card = card_of(
        broken,
        columns={"state": ["unreadable"], "m": pa.array([None], pa.float64()), "m_reason": ["not JSON"]},
        metrics=[metric("m")],
    )
    assert (card["state"], card["fault"], card["turns"], card["scores"]) == ("unreadable", "not JSON", [], [])


def test_a_file_that_moved_is_told_by_its_name() -> None:
    samples = Samples(FakeRun([InputError("/x/data.jsonl is gone"), sample()]))
    lost, other = samples.cards([0, 1])
    assert lost["fault"] == "the record could not be read again: data.jsonl is gone"
    assert other["turns"] == [["What is it?", "A dog."]]
    assert samples.lost == {0: "/x/data.jsonl is gone"}


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("{}\n")])
@pytest.mark.parametrize("given", ["both", "folder"])
def test_a_file_that_is_lost_takes_only_its_own_cards(
    tmp_path: Path, spoil: Callable[[Path], Any], given: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    files = [folder / "1.jsonl", folder / "2.jsonl"]
    for file in files:
        turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": file.stem}]
        file.write_text(json.dumps({"id": file.stem, "conversations": turns}) + "\n")
    data: Any = files if given == "both" else folder
    run = vlitqc.score(data, metrics=["duplicates"], report=False, out=tmp_path / "run")
    spoil(files[0])
    lost, kept = Samples(vlitqc.Run.open(run.path)).cards([0, 1])
    assert "1.jsonl" in lost["fault"]
    assert str(folder) not in lost["fault"]
    assert kept["turns"] == [["What is it?", "2"]]
    with pytest.raises(InputError):
        vlitqc.filter(run.path, where="n_turns > 0")


def test_a_picture_that_is_deleted_takes_only_its_own_card(
    tmp_path: Path, picture: Callable[[int], bytes]
) -> None:
    for name in ("cat/0.png", "cat/1.png", "dog/2.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(picture(int(name[4])))
    run = vlitqc.score(tmp_path / "data", metrics=["duplicates"], report=False)
    (tmp_path / "data" / "cat" / "0.png").unlink()
    lost, *kept = Samples(vlitqc.Run.open(run.path)).cards([0, 1, 2])
    assert "0.png is no longer there" in lost["fault"]
    assert [card["fault"] for card in kept] == [None, None]
    assert all(card["pictures"][0]["thumb"] for card in kept)


def test_one_record_that_cannot_be_read_leaves_the_others() -> None:
    first, second = Samples(FakeRun([RunError("row 0 is odd"), sample()])).cards([0, 1])
    assert first["fault"] == "the record could not be read again: row 0 is odd"
    assert second["fault"] is None


def test_media_that_cannot_be_opened_leave_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FakeRun, sample: Sample, *, late: bool = False) -> list[Any]:
        raise InputError("the image root is gone")

    monkeypatch.setattr(FakeRun, "images", fail)
    monkeypatch.setattr(FakeRun, "clips", fail)
    card = card_of(sample(media=[Media("image", "1.jpg"), Media("video", "a.mp4")]))
    assert card["turns"] == [["What is it?", "A dog."]]
    assert card["pictures"][0]["fault"] == "could not be read again: the image root is gone"
    assert card["media"] == ["video: a.mp4 · cannot be read: could not be read again: the image root is gone"]


def test_of_a_real_run(tmp_path: Path, picture: Callable[[int], bytes]) -> None:
    (tmp_path / "cat.png").write_bytes(picture(1))
    with wave.open(str(tmp_path / "meow.wav"), "wb") as sound:
        sound.setparams((1, 2, 8_000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * 12_000))
    turns = [
        {"from": "human", "value": "<image><audio> What do you hear?"},
        {"from": "gpt", "value": "A cat."},
    ]
    record = {"id": "cat", "image": "cat.png", "audio": "meow.wav", "conversations": turns}
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(record) + "\n{\n")
    run = vlitqc.score(data, metrics=["duplicates"], report=False)
    made = Samples(run)
    card, broken = made.cards([0, 1])
    assert card["media"] == ["sound: meow.wav · 1.5 s"]
    assert card["pictures"][0]["thumb"] in made.thumbs
    assert card["turns"][0] == ["<image><audio> What do you hear?", "A cat."]
    assert broken["state"] == "unreadable"
    assert broken["fault"]
