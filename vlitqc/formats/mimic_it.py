"""MIMIC-IT: instructions in one JSON object, and their pictures as base64, by their ids, in another file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from vlitqc.formats.json_document import Document, JsonDocument, entry
from vlitqc.formats.json_records import MAX_RECORD_BYTES
from vlitqc.formats.names import Names
from vlitqc.formats.streams import Content, Stream
from vlitqc.types import Origin, Record

_ENDINGS = (".json", ".json.gz", ".json.zst")


class MimicIt(JsonDocument):
    """Instructions with ``image_ids``, and beside them the file that holds the pictures.

    The pictures of ``LA_instructions.json`` are in ``LA.json``; those of a file with another name, in the one that
    its image ids begin with (``LA.json`` for ``LA_IMG_000000001``). A picture that is not there is a missing image of
    its record.
    """

    name = "mimic_it"
    rank: ClassVar[int] = 40

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether it is an object with records that name their pictures by ``image_ids``."""
        return b'"image_ids"' in head and super().fits(path, head)

    def __init__(self, path: Path, names: Names) -> None:
        super().__init__(path, names)
        self._images = self._find_images()
        self._places: dict[str, tuple[int, int]] | None = None
        self._stream: Stream | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None}

    @property
    def files(self) -> tuple[Path, ...]:
        """The instructions, and the pictures where they are there."""
        return (self.path,) if self._images is None else (self.path, self._images.path)

    def records(self, first_row: int = 0) -> Iterator[Record]:
        """Every record; of the pictures, memory holds the places."""
        try:
            yield from super().records(first_row)
        finally:
            self._close()

    def record(self, origin: Origin) -> Record:
        """The record at ``origin``, read again."""
        try:
            return super().record(origin)
        finally:
            self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def fields(self, value: Any) -> dict[str, Any]:
        """The record with its pictures."""
        held = super().fields(value)
        ids = held.get("image_ids")
        if not isinstance(ids, list) or not ids:
            return held
        return {**held, "images": [self._picture(str(id)) for id in ids]}

    def _picture(self, id: str) -> dict[str, Any]:
        if self._images is None:
            return {"path": id}
        if self._stream is None:
            self._stream = self._images.open()
        if self._places is None:
            self._places = {}
            for piece in Document(self._stream, MAX_RECORD_BYTES).entries():
                key, _, fault = entry(piece.raw or b"")
                if key is not None and not piece.fault and not fault:
                    self._places[key] = (piece.start, piece.end)
        if id not in self._places:
            return {"path": id}
        start, end = self._places[id]
        self._stream.seek(start)
        _, text, _ = entry(self._stream.read(end - start))
        if not isinstance(text, str):
            return {"path": id}
        try:
            return {"path": id, "bytes": base64.b64decode(text.rpartition(",")[2], validate=True)}
        except (binascii.Error, ValueError):
            return {"path": id, "base64": text}

    def _find_images(self) -> Content | None:
        stem = self.path.name.partition(".")[0]
        names = [stem.removesuffix("_instructions")] if stem.endswith("_instructions") else []
        with self.content.open() as file:
            first = next(self.pieces(file), None)
        value = self.parse(first.raw or b"")[0] if first is not None else None
        ids = value.get("image_ids") if isinstance(value, dict) else None
        if isinstance(ids, list) and ids:
            names.append(str(ids[0]).partition("_IMG_")[0][:100])
        for name in names:
            for ending in _ENDINGS:
                path = self.path.with_name(Path(name + ending).name)
                if path.is_file() and not path.samefile(self.path):
                    return Content(path)
        return None
