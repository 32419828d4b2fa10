"""Text readability: how likely the text is in its order (principle 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vlitqc.types import Batch, LanguageModel, MetricSpec, Principle, Score, TextLikelihood
from vlitqc_metrics._algorithms.languages import told_turns


def sample_score(turns: Sequence[tuple[TextLikelihood, TextLikelihood]]) -> Score:
    """One sample's score from the (instruction, response) likelihoods of its turns.

    A turn is as readable as the less readable of its two texts; a sample is the mean of its turns. Texts that
    the model cannot measure are left out; where that leaves nothing, the reason is that of the last text, or of
    one in a language that the model names and does not know.
    """
    texts = [text for turn in turns for text in turn]
    lows = [min(found) for turn in turns if (found := [t.value for t in turn if t.value is not None])]
    if not lows:
        # A foreign language says more than the shortness of another text, which passes for English.
        texts.sort(key=lambda text: text.language not in ("", "en"))
        return Score(reason=texts[-1].reason if texts else "no text")
    parts = {
        "instruction": [i.value for i, _ in turns if i.value is not None],
        "response": [r.value for _, r in turns if r.value is not None],
        "mean_logp": [t.mean_logp for t in texts if t.mean_logp is not None],
        "slor": [t.slor for t in texts if t.slor is not None],
        "oov_share": [t.oov_share for t in texts if t.oov_share is not None],
    }
    means = {name: math.fsum(values) / len(values) for name, values in parts.items() if values}
    if "mean_logp" in means:
        means["token_probability"] = math.exp(means["mean_logp"])
    return Score(math.fsum(lows) / len(lows), parts=means)


class TextReadability:
    """How likely the conversation's texts are under a language model; the unit and scale are the model's.

    A causal language model (``vlitqc.models.causal_lm``, the paper's reading): 1/NLL, where NLL is the mean of
    −log P of a token in nats; above 0, and higher is better.

    Bigram counts (``vlitqc.models.ngram_lm``, lite): mean of log P(w | before) − log max(P(w), 1/N), in nats a
    word; about 1 for prose, below 0 for shuffled words, below −2 for letter noise. They know English only: a text
    in another language is left out, and so is one in words that are no English beside a text in another language.

    Parts, each the mean over the sample's texts that the model can measure: ``instruction``, ``response`` (the
    value of that side), ``mean_logp`` (nats a token), ``token_probability`` = exp of that ``mean_logp``, 0 to 1,
    the geometric mean probability of a token; bigram counts also ``slor`` and ``oov_share``, the share of
    unknown words. What a token is, the model says: a word, or a piece of one.

    Args:
        lm: the language model; the value is its ``TextLikelihood.value``.
    """

    spec = MetricSpec(
        name="text_readability",
        title="Text readability",
        principle=Principle.READABILITY,
        level="sample",
        summary=(
            "How likely the words are in their order under a language model: low for word salad, gibberish and "
            "broken text. Bigram counts (lite) know English only and leave texts in other languages out."
        ),
        unit="nats per word",
        bounds=(float("-inf"), float("inf")),
        higher_is_better=True,
        reduction="the less readable of instruction and response; mean over turns; mean over samples",
        version="3",
        source="section 4.2.3 of the paper; SLOR: Lau, Clark & Lappin 2017",
        parts=("instruction", "response", "mean_logp", "token_probability", "slor", "oov_share"),
    )

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.spec = type(self).spec.on_scale(lm.scale)

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample; none where no text is long enough or the language is not the model's."""
        found = iter(told_turns(batch, self.lm))
        return [sample_score([next(found) for _ in sample.turns]) for sample in batch.samples]
