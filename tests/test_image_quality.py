"""Image readability: falls with distortion, keeps its range and stays finite on every odd picture; with a model,
its scale and values are the model's.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from skimage import data

from vlitqc import types
from vlitqc.errors import ModelUnavailable
from vlitqc.testing import check_order_and_batching, check_scores, check_spec
from vlitqc.types import Batch, Media, ModelRef, Origin, Rgb, Sample, Scale, Score, Turn
from vlitqc_metrics._algorithms import image_quality
from vlitqc_metrics._algorithms.image_quality import image_readability
from vlitqc_metrics.image_readability import ImageReadability

Picture = npt.NDArray[np.uint8]
PHOTOGRAPHS = ("astronaut", "coffee", "cat", "rocket", "camera", "coins")


def photograph(name: str) -> Picture:
    picture = getattr(data, name)()
    return np.repeat(picture[:, :, None], 3, axis=2) if picture.ndim == 2 else picture


def blurred(picture: Picture, sigma: float) -> Picture:
    return np.rint(gaussian_filter(picture.astype(np.float64), (sigma, sigma, 0))).astype(np.uint8)


def noisy(picture: Picture, sigma: float) -> Picture:
    noise = np.random.default_rng(3).normal(0, sigma, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def encoded(picture: Picture, file_format: str, **options: object) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, file_format, **options)
    return np.asarray(Image.open(stream).convert("RGB"))


def jpeg(picture: Picture, quality: float) -> Picture:
    return encoded(picture, "JPEG", quality=int(quality))


def jpeg2000(picture: Picture, ratio: float) -> Picture:
    return encoded(picture, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


@pytest.mark.parametrize(
    ("distort", "levels"),
    [
        (blurred, (0.5, 1, 1.5, 2, 3, 5)),
        (noisy, (5, 10, 20, 30, 50)),
        (jpeg, (90, 75, 50, 30, 15, 5)),
        (jpeg2000, (10, 25, 50, 100, 200)),
    ],
)
def test_falls_with_the_strength_of_a_distortion(distort, levels) -> None:
    rhos = []
    for name in PHOTOGRAPHS:
        picture = photograph(name)
        scores = [
            image_readability(picture),
            *(image_readability(distort(picture, level)) for level in levels),
        ]
        assert scores[-1] < 0.75 * scores[0], name
        rhos.append(spearmanr(range(len(scores)), scores).statistic)
    assert np.mean(rhos) <= -0.9


def test_a_cropped_jpeg_is_still_seen_as_blocky() -> None:
    compressed = jpeg(photograph("astronaut"), 20)
    whole = image_readability(compressed)
    for shift in (1, 3, 4, 7):
        assert image_readability(compressed[shift:, shift:]) == pytest.approx(whole, abs=0.03)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 10.0, 20.0])
def test_noise_is_read_in_grey_levels(sigma: float) -> None:
    grey = np.clip(np.rint(128 + np.random.default_rng(0).normal(0, sigma, (400, 500))), 0, 255)
    assert image_quality._noise_sigma(grey[None].astype(np.float32)) == pytest.approx(sigma, rel=0.1)


def test_hand_worked_step_edge_is_sharp_and_ramp_is_not() -> None:
    step = np.zeros((1, 64, 64), dtype=np.float32)
    # G(k) = 255^2 k / 16 in a block that the edge crosses with all lags inside it: h = 1, so 2 - h = 1.
    step[:, :, 12:] = 255
    assert image_quality._sharpness(step, 0.0) == pytest.approx(1.0, abs=1e-3)
    # G(k) = 2 (3 k)^2 everywhere: h = 2, so 2 - h = 0.
    ramp = np.broadcast_to(3.0 * (np.arange(64)[:, None] + np.arange(64)), (1, 64, 64)).astype(np.float32)
    assert image_quality._sharpness(ramp, 0.0) == pytest.approx(0.0, abs=1e-6)


def test_hand_worked_blockiness() -> None:
    # Steps of 8 at every eighth column, of 1 elsewhere; constant down. Across: excess 8 - 1, activity 1.
    steps = np.ones(128, dtype=np.float32)
    steps[8::8] = 8
    luma = np.broadcast_to(np.cumsum(steps) % 1000, (1, 64, 128)).astype(np.float32)
    assert image_quality._blockiness(luma) == pytest.approx(7 / (1 + 1))
    assert image_quality._blockiness(np.zeros((1, 32, 32), dtype=np.float32)) == 0


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (7, 5), (8, 8), (1, 4000), (5000, 3), (33, 511), (513, 129)]
)
def test_every_shape_gives_a_number_in_range(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert 0 <= image_readability(random) <= 1
    for value in (0, 77, 255):
        assert image_readability(np.full((*shape, 3), value, dtype=np.uint8)) == 0


def test_a_large_picture_is_sampled_all_over() -> None:
    picture = np.tile(photograph("astronaut"), (4, 5, 1))
    tiles = image_quality._tiles(picture)
    assert tiles.shape == (16, 128, 128)
    starts, length = image_quality._starts(2560)
    assert (starts[0], length) == (0, 128)
    assert starts[-1] + length == 2560
    assert all(start % 8 == 0 for start in starts)
    assert image_readability(picture) > 2 * image_readability(blurred(picture, 2.5))


def test_a_rendered_page_and_a_chart_are_not_taken_for_noise() -> None:
    page = Image.new("RGB", (500, 400), "white")
    draw = ImageDraw.Draw(page)
    for line in range(25):
        draw.text((8, 4 + 16 * line), f"{line} The quick brown fox jumps over the lazy dog", fill="black")
    assert image_readability(np.asarray(page)) > 0.8
    chart = Image.new("RGB", (500, 400), "white")
    ImageDraw.Draw(chart).rectangle((45, 83, 131, 397), fill=(30, 90, 200))
    assert image_quality._noise_sigma(image_quality._tiles(np.asarray(chart))) == 0


def test_black_borders_do_not_hide_noise() -> None:
    boxed = np.zeros((400, 400, 3), dtype=np.uint8)
    boxed[60:340] = noisy(np.full((280, 400, 3), 128, dtype=np.uint8), 20)
    whole = image_quality._noise_sigma(image_quality._tiles(boxed[60:340]))
    # The blocks that the border cuts through hold less noise, so a little less is read.
    assert image_quality._noise_sigma(image_quality._tiles(boxed)) == pytest.approx(whole, rel=0.2)


def test_deterministic_and_leaves_its_input_alone() -> None:
    picture = photograph("coffee").copy()
    before = picture.copy()
    assert image_readability(picture) == image_readability(picture)
    assert image_readability(picture[:, ::-1][:, ::-1]) == image_readability(picture)
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
)
def test_refuses_what_is_no_rgb_picture(wrong) -> None:
    with pytest.raises(ValueError, match="expected a non-empty uint8 array"):
        image_readability(wrong)


# ---------------------------------------------------------------- the metric, with a model and without


class Darkness:
    """The mean grey level; lower is better or not. Black pictures it cannot take."""

    ref = ModelRef("ImageScorer", "darkness", "1", "0" * 64)

    def __init__(self, *, higher_is_better: bool = False, fault: Exception | None = None) -> None:
        self.scale = Scale("grey levels", (0.0, 255.0), higher_is_better, "darkness (made up)")
        self.fault = fault or ValueError("a black picture")
        self.calls: list[int] = []

    def score_images(self, images: Sequence[Rgb]) -> npt.NDArray[np.float64]:
        self.calls.append(len(images))
        if any(not image.any() for image in images):
            raise self.fault
        return np.array([image.mean() for image in images])


def decoded(grey: int) -> types.Image:
    return types.Image(f"{grey}.png", np.full((40, 50, 3), grey, np.uint8), None, f"sha-{grey}")


UNREADABLE = types.Image("gone.png", None, "missing: gone.png")


def batch(*rows: Sequence[types.Image]) -> Batch:
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


def test_with_a_model_the_scale_is_the_models() -> None:
    metric = ImageReadability(Darkness())
    check_spec(metric)
    assert metric.spec == replace(
        ImageReadability.spec,
        unit="grey levels",
        bounds=(0.0, 255.0),
        higher_is_better=False,
        source="darkness (made up)",
    )
    assert ImageReadability().spec is ImageReadability.spec
    assert (ImageReadability.spec.unit, ImageReadability.spec.higher_is_better) == ("", True)


@pytest.mark.parametrize(("higher", "worst"), [(True, (10, 30)), (False, (20, 30))])
def test_the_mean_of_a_samples_pictures_and_the_worst(higher: bool, worst: tuple[float, float]) -> None:
    model = Darkness(higher_is_better=higher)
    made = batch([decoded(10), decoded(20)], [decoded(30)], [], [UNREADABLE], [UNREADABLE, decoded(10)])
    metric = ImageReadability(model)
    expected = [
        Score(15.0, parts={"worst": worst[0]}),
        Score(30.0, parts={"worst": worst[1]}),
        Score(reason="text-only"),
        Score(reason="image unreadable: missing: gone.png", fault=True),
        Score(10.0, parts={"worst": 10.0}),
    ]
    assert metric.score(made) == expected
    assert metric.score(made) == expected
    # Three distinct pictures, once for the whole batch.
    assert model.calls == [3]
    assert ImageReadability(model).score(batch([])) == [Score(reason="text-only")]
    assert model.calls == [3]


def test_the_contract_with_a_model() -> None:
    metric = ImageReadability(Darkness())
    made = batch([decoded(10), decoded(20)], [decoded(30)], [], [decoded(20)], [UNREADABLE], [decoded(0)])
    check_scores(metric, made)
    check_order_and_batching(metric, made)


def test_a_fault_with_one_picture_is_its_samples_alone() -> None:
    model = Darkness()
    made = batch([decoded(10)], [decoded(0)], [decoded(20), decoded(0)], [decoded(30)])
    fault = Score(reason="error: ValueError: a black picture", fault=True)
    assert ImageReadability(model).score(made) == [
        Score(10.0, parts={"worst": 10.0}),
        fault,
        fault,
        Score(30.0, parts={"worst": 30.0}),
    ]
    assert model.calls == [4, 1, 1, 1, 1]


def test_the_reason_of_a_fault_is_one_line_of_bounded_length() -> None:
    model = Darkness(fault=ValueError("a black\npicture\r\n\tand " + "so on " * 1000))
    reason = ImageReadability(model).score(batch([decoded(0)]))[0].reason
    assert reason is not None
    assert reason.startswith("error: ValueError: a black picture and so on so on")
    assert reason.isprintable()
    assert len(reason) == len("error: ValueError: ") + 300


def test_a_fault_of_the_model_itself_is_not_sought_in_the_pictures() -> None:
    model = Darkness(fault=ModelUnavailable("no weights"))
    with pytest.raises(ModelUnavailable, match="no weights"):
        ImageReadability(model).score(batch([decoded(10)], [decoded(0)]))
    assert model.calls == [2]


def test_a_model_with_too_few_values_is_no_score() -> None:
    class Forgetful(Darkness):
        def score_images(self, images: Sequence[Rgb]) -> npt.NDArray[np.float64]:
            return np.zeros(0)

    (score,) = ImageReadability(Forgetful()).score(batch([decoded(10)]))
    assert score.fault and score.value is None


def test_without_a_model_the_values_are_the_classical_ones() -> None:
    coffee, cat = (types.Image(name, photograph(name), None, f"sha-{name}") for name in ("coffee", "cat"))
    first, second = image_readability(photograph("coffee")), image_readability(photograph("cat"))
    assert ImageReadability().score(batch([coffee, cat], [cat])) == [
        Score((first + second) / 2, parts={"worst": min(first, second)}),
        Score(second, parts={"worst": second}),
    ]
