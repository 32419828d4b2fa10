"""Where on this machine is kept what a run should not fetch or ask for twice."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(option: str | Path | None = None) -> Path:
    """The folder for answers and downloaded weights: the first that is set of

    ``option``, ``$VLITQC_CACHE``, ``$XDG_CACHE_HOME/vlitqc``, ``~/.cache/vlitqc``. It need not exist. An empty
    variable counts as unset, and so does an ``XDG_CACHE_HOME`` that is no absolute path (as its standard says).
    """
    own = option or os.environ.get("VLITQC_CACHE")
    if own:
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "vlitqc"
