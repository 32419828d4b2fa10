"""Objects of samples: places for the report, one look at each picture, and the categories of a whole data set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from vlitqc.testing import MemoryFeatures, check_metric, example_batch
from vlitqc.types import Batch, Box, Image, Media, ModelRef, Origin, Rgb, Sample, Score, Turn
from vlitqc_metrics._algorithms.objects import NO_OBJECTS, find_objects
from vlitqc_metrics.object_categories import ObjectCategories
from vlitqc_metrics.object_diversity import ObjectDiversity

BROKEN = Image("gone.png", None, "missing: gone.png", "")


class ByPixel:
    """Sees as many things as the first pixel says: category ``k`` for k below it, each in a place of its own."""

    ref = ModelRef("Detector", "by-pixel", "1", "0" * 64)

    def __init__(self) -> None:
        self.calls: list[int] = []

    def detect(self, images: Sequence[Rgb]) -> list[list[Box]]:
        self.calls.append(len(images))
        return [
            [Box(f"kind {k}", 1 - k / 1000, k / 1000, 0.25, 0.5, 1 / 3) for k in range(int(image[0, 0, 0]))]
            for image in images
        ]


def shows(n: int, copy: int = 0) -> Image:
    pixels = np.full((4, 8, 3), n, np.uint8)
    return Image(f"{n}-{copy}.png", pixels, None, f"sha-{n}-{copy}", 640, 320)


def batch(*rows: tuple[Sequence[Image], Mapping[str, Any]]) -> Batch:
    samples = [
        Sample(
            f"s{i}",
            (Turn("What?", "That."),),
            tuple(Media("image", image.reference) for image in images),
            meta,
            Origin("f.json", i, i + 1, 0, 0, str(i)),
        )
        for i, (images, meta) in enumerate(rows)
    ]
    return Batch(samples, [images for images, _ in rows])


BUSES: dict[str, Any] = {"objects": {"bus": 2, "car": 0}}


# ---------------------------------------------------------------- one look


def test_a_picture_is_looked_at_once_for_both_metrics() -> None:
    detector = ByPixel()
    made = batch(
        ([shows(2)], {}),
        ([shows(2), shows(3), BROKEN], {}),
        ([shows(9)], BUSES),
        ([BROKEN], {}),
        ([], {}),
    )
    scores = ObjectDiversity(detector).score(made)
    ObjectCategories(detector).features(made)
    assert detector.calls == [2]
    assert [score.value for score in scores] == [2.0, 3.0, 1.0, None, None]
    assert [score.parts for score in scores[:3]] == [
        {"instances": 2.0},
        {"instances": 5.0},
        {"instances": 2.0},
    ]
    assert scores[3] == Score(reason="image unreadable: missing: gone.png", fault=True)
    assert scores[4] == Score(reason="text-only")


def test_a_detector_is_not_asked_where_all_is_annotated() -> None:
    detector = ByPixel()
    assert ObjectDiversity(detector).score(batch(([shows(4)], BUSES)))[0].value == 1.0
    assert detector.calls == []


# ---------------------------------------------------------------- places


def test_boxes_are_kept_for_the_report() -> None:
    (score,) = ObjectDiversity(ByPixel()).score(batch(([shows(2), BROKEN, shows(0)], {})))
    assert score.notes["boxes"] == (
        '[[["kind 0",1.0,0.0,0.25,0.5,0.333],["kind 1",0.999,0.001,0.25,0.5,0.333]],null,[]]'
    )
    (nothing,) = ObjectDiversity(ByPixel()).score(batch(([shows(0)], {})))
    assert (nothing.value, nothing.notes) == (0.0, {})


def test_what_is_kept_is_bounded() -> None:
    many = [shows(200, copy) for copy in range(40)]
    (score,) = ObjectDiversity(ByPixel()).score(batch((many, {})))
    kept = json.loads(score.notes["boxes"])
    assert score.parts["instances"] == 8000.0
    assert [len(boxes) for boxes in kept] == [100] * 16
    long = {"annotations": [{"label": "x\ud800" + "y" * 5000, "xyxy": [0, 0, 9, 9]}]}
    (score,) = ObjectDiversity().score(batch(([shows(1)], long)))
    assert len(score.notes["boxes"]) < 200
    score.notes["boxes"].encode()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"xyxy": [64, 32, 320, 320]}, [0.1, 0.1, 0.5, 1.0]),
        ({"xywh": [64, 32, 256, 64]}, [0.1, 0.1, 0.5, 0.3]),
        ({"xyxy": [0.1, 0.1, 0.5, 1]}, [0.1, 0.1, 0.5, 1.0]),
        ({"bbox": [64, 32, 256, 64], "iscrowd": 0}, [0.1, 0.1, 0.5, 0.3]),
        ({"bbox": [64, 32, 577, 289], "image_id": 5}, [0.1, 0.1, 1.0, 1.0]),
        ({"bndbox": {"xmin": 64, "ymin": 32, "xmax": 128, "ymax": 64}}, [0.1, 0.1, 0.2, 0.2]),
        ({"box": {"x": 64, "y": 32, "w": 64, "h": 32}}, [0.1, 0.1, 0.2, 0.2]),
        ({"box": {"left": 64, "top": 32, "width": 64, "height": 32}}, [0.1, 0.1, 0.2, 0.2]),
        ({"box": {"left": 64, "top": 32, "right": 128, "bottom": 64}}, [0.1, 0.1, 0.2, 0.2]),
    ],
)
def test_annotated_boxes_of_a_certain_form(entry: dict[str, Any], expected: list[float]) -> None:
    (score,) = ObjectDiversity().score(batch(([shows(1)], {"annotations": [entry | {"category_id": 3}]})))
    assert json.loads(score.notes["boxes"]) == [[["3", None, *expected]]]


@pytest.mark.parametrize(
    "entry",
    [
        {"bbox": [64, 32, 256, 64]},
        {"bbox": [64, 32, 256]},
        {"box": {"a": 1}},
        {"xyxy": [64, 32, 900, 64]},
        {"xyxy": [-5, 32, 100, 64]},
        {"xyxy": [300, 32, 100, 64]},
        {"xyxy": ["1", "2", "3", "4"]},
        {"xyxy": [1, 2, 3, float("nan")]},
        {"xyxy": [1, 2, 3, float("inf")]},
        {"xyxy": [1, 2, 3, 10**400]},
        {"xyxy": [1, 2, 3, True]},
        {"polygon": [[1, 2, 3, 4]]},
    ],
)
def test_boxes_of_an_uncertain_form_are_left_out(entry: dict[str, Any]) -> None:
    sure = {"label": "car", "xyxy": [1, 1, 2, 2]}
    (score,) = ObjectDiversity().score(
        batch(([shows(1)], {"annotations": [sure, entry | {"label": "bus"}]})),
    )
    assert (score.value, score.notes) == (2.0, {})


def test_boxes_of_one_picture_among_several_or_of_unknown_size_are_left_out() -> None:
    meta = {"annotations": [{"label": "car", "xyxy": [1, 1, 2, 2]}]}
    two, unread = ObjectDiversity().score(batch(([shows(1), shows(2)], meta), ([BROKEN], meta)))
    assert (two.value, two.notes) == (1.0, {})
    assert (unread.value, unread.notes) == (1.0, {})


def test_categories_are_texts_that_a_file_can_hold() -> None:
    (found,) = find_objects(batch(([shows(1)], {"objects": {"a\ud800": 1, "b": 0}})), None)
    assert not isinstance(found, Score)
    assert found.counts == Counter({"a?": 1})


# ---------------------------------------------------------------- over the data set


def resolve(metric: ObjectCategories, *batches: Batch) -> Any:
    return metric.resolve(MemoryFeatures.collect(metric, batches))


def test_categories_of_a_data_set_by_hand() -> None:
    # Pictures: 2 kinds, 4 kinds, none, and two annotated buses; the first is shown by two records.
    made = [
        batch(([shows(2)], {}), ([shows(4), shows(0)], {})),
        batch(([shows(2)], {}), ([shows(7)], BUSES), ([], {}), ([BROKEN], {})),
    ]
    score = resolve(ObjectCategories(ByPixel()), *made)
    assert score.value == 5.0
    assert score.details["instances"] == {"bus": 2, "kind 0": 2, "kind 1": 2, "kind 2": 1, "kind 3": 1}
    assert score.details["n_instances"] == 8
    assert (score.details["n_pictures"], score.details["pictures_without_object"]) == (4, 1)
    # Two kinds seen once and three twice: 5 + 2²/(2·3); 1 − 2/8.
    assert score.details["chao1"] == pytest.approx(5 + 4 / 6)
    assert score.details["coverage"] == pytest.approx(0.75)
    assert (score.n_scored, score.n_total) == (4, 6)
    assert 1 <= score.interval[0] < 5 < score.interval[1]
    assert sum(score.interval) == pytest.approx(10)


def test_records_that_show_one_picture_count_it_once_in_any_order() -> None:
    other = {"objects": {"bus": 1, "car": 3}}
    first = resolve(ObjectCategories(), batch(([shows(1)], BUSES), ([shows(1)], other)))
    second = resolve(ObjectCategories(), batch(([shows(1)], other), ([shows(1)], BUSES)))
    assert first == second
    assert first.details["instances"] == {"car": 3, "bus": 2}


def test_no_object_and_no_way_to_know() -> None:
    empty = resolve(ObjectCategories(ByPixel()), batch(([shows(0)], {})))
    assert (empty.value, empty.interval, empty.details["pictures_without_object"]) == (0.0, None, 1)
    assert "chao1" not in empty.details
    unknown = resolve(ObjectCategories(), batch(([shows(3)], {})))
    assert (unknown.value, unknown.reason, unknown.n_total) == (None, NO_OBJECTS, 1)
    assert ObjectDiversity().score(batch(([shows(3)], {})))[0].reason == NO_OBJECTS
    broken = resolve(ObjectCategories(ByPixel()), batch(([BROKEN], {})))
    assert broken.reason == "no readable picture"


def test_details_list_the_fifty_most_frequent_and_huge_counts_stay_whole() -> None:
    meta = {"objects": {f"c{k:02d}": 2**32 - k for k in range(60)}}
    score = resolve(ObjectCategories(), batch(([shows(1)], meta)))
    assert score.value == 60.0
    assert list(score.details["instances"]) == [f"c{k:02d}" for k in range(50)]
    assert score.details["n_instances"] == 60 * 2**32 - sum(range(60))
    assert score.interval == (60.0, 60.0)


def test_both_keep_the_contract() -> None:
    for metric in (
        ObjectDiversity(ByPixel()),
        ObjectCategories(ByPixel()),
        ObjectDiversity(),
        ObjectCategories(),
    ):
        check_metric(metric)
    detector = ByPixel()
    ObjectDiversity(detector).score(example_batch())
    assert len(detector.calls) == 1
