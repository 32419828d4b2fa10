"""A record as a card: everything that a person needs to judge it, cut to a readable size."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from vlitqc.errors import VlitqcError
from vlitqc.types import Clip, Image, Record, Sample, Unreadable
from vlitqc_reports import wording
from vlitqc_reports.source import ReportableRun, is_numeric
from vlitqc_reports.thumbnails import SIDE, Thumbnail, Thumbnails

TURNS, TEXT, PICTURES, MEDIA, MARKS, ISSUES = 60, 20_000, 12, 6, 40, 12
"""Most turns of a card, characters of one text, pictures, videos and sounds, boxes on a picture, issues."""

Card = dict[str, Any]

_BOXES = "object_diversity_boxes"
_OWN = {
    *("row", "id", "file", "line", "start", "end", "sha256"),
    *("state", "n_turns", "n_images", "n_media", "source", "task", "task_reason", _BOXES),
}
_KINDS = 5
_FURTHER = 24
_THREADS = 4
_AT_ONCE = 32
"""Records that are held together: they may carry their pictures."""
_SHORTEST = 200
"""A text is not cut below this many characters, however many texts there are."""


class Samples:
    """The cards of a run, each made when it is asked for.

    ``thumbs`` gathers the small pictures, at most ``side`` pixels wide and high, of the cards made so far, by key;
    with ``side=0`` none is made, for a page that asks for its pictures one by one. ``lost`` has the rows of the
    cards whose records could not be read again, each with its reason.
    """

    def __init__(self, run: ReportableRun, *, side: int = SIDE) -> None:
        self.thumbs: dict[str, Thumbnail] = {}
        self.lost: dict[int, str] = {}
        self._run = run
        self._small = Thumbnails(side, run.cache) if side else None
        schema = run.take(()).schema
        self._metrics = [
            m for p in run.scorecard["principles"] for m in p["metrics"] if m["name"] in schema.names
        ]
        self._numeric = [m["name"] for m in self._metrics if is_numeric(schema.field(m["name"]).type)]
        named = set(_OWN)
        for metric in self._metrics:
            name = str(metric["name"])
            named |= {name, f"{name}_reason", *(f"{name}_{part}" for part in metric.get("parts") or ())}
        further = [column for column in schema.names if column not in named]
        reasons = {f"{column}_reason" for column in further}
        self._further = [column for column in further if column not in reasons][:_FURTHER]

    def card(self, row: int) -> Card:
        """The card of one record of the run; see ``cards``."""
        return next(self.cards([row]))

    def cards(self, rows: Sequence[int]) -> Iterator[Card]:
        """The cards of records, in the order of ``rows``, as the page's script reads them.

        Long texts, conversations and lists of pictures are cut at the bounds of this module, and the card says so.
        A record that could not be read, or whose input has moved since, has a ``fault`` in place of its content.
        Characters that hide or turn text are named, as by ``wording.marked``.
        """
        lines = self._run.take(rows).to_pylist()
        issues = self._issues_of(rows)
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(lines), _AT_ONCE):
                some = lines[start : start + _AT_ONCE]
                # One after the other, as files are read; the pictures are what takes the time.
                records = list(map(self._record, some))
                for line, content in zip(some, pool.map(self._content, some, records), strict=True):
                    card: Card = _marked(self._scored(line, issues.get(line["row"], [])) | content)
                    yield card
                if self._small:
                    self._small.keep()

    def _scored(self, line: Mapping[str, Any], issues: list[tuple[str, str, str]]) -> Card:
        return {
            "row": line["row"],
            "id": wording.clip(line["id"] or "", 120),
            "where": wording.place(line["file"], line["line"]),
            "task": None if line.get("task") is None else wording.clip(line["task"], 80),
            "state": line["state"],
            "fault": None,
            "turns": [],
            "more_turns": 0,
            "pictures": [],
            "more_pictures": 0,
            "media": [],
            "values": {name: line[name] for name in self._numeric if wording.is_number(line[name])},
            "scores": [] if line["state"] == "unreadable" else [*self._scores(line), *self._columns(line)],
            "issues": issues,
        }

    @cached_property
    def _told(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The rows of the issues in order, and where each one stands in the table."""
        rows = self._run.issue_table["row"].to_numpy()
        order = np.argsort(rows, kind="stable")
        return rows[order], order

    def _issues_of(self, rows: Sequence[int]) -> dict[int, list[tuple[str, str, str]]]:
        """The first issues of each of the rows that have any."""
        told, order = self._told
        wanted = np.unique(np.array(rows, np.int64))
        starts, ends = np.searchsorted(told, wanted), np.searchsorted(told, wanted, side="right")
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        places = [order[start : min(end, start + ISSUES)] for start, end in spans if end > start]
        found: dict[int, list[tuple[str, str, str]]] = {}
        if places:
            for issue in self._run.issue_table.take(np.concatenate(places)).to_pylist():
                found.setdefault(issue["row"], []).append(
                    (
                        wording.clip(str(issue["severity"]), 20),
                        wording.label(str(issue["kind"])),
                        wording.clip(str(issue["detail"]), 300),
                    )
                )
        return found

    def _record(self, line: Mapping[str, Any]) -> Record | str:
        """The record, or why it could not be read again."""
        try:
            return self._run.record(line["row"])
        except (VlitqcError, OSError) as error:
            self.lost[line["row"]] = str(error)
            # The cause is enough on a card, which also says where its file lies.
            return str(error).partition("; ")[0].replace(line["file"], Path(line["file"]).name)

    def _content(self, line: Mapping[str, Any], record: Record | str) -> Card:
        """Conversation and media of a record, or the fault in their place."""
        if isinstance(record, str):
            return {"fault": wording.clip(f"the record could not be read again: {record}", 400)}
        if isinstance(record, Unreadable):
            why = "; ".join(issue.detail for issue in record.issues[:4]) or "unreadable"
            return {"fault": wording.clip(why, 400)}
        pictures = record.images[:PICTURES]
        clips = record.clips[:MEDIA]
        shown = replace(record, media=(*pictures, *clips))
        return {
            "turns": [_turn((turn.instruction, turn.response), TEXT) for turn in record.turns[:TURNS]],
            "more_turns": max(0, len(record.turns) - TURNS),
            "pictures": self._pictures(shown, line.get(_BOXES)),
            "more_pictures": len(record.images) - len(pictures),
            "media": [_clip_words(clip) for clip in self._clips(shown)]
            + ([f"{len(record.clips) - MEDIA:,} more videos or sounds"] if len(record.clips) > MEDIA else []),
        }

    def _pictures(self, sample: Sample, boxes: Any) -> list[Card]:
        try:
            images = self._images(sample, late=self._small is not None)
            return list(map(self._picture, images, _boxes(boxes)))
        except Exception:  # noqa: BLE001 - one that waited cannot be decoded: at once it has a fault in words
            return list(map(self._picture, self._images(sample, late=False), _boxes(boxes)))

    def _images(self, sample: Sample, *, late: bool) -> list[Image]:
        try:
            return self._run.images(sample, late=late)
        except (VlitqcError, OSError) as error:
            fault = f"could not be read again: {error}"
            return [Image(media.reference, None, fault) for media in sample.images]

    def _clips(self, sample: Sample) -> list[Clip]:
        try:
            return self._run.clips(sample)
        except (VlitqcError, OSError) as error:
            fault = f"could not be read again: {error}"
            return [
                Clip("video" if media.kind == "video" else "audio", media.reference, fault)
                for media in sample.clips
            ]

    def _picture(self, image: Image, boxes: Any) -> Card:
        small = self._small.of(image) if self._small else None
        if small is not None:
            self.thumbs[small.key] = small
        size = f"{image.width} × {image.height}" if image.width else ""
        readable = image.fault is None
        return {
            "thumb": None if small is None else small.key,
            "size": [image.width, image.height] if readable and image.width else None,
            "label": wording.clip(" ".join(filter(None, (size, image.format))), 40),
            "reference": wording.clip(image.reference, 160),
            "fault": None if readable else wording.clip(image.fault or "no picture", 200),
            "objects": _objects(boxes) if isinstance(boxes, list) else "",
            "marks": list(itertools.islice(_marks(boxes), MARKS)) if readable else [],
        }

    def _scores(self, line: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """Every metric's value with its parts, or the reason why there is none."""
        for metric in self._metrics:
            name, value = str(metric["name"]), line[metric["name"]]
            parts = [
                (wording.clip(wording.part(part), 60), wording.cell(line[f"{name}_{part}"]))
                for part in itertools.islice(metric.get("parts") or (), 8)
                if line.get(f"{name}_{part}") is not None
                and not (part == "worst" and line.get("n_images") == 1)
            ]
            title = wording.clip(str(metric["title"]), 80)
            if wording.is_number(value):
                yield name, title, wording.quantity(float(value), str(metric["unit"])), None, parts
            else:
                reason = line.get(f"{name}_reason") or "no reason given"
                yield name, title, None, wording.clip(str(reason), 200), parts

    def _columns(self, line: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """The other columns: clusters, duplicates, notes, and where the record comes from."""
        for name in self._further:
            value, reason = line[name], line.get(f"{name}_reason")
            if name.endswith("_cluster") and value == -1:
                value, reason = None, "in no cluster"
            if value is not None or reason:
                shown = None if value is None else wording.cell(value)
                told = None if value is not None else wording.clip(str(reason), 200)
                yield name, wording.label(name), shown, told, []
        if line.get("source") is not None and self._sources > 1:
            yield "source", "Source", wording.cell(line["source"]), None, []

    @cached_property
    def _sources(self) -> int:
        found: int = pc.count_distinct(self._run.table(["source"])["source"]).as_py()
        return found


def cut(card: Card, *, text: int, turns: int) -> Card:
    """The card with at most ``turns`` turns and about ``text`` characters in all, which go to the turns in order."""
    kept = []
    left = text
    for turn in card["turns"][:turns]:
        if left <= 0:
            break
        kept.append(_turn(turn[:2], max(_SHORTEST, left), turn[2:]))
        left -= len(kept[-1][0]) + len(kept[-1][1])
    return card | {"turns": kept, "more_turns": card["more_turns"] + len(card["turns"]) - len(kept)}


def _turn(texts: Sequence[str], limit: int, lost: Sequence[int] = ()) -> list[Any]:
    """Instruction and response, each with at most ``limit`` characters, then how many were cut of each, if any."""
    heads = [_head(text, limit) for text in texts]
    cuts = [
        before + len(text) - len(head)
        for text, head, before in zip(texts, heads, lost or (0, 0), strict=True)
    ]
    return [*heads, *(cuts if any(cuts) else ())]


def _head(text: str, limit: int) -> str:
    """The first characters of a text; the name of a hidden character is not cut in two."""
    if len(text) <= limit:
        return text
    head = text[:limit]
    opened = head.rfind("\x01")
    return head[:opened] if opened > head.rfind("\x02") else head


def _marked(value: Any) -> Any:
    """The value with every text in it, at any depth, as ``wording.marked`` writes it."""
    if isinstance(value, str):
        return wording.marked(value)
    if isinstance(value, Mapping):
        return {key: _marked(inner) for key, inner in value.items()}
    return [_marked(inner) for inner in value] if isinstance(value, list | tuple) else value


def _clip_words(clip: Clip) -> str:
    """``video: x.mp4 · 12.3 s · 640 × 360``, or what is wrong with it."""
    kind = "video" if clip.kind == "video" else "sound"
    told = [f"{kind}: {wording.clip(clip.reference, 160)}"]
    if clip.fault is not None:
        told.append(f"cannot be read: {wording.clip(clip.fault, 200)}")
    if clip.seconds is not None:
        told.append(wording.duration(clip.seconds))
    elif clip.frames:
        told.append(f"{clip.frames:,} frames")
    if clip.width:
        told.append(f"{clip.width} × {clip.height}")
    return " · ".join(told)


def _boxes(stored: Any) -> Iterator[Any]:
    """What is stored of each picture's objects, in order, and None for pictures beyond."""
    found = None
    if isinstance(stored, str):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(stored)
    return itertools.chain(found if isinstance(found, list) else (), itertools.repeat(None))


def _marks(boxes: Any) -> Iterator[list[Any]]:
    """The objects of one picture; what is no box is passed over."""
    for box in boxes if isinstance(boxes, list) else ():
        if isinstance(box, list) and len(box) == 6 and isinstance(box[0], str):
            name, confidence, *corners = box
            if all(wording.is_number(share) and 0 <= share <= 1 for share in corners):
                sure = f" {confidence:.2f}" if isinstance(confidence, float) and 0 <= confidence <= 1 else ""
                yield [wording.clip(name, 40) + sure, *(round(float(share), 4) for share in corners)]


def _objects(boxes: list[Any]) -> str:
    """The most frequent categories in words: "2 × dog, cat"."""
    names = [box[0] for box in boxes if isinstance(box, list) and box and isinstance(box[0], str)]
    kinds = Counter(names).most_common()
    shown = ", ".join(
        f"{wording.count(n)} × {wording.clip(name, 40)}" if n > 1 else wording.clip(name, 40)
        for name, n in kinds[:_KINDS]
    )
    return f"{shown} and {wording.count(len(kinds) - _KINDS)} more" if len(kinds) > _KINDS else shown
