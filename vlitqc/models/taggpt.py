"""Tasks from a judge that names them itself: the algorithm of TagGPT.

Li et al., *TagGPT: Large Language Models are Zero-shot Multimodal Taggers*, arXiv:2304.03022 (2023).
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlitqc.media_tokens import strip_media_tokens
from vlitqc.models.zero_shot_tagger import OTHER, abridged
from vlitqc.prompts import Prompt
from vlitqc.types import Answers, Cost, FloatArray, Judge, ModelRef, Question, Tag, TextEncoder

MAX_TAGS = 5
MAX_CHARACTERS = 40
CANDIDATES = 10

# Bounds what is in memory at once: a question is some 2 kB.
_QUESTIONS = 1000
_MARKS = frozenset(" -'/&")


def clean_tag(text: str) -> str | None:
    """The tag in its plain form, or None for what is no tag.

    Unicode NFKC, lower case, runs of white-space as one space. A tag has 1 to 40 characters, at least one
    letter, and nothing but letters, digits and ``- ' / &``; ``other`` is none, since it says that no task fits.
    """
    tag = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    if not 0 < len(tag) <= MAX_CHARACTERS or tag == OTHER or not any(c.isalpha() for c in tag):
        return None
    # Category M: the vowel signs of many scripts are marks, and no word is without them.
    return tag if all(c.isalnum() or c in _MARKS or unicodedata.category(c)[0] == "M" for c in tag) else None


def frequent(lists: Sequence[Sequence[str]], more_than: int) -> list[tuple[str, int]]:
    """Tags that occur in more than ``more_than`` lists, with that number: most frequent first, then by name."""
    counts = Counter(tag for tags in lists for tag in set(tags))
    kept = [(tag, n) for tag, n in counts.items() if n > more_than]
    return sorted(kept, key=lambda item: (-item[1], item[0]))


def absorb(counted: Sequence[tuple[str, int]], rows: FloatArray, threshold: float) -> dict[str, str]:
    """Each tag's representative: itself, or the kept tag that is nearest to it.

    The tags are taken in their order; one whose cosine with a kept tag is ``threshold`` or more is absorbed,
    every other one is kept. ``rows`` are the tags' unit vectors, ``float32[n, d]``.
    """
    found: dict[str, str] = {}
    kept: list[int] = []
    table = np.empty_like(rows)
    for i, (tag, _) in enumerate(counted):
        cosines = table[: len(kept)] @ rows[i]
        # In float32 as the cosines are: 0.95 there lies below 0.95 in float64.
        if kept and cosines.max() >= np.float32(threshold):
            found[tag] = counted[kept[int(cosines.argmax())]][0]
        else:
            table[len(kept)] = rows[i]
            kept.append(i)
            found[tag] = tag
    return found


def covering(ranked: Sequence[str], named: Sequence[set[str]], coverage: float) -> list[str]:
    """The fewest first tags of ``ranked`` that cover the given share of the instructions.

    ``named[i]`` are the tags of ``ranked`` that were proposed for instruction ``i``; it is covered where one of
    the tags taken is among them. Instructions without any are not counted, since no tag can cover them.
    """
    rank = {tag: i for i, tag in enumerate(ranked)}
    first = Counter(min(rank[tag] for tag in tags) for tags in named if tags)
    for n, covered in enumerate(accumulate(first[i] for i in range(len(ranked))), 1):
        if covered and covered / first.total() >= coverage:
            return list(ranked[:n])
    return list(ranked)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the judge proposed for one instruction: one list of clean tags an answer.

    ``failure`` says why there are no answers that will do; an instruction without words is not asked about.
    """

    instruction: str
    tags: tuple[tuple[str, ...], ...] = ()
    failure: str | None = None

    def dump(self) -> str:
        """As JSON text."""
        return json.dumps({"instruction": self.instruction, "tags": self.tags, "failure": self.failure})

    @classmethod
    def load(cls, text: str) -> Proposal:
        """The proposal that ``dump`` wrote."""
        found = json.loads(text)
        return cls(found["instruction"], tuple(map(tuple, found["tags"])), found["failure"])


