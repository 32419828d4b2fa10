"""Records that belong together: clusters with titles, and near-duplicates."""

from __future__ import annotations

import heapq
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlitqc.errors import InputError
from vlitqc.types import FloatArray, Record, Sample
from vlitqc_reports import wording

COLUMNS = {"response_cluster": ("Responses", "response"), "image_cluster": ("Pictures", "picture")}
"""Column of the scores → the clusters' title and the kind of vector that they were made of."""
NOISE = -1
MOST_CLUSTERS = 60
MOST_GROUPS = 60
REPRESENTATIVES = 6
CONSIDERED = 2_000
"""Members of a cluster, drawn at random, of which the representatives are those nearest to their mean."""
RESPONSES = 50
"""Records of a cluster whose responses are read for its title, and of the records in no cluster for comparison."""
RESPONSE_LENGTH = 2_000
TERMS = 4
TERM_LENGTH = 40
COMMONEST = 150
"""Words of a language, by frequency, that say nothing about a cluster."""
LANGUAGE_SHARE = 0.01

NO_CLUSTER, IS_NOISE, IN_SMALLER = 65_535, 65_534, 65_533
"""Codes for places beside the positions in ``Clustering.top``."""

_PAIRED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
"""Kana and Han."""
_UNDIVIDED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]")
"""Thai, Lao, Tibetan, Burmese, Khmer: whoever does not know their words cuts vowels from consonants."""
_JOINERS = "\u200c\u200d"
_OTHER = re.compile(r"image nearly equals one of row (\d+) ")


class WithRecords(Protocol):
    """The part of a run that groups are made of; see ``vlitqc.engine.run.Run``."""

    @property
    def scorecard(self) -> Mapping[str, Any]:
        """The content of ``scorecard.json``."""
        ...

    @property
    def issue_table(self) -> pa.Table:
        """Columns kind, detail, row and others."""
        ...

    def vectors(self, kind: str) -> tuple[FloatArray, NDArray[np.bool_]] | str:
        """One vector a readable record and which have one, or a reason."""
        ...

    def record(self, row: int) -> Record:
        """The record of a row, read again from the input."""
        ...


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster: its number in the scores, its records, words that tell it from others, and its most typical rows."""

    id: int
    n: int
    terms: tuple[str, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Clustering:
    """One column of clusters. ``codes`` has one number a stored place: a position in ``top``, or one of the codes.

    ``noise`` and ``n_clusters`` count over the whole run, as the clusters' ``n`` do.
    """

    name: str
    title: str
    codes: NDArray[np.uint16]
    noise: int
    n_clusters: int
    top: tuple[Cluster, ...]

    def packed(self, array: str, cards: frozenset[int]) -> dict[str, Any]:
        """Its entry in the page's data; of the representatives those with ``cards``."""
        top = [
            {
                "id": each.id,
                "n": each.n,
                "terms": [wording.marked(term) for term in each.terms],
                "rows": [row for row in each.rows if row in cards],
            }
            for each in self.top
        ]
        return {
            "name": self.name,
            "title": self.title,
            "array": array,
            "noise": self.noise,
            "n_clusters": self.n_clusters,
            "top": top,
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Records that repeat each other; ``kind`` is the weakest likeness in it: "exact", "near text", "near image"."""

    kind: str
    n: int
    rows: tuple[int, ...]

    def packed(self, cards: frozenset[int]) -> dict[str, Any]:
        """Its entry in the page's data; of the rows those with ``cards``."""
        return {"kind": self.kind, "n": self.n, "rows": [row for row in self.rows if row in cards]}


def clusters(run: WithRecords, scores: pa.Table, places: NDArray[np.int64], *, seed: int) -> list[Clustering]:
    """The clusterings of a run, each with its ``MOST_CLUSTERS`` largest clusters.

    ``scores`` is the run's whole table, ``places`` the rows that the page knows of, ascending. A cluster's terms are
    those that its responses have more often than the others' (class-based TF-IDF, Grootendorst 2022), its
    representatives nearest to the mean of its vectors.
    """
    readable = pc.not_equal(scores["state"], "unreadable").to_numpy()
    sample_of = np.cumsum(readable) - 1
    rng = np.random.default_rng(seed)
    found = []
    for name, (title, kind) in COLUMNS.items():
        if name not in scores.column_names:
            continue
        column = pc.cast(scores[name], pa.float64()).to_numpy()
        labels = np.where(np.isnan(column), NOISE - 1, column).astype(np.int64)
        ids, sizes = np.unique(labels[labels > NOISE], return_counts=True)
        if not len(ids):
            continue
        order = np.lexsort((ids, -sizes))[:MOST_CLUSTERS]
        vectors = run.vectors(kind)
        means = None if isinstance(vectors, str) else vectors[0]
        by_label = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[by_label], ids[order])
        members = [by_label[start : start + sizes[k]] for start, k in zip(starts, order, strict=True)]
        drawn = [rng.permutation(rows)[:CONSIDERED] for rows in members]
        outside = rng.permutation(np.flatnonzero(labels == NOISE))[:RESPONSES]
        texts = [_texts(run, rows[:RESPONSES]) for rows in (*drawn, outside)]
        terms = typical_terms(texts, _commonest(run.scorecard))
        top = tuple(
            Cluster(int(ids[k]), int(sizes[k]), terms[i], _nearest(rows, sample_of, means))
            for i, (k, rows) in enumerate(zip(order, drawn, strict=True))
        )
        position = {cluster.id: i for i, cluster in enumerate(top)}
        codes = [position.get(label, IN_SMALLER) for label in ids.tolist()]
        of_label = np.array([NO_CLUSTER, IS_NOISE, *codes], np.uint16)
        which = np.searchsorted(np.array([NOISE - 1, NOISE, *ids]), labels[places])
        found.append(
            Clustering(name, title, of_label[which], int(np.count_nonzero(labels == NOISE)), len(ids), top)
        )
    return found


