"""What an input holds, before any model sees it: format, records, media, shape, and every fault with its place."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlitqc.engine import inputs
from vlitqc.errors import UsageError
from vlitqc.formats import Reader
from vlitqc.formats.collection import Collection
from vlitqc.formats.names import Names
from vlitqc.media import MediaLoader, issue_kind, remarks
from vlitqc.media.files import SCHEME
from vlitqc.types import Clip, Image, Issue, Media, Sample

BATCH_SAMPLES = 64
BATCH_BYTES = 1 << 26
"""Media are checked after so many samples, or so many bytes of media that the records themselves hold."""

LONG_TEXT = 50_000
"""Characters beyond which a text is an issue."""

EXAMPLES = 3
FIRST_PLACES = 20_000
"""Among so many records the first of a repeated id is looked for, to name its place."""

_SIDE = 64
_RECENT = 1 << 17
_UNSPACED = re.compile(r"[\u3040-\u9fff\uac00-\ud7af]")
_WORD = re.compile(r"[\u3040-\u9fff\uac00-\ud7af]|[^\s\u3040-\u9fff\uac00-\ud7af]+")
_SEVERITIES = ("error", "warning", "note")


class Progress(Protocol):
    """Told how far the reading is; the command line draws it."""

    def records(self, done: int, share: float | None) -> None:
        """``done`` records are read, and this share of the input, 0 to 1; None where nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles of whole numbers, each one that occurs (the nearest rank); all 0 where there is none."""

    min: int = 0
    p5: int = 0
    p50: int = 0
    p95: int = 0
    max: int = 0

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> Spread:
        """Of values and how often each occurs."""
        if not counts:
            return cls()
        values = sorted(counts)
        upto = list(itertools.accumulate(counts[value] for value in values))
        ranks = (upto[-1] * percent / 100 for percent in (0, 5, 50, 95, 100))
        return cls(*(next(v for v, n in zip(values, upto, strict=True) if n >= rank) for rank in ranks))


@dataclass(slots=True)
class MediaCounts:
    """References of one kind of media. Those that were looked at are ``readable``, ``missing`` or ``broken``;
    those with a URL are not looked at, nor those whose path leaves the image root (``outside``).

    ``formats`` counts the readable ones by what their content is; ``seconds`` sums what videos and sounds last.
    """

    references: int = 0
    local: int = 0
    embedded: int = 0
    remote: int = 0
    readable: int = 0
    missing: int = 0
    broken: int = 0
    outside: int = 0
    seconds: float = 0.0
    formats: dict[str, int] = field(default_factory=dict)

    def add(self, medium: Media) -> None:
        """Count a reference."""
        self.references += 1
        if medium.data is not None:
            self.embedded += 1
        elif SCHEME.match(medium.reference):
            self.remote += 1
        else:
            self.local += 1

    def check(self, medium: Image | Clip, kind: str) -> None:
        """Count what came of it; ``kind`` is that of its issue, empty where it is whole."""
        if medium.fault is None:
            self.readable += 1
            self.formats[medium.format] = self.formats.get(medium.format, 0) + 1
            self.seconds += (medium.seconds or 0.0) if isinstance(medium, Clip) else 0.0
        elif kind.startswith("missing"):
            self.missing += 1
        elif kind == "path_outside_root":
            self.outside += 1
        elif not kind.startswith("remote"):
            self.broken += 1


@dataclass(frozen=True, slots=True)
class Found:
    """One kind of issue: how often it occurs (``n``), in how many ``records``, their ``share``, and the first ones
    and the last one, each of another record."""

    kind: str
    severity: str
    n: int
    records: int
    share: float
    examples: tuple[Issue, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an input holds.

    ``paths`` are those that were given, ``path`` is the file or the folder that they have in common;
    ``with_errors`` counts the records with an issue that is an error, unreadable ones among them;
    ``dialects`` counts the readable records by the way they are written; ``turns`` is of a record,
    ``instruction_words`` and ``response_words`` of a turn; ``media`` is by kind; ``others`` counts the files that
    were left aside by their ending, and ``notes`` says why others are not read. ``image_root`` is the folder that
    media were looked for in, None where none was looked for.
    """

    path: str
    paths: tuple[str, ...]
    format: str
    layers: tuple[str, ...]
    files: int
    bytes: int
    limit: int | None
    image_root: str | None
    records: int
    readable: int
    unreadable: int
    with_errors: int
    dialects: Mapping[str, int]
    turns: Spread
    instruction_words: Spread
    response_words: Spread
    media: Mapping[str, MediaCounts]
    others: Mapping[str, int]
    notes: tuple[str, ...]
    issues: tuple[Found, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """All of it in what JSON has."""
        return asdict(self)


def inspect(
    data: inputs.Data,
    *,
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    limit: int | None = None,
    image_root: str | Path | None = None,
    media: bool = True,
    allow_outside: bool = False,
    threads: int = 4,
    progress: Progress | None = None,
) -> Inspection:
    """Read an input without any model and tell what it holds.

    Args:
        data: a file, a folder, a glob pattern, or several of these.
        format: a format's name; by default detected from the content of each file.
        map: fields that the data calls otherwise, ours to theirs, such as ``{"image": "meta.path"}``.
        limit: only the first so many records.
        image_root: the folder that media paths start from; by default found from the first records.
        media: whether to open the media; without it they are only counted.
        allow_outside: whether media paths may leave the image root.
        threads: media that are read at once.
        progress: told how far the reading is.

    Issues beyond those of reading and of media: ``duplicate_id`` (note: an earlier record has the same id) and
    ``long_text`` (note: a text of more than 50,000 characters). URLs are never fetched. Memory does not grow with
    the input but for 8 bytes a record.

    Raises:
        UsageError, UnknownName: an option is wrong, or ``data`` is no path.
        InputError, FormatError: the input cannot be used at all.
    """
    started = time.monotonic()
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit}: expected 1 or more")
    paths, _ = inputs.given(data)
    if not paths:
        raise UsageError("records in memory cannot be inspected; write them to a file and pass its path")
    names = Names.parse(f"{ours}={theirs}" for ours, theirs in (map or {}).items())
    reader = inputs.opened(paths, format, names)
    loader = None
    if media:
        root = Path(image_root) if image_root else inputs.find_root(reader)
        if not root.is_dir():
            raise UsageError(f"the image root {root} is not a folder; pass --image-root DIR")
        loader = MediaLoader(root, longest_side=_SIDE, allow_outside=allow_outside, threads=threads)
    tally = _Tally(loader)
    for record in itertools.islice(reader.records(), limit):
        tally.records += 1
        if isinstance(record, Sample):
            tally.add(record)
        else:
            tally.tell(record.issues)
        if progress and tally.records % 256 == 0:
            progress.records(tally.records, reader.share(record.origin))
    tally.flush()
    more = reader if isinstance(reader, Collection) else None
    return Inspection(
        path=str(data) if isinstance(data, str | Path) else str(reader.path),
        paths=tuple(str(path) for path in paths),
        format=reader.name,
        layers=reader.layers,
        files=len(reader.files),
        bytes=sum(path.stat().st_size for path in reader.files if path.is_file()),
        limit=limit,
        image_root=str(loader.root) if loader is not None and tally.media else None,
        records=tally.records,
        readable=tally.readable,
        unreadable=tally.records - tally.readable,
        with_errors=tally.with_errors,
        dialects=dict(tally.dialects.most_common()),
        turns=Spread.of(tally.turns),
        instruction_words=Spread.of(tally.instruction_words),
        response_words=Spread.of(tally.response_words),
        media=tally.media,
        others=more.others if more else {},
        notes=more.notes if more else (),
        issues=tally.found(reader),
        seconds=time.monotonic() - started,
    )


