"""Matching degree and percentile, with encoders that can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from vlitqc.models.conse import ConSE
from vlitqc.testing import MemoryFeatures
from vlitqc.types import (
    Batch,
    FloatArray,
    Image,
    Media,
    ModelRef,
    Origin,
    Rgb,
    Sample,
    Scale,
    TextLikelihood,
    Turn,
)
from vlitqc_metrics._algorithms.batch_embeddings import picture_vectors
from vlitqc_metrics.matching_degree import MatchingDegree, matching_cosine
from vlitqc_metrics.matching_percentile import MatchingPercentile, matching_percentiles


def unit(angle: float) -> FloatArray:
    """The unit vector at ``angle`` degrees."""
    return np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], np.float32)


class Compass:
    """A picture's first pixel and a text's last number are angles in degrees; sentences end at ``;``."""

    ref = ModelRef("ImageText", "compass", "1", "c" * 64)

    def __init__(self) -> None:
        self.pictures_seen = 0
        self.texts_seen: list[str] = []

    def encode_images(self, images: Sequence[Rgb]) -> FloatArray:
        self.pictures_seen += len(images)
        return np.stack([unit(float(image[0, 0, 0])) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        self.texts_seen += texts
        return np.stack([unit(float(text.split()[-1])) for text in texts])

    def sentences(self, text: str) -> list[str]:
        return [piece.strip() for piece in text.split(";") if any(c.isalnum() for c in piece)]

    @property
    def scale(self) -> Scale:
        return Scale("100·cosine", (-100.0, 100.0), True)

    def match(self, cosine: float) -> float:
        return 100.0 * cosine


class Logits(Compass):
    """As SigLIP: a scale and a bias of its own."""

    @property
    def scale(self) -> Scale:
        return Scale("logit", (-math.inf, math.inf), True, "a paper")

    def match(self, cosine: float) -> float:
        return 8.0 * cosine - 10.0


def picture(angle: int, name: str = "") -> Image:
    return Image(f"{angle}.png", np.full((2, 2, 3), angle, np.uint8), None, name or f"sha-{angle}")


BROKEN = Image("gone.png", None, "missing: gone.png")


def batch(*rows: tuple[Sequence[str], Sequence[Image]]) -> Batch:
    samples = []
    for i, (responses, images) in enumerate(rows):
        media = tuple(Media("image", image.reference) for image in images)
        turns = tuple(Turn("<image>\nWhere?", response) for response in responses)
        samples.append(Sample(f"s{i}", turns, media, {}, Origin("f.json", i, i + 1, 0, 0, str(i))))
    return Batch(samples, [images for _, images in rows])


# ---------------------------------------------------------------- degree


def test_the_cosine_by_hand() -> None:
    pictures = np.stack([unit(0), unit(90)])
    assert matching_cosine(pictures[:1], unit(60)[None]) == pytest.approx(0.5, abs=1e-6)
    assert matching_cosine(pictures, unit(60)[None]) == pytest.approx(np.cos(np.radians(30)), abs=1e-6)
    both = np.stack([unit(0), unit(60)])
    assert matching_cosine(pictures[:1], both) == pytest.approx(0.75, abs=1e-6)
    assert matching_cosine(pictures[:1], unit(180)[None]) == pytest.approx(-1.0)
    # A mean of unit vectors may be a rounding error longer than 1.
    assert matching_cosine(pictures[:1], 1.0000002 * unit(0)[None]) == 1.0


def test_the_cosine_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="got 0 and 1"):
        matching_cosine(np.empty((0, 2), np.float32), unit(0)[None])
    with pytest.raises(ValueError, match="got 1 and 0"):
        matching_cosine(unit(0)[None], np.empty((0, 2), np.float32))


def test_scores_by_hand() -> None:
    scores = MatchingDegree(Compass()).score(
        batch(
            (["at 60"], [picture(0)]),
            (["at 60; at 120"], [picture(0)]),  # sentences: 0.5 and -0.5
            (["at 60", "at 0"], [picture(0)]),  # responses: 0.5 and 1
            (["at 60"], [picture(0), picture(60)]),
            # One picture must fit the whole response: 0 fits its first half, 90 its second.
            (["at 0; at 90"], [picture(0), picture(90)]),
            (["at 60", "", "<image>"], [picture(0)]),  # empty responses are passed over
            (["at 60"], [BROKEN, picture(0)]),
        )
    )
    values = [score.value for score in scores]
    assert values == pytest.approx([50.0, 0.0, 75.0, 100.0, 50.0, 50.0, 50.0], abs=1e-3)


def test_the_value_is_on_the_models_own_scale() -> None:
    metric = MatchingDegree(Logits())
    scores = metric.score(
        batch(
            (["at 60"], [picture(0)]),
            (["at 60; at 120"], [picture(0)]),  # the mean of the logits -6 and -14
            (["at 60", "at 0"], [picture(0), picture(90)]),  # sin 60 and 1
        )
    )
    expected = [-6.0, -10.0, 4 * (np.sin(np.radians(60)) + 1) - 10]
    assert [score.value for score in scores] == pytest.approx(expected, abs=1e-4)
    spec = metric.spec
    assert (spec.unit, spec.bounds, spec.higher_is_better) == ("logit", (-math.inf, math.inf), True)
    assert (spec.name, spec.source) == ("matching_degree", "a paper")


def test_the_class_keeps_its_own_scale() -> None:
    plain = MatchingDegree(Compass()).spec
    assert MatchingDegree(Logits()).spec != plain == MatchingDegree.spec
    assert (plain.unit, plain.bounds) == ("100·cosine", (-100.0, 100.0))


def test_the_percentile_has_no_scale() -> None:
    plain, scaled = MatchingPercentile(Compass()), MatchingPercentile(Logits())
    found = [
        metric.resolve(MemoryFeatures.collect(metric, [rows(30, turned=9)])) for metric in (plain, scaled)
    ]
    assert found[0].columns == found[1].columns
    assert plain.spec == scaled.spec == MatchingPercentile.spec


def test_conse_is_on_the_scale_of_the_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        ref = Compass.ref

    nothing: Any = Nothing()
    conse = ConSE(Compass.ref, {}, image=nothing, text=nothing)
    assert MatchingDegree(conse).spec == MatchingDegree.spec
    monkeypatch.setattr(Compass, "match", conse.match)
    made = batch(*(([f"at {angle}", f"at {3 * angle}"], [picture(7)]) for angle in range(0, 60, 7)))
    for score, sample in zip(MatchingDegree(Compass()).score(made), made.samples, strict=True):
        texts = np.stack([unit(float(turn.response.split()[-1])) for turn in sample.turns])
        cosines = texts.astype(np.float64) @ unit(7)[None].astype(np.float64).T
        assert score.value == float(100.0 * np.clip(cosines.max(axis=1), -1.0, 1.0).mean())


def test_reasons() -> None:
    scores = MatchingDegree(Compass()).score(
        batch(
            (["at 60"], []),
            (["at 60"], [BROKEN]),
            (["", " <image> "], [picture(0)]),
            (["!?"], [picture(0)]),
            ([], [picture(0)]),
        )
    )
    assert [score.value for score in scores] == [None] * 5
    assert [score.reason for score in scores] == [
        "text-only",
        "image unreadable: missing: gone.png",
        "no response text",
        "no response text",
        "no response text",
    ]
    assert [score.fault for score in scores] == [False, True, False, False, False]


def test_nothing_is_encoded_twice() -> None:
    model = Compass()
    made = batch((["at 60"], [picture(0)]), (["at 60"], [picture(0), picture(90)]))
    MatchingDegree(model).score(made)
    MatchingPercentile(model).features(made)
    assert model.pictures_seen == 2
    assert model.texts_seen == ["at 60"]


class Stage:
    """A forward pass that counts its calls."""

    ref = ModelRef("ImageEncoder", "stage", "1", "d" * 64)

    def __init__(self) -> None:
        self.calls = 0

    @property
    def stage(self) -> Stage:
        return self

    def forward(self, images: Sequence[Rgb]) -> FloatArray:
        self.calls += 1
        return np.stack([unit(float(image[0, 0, 0])) for image in images])

    def encode_forward(self, outputs: FloatArray) -> FloatArray:
        return outputs

    def encode_images(self, images: Sequence[Rgb]) -> FloatArray:
        return self.encode_forward(self.forward(images))


class OnStage(Stage):
    """Turns the vectors of another model's forward pass by 90 degrees."""

    ref = ModelRef("ImageText", "on-stage", "1", "e" * 64)

    def __init__(self, below: Stage) -> None:
        self.below = below

    @property
    def stage(self) -> Stage:
        return self.below

    def encode_forward(self, outputs: FloatArray) -> FloatArray:
        return outputs[:, ::-1] * np.array([-1.0, 1.0], np.float32)


