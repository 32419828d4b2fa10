"""Scores of data sets beside what models trained on them reached in benchmarks.

The result's JSON Schema is ``correlations.schema.json`` beside this file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlitqc.analysis.correlation import ALPHA, corrected, correlation, limits
from vlitqc.comparison.fair import SIMILAR, Progress, at_equal_size, scored_records
from vlitqc.comparison.scales import Scales
from vlitqc.comparison.sets import DataSet, find_sets
from vlitqc.engine.mirror import local
from vlitqc.engine.run import Run
from vlitqc.errors import InputError, UnknownName, UsageError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "vlitqc-correlations/1"
REPLICATES = 20
MOST_BYTES = 1 << 20
MOST_BENCHMARKS = 200
LONGEST_TOLD = 40
"""Characters of a cell in an error."""
SEPARATORS = ",;\t"
COEFFICIENTS = ("pearson", "spearman")


def schema() -> dict[str, Any]:
    """The published JSON Schema of correlations."""
    text = resources.files(__package__).joinpath("correlations.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


# ---------------------------------------------------------------- the table of benchmarks


@dataclass(frozen=True)
class Benchmarks:
    """Benchmark scores: data set → benchmark → score, None for an empty cell. ``names`` are the benchmarks."""

    path: Path
    sha256: str
    names: tuple[str, ...]
    scores: dict[str, dict[str, float | None]]


def read_benchmarks(path: str | Path) -> Benchmarks:
    """Read a CSV of benchmark scores: a header, then a line a data set with its name and one number a benchmark.

    UTF-8, with commas, semicolons or tabs between the columns; an empty cell is a score that is not known.

    Raises InputError for a file that is no such table, with the line and the cell at fault.
    """
    target = local(path)
    raw = _bytes(target)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        told = f"byte {error.object[error.start]:#04x} at place {error.start:,} is not UTF-8"
        raise InputError(f"{target}: {told}; save the table as CSV in UTF-8") from error
    lines: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    try:
        for cells in reader:
            stripped = [unicodedata.normalize("NFC", cell.strip()) for cell in cells]
            if any(stripped):
                lines.append((reader.line_num, stripped))
    except csv.Error as error:
        raise InputError(f"{target}, line {reader.line_num}: no CSV ({error})") from error
    if not lines:
        raise InputError(f"{target} is empty; expected a header and a line a data set")
    names = _header(target, lines[0][1])
    scores: dict[str, dict[str, float | None]] = {}
    first: dict[str, int] = {}
    for number, cells in lines[1:]:
        where = f"{target}, line {number}"
        if len(cells) != len(names) + 1:
            raise InputError(f"{where} has {len(cells)} cells, and the header {len(names) + 1}")
        name = cells[0]
        if not name:
            raise InputError(f"{where}: its first cell is empty; expected the name of a data set")
        if name in scores:
            raise InputError(
                f"{where}: {_cut(name)} has a line already, {first[name]}; give each data set one line"
            )
        first[name] = number
        scores[name] = {
            column: _number(where, column, cell) for column, cell in zip(names, cells[1:], strict=True)
        }
    if not scores:
        raise InputError(f"{target} has a header and no data set below it")
    return Benchmarks(target, hashlib.sha256(raw).hexdigest(), names, scores)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise InputError(f"{path} {found}; expected a CSV of benchmark scores")
    try:
        with path.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if len(raw) > MOST_BYTES:
        raise InputError(
            f"{path} is larger than {MOST_BYTES:,} bytes; expected a table with a line a data set"
        )
    return raw


def _separator(text: str) -> str:
    """The one that the header has most of outside quotes."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    return max(SEPARATORS, key=re.sub('"[^"]*"', "", head).count)


def _header(path: Path, cells: Sequence[str]) -> tuple[str, ...]:
    names = tuple(cells[1:])
    if not names:
        raise InputError(
            f"{path} has one column; expected the names of data sets and then a column a benchmark, with commas, "
            "semicolons or tabs between them"
        )
    if len(names) > MOST_BENCHMARKS:
        raise InputError(
            f"{path} has {len(names):,} columns of benchmarks; at most {MOST_BENCHMARKS} are read"
        )
    for at, name in enumerate(names, 2):
        if not name:
            raise InputError(f"{path}: column {at} has no name in the header; name every benchmark")
        if name in names[: at - 2]:
            raise InputError(f"{path} has two columns {_cut(name)}; give each benchmark a name of its own")
    return names


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TOLD else f"{text[: LONGEST_TOLD - 1]}…"


def _number(where: str, column: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        # Python's own float also reads 1_000.
        value = math.nan if "_" in cell else float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{where}, column {_cut(column)}: '{_cut(cell)}' is not a number; write it as 12.5, and leave a cell "
            "empty whose score is not known"
        )
    return value


# ---------------------------------------------------------------- correlations


@dataclass(frozen=True)
class Correlations:
    """Every metric with every benchmark over the data sets; ``found`` is what ``as_json`` gives."""

    found: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values; the schema is ``vlitqc.comparison.benchmarks.schema()``."""
        return self.found

    @property
    def table(self) -> pd.DataFrame:
        """One row a metric and benchmark: ``n``, then value, low, high, p, q and reason of each coefficient."""
        import pandas as pd

        rows = []
        for pair in self.found["pairs"]:
            row = {key: pair[key] for key in ("metric", "benchmark", "n")}
            for name in COEFFICIENTS:
                told = pair[name]
                low, high = told["interval"] or (None, None)
                row |= {name: told["value"], f"{name}_low": low, f"{name}_high": high}
                row |= {f"{name}_{key}": told[key] for key in ("p", "q", "reason")}
            rows.append(row)
        return pd.DataFrame(rows)


def correlate(
    *data: str | Path | Run,
    benchmarks: str | Path | Benchmarks,
    names: Mapping[str, str] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Correlations:
    """Correlate the metrics of data sets with the benchmarks of models trained on them. No model runs.

    A metric's value of a data set is that of its scorecard: the mean over samples, or the data-set metric's own. Where
    the sizes of data sets differ, a data-set metric is taken at equal size, as the mean over random parts, because more
    records have more clusters and tasks whatever they are.

    Args:
        data: Runs, run directories, inputs that were scored, and outputs of filters, as for ``compare``.
        benchmarks: a CSV with the data sets' names in its first column and a number a benchmark in the others.
        names: what a run, by its path as it was given or its own name, is called in the CSV.
        replicates: random parts of each data set for the metrics at equal size; 0 takes their values as they are.
        seed: of the random parts.
        progress: told how many of how many random parts are done.

    Raises:
        UsageError: no data set of the CSV among those named; another profile, version or model.
        UnknownName: ``names`` has one that no run is called.
        InputError: the CSV cannot be used.
        RunError: a path is no run, no scored input and no output of a filter, or its files cannot be read.
    """
    if replicates < 0 or replicates == 1:
        raise UsageError(f"replicates={replicates}: expected 2 or more random parts, or 0 for none")
    if not data:
        raise UsageError("no data set was named; name runs, inputs that were scored, or outputs of filters")
    table = benchmarks if isinstance(benchmarks, Benchmarks) else read_benchmarks(benchmarks)
    opened = find_sets(data)
    called = _called(data, opened, names or {})
    joined = [(name, one) for name, one in zip(called, opened, strict=True) if name in table.scores]
    if not joined:
        known, rows = (", ".join(map(_cut, list(found)[:12])) for found in (called, table.scores))
        raise UsageError(
            f"no data set is in {table.path}: named were {known}, and it has {rows}; say which is which by "
            "--names RUN=NAME (names={run: name})"
        )
    sets = [one for _, one in joined]
    scales = Scales(sets, [str(i) for i in range(1, len(sets) + 1)])
    if scales.faults:
        raise UsageError(
            f"{scales.faults[0]}; score all alike: values on different scales cannot be correlated"
        )
    metrics = _metrics(sets, scales, replicates, seed, progress)
    columns: list[dict[str, Any]] = [
        {"name": name, "values": [table.scores[data_set][name] for data_set, _ in joined]}
        for name in table.names
    ]
    asked = [(metric, column) for metric in metrics for column in columns]
    family = corrected(
        correlation(_floats(metric["values"]), _floats(column["values"]), (metric["name"], column["name"]))
        for metric, column in asked
    )
    pairs = [
        {"metric": metric["name"], "benchmark": column["name"], **asdict(one)}
        for (metric, column), one in zip(asked, family, strict=True)
    ]
    tested = [pair for pair in pairs if pair["pearson"]["p"] is not None]
    found = {
        "schema": SCHEMA,
        "vlitqc": metadata.version("vlitqc"),
        "table": {"path": str(table.path), "sha256": table.sha256},
        "profile": {key: sets[0].run.info["profile"][key] for key in ("name", "sha256")},
        "sets": [
            {"name": name, "data": one.name, "run": one.run.address, "part": one.part, "n": one.n}
            for name, one in joined
        ],
        "overlapping": [[a, b] for (a, one), (b, two) in combinations(joined, 2) if _overlap(one, two)],
        "without_benchmarks": [name for name in called if name not in table.scores],
        "without_run": [name for name in table.scores if name not in called],
        "options": {"replicates": replicates, "seed": seed},
        "metrics": metrics,
        "benchmarks": columns,
        "pairs": pairs,
        "limits": _limits(max((pair["n"] for pair in tested), default=len(sets)), len(tested)),
        "counts": {
            name: {
                "tested": len(tested),
                **{key: sum(pair[name][key] <= ALPHA + 1e-12 for pair in tested) for key in ("p", "q")},
            }
            for name in COEFFICIENTS
        },
    }
    # With lists for tuples, as JSON gives it back.
    return Correlations(json.loads(json.dumps(found, allow_nan=False)))


def _called(data: Sequence[str | Path | Run], sets: Sequence[DataSet], names: Mapping[str, str]) -> list[str]:
    """What each data set is called in the CSV."""
    given = [
        {one.name, str(path.place if isinstance(path, Run) else path)}
        for path, one in zip(data, sets, strict=True)
    ]
    known = set().union(*given)
    for name in names:
        if name not in known:
            raise UnknownName("run", name, known)
    called: list[str] = []
    for one, own in zip(sets, given, strict=True):
        told = {unicodedata.normalize("NFC", names[name].strip()) for name in own if name in names}
        if len(told) > 1:
            raise UsageError(f"{one.name} is given two names: {' and '.join(sorted(told))}; give it one")
        name = next(iter(told), unicodedata.normalize("NFC", one.name))
        if name in called:
            raise UsageError(
                f"two of the data sets named are called {name}; each is one point: name it once, or tell them apart by "
                "--names RUN=NAME (names={run: name})"
            )
        called.append(name)
    return called


def _overlap(one: DataSet, two: DataSet) -> bool:
    """Whether two data sets have records of one input in common."""
    return one.is_of(two) and bool((one.mask & two.mask).any())


def _metrics(
    sets: Sequence[DataSet], scales: Scales, replicates: int, seed: int, progress: Progress | None
) -> list[dict[str, Any]]:
    """Each metric with its value of each data set, at equal size where that is called for."""
    found = []
    unequal: dict[str, list[bool]] = {}
    for name in dict.fromkeys(name for one in sets for name in one.metrics):
        sections = [one.metrics.get(name) for one in sets]
        first = next(section for section in sections if section is not None)
        same = scales.same(name)
        values = [
            section["value"] if section and on_scale else None
            for section, on_scale in zip(sections, same, strict=True)
        ]
        told = {
            key: first[key] for key in ("name", "title", "principle", "level", "unit", "higher_is_better")
        }
        missing = (
            section["reason"] if section else "not measured"
            for section, value in zip(sections, values, strict=True)
            if value is None
        )
        scored = [scored_records(one, name) for one, on_scale in zip(sets, same, strict=True) if on_scale]
        present = [n for n in scored if n]
        differ = first["level"] == "dataset" and bool(present) and max(present) > SIMILAR * min(present)
        if differ:
            unequal[name] = same
        found.append(
            told | {"values": values, "size": None, "sizes_differ": differ, "reason": next(missing, None)}
        )
    if not (replicates and unequal):
        return found
    at_size = at_equal_size(sets, unequal, replicates=replicates, seed=seed, progress=progress)
    for metric in found:
        if (fair := at_size.get(metric["name"])) is not None:
            reasons = [side.reason for side in fair.sets if side is not None and side.value is None]
            metric["values"] = [side.value if side is not None else None for side in fair.sets]
            metric["size"] = fair.m
            metric["reason"] = next(iter(reasons), metric["reason"])
    return found


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _limits(n: int, pairs: int) -> dict[str, Any]:
    told = asdict(limits(n, pairs))
    told["power"] = [{"correlation": rho, "power": chance} for rho, chance in told["power"].items()]
    return told
