"""Instruction complexity: a judge says how hard each instruction is (principle 7)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import Batch, Cost, Judge, MetricSpec, Principle, Sample, Score
from vlitqc_metrics._algorithms.judging import (
    NOTES,
    PARTS,
    Item,
    TurnJudge,
    Verdict,
    read_prompt,
    sample_score,
)
from vlitqc_metrics._algorithms.texts import instructions

ONE_LEVEL = 0.6
"""A larger share of the samples on one level is warned of."""


class InstructionComplexity:
    """The mean over turns of the judge's level of difficulty of the instruction, 1 (easiest) to 10.

    With ``scoring="votes"`` (the paper's) the level is the most frequent of ``votes`` answers; with
    ``"expectation"`` it is Σ p(level)·level over the judge's probabilities, which also tells apart instructions
    that the votes put on one level. The judge sees the instruction alone: no picture, no response, no earlier
    turn.

    A turn whose votes are tied or cannot be read is not in the mean; the part ``turns_judged`` says how many
    are, ``parsed`` the share of the answers that could be read, and the note ``votes`` what they were (JSON, a
    list a turn; null where an answer could not be read, or for a turn without an instruction, which is not put
    to the judge). A failed call that may succeed later leaves the whole sample without a score.
    """

    spec = MetricSpec(
        name="instruction_complexity",
        title="Instruction complexity",
        principle=Principle.INSTRUCTION_COMPLEXITY,
        level="sample",
        summary="How difficult a judge finds each instruction.",
        unit="level 1–10",
        bounds=(1.0, 10.0),
        higher_is_better=True,
        reduction="most frequent of K votes, or the expected level; mean over the turns with a level; "
        "mean over samples",
        version="4",
        source="section 4.2.3 of the paper",
        parts=PARTS,
        notes=NOTES,
    )

    def __init__(self, judge: Judge, *, scoring: str = "votes", votes: int = 5) -> None:
        self.judge = judge
        self._turns = TurnJudge(judge, read_prompt("instruction_complexity"), scoring=scoring, votes=votes)

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample; none without an instruction, or where no turn has a level."""
        texts, index = instructions(batch)
        asked = [i for i, text in enumerate(texts) if text]
        found = self._turns.verdicts([Item({"instruction": texts[i]}) for i in asked])
        by_turn = dict(zip(asked, found, strict=True))
        turns: list[list[Verdict | None]] = [[] for _ in batch.samples]
        for i, sample in enumerate(index):
            turns[sample].append(by_turn.get(i))
        return [sample_score(own) if any(own) else Score(reason="no instruction text") for own in turns]

    def remarks(self, values: NDArray[np.float64]) -> dict[str, object]:
        """How much of the data set lies on one level, and a warning above 60%.

        Judges that rate absolutely tend to give one level to nearly everything; the mean then says little.
        """
        levels, counts = np.unique(np.rint(values), return_counts=True)
        top = int(counts.argmax())
        share = float(counts[top] / len(values))
        found: dict[str, object] = {"most_frequent_level": int(levels[top]), "most_frequent_share": share}
        if share > ONE_LEVEL:
            found["warning"] = (
                f"{share:.0%} of the samples are on level {levels[top]:.0f}: this judge hardly tells them apart"
            )
        return found

    def cost(self, sample: Sample) -> Cost:
        """The calls for the sample's turns with an instruction."""
        texts = [strip_media_tokens(turn.instruction) for turn in sample.turns]
        return self._turns.cost([{"instruction": text} for text in texts if text], 0)
