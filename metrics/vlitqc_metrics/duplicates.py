"""Duplicates: samples that repeat another one, word for word or nearly so."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlitqc.media_tokens import TOKENS, strip_media_tokens
from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    FloatArray,
    Image,
    ImageEncoder,
    Issue,
    MetricSpec,
    Principle,
    Sample,
    Severity,
    TextEncoder,
)
from vlitqc_metrics._algorithms.batch_embeddings import (
    picture_feature,
    picture_features,
    picture_hash_feature,
    picture_hashes,
    response_feature,
    response_features,
    spoken,
)

CONVERSATION = "conversation_sha256"
FOLDED = "folded_conversation_sha256"
INSTRUCTION = "instruction_sha256"
MEDIA = "other_media"
WORDS = "shortest_response_words"
PICTURE_SHA256 = "picture_sha256"

LONG_RESPONSE = 5
"""Words from which a response says enough by itself: "yes" to two questions is no repetition."""


def verbatim(text: str) -> str:
    """``text`` as it is, without the white space around it; of media tokens their number, wherever they stand."""
    marks = []
    for token in TOKENS.values():
        text, n = token.subn(" ", text)
        marks.append(n)
    return f"{text.strip()}\0{marks}"


def normalise(text: str) -> str:
    """``text`` without media tokens, in Unicode's NFKC form, case folded, white space as single spaces."""
    return " ".join(unicodedata.normalize("NFKC", strip_media_tokens(text)).casefold().split())


def near_text_pairs(
    vectors: FloatArray,
    context: Sequence[Hashable],
    instruction: Sequence[str | None],
    shortest: NDArray[np.int64],
    threshold: float,
) -> list[tuple[int, int]]:
    """Pairs of samples that say nearly the same about the same thing; chains of them make groups.

    Two samples with equal ``context`` (pictures and other media, or the instruction where there are none)
    are near-duplicates when their vectors' cosine is ≥ ``threshold``, and either their instructions are
    equal or every response of both has at least five words. So a new question about the same picture is no
    duplicate because its short answer is the same; two long responses that say nearly the same about one
    picture are near-duplicates under different questions too.

    Args:
        vectors: ``float32[n, d]``, the mean of the unit vectors of each sample's responses; a row of zeros
            is a sample without a response, which matches nothing.
        context: what each sample is about; None is equal to nothing.
        instruction: a hash of each sample's instructions.
        shortest: ``int64[n]``, words of each sample's shortest response.
        threshold: of the cosine.

    Returns:
        Pairs (first of a group, other), first < other; each group of a bucket once.
    """
    from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups

    buckets: dict[Hashable, list[int]] = defaultdict(list)
    answered: NDArray[np.bool_] = np.asarray(vectors.any(axis=1))
    for i, about in enumerate(context):
        if about is not None and answered[i]:
            buckets[("same instruction", about, instruction[i])].append(i)
            if shortest[i] >= LONG_RESPONSE:
                buckets[("long", about)].append(i)
    pairs = set()
    for members in buckets.values():
        if len(members) < 2:
            continue
        if len(members) == 2:
            # Most buckets are pairs, to which a tiled product would only add its preparation.
            if cosine(vectors[members[0]], vectors[members[1]]) >= threshold:
                pairs.add((members[0], members[1]))
            continue
        groups = near_duplicate_groups(vectors[members], threshold)
        first: dict[int, int] = {}
        for i, group in zip(members, groups.tolist(), strict=True):
            head = first.setdefault(group, i)
            if head != i:
                pairs.add((head, i))
    return sorted(pairs)


def cosine(x: FloatArray, y: FloatArray) -> float:
    """The cosine of two vectors in float64; exactly 1 for equal ones. Neither may be zero."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def connected_groups(n: int, pairs: Sequence[tuple[int, int]]) -> list[int | None]:
    """Group number of each of ``n`` items that ``pairs`` connect, by first member; None for the unconnected."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not pairs:
        return [None] * n
    left, right = np.array(pairs).T
    graph = coo_array((np.ones(len(pairs), dtype=bool), (left, right)), shape=(n, n))
    components = connected_components(graph, directed=False)[1]
    sizes = np.bincount(components)
    numbers: dict[int, int] = {}
    return [
        numbers.setdefault(component, len(numbers)) if sizes[component] > 1 else None
        for component in components.tolist()
    ]


