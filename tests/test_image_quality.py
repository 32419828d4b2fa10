"""Image readability: falls with distortion, keeps its range and stays finite on every odd picture."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from skimage import data

from vlitqc_metrics._algorithms import image_quality
from vlitqc_metrics._algorithms.image_quality import image_readability

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
