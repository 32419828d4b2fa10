"""Two metrics of a package of its own, for the tests of crashes: they write down what they are asked, and end their
process where a sample tells them to."""

from __future__ import annotations

import math
import os
import signal
import time

import numpy as np

from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    MetricSpec,
    Principle,
    Sample,
    Score,
)

LOG = "VLITQC_TEST_LOG"
SECONDS = float(os.environ.get("VLITQC_TEST_SECONDS", "0.002"))
"""How long a sample takes."""


def _text(sample: Sample) -> str:
    return "".join(turn.instruction + turn.response for turn in sample.turns)


class Counted:
    """The length of the text; each row that is scored goes into the log."""

    spec = MetricSpec(
        name="counted",
        title="Counted",
        principle=Principle.BEYOND,
        level="sample",
        summary="Length of the text.",
        unit="characters",
        bounds=(0.0, math.inf),
        higher_is_better=None,
        reduction="mean",
        version="1",
        source="a test",
    )

    def score(self, batch: Batch) -> list[Score]:
        """Raises MemoryError for a batch of more than four with a sample that says so."""
        texts = [_text(sample) for sample in batch.samples]
        if len(texts) > 4 and any("greedy" in text for text in texts):
            raise MemoryError
        for sample, text in zip(batch.samples, texts, strict=True):
            if "segfault" in text:
                signal.raise_signal(signal.SIGSEGV)
            if "exits" in text:
                os._exit(7)
            if "killed" in text:
                os.kill(os.getpid(), signal.SIGKILL)
            if log := os.environ.get(LOG):
                descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(descriptor, f"{sample.origin.row}\n".encode())
                os.close(descriptor)
            time.sleep(SECONDS)
        return [Score(float(len(text))) for text in texts]


class Spread:
    """A data-set metric with vectors and texts, which takes a moment to resolve."""

    spec = MetricSpec(
        name="spread",
        title="Spread",
        principle=Principle.BEYOND,
        level="dataset",
        summary="Sum of the lengths and how many texts differ.",
        unit="",
        bounds=(0.0, math.inf),
        higher_is_better=None,
        reduction="one value",
        version="1",
        source="a test",
        columns=("spread",),
    )

    def features(self, batch: Batch) -> dict[str, Features]:
        """The length of each text, and the text."""
        texts = [_text(sample) for sample in batch.samples]
        index = np.arange(len(texts), dtype=np.int64)
        lengths = np.array([[len(text), 1.0] for text in texts], np.float32)
        return {"lengths": Features(lengths, index), "texts": Features(texts, index)}

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """Lengths add up over all samples."""
        lengths, _ = store.vectors("lengths")
        texts, _ = store.strings("texts")
        time.sleep(0.3)
        return DatasetScore(
            float(lengths[:, 0].sum()) + len(set(texts)),
            n_scored=len(texts),
            n_total=store.n_samples,
            columns={"spread": [float(n) for n in lengths[:, 0]]},
        )
