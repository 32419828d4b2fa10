"""A comparison in Markdown, for the card of a data set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$:@-])")


def markdown(found: Mapping[str, Any]) -> str:
    """The paper's tables and the differences from the first data set."""
    metrics = {metric["name"]: metric for metric in found["metrics"]}
    columns = [column for column in found["columns"] if column["metric"] in metrics]
    lines = []
    for i, data in enumerate(found["sets"]):
        cells = [_printed(metrics[column["metric"]]["values"][i], column["decimals"]) for column in columns]
        lines.append([f"{data['letter']} {escaped(data['name'])}", f"{data['n']:,}", *cells])
    parts = [_table(["data set", "n", *(escaped(column["head"]) for column in columns)], lines)]
    for i, data in enumerate(found["sets"][1:], 1):
        told = [metric for metric in found["metrics"] if metric["differences"][i]["interval"] is not None]
        rows = [
            [
                escaped(metric["title"]),
                metric["differences"][i]["printed"]["difference"],
                metric["differences"][i]["printed"]["interval"],
                _word(metric["differences"][i]),
            ]
            for metric in told
        ]
        if rows:
            heading = f"Differences of {data['letter']} from A, data-set metrics at equal size:"
            parts.append(f"{heading}\n\n{_table(['metric', 'difference', '95% interval', 'clear'], rows)}")
    profiles = dict.fromkeys(data["profile"]["name"] for data in found["sets"])
    parts.append(f"vlitqc {found['vlitqc']}, profile {escaped(', '.join(profiles))}.")
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text of unknown origin that Markdown shows as it is, in one line; hidden characters become U+FFFD."""
    plain = "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text
    )
    return _MARKS.sub(r"\\\1", plain)


def _printed(value: Mapping[str, Any] | None, decimals: int) -> str:
    if value is None or value["value"] is None:
        return "–"
    return f"{value['value']:z.{decimals}f}" + ("\\*" if value["note"] else "")


def _word(difference: Mapping[str, Any]) -> str:
    if not difference["clear"]:
        return ""
    return "yes" if difference["holds"] else "by itself"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
