"""What the terminal shows: progress, scorecard, tables. Data never reaches it with its control characters."""

from __future__ import annotations

from vlitqc.console.bars import RunProgress, download, progress
from vlitqc.console.comparison import comparison, parts_drawn
from vlitqc.console.correlations import correlations
from vlitqc.console.explanation import explanation
from vlitqc.console.filtering import filtered, floors
from vlitqc.console.gates import gates
from vlitqc.console.inspection import advice, inspection
from vlitqc.console.scorecard import scorecard
from vlitqc.console.text import clean, number, rows, size, usage, visible
from vlitqc.console.times import times
from vlitqc.console.validity import validity

__all__ = [
    "RunProgress",
    "advice",
    "clean",
    "comparison",
    "correlations",
    "download",
    "explanation",
    "filtered",
    "floors",
    "gates",
    "inspection",
    "number",
    "parts_drawn",
    "progress",
    "rows",
    "scorecard",
    "size",
    "times",
    "usage",
    "validity",
    "visible",
]
