"""Object diversity: how many kinds of things the pictures show (principle 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlitqc.types import Batch, Detector, MetricSpec, Principle, Sample, Score
from vlitqc_metrics._algorithms.pictures import no_picture

ANNOTATION_FIELDS = ("objects", "annotations")
CATEGORY_FIELDS = ("category", "category_name", "label", "name", "class")


def annotated_categories(meta: Mapping[str, Any]) -> list[str] | None:
    """The category of every annotated object of a record, or None where it carries no annotations.

    Understood: a mapping of category to count; a list of category names; a list of mappings with one of the
    fields ``category``, ``category_name``, ``label``, ``name`` or ``class``.
    """
    found = next((meta[field] for field in ANNOTATION_FIELDS if field in meta), None)
    if isinstance(found, Mapping):
        counts = {
            str(k): v for k, v in found.items() if isinstance(v, int) and not isinstance(v, bool) and v >= 0
        }
        return list(Counter(counts).elements()) if len(counts) == len(found) else None
    if not isinstance(found, Sequence) or isinstance(found, str):
        return None
    names = [_category(entry) for entry in found]
    return [name for name in names if name is not None] if None not in names else None


def _category(entry: Any) -> str | None:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, Mapping):
        return next((str(entry[field]) for field in CATEGORY_FIELDS if field in entry), None)
    return None


class ObjectDiversity:
    """Distinct object categories a sample's pictures show, 0 and up; the part ``instances`` counts objects.

    The record's own annotations are used where it has them, else a detector, else there is no score.
    """

    spec = MetricSpec(
        name="object_diversity",
        title="Object diversity",
        principle=Principle.VISUAL_DIVERSITY,
        level="sample",
        summary="How many kinds of objects the pictures show.",
        unit="categories per sample",
        bounds=(0.0, float("inf")),
        higher_is_better=True,
        reduction="distinct categories over a sample's pictures; mean over samples",
        version="1",
        source="section 4.2.3 of the paper (YOLO-World; Cheng et al. 2024)",
        parts=("instances",),
    )

    def __init__(self, detector: Detector | None = None) -> None:
        self.detector = detector

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample, from annotations or detections."""
        return [self._score(sample, i, batch) for i, sample in enumerate(batch.samples)]

    def _score(self, sample: Sample, i: int, batch: Batch) -> Score:
        if not sample.images:
            return no_picture(())
        categories = annotated_categories(sample.meta)
        if categories is None:
            if self.detector is None:
                return Score(
                    reason="no object detector in this profile, and no box annotations in the record"
                )
            pictures = [image.pixels for image in batch.images[i] if image.pixels is not None]
            if not pictures:
                return no_picture(batch.images[i])
            categories = [name for found in self.detector.detect(pictures) for name in found]
        return Score(float(len(set(categories))), parts={"instances": float(len(categories))})