class TagGPT:
    """Tasks that a judge names, in the way of TagGPT; the constructor stores options only.

    1. *Propose.* The judge gives ``votes`` lists of 1 to 5 short tags for each instruction (its text alone,
       without media tokens, abridged to 700 characters). A list that is not what was asked for is left out,
       and so is a tag that is none (:func:`clean_tag`).
    2. *Keep* tags that stand in more than ``more_than`` lists of the data set.
    3. *Merge*, the most frequent first: a tag whose cosine with a kept one is ``merge`` or more is absorbed by
       the nearest. The tags that stay are ranked by how many lists hold them or a tag that they absorbed.
    4. *Cut* by ``coverage``: the fewest first tags that were proposed for this share of the instructions that
       have any tag left. The paper does not say what covers what; this is a reading.
    5. *Assign.* The judge picks one of the 10 tags whose vectors are nearest to the instruction's, ``votes``
       times; the most frequent pick is the task, on a tie the tag of higher rank. An instruction without a
       word, and all where no tag is left, have the task ``other``. A single tag needs no pick.

    Equal instructions are one for the judge, and count as often as they occur. An instruction about which the
    judge could not be asked, or not often enough for a fault that may pass, or none of whose answers can be
    read, has no task but the failure, and stands in no count; ``settle`` asks again about those whose first
    step failed. Both steps give the judge the
    text of the data set, and the second one tags that come from it, as fenced data.

    Args:
        ref: what the model is.
        files: none are read.
        judge: any judge; pictures are not shown to it.
        encoder: sentence encoder with unit rows, for tags and instructions.
        votes: answers to each question, 1 and up.
        more_than: a kept tag stands in more lists than this, 0 and up.
        merge: least cosine of an absorbed tag, above 0, at most 1.
        coverage: share of the instructions to be covered, above 0, at most 1.

    Raises:
        TypeError: an option lies outside its range.
    """

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        judge: Judge,
        encoder: TextEncoder,
        *,
        votes: int = 5,
        more_than: int = 2,
        merge: float = 0.95,
        coverage: float = 0.95,
    ) -> None:
        for name, number, least in (("votes", votes, 1), ("more_than", more_than, 0)):
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise TypeError(f"{name} must be a whole number from {least}, got {number!r}")
        for name, share in (("merge", merge), ("coverage", coverage)):
            if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
                raise TypeError(f"{name} must be a number above 0 and at most 1, got {share!r}")
        self._ref = ref
        self._judge = judge
        self._encoder = encoder
        self._votes = votes
        self._more_than = more_than
        self._merge = merge
        self._coverage = coverage
        folder = resources.files("vlitqc.models").joinpath("prompts")
        self._propose_prompt = Prompt.read(folder.joinpath("tag_propose.toml"))
        self._select_prompt = Prompt.read(folder.joinpath("tag_select.toml"))

    @property
    def ref(self) -> ModelRef:
        """What it is, exactly."""
        return self._ref

    def cost_of(self, instructions: Sequence[str]) -> Cost:
        """What these instructions ask of the judge, at most: both steps, each ``votes`` times."""
        texts = set(map(_plain, instructions)) - {""}
        widest = ["x" * MAX_CHARACTERS] * CANDIDATES
        characters = sum(
            len(question.system) + len(question.content)
            for text in texts
            for question in (self._propose_question(text), self._select_question(text, widest))
        )
        return Cost(2 * self._votes * len(texts), self._votes * characters, 0)

    def propose(self, instructions: Sequence[str], n_images: Sequence[int]) -> list[str]:
        """A :class:`Proposal` an instruction, as JSON text, in order; ``n_images`` plays no part."""
        plain = [_plain(text) for text in instructions]
        found = self._proposals(list(dict.fromkeys(plain)))
        return [found[text].dump() for text in plain]

    def settle(self, proposals: Sequence[str]) -> list[Tag]:
        """The tag of every instruction, in order: its task, or why the judge could not be asked."""
        loaded = [Proposal.load(text) for text in proposals]
        again = self._proposals(list(dict.fromkeys(p.instruction for p in loaded if p.failure is not None)))
        loaded = [p if p.failure is None else again[p.instruction] for p in loaded]
        ranked = self._tags(loaded)
        wanted = list(dict.fromkeys(p.instruction for p in loaded if p.instruction and p.failure is None))
        chosen = {"": Tag(OTHER)} | self._assign(wanted, ranked)
        return [chosen[p.instruction] if p.failure is None else Tag(None, p.failure) for p in loaded]

    def _proposals(self, texts: Sequence[str]) -> dict[str, Proposal]:
        found = {"": Proposal("")}
        for some in _chunks([text for text in texts if text]):
            answers = self._judge.ask([self._propose_question(text) for text in some], self._votes)
            for text, answer in zip(some, answers, strict=True):
                failure = _failure(answer)
                given = () if failure else answer.texts
                lists = tuple(tags for raw in given if (tags := self._read_tags(raw)) is not None)
                if not lists and failure is None:
                    failure = f"judge: none of its {len(given)} lists of tags can be read"
                found[text] = Proposal(text, lists, failure)
        return found

    def _read_tags(self, answer: str) -> tuple[str, ...] | None:
        """The clean tags of an answer, each once; None for an answer that is no list of 1 to 5 texts."""
        value = self._propose_prompt.parse(answer)
        if not isinstance(value, list) or not 0 < len(value) <= MAX_TAGS:
            return None
        if not all(isinstance(text, str) for text in value):
            return None
        return tuple(dict.fromkeys(tag for text in value if (tag := clean_tag(text)) is not None))

    def _tags(self, proposals: Sequence[Proposal]) -> list[str]:
        """The task names of the data set, the most frequent first: steps 2 to 4."""
        counted = frequent([tags for p in proposals for tags in p.tags], self._more_than)
        if not counted:
            return []
        of = absorb(counted, self._encoder.encode_texts([tag for tag, _ in counted]), self._merge)
        merged = [[{of[tag] for tag in tags if tag in of} for tags in p.tags] for p in proposals]
        ranked = [tag for tag, _ in frequent([list(tags) for lists in merged for tags in lists], 0)]
        return covering(ranked, [set().union(*lists) for lists in merged], self._coverage)

    def _assign(self, texts: Sequence[str], ranked: Sequence[str]) -> dict[str, Tag]:
        """The tag of each instruction: step 5."""
        if len(ranked) < 2:
            return dict.fromkeys(texts, Tag(ranked[0] if ranked else OTHER))
        rows = self._encoder.encode_texts(ranked)
        rank = {tag: i for i, tag in enumerate(ranked)}
        found: dict[str, Tag] = {}
        for some in _chunks(texts):
            near = _nearest(self._encoder.encode_texts(some), rows)
            names = [[ranked[i] for i in line] for line in near.tolist()]
            questions = [self._select_question(*pair) for pair in zip(some, names, strict=True)]
            answers = self._judge.ask(questions, self._votes)
            for text, candidates, answer in zip(some, names, answers, strict=True):
                found[text] = self._top_vote(candidates, rank, answer)
        return found

    def _top_vote(self, candidates: Sequence[str], rank: Mapping[str, int], answer: Answers) -> Tag:
        if failure := _failure(answer):
            return Tag(None, failure)
        numbers = [self._select_prompt.parse(text) for text in answer.texts]
        picks = [int(number) for number in numbers if number is not None]
        votes = Counter(candidates[n - 1] for n in picks if n <= len(candidates))
        if not votes:
            return Tag(None, f"judge: none of its {len(numbers)} picks of a tag can be read")
        return Tag(min(votes, key=lambda tag: (-votes[tag], rank[tag])))

    def _propose_question(self, text: str) -> Question:
        return self._propose_prompt.question({"instruction": text})

    def _select_question(self, text: str, candidates: Sequence[str]) -> Question:
        """The question with no more numbers to choose from than there are candidates."""
        numbers = self._select_prompt.choices[: len(candidates)]
        value = {"type": "integer", "enum": [int(number) for number in numbers]}
        schema = {**self._select_prompt.schema, "properties": {self._select_prompt.key: value}}
        prompt = replace(self._select_prompt, choices=numbers, schema=schema)
        tags = "\n".join(f"{number}. {tag}" for number, tag in zip(numbers, candidates, strict=True))
        return prompt.question({"instruction": text, "tags": tags})


def _plain(instruction: str) -> str:
    return abridged(" ".join(strip_media_tokens(instruction).split()))


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + _QUESTIONS] for start in range(0, len(texts), _QUESTIONS))


def _failure(answer: Answers) -> str | None:
    """Why the answers will not do: there are none, or the missing ones may come and change what they say."""
    if answer.texts and (answer.failure is None or not answer.retry):
        return None
    return f"judge: {answer.failure or 'it gave no answer'}"


def _nearest(texts: FloatArray, tags: FloatArray) -> NDArray[np.int64]:
    """The tags nearest to each text, ``int64[n, ≤ 10]``: the nearest first, on a tie the one of higher rank."""
    order = np.argsort(-(texts @ tags.T), axis=1, kind="stable")
    return order[:, :CANDIDATES]
