"""The values that every room of the house shares. Imports nothing of ours and nothing heavy."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

if TYPE_CHECKING:
    # numpy takes longer to import than the whole of "vlitqc --help"; values need it, names do not.
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

FloatArray: TypeAlias = "NDArray[np.float32]"
Rgb: TypeAlias = "NDArray[np.uint8]"
"""A decoded picture: ``uint8[height, width, 3]``, RGB, upright (EXIF applied)."""

T = TypeVar("T")
Part = TypeVar("Part")


class Stage(StrEnum):
    """What a run does beside its metrics and models, as its times name it.

    ``DATA_SET`` has a metric's name after it; in ``WAIT_FOR_WORKERS`` a process with workers does nothing itself.
    """

    SET_UP = "set up models"
    RECOGNISE = "recognise the input"
    READ = "read records"
    COMPARE = "compare with what is finished"
    WAIT_FOR_DECODE = "wait for pictures"
    WAIT_FOR_WRITE = "wait for writing"
    WAIT_FOR_WORKERS = "wait for workers"
    DATA_SET = "over the data set: "


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torch_threads(share: int, asked: str | None) -> int:
    """How many threads torch gets where a process has ``share`` processors: no more than OMP_NUM_THREADS, ``asked``."""
    return min(share, int(asked)) if asked and asked.isdecimal() and int(asked) else share


class Principle(StrEnum):
    """The ten principles of the paper (section 4.1), in its order, and a place for what it leaves out."""

    READABILITY = "readability"
    CORRECTNESS = "correctness"
    TASK_DIVERSITY = "task_diversity"
    INSTRUCTION_DIVERSITY = "instruction_diversity"
    RESPONSE_DIVERSITY = "response_diversity"
    VISUAL_DIVERSITY = "visual_diversity"
    INSTRUCTION_COMPLEXITY = "instruction_complexity"
    OBJECT_COMPLEXITY = "object_complexity"
    VISUAL_COMPLEXITY = "visual_complexity"
    BALANCE = "balance"
    BEYOND = "beyond"

    @property
    def label(self) -> str:
        """The name as a person reads it."""
        return _PRINCIPLE_LABELS[self]


_PRINCIPLE_LABELS = {
    Principle.READABILITY: "Readability",
    Principle.CORRECTNESS: "Correctness",
    Principle.TASK_DIVERSITY: "Task diversity",
    Principle.INSTRUCTION_DIVERSITY: "Instruction diversity",
    Principle.RESPONSE_DIVERSITY: "Response diversity",
    Principle.VISUAL_DIVERSITY: "Visual diversity",
    Principle.INSTRUCTION_COMPLEXITY: "Instruction complexity",
    Principle.OBJECT_COMPLEXITY: "Object complexity",
    Principle.VISUAL_COMPLEXITY: "Visual complexity",
    Principle.BALANCE: "Balance",
    Principle.BEYOND: "Beyond the ten",
}


# ---------------------------------------------------------------- records


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange. Media tokens such as ``<image>`` are kept in the text as the record has them."""

    instruction: str
    response: str


