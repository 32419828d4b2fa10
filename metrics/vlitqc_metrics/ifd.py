"""Instruction-following difficulty: how little the instruction helps to foresee the response (principle 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vlitqc.types import Batch, ConditionalLanguageModel, MetricSpec, Principle, Score, TextLikelihood
from vlitqc_metrics._algorithms.texts import (
    conditional_likelihoods,
    instructions,
    responses,
    side_likelihoods,
)

PLACE = "{instruction}"


def sample_score(turns: Sequence[tuple[TextLikelihood, TextLikelihood] | str]) -> Score:
    """One sample's score from each turn's (response alone, response after its instruction), or why it has none.

    Turns without both numbers are left out; where that leaves nothing, the reason is that of the first turn.
    """
    alone: list[float] = []
    after: list[float] = []
    reasons: list[str] = []
    for turn in turns:
        if isinstance(turn, str):
            reasons.append(turn)
            continue
        missing = next((found.reason for found in turn if found.mean_logp is None), None)
        if missing is not None:
            reasons.append(missing)
        elif turn[0].mean_logp is not None and turn[1].mean_logp is not None:
            alone.append(turn[0].mean_logp)
            after.append(turn[1].mean_logp)
    if not alone:
        return Score(reason=reasons[0] if reasons else "no text")
    # PPL(after) / PPL(alone), as one exponential: each perplexity by itself may be large.
    ratios = np.exp(np.subtract(alone, after))
    return Score(
        float(ratios.mean()),
        parts={
            "ppl_response": float(np.exp(np.negative(alone)).mean()),
            "ppl_conditional": float(np.exp(np.negative(after)).mean()),
        },
    )


class IFD:
    """IFD = PPL(response | instruction) / PPL(response) under a causal language model.

    PPL = exp(−(1/N) Σ log P(tᵢ | before)) over the N tokens of the response, the same tokens in both passes
    (Superfiltering's form; Cherry LLM divides the mean losses instead of the perplexities).
    Near 0: the instruction all but gives the response; towards 1: it hardly helps, the literature's "difficult"
    samples, which it prefers for training; above 1: it makes the response less likely, which the literature
    takes for a mismatch and drops. So neither end is better.

    The condition is the turn's own instruction: earlier turns are not part of it, and the model sees no picture.
    Media tokens are taken out of both texts. Parts: ``ppl_response`` and ``ppl_conditional``, each the mean over
    the turns. A turn whose instruction or response is empty, is too short to have two tokens, or does not fit
    the model's context with it has no value.

    Args:
        lm: the language model.
        template: what stands before the response, with ``{instruction}`` in the place of the instruction; a
            chat model may be given its own marks.

    Raises:
        TypeError: ``lm`` cannot condition on a prompt, or ``template`` does not name ``{instruction}`` once.
    """

    spec = MetricSpec(
        name="ifd",
        title="Instruction-following difficulty",
        principle=Principle.INSTRUCTION_COMPLEXITY,
        level="sample",
        summary=(
            "How little the instruction helps a language model to foresee the response. Up to 1, higher is "
            "harder; above 1 the instruction makes the response less likely, a sign of a mismatch. The model "
            "sees the text only, and each turn by itself."
        ),
        unit="ratio",
        bounds=(0.0, math.inf),
        higher_is_better=None,
        reduction="mean over turns; mean over samples",
        version="2",
        source="Cherry LLM: Li et al. 2023 (arXiv 2308.12032); Superfiltering: Li et al. 2024 (arXiv 2402.00530)",
        parts=("ppl_response", "ppl_conditional"),
    )

    def __init__(self, lm: ConditionalLanguageModel, template: str = "{instruction}\n") -> None:
        if not callable(getattr(lm, "conditional", None)):
            raise TypeError(
                "ifd needs a language model that can be given a prompt (backend causal_lm); "
                f"got {type(lm).__name__}"
            )
        if not isinstance(template, str) or template.count(PLACE) != 1:
            raise TypeError(f"template must be a text that names {PLACE} once, got {template!r}")
        self.lm = lm
        self.template = template

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample; none where no turn has both an instruction and a response to measure."""
        turns = iter(self._turns(batch))
        return [sample_score([next(turns) for _ in sample.turns]) for sample in batch.samples]

    def _turns(self, batch: Batch) -> list[tuple[TextLikelihood, TextLikelihood] | str]:
        asked, _ = instructions(batch)
        answered, _ = responses(batch)
        alone = side_likelihoods(batch, self.lm, "response")
        reasons = [
            "empty instruction" if not instruction else "empty response" if not response else said.reason
            for instruction, response, said in zip(asked, answered, alone, strict=True)
        ]
        measured = [i for i, reason in enumerate(reasons) if reason is None]
        prompts = [self.template.replace(PLACE, asked[i]) for i in measured]
        found = conditional_likelihoods(batch, self.lm, prompts, [answered[i] for i in measured])
        after = dict(zip(measured, found, strict=True))
        return [(alone[i], after[i]) if reason is None else reason for i, reason in enumerate(reasons)]
