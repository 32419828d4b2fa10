"""Every error that vlitqc raises on purpose. A message says what was expected, what was found, and the cure.

::

    VlitqcError
    ├── UsageError            wrong words on the command line or in a call       exit 2
    │   ├── UnknownName       no such metric, model, profile, column, format
    │   └── NameCollision     two packages register the same name
    ├── InputError            the input cannot be used at all                    exit 3
    │   └── FormatError       no format fits, or the one asked for does not
    │       └── NoConversation  it can be read, and holds no conversation
    ├── RunError              a run directory is missing, broken, or in use      exit 3
    └── ModelUnavailable      weights are missing or are not the ones named      (its metrics say so; verify: exit 3)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST_REASON = 300
MOST_KNOWN = 12
"""Names that a message lists where none is near."""


def as_reason(error: Exception) -> str:
    """An unexpected error as the reason of a missing score: one line, for what a library says may run over pages."""
    return f"error: {type(error).__name__}: {' '.join(str(error).split())[:LONGEST_REASON]}"


class VlitqcError(Exception):
    """Anything that vlitqc reports instead of a traceback. ``exit_code`` is the command line's."""

    exit_code = 2

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by the constructor: what it takes need not be the message.
        return _again, (type(self), *self.args)


def _again(kind: type[VlitqcError], *args: object) -> VlitqcError:
    """An error as it was raised in another process."""
    return kind.__new__(kind, *args)


class UsageError(VlitqcError):
    """The call itself is wrong."""


class UnknownName(UsageError):
    """No such name; says which ones are near, or some of those there are. ``hint`` is said at the end."""

    def __init__(self, what: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        more = f" and {len(known) - MOST_KNOWN} more" if len(known) > MOST_KNOWN else ""
        listed = f"known: {', '.join(known[:MOST_KNOWN]) or 'none'}{more}"
        told = f"did you mean {' or '.join(near)}?" if near else listed
        super().__init__(f"no {what} is called '{name}'; {told}{f'; {hint}' if hint else ''}")


class NameCollision(UsageError):
    """Two owners for one name."""

    def __init__(self, what: str, name: str, owners: Iterable[str]) -> None:
        super().__init__(
            f"{what} '{name}' is registered by {' and by '.join(owners)}; uninstall one or rename its entry point"
        )


class InputError(VlitqcError):
    """The input cannot be used at all."""

    exit_code = 3


class FormatError(InputError):
    """No known format fits the file."""


class NoConversation(FormatError):
    """A table or document that can be read, and in which no conversation is found."""


class RunError(VlitqcError):
    """A run directory is missing, broken or in use."""

    exit_code = 3


class ModelUnavailable(VlitqcError):
    """Weights are missing or are not the ones that the profile names."""

    exit_code = 3