def test_two_encoders_on_one_stage_share_its_forward_pass() -> None:
    below = Stage()
    made = batch((["at 60"], [picture(0), picture(30)]))
    plain, turned = picture_vectors(made, below), picture_vectors(made, OnStage(below))
    assert below.calls == 1
    assert np.allclose(plain["sha-30"], unit(30), atol=1e-6)
    assert np.allclose(turned["sha-30"], unit(120), atol=1e-6)


# ---------------------------------------------------------------- languages


class FirstLetter:
    """A text that begins with "zu" is German, with "à" French; everything else is English."""

    ref = ModelRef("LanguageModel", "first-letter", "1", "f" * 64)

    def likelihood(self, texts: Sequence[str]) -> list[TextLikelihood]:
        language = {"zu": "de", "à": "fr"}
        return [
            TextLikelihood(0.0, None, "words", language.get((text.split() or [""])[0], "en"), 3)
            for text in texts
        ]


FOREIGN: tuple[tuple[Sequence[str], Sequence[Image]], ...] = (
    (["zu 60"], [picture(0)]),
    (["zu 60", "at 0"], [picture(0)]),
    (["", "à 60", "zu 60"], [picture(0)]),
    (["!?"], [picture(0)]),
    (["zu 60"], []),
)


def test_responses_in_a_language_that_the_model_does_not_know_are_left_out() -> None:
    model = Compass()
    scores = MatchingDegree(model, FirstLetter()).score(batch(*FOREIGN))
    assert [score.value for score in scores] == [None, pytest.approx(100.0), None, None, None]
    assert [score.reason for score in scores] == [
        "English-only model; the text is in German (de)",
        None,
        "English-only model; the text is in French (fr)",
        "no response text",
        "text-only",
    ]
    assert not any(score.fault for score in scores)
    assert model.texts_seen == ["at 0"]


