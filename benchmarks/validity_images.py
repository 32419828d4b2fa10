"""Validity of the two classical picture scores on real pictures, one row a distortion or category.

``image_readability_table`` distorts photographs that the scikit-image wheel carries, in rising strength,
and reads pictures whose file names tell their distortion level; ``visual_complexity_table`` reads human
scores of complexity. Both return rows with the keys ``measure``, ``set``, ``case``, ``n``, ``spearman`` and
``required`` (None where nothing is required); nothing is printed. Both take the measure to judge as an
argument: the tables of candidates in the docstrings of ``image_quality`` and ``visual_complexity`` come
from here.
"""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from vlitqc_metrics._algorithms.image_quality import image_readability
from vlitqc_metrics._algorithms.visual_complexity import visual_complexity

Picture = npt.NDArray[np.uint8]
Measure = Callable[[Picture], float]
Row = dict[str, Any]

# One level 0, the picture itself, and then rising strength.
BLUR_SIGMAS = (0, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6)
NOISE_SIGMAS = (0, 2, 5, 10, 15, 20, 30, 40, 60)
JPEG_QUALITIES = (0, 95, 85, 75, 60, 45, 30, 20, 10, 5)
JPEG2000_RATIOS = (0, 8, 16, 32, 64, 128, 256)
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
    "rocket",
    "stereo_motorcycle",
)
READABILITY_REQUIRED = -0.9
COMPLEXITY_MARGIN = 0.10
COMPLEXITY_SIDE = 512


def blurred(picture: Picture, sigma: float) -> Picture:
    """Gaussian blur; sigma in pixels, 0 leaves the picture as it is."""
    return _as_codes(gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0))) if sigma else picture


def noisy(picture: Picture, sigma: float) -> Picture:
    """White Gaussian noise, independent in the three channels, seeded; sigma in grey levels of 256."""
    return _as_codes(picture + np.random.default_rng(0).normal(0, 1, picture.shape) * sigma)


def jpeg(picture: Picture, quality: float) -> Picture:
    """Through a JPEG file (libjpeg's quality, 4:2:0); 0 leaves the picture as it is."""
    return _through(picture, "JPEG", quality=int(quality)) if quality else picture


