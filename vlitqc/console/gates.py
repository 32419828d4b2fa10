"""What ``vlitqc check`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from vlitqc.console.text import clean, visible


def gates(found: Sequence[Mapping[str, Any]]) -> Table:
    """Every requirement, whether it is met, and what the run has."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("gate", no_wrap=True)
    table.add_column("requirement", overflow="fold")
    table.add_column("found", overflow="fold")
    for gate in found:
        state = Text("passed", style="green") if gate["passed"] else Text("failed", style="bold red")
        told = Text(visible(gate["reason"]))
        if gate["because"] and not gate["passed"]:
            told.append(f"\n{visible(gate['because'])}", style="dim")
        table.add_row(state, clean(gate["requirement"]), told)
    return table
