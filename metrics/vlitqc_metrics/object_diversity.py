"""Object diversity: how many kinds of things the pictures show (principle 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from vlitqc.types import Batch, Detector, MetricSpec, Principle, Sample, Score
from vlitqc_metrics._algorithms.pictures import no_picture

ANNOTATION_FIELDS = ("objects", "annotations")
CATEGORY_FIELDS = ("category", "category_name", "label", "name", "class")
CATEGORY_LISTS = (*CATEGORY_FIELDS, "categories", "labels", "names", "classes")
BOX_FIELDS = (
    "bbox", "box", "bndbox", "bounding_box", "bboxes", "boxes", "xyxy", "xywh", "segmentation", "polygon"
)  # fmt: skip
MOST_OBJECTS = 2**53
"""Above it a float no longer counts; no picture holds so many, so such a number is no count."""


def annotated_categories(meta: Mapping[str, Any]) -> Counter[str] | None:
    """How many objects of each category a record's annotations hold, or None where it carries none.

    Understood, under ``objects``:

    * a mapping of category to count, ``{"bus": 2, "car": 0}``;
    * lists side by side, ``{"bbox": [[…], …], "category": ["bus", …]}``: one of ``CATEGORY_LISTS`` and one of
      ``BOX_FIELDS``, equally long;

    and under ``objects`` or ``annotations`` a list of mappings, each one object with one of
    ``CATEGORY_FIELDS`` and one of ``BOX_FIELDS``. Without a box a list under these names may hold anything
    (remarks, captions), so it says nothing of objects. A category is a text or a whole number.
    """
    objects = meta.get("objects")
    if isinstance(objects, Mapping):
        found = _counts(objects)
        return found if found is not None else _side_by_side(objects)
    for field in ANNOTATION_FIELDS:
        entries = meta.get(field)
        if isinstance(entries, list) and (entries or field == "objects"):
            names = [_category(entry) for entry in entries]
            if None not in names:
                return Counter(name for name in names if name is not None)
    return None


def _counts(objects: Mapping[Any, Any]) -> Counter[str] | None:
    for count in objects.values():
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_OBJECTS:
            return None
    return Counter({str(category): count for category, count in objects.items()})


def _side_by_side(objects: Mapping[Any, Any]) -> Counter[str] | None:
    boxes = next((objects[field] for field in BOX_FIELDS if field in objects), None)
    categories = next((objects[field] for field in CATEGORY_LISTS if field in objects), None)
    if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
        return None
    if not all(map(_is_box, boxes)) or not all(map(_is_name, categories)):
        return None
    return Counter(map(str, categories))


def _category(entry: Any) -> str | None:
    """The category of an object with a box; None for anything else."""
    if not isinstance(entry, Mapping) or not any(_is_box(entry.get(field)) for field in BOX_FIELDS):
        return None
    return next((str(entry[field]) for field in CATEGORY_FIELDS if _is_name(entry.get(field))), None)


def _is_box(value: Any) -> bool:
    return isinstance(value, (list, tuple, Mapping)) and len(value) > 0


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


class ObjectDiversity:
    """Distinct object categories a sample's pictures show, 0 and up; the part ``instances`` counts objects.

    The record's own annotations with boxes or counts are used where it has them (``annotated_categories``),
    else a detector, else there is no score.
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
        version="2",
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
            return no_picture(sample, ())
        categories = annotated_categories(sample.meta)
        if categories is None:
            if self.detector is None:
                return Score(
                    reason="no object detector in this profile, and no box annotations in the record"
                )
            pictures = [image.pixels for image in batch.images[i] if image.pixels is not None]
            if not pictures:
                return no_picture(sample, batch.images[i])
            categories = Counter(name for found in self.detector.detect(pictures) for name in found)
        shown = [count for count in categories.values() if count > 0]
        return Score(float(len(shown)), parts={"instances": float(sum(shown))})
