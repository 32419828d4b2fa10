"""The objects in a sample's pictures: from the record's own annotations, else from a detector."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from vlitqc.types import Batch, Box, Detector, Image, Sample, Score
from vlitqc_metrics._algorithms.pictures import no_picture, pixels_of

NO_OBJECTS = "no object detector in this profile, and no box annotations in the record"

ANNOTATION_FIELDS = ("objects", "annotations")
CATEGORY_FIELDS = ("category", "category_name", "label", "name", "class", "category_id")
CATEGORY_LISTS = (*CATEGORY_FIELDS, "categories", "labels", "names", "classes")
BOX_FIELDS = (
    "bbox", "box", "bndbox", "bounding_box", "bboxes", "boxes", "xyxy", "xywh", "segmentation", "polygon"
)  # fmt: skip
COCO_FIELDS = ("iscrowd", "image_id")
"""An annotation that has one of them is COCO's, whose ``bbox`` is left, top, width, height."""

CORNERS = (("left", "top", "right", "bottom"), ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
SIDES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))

MOST_OBJECTS = 2**32
"""No picture holds so many, so a larger number is no count; sums of it stay whole numbers."""
MOST_BOXES, MOST_PICTURES, MOST_LETTERS = 100, 16, 80
"""Of what is kept for the report: boxes a picture, pictures a sample, letters of a category."""

_FIELDS = attrgetter(*(field.name for field in fields(Box)))

Marked = tuple[str, float | None, float, float, float, float]
"""Category, confidence (None: annotated), left, top, right, bottom as shares of the picture, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of one sample.

    ``counts`` holds how many there are of each category, without those of which there are none. ``pictures`` has
    the same for each picture by its content hash; annotations, which do not say on which picture of several an
    object is, count as those of one picture. ``boxes[j]`` are those on picture ``j``, None where it could not be
    read; empty where the places are not known.
    """

    counts: Counter[str]
    pictures: Mapping[str, Counter[str]]
    boxes: Sequence[Sequence[Marked] | None]

    def boxes_as_json(self) -> str | None:
        """``[[[category, confidence, left, top, right, bottom], …], …]``, a list a picture, of bounded size.

        None where no picture has a box.
        """
        if not any(self.boxes):
            return None
        kept = [
            None
            if boxes is None
            else [
                [name[:MOST_LETTERS], *(None if number is None else round(number, 3) for number in numbers)]
                for name, *numbers in boxes[:MOST_BOXES]
            ]
            for boxes in self.boxes[:MOST_PICTURES]
        ]
        # Only ASCII, since a name may hold half a character, which no file in UTF-8 can.
        return json.dumps(kept, separators=(",", ":"))


def find_objects(batch: Batch, detector: Detector | None) -> list[Objects | Score]:
    """The objects of each sample, or the score that says why they are not known.

    A detector sees each distinct picture of the batch once, however many metrics ask, and none of a sample with
    annotations of its own.
    """
    annotated = batch.memo(
        "annotated_objects", lambda: [annotated_categories(sample.meta) for sample in batch.samples]
    )
    detected = (
        {} if detector is None else batch.memo(("objects", detector.ref), lambda: _detect(batch, detector))
    )
    found: list[Objects | Score] = []
    for sample, images, counts in zip(batch.samples, batch.images, annotated, strict=True):
        if not sample.images:
            found.append(no_picture(sample, ()))
        elif counts is not None:
            found.append(_from_annotations(sample, images, counts))
        elif detector is None:
            found.append(Score(reason=NO_OBJECTS))
        elif all(image.fault is not None for image in images):
            found.append(no_picture(sample, images))
        else:
            found.append(_from_detections(images, detected))
    return found


def _detect(batch: Batch, detector: Detector) -> dict[str, list[Box]]:
    """The boxes on each distinct readable picture of samples without annotations, by content hash."""
    pictures = {
        image.sha256: image
        for sample, images in zip(batch.samples, batch.images, strict=True)
        if annotated_categories(sample.meta) is None
        for image in images
        if image.fault is None
    }
    seen = list(pictures.values())

    def compute(at: list[int]) -> list[list[list[Any]]]:
        found = detector.detect(pixels_of(seen[i] for i in at))
        return [[list(_FIELDS(box)) for box in boxes] for boxes in found]

    contents = [image.content for image in seen]
    rows = batch.once(f"objects: {detector.ref}", contents, compute, model=detector.ref.name)
    return {sha256: [Box(*box) for box in boxes] for sha256, boxes in zip(pictures, rows, strict=True)}


def _from_detections(images: Sequence[Image], detected: Mapping[str, list[Box]]) -> Objects:
    read = [image.sha256 for image in images if image.fault is None]
    pictures = {sha256: Counter(box.category for box in detected[sha256]) for sha256 in read}
    boxes: list[list[Marked] | None] = [
        None
        if image.fault is not None
        else [(b.category, b.confidence, b.left, b.top, b.right, b.bottom) for b in detected[image.sha256]]
        for image in images
    ]
    counts: Counter[str] = Counter()
    for sha256 in read:
        counts += pictures[sha256]
    return Objects(counts, pictures, boxes)