def test_without_a_language_model_and_in_a_known_language_every_response_counts() -> None:
    plain = MatchingDegree(Compass()).score(batch(*FOREIGN))
    assert [score.value for score in plain[:2]] == pytest.approx([50.0, 75.0], abs=1e-3)
    german = MatchingDegree(Compass(), FirstLetter(), languages=["en", "de"]).score(batch(*FOREIGN))
    assert [score.value for score in german[:3]] == pytest.approx([50.0, 75.0, 50.0], abs=1e-3)


def test_the_percentile_has_no_rows_of_foreign_responses() -> None:
    metric = MatchingPercentile(Compass(), language_model=FirstLetter())
    score = metric.resolve(MemoryFeatures.collect(metric, [rows(25), batch(*FOREIGN)]))
    assert score.columns["matching_percentile"].to_pylist()[25:] == [None, 100.0, None, None, None]
    german = "English-only model; the text is in German (de)"
    french = "English-only model; the text is in French (fr)"
    assert list(score.missing) == [None] * 25 + [german, None, french, "no response", "no readable picture"]
    only = batch(*(([f"zu {2 * i}"], [picture(2 * i)]) for i in range(30)))
    nothing = metric.resolve(MemoryFeatures.collect(metric, [only]))
    assert nothing.reason == german
    assert (nothing.n_scored, nothing.n_total) == (0, 30)


