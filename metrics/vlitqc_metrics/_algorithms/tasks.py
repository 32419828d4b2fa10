"""The task of every instruction, as a feature that several metrics share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlitqc.types import Batch, Features, FeatureStore, Tagger
from vlitqc_metrics._algorithms.texts import instructions


def task_feature(tagger: Tagger) -> str:
    """The name of the feature that holds the tags of this tagger."""
    return f"tasks-{tagger.ref.key}"


def tag_tasks(batch: Batch, tagger: Tagger) -> dict[str, Features]:
    """One task a turn, tagged once however many metrics ask."""

    def compute() -> Features:
        texts, index = instructions(batch)
        n_images = [len(batch.samples[i].images) for i in index]
        return Features([tag.task for tag in tagger.tag(texts, n_images)], index)

    name = task_feature(tagger)
    return {name: batch.memo(name, compute)}


def stored_tasks(store: FeatureStore, tagger: Tagger) -> tuple[list[str], NDArray[np.int64]]:
    """The task of every turn of the run, and the sample of each."""
    return store.strings(task_feature(tagger))


def task_of_samples(tasks: Sequence[str], index: NDArray[np.int64], n: int) -> list[str | None]:
    """Each sample's most frequent task, the earlier one on a tie; None for a sample without turns."""
    counts: list[Counter[str]] = [Counter() for _ in range(n)]
    for task, sample in zip(tasks, index, strict=True):
        counts[sample][task] += 1
    return [found.most_common(1)[0][0] if found else None for found in counts]


def count_tasks(tasks: Sequence[str]) -> dict[str, int]:
    """How many instructions each task has, most frequent first, then by name."""
    return dict(sorted(Counter(tasks).items(), key=lambda item: (-item[1], item[0])))
