"""A finished run, as a report needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlitqc.types import Clip, FeatureCache, FloatArray, Image, Record, Sample


class ReportableRun(Protocol):
    """What a report reads of ``vlitqc.engine.run.Run``."""

    @property
    def path(self) -> Path:
        """The run directory."""
        ...

    @property
    def place(self) -> str:
        """Where a command finds the run: its directory, or its URL."""
        ...

    @property
    def scorecard(self) -> Mapping[str, Any]:
        """The content of ``scorecard.json``."""
        ...

    @property
    def issue_table(self) -> pa.Table:
        """Columns kind, severity, detail, file, line, row, id."""
        ...

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The scores, one row a record in the order of the input; all columns or some."""
        ...

    def take(self, rows: Sequence[int]) -> pa.Table:
        """All columns of the scores of some records, in the order asked for."""
        ...

    def record(self, row: int) -> Record:
        """The record of a row, read again from the input."""
        ...

    @property
    def cache(self) -> FeatureCache | None:
        """What is made of pictures survives in it; None where nothing is to."""
        ...

    def images(self, sample: Sample, *, late: bool = False) -> list[Image]:
        """The record's pictures, decoded, or their faults.

        With ``late`` those that ``cache`` knows are decoded at the first look at their pixels, which may raise.
        """
        ...

    def clips(self, sample: Sample) -> list[Clip]:
        """What the headers of the record's videos and sounds say, or their faults."""
        ...

    def vectors(self, kind: str) -> tuple[FloatArray, NDArray[np.bool_]] | str:
        """Unit mean vectors of the readable records and which have one, or why there are none."""
        ...


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers, of which truth values are none."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
