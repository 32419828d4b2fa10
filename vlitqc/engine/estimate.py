"""What a run is about to ask of its judges, told before the first call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlitqc.engine.plan import Planned
from vlitqc.types import Judged, Record, Sample

CHARACTERS_PER_TOKEN = 4
"""About what English text has under the tokenizers of today's language models."""
TOKENS_PER_IMAGE = 576
"""LLaVA-1.5's: 24 × 24 patches (Liu et al. 2023, Improved Baselines with Visual Instruction Tuning)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Calls and input tokens, at most: answers in the cache cost nothing, equal questions are asked once."""

    records: int
    calls: int
    tokens: int
    metrics: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"judge: at most {self.calls:,} calls and about {self.tokens:,} tokens to read, for "
            f"{' and '.join(self.metrics)} of {self.records:,} records; answers in the cache cost nothing"
        )


def estimate(planned: Sequence[Planned], records: Iterable[Record]) -> Estimate | None:
    """The sum over all records of what the judged metrics say they cost; None where no metric asks a judge."""
    judged: list[Planned] = []
    shared: set[str] = set()
    for p in planned:
        key = getattr(p.metric, "cost_shared", None)
        if isinstance(p.metric, Judged) and key not in shared:
            judged.append(p)
            shared |= {key} if key else set()
    if not judged:
        return None
    n = calls = characters = images = 0
    for record in records:
        n += 1
        if not isinstance(record, Sample):
            continue
        for p in judged:
            assert isinstance(p.metric, Judged)
            cost = p.metric.cost(record)
            calls += cost.calls
            characters += cost.characters
            images += cost.images
    tokens = characters // CHARACTERS_PER_TOKEN + images * TOKENS_PER_IMAGE
    return Estimate(n, calls, tokens, tuple(p.spec.name for p in judged))
