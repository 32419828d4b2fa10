"""Instruction diversity: how many themes the instructions of each task have (principle 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from vlitqc.analysis.bootstrap import REPLICATES, percentile_interval
from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    LanguageModel,
    MetricSpec,
    Principle,
    Tagger,
)
from vlitqc_metrics._algorithms.ego_splitting import GlobalStep, co_occurrence_edges, ego_splitting
from vlitqc_metrics._algorithms.tasks import TaskMetric, stored_tasks, tag_tasks
from vlitqc_metrics._algorithms.texts import instructions
from vlitqc_metrics._algorithms.words import content_word_ids

TEXTS = "instructions"

SPREAD_FROM = 1_000_000
"""Instructions from which the tasks are shared among machines: of fewer, one takes under a minute."""

PARTS_EACH = 4
"""Parts for each that is computed at a time, so that tasks of unlike size keep all machines busy."""

Themes = tuple[int, list[list[str]]]
"""How many word clusters a task has, and the first words of the largest."""


def word_clusters(
    texts: list[str],
    *,
    min_words: int = 3,
    global_step: GlobalStep = "components",
    seed: int = 0,
) -> list[list[str]]:
    """Overlapping clusters of the words that occur together in the same text, largest first.

    Nodes are content words, edges join words of the same text; Ego-Splitting finds the clusters, and those
    with at least ``min_words`` words stay.
    """
    ids, vocabulary = content_word_ids(texts)
    edges = co_occurrence_edges(ids)
    clusters = ego_splitting(edges, len(vocabulary), global_step=global_step, seed=seed)
    kept = [sorted(vocabulary[i] for i in cluster) for cluster in clusters if len(cluster) >= min_words]
    return sorted(kept, key=lambda words: (-len(words), words))


class InstructionDiversity(TaskMetric):
    """Mean over tasks of the number of word clusters in the task's instructions.

    For each task: the graph of content words that share an instruction, Ego-Splitting (connected components
    in both steps, or Louvain in the global one), clusters with at least ``min_words`` words counted. An
    instruction that could not be tagged is in no task. The interval resamples tasks. The number grows with
    the size of the data; compare at equal sizes.
    """

    spec = MetricSpec(
        name="instruction_diversity",
        title="Instruction diversity",
        principle=Principle.INSTRUCTION_DIVERSITY,
        level="dataset",
        summary="How many themes the instructions of each task have.",
        unit="clusters per task",
        bounds=(0.0, float("inf")),
        higher_is_better=True,
        reduction="clusters of the words of a task's instructions; mean over tasks",
        version="3",
        source="section 4.2.3 of the paper; Ego-Splitting: Epasto et al., KDD 2017",
    )

    def __init__(
        self,
        tagger: Tagger,
        *,
        min_words: int = 3,
        global_step: GlobalStep = "components",
        language_model: LanguageModel | None = None,
        languages: Sequence[str] = ("en",),
    ) -> None:
        super().__init__(tagger, language_model=language_model, languages=languages)
        self.min_words = min_words
        self.global_step = global_step

    def features(self, batch: Batch) -> dict[str, Features]:
        """The tagger's proposal and the text of every turn's instruction."""
        return {**tag_tasks(batch, self.tagger, self.known), TEXTS: Features(*instructions(batch))}

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """Clusters per task, averaged."""
        stored = stored_tasks(store, self.tagger, self.known)
        _, index = stored.known()
        texts, _ = store.coded(TEXTS)
        by_task: dict[str, list[int]] = defaultdict(list)
        for tag, turn in zip(stored.tags, stored.turns.tolist(), strict=True):
            if tag.task is not None:
                by_task[tag.task].append(turn)
        if not by_task:
            return DatasetScore(reason=stored.why_none(), n_total=store.n_samples)
        themes = partial(themes_of, self.min_words, self.global_step, store.seed)
        total, spread = sum(map(len, by_task.values())), store.spread
        of_tasks = [turns for _, turns in sorted(by_task.items())]
        parts: Iterator[list[Themes]]
        if spread is None or total < SPREAD_FROM:
            parts = map(themes, _parts(texts, of_tasks, 1))
        else:
            parts = spread.map(themes, _parts(texts, of_tasks, total / (PARTS_EACH * spread.width)))
        clusters = dict(zip(sorted(by_task), (found for part in parts for found in part), strict=True))
        counts = np.array([n for n, _ in clusters.values()], np.float64)
        draws = np.random.default_rng(store.seed).integers(0, len(counts), (REPLICATES, len(counts)))
        return DatasetScore(
            float(counts.mean()),
            interval=percentile_interval(counts[draws].mean(axis=1)) if len(counts) > 1 else None,
            n_scored=len(set(index.tolist())),
            n_total=store.n_samples,
            details={
                "clusters": {task: n for task, (n, _) in clusters.items()},
                "examples": {task: examples for task, (_, examples) in clusters.items()},
                **stored.left_out.details(),
            },
        )


def themes_of(min_words: int, global_step: GlobalStep, seed: int, tasks: Iterable[list[str]]) -> list[Themes]:
    """The themes of each of some tasks, from the texts of its instructions."""
    found = (word_clusters(texts, min_words=min_words, global_step=global_step, seed=seed) for texts in tasks)
    return [(len(clusters), [words[:8] for words in clusters[:3]]) for clusters in found]


def _parts(
    texts: pa.DictionaryArray, of_tasks: Sequence[list[int]], least: float
) -> Iterator[list[list[str]]]:
    """The texts of the tasks, in order, of so many at a time that there are at least ``least``."""
    part: list[list[str]] = []
    for turns in of_tasks:
        part.append(_texts_of(texts, turns))
        if sum(map(len, part)) >= least:
            yield part
            part = []
    if part:
        yield part


def _texts_of(texts: pa.DictionaryArray, turns: list[int]) -> list[str]:
    """The texts of some turns, one object for equal ones."""
    numbers, places = np.unique(texts.indices.to_numpy()[turns], return_inverse=True)
    distinct = np.array(texts.dictionary.take(numbers).to_pylist(), object)
    found: list[str] = distinct[places].tolist()
    return found
