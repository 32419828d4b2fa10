"""Image readability, classical: a no-reference quality of each picture (principle 1)."""

from __future__ import annotations

from vlitqc.types import Batch, MetricSpec, Principle, Score
from vlitqc_metrics._algorithms.pictures import mean_over_pictures


class ImageReadability:
    """How free of blur, noise and compression blocks a sample's pictures are, 0 (ruined) to 1 (clean).

    The value of one picture is ``image_quality.image_readability``; a sample's is the mean over its pictures,
    and the part ``min`` the worst of them.
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
        version="1",
        source="classical no-reference quality in the place of MANIQA (Yang et al. 2022); section 4.2.3 of the paper",
        parts=("min",),
        image_side=2048,
    )

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample; none for text-only samples or where no picture can be read."""
        from vlitqc_metrics._algorithms.image_quality import image_readability

        return mean_over_pictures(batch, "image_readability", image_readability)
