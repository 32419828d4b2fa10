"""Where on this machine is kept what a run should not fetch or ask for twice."""

from __future__ import annotations

import os
from pathlib import Path

from vlitqc.errors import UsageError


def cache_folder(option: str | Path | None = None) -> Path:
    """The folder for answers and downloaded weights: the first that is set of

    ``option``, ``$VLITQC_CACHE``, ``$XDG_CACHE_HOME/vlitqc``, ``~/.cache/vlitqc``. It need not exist. An empty
    variable counts as unset, and so does an ``XDG_CACHE_HOME`` that is no absolute path (as its standard says).
    Raises UsageError where it would lie in a home that is not known.
    """
    own = option or os.environ.get("VLITQC_CACHE")
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own:
            return Path(own).expanduser()
        return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "vlitqc"
    except RuntimeError as error:
        raise UsageError(
            f"there is no folder for the cache ({error}); give its whole path in VLITQC_CACHE"
        ) from error
