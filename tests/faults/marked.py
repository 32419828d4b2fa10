"""A language model that takes a device, for the tests of pools: it writes down where it is loaded, and ends its
process, refuses or waits where a text tells it to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlitqc.types import ModelRef, Scale, TextLikelihood

LOADS = "VLITQC_TEST_LOADS"
"""The file that each load adds the kind of its process to."""
GATE = "VLITQC_TEST_GATE"
"""The file that a text which waits waits for."""
SECONDS = 0.005
"""How long a text takes."""


class Marked:
    """The value of a text is its length."""

    def __init__(self, ref: ModelRef, files: Mapping[str, Path], *, device: str = "auto") -> None:
        self.ref = ref
        self.device = device
        self._loaded = False

    @property
    def scale(self) -> Scale:
        """Characters."""
        return Scale("characters", (0.0, float("inf")), None)

    def likelihood(self, texts: Sequence[str]) -> list[TextLikelihood]:
        """Raises ValueError for a text that is refused."""
        if not self._loaded:
            self._loaded = True
            kind = Path("/proc/self/cmdline").read_bytes().partition(b".")[0].decode()
            with Path(os.environ[LOADS]).open("a") as stream:
                stream.write(f"{kind}\n")
        for text in texts:
            if "fatal" in text:
                os.kill(os.getpid(), signal.SIGKILL)
            if "refused" in text:
                raise ValueError("it is refused")
            while "waits" in text and not Path(os.environ[GATE]).exists():
                time.sleep(0.02)
            time.sleep(SECONDS)
        return [TextLikelihood(float(len(text)), None, self.ref.name, "", 1) for text in texts]
