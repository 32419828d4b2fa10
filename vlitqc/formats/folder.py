"""Folders of data files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from vlitqc.formats.names import Names


class Folder:
    """Folders of data files."""

    rank: ClassVar[int] = 90

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """To be built."""
        return False

    def __init__(self, path: Path, names: Names) -> None:
        raise NotImplementedError
