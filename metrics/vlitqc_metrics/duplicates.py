"""Duplicates: samples that repeat another one, word for word or nearly so."""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    Spread,
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
from vlitqc_metrics._algorithms.file_rows import FileRows, rows_of, worth_spreading
from vlitqc_metrics._algorithms.mapped import SampleMeans
from vlitqc_metrics._algorithms.numbering import first_like, first_places, numbered, numbered_sets

CONVERSATION = "conversation_sha256"
FOLDED = "folded_conversation_sha256"
INSTRUCTION = "instruction_sha256"
MEDIA = "other_media"
WORDS = "shortest_response_words"
PICTURE_SHA256 = "picture_sha256"

KINDS = ("exact", "near_text")

LONG_RESPONSE = 5
"""Words from which a response says enough by itself: "yes" to two questions is no repetition."""

BLOCK = 32_768
"""Samples whose vectors are in memory at once, unless more are about the same thing."""
SMALL = 8


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
    vectors: Callable[[NDArray[np.int64]], FloatArray],
    context: NDArray[np.int64],
    instruction: NDArray[np.int64],
    shortest: NDArray[np.int64],
    threshold: float,
    *,
    max_items: float = 200_000,
    seed: int = 0,
    spread: Spread | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of samples that say nearly the same about the same thing; chains of them make groups.

    Two samples with equal ``context`` (pictures and other media, or the instruction where there are none)
    are near-duplicates when their vectors' cosine is ≥ ``threshold``, and either their instructions are
    equal or every response of both has at least five words. So a new question about the same picture is no
    duplicate because its short answer is the same; two long responses that say nearly the same about one
    picture are near-duplicates under different questions too.

    Args:
        vectors: gives ``float32[k, d]``, the means of the unit vectors of k samples' responses; a row of zeros
            is a sample without a response, which matches nothing.
        context: ``int64[n]``, equal for samples about the same; a negative number is equal to nothing.
        instruction: ``int64[n]``, equal for samples with the same instructions.
        shortest: ``int64[n]``, words of each sample's shortest response.
        threshold: of the cosine.
        max_items: of more samples about the same thing a random part of that size is compared.
        seed: of the draw.
        spread: shares the comparison of many samples about the same thing, where ``vectors`` are ``SampleMeans`` of
            rows in a file.

    Returns:
        ``int64[p, 2]``, pairs (first, other), first < other, sorted and each once, that connect every group; and
        the samples, ascending, that some other about the same thing was not compared with, since they were not drawn.
    """
    about = np.flatnonzero(context >= 0)
    asked = context[about] * (instruction.max(initial=0) + 1) + instruction[about]
    long = about[shortest[about] >= LONG_RESPONSE]
    rng = np.random.default_rng(seed)
    found, undrawn = [np.empty((0, 2), np.int64)], []
    for members, keys in ((about, asked), (long, context[long])):
        drawn, sizes, left_out = _buckets(members, keys, max_items, rng)
        found += _near_within(vectors, drawn, sizes, threshold, spread)
        undrawn.append(left_out)
    return np.unique(np.concatenate(found), axis=0), np.unique(np.concatenate(undrawn))


def _buckets(
    members: NDArray[np.int64], keys: NDArray[np.int64], max_items: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The members that share a key with another, key by key and ascending, how many have each key, and those left
    out of ``max_items``."""
    order = np.argsort(keys, kind="stable")
    _, sizes = np.unique(keys, return_counts=True)
    members = members[order[np.repeat(sizes > 1, sizes)]]
    sizes = sizes[sizes > 1]
    drawn = np.ones(len(members), np.bool_)
    ends = np.cumsum(sizes)
    for k in np.flatnonzero(sizes > max_items):
        drawn[ends[k] - sizes[k] : ends[k]] = False
        drawn[ends[k] - sizes[k] + rng.choice(sizes[k], int(max_items), replace=False)] = True
        sizes[k] = max_items
    return members[drawn], sizes, members[~drawn]


