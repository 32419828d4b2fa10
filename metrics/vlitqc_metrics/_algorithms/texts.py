"""The texts of a batch, turn by turn, without media tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import Batch, ConditionalLanguageModel, LanguageModel, TextLikelihood

_FIELDS = attrgetter(*(field.name for field in fields(TextLikelihood)))


def instructions(batch: Batch) -> tuple[list[str], NDArray[np.int64]]:
    """The plain instruction of every turn, and the sample that each belongs to, ``int64[n_turns]``."""
    return batch.memo("instructions", lambda: _side(batch, "instruction"))


def responses(batch: Batch) -> tuple[list[str], NDArray[np.int64]]:
    """The plain response of every turn, and the sample that each belongs to, ``int64[n_turns]``."""
    return batch.memo("responses", lambda: _side(batch, "response"))


def likelihoods(batch: Batch, model: LanguageModel, texts: Sequence[str]) -> list[TextLikelihood]:
    """What the model says of each text, in order."""
    rows = batch.once(
        f"likelihood: {model.ref}",
        texts,
        lambda at: _rows(model.likelihood([texts[i] for i in at])),
        model=model.ref.name,
    )
    return [TextLikelihood(*row) for row in rows]


def conditional_likelihoods(
    batch: Batch, model: ConditionalLanguageModel, prompts: Sequence[str], texts: Sequence[str]
) -> list[TextLikelihood]:
    """What the model says of each text when its prompt stands before it, in order."""
    rows = batch.once(
        f"conditional likelihood: {model.ref}",
        [f"{len(prompt)} {prompt}{text}" for prompt, text in zip(prompts, texts, strict=True)],
        lambda at: _rows(model.conditional([prompts[i] for i in at], [texts[i] for i in at])),
        model=model.ref.name,
    )
    return [TextLikelihood(*row) for row in rows]


def side_likelihoods(
    batch: Batch, model: LanguageModel, side: Literal["instruction", "response"]
) -> list[TextLikelihood]:
    """What the model says of every turn's instruction or response, asked once a batch."""
    texts, _ = instructions(batch) if side == "instruction" else responses(batch)
    return batch.memo(("likelihood", model.ref, side), lambda: likelihoods(batch, model, texts))


def turn_likelihoods(batch: Batch, model: LanguageModel) -> list[tuple[TextLikelihood, TextLikelihood]]:
    """What the model says of every turn's (instruction, response), each asked once a batch."""
    asked = side_likelihoods(batch, model, "instruction")
    answered = side_likelihoods(batch, model, "response")
    return list(zip(asked, answered, strict=True))


def _rows(found: Sequence[TextLikelihood]) -> list[list[Any]]:
    """Each answer as a list, which a cache can keep."""
    return [list(_FIELDS(answer)) for answer in found]


def _side(batch: Batch, side: str) -> tuple[list[str], NDArray[np.int64]]:
    texts = [strip_media_tokens(getattr(turn, side)) for sample in batch.samples for turn in sample.turns]
    index = np.repeat(np.arange(len(batch)), [len(sample.turns) for sample in batch.samples])
    return texts, index.astype(np.int64)