@dataclass(frozen=True, slots=True)
class Media:
    """A reference to a picture, video or sound, not yet opened.

    ``reference`` is the text in the record (a path, a URL, or ``data:…`` shortened); ``data`` holds the
    bytes where the record itself carries them. ``frames`` are the references of a video's pictures where the
    record lists those instead of a file; ``reference`` is then the first.
    """

    kind: Literal["image", "video", "audio"]
    reference: str
    data: bytes | None = field(default=None, repr=False)
    frames: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record stands in its file, so that it can be written back byte for byte.

    ``row`` counts records over the whole input from 0; ``line`` is the 1-based line on which it starts;
    ``start`` and ``end`` bound its bytes, without separators; ``sha256`` is over those bytes, and
    empty where they cannot be had: then nothing of the record is ever written back.
    """

    file: str
    row: int
    line: int
    start: int
    end: int
    sha256: str


Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Issue:
    """A fault that is not a score: where it is, what kind, and the cause in words."""

    kind: str
    severity: Severity
    detail: str
    file: str
    line: int
    row: int
    id: str = ""

    @classmethod
    def at(cls, origin: Origin, kind: str, severity: Severity, detail: str, id: str = "") -> Issue:
        """An issue of the record at ``origin``."""
        return cls(kind, severity, detail, origin.file, origin.line, origin.row, id)


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation: turns, media, everything else in the record (``meta``), and its origin.

    ``dialect`` is the field's name of the way in which the record was written, such as ``llava`` or ``alpaca``.
    """

    id: str
    turns: tuple[Turn, ...]
    media: tuple[Media, ...]
    meta: Mapping[str, Any]
    origin: Origin
    issues: tuple[Issue, ...] = ()
    dialect: str = ""

    @property
    def images(self) -> tuple[Media, ...]:
        """The media that are pictures."""
        return tuple(m for m in self.media if m.kind == "image")

    @property
    def clips(self) -> tuple[Media, ...]:
        """The media that are videos or sounds."""
        return tuple(m for m in self.media if m.kind != "image")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that could not be read as a conversation. It is counted and reported, never skipped."""

    origin: Origin
    issues: tuple[Issue, ...]
    id: str = ""


Record = Sample | Unreadable


# ---------------------------------------------------------------- pictures, videos, sounds


@dataclass(frozen=True, slots=True)
class Image:
    """A picture after decoding, or the reason why there is none.

    Exactly one of ``pixels`` and ``fault`` is set, so that ``fault`` tells at no cost whether the picture can be
    used. ``source`` is the pixels, or the function that decodes them, where nobody may need them. ``width`` and
    ``height`` are those of the file, upright, before any reduction; ``pixels`` may be smaller: ``side`` is the
    longest side that decoding was to leave (0: whatever it was). ``sha256`` is over the file's bytes ("" if unread).
    ``frames`` counts the frames or pages of the file, of which ``pixels`` are the first; for GIF and TIFF, which
    tell their number only by reading them all, 2 stands for several. ``retry`` tells a fault that may pass (no
    memory, a file that was being written) from one that stays.
    """

    reference: str
    source: Rgb | Callable[[], Rgb] | None = field(repr=False)
    fault: str | None
    sha256: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    n_bytes: int = 0
    frames: int = 1
    retry: bool = False
    side: int = 0

    @property
    def pixels(self) -> Rgb | None:
        """The decoded picture; the first access may decode it, and then raises whatever decoding raises."""
        return self.source() if callable(self.source) else self.source

    @property
    def content(self) -> str:
        """Names the pixels: equal contents have equal pixels."""
        return f"{self.sha256}-{self.side}"


@dataclass(frozen=True, slots=True)
class Clip:
    """What the header of a video or sound says, or the reason why it cannot be had.

    Exactly one of ``fault`` and ``format`` (the container: ``mov``, ``wav``, …; ``frames`` for a video that comes
    as pictures) is set. ``seconds`` is None where the header does not say how long it lasts. ``width``, ``height``,
    ``fps`` and ``frames`` are of videos, ``sample_rate`` (in hertz) and ``channels`` of sounds; 0: not told.
    ``sha256`` is over the bytes where the record carries them, else "": files are not read to their end.
    ``retry`` as of ``Image``.
    """

    kind: Literal["video", "audio"]
    reference: str
    fault: str | None
    format: str = ""
    codec: str = ""
    seconds: float | None = None
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    n_bytes: int = 0
    sha256: str = ""
    retry: bool = False

    def __post_init__(self) -> None:
        if (self.fault is None) == (not self.format):
            raise ValueError("a Clip has either a format or a fault, and not both")


# ---------------------------------------------------------------- scores


@dataclass(frozen=True, slots=True)
class Score:
    """A value, or the reason why there is none: exactly one is set.

    ``fault`` tells a reason that something is broken (an unreadable picture, a failed call) from one that the
    metric does not apply (a text-only sample, too short a text). ``retry`` tells a fault that may pass (a
    server that is down): the same command asks again. ``parts`` are further numbers of the same measurement
    and ``notes`` further texts, under the names that ``MetricSpec.parts`` and ``MetricSpec.notes`` declare.
    """

    value: float | None = None
    reason: str | None = None
    fault: bool = False
    parts: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    retry: bool = False

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise ValueError("a Score has either a value or a reason, and not both")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a Score is finite; got {self.value}: give a reason instead")


NOT_APPLICABLE = "not applicable to this sample"


@dataclass(frozen=True, slots=True)
class DatasetScore:
    """The data set's value of one metric, or the reason why there is none.

    ``interval`` is the 95% interval; it rests on ``n_scored`` of ``n_total`` samples; ``details`` is JSON-able;
    ``columns`` adds one value a sample to the table of scores, keyed by column name, in row order (``None`` or null
    where a sample has none, and NaN in an array). ``missing`` says why: one text a sample (None where only ``reason``
    tells), or one for all, which holds where there is no ``reason``. Either may be an array of NumPy or Arrow.
    """

    value: float | None = None
    reason: str | None = None
    interval: tuple[float, float] | None = None
    n_scored: int = 0
    n_total: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    missing: str | Sequence[str | None] | pa.Array = NOT_APPLICABLE
    issues: Sequence[Issue] = ()

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise ValueError("a DatasetScore has either a value or a reason, and not both")


@dataclass(frozen=True, slots=True)
class Scale:
    """What the values of a model mean; fields as in ``MetricSpec``. An empty ``source`` leaves the metric's."""

    unit: str
    bounds: tuple[float, float]
    higher_is_better: bool | None
    source: str = ""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a metric is, as a frozen value beside its code.

    ``reduction`` says in words how turns and pictures become one value a sample and samples one value a
    data set. ``bounds`` may hold infinities. ``higher_is_better`` is None where neither end is better.
    ``version`` rises whenever the same input could get another value. ``parts`` are further columns of a
    sample metric, named ``<name>_<part>``, numbers; ``notes`` likewise, texts; ``columns`` are those that a
    data-set metric adds to the table, and ``texts`` those of them that hold texts; the others hold numbers.
    ``image_side`` is the longest side, in pixels, that the metric itself needs of a picture (0: none).

    The class attribute ``spec`` says what the metric is; an instance whose model has a scale of its own
    carries ``on_scale`` of it.
    """

    name: str
    title: str
    principle: Principle
    level: Literal["sample", "dataset"]
    summary: str
    unit: str
    bounds: tuple[float, float]
    higher_is_better: bool | None
    reduction: str
    version: str
    source: str
    parts: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    image_side: int = 0
    notes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def on_scale(self, scale: Scale) -> MetricSpec:
        """The same metric with the unit, bounds, direction and source of a model's values."""
        return replace(
            self,
            unit=scale.unit,
            bounds=scale.bounds,
            higher_is_better=scale.higher_is_better,
            source=scale.source or self.source,
        )

    def as_table(self) -> dict[str, str]:
        """Every field in words, for a person to read."""
        better = {True: "higher is better", False: "lower is better", None: "neither end is better"}
        return {
            "title": self.title,
            "principle": self.principle.label,
            "level": self.level,
            "what": self.summary,
            "unit": self.unit or "none",
            "range": f"{self.bounds[0]:g} to {self.bounds[1]:g}",
            "direction": better[self.higher_is_better],
            "reduction": self.reduction,
            "source": self.source,
            "version": self.version,
            "columns": ", ".join([*(f"{self.name}_{p}" for p in (*self.parts, *self.notes)), *self.columns])
            or "none",
        }


