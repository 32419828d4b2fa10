"""From values of pictures to scores of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from vlitqc.errors import VlitqcError, as_reason
from vlitqc.types import Batch, Image, ImageScorer, MetricSpec, Rgb, Sample, Score

TEXT_ONLY = "text-only"
NOUNS = {"image": ("image", "images"), "video": ("video", "videos"), "audio": ("sound", "sounds")}

Values = Callable[[list[Rgb]], Iterable[float]]
"""One number a picture, in order."""


def no_picture(sample: Sample, images: Sequence[Image]) -> Score:
    """The score of a sample none of whose pictures, ``images``, can be used.

    A fault where there are pictures; else ``text-only`` for a sample without any media, and how many media it
    has of other kinds.
    """
    if images:
        return Score(reason=f"image unreadable: {images[0].fault}", fault=True)
    counts = Counter(media.kind for media in sample.media)
    if not counts:
        return Score(reason=TEXT_ONLY)
    held = " and ".join(f"{n} {NOUNS[kind][n > 1]}" for kind, n in counts.items())
    return Score(reason=f"no image: the record has {held}, which this metric does not see")


def pixels_of(images: Iterable[Image]) -> list[Rgb]:
    """The pixels of readable pictures, in order."""
    return [pixels for image in images if (pixels := image.pixels) is not None]


def mean_over_pictures(
    batch: Batch,
    space: str,
    values: Values,
    *,
    model: str = "",
    higher_is_better: bool = True,
) -> list[Score]:
    """Each sample's mean over its readable pictures, with the part ``worst``: their lowest value, or their
    highest where lower is better.

    ``values`` gives one number a picture; every distinct picture of the batch that has none yet is in its one call.
    ``space`` and ``model`` are as of ``Batch.once``. A sample without a readable picture has no score, and neither
    has one with a picture for which ``values`` raises.
    """
    pictures = batch.distinct_images()
    images = list(pictures.values())
    numbers_or_faults = batch.once(
        space,
        [image.content for image in images],
        lambda at: _each(pixels_of(images[i] for i in at), values),
        model=model,
        is_fault=lambda value: isinstance(value, str),
    )
    found = dict(zip(pictures, numbers_or_faults, strict=True))
    worst = min if higher_is_better else max
    scores: list[Score] = []
    for sample, row in zip(batch.samples, batch.images, strict=True):
        own = [found[image.sha256] for image in row if image.fault is None]
        faults = [value for value in own if isinstance(value, str)]
        numbers = [value for value in own if not isinstance(value, str)]
        if faults:
            scores.append(Score(reason=faults[0], fault=True))
        elif numbers:
            scores.append(Score(sum(numbers) / len(numbers), parts={"worst": worst(numbers)}))
        else:
            scores.append(no_picture(sample, row))
    return scores


def score_pictures(
    batch: Batch, spec: MetricSpec, model: ImageScorer | None, classical: Values
) -> list[Score]:
    """``mean_over_pictures`` of the model's numbers, or of ``classical`` where there is no model."""
    if model is None:
        return mean_over_pictures(batch, f"classical {spec.name} {spec.version}", classical, model=spec.name)
    return mean_over_pictures(
        batch,
        f"image score: {model.ref}",
        model.score_images,
        model=model.ref.name,
        higher_is_better=spec.higher_is_better is not False,
    )


def _each(pictures: list[Rgb], values: Values) -> list[float | str]:
    """The value of every picture, or why it has none."""
    try:
        return _numbers(pictures, values)
    except VlitqcError:
        raise  # the model itself is at fault, and would be for every picture
    except Exception:  # noqa: BLE001 - a model may raise anything; the culprit is found below
        return [_one(pixels, values) for pixels in pictures]


def _one(pixels: Rgb, values: Values) -> float | str:
    try:
        return _numbers([pixels], values)[0]
    except Exception as error:  # noqa: BLE001 - it becomes the reason of this picture's samples
        return as_reason(error)


def _numbers(pictures: list[Rgb], values: Values) -> list[float | str]:
    return [float(number) for _, number in zip(pictures, values(pictures), strict=True)]
