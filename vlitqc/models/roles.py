"""Whether a model can play the role that it is given: what the constructor's annotation says it must be."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from vlitqc.errors import UsageError


def check_roles(constructor: Callable[..., Any], models: Mapping[str, tuple[str, Any]], where: str) -> None:
    """Raise UsageError where a model lacks what its role asks for.

    ``models`` are slot and model by role. A role is checked where the constructor annotates it with one of the
    protocols of ``vlitqc.types``; a method or property that the protocol names must be there.
    """
    try:
        hints = typing.get_type_hints(getattr(constructor, "__init__", constructor))
    except NameError:
        # A third party's annotation that exists for the type checker alone says nothing here.
        return
    for role, (slot, model) in models.items():
        asked = [kind for kind in (hints.get(role), *typing.get_args(hints.get(role))) if _is_protocol(kind)]
        for kind in asked:
            lacking = [name for name in _members(kind) if inspect.getattr_static(model, name, None) is None]
            if lacking:
                raise UsageError(
                    f"{where}: the model '{slot}' cannot be the {role}: it is no {kind.__name__} "
                    f"(it has no {', '.join(sorted(lacking))})"
                )


def _is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False)) and kind.__module__ == "vlitqc.types"


def _members(kind: Any) -> set[str]:
    """The methods of a protocol and of those that it extends; attributes set by a constructor are not seen."""
    return {
        name
        for base in kind.__mro__
        if _is_protocol(base)
        for name, member in vars(base).items()
        if not name.startswith("_") and inspect.isfunction(member)
    }
