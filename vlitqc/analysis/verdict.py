"""The verdict: what share of the records a curator should look at before training, and what to do first.

A record counts as *suspect* if it is unreadable, carries an issue of severity ``error`` or ``warning``, or falls
below a floor that the profile recommends. What is to be fixed first are errors, then warnings and floors, each by the
number of records. The level is ``good`` below 2% suspect records, ``fair`` below 10%,
else ``poor``: limits of our own choosing, stated with every verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlitqc.analysis.issues import KINDS

GOOD_BELOW, FAIR_BELOW = 0.02, 0.10
TO_FIX = 3
NONE: NDArray[np.int64] = np.empty(0, np.int64)


def verdict(
    records: int,
    run: str,
    issue_rows: Mapping[str, NDArray[np.int64]],
    below: Sequence[tuple[Mapping[str, Any], NDArray[np.int64]]],
    missing: Sequence[str] = (),
    unreadable: NDArray[np.int64] = NONE,
) -> dict[str, Any]:
    """The verdict from rows with errors or warnings by issue kind, and rows below each metric's recommended floor.

    ``missing`` names metrics that could not be computed for a fault; then the verdict is at best fair.
    ``unreadable`` are the rows that no filter keeps, so that there is nothing to drop.

    ``run`` is the run directory as a shell word, for the commands.
    """
    problems: list[tuple[bool, dict[str, Any]]] = []
    for kind, rows in issue_rows.items():
        n = len(np.unique(rows))
        readable = not np.isin(rows, unreadable).all()
        command = f"vlitqc filter {run} --drop-issue {kind}" if readable else None
        known = KINDS.get(kind)
        detail = known.cure if known else "see the places listed"
        grave = known is not None and "error" in known.severities
        problems.append(
            (grave, {"title": kind.replace("_", " "), "detail": detail, "n": n, "command": command})
        )
    for metric, rows in below:
        if len(rows):
            floor = metric["floor"]
            problems.append(
                (
                    False,
                    {
                        "title": f"low {metric['title'].lower()}",
                        "detail": f"below the recommended floor of {floor:g} {metric['unit']}".rstrip(),
                        "n": len(rows),
                        "command": f"vlitqc filter {run} --drop-below {metric['name']}={floor}",
                    },
                )
            )
    every = [*issue_rows.values(), *(rows for _, rows in below)]
    suspect = len(np.unique(np.concatenate(every))) if every else 0
    share = suspect / records if records else 1.0
    level = "good" if share < GOOD_BELOW else "fair" if share < FAIR_BELOW else "poor"
    if missing and level == "good":
        level = "fair"
    if not records:
        headline = "No record was found."
    elif not suspect:
        headline = f"None of the {records:,} records has a known defect."
    else:
        headline = (
            f"{suspect:,} of {records:,} records ({100 * share:.1f}%) have a defect or fall below a floor."
        )
    if missing:
        several = "metrics have" if len(missing) > 1 else "metric has"
        headline += (
            f" {len(missing)} {several} no value for a fault or a missing model: {', '.join(missing)}."
        )
    problems.sort(key=lambda item: (not item[0], -item[1]["n"], item[1]["title"]))
    return {
        "level": level,
        "headline": headline,
        "suspect": suspect,
        "limits": {"good_below": GOOD_BELOW, "fair_below": FAIR_BELOW},
        "to_fix": [problem for _, problem in problems[:TO_FIX]],
    }
