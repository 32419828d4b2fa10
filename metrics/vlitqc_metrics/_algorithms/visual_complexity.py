"""Perceived visual complexity from four classical measures of clutter, without a trained model.

The picture is brought to a longest side of 256 px (antialiased bilinear, up or down: the same picture seen at
one fixed size, whatever its resolution) and turned to CIE L*a*b* (D65), where one unit is about one just
noticeable difference. Four measures follow, one from each family of the literature:

1. *edges*: the share of pixels whose colour gradient, after Gaussian smoothing with sigma 1, is at least 4
   L*a*b* units a pixel (edge density: Mack & Oliva 2004).
2. *regions*: the number of 4-connected regions of at least 8 pixels among the pixels that are no edges, less
   one (number of regions: Comaniciu & Meer 2002; Corchs et al. 2016).
3. *colours*: the entropy, in bits, of the half-size picture's colours in L*a*b* cells of side 10 (colour
   variability: Corchs et al. 2016).
4. *congestion*: det(C + I)^(1/6) - 1 averaged over the pixels and over three octaves, with C the 3 x 3 colour
   covariance in a 7 x 7 window: the local spread of colour in L*a*b* units (feature congestion: Rosenholtz,
   Li & Nakano 2007).

Each measure x becomes x / (x + r), with r its median over eleven colour pictures that the scikit-image and
scikit-learn wheels carry, so that each gives 0 for a blank picture, 0.5 for a usual one and nears 1 without
reaching it. The score is 100 times their plain mean: no weight is fitted to anything.

Measured against the human scores of 48 SAVOIAS pictures (Saraee, Jalal & Betke 2020; categories Art, Objects,
Scenes, Suprematism, 12 each; mean over categories of Spearman's rho):

===========================================  ===================
score                                        rho
===========================================  ===================
this score                                   0.68
edges, regions, colours, congestion alone    0.60 0.69 0.68 0.64
without edges, regions, colours, congestion  0.72 0.66 0.66 0.69
JPEG bytes per pixel, quality 75, 512 px     0.31
JPEG bytes per pixel, quality 75, 256 px     0.36
===========================================  ===================

No weight or constant was fitted to these scores, but some thirty measures were looked at on them before one
of each family was kept, so the figures are a little too good. The constants are not delicate: moving the
edge threshold from 3 to 6, the smoothing from 0.7 to 1, the colour cell from 8 to 12, the smallest region
from 4 to 16 pixels and the window from 5 to 11 kept the score between 0.64 and 0.69. With 12 pictures a
category, one category's rho has a standard error of about 0.3 and the mean about 0.15.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter, label, uniform_filter

_WORKING_SIDE: Final = 256
# Differences, windows and two halvings need a few pixels on the short side of a very long picture.
_SHORTEST_SIDE: Final = 8
_EDGE_SIGMA: Final = 1.0
_EDGE_GRADIENT: Final = 4.0
_SMALLEST_REGION: Final = 8
_COLOUR_CELL: Final = 10.0
_WINDOW: Final = 7
_OCTAVES: Final = 3
# Medians of edges, regions, colours and congestion over the colour pictures of scikit-image 0.26
# (astronaut, cat, coffee, hubble deep field, immunohistochemistry, retina, rocket, stereo motorcycle
# (left), logo on white) and scikit-learn 1.9 (china, flower).
_TYPICAL: Final = (0.21, 33.0, 4.76, 2.46)

Floats = npt.NDArray[np.float32]

_CODES = np.arange(256) / 255
_LINEAR: Final[Floats] = np.where(
    _CODES <= 0.04045, _CODES / 12.92, ((_CODES + 0.055) / 1.055) ** 2.4
).astype(np.float32)
# Linear sRGB to XYZ over the D65 white point (IEC 61966-2-1; CIE 2 degree observer).
_XYZ: Final[Floats] = (
    np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    / np.array([[0.95047], [1.0], [1.08883]])
).astype(np.float32)


def visual_complexity(rgb: npt.NDArray[np.uint8]) -> float:
    """How complex a picture looks: the mean of four clutter measures, as the module describes.

    ``100 * mean(x / (x + r))`` over edges, regions, colours and congestion.

    Args:
        rgb: uint8 [height, width, 3], sRGB; any size from 1 x 1.

    Returns:
        A number in [0, 100), no unit, higher is more complex; 0 for a picture of one colour. Always finite,
        and equal for equal input. Noise and compression artefacts count as complexity.

    Raises:
        ValueError: the array is not a non-empty uint8 [height, width, 3].
    """
    measures = np.array(_measures(rgb))
    return float(100 * (measures / (measures + np.array(_TYPICAL))).mean())


def _measures(rgb: npt.NDArray[Any]) -> tuple[float, float, float, float]:
    """Edges, regions, colours and congestion, in the units that the module's docstring names."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise ValueError(f"expected a non-empty uint8 array [h, w, 3], got {rgb.dtype} {list(rgb.shape)}")
    lab = _lab(_working_picture(rgb))
    smooth = gaussian_filter(lab, (_EDGE_SIGMA, _EDGE_SIGMA, 0))
    down, across = np.gradient(smooth, axis=(0, 1))
    squared = np.einsum("ijk,ijk->ij", down, down) + np.einsum("ijk,ijk->ij", across, across)
    edge = squared >= _EDGE_GRADIENT**2
    sizes = np.bincount(label(~edge)[0].ravel())[1:]
    regions = max(int((sizes >= _SMALLEST_REGION).sum()) - 1, 0)
    return float(edge.mean()), float(regions), _colour_entropy(_half(lab)), _congestion(lab)


