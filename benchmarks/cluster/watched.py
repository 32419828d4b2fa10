"""A metric that notes who scores what, and takes a fixed time a record where it is told to.

It is no part of a profile of ours: ``place.Place`` installs it beside the run, as a package of its own.
"""

from __future__ import annotations

import math
import os
import time

from vlitqc.types import Batch, MetricSpec, Principle, Score

LOG = "VLITQC_BENCHMARK_LOG"
MILLISECONDS = "VLITQC_BENCHMARK_MS"
BUSY = "VLITQC_BENCHMARK_BUSY"


class Watched:
    """The number of characters of a record."""

    spec = MetricSpec(
        name="watched",
        title="Watched",
        principle=Principle.BEYOND,
        level="sample",
        summary="Length of the text.",
        unit="characters",
        bounds=(0.0, math.inf),
        higher_is_better=None,
        reduction="mean",
        version="1",
        source="a benchmark",
    )

    def score(self, batch: Batch) -> list[Score]:
        """Notes the rows with this process's number; sleeps, or computes, as long as the environment says."""
        if log := os.environ.get(LOG):
            told = "".join(f"{sample.origin.row} {os.getpid()}\n" for sample in batch.samples)
            descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, told.encode())
            os.close(descriptor)
        seconds = float(os.environ.get(MILLISECONDS, "0")) / 1e3 * len(batch.samples)
        if os.environ.get(BUSY):
            # Processor time, so that it is as much work on a busy machine as on an idle one.
            until = time.thread_time() + seconds
            while time.thread_time() < until:
                sum(range(1_000))
        else:
            time.sleep(seconds)
        return [
            Score(float(sum(len(turn.instruction) + len(turn.response) for turn in sample.turns)))
            for sample in batch.samples
        ]
