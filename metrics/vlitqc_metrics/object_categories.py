"""Object categories: how many kinds of things the pictures of the data set show in all (principle 6)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import reduce
from itertools import groupby
from operator import itemgetter, or_

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlitqc.analysis.bootstrap import bootstrap_kinds
from vlitqc.analysis.diversity import chao1, good_turing_coverage, normalised_entropy
from vlitqc.types import Batch, DatasetScore, Detector, Features, FeatureStore, MetricSpec, Principle, Score
from vlitqc_metrics._algorithms.objects import NO_OBJECTS, find_objects

LISTED = 50
MOST_RESAMPLED = 20_000
"""Resampling more categories than that would take many seconds."""
BLOCK = 65_536
"""Texts that are in memory as objects at once."""


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
        image_side=1280,
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
        coded, index = store.coded(self._feature)
        if not len(index):
            reason = NO_OBJECTS if self.detector is None else "no readable picture"
            return DatasetScore(reason=reason, n_total=store.n_samples)
        total, n_pictures, n_empty = _instances(coded.dictionary)
        ordered = dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
        details: dict[str, object] = {
            "instances": dict(list(ordered.items())[:LISTED]),
            "n_instances": total.total(),
            "n_pictures": n_pictures,
            "pictures_without_object": n_empty,
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
            n_scored=len(np.unique(index)),
            n_total=store.n_samples,
            details=details,
        )


def _instances(values: pa.Array) -> tuple[Counter[str], int, int]:
    """Instances of each category over the pictures, how many pictures there are, and how many of them are empty.

    ``values`` are distinct texts of ``ObjectCategories.features``; of several for one picture the largest counts hold.
    """
    # Of equal keys the JSON is equal too.
    keys = pc.extract_regex(values, r'^\["(?P<key>(?:[^"\\]|\\.)*)"').field("key").dictionary_encode()
    picture = keys.indices.to_numpy()
    n_pictures = len(keys.dictionary)
    del keys
    order = np.argsort(picture, kind="stable")

    def told() -> Iterator[tuple[int, dict[str, int]]]:
        for start in range(0, len(order), BLOCK):
            rows = order[start : start + BLOCK]
            for number, text in zip(picture[rows].tolist(), values.take(rows).to_pylist(), strict=True):
                yield number, json.loads(text)[1]

    total: Counter[str] = Counter()
    n_empty = 0
    for _, of_picture in groupby(told(), key=itemgetter(0)):
        found = reduce(or_, (Counter(counts) for _, counts in of_picture))
        total.update(found)
        n_empty += not found
    return total, n_pictures, n_empty
