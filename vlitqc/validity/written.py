"""Cases as a data set on disk: LLaVA records in JSON Lines, pictures as PNG files named by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from vlitqc.types import Rgb
from vlitqc.validity.case import Case

_DECODED = 128
"""Pictures that are kept decoded, of at most 1.2 MB each."""


class Pictures(Sequence[Rgb]):
    """The pictures of a case, in files: each is decoded when it is asked for, and cannot be written to.

    Whoever hands it on unchanged, to the same case or to another, hands on the files.
    """

    def __init__(self, shelf: Shelf, references: Sequence[str]) -> None:
        self._shelf = shelf
        self.references = tuple(references)

    @overload
    def __getitem__(self, at: int) -> Rgb: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Rgb]: ...
    def __getitem__(self, at: int | slice) -> Rgb | Sequence[Rgb]:
        if isinstance(at, slice):
            return Pictures(self._shelf, self.references[at])
        return self._shelf.decoded(self.references[at])

    def __len__(self) -> int:
        return len(self.references)


class Shelf:
    """A folder of pictures below ``root``; one that ``clean`` has is not written a second time."""

    def __init__(self, root: Path, name: str, clean: Shelf | None = None) -> None:
        self.root = root
        self.decoded = lru_cache(maxsize=_DECODED)(self._decode)
        self._name = name
        self._clean = clean
        self._known: set[str] = set()
        (root / name).mkdir()

    def put(self, picture: Rgb) -> str:
        """The path, relative to ``root``, of the file that holds these pixels."""
        name = hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).hexdigest()[:32] + ".png"
        if self._clean is not None and name in self._clean._known:
            return f"{self._clean._name}/{name}"
        path = f"{self._name}/{name}"
        if name not in self._known:
            # Most of the time of a PNG goes into its last few percent of size.
            Image.fromarray(picture).save(self.root / path, "PNG", compress_level=1)
            self._known.add(name)
        return path

    def _decode(self, reference: str) -> Rgb:
        with Image.open(self.root / reference) as image:
            picture: Rgb = np.asarray(image.convert("RGB"))
        picture.flags.writeable = False
        return picture

    def references(self, case: Case) -> Sequence[str]:
        """The files of a case's pictures."""
        if isinstance(case.pictures, Pictures):
            return case.pictures.references
        return [self.put(picture) for picture in case.pictures]


def write(path: Path, cases: Iterable[Case], shelf: Shelf) -> None:
    """Write the cases as records whose ids are their places."""
    with path.open("w", encoding="utf-8") as file:
        for place, case in enumerate(cases):
            file.write(json.dumps(_record(place, case, shelf)) + "\n")


def _record(place: int, case: Case, shelf: Shelf) -> dict[str, object]:
    references = shelf.references(case)
    tokens = "<image>\n" * len(references)
    conversation = []
    for i, turn in enumerate(case.turns):
        conversation.append({"from": "human", "value": (tokens if i == 0 else "") + turn.instruction})
        conversation.append({"from": "gpt", "value": turn.response})
    images = {"image": list(references)} if references else {}
    return {"id": str(place), **images, "conversations": conversation}
