"""The task of every instruction, as a feature that several metrics share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import Batch, Cost, Features, FeatureStore, LanguageModel, Sample, Tag, Tagger
from vlitqc_metrics._algorithms.languages import KnownLanguages, LeftOut
from vlitqc_metrics._algorithms.numbering import most_frequent
from vlitqc_metrics._algorithms.texts import instructions


@runtime_checkable
class JudgedTagger(Tagger, Protocol):
    """A tagger that asks a judge, and can say beforehand how much."""

    def cost_of(self, instructions: Sequence[str]) -> Cost:
        """What proposing and settling these instructions asks of the judge, at most."""
        ...


def cost_of_sample(tagger: JudgedTagger, sample: Sample) -> Cost:
    """What the tagger asks of its judge for one sample, at most."""
    return tagger.cost_of([strip_media_tokens(turn.instruction) for turn in sample.turns])


@dataclass(frozen=True, slots=True)
class StoredTasks:
    """The tag of every instruction of a run in a language that the tagger knows, in order.

    ``index`` is the sample of each, ``int64[n]``, and ``turns`` its row among all turns of the run.
    """

    tags: list[Tag]
    index: NDArray[np.int64]
    turns: NDArray[np.int64]
    left_out: LeftOut

    def known(self) -> tuple[list[str], NDArray[np.int64]]:
        """The tasks of the instructions that have one, and the sample of each."""
        tagged = np.fromiter((tag.task is not None for tag in self.tags), bool, len(self.tags))
        return [tag.task for tag in self.tags if tag.task is not None], self.index[tagged]

    def failures(self) -> list[tuple[int, str]]:
        """The sample of each instruction that could not be tagged, and why, in order."""
        return [
            (sample, tag.failure)
            for sample, tag in zip(self.index.tolist(), self.tags, strict=True)
            if tag.failure is not None
        ]

    def why_none(self) -> str:
        """Why there is no task at all: no instruction, or the most frequent failure."""
        failures = Counter(why for _, why in self.failures())
        if not failures:
            return self.left_out.reason("no instruction")
        return f"no instruction could be tagged: {failures.most_common(1)[0][0]}"

    def missing(self, n: int) -> list[str]:
        """Why each of ``n`` samples has no task: its first failure, its language, or that nothing is asked."""
        reasons = self.left_out.missing(n, "no instruction")
        for sample, why in reversed(self.failures()):
            reasons[sample] = f"the instruction could not be tagged: {why}"
        return reasons


def task_feature(tagger: Tagger) -> str:
    """The name of the feature that holds the proposals of this tagger."""
    return f"tasks-{tagger.ref.key}"


class TaskMetric:
    """A metric on the tasks of a tagger.

    With a ``language_model`` an instruction whose language is none of ``languages`` is left out, because a tagger
    of one language finds nonsense in another; without one every instruction is taken for one of them.

    With a tagger that asks a judge it is ``Judged``, and ``cost_shared`` names the cost that it shares with all
    others of the same tagger, since the judge is asked once for them.
    """

    def __init__(
        self,
        tagger: Tagger,
        *,
        language_model: LanguageModel | None = None,
        languages: Sequence[str] = ("en",),
    ) -> None:
        self.tagger = tagger
        self.known = KnownLanguages(language_model, languages)
        if isinstance(tagger, JudgedTagger):
            # Only then is the metric Judged. A partial, unlike a closure, travels between processes.
            self.cost: Callable[[Sample], Cost] = partial(cost_of_sample, tagger)
            self.cost_shared = task_feature(tagger)


def tag_tasks(batch: Batch, tagger: Tagger, known: KnownLanguages) -> dict[str, Features]:
    """The tagger's proposal for every turn, asked for once however many metrics need it; "" where nothing is asked."""

    def compute() -> Features:
        texts, index = instructions(batch)
        asked = [i for i, text in enumerate(texts) if strip_media_tokens(text)]
        # A question about a video or sound is asked like one about a picture; it is no chat.
        n_media = [len(batch.samples[index[i]].media) for i in asked]
        proposals = [""] * len(texts)
        for i, proposal in zip(
            asked, _proposed(batch, tagger, [texts[i] for i in asked], n_media), strict=True
        ):
            proposals[i] = proposal
        return Features(proposals, index)

    name = task_feature(tagger)
    return {name: batch.memo(name, compute), **known.features(batch, "instruction")}


def _proposed(batch: Batch, tagger: Tagger, texts: Sequence[str], n_media: Sequence[int]) -> Sequence[str]:
    if isinstance(tagger, JudgedTagger):
        # What a judge says is kept with its answers, and a call that failed is asked again.
        return tagger.propose(texts, n_media)
    return batch.once(
        f"task: {tagger.ref}",
        [f"{n} {text}" for n, text in zip(n_media, texts, strict=True)],
        lambda at: tagger.propose([texts[i] for i in at], [n_media[i] for i in at]),
        model=tagger.ref.name,
    )


def stored_tasks(store: FeatureStore, tagger: Tagger, known: KnownLanguages) -> StoredTasks:
    """The tag of every instruction in a known language; all are settled once however many metrics need it."""
    coded, index = store.coded(task_feature(tagger))
    numbers = coded.indices.to_numpy()
    # Objects of which there is one a distinct proposal, however many instructions share it.
    proposals = np.array(coded.dictionary.to_pylist(), object)
    asked = (proposals != "").astype(bool)[numbers]
    tags = store.memo(task_feature(tagger), lambda: tagger.settle(proposals[numbers[asked]].tolist()))
    left_out = known.left_out(store, "instruction", index)
    used = ~left_out.rows[asked]
    turns = np.flatnonzero(asked & ~left_out.rows)
    return StoredTasks(list(compress(tags, used.tolist())), index[turns], turns, left_out)


def task_of_samples(tasks: Sequence[str], index: NDArray[np.int64], n: int) -> list[str | None]:
    """Each sample's most frequent task, the earlier one on a tie; None for a sample without one."""
    number: dict[str, int] = {}
    numbers = np.fromiter((number.setdefault(task, len(number)) for task in tasks), np.int64, len(tasks))
    names = [*number, None]
    return [names[i] for i in most_frequent(numbers, index, n).tolist()]


def count_tasks(tasks: Sequence[str]) -> dict[str, int]:
    """How many instructions each task has, most frequent first, then by name."""
    return dict(sorted(Counter(tasks).items(), key=lambda item: (-item[1], item[0])))
