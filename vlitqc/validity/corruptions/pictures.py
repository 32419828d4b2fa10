"""What is done to pictures."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vlitqc.types import Principle, Rgb
from vlitqc.validity.corruptions.anatomy import in_pictures
from vlitqc.validity.corruptions.corruption import Corruption
from vlitqc.validity.corruptions.reasons import OF_PICTURES, without

GREY = 128
GRID = 8
"""Blocks a side of the grid of which occlusion covers some."""
GAMMA = 2.2
"""Of the screens that pictures are made for: light rises as the pixel's value to this power."""


def blurred(picture: Rgb, sigma: float, rng: np.random.Generator) -> Rgb:
    """Smoothed by a Gaussian of ``sigma`` pixels."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma)))


def noisy(picture: Rgb, sigma: float, rng: np.random.Generator) -> Rgb:
    """With white noise of ``sigma`` grey levels; a stronger one is the same pattern, louder."""
    noise = rng.standard_normal(picture.shape, np.float32)
    return _as_pixels(picture + np.float32(sigma) * noise)


def compressed(picture: Rgb, loss: float, rng: np.random.Generator) -> Rgb:
    """As JPEG of quality 100 − ``loss`` shows it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=round(100 - loss))
    with Image.open(file) as shown:
        return np.asarray(shown.convert("RGB"))


def downscaled(picture: Rgb, factor: float, rng: np.random.Generator) -> Rgb:
    """Made ``factor`` times smaller and as large as before again."""
    return _detail_lost(picture, factor)


def _detail_lost(picture: Rgb, factor: float) -> Rgb:
    height, width = picture.shape[:2]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    full = Image.fromarray(picture)
    return np.asarray(
        full.resize(small, Image.Resampling.LANCZOS).resize((width, height), Image.Resampling.BICUBIC)
    )


def turned(picture: Rgb, degrees: float, rng: np.random.Generator) -> Rgb:
    """Turned by ``degrees``, a multiple of 90, to one side or the other."""
    side = 1 if rng.random() < 0.5 else -1
    return np.rot90(picture, side * round(degrees / 90))


def exposed(picture: Rgb, stops: float, rng: np.random.Generator) -> Rgb:
    """With 2^``stops`` times the light, or with that much less; what is too bright is lost."""
    sign = 1 if rng.random() < 0.5 else -1
    gain = 2.0 ** (sign * stops / GAMMA)
    curve = _as_pixels(np.arange(256) * gain)
    return curve[picture]


def occluded(picture: Rgb, share: float, rng: np.random.Generator) -> Rgb:
    """With ``share`` of it under grey blocks of an 8 × 8 grid."""
    height, width = picture.shape[:2]
    order = rng.permutation(GRID * GRID)
    covered = np.zeros(GRID * GRID, bool)
    covered[order[: round(share * GRID * GRID)]] = True
    rows = np.arange(height) * GRID // height
    columns = np.arange(width) * GRID // width
    hidden = covered.reshape(GRID, GRID)[np.ix_(rows, columns)]
    return np.where(hidden[:, :, None], np.uint8(GREY), picture)


def flattened(picture: Rgb, share: float, rng: np.random.Generator) -> Rgb:
    """Smoothed over ``share`` of its shorter side and posterised to 1 / (2 ``share``) colours."""
    smooth = _detail_lost(picture, max(1.0, share * min(picture.shape[:2])))
    colours = max(2, round(0.5 / share))
    few = Image.fromarray(smooth).quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return np.asarray(few.convert("RGB"))


def cropped(picture: Rgb, share: float, rng: np.random.Generator) -> Rgb:
    """A window of the picture that leaves ``share`` of its area out; a smaller window lies in the larger."""
    height, width = picture.shape[:2]
    side = (1.0 - share) ** 0.5
    rows, columns = max(1, round(height * side)), max(1, round(width * side))
    down, right = rng.random(2)
    top, left = int(down * (height - rows)), int(right * (width - columns))
    return picture[top : top + rows, left : left + columns]


def _as_pixels(values: NDArray[np.floating[Any]]) -> Rgb:
    pixels: Rgb = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


# A fault of the pixels is aimed at image_readability; what else it moves is the same for all.
_OF_PIXELS = without(OF_PICTURES, "image_readability")

PICTURES = (
    Corruption(
        name="blur",
        principle=Principle.READABILITY,
        summary="Each picture is smoothed by a Gaussian.",
        targets={"image_readability": "falls"},
        strengths=(1.0, 2.0, 4.0),
        unit="pixels (sigma)",
        scope="case",
        apply=in_pictures(blurred),
        may_move=_OF_PIXELS,
    ),
    Corruption(
        name="noise",
        principle=Principle.READABILITY,
        summary="White noise lies over each picture.",
        targets={"image_readability": "falls"},
        strengths=(10.0, 25.0, 50.0),
        unit="grey levels (sigma)",
        scope="case",
        apply=in_pictures(noisy),
        may_move=_OF_PIXELS,
    ),
    Corruption(
        name="jpeg",
        principle=Principle.READABILITY,
        summary="Each picture is compressed as JPEG of low quality.",
        targets={"image_readability": "falls"},
        strengths=(60.0, 80.0, 95.0),
        unit="100 − quality",
        scope="case",
        apply=in_pictures(compressed),
        may_move=_OF_PIXELS,
    ),
    Corruption(
        name="downscaled",
        principle=Principle.READABILITY,
        summary="Each picture is made smaller and as large as before again, so that its detail is lost.",
        targets={"image_readability": "falls"},
        strengths=(2.0, 4.0, 8.0),
        unit="times smaller",
        scope="case",
        apply=in_pictures(downscaled),
        may_move=_OF_PIXELS,
    ),
    Corruption(
        name="rotated",
        principle=Principle.READABILITY,
        summary="Each picture lies on its side, or stands on its head.",
        targets={"image_readability": "falls"},
        strengths=(90.0, 180.0),
        unit="degrees",
        scope="case",
        apply=in_pictures(turned),
        may_move=_OF_PIXELS,
    ),
    Corruption(
        name="exposure",
        principle=Principle.READABILITY,
        summary="Each picture is exposed too long or too short.",
        targets={"image_readability": "falls"},
        strengths=(1.0, 2.0, 4.0),
        unit="stops",
        scope="case",
        apply=in_pictures(exposed),
        may_move=_OF_PIXELS,
    ),
    Corruption(
        name="occlusion",
        principle=Principle.READABILITY,
        summary="Grey blocks cover part of each picture.",
        targets={"image_readability": "falls", "object_diversity": "falls"},
        strengths=(0.125, 0.25, 0.5),
        unit="share of the picture",
        scope="case",
        apply=in_pictures(occluded),
        may_move=without(_OF_PIXELS, "object_diversity"),
    ),
    Corruption(
        name="flattened",
        principle=Principle.VISUAL_COMPLEXITY,
        summary="Each picture is smoothed to areas of few colours.",
        targets={"visual_complexity": "falls"},
        strengths=(0.01, 0.03, 0.1),
        unit="share of the shorter side",
        scope="case",
        apply=in_pictures(flattened),
        may_move=without(OF_PICTURES, "visual_complexity"),
    ),
    Corruption(
        name="cropped",
        principle=Principle.VISUAL_DIVERSITY,
        summary="Only a window of each picture is left, so that less of what it showed is on it.",
        targets={"object_diversity": "falls"},
        strengths=(0.5, 0.75, 0.9),
        unit="share of the picture",
        scope="case",
        apply=in_pictures(cropped),
        may_move=without(OF_PICTURES, "object_diversity"),
    ),
)
"""The corruptions of pictures."""
