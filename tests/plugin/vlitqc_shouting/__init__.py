"""A metric of a third party: how much of the responses is written in capitals."""

from __future__ import annotations

from vlitqc.types import Batch, MetricSpec, Principle, Score

__all__ = ["Shouting", "upper_case_share"]


def upper_case_share(text: str) -> float | None:
    """Upper-case letters / letters that have a case, 0 to 1; None for a text without such a letter."""
    cased = [c for c in text if c.isupper() or c.islower()]
    return sum(c.isupper() for c in cased) / len(cased) if cased else None


class Shouting:
    """The share of upper-case letters in a sample's responses, all turns together: 0 (calm) to 1 (shouting)."""

    spec = MetricSpec(
        name="shouting",
        title="Shouting",
        principle=Principle.READABILITY,
        level="sample",
        summary="How much of the responses is written in capitals.",
        unit="share of letters",
        bounds=(0.0, 1.0),
        higher_is_better=False,
        reduction="letters of all turns together; mean over samples",
        version="1",
        source="vlitqc-shouting",
    )

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample; none where no response has a letter with a case."""
        shares = [
            upper_case_share("".join(turn.response for turn in sample.turns)) for sample in batch.samples
        ]
        return [
            Score(reason="no letter that has a case") if share is None else Score(share) for share in shares
        ]
