"""The semantic elements that lite's parser finds in instructions, beside elements written down by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vlitqc import profiles
from vlitqc.models.spacy_parser import SpacyParser
from vlitqc.models.store import ModelStore

Row = dict[str, Any]

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