class Duplicates:
    """Share of samples that repeat an earlier one, exactly or nearly.

    * **exact**: the same turns, letter by letter but for the white space around a text and where its media
      tokens stand, and the same bytes of the same media in the same order. An issue ``exact_duplicate`` (error).
    * **near text**: the same media and turns that are equal after ``normalise``; or ``near_text_pairs`` at
      ``text_threshold``, with the same or nearly the same pictures. An issue ``near_duplicate_text`` (warning).
    * **near image**: different bytes whose embeddings' cosine reaches ``image_threshold``: an issue
      ``near_duplicate_image`` (note) and nothing in the value, since one picture may carry many questions.

    The text threshold 0.9 is the usual one for sentence embeddings. The image threshold 0.95 belongs to
    EfficientNet-Lite0: among 110,000 pairs of different photographs the largest cosine was 0.77, and two
    scans of different filled-in forms had 0.94, while nine in ten JPEG copies at quality 85 or crops by 2%
    reach it; strongly reduced copies (a third of the side) mostly do not. Beyond ``max_pictures`` distinct
    pictures only equal bytes make equal pictures, because the comparison is quadratic.

    Embeddings hardly tell "left" from "right", one number from another, or a sentence from its negation, so
    near-duplicates may differ in what matters.

    Without ``text`` or ``image`` what needs them is left out. There is no interval: a resample
    repeats samples by design.
    """

    spec: ClassVar[MetricSpec] = MetricSpec(
        name="duplicates",
        title="Duplicates",
        principle=Principle.BEYOND,
        level="dataset",
        summary="Share of samples that repeat an earlier sample exactly or nearly.",
        unit="% of samples",
        bounds=(0.0, 100.0),
        higher_is_better=False,
        reduction="every member of a group of duplicates beyond the first counts",
        version="3",
        source="vlitqc; Abbas et al. 2023 (SemDeDup) for duplicates by embedding",
        columns=("duplicate_group", "duplicate_kind"),
        texts=("duplicate_kind",),
        image_side=512,
    )

    def __init__(
        self,
        text: TextEncoder | None = None,
        image: ImageEncoder | None = None,
        text_threshold: float = 0.9,
        image_threshold: float = 0.95,
        max_pictures: int = 100_000,
    ) -> None:
        self.text = text
        self.image = image
        self.text_threshold = text_threshold
        self.image_threshold = image_threshold
        self.max_pictures = max_pictures

    def features(self, batch: Batch) -> Mapping[str, Features]:
        """Hashes of conversations, instructions and other media, response lengths, and the embeddings."""
        every = np.arange(len(batch), dtype=np.int64)
        shortest = [
            min((len(text.split()) for text in spoken(sample)), default=0) for sample in batch.samples
        ]
        found = {
            CONVERSATION: Features(
                [_conversation(s, m, verbatim) for s, m in self._with_images(batch)], every
            ),
            FOLDED: Features([_conversation(s, m, normalise) for s, m in self._with_images(batch)], every),
            INSTRUCTION: Features(
                [_hash([normalise(t.instruction) for t in s.turns]) for s in batch.samples], every
            ),
            MEDIA: Features([_other_media(s, m) for s, m in self._with_images(batch)], every),
            WORDS: Features(np.array(shortest, np.float32).reshape(-1, 1), every),
        }
        if self.text is not None:
            found.update(response_features(batch, self.text))
        if self.image is not None:
            found.update(picture_features(batch, self.image))
        else:
            found[PICTURE_SHA256] = picture_hashes(batch)
        return found

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """Groups the samples; the columns name each one's group and what makes it redundant, if anything.

        ``duplicate_group`` is set for every member, ``duplicate_kind`` (``exact``, ``near_text``) for all
        but the first, which is the one to keep.
        """
        n = store.n_samples
        keys = _by_sample(store, CONVERSATION)
        n_scored = n - keys.count(None)
        if n_scored == 0:
            return DatasetScore(reason="no sample", n_total=n)
        original = _firsts(keys)
        folded = _firsts(_by_sample(store, FOLDED))
        pairs = [(first, i) for same in (original, folded) for i, first in enumerate(same) if first != i]

        pictures, sample_of = store.strings(
            PICTURE_SHA256 if self.image is None else picture_hash_feature(self.image)
        )
        alike, compared = self._like_pictures(store, pictures)
        if self.text is not None:
            context = _context(store, [alike[p] for p in pictures], sample_of)
            pairs += near_text_pairs(
                self._sample_vectors(store, self.text),
                context,
                _by_sample(store, INSTRUCTION),
                _shortest(store),
                self.text_threshold,
            )
        group = connected_groups(n, pairs)
        kind: list[str | None] = [None] * n
        head: dict[int, int] = {}
        issues = _Issues(store)
        for i, number in enumerate(group):
            if number is None or head.setdefault(number, i) == i:
                continue
            if original[i] != i:
                kind[i] = "exact"
                issues.add("exact_duplicate", "error", i, original[i], "same conversation and media as")
            else:
                kind[i] = "near_text"
                issues.add("near_duplicate_text", "warning", i, head[number], "says nearly the same as")
        notes = _near_image_notes(pictures, sample_of.tolist(), alike)
        for i, other in notes:
            if kind[i] is None:
                issues.add("near_duplicate_image", "note", i, other, "image nearly equals one of")
        redundant = sum(k is not None for k in kind)
        return DatasetScore(
            value=100.0 * redundant / n_scored,
            n_scored=n_scored,
            n_total=n,
            details={
                "exact": kind.count("exact"),
                "near_text": kind.count("near_text"),
                "groups": len(head),
                "near_images": len(notes) if compared else None,
                "near_images_compared": compared,
                "distinct_images": len(alike),
            },
            columns={"duplicate_group": group, "duplicate_kind": kind},
            missing="not a duplicate",
            issues=issues.found,
        )

    def _like_pictures(self, store: FeatureStore, pictures: list[str]) -> tuple[dict[str, int], bool]:
        """For every distinct picture the number of its near-duplicate group, and whether they were compared."""
        from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups

        first: dict[str, int] = {}
        for row, picture in enumerate(pictures):
            first.setdefault(picture, row)
        if self.image is None or len(first) > self.max_pictures:
            return {picture: number for number, picture in enumerate(first)}, False
        if not first:
            return {}, True
        rows = store.vectors(picture_feature(self.image))[0][list(first.values())]
        groups = near_duplicate_groups(np.asarray(rows, dtype=np.float32), self.image_threshold)
        return dict(zip(first, groups.tolist(), strict=True)), True

    def _sample_vectors(self, store: FeatureStore, model: TextEncoder) -> FloatArray:
        """The mean of each sample's response vectors; zeros where it has none."""
        rows, sample_of = store.vectors(response_feature(model))
        means = np.zeros((store.n_samples, rows.shape[1]), dtype=np.float32)
        np.add.at(means, sample_of, rows)
        count = np.bincount(sample_of, minlength=store.n_samples)
        means /= np.maximum(count, 1).astype(np.float32)[:, None]
        return means

    @staticmethod
    def _with_images(batch: Batch) -> list[tuple[Sample, tuple[Image, ...]]]:
        return list(zip(batch.samples, batch.images, strict=True))


