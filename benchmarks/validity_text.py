"""Validity of the lite text scores: one row a set and corruption, computed from real text.

``text_readability_table`` corrupts real texts in two ways and asks how well the bigram model tells them from
the originals: the same words in random order, and random letters of the same word lengths. The AUC is the
share of (original, corrupted) pairs that the score orders rightly. ``granularity_table`` compares the
semantic elements that the parser finds with elements written down by hand. Nothing is printed.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from vlitqc import profiles
from vlitqc.models.ngram_lm import BigramLM, tokenise
from vlitqc.models.spacy_parser import SpacyParser
from vlitqc.models.store import ModelStore

Row = dict[str, Any]

SHUFFLED_REQUIRED = 0.95
LETTERS_REQUIRED = 0.99
GRANULARITY_REQUIRED = 0.8

# Written by hand in the manner of LLaVA's instructions, each with the objects that it speaks of.
GRANULARITY_EXAMPLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is in the picture?", ("picture",)),
    ("What is the color of the bicycle in the image?", ("bicycle", "image")),
    ("Describe the following image.", ("image",)),
    ("What are the people holding in their hands?", ("hand",)),
    ("How many dogs are there?", ()),
    ("Is the man wearing a hat or a helmet?", ("hat", "helmet")),
    ("Explain the relationship between the boy and the dog.", ("relationship", "boy", "dog")),
    ("Why might the woman be carrying an umbrella on a sunny day?", ("umbrella", "day")),
    ("Write a detailed description of the given photo.", ("description", "photo")),
    ("Can you describe it to me?", ()),
)


def _captions(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return [caption for line in lines for caption in json.loads(line)["captions"]]


def _fields(path: Path, records: str | None, field: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))
    values = [turn[field] for record in found for turn in (record[records] if records else [record])]
    return list(dict.fromkeys(values))


def _questions(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return list(dict.fromkeys(json.loads(line)["text"] for line in lines))


def _sets(data: Path) -> Iterator[tuple[str, list[str], bool]]:
    """Name, texts, and whether the set's AUC is required (captions) or only shown."""
    llama = data / "llama_factory/data/alpaca_en_demo.json"
    pretrain = data / "llava_pretrain_2k/playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_dev.json"
    sources: tuple[tuple[str, Path, bool, Callable[[Path], list[str]]], ...] = (
        ("flickr8k captions", data / "joined/flickr8k_photos.jsonl", True, _captions),
        ("coco captions", data / "joined/coco_photos.jsonl", True, _captions),
        ("llama_factory responses", llama, False, lambda path: _fields(path, None, "output")),
        ("llama_factory instructions", llama, False, lambda path: _fields(path, None, "instruction")),
        (
            "fastchat turns",
            data / "fastchat/data/dummy_conversation.json",
            False,
            lambda path: _fields(path, "conversations", "value"),
        ),
        ("llava pretrain turns", pretrain, False, lambda path: _fields(path, "conversations", "value")),
        (
            "llava questions",
            data / "llava_repo/playground/data/coco2014_val_qa_eval/qa90_questions.jsonl",
            False,
            _questions,
        ),
        (
            "mantis turns",
            data / "mantis_examples/data/examples/chat/train.json",
            False,
            lambda path: _fields(path, "conversation", "content"),
        ),
    )
    for name, path, required, read in sources:
        if path.exists():
            yield name, read(path), required


def text_readability_table(data: Path) -> list[Row]:
    """Rows ``set``, ``corruption``, ``n``, ``auc``, ``required`` (None where only shown).

    ``n`` counts the originals of at least four words that the model measures. Sets that ``data`` lacks are
    left out. Words are compared without their punctuation and numbers, in the originals' corruptions alike.
    """
    model: BigramLM = ModelStore(profiles.load("lite")).get("bigrams")
    rows: list[Row] = []
    for name, texts, required in _sets(data):
        rng = random.Random(0)  # the same corruptions whatever sets are there
        words = [[token for token in tokenise(text) if token[0].isalpha()] for text in texts]
        long = [i for i, found in enumerate(words) if len(found) >= 4]
        originals = _values(model, [texts[i] for i in long])
        corruptions = {
            "shuffled words": (
                [" ".join(rng.sample(words[i], len(words[i]))) for i in long],
                SHUFFLED_REQUIRED,
            ),
            "random letters": (
                [" ".join(_letters(w, rng) for w in words[i]) for i in long],
                LETTERS_REQUIRED,
            ),
        }
        for corruption, (corrupted, level) in corruptions.items():
            values = _values(model, corrupted)
            labels = [1] * len(originals) + [0] * len(values)
            rows.append(
                {
                    "set": name,
                    "corruption": corruption,
                    "n": len(originals),
                    "auc": float(roc_auc_score(labels, np.concatenate([originals, values]))),
                    "required": level if required else None,
                }
            )
    return rows


def granularity_table() -> list[Row]:
    """Rows ``instruction``, ``expected``, ``found``, ``equal``, ``required``; the last has the share."""
    found = _parser().elements([instruction for instruction, _ in GRANULARITY_EXAMPLES])
    rows: list[Row] = [
        {
            "instruction": instruction,
            "expected": sorted(expected),
            "found": sorted(elements),
            "equal": float(sorted(expected) == sorted(elements)),
            "required": None,
        }
        for (instruction, expected), elements in zip(GRANULARITY_EXAMPLES, found, strict=True)
    ]
    share = float(np.mean([row["equal"] for row in rows]))
    counts = {key: float(np.mean([len(row[key]) for row in rows])) for key in ("expected", "found")}
    return [
        *rows,
        {"instruction": "all: mean number", **counts, "equal": share, "required": GRANULARITY_REQUIRED},
    ]


def instruction_table(path: Path) -> list[Row]:
    """Rows ``instruction``, ``found``, ``n`` for a file of instructions, one a line; the last is the mean."""
    texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = _parser().elements(texts)
    rows: list[Row] = [
        {"instruction": text, "found": elements, "n": float(len(elements))}
        for text, elements in zip(texts, found, strict=True)
    ]
    return [*rows, {"instruction": "all: mean number", "n": float(np.mean([row["n"] for row in rows]))}]


def _parser() -> SpacyParser:
    parser: SpacyParser = ModelStore(profiles.load("lite")).get("parser")
    return parser


def _values(model: BigramLM, texts: list[str]) -> list[float]:
    return [found.value for found in model.likelihood(texts) if found.value is not None]


def _letters(word: str, rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=len(re.sub(r"\W", "", word))))
