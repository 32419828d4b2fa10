"""Optional libraries: imported by a backend only, and only where a profile asks for that backend."""

from __future__ import annotations

from importlib.util import find_spec

from vlitqc.errors import ModelUnavailable


def need(module: str, install: str) -> None:
    """Raise ModelUnavailable, with the command that installs it, unless ``module`` can be imported.

    Nothing is imported: a backend calls this in its constructor, and imports on first use.
    """
    if find_spec(module) is None:
        raise ModelUnavailable(f"the library {module} is not installed; run: pip install '{install}'")
