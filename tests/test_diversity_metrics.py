"""Response and visual diversity, with encoders that can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from vlitqc.testing import MemoryFeatures
from vlitqc.types import Batch, FloatArray, Image, Media, ModelRef, Origin, Rgb, Sample, Turn
from vlitqc_metrics._algorithms.cluster_summary import (
    UNLABELLED,
    Density,
    cluster,
    count_error,
    curve,
    label_of_first,
)
from vlitqc_metrics.response_diversity import ResponseDiversity
from vlitqc_metrics.visual_semantic_diversity import VisualSemanticDiversity

AXES = 32


def axis(number: int) -> FloatArray:
    """One of 32 orthogonal directions: equal numbers are close, different ones are not."""
    row = np.zeros(AXES, np.float32)
    row[number] = 1.0
    return row


class Axes:
    """A text's last number and a picture's first pixel choose a direction."""

    ref = ModelRef("TextEncoder", "axes", "1", "a" * 64)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        return np.stack([axis(int(text.split()[-1])) for text in texts])

    def encode_images(self, images: Sequence[Rgb]) -> FloatArray:
        return np.stack([axis(int(image[0, 0, 0])) for image in images])

    def sentences(self, text: str) -> list[str]:
        return [text]


def picture(kind: int, copy: int) -> Image:
    """Picture number ``copy`` of a kind: like the others of its kind, with bytes of its own."""
    return Image(f"{kind}-{copy}.png", np.full((2, 2, 3), kind, np.uint8), None, f"sha-{kind}-{copy}")


BROKEN = Image("gone.png", None, "missing: gone.png")


def batch(*rows: tuple[Sequence[str], Sequence[Image]]) -> Batch:
    samples = []
    for i, (responses, images) in enumerate(rows):
        media = tuple(Media("image", image.reference) for image in images)
        turns = tuple(Turn("What?", response) for response in responses)
        samples.append(Sample(f"s{i}", turns, media, {}, Origin("f.json", i, i + 1, 0, 0, str(i))))
    return Batch(samples, [images for _, images in rows])


# ---------------------------------------------------------------- responses


def test_response_diversity_by_hand() -> None:
    metric = ResponseDiversity(Axes(), min_samples=3)
    made = batch(
        (["kind 5", "kind 1"], []),
        (["kind 5"], []),
        (["", "kind 5"], []),
        ([""], []),
        (["kind 2"], []),  # alone: noise
        *((["kind 7"], []) for _ in range(4)),
    )
    score = metric.resolve(MemoryFeatures.collect(metric, [made]))
    assert score.value == pytest.approx(math.log10(2))
    assert score.columns["response_cluster"].to_pylist() == [0, 0, 0, None, -1, 1, 1, 1, 1]
    assert (score.n_scored, score.n_total) == (8, 9)
    assert score.details["n_clusters"] == 2
    assert score.details["n_responses"] == 9
    assert score.details["noise_share"] == pytest.approx(2 / 9)
    assert score.details["largest_clusters"] == [4, 3]
    assert score.interval is not None
    assert 0.0 <= score.interval[0] <= score.value <= score.interval[1]


def test_one_cluster_is_a_diversity_of_nought() -> None:
    metric = ResponseDiversity(Axes())
    made = batch(*((["kind 3"], []) for _ in range(50)))
    score = metric.resolve(MemoryFeatures.collect(metric, [made]))
    assert score.value == 0.0 and score.interval == (0.0, 0.0)


def test_no_cluster_and_no_response_have_no_value() -> None:
    metric = ResponseDiversity(Axes())
    apart = metric.resolve(MemoryFeatures.collect(metric, [batch(*(([f"kind {k}"], []) for k in range(9)))]))
    assert apart.value is None
    assert apart.reason == "no cluster: no 3 of the 9 responses lie close together"
    assert apart.columns["response_cluster"].to_pylist() == [-1] * 9
    assert (apart.n_scored, apart.n_total) == (0, 9)
    silent = metric.resolve(MemoryFeatures.collect(metric, [batch(([""], []), (["<image>"], []))]))
    assert silent.reason == "no response text"
    assert (silent.n_scored, silent.missing) == (0, ["no response"] * 2)


def test_more_kinds_of_response_score_higher() -> None:
    metric = ResponseDiversity(Axes())
    values = []
    for kinds in (1, 3, 10, 20):
        made = batch(*(([f"kind {i % kinds}"], []) for i in range(200)))
        values.append(metric.resolve(MemoryFeatures.collect(metric, [made])).value)
    assert values == pytest.approx([math.log10(kinds) for kinds in (1, 3, 10, 20)])


# ---------------------------------------------------------------- pictures


def test_visual_diversity_by_hand() -> None:
    metric = VisualSemanticDiversity(Axes())
    made = batch(
        (["x 0"], [picture(9, 0)]),
        (["x 0"], [picture(9, 1), picture(4, 0)]),
        (["x 0"], [picture(9, 2)]),
        (["x 0"], [BROKEN, picture(4, 1)]),
        (["x 0"], [picture(4, 2)]),
        (["x 0"], [BROKEN]),
        (["x 0"], []),
        (["x 0"], [picture(1, 0)]),
    )
    score = metric.resolve(MemoryFeatures.collect(metric, [made]))
    assert score.value == 2.0
    assert score.columns["image_cluster"].to_pylist() == [0, 0, 0, 1, 1, None, None, -1]
    assert (score.n_scored, score.n_total) == (6, 8)
    assert list(score.missing)[5:7] == ["no readable picture"] * 2
    assert score.details["n_images"] == 7
    assert score.details["largest_clusters"] == [3, 3]


def test_the_same_picture_many_times_is_no_cluster() -> None:
    metric = VisualSemanticDiversity(Axes())
    made = batch(*((["x 0"], [picture(3, 0)]) for _ in range(50)))
    score = metric.resolve(MemoryFeatures.collect(metric, [made]))
    assert score.reason == "no cluster: no 3 of the 1 images lie close together"
    assert (score.n_scored, score.n_total) == (0, 50)


def test_no_readable_picture_has_no_value() -> None:
    metric = VisualSemanticDiversity(Axes())
    score = metric.resolve(MemoryFeatures.collect(metric, [batch((["x 0"], [BROKEN]), (["x 0"], []))]))
    assert score.reason == "no readable image"


def test_clusters_are_numbered_by_the_data_not_by_their_hashes() -> None:
    metric = VisualSemanticDiversity(Axes())
    made = batch(*((["x 0"], [picture(kind, copy)]) for kind in (8, 2, 5) for copy in range(3)))
    score = metric.resolve(MemoryFeatures.collect(metric, [made]))
    assert score.columns["image_cluster"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


# ---------------------------------------------------------------- what both share


def test_beyond_the_largest_number_a_random_part_is_clustered() -> None:
    rows = np.stack([axis(i % 4) for i in range(400)])
    found = cluster(rows, Density(0.2, 3, max_items=100), seed=5)
    assert found.n_clustered == 100 and found.n_clusters == 4
    assert (found.labels == UNLABELLED).sum() == 300
    again = cluster(rows, Density(0.2, 3, max_items=100), seed=5)
    assert np.array_equal(found.labels, again.labels)
    chosen = cluster(rows, Density(0.2, 3, max_items=100), seed=5, items=np.arange(0, 400, 4))
    assert chosen.n_clusters == 1 and len(chosen.labels) == 100
    part = cluster(rows, Density(0.2, 3, max_items=10), seed=5, items=np.arange(0, 400, 4))
    assert part.n_clusters == 1 and part.n_clustered == 10


def test_the_reason_for_a_missing_label_tells_of_the_draw() -> None:
    metric = ResponseDiversity(Axes(), max_items=40)
    made = batch(*((["kind 3"], []) for _ in range(50)), ([""], []))
    score = metric.resolve(MemoryFeatures.collect(metric, [made]))
    assert score.columns["response_cluster"].to_pylist().count(None) == 11
    told = "not among the 40 responses drawn for clustering"
    assert list(score.missing) == [told] * 50 + ["no response"]


def test_a_sample_that_was_not_drawn_has_no_label() -> None:
    labels = np.array([3, -1, UNLABELLED, 0])
    assert label_of_first(labels, np.array([0, 0, 1, 3]), 4).to_pylist() == [3, None, None, 0]


def test_the_error_of_the_count_is_that_of_independent_clusters() -> None:
    # 40 clusters of exactly 3 among 8,000 items: each is kept when its items are drawn 3 times or more,
    # with p = P(Poisson(3) >= 3) = 0.577, so the count has nearly sd sqrt(40 p (1 - p)).
    labels = np.concatenate([np.repeat(np.arange(40), 3), np.full(7880, -1)])
    found = count_error(labels, np.arange(8000), 3, seed=0)
    assert found == pytest.approx(math.sqrt(40 * 0.577 * 0.423), rel=0.1)
    # Whole samples are drawn: one sample with all three items keeps its cluster when it is drawn at all,
    # with p = P(Poisson(1) >= 1) = 0.632.
    together = np.concatenate([np.repeat(np.arange(40), 3), np.arange(40, 7920)])
    assert count_error(labels, together, 3, seed=0) == pytest.approx(math.sqrt(40 * 0.632 * 0.368), rel=0.1)


def test_large_clusters_leave_no_doubt() -> None:
    labels = np.repeat(np.arange(5), 100)
    assert count_error(labels, np.arange(500), 3, seed=0) == 0.0


def test_the_curve_ends_at_the_count() -> None:
    found = curve(np.array([3, 5, 50]), 80, 3)
    assert found["m"] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert found["clusters"][-1] == pytest.approx(3.0)
    assert found["clusters"] == sorted(found["clusters"])
    assert curve(np.array([], np.int64), 0, 3) == {"m": [], "clusters": []}
