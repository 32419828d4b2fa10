"""What is said of texts: counts and graphs by the second, parser and encoder beside the bare library.

Bare is the library's own call on the same distinct texts: ``nlp.pipe`` with the same components, at the best of some
batch sizes, and ``SentenceTransformer.encode`` at the same batch size. One thread each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import row
from conversations import Turn, turns
from row import Options, Row, interleaved, main
from vlitqc import profiles
from vlitqc.models.ngram_lm import BigramLM
from vlitqc.models.store import ModelStore
from vlitqc.testing import MemoryFeatures
from vlitqc.types import Batch, ModelRef, Origin, Sample, Tag
from vlitqc.types import Turn as SampleTurn
from vlitqc_metrics.instruction_diversity import InstructionDiversity
from vlitqc_metrics.text_readability import TextReadability

AREA = "text"
BATCH = 256
TASKS = 12
PARSER_BATCHES = (32, 128, 512)
RATE = 5000.0


class KnownTasks:
    """A tagger that costs nothing: what is left of a metric is its own work."""

    ref = ModelRef("Tagger", "known", "1", "0" * 64)

    def propose(self, instructions: Sequence[str], n_images: Sequence[int]) -> list[str]:
        return [f"task {len(text) % TASKS}" for text in instructions]

    def settle(self, proposals: Sequence[str]) -> list[Tag]:
        return [Tag(task) for task in proposals]


def rows(options: Options) -> Iterator[Row]:
    n = 200 if options.quick else 20_000
    found = turns(n, options.data)
    store = ModelStore(profiles.load("lite"), device="cpu")
    with threadpool_limits(1):
        torch.set_num_threads(1)
        yield from counted(found, store)
        # The texts of the middle are of all kinds: the first ones are of one folder.
        few = found[:: max(n // (50 if options.quick else 2000), 1)]
        yield parser([asked for asked, _ in few], store)
        yield encoder([said for _, said in few[:: 1 if options.quick else 4]], store)


def counted(found: Sequence[Turn], store: ModelStore) -> Iterator[Row]:
    bigrams: BigramLM = store.get("bigrams")
    bigrams.load()  # writes the arrays where there are none
    start = time.perf_counter()
    BigramLM(
        bigrams.ref, {file.file.role: file.path for file in store.located("bigrams") if file.path}
    ).load()
    note = f"its tables load in {1000 * (time.perf_counter() - start):.0f} ms"
    against = "wanted of text metrics"
    readability, diversity = TextReadability(bigrams), InstructionDiversity(KnownTasks())
    best = [
        min(times) for times in zip(*(work(found, readability, diversity) for _ in range(3)), strict=True)
    ]
    for (what, more), seconds in zip(
        (("text_readability", note), ("instruction_diversity", "features and result, tasks known")),
        best,
        strict=True,
    ):
        yield Row(AREA, what, len(found) / seconds, "samples/s", against, RATE, 1.0, more)


def work(
    found: Sequence[Turn], readability: TextReadability, diversity: InstructionDiversity
) -> tuple[float, float]:
    """Seconds of each metric over all samples; batches are new, so that nothing is known."""
    parts = batches(found)
    start = time.perf_counter()
    for batch in parts:
        readability.score(batch)
    read = time.perf_counter() - start
    parts = batches(found)
    start = time.perf_counter()
    features = [diversity.features(batch) for batch in parts]
    collected = time.perf_counter() - start
    stored = MemoryFeatures.join(parts, features)  # what a run does, not the metric
    start = time.perf_counter()
    diversity.resolve(stored)
    return read, collected + time.perf_counter() - start


def batches(found: Sequence[Turn]) -> list[Batch]:
    samples = [
        Sample(str(i), (SampleTurn(asked, said),), (), {}, Origin("made", i, i + 1, 0, 0, str(i)))
        for i, (asked, said) in enumerate(found)
    ]
    parts = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
    return [Batch(part, [()] * len(part)) for part in parts]


def parser(texts: Sequence[str], store: ModelStore) -> Row:
    ours = store.get("parser")
    nlp = ours.load()
    distinct = list(dict.fromkeys(texts))

    def bare(size: int) -> None:
        with nlp.memory_zone():
            for _ in nlp.pipe(distinct, batch_size=size):
                pass

    bare(PARSER_BATCHES[0])  # warms up
    pipes = interleaved(2, *(partial(bare, size) for size in PARSER_BATCHES))
    best = PARSER_BATCHES[pipes.index(min(pipes))]
    # Anew, in as many turns as ours: the least of more measurements would be less by chance.
    taken = row.turns(5, partial(ours.elements, texts), partial(bare, best))
    seconds, alone = map(statistics.median, taken)
    what = f"elements of {len(distinct):,} instructions"
    against = f"nlp.pipe, batches of {best}, the best of {', '.join(map(str, PARSER_BATCHES))}"
    empty = sum(not found for found in ours.elements(distinct)) / len(distinct)
    note = (
        f"{empty:.0%} of them have no element; most of these ours neither tags nor lemmatizes, nlp.pipe does"
    )
    return Row(AREA, what, len(distinct) / seconds, "texts/s", against, len(distinct) / alone, 0.9, note)


def encoder(texts: Sequence[str], store: ModelStore) -> Row:
    ours = store.get("minilm")
    distinct = list(dict.fromkeys(texts))
    vectors = ours.encode_texts(distinct[:32])  # loads and warms up
    model: Any = ours._load()
    # What is longer than the context is several texts for ours, and cut off for the library.
    distinct = [text for text in distinct if len(model.tokenizer(text)["input_ids"]) <= model.max_seq_length]

    def bare() -> Any:
        return model.encode(distinct, batch_size=32, show_progress_bar=False, normalize_embeddings=True)

    if not np.allclose(bare()[:1], ours.encode_texts(distinct[:1]), atol=1e-5) or vectors.dtype != np.float32:
        raise AssertionError("the vectors are not the library's")
    seconds, alone = interleaved(3, partial(ours.encode_texts, distinct), bare)
    what = f"vectors of {len(distinct):,} responses, all-MiniLM-L6-v2"
    against = "SentenceTransformer.encode"
    return Row(AREA, what, len(distinct) / seconds, "texts/s", against, len(distinct) / alone, 0.9)


if __name__ == "__main__":
    main(rows)
