"""Embeddings of a batch's pictures and responses, computed once however many metrics ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import (
    PICTURE_VECTORS,
    RESPONSE_VECTORS,
    Batch,
    Features,
    FloatArray,
    Image,
    ImageEncoder,
    ImageText,
    Sample,
    StagedImageEncoder,
    StagedTextEncoder,
    TextEncoder,
)
from vlitqc_metrics._algorithms.languages import KnownLanguages
from vlitqc_metrics._algorithms.pictures import pixels_of


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
        images = list(pictures.values())
        rows = batch.once(
            f"picture vector: {model.ref}",
            [image.content for image in images],
            lambda at: _encode_images(batch, model, [images[i] for i in at]),
            model=model.ref.name,
        )
        return dict(zip(pictures, rows, strict=True))

    return batch.memo(("picture_vectors", model.ref), compute)


def _encode_images(batch: Batch, model: ImageEncoder, images: Sequence[Image]) -> Sequence[FloatArray]:
    """One row a picture; encoders with the same stage share its pass over the pictures that both need."""
    if not isinstance(model, StagedImageEncoder):
        return list(model.encode_images(pixels_of(images)))
    stage = model.stage
    passes: list[tuple[dict[str, int], Any]] = batch.memo(("forward", stage.ref), list)
    for places, outputs in passes:
        if all(image.sha256 in places for image in images):
            return list(model.encode_forward(outputs)[[places[image.sha256] for image in images]])
    with batch.timed(stage.ref.name):
        outputs = stage.forward(pixels_of(images))
    passes.append(({image.sha256: i for i, image in enumerate(images)}, outputs))
    return list(model.encode_forward(outputs))


def sample_pictures(batch: Batch) -> list[list[str]]:
    """Content hashes of the distinct readable pictures of each sample, in order."""
    return [list(dict.fromkeys(image.sha256 for image in row if image.fault is None)) for row in batch.images]


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


def text_vectors(batch: Batch, model: TextEncoder, texts: Sequence[str]) -> list[FloatArray]:
    """Unit vector of every text, in order."""
    return batch.once(
        f"text vector: {model.ref}",
        texts,
        lambda at: _encode_texts(batch, model, [texts[i] for i in at]),
        model=model.ref.name,
    )


def _encode_texts(batch: Batch, model: TextEncoder, texts: Sequence[str]) -> Sequence[FloatArray]:
    """One row a text; encoders with the same stage share its rows."""
    if not texts:
        return []
    if isinstance(model, StagedTextEncoder):
        return list(model.from_text_stage(np.stack(text_vectors(batch, model.text_stage, texts))))
    return list(model.encode_texts(texts))


def response_features(batch: Batch, model: TextEncoder) -> dict[str, Features]:
    """One unit vector of every non-empty response."""

    def compute() -> Features:
        responses = [spoken(sample) for sample in batch.samples]
        texts = [text for row in responses for text in row]
        return Features(_stack(text_vectors(batch, model, texts)), _index(responses))

    name = response_feature(model)
    return {name: batch.memo((name, model.ref), compute)}


def match_vectors(batch: Batch, model: ImageText, known: KnownLanguages) -> list[FloatArray]:
    """For each sample, ``float32[responses, d]``: the mean of the unit vectors of a response's sentences.

    Its dot product with a unit picture vector is the mean over the sentences of their cosines. A response
    without a letter or digit, or in a language that is not ``known``, has no row.
    """

    def compute() -> list[FloatArray]:
        foreign = known.foreign(batch, "response")
        rows = [
            [
                turn.response
                for turn, code in zip(sample.turns, codes, strict=True)
                if code is None and strip_media_tokens(turn.response)
            ]
            for sample, codes in zip(batch.samples, foreign, strict=True)
        ]
        texts = [text for row in rows for text in row]
        found = iter(
            batch.once(
                f"match vector: {model.ref}",
                texts,
                lambda at: _match_vectors(batch, model, [texts[i] for i in at]),
                model=model.ref.name,
            )
        )
        return [_stack([vector for _ in row if len(vector := next(found))]) for row in rows]

    return batch.memo(("match_vectors", model.ref, known.key), compute)


def _match_vectors(batch: Batch, model: ImageText, texts: Sequence[str]) -> list[FloatArray]:
    """For each text the mean of its sentences' unit vectors; a vector of no dimension for a text without any."""
    pieces = [model.sentences(text) for text in texts]
    distinct = list(dict.fromkeys(sentence for sentences in pieces for sentence in sentences))
    vectors = dict(zip(distinct, _encode_texts(batch, model, distinct), strict=True))
    return [
        np.mean([vectors[sentence] for sentence in sentences], axis=0)
        if sentences
        else np.empty(0, np.float32)
        for sentences in pieces
    ]


def join(rows: Sequence[FloatArray]) -> Features:
    """One feature from a matrix for each sample."""
    return Features(_stack([vector for matrix in rows for vector in matrix]), _index(rows))


def _index(rows: Sequence[Sequence[object] | FloatArray]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(rows), dtype=np.int64), [len(row) for row in rows])


def _stack(rows: Sequence[FloatArray]) -> FloatArray:
    # The width of no rows is unknown; a feature store skips empty blocks.
    return np.stack(rows).astype(np.float32, copy=False) if rows else np.empty((0, 0), np.float32)
