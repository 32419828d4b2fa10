"""Folders that Hugging Face datasets' save_to_disk wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from vlitqc.formats.names import Names


class SavedDataset:
    """Folders that Hugging Face datasets' save_to_disk wrote."""

    rank: ClassVar[int] = 22

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """To be built."""
        return False

    def __init__(self, path: Path, names: Names) -> None:
        raise NotImplementedError