# ---------------------------------------------------------------- batches and features

RESPONSE_VECTORS = "response-"
"""How the names of features begin that hold one vector of every response."""
PICTURE_VECTORS = "picture-"
"""How the names of features begin that hold one vector of every distinct picture of a sample."""


@dataclass(frozen=True, slots=True)
class Features:
    """What one batch contributes to a data-set metric: ``values[i]`` belongs to ``samples[index[i]]``.

    ``values`` is ``float32[r, d]`` or a list of ``r`` strings; ``index`` is ``int64[r]``, non-decreasing,
    into the batch. ``retry``: some are faults that may pass, as in ``Score``.
    """

    values: FloatArray | list[str]
    index: NDArray[np.int64]
    retry: bool = False


class Clock(Protocol):
    """Told what the time goes to."""

    def measure(self, kind: str, name: str) -> AbstractContextManager[None]:
        """Counts the time inside under ``name``; ``kind`` is "stage", "metric" or "model"."""
        ...


class FeatureCache(Protocol):
    """Values of contents that survive the run: what a model said of a text or a picture once.

    A value is a finite vector ``float32[d]``, bytes, or what JSON gives back equal: texts, finite floats, whole
    numbers, lists, tables with texts for keys. Neither method raises: a cache that cannot be used finds nothing and
    keeps nothing, and a value of another kind (a tuple, a number of NumPy, a vector of another type) is not kept.
    """

    def find(self, space: str, contents: Sequence[str]) -> dict[str, Any]:
        """The values that are known, by content."""
        ...

    def keep(self, space: str, values: Mapping[str, Any]) -> None:
        """Remember the values by content."""
        ...


