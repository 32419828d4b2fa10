"""Embeddings of a batch's pictures and responses, computed once however many metrics ask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import (
    PICTURE_VECTORS,
    RESPONSE_VECTORS,
    Batch,
    Features,
    FloatArray,
    ImageEncoder,
    ImageText,
    Rgb,
    Sample,
    StagedImageEncoder,
    TextEncoder,
)
from vlitqc_metrics._algorithms.languages import KnownLanguages


def picture_feature(model: ImageEncoder) -> str:
    """Name of the feature that holds the picture vectors of ``model``."""
    return f"{PICTURE_VECTORS}{model.ref.key}"


def picture_hash_feature(model: ImageEncoder) -> str:
    """Name of the feature that holds the content hash of each row of ``picture_feature``.

    It carries the model's name, so that both are there or neither: a sample may lack features.
    """
    return f"picture-sha256-{model.ref.key}"


def response_feature(model: TextEncoder) -> str:
    """Name of the feature that holds one vector of ``model`` for every response."""
    return f"{RESPONSE_VECTORS}{model.ref.key}"


def picture_vectors(batch: Batch, model: ImageEncoder) -> dict[str, FloatArray]:
    """Unit vector of every distinct readable picture of the batch, by content hash."""

    def compute() -> dict[str, FloatArray]:
        pictures = batch.distinct_images()
        pixels: list[Rgb] = [image.pixels for image in pictures.values() if image.pixels is not None]
        if not pixels:
            return {}
        if isinstance(model, StagedImageEncoder):
            stage = model.stage
            outputs = batch.memo(("forward", stage.ref), lambda: stage.forward(pixels))
            rows = model.encode_forward(outputs)
        else:
            rows = model.encode_images(pixels)
        return dict(zip(pictures, rows, strict=True))

    return batch.memo(("picture_vectors", model.ref), compute)


def sample_pictures(batch: Batch) -> list[list[str]]:
    """Content hashes of the distinct readable pictures of each sample, in order."""
    return [
        list(dict.fromkeys(image.sha256 for image in row if image.pixels is not None)) for row in batch.images
    ]


def picture_features(batch: Batch, model: ImageEncoder) -> dict[str, Features]:
    """Vectors and content hashes of each sample's distinct readable pictures."""
    hashes = picture_hashes(batch)
    vectors = picture_vectors(batch, model)
    rows = _stack([vectors[sha256] for sha256 in hashes.values if isinstance(sha256, str)])
    return {picture_feature(model): Features(rows, hashes.index), picture_hash_feature(model): hashes}


def picture_hashes(batch: Batch) -> Features:
    """Content hashes of each sample's distinct readable pictures."""
    pictures = sample_pictures(batch)
    return Features([sha256 for row in pictures for sha256 in row], _index(pictures))


def spoken(sample: Sample) -> list[str]:
    """The sample's responses that hold more than white space and media tokens."""
    return [turn.response for turn in sample.turns if strip_media_tokens(turn.response)]


def response_features(batch: Batch, model: TextEncoder) -> dict[str, Features]:
    """One unit vector of every non-empty response."""

    def compute() -> Features:
        responses = [spoken(sample) for sample in batch.samples]
        texts = [text for row in responses for text in row]
        vectors = model.encode_texts(texts) if texts else _stack([])
        return Features(vectors, _index(responses))

    name = response_feature(model)
    return {name: batch.memo((name, model.ref), compute)}


def match_vectors(batch: Batch, model: ImageText, known: KnownLanguages) -> list[FloatArray]:
    """For each sample, ``float32[responses, d]``: the mean of the unit vectors of a response's sentences.

    Its dot product with a unit picture vector is the mean over the sentences of their cosines. A response
    without a letter or digit, or in a language that is not ``known``, has no row.
    """

    def compute() -> list[FloatArray]:
        foreign = known.foreign(batch, "response")
        texts = [
            [turn.response for turn, code in zip(sample.turns, codes, strict=True) if code is None]
            for sample, codes in zip(batch.samples, foreign, strict=True)
        ]
        pieces = [[model.sentences(text) for text in row if strip_media_tokens(text)] for row in texts]
        pieces = [[sentences for sentences in row if sentences] for row in pieces]
        distinct = list(dict.fromkeys(text for row in pieces for sentences in row for text in sentences))
        vectors = dict(zip(distinct, model.encode_texts(distinct), strict=True)) if distinct else {}
        return [
            _stack([np.mean([vectors[text] for text in sentences], axis=0) for sentences in row])
            for row in pieces
        ]

    return batch.memo(("match_vectors", model.ref, known.key), compute)


def join(rows: Sequence[FloatArray]) -> Features:
    """One feature from a matrix for each sample."""
    return Features(_stack([vector for matrix in rows for vector in matrix]), _index(rows))


def _index(rows: Sequence[Sequence[object] | FloatArray]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(rows), dtype=np.int64), [len(row) for row in rows])


def _stack(rows: Sequence[FloatArray]) -> FloatArray:
    # The width of no rows is unknown; a feature store skips empty blocks.
    return np.stack(rows).astype(np.float32, copy=False) if rows else np.empty((0, 0), np.float32)
