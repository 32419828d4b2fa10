"""One JSON object to one conversation, whatever dialect of instruction data it speaks.

Each dialect is a row of a table: the keys that hold messages, the keys of an instruction with its response, the
keys of a caption, the names of the speakers, the fields and parts that hold media.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import Issue, Media, Origin, Record, Sample, Severity, Turn, Unreadable

Kind = Literal["image", "video", "audio"]

MESSAGE_KEYS = (
    "conversations",
    "conversation",
    "messages",
    "dialogue",
    "dialog",
    "texts",
    "prompt",
    "chosen",
)
INSTRUCTION_KEYS = ("instruction", "query", "prompt", "question")
INPUT_KEYS = ("input", "inputs")
RESPONSE_KEYS = ("output", "outputs", "response", "completion", "answer", "answers", "chosen")
CAPTION_KEYS = ("caption", "captions", "text")
ID_KEYS = ("id", "_id", "uid", "sample_id", "question_id")

ROLE_KEYS = ("from", "role", "speaker")
CONTENT_KEYS = ("value", "content", "text")
INSTRUCTING = frozenset(
    ("human", "user", "tool", "tool_response", "function", "function_response", "observation", "ipython")
)
RESPONDING = frozenset(
    ("gpt", "assistant", "bot", "model", "chatgpt", "chatbot", "bing", "bard", "function_call", "tool_call")
)
GUIDING = frozenset(("system", "developer"))

MEDIA_FIELDS: Mapping[Kind, Sequence[str]] = {
    "image": (
        "image", "images", "image_path", "image_paths", "image_file", "image_files", "img", "img_path",
        "image_base64_str", "image_url", "image_urls", "file_name",
    ),
    "video": ("video", "videos", "video_path", "video_paths"),
    "audio": ("audio", "audios", "audio_path", "audio_paths"),
}  # fmt: skip
PART_KINDS: Mapping[str, Kind] = {
    "image": "image", "image_url": "image", "input_image": "image",
    "video": "video", "video_url": "video",
    "audio": "audio", "audio_url": "audio", "input_audio": "audio",
}  # fmt: skip
REFERENCE_KEYS = (
    "url",
    "path",
    "image",
    "image_url",
    "video",
    "video_url",
    "audio",
    "audio_url",
    "value",
    "source",
)
BYTES_KEYS = ("bytes", "base64", "data")

IMAGE_TOKEN = re.compile(
    r"<(?:image(?:[ _]?\d+)?|ImageHere|image_placeholder|__dj__image)>|<\|image(?:_pad|_\d+)?\|>|<img>([^<]*)</img>"
)
OTHER_TOKEN = re.compile(
    r"<(?:video|audio|VideoHere|__dj__video|__dj__audio)>|<\|(?:video|audio)(?:_pad)?\|>"
)

_BASE64_MIN = 512  # shorter texts are taken for paths
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_SHOWN = 24


def read_conversation(fields: Mapping[str, Any], origin: Origin) -> Record:
    """The conversation in ``fields``, with its issues; Unreadable where there is none.

    Issues: ``empty_turn`` (error: no response; warning: no instruction), ``image_token_mismatch`` (error; note
    where pictures come without any token), ``unknown_role`` (warning), ``malformed_record`` (error).
    """
    draft = _Draft()
    draft.id_key = next((key for key in ID_KEYS if _is_id(fields.get(key))), "")
    id = str(fields[draft.id_key]) if draft.id_key else f"{Path(origin.file).stem}:{origin.row}"
    for kind, keys in MEDIA_FIELDS.items():
        key = next((key for key in keys if fields.get(key) not in (None, "", [])), None)
        if key is not None:
            draft.used.add(key)
            draft.media += read_media(kind, fields[key])
    draft.listed = sum(m.kind == "image" for m in draft.media)
    problem = next((p for p in (shape(fields, draft) for shape in SHAPES) if p is not None), None)
    if problem is None:
        empty = next((key for key in MESSAGE_KEYS if fields.get(key) == []), None)
        problem = f"'{empty}' holds no message" if empty else NO_CONVERSATION
    if not problem and not draft.turns:
        problem = "the conversation holds no turn: nobody asks and nobody answers"

    def issue(kind: str, severity: Severity, detail: str) -> Issue:
        return Issue(kind, severity, detail, origin.file, origin.line, origin.row, id)

    if problem:
        found = ", ".join(map(str, list(fields)[:12])) or "none"
        return Unreadable(
            origin, (issue("malformed_record", "error", f"{problem}; got the keys {found}"),), id
        )
    turns = tuple(Turn(_join(asked), _join(answered)) for asked, answered in draft.turns)
    draft.check_turns(turns)
    draft.check_tokens(turns)
    meta = {key: value for key, value in fields.items() if key not in draft.used and key != draft.id_key}
    if draft.system:
        meta["system"] = _join(draft.system)
    return Sample(id, turns, tuple(draft.media), meta, origin, tuple(issue(*told) for told in draft.issues))


@dataclass(slots=True)
class _Draft:
    """A conversation while it is being read; a turn is the texts of its two sides."""

    turns: list[tuple[list[str], list[str]]] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    issues: list[tuple[str, Severity, str]] = field(default_factory=list)
    id_key: str = ""
    listed: int = 0  # pictures that a field of the record lists
    unnamed: int = 0  # content parts that stand for a listed picture
    named: int = 0  # content parts and <img> tags that bring their own
    needs_instruction: bool = True
    wants_tokens: bool = True

    def ask(self, text: str) -> None:
        """Add to the instruction; after a response, a new turn begins."""
        if not self.turns or self.turns[-1][1]:
            self.turns.append(([], []))
        self.turns[-1][0].append(text)

    def answer(self, text: str) -> None:
        """Add to the response."""
        if not self.turns:
            self.turns.append(([], []))
        self.turns[-1][1].append(text)

    def say(self, role: str, content: Any) -> None:
        """Add what ``role`` says to its side."""
        text = self.text(content)
        known = role.strip().lower()
        if known in GUIDING:
            self.system.append(text)
        elif known in RESPONDING:
            self.answer(text)
        else:
            if known not in INSTRUCTING:
                told = f"the speaker '{role}' is not known; its text is read as part of the instruction"
                self.issues.append(("unknown_role", "warning", told))
            self.ask(text)

    def text(self, content: Any) -> str:
        """The text of a message; pictures among its parts or tags are added to the media."""
        if content is None:
            return ""
        if isinstance(content, list):
            return "\n".join(filter(None, map(self._part, content)))
        return self._part(content)

    def _part(self, part: Any) -> str:
        if isinstance(part, str):
            return self._tags(part)
        if not isinstance(part, dict):
            return json.dumps(part, ensure_ascii=False)
        named = part.get("type")
        if not isinstance(named, str):
            named = next((key for key in PART_KINDS if part.get(key)), "")
        kind = PART_KINDS.get(named)
        if kind is None:
            text = next((part[key] for key in CONTENT_KEYS if isinstance(part.get(key), str)), None)
            return self._tags(text) if text is not None else json.dumps(part, ensure_ascii=False)
        found = read_media(kind, part)
        self.wants_tokens = False
        self.media += found
        if kind == "image":
            self.named += len(found)
            self.unnamed += not found
        return ""

    def _tags(self, text: str) -> str:
        if "<img>" in text:
            listed = {m.reference for m in self.media[: self.listed]}
            for match in IMAGE_TOKEN.finditer(text):
                if match[1] and match[1].strip() not in listed:
                    self.media += read_media("image", match[1].strip())
                    self.named += 1
        return text

    def check_turns(self, turns: Sequence[Turn]) -> None:
        """Note every turn that lacks a side."""
        for n, turn in enumerate(turns, 1):
            if not turn.response.strip():
                self.issues.append(("empty_turn", "error", f"turn {n} of {len(turns)} has no response"))
            if self.needs_instruction and not strip_media_tokens(turn.instruction):
                self.issues.append(("empty_turn", "warning", f"turn {n} of {len(turns)} has no instruction"))

    def check_tokens(self, turns: Sequence[Turn]) -> None:
        """Compare the tokens that stand for pictures with the pictures."""
        texts = [text for turn in turns for text in (turn.instruction, turn.response) if "<" in text]
        n_tokens = self.unnamed + sum(len(IMAGE_TOKEN.findall(text)) for text in texts)
        n_images = self.listed + self.named
        if not n_images and not any(OTHER_TOKEN.search(text) for text in texts):
            n_images = sum(m.kind == "video" for m in self.media)  # some write <image> for a video
        if n_tokens and n_tokens not in (n_images, self.listed if self.named else n_images):
            told = f"image tokens in the text: {n_tokens}; pictures in the record: {n_images}"
            self.issues.append(("image_token_mismatch", "error", told))
        elif not n_tokens and self.listed and self.wants_tokens:
            told = f"no image token in the text; pictures in the record: {n_images}"
            self.issues.append(("image_token_mismatch", "note", told))


# ---------------------------------------------------------------- shapes


def _read_messages(fields: Mapping[str, Any], draft: _Draft) -> str | None:
    key = next((key for key in MESSAGE_KEYS if isinstance(fields.get(key), list) and fields[key]), None)
    if key is None or (key in INSTRUCTION_KEYS + RESPONSE_KEYS and not isinstance(fields[key][0], dict)):
        return None
    draft.used.add(key)
    for n, message in enumerate(fields[key]):
        if isinstance(message, str):
            draft.say("assistant" if n % 2 else "user", message)
        elif not isinstance(message, dict):
            return f"message {n + 1} of '{key}' is no object with a speaker and a text"
        elif "user" in message and "assistant" in message:
            draft.say("user", message["user"])
            draft.say("assistant", message["assistant"])
        else:
            role = next((message[k] for k in ROLE_KEYS if isinstance(message.get(k), str)), None)
            if role is None:
                return f"message {n + 1} of '{key}' names no speaker: expected one of {', '.join(ROLE_KEYS)}"
            draft.say(role, _content(message))
    if fields.get("chosen") and key != "chosen" and draft.turns and not draft.turns[-1][1]:
        draft.used.add("chosen")
        chosen = fields["chosen"]
        draft.answer(draft.text(_content(chosen) if isinstance(chosen, dict) else chosen))
    return ""


def _content(message: Mapping[str, Any]) -> Any:
    content = next((message[k] for k in CONTENT_KEYS if message.get(k) is not None), None)
    return message["tool_calls"] if not content and message.get("tool_calls") else content


def _read_pair(fields: Mapping[str, Any], draft: _Draft) -> str | None:
    asked = next((key for key in INSTRUCTION_KEYS if isinstance(fields.get(key), str | list)), None)
    if asked is None:
        return None
    draft.used.add(asked)
    history = fields.get("history") or []
    if not isinstance(history, list):
        return "'history' is not a list"
    for past in history:
        draft.used.add("history")
        if isinstance(past, list) and len(past) == 2:
            draft.say("user", past[0])
            draft.say("assistant", past[1])
        elif isinstance(past, dict) and isinstance(past.get("role"), str):
            draft.say(past["role"], _content(past))
        else:
            return "an entry of 'history' is neither a pair of texts nor a message with a role"
    draft.ask(draft.text(fields[asked]))
    for key in INPUT_KEYS:
        if isinstance(fields.get(key), str):
            draft.used.add(key)
            draft.ask(draft.text(fields[key]))
    answered = next((key for key in RESPONSE_KEYS if fields.get(key) is not None), None)
    if answered is not None:
        draft.used.add(answered)
        draft.answer(draft.text(fields[answered]))
    return ""


def _read_caption(fields: Mapping[str, Any], draft: _Draft) -> str | None:
    key = next((key for key in CAPTION_KEYS if isinstance(fields.get(key), str | list)), None)
    if key is None or not draft.media:
        return None
    draft.used.add(key)
    draft.needs_instruction = draft.wants_tokens = False
    for caption in [fields[key]] if isinstance(fields[key], str) else fields[key]:
        draft.turns.append(([], [draft.text(caption)]))
    return ""


SHAPES: Sequence[Callable[[Mapping[str, Any], _Draft], str | None]] = (
    _read_messages,
    _read_pair,
    _read_caption,
)
"""Tried in order. Each gives None where the record has another shape, else what is wrong with it ("": nothing)."""

NO_CONVERSATION = (
    f"no conversation found: expected one of {', '.join(MESSAGE_KEYS[:3])} with messages; or one of "
    f"{', '.join(INSTRUCTION_KEYS)} with one of {', '.join(RESPONSE_KEYS[:5])}; or a picture with one of "
    f"{', '.join(CAPTION_KEYS)}"
)


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _join(texts: Sequence[str]) -> str:
    return "\n".join(filter(None, texts)) if len(texts) != 1 else texts[0]


# ---------------------------------------------------------------- media


def read_media(kind: Kind, value: Any) -> list[Media]:
    """The media that a field or a content part holds: a path, URL, data URL, base64, an object, or a list of these.

    A list within a list of videos is one video's frames, and counts as one medium.
    """
    if isinstance(value, list):
        return [m for item in value for m in _single(kind, item)]
    return list(_single(kind, value))


def _single(kind: Kind, value: Any) -> Iterator[Media]:
    if isinstance(value, list):
        first = next((item for item in value if isinstance(item, str | dict)), None)
        rest = value if kind != "video" else [first]
        for item in rest:
            if not isinstance(item, list):
                yield from _single(kind, item)
    elif isinstance(value, dict):
        yield from _from_object(kind, value)
    elif isinstance(value, str) and value:
        yield _from_text(kind, value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield Media(kind, str(value))


def _from_object(kind: Kind, value: Mapping[str, Any]) -> Iterator[Media]:
    for held in (value, *(v for key in REFERENCE_KEYS if isinstance(v := value.get(key), dict))):
        for key in BYTES_KEYS:
            if isinstance(text := held.get(key), str) and text:
                is_url = text.startswith("data:")
                yield _from_text(kind, text) if is_url else _from_base64(kind, "data:base64", text)
                return
        for key in REFERENCE_KEYS:
            if isinstance(held.get(key), str | list) and held[key]:
                yield from read_media(kind, held[key])
                return


def _from_text(kind: Kind, text: str) -> Media:
    if text.startswith("data:"):
        header, _, payload = text.partition(",")
        return _from_base64(kind, header[:_BASE64_MIN], payload)
    if len(text) > _BASE64_MIN and _BASE64.fullmatch(text):
        return _from_base64(kind, "data:base64", text)
    return Media(kind, text.removeprefix("file://"))


def _from_base64(kind: Kind, header: str, payload: str) -> Media:
    """Decoded bytes; without them, where the text is no base64, the medium is reported when it is loaded."""
    reference = f"{header},{payload[:_SHOWN]}…" if len(payload) > _SHOWN else f"{header},{payload}"
    try:
        return Media(kind, reference, base64.b64decode("".join(payload.split()), validate=True))
    except (binascii.Error, ValueError):
        return Media(kind, reference)