class Batch:
    """Samples with their pictures, and a memo so that no feature is computed twice.

    ``images[i][j]`` is picture ``j`` of ``samples[i]``, and ``clips[i][j]`` its video or sound ``j``. Without
    ``clips``, none were looked at. ``cache`` remembers beyond the batch; ``clock`` is told how long models took.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        images: Sequence[Sequence[Image]],
        clips: Sequence[Sequence[Clip]] | None = None,
        *,
        cache: FeatureCache | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.samples = tuple(samples)
        self.images = tuple(tuple(row) for row in images)
        self.clips = tuple(tuple(row) for row in clips) if clips is not None else ((),) * len(self.samples)
        for rows, what in ((self.images, "pictures"), (self.clips, "clips")):
            if len(rows) != len(self.samples):
                raise ValueError(f"{len(self.samples)} samples but {len(rows)} rows of {what}")
        self.cache = cache
        self.clock = clock
        self._memo: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def memo(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value stored under ``key``, computed on first use."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]
        return value

    def once(
        self,
        space: str,
        contents: Sequence[str],
        compute: Callable[[list[int]], Sequence[T]],
        *,
        model: str = "",
        is_fault: Callable[[T], bool] | None = None,
    ) -> list[T]:
        """One value a content, in order; each distinct content is computed once, in this run or an earlier one.

        ``compute`` gets those that nobody has a value of, as indices into ``contents`` of their first appearances,
        in one call, and not at all where there are none. ``space`` says what the value is and by what model,
        exactly: the method with ``ModelRef.sha256``, or the metric's name and version where no model takes part.
        ``contents`` are texts, or ``Image.content``. A value is what ``FeatureCache`` can keep;
        one for which ``is_fault`` holds is forgotten with the batch. ``model`` is the name under which the time goes.
        """
        known: dict[str, T] = self.memo(("once", space), dict)
        new = [text for text in dict.fromkeys(contents) if text not in known]
        if new and self.cache is not None:
            known |= self.cache.find(space, new)
            new = [text for text in new if text not in known]
        if new:
            wanted = set(new)
            first: dict[str, int] = {}
            for i, text in enumerate(contents):
                if text in wanted:
                    first.setdefault(text, i)
            with self.timed(model or space):
                found = dict(zip(first, compute(list(first.values())), strict=True))
            known |= found
            if self.cache is not None:
                self.cache.keep(
                    space, {k: v for k, v in found.items() if is_fault is None or not is_fault(v)}
                )
        return [known[text] for text in contents]

    def timed(self, model: str) -> AbstractContextManager[None]:
        """Within it the time is the model's."""
        return nullcontext() if self.clock is None else self.clock.measure("model", model)

    def distinct_images(self) -> dict[str, Image]:
        """Readable pictures of the batch by content hash: what an image model needs to see, once each."""
        return self.memo(
            "distinct_images",
            lambda: {image.sha256: image for row in self.images for image in row if image.fault is None},
        )

    def part(self, start: int, end: int | None = None) -> Batch:
        """The batch of sample ``start`` alone, or of those from it to before ``end``, with a memo of its own."""
        at = slice(start, start + 1 if end is None else end)
        return Batch(self.samples[at], self.images[at], self.clips[at], cache=self.cache, clock=self.clock)