def _near_within(
    vectors: Callable[[NDArray[np.int64]], FloatArray],
    members: NDArray[np.int64],
    sizes: NDArray[np.int64],
    threshold: float,
    spread: Spread | None,
) -> Iterator[NDArray[np.int64]]:
    """Near pairs of members of the same bucket, many buckets at a time."""
    from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups

    def connected(rows: FloatArray | FileRows, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        head = first_like(near_duplicate_groups(rows, threshold, spread=spread))
        other = np.flatnonzero(head != np.arange(len(head)))
        return np.stack([samples[head[other]], samples[other]], axis=1)

    ends = np.cumsum(sizes)
    starts = ends - sizes
    at = 0
    while at < len(sizes):
        stop = max(at + 1, int(np.searchsorted(ends, starts[at] + BLOCK, side="right")))
        mine = members[starts[at] : ends[stop - 1]]
        if (
            stop == at + 1
            and isinstance(vectors, SampleMeans)
            and worth_spreading(vectors.rows, len(mine), spread)
        ):
            blocks = [mine[start : start + BLOCK] for start in range(0, len(mine), BLOCK)]
            answered = np.concatenate([block[vectors(block).any(axis=1)] for block in blocks])
            yield connected(FileRows(vectors.rows, *vectors.places(answered)), answered)
            at = stop
            continue
        rows = vectors(mine)
        first, size = starts[at:stop] - starts[at], sizes[at:stop]
        # Most buckets are small, to which a tiled product would only add its preparation.
        for k in range(2, SMALL + 1):
            for i, j in itertools.combinations(range(k), 2):
                left, right = first[size == k] + i, first[size == k] + j
                near = cosine(rows[left], rows[right]) >= threshold
                yield np.stack([mine[left[near]], mine[right[near]]], axis=1)
        for start, n in zip(first[size > SMALL].tolist(), size[size > SMALL].tolist(), strict=True):
            kept = start + np.flatnonzero(rows[start : start + n].any(axis=1))
            yield connected(rows[kept], mine[kept])
        at = stop


def cosine(x: FloatArray, y: FloatArray) -> NDArray[np.float64]:
    """The cosine of each row of ``x`` with that of ``y``: exactly 1 for equal ones, NaN with one of zeros."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return found


def connected_groups(n: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group number of each of ``n`` items that ``pairs``, ``int64[p, 2]``, connect, by first member; −1 for the
    unconnected."""
    from vlitqc_metrics._algorithms.compiled import suited
    from vlitqc_metrics._algorithms.union_find import flatten, union_pairs

    parent = np.arange(n, dtype=np.int64)
    left, right = np.ascontiguousarray(pairs.T.astype(np.int32))
    suited(union_pairs, len(left))(parent, left, right)
    suited(flatten, n)(parent)
    # A root is the first member of its group.
    numbers = np.cumsum(np.bincount(parent, minlength=n) > 1) - 1
    return np.where(np.bincount(parent, minlength=n)[parent] > 1, numbers[parent], -1)


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
    pictures only equal bytes make equal pictures, and of more than ``max_items`` samples about the same thing a
    random part is looked at for near text, because both comparisons are quadratic; ``near_text_left_out`` counts the
    others. Either may be infinite.

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
        version="4",
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
        max_pictures: float = 100_000,
        max_items: float = 200_000,
    ) -> None:
        for name, number in (("max_pictures", max_pictures), ("max_items", max_items)):
            whole = isinstance(number, int) and not isinstance(number, bool) and number >= 1
            if not whole and number != float("inf"):
                raise TypeError(f"{name} must be a whole number from 1, or inf, got {number!r}")
        self.text = text
        self.image = image
        self.text_threshold = text_threshold
        self.image_threshold = image_threshold
        self.max_pictures = max_pictures
        self.max_items = max_items

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
        n_scored = int(np.count_nonzero(keys >= 0))
        if n_scored == 0:
            return DatasetScore(reason="no sample", n_total=n)
        original = first_like(keys)
        pairs = [_with_first(original), _with_first(first_like(_by_sample(store, FOLDED)))]

        name = PICTURE_SHA256 if self.image is None else picture_hash_feature(self.image)
        coded, sample_of = store.coded(name)
        pictures = coded.indices.to_numpy()
        shown = first_places(pictures)
        alike, compared = self._like_pictures(store, shown)
        left_out = np.empty(0, np.int64)
        if self.text is not None:
            instruction = _by_sample(store, INSTRUCTION)
            context = _context(store, instruction, alike[pictures], sample_of)
            means = SampleMeans(*store.vectors(response_feature(self.text)), n)
            near, left_out = near_text_pairs(
                means,
                np.where(means.counts > 0, context, -1),
                instruction,
                _shortest(store),
                self.text_threshold,
                max_items=self.max_items,
                seed=store.seed,
                spread=store.spread,
            )
            pairs.append(near)
        group = connected_groups(n, np.concatenate(pairs))
        head = first_like(group)
        redundant = np.flatnonzero(head != np.arange(n))
        exact = original[redundant] != redundant
        notes = _near_image_notes(sample_of[shown], alike)
        kind = np.full(n, -1, np.int8)
        kind[redundant] = np.where(exact, 0, 1)
        said = np.stack([redundant, np.where(exact, original[redundant], head[redundant])], axis=1)
        return DatasetScore(
            value=100.0 * len(redundant) / n_scored,
            n_scored=n_scored,
            n_total=n,
            details={
                "exact": int(np.count_nonzero(exact)),
                "near_text": int(np.count_nonzero(~exact)),
                "near_text_left_out": len(left_out),
                "groups": int(group.max(initial=-1)) + 1,
                "near_images": len(notes) if compared else None,
                "near_images_compared": compared,
                "distinct_images": len(alike),
            },
            columns={
                "duplicate_group": pa.array(group, mask=group < 0),
                "duplicate_kind": pa.DictionaryArray.from_arrays(pa.array(kind, mask=kind < 0), KINDS),
            },
            missing=_why_none(n, left_out),
            issues=_issues(store, said, exact, notes[kind[notes[:, 0]] < 0]),
        )

    def _like_pictures(self, store: FeatureStore, shown: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
        """The near-duplicate group of every distinct picture, in the order of their first rows, and whether they
        were compared."""
        from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups

        if self.image is None or len(shown) > self.max_pictures:
            return np.arange(len(shown)), False
        if not len(shown):
            return np.empty(0, np.int64), True
        rows = rows_of(store.vectors(picture_feature(self.image))[0], shown, store.spread)
        return near_duplicate_groups(rows, self.image_threshold, spread=store.spread), True

    @staticmethod
    def _with_images(batch: Batch) -> list[tuple[Sample, tuple[Image, ...]]]:
        return list(zip(batch.samples, batch.images, strict=True))


def _issues(
    store: FeatureStore, said: NDArray[np.int64], exact: NDArray[np.bool_], shown: NDArray[np.int64]
) -> list[Issue]:
    """An issue for each (sample, earlier sample) of those that say the same and of those that show nearly the same."""
    samples = np.unique(np.concatenate([said, shown]))
    files, lines, rows, ids = (store.column(name, samples) for name in ("file", "line", "row", "id"))

    def issue(kind: str, severity: Severity, at: int, other: int, what: str) -> Issue:
        detail = f"{what} row {rows[other]} (line {lines[other]}, id {ids[other] or 'none'})"
        return Issue(
            kind, severity, detail, str(files[at]), int(lines[at]), int(rows[at]), str(ids[at] or "")
        )

    found = [
        issue("exact_duplicate", "error", at, other, "same conversation and media as")
        if same
        else issue("near_duplicate_text", "warning", at, other, "says nearly the same as")
        for (at, other), same in zip(np.searchsorted(samples, said).tolist(), exact.tolist(), strict=True)
    ]
    return found + [
        issue("near_duplicate_image", "note", at, other, "image nearly equals one of")
        for at, other in np.searchsorted(samples, shown).tolist()
    ]


def _why_none(n: int, left_out: NDArray[np.int64]) -> str | pa.Array:
    """Why a sample is no duplicate."""
    if not len(left_out):
        return "not a duplicate"
    code = np.zeros(n, np.int8)
    code[left_out] = 1
    reasons = ["not a duplicate", "not among the samples drawn to be compared for near text"]
    return pa.DictionaryArray.from_arrays(code, reasons)


def _near_image_notes(sample_of: NDArray[np.int64], alike: NDArray[np.int64]) -> NDArray[np.int64]:
    """(sample, earlier sample) for each distinct picture that nearly equals an earlier one, by its first sample."""
    earlier = sample_of[first_like(alike)]
    other = np.flatnonzero(earlier != sample_of)
    return np.stack([sample_of[other], earlier[other]], axis=1)


def _by_sample(store: FeatureStore, name: str) -> NDArray[np.int64]:
    """A feature of one text a sample as numbers, equal for equal texts; −1 where a sample's features failed."""
    numbers = np.full(store.n_samples, -1, np.int64)
    coded, index = store.coded(name)
    numbers[index] = coded.indices.to_numpy()
    return numbers


def _shortest(store: FeatureStore) -> NDArray[np.int64]:
    """Words in each sample's shortest response; 0 where its features failed."""
    found, index = store.vectors(WORDS)
    words = np.zeros(store.n_samples, np.int64)
    if len(found):
        words[index] = found[:, 0]
    return words


def _context(
    store: FeatureStore,
    instruction: NDArray[np.int64],
    picture_groups: NDArray[np.int64],
    sample_of: NDArray[np.int64],
) -> NDArray[np.int64]:
    """What each sample is about, as a number: its pictures up to near-duplicates and its other media, or its
    instruction.

    −1, which equals nothing, where a sample's features failed.
    """
    coded, index = store.coded(MEDIA)
    media = np.full(store.n_samples, -1, np.int64)
    media[index] = coded.indices.to_numpy()
    # The number of the empty text, which stands for no other media.
    none = pc.index(coded.dictionary, "").as_py()
    shown = numbered_sets(store.n_samples, picture_groups, sample_of)
    text_only = (shown == 0) & (media == none)
    context = numbered(shown, media)
    context[text_only] = context.max(initial=-1) + 1 + instruction[text_only]
    context[(media < 0) | (instruction < 0)] = -1
    return context


def _with_first(first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each item that is not the first of its kind, with the first: ``int64[p, 2]``, (first, other)."""
    other = np.flatnonzero(first != np.arange(len(first)))
    return np.stack([first[other], other], axis=1)


def _conversation(sample: Sample, images: tuple[Image, ...], as_compared: Callable[[str], str]) -> str:
    turns = [[as_compared(turn.instruction), as_compared(turn.response)] for turn in sample.turns]
    return _hash([turns, [image.sha256 or image.reference for image in images], _other_media(sample, images)])


def _other_media(sample: Sample, images: tuple[Image, ...]) -> str:
    """What cannot be compared by content, by name: videos, sounds, unreadable pictures."""
    names = [f"{media.kind} {media.reference}" for media in sample.media if media.kind != "image"]
    names += [f"image {image.sha256 or image.reference}" for image in images if image.fault is not None]
    return _hash(names) if names else ""


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
