"""Clusters with titles and near-duplicate groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from vlitqc.errors import InputError
from vlitqc.types import FloatArray, Origin, Record, Sample, Turn, Unreadable
from vlitqc_reports.explorer import groups
from vlitqc_reports.explorer.groups import Group, clusters, duplicates, typical_terms, words

NO_ISSUES = pa.table(
    {"kind": pa.nulls(0, pa.string()), "detail": pa.nulls(0, pa.string()), "row": pa.nulls(0, pa.int64())}
)


@dataclass
class WithRecords:
    """The part of a run that groups are made of."""

    responses: Sequence[str | None] = ()
    means: FloatArray | None = None
    languages: Mapping[str, int] = field(default_factory=dict)
    issue_table: pa.Table = field(default_factory=lambda: NO_ISSUES)
    opened: list[int] = field(default_factory=list)

    @property
    def scorecard(self) -> Mapping[str, Any]:
        metric = {"name": "composition", "details": {"languages": self.languages}}
        return {"principles": [{"metrics": [metric]}]}

    def vectors(self, kind: str) -> tuple[FloatArray, NDArray[np.bool_]] | str:
        if self.means is None:
            return f"this run has no vectors of {kind}s"
        return self.means, np.asarray(self.means.any(axis=1))

    def record(self, row: int) -> Record:
        self.opened.append(row)
        origin = Origin("data.jsonl", row, row + 1, 0, 1, "")
        text = self.responses[row]
        if text is None:
            return Unreadable(origin, ())
        return Sample(str(row), (Turn("what?", text),), (), {}, origin)


def table(column: str, labels: Sequence[int | None], unreadable: Sequence[int] = ()) -> pa.Table:
    states = ["unreadable" if i in unreadable else "scored" for i in range(len(labels))]
    return pa.table({"row": range(len(labels)), "state": states, column: pa.array(labels, pa.int64())})


# ---------------------------------------------------------------- clusters


def test_every_place_has_the_position_of_its_cluster() -> None:
    labels = [7, 7, -1, None, 3, 3, 3, None, 9, 3, 7]
    run = WithRecords([f"word{label}" for label in labels])
    rows = np.array([0, 1, 2, 3, 4, 6, 8, 9, 10])
    (found,) = clusters(run, table("response_cluster", labels, unreadable=[7]), rows, seed=0)
    assert (found.name, found.title, found.noise, found.n_clusters) == ("response_cluster", "Responses", 1, 3)
    assert [(each.id, each.n) for each in found.top] == [(3, 4), (7, 3), (9, 1)]
    noise, none = groups.IS_NOISE, groups.NO_CLUSTER
    assert found.codes.tolist() == [1, 1, noise, none, 0, 0, 2, 0, 1]
    assert found.codes.dtype == np.uint16


def test_only_the_largest_clusters_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_CLUSTERS", 2)
    labels = [0, 1, 1, 2, 2, 2, 4]
    run = WithRecords(["text"] * 7)
    (found,) = clusters(run, table("image_cluster", labels), np.arange(7), seed=0)
    smaller = groups.IN_SMALLER
    assert found.codes.tolist() == [smaller, 1, 1, 0, 0, 0, smaller]
    assert (found.title, found.n_clusters, len(found.top)) == ("Pictures", 4, 2)


def test_representatives_lie_nearest_to_the_mean() -> None:
    directions = np.array([0.0, 40, 41, 42, 80, 200, 180], np.float32) / 180 * np.pi
    means = np.stack([np.cos(directions), np.sin(directions)], axis=1)
    labels = [0, 0, None, 0, 0, 0, -1, -1]  # row 2 is unreadable and has no vector
    run = WithRecords(["text"] * 8, np.insert(means, 0, [1, 0], axis=0)[1:].astype(np.float32))
    (found,) = clusters(run, table("response_cluster", labels, unreadable=[2]), np.array([0]), seed=0)
    # Readable rows 0, 1, 3, 4, 5 have the directions 0, 40, 41, 42, 80 degrees; their sum points to some 40.6.
    assert found.top[0].rows[0] == 3
    assert set(found.top[0].rows[:3]) == {1, 3, 4}
    (without,) = clusters(
        WithRecords(["text"] * 8), table("response_cluster", labels, unreadable=[2]), np.array([0]), seed=0
    )
    assert without.top[0].rows == (0, 1, 3, 4, 5)


def test_titles_are_what_the_responses_of_a_cluster_share() -> None:
    texts = [
        *("A cat sleeps on the sofa", "The cat on a sofa", "A grey cat and the sofa"),
        *("A boat on the lake", "The lake with a boat", "A boat, a lake and the sky"),
        *("The sky and the street", "A street on a day"),
    ]
    run = WithRecords(texts, languages={"en": 8})
    (found,) = clusters(run, table("response_cluster", [0] * 3 + [1] * 3 + [-1] * 2), np.arange(8), seed=0)
    assert [set(each.terms) for each in found.top] == [{"cat", "sofa"}, {"boat", "lake"}]


def test_only_so_many_records_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "RESPONSES", 5)
    run = WithRecords(["text"] * 300)
    labels = [0] * 100 + [1] * 100 + [-1] * 100
    first = clusters(run, table("response_cluster", labels), np.arange(300), seed=4)
    assert len(run.opened) == 15
    again = clusters(run, table("response_cluster", labels), np.arange(300), seed=4)
    assert first[0].top == again[0].top


def test_no_clusters_without_a_column_or_a_cluster() -> None:
    run = WithRecords(["text"] * 3)
    assert clusters(run, table("other", [0, 0, 0]), np.arange(3), seed=0) == []
    assert clusters(run, table("response_cluster", [-1, -1, None]), np.arange(3), seed=0) == []


def test_records_that_cannot_be_read_any_more_have_no_words() -> None:
    class Moved(WithRecords):
        def record(self, row: int) -> Record:
            if row == 1:
                raise InputError("data.jsonl has changed")
            return super().record(row)

    run = Moved(["a cat", "a dog", None, "a cat"])
    (found,) = clusters(run, table("response_cluster", [0, 0, 0, 0]), np.arange(4), seed=0)
    assert found.top[0].terms == ("cat",)


def test_the_entry_of_a_clustering_has_representatives_with_cards_only() -> None:
    run = WithRecords(["a cat"] * 4)
    (found,) = clusters(run, table("response_cluster", [5, 5, 5, -1]), np.arange(4), seed=0)
    assert found.packed("c0", frozenset({1, 3})) == {
        "name": "response_cluster", "title": "Responses", "array": "c0", "noise": 1, "n_clusters": 1,
        "top": [{"id": 5, "n": 3, "terms": ["cat"], "rows": [1]}],
    }  # fmt: skip


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog’s life, 1984!", ["dog's", "life"]),
        ("हिन्दी में कुत्ता", ["हिन्दी", "में", "कुत्ता"]),
        ("一只猫", ["一只", "只猫"]),
        ("แมวนอน cat", ["cat"]),
        ("ແມວ ឆ្មា ကြောင် ཞི་མི", []),
        ("die Straße", ["die", "straße"]),
        ("قطة نائمة", ["قطة", "نائمة"]),
        ("می‌خواهم", ["می‌خواهم"]),
        ("고양이가 있다", ["고양이가", "있다"]),
        ("a\u202eevil\u202cword \x00\x1b[31mred\x1b[0m", ["evil", "word", "31mred", "0m"]),
        ("<img src=x onerror=alert(1)>", ["img", "src", "onerror", "alert"]),
        ("", []),
    ],
)
def test_words_of_any_script_and_nothing_that_hides_or_turns_text(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_common_words_are_left_out_and_pairs_with_a_common_character() -> None:
    assert words("the cat on the sofa", frozenset({"the", "on"})) == ["cat", "sofa"]
    assert words("猫在沙发", frozenset({"在"})) == ["沙发"]
    assert words("Großes groß", frozenset({"gross"})) == ["großes"]  # lists of common words are folded


def test_one_long_text_does_not_name_a_cluster() -> None:
    found = typical_terms([["spam " * 5000, "a cat here", "the cat there"], ["a dog", "the dog"]])
    assert [terms[0] for terms in found] == ["cat", "dog"]
    assert "spam" not in found[0]


def test_lists_without_words_have_no_terms() -> None:
    assert typical_terms([["", "1 2 3"], []]) == [(), ()]
    assert typical_terms([[], ["a cat", "a cat"]]) == [(), ("cat",)]


def test_a_term_is_cut() -> None:
    ((term,),) = typical_terms([["x" * 100_000]])
    assert term == "x" * groups.TERM_LENGTH


# ---------------------------------------------------------------- duplicates


def test_groups_by_size_with_the_earliest_record_first() -> None:
    group = [None, 0, 1, 0, 1, 1, None, 2, 2]
    kind = [None, None, None, "exact", "exact", "near_text", None, None, "near_text"]
    scores = pa.table({"row": range(9), "duplicate_group": group, "duplicate_kind": kind})
    assert duplicates(WithRecords(), scores) == [
        Group("near text", 3, (2, 4, 5)),
        Group("exact", 2, (1, 3)),
        Group("near text", 2, (7, 8)),
    ]


def test_near_equal_pictures_come_from_the_issues() -> None:
    details = ["image nearly equals one of row 2 (line 3, id row 9 (line 1, id x))"] * 2
    issues = pa.table(
        {
            "kind": [
                "near_duplicate_image",
                "near_duplicate_image",
                "exact_duplicate",
                "near_duplicate_image",
            ],
            "detail": [*details, "same as row 5 (line 6, id none)", "something of row 4 (line 2, id none)"],
            "row": [7, 5, 8, 9],
        }
    )
    run = WithRecords(issue_table=issues)
    found = duplicates(run, pa.table({"row": range(9)}))
    assert found == [Group("near image", 3, (2, 5, 7))]
    assert found[0].packed(frozenset({2, 7})) == {"kind": "near image", "n": 3, "rows": [2, 7]}


def test_a_large_group_shows_its_first_members_and_there_are_not_too_many_groups() -> None:
    scores = pa.table(
        {
            "row": range(400),
            "duplicate_group": [i // 4 for i in range(200)] + [50 + i // 2 for i in range(200)],
            "duplicate_kind": [None if i % 2 == 0 else "exact" for i in range(400)],
        }
    )
    found = duplicates(WithRecords(), scores)
    assert len(found) == groups.MOST_GROUPS
    assert [group.n for group in found] == sorted((group.n for group in found), reverse=True)
    big = pa.table({"row": range(9), "duplicate_group": [0] * 9, "duplicate_kind": [None] + ["exact"] * 8})
    assert duplicates(WithRecords(), big) == [Group("exact", 9, (0, 1, 2, 3, 4, 5))]
