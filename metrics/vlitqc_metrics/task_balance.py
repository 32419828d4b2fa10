"""Balance: how evenly the instructions spread over the tasks (principle 10)."""

from __future__ import annotations

import numpy as np

from vlitqc.analysis.bootstrap import bootstrap_counts
from vlitqc.analysis.diversity import gini, imbalance_ratio, normalised_entropy, percent_variance
from vlitqc.types import Batch, DatasetScore, Features, FeatureStore, Issue, MetricSpec, Principle
from vlitqc_metrics._algorithms.places import issues_at
from vlitqc_metrics._algorithms.tasks import TaskMetric, count_tasks, stored_tasks, tag_tasks

RARE_SHARE = 0.02
RARE_EXAMPLES = 20


class TaskBalance(TaskMetric):
    """Population variance of the percentage of instructions per task, Var(100·n_k/N); 0 is perfect balance.

    Details: Gini coefficient (0: even), normalised entropy (1: even), largest over smallest task. A task with
    less than 2% of the instructions is noted as an issue of kind ``rare_task`` at its records. An instruction
    that could not be tagged is in no count.
    """

    spec = MetricSpec(
        name="task_balance",
        title="Task balance",
        principle=Principle.BALANCE,
        level="dataset",
        summary="How unevenly the instructions spread over the tasks; 0 is even.",
        unit="squared percentage points",
        bounds=(0.0, 2500.0),
        higher_is_better=False,
        reduction="one task per instruction; variance over tasks",
        version="3",
        source="section 4.2.3 of the paper; the scale is the reading whose values land in its Table 3",
    )

    def features(self, batch: Batch) -> dict[str, Features]:
        """The tagger's proposal for every turn."""
        return tag_tasks(batch, self.tagger, self.known)

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """The variance over the tasks that occur, with the long tail as issues."""
        stored = stored_tasks(store, self.tagger, self.known)
        tasks, index = stored.known()
        if not tasks:
            return DatasetScore(reason=stored.why_none(), n_total=store.n_samples)
        counts = count_tasks(tasks)
        numbers = np.array(list(counts.values()), np.int64)
        rare = {task: n for task, n in counts.items() if n < RARE_SHARE * len(tasks)}
        return DatasetScore(
            percent_variance(numbers),
            interval=bootstrap_counts(numbers, percent_variance, seed=store.seed, bounds=self.spec.bounds),
            n_scored=len(np.unique(index)),
            n_total=store.n_samples,
            details={
                "gini": gini(numbers),
                "entropy": normalised_entropy(numbers) if len(numbers) > 1 else None,
                "imbalance_ratio": imbalance_ratio(numbers),
                "rare_tasks": rare,
                **stored.left_out.details(),
            },
            issues=_rare_issues(store, tasks, index, rare, len(tasks)),
        )


def _rare_issues(
    store: FeatureStore, tasks: list[str], index: np.ndarray, rare: dict[str, int], total: int
) -> list[Issue]:
    if not rare:
        return []
    told = dict.fromkeys(rare, 0)
    details: list[str] = []
    samples: list[int] = []
    for i, task in enumerate(tasks):
        if task in rare and told[task] < RARE_EXAMPLES:
            told[task] += 1
            details.append(f"task {task} has {rare[task]} of {total} instructions")
            samples.append(int(index[i]))
    return issues_at(store, "rare_task", "note", samples, details)
