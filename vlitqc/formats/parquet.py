"""Parquet files: read by row groups, so that damage costs one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from vlitqc.errors import FormatError
from vlitqc.formats.table import Part, Source, Table, faults, slice_rows, unreadable

MAGIC = b"PAR1"
ENCRYPTED = b"PARE"
READ_BYTES = 1 << 20
"""Column chunks are read in steps of this size, not whole."""


class Parquet(Table):
    """A Parquet file with any schema.

    Raises FormatError where the footer is lost, for it alone tells where the rows are, or encrypted.
    """

    rank: ClassVar[int] = 10
    name = "parquet"
    keeps_parts_whole = False

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether it begins as Parquet does."""
        return head.startswith((MAGIC, ENCRYPTED))

    @contextmanager
    def _open(self) -> Iterator[Source]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self.path.open("rb") as raw:
            magic = raw.read(len(MAGIC))
        if magic == ENCRYPTED:
            raise FormatError(
                f"{self.path} is an encrypted Parquet file; decrypt it with the tool that wrote it"
            )
        if magic != MAGIC:
            raise FormatError(f"{self.path} is a Parquet file packed once more; unpack it, e.g. with: gunzip")
        with pa.OSFile(str(self.path)) as file:
            try:
                opened = pq.ParquetFile(
                    file, pre_buffer=False, buffer_size=READ_BYTES, page_checksum_verification=True
                )
                schema = opened.schema_arrow
            except faults() as error:
                raise unreadable(
                    self.path, "a Parquet file", error, "it may be cut short: fetch it again"
                ) from error
            parts = []
            first = 0
            for i in range(opened.num_row_groups):
                group = opened.metadata.row_group(i)
                name = f"row group {i + 1} of {opened.num_row_groups}"
                parts.append(Part(name, first, group.num_rows, _Slices(opened, i)))
                first += group.num_rows
            with opened:
                yield Source(schema, parts, lambda target: _writer(opened, schema, target))


class _Slices:
    """A row group in slices."""

    def __init__(self, file: Any, group: int) -> None:
        self._file = file
        self._group = group

    def __call__(self) -> Iterator[Any]:
        group = self._file.metadata.row_group(self._group)
        rows = slice_rows(group.total_byte_size, group.num_rows)
        return iter(self._file.iter_batches(rows, row_groups=[self._group]))


def _writer(file: Any, schema: Any, target: Path) -> Any:
    import pyarrow.parquet as pq

    writer = pq.ParquetWriter(target, schema, **_settings(file))
    known = {b"ARROW:schema", *(schema.metadata or ())}
    own = {key: value for key, value in (file.metadata.metadata or {}).items() if key not in known}
    writer.add_key_value_metadata(own)
    return writer


def _settings(file: Any) -> dict[str, Any]:
    """How the input was written, as ``ParquetWriter`` is told it: codecs, dictionaries, page index."""
    codecs: dict[str, str] = {}
    with_dictionary: list[str] = []
    indexed = False
    read = next((i for i in range(file.num_row_groups) if _is_readable(file, i)), None)
    group = None if read is None else file.metadata.row_group(read)
    columns = [] if group is None else [group.column(j) for j in range(group.num_columns)]
    for j, column in enumerate(columns):
        path = file.schema.column(j).path
        codecs[path] = "NONE" if column.compression == "UNCOMPRESSED" else column.compression
        if column.has_dictionary_page:
            with_dictionary.append(path)
        indexed = indexed or column.has_offset_index
    same = len(set(codecs.values())) == 1
    return {
        "compression": next(iter(codecs.values())) if same else codecs or "SNAPPY",
        "use_dictionary": with_dictionary,
        "write_page_index": indexed,
        # So that the elements of lists keep their names; the schema as read has those of the file.
        "use_compliant_nested_type": False,
    }


def _is_readable(file: Any, group: int) -> bool:
    """Whether a row group has a first row. Of one that has none, pyarrow may end the process when asked how it is
    compressed."""
    try:
        return next(file.iter_batches(1, row_groups=[group]), None) is not None
    except faults():
        return False
