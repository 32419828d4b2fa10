"""Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from vlitqc.formats.names import Names


class Parquet:
    """Parquet files."""

    rank: ClassVar[int] = 10

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """To be built."""
        return False

    def __init__(self, path: Path, names: Names) -> None:
        raise NotImplementedError
