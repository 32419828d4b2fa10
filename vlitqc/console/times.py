"""Where the time of a run went, and what would make it faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from vlitqc.console.text import percent, visible
from vlitqc.types import Stage

SMALLEST = 0.01
"""What takes a smaller share of the time is not shown one by one."""

NETWORKS = frozenset(("Detector", "ImageEncoder", "ImageScorer", "ImageText", "TextEncoder"))
"""The kinds of models that are neural networks whatever their backend."""

OTHER = "everything else"
HEADINGS = {"models": "model", "metrics": "metric, without its models", "stages": "stage"}
CURES: dict[str, str] = {
    Stage.WAIT_FOR_DECODE: "decoding is slower than the models: more processor cores or a faster disk would help",
    Stage.WAIT_FOR_WRITE: "a faster disk would help",
    Stage.READ: "it is read by one process: a faster processor core would help, more of them would not",
}


def times(info: Mapping[str, Any]) -> Group:
    """The table of ``run.json``'s times, largest first, and one sentence of what to buy."""
    told = info["times"]
    entries = [
        (section, name, seconds)
        for section in HEADINGS
        for name, seconds in told[section].items()
        if name != Stage.WAIT_FOR_WORKERS  # it is no part of the sum
    ]
    measured = sum(seconds for _, _, seconds in entries)
    rest = told["wall"] - measured
    if rest > 0 and Stage.WAIT_FOR_WORKERS not in told["stages"]:
        entries.append(("stages", OTHER, rest))
    total = sum(seconds for _, _, seconds in entries) or 1.0
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("where the time went", overflow="fold")
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for section, heading in HEADINGS.items():
        rows = sorted(((s, name) for kind, name, s in entries if kind == section), reverse=True)
        if not rows:
            continue
        spent = sum(seconds for seconds, _ in rows)
        table.add_row(Text(heading, style="cyan"), f"{spent:,.1f}", percent(spent / total))
        shown = [(seconds, name) for seconds, name in rows if seconds >= SMALLEST * total]
        for seconds, name in shown:
            table.add_row(Text(f"  {visible(name)}"), f"{seconds:,.1f}", percent(seconds / total))
        if len(shown) < len(rows):
            small = sum(seconds for seconds, _ in rows[len(shown) :])
            table.add_row(f"  {len(rows) - len(shown)} smaller", f"{small:,.1f}", percent(small / total))
    decode = told["decode"]
    beside = (
        f"{told['wall']:,.1f} s in all. Beside this, decoding took {decode['busy']:,.1f} s of processor time; "
        f"the models waited {decode['waited']:,.1f} s for it."
    )
    section, name, seconds = max(entries, key=lambda entry: entry[2], default=("stages", OTHER, 0.0))
    return Group(
        table, "", beside, Text(advice(section, name, seconds / total, info["models"]), style="bold")
    )


def advice(section: str, name: str, share: float, models: list[Mapping[str, Any]]) -> str:
    """What the largest entry says of what to buy."""
    told = f"{share:.0%} of the time is in "
    if section == "models":
        kinds = {model["kind"] for model in models if model["name"] == name}
        if kinds & NETWORKS:
            cure = "a GPU, or a faster one, would help, or more processor cores"
        elif "Judge" in kinds:
            cure = "a faster judge or server would help"
        else:
            cure = "more processor cores with --workers would help"
        return f"{told}the model {visible(name)}; {cure}."
    if section == "metrics":
        return f"{told}the metric {visible(name)} itself; more processor cores with --workers would help."
    if name.startswith(Stage.DATA_SET):
        cure = "it looks at all records at once: a GPU would help where it clusters, --workers would not"
    else:
        cure = CURES.get(name, "neither a GPU nor --workers would change that")
    return f"{told}the stage “{visible(name)}”; {cure}."
