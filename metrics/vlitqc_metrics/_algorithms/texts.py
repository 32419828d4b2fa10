"""The texts of a batch, turn by turn, without media tokens."""

from __future__ import annotations

from typing import Literal

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


def side_likelihoods(
    batch: Batch, model: LanguageModel, side: Literal["instruction", "response"]
) -> list[TextLikelihood]:
    """What the model says of every turn's instruction or response, asked once a batch."""
    texts, _ = instructions(batch) if side == "instruction" else responses(batch)
    return batch.memo(("likelihood", model.ref, side), lambda: model.likelihood(texts))


def turn_likelihoods(batch: Batch, model: LanguageModel) -> list[tuple[TextLikelihood, TextLikelihood]]:
    """What the model says of every turn's (instruction, response), each asked once a batch."""
    asked = side_likelihoods(batch, model, "instruction")
    answered = side_likelihoods(batch, model, "response")
    return list(zip(asked, answered, strict=True))


def _side(batch: Batch, side: str) -> tuple[list[str], NDArray[np.int64]]:
    texts = [strip_media_tokens(getattr(turn, side)) for sample in batch.samples for turn in sample.turns]
    index = np.repeat(np.arange(len(batch)), [len(sample.turns) for sample in batch.samples])
    return texts, index.astype(np.int64)
