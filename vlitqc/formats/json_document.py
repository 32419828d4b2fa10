"""One JSON object with the records under a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from vlitqc.formats.names import Names


class JsonDocument:
    """One JSON object with the records under a key."""

    rank: ClassVar[int] = 50

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """To be built."""
        return False

    def __init__(self, path: Path, names: Names) -> None:
        raise NotImplementedError
