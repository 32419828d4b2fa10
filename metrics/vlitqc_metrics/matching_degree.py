"""Correctness: how well the responses match the pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlitqc.types import Batch, FloatArray, ImageText, LanguageModel, MetricSpec, Principle, Score
from vlitqc_metrics._algorithms.batch_embeddings import match_vectors, picture_vectors, sample_pictures
from vlitqc_metrics._algorithms.languages import KnownLanguages
from vlitqc_metrics._algorithms.pictures import no_picture


def matching_cosine(pictures: FloatArray, responses: FloatArray) -> float:
    """Mean over responses of max over pictures of the cosine.

    Args:
        pictures: unit rows ``float32[k, d]``, k ≥ 1.
        responses: ``float32[r, d]``, r ≥ 1: for each response the mean of the unit vectors of its sentences,
            so that the dot product is the mean of their cosines.

    Returns:
        −1 to 1; higher is a better match.

    Raises:
        ValueError: there is no picture or no response.

    Source: Hessel et al., *CLIPScore*, EMNLP 2021, without its clipping at 0 and its factor.
    """
    if len(pictures) == 0 or len(responses) == 0:
        raise ValueError(f"needs a picture and a response, got {len(pictures)} and {len(responses)}")
    cosines = responses.astype(np.float64) @ pictures.astype(np.float64).T
    return float(np.clip(cosines.max(axis=1), -1.0, 1.0).mean())


class MatchingDegree:
    """Matching degree under any image-text model, on the model's own scale.

    The value is ``model.match`` of ``matching_cosine``: 100·cosine for CLIP and ConSE. SigLIP's is the logit of
    its own scale and bias, which are affine in the cosine, so that it is also the mean of the sentences' logits.
    The ``spec`` of an instance carries the unit and bounds of its model.

    Every response with a word in it is scored by itself, whatever its length; it is judged sentence by
    sentence, so that nothing is cut off at a model's context. A response that says nothing of the picture
    without its question ("yes", "no") scores at chance, about 0 under ConSE, so a data set of such answers
    has a low mean without being wrong.

    With a ``language_model`` a response whose language is none of ``languages`` is left out: to a text model
    of English a German caption says nothing. Without one every response is taken for one of them.
    """

    spec: MetricSpec = MetricSpec(
        name="matching_degree",
        title="Matching degree",
        principle=Principle.CORRECTNESS,
        level="sample",
        summary="Nearness of picture and response in the space of an image-text model, on the model's scale.",
        unit="100·cosine",
        bounds=(-100.0, 100.0),
        higher_is_better=True,
        reduction=(
            "mean over a response's sentences; largest over the sample's pictures; mean over responses; "
            "mean over samples"
        ),
        version="4",
        source="Hessel et al. 2021 (CLIPScore); VLIT review (TMLR 2024), section 4.1",
        # Models look at some 224 px of the shorter side, which a long picture has only at full size.
        image_side=2048,
    )

    def __init__(
        self,
        model: ImageText,
        language_model: LanguageModel | None = None,
        languages: Sequence[str] = ("en",),
    ) -> None:
        self.model = model
        self.spec = type(self).spec.on_scale(model.scale)
        self.known = KnownLanguages(language_model, languages)

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample."""
        pictures = sample_pictures(batch)
        vectors = picture_vectors(batch, self.model)
        responses = match_vectors(batch, self.model, self.known)
        foreign = self.known.foreign(batch, "response")
        scores = []
        for i, images in enumerate(batch.images):
            if not pictures[i]:
                scores.append(no_picture(batch.samples[i], images))
            elif not len(responses[i]):
                scores.append(Score(reason=self.known.reason(foreign[i], "no response text")))
            else:
                own = np.stack([vectors[sha256] for sha256 in pictures[i]])
                scores.append(Score(self.model.match(matching_cosine(own, responses[i]))))
        return scores
