"""What a data set calls things, where that is not what everybody calls them: ``--map`` and ``dataset_info.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vlitqc.errors import UnknownName, UsageError

FIELDS = (
    "id", "messages", "role", "content", "instruction", "input", "response", "history", "system", "caption",
    "image", "video", "audio",
)  # fmt: skip
"""What a field can be mapped to."""


@dataclass(frozen=True, slots=True)
class Names:
    """``fields``: our name → theirs, where a dot goes into an object (``image=meta.picture.path``) and the columns
    of a table without a header and the elements of a list are called ``0``, ``1``, …; ``speakers``: their name of
    a speaker → ``user``, ``assistant``, ``system`` or ``tool``.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    speakers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Names:
        """Of texts ``OURS=THEIRS``. Raises UsageError, or UnknownName for what cannot be mapped to."""
        fields: dict[str, str] = {}
        for text in texts:
            ours, equals, theirs = (part.strip() for part in text.partition("="))
            if not equals or not theirs:
                raise UsageError(
                    f"--map {text}: expected OURS=THEIRS, such as response=target or image=meta.path"
                )
            if ours not in FIELDS:
                raise UnknownName("field to map to", ours, FIELDS)
            fields[ours] = theirs
        return cls(fields)

    def as_json(self) -> dict[str, Any]:
        """For ``run.json``; ``Names(**…)`` of it is the same again."""
        return {"fields": dict(self.fields), "speakers": dict(self.speakers)}
