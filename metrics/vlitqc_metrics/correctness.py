"""Correctness: a multimodal judge says whether each response is true of the picture (principle 2)."""

from __future__ import annotations

from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import Batch, Cost, Judge, MetricSpec, Principle, Sample, Score, Turn
from vlitqc_metrics._algorithms.judging import NOTES, PARTS, Item, TurnJudge, read_prompt, sample_score
from vlitqc_metrics._algorithms.pictures import no_picture


class Correctness:
    """100 × the mean over turns of the judge's verdict, 1 correct or 0 not.

    With ``scoring="votes"`` (the paper's) the verdict is the most frequent of ``votes`` answers; with
    ``"expectation"`` it is the judge's own probability of "correct", P(1). A turn is judged by its own
    instruction and response and all pictures of the sample; earlier turns are not shown.

    A turn whose votes are tied or cannot be read is not in the mean; the part ``turns_judged`` says how many
    are, ``parsed`` the share of the answers that could be read, and the note ``votes`` what they were (JSON, a
    list a turn; null where an answer could not be read, or for a turn that was not put to the judge). A failed
    call that may succeed later leaves the whole sample without a score. Nothing is asked about a sample without
    a picture or with an unreadable one, nor about a turn without a response.
    """

    spec = MetricSpec(
        name="correctness",
        title="Correctness",
        principle=Principle.CORRECTNESS,
        level="sample",
        summary="Whether a multimodal judge finds each response true of the picture.",
        unit="% of turns",
        bounds=(0.0, 100.0),
        higher_is_better=True,
        reduction="most frequent of K votes, or P(correct); 100 × mean over the turns with a verdict; "
        "mean over samples",
        version="4",
        source="section 4.2.3 of the paper",
        parts=PARTS,
        image_side=672,
        notes=NOTES,
    )

    def __init__(self, judge: Judge, *, scoring: str = "votes", votes: int = 5) -> None:
        self.judge = judge
        self._turns = TurnJudge(judge, read_prompt("correctness"), scoring=scoring, votes=votes)

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample; none without a picture, with an unreadable one, or where no turn has a verdict."""
        scores: list[Score | None] = [_not_asked(batch, i) for i in range(len(batch))]
        asked = [
            (i, place, Item(data, batch.images[i]))
            for i, sample in enumerate(batch.samples)
            if scores[i] is None
            for place, turn in enumerate(sample.turns)
            if (data := _data(turn)) is not None
        ]
        found = dict(
            zip(
                ((i, place) for i, place, _ in asked),
                self._turns.verdicts([item for _, _, item in asked]),
                strict=True,
            )
        )
        return [
            score
            if score is not None
            else sample_score([found.get((i, place)) for place in range(len(batch.samples[i].turns))], 100.0)
            for i, score in enumerate(scores)
        ]

    def cost(self, sample: Sample) -> Cost:
        """The calls for the sample's turns with a response; none for a sample without a picture."""
        data = [data for turn in sample.turns if (data := _data(turn)) is not None] if sample.images else []
        return self._turns.cost(data, len(sample.images))


def _data(turn: Turn) -> dict[str, str] | None:
    response = strip_media_tokens(turn.response)
    if not response:
        return None
    return {"instruction": strip_media_tokens(turn.instruction), "response": response}


def _not_asked(batch: Batch, i: int) -> Score | None:
    """The score of a sample that is not put to the judge."""
    sample, images = batch.samples[i], batch.images[i]
    if not images:
        return no_picture(sample, images)
    if all(_data(turn) is None for turn in sample.turns):
        return Score(reason="no response text")
    broken = next((image.fault for image in images if image.fault is not None), None)
    return Score(reason=f"image unreadable: {broken}", fault=True) if broken is not None else None
