"""Hugging Face image folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from vlitqc.formats.names import Names


class ImageFolder:
    """Hugging Face image folders."""

    rank: ClassVar[int] = 20

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """To be built."""
        return False

    def __init__(self, path: Path, names: Names) -> None:
        raise NotImplementedError
