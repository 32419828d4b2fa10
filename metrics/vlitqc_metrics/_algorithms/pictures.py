"""From values of pictures to scores of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

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


def mean_over_pictures(
    batch: Batch,
    key: Hashable,
    values: Values,
    *,
    higher_is_better: bool = True,
) -> list[Score]:
    """Each sample's mean over its readable pictures, with the part ``worst``: their lowest value, or their
    highest where lower is better.

    ``values`` gives one number a picture; every distinct picture of the batch is in its one call. A sample
    without a readable picture has no score, and neither has one with a picture for which ``values`` raises.
    """
    found = batch.memo(key, lambda: _by_sha256(batch, values))
    worst = min if higher_is_better else max
    scores: list[Score] = []
    for sample, images in zip(batch.samples, batch.images, strict=True):
        own = [found[image.sha256] for image in images if image.pixels is not None]
        faults = [value for value in own if isinstance(value, str)]
        numbers = [value for value in own if not isinstance(value, str)]
        if faults:
            scores.append(Score(reason=faults[0], fault=True))
        elif numbers:
            scores.append(Score(sum(numbers) / len(numbers), parts={"worst": worst(numbers)}))
        else:
            scores.append(no_picture(sample, images))
    return scores


def score_pictures(
    batch: Batch, spec: MetricSpec, model: ImageScorer | None, classical: Values
) -> list[Score]:
    """``mean_over_pictures`` of the model's numbers, or of ``classical`` where there is no model."""
    if model is None:
        return mean_over_pictures(batch, spec.name, classical)
    return mean_over_pictures(
        batch,
        (spec.name, model.ref),
        model.score_images,
        higher_is_better=spec.higher_is_better is not False,
    )


def _by_sha256(batch: Batch, values: Values) -> dict[str, float | str]:
    """The value of every distinct picture by content hash, or why it has none."""
    pictures = {
        sha256: image.pixels for sha256, image in batch.distinct_images().items() if image.pixels is not None
    }
    if not pictures:
        return {}
    try:
        return _numbers(pictures, values)
    except VlitqcError:
        raise  # the model itself is at fault, and would be for every picture
    except Exception:  # noqa: BLE001 - a model may raise anything; the culprit is found below
        found: dict[str, float | str] = {}
        for sha256, pixels in pictures.items():
            try:
                found |= _numbers({sha256: pixels}, values)
            except Exception as error:  # noqa: BLE001 - it becomes the reason of this picture's samples
                found[sha256] = as_reason(error)
        return found


def _numbers(pictures: dict[str, Rgb], values: Values) -> dict[str, float | str]:
    return dict(zip(pictures, map(float, values(list(pictures.values()))), strict=True))
