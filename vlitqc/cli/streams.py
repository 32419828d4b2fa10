"""Where the command line writes to."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_OF_FILES = 160
PLAIN = {
    "–": "-",
    "−": "-",
    "≤": "<=",
    "≥": ">=",
    "…": "~",
    "→": ">",
    "↑": "^",
    "↓": "v",
    "×": "x",
    "·": "*",
    "█": "#",
    "░": ".",
}


def terminal(*, stderr: bool = False) -> Console:
    """A screen for people: standard output, or standard error."""
    from rich.console import Console

    # A pipe or a file has no width of its own; 80 columns would fold every table.
    piped = not (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, emoji=False, width=WIDTH_OF_FILES if piped else None)


def print_json(value: Any) -> None:
    """Write JSON to standard output."""
    # All in ASCII, so that no bidi or control character of the data reaches the terminal as itself.
    click.echo(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


def in_plain(error: UnicodeError) -> tuple[str, int]:
    """The characters that a terminal's encoding has not, by ones that every encoding has."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end
