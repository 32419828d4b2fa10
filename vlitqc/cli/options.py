"""What several commands share of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlitqc.errors import RunError

if TYPE_CHECKING:
    from vlitqc.engine.run import Run

EXIT_CODES = """
\b
Exit codes: 0 fine · 1 a gate failed (check) · 2 wrong usage · 3 unusable input ·
4 some samples could not be scored (only with --strict or --max-errors)
"""
PATH = click.Path(readable=False, path_type=Path)
"""Whether a path can be read is said by what opens it."""


class Lines(click.types.StringParamType):
    """A text of an option that may be repeated. In the option's environment variable it is a line: a rule may hold
    spaces, at which click would split."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return [line for line in rv.splitlines() if line.strip()]


LINES = Lines()


def run_directory(path: Path | None) -> Path:
    """What Run.open gets: the run or file named, or the latest run here."""
    if path is None:
        here = sorted(Path.cwd().glob("*.vlitqc/scorecard.json"), key=lambda p: p.stat().st_mtime)
        if not here:
            raise RunError("there is no run in this folder; score a data set first: vlitqc score DATA")
        return here[-1].parent
    return path


def open_run(paths: Sequence[Path]) -> Run:
    """The run of these paths, which may be its own folder; without any, the latest run here."""
    from vlitqc.engine.run import Run

    return Run.open(paths if len(paths) > 1 else run_directory(paths[0] if paths else None))
