"""From values of pictures to scores of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlitqc.types import Batch, Image, Rgb, Score

TEXT_ONLY = "text-only"


def no_picture(images: Sequence[Image]) -> Score:
    """The score of a sample none of whose pictures can be used."""
    return (
        Score(reason=f"image unreadable: {images[0].fault}", fault=True)
        if images
        else Score(reason=TEXT_ONLY)
    )


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
    for images in batch.images:
        found = [values[image.sha256] for image in images if image.pixels is not None]
        if found:
            scores.append(Score(sum(found) / len(found), parts={"min": min(found)}))
        else:
            scores.append(no_picture(images))
    return scores
