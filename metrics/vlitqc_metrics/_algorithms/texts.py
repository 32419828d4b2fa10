"""The texts of a batch, turn by turn, without media tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import Batch, LanguageModel, TextLikelihood


def instructions(batch: Batch) -> tuple[list[str], NDArray[np.int64]]:
    """The plain instruction of every turn, and the sample that each belongs to, ``int64[n_turns]``."""
    return batch.memo("instructions", lambda: _side(batch, "instruction"))


def responses(batch: Batch) -> tuple[list[str], NDArray[np.int64]]:
    """The plain response of every turn, and the sample that each belongs to, ``int64[n_turns]``."""
    return batch.memo("responses", lambda: _side(batch, "response"))


def turn_likelihoods(batch: Batch, model: LanguageModel) -> list[tuple[TextLikelihood, TextLikelihood]]:
    """What the model says of every turn's (instruction, response), asked once a batch."""

    def compute() -> list[tuple[TextLikelihood, TextLikelihood]]:
        asked, _ = instructions(batch)
        answered, _ = responses(batch)
        found = model.likelihood([*asked, *answered])
        return list(zip(found[: len(asked)], found[len(asked) :], strict=True))

    return batch.memo(("likelihood", model.ref), compute)


def _side(batch: Batch, side: str) -> tuple[list[str], NDArray[np.int64]]:
    texts = [strip_media_tokens(getattr(turn, side)) for sample in batch.samples for turn in sample.turns]
    index = np.repeat(np.arange(len(batch)), [len(sample.turns) for sample in batch.samples])
    return texts, index.astype(np.int64)