class Spread(Protocol):
    """Computes parts elsewhere, several at a time: for what takes one machine too long."""

    @property
    def width(self) -> int:
        """How many parts are worth having at a time."""
        ...

    def map(self, function: Callable[[Part], T], parts: Iterable[Part]) -> Iterator[T]:
        """``function(part)`` of each part, in their order, as they come.

        ``function`` is a module's own function or a ``functools.partial`` of one, found by its name where it runs;
        what a partial holds travels once, not with every part. Nothing that travels is large: matrices are named by
        their file. Arrays that come back may be read-only. A part's own error is raised, and RunError where what
        computes parts ends again and again.
        """
        ...


class FeatureStore(Protocol):
    """All features of a run, in row order, memory-mapped where they are numbers."""

    @property
    def n_samples(self) -> int:
        """How many readable samples the run holds."""
        ...

    @property
    def seed(self) -> int:
        """The run's seed for everything random."""
        ...

    @property
    def spread(self) -> Spread | None:
        """What shares work among machines, which all see the files of ``vectors``; None on one machine."""
        ...

    def vectors(self, name: str) -> tuple[FloatArray, NDArray[np.int64]]:
        """``float32[r, d]`` and the sample of each row, ``int64[r]``."""
        ...

    def strings(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        """``r`` strings and the sample of each, ``int64[r]``: one object each, gigabytes where there are millions."""
        ...

    def coded(self, name: str) -> tuple[pa.DictionaryArray, NDArray[np.int64]]:
        """The same strings by number, in little memory: string ``i`` is ``dictionary[indices[i]]``.

        No string is twice in the dictionary, which is in the order of first appearance.
        """
        ...

    def column(self, name: str, samples: NDArray[np.int64] | None = None) -> list[Any]:
        """A column of the samples' own table (``id``, ``sha256``, ``line``, a metric): of all samples, or of these."""
        ...

    def memo(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value stored under ``key``, computed on first use: for what several metrics resolve alike."""
        ...


@runtime_checkable
class SampleMetric(Protocol):
    """Scores every sample by itself. The constructor stores options and models; nothing loads there."""

    @property
    def spec(self) -> MetricSpec:
        """What it is."""
        ...

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample, in order."""
        ...


@runtime_checkable
class DatasetMetric(Protocol):
    """Needs the whole data set: collects features batch by batch, then resolves once."""

    @property
    def spec(self) -> MetricSpec:
        """What it is."""
        ...

    def features(self, batch: Batch) -> Mapping[str, Features]:
        """Features by name; metrics that ask for the same name share one copy, so a name carries its model."""
        ...

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """The data set's value, from the stored features alone."""
        ...


Metric = SampleMetric | DatasetMetric


@runtime_checkable
class Remarking(Protocol):
    """A sample metric that has something to say of its values over the data set."""

    def remarks(self, values: NDArray[np.float64]) -> Mapping[str, Any]:
        """JSON-able facts for the scorecard's ``details``; ``warning`` is a sentence shown beside the value.

        ``values`` are those of the samples that have one, ``float64[n]``, n ≥ 1.
        """
        ...


@runtime_checkable
class Judged(Protocol):
    """A metric that asks a judge, and can say beforehand how much.

    Metrics with an equal attribute ``cost_shared``, a text, ask the same once between them.
    """

    def cost(self, sample: Sample) -> Cost:
        """The calls that this sample needs, with the characters and pictures that they send in all."""
        ...


# ---------------------------------------------------------------- models


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Names a model exactly. Two refs are equal only if they give the same numbers."""

    kind: str
    name: str
    revision: str
    sha256: str

    @property
    def key(self) -> str:
        """Short and safe as a file name: part of feature names."""
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in self.name.rsplit("/", 1)[-1])
        return f"{safe}-{self.sha256[:12]}"


@dataclass(frozen=True, slots=True)
class Tag:
    """The task of an instruction, or why the tagger could not find out: exactly one is set."""

    task: str | None
    failure: str | None = None

    def __post_init__(self) -> None:
        if (self.task is None) == (self.failure is None):
            raise ValueError("a Tag has either a task or a failure, and not both")


@dataclass(frozen=True, slots=True)
class TextLikelihood:
    """What a language model says of one text; exactly one of ``value`` and ``reason`` is set.

    ``value`` is the model's own measure of readability, higher is better (its class says which). ``mean_logp``
    is the mean of log P(w | before) and ``slor`` that of log P(w | before) − log P(w), both in nats a token;
    ``slor`` is None without unigram counts. ``model`` names the table that served, ``language`` is ISO 639-1,
    ``oov_share`` the share of tokens that the model has never seen.
    """

    value: float | None
    reason: str | None
    model: str
    language: str
    n_tokens: int
    mean_logp: float | None = None
    slor: float | None = None
    oov_share: float | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """An object in a picture: its category, and its corners as shares of width and height, 0 to 1."""

    category: str
    confidence: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Question:
    """One question to a judge.

    ``prompt`` names the prompt and its version, for the cache of answers; ``system`` is ours and trusted;
    ``content`` holds the data's own text, fenced. ``choices`` are the only answers allowed; empty: any text.
    ``schema`` is the JSON Schema that the answer is to follow, for servers that can be held to one.
    """

    prompt: str
    system: str
    content: str
    images: tuple[Rgb, ...] = field(default=(), repr=False)
    choices: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 16


@dataclass(frozen=True, slots=True)
class Answers:
    """Raw answers, one a vote that succeeded; ``failure`` says why there are fewer than asked for.

    ``retry``: the failure may pass, so that asking again later may help.
    """

    texts: tuple[str, ...]
    failure: str | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """The probability of each choice, summing to 1, or why there is none: exactly one is set."""

    probabilities: Mapping[str, float] | None
    failure: str | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """What a metric is about to ask of a judge for one sample, at most."""

    calls: int
    characters: int
    images: int


class Model(Protocol):
    """Every backend: the constructor stores options, loading happens on first use in each process."""

    @property
    def ref(self) -> ModelRef:
        """What it is, exactly."""
        ...


class ImageEncoder(Model, Protocol):
    """Pictures to vectors."""

    def encode_images(self, images: Sequence[Rgb]) -> FloatArray:
        """Unit rows ``float32[n, d]``."""
        ...


class ForwardStage(Model, Protocol):
    """The costly part of an image encoder: pictures through a network, once for all who need its outputs."""

    def forward(self, images: Sequence[Rgb]) -> Any:
        """The network's outputs, in a form that ``encode_forward`` reads."""
        ...


@runtime_checkable
class StagedImageEncoder(ImageEncoder, Protocol):
    """An image encoder with ``encode_images(x) == encode_forward(stage.forward(x))``.

    Two encoders whose stages have equal refs need one forward pass for a picture, not two.
    """

    @property
    def stage(self) -> ForwardStage:
        """The model whose outputs it reads; may be itself."""
        ...

    def encode_forward(self, outputs: Any) -> FloatArray:
        """Unit rows ``float32[n, d]`` from the stage's outputs."""
        ...


class TextEncoder(Model, Protocol):
    """Texts to vectors."""

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Unit rows ``float32[n, d]``."""
        ...

    def sentences(self, text: str) -> list[str]:
        """The text in pieces that fit the model's context whole; never empty for text with a word in it."""
        ...


@runtime_checkable
class StagedTextEncoder(TextEncoder, Protocol):
    """A text encoder with ``encode_texts(x) == from_text_stage(text_stage.encode_texts(x))``.

    Two encoders whose stages have equal refs need one pass for a text, not two.
    """

    @property
    def text_stage(self) -> TextEncoder:
        """The encoder whose rows it reads; another one."""
        ...

    def from_text_stage(self, rows: FloatArray) -> FloatArray:
        """Unit rows ``float32[n, d]`` from the stage's."""
        ...


class ImageText(ImageEncoder, TextEncoder, Protocol):
    """Pictures and texts in one space: the dot product of unit rows says how well they match."""

    @property
    def scale(self) -> Scale:
        """What ``match`` returns."""
        ...

    def match(self, cosine: float) -> float:
        """A cosine on the model's own scale, rising with it: 100·cos for CLIP, the logit for SigLIP."""
        ...


class ImageScorer(Model, Protocol):
    """Pictures to one number each: quality, complexity."""

    @property
    def scale(self) -> Scale:
        """What the numbers mean."""
        ...

    def score_images(self, images: Sequence[Rgb]) -> NDArray[np.float64]:
        """``float64[n]``, finite."""
        ...


class LanguageModel(Model, Protocol):
    """How likely a text is."""

    @property
    def scale(self) -> Scale:
        """What ``TextLikelihood.value`` means."""
        ...

    def likelihood(self, texts: Sequence[str]) -> list[TextLikelihood]:
        """One answer a text, in order."""
        ...


class ConditionalLanguageModel(LanguageModel, Protocol):
    """How likely a text is after another."""

    def conditional(self, prompts: Sequence[str], texts: Sequence[str]) -> list[TextLikelihood]:
        """The likelihood of ``texts[i]``'s own tokens when ``prompts[i]`` stands before it, in order."""
        ...


class Parser(Model, Protocol):
    """Finds what an instruction speaks of."""

    def elements(self, texts: Sequence[str]) -> list[list[str]]:
        """Distinct semantic elements of each text."""
        ...


class Tagger(Model, Protocol):
    """Gives each instruction a task, in two steps, since some taggers need all instructions to name the tasks."""

    def propose(self, instructions: Sequence[str], n_images: Sequence[int]) -> list[str]:
        """For each instruction, in order, a text that ``settle`` understands; stored with the run.

        ``n_images`` are the media of each one's record; a video or sound counts as a picture does.
        """
        ...

    def settle(self, proposals: Sequence[str]) -> list[Tag]:
        """The tag of every instruction of the data set, from all proposals in order."""
        ...


class Detector(Model, Protocol):
    """Finds objects."""

    def detect(self, images: Sequence[Rgb]) -> list[list[Box]]:
        """Every object found in each picture, most confident first."""
        ...


class Judge(Model, Protocol):
    """A model, of text alone or with pictures, that answers questions about a sample."""

    @property
    def usage(self) -> Mapping[str, int]:
        """Counts since this process began: at least ``calls``, ``cached``, ``failed``, ``retries``,
        ``tokens_in`` and ``tokens_out``."""
        ...

    def ask(self, questions: Sequence[Question], votes: int) -> list[Answers]:
        """``votes`` independent answers to each question, in order; fewer where calls failed, with the reason."""
        ...

    def weigh(self, questions: Sequence[Question]) -> list[Weights]:
        """The probability that the model gives each of a question's ``choices``, in order of the questions."""
        ...
