"""One record's fields to one conversation, whatever dialect of instruction data it speaks.

Each dialect is a row of a table: the keys that hold messages, the keys of an instruction with its response, the
keys of a caption, the names of the speakers, the fields and parts that hold media.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vlitqc.formats.endings import A_PICTURE
from vlitqc.formats.names import Names
from vlitqc.media_tokens import TOKENS, strip_media_tokens
from vlitqc.types import Issue, Media, Origin, Record, Sample, Severity, Turn, Unreadable

Kind = Literal["image", "video", "audio"]

MESSAGE_KEYS = (
    "conversations", "conversation", "messages", "dialogue", "dialog", "texts", "prompt", "chosen", "input.messages",
)  # fmt: skip
INSTRUCTION_KEYS = ("instruction", "query", "prompt", "question")
INPUT_KEYS = ("input", "inputs")
RESPONSE_KEYS = (
    "output", "outputs", "response", "completion", "answer", "multiple_choice_answer", "answers", "chosen", "label",
)  # fmt: skip
CHOSEN_KEYS = ("chosen", "preferred_output", "completion", "response", "answer")
CAPTION_KEYS = ("caption", "captions", "text", "TEXT", "alt_text")
ID_KEYS = ("id", "_id", "uid", "sample_id", "question_id", "__key__")

ROLE_KEYS = ("from", "role", "speaker")
CONTENT_KEYS = ("value", "content", "text", "refusal")
CALL_KEYS = ("tool_calls", "function_call")
INSTRUCTING = frozenset(
    ("human", "user", "tool", "tool_response", "function", "function_response", "observation", "ipython")
)
RESPONDING = frozenset(
    ("gpt", "assistant", "bot", "model", "chatgpt", "chatbot", "bing", "bard", "function_call", "tool_call")
)
GUIDING = frozenset(("system", "developer"))

BASE64_FIELDS = ("image_base64_str", "image_base64", "image_str")
MEDIA_FIELDS: Mapping[Kind, Sequence[str]] = {
    "image": (
        "image", "images", "image_path", "image_paths", "image_file", "image_files", "img", "img_path",
        *BASE64_FIELDS, "image_url", "image_urls", "file_name", "URL", "image_ids",
    ),
    "video": ("video", "videos", "video_path", "video_paths"),
    "audio": ("audio", "audios", "audio_path", "audio_paths"),
}  # fmt: skip
MESSAGE_MEDIA: Mapping[str, Kind] = {key: kind for kind, keys in MEDIA_FIELDS.items() for key in keys[:2]}
PART_KINDS: Mapping[str, Kind] = {
    "image": "image", "image_url": "image", "input_image": "image",
    "video": "video", "video_url": "video", "input_video": "video",
    "audio": "audio", "audio_url": "audio", "input_audio": "audio",
}  # fmt: skip
REFERENCE_KEYS = (
    "url", "path", "image", "image_url", "video", "video_url", "audio", "audio_url", "input_audio", "value", "source",
)  # fmt: skip
BYTES_KEYS = ("bytes", "base64", "data")

KEYS: Mapping[str, Sequence[str]] = {
    "id": ID_KEYS, "messages": MESSAGE_KEYS, "role": ROLE_KEYS, "content": CONTENT_KEYS,
    "instruction": INSTRUCTION_KEYS, "input": INPUT_KEYS, "response": RESPONSE_KEYS,
    "history": ("history",), "system": (), "caption": CAPTION_KEYS,
    **{str(kind): keys for kind, keys in MEDIA_FIELDS.items()},
}  # fmt: skip
"""Where each field is looked for, in this order, unless it is mapped."""

DIALECTS: Sequence[tuple[str, frozenset[str]]] = tuple(
    (name, frozenset(marks.split()))
    for name, marks in (
        ("the_cauldron", "texts"),
        ("m3it", "image_base64_str"),
        ("mimic_it", "instruction answer image_ids"),
        ("chatml", "<|im_start|>"),
        ("data_juicer", "dj"),
        ("xcomposer", "conversations <ImageHere>"),
        ("qwen_vl", "conversations <img>"),
        ("internvl", "conversations width_list"),
        ("internvl", "conversations width"),
        ("preference", "chosen rejected"),
        ("preference", "preferred_output"),
        ("mantis", "conversation"),
        ("llava", "conversations image"),
        ("llava", "conversations video"),
        ("llama_factory", "conversations images"),
        ("llama_factory", "conversations videos"),
        ("llama_factory", "conversations audios"),
        ("sharegpt", "conversations"),
        ("ms_swift", "messages rejected_response"),
        ("ms_swift", "messages objects"),
        ("llama_factory", "messages images"),
        ("llama_factory", "messages videos"),
        ("llama_factory", "messages audios"),
        ("openai", "messages"),
        ("ms_swift", "query response"),
        ("visualglm", "img prompt label"),
        ("vqa", "question (instruction)"),
        ("vqa", "question_id (instruction)"),
        ("alpaca", "instruction output"),
        ("triple", "instruction response"),
        ("minigpt4", "image_id.jpg"),
        ("caption", "(caption)"),
        ("messages", "(messages)"),
        ("pair", "(instruction)"),
    )
)
"""The first whose marks a record all has names its dialect. A mark is a filled field, a token in the text, a way of
writing a transcript, or in brackets the shape."""

_EOC = "<|__dj__eoc|>"
TRANSCRIPTS: Mapping[str, re.Pattern[str]] = {
    "<|im_start|>": re.compile(r"<\|im_start\|>(\w{1,40})\s(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL),
    "dj": re.compile(rf"\[\[(\w{{1,40}})\]\]:(.*?)(?=\[\[\w{{1,40}}\]\]:|{re.escape(_EOC)}|\Z)", re.DOTALL),
}
"""Whole conversations written as one text: the speaker, and what is said."""

_BASE64_MIN = 512  # shorter texts are taken for paths
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_PICTURE = re.compile(rf"data:image/|[^\s<>]{{1,2000}}{A_PICTURE}$", re.IGNORECASE)
_SHOWN = 24
_TOO_DEEP = "nested too deeply to be read"
_NOUNS = {"image": "pictures", "video": "videos", "audio": "sounds"}


def read_conversation(fields: Mapping[str, Any], origin: Origin, names: Names | None = None) -> Record:
    """The conversation in ``fields``, with its issues; Unreadable where there is none.

    A field that ``names`` maps is read from there, and from nowhere else; a mapped field of the conversation itself
    (messages, instruction, response, caption) that the record lacks makes it unreadable.

    Issues: ``empty_turn`` (error: no response; warning: no instruction); ``image_token_mismatch``,
    ``video_token_mismatch`` and ``audio_token_mismatch`` (error; note where media come without any token);
    ``unknown_role`` (warning); ``malformed_record`` (error).
    """
    names = names or Names()
    found = _Fields(fields, names.fields)
    draft = _Draft(found, names.speakers)
    id_key, id_value = found.first("id", _is_id)
    id = str(id_value) if id_key else f"{Path(origin.file).stem}:{origin.row}"
    try:
        problem = _missing(found) or draft.read(_shapes(names))
    except RecursionError:  # pictures within pictures: a parser may go deeper than Python does
        problem = _TOO_DEEP

    def issue(kind: str, severity: Severity, detail: str) -> Issue:
        return Issue.at(origin, kind, severity, detail, id)

    if problem:
        keys = ", ".join(map(str, list(fields)[:12])) or "none"
        return Unreadable(
            origin, (issue("malformed_record", "error", f"{problem}; got the keys {keys}"),), id
        )
    turns = tuple(Turn(_join(asked), _join(answered)) for asked, answered in draft.turns)
    draft.check_turns(turns)
    draft.check_tokens(turns)
    dialect = next((name for name, marks in DIALECTS if marks <= draft.marks), "mapped")
    meta = {key: value for key, value in fields.items() if key not in draft.used and key != id_key}
    if draft.system:
        meta["system"] = _join(draft.system)
    issues = tuple(issue(*told) for told in draft.issues)
    return Sample(id, turns, tuple(draft.media), meta, origin, issues, dialect)


class _Fields:
    """A record's fields under our names."""

    def __init__(self, held: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self.held = held
        self.names = names

    def keys(self, ours: str) -> Sequence[str]:
        """Where ``ours`` may be, the likeliest first."""
        theirs = self.names.get(ours)
        return KEYS[ours] if theirs is None else (theirs,)

    def first(self, ours: str, fits: Callable[[Any], bool]) -> tuple[str, Any]:
        """The first of its keys whose value fits, and the value; an empty key where none does."""
        for key in self.keys(ours):
            value = _at(self.held, key)
            if fits(value):
                return key, value
        return "", None

    def first_filled(self, ours: str, filled: Set[str]) -> tuple[str, Any]:
        """As ``first``, for whatever holds something; ``filled`` are the record's own keys that do."""
        if ours not in self.names and filled.isdisjoint(KEYS[ours]):
            return "", None
        return self.first(ours, _is_filled)


def _at(held: Any, key: str) -> Any:
    """The value of a key, or at a path with dots into objects and lists; None where there is nothing."""
    if key in held or "." not in key:
        return held.get(key)
    for step in key.split("."):
        if isinstance(held, list) and step.isdecimal():
            held = held[int(step)] if int(step) < len(held) else None
        else:
            held = held.get(step) if isinstance(held, Mapping) else None
    return held


def _missing(fields: _Fields) -> str:
    """What is mapped, makes the conversation, and is not there."""
    for ours in ("messages", "instruction", "response", "caption"):
        theirs = fields.names.get(ours)
        if theirs is not None and theirs not in fields.held and _at(fields.held, theirs) is None:
            return f"no field '{theirs}', which is mapped to {ours}"
    return ""


def _counts() -> dict[Kind, int]:
    return defaultdict(int)  # which is made in a tenth of the time of a Counter


@dataclass(slots=True)
class _Draft:
    """A conversation while it is being read; a turn is the texts of its two sides."""

    fields: _Fields
    speakers: Mapping[str, str]
    turns: list[tuple[list[str], list[str]]] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    marks: set[str] = field(default_factory=set)
    issues: list[tuple[str, Severity, str]] = field(default_factory=list)
    listed: dict[Kind, int] = field(default_factory=_counts)  # media that a field lists
    unshown: Counter[object] | None = None  # of those, the ones that no message has named so far
    unnamed: dict[Kind, int] = field(default_factory=_counts)  # content parts that stand for a listed medium
    named: dict[Kind, int] = field(default_factory=_counts)  # content parts and tags that bring their own
    needs_instruction: bool = True
    wants_tokens: bool = True

    def read(self, shapes: Mapping[str, Shape]) -> str:
        """Read media and turns; what is wrong with them, or nothing."""
        self.marks = {key for key, value in self.fields.held.items() if _is_filled(value)}
        for kind in MEDIA_FIELDS:
            key, value = self.fields.first_filled(kind, self.marks)
            if key:
                self.used.add(key)
                encoded = key in BASE64_FIELDS and isinstance(value, str | list)
                self.add(kind, _decoded(value) if encoded else value)
        for name, shape in shapes.items():
            problem = shape(self.fields, self)
            if problem is not None:
                self.marks.add(f"({name})" if name not in self.fields.names else "")
                break
        else:
            empty = next((key for key in MESSAGE_KEYS if self.fields.held.get(key) == []), None)
            return f"'{empty}' holds no message" if empty else NO_CONVERSATION
        key, guide = self.fields.first("system", _is_filled)
        if key:
            self.used.add(key)
            self.system.insert(0, self.text(guide))
        return problem or (
            "" if self.turns else "the conversation holds no turn: nobody asks and nobody answers"
        )

    def add(self, kind: Kind, value: Any) -> None:
        """Media that a field lists."""
        found = read_media(kind, value)
        self.media += found
        self.listed[kind] += len(found)

    def show(self, kind: Kind, value: Any) -> list[Media]:
        """Add media that a message names; those that no field lists, or that were shown before."""
        if self.unshown is None:
            self.unshown = Counter(map(_identity, self.media))
        new = []
        for medium in read_media(kind, value):
            if self.unshown[who := _identity(medium)]:
                self.unshown[who] -= 1
            else:
                new.append(medium)
        self.media += new
        return new

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
        known = self.speakers.get(role) or role.strip().lower()
        if known in GUIDING:
            self.system.append(text)
        elif known in RESPONDING:
            self.answer(text)
        else:
            if known not in INSTRUCTING:
                told = f"the speaker '{role}' is not known; its text is read as part of the instruction"
                self.issues.append(("unknown_role", "warning", told))
            self.ask(text)

    def hear(self, message: Mapping[str, Any]) -> bool:
        """Add a message with a speaker; False where it names none."""
        for key in self.fields.keys("role"):
            role = _at(message, key)
            if isinstance(role, (str, int)):
                break
        else:
            return False
        if not MESSAGE_MEDIA.keys().isdisjoint(message):
            for key, kind in MESSAGE_MEDIA.items():
                if _is_filled(message.get(key)):
                    self.listed[kind] += len(self.show(kind, message[key]))
        self.say(str(role), self.content(message))
        return True

    def content(self, message: Mapping[str, Any]) -> Any:
        """What a message says, and the tools that it calls."""
        for key in self.fields.keys("content"):
            said = _at(message, key)
            if said is not None:
                break
        calls = [c for key in CALL_KEYS if (c := message.get(key))]
        if not calls:
            return said
        parts = said if isinstance(said, list) else [said]
        return [
            *filter(None, parts),
            *(one for call in calls for one in (call if isinstance(call, list) else [call])),
        ]

    def text(self, content: Any) -> str:
        """The text of a message; media among its parts or tags are added to the record's."""
        if content is None:
            return ""
        if isinstance(content, list):
            return "\n".join(filter(None, map(self._part, content)))
        return self._part(content)

    def _part(self, part: Any) -> str:
        if isinstance(part, str):
            return self._tags(part)
        if part is None:
            return ""
        if not isinstance(part, dict):
            return _plain(part)
        named = part.get("type")
        if not isinstance(named, str):
            named = next((key for key in PART_KINDS if part.get(key)), "")
        kind = PART_KINDS.get(named)
        if kind is None:
            text = next((part[key] for key in CONTENT_KEYS if isinstance(part.get(key), str)), None)
            return self._tags(text) if text is not None else _plain(part)
        found = self.show(kind, part)
        self.wants_tokens = False
        self.named[kind] += len(found)
        self.unnamed[kind] += not found
        return ""

    def _tags(self, text: str) -> str:
        if "</" not in text:
            return text
        for kind, token in TOKENS.items():
            for match in token.finditer(text):
                path = next((p.strip() for p in match.groups() if p and p.strip()), "")
                if path:
                    self.named[kind] += len(self.show(kind, path))
        return text

    def check_turns(self, turns: Sequence[Turn]) -> None:
        """Note every turn that lacks a side."""
        for n, turn in enumerate(turns, 1):
            if not turn.response.strip():
                self.issues.append(("empty_turn", "error", f"turn {n} of {len(turns)} has no response"))
            if self.needs_instruction and not strip_media_tokens(turn.instruction):
                self.issues.append(("empty_turn", "warning", f"turn {n} of {len(turns)} has no instruction"))

    def check_tokens(self, turns: Sequence[Turn]) -> None:
        """Compare the tokens that stand for media with the media, kind by kind."""
        texts = [text for turn in turns for text in (turn.instruction, turn.response) if "<" in text]
        if not (texts or self.listed or self.named or self.unnamed):
            return
        self.marks |= {mark for mark in ("<img>", "<ImageHere>") if any(mark in text for text in texts)}
        tokens = {
            kind: self.unnamed[kind] + sum(len(t.findall(x)) for x in texts) for kind, t in TOKENS.items()
        }
        if not (self.listed["image"] or self.named["image"] or tokens["video"]) and self.listed["video"]:
            # Some write <image> for a video, or for each of its frames.
            n_frames = sum(len(m.frames) for m in self.media)
            tokens["video"] = self.listed["video"] if tokens["image"] == n_frames > 0 else tokens["image"]
            tokens["image"] = 0
        for kind, n_tokens in tokens.items():
            listed, n_media = self.listed[kind], self.listed[kind] + self.named[kind]
            held = f"{_NOUNS[kind]} in the record: {n_media}"
            if n_tokens and n_tokens not in (n_media, listed if self.named[kind] else n_media):
                told = f"{kind} tokens in the text: {n_tokens}; {held}"
                self.issues.append((f"{kind}_token_mismatch", "error", told))
            elif not n_tokens and listed and self.wants_tokens:
                self.issues.append((f"{kind}_token_mismatch", "note", f"no {kind} token in the text; {held}"))


# ---------------------------------------------------------------- shapes

Shape = Callable[[_Fields, _Draft], str | None]
"""None where the record has another shape, else what is wrong with it ("": nothing)."""


def _read_messages(fields: _Fields, draft: _Draft) -> str | None:
    for key in fields.keys("messages"):
        messages = _rows(_at(fields.held, key))
        # Texts under these keys are one side of a pair.
        if messages and (key not in ("prompt", "chosen") or isinstance(messages[0], dict)):
            break
    else:
        return None
    draft.used.add(key)
    for n, message in enumerate(messages):
        if isinstance(message, str):
            draft.say("assistant" if n % 2 else "user", message)
        elif not isinstance(message, dict):
            return f"message {n + 1} of '{key}' is no object with a speaker and a text"
        elif "user" in message and "assistant" in message:
            draft.say("user", message["user"])
            draft.say("assistant", message["assistant"])
        elif not draft.hear(message):
            keys = ", ".join(fields.keys("role"))
            return f"message {n + 1} of '{key}' names no speaker: expected one of {keys}"
    if draft.turns and not draft.turns[-1][1]:
        _read_chosen(fields, draft, key)
    return ""


def _read_chosen(fields: _Fields, draft: _Draft, asked: str) -> None:
    """The answer, or the better of two, to a conversation that ends with a question."""
    keys = (fields.names["response"],) if "response" in fields.names else CHOSEN_KEYS
    for key in keys:
        chosen = _at(fields.held, key)
        if key != asked and _is_filled(chosen):
            draft.used.add(key)
            for said in chosen if isinstance(chosen, list) else [chosen]:
                draft.answer(draft.text(draft.content(said) if isinstance(said, dict) else said))
            return


def _rows(value: Any) -> list[Any] | None:
    """Messages as a list of objects; also where they are an object of lists, or JSON in a text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    columns = list(value.values()) if isinstance(value, dict) else []
    if columns and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return value if isinstance(value, list) else None


def _read_pair(fields: _Fields, draft: _Draft) -> str | None:
    asked, instruction = fields.first(
        "instruction", lambda value: isinstance(value, str | list | int | float)
    )
    if not asked and "question_id" in fields.held and isinstance(fields.held.get("text"), str):
        asked, instruction = "text", fields.held["text"]
    if not asked and "response" not in fields.names:
        return None
    draft.used.add(asked)
    key, history = fields.first("history", _is_filled)
    if not isinstance(history, list | None):
        return f"'{key}' is not a list"
    for past in history or ():
        draft.used.add(key)
        if isinstance(past, list) and len(past) == 2:
            draft.say("user", past[0])
            draft.say("assistant", past[1])
        elif not (isinstance(past, dict) and draft.hear(past)):
            return f"an entry of '{key}' is neither a pair of texts nor a message with a role"
    key, more = fields.first("input", _is_filled)
    shown = key and not draft.media and _is_picture(more)
    if shown:
        draft.add("image", more)
        draft.used.add(key)
    draft.ask(draft.text(instruction))
    if key and not shown and (isinstance(more, str) or "input" in fields.names):
        draft.used.add(key)
        draft.ask(draft.text(more))
    answered, response = fields.first("response", lambda value: value is not None)
    if answered and not (answered == "label" and isinstance(response, bool | dict)):
        draft.used.add(answered)
        draft.answer(draft.text(_agreed(response) if answered == "answers" else response))
    return ""


def _agreed(answers: Any) -> Any:
    """The answer that most people gave, where several were asked."""
    if not isinstance(answers, list) or not answers:
        return answers
    texts = [answer.get("answer") if isinstance(answer, dict) else answer for answer in answers]
    said = [text for text in texts if isinstance(text, str)]
    return Counter(said).most_common(1)[0][0] if said else answers


def _read_caption(fields: _Fields, draft: _Draft) -> str | None:
    key, caption = fields.first("caption", lambda value: isinstance(value, str | list))
    if not key:
        return None
    if isinstance(caption, str) and _read_transcript(caption, draft):
        draft.used.add(key)
        return ""
    _picture_of(key, fields.held, draft)
    if not draft.media:
        return None
    draft.used.add(key)
    draft.needs_instruction = draft.wants_tokens = False
    for text in caption.split(_EOC) if isinstance(caption, str) else caption:
        if text:
            draft.turns.append(([], [draft.text(_caption(text))]))
    if isinstance(caption, str) and ("<__dj__" in caption or _EOC in caption):
        draft.marks.add("dj")
    return ""


def _caption(said: Any) -> Any:
    """The text of a caption that is an object, such as COCO's."""
    if isinstance(said, dict):
        said = next((said[key] for key in CAPTION_KEYS if isinstance(said.get(key), str)), said)
    return said.strip() if isinstance(said, str) else said


def _read_transcript(text: str, draft: _Draft) -> bool:
    for mark, spoken in TRANSCRIPTS.items():
        if spoken.match(text.lstrip()):
            draft.marks.add(mark)
            for role, said in spoken.findall(text):
                draft.say(role, said.strip())
            return True
    return False


def _picture_of(key: str, held: Mapping[str, Any], draft: _Draft) -> None:
    """The picture of a caption where no field of its own names it."""
    if not draft.media and key != "text" and isinstance(held.get("url"), str):  # beside a text it is a page's
        draft.used.add("url")
        draft.add("image", held["url"])
    elif not draft.media and isinstance(held.get("image_id"), str) and "caption" in held:
        draft.used.add("image_id")
        draft.marks.add("image_id.jpg")
        draft.add("image", f"{held['image_id']}.jpg")


SHAPES: Mapping[str, Shape] = {
    "messages": _read_messages,
    "instruction": _read_pair,
    "caption": _read_caption,
}
"""Tried in order."""

NO_CONVERSATION = (
    f"no conversation found: expected one of {', '.join(MESSAGE_KEYS[:3])} with messages; or one of "
    f"{', '.join(INSTRUCTION_KEYS)} with one of {', '.join(RESPONSE_KEYS[:5])}; or a picture with one of "
    f"{', '.join(CAPTION_KEYS[:3])}; other names are told with --map"
)


def _shapes(names: Names) -> Mapping[str, Shape]:
    """The shapes to try: where one is mapped, no other."""
    return {name: shape for name, shape in SHAPES.items() if name in names.fields} or SHAPES


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _is_filled(value: Any) -> bool:
    return bool(value) or (value is not None and value not in ("", [], {}))


def _is_picture(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_picture, value))
    if isinstance(value, str):
        return bool(_PICTURE.match(value)) or _is_base64(value)
    return isinstance(value, bytes) or (isinstance(value, dict) and isinstance(value.get("bytes"), bytes))


