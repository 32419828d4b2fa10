"""Composition: what the data set is made of, before any judgement."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    Issue,
    LanguageModel,
    MetricSpec,
    Principle,
)
from vlitqc_metrics._algorithms.languages import turn_languages
from vlitqc_metrics._algorithms.places import issues_at
from vlitqc_metrics._algorithms.texts import instructions, responses

MEDIA = ("image", "video", "audio")
SMALL = (224, 336)
"""Input sides of common vision towers: a smaller picture is blown up."""
TINY_SIDE = 64
TIMED = ("video", "audio")
QUANTILES = (5, 25, 50, 75, 95)


def word_count(text: str) -> int:
    """Words between white space."""
    return len(text.split())


def quantiles(values: NDArray[Any]) -> dict[str, float]:
    """The 5, 25, 50, 75 and 95% points; empty where there is nothing."""
    if not len(values):
        return {}
    return {f"p{q}": float(v) for q, v in zip(QUANTILES, np.percentile(values, QUANTILES), strict=True)}


class Composition:
    """The share of text-only samples in percent; details: turns, media, languages, sizes, durations, lengths.

    A picture whose shorter side is under 64 pixels is noted as an issue of kind ``small_image``.
    """

    spec = MetricSpec(
        name="composition",
        title="Text-only share",
        principle=Principle.BEYOND,
        level="dataset",
        summary="What the data set is made of: turns, media, languages, resolutions, durations and lengths.",
        unit="% of samples",
        bounds=(0.0, 100.0),
        higher_is_better=None,
        reduction="share of samples without media",
        version="3",
        source="vlitqc",
    )

    def __init__(self, language_model: LanguageModel | None = None) -> None:
        self.language_model = language_model

    def features(self, batch: Batch) -> dict[str, Features]:
        """Counts by sample and turn, picture sizes, durations of videos and sounds, languages."""
        every = np.arange(len(batch), dtype=np.int64)
        shape = [
            [len(sample.turns), *(sum(m.kind == kind for m in sample.media) for kind in MEDIA)]
            for sample in batch.samples
        ]
        asked, turn = instructions(batch)
        answered, _ = responses(batch)
        lengths = [[word_count(a), word_count(b)] for a, b in zip(asked, answered, strict=True)]
        sizes = [
            (i, image.width, image.height)
            for i, images in enumerate(batch.images)
            for image in images
            if image.fault is None
        ]
        durations = [
            (i, TIMED.index(clip.kind), clip.seconds)
            for i, clips in enumerate(batch.clips)
            for clip in clips
            if clip.seconds is not None
        ]
        found = {
            "shape": Features(np.array(shape, np.float32).reshape(-1, 4), every),
            "lengths": Features(np.array(lengths, np.float32).reshape(-1, 2), turn),
            "sizes": Features(
                np.array([size[1:] for size in sizes], np.float32).reshape(-1, 2),
                np.array([size[0] for size in sizes], np.int64),
            ),
            "durations": Features(
                np.array([told[1:] for told in durations], np.float32).reshape(-1, 2),
                np.array([told[0] for told in durations], np.int64),
            ),
        }
        if self.language_model is not None:
            languages = [said for _, said in turn_languages(batch, self.language_model)]
            found["languages"] = Features(languages, turn)
        return found

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """The text-only share and the tables of the composition."""
        shape, _ = store.vectors("shape")
        if not len(shape):
            return DatasetScore(reason="no record could be read", n_total=store.n_samples)
        lengths, _ = store.vectors("lengths")
        sizes, owner = store.vectors("sizes")
        n_media = shape[:, 1:].sum(axis=1)
        details: dict[str, Any] = {
            "text_only_share": float((n_media == 0).mean()),
            "turns": _tally(shape[:, 0]),
            "images_per_sample": _tally(shape[:, 1]),
            "media_kinds": {kind: int(shape[:, 1 + i].sum()) for i, kind in enumerate(MEDIA)},
            "instruction_words": quantiles(lengths[:, 0]) if len(lengths) else {},
            "response_words": quantiles(lengths[:, 1]) if len(lengths) else {},
        }
        if len(sizes):
            shorter = np.asarray(sizes).min(axis=1)
            details["resolution"] = {
                "quantiles": quantiles(shorter),
                **{f"share_below_{side}": float((shorter < side).mean()) for side in SMALL},
            }
        durations, _ = store.vectors("durations")
        told = np.asarray(durations).reshape(-1, 2)
        for kind, name in enumerate(TIMED):
            seconds = told[told[:, 0] == kind, 1]
            if len(seconds):
                details[f"{name}_durations"] = {
                    "n": len(seconds),
                    "hours": float(np.sum(seconds, dtype=np.float64)) / 3600,
                    "seconds": quantiles(seconds),
                }
        if self.language_model is not None:
            coded, _ = store.coded("languages")
            counts = np.bincount(coded.indices.to_numpy(), minlength=len(coded.dictionary)).tolist()
            told_in = zip(coded.dictionary.to_pylist(), counts, strict=True)
            details["languages"] = dict(sorted(told_in, key=lambda kv: (-kv[1], kv[0])))
        return DatasetScore(
            100 * details["text_only_share"],
            n_scored=len(shape),
            n_total=store.n_samples,
            details=details,
            issues=_tiny(store, sizes, owner),
        )


def _tally(values: NDArray[Any]) -> dict[str, int]:
    numbers, counts = np.unique(values.astype(np.int64), return_counts=True)
    return {str(number): int(count) for number, count in zip(numbers, counts, strict=True)}


def _tiny(store: FeatureStore, sizes: NDArray[np.float32], owner: NDArray[np.int64]) -> list[Issue]:
    if not len(sizes):
        return []
    tiny = np.flatnonzero(np.asarray(sizes).min(axis=1) < TINY_SIDE)
    details = [
        f"a picture is only {width:.0f} × {height:.0f} pixels" for width, height in sizes[tiny].tolist()
    ]
    return issues_at(store, "small_image", "note", owner[tiny].tolist(), details)
