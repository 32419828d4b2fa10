"""From values of pictures to scores of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlitqc.types import Batch, Image, Rgb, Sample, Score

TEXT_ONLY = "text-only"


def no_picture(sample: Sample, images: Sequence[Image]) -> Score:
    """The score of a sample none of whose pictures, ``images``, can be used.

    A fault where there are pictures; else ``text-only`` for a sample without any media, and the kinds of its
    media for one that has only others.
    """
    if images:
        return Score(reason=f"image unreadable: {images[0].fault}", fault=True)
    kinds = list(dict.fromkeys(media.kind for media in sample.media))
    return Score(reason=f"no picture, only {' and '.join(kinds)}" if kinds else TEXT_ONLY)


def mean_over_pictures(batch: Batch, key: str, value: Callable[[Rgb], float]) -> list[Score]:
    """Each sample's mean of ``value`` over its readable pictures, with the lowest as the part ``min``.

    Every distinct picture of the batch is valued once. A sample without a readable picture has no score.
    """
    values = batch.memo(
        key,
        lambda: {
            sha256: value(image.pixels)
            for sha256, image in batch.distinct_images().items()
            if image.pixels is not None
        },
    )
    scores: list[Score] = []
    for sample, images in zip(batch.samples, batch.images, strict=True):
        found = [values[image.sha256] for image in images if image.pixels is not None]
        if found:
            scores.append(Score(sum(found) / len(found), parts={"min": min(found)}))
        else:
            scores.append(no_picture(sample, images))
    return scores