def _plain(value: Any) -> str:
    """What is no text, as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _join(texts: Sequence[str]) -> str:
    return "\n".join(filter(None, texts)) if len(texts) != 1 else texts[0]


# ---------------------------------------------------------------- media


def read_media(kind: Kind, value: Any) -> list[Media]:
    """The media that a field or a content part holds: a path, URL, data URL, base64, bytes, an object, or a list.

    A list of pictures as a video, or a list within a list of videos, is one video's frames and counts as one medium.
    """
    if isinstance(value, list) and not (kind == "video" and _is_frames(value)):
        return [m for item in value for m in _single(kind, item)]
    return list(_single(kind, value))


def _identity(medium: Media) -> object:
    """What two mentions of one medium have in common: its path, or its bytes where there is no path."""
    named = not medium.reference.startswith("data:")
    return medium.kind, medium.reference if named else medium.data or medium.reference


def _is_frames(value: list[Any]) -> bool:
    return len(value) > 1 and all(isinstance(item, str) and _PICTURE.match(item) for item in value)


def _single(kind: Kind, value: Any) -> Iterator[Media]:
    if isinstance(value, list):
        found = [m for item in value if not isinstance(item, list) for m in _single(kind, item)]
        if kind == "video" and found:
            yield replace(found[0], frames=tuple(m.reference for m in found))
        else:
            yield from found
    elif isinstance(value, dict):
        yield from _from_object(kind, value)
    elif isinstance(value, str) and value:
        yield _from_text(kind, value)
    elif isinstance(value, bytes) and value:
        yield _from_bytes(kind, value, None)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield Media(kind, str(value))


def _from_object(kind: Kind, value: Mapping[str, Any]) -> Iterator[Media]:
    for held in (value, *(v for key in REFERENCE_KEYS if isinstance(v := value.get(key), dict))):
        for key in BYTES_KEYS:
            data = held.get(key)
            if isinstance(data, bytes):  # an empty picture is a broken one, whatever file its path names
                yield _from_bytes(kind, data, held.get("path"))
                return
            if isinstance(data, str) and data:
                yield (
                    _from_text(kind, data)
                    if data.startswith("data:")
                    else _from_base64(kind, "data:base64", data)
                )
                return
        for key in REFERENCE_KEYS:
            if isinstance(held.get(key), str | list) and held[key]:
                yield from read_media(kind, held[key])
                return


def _from_bytes(kind: Kind, data: bytes, path: Any) -> Media:
    return Media(kind, path if isinstance(path, str) and path else f"data:{len(data)} bytes", data)


def _from_text(kind: Kind, text: str) -> Media:
    if text.startswith("data:"):
        header, _, payload = text.partition(",")
        return _from_base64(kind, header[:_BASE64_MIN], payload)
    if _is_base64(text):
        return _from_base64(kind, "data:base64", text)
    return Media(kind, text.removeprefix("file://"))


def _is_base64(text: str) -> bool:
    return len(text) > _BASE64_MIN and _BASE64.fullmatch(text) is not None


def _decoded(value: Any) -> Any:
    """The value of a field that says that it holds base64, however short it is."""
    return [{"base64": item} for item in ([value] if isinstance(value, str) else value)]


def _from_base64(kind: Kind, header: str, payload: str) -> Media:
    """Decoded bytes; without them, where the text is no base64, the medium is reported when it is loaded."""
    reference = f"{header},{payload[:_SHOWN]}…" if len(payload) > _SHOWN else f"{header},{payload}"
    try:
        return Media(kind, reference, base64.b64decode("".join(payload.split()), validate=True))
    except (binascii.Error, ValueError):
        return Media(kind, reference)
