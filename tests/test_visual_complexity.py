"""Visual complexity: hand-worked measures, order on made and real pictures, range, odd shapes; with a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.color import rgb2lab

from vlitqc.testing import check_order_and_batching, check_scores, check_spec
from vlitqc.types import Batch, Image, Media, ModelRef, Origin, Rgb, Sample, Scale, Score, Turn
from vlitqc_metrics._algorithms import picture_threads
from vlitqc_metrics._algorithms import visual_complexity as module
from vlitqc_metrics._algorithms.picture_threads import each_picture
from vlitqc_metrics._algorithms.visual_complexity import visual_complexity
from vlitqc_metrics.visual_complexity import VisualComplexity

Picture = npt.NDArray[np.uint8]


def squares(per_side: int, colours: int) -> Picture:
    """A board of squares in randomly drawn colours, 256 x 256."""
    random = np.random.default_rng(per_side)
    palette = random.integers(0, 256, (colours, 3), dtype=np.uint8)
    board = palette[random.integers(0, colours, (per_side, per_side))]
    return np.repeat(np.repeat(board, 256 // per_side, axis=0), 256 // per_side, axis=1)


def test_lab_equals_scikit_image() -> None:
    picture = data.astronaut()[:64, :64]
    np.testing.assert_allclose(module._lab(picture), rgb2lab(picture), atol=2e-2)


def test_two_halves_hand_worked() -> None:
    # Black and white halves: 2 regions less 1, 1 bit of colour, and an edge along one line only.
    halves = np.zeros((256, 256, 3), dtype=np.uint8)
    halves[:, 128:] = 255
    edges, regions, colours, congestion = module._measures(halves)
    assert regions == 1
    assert colours == pytest.approx(1.0)
    # L* steps by 100 through a Gaussian of sigma 1; x px from the edge the central difference is
    # 100 (Phi(x + 1) - Phi(x - 1)) / 2: 31 at 0.5, 15 at 1.5, 3.3 at 2.5. Four columns reach 4.
    assert edges == pytest.approx(4 / 256)
    assert congestion > 0


def test_congestion_of_an_uncorrelated_spread() -> None:
    # Independent L*, a*, b* noise of standard deviation s: det(C + I)^(1/6) - 1 is about sqrt(s^2 + 1) - 1,
    # and each halving of the picture halves s.
    lab = np.random.default_rng(0).normal(0, 16, (256, 256, 3)).astype(np.float32)
    expected = np.mean([np.sqrt(s * s + 1) - 1 for s in (16, 8, 4)])
    assert module._congestion(lab) == pytest.approx(expected, rel=0.06)


def test_more_squares_and_more_colours_are_more_complex() -> None:
    by_number = [visual_complexity(squares(per_side, 12)) for per_side in (1, 2, 4, 8, 16)]
    assert by_number == sorted(by_number)
    by_colours = [module._measures(squares(16, colours))[2] for colours in (1, 2, 4, 16, 64)]
    assert by_colours == sorted(by_colours)


@pytest.mark.parametrize("picture", [data.astronaut(), data.coffee(), data.cat(), data.rocket()])
def test_blur_takes_complexity_away(picture: Picture) -> None:
    scores = [visual_complexity(picture)]
    for sigma in (2, 4, 8, 16):
        soft = np.rint(gaussian_filter(picture.astype(np.float64), (sigma, sigma, 0))).astype(np.uint8)
        scores.append(visual_complexity(soft))
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.6 * scores[0]


def test_a_workshop_is_more_complex_than_a_rocket_in_the_sky() -> None:
    assert visual_complexity(data.stereo_motorcycle()[0]) > visual_complexity(data.rocket()) + 15


def test_the_resolution_matters_little() -> None:
    picture = data.coffee()
    assert visual_complexity(np.repeat(np.repeat(picture, 3, axis=0), 3, axis=1)) == pytest.approx(
        visual_complexity(picture), abs=3
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (8, 8), (3, 5000), (20000, 2), (256, 255), (17, 9)])
def test_every_shape_gives_a_number_in_range(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert 0 <= visual_complexity(random) < 100
    for colour in ((0, 0, 0), (255, 255, 255), (12, 200, 99)):
        assert visual_complexity(np.full((*shape, 3), colour, dtype=np.uint8)) == pytest.approx(0, abs=0.01)


def test_every_corner_of_the_colour_cube_has_its_cell() -> None:
    corners = np.stack(np.meshgrid([0, 255], [0, 255], [0, 255]), axis=-1).reshape(1, 8, 3).astype(np.uint8)
    assert module._colour_entropy(module._lab(corners)) == pytest.approx(3.0)


def test_grey_pictures_have_a_score() -> None:
    grey = np.repeat(data.camera()[:, :, None], 3, axis=2)
    assert 10 < visual_complexity(grey) < 90


def test_deterministic_and_leaves_its_input_alone() -> None:
    picture = data.cat().copy()
    before = picture.copy()
    assert visual_complexity(picture) == visual_complexity(picture)
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((4, 0, 3), dtype=np.uint8),
    ],
)
def test_refuses_what_is_no_rgb_picture(wrong) -> None:
    with pytest.raises(ValueError, match="expected a non-empty uint8 array"):
        visual_complexity(wrong)


# ---------------------------------------------------------------- the metric


class Spread:
    """The standard deviation of the grey levels, no more than 100."""

    ref = ModelRef("ImageScorer", "spread", "1", "0" * 64)
    scale = Scale("", (0.0, 100.0), True, "spread (made up)")

    def score_images(self, images: Sequence[Rgb]) -> npt.NDArray[np.float64]:
        return np.array([min(image.std(), 100.0) for image in images])


def two_samples() -> Batch:
    """A photograph and a flat picture in one sample, the photograph alone in the other."""
    cat = Image("cat.png", data.cat(), None, "sha-cat")
    flat = Image("flat.png", np.full((30, 40, 3), 9, np.uint8), None, "sha-flat")
    rows = [[cat, flat], [cat]]
    samples = [
        Sample(
            f"s{i}",
            (Turn("What?", "That."),),
            tuple(Media("image", image.reference) for image in row),
            {},
            Origin("f.json", i, i + 1, 0, 0, ""),
        )
        for i, row in enumerate(rows)
    ]
    return Batch(samples, rows)


def test_without_a_model_the_values_are_the_classical_ones() -> None:
    cat, flat = visual_complexity(data.cat()), visual_complexity(np.full((30, 40, 3), 9, np.uint8))
    assert VisualComplexity().score(two_samples()) == [
        Score((cat + flat) / 2, parts={"worst": flat}),
        Score(cat, parts={"worst": cat}),
    ]
    assert VisualComplexity().spec is VisualComplexity.spec


def test_with_a_model_values_and_scale_are_the_models() -> None:
    metric = VisualComplexity(Spread())
    spread = float(data.cat().std())
    assert metric.score(two_samples()) == [
        Score(spread / 2, parts={"worst": 0.0}),
        Score(spread, parts={"worst": spread}),
    ]
    check_spec(metric)
    check_scores(metric, two_samples())
    check_order_and_batching(metric, two_samples())
    assert (metric.spec.source, metric.spec.bounds) == ("spread (made up)", (0.0, 100.0))
    # 512 px of a picture's shorter side are to be seen, not of its longest; and what a picture is decoded at may
    # not depend on whether the metric runs, so that the class, which knows no model, asks for the same.
    assert (metric.spec.image_side, VisualComplexity.spec.image_side) == (2048, 2048)


@pytest.mark.parametrize("threads", [1, 3])
def test_several_pictures_at_once_have_the_values_of_each_alone(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_threads, "THREADS", threads)
    rng = np.random.default_rng(0)
    many = [rng.integers(0, 256, (40 + 7 * i, 64, 3), dtype=np.uint8) for i in range(7)]
    assert each_picture(visual_complexity, many) == [visual_complexity(pixels) for pixels in many]
    assert each_picture(visual_complexity, []) == []
    with pytest.raises(ValueError, match="expected a non-empty uint8 array"):
        each_picture(visual_complexity, [*many, np.zeros((0, 4, 3), np.uint8)])
