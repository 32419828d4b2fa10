"""LLaMA-Factory's dataset_info.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from vlitqc.formats.names import Names


class LlamaFactory:
    """LLaMA-Factory's dataset_info.json."""

    rank: ClassVar[int] = 21

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """To be built."""
        return False

    def __init__(self, path: Path, names: Names) -> None:
        raise NotImplementedError