def test_metrics_that_leave_out_other_texts_do_not_share_their_vectors() -> None:
    made, model = batch(*FOREIGN), Compass()
    names = set()
    for metric in (
        MatchingPercentile(model),
        MatchingPercentile(model, language_model=FirstLetter()),
        MatchingPercentile(model, language_model=FirstLetter(), languages=("en", "de")),
    ):
        (name,) = (name for name in metric.features(made) if name.startswith("match-"))
        names.add((name, len(metric.features(made)[name].values)))
    assert len({name for name, _ in names}) == 3
    assert sorted(n for _, n in names) == [1, 5, 6]


@pytest.mark.parametrize("languages", ["en", ["e n"], [1], ["../x"]])
def test_languages_are_a_list_of_codes(languages: Sequence[str]) -> None:
    with pytest.raises(TypeError, match="languages must be 'any' or a list of codes"):
        MatchingDegree(Compass(), FirstLetter(), languages)


# ---------------------------------------------------------------- percentile


def slow_percentile(
    texts: FloatArray, sample: list[int], pictures: FloatArray, own: list[list[int]]
) -> list[float]:
    """Against all other pictures, one by one."""
    values: list[list[float]] = [[] for _ in own]
    for text, i in zip(texts, sample, strict=True):
        if not own[i]:
            continue
        best = max(float(text @ pictures[j]) for j in own[i])
        others = [float(text @ pictures[j]) for j in range(len(pictures)) if j not in own[i]]
        below = sum(o < best - 1e-6 for o in others) + sum(abs(o - best) <= 1e-6 for o in others) / 2
        values[i].append(100 * below / len(others))
    return [float(np.mean(v)) if v else float("nan") for v in values]


def percentiles(
    texts: FloatArray, sample: list[int], pictures: FloatArray, own: list[list[int]], n_others: int = 200
) -> FloatArray:
    return matching_percentiles(
        texts,
        np.array(sample, np.int64),
        pictures,
        np.arange(len(pictures), dtype=np.int64),
        [np.array(mine, np.int64) for mine in own],
        n_others=n_others,
        seed=3,
    ).astype(np.float32)


def test_the_percentile_by_hand() -> None:
    pictures = np.stack([unit(angle) for angle in (0, 20, 40, 60, 80)])
    texts = np.stack([unit(0), unit(80), unit(40)])
    # 0 is nearest to picture 0; 80 furthest from it; 40 lies between 20 and 60, which tie.
    found = percentiles(texts, [0, 1, 2], pictures, [[0], [0], [1]])
    assert found.tolist() == [100.0, 0.0, 62.5]


def test_with_few_others_all_are_used_as_the_slow_way_does() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(40, 8)).astype(np.float32)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    pictures[7] = pictures[3]
    sample = np.sort(rng.integers(0, 30, 600)).tolist()
    own = [sorted(rng.choice(40, size=rng.integers(0, 4), replace=False).tolist()) for _ in range(30)]
    texts = rng.normal(size=(600, 8)).astype(np.float32)
    found = percentiles(texts, sample, pictures, own)
    assert np.allclose(found, slow_percentile(texts, sample, pictures, own), atol=1e-4, equal_nan=True)


