"""Visual complexity, classical: how much there is to see in each picture (principle 9)."""

from __future__ import annotations

from vlitqc.types import Batch, MetricSpec, Principle, Score
from vlitqc_metrics._algorithms.pictures import mean_over_pictures


class VisualComplexity:
    """How complex a sample's pictures look, 0 (one flat colour) to 100.

    The value of one picture is ``visual_complexity.visual_complexity``; a sample's is the mean over its
    pictures, and the part ``min`` the simplest of them.
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
        version="1",
        source="classical measures in the place of IC9600's ICNet (Feng et al. 2023); section 4.2.3 of the paper",
        parts=("min",),
        image_side=512,
    )

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample; none for text-only samples or where no picture can be read."""
        from vlitqc_metrics._algorithms.visual_complexity import visual_complexity

        return mean_over_pictures(batch, "visual_complexity", visual_complexity)
