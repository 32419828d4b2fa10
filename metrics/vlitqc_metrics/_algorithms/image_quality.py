"""No-reference image quality from three classical measures, without a trained model.

``image_readability = sharpness / (1 + (sigma / 13)^2) / (1 + blockiness)``, all three on the luma of the pixels
as they are in the file:

1. *sharpness* in [0, 1]. In each 16 x 16 block, the structure function G(k) is the mean squared difference
   of pixels k apart, across plus down, less the 4 sigma^2 that noise adds. From lag 1 to lag 8 it grows as
   k^h: h is 2 where the picture is smooth (blurred) at that scale, 1 at a step edge, 0 for white texture. A
   block counts 2 - h, cut to [0, 1], and weighs as its contrast sqrt(G(4)), so that a blurred background
   behind a sharp object costs little. h is twice the Hurst exponent of the block (Mandelbrot & Van Ness
   1968).
2. *sigma*, the noise in grey levels of 256: the 1% quantile over 4 x 4 blocks of the Laplacian residual of
   Immerkaer (1996), scaled to be right for white noise. A sigma of 13 halves the score.
3. *blockiness*. Mean absolute differences of neighbours, each at most 32, are gathered by position modulo
   8: the largest of the eight means less the second largest, over the mean of the seven smaller plus half a
   grey level (numerator and denominator summed over across and down). It need not know where the 8 x 8 grid
   begins, so a cropped JPEG is seen too. The idea is that of Wang, Sheikh & Bovik (2002).

Resizing hides blur, noise and the JPEG grid, so nothing is resized. An axis of up to 512 px is taken whole;
a longer one is looked at through four tiles of 128 px, spread evenly and beginning at multiples of 8, which
bounds the work at 512 x 512 px whatever the picture's size. A side below 32 px is mirrored to 32.

The constants (13, 32, the floors) were set on the scikit-image and scikit-learn wheels' pictures alone.
Candidates, by Spearman's rho between distortion level and score, mean over 14 photographs of the
scikit-image wheel (-1 is wanted; blur with 9 levels, noise 9, JPEG 10, JPEG 2000 7, each with the
undistorted picture); then rho over four levels of JPEG 2000 and of lens blur on one picture of the MD-IQA
data, which took no part; then the time for 512 x 512 px on one core:

==================================================  =====  =====  =====  ======  =========  =======  =====
candidate                                            blur  noise   JPEG  JP2000  MD JP2000  MD lens     ms
==================================================  =====  =====  =====  ======  =========  =======  =====
this score                                          -1.00  -0.99  -0.95   -0.95      -1.00    -1.00      3
1 - skimage.measure.blur_effect                     -1.00   1.00  -0.44   -1.00      -1.00    -1.00     23
(1 - blur_effect) / (1 + (Immerkaer sigma / 13)^2)  -0.97  -0.98   0.56   -0.91      -1.00    -1.00     27
(1 - blur_effect) with this sigma and blockiness    -0.99  -0.97  -0.95   -0.93      -1.00    -1.00     27
variance of the Laplacian                           -1.00   1.00  -0.68   -1.00      -1.00    -1.00      5
minus Immerkaer sigma                                0.99  -1.00   0.97    1.00       1.00     1.00      5
PIQE (pypiqe 1.2)                                   -0.97  -0.92  -0.82   -0.99      -1.00    -0.40     84
sharpness alone                                     -1.00  -0.16  -0.57   -1.00      -1.00    -1.00      2
minus blockiness alone                               0.56   0.73  -0.98    0.01      -0.40     0.80      1
==================================================  =====  =====  =====  ======  =========  =======  =====

Not measured: ``skimage.restoration.estimate_sigma`` needs PyWavelets, OpenCV's ``quality`` module needs
model files that its wheel lacks, ``brisque`` does not run on numpy 2, ``diqa`` unpickles its scaler and
needs pyiqa.

Limits: a natural texture as fine as noise (grass) is taken for noise in part; a compressed page of rendered
text keeps a high score, for its ringing is neither blur nor a grid; a picture of soft gradients alone
scores low, and a little noise raises it; tables and charts whose lines repeat every 8 px look blocky. JPEG
that was resized afterwards shows as blur only.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

_AXIS_LIMIT: Final = 512
_TILES_PER_AXIS: Final = 4
_TILE: Final = 128
_GRID: Final = 8
_MIN_SIDE: Final = 32
_LAGS: Final = (1, 2, 4, 8)
_BLOCK: Final = 16
_NOISE_BLOCK: Final = 4
_NOISE_QUANTILE: Final = 0.01
# What the 1% quantile of 4 x 4 blocks reads on white noise of standard deviation 1 (512 x 512 px).
_NOISE_QUANTILE_OF_WHITE_NOISE: Final = 0.44
_NOISE_HALF: Final = 13.0
# Rounding to whole grey levels alone gives G = 1/3.
_DETAIL_FLOOR: Final = 0.25
# The steps that JPEG leaves at block borders are small; outlines that lie on a grid by chance are not.
_STEP_CAP: Final = 32
_ACTIVITY_FLOOR: Final = 0.5

Floats = npt.NDArray[np.float32]


def image_readability(rgb: npt.NDArray[np.uint8]) -> float:
    """How free of blur, noise and compression artefacts a picture is, as the module describes.

    ``sharpness / (1 + (sigma / 13)^2) / (1 + blockiness)``.

    Args:
        rgb: uint8 [height, width, 3], sRGB, at the resolution of the file; any size from 1 x 1.

    Returns:
        A number in [0, 1], no unit, higher is better; 0 for a picture of one colour, which shows nothing.
        Always finite, and equal for equal input.

    Raises:
        ValueError: the array is not a non-empty uint8 [height, width, 3].
    """
    luma = _tiles(rgb)
    sigma = _noise_sigma(luma)
    quality = _sharpness(luma, sigma)
    quality /= 1.0 + (sigma / _NOISE_HALF) ** 2
    quality /= 1.0 + _blockiness(luma)
    return float(quality)


def _starts(size: int) -> tuple[list[int], int]:
    """Where the tiles of one axis begin, and how long they are; a short axis is one tile."""
    if size <= _AXIS_LIMIT:
        return [0], size
    step = (size - _TILE) / (_TILES_PER_AXIS - 1)
    return [int(i * step) // _GRID * _GRID for i in range(_TILES_PER_AXIS)], _TILE


def _tiles(rgb: npt.NDArray[Any]) -> Floats:
    """The looked-at pixels as luma, float32 [tiles, height, width], every side at least 32."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise ValueError(f"expected a non-empty uint8 array [h, w, 3], got {rgb.dtype} {list(rgb.shape)}")
    tops, height = _starts(rgb.shape[0])
    lefts, width = _starts(rgb.shape[1])
    views = [rgb[top : top + height, left : left + width] for top in tops for left in lefts]
    # Pillow's integer conversion (ITU-R BT.601) is ten times faster than a float matrix product.
    luma: Floats = np.stack(
        [np.asarray(Image.fromarray(view).convert("L"), dtype=np.float32) for view in views]
    )
    # Mirroring adds neither edges nor noise, which replication or zeros would.
    pad_y, pad_x = max(_MIN_SIDE - height, 0), max(_MIN_SIDE - width, 0)
    padded: Floats = np.pad(luma, ((0, 0), (0, pad_y), (0, pad_x)), mode="symmetric")
    return padded


