"""Instruction diversity: how many themes the instructions of each task have (principle 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

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
from vlitqc_metrics._algorithms.ego_splitting import co_occurrence_edges, ego_splitting
from vlitqc_metrics._algorithms.tasks import TaskMetric, stored_tasks, tag_tasks
from vlitqc_metrics._algorithms.texts import instructions
from vlitqc_metrics._algorithms.words import content_word_ids

TEXTS = "instructions"


def word_clusters(
    texts: list[str],
    *,
    min_words: int = 3,
    global_step: Literal["components", "louvain"] = "components",
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
        global_step: Literal["components", "louvain"] = "components",
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
        clusters = {
            task: word_clusters(
                _texts_of(texts, turns),
                min_words=self.min_words,
                global_step=self.global_step,
                seed=store.seed,
            )
            for task, turns in sorted(by_task.items())
        }
        counts = np.array([len(found) for found in clusters.values()], np.float64)
        draws = np.random.default_rng(store.seed).integers(0, len(counts), (REPLICATES, len(counts)))
        return DatasetScore(
            float(counts.mean()),
            interval=percentile_interval(counts[draws].mean(axis=1)) if len(counts) > 1 else None,
            n_scored=len(set(index.tolist())),
            n_total=store.n_samples,
            details={
                "clusters": {task: len(found) for task, found in clusters.items()},
                "examples": {task: [words[:8] for words in found[:3]] for task, found in clusters.items()},
                **stored.left_out.details(),
            },
        )


def _texts_of(texts: pa.DictionaryArray, turns: list[int]) -> list[str]:
    """The texts of some turns, one object for equal ones."""
    numbers, places = np.unique(texts.indices.to_numpy()[turns], return_inverse=True)
    distinct = np.array(texts.dictionary.take(numbers).to_pylist(), object)
    found: list[str] = distinct[places].tolist()
    return found
