"""Object diversity: how many kinds of things the pictures show (principle 6)."""

from __future__ import annotations

from vlitqc.types import Batch, Detector, MetricSpec, Principle, Score
from vlitqc_metrics._algorithms.objects import find_objects


class ObjectDiversity:
    """Distinct object categories a sample's pictures show, 0 and up; the part ``instances`` counts objects.

    The record's own annotations with boxes or counts are used where it has them (``annotated_categories``),
    else a detector, else there is no score. The note ``boxes`` says where on its pictures the objects are, for
    the report: JSON, for each picture ``[[category, confidence, left, top, right, bottom], …]``, at most 100
    boxes, corners as shares of the picture, confidence null for annotations; null for an unreadable picture.
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
        version="4",
        source="section 4.2.3 of the paper (YOLO-World; Cheng et al. 2024)",
        image_side=1280,
        parts=("instances",),
        notes=("boxes",),
    )

    def __init__(self, detector: Detector | None = None) -> None:
        self.detector = detector

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample, from annotations or detections."""
        scores: list[Score] = []
        for found in find_objects(batch, self.detector):
            if isinstance(found, Score):
                scores.append(found)
                continue
            boxes = found.boxes_as_json()
            scores.append(
                Score(
                    float(len(found.counts)),
                    parts={"instances": float(found.counts.total())},
                    notes={} if boxes is None else {"boxes": boxes},
                )
            )
        return scores