@dataclass(slots=True)
class _Kind:
    n: int = 0
    records: int = 0
    examples: list[Issue] = field(default_factory=list)


class _Tally:
    """Counts while reading; holds no more than one batch of samples."""

    def __init__(self, loader: MediaLoader | None) -> None:
        self.records = 0
        self.readable = 0
        self.with_errors = 0
        self.dialects: Counter[str] = Counter()
        self.turns: Counter[int] = Counter()
        self.instruction_words: Counter[int] = Counter()
        self.response_words: Counter[int] = Counter()
        self.media: dict[str, MediaCounts] = {}
        self._loader = loader
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._seen = _Seen()
        self._waiting: list[Sample] = []
        self._held = 0

    def add(self, sample: Sample) -> None:
        """Count a readable record."""
        self.readable += 1
        self.dialects[sample.dialect or "other"] += 1
        self.turns[len(sample.turns)] += 1
        for turn in sample.turns:
            self.instruction_words[_n_words(turn.instruction)] += 1
            self.response_words[_n_words(turn.response)] += 1
        issues = [*sample.issues, *long_texts(sample)]
        if self._seen.before(sample.id):
            issues.append(_issue("duplicate_id", "note", "an earlier record has the same id", sample))
        for medium in sample.media:
            self.media.setdefault(medium.kind, MediaCounts()).add(medium)
        if self._loader is None or not sample.media:
            self.tell(issues)
            return
        self._waiting.append(replace(sample, issues=tuple(issues)))
        self._held += sum(len(m.data) for m in sample.media if m.data is not None)
        if len(self._waiting) >= BATCH_SAMPLES or self._held >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Look at the media of the samples that wait for it."""
        if self._loader is None or not self._waiting:
            return
        images, clips = self._loader.load_batch(self._waiting), self._loader.clips(self._waiting)
        for sample, pictures, films in zip(self._waiting, images, clips, strict=True):
            issues = list(sample.issues)
            looked_at: list[Image | Clip] = [*pictures, *films]
            for medium in looked_at:
                name = medium.kind if isinstance(medium, Clip) else "image"
                kind = "" if medium.fault is None else issue_kind(medium.fault, name)
                self.media[name].check(medium, kind)
                if medium.fault is not None:
                    issues.append(_issue(kind, "error", medium.fault, sample))
                issues += [_issue(told, "note", detail, sample) for told, detail in remarks(medium)]
            self.tell(issues)
        self._waiting.clear()
        self._held = 0

    def tell(self, issues: Sequence[Issue]) -> None:
        """Count the issues of one record."""
        for issue in issues:
            held = self._kinds.setdefault((issue.kind, issue.severity), _Kind())
            held.n += 1
            if held.examples and held.examples[-1].row == issue.row:
                continue
            # The last one too: it is there that a file breaks off.
            del held.examples[EXAMPLES - 1 :]
            held.examples.append(issue)
        self.with_errors += any(issue.severity == "error" for issue in issues)
        for key in {(issue.kind, issue.severity) for issue in issues}:
            self._kinds[key].records += 1

    def found(self, reader: Reader) -> tuple[Found, ...]:
        """Every kind of issue, errors first, then the most frequent."""
        repeated = self._kinds.get(("duplicate_id", "note"))
        if repeated is not None:
            repeated.examples = _with_first_places(reader, repeated.examples)
        found = [
            Found(kind, severity, held.n, held.records, held.records / self.records, tuple(held.examples))
            for (kind, severity), held in self._kinds.items()
        ]
        return tuple(sorted(found, key=lambda f: (_SEVERITIES.index(f.severity), -f.records, f.kind)))


class _Seen:
    """Which texts have come before, by 64-bit hashes: 8 bytes each, and no more than that as their number grows.

    Of 10 million different texts, the chance that any is taken for another is 3 in a million.
    """

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.int64)
        self._recent: set[int] = set()

    def before(self, text: str) -> bool:
        """Whether ``text`` has come before; from now on it has."""
        key = hash(text)
        if key in self._recent:
            return True
        at = int(self._sorted.searchsorted(key))
        if at < len(self._sorted) and self._sorted[at] == key:
            return True
        self._recent.add(key)
        if len(self._recent) >= _RECENT:
            self._sorted = np.concatenate([self._sorted, np.fromiter(self._recent, np.int64)])
            self._sorted.sort(kind="stable")
            self._recent.clear()
        return False


def _with_first_places(reader: Reader, examples: Iterable[Issue]) -> list[Issue]:
    """The examples, each with the place where its id occurs first, where that is near the beginning."""
    wanted = {issue.id for issue in examples}
    places: dict[str, str] = {}
    for record in itertools.islice(reader.records(), FIRST_PLACES):
        if record.id in wanted and record.id not in places and isinstance(record, Sample):
            places[record.id] = f"{Path(record.origin.file).name}:{record.origin.line}"
            if len(places) == len(wanted):
                break
    return [
        replace(issue, detail=f"{places[issue.id]} has the same id") if issue.id in places else issue
        for issue in examples
    ]


def long_texts(sample: Sample) -> Iterator[Issue]:
    """A note for each text of more than 50,000 characters."""
    for n, turn in enumerate(sample.turns, 1):
        for side, text in (("instruction", turn.instruction), ("response", turn.response)):
            if len(text) > LONG_TEXT:
                told = f"the {side} of turn {n} of {len(sample.turns)} has {len(text):,} characters"
                yield _issue("long_text", "note", told, sample)


def _issue(kind: str, severity: Any, detail: str, sample: Sample) -> Issue:
    origin = sample.origin
    return Issue(kind, severity, detail, origin.file, origin.line, origin.row, sample.id)


def _n_words(text: str) -> int:
    """Words between blanks; each character of Chinese, Japanese and Korean counts as one."""
    if text.isascii() or not _UNSPACED.search(text):
        return len(text.split())
    return len(_WORD.findall(text))
