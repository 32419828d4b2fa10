#!/usr/bin/env python3
"""Tell which planted defects a run found.

    python examples/check_planted.py RUN_DIR PLANTED_JSON

Each entry of PLANTED_JSON names a sample by `id` (or by `line` where it has none) and says what finds it:

- `issue`: a row of that kind for that sample in RUN_DIR/issues.parquet. Where a defect takes two records,
  `of` is the id of the other one, and a row for either counts.
- `metric`: the sample is among the lowest tenth of the scored samples in that column of RUN_DIR/scores/.
- neither: the record is good, and it is found when it has a row in RUN_DIR/scores/.

Prints one line a defect. Exit codes: 0 all found, 1 some not found, 2 the files cannot be read.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd

Planted = dict[str, Any]


def rows_of(table: pd.DataFrame, entry: Planted) -> pd.DataFrame:
    """The rows of the table about the entry's sample: by id where it has one, else by line."""
    if "id" in entry:
        ids: list[str] = [entry[key] for key in ("id", "of") if key in entry]
        return table[table["id"].isin(ids)]
    line: int = entry["line"]
    return table[table["line"] == line]


def find_issue(issues: pd.DataFrame, entry: Planted) -> tuple[bool, str]:
    """(found, evidence) for an entry that names an issue kind."""
    kinds = sorted(set(rows_of(issues, entry)["kind"]))
    return entry["issue"] in kinds, f"issues: {', '.join(kinds) or 'none'}"


def find_low_score(scores: pd.DataFrame, entry: Planted) -> tuple[bool, str]:
    """(found, evidence) for an entry that names a metric: rank ≤ ⌈n/10⌉ among n scored samples, ties low."""
    metric: str = entry["metric"]
    if metric not in scores.columns:
        return False, f"the run has no column {metric}"
    values = scores[metric].astype("float64").dropna()
    mine = values[values.index.isin(rows_of(scores, entry).index)]
    if mine.empty:
        return False, "not scored"
    rank = int((values < mine.min()).sum()) + 1
    limit = math.ceil(len(values) / 10)
    return rank <= limit, f"{mine.min():.4g}, lowest {rank} of {len(values)} (limit {limit})"


def find(entry: Planted, scores: pd.DataFrame, issues: pd.DataFrame) -> tuple[bool, str]:
    """(found, evidence) for one planted entry. One with both an issue and a metric is found by either."""
    outcomes = []
    if "issue" in entry:
        outcomes.append(find_issue(issues, entry))
    if "metric" in entry:
        outcomes.append(find_low_score(scores, entry))
    if not outcomes:
        scored = not rows_of(scores, entry).empty
        outcomes.append((scored, "scored" if scored else "no row in the scores"))
    return any(found for found, _ in outcomes), "; ".join(evidence for _, evidence in outcomes)


def table(rows: list[tuple[str, ...]]) -> str:
    """The rows as left-aligned columns, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Tell which planted defects a run found.")
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("planted", type=Path, metavar="PLANTED_JSON")
    options = parser.parse_args(argv)
    try:
        planted: list[Planted] = json.loads(options.planted.read_text(encoding="utf-8"))
        scores = pd.read_parquet(options.run / "scores").reset_index(drop=True)
        issues = pd.read_parquet(options.run / "issues.parquet")
    except (OSError, ValueError) as error:
        print(f"check_planted: {error}", file=sys.stderr)
        return 2

    rows: list[tuple[str, ...]] = [("found", "planted", "sample", "line", "looked for", "evidence")]
    missed = 0
    for entry in planted:
        found, evidence = find(entry, scores, issues)
        missed += not found
        wanted = entry.get("issue") or entry.get("metric") or "a score"
        line = str(entry.get("line", "-"))
        rows.append(("yes" if found else "NO", entry["kind"], entry.get("id", "-"), line, wanted, evidence))
    print(table(rows))
    print(f"\n{len(planted) - missed} of {len(planted)} planted defects found")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
