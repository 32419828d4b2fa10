"""Task diversity: how many tasks the instructions cover (principle 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vlitqc.analysis.bootstrap import bootstrap_kinds
from vlitqc.analysis.diversity import UNTAGGED, chao1, good_turing_coverage, normalised_entropy
from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    Issue,
    LanguageModel,
    MetricSpec,
    Principle,
    Tagger,
)
from vlitqc_metrics._algorithms.places import issues_at
from vlitqc_metrics._algorithms.tasks import (
    StoredTasks,
    TaskMetric,
    count_tasks,
    stored_tasks,
    tag_tasks,
    task_of_samples,
)


def retained(counts: Mapping[str, int], at_least: int) -> list[str]:
    """The tasks with at least so many instructions, without those that fit no task."""
    return [task for task, n in counts.items() if n >= at_least and task != UNTAGGED]


class TaskDiversity(TaskMetric):
    """The number of tasks with at least ``at_least`` instructions each.

    Details: instructions by task, ``at_least``, normalised entropy (1: all equally frequent), Chao1 estimate of
    the tasks there would be in unlimited data, Good–Turing coverage, share that fits no task. An instruction that the
    tagger could not tag (a judge that was down) is in no count: ``n_untagged`` says how many, and an issue of
    kind ``untagged`` at each of their records says why. The interval is the value ± 1.96 standard errors of
    resampled instructions.
    """

    spec = MetricSpec(
        name="task_diversity",
        title="Task diversity",
        principle=Principle.TASK_DIVERSITY,
        level="dataset",
        summary="How many different tasks the instructions ask for.",
        unit="tasks",
        bounds=(0.0, float("inf")),
        higher_is_better=True,
        reduction="one task per instruction; number of tasks over the data set",
        version="4",
        source="section 4.2.3 of the paper (TagGPT; Li et al. 2023); or similarity to a written taxonomy",
        columns=("task",),
        texts=("task",),
    )

    def __init__(
        self,
        tagger: Tagger,
        *,
        at_least: int = 2,
        language_model: LanguageModel | None = None,
        languages: Sequence[str] = ("en",),
    ) -> None:
        super().__init__(tagger, language_model=language_model, languages=languages)
        self.at_least = at_least

    def features(self, batch: Batch) -> dict[str, Features]:
        """The tagger's proposal for every turn."""
        return tag_tasks(batch, self.tagger, self.known)

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """The number of retained tasks, with the table of tasks."""
        stored = stored_tasks(store, self.tagger, self.known)
        tasks, index = stored.known()
        issues = _untagged_issues(store, stored)
        if not tasks:
            return DatasetScore(
                reason=stored.why_none(),
                n_total=store.n_samples,
                missing=stored.missing(store.n_samples),
                issues=issues,
            )
        counts = count_tasks(tasks)
        known = {task: n for task, n in counts.items() if task != UNTAGGED}
        numbers = np.array(list(known.values()), np.int64)
        details: dict[str, object] = {
            "tasks": counts,
            "at_least": self.at_least,
            "other_share": counts.get(UNTAGGED, 0) / len(tasks),
        }
        if n_untagged := len(stored.failures()):
            details["n_untagged"] = n_untagged
        details |= stored.left_out.details()
        interval = None
        if known:
            details |= {
                "entropy": normalised_entropy(numbers) if len(numbers) > 1 else None,
                "chao1": chao1(numbers),
                "coverage": good_turing_coverage(numbers),
            }
            interval = bootstrap_kinds(numbers, self.at_least, seed=store.seed)
        return DatasetScore(
            float(len(retained(counts, self.at_least))),
            interval=interval,
            n_scored=len(np.unique(index)),
            n_total=store.n_samples,
            details=details,
            columns={"task": task_of_samples(tasks, index, store.n_samples)},
            missing=stored.missing(store.n_samples),
            issues=issues,
        )


def _untagged_issues(store: FeatureStore, stored: StoredTasks) -> list[Issue]:
    """One issue a sample, with the cause of its first failure."""
    # Later entries of a dict win, so the first failure of a sample comes last.
    failures = sorted(dict(reversed(stored.failures())).items())
    samples = [sample for sample, _ in failures]
    return issues_at(store, "untagged", "warning", samples, [f"no task: {why}" for _, why in failures])