def _nearest(
    rows: NDArray[np.int64], sample_of: NDArray[np.int64], means: FloatArray | None
) -> tuple[int, ...]:
    """The rows whose vectors point most nearly where their sum does; the first ones where there are no vectors."""
    rows = np.sort(rows)
    if means is not None:
        vectors = np.asarray(means[sample_of[rows]])
        rows = rows[np.argsort(-(vectors @ vectors.sum(axis=0)), kind="stable")]
    return tuple(rows[:REPRESENTATIVES].tolist())


def _texts(run: WithRecords, rows: NDArray[np.int64]) -> list[str]:
    """The responses of the records, one text each; a record that cannot be read any more has none."""
    texts = []
    for row in np.sort(rows).tolist():
        try:
            record = run.record(row)
        except InputError:
            continue
        if isinstance(record, Sample):
            texts.append(" ".join(turn.response[:RESPONSE_LENGTH] for turn in record.turns)[:RESPONSE_LENGTH])
    return texts


def typical_terms(
    texts: Sequence[Sequence[str]], common: frozenset[str] = frozenset()
) -> list[tuple[str, ...]]:
    """For each list of texts the words that most tell it from the other lists, the most telling first.

    A word's weight in a list is the share of the texts with it times log(1 + A / f): f texts have it in all lists,
    and a list has A texts on average. A word that one text of several has is left out, as are those of ``common``.
    """
    counts = [Counter(word for text in one for word in set(words(text, common))) for one in texts]
    total = Counter(itertools.chain.from_iterable(count.elements() for count in counts))
    average = sum(map(len, texts)) / max(1, len(texts))
    found = []
    for one, count in zip(texts, counts, strict=True):
        weights = (
            (-n / len(one) * math.log1p(average / total[word]), word)
            for word, n in count.items()
            if n >= min(2, len(one))
        )
        found.append(tuple(word[:TERM_LENGTH] for _, word in heapq.nsmallest(TERMS, weights)))
    return found


def words(text: str, common: frozenset[str] = frozenset()) -> list[str]:
    """The words of a text in any script, in lower case, without numbers, single letters, and ``common`` ones.

    Han and kana come in overlapping pairs of characters, and the other scripts without spaces have no words here.
    """
    return [
        word
        for word in _split(text)
        if word.casefold() not in common and not (_PAIRED.match(word) and common.intersection(word))
    ]


def _split(text: str) -> Iterator[str]:
    from wordfreq.tokens import TOKEN_RE

    text = unicodedata.normalize("NFC", text.replace("’", "'"))
    for found in TOKEN_RE.findall("".join(c if _is_text(c) else " " for c in text)):
        token = found.strip("'").lower()
        if _PAIRED.fullmatch(token):
            yield from (token[k : k + 2] for k in range(len(token) - 1))
        elif _UNDIVIDED.search(token):
            continue
        elif len(token) > 1 and any(c.isalpha() for c in token):
            yield token


def _is_text(character: str) -> bool:
    """Not a control, a mark of direction, or a half character; such as join letters belong to words."""
    return character in _JOINERS or not unicodedata.category(character).startswith("C")


def _commonest(scorecard: Mapping[str, Any]) -> frozenset[str]:
    """The commonest words of each language of which the data set has enough."""
    from wordfreq import available_languages, top_n_list

    metrics = (metric for principle in scorecard["principles"] for metric in principle["metrics"])
    said = next((m["details"].get("languages") for m in metrics if m["name"] == "composition"), None) or {}
    least = LANGUAGE_SHARE * sum(said.values())
    used = {language for language, n in said.items() if n >= least} & available_languages().keys()
    return frozenset(word for language in used for word in top_n_list(language, COMMONEST))


def duplicates(run: WithRecords, scores: pa.Table) -> list[Group]:
    """Groups of records that repeat each other, the largest first, ``MOST_GROUPS`` at most.

    The first row of a group is the one to keep, as the filter does. Groups of near-equal pictures come from the
    issues, which name for each picture an earlier record with nearly the same.
    """
    groups: dict[tuple[str, int], Group] = {}
    if {"duplicate_group", "duplicate_kind"} <= set(scores.column_names):
        members = scores.select(["row", "duplicate_group", "duplicate_kind"])
        members = members.filter(pc.is_valid(members["duplicate_group"]))
        kinds = {"exact": "exact", "near_text": "near text"}
        by_group: dict[int, list[tuple[int, str | None]]] = {}
        for row, group, kind in zip(*(column.to_pylist() for column in members.columns), strict=True):
            by_group.setdefault(group, []).append((row, kind))
        for number, found in by_group.items():
            weakest = max((kind for _, kind in found if kind in kinds), default="exact")
            groups["text", number] = _group(kinds[weakest], [row for row, _ in found])
    alike: dict[int, list[int]] = {}
    issues = run.issue_table.select(["kind", "row", "detail"])
    issues = issues.filter(pc.equal(issues["kind"], "near_duplicate_image"))
    for row, detail in zip(issues["row"].to_pylist(), issues["detail"].to_pylist(), strict=True):
        if (match := _OTHER.match(detail)) is not None:
            alike.setdefault(int(match[1]), []).append(row)
    for first, rows in alike.items():
        groups["picture", first] = _group("near image", [first, *rows])
    several = [group for group in groups.values() if group.n > 1]
    return sorted(several, key=lambda group: (-group.n, group.rows))[:MOST_GROUPS]


def _group(kind: str, rows: list[int]) -> Group:
    distinct = sorted(set(rows))
    return Group(kind, len(distinct), tuple(distinct[:REPRESENTATIVES]))
