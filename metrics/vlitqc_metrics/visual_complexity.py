"""Visual complexity: how much there is to see in each picture (principle 9)."""

from __future__ import annotations

from vlitqc.types import Batch, ImageScorer, MetricSpec, Principle, Rgb, Score
from vlitqc_metrics._algorithms.picture_threads import each_picture
from vlitqc_metrics._algorithms.pictures import score_pictures


class VisualComplexity:
    """How complex a sample's pictures look, 0 (one flat colour) to 100.

    The value of one picture is the model's, such as IC9600's ICNet; without a model it is
    ``visual_complexity.visual_complexity``, from classical measures. A sample's value is the mean over its
    pictures, and the part ``worst`` the simplest of them: the lowest, or the highest where the model says that
    lower is better.
    """

    spec = MetricSpec(
        name="visual_complexity",
        title="Visual complexity",
        principle=Principle.VISUAL_COMPLEXITY,
        level="sample",
        summary="How complex the pictures look: edges, colours and contrast over several scales.",
        unit="",
        bounds=(0.0, 100.0),
        higher_is_better=True,
        reduction="mean over a sample's pictures; mean over samples",
        version="3",
        source="classical measures in the place of IC9600's ICNet (Feng et al. 2023); section 4.2.3 of the paper",
        parts=("worst",),
        # A network that looks at 512 × 512 px of a long picture needs more than that of its longest side.
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
    from vlitqc_metrics._algorithms.visual_complexity import visual_complexity

    return each_picture(visual_complexity, pictures)