def _from_annotations(sample: Sample, images: Sequence[Image], counts: Counter[str]) -> Objects:
    shown = +counts
    key = "+".join(image.sha256 or image.reference for image in images)
    boxes = _annotated_boxes(sample.meta, images[0]) if len(images) == 1 else None
    return Objects(shown, {key: shown}, [] if boxes is None else [boxes])


# ---------------------------------------------------------------- annotations


def annotated_categories(meta: Mapping[str, Any]) -> Counter[str] | None:
    """How many objects of each category a record's annotations hold, or None where it carries none.

    Understood, under ``objects``:

    * a mapping of category to count, ``{"bus": 2, "car": 0}``;
    * lists side by side, ``{"bbox": [[…], …], "category": ["bus", …]}``: one of ``CATEGORY_LISTS`` and one of
      ``BOX_FIELDS``, equally long;

    and under ``objects`` or ``annotations`` a list of mappings, each one object with one of
    ``CATEGORY_FIELDS`` and one of ``BOX_FIELDS``, as COCO has them. Without a box a list under these names may
    hold anything (remarks, captions), so it says nothing of objects. A category is a text or a whole number.
    """
    objects = meta.get("objects")
    if isinstance(objects, Mapping):
        found = _counts(objects)
        return found if found is not None else _side_by_side(objects)
    entries = _entries(meta)
    return None if entries is None else Counter(map(_category, entries))


def _entries(meta: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The annotations that are a list of objects with category and box."""
    for field in ANNOTATION_FIELDS:
        entries = meta.get(field)
        if isinstance(entries, list) and (entries or field == "objects") and all(map(_is_object, entries)):
            return entries
    return None


def _is_object(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping)
        and any(_is_box(entry.get(field)) for field in BOX_FIELDS)
        and any(_is_name(entry.get(field)) for field in CATEGORY_FIELDS)
    )


def _category(entry: Mapping[str, Any]) -> str:
    return _text(next(entry[field] for field in CATEGORY_FIELDS if _is_name(entry.get(field))))


def _counts(objects: Mapping[Any, Any]) -> Counter[str] | None:
    found: Counter[str] = Counter()
    for category, count in objects.items():
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_OBJECTS:
            return None
        found[_text(category)] += count
    return found


def _side_by_side(objects: Mapping[Any, Any]) -> Counter[str] | None:
    boxes = next((objects[field] for field in BOX_FIELDS if field in objects), None)
    categories = next((objects[field] for field in CATEGORY_LISTS if field in objects), None)
    if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
        return None
    if not all(map(_is_box, boxes)) or not all(map(_is_name, categories)):
        return None
    return Counter(map(_text, categories))


def _is_box(value: Any) -> bool:
    return isinstance(value, (list, tuple, Mapping)) and len(value) > 0


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _text(name: str | int) -> str:
    # JSON can hold half a character; tables and reports, which are UTF-8, cannot.
    return str(name).encode("utf-8", "replace").decode("utf-8")


def _annotated_boxes(meta: Mapping[str, Any], image: Image) -> list[Marked] | None:
    """The annotated boxes on a record's one picture; None where their form or unit is not certain.

    Certain are lists named ``xyxy`` or ``xywh``, tables whose keys name corners or sides, and ``bbox`` in an
    annotation of COCO. Numbers none of which is above 1 are shares of the picture; else they are pixels, and lie
    in the picture.
    """
    entries = _entries(meta)
    if not entries:
        return None
    found = [_corners(entry) for entry in entries]
    corners = [box for box in found if box is not None]
    if len(corners) < len(found):
        return None
    if max(max(box) for box in corners) <= 1:
        width = height = 1
    else:
        width, height = image.width, image.height
    marked: list[Marked] = []
    for entry, (left, top, right, bottom) in zip(entries, corners, strict=True):
        # A pixel beyond the edge is a matter of rounding, more is another picture's size.
        if not (0 <= left <= right <= width + 1 and 0 <= top <= bottom <= height + 1 and width and height):
            return None
        shares = (left / width, top / height, min(1.0, right / width), min(1.0, bottom / height))
        marked.append((_category(entry), None, *shares))
    return marked


def _corners(entry: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    for field in BOX_FIELDS:
        box = entry.get(field)
        if isinstance(box, Mapping):
            for keys in CORNERS:
                if all(map(box.__contains__, keys)):
                    return _numbers([box[key] for key in keys])
            for keys in SIDES:
                if all(map(box.__contains__, keys)):
                    return _spanned(_numbers([box[key] for key in keys]))
        elif box is not None and field == "xyxy":
            return _numbers(box)
        elif box is not None and (
            field == "xywh" or (field == "bbox" and not entry.keys().isdisjoint(COCO_FIELDS))
        ):
            return _spanned(_numbers(box))
    return None


def _numbers(box: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return None
    for number in box:
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not abs(number) < MOST_OBJECTS:
            return None
    left, top, right, bottom = map(float, box)
    return (left, top, right, bottom) if math.isfinite(sum(box)) else None


def _spanned(box: tuple[float, float, float, float] | None) -> tuple[float, float, float, float] | None:
    return None if box is None else (box[0], box[1], box[0] + box[2], box[1] + box[3])