def _working_picture(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The picture with its longest side at 256 px and no side below 8 px."""
    height, width = rgb.shape[:2]
    scale = _WORKING_SIDE / max(height, width)
    size = (max(_SHORTEST_SIDE, round(width * scale)), max(_SHORTEST_SIDE, round(height * scale)))
    # A gap of 2 lets Pillow shrink a large picture by a whole factor first, which is many times faster.
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _lab(rgb: npt.NDArray[np.uint8]) -> Floats:
    """CIE L*a*b* of an sRGB picture, float32 [height, width, 3]."""
    xyz = _LINEAR[rgb] @ _XYZ.T
    f = np.where(xyz > 0.008856, np.cbrt(xyz), np.float32(7.787) * xyz + np.float32(16 / 116))
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    lab: Floats = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
    return lab


def _half(values: Floats) -> Floats:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = values.shape[0] // 2 * 2, values.shape[1] // 2 * 2
    # Two additions of strided views take a third of the time of a mean over a reshaped array.
    rows = values[0:height:2, :width] + values[1:height:2, :width]
    means: Floats = (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)
    return means


def _colour_entropy(lab: Floats) -> float:
    """Entropy in bits of the colours, counted in cubic L*a*b* cells."""
    # L* is in 0..100, a* and b* within -108..99 for sRGB: 32 cells from -160 hold each of them.
    cells = np.floor(lab / _COLOUR_CELL).astype(np.int64) + 16
    counts = np.bincount(((cells[..., 0] * 32 + cells[..., 1]) * 32 + cells[..., 2]).ravel())
    shares = counts[counts > 0] / counts.sum()
    return max(float(-(shares * np.log2(shares)).sum()), 0.0)


def _congestion(lab: Floats) -> float:
    """Mean over octaves of the mean local spread of colour, in L*a*b* units."""
    spreads = []
    for octave in range(_OCTAVES):
        lab = lab if octave == 0 else _half(lab)
        mean = uniform_filter(lab, (_WINDOW, _WINDOW, 1))

        def covariance(i: int, j: int, lab: Floats = lab, mean: Floats = mean) -> Floats:
            product: Floats = uniform_filter(lab[..., i] * lab[..., j], _WINDOW)
            return product - mean[..., i] * mean[..., j]

        ll, aa, bb = covariance(0, 0) + 1, covariance(1, 1) + 1, covariance(2, 2) + 1
        la, lb, ab = covariance(0, 1), covariance(0, 2), covariance(1, 2)
        volume = ll * (aa * bb - ab * ab) - la * (la * bb - ab * lb) + lb * (la * ab - aa * lb)
        # In exact arithmetic det(C + I) is at least 1; float32 can fall a little short of it.
        spreads.append(float((np.maximum(volume, 1) ** (1 / 6)).mean()) - 1)
    return max(sum(spreads) / _OCTAVES, 0.0)
