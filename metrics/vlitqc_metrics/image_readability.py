"""Image readability: a quality of each picture that needs no reference (principle 1)."""

from __future__ import annotations

from vlitqc.types import Batch, ImageScorer, MetricSpec, Principle, Rgb, Score
from vlitqc_metrics._algorithms.picture_threads import each_picture
from vlitqc_metrics._algorithms.pictures import score_pictures


class ImageReadability:
    """How free of blur, noise and compression blocks a sample's pictures are.

    The value of one picture is the model's, on the model's own scale, such as MANIQA's; without a model it is
    ``image_quality.image_readability``, a classical measure from 0 (ruined) to 1 (clean). A sample's value is
    the mean over its pictures, and the part ``worst`` that of the worst of them: the lowest, or the highest
    where the model says that lower is better.
    """

    spec = MetricSpec(
        name="image_readability",
        title="Image readability",
        principle=Principle.READABILITY,
        level="sample",
        summary="How free of blur, noise and compression artefacts the pictures are.",
        unit="",
        bounds=(0.0, 1.0),
        higher_is_better=True,
        reduction="mean over a sample's pictures; mean over samples",
        version="3",
        source="classical no-reference quality in the place of MANIQA (Yang et al. 2022); section 4.2.3 of the paper",
        parts=("worst",),
        image_side=2048,
    )

    def __init__(self, model: ImageScorer | None = None) -> None:
        self._model = model
        if model is not None:
            self.spec = type(self).spec.on_scale(model.scale)

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample; none for text-only samples or where no picture can be read.

        A fault with one picture is the reason of its samples. Raises ModelUnavailable where the model's weights
        cannot be read.
        """
        return score_pictures(batch, self.spec, self._model, _classical)


def _classical(pictures: list[Rgb]) -> list[float]:
    from vlitqc_metrics._algorithms.image_quality import image_readability

    return each_picture(image_readability, pictures)
