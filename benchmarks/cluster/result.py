"""What a part of the benchmark found, as a table for the screen and for the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One table; ``met`` says whether everything in it is as it must be."""

    title: str
    text: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    met: bool = True

    def markdown(self) -> str:
        parts = [f"## {self.title}\n", f"{' '.join(self.text.split())}\n", table(self.headings, self.rows)]
        parts += [f"- {note}\n" for note in self.notes]
        return "\n".join(parts[:3]) + ("\n" + "".join(parts[3:]) if self.notes else "")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
