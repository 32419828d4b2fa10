"""Comma-separated values."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from vlitqc.formats.names import Names


class Csv:
    """Comma-separated values."""

    rank: ClassVar[int] = 80

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """To be built."""
        return False

    def __init__(self, path: Path, names: Names) -> None:
        raise NotImplementedError


class Tsv(Csv):
    """Tab-separated values."""

    rank = 81