def jpeg2000(picture: Picture, ratio: float) -> Picture:
    """Through a JPEG 2000 file (9/7 wavelet) compressed ``ratio`` times; 0 leaves the picture as it is."""
    if not ratio:
        return picture
    return _through(picture, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


DISTORTIONS: dict[str, tuple[Callable[[Picture, float], Picture], tuple[float, ...]]] = {
    "Gaussian blur": (blurred, BLUR_SIGMAS),
    "Gaussian noise": (noisy, NOISE_SIGMAS),
    "JPEG": (jpeg, JPEG_QUALITIES),
    "JPEG 2000": (jpeg2000, JPEG2000_RATIOS),
}


def photographs() -> dict[str, Picture]:
    """The photographs in the scikit-image wheel as uint8 RGB, cut to 640 x 480 if longer than 760 px."""
    from skimage import data

    found: dict[str, Picture] = {}
    for name in PHOTOGRAPHS:
        value = getattr(data, name)()
        picture = value[0] if isinstance(value, tuple) else value
        picture = np.repeat(picture[:, :, None], 3, axis=2) if picture.ndim == 2 else picture
        if max(picture.shape) > 760:
            picture = picture[200:680, 200:840]
        found[name] = np.ascontiguousarray(picture)
    return found


def image_readability_table(data: pathlib.Path, measure: Measure = image_readability) -> list[Row]:
    """Spearman's rho between distortion level and score; -1 is a score that falls at every step.

    For scikit-image's photographs rho is computed per picture over all levels, the undistorted one
    included, and then averaged over the pictures; ``n`` counts the pictures, and the row also holds
    ``worst``, the highest rho of any picture. For ``data/md_iqa_src31`` there is one source picture: rho
    over its levels, and ``n`` counts the levels.

    Args:
        data: folder that holds ``md_iqa_src31``.
        measure: the score to judge, higher is better.

    Raises:
        FileNotFoundError: ``data/md_iqa_src31`` is missing.
    """
    rows: list[Row] = []
    sources = photographs()
    for case, (distort, levels) in DISTORTIONS.items():
        rhos = [
            _spearman(range(len(levels)), [measure(distort(picture, level)) for level in levels])
            for picture in sources.values()
        ]
        row = _row("image_readability", "scikit-image", case, len(rhos), float(np.mean(rhos)))
        rows.append({**row, "required": READABILITY_REQUIRED, "worst": max(rhos)})
    for folder in sorted((data / "md_iqa_src31" / "images" / "SRC31").iterdir()):
        scores = {int(path.stem.rsplit("_", 1)[1]): measure(_read(path)) for path in folder.iterdir()}
        rho = _spearman(list(scores), list(scores.values()))
        rows.append(_row("image_readability", "md_iqa_src31", folder.name, len(scores), rho))
    return rows


def visual_complexity_table(data: pathlib.Path, measure: Measure = visual_complexity) -> list[Row]:
    """Spearman's rho with human complexity scores, per category and averaged, beside JPEG bytes per pixel.

    Every measure sees the same pictures, brought to at most 512 px; JPEG size is also taken at 256 px, at
    which the score works. The mean must be at least 0.10 above the better of the two.

    Args:
        data: folder that holds ``savoias`` (``complexity.csv`` and ``Images/<category>/``).
        measure: the score to judge, higher is more complex.

    Raises:
        FileNotFoundError: ``data/savoias`` is missing.
    """
    with (data / "savoias" / "complexity.csv").open(newline="", encoding="utf-8") as stream:
        human = {row["image"]: float(row["complexity"]) for row in csv.DictReader(stream)}
    pictures = {name: _shrunk(_read(data / "savoias" / "Images" / name), COMPLEXITY_SIDE) for name in human}
    categories = sorted({name.split("/")[0] for name in human})
    measures: dict[str, Measure] = {
        "JPEG bytes per pixel, 512 px": jpeg_bytes_per_pixel,
        "JPEG bytes per pixel, 256 px": lambda picture: jpeg_bytes_per_pixel(_shrunk(picture, 256)),
        "visual_complexity": measure,
    }
    rows: list[Row] = []
    baselines: list[float] = []
    for label, function in measures.items():
        rhos = []
        for category in categories:
            names = [name for name in human if name.startswith(category + "/")]
            rho = _spearman([human[name] for name in names], [function(pictures[name]) for name in names])
            rhos.append(rho)
            rows.append(_row(label, "savoias", category, len(names), rho))
        mean = _row(label, "savoias", "mean over categories", len(human), float(np.mean(rhos)))
        if label == "visual_complexity":
            mean["required"] = max(baselines) + COMPLEXITY_MARGIN
        else:
            baselines.append(mean["spearman"])
        rows.append(mean)
    return rows


def jpeg_bytes_per_pixel(picture: Picture) -> float:
    """Size of the picture as a JPEG of quality 75, over its number of pixels: the baseline for complexity."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=75)
    return len(stream.getvalue()) / float(picture.shape[0] * picture.shape[1])


def _row(measure: str, source: str, case: str, n: int, rho: float) -> Row:
    return {"measure": measure, "set": source, "case": case, "n": n, "spearman": rho, "required": None}


def _spearman(levels: Iterable[float], scores: list[float]) -> float:
    return float(spearmanr(list(levels), scores).statistic)


def _as_codes(values: npt.NDArray[Any]) -> Picture:
    codes: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return codes


def _through(picture: Picture, file_format: str, **options: Any) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, file_format, **options)
    return np.asarray(Image.open(stream).convert("RGB"))


def _read(path: pathlib.Path) -> Picture:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _shrunk(picture: Picture, side: int) -> Picture:
    """The picture with its longest side at ``side`` px, or as it is where it is smaller."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
