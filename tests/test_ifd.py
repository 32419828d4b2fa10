"""Instruction-following difficulty: ratios by hand, what is left out, and the pass shared with readability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from checkpoints.transformers_text import write_causal

from vlitqc.models.causal_lm import CausalLM
from vlitqc.testing import check_metric
from vlitqc.types import Batch, ModelRef, Origin, Sample, Scale, Score, TextLikelihood, Turn
from vlitqc_metrics._algorithms.languages import KnownLanguages
from vlitqc_metrics.ifd import IFD, sample_score
from vlitqc_metrics.text_readability import TextReadability

REF = ModelRef("LanguageModel", "tiny", "1", "0" * 64)
ORIGIN = Origin("f.json", 0, 1, 0, 0, "")


def logp(mean: float | None, reason: str | None = None) -> TextLikelihood:
    value = None if mean is None else -1 / mean
    return TextLikelihood(value, reason, "table", "", 5, mean_logp=mean)


def sample(*turns: tuple[str, str]) -> Sample:
    return Sample("s", tuple(Turn(*turn) for turn in turns), (), {}, ORIGIN)


def batch(*samples: Sample) -> Batch:
    return Batch(samples, [()] * len(samples))


class Table:
    """Knows the mean log-probability of a few texts, alone and after a prompt; counts what it is asked."""

    ref = REF
    scale = Scale("1/NLL", (0.0, math.inf), True)

    def __init__(self, alone: Mapping[str, float], after: Mapping[tuple[str, str], float]) -> None:
        self.alone, self.after = alone, after
        self.asked: list[str] = []
        self.pairs: list[tuple[str, str]] = []

    def likelihood(self, texts: Sequence[str]) -> list[TextLikelihood]:
        self.asked += texts
        return [logp(self.alone[t]) if t in self.alone else logp(None, "fewer than 2 tokens") for t in texts]

    def conditional(self, prompts: Sequence[str], texts: Sequence[str]) -> list[TextLikelihood]:
        pairs = list(zip(prompts, texts, strict=True))
        self.pairs += pairs
        return [
            logp(self.after[pair]) if pair in self.after else logp(None, "does not fit the context")
            for pair in pairs
        ]


# ---------------------------------------------------------------- by hand


def test_the_ratio_of_perplexities_by_hand() -> None:
    # PPL alone: e^2 and e^3; after: e^1 and e^3.5.
    found = sample_score([(logp(-2.0), logp(-1.0)), (logp(-3.0), logp(-3.5))])
    assert found.value == pytest.approx((math.exp(-1) + math.exp(0.5)) / 2)
    assert found.parts["ppl_response"] == pytest.approx((math.exp(2) + math.exp(3)) / 2)
    assert found.parts["ppl_conditional"] == pytest.approx((math.exp(1) + math.exp(3.5)) / 2)


def test_an_instruction_that_changes_nothing_gives_one() -> None:
    assert sample_score([(logp(-2.5), logp(-2.5))]).value == 1.0


def test_a_turn_without_a_number_is_left_out() -> None:
    whole = sample_score([(logp(-2.0), logp(-1.0))])
    assert sample_score(["empty response", (logp(-2.0), logp(-1.0)), (logp(-2.0), logp(None, "x"))]) == whole
    assert sample_score([(logp(-2.0), logp(None, "too long")), "empty response"]) == Score(reason="too long")
    assert sample_score([]) == Score(reason="no text")


def test_the_condition_is_the_turns_own_instruction_without_media_tokens() -> None:
    lm = Table({"Red.": -4.0, "Blue.": -2.0}, {("Colour?\n", "Red."): -3.0, ("And now?\n", "Blue."): -2.0})
    first = sample(("<image>\nColour?", "Red."), ("And now?", "Blue."))
    found = IFD(lm).score(batch(first))
    assert lm.pairs == [("Colour?\n", "Red."), ("And now?\n", "Blue.")]
    assert found[0].value == pytest.approx((math.exp(-1) + 1) / 2)


def test_every_sample_gets_its_own_turns() -> None:
    lm = Table({"Red.": -4.0, "Blue.": -2.0}, {("A?\n", "Red."): -3.0, ("B?\n", "Blue."): -4.0})
    samples = [
        sample(("", "Red.")),
        sample(("A?", "Red."), ("B?", " ")),
        sample(("<image>", "Red.")),
        sample(("B?", "Blue.")),
        sample(("B?", "?")),
        sample(("B?", "Red.")),
        sample(),
    ]
    found = IFD(lm).score(batch(*samples))
    assert [one.value for one in found] == [
        None,
        pytest.approx(math.exp(-1)),
        None,
        pytest.approx(math.exp(2)),
        None,
        None,
        None,
    ]
    assert [one.reason for one in found] == [
        "empty instruction",
        None,
        "empty instruction",
        None,
        "fewer than 2 tokens",
        "does not fit the context",
        "no text",
    ]
    assert not any(one.fault for one in found)
    assert IFD(lm).score(batch(sample(("B?", ""))))[0].reason == "empty response"


def test_the_template_places_the_instruction() -> None:
    lm = Table({"Red.": -4.0}, {("[INST] {}A? [/INST]", "Red."): -3.0})
    found = IFD(lm, template="[INST] {instruction} [/INST]").score(batch(sample(("{}A?", "Red."))))
    assert found[0].value == pytest.approx(math.exp(-1))
    for template in ("no place", "{instruction} {instruction}", 3):
        with pytest.raises(TypeError, match="template must be a text that names"):
            IFD(lm, template=template)  # type: ignore[arg-type]


def test_a_model_without_conditions_is_named() -> None:
    class Unconditional:
        ref = REF

    with pytest.raises(TypeError, match=r"\(backend causal_lm\); got Unconditional"):
        IFD(Unconditional())  # type: ignore[arg-type]


def test_neither_end_is_better() -> None:
    spec = IFD.spec
    assert spec.higher_is_better is None and spec.bounds == (0.0, math.inf) and spec.unit == "ratio"


# ---------------------------------------------------------------- with readability


def test_responses_are_read_once_for_both_metrics() -> None:
    lm = Table({"Red.": -4.0, "A?": -2.0}, {("A?\n", "Red."): -3.0})
    for order in ((0, 1), (1, 0)):
        lm.asked.clear()
        one = batch(sample(("A?", "Red.")))
        metrics = [IFD(lm), TextReadability(lm)]
        for i in order:
            metrics[i].score(one)
        assert sorted(lm.asked) == ["A?", "Red."]
    lm.asked.clear()
    IFD(lm).score(batch(sample(("A?", "Red."))))
    assert lm.asked == ["Red."]


def test_readability_takes_the_models_scale_and_adds_the_bounded_form() -> None:
    lm = Table({"Red.": -4.0, "A?": -2.0}, {})
    metric = TextReadability(lm)
    assert metric.spec.unit == "1/NLL" and metric.spec.bounds == (0.0, math.inf)
    assert TextReadability.spec.unit == "nats per word"
    (found,) = metric.score(batch(sample(("A?", "Red."))))
    assert found.value == 0.25  # the less readable of 1/2 and 1/4
    assert found.parts == pytest.approx(
        {"instruction": 0.5, "response": 0.25, "mean_logp": -3.0, "token_probability": math.exp(-3)}
    )


def test_a_model_that_cannot_tell_a_language_makes_no_text_foreign() -> None:
    known = KnownLanguages(Table({"Red.": -4.0}, {}), ["en"])
    assert known.foreign(batch(sample(("A?", "Red."))), "response") == [[None]]


# ---------------------------------------------------------------- with a real backend


def test_under_a_llama_it_is_the_ratio_of_two_passes(tmp_path: Path) -> None:
    lm = CausalLM(REF, {"folder": write_causal(tmp_path / "llama")}, device="cpu")
    made = [sample(("what is small?", "the dog is small."), ("a", "it runs along")), sample(("a cat", "b"))]
    found = IFD(lm).score(batch(*made))
    ratios = []
    for turn in made[0].turns:
        (alone,), (after,) = (
            lm.likelihood([turn.response]),
            lm.conditional([f"{turn.instruction}\n"], [turn.response]),
        )
        assert alone.mean_logp is not None and after.mean_logp is not None
        ratios.append(math.exp(-after.mean_logp) / math.exp(-alone.mean_logp))
    assert found[0].value == pytest.approx(sum(ratios) / 2, rel=1e-5)
    assert found[1].reason == "fewer than 2 tokens"


def test_it_keeps_the_contract_of_a_metric(tmp_path: Path) -> None:
    lm = CausalLM(REF, {"folder": write_causal(tmp_path / "llama")}, device="cpu")
    check_metric(IFD(lm))
    check_metric(TextReadability(lm))
