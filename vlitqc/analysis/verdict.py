"""The verdict: what share of the records a curator should look at before training, and what to do first.

A record counts as *suspect* if it is unreadable, carries an issue of severity ``error`` or ``warning``, or falls
below a floor that the profile recommends. The level is ``good`` below 2% suspect records, ``fair`` below 10%,
else ``poor``: limits of our own choosing, stated with every verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOOD_BELOW, FAIR_BELOW = 0.02, 0.10
TO_FIX = 3

CURES = {
    "malformed_record": "these lines are not valid records; correct or delete them at the places listed",
    "list_cut_short": "the file ends early and later records are lost; fetch or export it again",
    "missing_image": "the pictures are not where the records say; check --image-root or the copy",
    "unreadable_image": "the files cannot be decoded; fetch them again or drop the records",
    "truncated_image": "the files end early; fetch them again or drop the records",
    "path_outside_root": "the paths leave the image root; correct them, or pass --allow-outside if they are meant",
    "remote_image": "the pictures are URLs that were not fetched; pass --allow-remote, or download them",
    "empty_turn": "a turn has no response to learn from; complete or drop it",
    "image_token_mismatch": "image tokens and pictures differ in number; the trainer would fail or misalign them",
    "exact_duplicate": "the same conversation on the same picture occurs again; keep one",
    "near_duplicate_text": "nearly the same response on the same picture occurs again; keep one, or reword",
    "unknown_role": "a speaker is neither side of the conversation; correct the name of the role",
    "broken_character": "half a character was read as U+FFFD; correct the export",
    "untagged": "the judge did not name their task; run the same command again when it answers",
    "metric_error": "a metric failed on these records; the table says how",
}


def verdict(
    records: int,
    run: str,
    issue_rows: Mapping[str, NDArray[np.int64]],
    below: Sequence[tuple[Mapping[str, Any], NDArray[np.int64]]],
    missing: Sequence[str] = (),
) -> dict[str, Any]:
    """The verdict from rows with errors or warnings by issue kind, and rows below each metric's recommended floor.

    ``missing`` names metrics that could not be computed for a fault; then the verdict is at best fair.

    ``run`` is the run directory as a shell word, for the commands.
    """
    problems: list[tuple[int, dict[str, Any]]] = []
    for kind, rows in issue_rows.items():
        n = len(np.unique(rows))
        # What cannot be read has a file of its own; there is nothing to drop.
        command = (
            None
            if kind in ("malformed_record", "list_cut_short")
            else f"vlitqc filter {run} --drop-issue {kind}"
        )
        detail = CURES.get(kind, "see the places listed")
        problems.append((n, {"title": kind.replace("_", " "), "detail": detail, "n": n, "command": command}))
    for metric, rows in below:
        if len(rows):
            floor = metric["floor"]
            problems.append(
                (
                    len(rows),
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
    problems.sort(key=lambda item: (-item[0], item[1]["title"]))
    return {
        "level": level,
        "headline": headline,
        "suspect": suspect,
        "limits": {"good_below": GOOD_BELOW, "fair_below": FAIR_BELOW},
        "to_fix": [problem for _, problem in problems[:TO_FIX]],
    }