def _block_means(values: Floats, size: int) -> Floats:
    """Means over whole size x size blocks of [tiles, height, width]; the ragged rest is left out."""
    tiles, height, width = values.shape
    rows, columns = height // size, width // size
    # Whole rows are added first: those additions are contiguous and run several times faster.
    summed = values[:, : rows * size].reshape(tiles, rows, size, width).sum(axis=2)
    summed = summed[:, :, : columns * size].reshape(tiles, rows, columns, size).sum(axis=3)
    means: Floats = summed / np.float32(size * size)
    return means


def _noise_sigma(luma: Floats) -> float:
    """Standard deviation of the noise in grey levels, from the quietest of the 4 x 4 blocks."""
    across = luma[:, :, 2:] - 2 * luma[:, :, 1:-1] + luma[:, :, :-2]
    residual = across[:, 2:] - 2 * across[:, 1:-1] + across[:, :-2]
    # The mask's squared coefficients sum to 36, so white noise of variance v gives a residual of 36 v.
    energy = _block_means(residual * residual, _NOISE_BLOCK) / 36
    corner = luma[:, 1:-1:_NOISE_BLOCK, 1:-1:_NOISE_BLOCK][:, : energy.shape[1], : energy.shape[2]]
    clipped = (energy == 0) & ((corner == 0) | (corner == 255))
    # Clipping hides noise, so burnt-out sky and black borders tell nothing; but where most of the picture
    # is pure black or white it is a drawing or a page, and its blank parts show that there is no noise.
    energy = energy.ravel() if clipped.mean() > 0.5 else energy[~clipped]
    quiet = int(_NOISE_QUANTILE * (energy.size - 1))
    return float(np.sqrt(np.partition(energy, quiet)[quiet])) / _NOISE_QUANTILE_OF_WHITE_NOISE


def _sharpness(luma: Floats, sigma: float) -> float:
    """Contrast-weighted mean over blocks of 2 - h, with h the growth exponent of the structure function."""
    reach = _LAGS[-1]
    _, height, width = luma.shape
    rows, columns = (height - reach) // _BLOCK * _BLOCK, (width - reach) // _BLOCK * _BLOCK
    anchor = luma[:, :rows, :columns]
    functions = []
    for lag in _LAGS:
        right = luma[:, :rows, lag : lag + columns] - anchor
        below = luma[:, lag : lag + rows, :columns] - anchor
        right *= right
        below *= below
        right += below
        functions.append(np.maximum(_block_means(right, _BLOCK) - 4 * sigma * sigma, 0))
    # A floor that grows as the lag squared makes detail too faint to see count as blurred, not as sharp.
    first = functions[0] + _DETAIL_FLOOR * _LAGS[0] ** 2
    last = functions[-1] + _DETAIL_FLOOR * _LAGS[-1] ** 2
    sharp = np.clip(2 - np.log2(last / first) / np.log2(_LAGS[-1] / _LAGS[0]), 0, 1)
    weight = np.sqrt(functions[2])
    total = float(weight.sum())
    return float((sharp * weight).sum()) / total if total > 0 else 0.0


def _blockiness(luma: Floats) -> float:
    """How much one of the 8 grid phases stands out in mean absolute difference, relative to the others."""
    excess = activity = 0.0
    for view in (luma, luma.transpose(0, 2, 1)):
        steps = np.minimum(np.abs(view[:, :, 1:] - view[:, :, :-1]), _STEP_CAP)
        columns = steps.mean(axis=(0, 1))
        whole = columns.size // _GRID * _GRID
        phases = np.sort(columns[:whole].reshape(-1, _GRID).mean(axis=0))
        excess += float(phases[-1] - phases[-2])
        activity += float(phases[:-1].mean())
    return excess / (activity + 2 * _ACTIVITY_FLOOR)
