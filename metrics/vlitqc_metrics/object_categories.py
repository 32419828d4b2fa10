"""Object categories: how many kinds of things the pictures of the data set show in all (principle 6)."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np

from vlitqc.analysis.bootstrap import bootstrap_kinds
from vlitqc.analysis.diversity import chao1, good_turing_coverage, normalised_entropy
from vlitqc.types import Batch, DatasetScore, Detector, Features, FeatureStore, MetricSpec, Principle, Score
from vlitqc_metrics._algorithms.objects import NO_OBJECTS, find_objects

LISTED = 50
MOST_RESAMPLED = 20_000
"""Resampling more categories than that would take gigabytes."""


class ObjectCategories:
    """The number of distinct object categories over all pictures, 0 and up.

    The record's own annotations are used where it has them, else a detector, as in ``ObjectDiversity``. A picture
    counts once, however many records show it; where its records are annotated differently, the larger count of
    a category holds.

    Details: instances of the 50 most frequent categories, instances in all, pictures looked at, pictures without
    an object, normalised entropy (1: all equally frequent), Chao1 estimate of the categories there would be in
    unlimited data, Good–Turing coverage. The interval is the value ± 1.96 standard errors of resampled instances.
    """

    spec = MetricSpec(
        name="object_categories",
        title="Object categories",
        principle=Principle.VISUAL_DIVERSITY,
        level="dataset",
        summary="How many different kinds of objects the pictures of the data set show.",
        unit="categories",
        bounds=(0.0, float("inf")),
        higher_is_better=True,
        reduction="distinct categories over all distinct pictures",
        version="2",
        source="section 4.2.3 of the paper (YOLO-World; Cheng et al. 2024)",
    )

    def __init__(self, detector: Detector | None = None) -> None:
        self.detector = detector
        self._feature = "objects-annotated" if detector is None else f"objects-{detector.ref.key}"

    def features(self, batch: Batch) -> dict[str, Features]:
        """One text a picture: JSON of its hash and the count of each category on it."""
        values: list[str] = []
        index: list[int] = []
        for i, found in enumerate(find_objects(batch, self.detector)):
            if not isinstance(found, Score):
                values += [json.dumps([key, dict(sorted(n.items()))]) for key, n in found.pictures.items()]
                index += [i] * len(found.pictures)
        return {self._feature: Features(values, np.array(index, np.int64))}

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """The number of categories, with the table of instances."""
        values, index = store.strings(self._feature)
        if not values:
            reason = NO_OBJECTS if self.detector is None else "no readable picture"
            return DatasetScore(reason=reason, n_total=store.n_samples)
        pictures: dict[str, Counter[str]] = {}
        for value in values:
            key, counts = json.loads(value)
            known = pictures.setdefault(key, Counter())
            known |= Counter(counts)
        total: Counter[str] = Counter()
        for found in pictures.values():
            total.update(found)
        ordered = dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
        details: dict[str, object] = {
            "instances": dict(list(ordered.items())[:LISTED]),
            "n_instances": total.total(),
            "n_pictures": len(pictures),
            "pictures_without_object": sum(not found for found in pictures.values()),
        }
        interval = None
        if total:
            numbers = np.array(list(ordered.values()), np.int64)
            details |= {
                "entropy": normalised_entropy(numbers) if len(numbers) > 1 else None,
                "chao1": chao1(numbers),
                "coverage": good_turing_coverage(numbers),
            }
            if len(numbers) <= MOST_RESAMPLED:
                interval = bootstrap_kinds(numbers, seed=store.seed)
        return DatasetScore(
            float(len(total)),
            interval=interval,
            n_scored=len(set(index.tolist())),
            n_total=store.n_samples,
            details=details,
        )
