"""Does each metric of the lite profile measure what it says? One command, one table.

    python benchmarks/validity.py --data DIR

Rows with a requirement say whether it holds (at most, for a negative one; else at least); the exit code is 1 if
one does not. Sections whose sets are absent under ``--data`` are left out and named. Nothing is fitted to them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import validity_images
import validity_matching
import validity_text
from rich.console import Console
from rich.table import Table

Rows = list[dict[str, Any]]

SECTIONS: dict[str, Callable[[Path], Rows]] = {
    "image-text matching, true vs shuffled captions": validity_matching.matching_table,
    "image readability, Spearman with distortion level": validity_images.image_readability_table,
    "visual complexity, Spearman with human scores": validity_images.visual_complexity_table,
    "text readability, real sentences vs corrupted": validity_text.text_readability_table,
    "granularity complexity, elements found vs written by hand": lambda _: validity_text.granularity_table(),
}


MEASURED = ("spearman", "auc", "auc matching_degree", "equal")
"""The columns that a requirement is about: each row has one."""


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a column ``holds`` where it has a requirement."""
    required = row.get("required")
    if required is None:
        return {name: value for name, value in row.items() if name not in ("required", "holds")}
    value = next(row[name] for name in MEASURED if name in row)
    return {
        **row,
        "required": required,
        "holds": bool(value <= required if required < 0 else value >= required),
    }


def cell(value: Any) -> str:
    """A number with three decimals, a tick or a cross, or the text as it is."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def table(title: str, rows: Rows, seconds: float) -> Table:
    """One section."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    made = Table(title=f"{title} ({seconds:.0f} s)", title_justify="left", box=None, pad_edge=False)
    for name in columns:
        text = all(isinstance(row.get(name), str | type(None)) for row in rows)
        made.add_column(name, justify="left" if text else "right")
    for row in rows:
        made.add_row(*(cell(row.get(name)) for name in columns))
    return made


def failures(sections: Iterable[Rows]) -> int:
    """How many rows miss what they require."""
    return sum(row.get("holds") is False for rows in sections for row in rows)


def main() -> int:
    """Print the table; 1 if a requirement does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the public data sets")
    parser.add_argument("--instructions", type=Path, help="also count the elements of each line of this file")
    args = parser.parse_args()
    data = args.data
    if not data.is_dir():
        parser.error(f"--data {data} is not a folder")
    console = Console(width=None if sys.stdout.isatty() else 160)
    found = []
    sections = dict(SECTIONS)
    if args.instructions is not None:
        file = args.instructions
        sections[f"granularity complexity of {file.name}"] = lambda _: validity_text.instruction_table(file)
    for title, compute in sections.items():
        started = time.monotonic()
        try:
            rows = [judged(row) for row in compute(data)]
        except FileNotFoundError as error:
            console.print(f"{title}: left out, {error.filename} is absent\n")
            continue
        found.append(rows)
        console.print(table(title, rows, time.monotonic() - started), "")
    missed = failures(found)
    required = sum("holds" in row for rows in found for row in rows)
    console.print(f"{required - missed} of {required} requirements hold")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
