"""A task for every instruction, by similarity of its sentence embedding to written examples of each task."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlitqc.errors import UsageError
from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import ModelRef, Tag, TextEncoder

OTHER = "other"
TAXONOMY = Path(__file__).with_name("task_taxonomy.toml")

# The encoder reads 256 word pieces, and the question of a long instruction stands at its start or end.
_HEAD, _TAIL = 400, 300
_LEXICAL_SHARE = 0.3
# One near example can be near by topic alone; three agree on the task.
_NEAREST = 3


@dataclass(frozen=True, slots=True)
class Task:
    """One task of the taxonomy. ``max_images`` is None where there is no upper limit."""

    id: str
    title: str
    description: str
    examples: tuple[str, ...]
    min_images: int
    max_images: int | None


@dataclass(frozen=True, slots=True)
class TaskTag:
    """A task with the instruction's ``similarity`` to it (−1 to 1).

    ``margin``: how far that lies above the similarity to the next allowed task (0 to 2).
    """

    task: str
    similarity: float
    margin: float


def read_taxonomy(path: Path) -> tuple[Task, ...]:
    """The tasks of a taxonomy file, in its order.

    Raises ``UsageError`` where the file is not TOML, a task lacks a field, an id comes twice, or no task is
    open to instructions without an image or with one or more.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["task"]
        tasks = tuple(
            Task(
                id=str(entry["id"]),
                title=str(entry["title"]),
                description=str(entry["description"]),
                examples=tuple(map(str, entry["examples"])),
                min_images=int(entry.get("min_images", 0)),
                max_images=int(entry["max_images"]) if "max_images" in entry else None,
            )
            for entry in entries
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: expected [[task]] tables with id, title, description and examples, found {error!r}"
        ) from error
    ids = [task.id for task in tasks]
    if len(set(ids)) < len(ids) or OTHER in ids:
        raise UsageError(
            f"{path}: expected task ids that differ from each other and from '{OTHER}', found {ids}"
        )
    for n in (0, 1):
        if not any(_allows(task, n) for task in tasks):
            raise UsageError(f"{path}: expected a task for instructions with {n} images, found none; add one")
    return tasks


def _allows(task: Task, n_images: int) -> bool:
    return task.min_images <= n_images and (task.max_images is None or n_images <= task.max_images)


class ZeroShotTagger:
    """Zero-shot tasks under a written taxonomy. The constructor stores options, first use embeds it.

    The similarity of an instruction and an example is ``0.7 · cos(embeddings) + 0.3 · cos(tf-idf)``, the
    tf-idf over words and word pairs of the taxonomy with stop words kept. The embedding follows the topic, so
    that "why is the woman holding an umbrella on a sunny day" is close to weather; the words of the question
    ("why is") carry the task. The similarity to a task is the mean of the three highest over the task's
    description and examples. The most similar task that its number of images allows is the tag; below
    ``floor`` the tag is ``other``. Where the images allow a single task (text without images) that task is
    the tag.

    Args:
        ref: what the model is.
        files: ``taxonomy``, a TOML file as ``task_taxonomy.toml`` beside this module, which is the default.
        encoder: sentence encoder with unit rows.
        floor: least similarity of a tag, 0 to 1.
    """

    def __init__(
        self, ref: ModelRef, files: Mapping[str, Path], encoder: TextEncoder, *, floor: float = 0.18
    ) -> None:
        self._ref = ref
        self._path = files.get("taxonomy", TAXONOMY)
        self._encoder = encoder
        self._floor = floor
        self._tasks: tuple[Task, ...] | None = None
        self._rows: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._lexical: Callable[[list[str]], NDArray[np.float32]] | None = None

    @property
    def ref(self) -> ModelRef:
        """What it is, exactly."""
        return self._ref

    def load(self) -> tuple[Task, ...]:
        """The tasks, read and embedded on first use. Raises ``UsageError`` as :func:`read_taxonomy`."""
        if self._tasks is None:
            tasks = read_taxonomy(self._path)
            examples = [text for task in tasks for text in (task.description, *task.examples)]
            self._rows = self._encoder.encode_texts(examples)
            self._lexical = _lexical_similarity(examples)
            self._tasks = tasks
        return self._tasks

    def propose(self, instructions: Sequence[str], n_images: Sequence[int]) -> list[str]:
        """The task of each instruction, in order; see :meth:`tag`."""
        return [found.task for found in self.tag(instructions, n_images)]

    def settle(self, proposals: Sequence[str]) -> list[Tag]:
        """The proposals as they are: each instruction has its task whatever the others are."""
        # One object a task: of millions of instructions few have a task of their own.
        tags = {task: Tag(task) for task in dict.fromkeys(proposals)}
        return [tags[task] for task in proposals]

    def tag(self, instructions: Sequence[str], n_images: Sequence[int]) -> list[TaskTag]:
        """One :class:`TaskTag` an instruction, in order; media tokens are ignored.

        An instruction without a word gets ``other`` at similarity 0, unless its images allow one task only.
        """
        if len(instructions) != len(n_images):
            raise ValueError(
                f"expected one image count an instruction, got {len(n_images)} for {len(instructions)}"
            )
        tasks = self.load()
        plain = [" ".join(strip_media_tokens(text).split()) for text in instructions]
        distinct = {text: i for i, text in enumerate(dict.fromkeys(text for text in plain if text))}
        similarity = self._similarity([abridged(text) for text in distinct])
        allowed = {
            n: np.array([i for i, task in enumerate(tasks) if _allows(task, n)], np.int64)
            for n in set(n_images)
        }
        return [
            self._decide(similarity[distinct[text]] if text else None, allowed[n])
            for text, n in zip(plain, n_images, strict=True)
        ]

    def _similarity(self, texts: list[str]) -> NDArray[np.float32]:
        """``float32[n_texts, n_tasks]``."""
        tasks = self.load()
        out = np.empty((len(texts), len(tasks)), np.float32)
        if not texts or self._lexical is None:
            return out
        semantic = self._encoder.encode_texts(texts) @ self._rows.T
        similarity = (1 - _LEXICAL_SHARE) * semantic + _LEXICAL_SHARE * self._lexical(texts)
        start = 0
        for i, task in enumerate(tasks):
            stop = start + 1 + len(task.examples)
            out[:, i] = np.sort(similarity[:, start:stop], axis=1)[:, -_NEAREST:].mean(axis=1)
            start = stop
        return out

    def _decide(self, similarity: NDArray[np.float32] | None, allowed: NDArray[np.int64]) -> TaskTag:
        tasks = self.load()
        if similarity is None:
            return TaskTag(tasks[allowed[0]].id if len(allowed) == 1 else OTHER, 0.0, 0.0)
        among = similarity[allowed]
        order = np.argsort(-among, kind="stable")
        best = float(among[order[0]])
        margin = best - float(among[order[1]]) if len(allowed) > 1 else 0.0
        certain = len(allowed) == 1 or best >= self._floor
        return TaskTag(tasks[allowed[order[0]]].id if certain else OTHER, best, margin)


def _lexical_similarity(examples: list[str]) -> Callable[[list[str]], NDArray[np.float32]]:
    """A function from texts to their tf-idf cosines with the examples, ``float32[n_texts, n_examples]``."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    rows = vectorizer.fit_transform(examples)

    def similarity(texts: list[str]) -> NDArray[np.float32]:
        return np.asarray((vectorizer.transform(texts) @ rows.T).toarray(), np.float32)

    return similarity


def abridged(text: str) -> str:
    """The text, or its first 400 and last 300 characters if it is longer than both."""
    return text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} … {text[-_TAIL:]}"