class _Issues:
    """Issues with the places of their samples."""

    def __init__(self, store: FeatureStore) -> None:
        self._places = [store.column(name) for name in ("file", "line", "row", "id")]
        self.found: list[Issue] = []

    def add(self, kind: str, severity: Severity, sample: int, other: int, what: str) -> None:
        file, line, row, identity = (column[sample] for column in self._places)
        _, other_line, other_row, other_id = (column[other] for column in self._places)
        detail = f"{what} row {other_row} (line {other_line}, id {other_id or 'none'})"
        self.found.append(Issue(kind, severity, detail, str(file), int(line), int(row), str(identity or "")))


def _near_image_notes(
    pictures: list[str], sample_of: list[int], alike: Mapping[str, int]
) -> list[tuple[int, int]]:
    """(sample, earlier sample) for the first appearance of each picture that nearly equals an earlier one."""
    seen: set[str] = set()
    first_sample: dict[int, int] = {}
    notes = []
    for picture, sample in zip(pictures, sample_of, strict=True):
        if picture in seen:
            continue
        seen.add(picture)
        earlier = first_sample.setdefault(alike[picture], sample)
        if earlier != sample:
            notes.append((sample, earlier))
    return notes


def _by_sample(store: FeatureStore, name: str) -> list[str | None]:
    """A feature of one text a sample; None where a sample's features failed."""
    texts: list[str | None] = [None] * store.n_samples
    found, index = store.strings(name)
    for text, sample in zip(found, index.tolist(), strict=True):
        texts[sample] = text
    return texts


def _shortest(store: FeatureStore) -> NDArray[np.int64]:
    """Words in each sample's shortest response; 0 where its features failed."""
    found, index = store.vectors(WORDS)
    words = np.zeros(store.n_samples, np.int64)
    if len(found):
        words[index] = found[:, 0]
    return words


def _context(store: FeatureStore, picture_groups: list[int], sample_of: NDArray[np.int64]) -> list[Hashable]:
    """What each sample is about: its pictures up to near-duplicates and its other media, or its instruction.

    None, which equals nothing, where a sample's features failed.
    """
    other = _by_sample(store, MEDIA)
    instructions = _by_sample(store, INSTRUCTION)
    groups: list[set[int]] = [set() for _ in range(store.n_samples)]
    for group, sample in zip(picture_groups, sample_of.tolist(), strict=True):
        groups[sample].add(group)
    context: list[Hashable] = []
    for mine, media, instruction in zip(groups, other, instructions, strict=True):
        if media is None or instruction is None:
            context.append(None)
        else:
            context.append((tuple(sorted(mine)), media) if mine or media else ("text-only", instruction))
    return context


def _firsts(keys: Sequence[str | None]) -> list[int]:
    """For every sample the first with its key; itself where it has none."""
    first_of: dict[str, int] = {}
    return [i if key is None else first_of.setdefault(key, i) for i, key in enumerate(keys)]


def _conversation(sample: Sample, images: tuple[Image, ...], as_compared: Callable[[str], str]) -> str:
    turns = [[as_compared(turn.instruction), as_compared(turn.response)] for turn in sample.turns]
    return _hash([turns, [image.sha256 or image.reference for image in images], _other_media(sample, images)])


def _other_media(sample: Sample, images: tuple[Image, ...]) -> str:
    """What cannot be compared by content, by name: videos, sounds, unreadable pictures."""
    names = [f"{media.kind} {media.reference}" for media in sample.media if media.kind != "image"]
    names += [f"image {image.sha256 or image.reference}" for image in images if image.pixels is None]
    return _hash(names) if names else ""


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