def test_a_draw_estimates_the_percentile_among_all() -> None:
    rng = np.random.default_rng(1)
    pictures = rng.normal(size=(1000, 8)).astype(np.float32)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    texts = pictures[:400] + 0.3 * rng.normal(size=(400, 8)).astype(np.float32)
    sample = list(range(400))
    own = [[i] for i in sample]
    exact = np.array(slow_percentile(texts, sample, pictures, own))
    drawn = percentiles(texts, sample, pictures, own)
    assert not np.array_equal(drawn, exact)
    # The standard error of a share of 200 draws is at most 3.5 points.
    assert np.abs(drawn - exact).max() < 15
    assert abs(drawn.mean() - exact.mean()) < 1.0


def rows(n: int, turned: int = 0) -> Batch:
    """``n`` samples at different angles; responses turned away by ``turned`` degrees."""
    return batch(*(([f"at {2 * i + turned}"], [picture(2 * i)]) for i in range(n)))


def test_the_data_sets_percentile() -> None:
    metric = MatchingPercentile(Compass())
    score = metric.resolve(MemoryFeatures.collect(metric, [rows(30)]))
    assert score.value == 100.0 and score.interval == (100.0, 100.0)
    assert (score.n_scored, score.n_total) == (30, 30)
    assert score.columns["matching_percentile"].to_pylist() == [100.0] * 30
    assert score.details["n_others"] == 29


def test_unrelated_responses_get_about_fifty() -> None:
    metric = MatchingPercentile(Compass())
    order = np.random.default_rng(0).permutation(90)
    made = batch(*(([f"at {2 * order[i]}"], [picture(2 * i)]) for i in range(90)))
    score = metric.resolve(MemoryFeatures.collect(metric, [made]))
    assert score.value is not None and 40 < score.value < 60
    assert score.interval is not None and score.interval[0] < 50 < score.interval[1]


def test_samples_that_cannot_be_ranked_are_none_and_do_not_count() -> None:
    metric = MatchingPercentile(Compass())
    odd = batch((["at 3"], []), (["at 3"], [BROKEN]), ([""], [picture(0)]))
    score = metric.resolve(MemoryFeatures.collect(metric, [rows(25), odd]))
    assert score.columns["matching_percentile"].to_pylist()[-3:] == [None, None, None]
    assert (score.n_scored, score.n_total) == (25, 28)
    assert list(score.missing)[-3:] == ["no readable picture", "no readable picture", "no response"]
    few = metric.resolve(MemoryFeatures.collect(metric, [rows(3), odd]))
    assert str(few.reason).startswith("fewer than ")
    assert list(few.missing) == [
        None,
        None,
        None,
        "no readable picture",
        "no readable picture",
        "no response",
    ]


def test_the_same_picture_under_many_questions_is_one_picture() -> None:
    metric = MatchingPercentile(Compass())
    made = batch(*((["at 0"], [picture(0)]) for _ in range(100)))
    score = metric.resolve(MemoryFeatures.collect(metric, [made]))
    assert score.value is None
    assert score.reason == "fewer than 20 other images to compare with (0)"
    assert score.n_scored == 0


@pytest.mark.parametrize(("n", "scored"), [(20, False), (21, True)])
def test_twenty_others_are_enough(n: int, scored: bool) -> None:
    metric = MatchingPercentile(Compass())
    score = metric.resolve(MemoryFeatures.collect(metric, [rows(n)]))
    assert (score.value is not None) is scored


def test_the_seed_decides_the_draw() -> None:
    metric = MatchingPercentile(Compass(), n_others=20)
    features = [rows(120, turned=7)]
    one, again, other = (
        metric.resolve(MemoryFeatures.collect(metric, features, seed=seed)).columns["matching_percentile"]
        for seed in (1, 1, 2)
    )
    assert one == again and one != other


def test_nothing_to_compare() -> None:
    metric = MatchingPercentile(Compass())
    score = metric.resolve(MemoryFeatures.collect(metric, [batch((["at 3"], []))]))
    assert score.reason == "no sample has both a readable image and a response"
