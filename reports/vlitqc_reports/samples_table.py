"""A run as one parquet table, a row a record, as Embedding Atlas, FiftyOne and pandas open it.

Text and paths of pictures are plain columns beside the scores, so that nothing has to be joined or decoded.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlitqc.engine.run import Run
from vlitqc.errors import RunError
from vlitqc.types import Record, Unreadable
from vlitqc_reports.explorer import maps

ROWS = 10_000
BYTES = 1 << 25
"""A row group ends after so many rows, or once its texts have so many characters."""

PARAGRAPH = "\n\n"
_TEXT = pa.string()
_CONTENT = pa.struct(
    [
        ("text", _TEXT),
        ("instruction", _TEXT),
        ("response", _TEXT),
        ("image", _TEXT),
        ("images", pa.list_(_TEXT)),
    ]
)
_COORDINATES = {"response": ("x", "y"), "picture": ("image_x", "image_y")}
_FIRST = ("row", "id", "file", "line", "state", "task")
_LEFT_OUT = ("start", "end", "sha256")
"""Columns of the run's table that tell only where bytes lie."""


def write_samples(run: Run, out: Path, *, projection: str = "pca") -> Path:
    """Write one row a record to ``out`` and return it. Columns, in this order:

    - ``row``, ``id``, ``file``, ``line``, ``state``, ``task``: the record and where it stands;
    - ``text``: the whole conversation; ``instruction`` and ``response``: one side of it. Turns are joined by blank
      lines;
    - ``image``: the path of the first picture; ``images``: of all, in order. Null for a picture that is no file of
      its own (it stands in the record or an archive), was not fetched, or lies outside of the image root;
    - ``x``, ``y`` and ``image_x``, ``image_y``: the record on the map of responses and of pictures, made by
      ``projection``: "pca", "umap", or "none";
    - every other column of the run's table of scores; one that has a name from above is called ``score_<name>``.

    What a record does not have is null. The input is read once, in order, with a few thousand records in memory.
    Raises InputError where it has moved or changed since, UsageError where the projection cannot be had.
    """
    columns = _coordinates(run, projection)
    records = iter(run.reader.records())
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        with _Writer(draft) as writer:
            for scores in _scores(run):
                at = 0
                for content in _contents(run, records, scores["row"].to_pylist()):
                    writer.write(_joined(scores.slice(at, len(content)), content, columns))
                    at += len(content)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return out


class _Writer:
    """A parquet file whose schema is that of the first table written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, table: pa.Table) -> None:
        """Add the table as a row group."""
        if self._file is None:
            self._file = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._file.write_table(table, row_group_size=len(table))


def _scores(run: Run) -> Iterator[pa.Table]:
    """The run's table of scores, some thousand rows at a time, in the order of the input."""
    for part in sorted((run.path / "scores").glob("*.parquet")):
        try:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(ROWS):
                    yield pa.Table.from_batches([batch]).drop_columns([*_LEFT_OUT])
        except (OSError, pa.ArrowException) as error:
            raise RunError(
                f"{run.place}/scores/{part.name} cannot be read ({error}); score the data again"
            ) from error


def _contents(run: Run, records: Iterator[Record], rows: list[int]) -> Iterator[pa.StructArray]:
    """What the records of these rows hold, which the input gives next; an array ends where it gets long."""
    found: list[dict[str, Any] | None] = []
    held = 0
    for row, record in itertools.zip_longest(rows, itertools.islice(records, len(rows))):
        if record is None or record.origin.row != row:
            raise RunError(
                f"the input does not hold the records of {run.place} in their order; score it again"
            )
        content = _content(run, record)
        found.append(content)
        held += len(content["text"]) if content else 0
        if held >= BYTES:
            yield pa.array(found, _CONTENT)
            found, held = [], 0
    if found:
        yield pa.array(found, _CONTENT)


def _content(run: Run, record: Record) -> dict[str, Any] | None:
    if isinstance(record, Unreadable):
        return None
    paths = [None if path is None else _in_utf8(path) for path in run.image_paths(record)]
    return {
        "text": PARAGRAPH.join(text for turn in record.turns for text in (turn.instruction, turn.response)),
        "instruction": PARAGRAPH.join(turn.instruction for turn in record.turns),
        "response": PARAGRAPH.join(turn.response for turn in record.turns),
        "image": paths[0] if paths else None,
        "images": paths,
    }


def _in_utf8(path: Path) -> str:
    """The path as text, each byte that is no UTF-8 as ``\\udcff``: no table can hold it."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _joined(scores: pa.Table, content: pa.StructArray, coordinates: Mapping[str, pa.Array]) -> pa.Table:
    first = [name for name in _FIRST if name in scores.column_names]
    start = scores["row"][0].as_py()
    parts = {name: scores[name] for name in first}
    parts |= {field.name: pc.struct_field(content, field.name) for field in _CONTENT}
    parts |= {name: values.slice(start, len(scores)) for name, values in coordinates.items()}
    for name in scores.column_names:
        if name not in first:
            own = name
            while own in parts:
                own = f"score_{own}"
            parts[own] = scores[name]
    return pa.table(parts)


def _coordinates(run: Run, method: str) -> dict[str, pa.Array]:
    """The columns of coordinates, one value a record, 0 to 1 on the longer side of each map."""
    state = run.table(["state"])["state"]
    places = np.flatnonzero(pc.not_equal(state, "unreadable").to_numpy())
    found = {axis: pa.nulls(len(state), pa.float32()) for pair in _COORDINATES.values() for axis in pair}
    seed = run.scorecard["seed"]
    for shown in maps.projections(run, places, method=method, seed=seed, most=max(1, len(places))):
        rows = places if shown.index is None else places[shown.index]
        for axis, steps in zip(_COORDINATES[shown.name], (shown.x, shown.y), strict=True):
            values = np.full(len(state), np.nan, np.float32)
            values[rows] = steps / np.float32(np.iinfo(steps.dtype).max)
            found[axis] = pa.array(values, from_pandas=True)
    return found
